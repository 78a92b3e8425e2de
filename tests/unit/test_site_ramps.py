"""A site's own ramp down: announced events are approached in time, and what comes too late for it is said."""

from dataclasses import replace
from datetime import UTC, datetime, timedelta
from types import SimpleNamespace

import pytest

from adapters.ports import EventTarget
from optimizer.domain import GridEvent, Series, Span
from optimizer.envelope import event_limit_kw
from optimizer.reasons import Reason
from scheduler.fall import Fall
from scheduler.problem import limits_told
from scheduler.service import OperatorOrder
from scheduler.targets import INF, approach_kw
from tests.support.loops import lab, order

START = datetime(2022, 9, 6, 22, tzinfo=UTC)
MINUTE, SECOND = timedelta(minutes=1), timedelta(seconds=1)


def slow(text):
    return text.replace("up: 10, down: 40", "up: 10, down: 20")


def ordered(made, seconds, *levels, ramp_in_s=0.0, minutes=2):
    """An event in so many seconds, with these reductions in per cent, each for some minutes."""
    start = made.clock.now() + timedelta(seconds=seconds)
    each = minutes * MINUTE
    targets = tuple(EventTarget(start + k * each, start + (k + 1) * each, reduce_percent=percent)
                    for k, percent in enumerate(levels))  # fmt: skip
    made.facade.accept(order(start, targets[-1].end, targets=targets, ramp_in_s=ramp_in_s, ramp_out_s=60.0))
    return made.ctx.ledger.active(made.clock.now())[0]


def steepest(ticks, seconds=1):
    row = [tick.import_kw["lab"] for tick in ticks]
    return max(a - b for a, b in zip(row, row[seconds:], strict=False))


def broken(ticks):
    return [note for tick in ticks for note in tick.notes if note.code is Reason.RAMP_BROKEN]


@pytest.mark.parametrize("ramp_in_s", [0.0, 20.0])
def test_an_announced_event_is_reached_by_the_site_s_own_ramp(tmp_path, ramp_in_s):
    with lab(tmp_path, slow) as made:
        made.run(5 * MINUTE, step_s=5)
        event = ordered(made, 90.0, 25.0, 30.0, ramp_in_s=ramp_in_s)
        ticks = made.run(5 * MINUTE)
    assert steepest(ticks, 10) < 20.0 / 6 + 0.5, "20 kW a minute; else 15 kW in a second or in 20"
    assert all(tick.import_kw["lab"] <= event_limit_kw(event, tick.at) + 0.01 for tick in ticks)
    full = [tick for tick in ticks if tick.at < event.start - 60 * SECOND]
    assert steepest(full) < 1.0, "and it begins no earlier than it must"
    assert not broken(ticks)


def test_an_event_that_comes_too_late_is_met_at_once_and_it_is_said_once(tmp_path):
    with lab(tmp_path, slow) as made:
        made.run(5 * MINUTE, step_s=5)
        event = ordered(made, 10.0, 25.0)
        ticks = made.run(MINUTE)
    (note,) = broken(ticks)
    assert "lab falls faster than its own ramp (`ramp_kw_per_min`) allows: a cap of " in note.text
    assert all(tick.import_kw["lab"] <= event_limit_kw(event, tick.at) for tick in ticks)
    late = [tick for tick in ticks if event.start - 8 * SECOND <= tick.at < event.start]
    assert 0.2 < steepest(late) < 0.5, "and what there is time for is done by the ramp"


def test_a_ramp_in_that_is_a_little_too_steep_is_said_though_no_second_of_it_is(tmp_path):
    with lab(tmp_path) as made:
        made.run(5 * MINUTE, step_s=5)
        made.run(5 * SECOND)
        ordered(made, 0.0, 25.0, ramp_in_s=16.0)
        ticks = made.run(MINUTE)
    assert len(broken(ticks)) == 1, "45 kW a minute where 40 are allowed"


@pytest.mark.parametrize("limit_kw", [40.0, 36.0])
def test_an_operator_s_order_comes_first_and_is_told_of_each_time(tmp_path, limit_kw):
    with lab(tmp_path, slow) as made:
        made.run(5 * MINUTE, step_s=5)
        for _ in range(2):
            made.facade.order(OperatorOrder("limit", site="lab", limit_kw=limit_kw, by="me"))
            ticks = made.run(MINUTE)
            (note,) = broken(ticks)
            assert f"its own ramp (`ramp_kw_per_min`) allows: a cap of {limit_kw:g} kW comes first" in note.text
            made.facade.order(OperatorOrder("limit", site="lab", limit_kw=None, by="me"))
            assert not broken(made.run(3 * MINUTE)), "a rise is no fall"


def falling(text):
    """A limit of 100 kW that is 40 in the hour from 15:00 local, an hour after the lab's start."""
    hours = [100.0] * 15 + [40.0] + [100.0] * 8
    line = f"{{id: line, type: profile, kind: limit, unit: kW, timezone: America/Los_Angeles, hours: {hours}}}"
    with_signal = slow(text).replace("programs:", f"  - {line}\nprograms:")
    return with_signal.replace("limit_kw: 100", "limit_kw: 100, limit_signal: line")


def test_a_limit_that_is_known_to_fall_is_reached_by_the_site_s_own_ramp(tmp_path):
    falls_at = datetime(2022, 9, 6, 22, tzinfo=UTC)
    with lab(tmp_path, falling) as made:
        before = made.run(57 * MINUTE, step_s=5)
        ticks = made.run(2 * MINUTE + 45 * SECOND)
        whys = [pool.why for pool in made.facade.report().pools]
        ticks += made.run(2 * MINUTE)
    assert any("the way down to a lower import limit" in why for why in whys)
    full_kw = before[-1].import_kw["lab"]
    assert full_kw > 44, "else there is nothing to come down from"
    assert steepest(ticks, 10) < 20.0 / 6 + 0.5
    assert all(tick.import_kw["lab"] <= 40.0 for tick in ticks if tick.at >= falls_at)
    full = [tick for tick in ticks if tick.at < falls_at - (full_kw - 38.0) / 20.0 * MINUTE]
    assert steepest(full) < 1.0, "and it begins no earlier than it must"
    assert not broken(ticks)


def test_a_cap_that_takes_nothing_away_is_nothing_to_tell(tmp_path):
    with lab(tmp_path, slow) as made:
        made.run(5 * MINUTE, step_s=5)
        made.facade.order(OperatorOrder("limit", site="lab", limit_kw=80.0, by="me"))
        assert not broken(made.run(MINUTE))


def test_a_limit_that_is_only_expected_throttles_nobody_and_the_books_have_the_limit_of_the_moment(tmp_path):
    falls_at = datetime(2022, 9, 6, 22, tzinfo=UTC)
    with lab(tmp_path, falling) as made:
        made.run(58 * MINUTE, step_s=5)
        made.state.limits_told["lab"] = falls_at - MINUTE
        before = made.run(100 * SECOND)
        assert steepest(before) < 1.0
        made.state.limits_told["lab"] = falls_at + MINUTE
        ticks = made.run(30 * SECOND)
    for tick in ticks:
        assert tick.limit_kw["lab"] == (40.0 if tick.at >= falls_at else 100.0)
    assert any(tick.at < falls_at for tick in ticks)


def test_limits_behind_a_gap_in_what_is_published_are_expected_and_no_more(tmp_path):
    now = datetime(2022, 9, 6, 21, tzinfo=UTC)
    parts = {"known": ((-60, 30), (30, 90), (240, 300)), "later": ((30, 90),), "none": ()}
    series = {
        name: Series(name, "kW", tuple(Span(now + a * MINUTE, now + b * MINUTE, 40.0) for a, b in spans))
        for name, spans in parts.items()
    }
    with lab(tmp_path) as made:
        model = made.ctx.sites["lab"]
        sites = {name: replace(model, id=name, limit_signal=name) for name in parts}
        told = limits_told(replace(made.ctx, sites=sites), SimpleNamespace(series=series.__getitem__), now)
    assert told == {"known": now + 90 * MINUTE, "later": now, "none": now}


def test_after_a_limit_out_of_reach_the_ramp_goes_on_from_where_the_site_is(tmp_path):
    with lab(tmp_path, slow) as made:
        made.run(5 * MINUTE, step_s=5)
        made.facade.order(OperatorOrder("limit", site="lab", limit_kw=5.0, by="me"))
        under = made.run(MINUTE)
        assert any(note.code is Reason.LIMIT_UNREACHABLE for note in under[-1].notes)
        least_kw = under[-1].import_kw["lab"]
        assert least_kw > 15.0, "else there is no way from the limit to where it is"
        made.facade.order(OperatorOrder("limit", site="lab", limit_kw=None, by="me"))
        row = [tick.import_kw["lab"] for tick in made.run(65 * SECOND)]
    assert row[20] > least_kw + 2.0, "10 kW a minute; from 5 kW the rise would begin after more than a minute"
    assert max(b - a for a, b in zip(row, row[60:], strict=False)) < 10.5


def test_a_clock_that_is_put_back_is_no_fall(tmp_path):
    with lab(tmp_path, slow) as made:
        made.run(5 * MINUTE, step_s=5)
        made.facade.order(OperatorOrder("limit", site="lab", limit_kw=40.0, by="me"))
        made.run(MINUTE)
        made.state.last_tick_at = made.clock.now() + 5 * MINUTE  # the last tick was five minutes ahead of this one
        assert not broken(made.run(10 * SECOND))


def test_a_fall_is_told_once_and_the_next_one_again():
    fall = Fall()
    assert [fall.see(fallen, 1.0, 500.0) for fallen in (0.0, 1.5, 1.5, 1.5, 0.0, 9.0)] == [False, False, False, True,
                                                                                       False, False]  # fmt: skip
    for _ in range(10):
        assert not fall.see(0.0, 1.0, 500.0)
    assert not fall.see(1.0, 1.0, 500.0)
    assert fall.see(9.0, 1.0, 500.0)


def test_each_stricter_cap_is_a_line_ahead_of_it_and_the_slower_ramp_holds():
    def made(*levels, ramp_in_s=0.0, down=INF):
        spans = tuple(Span(START + k * MINUTE, START + (k + 1) * MINUTE, kw) for k, kw in enumerate(levels))
        return GridEvent("e", 1, "lab", START, spans[-1].end, spans, 1000.0, ramp_in_s=ramp_in_s,
                         ramp_down_kw_per_min=down)  # fmt: skip

    def left_kw(event, seconds, own=60.0, last_kw=None):
        return approach_kw("lab", [event], START + seconds * SECOND, last_kw, 1.0, own)

    assert left_kw(made(600.0), -30.0) == pytest.approx(630.0)
    assert left_kw(made(600.0), -30.0, own=INF) == INF
    assert left_kw(made(600.0, down=30.0), -30.0) == left_kw(made(600.0), -30.0, own=30.0) == pytest.approx(615.0)
    steep = made(600.0, ramp_in_s=30.0)
    assert left_kw(steep, -30.0) == pytest.approx(660.0), "400 kW in half a minute: its end counts"
    assert left_kw(steep, 10.0) == pytest.approx(620.0)
    assert left_kw(steep, 30.0) == left_kw(made(600.0, 700.0), 90.0) == INF, "its own caps hold"
    assert left_kw(made(600.0, 500.0, 300.0), 30.0) == pytest.approx(min(530.0, 390.0)), "whichever is stricter"
    assert left_kw(made(600.0, 500.0, 300.0), 30.0, last_kw=600.0) == pytest.approx(599.0), "no faster than the ramp"
