"""Past what is known: a full horizon from what was public, with a note from when on it is a guess."""

from datetime import timedelta
from zoneinfo import ZoneInfo

import pytest

from optimizer.forecast import LOAD, Outlook, extend, forecast_on_grid, on_grid
from optimizer.reasons import Reason, Severity
from optimizer.timegrid import TimeGrid, planning_grid, uniform_grid
from tests.support.signals import NOON, series, utc

HOUR = timedelta(hours=1)
DAY = timedelta(days=1)
PLAIN = Outlook(error_half_life=timedelta(0))


def daily(days, start=None, value=lambda hour: 100.0 + hour):
    start = start or NOON - days * DAY
    return series([value((start + n * HOUR).hour) for n in range(24 * days)], start)


def test_a_file_that_ends_before_the_horizon_still_gives_a_full_one_noted_once():
    known = daily(10, NOON - 9 * DAY)
    grid = planning_grid(NOON, 3 * DAY)
    values, notes = forecast_on_grid(known, grid, PLAIN)
    assert len(values) == len(grid)
    expected = [100.0 + start.hour for start in grid.starts]
    assert values == pytest.approx(expected)
    assert [note.code for note in notes] == [Reason.SIGNAL_FORECAST]
    assert "from 2022-09-07T12:00Z on, by the same hour of the last 14 days" in notes[0].text
    assert notes[0].severity is Severity.INFO


def test_nothing_is_said_when_all_is_known():
    known = series([1.0] * 48)
    assert extend(known, NOON, NOON + 2 * DAY, PLAIN) == (known, ())


def test_local_hours_not_utc_ones_repeat_over_a_clock_change():
    zone = ZoneInfo("America/Los_Angeles")
    start = utc(2022, 10, 30, 7)
    known = series([(start + n * HOUR).astimezone(zone).hour for n in range(24 * 7)], start)
    until = start + 9 * DAY
    got, _ = extend(known, known.spans[-1].end, until, Outlook(zone=zone, error_half_life=timedelta(0)))
    for span in got.spans[-24:]:
        assert span.value == span.start.astimezone(zone).hour


def test_weekends_are_forecast_from_weekends():
    known = series(
        [10.0 if (utc(2022, 8, 29) + n * HOUR).weekday() >= 5 else 90.0 for n in range(24 * 12)], utc(2022, 8, 29)
    )
    got, _ = extend(known, utc(2022, 9, 10), utc(2022, 9, 13), PLAIN)
    assert (got.at(utc(2022, 9, 11, 5)), got.at(utc(2022, 9, 12, 5))) == (10.0, 90.0)


def test_history_older_than_asked_does_not_count():
    old, new = daily(10, NOON - 14 * DAY, lambda hour: 1000.0), daily(4, value=lambda hour: 50.0)
    known = series([span.value for span in (*old.spans, *new.spans)], NOON - 14 * DAY)
    got, _ = extend(known, NOON, NOON + DAY, Outlook(days=4, error_half_life=timedelta(0)))
    assert {span.value for span in got.spans if span.start >= NOON} == {50.0}


def test_the_latest_error_fades_with_its_half_life():
    known = series([50.0] * 240 + [90.0], NOON - 240 * HOUR)
    got, _ = extend(known, NOON, NOON + DAY, Outlook(error_half_life=2 * HOUR, days=14))
    ahead = [span.value for span in got.spans if span.start > NOON]
    base = ahead[-1]
    assert ahead[0] - base > 25
    assert ahead[2] - base == pytest.approx((ahead[0] - base) / 2, rel=0.1)
    assert ahead == sorted(ahead, reverse=True)


def test_day_ahead_prices_forecast_real_time_ones_corrected_by_the_last_error():
    day_ahead = daily(3, NOON - DAY).__class__("da", "USD/MWh", daily(3, NOON - DAY).spans)
    real_time = series([100.0 + (NOON - 6 * HOUR + n * HOUR).hour + 20 for n in range(6)], NOON - 6 * HOUR)
    got, notes = extend(real_time, NOON, NOON + DAY, Outlook(error_half_life=HOUR / 2), reference=day_ahead)
    assert got.at(NOON) == pytest.approx(100 + 12 + 10)
    assert got.at(NOON + 12 * HOUR) == pytest.approx(100.0, abs=0.01)
    assert "by da" in notes[0].text


def test_a_gap_inside_is_filled_and_said_louder():
    known = daily(10, NOON - 9 * DAY)
    hole = NOON + 5 * HOUR
    torn = known.__class__("p", "USD/MWh", tuple(span for span in known.spans if span.start != hole))
    got, notes = extend(torn, NOON, NOON + 12 * HOUR, PLAIN)
    assert got.at(hole) == pytest.approx(100 + hole.hour)
    assert "for 2022-09-06T17:00Z to 2022-09-06T18:00Z" in notes[0].text
    assert notes[0].severity is Severity.WARNING


def test_unknown_load_is_the_last_value_and_then_all_busy_never_idle():
    known = series([0.6], NOON - HOUR, name="load", unit="fraction")
    got, notes = extend(known, NOON, NOON + 12 * HOUR, LOAD)
    assert got.at(NOON) == 0.6
    assert {got.at(NOON + n * HOUR) for n in range(1, 11)} == {1.0}
    assert "by its last value, then as 1, the worst case" in notes[0].text
    nothing, notes = extend(series([], name="load", unit="fraction"), NOON, NOON + 12 * HOUR, LOAD)
    assert {span.value for span in nothing.spans} == {1.0}
    assert notes[0].severity is Severity.WARNING


def test_a_load_forecast_stays_between_nothing_and_all():
    usual = [0.5 if (NOON + n * HOUR).hour == 11 else 0.95 for n in range(-240, -1)]
    known = series([*usual, 1.0], NOON - 240 * HOUR, name="load", unit="fraction")
    got, _ = extend(known, NOON, NOON + DAY, LOAD)
    assert got.at(NOON) == 1.0
    assert all(0.0 <= span.value <= 1.0 for span in got.spans)


def test_no_knowledge_at_all_is_said_and_nothing_is_invented():
    empty = series([])
    got, notes = extend(empty, NOON, NOON + DAY, PLAIN)
    assert got.spans == ()
    assert [note.code for note in notes] == [Reason.SIGNAL_LOST]
    with pytest.raises(ValueError, match="price has no value for some of 2022-09-06T12:00Z"):
        forecast_on_grid(empty, planning_grid(NOON, DAY), PLAIN)


def test_a_day_like_none_before_it_is_taken_to_come_again():
    """Winter storm Uri: each day dearer than the last, by ten and then by three."""
    usual, storm = [20.0, 30.0] * 12, [900.0, 1500.0] * 12
    known = series([*usual * 3, *storm], NOON - 4 * DAY)
    got, notes = extend(known, NOON, NOON + 3 * DAY, Outlook())
    assert [got.at(NOON + n * HOUR) for n in (0, 1, 24, 71)] == [900.0, 1500.0, 900.0, 1500.0]
    assert "by its last day again, which is like none of the last 14" in notes[0].text


@pytest.mark.parametrize(
    ("days", "last"),
    [
        (3, [20.0, 30.0] * 7 + [4000.0] * 10),  # an evening of spikes
        (3, [40.0, 45.0] * 12),  # dear, and not out of this world
        (1, [900.0, 1500.0] * 12),  # too little to compare with
    ],
)
def test_a_spike_or_a_dear_day_is_not_taken_to_come_again(days, last):
    known = series([*[20.0, 30.0] * 12 * days, *last], NOON - (days + 1) * DAY)
    _, notes = extend(known, NOON, NOON + DAY, Outlook())
    assert "by the same hour of the last 14 days" in notes[0].text


@pytest.mark.parametrize(("level", "again"), [(8.0, False), (-9.0, False), (900.0, True), (-200.0, True)])
def test_where_prices_are_about_nothing_a_day_must_leave_their_usual_width(level, again):
    """Noons below zero, evenings above: the median is 0.5, the middle half of all hours from -4 to 5.75. A day at 8 is
    sixteen times as dear as usual, and no other world."""
    known = series([*[-10.0, -2.0, 3.0, 14.0, 0.0, 1.0, -10.0, 14.0] * 9, *[level] * 24], NOON - 4 * DAY)
    got, notes = extend(known, NOON, NOON + DAY, Outlook())
    assert ("by its last day again" in notes[0].text) == again
    assert (got.at(NOON) == level) == again


def test_a_few_hours_of_history_still_give_a_horizon():
    got, _ = extend(series([40.0, 60.0], NOON - 2 * HOUR), NOON, NOON + DAY, PLAIN)
    assert got.until(NOON) == NOON + DAY
    assert {span.value for span in got.spans} <= {40.0, 50.0, 60.0}


def test_coarse_and_fine_intervals_carry_the_same_energy():
    known = series([0.0, 60.0, 30.0], step=timedelta(minutes=20))
    assert on_grid(known, TimeGrid((NOON, NOON + HOUR))) == (pytest.approx(30.0),)
    assert on_grid(known, uniform_grid(NOON, NOON + HOUR, timedelta(minutes=15))) == pytest.approx((0, 40, 50, 30))
