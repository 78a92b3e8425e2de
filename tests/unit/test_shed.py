"""The merit order of the fast loop: cheapest watts first, floors kept, and back again in the reverse order."""

import itertools
from dataclasses import replace

import pytest

from optimizer.curves import cap_for_throughput, draw_at_cap, throughput_at_cap
from optimizer.shed import ShedPool, shed
from tests.support.problems import SIMPLE, curves


def shed_pool(name, value, cap=400, low=200, curve=SIMPLE, count=100, **more):
    return ShedPool(name, curve, count, float(count), cap, low, 400, value, **more)


def hall():
    shapes = curves()
    chat, tune, train = (shapes["A100-400W/" + n] for n in ("infer_llama_8b", "ft_llama_8b_dolly", "pt_mpt_7b_fast"))
    return [
        shed_pool("chat", 5.0, 400, cap_for_throughput(chat, 0.9), chat, 6144),
        shed_pool("tune", 1.0, 400, cap_for_throughput(tune, 0.75), tune, 3072),
        shed_pool("train", 0.8, 400, cap_for_throughput(train, 0.6), train, 3072),
    ]


def drawn(pools, result):
    return sum(
        pool.busy * draw_at_cap(pool.curve, result.orders[pool.id].cap_w) / 1000 for pool in pools
    )  # fmt: skip


def test_a_quarter_of_the_hall_comes_from_training_and_one_per_cent_of_chat():
    result = shed(hall(), 1129.0)
    caps = {name: order.cap_w for name, order in result.orders.items()}
    assert (caps["tune"], caps["train"]) == (200, 200)
    assert 375 <= caps["chat"] <= 382
    assert throughput_at_cap(hall()[0].curve, caps["chat"]) == pytest.approx(0.99, abs=0.004)
    assert result.remaining_kw == 0.0
    assert 4516.6 - drawn(hall(), result) == pytest.approx(1129, abs=7)


def test_the_greedy_order_is_the_optimum():
    pools = [shed_pool("a", 1.0), shed_pool("b", 2.0), shed_pool("c", 0.5)]
    lost = shed(pools, 25.0).lost_value_per_h
    grid = [range(200, 401, 10)] * 3
    every = [tuple(zip(pools, caps, strict=True)) for caps in itertools.product(*grid)]
    best = min(
        sum(pool.value_per_gpu_h * pool.busy * (1 - throughput_at_cap(SIMPLE, cap)) for pool, cap in orders)
        for orders in every
        if sum(pool.busy * (400 - cap) for pool, cap in orders) >= 25_000
    )
    assert lost == pytest.approx(best)


def test_never_below_the_lowest_cap_and_the_rest_is_said():
    result = shed([shed_pool("a", 1.0, low=300)], 15.0)
    assert result.orders["a"].cap_w == 300
    assert result.remaining_kw == pytest.approx(5.0)


def test_given_back_where_it_is_worth_most_and_never_more_than_asked():
    low = [shed_pool("a", 1.0, cap=200), shed_pool("b", 3.0, cap=200)]
    result = shed(low, -15.0)
    assert result.orders["b"].cap_w == 350
    assert result.orders["a"].cap_w == 200
    assert shed(low, -99.0).remaining_kw == pytest.approx(-59.0)


def test_shedding_and_giving_back_the_same_returns_to_where_it_was():
    down = shed(hall(), 700.0)
    low = [replace(pool, cap_w=down.orders[pool.id].cap_w) for pool in hall()]
    up = shed(low, down.remaining_kw - 700.0)
    assert all(abs(order.cap_w - 400) <= 54 for order in up.orders.values())
    assert drawn(hall(), up) == pytest.approx(4516.6, abs=12)


def test_batch_idles_whole_gpus_after_its_knee_and_no_further_than_its_running_work():
    batch = shed_pool("b", 1.0, may_idle=True, low_busy=20.0)
    slow = shed([batch], 20.0).orders["b"]
    assert (slow.cap_w, slow.active_gpus) == (200, 100)
    fewer = shed([batch], 24.9).orders["b"]
    assert (fewer.cap_w, fewer.active_gpus) == (200, 51)
    least = shed([batch], 99.0)
    assert (least.orders["b"].cap_w, least.orders["b"].active_gpus) == (200, 20)
    assert least.remaining_kw == pytest.approx(99.0 - 28.0)


def test_among_equals_those_give_on_who_do_and_no_more_than_they_gave():
    """The first two are worth the same to within a digit that every plan changes."""
    for values in ((1.0, 1.01), (1.01, 1.0)):
        first, other = (shed_pool(name, value) for name, value in zip("ab", values, strict=True))
        gives = replace(other, given_w=100 * (330.0 - SIMPLE.idle_w), stays=0.05)
        caps = {name: order.cap_w for name, order in shed([first, gives], 7.0).orders.items()}
        assert caps == {"a": 400, "b": 330}
        more = {name: order.cap_w for name, order in shed([first, gives], 9.0).orders.items()}
        assert more == ({"a": 380, "b": 330} if values[0] < values[1] else {"a": 400, "b": 310})
        less = {name: order.cap_w for name, order in shed([first, gives], 3.0).orders.items()}
        assert less == {"a": 400, "b": 370}


def test_one_that_is_clearly_cheaper_gives_in_their_place():
    gives = shed_pool("b", 1.06, given_w=100 * (330.0 - SIMPLE.idle_w), stays=0.05)
    caps = {name: order.cap_w for name, order in shed([shed_pool("a", 1.0), gives], 7.0).orders.items()}
    assert caps == {"a": 330, "b": 400}
    alone = shed([gives], 7.0)
    assert alone.lost_value_per_h == shed([replace(gives, stays=0.0)], 7.0).lost_value_per_h, "it loses what it loses"


def test_a_cap_above_the_best_throughput_goes_first():
    flat = replace(SIMPLE, points=(*SIMPLE.points[:2], replace(SIMPLE.points[2], throughput=0.8)))
    result = shed([shed_pool("a", 9.0, curve=flat), shed_pool("b", 0.1)], 10.0)
    assert result.orders["a"].cap_w == 300
    assert result.lost_value_per_h == 0.0


def test_work_that_must_go_on_is_slowed_below_the_knee_and_never_sped_up_for_an_emergency():
    """Six GPUs may not idle: however much is asked, their cap falls, and the order never counts on fewer of them."""
    tune = curves()["A100-400W/ft_llama_8b_dolly"]
    before = 200
    for kw in (0.1, 0.3, 0.5, 9.0):
        pool = ShedPool("tune", tune, 16, 6.0, 200, 100, 400, 1.0, may_idle=True, low_busy=6.0)
        (order,) = shed([pool], kw).orders.values()
        assert order.active_gpus == 6
        assert order.cap_w <= before
        before = order.cap_w
    assert before == 100
