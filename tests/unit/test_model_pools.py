"""Pools in the model, one small case solved by hand per family: draw, value, floors, the cost of change."""

from dataclasses import replace

import pytest

from optimizer.assets import Battery
from optimizer.check import check_plan
from optimizer.curves import draw_at_cap
from optimizer.domain import CurvePoint, Prices, Work
from optimizer.explain import explain_pool
from optimizer.reasons import Reason
from optimizer.solve import solve_problem
from optimizer.validate import ProblemError
from tests.support.problems import SIMPLE, curves, event, hourly, inputs, job, pool, problem, site


def chat_at(price, value=1.0, floor=0.5, **more):
    """A thousand simple cards for an hour: next watts are worth 2, 3 (and below 200 W nothing) per kWh at value 1."""
    plan = solve_problem(
        problem(hourly(1), [site(1, price=price, **more)], [inputs(pool(floor=floor, value=value), 1)])
    )
    return plan, plan.pools["chat"]


@pytest.mark.parametrize(
    ("price", "cap"), [(1999, 400), (2001, 300), (2999, 300), (3001, 200), (99_999, 200), (-50, 400)]
)
def test_each_watt_is_drawn_while_it_is_worth_its_price(price, cap):
    plan, chat = chat_at(price)
    assert chat.cap_w == (cap,)
    assert chat.draw_kw[0] == pytest.approx(1000 * cap / 1000)
    assert plan.sites["dc"].marginal_per_mwh[0] == pytest.approx(price)


def test_carbon_has_its_price():
    made = problem(
        hourly(1), [site(1, price=1900, carbon=500.0)], [inputs(pool(), 1)], prices=Prices(carbon_per_tonne=210.0)
    )
    assert solve_problem(made).pools["chat"].cap_w == (300,)
    assert solve_problem(made).pools["chat"].reasons == (Reason.CARBON,)


def test_floor_holds_at_any_price_and_names_itself_only_where_it_binds():
    _, chat = chat_at(99_999, floor=0.8)
    assert (chat.cap_w, chat.work_gpus) == ((300,), (pytest.approx(800),))
    assert chat.reasons == (Reason.HIGH_PRICE,)
    limited = problem(hourly(1), [site(1, limit=200.0)], [inputs(pool(floor=0.8), 1)])
    plan = solve_problem(limited)
    assert plan.pools["chat"].cap_w == (300,)
    assert plan.pools["chat"].reasons == (Reason.SERVICE_FLOOR,)
    assert plan.sites["dc"].over_limit_kw == (pytest.approx(100),)
    assert [(note.code, note.subject) for note in plan.notes] == [(Reason.LIMIT_UNREACHABLE, "dc")]
    assert "100.0 kW" in plan.notes[0].text


def test_an_interval_that_needs_more_than_the_floor_gets_it_and_the_others_only_the_floor():
    hours = replace(inputs(pool(floor=0.5), 3), floors=(0.8, 0.0, 0.9))
    made = problem(hourly(3), [site(3, price=99_999)], [hours])
    plan = solve_problem(made)
    chat = plan.pools["chat"]
    assert chat.cap_w == (300, 200, 350)
    assert chat.work_gpus == pytest.approx((800, 500, 900))
    lower = replace(chat, cap_w=(300, 200, 300), draw_kw=(300.0, 200.0, 300.0), work_gpus=(800.0, 500.0, 800.0))
    broken = check_plan(made, replace(plan, pools={"chat": lower}))
    assert "work 800.000 is below its floor 900.000" in [fault.text for fault in broken]
    limited = replace(made, sites=(site(3, price=10, limit=300.0),))
    assert "its latency objective allows no less than 90% at this load" in explain_pool(
        limited, solve_problem(limited), "chat", 2
    )


def test_only_an_allowed_emergency_goes_below_the_floor_and_training_gives_before_the_hard_limit():
    called = event("e", (0, 1), 200.0, 400.0)
    for emergency, cap in ((False, 300), (True, 200)):
        orders = [replace(called, emergency=emergency)]
        plan = solve_problem(problem(hourly(1), [site(1)], [inputs(pool(floor=0.8), 1)], events=orders))
        assert plan.pools["chat"].cap_w == (cap,)
        code = Reason.FLOOR_BROKEN if emergency else Reason.EVENT_UNREACHABLE
        assert code in {note.code for note in plan.notes}
    training = inputs(pool("train", Work.TRAINING, floor=0.8), 1)
    assert solve_problem(problem(hourly(1), [site(1, limit=250.0)], [training])).pools["train"].cap_w == (250,)
    held = problem(hourly(1), [site(1)], [training], events=[replace(called, targets=called.targets)])
    assert solve_problem(held).pools["train"].cap_w == (300,)


def test_a_floor_that_may_give_is_kept_on_the_measured_points_and_not_only_on_their_hull():
    """At 250 W the cards do 0.55, the floor; the hull says so of 220 W already, where they do 0.52. The limit would let
    the floor give, but a battery carries it."""
    noisy = replace(SIMPLE, points=(SIMPLE.points[0], CurvePoint(300, 300, 0.6), SIMPLE.points[2]))
    full = Battery("b", 100.0, 0.0, 200.0, 100.0, 90.0, end_value_per_kwh=0.5)
    train = pool("train", Work.TRAINING, value=0.0, floor=0.55, curve=noisy)
    made = problem(hourly(1), [site(1, limit=220.0, batteries=(full,))], [inputs(train, 1)])
    plan = solve_problem(made)
    assert check_plan(made, plan) == ()
    assert plan.pools["train"].cap_w == (250,)
    assert plan.pools["train"].work_gpus == (pytest.approx(550),)


def test_half_the_load_is_half_the_work_and_idle_cards_still_draw():
    made = problem(hourly(1), [site(1)], [inputs(pool(), 1, 0.5)])
    chat = solve_problem(made).pools["chat"]
    assert chat.draw_kw == (pytest.approx(500 * 0.4 + 500 * 0.1),)
    assert chat.work_gpus == (pytest.approx(500),)
    assert solve_problem(problem(hourly(1), [site(1)], [inputs(pool(), 1, 0.0)])).pools["chat"].reasons == (
        Reason.NO_WORK,
    )


def test_a_short_dear_hour_is_not_worth_moving_the_cap_for_when_moves_cost():
    dear = [2050.0 if hour == 1 else 50.0 for hour in range(3)]
    for change, cap in ((0.0, 300), (0.03, 400)):
        made = problem(hourly(3), [site(3, price=dear)], [inputs(pool(), 3)], prices=Prices(change_per_kw=change))
        plan = solve_problem(made)
        assert plan.pools["chat"].cap_w[1] == cap
    present = problem(
        hourly(1), [site(1, price=2050.0)], [inputs(pool(), 1, now=400.0)], prices=Prices(change_per_kw=0.06)
    )
    assert solve_problem(present).pools["chat"].cap_w == (400,)


def test_a_batch_pool_draws_for_its_jobs_alone_even_when_power_is_paid_for():
    work = job("j", (0, 2), 200.0, 200)
    made = problem(hourly(2), [site(2, price=-500.0)], [inputs(pool("batch", Work.BATCH, 1000), 2)], [work])
    plan = solve_problem(made)
    used = sum(plan.pools["batch"].draw_kw) - 2 * 100.0
    assert used == pytest.approx(200 * 0.3)  # full speed at 300 W above idle per unit of work, and not a watt more
    assert sum(plan.jobs["j"].work_gpus) == pytest.approx(200)


def test_a_batch_pool_with_time_runs_slowly_and_one_without_at_full_speed():
    for hours, cap, gpus in ((4, 200, 200), (1, 400, 100)):
        work = job("j", (0, hours), 100.0, 200 if hours == 4 else 100)
        made = problem(hourly(4), [site(4)], [inputs(pool("batch", Work.BATCH, 1000), 4)], [work])
        orders = solve_problem(made).pools["batch"]
        running = [t for t in range(4) if orders.work_gpus[t] > 1e-6]
        assert {orders.cap_w[t] for t in running} == {cap}
        assert max(orders.active_gpus) == gpus


def test_prices_of_a_real_site_do_not_throttle_inference_and_scarcity_does():
    """Value 1 per GPU-hour, PUE 1.25, the measured sweep: prices from which a lower cap pays, recomputed by hand."""
    breaks = {
        "infer_llama_8b": {350: 542, 300: 821, 250: 1019, 200: 1530},
        "ft_llama_8b_dolly": {350: 631, 300: 733, 250: 842, 200: 1620},
        "pt_mpt_7b_fast": {300: 1091, 250: 1450, 200: 2634},
    }
    for name, table in breaks.items():
        curve = curves()["A100-400W/" + name]
        of = inputs(pool(floor=0.3, curve=curve), 1)
        for cap, price in table.items():
            below = (
                solve_problem(problem(hourly(1), [site(1, price=price - 2.0, pue=1.25)], [of])).pools["chat"].draw_kw[0]
            )
            above = (
                solve_problem(problem(hourly(1), [site(1, price=price + 2.0, pue=1.25)], [of])).pools["chat"].draw_kw[0]
            )
            assert above == pytest.approx(draw_at_cap(curve, cap)), (name, cap)
            assert below > above + 20, (name, cap)
    for price in (30.0, 250.0, 500.0):
        of = inputs(pool(floor=0.5, curve=curves()["A100-400W/infer_llama_8b"]), 1)
        assert solve_problem(problem(hourly(1), [site(1, price=price, pue=1.25)], [of])).pools["chat"].cap_w == (400,)


def test_a_quarter_less_comes_from_training_and_one_per_cent_of_inference():
    """12,288 cards, 4.516 MW; a firm event takes 25 %: the tiered answer, not the uniform one."""
    shapes = [curves()["A100-400W/" + name] for name in ("infer_llama_8b", "ft_llama_8b_dolly", "pt_mpt_7b_fast")]
    pools = [
        inputs(pool("chat", Work.INTERACTIVE, 6144, 5.0, 0.9, shapes[0]), 4),
        inputs(pool("tune", Work.TRAINING, 3072, 1.0, 0.75, shapes[1]), 4),
        inputs(pool("train", Work.TRAINING, 3072, 0.8, 0.6, shapes[2]), 4),
    ]
    called = event("heat", (1, 3), 4516.0 * 0.75, 4516.0)
    plan = solve_problem(problem(hourly(4), [site(4, price=90.0)], pools, events=[called]))
    assert plan.sites["dc"].import_kw[0] == pytest.approx(4516, abs=1)
    assert plan.sites["dc"].import_kw[1] == pytest.approx(4516 * 0.75)
    assert plan.pools["tune"].cap_w[1] == plan.pools["train"].cap_w[1] == 200
    assert plan.pools["chat"].work_gpus[1] / 6144 == pytest.approx(0.99, abs=0.004)
    assert plan.pools["chat"].reasons[1] is Reason.DR_EVENT
    assert plan.pools["chat"].reasons[0] is Reason.FULL_POWER


@pytest.mark.parametrize(
    ("change", "field"),
    [
        (
            lambda p: replace(p, sites=(replace(p.sites[0], price_per_mwh=(float("nan"),)),)),
            "sites[dc].price_per_mwh[0]",
        ),
        (lambda p: replace(p, sites=(replace(p.sites[0], pue=(0.5,)),)), "sites[dc].pue[0]"),
        (lambda p: replace(p, sites=(replace(p.sites[0], limit_kw=(1.0, 2.0)),)), "sites[dc].limit_kw"),
        (lambda p: replace(p, pools=(replace(p.pools[0], load=(1.5,)),)), "pools[chat].load[0]"),
        (lambda p: replace(p, pools=(inputs(pool(site="x"), 1),)), "pools[chat].site"),
        (lambda p: replace(p, pools=(inputs(pool(curve=replace(SIMPLE, idle_w=900.0)), 1),)), "pools[chat].curve"),
        (lambda p: replace(p, jobs=(job(work=float("inf")),)), "jobs[j].work_gpu_h"),
        (lambda p: replace(p, events=(event(target=float("nan")),)), "events[e].targets[0]"),
    ],
)
def test_a_broken_problem_is_refused_by_the_name_of_its_field(change, field):
    made = problem(hourly(1), [site(1)], [inputs(pool(), 1)])
    with pytest.raises(ProblemError) as caught:
        solve_problem(change(made))
    assert caught.value.field == field
