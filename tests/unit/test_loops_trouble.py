"""Both loops in trouble: restarts in the middle of things, power that nobody ordered, torn files, full disks."""

from __future__ import annotations

import threading
import time
from dataclasses import replace
from datetime import timedelta
from itertools import pairwise
from unittest import mock

import pytest

from optimizer.envelope import event_limit_kw
from optimizer.reasons import Note, Reason, Severity
from scheduler.clock import WallClock
from scheduler.dispatch import Dispatcher
from scheduler.engine import State
from scheduler.ledger.ledger import Ledger
from scheduler.news import Notes
from scheduler.orders import PoolOrder
from scheduler.safety import clamp, emergency_sites
from scheduler.service import OperatorOrder
from scheduler.store.store import StoreDegraded
from scheduler.takeover import reconcile
from scheduler.timing import Timer
from scheduler.wiring import let_hall_work
from tests.support.loops import START, lab, order
from tests.support.signals import utc

MINUTE = timedelta(minutes=1)
RAMP_KW_PER_S = 10.0 / 60.0
EVENT = (START + 10 * MINUTE, START + 30 * MINUTE)


def restart(made):
    """A new daemon over the same books and GPUs: nothing of the old one's memory is left."""
    old = made.ctx.dispatcher
    fresh = Dispatcher(old.books, old.actuator, old.gpus, writes=True, epoch=old.epoch + 1)
    made.ctx = replace(made.ctx, dispatcher=fresh, ledger=Ledger(made.ctx.store))
    made.state = State()
    made.parts.ctx = made.facade.ctx = made.ctx
    made.parts.state = made.facade.state = made.state
    let_hall_work(made.hall, made.ctx.jobs, made.state)
    reconcile(made.parts)


def rises(ticks):
    return [after.import_kw["lab"] - before.import_kw["lab"] for before, after in pairwise(ticks)]


# ---------------------------------------------------------------- restarts, starts, pauses
def test_a_restart_in_an_event_keeps_it_to_the_kw_and_stops_no_job(tmp_path):
    with lab(tmp_path) as made:
        made.run(5 * MINUTE, step_s=10)
        made.facade.accept(order(*EVENT))
        before = made.run(15 * MINUTE, step_s=2)[-1]
        (event,) = made.ctx.ledger.active(made.clock.now())
        assert made.state.grants["fixed"] == ("tune", 12)
        restart(made)
        assert made.state.grants == {"fixed": ("tune", 12)}
        ticks = [made.tick() for _ in range(60) if made.clock.sleep(1) is None]  # no plan is made meanwhile
        assert max(t.import_kw["lab"] - event_limit_kw(event, t.at) for t in ticks) < 0.05
        assert min(t.import_kw["lab"] for t in ticks) > before.import_kw["lab"] * 0.99, "no dip either"
        assert made.state.grants["fixed"] == ("tune", 12)
        assert any("did not stop in order" in note.text for note in made.state.notes)


def test_a_restart_while_the_site_ramps_up_goes_on_with_the_ramp(tmp_path):
    with lab(tmp_path) as made:
        made.run(5 * MINUTE, step_s=10)
        made.facade.order(OperatorOrder("limit", site="lab", limit_kw=34.0, by="me"))
        made.run(2 * MINUTE, step_s=1)
        made.facade.order(OperatorOrder("limit", site="lab", limit_kw=None, by="me"))
        ticks = made.run(timedelta(seconds=20))
        restart(made)
        ticks += made.run(timedelta(seconds=20))
        assert max(rises(ticks)) < RAMP_KW_PER_S + 0.05
        assert ticks[-1].import_kw["lab"] == pytest.approx(34.0 + 40 * RAMP_KW_PER_S, abs=1.0)


def test_a_resumed_site_falls_by_its_ramp_and_not_at_once(tmp_path):
    """Paused, everything runs free; what the plan wants is reached no faster than the site's ramp down allows."""
    with lab(tmp_path, lambda text: text.replace("value: 60", "value: 9000")) as made:
        made.run(10 * MINUTE, step_s=10)
        made.facade.order(OperatorOrder("pause", by="me"))
        free = made.run(5 * MINUTE, step_s=10)[-1]
        made.facade.order(OperatorOrder("resume", by="me"))
        ticks = [free, *made.run(timedelta(seconds=30))]
        assert ticks[-1].import_kw["lab"] < free.import_kw["lab"] - 2.0
        assert min(rises(ticks)) > -40.0 / 60.0 - 0.5, "the ramp, and a whole GPU more or less"


def test_a_limit_below_the_present_draw_is_met_in_the_next_tick(tmp_path):
    with lab(tmp_path) as made:
        made.run(6 * MINUTE, step_s=10)
        made.ctx.sites["lab"].__dict__["limit_kw"] = 38.0
        made.plan()
        made.tick()
        made.clock.sleep(1)
        assert made.tick().import_kw["lab"] <= 38.0


# ---------------------------------------------------------------- power that nobody ordered
def test_gpus_that_work_without_a_job_are_capped_for_an_event_and_counted_as_available(tmp_path):
    with lab(tmp_path, lambda text: text.split("jobs:")[0]) as made:
        made.hall.attach_work(lambda: {"stranger": ("tune", 20, 1e6)}, lambda *_: None, report_s=60.0)
        made.run(6 * MINUTE, step_s=5)
        assert made.state.foreign["tune"].gpus == 20
        answer = made.facade.accept(order(START, EVENT[1]))
        assert answer.available_kw > 16.0
        ticks = made.run(15 * MINUTE, step_s=2)
        assert max(t.import_kw["lab"] for t in ticks[-100:]) <= answer.target_kw
        assert ticks[-1].cap_w["tune"] == 200
        assert ticks[-1].active_gpus["tune"] == 0, "they are not ours to give away"


def test_power_that_does_not_follow_the_orders_is_an_alert(tmp_path):
    with lab(tmp_path) as made:
        made.run(6 * MINUTE, step_s=10)
        true_read = made.ctx.meter.read

        def wrong():
            reading = true_read()
            return replace(reading, import_kw={"lab": reading.import_kw["lab"] * 1.5})

        made.ctx.meter.read = wrong
        made.facade.order(OperatorOrder("limit", site="lab", limit_kw=45.0, by="me"))
        ticks = made.run(timedelta(seconds=30))
        assert any(note.code is Reason.METER_MISMATCH for note in ticks[-1].notes)
        assert not any(note.code is Reason.METER_MISMATCH for note in ticks[5].notes), "a lag is no mismatch"
        assert true_read().import_kw["lab"] > 34.0, "a broken meter must not run away with the site"


def test_a_lost_gpu_is_said_and_stops_no_other(tmp_path):
    with lab(tmp_path) as made:
        made.run(6 * MINUTE, step_s=10)
        gone = made.hall.gpus_of["train"][3]
        made.hall.fail(gone, Reason.GPU_LOST)
        made.facade.order(OperatorOrder("limit", site="lab", limit_kw=38.0, by="me"))
        ticks = made.run(timedelta(seconds=20))
        assert any(note.code is Reason.GPU_LOST and gone in note.text for tick in ticks for note in tick.notes)
        assert ticks[-1].import_kw["lab"] <= 38.0
        caps = {made.hall.infos()[gpu].limit_w for gpu in made.hall.gpus_of["train"] if gpu in made.hall.infos()}
        assert caps == {ticks[-1].cap_w["train"]}


def test_no_draw_is_planned_for_gpus_that_no_job_fills(tmp_path):
    with lab(tmp_path) as made:
        ticks = made.run(40 * MINUTE, step_s=10)
        assert ticks[-1].active_gpus["tune"] == sum(gpus for _, gpus in made.state.grants.values()) > 0
        assert ticks[-1].planned_kw["lab"] == pytest.approx(ticks[-1].import_kw["lab"], abs=0.05)


# ---------------------------------------------------------------- a disk that takes nothing
def test_grants_that_cannot_be_written_down_hold_all_the_same(tmp_path, monkeypatch):
    with lab(tmp_path) as made:
        made.plan()  # the jobs are in the queue, and none has started

        def full(*_args):
            raise StoreDegraded("disk full")

        monkeypatch.setattr(made.ctx.store, "put", full)
        ticks = [made.tick() for _ in range(120) if made.clock.sleep(10) is None]
        assert made.state.tick is ticks[-1]
        assert {job.id: job.gpus for job in made.ctx.jobs.snapshot()}["fixed"] == 12
        assert any(note.code is Reason.STORE_DEGRADED for note in made.state.notes)


# ---------------------------------------------------------------- price files that fall apart
def price_file(folder, hours, broken=None):
    rows = [f"{(START + timedelta(hours=k - 6)).isoformat()},{50 + k}" for k in range(hours)]
    if broken is not None:
        rows[broken] = rows[broken].split(",")[0] + ",NaN"
    path = folder / "prices.csv"
    path.write_text("start,price\n" + "\n".join(rows) + "\n")
    return path


def from_file(text):
    signal = "{id: energy, type: csv, path: prices.csv, unit: USD/MWh, value_column: price}"
    return text.replace("{id: energy, type: constant, unit: USD/MWh, value: 60}", signal)


def said(made):
    return [note.text for note in made.state.report.notes]


def test_nan_in_a_price_file_is_named_with_its_line_and_planned_around(tmp_path):
    price_file(tmp_path, 40, broken=9)
    with lab(tmp_path, from_file) as made:
        made.run(6 * MINUTE, step_s=30)
        assert made.state.report.rung == "optimum"
        assert any("prices.csv:11" in text for text in said(made)), said(made)


def test_a_price_file_that_ends_before_the_horizon_is_gone_on_from_by_forecast(tmp_path):
    price_file(tmp_path, 9)
    with lab(tmp_path, from_file) as made:
        made.run(6 * MINUTE, step_s=30)
        assert made.state.report.rung == "optimum"
        assert any(note.code is Reason.SIGNAL_FORECAST and note.subject == "energy" for note in made.state.report.notes)


def test_a_price_file_cut_off_while_it_runs_is_replaced_by_what_was_known(tmp_path):
    path = price_file(tmp_path, 40)
    with lab(tmp_path, from_file) as made:
        made.run(6 * MINUTE, step_s=30)
        known = made.state.problem.sites[0].price_per_mwh[0]
        text = path.read_text()
        path.write_text(text[: text.index("\n", 300) - 9])  # in the middle of a row
        made.run(6 * MINUTE, step_s=30)
        assert made.state.report.rung == "optimum"
        assert made.state.problem.sites[0].price_per_mwh[0] == known
        assert any("prices.csv" in text for text in said(made))
        path.write_text(text)
        made.run(6 * MINUTE, step_s=30)
        assert not any("prices.csv" in text for text in said(made))


# ---------------------------------------------------------------- small promises of the loops
def test_who_asks_while_a_plan_is_being_made_gets_another_one_right_after():
    """APScheduler alone drops a run that comes due while the last one is still going on."""
    planning, go_on, plans = threading.Event(), threading.Event(), []

    def cycle():
        plans.append(1)
        planning.set()
        go_on.wait(10)

    timer = Timer(WallClock(), timedelta(hours=1), timedelta(hours=1), cycle, lambda: None)
    timer.start()
    try:
        assert planning.wait(10)
        planning.clear()
        asked = mock.Mock(wraps=timer._scheduler.modify_job)
        timer._scheduler.modify_job = asked
        for _ in range(1000):
            timer.wake()
        assert not asked.called, "a flood of wishes costs a flag each"
        time.sleep(0.3)  # time for the scheduler to try, and to drop it
        go_on.set()
        assert planning.wait(10), "the second plan never came"
    finally:
        timer.stop()
    assert len(plans) == 2, "several wishes are one"


def test_an_emergency_opens_the_floors_of_its_own_site_until_its_ramp_out_has_ended(tmp_path):
    with lab(tmp_path) as made:
        event = replace(
            next(iter(made_events(made))), emergency=True, program="elrp", site="lab", start=EVENT[0], end=EVENT[1]
        )
        allowed = {"elrp"}
        assert emergency_sites(allowed, [event], EVENT[0]) == {"lab"}
        assert emergency_sites(allowed, [event], EVENT[1] + timedelta(seconds=event.ramp_out_s - 1)) == {"lab"}
        assert emergency_sites(allowed, [event], EVENT[1] + timedelta(seconds=event.ramp_out_s)) == set()
        assert emergency_sites({"other"}, [event], EVENT[0]) == set()
        assert emergency_sites(allowed, [replace(event, emergency=False)], EVENT[0]) == set()
        chat = made.ctx.pools["chat"].pool
        elsewhere = replace(chat, id="far", site="elsewhere")
        low = {"chat": PoolOrder(120, 64), "far": PoolOrder(120, 64)}
        orders, notes = clamp(low, (chat, elsewhere), {"lab"}, EVENT[0])
        assert orders["chat"].cap_w == 120
        assert orders["far"].cap_w > orders["chat"].cap_w
        assert [note.subject for note in notes] == ["far"]


def made_events(made):
    made.facade.accept(order(*EVENT))
    return made.ctx.ledger.active(START)


def test_one_fact_said_a_thousand_times_hides_no_other():
    notes = Notes(most=3)
    notes.append(Note(Reason.CLOCK_STEP, "clock", "stepped", Severity.WARNING, utc(2022, 9, 6, 12)))
    for second in range(50):
        notes.append(Note(Reason.EVENT_UNREACHABLE, "lab", f"{second} kW", Severity.ALERT, utc(2022, 9, 6, 13)))
    assert [note.text for note in notes] == ["stepped", "49 kW"]
    notes.forget(utc(2022, 9, 6, 13))
    assert [note.text for note in notes] == ["49 kW"]
    notes.extend(Note(Reason.GPU_LOST, str(number), "gone") for number in range(5))
    assert [note.subject for note in notes] == ["2", "3", "4"]
