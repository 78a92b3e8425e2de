"""What can't be known, from the signals' past to the problem of every cycle: levels, back-off, scenarios."""

import csv
import sys
from datetime import timedelta

import numpy as np
import pytest

from adapters.registry import MissingExtra
from optimizer.domain import Work
from optimizer.forecast import Outlook, expect
from optimizer.forecast_boosted import Boosted
from optimizer.reasons import Reason
from scheduler.backoff import LEAST
from scheduler.collect import collect
from scheduler.problem import build_problem, signal_window
from tests.support.loops import SITE, START, lab
from tests.unit.test_forecast_learned import ar_errors

HOURS = 24 * 30
FIRST = START - timedelta(hours=HOURS)

UNCERTAIN = (
    SITE.replace("load: 0.95", "load: busy")
    .replace("     ramp_kw_per_min", "     demand_charges: [{id: month, price_per_kw: 12}],\n     ramp_kw_per_min")
    .replace(
        "signals:\n  - {id: energy, type: constant, unit: USD/MWh, value: 60}",
        "signals:\n  - {id: energy, type: csv, path: energy.csv, kind: price, unit: USD/MWh}\n"
        "  - {id: busy, type: csv, path: busy.csv, kind: load, unit: fraction}",
    )
)


def write(folder, name, values):
    with (folder / f"{name}.csv").open("w", newline="", encoding="utf-8") as stream:
        rows = csv.writer(stream)
        rows.writerow(["interval_start_utc", "value"])
        for number, value in enumerate(values):
            rows.writerow([(FIRST + timedelta(hours=number)).strftime("%Y-%m-%dT%H:%M:%SZ"), f"{value:.4f}"])


def settings(tmp_path, more=""):
    """A site whose price and load are known up to now, with a month of past."""
    hours = np.arange(HOURS)
    load = np.clip(0.6 + 0.2 * np.sin(hours * np.pi / 12.0) + 0.5 * ar_errors(0.8, HOURS, 4), 0.05, 1.0)
    write(tmp_path, "energy", 50.0 + 20.0 * np.sin(hours * np.pi / 12.0) + 40.0 * ar_errors(0.8, HOURS, 3))
    write(tmp_path, "busy", load)
    return lab(tmp_path, lambda _: UNCERTAIN + more)


def seen_by(made):
    now = made.clock.now()
    seen = collect(made.ctx.sources, signal_window(made.ctx, now), now, made.ctx.memory, None)
    return seen, build_problem(made.ctx, made.state, seen, now)


def problem_of(made):
    return seen_by(made)[1]


def loads(problem):
    at = next(n for n, item in enumerate(problem.pools) if item.pool.work is Work.INTERACTIVE)
    return np.array(problem.pools[at].load), np.array([one.load[at] for one in problem.scenarios])


def weight(problem):
    return np.array([one.probability for one in problem.scenarios])


def test_every_cycle_weighs_twenty_scenarios_of_price_and_load_and_says_what_they_size(tmp_path):
    with settings(tmp_path) as made:
        made.plan()
        problem = made.state.problem
        assert len(problem.scenarios) == 20
        prices = np.array([one.price_per_mwh[0] for one in problem.scenarios])
        assert weight(problem) @ prices == pytest.approx(np.array(problem.sites[0].price_per_mwh))
        assert np.ptp(prices, axis=0)[-1] > 10.0
        _, scenarios = loads(problem)
        assert np.ptp(scenarios, axis=0)[-1] > 0.1
        said = [note for note in made.state.report.notes if note.code is Reason.SCENARIOS]
        assert "peak of lab/month/2022-09 is aimed at" in said[0].text


def test_risk_is_weighed_once_an_hour_where_the_config_gives_it_weight(tmp_path):
    with settings(tmp_path, "uncertainty: {scenarios: 6, risk_weight: 0.3, risk_tail: 0.2}\n") as made:
        said = []
        for _ in range(3):
            made.plan()
            made.clock.sleep(300.0)
            said.append([note.text for note in made.state.plan.notes if "in the worst 20%" in note.text])
        assert [len(texts) for texts in said] == [1, 0, 0]
        assert "after the step until 22:00Z" in said[0][0]
        assert made.state.plan.rung.value in ("optimum", "incumbent")


def test_load_is_planned_above_its_mean_at_the_level_that_it_seldom_exceeds(tmp_path):
    with settings(tmp_path) as made:
        problem = problem_of(made)
    planned, scenarios = loads(problem)
    assert (planned > weight(problem) @ scenarios + 0.03).all()
    assert planned.max() <= 1.0


def test_a_limit_is_planned_below_by_what_the_meter_was_above_the_model_in_every_cycle(tmp_path):
    with settings(tmp_path) as made:
        before = problem_of(made).sites[0]
        assert set(before.limit_kw) == {100.0}
        for error in np.linspace(0.0, 10.0, LEAST + 1):
            made.state.base_errors.see({"lab": float(error)}, frozenset({"lab"}))
        problem = problem_of(made)
        assert problem.sites[0].limit_kw == pytest.approx((90.5,) * len(problem.grid))
        other = np.array([one.other_it_kw[0][0] for one in problem.scenarios])
        assert weight(problem) @ other == pytest.approx(2.0 + 5.0 / 1.2, abs=0.1)
        assert {one.limit_kw[0] for one in problem.scenarios} == {(100.0,) * len(problem.grid)}


def test_the_errors_of_the_meter_are_learned_in_every_cycle(tmp_path):
    with settings(tmp_path, "uncertainty: {scenarios: 0}\n") as made:
        made.state.bias_kw["lab"] = 7.0
        for _ in range(LEAST):
            made.plan()
            made.clock.sleep(300.0)
        assert made.state.problem.sites[0].limit_kw[0] == pytest.approx(93.0)
        assert made.state.problem.scenarios == ()


def test_a_load_that_reads_zero_ahead_is_not_believed_and_one_that_is_missing_is_never_none(tmp_path):
    with settings(tmp_path) as made:
        hours = np.full(HOURS + 24, 0.6)
        hours[HOURS:] = 0.0
        write(tmp_path, "busy", hours)
        problem = problem_of(made)
        planned, _ = loads(problem)
        assert planned.min() > 0.5
        assert any(note.code is Reason.FORECAST_ZERO for note in problem.notes)
        write(tmp_path, "busy", [])
        planned, _ = loads(problem_of(made))
        assert planned.min() > 0.5


def test_a_price_that_reads_zero_ahead_is_not_believed(tmp_path):
    with settings(tmp_path) as made:
        values = np.full(HOURS + 24, 50.0)
        values[HOURS:] = 0.0
        write(tmp_path, "energy", values)
        seen, problem = seen_by(made)
        assert min(problem.sites[0].price_per_mwh) == pytest.approx(50.0)
        assert any(note.code is Reason.SIGNAL_ZERO for note in seen.notes)
        values[HOURS - 1] = 20.0  # a price that comes to 0 by way of small ones passes the gate, not the forecast
        write(tmp_path, "energy", values)
        seen, problem = seen_by(made)
        assert not any(note.code is Reason.SIGNAL_ZERO for note in seen.notes)
        assert min(problem.sites[0].price_per_mwh) > 15.0
        assert any(note.code is Reason.FORECAST_ZERO for note in problem.notes)


def test_a_price_is_planned_at_half_of_what_rare_high_paths_add_by_whoever_the_config_names(tmp_path, monkeypatch):
    with settings(tmp_path) as made:
        grid, known = problem_of(made).grid, made.ctx.sources
        now = made.clock.now()
        seen = collect(known, signal_window(made.ctx, now), now, made.ctx.memory, None)
        price = expect(seen.series("energy"), grid, Outlook(made.ctx.sites["lab"].zone, tail=0.5)).values
        assert problem_of(made).sites[0].price_per_mwh == pytest.approx(price)
    with settings(tmp_path, "uncertainty: {forecaster: boosting}\n") as made:
        assert isinstance(made.ctx.caution.forecaster, Boosted)
        boosted = problem_of(made)
        assert len(boosted.scenarios) == 20
        assert np.ptp(np.array(boosted.sites[0].price_per_mwh) - price) > 0.1
    monkeypatch.setitem(sys.modules, "sklearn.ensemble", None)
    with (
        pytest.raises(MissingExtra, match=r"pip install gridpace\[forecast\]"),
        settings(tmp_path, "uncertainty: {forecaster: boosting}\n"),
    ):
        pass
