"""Files as exports write them: every convention that shifts a series by an hour, read as its publisher meant it."""

from datetime import timedelta
from pathlib import Path
from statistics import mean, median

import pytest

from optimizer.quality import gate
from optimizer.reasons import Reason
from tests.support.signals import EVER, NOON, RULES, csv_source, utc

HOUR = timedelta(hours=1)
DATA = Path(__file__).resolve().parents[2] / "config" / "data"


def read(source, now=NOON, window=EVER):
    return source.read(*window, now)


def ercot_day(date, labels, tmp_path):
    """A day as ERCOT's workbook writes it: local, hour-ending, 24:00, a flag for the repeated hour; price = line."""
    rows = [f"{date},{label[:5]},{'Y' if label.endswith('*') else 'N'},{n}.5" for n, label in enumerate(labels, 1)]
    text = "\n".join(["Delivery Date,Hour Ending,Repeated Hour Flag,Price", *rows]) + "\n"
    return csv_source(
        tmp_path / "ercot.csv", text, timezone="America/Chicago", hour="ending", time_column="Delivery Date",
        time_format="%m/%d/%Y", hour_column="Hour Ending", repeated_hour_column="Repeated Hour Flag",
        value_column="Price",
    )  # fmt: skip


def labels(*skipped):
    return [f"{hour:02d}:00" for hour in range(1, 25) if hour not in skipped]


def test_the_day_of_25_hours_in_hour_ending_labels(tmp_path):
    marks = labels()
    marks.insert(2, "02:00*")
    spans = read(ercot_day("11/07/2021", marks, tmp_path)).spans
    assert len(spans) == 25
    assert [span.start for span in spans] == [utc(2021, 11, 7, 5) + n * HOUR for n in range(25)]
    assert [span.value for span in spans] == [n + 0.5 for n in range(1, 26)]
    assert spans[-1].end == utc(2021, 11, 8, 6)


def test_the_flag_wins_over_the_order_of_rows(tmp_path):
    marks = labels()
    marks.insert(1, "02:00*")
    at = {span.start: span.value for span in read(ercot_day("11/07/2021", marks, tmp_path)).spans}
    assert (at[utc(2021, 11, 7, 6)], at[utc(2021, 11, 7, 7)]) == (3.5, 2.5)


def test_the_day_of_23_hours_in_hour_ending_labels(tmp_path):
    spans = read(ercot_day("03/14/2021", labels(3), tmp_path)).spans
    assert len(spans) == 23
    assert [span.start for span in spans] == [utc(2021, 3, 14, 6) + n * HOUR for n in range(23)]
    assert spans[-1].end == utc(2021, 3, 15, 5)


def test_aemo_interval_ending_without_daylight_saving(tmp_path):
    text = "REGION,SETTLEMENTDATE,TOTALDEMAND,RRP\n" + "".join(
        f"VIC1,2025/01/01 00:{minute:02d}:00,4300,{minute}\n" for minute in (5, 10, 15, 20)
    )
    source = csv_source(tmp_path / "a.csv", text, "AUD", unit="AUD/MWh", timezone="+10:00", hour="ending",
                        time_column="SETTLEMENTDATE", value_column="RRP")  # fmt: skip
    first = read(source).spans[0]
    assert (first.start, first.end, first.value) == (utc(2024, 12, 31, 14), utc(2024, 12, 31, 14, 5), 5.0)


def test_hours_missing_from_a_day_ahead_file_stay_a_gap_and_are_reported(tmp_path):
    hours = [utc(2022, 9, 1) + n * HOUR for n in range(120) if not 46 <= n < 70]
    text = "start,price\n" + "".join(f"{hour:%Y-%m-%dT%H:%M:%SZ},100\n" for hour in hours)
    source = csv_source(tmp_path / "de.csv", text, "EUR")
    window = (utc(2022, 9, 1), utc(2022, 9, 6))
    got = read(source, window=window)
    assert len(got.spans) == 96
    assert got.at(utc(2022, 9, 3, 12)) is None
    judged = gate(got, None, RULES.__class__("EUR/MWh"), utc(2022, 9, 2), window)
    assert [note.code for note in judged.notes] == [Reason.SIGNAL_GAP]
    assert "2022-09-02T22:00Z to 2022-09-03T22:00Z" in judged.notes[0].text
    assert judged.series.at(utc(2022, 9, 3, 12)) is None


def test_naive_local_days_of_always_24_rows_are_told_apart(tmp_path):
    rows = [f"2022-{day} {hour:02d}:00,{hour}" for day in ("03-27", "10-30") for hour in range(24)]
    source = csv_source(tmp_path / "de.csv", "t,p\n" + "\n".join(rows) + "\n", "EUR", timezone="Europe/Berlin")
    got = read(source)
    assert len(got.spans) == 47
    texts = {note.code: note.text for note in got.notes}
    assert "de.csv:4: 2022-03-27 02:00 does not exist" in texts[Reason.SIGNAL_GAP]
    assert "1 more" in texts[Reason.SIGNAL_GAP]
    assert got.at(utc(2022, 10, 30, 1)) is None
    quiet = read(source, window=(utc(2022, 10, 30, 6), utc(2022, 10, 30, 9)))
    assert quiet.notes == ()


@pytest.mark.parametrize(("unit", "currency", "expected"), [
    ("USD/MWh", "USD", 30.0), ("USD/kWh", "USD", 30_000.0), ("c/kWh", "USD", 300.0), ("ct/kWh", "EUR", 300.0),
    ("p/kWh", "GBP", 300.0), (None, "EUR", 30.0),
])  # fmt: skip
def test_price_units_become_currency_per_mwh(tmp_path, unit, currency, expected):
    source = csv_source(tmp_path / "p.csv", "t,p\n2022-01-01T00:00Z,30\n", currency, unit=unit, interval="1h")
    got = read(source)
    assert (got.unit, got.spans[0].value) == (f"{currency}/MWh", pytest.approx(expected))


def test_other_kinds_have_units_of_their_own(tmp_path):
    def value(kind, unit):
        source = csv_source(tmp_path / "p.csv", "t,p\n2022-01-01T00:00Z,50\n", kind=kind, unit=unit, interval="1h")
        return read(source).spans[0].value

    assert value("carbon", "lb/MWh") == pytest.approx(22.6796185)
    assert value("weather", "degF") == pytest.approx(10.0)
    assert value("load", "percent") == pytest.approx(0.5)
    assert value("limit", "MW") == pytest.approx(50_000)


def test_rows_in_any_order_come_back_sorted_and_the_later_of_two_wins(tmp_path):
    text = "t,p\n2022-01-01T02:00Z,3\n2022-01-01T00:00Z,1\n2022-01-01T01:00Z,2\n2022-01-01T00:00Z,9\n"
    got = read(csv_source(tmp_path / "p.csv", text))
    assert [span.value for span in got.spans] == [9, 2, 3]
    assert "p.csv:3: 2022-01-01T00:00Z is there again in line 5" in got.notes[0].text


def test_newest_first_on_the_day_of_25_hours(tmp_path):
    local = ["00:00", "01:00", "01:00", "02:00", "03:00"]
    rows = [f"2021-11-07 {at},{n}" for n, at in enumerate(local)]
    source = csv_source(tmp_path / "p.csv", "t,p\n" + "\n".join(reversed(rows)) + "\n", timezone="America/Chicago")
    assert [span.value for span in read(source).spans] == [0, 1, 2, 3, 4]


def test_hourly_rows_that_become_quarter_hours_keep_their_lengths(tmp_path):
    starts = [utc(2025, 9, 30) + n * HOUR for n in range(24)]
    starts += [utc(2025, 10, 1) + n * HOUR / 4 for n in range(96)]
    text = "t,p\n" + "".join(f"{start.isoformat()},1\n" for start in starts if start.hour != 5 or start.day != 30)
    got = read(csv_source(tmp_path / "p.csv", text))
    assert {(span.end - span.start) / HOUR for span in got.spans if span.start < utc(2025, 10, 1)} == {1.0}
    assert {(span.end - span.start) / HOUR for span in got.spans if span.start >= utc(2025, 10, 1)} == {0.25}
    assert got.at(utc(2025, 9, 30, 5)) is None


@pytest.mark.parametrize(("publication", "now", "until"), [
    ("day_ahead", utc(2022, 9, 6, 19, 59), utc(2022, 9, 7, 7)),
    ("day_ahead", utc(2022, 9, 6, 20, 0), utc(2022, 9, 8, 7)),
    ("real_time", utc(2022, 9, 6, 20, 0), utc(2022, 9, 6, 21)),
    ("real_time_lagged", utc(2022, 9, 6, 20, 30), utc(2022, 9, 6, 20)),
    ("all", utc(2022, 9, 6, 20, 0), utc(2022, 9, 12, 7)),
])  # fmt: skip
def test_a_recorded_price_is_told_no_earlier_than_it_was_public(publication, now, until):
    source = csv_source(DATA / "prices_caiso_np15_day_ahead_2022_heat_wave.csv", publication=publication,
                        market_timezone="America/Los_Angeles")  # fmt: skip
    assert read(source, now).spans[-1].end == until


@pytest.mark.parametrize(("name", "rows", "least", "most", "worst_at"), [
    ("prices_caiso_np15_day_ahead_2022_heat_wave", 336, 61.48, 1262.85, utc(2022, 9, 8, 1)),
    ("prices_ercot_hubavg_day_ahead_2021_uri", 288, 0.50, 8995.26, utc(2021, 2, 17, 6)),
    ("prices_pjm_dominion_real_time_2022_elliott", 360, 35.55, 4392.12, utc(2022, 12, 24, 9)),
])  # fmt: skip
def test_the_shipped_prices_have_the_statistics_of_their_markets(name, rows, least, most, worst_at):
    got = read(csv_source(DATA / f"{name}.csv"))
    values = [span.value for span in got.spans]
    assert (len(values), got.notes) == (rows, ())
    assert (min(values), max(values)) == (pytest.approx(least, abs=0.005), pytest.approx(most, abs=0.005))
    assert got.at(worst_at) == max(values)
    assert median(values) < mean(values)
