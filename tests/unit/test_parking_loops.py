"""Parked GPUs in the loops: idle ones sleep, whoever is needed is awake in time, and a restart forgets nobody."""

from dataclasses import replace
from datetime import timedelta

import pytest

from optimizer.reasons import Reason
from scheduler.orders import PoolOrder
from scheduler.parked import ParkedState
from scheduler.parking import awake_orders, set_parking
from scheduler.running import App
from scheduler.service import JobRequest, OperatorOrder
from scheduler.store.store import Store
from tests.support.loops import START, lab

MINUTE = timedelta(minutes=1)
HOOK = "parking: {parked_w: 10, wake: 10m, step: 4, hook: {type: simulated}}"


def parks(text):
    """The lab with a batch pool of 32 that may park, and without jobs of its own."""
    before, _, _ = text.partition("jobs:")
    return before.replace("curve: A100-400W/ft_llama_8b_dolly}", f"curve: A100-400W/ft_llama_8b_dolly, {HOOK}}}")


def submit(made, name="late", gpus=32, work=4.0, hours=3):
    made.facade.submit_job(
        JobRequest(
            id=name, pool="tune", work_gpu_h=work, max_gpus=gpus, deadline=made.clock.now() + hours * 60 * MINUTE
        )
    )


def parked(made):
    return made.hall.parking.parked("tune")


def test_idle_gpus_sleep_draw_less_and_wake_for_work(tmp_path):
    with lab(tmp_path, parks) as made:
        made.plan()
        idle = made.tick().import_kw["lab"]
        assert parked(made) == 32
        made.clock.sleep(1.0)
        asleep = made.tick().import_kw["lab"]
        idle_w = made.ctx.pools["tune"].pool.curve.idle_w
        assert idle - asleep == pytest.approx(1.2 * 32 * (idle_w - 10) / 1000, rel=0.02)
        submit(made, work=8.0, hours=1)
        made.run(2 * MINUTE, 10.0)
        assert parked(made) < 32
        woken = 32 - parked(made)
        assert made.state.parked["tune"].waking_gpus(made.clock.now()) == woken
        assert sum(gpus for _, gpus in made.state.grants.values()) == 0, "nobody works while it wakes"
        made.run(10 * MINUTE, 10.0)
        assert 0 < sum(gpus for _, gpus in made.state.grants.values()) <= 32 - parked(made)
        made.run(50 * MINUTE, 30.0)
        assert made.facade.job("late").progress > 0.98, "as far as without parking: whole GPUs round"
        made.run(10 * MINUTE, 30.0)
        assert made.facade.job("late").progress == 1, "what whole GPUs left of it does not wait for any to wake"
        made.run(6 * MINUTE, 30.0)
        assert parked(made) == 32
        assert "parked" in next(pool.why for pool in made.state.report.pools if pool.id == "tune")
        assert next(pool.parked_gpus for pool in made.state.report.pools if pool.id == "tune") == 32


def test_nothing_that_works_is_ever_parked(tmp_path):
    with lab(tmp_path, parks) as made:
        submit(made, "busy", gpus=10, work=10.0)

        tune = slice(96, 128)

        def watch(_tick):
            held = sum(gpus for _, gpus in made.state.grants.values())
            assert held <= made.hall.parking.able(made.clock.now())[tune].sum()

        made.run(30 * MINUTE, 10.0, watch)
        assert parked(made) >= 16


def test_the_fast_loop_parks_no_more_than_is_idle_and_gives_no_work_to_what_sleeps(tmp_path):
    """The plan would park all 32. Ten are held by a job, and four wake: 18 are idle, four steps of four."""
    with lab(tmp_path, parks) as made:
        made.plan()
        assert made.state.plan.pools["tune"].parked_gpus[0] == 32.0
        now = made.clock.now()
        made.state.grants = {"somebody": ("tune", 10)}
        made.state.parked["tune"] = ParkedState(waking=[(4, now + MINUTE)])
        assert set_parking(made.ctx, made.state, now) == ()
        known = made.state.parked["tune"]
        assert (known.ordered, known.asleep, parked(made)) == (16, 16, 16)
        orders = {"tune": PoolOrder(300, 32), "train": PoolOrder(300, 32)}
        assert awake_orders(made.ctx, made.state, orders, now) == {**orders, "tune": PoolOrder(300, 12)}
        assert awake_orders(made.ctx, made.state, orders, now + MINUTE)["tune"] == PoolOrder(300, 16)


def test_those_that_wake_are_those_that_are_wanted(tmp_path):
    """A job waits for the GPUs that wake for it: no tick wakes more for it."""
    with lab(tmp_path, parks) as made:
        made.plan()
        submit(made, gpus=1, work=0.8, hours=1)
        made.plan()
        now = made.clock.now()
        made.state.parked["tune"] = ParkedState(28, 28, [(4, now + MINUTE)])
        plan = made.state.plan
        orders = replace(
            plan.pools["tune"],
            active_gpus=(1,) * len(plan.grid),
            work_gpus=(0.9,) * len(plan.grid),
            parked_gpus=(31.0,) * len(plan.grid),
        )
        held = replace(plan, pools={**plan.pools, "tune": orders})
        made.state.decision = replace(made.state.decision, plan=held)
        for _ in range(3):
            assert set_parking(made.ctx, made.state, now) == ()
        assert (parked(made), made.state.parked["tune"].waking_gpus(now)) == (28, 4)


def test_what_a_plan_parks_after_its_first_interval_waits_for_the_next_plan(tmp_path):
    """A job may not be as far by then as the plan had it, and its GPUs would take minutes to wake."""
    with lab(tmp_path, parks) as made:
        made.plan()
        plan, known = made.state.plan, ParkedState(20, 20)
        made.state.parked["tune"] = known
        steps = (20.0, 32.0, 8.0) + (8.0,) * (len(plan.grid) - 3)
        held = replace(plan, pools={**plan.pools, "tune": replace(plan.pools["tune"], parked_gpus=steps)})
        made.state.decision = replace(made.state.decision, plan=held)
        ordered = []
        for start in plan.grid.starts[:3]:
            assert set_parking(made.ctx, made.state, start + MINUTE) == ()
            ordered.append(known.ordered)
        assert ordered == [20, 20, 8]


def test_what_sleeps_survives_a_restart_and_an_orderly_stop_wakes_all(tmp_path):
    store = Store.open(tmp_path / "books.db")
    with lab(tmp_path, parks, store) as made:
        made.plan()
        made.tick()
        assert parked(made) == 32
    store = Store.open(tmp_path / "books.db")
    with lab(tmp_path, parks, store) as made:
        assert parked(made) == 32, "said again to a hook that may have missed it"
        assert made.state.parked["tune"].asleep == 32
        made.plan()
        assert made.state.problem.pools[2].parked_now == 32
        App(made.parts).release()
        assert parked(made) == 0
        assert store.all("parked") == {"tune": {"gpus": 0}}


def test_a_pause_wakes_all(tmp_path):
    with lab(tmp_path, parks) as made:
        made.plan()
        made.tick()
        made.facade.order(OperatorOrder("pause", by="me"))
        made.tick()
        assert parked(made) == 0


def test_a_hook_that_fails_is_an_alert_and_its_gpus_get_no_work(tmp_path):
    with lab(tmp_path, parks) as made:
        made.plan()
        made.tick()
        made.ctx.parking["tune"].broken = True
        submit(made, hours=1)
        ticks = made.run(20 * MINUTE, 30.0)
        note = next(note for note in ticks[-1].notes if note.code is Reason.DEVICE_LOST)
        assert "GPUs are to be parked, and are not as ordered: simulated parking of tune: no answer" in note.text
        assert sum(gpus for _, gpus in made.state.grants.values()) == 0
        made.ctx.parking["tune"].broken = False
        made.run(25 * MINUTE, 30.0)
        assert sum(gpus for _, gpus in made.state.grants.values()) > 0


def test_what_can_be_shed_does_not_count_what_sleeps(tmp_path):
    with lab(tmp_path, parks) as made:
        made.run(3 * MINUTE, 10.0)
        before = [one.kw for one in made.state.report.sites[0].flexibility]
    with lab(tmp_path, lambda text: parks(text).replace(f", {HOOK}", "")) as made:
        made.run(3 * MINUTE, 10.0)
        assert before == pytest.approx([one.kw for one in made.state.report.sites[0].flexibility], rel=0.01)
    assert START
