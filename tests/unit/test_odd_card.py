"""One odd card among many: what is concluded from the others goes on, and no more is concluded than they bear."""

from __future__ import annotations

from datetime import timedelta

import pytest

from optimizer.curves import draw_at_cap
from optimizer.reasons import Reason
from scheduler.curve_book import bend
from scheduler.pool_limits import UNKNOWN, PoolLimit, PoolLimits, Span, limit_of
from scheduler.service import OperatorOrder
from scheduler.unmoved import most_draw_w
from tests.support.loops import lab

STUCK = """
power: {type: simulated, true_curves: {chat: stuck}}
curves:
  - id: stuck
    idle_w: 55
    points: [{cap_w: 100, draw_w: 380, throughput: 1.0}, {cap_w: 400, draw_w: 390, throughput: 1.0}]
"""
"""380 to 390 W a busy GPU under whatever limit."""


def lost(made, gpu):
    made.hall.fail(gpu, Reason.GPU_LOST)


def held_by_its_board(made, gpu):
    made.hall.limit_out_of_band(gpu, 150.0)


def found_lower(made, gpu):
    made.hall.set_limits({gpu: 205.0})


ODD = pytest.mark.parametrize("odd", [lost, held_by_its_board, found_lower])


@pytest.fixture
def stuck(tmp_path, odd, clocks):
    """Chat's limits move nothing, and one of its 64 cards is odd; then its limits are taken down to its floor."""

    def change(text):
        chat = f"floor: 0.9, load: 0.95, learn_curves: false, lock_clocks: {str(clocks).lower()}"
        return text.replace("floor: 0.9, load: 0.95", chat) + STUCK

    with lab(tmp_path, change) as made:
        odd(made, made.hall.gpus_of["chat"][0])
        made.run(timedelta(seconds=20))
        made.facade.order(OperatorOrder("limit", site="lab", limit_kw=24.0, by="me"))
        ticks = made.run(timedelta(seconds=40))
        yield made, ticks


# ---------------------------------------------------------------- the three that conclude something
@ODD
@pytest.mark.parametrize("clocks", [False])
def test_a_cap_that_moves_nothing_is_an_alert_though_one_card_is_odd(stuck):
    _, ticks = stuck
    cap_w = ticks[-1].cap_w["chat"]
    assert 205 < cap_w < 330, "no card's other limit is in order"
    (note,) = [note for note in ticks[-1].notes if note.code is Reason.CAP_UNMOVED]
    assert f"63 of the 64 GPUs of chat enforce {cap_w} W and draw " in note.text


@ODD
@pytest.mark.parametrize("clocks", [True])
def test_clocks_take_over_from_limits_that_move_nothing_though_one_card_is_odd(stuck):
    made, _ = stuck
    assert made.ctx.clocks.levers.clocked.keys() == {"chat"}


@ODD
def test_a_curve_is_learned_though_one_card_is_odd_and_only_while_that_can_not_bend_it(tmp_path, odd):
    with lab(tmp_path) as made:
        models = {name: made.ctx.pools[name].pool for name in ("train", "chat")}
        for name in models:
            odd(made, made.hall.gpus_of[name][0])
        made.run(timedelta(minutes=12))
        chat, train = made.ctx.curves.status("chat"), made.ctx.curves.status("train")
        learned = {name: made.ctx.pools[name].pool.curve for name in models}
    assert 0 < chat.samples < 60
    assert train.samples < chat.samples, "one of 32 bends more than one of 64, and the error soon is not far above that"
    assert (
        "learns nothing now: 1 of its 32 GPUs enforce another limit than 400 W or don't tell, which may" in train.text
    )
    for name, pool in models.items():  # whose cards are as their curve says, but for the odd one
        off = draw_at_cap(learned[name], pool.max_cap_w) / draw_at_cap(pool.curve, pool.max_cap_w) - 1.0
        assert abs(off) < 0.003, f"{name} goes where its odd card pulls: {off:+.1%}"


# ---------------------------------------------------------------- to the safe side
def test_what_odd_cards_may_draw_is_no_alarm(tmp_path, monkeypatch):
    with lab(tmp_path) as made:
        tick = made.tick()
        reading = made.state.reading

        def most_w(**odd):
            limit = PoolLimit(200.0, 64, odd)
            monkeypatch.setattr(made.ctx.dispatcher, "limit", lambda pool: limit)
            return most_draw_w(made.ctx, made.state, "chat", reading, tick.at)

        busy = reading.busy_gpus["chat"]
        assert most_w() == pytest.approx(200.0)
        assert most_w(a=Span(150.0, 150.0)) == most_w(), "it may be idle, and others busy in its stead"
        assert most_w(a=Span(300.0, 300.0)) == pytest.approx(200.0 + 100.0 / busy)
        assert most_w(a=UNKNOWN, b=UNKNOWN) == pytest.approx(200.0 + 400.0 / busy), "as much as a card ever draws"
        assert most_draw_w(made.ctx, made.state, "chat", None, tick.at) is None


def test_an_odd_card_bends_a_sample_by_its_part_at_most(tmp_path):
    with lab(tmp_path) as made:
        pool = made.ctx.pools["train"].pool
        assert bend(pool, PoolLimit(400.0, 32), 32.0) == 0.0
        assert bend(pool, PoolLimit(400.0, 32, {"a": UNKNOWN}), 32.0) == pytest.approx(1 / 32)
        lower = bend(pool, PoolLimit(400.0, 32, {"a": Span(200.0, 200.0)}), 32.0)
        assert 0.0 < lower < 1 / 64
        assert bend(pool, PoolLimit(400.0, 32, {"a": Span(200.0, 200.0), "b": UNKNOWN}), 16.0) == pytest.approx(
            2 * lower + 1 / 16
        )


# ---------------------------------------------------------------- the limit of most
def test_the_limit_of_most_cards_is_the_pools_and_the_others_are_told():
    gpus = tuple(f"g{k}" for k in range(20))
    limits = dict.fromkeys(gpus, 300.0)
    assert limit_of(gpus, limits) == PoolLimit(300.0, 20)
    assert limit_of(gpus, limits | {"g0": 301.0}) == PoolLimit(300.0, 20), "whole watts are rounded"
    del limits["g1"]
    odd = {"g0": Span(150.0, 150.0), "g1": UNKNOWN}
    assert limit_of(gpus, limits | {"g0": 150.0}) == PoolLimit(300.0, 20, odd)
    assert limit_of(gpus, limits | {"g0": 150.0, "g2": 700.0}) is None, "no nine in ten of them"
    assert limit_of(gpus, {}) is None
    assert limit_of(gpus, {gpu: 300.0 + 0.2 * k for k, gpu in enumerate(gpus)}) is None, "no ladder is one limit"


def test_in_a_pool_of_fewer_than_ten_all_must_have_it():
    gpus = tuple(f"g{k}" for k in range(9))
    limits = dict.fromkeys(gpus, 300.0)
    assert limit_of(gpus, limits) == PoolLimit(300.0, 9)
    assert limit_of(gpus, limits | {"g0": 150.0}) is None
    assert limit_of((*gpus, "g9"), limits) == PoolLimit(300.0, 10, {"g9": UNKNOWN})


def test_cards_that_become_odd_are_known_until_the_next_look():
    gpus = tuple(f"g{k}" for k in range(20))
    limits = PoolLimits({"p": gpus, "q": ("other",)})
    limits.read(["p", "q"], dict.fromkeys((*gpus, "other"), 300.0))
    assert limits.unsettled() == []
    limits.differ({"g0"}, {}, lower=True)
    assert limits.held["p"] == PoolLimit(300.0, 20, {"g0": Span(0.0, 300.0)})
    limits.differ({"g0", "g1"}, {"g0": 150.0, "g1": 700.0})
    limits.differ({"g0"}, {}, lower=True)
    assert limits.held["p"] == PoolLimit(300.0, 20, {"g0": Span(150.0, 150.0), "g1": Span(700.0, 700.0)})
    assert limits.unsettled() == ["p"]
    limits.differ({"g2", "other"}, {})
    assert limits.held == {"p": None, "q": None}
    limits.read(["p", "q"], dict.fromkeys((*gpus, "other"), 300.0))
    assert limits.unsettled() == []


def test_a_card_that_another_program_raises_leaves_the_pool_its_limit(tmp_path):
    with lab(tmp_path) as made:
        made.facade.order(OperatorOrder("limit", site="lab", limit_kw=28.0, by="me"))
        cap_w = made.run(timedelta(seconds=40))[-1].cap_w["chat"]
        gpu = made.hall.gpus_of["chat"][0]
        for turn in range(6):
            made.hall.set_limits({gpu: 400.0})
            made.run(timedelta(seconds=2))
            limit = made.ctx.dispatcher.limit("chat")
            assert limit is not None
            assert (limit.cap_w, dict(limit.odd)) == (cap_w, {gpu: Span(400.0, 400.0)}), turn
        assert made.ctx.dispatcher.yielded() == {"chat": {gpu: 400.0}}
        made.plan()
        assert made.ctx.dispatcher.limit("chat").odd.keys() == {gpu}, "it is left to its writer"
        made.ctx.dispatcher.take_back()
        made.run(timedelta(seconds=2))
        made.plan()
        assert made.ctx.dispatcher.limit("chat").odd == {}
