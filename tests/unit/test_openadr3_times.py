"""OpenADR 3's times: the edge cases of the text and of servers in use, by their number in the list that we keep."""

from datetime import UTC, datetime, timedelta
from zoneinfo import ZoneInfo

import pytest

from adapters.dr.openadr3.intervals import MOST_SLOTS, draw, timeline
from adapters.dr.openadr3.objects import read_event
from adapters.dr.openadr3.times import FOREVER, read_duration, read_moment
from tests.support.openadr3 import HOUR, MINUTE, NOON, capacity, caps, orders, payload, period, simple, stated

DAY = timedelta(days=1)


def line(event, seen_at=NOON, randomized=False):
    return timeline(read_event(event), seen_at, "ven/sv", UTC, randomized)


def spans(event, **more):
    found = line(event, **more)
    return [((s.start - NOON) / HOUR, (s.end - NOON) / HOUR, s.id) for s in found.between(NOON - DAY, NOON + 2 * DAY)]


def with_periods(*periods, **more):
    intervals = [{"id": i, "payloads": [payload("SIMPLE", 1)]} | one for i, one in enumerate(periods)]
    return {"id": "e1", "programID": "p1", "intervals": intervals} | more


def test_case_01_an_interval_follows_the_one_before_and_overrides_only_what_it_says():
    event = with_periods({}, period(duration="PT2H"), {}, **period(NOON, "PT1H"))
    assert spans(event) == [(0, 1, 0), (1, 3, 1), (3, 4, 2)]
    late = with_periods({}, period(NOON + 5 * HOUR), {}, **period(NOON, "PT1H"))
    assert spans(late) == [(0, 1, 0), (5, 6, 1), (6, 7, 2)]


def test_case_01_without_a_default_every_interval_says_its_own_times():
    event = with_periods(period(NOON, "PT1H"), period(NOON + 2 * HOUR, "PT1H"))
    assert spans(event) == [(0, 1, 0), (2, 3, 1)]
    for broken, named in ((with_periods({}), "start"), (with_periods(period(NOON)), "duration")):
        with pytest.raises(ValueError, match=rf"intervals\[0\].intervalPeriod.{named}"):
            line(broken)


@pytest.mark.parametrize(
    "now", ["0001-01-01", "0001-01-01T00:00:00", "0001-01-01T00:00:00Z", "0000-01-01", "0000-00-00"]
)
def test_case_02_the_first_year_means_now_and_later_the_end_of_the_one_before(now):
    event = with_periods({}, period(now, "PT1H"), **period(now, "PT2H"))
    assert spans(event, seen_at=NOON + 3 * HOUR) == [(3, 5, 0), (5, 6, 1)]


@pytest.mark.parametrize("start", [stated(NOON), "0001-01-01", "0000-00-00"])
def test_case_03_p9999y_is_no_end_and_nothing_runs_over(start):
    found = line(with_periods({}, {}, **period(start, "P9999Y")))
    assert found.standing
    assert (found.start, found.ends) == (NOON, FOREVER)
    assert len(found.slots) == 1, "what follows infinity never begins"
    held = orders(capacity(4000, start=start, each="P9999Y"))
    (message,) = held.messages
    assert message.standing
    assert message.end == NOON.replace(hour=0) + 2 * DAY, "held to the end of tomorrow, and on from there tomorrow"
    assert read_duration("P1M").after(datetime(2026, 1, 31, tzinfo=UTC)) == datetime(2026, 2, 28, tzinfo=UTC)
    assert read_duration("P900Y").after(datetime(8999, 1, 1, tzinfo=UTC)) == FOREVER


@pytest.mark.parametrize("zero", ["PT0S", "P0Y", "PT0H", "P0D"])
def test_case_04_a_window_without_length_asks_nothing(zero):
    assert line(with_periods({}, **period("0001-01-01", zero))).slots == ()
    assert orders(simple(2, each=zero)).messages == []


def test_case_04_and_14_the_first_year_without_length_cancels_intervals_with_times_of_their_own():
    own = with_periods(period(NOON, "PT1H"), **period("0001-01-01T00:00:00Z", "PT0S"))
    assert line(own).slots == ()
    assert spans(with_periods(period(NOON, "PT1H"), **period(NOON, "PT0S"))) == [(0, 1, 0)]


def test_case_04_a_duration_that_the_schema_filled_in_is_no_cancellation():
    assert spans(with_periods({}, duration="PT0S", **period(NOON, "PT1H"))) == [(0, 1, 0)]
    assert spans(with_periods({}, **period(NOON, "PT1H"))) == [(0, 1, 0)]


def test_case_05_a_longer_event_loops_a_shorter_one_is_cut_and_an_infinite_one_loops_for_ever():
    looping = with_periods({}, {}, duration="PT5H", **period(NOON, "PT1H"))
    assert spans(looping) == [(0, 1, 0), (1, 2, 1), (2, 3, 0), (3, 4, 1), (4, 5, 0)]
    assert spans(with_periods({}, {}, duration="PT1H30M", **period(NOON, "PT1H"))) == [(0, 1, 0), (1, 1.5, 1)]
    hourly = with_periods(*[{}] * 24, duration="P9999Y", **period(NOON - 400 * DAY, "PT1H"))
    assert spans(hourly) == [(hour, hour + 1, hour % 24) for hour in range(-24, 48)], "steps in UTC, for ever"


def test_case_05_a_loop_that_costs_nothing_to_state_costs_little_to_hold():
    mad = with_periods({}, duration="P9999Y", **period(datetime(1990, 1, 1, tzinfo=UTC), "PT0.001S"))
    assert len(line(mad).between(NOON, NOON + DAY)) == MOST_SLOTS


def test_case_06_an_event_that_runs_is_joined_in_the_present_interval():
    event = capacity(4000, 3000, 2000, start=NOON - HOUR, each="PT1H")
    (message,) = orders(event).messages
    assert [t.limit_kw for t in message.targets if t.start <= NOON < t.end] == [3000]


def test_case_07_several_values_divide_their_interval_equally():
    event = capacity(4000, start=NOON + HOUR, each="PT3H")
    event["intervals"][0]["payloads"][0]["values"] = [4000, 3000, 2000]
    assert caps(orders(event)) == {"e1": [(1, 2, 4000), (2, 3, 3000), (3, 4, 2000)]}
    event["intervalPeriod"]["duration"] = "P9999Y"
    found = orders(event)
    assert "can't share an interval without an end" in found.messages[0].fault


def test_case_08_a_random_start_is_drawn_once_and_within_its_bound():
    event = with_periods({}, {}, **period(NOON, "PT1H", randomizeStart="PT10M"))
    first, second = line(event, randomized=True), line(event, randomized=True)
    assert first == second, "the same over polls and restarts"
    shift = first.slots[0].start - NOON
    assert timedelta(0) < abs(shift) <= 10 * MINUTE
    assert first.slots[1].start - NOON - HOUR == shift, "what follows shifts with it"
    own = with_periods({}, period(NOON + 2 * HOUR), period(NOON + 4 * HOUR, randomizeStart="PT0S"),
                       **period(NOON, "PT1H", randomizeStart="-PT10M"))  # fmt: skip
    starts = [slot.start for slot in line(own, randomized=True).slots]
    assert starts[1] - NOON - 2 * HOUR == starts[0] - NOON, "an absolute start too"
    assert starts[2] == NOON + 4 * HOUR, "unless it has its own"
    drawn = [draw("site", f"e{number}", "") for number in range(2000)]
    assert max(drawn) < 1
    assert min(drawn) >= -1
    assert abs(sum(drawn) / len(drawn)) < 0.05


def test_case_08_a_random_start_does_not_delay_a_hard_limit():
    event = capacity(4000, start=NOON + HOUR, each="PT1H")
    event["intervalPeriod"]["randomizeStart"] = "PT20M"
    assert caps(orders(event)) == {"e1": [(1, 2, 4000)]}
    dispatched = capacity(4000, kind="DISPATCH_SETPOINT", each="PT1H")
    dispatched["intervalPeriod"]["randomizeStart"] = "PT20M"
    assert caps(orders(dispatched)) != {"e1": [(1, 2, 4000)]}


def test_case_09_a_gap_is_no_instruction():
    event = with_periods(period(NOON + HOUR, "PT1H"), period(NOON + 4 * HOUR, "PT1H"))
    assert caps(orders(event)) == {"e1": [(1, 2, 10)], "e1~20260701T160000Z": [(4, 5, 10)]}


def test_case_09_intervals_of_one_event_may_overlap():
    event = with_periods(period(NOON + HOUR, "PT2H"), period(NOON + 2 * HOUR, "PT2H"))
    assert caps(orders(event)) == {"e1": [(1, 3, 10)], "e1~1": [(2, 4, 10)]}


def test_case_10_what_has_ended_is_over_at_its_end():
    event = simple(2, start=NOON - HOUR)
    assert orders(event, now=NOON).messages == []
    assert len(orders(event, now=NOON - MINUTE).messages) == 1


@pytest.mark.parametrize(
    ("text", "moment"),
    [
        ("2026-07-01T12:00:00Z", NOON),
        ("2026-07-01 12:00:00z", NOON),
        ("2026-07-01T12:00", NOON),
        ("2026-07-01T05:00:00-07:00", NOON),
        ("2026-07-01T17:30:00+0530", NOON),
        ("2026-07-01T12:00:00.123456789Z", NOON.replace(microsecond=123456)),
        ("2026-07-01", NOON.replace(hour=0)),
        ("2026-06-30T23:59:60Z", NOON.replace(hour=0)),
        ("9999-12-31T23:59:59-12:00", FOREVER),
    ],
)
def test_case_11_times_are_read_as_servers_write_them(text, moment):
    assert read_moment(text) == moment


def test_case_11_a_time_without_a_zone_is_of_the_zone_that_the_config_names():
    assert read_moment("2026-07-01T05:00:00", ZoneInfo("America/Los_Angeles")) == NOON


@pytest.mark.parametrize(
    "text", ["yesterday", "2026-13-01", "2026-02-30T00:00:00Z", "2026-07-01T25:00:00Z", "", "12:00"]
)
def test_case_11_what_is_no_time_is_said_and_not_guessed(text):
    with pytest.raises(ValueError, match=r"time|month|day|hour"):
        read_moment(text)


@pytest.mark.parametrize("text", ["PT1.5H", "1H", "P", "PT", "P1H", "", "-", "PT1S1H"])
def test_case_11_what_is_no_duration_is_said_and_not_guessed(text):
    with pytest.raises(ValueError, match="not a duration"):
        read_duration(text)


def test_case_11_days_of_23_and_25_hours_are_stepped_in_utc():
    begin = datetime(2026, 3, 29, 0, 0, tzinfo=ZoneInfo("Europe/Berlin"))
    event = with_periods(*[{}] * 24, duration="P9999Y", **period(begin.isoformat(), "PT1H"))
    found = line(event, seen_at=NOON).between(begin.astimezone(UTC), begin.astimezone(UTC) + 2 * DAY)
    assert [slot.id for slot in found] == [*range(24)] * 2
    assert {slot.end - slot.start for slot in found} == {HOUR}


def test_a_negative_length_is_refused_by_name():
    found = orders(simple(1, each="-PT1H"))
    assert (found.messages, found.unread) == ([], {"e1"})
    assert "negative" in found.faults[0].text
