"""One test for each fault that a market's data have had: what the gate takes instead, and the reason that it gives."""

import csv
from dataclasses import replace
from datetime import datetime, timedelta
from pathlib import Path
from zoneinfo import ZoneInfo

import pytest

from adapters import registry
from adapters.signals.base import gate_rules
from optimizer.domain import Series, Span
from optimizer.doubts import out_of_shape, peak_at_night, restamped
from optimizer.quality import Due, GateRules, SignalState, Zero, gate
from optimizer.reasons import Reason, Severity
from tests.support.signals import NOON, series, utc

HOUR, DAY = timedelta(hours=1), timedelta(days=1)
PACIFIC = ZoneInfo("America/Los_Angeles")
MARKET = GateRules("USD/MWh", cap=5000, floor=-1000, zero=Zero.DOUBTED, measured=True)
DATA = Path(__file__).resolve().parents[2] / "config/data"


@pytest.fixture(scope="module")
def california():
    """Day-ahead prices of the heat wave, by the hour."""
    return recorded("prices_caiso_np15_day_ahead_2022_heat_wave")


def recorded(name):
    with (DATA / f"{name}.csv").open() as file:
        rows = list(csv.reader(file))[1:]
    starts = [datetime.fromisoformat(row[0]) for row in rows]
    return tuple(Span(at, at + HOUR, float(row[1])) for at, row in zip(starts, rows, strict=True))


def judge(fresh, previous=None, rules=MARKET, now=NOON, hours=48):
    return gate(fresh, previous, rules, now, (now - 15 * DAY, now + hours * HOUR))


def codes(result):
    return [note.code for note in result.notes]


def values(result):
    return [span.value for span in result.series.spans]


# ---------------------------------------------------------------- null read as zero
def test_a_tail_of_zeros_is_not_free_power_but_unpublished():
    result = judge(series([40, 50, 60, 0, 0, 0]))
    assert values(result) == [40, 50, 60]
    assert codes(result) == [Reason.SIGNAL_ZERO]
    assert "3 values of exactly 0" in result.notes[0].text
    assert result.state is SignalState.SUBSTITUTED


def test_a_lone_zero_between_large_values_is_a_null():
    before = series([41, 51, 61, 71], published_at=NOON)
    result = judge(series([40, 0, 60, 70]), before)
    assert values(result) == [40, 51, 60, 70]
    assert codes(result) == [Reason.SIGNAL_ZERO, Reason.STALE_SIGNAL]


@pytest.mark.parametrize("real", [[40, 12, 0, 0, -3, 0, 9, 45], [0, 0, 0], [30, 8, 0, 0], [0, 0, 20, 40]])
def test_prices_that_come_to_zero_by_way_of_small_ones_are_real(real):
    result = judge(series(real))
    assert (values(result), codes(result)) == (real, [])


def test_a_grids_load_and_its_carbon_are_never_zero():
    for kind in ("carbon", "system_load"):
        fields = {"id": "it", "type": "csv", "path": "x.csv", "kind": kind}
        rules = gate_rules(registry.config_model("signals", "csv").model_validate(fields), "USD")
        result = judge(series([5, 0, 4], unit=rules.unit), rules=rules)
        assert values(result) == [5, 4]
        assert codes(result)[0] is Reason.SIGNAL_ZERO


def test_what_the_operator_writes_is_taken_as_it_is_written():
    fields = {"id": "it", "type": "constant", "value": 0.0}
    rules = gate_rules(registry.config_model("signals", "constant").model_validate(fields), "USD", PACIFIC)
    assert (rules.zero, rules.measured) == (Zero.REAL, False)
    assert values(judge(series([40, 0, 60]), rules=rules)) == [40, 0, 60]


# ---------------------------------------------------------------- hours off
def test_values_that_come_back_eight_hours_later_are_refused_and_the_known_ones_kept(california):
    known = Series("p", "USD/MWh", california[:192], california[180].start)
    late = Series("p", "USD/MWh", tuple(Span(s.start + 8 * HOUR, s.end + 8 * HOUR, s.value) for s in california[:192]))
    now = california[180].start
    result = judge(late, known, now=now)
    assert result.series.spans == known.spans
    assert codes(result) == [Reason.SIGNAL_SHIFTED, Reason.STALE_SIGNAL]
    assert "8 h later" in result.notes[0].text
    assert result.notes[0].severity is Severity.ALERT


def test_a_new_day_that_looks_like_the_days_before_eight_hours_late_is_not_taken(california):
    end = california[7 * 24].start
    known = Series("p", "USD/MWh", california[: 7 * 24], end - HOUR)
    new = california[7 * 24 : 8 * 24]
    good = judge(replace(known, spans=known.spans + new), known, now=end - HOUR)
    assert codes(good) == []
    by_time = {span.start: span.value for span in california}
    late = tuple(Span(s.start, s.end, by_time[s.start - 8 * HOUR]) for s in new)
    result = judge(replace(known, spans=known.spans + late), known, now=end - HOUR)
    assert result.series.spans == known.spans
    assert codes(result) == [Reason.SIGNAL_SHIFTED]
    assert "8 h later" in result.notes[0].text
    long_after = judge(replace(known, spans=known.spans + late), known, now=end + 49 * HOUR)
    assert Reason.SIGNAL_SHIFTED not in codes(long_after)
    assert len(long_after.series.spans) == 8 * 24


def test_a_first_series_whose_days_peak_at_night_is_doubted_aloud(california):
    rules = replace(MARKET, zone=PACIFIC)
    now = california[-24].start
    good = judge(Series("p", "USD/MWh", california), rules=rules, now=now)
    late = tuple(Span(s.start + 8 * HOUR, s.end + 8 * HOUR, s.value) for s in california)
    result = judge(Series("p", "USD/MWh", late), rules=rules, now=now)
    assert codes(good) == []
    assert codes(result) == [Reason.SIGNAL_SHIFTED]
    assert "peak at 03:00 local time" in result.notes[0].text or "peak at 02:00" in result.notes[0].text


def test_flat_or_short_series_are_never_called_shifted(california):
    flat = [Span(s.start, s.end, 50.0) for s in california]
    assert restamped(flat, flat) is None
    assert out_of_shape(flat[168:192], flat[:168]) is None
    assert peak_at_night(flat, PACIFIC) is None
    assert out_of_shape(california[100:124], california[:100]) is None
    assert out_of_shape((), california) is None


@pytest.mark.parametrize(("name", "zone"), [
    ("prices_caiso_np15_day_ahead_2022_heat_wave", "America/Los_Angeles"),
    ("prices_ercot_hubavg_day_ahead_2021_uri", "America/Chicago"),
    ("prices_pjm_dominion_real_time_2022_elliott", "America/New_York"),
])  # fmt: skip
def test_storms_and_heat_waves_raise_no_doubt_day_by_day(name, zone):
    spans = recorded(name)
    rules = replace(MARKET, zone=ZoneInfo(zone), cap=9500)
    for first in range(7 * 24, len(spans) - 24, 24):
        now = spans[first].start
        known = Series("p", "USD/MWh", spans[:first], now)
        result = judge(Series("p", "USD/MWh", spans[: first + 24]), known, rules, now)
        assert (codes(result), len(result.series.spans)) == ([], first + 24), now


def test_revisions_are_not_shifts(california):
    known = Series("p", "USD/MWh", california[:192], california[180].start)
    revised = Series("p", "USD/MWh", tuple(Span(s.start, s.end, s.value * 1.3 + 2) for s in california[:192]))
    assert codes(judge(revised, known, now=california[180].start)) == []


# ---------------------------------------------------------------- late, short, and days of 23 and 25 hours
@pytest.mark.parametrize(
    ("hour", "known_h", "late"), [(12, 12, False), (16, 8, True), (16, 27, True), (16, 32, False), (16, 28, False)]
)
def test_a_day_ahead_that_is_due_and_not_there_is_said(hour, known_h, late):
    now = utc(2022, 9, 6, hour)
    rules = replace(MARKET, due=Due(ZoneInfo("UTC"), 15 * 60))
    result = judge(series([40.0 + n % 7 for n in range(known_h)], now), rules=rules, now=now)
    assert (Reason.SIGNAL_LATE in codes(result)) is late
    assert len(result.series.spans) == known_h
    if late:
        assert "tomorrow was due at 15:00" in result.notes[-1].text


def test_44_of_48_values_are_taken_by_their_stamps_and_nothing_is_made_up():
    result = judge(series([40.0 + n % 9 for n in range(44)], step=HOUR / 2))
    assert (len(result.series.spans), codes(result), result.state) == (44, [], SignalState.OK)
    assert result.series.until(NOON) == NOON + 22 * HOUR


@pytest.mark.parametrize("start", [utc(2022, 3, 13, 8), utc(2022, 11, 6, 7)])
def test_days_of_23_and_25_hours_raise_no_doubt(california, start):
    profile = [span.value for span in california[:24]]
    local = [(start - 7 * DAY + n * HOUR) for n in range(9 * 24)]
    spans = tuple(Span(at, at + HOUR, profile[at.astimezone(PACIFIC).hour]) for at in local)
    known = Series("p", "USD/MWh", spans[: 7 * 24], start)
    result = judge(Series("p", "USD/MWh", spans), known, replace(MARKET, zone=PACIFIC), start)
    assert codes(result) == []
    assert result.series.spans == spans


# ---------------------------------------------------------------- the market's own bounds
@pytest.mark.parametrize(("fields", "currency", "beyond"), [
    ({"type": "octopus", "tariff": "E-1R-AGILE-24-10-01-C"}, "GBP", 1001.0),
    ({"type": "entsoe", "zone": "FR", "key": "env:KEY"}, "EUR", 60_000.0),
    ({"type": "gridstatus", "market": "ERCOT", "location": "HB_WEST"}, "USD", 50_000.0),
    ({"type": "uk_carbon"}, "USD", -1.0),
    ({"type": "watttime", "region": "X1", "username": "u", "password": "env:KEY"}, "USD", 300_000.0),
    ({"type": "gridstatus", "market": "PJM", "key": "env:KEY", "kind": "system_load"}, "USD", 90_000_000.0),
])  # fmt: skip
def test_a_value_beyond_the_market_is_left_out_without_a_cap_in_the_config(fields, currency, beyond):
    config = registry.config_model("signals", fields["type"]).model_validate({"id": "it", **fields})
    rules = gate_rules(config, currency)
    good = 30_000.0 if fields.get("kind") == "system_load" else 90.0
    result = judge(series([good, beyond, good + 1], unit=rules.unit), rules=replace(rules, due=None))
    assert values(result) == [good, good + 1]
    assert Reason.SIGNAL_SPIKE in codes(result)
