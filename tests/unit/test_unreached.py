"""Cards that don't take their orders: others make up for them at once, and they keep their place till they return."""

from __future__ import annotations

from dataclasses import replace
from datetime import timedelta

import pytest

from benchmarks.support.track import reversals
from optimizer.curves import draw_at_cap, throughput_at_cap
from optimizer.domain import CurvePoint, PowerCurve, Work
from optimizer.envelope import event_limit_kw
from optimizer.reasons import Reason
from scheduler.estimate import Seeming
from scheduler.hardware import fill_pools
from scheduler.inventory import keep, remembered
from scheduler.pools import with_others
from scheduler.store.store import Store
from tests.support.loops import START, lab, order
from tests.support.problems import pool

MINUTE = timedelta(minutes=1)


def silence(made, *pools):
    """The meter goes on without these pools."""
    read = made.ctx.meter.read

    def silent():
        reading = read()
        kept = {pool: kw for pool, kw in reading.pool_kw.items() if pool not in pools}
        return replace(reading, pool_kw=kept, busy_gpus={}, lost=pools)

    made.ctx.meter.read = silent


@pytest.mark.parametrize("metered", [True, False])
def test_the_others_keep_the_limit_while_half_of_a_pool_does_not_obey(tmp_path, metered):
    with lab(tmp_path) as made:
        made.run(5 * MINUTE, step_s=5)
        for gpu in made.hall.gpus_of["train"][:16]:
            made.hall.fail(gpu, Reason.NODE_LOST)
        if not metered:
            silence(made, "train")
        made.facade.accept(order(START + 6 * MINUTE, START + 20 * MINUTE, ramp_in_s=0.0))
        ticks = made.run(6 * MINUTE)
        (event,) = made.ctx.ledger.active(ticks[-1].at)
        free = {made.hall.infos()[gpu].limit_w for gpu in made.hall.gpus_of["train"][:16]}
        assert free == {400.0}, "they really did not obey"
        over = [t.import_kw["lab"] - event_limit_kw(event, t.at) for t in ticks if t.at > event.start + MINUTE / 30]
        assert max(over) <= 0.0
        assert not any(note.code is Reason.METER_MISMATCH for tick in ticks for note in tick.notes)


@pytest.mark.parametrize("metered", [True, False])
def test_caps_stand_still_while_cards_are_away_though_sensors_are_noisy(tmp_path, metered):
    """What eight cards of 64 seem to have, by one reading of a sensor with a noise of 1 %, is off by tens of watts."""
    noisy = "power: {type: simulated, load_noise: 0.005, noise: 0.01, seed: 3}\n"
    with lab(tmp_path, lambda text: text.split("jobs:")[0] + noisy) as made:
        made.run(5 * MINUTE, step_s=5)
        for gpu in made.hall.gpus_of["chat"][:8]:
            made.hall.fail(gpu, Reason.NODE_LOST)
        if not metered:
            silence(made, "chat")
        made.facade.accept(order(START + 6 * MINUTE, START + 20 * MINUTE, ramp_in_s=30.0))
        made.run(3 * MINUTE)
        ticks = made.run(3 * MINUTE)
        assert {pool: reversals([tick.cap_w[pool] for tick in ticks]) for pool in ("chat", "train")} == {
            "chat": 0,
            "train": 0,
        }
        assert max(tick.import_kw["lab"] - tick.target_kw["lab"] for tick in ticks) <= 0.0
        assert min(tick.import_kw["lab"] / tick.target_kw["lab"] for tick in ticks) > 0.98, "and all of it is used"


def test_what_cards_seem_to_have_is_averaged_and_begins_with_the_first_reading():
    seems = Seeming(8, 200.0)
    assert seems.limit_w == 200.0
    for limit_w in (240.0, 160.0) * 50:
        seems = seems.seen(limit_w)
    assert abs(seems.limit_w - 200.0) <= 2.0
    for _ in range(60):
        seems = seems.seen(400.0)
    assert seems.limit_w > 385.0, "what it really has comes out within a minute"


def test_who_is_back_is_ordered_about_again_and_the_others_get_their_power_back(tmp_path):
    with lab(tmp_path) as made:
        made.run(5 * MINUTE, step_s=5)
        lost = made.hall.gpus_of["train"][:16]
        for gpu in lost:
            made.hall.fail(gpu, Reason.NODE_LOST)
        made.facade.accept(order(START + 5 * MINUTE, START + 30 * MINUTE))
        before = made.run(7 * MINUTE)[-1].cap_w
        for gpu in lost:
            made.hall.fail(gpu, None)
        made.state.wake.clear()
        ticks = made.run(40 * MINUTE / 60)
        assert made.state.wake.is_set(), "the plan knew of less"
        ticks = made.run(2 * MINUTE)
        assert {made.hall.infos()[gpu].limit_w for gpu in lost} == {ticks[-1].cap_w["train"]}
        after = ticks[-1].cap_w
        assert all(after[pool] >= before[pool] for pool in after)
        assert sum(after.values()) > sum(before.values())
        assert ticks[-1].import_kw["lab"] > 0.98 * ticks[-1].target_kw["lab"]


def test_without_any_meter_a_card_that_is_away_counts_in_full(tmp_path):
    with lab(tmp_path) as made:
        made.run(5 * MINUTE, step_s=5)
        for gpu in made.hall.gpus_of["train"][:16]:
            made.hall.fail(gpu, Reason.NODE_LOST)
        read = made.ctx.meter.read

        def blind():
            reading = read()
            kept = {pool: kw for pool, kw in reading.pool_kw.items() if pool != "train"}
            return replace(reading, pool_kw=kept, import_kw={}, busy_gpus={})

        made.ctx.meter.read = blind
        made.facade.accept(order(START + 5 * MINUTE, START + 30 * MINUTE))
        tick = made.run(8 * MINUTE)[-1]
        assert made.hall.reading().import_kw["lab"] <= tick.target_kw["lab"]


def test_a_site_meter_corrects_the_loop_though_a_pool_is_not_metered(tmp_path):
    """Cards that draw a tenth more than their curve says show at the site's meter alone."""
    text = "power: {type: simulated, true_curves: {train: A100-400W/infer_llama_8b}}\n"
    with lab(tmp_path, lambda config: config + text) as made:
        made.run(5 * MINUTE, step_s=5)
        silence(made, "train")
        made.facade.accept(order(START + 5 * MINUTE, START + 30 * MINUTE))
        ticks = made.run(9 * MINUTE)
        assert max(t.import_kw["lab"] - t.target_kw["lab"] for t in ticks[-120:]) <= 0.0


def test_cards_of_a_node_that_is_away_at_the_start_keep_their_place(tmp_path):
    with lab(tmp_path) as made:
        pools = made.parts.config.pools
        models = {pool: made.ctx.pools[pool] for pool in made.ctx.pools}
        infos = made.hall.infos()
        found = {gpu: replace(info, model=made.hall.pool_of[gpu]) for gpu, info in infos.items()}
        mine = tuple(
            pool.model_copy(update={"gpus": type("Chosen", (), {"all": False, "uuids": (), "model": pool.id})()})
            for pool in pools
        )
        now, books = made.clock.now(), Store.in_memory()
        gpus, _, _ = fill_pools(mine, models, found, now)
        keep(books, gpus, found)
        away = set(made.hall.gpus_of["train"][:8])
        here = {gpu: info for gpu, info in found.items() if gpu not in away}
        gpus, filled, notes = fill_pools(mine, models, here, now, remembered(books))
        assert set(gpus["train"]) == set(made.hall.gpus_of["train"])
        assert filled["train"].pool.count == 32
        (note,) = notes
        assert "24 GPUs answer" in note.text
        assert "8 of them away" in note.text
        fewer = tuple(pool.model_copy(update={"count": 24}) if pool.id == "train" else pool for pool in mine)
        assert len(fill_pools(fewer, models, here, now, remembered(books))[0]["train"]) == 24, "24 were asked for"


def test_others_make_up_for_a_floor_that_the_plan_of_a_past_emergency_broke(tmp_path):
    with lab(tmp_path) as made:
        made.run(5 * MINUTE, step_s=5)
        made.facade.accept(order(START + 5 * MINUTE, START + 30 * MINUTE, ramp_in_s=0.0))
        made.run(MINUTE)
        plan = made.state.plan
        deep = replace(plan.pools["chat"], cap_w=tuple(100 for _ in plan.pools["chat"].cap_w))
        free = replace(plan.pools["train"], cap_w=tuple(400 for _ in plan.pools["train"].cap_w))
        emergency = replace(plan, pools={**plan.pools, "chat": deep, "train": free})
        made.state.decision = replace(made.state.decision, plan=emergency)
        ticks = []
        for _ in range(5):
            ticks.append(made.tick())
            made.clock.sleep(1)
        assert max(tick.import_kw["lab"] - tick.target_kw["lab"] for tick in ticks) <= 0.0


def test_cards_that_are_away_rise_with_a_cap_and_do_not_fall_with_it():
    """Of four cards two are away with 200 W and one is another writer's with 300: by hand, curve 100/100, 400/400 W."""
    curve = PowerCurve("line", 50.0, (CurvePoint(100.0, 100.0, 0.5), CurvePoint(400.0, 400.0, 1.0)))
    of = pool("train", Work.TRAINING, count=4, curve=curve)
    mixed = with_others(of, (300.0,), (200.0, 200.0))
    drawn = {cap: draw_at_cap(mixed.curve, cap) for cap in (100.0, 150.0, 200.0, 300.0, 400.0)}
    assert drawn == pytest.approx({100.0: 200.0, 150.0: 212.5, 200.0: 225.0, 300.0: 300.0, 400.0: 375.0})
    assert throughput_at_cap(mixed.curve, 200.0) == pytest.approx(throughput_at_cap(curve, 200.0))
