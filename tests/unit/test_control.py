"""The fast loop on a small simulated site: ceilings, floors, ramps, jobs, and what must be said at once."""

from __future__ import annotations

from dataclasses import replace
from datetime import datetime, timedelta
from itertools import pairwise

import pytest

from adapters.ports import AdapterError, EventTarget
from optimizer.domain import JobState
from optimizer.envelope import event_limit_kw
from optimizer.reasons import Reason, Severity
from scheduler.control import run_tick
from scheduler.letting_go import let_all_go
from scheduler.safety import floor_cap_w
from scheduler.service import OperatorOrder
from tests.support.loops import START, lab, order

TOLERANCE_KW = 0.05
RAMP = timedelta(minutes=5)
EVENT = (START + timedelta(minutes=10), START + timedelta(minutes=40))


def held(lab_, tick):
    """The event's own cap at a tick, as everybody computes it."""
    return min((event_limit_kw(event, tick.at) for event in lab_.ctx.ledger.active(tick.at)), default=float("inf"))


def test_an_event_is_met_exactly_from_its_ramp_to_the_end_of_its_rebound_limit(tmp_path):
    with lab(tmp_path) as made:
        made.run(timedelta(minutes=5), step_s=5)
        answer = made.facade.accept(order(*EVENT))
        assert answer.target_kw == pytest.approx(0.75 * answer.baseline_kw)
        ticks = made.run(timedelta(minutes=110), step_s=2)
        over = [t.import_kw["lab"] - held(made, t) for t in ticks if t.at > EVENT[0] + timedelta(seconds=4)]
        assert max(over) < TOLERANCE_KW
        inside = [t for t in ticks if EVENT[0] + RAMP + timedelta(seconds=4) <= t.at < EVENT[1]]
        asked = [min(answer.target_kw, t.planned_kw["lab"]) for t in inside]
        given = [kw - t.import_kw["lab"] for kw, t in zip(asked, inside, strict=True)]
        assert max(given) < 0.01 * answer.baseline_kw, "no more than a point below what plan and event ask for"
        after = [t.import_kw["lab"] for t in ticks if EVENT[1] + RAMP <= t.at < EVENT[1] + RAMP + timedelta(hours=1)]
        assert max(after) <= answer.baseline_kw + TOLERANCE_KW, "no rebound"
        chat = made.ctx.pools["chat"].pool
        assert min(t.cap_w["chat"] for t in ticks) >= floor_cap_w(chat)


def test_work_that_must_not_stop_runs_through_and_the_other_is_done_by_its_deadline(tmp_path):
    with lab(tmp_path) as made:
        made.run(timedelta(minutes=5), step_s=10)
        made.facade.accept(order(*EVENT, targets=(EventTarget(*EVENT, reduce_percent=35.0),)))
        seen = []
        made.run(timedelta(hours=3), step_s=20, watch=lambda _t: seen.append(dict(made.state.grants)))
        started = next(index for index, grants in enumerate(seen) if "fixed" in grants)
        jobs = {job.id: job for job in made.ctx.jobs.everything()}
        assert jobs["fixed"].state is JobState.DONE
        while_running = [grants.get("fixed") for grants in seen[started:]]
        assert set(while_running[: while_running.index(None)]) == {("tune", 12)}
        made.run(timedelta(hours=6), step_s=60)
        assert {job.id: job.state for job in made.ctx.jobs.everything()}["soft"] is JobState.DONE


def test_a_cancel_in_the_middle_leaves_by_the_ramp(tmp_path):
    with lab(tmp_path) as made:
        made.run(timedelta(minutes=5), step_s=10)
        made.facade.accept(order(*EVENT))
        before = made.run(timedelta(minutes=20), step_s=5)[-1]
        made.facade.cancel_event("e1", "me")
        ticks = made.run(timedelta(minutes=15), step_s=1)
        rises = [b.import_kw["lab"] - a.import_kw["lab"] for a, b in pairwise(ticks)]
        assert max(rises) <= 10.0 / 60.0 + TOLERANCE_KW, "10 kW a minute is the site's ramp"
        assert ticks[-1].import_kw["lab"] > before.import_kw["lab"] + 3


def test_of_two_events_the_stricter_holds_at_each_moment(tmp_path):
    with lab(tmp_path) as made:
        made.run(timedelta(minutes=5), step_s=10)
        made.facade.accept(order(*EVENT, targets=(EventTarget(*EVENT, reduce_percent=10.0),)))
        inner = (EVENT[0] + timedelta(minutes=10), EVENT[1] - timedelta(minutes=10))
        said = made.facade.accept(order(*inner, id="e2", targets=(EventTarget(*inner, limit_kw=36.0),)))
        assert "stricter" in said.reason
        ticks = made.run(timedelta(minutes=60), step_s=2)
        assert max(t.import_kw["lab"] - held(made, t) for t in ticks if t.at > EVENT[0] + timedelta(seconds=4)) < 0.1
        deep = [t.import_kw["lab"] for t in ticks if inner[0] + RAMP <= t.at < inner[1]]
        assert max(deep) <= 36.0


def test_an_event_larger_than_the_site_keeps_the_floors_and_says_what_is_missing(tmp_path):
    with lab(tmp_path) as made:
        made.run(timedelta(minutes=5), step_s=10)
        answer = made.facade.accept(order(*EVENT, targets=(EventTarget(*EVENT, limit_kw=5.0),)))
        assert "best effort" in answer.reason
        assert 0 < answer.available_kw < answer.baseline_kw - 5.0
        ticks = made.run(timedelta(minutes=20), step_s=5)
        pools = {name: model.pool for name, model in made.ctx.pools.items()}
        assert ticks[-1].cap_w["chat"] == floor_cap_w(pools["chat"])
        assert ticks[-1].cap_w["train"] == floor_cap_w(pools["train"])
        alert = next(note for note in ticks[-1].notes if note.code is Reason.EVENT_UNREACHABLE)
        assert alert.severity is Severity.ALERT
        assert "can't get below" in alert.text


def test_a_small_site_says_what_is_missing_too(tmp_path):
    """Half a kilowatt is a per cent of this one."""
    with lab(tmp_path) as made:
        made.run(timedelta(minutes=2), step_s=2)
        made.facade.order(OperatorOrder("limit", site="lab", limit_kw=5.0, by="me"))
        least_kw = made.run(timedelta(minutes=3))[-1].import_kw["lab"]
        assert least_kw < 60.0
        made.facade.order(OperatorOrder("limit", site="lab", limit_kw=least_kw - 0.5, by="me"))
        alerts = [note for note in made.run(timedelta(seconds=20))[-1].notes if note.code is Reason.LIMIT_UNREACHABLE]
        assert [note.severity for note in alerts] == [Severity.ALERT]
        over_kw = float(alerts[0].text.split(": ")[1].split(" kW")[0])
        assert over_kw == pytest.approx(0.5, abs=0.1), alerts[0].text  # and not what a ramp up has still to go
        made.facade.order(OperatorOrder("limit", site="lab", limit_kw=least_kw + 0.5, by="me"))
        told = {note.code for note in made.run(timedelta(seconds=20))[-1].notes}
        assert Reason.LIMIT_UNREACHABLE not in told


@pytest.mark.parametrize(("limit_share", "is_told"), [(0.999, True), (1.001, False)])
def test_a_limit_that_stays_missed_is_told_of_however_little_it_is(tmp_path, limit_share, is_told):
    """A tenth of a per cent is rounding in one second, and a limit that nobody keeps in every second."""
    with lab(tmp_path) as made:
        made.run(timedelta(minutes=2), step_s=2)
        made.facade.order(OperatorOrder("limit", site="lab", limit_kw=5.0, by="me"))
        least_kw = made.run(timedelta(minutes=3))[-1].import_kw["lab"]
        limit_kw = least_kw * limit_share
        made.facade.order(OperatorOrder("limit", site="lab", limit_kw=limit_kw, by="me"))
        ticks = made.run(timedelta(seconds=20))
        told = [[note for note in tick.notes if note.code is Reason.LIMIT_UNREACHABLE] for tick in ticks]
        assert all(told[5:]) if is_told else not any(told), "within five seconds, and without a gap; else never"
        assert [tick.import_kw["lab"] > limit_kw for tick in ticks[5:]] == [is_told] * len(ticks[5:])
        assert {note.severity for notes in told for note in notes} <= {Severity.WARNING}


@pytest.mark.parametrize("allowed", [False, True])
def test_an_emergency_goes_below_a_floor_only_where_the_operator_allowed_it(tmp_path, allowed):
    def change(text):
        return text.replace("minutes: 15}}", f"minutes: 15}}, emergency_below_floor: {str(allowed).lower()}}}")

    with lab(tmp_path, change) as made:
        made.run(timedelta(minutes=5), step_s=10)
        made.facade.accept(order(*EVENT, emergency=True, targets=(EventTarget(*EVENT, limit_kw=15.0),)))
        tick = made.run(timedelta(minutes=20), step_s=5)[-1]
        floor = floor_cap_w(made.ctx.pools["chat"].pool)
        assert (tick.cap_w["chat"] < floor) is allowed


def test_the_operators_limit_beats_the_plan_at_once_and_a_pause_gives_limits_back(tmp_path):
    with lab(tmp_path) as made:
        made.run(timedelta(minutes=6), step_s=2)
        found = {gpu: info.default_w for gpu, info in made.parts.hardware.power.discover().items()}
        made.facade.order(OperatorOrder("limit", site="lab", limit_kw=36.0, by="me"))
        made.tick()
        made.clock.sleep(1)
        assert made.tick().import_kw["lab"] <= 36.0 + TOLERANCE_KW
        made.facade.order(OperatorOrder("pause", by="me"))
        made.tick()
        assert {gpu: info.limit_w for gpu, info in made.parts.hardware.power.discover().items()} == found
        made.facade.order(OperatorOrder("resume", by="me"))
        made.run(timedelta(minutes=1), step_s=1)
        assert made.state.tick.import_kw["lab"] <= 36.0 + TOLERANCE_KW


def test_ticks_for_which_somebody_hurried_make_no_ramp_steeper(tmp_path):
    """The lab may rise by 10 kW a minute, however often it is looked at."""
    with lab(tmp_path) as made:
        made.run(timedelta(minutes=2), step_s=5)
        made.facade.order(OperatorOrder("limit", site="lab", limit_kw=40.0, by="me"))
        made.run(timedelta(seconds=60))
        made.facade.order(OperatorOrder("limit", site="lab", limit_kw=None, by="me"))
        made.tick()
        begun_kw, begun = made.state.setpoint_kw["lab"], made.clock.now()
        for step_s in (0.1, 1.0):
            made.clock.sleep(step_s)
            last = made.run(timedelta(seconds=6), step_s)[-1]
            rise_kw = (last.at - begun).total_seconds() / 60.0 * 10.0
            assert made.state.setpoint_kw["lab"] - begun_kw == pytest.approx(rise_kw, abs=0.05), "nor flatter"


def test_without_a_meter_the_ceiling_still_holds_and_the_loss_is_an_alert(tmp_path):
    with lab(tmp_path) as made:
        made.run(timedelta(minutes=6), step_s=5)
        made.facade.order(OperatorOrder("limit", site="lab", limit_kw=36.0, by="me"))
        true_read = made.ctx.meter.read

        def lost():
            raise AdapterError("meter-7 does not answer")

        made.ctx.meter.read = lost
        tick = made.run(timedelta(seconds=30))[-1]
        assert any(note.code is Reason.METER_LOST and "meter-7" in note.text for note in tick.notes)
        assert true_read().import_kw["lab"] <= 36.0 + 0.5


def test_a_foreign_hand_on_a_limit_is_seen_and_undone(tmp_path):
    with lab(tmp_path) as made:
        made.run(timedelta(minutes=2), step_s=2)
        made.facade.order(OperatorOrder("limit", site="lab", limit_kw=36.0, by="me"))
        made.run(timedelta(minutes=1))
        gpu = made.hall.gpus_of["train"][0]
        ordered = made.parts.hardware.power.discover()[gpu].enforced_w
        made.hall.set_limits({gpu: 400.0})
        period = made.ctx.timing.verify_every
        ticks = made.run(timedelta(seconds=2 * period + 2))
        assert made.parts.hardware.power.discover()[gpu].enforced_w == ordered
        assert any(note.code is Reason.CAP_DRIFT and gpu in note.text for tick in ticks for note in tick.notes)


@pytest.mark.parametrize("price", ["9000", "-250"])
def test_extreme_prices_neither_break_a_floor_nor_throttle_when_power_is_paid_for(tmp_path, price):
    with lab(tmp_path, lambda text: text.replace("value: 60", f"value: {price}")) as made:
        tick = made.run(timedelta(minutes=15), step_s=15)[-1]
        assert tick.cap_w["chat"] >= floor_cap_w(made.ctx.pools["chat"].pool)
        if price.startswith("-"):
            assert tick.cap_w["train"] == 400
        else:
            assert tick.cap_w["train"] < 400


@pytest.mark.parametrize("moment", ["2022-11-06T08:30:00Z", "2022-03-13T09:30:00Z"])
def test_days_of_25_and_23_hours_pass_without_a_late_plan(tmp_path, moment):
    with lab(tmp_path, lambda text: text.split("jobs:")[0]) as made:
        made.clock._now = datetime.fromisoformat(moment)
        made.run(timedelta(hours=3), step_s=120)
        assert made.state.report.rung == "optimum"
        assert not [note for note in made.state.report.notes if note.severity is Severity.ALERT]


def test_observing_writes_nothing(tmp_path):
    with lab(tmp_path, lambda text: text.replace("mode: control", "mode: observe")) as made:
        made.facade.accept(replace(order(*EVENT), source="test"))
        before = {gpu: info.limit_w for gpu, info in made.parts.hardware.power.discover().items()}
        made.run(timedelta(minutes=25), step_s=10)
        assert made.state.plan is not None
        assert {gpu: info.limit_w for gpu, info in made.parts.hardware.power.discover().items()} == before
        assert made.ctx.store.first_limits() == {}


class Outside:
    """A batch system outside with one job, and what it is told."""

    def __init__(self, job):
        self.job, self.told = job, []

    def snapshot(self):
        return [self.job]

    everything = snapshot

    def quiet(self, on):
        self.told.append(("quiet", on))

    def apply(self, gpus):
        self.told.append(("apply", dict(gpus)))
        return {}

    def notes(self):
        return ()

    release = notes

    def close(self):
        pass


def test_a_batch_system_outside_hears_in_the_same_turn_whether_anything_may_be_written(tmp_path):
    with lab(tmp_path) as made:
        made.run(timedelta(seconds=2))
        (job,) = (job for job in made.state.jobs if job.id == "soft")
        ctx = replace(made.ctx, jobs=Outside(job))
        for action, quiet in (("pause", True), ("resume", False)):
            made.facade.order(OperatorOrder(action, by="me"))
            ctx.jobs.told.clear()
            run_tick(ctx, made.state)
            assert ctx.jobs.told[0] == ("quiet", quiet)
            assert ctx.jobs.told[1][0] == "apply"
        made.facade.order(OperatorOrder("mode", mode="observe", by="me"))
        ctx.jobs.told.clear()
        run_tick(ctx, made.state)
        assert ctx.jobs.told == [("quiet", True), ("apply", {"soft": job.max_gpus})]


def test_jobs_that_cant_be_let_go_keep_no_card_at_its_cap(tmp_path):
    with lab(tmp_path) as made:
        made.facade.accept(order(START, EVENT[1]))
        made.run(timedelta(minutes=10), step_s=5)
        jobs = Outside(made.state.jobs[0])
        jobs.release = lambda: 1 / 0
        left = let_all_go(replace(made.parts, ctx=replace(made.ctx, jobs=jobs)))
        assert [(note.code, "still be held" in note.text) for note in left] == [(Reason.HELD, True)]
        assert not made.ctx.store.first_limits(), "all are given back"
