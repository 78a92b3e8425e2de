"""Files that are wrong, torn or being written: a sentence with the place, and never a lost or an invented value."""

import gzip
import os
from datetime import timedelta

import pytest

from adapters.fields import parse_zone
from adapters.ports import SourceError
from optimizer.reasons import Reason
from tests.support.signals import EVER, NOON, csv_source, utc
from tests.support.system import require_module

GOOD = "t,p\n2022-09-06T12:00Z,41.5\n2022-09-06T13:00Z,-3\n2022-09-06T14:00Z,9000\n"


@pytest.mark.parametrize(("text", "place"), [
    ("", "p.csv:1: the file is empty"),
    ("t,p\n", "p.csv:1: a header and no rows"),
    (GOOD + "2022-09-06T15:00Z\n", "p.csv:5: 1 fields where the header has 2; is it being written?"),
    ("t,p\n2022-09-06T12:00Z,1,2\n2022-09-06T13:00Z,1\n", "p.csv:2: 3 fields where the header has 2"),
    ("t,p\n2022-09-06T12:00Z,1\n2022-09-06T13:00Z,1_000\n", 'p.csv:3: p: "1_000" is not a number'),
    ("t,p\n2022-09-06T12:00Z,abc\n", 'p.csv:2: p: "abc" is not a number'),
    ("t,p\n07/09/2022 12:00,1\n", 'p.csv:2: "07/09/2022 12:00" cannot be read as ISO 8601'),
    ("t,p\n2022-09-06T12:00Z,1\n2022-09-06T13:00,1\n", "p.csv:3: some stamps carry an offset"),
    ("t,p,q\n2022-09-06T12:00Z,1,2\n", "p.csv:1: value_column: name one of p, q"),
    ("t,p\n2022-09-06T12:00Z,1\n", "p.csv:2: one row does not tell how long its interval is"),
    ("t,p\n" + "".join(f"2022-09-06T{h:02d}:00Z,1\n" for h in range(24)) + "2022-09-06T09:20Z,1\n",
     "p.csv:26: 2022-09-06T09:20Z overlaps the interval of 1:00:00 that begins at 09:00Z"),
    (b"t,p\n2022-09-06T12:00Z,1\n\xff\xfe\n", "p.csv:3: not UTF-8 text"),
])  # fmt: skip
def test_a_bad_file_is_refused_with_its_line(tmp_path, text, place):
    with pytest.raises(SourceError) as caught:
        csv_source(tmp_path / "p.csv", text).read(*EVER, NOON)
    assert str(caught.value).startswith(f"{tmp_path}/{place}")


def test_a_wrong_column_name_is_answered_with_the_right_one(tmp_path):
    with pytest.raises(SourceError, match=r'p.csv:1: no column "prise"; there are t, price. Did you mean "price"'):
        csv_source(tmp_path / "p.csv", "t,price\n2022-09-06,1\n", value_column="prise").read(*EVER, NOON)


def test_a_missing_file_says_so(tmp_path):
    with pytest.raises(SourceError, match=r"p\.csv: No such file"):
        csv_source(tmp_path / "p.csv").read(*EVER, NOON)


def test_another_currency_is_refused_before_anything_is_read(tmp_path):
    with pytest.raises(SourceError, match="is EUR, but the config is in USD"):
        csv_source(tmp_path / "p.csv", unit="EUR/MWh")
    with pytest.raises(SourceError, match='"USD/MW" is not a unit of price'):
        csv_source(tmp_path / "p.csv", unit="USD/MW")


def test_gzip_that_stops_in_the_middle_names_the_line(tmp_path):
    rows = "".join(f"{utc(2022, 1, 1) + timedelta(hours=n):%Y-%m-%dT%H:%MZ},{n * 7919 % 1000}\n" for n in range(2000))
    whole = gzip.compress(("t,p\n" + rows).encode())
    source = csv_source(tmp_path / "p.csv.gz", whole[: len(whole) // 2])
    with pytest.raises(SourceError, match=r"p\.csv\.gz:\d{3,}: the gzip data stop in the middle"):
        source.read(*EVER, NOON)
    assert len(csv_source(tmp_path / "q.csv.gz", whole).read(*EVER, NOON).spans) == 2000


def test_a_gzip_bomb_is_not_unpacked(tmp_path):
    source = csv_source(tmp_path / "p.csv.gz", gzip.compress(b"0" * (70 * 2**20), compresslevel=1))
    with pytest.raises(SourceError, match="larger than 64 MiB"):
        source.read(*EVER, NOON)


def test_nan_and_empty_values_are_gaps_with_one_note(tmp_path):
    values = ["1", "NaN", "", "N/A", "inf", "6"]
    text = "t,p\n" + "".join(f"2022-09-06T{hour:02d}:00Z,{value}\n" for hour, value in enumerate(values))
    got = csv_source(tmp_path / "p.csv", text).read(*EVER, NOON)
    assert [span.value for span in got.spans] == [1, 6]
    assert [(note.code, note.text) for note in got.notes] == [
        (Reason.SIGNAL_NAN, f"{tmp_path}/p.csv:3: no value (and 3 more rows)")
    ]


def test_half_written_file_keeps_the_last_good_content_and_its_age(tmp_path):
    source = csv_source(tmp_path / "p.csv", GOOD)
    assert len(source.read(*EVER, NOON).spans) == 3
    (tmp_path / "p.csv").write_text(GOOD + "2022-09-06T15:00Z\n")
    later = source.read(*EVER, NOON + timedelta(minutes=5))
    assert [span.value for span in later.spans] == [41.5, -3, 9000]
    assert later.published_at == NOON
    assert [note.code for note in later.notes] == [Reason.STALE_SIGNAL]
    assert "p.csv:5: 1 fields" in later.notes[0].text
    (tmp_path / "p.csv").write_text(GOOD + "2022-09-06T15:00Z,7\n")
    mended = source.read(*EVER, NOON + timedelta(minutes=10))
    assert (len(mended.spans), mended.published_at, mended.notes) == (4, None, ())
    (tmp_path / "p.csv").unlink()
    gone = source.read(*EVER, NOON + timedelta(minutes=15))
    assert len(gone.spans) == 4
    assert "No such file" in gone.notes[0].text


def test_a_last_line_without_its_end_is_taken_once_the_file_stands_still(tmp_path):
    source = csv_source(tmp_path / "p.csv", GOOD + "2022-09-06T15:00Z,4")
    first = source.read(*EVER, NOON)
    assert len(first.spans) == 3
    assert "no end yet" in first.notes[0].text
    csv_source(tmp_path / "p.csv", GOOD + "2022-09-06T15:00Z,45")
    assert len(source.read(*EVER, NOON).spans) == 3
    settled = source.read(*EVER, NOON)
    assert (settled.spans[-1].value, settled.notes) == (45, ())


def test_an_unchanged_file_is_not_parsed_again(tmp_path, monkeypatch):
    source = csv_source(tmp_path / "p.csv", GOOD)
    source.read(*EVER, NOON)
    monkeypatch.setattr(source, "_load", lambda **_: pytest.fail("parsed again"))
    source.read(*EVER, NOON)
    os.utime(tmp_path / "p.csv", (1, 1))
    with pytest.raises(pytest.fail.Exception):
        source.read(*EVER, NOON)


def test_parquet_reads_as_csv_does_and_a_torn_one_is_refused(tmp_path):
    pyarrow, parquet = require_module("pyarrow"), require_module("pyarrow.parquet")
    times = [utc(2022, 9, 6, hour) for hour in (12, 13, 14)]
    table = pyarrow.table({"t": times, "p": [41.5, None, 9000.0]})
    parquet.write_table(table, tmp_path / "p.parquet")
    got = csv_source(tmp_path / "p.parquet").read(*EVER, NOON)
    assert [(span.start, span.value) for span in got.spans] == [(times[0], 41.5), (times[2], 9000.0)]
    assert "p.parquet:3: no value" in got.notes[0].text
    whole = (tmp_path / "p.parquet").read_bytes()
    with pytest.raises(SourceError, match="not a whole Parquet file"):
        csv_source(tmp_path / "q.parquet", whole[:-20]).read(*EVER, NOON)
    local = pyarrow.table(
        {"t": [time.astimezone(parse_zone("America/Chicago")) for time in times], "p": [1.0, 2.0, 3.0]}
    )
    parquet.write_table(local, tmp_path / "local.parquet")
    assert csv_source(tmp_path / "local.parquet").read(*EVER, NOON).spans[0].start == times[0]
