"""Gangs, least runs, pauses that cost and jobs that wait for others: small enough to solve by hand."""

from dataclasses import replace

import numpy as np
import pytest

from optimizer.assets import Generator
from optimizer.check import check_plan
from optimizer.domain import JobState, Work
from optimizer.evaluate import evaluate
from optimizer.facts import facts_of
from optimizer.fallback import greedy_plan, safe_plan
from optimizer.highs import solve_arrays
from optimizer.model.arrays import write_arrays
from optimizer.model.build import declare
from optimizer.reasons import Reason
from optimizer.rivals import RIVALS
from optimizer.solve import solve_problem
from optimizer.timegrid import TimeGrid
from optimizer.validate import ProblemError, validate
from optimizer.weights import LATER_CUT, job_weights
from tests.support.problems import HOUR, START, event, hourly, inputs, job, pool, problem, site

HOURS = 6
BATCH = pool("batch", Work.BATCH, 1000)


def running(**more):
    """A job that began an hour ago."""
    of = job("j", (-1, 6), 250.0, 100, **more)
    began = START - HOUR
    return replace(of, state=JobState.RUNNING, gpus=100, started_at=began, running_since=began)


def made(jobs, price=50.0, events=(), of=BATCH, **more):
    return problem(hourly(HOURS), [site(HOURS, price=price, **more)], [inputs(of, HOURS)], jobs, events)


def test_a_gang_takes_its_least_gpus_or_none_in_the_interval_about_to_run():
    """Idle 100 kW; the event leaves 12 kW: 60 GPU equivalents at the knee (0.2 kW each). A gang of 200 GPUs does at
    least 100 there, so it waits; without the gang it takes what there is."""
    called = event("e", (0, 1), 112.0, 400.0)
    free = made([job("j", (0, 6), 300.0, 300, value_per_gpu_h=1.0)], [10, 90, 90, 90, 90, 90], [called])
    assert solve_problem(free).jobs["j"].work_gpus[0] == pytest.approx(60)
    gang = replace(free, jobs=(replace(free.jobs[0], min_gpus=200),))
    plan = solve_problem(gang)
    assert plan.jobs["j"].work_gpus[0] == 0.0
    assert sum(plan.jobs["j"].work_gpus) == pytest.approx(300)
    forced = replace(plan.jobs["j"], work_gpus=(60.0, *plan.jobs["j"].work_gpus[1:]))
    bent = replace(plan, jobs={"j": forced})
    assert any("least 200 GPUs" in fault.text for fault in check_plan(gang, bent))


def test_a_gang_that_no_pool_can_hold_is_said_to_be_impossible():
    plan = solve_problem(made([job("j", (0, 6), 300.0, 300, min_gpus=300)], of=pool("batch", Work.BATCH, 200)))
    assert plan.jobs["j"].undone_gpu_h == pytest.approx(300)


@pytest.mark.parametrize(("cost", "pause"), [(0.0, True), (0.05, True), (1.0, False)])
def test_a_running_job_pauses_for_a_dear_hour_only_where_that_saves_more_than_it_costs(cost, pause):
    """One GPU at the knee does half a GPU equivalent for 0.1 kWh. An hour of it at 900 costs 0.09, less 0.01 elsewhere
    at most: a pause at 0.05 pays, one at 1.0 doesn't, and then a GPU goes on through the hour (most of one: later
    hours are relaxed)."""
    of = running(pause_cost=cost)
    here = made([of], [20.0, 900.0, 20.0, 20.0, 900.0, 900.0])
    plan = solve_problem(here)
    assert (plan.jobs["j"].work_gpus[1] < 1e-6) == pause
    assert plan.jobs["j"].work_gpus[1] <= 0.5 + 1e-6
    assert evaluate(here, plan).pauses == pytest.approx(cost if pause else 0.0)


@pytest.mark.parametrize("gang", [0, 100])
def test_a_pause_now_costs_all_of_it_however_little_work_is_left_for_later(gang):
    """20 GPU-h left of a job that may have 500 GPUs. In an hour at 120 they take 0.28 more than in the hours after it
    at 50; a pause costs 5. Relaxed, a twentieth of its rate would be a twentieth of a start."""
    of = replace(running(pause_cost=5.0), work_gpu_h=20.0, max_gpus=500, min_gpus=gang, gpus=500)
    here = made([of], [120.0, 50.0, 50.0, 50.0, 50.0, 50.0])
    plan, still = solve_problem(here), RIVALS["do_nothing"](here, None)
    assert check_plan(here, still) == ()
    assert evaluate(here, plan).pauses == 0.0
    assert evaluate(here, plan).total >= evaluate(here, still).total - 1e-6


def test_the_bill_counts_whole_pauses_with_their_gpu_hours():
    of = running(pause_cost=3.0, restart_gpu_h=2.0, value_per_gpu_h=1.0)
    here = made([of])
    plan = solve_problem(here)
    gaps = replace(plan.jobs["j"], work_gpus=(0.0, 100.0, 0.0, 100.0, 50.0, 0.0))
    energy = 50.0 / 1000.0 * 0.2  # at the knee
    assert evaluate(here, replace(plan, jobs={"j": gaps})).pauses == pytest.approx(2 * (3.0 + 2.0 * (1.0 + energy)))
    waiting = made([replace(of, state=JobState.WAITING, gpus=0, started_at=None, running_since=None)])
    assert evaluate(waiting, replace(plan, jobs={"j": gaps})).pauses == pytest.approx(1 * (3.0 + 2.0 * (1.0 + energy)))


def test_a_run_in_progress_lasts_as_long_as_it_must_and_gives_way_to_a_firm_event():
    of = running(min_run_h=3.0)
    price = [900.0, 900.0, 900.0, 20.0, 20.0, 20.0]
    rates = solve_problem(made([of], price)).jobs["j"].work_gpus
    assert rates[0] >= 0.5 - 1e-6
    assert rates[1] >= 0.5 - 1e-6
    assert rates[2] == pytest.approx(0.0)
    assert solve_problem(made([replace(of, min_run_h=0.0)], price)).jobs["j"].work_gpus[0] == pytest.approx(0.0)
    called = event("e", (0, 2), 100.0, 400.0)  # exactly the idle cards
    assert solve_problem(made([of], price, [called])).jobs["j"].work_gpus[:2] == pytest.approx((0.0, 0.0))


def gang(**more):
    """One that needs 200 GPUs at 0.1 kW each, 100 GPU equivalents, and must run for three hours."""
    return replace(job("j", (-1, 6), 900.0, 400, min_gpus=200, min_run_h=3.0, value_per_gpu_h=1.0), **more)


@pytest.mark.parametrize(("free_kw", "rate"), [(19.9, 0.0), (15.0, 0.0), (20.0, 100.0), (25.0, 125.0)])
@pytest.mark.parametrize("runs", [True, False], ids=["goes on", "waits"])
def test_a_gang_stops_before_a_firm_event_is_missed_by_however_little(free_kw, rate, runs):
    """Idle cards take 100 kW. Where 20 kW are left, the gang runs with its least; where a tenth of a kW is missing, the
    hour of all its GPUs would be worth far more than the tenth costs, and it stops all the same."""
    began = {"state": JobState.RUNNING, "gpus": 400, "started_at": START - HOUR, "running_since": START - HOUR / 4}
    of = gang(**(began if runs else {}))
    for here in (made([of], events=[event("e", (0, 2), 100.0 + free_kw, 400.0)]), made([of], limit=100.0 + free_kw)):
        plan = solve_problem(here)
        assert plan.jobs["j"].work_gpus[0] == pytest.approx(rate)
        assert max(plan.sites["dc"].import_kw[:2]) <= 100.0 + free_kw + 1e-6
        assert check_plan(here, plan) == ()
    if runs:  # what may be missed does not stop it
        plan = solve_problem(made([of], events=[event("e", (0, 2), 100.0 + free_kw, 400.0, firm=False)]))
        assert plan.jobs["j"].work_gpus[0] >= 100.0 - 1e-6


def test_a_gang_does_not_begin_a_run_that_a_firm_event_would_cut_short():
    """An event in the second hour leaves a tenth of a kW too little for its least: begun now, it could not last."""
    here = made([gang()], events=[event("e", (1, 2), 119.9, 400.0)])
    plan = solve_problem(here)
    assert plan.jobs["j"].work_gpus[0] == 0.0
    assert plan.sites["dc"].import_kw[1] <= 119.9 + 1e-6
    assert check_plan(here, plan) == ()
    assert solve_problem(made([gang()], events=[event("e", (1, 2), 120.0, 400.0)])).jobs["j"].work_gpus[0] > 100.0


def test_a_run_may_begin_before_a_limit_that_cuts_it_and_the_limit_holds():
    """Due in six hours, of which a limit leaves the first two and the last: its least run of three hours gives."""
    of = job("j", (0, 6), 300.0, 100, min_run_h=3.0, value_per_gpu_h=1.0)
    tight = [1e9, 1e9, 100.0, 100.0, 100.0, 1e9]
    here = made([of], limit=tight)
    plan = solve_problem(here)
    assert check_plan(here, plan) == ()
    assert max(np.array(plan.sites["dc"].import_kw)[2:5]) <= 100.0 + 1e-3
    assert plan.jobs["j"].work_gpus == pytest.approx((100.0, 100.0, 0.0, 0.0, 0.0, 100.0))


def test_a_run_whose_work_ends_inside_an_interval_begins_now_at_its_highest_rate():
    """0.3 GPU-h of one card, whose least run of two hours is all of it: 5 free minutes at full speed leave 0.2167 for a
    dear hour. The least rate in that hour is 0.3, by which such a run could not begin before it."""
    grid = TimeGrid((START, START + HOUR / 12, START + HOUR * 13 / 12))
    of = job("j", (0, 13 / 12), 0.3, 1, min_run_h=2.0, value_per_gpu_h=1.0)
    here = problem(grid, [site(2, price=[0.0, 900.0])], [inputs(pool("batch", Work.BATCH, 10), 2)], [of])
    plan = solve_problem(here)
    assert plan.jobs["j"].work_gpus == pytest.approx((1.0, 0.3 - 1 / 12))
    assert check_plan(here, plan) == ()


def test_a_run_that_was_cut_and_the_one_after_it_are_both_cut_by_an_event():
    """Idle cards take the limit of the third hour and the event's cap in the fifth, which lies in the least four hours
    of the run from the second hour and of that from the fourth."""
    of = job("j", (1, 6), 500.0, 100, min_run_h=4.0, value_per_gpu_h=1.0)
    here = made([of], limit=[1e9, 1e9, 100.0, 1e9, 1e9, 1e9], events=[event("e", (4, 5), 100.0, 400.0)])
    plan = solve_problem(here)
    assert check_plan(here, plan) == ()
    assert plan.jobs["j"].work_gpus == pytest.approx((0.0, 100.0, 0.0, 100.0, 0.0, 100.0))


def test_a_later_cut_of_a_run_costs_a_firm_event_nothing():
    """Begun now for four hours, with two hours in between that leave half of its least GPUs: relaxed, each hour that is
    cut in part counts for all hours after it, and a part of a run that the event paid for was the cheaper one."""
    of = job("j", (0, 6), 900.0, 100, min_gpus=100, min_run_h=4.0, value_per_gpu_h=1.0)
    here = made([of], events=[event(str(hour), (hour, hour + 1), 105.0, 400.0) for hour in (1, 3)])
    plan = solve_problem(here)
    assert check_plan(here, plan) == ()
    assert plan.sites["dc"].import_kw == pytest.approx((130.0, 105.0, 130.0, 105.0, 130.0, 130.0))


def test_a_run_that_could_be_elsewhere_gives_way_to_a_firm_event_where_it_is():
    """Its pause costs more than the hour of the event, and its other site is so dear that it stays."""
    of = replace(running(min_run_h=2.0, pause_cost=50.0), pools=("here", "there"), max_gpus=1, gpus=1)
    pools = [inputs(pool(name, Work.BATCH, 2, site=at), HOURS) for name, at in (("here", "dc"), ("there", "lab"))]
    called = event("e", (0, 1), 0.0, 400.0, "lab")  # below idle cards, which take 0.2 kW
    here = problem(hourly(HOURS), [site(HOURS, "dc", 9000.0), site(HOURS, "lab", 40.0)], pools, [of], [called])
    plan = solve_problem(here)
    assert check_plan(here, plan) == ()
    assert plan.sites["lab"].import_kw[:2] == pytest.approx((0.2, 0.5), abs=1e-6)
    assert plan.sites["lab"].over_event_kw[0] == pytest.approx(0.2, abs=1e-6)


def test_a_run_in_its_second_pool_counts_where_its_first_can_not_hold_it():
    """Begun in the pool that has its four GPUs; 0.4 kW above the hard limit then are out of reach, and said."""
    of = job("j", (-1, 6), 24.0, 4, pools=("small", "batch"), min_gpus=4, preemptible=False, started_at=START - HOUR)
    pools = [inputs(pool(name, Work.BATCH, count), HOURS) for name, count in (("small", 1), ("batch", 10))]
    here = problem(hourly(HOURS), [site(HOURS, limit=1.9)], pools, [of])
    for plan in (solve_problem(here), greedy_plan(here), safe_plan(here)):
        assert plan.sites["dc"].over_limit_kw == pytest.approx((0.4,) * HOURS, abs=2e-3)
        assert check_plan(here, plan) == ()


@pytest.mark.parametrize("output_kw", [0.0, 60.0])
def test_a_limit_holds_whatever_the_jobs_are_worth_that_wait_for_a_small_one(output_kw):
    """The small job would need 0.2 kW beyond the limit for an hour, and 400 GPU-hours of the other would be in time; an
    engine at full output is a part of what can be reached."""
    jobs = [job("a", (0, 6), 0.5, 1), job("b", (0, 6), 500.0, 100, after=("a",), value_per_gpu_h=1e4)]
    engine = Generator("gas", (0.0,) * HOURS, (output_kw,) * HOURS, 400.0, False, False)
    here = made(jobs, limit=[100.0 - output_kw, *[1e9] * 5], generators=(engine,))
    plan = solve_problem(here)
    assert plan.sites["dc"].over_limit_kw == (0.0,) * 6
    assert plan.jobs["a"].work_gpus[:2] == pytest.approx((0.0, 0.5))
    assert check_plan(here, plan) == ()


def test_a_run_that_must_last_is_kept_up_on_every_rung_and_the_checker_misses_it_where_it_is_not():
    """Begun 15 min ago for two hours at least: it must not rest now, in the second hour, or in what a rule plans."""
    of = replace(running(min_run_h=2.0), running_since=START - HOUR / 4)
    here = made([of], [900.0, 900.0, 20.0, 20.0, 20.0, 20.0])
    best = solve_problem(here)
    for plan in (best, greedy_plan(here), safe_plan(here), *(rule(here, None) for rule in RIVALS.values())):
        assert plan.jobs["j"].work_gpus[0] >= 0.5 - 1e-6, "one GPU at the knee"
        assert check_plan(here, plan) == ()
    rests = replace(best.jobs["j"], work_gpus=(0.0, *best.jobs["j"].work_gpus[1:]), undone_gpu_h=0.5)
    pools = replace(best.pools["batch"], work_gpus=(0.0, *best.pools["batch"].work_gpus[1:]))
    stopped = replace(best, jobs={"j": rests}, pools={"batch": pools})
    (fault,) = [fault for fault in check_plan(here, stopped) if "least 2 h" in fault.text]
    assert (fault.index, fault.text) == (0, "has not run for its least 2 h, and is stopped")
    full = made([of], [900.0, 900.0, 20.0, 20.0, 20.0, 20.0], limit=100.0)
    blocked = solve_problem(full)
    assert blocked.jobs["j"].work_gpus[0] == 0.0
    assert check_plan(full, blocked) == (), "idle cards take the whole limit"
    once = made([replace(of, min_run_h=3.0)], [900.0, 900.0, 20.0, 20.0, 20.0, 20.0], limit=[100.0, *[1e9] * 5])
    ended = solve_problem(made([replace(of, min_run_h=0.0)], [900.0, 900.0, 20.0, 20.0, 20.0, 20.0]))
    assert ended.jobs["j"].work_gpus[:2] == pytest.approx((0.0, 0.0))
    assert check_plan(once, ended) == (), "the limit has ended the run; an hour later it is another one"


def test_the_bill_counts_what_a_run_that_must_go_on_loses_where_it_rests():
    """Two that began 15 min ago for two hours share a pool of one card. Each has half of it; a rule gives the first all
    of it, which the checker lets it, and by the work alone that was the better plan: the second has time."""
    of = replace(running(min_run_h=2.0), running_since=START - HOUR / 4, gpus=1, max_gpus=1)
    jobs = [of, replace(of, id="k", work_gpu_h=1.0, deadline=START + 48 * HOUR)]
    here = made(jobs, of=pool("batch", Work.BATCH, 1))
    best, rule = solve_problem(here), RIVALS["do_nothing"](here, None)
    assert best.jobs["k"].work_gpus[0] == pytest.approx(0.5)
    assert rule.jobs["k"].work_gpus[0] == 0.0
    assert check_plan(here, rule) == ()
    bill = evaluate(here, rule)
    lost = job_weights(facts_of(here)).undone_per_gpu_h[1]
    assert bill.cuts == pytest.approx(lost * 0.5)  # half of a card's hour; the second hour is not all inside the run
    assert evaluate(here, best).cuts == 0.0
    assert bill.total + bill.cuts > evaluate(here, best).total > bill.total


def test_a_run_that_a_limit_stops_costs_no_more_in_the_model_than_on_the_bill():
    of = replace(running(min_run_h=3.0), running_since=START)
    here = made([of], limit=[100.0, 100.0, 1e9, 1e9, 1e9, 1e9])
    plan, lost = solve_problem(here), job_weights(facts_of(here)).undone_per_gpu_h[0]
    assert evaluate(here, plan).cuts == pytest.approx(lost * 0.5 * (1.0 + 0.5))
    exact = solve_arrays(write_arrays(declare(here)), 10.0)
    assert plan.objective == pytest.approx(-exact.objective)


def test_a_run_that_an_event_stops_shortly_before_its_work_ends_costs_the_bill_what_is_left_of_it():
    """0.3 GPU-h of one card, a quarter of an hour that pays for power, then a firm event for the
    next one, in which 0.05 are left to do: 0.4 of what the least rate does in it."""
    grid = TimeGrid(tuple(START + number * HOUR / 4 for number in range(9)))
    of = job("j", (0, 2), 0.3, 1, min_run_h=2.0, value_per_gpu_h=1.0)
    called, price = event("e", (0.25, 0.5), 1.0, 10.0), [-50_000.0] + [50.0] * 7
    here = problem(grid, [site(8, price=price)], [inputs(pool("batch", Work.BATCH, 10), 8)], [of], [called])
    plan, lost = solve_problem(here), job_weights(facts_of(here)).undone_per_gpu_h[0]
    assert plan.jobs["j"].work_gpus[:2] == pytest.approx((1.0, 0.0))
    assert evaluate(here, plan).cuts == pytest.approx(lost * LATER_CUT * 0.05)
    assert plan.objective == pytest.approx(-solve_arrays(write_arrays(declare(here)), 10.0).objective)
    waits = solve_problem(replace(here, jobs=(replace(of, release=START + HOUR / 2),)))
    assert plan.objective > evaluate(here, waits).total


def test_a_job_begins_only_after_the_jobs_before_it_and_they_are_done_in_time_for_it():
    """Power is cheap at the end, but b needs two hours before its deadline: a is done in the first four."""
    jobs = [job("a", (0, 6), 200.0, 100), job("b", (0, 6), 200.0, 100, after=("a",))]
    here = made(jobs, [50.0, 50.0, 50.0, 50.0, 20.0, 10.0])
    plan = solve_problem(here)
    assert plan.jobs["b"].work_gpus[0] == 0.0
    assert sum(plan.jobs["a"].work_gpus[:4]) == pytest.approx(200)
    assert (plan.jobs["b"].late_gpu_h, plan.jobs["b"].undone_gpu_h) == (0.0, 0.0)
    assert plan.jobs["b"].reasons[0] is Reason.PREDECESSOR
    swapped = replace(plan, jobs={"a": plan.jobs["b"], "b": plan.jobs["a"]})
    assert any("before a is done" in fault.text for fault in check_plan(here, swapped))


def test_a_whole_run_waits_too():
    jobs = [job("a", (0, 6), 200.0, 100), job("b", (0, 6), 200.0, 100, after=("a",), preemptible=False)]
    plan = solve_problem(made(jobs, [90.0, 90.0, 50.0, 50.0, 10.0, 10.0]))
    first = next(t for t, rate in enumerate(plan.jobs["b"].work_gpus) if rate > 0)
    assert sum(plan.jobs["a"].work_gpus[:first]) == pytest.approx(200)
    assert plan.jobs["b"].work_gpus[4:] == pytest.approx((100, 100))


def test_a_circle_is_refused_with_its_jobs():
    jobs = [job("a", (0, 6), 1.0, 1, after=("b",)), job("b", (0, 6), 1.0, 1, after=("a",))]
    with pytest.raises(ProblemError, match=r"jobs\[[ab]\].after: is a circle: [ab] waits for [ab] waits for [ab]"):
        validate(made(jobs))


@pytest.mark.parametrize(("price", "home", "moves"), [(0.0, "there", 0.0), (0.005, "there", 0.5), (0.02, "here", 0.0)])
def test_a_job_moves_to_the_cheap_site_only_where_that_saves_more_than_moving_its_data(price, home, moves):
    """90 GPU equivalents for an hour at 0.2 to 0.5 kWh each take 18 to 45 kWh; 80 per MWh less saves about 1.5 to 3.
    100 GB at 0.005 cost 0.5, at 0.02 with 200 GB 4."""
    size = 200.0 if price == 0.02 else 100.0
    pools = [inputs(pool("here", Work.BATCH, 100, site="dc"), 2), inputs(pool("there", Work.BATCH, 100, site="lab"), 2)]
    work = job("j", (0, 2), 90.0, 100, ("here", "there"), data_gb=size, data_site="dc")
    here = problem(hourly(2), [site(2, "dc", 100.0), site(2, "lab", 20.0)], pools, [work])
    here = replace(here, prices=replace(here.prices, move_per_gb=price))
    plan = solve_problem(here)
    assert plan.jobs["j"].pool == home
    assert evaluate(here, plan).moves == pytest.approx(moves)
    whole = replace(here, jobs=(replace(work, preemptible=False),))
    plan = solve_problem(whole)
    assert (plan.jobs["j"].pool, evaluate(whole, plan).moves) == (home, pytest.approx(moves))
    arrived = replace(here, jobs=(replace(work, data_site="lab"),))
    assert evaluate(arrived, solve_problem(arrived)).moves == 0.0


def test_a_job_is_never_given_more_gpus_than_it_can_use_on_a_slower_pool():
    """At 200 W a card does half: 10 GPUs of the capped pool do 5, though the other pool's would do 10."""
    slow = replace(pool("slow", Work.BATCH, 100), max_cap_w=200.0)
    fast = pool("fast", Work.BATCH, 100, site="lab")
    work = job("j", (0, 2), 8.0, 10, ("slow", "fast"))
    sites = [site(2, "dc", 20.0), site(2, "lab", 900.0)]
    plan = solve_problem(problem(hourly(2), sites, [inputs(slow, 2), inputs(fast, 2)], [work]))
    assert plan.jobs["j"].pool == "slow"
    assert max(plan.jobs["j"].work_gpus) <= 5.0 + 1e-6
    assert sum(plan.jobs["j"].work_gpus) == pytest.approx(8.0)
