"""Scenarios: few, weighted, with the mean of all paths, alike for a like input; known values are the same in all."""

from dataclasses import replace
from datetime import timedelta

import numpy as np
import pytest

from optimizer.domain import Work
from optimizer.forecast import LOAD, Outlook, expect, extend, on_grid
from optimizer.ladder import answer
from optimizer.reasons import Reason
from optimizer.scenarios import BASE, LIMIT, PRICE, fewer, in_scenario, reduced, scenarios_of
from optimizer.scenarios import LOAD as LOAD_PATHS
from optimizer.session import Session
from optimizer.timegrid import planning_grid
from optimizer.uncertain import Scenario
from optimizer.validate import ProblemError, validate
from tests.support.problems import hourly, inputs, pool, problem, site
from tests.support.signals import series
from tests.unit.test_forecast_learned import DAYS, HOUR, START, noisy_prices


def asked(count=4, **more):
    return problem(hourly(count), [site(count, **more)], [inputs(pool(), count, 0.6)])


def paths(count=4, many=40, seed=2):
    return 50.0 + np.random.default_rng(seed).normal(0.0, 10.0, (many, count)).cumsum(axis=1)


def test_each_of_two_clusters_is_kept_with_its_share_of_all():
    rows, share = reduced(np.array([[0.0], [0.1], [0.2], [9.0]]), 2)
    assert rows.tolist() == [1, 3]
    assert share == pytest.approx([0.75, 0.25])


def test_no_more_than_there_are_different_paths():
    rows, share = reduced(np.array([[1.0], [1.0], [5.0]]), 3)
    assert len(rows) == 2
    assert share.tolist() == pytest.approx([2 / 3, 1 / 3])


def test_scenarios_keep_the_mean_of_all_paths_and_the_spread_of_many():
    price, load = paths(), np.clip(0.6 + 0.1 * paths(seed=3) / 50.0, 0.0, 1.0)
    made = replace(asked(), sites=(site(4, price=price.mean(axis=0).tolist()),))
    given = {(PRICE, "dc"): price, (LOAD_PATHS, "chat"): load}
    found = scenarios_of(made, given, 8)
    weight = np.array([one.probability for one in found])
    assert len(found) == 8
    assert weight.sum() == pytest.approx(1.0)
    prices = np.array([one.price_per_mwh[0] for one in found])
    assert weight @ prices == pytest.approx(np.array(made.sites[0].price_per_mwh), abs=1e-9)
    assert weight @ np.array([one.load[0] for one in found]) == pytest.approx(load.mean(axis=0), abs=1e-6)
    assert np.sqrt(weight @ (prices - prices.mean(axis=0)) ** 2)[-1] > 0.7 * price.std(axis=0)[-1]
    assert scenarios_of(made, given, 8) == found
    validate(replace(made, scenarios=found))


def test_prices_and_loads_of_a_scenario_happened_together():
    price = paths()
    given = {(PRICE, "dc"): price, (LOAD_PATHS, "chat"): (price - price.min()) / np.ptp(price)}
    found = scenarios_of(asked(), given, 10)
    last = np.array([(one.price_per_mwh[0][-1], one.load[0][-1]) for one in found])
    assert np.corrcoef(last.T)[0, 1] > 0.99


def test_what_the_meter_shows_above_the_model_is_load_that_is_not_gpus():
    above = np.linspace(0.0, 30.0, 5)[:, None] * np.ones(4)
    made = asked(other=100.0, pue=1.5, limit=370.0)
    found = scenarios_of(made, {(BASE, "dc"): above, (LIMIT, "dc"): np.full((5, 4), 400.0)}, 5)
    assert sorted(one.other_it_kw[0][0] for one in found) == pytest.approx([100, 105, 110, 115, 120])
    assert {one.limit_kw[0][0] for one in found} == {400.0}


def test_nothing_uncertain_gives_no_scenarios():
    assert scenarios_of(asked(), {(PRICE, "dc"): np.full((9, 4), 50.0)}, 5) == ()
    assert scenarios_of(asked(), {}, 5) == ()
    assert scenarios_of(asked(), {(LIMIT, "dc"): np.full((9, 4), np.inf)}, 5) == ()
    unlimited = scenarios_of(asked(), {(LIMIT, "dc"): np.full((1, 4), np.inf), (PRICE, "dc"): paths()}, 5)
    assert {one.limit_kw[0] for one in unlimited} == {(np.inf,) * 4}
    with pytest.raises(ValueError, match="price/dc have shape"):
        scenarios_of(asked(), {(PRICE, "dc"): paths(3)}, 5)


def test_fewer_scenarios_keep_mean_and_probability():
    made = asked(price=paths().mean(axis=0).tolist())
    made = replace(made, scenarios=scenarios_of(made, {(PRICE, "dc"): paths()}, 20))
    few = fewer(made, 4)
    assert len(few) == 4
    assert sum(one.probability for one in few) == pytest.approx(1.0)
    mean = sum(one.probability * np.array(one.price_per_mwh[0]) for one in few)
    assert mean == pytest.approx(np.array(made.sites[0].price_per_mwh))
    assert fewer(made, 20) == made.scenarios


def test_a_scenario_counts_from_an_interval_on():
    made = asked(limit=900.0)
    other = Scenario(1.0, ((1.0,) * 4,), ((2.0,) * 4,), ((3.0,) * 4,), ((0.4,) * 4,))
    then = in_scenario(replace(made, scenarios=(other,)), other, 1)
    assert then.sites[0].price_per_mwh == (50.0, 1.0, 1.0, 1.0)
    assert then.sites[0].limit_kw == (900.0, 2.0, 2.0, 2.0)
    assert then.sites[0].other_it_kw == (0.0, 3.0, 3.0, 3.0)
    assert then.pools[0].load == (0.6, 0.4, 0.4, 0.4)
    assert then.scenarios == ()


@pytest.mark.parametrize(
    ("field", "change"),
    [
        ("scenarios", {"probability": 0.7}),
        (r"scenarios\[0\].price_per_mwh\[0\]\[1\]", {"price_per_mwh": ((1.0, float("nan"), 1.0, 1.0),)}),
        (r"scenarios\[0\].load\[0\]", {"load": ((0.5,) * 3,)}),
        (r"scenarios\[0\].limit_kw", {"limit_kw": ()}),
    ],
)
def test_broken_scenarios_are_refused_with_their_place(field, change):
    good = Scenario(1.0, ((1.0,) * 4,), ((2.0,) * 4,), ((3.0,) * 4,), ((0.4,) * 4,))
    validate(replace(asked(), scenarios=(good,)))
    with pytest.raises(ProblemError, match=field):
        validate(replace(asked(), scenarios=(replace(good, **change),)))


def test_a_plan_is_made_without_scenarios_that_are_no_numbers():
    bad = Scenario(1.0, ((float("nan"),) * 4,), ((2.0,) * 4,), ((3.0,) * 4,), ((0.4,) * 4,))
    plan = answer(replace(asked(), scenarios=(bad,)), None, Session().plan)
    assert [note.code for note in plan.notes if note.subject == "scenarios"] == [Reason.SIGNAL_NAN]


# ---------------------------------------------------------------- from forecasts
def test_paths_on_the_grid_have_the_forecast_as_their_mean_and_known_values_in_all():
    known = series(noisy_prices().tolist(), START)
    end = known.spans[-1].end
    grid = planning_grid(end - 2 * HOUR - timedelta(minutes=20), 20 * HOUR)
    got = expect(known, grid, Outlook())
    assert got.values == pytest.approx(on_grid(extend(known, grid.start, grid.end, Outlook())[0], grid))
    assert got.paths.shape == (200, len(grid))
    assert got.paths.mean(axis=0) == pytest.approx(np.array(got.values))
    known_ends = next(t for t, edge in enumerate(grid.edges) if edge >= end)
    assert np.ptp(got.paths[:, :known_ends]) == pytest.approx(np.ptp(got.values[:known_ends]))
    assert np.ptp(got.paths[:, :known_ends], axis=0).max() < 1e-9
    assert np.ptp(got.paths[:, known_ends:], axis=0).min() > 1.0


def test_loads_are_planned_above_most_of_their_paths_which_stay_shares():
    share = np.clip(0.6 + (noisy_prices() - 50.0) / 200.0, 0.0, 1.0)
    known = series(share.tolist(), START, name="load", unit="fraction")
    grid = planning_grid(START + DAYS * timedelta(days=1), 12 * HOUR)
    got = expect(known, grid, replace(LOAD, share=0.9))
    above = (got.paths <= np.array(got.values)).mean(axis=0)
    assert above == pytest.approx(0.9, abs=0.02)
    assert got.paths.min() >= 0.0
    assert got.paths.max() <= 1.0


def test_without_two_weeks_there_are_no_paths():
    known = series([50.0, 60.0] * 24, START)
    grid = planning_grid(START + 48 * HOUR, 6 * HOUR)
    assert expect(known, grid, Outlook()).paths is None
    assert expect(known, planning_grid(START, 6 * HOUR), Outlook()).paths is None


def test_the_optimum_of_a_problem_is_not_touched_by_scenarios_that_decide_nothing():
    count = 6
    batch = inputs(pool("batch", Work.BATCH), count)
    plain = problem(hourly(count), [site(count, price=[50, 40, 30, 20, 30, 40])], [batch])
    made = replace(plain, scenarios=scenarios_of(plain, {(PRICE, "dc"): paths(count)}, 5))
    assert Session().plan(made).objective == pytest.approx(Session().plan(plain).objective)
