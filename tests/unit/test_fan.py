"""The fan of scenarios: what it sizes, by hand; what it leaves alone; and that it is the first to be left out."""

import re
from dataclasses import replace
from datetime import timedelta

import numpy as np
import pytest

import optimizer.session
import optimizer.steady
import optimizer.warm
from optimizer.assets import ReserveOffer
from optimizer.check import check_plan
from optimizer.coarse import HOURLY, ROUGH, merged, shortened
from optimizer.domain import DemandCharge, Rung, Work
from optimizer.fan import Fan, quantile
from optimizer.ladder import answer
from optimizer.reasons import Reason, Severity
from optimizer.session import Session
from optimizer.steady import Tried
from optimizer.timegrid import TimeGrid, planning_grid
from optimizer.uncertain import Scenario, Weighing
from optimizer.validate import validate
from tests.support.problems import (
    START,
    event,
    hourly,
    inputs,
    job,
    pool,
    problem,
    random_problem,
    site,
    typical_problem,
)


def scenario(made, probability, load=None, price=None):
    """The problem's own values, but for the load of its first pool and the price of its first site."""
    prices = tuple(one.price_per_mwh for one in made.sites)
    loads = tuple(one.load for one in made.pools)
    return Scenario(
        probability,
        (tuple(price), *prices[1:]) if price else prices,
        tuple(one.limit_kw for one in made.sites),
        tuple(one.other_it_kw for one in made.sites),
        (tuple(load), *loads[1:]) if load else loads,
    )


def busy_evening():
    """Chat draws 250 kW now and 400 kW in an hour by the cautious forecast, 250 kW in four cases of five; idle batch
    GPUs draw 50 kW, and the job takes 0.2 kW for each GPU of its 200 GPU-hours: 40 kW at once, or 20 kW in both
    hours."""
    charge = DemandCharge("month", 10.0, 0.0, (True, True))
    chat, batch = pool("chat", floor=1.0), pool("batch", Work.BATCH, count=500)
    pools = [inputs(chat, 2, (0.5, 1.0)), inputs(batch, 2)]
    work = job("j", (0, 2), 200.0, 500)
    made = problem(hourly(2), [site(2, price=[40.0, 50.0], demand_charges=(charge,))], pools, [work])
    return replace(made, scenarios=(scenario(made, 0.8, load=(0.5, 0.5)), scenario(made, 0.2, load=(0.5, 1.0))))


def test_a_peak_is_aimed_at_what_most_scenarios_need_not_at_the_cautious_forecast():
    made = busy_evening()
    alone = Session().plan(replace(made, scenarios=()))
    assert alone.sites["dc"].import_kw == pytest.approx((340.0, 450.0))
    weighed = Session().plan(made)
    assert weighed.sites["dc"].import_kw == pytest.approx((330.0, 460.0))  # 10 kW wait, as a later peak is 130 kW less
    note = next(note for note in weighed.notes if note.code is Reason.SCENARIOS)
    assert "2 scenarios: peak of month is aimed at 320 kW (450 kW by the forecast alone)" in note.text
    assert note.severity is Severity.INFO
    sure = replace(made, weighing=Weighing(peak_share=0.9))
    assert Session().plan(sure).sites["dc"].import_kw == pytest.approx((340.0, 450.0))


def selling(share):
    """1,000 busy GPUs draw 400 kW and may go down to 200 kW; half as many in one case of ten."""
    offer = ReserveOffer("r", (0.02, 0.02), 1000.0, 0.0, 0.0)
    made = problem(hourly(2), [site(2, price=10.0, reserves=(offer,))], [inputs(pool(value=5.0), 2)])
    return replace(
        made,
        scenarios=(scenario(made, 0.9), scenario(made, 0.1, load=(0.5, 0.5))),
        weighing=Weighing(reserve_share=share),
    )


def test_reserve_is_offered_where_it_can_be_delivered_with_the_asked_probability():
    assert Session().plan(replace(selling(0.95), scenarios=())).reserves["r"].offered_kw == pytest.approx((200, 200))
    cautious = Session().plan(selling(0.95))
    assert cautious.reserves["r"].offered_kw == pytest.approx((100.0, 100.0))
    assert any("reserve of r is held to 100 kW now (200 kW" in note.text for note in cautious.notes)
    assert Session().plan(selling(0.85)).reserves["r"].offered_kw == pytest.approx((200.0, 200.0))


def test_the_quantile_counts_probabilities_and_not_scenarios():
    values, weight = np.array([[3.0], [1.0], [2.0]]), np.array([0.1, 0.2, 0.7])
    assert [quantile(values, weight, share)[0] for share in (0.05, 0.2, 0.21, 0.9, 0.91, 1.0)] == [1, 1, 2, 2, 3, 3]


def test_without_time_the_fan_is_left_out_aloud_and_the_plan_is_that_of_the_forecast(monkeypatch):
    made = busy_evening()
    monkeypatch.setattr(optimizer.session, "FAN_SHARE", 0.0)
    plan = Session().plan(made)
    assert plan.rung is Rung.OPTIMUM
    assert plan.sites["dc"].import_kw == pytest.approx((340.0, 450.0))
    note = next(note for note in plan.notes if note.code is Reason.SCENARIOS_DROPPED)
    assert note.severity is Severity.WARNING
    assert "left out after 0 of 2" in note.text


def many(made, count=12, seed=1):
    """The problem with scenarios of other prices and loads."""
    rng = np.random.default_rng(seed)
    found = []
    for _ in range(count):
        price = (np.array(made.sites[0].price_per_mwh) * rng.lognormal(0.0, 0.3, len(made.grid))).tolist()
        load = np.clip(np.array(made.pools[0].load) * rng.normal(1.0, 0.05, len(made.grid)), 0.0, 1.0).tolist()
        found.append(scenario(made, 1.0 / count, load, price))
    return replace(made, scenarios=tuple(found))


@pytest.mark.parametrize("least", [1, 10**9], ids=["steadily", "plainly"])
def test_only_vectors_change_from_scenario_to_scenario(monkeypatch, least):
    built = []

    class Counting(optimizer.warm.Highs):
        def __init__(self, arrays, **more):
            built.append(arrays)
            super().__init__(arrays, **more)

    for module in (optimizer.warm, optimizer.steady):
        monkeypatch.setattr(module, "Highs", Counting)
    monkeypatch.setattr(optimizer.steady, "LEAST_COLUMNS", least)
    fan, made = Fan(), many(typical_problem())
    cold = fan.sizes(made, 60.0)
    assert len(built) == 1
    assert cold.peak_shift_kw is not None
    again = fan.sizes(made, 60.0)
    assert again.peak_shift_kw == pytest.approx(cold.peak_shift_kw, abs=1e-4)


def later(made):
    """The same problem as it becomes: other prices and loads, a job gone, another further on, a lower limit, no event,
    a pool that draws less now, and a window that has moved."""
    rng, jobs = np.random.default_rng(7), made.jobs
    dearer = tuple((np.array(made.sites[0].price_per_mwh) * rng.lognormal(0.0, 0.1, len(made.grid))).tolist())
    yield many(replace(made, sites=(replace(made.sites[0], price_per_mwh=dearer),)), 4, 2)
    yield many(replace(made, jobs=jobs[1:]), 4, 3)
    yield many(replace(made, jobs=(replace(jobs[0], done_gpu_h=jobs[0].work_gpu_h / 2), *jobs[1:])), 4, 4)
    yield many(replace(made, sites=(replace(made.sites[0], limit_kw=(4000.0,) * len(made.grid)),)), 4, 5)
    yield many(replace(made, events=()), 4, 6)
    pools = tuple(replace(one, draw_now_kw=100.0) for one in made.pools)
    yield many(replace(made, pools=pools), 4, 7)
    yield many(typical_problem(seed=2), 4, 8)


def test_a_fan_that_goes_on_sizes_what_a_fresh_one_does(monkeypatch):
    """From the last basis, with the facts of jobs and the matrix taken over wherever they are the same."""
    accepted, fan, solver = [], Fan(), optimizer.warm.tried

    def watched(*asked):
        found = solver(*asked)
        accepted.append(found.answer is not None)
        return found

    monkeypatch.setattr(optimizer.warm, "tried", watched)
    for made in (many(typical_problem(), 4), *later(typical_problem())):
        monkeypatch.setattr(optimizer.steady, "LEAST_COLUMNS", 1)
        warm = fan.sizes(made, 60.0)
        monkeypatch.setattr(optimizer.steady, "LEAST_COLUMNS", 10**9)
        assert warm.peak_shift_kw == pytest.approx(Fan().sizes(made, 60.0).peak_shift_kw, abs=1e-3)
        assert [note.text for note in warm.notes] == [note.text for note in Fan().sizes(made, 60.0).notes]
    assert sum(accepted) > 0.9 * len(accepted) > 30


def test_time_that_the_last_basis_took_is_counted_and_its_end_says_what_there_was(monkeypatch):
    fan, made = Fan(), many(typical_problem(), 2)
    fan.sizes(made, 60.0)
    monkeypatch.setattr(optimizer.steady, "LEAST_COLUMNS", 1)
    monkeypatch.setattr(optimizer.warm, "tried", lambda *asked: Tried(fan._warm._solver, 40.0))
    note = next(note for note in fan.sizes(made, 60.0).notes if note.code is Reason.SCENARIOS_DROPPED)
    assert re.search(r"left out after 0 of 2: no usable plan within (20|19\.\d+) s", note.text)


@pytest.mark.parametrize("seed", range(12))
def test_plans_that_weigh_scenarios_keep_every_promise(seed):
    made = many(random_problem(seed), 4, seed) if random_problem(seed).pools else random_problem(seed)
    plan = answer(made, None, Session().plan)
    assert check_plan(made, plan) == ()
    assert plan.rung in (Rung.OPTIMUM, Rung.INCUMBENT)


# ---------------------------------------------------------------- voluntary events
def offered(cautious, likely, credit, target=250.0):
    """1,000 GPUs of chat, of which the share `cautious` is busy by the forecast and `likely` in half of the cases. With
    all of them busy, 150 kW less for an hour lose 342.50; with half, 250 kW are all that they draw."""
    terms = {"voluntary": True, "credit_per_kwh": credit, "penalty_per_kwh": 0.0, "rebound_s": 0.0}
    made = problem(
        hourly(4), [site(4)], [inputs(pool(floor=0.5), 4, (cautious,) * 4)],
        events=[event("v", (1, 2), target, 400.0, **terms)],
    )  # fmt: skip
    return replace(made, scenarios=tuple(scenario(made, 0.5, load=(load,) * 4) for load in (cautious, likely)))


@pytest.mark.parametrize(("cautious", "likely"), [(1.0, 0.5), (0.5, 1.0)])
@pytest.mark.parametrize(("credit", "taken"), [(1.1, False), (1.2, True), (2.2, True), (2.4, True)])
def test_an_event_is_taken_where_it_pays_in_the_mean_of_the_scenarios(cautious, likely, credit, taken):
    """It costs 342.50 or nothing, 171.25 in the mean: 1.14 for each of 150 kWh; the forecast says all or nothing."""
    made = offered(cautious, likely, credit)
    plan = Session().plan(made)
    assert plan.events["v"].take_part is taken
    assert plan.events["v"].costs == pytest.approx(171.25, abs=0.01)
    alone = Session().plan(replace(made, scenarios=()))
    assert alone.events["v"].take_part is (cautious < 1.0 or credit > 342.5 / 150)
    note = next(note for note in plan.notes if note.code is Reason.SCENARIOS)
    assert f"taking part in v costs 171.25 USD {'less' if cautious == 1.0 else 'more'} in the mean" in note.text
    assert check_plan(made, plan) == ()


def test_a_firm_event_that_too_many_scenarios_cannot_keep_is_declined():
    """With all GPUs busy the floor leaves 200 kW, with half of them 150 kW."""
    made = offered(0.5, 1.0, 50.0, target=180.0)
    assert Session().plan(replace(made, scenarios=())).taken == {"v"}
    plan = Session().plan(made)
    assert plan.taken == frozenset()
    assert any("v can't be kept in enough of them" in note.text for note in plan.notes)
    seldom = replace(made, weighing=Weighing(reserve_share=0.5))
    assert Session().plan(seldom).taken == {"v"}


def test_voluntary_events_without_time_leave_the_peak_sized_and_say_so(monkeypatch):
    made = replace(busy_evening(), events=offered(1.0, 0.5, 1.2).events)
    full = Fan().sizes(made, 60.0)
    assert full.take_shift is not None
    fan, takes = Fan(), Fan._takes
    monkeypatch.setattr(fan, "_takes", lambda classes, arrays, _: takes(fan, classes, arrays, 0.0))
    sizes = fan.sizes(made, 60.0)
    assert sizes.take_shift is None
    assert sizes.peak_shift_kw == pytest.approx(full.peak_shift_kw)
    assert "answered by the forecast alone" in sizes.notes[-1].text


def test_an_event_that_was_answered_is_not_weighed_by_old_sizes():
    made = replace(offered(1.0, 0.5, 1.2), weighing=Weighing(size_every_s=3600.0))
    session = Session()
    assert session.plan(made).taken == {"v"}
    answered = replace(made, events=tuple(replace(one, opted=True) for one in made.events))
    assert session.plan(answered).sites["dc"].import_kw[1] == pytest.approx(250.0)


# ---------------------------------------------------------------- fewer intervals
def test_merged_intervals_hold_the_same_energy_the_lowest_limit_and_all_chances():
    made = many(replace(typical_problem(), jobs=()), 2)
    site_ = replace(made.sites[0], limit_kw=tuple(4000.0 + n % 7 for n in range(len(made.grid))))
    made = replace(made, sites=(site_,))
    small = merged(made, np.arange(0, len(made.grid), 5))
    validate(small)
    for read in (lambda p: p.sites[0].price_per_mwh, lambda p: p.pools[0].load, lambda p: p.scenarios[1].load[0]):
        before, after = (float(np.dot(read(p), p.grid.hours)) for p in (made, small))
        assert after == pytest.approx(before)
    assert small.sites[0].limit_kw[1] == min(made.sites[0].limit_kw[5:10])
    assert small.grid.edges[1] == made.grid.edges[5]


@pytest.mark.parametrize("minute", range(0, 60, 5))
@pytest.mark.parametrize("widths", [HOURLY, ROUGH])
def test_the_present_interval_stays_and_the_rest_are_hours_of_the_clock(widths, minute):
    grid = planning_grid(START.replace(hour=21, minute=minute), timedelta(hours=40))
    made = problem(grid, [site(len(grid))], [inputs(pool(), len(grid))])
    small, block = shortened(made, widths)
    minutes = [edge.minute for edge in small.grid.edges]
    assert minutes[:2] == [minute, minute + 5 if minute < 55 else 0]
    assert set(minutes[2:-1]) == {0}
    length = {
        one: edge.hour % int(one) for one, edge in zip(small.grid.hours[2:-1], small.grid.edges[2:], strict=False)
    }
    assert length == dict.fromkeys([1.0, 6.0] if widths is HOURLY else [1.0, 2.0, 6.0], 0), "whole ones of the clock"
    assert [small.grid.starts[n] <= start for n, start in zip(block, grid.starts, strict=True)] == [True] * len(grid)
    assert block[0] == 0
    assert block[-1] == len(small.grid) - 1


def test_peaks_are_sized_once_in_a_while_and_at_once_when_a_limit_or_an_event_changes():
    made = replace(busy_evening(), weighing=Weighing(size_every_s=3600.0))
    fan, solved = Fan(), []
    solve = fan._warm.solve
    fan._warm.solve = lambda *asked: solved.append(1) or solve(*asked)

    def count(asked):
        before = len(solved)
        assert fan.sizes(asked, 10.0).peak_shift_kw is not None
        return len(solved) - before

    def limited(kw, **more):
        return replace(made, sites=(replace(made.sites[0], limit_kw=(kw, 900.0), **more),))

    assert [count(made), count(made)] == [3, 0]
    assert [count(limited(900.0)), count(limited(890.0)), count(limited(800.0))] == [3, 0, 3]
    assert [count(replace(limited(800.0), events=(event(hours=(0, 1)),))) for _ in range(2)] == [3, 0]
    assert [count(replace(made, weighing=Weighing())) for _ in range(2)] == [3, 3]
    offer = ReserveOffer("r", (0.02, 0.02), 0.0, 0.0, 0.0)
    assert [count(limited(900.0, reserves=(offer,))) for _ in range(2)] == [3, 3]
    later = tuple(edge + timedelta(minutes=minutes) for minutes in (0, 50, 60) for edge in made.grid.edges)
    at = [replace(made, grid=TimeGrid(later[n : n + 3]), made_at=later[n]) for n in (0, 3, 6)]
    assert [count(each) for each in at] == [3, 0, 3]
