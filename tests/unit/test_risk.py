"""The extensive form: by hand, its limits (no weight, one scenario), what more weight does, and how long it holds."""

from dataclasses import replace
from datetime import timedelta
from itertools import pairwise

import numpy as np
import pyomo.environ as pyo
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import optimizer.weigher
from optimizer.assets import ReserveOffer
from optimizer.classes import classes_of
from optimizer.domain import CurvePoint, PowerCurve, Work
from optimizer.facts import WAITING_PER_GPU_H_H, facts_of
from optimizer.faults import SolveError, SolveFault
from optimizer.highs import solve_arrays
from optimizer.model.arrays import write_arrays
from optimizer.model.build import declare
from optimizer.model.pyomo_model import compile_model, pyomo_model
from optimizer.model.risk import declare_weighed
from optimizer.reasons import Reason, Severity
from optimizer.session import Session
from optimizer.timegrid import planning_grid
from optimizer.uncertain import Weighing
from optimizer.weigher import Weigher, costs, kept, late_jobs, picture, step_ends
from tests.support.problems import START, event, hourly, inputs, job, pool, problem, site, typical_problem
from tests.unit.test_fan import many, scenario

LINEAR = PowerCurve("linear", 0.0, (CurvePoint(400.0, 400.0, 1.0),))


def waiting(weight, tail=0.5, scenarios=((0.8, 20.0), (0.2, 150.0))):
    """40 kWh now at 50 a MWh (2.00), or in an hour at 20 (0.80) or, in one case of five, 150 (6.00): 1.84 in the
    mean, and 1.5 hours of waiting for 100 GPU-hours."""
    batch = pool("batch", Work.BATCH, 100, curve=LINEAR)
    mean = sum(share * price for share, price in scenarios)
    made = problem(hourly(2), [site(2, price=[50.0, mean])], [inputs(batch, 2)], [job("j", (0, 2), 100.0, 100)])
    found = tuple(scenario(made, share, price=(50.0, price)) for share, price in scenarios)
    return replace(made, scenarios=found, weighing=Weighing(risk_weight=weight, risk_tail=tail))


def solved(made, common=1):
    arrays = write_arrays(declare_weighed(made, common))
    return arrays, solve_arrays(arrays, 30.0)


def test_the_mean_of_the_worst_half_is_that_of_the_dear_case_and_part_of_the_cheap_one():
    made = waiting(0.05)
    arrays, answer = solved(made)
    mean, worst = costs(made, arrays, answer)
    waits = 1.5 * 100 * WAITING_PER_GPU_H_H
    assert mean == pytest.approx(1.84 + waits, abs=1e-6)
    assert worst == pytest.approx((0.2 * 6.0 + 0.3 * 0.8) / 0.5 + waits, abs=1e-6)  # 2.88
    assert answer.objective == pytest.approx(0.95 * 1.84 + 0.05 * 2.88 + waits, abs=1e-6)


@pytest.mark.parametrize(("weight", "now"), [(0.1, 0.0), (0.15, 0.0), (0.16, 100.0), (1.0, 100.0)])
def test_work_is_done_now_from_the_weight_on_at_which_the_risk_of_waiting_is_dearer(weight, now):
    """Now costs 2.00 for sure; waiting 1.84 + weight * (2.88 - 1.84): equal at 0.154."""
    plan = Session().plan(waiting(weight))
    assert plan.jobs["j"].work_gpus[0] == pytest.approx(now, abs=1e-6)
    assert any("in the worst 50%" in note.text for note in plan.notes if note.code is Reason.SCENARIOS)


def test_without_weight_the_plan_is_that_of_the_mean_and_nothing_is_weighed():
    made = waiting(0.0)
    plan = Session().plan(made)
    assert plan.jobs["j"].work_gpus == pytest.approx((0.0, 100.0))
    assert not any(note.code is Reason.SCENARIOS for note in plan.notes)


def test_a_plan_common_to_all_intervals_costs_in_the_mean_what_the_plan_of_the_mean_costs():
    made = typical_problem(jobs=6, horizon_h=6)
    spread = many(made, 4)
    prices = np.array([one.price_per_mwh[0] for one in spread.scenarios])
    loads = tuple(item.load for item in made.pools)
    alike = tuple(replace(one, load=loads) for one in spread.scenarios)
    mean = replace(made, sites=(replace(made.sites[0], price_per_mwh=tuple(prices.mean(axis=0).tolist())),))
    # The price of the present interval is known: the same in all.
    alike = tuple(
        replace(one, price_per_mwh=((mean.sites[0].price_per_mwh[0], *one.price_per_mwh[0][1:]),)) for one in alike
    )
    weighed = replace(mean, scenarios=alike, jobs=())
    _, answer = solved(weighed, len(made.grid))
    alone = solve_arrays(write_arrays(declare(replace(weighed, scenarios=()))), 30.0)
    assert answer.objective == pytest.approx(alone.objective, rel=1e-6)


def test_one_scenario_that_is_the_forecast_is_the_plan_without_any():
    made = typical_problem(jobs=6, horizon_h=6)
    one = replace(made, scenarios=(scenario(made, 1.0),), weighing=Weighing(risk_weight=0.3))
    alone = solve_arrays(write_arrays(declare(made, classes_of(facts_of(made)).facts)), 30.0)
    _, answer = solved(one)
    assert answer.objective == pytest.approx(alone.objective, rel=1e-9)


def test_pyomo_reads_the_same_extensive_form_and_finds_the_same_optimum():
    made = replace(many(typical_problem(jobs=4, horizon_h=3), 3), weighing=Weighing(risk_weight=0.4, risk_tail=0.3))
    model = declare_weighed(made, 2)
    written, compiled = write_arrays(model), compile_model(model)
    assert np.array_equal(written.cost, compiled.cost)
    assert np.array_equal(written.value, compiled.value)
    assert np.array_equal(written.index, compiled.index)
    asked = pyomo_model(model)
    solver = pyo.SolverFactory("appsi_highs")
    solver.highs_options = {"threads": 1}
    solver.solve(asked)
    assert pyo.value(asked.cost) == pytest.approx(solve_arrays(written, 60.0).objective, rel=1e-9)


def test_the_first_step_is_one_plan_in_all_scenarios_and_a_cap_whatever_the_load():
    made = replace(many(typical_problem(jobs=8, horizon_h=4), 3), weighing=Weighing(risk_weight=0.4))
    model = declare_weighed(made, 3)
    arrays = write_arrays(model)
    point = solve_arrays(arrays, 60.0).point
    seg = [(arrays.families[f"seg@{s}"], arrays.of(f"seg@{s}", point)) for s in (0, 1)]
    first, later = seg[0][0].keys[1] == 1, seg[0][0].keys[1] > 3
    high = [family.high for family, _ in seg]
    filled = [value / np.where(bound > 0, bound, 1.0) for (_, value), bound in zip(seg, high, strict=True)]
    assert filled[0][first] == pytest.approx(filled[1][first], abs=1e-6)
    assert not np.allclose(filled[0][later], filled[1][later])
    rates = [arrays.of(f"x@{s}", point) for s in (0, 2)]
    now = arrays.families["x@0"].keys[2] < 3
    assert rates[0][now] == pytest.approx(rates[1][now], abs=1e-6)


@settings(max_examples=15, deadline=None)
@given(st.lists(st.floats(-50, 400), min_size=3, max_size=6), st.floats(0.05, 1.0), st.integers(0, 10_000))
def test_more_weight_never_raises_the_risk_nor_lowers_the_mean(prices, tail, seed):
    share = np.random.default_rng(seed).dirichlet(np.ones(len(prices)))
    pairs = tuple((float(part), price) for part, price in zip(share, prices, strict=True))
    found = [costs(made, *solved(made)) for made in (waiting(weight, tail, pairs) for weight in (0.01, 0.3, 0.7, 0.99))]
    for (mean, worst), (then_mean, then_worst) in pairwise(found):
        assert then_worst <= worst + 1e-5
        assert then_mean >= mean - 1e-5
        assert worst >= mean - 1e-5


# ---------------------------------------------------------------- when it is weighed, and how long it holds
def risky(minute=0):
    """A site on the daemon's grid that would rather wait for the mean than run now."""
    start = START + timedelta(minutes=minute)
    grid = planning_grid(start, START + timedelta(hours=6) - start)
    count = len(grid)
    later = [start >= START + timedelta(hours=1) for start in grid.starts]
    price = [46.0 if after else 50.0 for after in later]
    batch = pool("batch", Work.BATCH, 100, curve=LINEAR)
    made = problem(grid, [site(count, price=price)], [inputs(batch, count)], [job("j", (0, 6), 100.0, 100)])
    ways = ((0.8, 20.0), (0.2, 150.0))
    found = tuple(scenario(made, p, price=[kwh if after else 50.0 for after in later]) for p, kwh in ways)
    return replace(made, scenarios=found, weighing=Weighing(risk_weight=0.5, risk_tail=0.2))


def test_what_was_decided_for_the_hour_holds_through_the_hour_without_weighing_again():
    session = Session()
    first = session.plan(risky())
    assert first.jobs["j"].work_gpus[0] == pytest.approx(100.0)
    then = session.plan(risky(5))
    assert session._weigher.seconds == 0.0
    assert then.jobs["j"].work_gpus[0] > 50.0
    assert Session().plan(replace(risky(5), scenarios=())).jobs["j"].work_gpus[0] == 0.0


def test_a_new_event_or_limit_is_weighed_at_once():
    weigher = Weigher()
    weigher.look(risky(), frozenset(), 10.0)
    assert weigher.seconds > 0
    weigher.look(risky(5), frozenset(), 10.0)
    assert weigher.seconds == 0
    called = replace(risky(5), events=(event("e", (2, 3), 20.0, 40.0),))
    weigher.look(called, frozenset(), 10.0)
    assert weigher.seconds > 0


def test_limits_and_prices_that_move_a_little_are_not_weighed_again_until_they_have_moved_far():
    def moved(by):
        made = risky(5)
        count = len(made.grid)
        offer = ReserveOffer("r", (0.01 * by,) * count, 10.0, 0.0, 0.0)
        limited = replace(made.sites[0], limit_kw=(900.0 * by,) * count, reserves=(offer,))
        return replace(made, sites=(limited,))

    weigher, seconds = Weigher(), []
    for by in (1.0, 0.99999, 1.015, 1.03, 1.03):
        weigher.look(moved(by), frozenset(), 10.0)
        seconds.append(weigher.seconds > 0)
    assert seconds == [True, False, False, True, False]


def test_scenarios_that_are_put_together_are_spoken_of(monkeypatch):
    monkeypatch.setattr(optimizer.weigher, "MOST_COLUMNS", 1)
    made = replace(many(typical_problem(jobs=4, horizon_h=3), 5), weighing=Weighing(risk_weight=0.4))
    weigher = Weigher()
    weigher.look(made, frozenset(), 20.0)
    assert weigher.notes[0].text.startswith("5 scenarios put together as 2: ")


def test_time_that_was_not_enough_to_weigh_risk_is_counted(monkeypatch):
    def late(*_):
        raise SolveError(SolveFault.TIMEOUT, "late")

    weigher = Weigher()
    monkeypatch.setattr(weigher._warm, "solve", late)
    assert weigher.look(risky(), frozenset(), 4.0) is None
    assert weigher.seconds == 4.0


def test_a_voluntary_event_is_answered_as_risk_was_weighed():
    """Alone, the plan of the mean declines 40 kW for an hour at 1.5 a kWh; all scenarios together said yes."""
    made = risky()
    asked = event("v", (2, 3), 0.0, 40.0, voluntary=True, credit_per_kwh=1.5, penalty_per_kwh=0.0, rebound_s=0.0)
    made = replace(made, events=(asked,))
    session = Session()
    taken = session.plan(made).taken
    held = session._weigher.held
    assert dict(held.takes) == {"v": bool(taken)}
    session._weigher.held = replace(held, takes=(("v", not taken),))
    assert bool(session.plan(replace(made, made_at=made.made_at)).taken) is not bool(taken)


def test_without_time_risk_is_left_out_aloud_and_the_plan_is_that_of_the_mean():
    weigher = Weigher()
    assert weigher.look(risky(), frozenset(), 0.0) is None
    assert [(note.code, note.severity) for note in weigher.notes] == [(Reason.SCENARIOS_DROPPED, Severity.WARNING)]


def test_the_step_ends_with_the_clocks_hour():
    assert step_ends(risky(5)) == START + timedelta(hours=1)
    assert step_ends(risky()) == START + timedelta(hours=1)


def test_a_step_that_no_longer_fits_is_released_aloud():
    session = Session()
    session.plan(risky())
    tight = risky(5)
    # 100 GPUs take 40 kW; a load that is no GPUs now leaves 10 kW under the same limit.
    limited = replace(tight, sites=(replace(tight.sites[0], limit_kw=(50.0,) * len(tight.grid)),))
    session._weigher.held = replace(session._weigher.held, picture=picture(limited))
    full = replace(limited, sites=(replace(limited.sites[0], other_it_kw=(40.0,) * len(tight.grid)),))
    plan = session.plan(full)
    assert any("no longer fits" in note.text for note in plan.notes if note.code is Reason.SCENARIOS_DROPPED)
    assert max(plan.sites["dc"].over_limit_kw) == 0.0


def test_a_job_with_little_left_is_held_to_no_more_than_that():
    made = risky()
    facts = classes_of(facts_of(made)).facts
    held = Weigher().look(made, frozenset(), 10.0)
    less = replace(made, jobs=(replace(made.jobs[0], done_gpu_h=99.0),))
    facts = classes_of(facts_of(less)).facts
    arrays = kept(facts, write_arrays(declare(less, facts, late_jobs(facts, frozenset()))), held)
    columns = arrays.families["x"]
    now = columns.start + np.flatnonzero(columns.keys[2] == 0)
    assert arrays.low[now] == pytest.approx(12.0)  # one GPU-hour in five minutes
