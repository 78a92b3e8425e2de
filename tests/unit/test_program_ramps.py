"""A program's own ramp limits: how fast the site's power may change while it takes part, in and out."""

from dataclasses import replace
from datetime import UTC, datetime, timedelta

import pytest

from adapters.ports import EventMessage, EventTarget
from optimizer.domain import Span
from optimizer.envelope import event_limit_kw
from optimizer.reasons import Reason
from scheduler.ledger.ledger import Ledger
from scheduler.ledger.pacing import INF, Pace, paced
from scheduler.ledger.resolve import ProgramTerms
from scheduler.service import OperatorOrder
from scheduler.store.store import Store
from scheduler.targets import approach_kw, pace, release_kw_per_min
from scheduler.trim import ramps_now
from tests.support.loops import lab, order

START = datetime(2022, 9, 6, 22, tzinfo=UTC)
MINUTE, SECOND = timedelta(minutes=1), timedelta(seconds=1)


PACE = Pace(60.0, 120.0)


def told(*levels, minutes=10, allowed=PACE, ramp_s=60.0):
    """The event as agreed, of caps that last so many minutes each, and what was answered; baseline 1,000 kW."""
    each = minutes * MINUTE
    targets = tuple(EventTarget(START + k * each, START + (k + 1) * each, limit_kw=kw) for k, kw in enumerate(levels))
    message = EventMessage("e", 1, "lab", START, targets[-1].end, targets, program="p", ramp_in_s=ramp_s,
                           ramp_out_s=ramp_s)  # fmt: skip
    ledger, before = Ledger(Store.in_memory()), START - timedelta(hours=1)
    answer = ledger.accept(
        message, baseline_kw=1000.0, available_kw=900.0, defaults=ProgramTerms(id="p", pace=allowed), now=before
    )
    return ledger, ledger.active(before)[0], answer


def slopes(event, of=event_limit_kw):
    """The steepest fall and rise of the cap over any minute from the start to the end of the ramp out, in kW."""
    end = event.end + timedelta(seconds=event.ramp_out_s)
    row = [of(event, event.start + k * SECOND) for k in range(int((end - event.start).total_seconds()))]
    moved = [b - a for a, b in zip(row, row[60:], strict=False)]
    return -min(moved), max(moved)


def test_caps_move_no_faster_than_the_program_allows_and_reach_their_targets():
    _, event, answer = told(600.0, 400.0, 700.0)
    assert slopes(event) == (pytest.approx(120.0), pytest.approx(60.0))
    at = {minute: event_limit_kw(event, START + minute * MINUTE) for minute in (0, 4, 9, 12, 19, 26, 29, 30, 35)}
    assert at[4] == at[9] == 600.0, "400 kW at 120 a minute take 200 s"
    assert at[19] == 400.0
    assert at[29] == at[30] == 700.0
    assert at[35] == pytest.approx(1000.0), "and 300 kW out at 60 a minute five minutes"
    assert "the ramp in takes 200 s, not 60: 120 kW a minute at most" in answer.reason


def test_the_slower_of_both_ramps_holds():
    _, event, answer = told(600.0, ramp_s=500.0)
    assert (event.ramp_in_s, event.ramp_out_s) == (500.0, 500.0)
    assert "ramp in takes" not in answer.reason
    _, free, _ = told(600.0, 400.0, allowed=Pace())
    assert (free.ramp_in_s, free.ramp_out_s, len(free.targets)) == (60.0, 60.0, 2)


def test_a_ramp_that_takes_longer_than_a_target_lasts_never_jumps():
    _, event, _ = told(100.0, 800.0, minutes=3, allowed=Pace(60.0, 60.0))
    assert slopes(event) == (pytest.approx(60.0, rel=0.1), pytest.approx(60.0, rel=0.1))
    assert event_limit_kw(event, START + 3 * MINUTE - SECOND) == pytest.approx(820.0, abs=8.0), (
        "as far as there is time"
    )


def test_who_leaves_in_the_middle_leaves_at_the_program_s_pace():
    ledger, event, _ = told(400.0, 900.0)
    assert event.ramp_out_s == pytest.approx(100.0)
    left = START + 9 * MINUTE
    assert ledger.cancel(event.id, "operator", left).state == "ramping_out"
    event = ledger.active(left)[0]
    assert slopes(event)[1] == pytest.approx(60.0)
    assert event_limit_kw(event, left + 5 * MINUTE) == pytest.approx(700.0)


def test_a_change_in_flight_keeps_the_pace():
    ledger, event, _ = told(600.0, minutes=30)
    now = START + 10 * MINUTE
    message = EventMessage(
        "e", 2, "lab", START, event.end, (EventTarget(START, event.end, limit_kw=300.0),), program="p", ramp_in_s=10.0
    )
    ledger.accept(message, baseline_kw=1000.0, available_kw=900.0,
                  defaults=ProgramTerms(id="p", pace=PACE), now=now)  # fmt: skip
    (event,) = (event for event in ledger.active(now) if event.version == 2)
    assert [event_limit_kw(event, now + k * MINUTE) for k in (0, 1, 3)] == pytest.approx([590.0, 470.0, 300.0], abs=11)


def test_stairs_are_never_ahead_of_the_pace():
    spans = (Span(START, START + MINUTE, 90.0), Span(START + MINUTE, START + 3 * MINUTE, 100.0))
    stairs = paced(spans, 100.0, Pace(10.0, 5.0))
    assert [span.start for span in stairs[1:]] == [span.end for span in stairs[:-1]]
    assert stairs[-1].end == spans[-1].end
    level = {span.start: span.value for span in stairs}
    assert all(kw >= 100.0 - 5.0 * (at - START) / MINUTE - 1e-9 for at, kw in level.items() if at < START + MINUTE)
    assert paced(spans, 100.0, Pace()) == spans
    assert Pace(INF, INF).seconds(1.0, 2.0) == 0.0


# ---------------------------------------------------------------- the fast loop
def test_what_the_site_does_of_itself_keeps_the_pace_while_an_event_is_live():
    _, event, _ = told(600.0, minutes=10)
    inside, after = START + 12 * MINUTE, START + 18 * MINUTE
    assert pace("lab", [event], inside, 500.0, 100.0) == (60.0, 100.0), "the slower one each way; the ramp out included"
    assert pace("lab", [event], after, 500.0, 900.0) == pace("other", [event], inside, 500.0, 900.0) == (500.0, 900.0)


PACED = "baseline: {type: meter_before, minutes: 15}, ramp_kw_per_min: {up: 4, down: 6}"


def paced_lab(text):
    """The lab with a site that may move as fast as it likes, in a program that may not."""
    text = text.replace("up: 10, down: 40", "up: 9000, down: 9000")
    return text.replace("baseline: {type: meter_before, minutes: 15}", PACED)


def test_power_itself_keeps_the_program_s_ramp_in_and_out_and_returns_to_the_site_s_after(tmp_path):
    with lab(tmp_path, paced_lab) as made:
        made.run(5 * MINUTE, step_s=5)
        start = made.clock.now() + 5 * MINUTE
        made.facade.accept(order(start, start + 8 * MINUTE, ramp_in_s=20.0, ramp_out_s=20.0, rebound_s=0.0))
        made.run(start - made.clock.now(), step_s=5)
        (event,) = made.ctx.ledger.active(made.clock.now())
        out = event.end + timedelta(seconds=event.ramp_out_s)
        row = [tick.import_kw["lab"] for tick in made.run(out - made.clock.now())]
        moved = [b - a for a, b in zip(row, row[60:], strict=False)]
        assert -6.5 < min(moved) < -5.0
        assert 3.0 < max(moved) < 4.4
        assert min(row) < event_limit_kw(event, event.end - SECOND), "and the target is met"
        assert not [note for note in made.state.notes if note.code is Reason.RAMP_BROKEN]


def test_a_site_that_draws_more_than_its_baseline_is_down_to_it_when_the_event_begins_and_at_the_pace(tmp_path):
    """In the middle of an interval: what the plan wants less of in it is no fall, and jobs came since the baseline."""
    with lab(tmp_path, paced_lab) as made:
        made.run(5 * MINUTE, step_s=5)
        start = made.clock.now() + 7.5 * MINUTE
        made.facade.accept(order(start, start + 8 * MINUTE, ramp_in_s=20.0, ramp_out_s=20.0, rebound_s=0.0))
        made.run(5 * MINUTE, step_s=5)
        ticks = made.run(start + MINUTE - made.clock.now())
        (event,) = made.ctx.ledger.active(made.clock.now())
        row = [tick.import_kw["lab"] for tick in ticks]
        first_kw = event_limit_kw(event, start)
        assert max(row) > first_kw + 1.5, "else there was nothing to come down from"
        assert -6.5 < min(b - a for a, b in zip(row, row[60:], strict=False)) < -5.0
        assert all(tick.import_kw["lab"] <= event_limit_kw(event, tick.at) for tick in ticks if tick.at >= start)
        assert not [note for tick in ticks for note in tick.notes if note.code is Reason.EVENT_UNREACHABLE]


def slow_lab(text):
    return paced_lab(text).replace("up: 4, down: 6", "up: 4, down: 1")


@pytest.mark.parametrize("minutes", [2.5, 9.0])
def test_whoever_hears_late_falls_no_faster_than_the_pace_and_says_why(tmp_path, minutes):
    """A kW a minute is a tenth of what a margin in every tick would be."""
    with lab(tmp_path, slow_lab) as made:
        made.facade.order(OperatorOrder("limit", site="lab", limit_kw=42.0, by="me"))
        made.run(15 * MINUTE, step_s=5)
        made.facade.order(OperatorOrder("limit", site="lab", limit_kw=None, by="me"))
        made.run(2 * MINUTE, step_s=5)
        start = made.clock.now() + minutes * MINUTE
        made.facade.accept(order(start, start + 20 * MINUTE, ramp_in_s=20.0, ramp_out_s=20.0, rebound_s=0.0))
        (event,) = made.ctx.ledger.active(made.clock.now())
        whys = []
        ticks = made.run(
            start - made.clock.now() - 2 * SECOND,
            step_s=1.0 if minutes < 5 else 2.0,
            watch=lambda tick: whys.append({pool.id: pool for pool in made.facade.report().pools}["train"]),
        )
        row = [tick.import_kw["lab"] for tick in ticks]
        each = 60 if minutes < 5 else 30  # and where every tick is late, the line is kept all the same
        assert row[0] > event_limit_kw(event, start) + 4.0, "else there was nothing to come down from"
        assert -1.3 < min(b - a for a, b in zip(row, row[each:], strict=False)) < -0.7
        assert (row[-1] < event_limit_kw(event, start) + 0.1) == (minutes > 5), "as far down as there was time for"
        assert {pool.reason for pool in whys} <= {"full_power", "dr_event"}, "it is no ramp limit of the site"
        assert any("the way down to a demand-response event" in pool.why for pool in whys) == (minutes > 5)
        made.run(5 * SECOND)
        broken = [note for note in made.state.notes if note.code is Reason.RAMP_BROKEN]
        assert bool(broken) == (minutes < 5), "the rest comes in one step, and is said to"


def test_what_a_coming_event_leaves_is_a_line_down_to_its_first_cap_and_never_a_jump():
    _, event, _ = told(600.0)
    for seconds, kw in ((60.0, 1120.0), (30.0, 1060.0)):
        then = START - timedelta(seconds=seconds)
        assert approach_kw("lab", [event], then, 1000.0, 1.0) == pytest.approx(kw), "120 kW a minute, baseline 1,000"
        assert approach_kw("lab", [event], then, 1300.0, 1.0) == pytest.approx(1298.0), "heard of too late"
        assert approach_kw("lab", [event], then, None, 1.0) == pytest.approx(kw)
        assert approach_kw("other", [event], then, 1000.0, 1.0) == INF
    _, free, _ = told(600.0, allowed=Pace())
    assert approach_kw("lab", [free], START - MINUTE, 1000.0, 1.0) == INF
    assert approach_kw("lab", [event], START, 1000.0, 1.0) == INF, "its own cap holds"


def test_a_hard_cap_comes_first_and_is_said_to(tmp_path):
    with lab(tmp_path, paced_lab) as made:
        made.run(5 * MINUTE, step_s=5)
        start = made.clock.now()
        made.facade.accept(order(start, start + 20 * MINUTE, ramp_in_s=20.0))
        made.run(MINUTE)
        made.facade.order(OperatorOrder("limit", site="lab", limit_kw=36.0, by="me"))
        first, *_, last = made.run(5 * SECOND)
        (note,) = [note for note in first.notes if note.code is Reason.RAMP_BROKEN]
        assert "36 kW comes first" in note.text
        assert last.import_kw["lab"] <= 36.0
        assert not [note for note in last.notes if note.code is Reason.RAMP_BROKEN]


FIVE = 5 * MINUTE


def test_a_released_site_goes_on_at_the_pace_of_its_ramp_to_the_end_of_the_first_plan_without_the_event():
    _, event, _ = told(600.0, minutes=10, ramp_s=300.0, allowed=Pace())
    out = START + 15 * MINUTE
    at = {m: release_kw_per_min("lab", [event], out + m * MINUTE, FIVE) for m in (-0.1, 0.0, 4.9, 5.0)}
    assert at == {-0.1: INF, 0.0: pytest.approx(80.0), 4.9: pytest.approx(80.0), 5.0: INF}, "400 kW in five minutes"
    odd = replace(event, end=event.end + 2 * MINUTE)
    assert release_kw_per_min("lab", [odd], out + 9.9 * MINUTE, FIVE) < INF, "the plan in force is still the event's"
    assert release_kw_per_min("lab", [odd], out + 10 * MINUTE, FIVE) == INF
    assert release_kw_per_min("other", [event], out, FIVE) == INF
    for without in ({"rebound_s": 0.0}, {"ramp_out_s": 0.0}, {"baseline_kw": 600.0}):
        changed = replace(event, **without)
        assert release_kw_per_min("lab", [changed], event_released(changed), FIVE) == INF, without


def test_users_who_come_back_after_a_small_event_are_no_release(tmp_path):
    """One per cent in five minutes is a pace that nobody who waits for an answer can be held to."""
    with lab(tmp_path, lambda text: text.replace("ramp_kw_per_min: {up: 10, down: 40}", "ramp_kw_per_min: {}")) as made:
        made.run(10 * SECOND)
        _, event, _ = told(990.0, minutes=10, ramp_s=300.0, allowed=Pace())
        now = START + 16 * MINUTE
        up, _, risen_kw = ramps_now(made.ctx, made.state, "lab", (event,), now, (30.0, 35.0))
        assert (up, risen_kw) == (pytest.approx(2.0), 5.0), "what load added since, and orders by the pace"
        assert ramps_now(made.ctx, made.state, "lab", (event,), START, (30.0, 35.0))[2] == 0.0


def event_released(event):
    return event.end + timedelta(seconds=event.ramp_out_s)


def backlog_lab(text):
    """Half of the site is a queue that every event puts off."""
    return text.replace("up: 10, down: 40", "up: 9000, down: 9000").replace("preemptible: false", "preemptible: true")


def test_jobs_that_an_event_put_off_begin_no_faster_than_its_ramp_out_went_and_below_the_baseline(tmp_path):
    """A baseline of before more load came, so that what was put off would bring the site above it."""
    with lab(tmp_path, backlog_lab) as made:
        made.facade.order(OperatorOrder("limit", site="lab", limit_kw=46.0, by="me"))
        made.run(5 * MINUTE, step_s=5)
        start = made.clock.now() + 5 * MINUTE
        made.facade.accept(order(start, start + 10 * MINUTE, ramp_in_s=20.0, ramp_out_s=300.0))
        made.facade.order(OperatorOrder("limit", site="lab", limit_kw=None, by="me"))
        made.run(start + 9 * MINUTE - made.clock.now(), step_s=5)
        (event,) = made.ctx.ledger.active(made.clock.now())
        per_min = (event.baseline_kw - event.targets[-1].value) / 5.0
        ticks = made.run(11 * MINUTE)
        row = [tick.import_kw["lab"] for tick in ticks]
        assert all(tick.import_kw["lab"] <= event_limit_kw(event, tick.at) for tick in ticks), "the ramp out's cap"
        assert max(row) <= event.baseline_kw, "and the rebound limit behind it"
        rises = [b - a for a, b in zip(row, row[10:], strict=False)]
        assert max(rises) < per_min / 6 + 0.3, "a whole GPU more or less; else 2 kW begin in a few seconds"
        assert max(row[-60:]) > 0.99 * event.baseline_kw, "and all of it is back in the end"
