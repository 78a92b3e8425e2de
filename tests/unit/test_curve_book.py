"""Learned curves in the running loops: from the hall's meters to plan, events, flexibility and every surface."""

# ruff: noqa: E501 - what the operator sees is one line, and stands here as one

from __future__ import annotations

from datetime import timedelta
from statistics import fmean

import numpy as np
import pytest

from adapters.hall_state import HallFaults
from adapters.ports import EventTarget
from optimizer.curves import draw_at_cap
from optimizer.envelope import event_limit_kw
from optimizer.reasons import Reason, Severity
from scheduler.checking import check_config
from scheduler.config import ConfigError, load_config
from scheduler.curve_book import CurveBook
from scheduler.explaining import explain_target
from scheduler.flexibility import available_kw, flexibility, shed_of
from scheduler.orders import step_index
from scheduler.pools import Pools
from scheduler.safety import floor_cap_w
from scheduler.service import OperatorOrder
from scheduler.store.store import Store
from tests.support.loops import lab, order

REAL = """curves:
  - id: real
    idle_w: 55
    points: [{cap_w: 100, draw_w: 90, throughput: 0.2}, {cap_w: 200, draw_w: 172, throughput: 0.72},
             {cap_w: 250, draw_w: 214, throughput: 0.83}, {cap_w: 300, draw_w: 255, throughput: 0.92},
             {cap_w: 350, draw_w: 290, throughput: 0.97}, {cap_w: 400, draw_w: 310, throughput: 1.0}]
  - id: light
    idle_w: 55
    points: [{cap_w: 100, draw_w: 98, throughput: 0.6}, {cap_w: 200, draw_w: 150, throughput: 1.0},
             {cap_w: 400, draw_w: 150, throughput: 1.0}]
power: {type: simulated, true_curves: {chat: real, train: real}, noise: 0.03, outliers: 0.05, seed: 1}
signals:"""


def other_truth(text):
    """The lab whose cards are not what its config says, and whose meters err."""
    return text.replace("signals:", REAL)


def not_learning(text):
    return other_truth(text).replace("curve: A100", "learn_curves: false, curve: A100")


def light_work(text):
    """Users' requests that draw 150 W of their 400."""
    quiet = REAL.replace("{chat: real, train: real}, noise: 0.03, outliers: 0.05", "{chat: light}")
    return text.replace("signals:", quiet)


def through_the_caps(made):
    """An hour that takes the pools through their caps, as a few events would."""
    for limit_kw in (1000.0, 36.0, 33.0, 30.0, 27.0, 1000.0):
        made.facade.order(OperatorOrder("limit", site="lab", limit_kw=limit_kw, by="test"))
        made.run(timedelta(minutes=10), step_s=10)
    made.plan()


def event_of(made, percent):
    """An event of 15 minutes, five minutes from now: its window. The meters are quiet from here on, so that only the
    curves tell two runs apart."""
    made.hall._faults = HallFaults()
    made.run(timedelta(minutes=15), step_s=15)
    start = made.clock.now() + timedelta(minutes=5)
    window = (start, start + timedelta(minutes=15))
    made.facade.accept(order(*window, targets=(EventTarget(*window, reduce_percent=percent),)))
    return window


def event_error(made):
    """Mean difference (kW) between import and the cap of a 20 % event, from its ramp on, and between what the plan
    says that the site can't get below and what it draws. (Curves taken on trust put the floors above that cap.)"""
    start, end = event_of(made, 20.0)
    window, off, misjudged = (start, end), [], []

    def watch(tick):
        if start + timedelta(seconds=5) <= tick.at < window[1]:
            cap_kw = min(event_limit_kw(event, tick.at) for event in made.ctx.ledger.active(tick.at))
            off.append(abs(tick.import_kw["lab"] - cap_kw))
            if tick.at >= start + timedelta(minutes=5):  # the ramp is over
                plan = made.state.plan
                misjudged.append(abs(plan.sites["lab"].import_kw[step_index(plan, tick.at)] - tick.import_kw["lab"]))

    made.run(timedelta(minutes=20), step_s=5, watch=watch)
    return fmean(off), fmean(misjudged)


def in_event(made, percent):
    """The tick of an event's eleventh minute: the ramp is over."""
    start, _ = event_of(made, percent)
    return made.run(start + timedelta(minutes=11) - made.clock.now(), step_s=5)[-1]


def held_w(made, pool):
    """The one limit (W) of a pool's cards."""
    (limit_w,) = {made.hall.infos()[gpu].limit_w for gpu in made.hall.gpus_of[pool]}
    return limit_w


def true_work(cap_w):
    """Throughput of the curve `real` at a cap."""
    return float(np.interp(cap_w, [100, 200, 250, 300, 350, 400], [0.2, 0.72, 0.83, 0.92, 0.97, 1.0]))


@pytest.mark.timeout(180)
def test_an_hour_of_noisy_operation_teaches_the_truth_and_plans_of_events_come_closer(tmp_path):
    with lab(tmp_path, other_truth) as made:
        through_the_caps(made)
        for pool in ("chat", "train"):
            curve = made.ctx.pools[pool].pool.curve
            assert draw_at_cap(curve, 400.0) == pytest.approx(310.0, rel=0.02)
        planned = next(entry.pool for entry in made.state.problem.pools if entry.pool.id == "train")
        assert planned.curve is made.ctx.pools["train"].pool.curve, "the plan reckons with the learned curve"
        off_kw, learned_kw = event_error(made)
    with lab(tmp_path, not_learning) as made:
        through_the_caps(made)
        assert made.ctx.pools["train"].pool.curve == made.ctx.pools.configured["train"].pool.curve
        wrong_off_kw, wrong_kw = event_error(made)
    assert learned_kw < 0.7 * wrong_kw, (learned_kw, wrong_kw)
    assert off_kw < 0.2, off_kw
    assert wrong_off_kw < 0.2, "what a plan on wrong curves takes too much is given back"


@pytest.mark.timeout(180)
def test_an_event_ends_at_the_floors_as_the_cards_really_are(tmp_path):
    """All that an event may ask was given and the rest is said: no pool can go three watts lower. Curves taken on trust
    break a floor that they can't see."""
    with lab(tmp_path, other_truth) as made:
        through_the_caps(made)
        last = in_event(made, 30.0)
        for pool, floor in (("chat", 0.9), ("train", 0.6)):
            cap_w = held_w(made, pool)
            assert true_work(cap_w) == pytest.approx(floor, abs=0.005)
            assert true_work(cap_w - 3) < floor
        tune = next(pool for pool in made.state.report.pools if pool.id == "tune")
        assert (tune.active_gpus, tune.cap_w) == (12, 100), "the job that may not pause, at its cards' lowest limit"
        told = [note.text for note in made.state.report.notes if note.code is Reason.EVENT_UNREACHABLE]
        missed_kw = last.import_kw["lab"] - min(event_limit_kw(e, last.at) for e in made.ctx.ledger.active(last.at))
        assert 0.2 < missed_kw < 1.05, "the plan said: by up to 1.0 kW"
        assert [text for text in told if "floors and running work leave no more to shed" in text]
        (now,) = [text for text in told if "can't get below" in text]
        assert float(now.split(": ")[1].split(" kW over")[0]) == pytest.approx(missed_kw, abs=0.15), "and the fast loop"
    with lab(tmp_path, not_learning) as made:
        through_the_caps(made)
        in_event(made, 30.0)
        assert true_work(held_w(made, "chat")) < 0.885


def test_a_job_that_may_not_pause_is_slowed_below_its_knee_before_an_event_is_missed(tmp_path):
    with lab(tmp_path, other_truth) as made:
        through_the_caps(made)
        last = in_event(made, 27.0)
        assert last.import_kw["lab"] <= min(event_limit_kw(e, last.at) for e in made.ctx.ledger.active(last.at))
        tune = next(pool for pool in made.state.report.pools if pool.id == "tune")
        assert tune.active_gpus == 12
        assert 100 < tune.cap_w < 200, "below the knee, and no lower than it must"
        for pool, floor in (("chat", 0.9), ("train", 0.6)):
            assert true_work(held_w(made, pool)) > floor - 0.005


def test_what_was_learned_is_told_on_every_surface_and_outlives_a_restart(tmp_path):
    books = Store.in_memory()
    with lab(tmp_path, other_truth, books) as made:
        through_the_caps(made)
        status = next(pool.curve for pool in made.state.report.pools if pool.id == "train")
        assert status.kind == "learned"
        assert status.samples > 100
        assert 0 < status.error < 0.1
        assert "% at 400 W against A100-400W/pt_mpt_7b_fast" in status.text
        assert f"learned ({status.samples:,} samples, error" in explain_target(made.ctx, made.state, "train")
        far = next(n for n in made.state.report.notes if n.code is Reason.CURVE_DEPARTS and n.subject == "train")
        assert far.severity is Severity.WARNING
        idle = next(pool.curve for pool in made.state.report.pools if pool.id == "tune")
        assert (idle.kind, idle.departure) == ("library", 0.0)
        pools = Pools(made.ctx.pools.configured)
        again = CurveBook(pools, books)
        assert again.status("train") == made.ctx.curves.status("train")
        assert pools["train"].pool.curve == made.ctx.pools["train"].pool.curve


def test_caps_above_the_draw_count_nothing_as_flexibility(tmp_path):
    with lab(tmp_path, light_work) as made:
        made.tick()
        made.plan()
        made.clock.sleep(1)
        made.tick()
        chat, now = made.ctx.pools["chat"].pool, made.clock.now()
        assert floor_cap_w(chat) > 250, "by the configured curve there would be 90 W above the floor"
        for pause in (False, True):
            assert shed_of(made.ctx, made.state, made.ctx.pools["chat"], now, pause).kw == pytest.approx(0.0, abs=1e-9)
        rest = sum(shed_of(made.ctx, made.state, made.ctx.pools[pool], now, True).kw for pool in ("train", "tune"))
        assert rest > 1.0
        assert available_kw(made.ctx, made.state, "lab", now) == pytest.approx(1.2 * rest)


def test_flexibility_grows_with_time_and_is_surer_the_more_is_learned(tmp_path):
    with lab(tmp_path, other_truth) as made:
        made.run(timedelta(minutes=6), step_s=5)
        first = flexibility(made.ctx, made.state, "lab", made.clock.now())
        assert [one.within_s for one in first] == [5.0, 60.0, 900.0]
        assert 0 < first[0].kw <= 40.0 / 60.0 * 5.0 + 1e-9, "no faster than the site's ramp"
        assert first[0].kw < first[1].kw <= first[2].kw
        assert all(one.sure_kw <= one.kw for one in first)
        through_the_caps(made)
        last = flexibility(made.ctx, made.state, "lab", made.clock.now())
        assert last[2].kw - last[2].sure_kw < 0.7 * (first[2].kw - first[2].sure_kw)


def test_in_observe_it_learns_at_the_limits_that_others_set(tmp_path):
    with lab(tmp_path, lambda text: other_truth(text).replace("mode: control", "mode: observe")) as made:
        made.hall.set_limits(dict.fromkeys(made.hall.gpus_of["chat"], 250.0))
        made.run(timedelta(minutes=30), step_s=5)
        curve = made.ctx.pools["chat"].pool.curve
        assert draw_at_cap(curve, 250.0) == pytest.approx(214.0, rel=0.02)
        some = made.hall.gpus_of["train"][:4]
        before = made.ctx.curves.status("train").samples
        made.hall.set_limits(dict.fromkeys(some, 200.0))
        made.run(timedelta(minutes=5), step_s=5)
        held = made.ctx.curves.status("train").samples
        made.run(timedelta(minutes=5), step_s=5)
        assert made.ctx.curves.status("train").samples == held >= before, (
            "cards of one pool at two limits teach nothing"
        )
        assert "no limit is known that most of its GPUs enforce" in made.ctx.curves.status("train").text


def test_without_noise_and_with_the_right_curve_nothing_moves(tmp_path):
    with lab(tmp_path) as made:
        through_the_caps(made)
        assert all(
            made.ctx.pools[pool].pool.curve is made.ctx.pools.configured[pool].pool.curve for pool in made.ctx.pools
        )
        assert not [note for note in made.state.report.notes if note.code is Reason.CURVE_DEPARTS]


# ---------------------------------------------------------------- the config
def test_a_pool_without_a_curve_says_where_it_starts(tmp_path):
    def change(text):
        return text.replace("gpu_model: A100-400W, count: 32, work: training, curve: A100-400W/pt_mpt_7b_fast",
                            "gpu_model: H100-700W, count: 32, work: training")  # fmt: skip

    with lab(tmp_path, change) as made:
        assert made.ctx.pools["train"].pool.max_cap_w == pytest.approx(700.0)
        made.plan()
        note = next(note for note in made.state.report.notes if note.code is Reason.CURVE_BORROWED)
        assert note.subject == "train"
        assert "scaled by 1.75 to 700 W because no measured curve is of a H100-700W" in note.text
    found = list(check_config(load_config(tmp_path / "gridpace.yaml")))
    assert [line.text for line in found if line.part == "pool train"] == [note.text.removeprefix("train ")]


@pytest.mark.parametrize(
    ("old", "new", "text"),
    [
        ("true_curves: {chat: real", "true_curves: {caht: real", 'power.true_curves.caht: "caht" is not a pool of this config. Did you mean "chat"?'),
        ("true_curves: {chat: real", "true_curves: {chat: raal", 'power.true_curves.chat: "raal" is not a known power curve. Did you mean "real"?'),
        ("gpu_model: A100-400W, count: 32, work: training, curve: A100-400W/pt_mpt_7b_fast", "gpu_model: H100, count: 32, work: training", 'pools[1].gpu_model: no measured curve is of a "H100"'),
        ("noise: 0.03", "noise: 3", "power.noise"),
    ],
)  # fmt: skip
def test_a_wrong_entry_is_named_with_its_place(tmp_path, old, new, text):
    with pytest.raises(ConfigError) as error, lab(tmp_path, lambda yaml: other_truth(yaml).replace(old, new)):
        pass
    assert text in str(error.value)
