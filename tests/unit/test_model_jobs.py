"""Jobs in the model, solved by hand: cheapest hours, windows, deadlines, rates, runs without a break, far deadlines."""

from datetime import timedelta

import pytest

from optimizer.domain import JobState, Work
from optimizer.reasons import Reason
from optimizer.solve import solve_problem
from tests.support.problems import START, event, hourly, inputs, job, pool, problem, site

HOURS = 6
BATCH = pool("batch", Work.BATCH, 1000)


def planned(jobs, price=50.0, pools=(BATCH,), **more):
    made = problem(hourly(HOURS), [site(HOURS, price=price, **more)], [inputs(of, HOURS) for of in pools], jobs)
    return solve_problem(made)


def test_work_goes_to_the_cheapest_hours_of_its_window():
    plan = planned([job("j", (1, 5), 200.0, 100)], [10.0, 90.0, 40.0, 20.0, 80.0, 5.0])
    # a unit takes 0.2 kWh slowly, then 0.33, at the top 0.5: at 20 all of it pays, at 40 two parts, at 80 one
    assert plan.jobs["j"].work_gpus == pytest.approx((0, 0, 80, 100, 20, 0))
    assert plan.pools["batch"].cap_w[2:5] == (300, 400, 200)
    reasons = plan.jobs["j"].reasons
    assert reasons[:4] == (Reason.NOT_RELEASED, Reason.HIGH_PRICE, Reason.CHEAP_WINDOW, Reason.CHEAP_WINDOW)
    assert reasons[5] is Reason.WORK_DONE
    assert plan.jobs["j"].finish == START + timedelta(hours=5)


def test_parts_of_an_hour_count_for_what_they_are():
    plan = planned([job("j", (0.75, 2.5), 175.0, 100)])
    assert plan.jobs["j"].work_gpus[:4] == pytest.approx((25, 100, 50, 0))
    assert plan.jobs["j"].finish == START + timedelta(hours=2.5)
    assert (plan.jobs["j"].late_gpu_h, plan.jobs["j"].undone_gpu_h) == (0.0, 0.0)


def test_a_deadline_that_can_be_met_is_met_whatever_power_costs():
    plan = planned([job("j", (0, 2), 200.0, 100, late_penalty=0.01)], [9000.0, 9000.0, 10.0, 10.0, 10.0, 10.0])
    assert plan.jobs["j"].late_gpu_h == 0.0
    assert plan.jobs["j"].work_gpus[:2] == pytest.approx((100, 100))
    assert plan.notes == ()


def test_optional_work_is_done_when_it_pays():
    for value, done in ((0.0, 0.0), (1.0, 100.0)):
        plan = planned([job("j", (0, 2), 100.0, 100, undone_penalty=0.0, value_per_gpu_h=value)], 1000.0)
        assert 100.0 - plan.jobs["j"].undone_gpu_h == pytest.approx(done)


def test_work_that_cannot_be_in_time_is_flagged_done_late_or_said_to_be_undone():
    plan = planned([job("j", (0, 1), 300.0, 100)])
    assert plan.jobs["j"].work_gpus == pytest.approx((100, 100, 100, 0, 0, 0))
    assert plan.jobs["j"].late_gpu_h == pytest.approx(200)
    assert [(note.code, note.subject) for note in plan.notes] == [(Reason.DEADLINE_UNREACHABLE, "j")]
    assert "need 3.0 h" in plan.notes[0].text
    endless = planned([job("j", (0, 1), 900.0, 100)])
    assert endless.jobs["j"].undone_gpu_h == pytest.approx(300)
    assert endless.jobs["j"].finish is None


def test_jobs_that_fit_alone_but_not_together_are_flagged_too():
    plan = planned([job(name, (0, 1), 800.0, 1000) for name in "ab"])
    assert sum(plan.jobs[name].late_gpu_h for name in "ab") == pytest.approx(600)
    assert {note.code for note in plan.notes} == {Reason.DEADLINE_UNREACHABLE}


def test_a_far_job_neither_rushes_nor_stalls():
    price = [100.0, 100.0, 20.0, 100.0, 100.0, 100.0]
    easy = planned([job("j", (0, 48), 300.0, 100)], price).jobs["j"]
    assert easy.work_gpus == pytest.approx((0, 0, 100, 0, 0, 0))
    assert easy.undone_gpu_h == 0.0
    pressed = planned([job("j", (0, 8), 750.0, 100)], price).jobs["j"]
    assert sum(pressed.work_gpus) == pytest.approx(550)


def test_a_job_without_a_batch_pool_is_said_to_be_impossible():
    plan = planned([job("j", (0, 2), 10.0, 10, ("chat",))], pools=(BATCH, pool()))
    assert plan.jobs["j"].undone_gpu_h == pytest.approx(10)
    assert plan.jobs["j"].reasons[0] is Reason.DEADLINE_UNREACHABLE
    assert "none of its pools" in plan.notes[0].text


def test_done_and_cancelled_jobs_ask_for_nothing():
    plan = planned([job("j", (0, 2), 10.0, 10, state=JobState.CANCELLED), job("k", (0, 2), 10.0, 10, done_gpu_h=10.0)])
    assert {plan.jobs[name].reasons[0] for name in "jk"} == {Reason.WORK_DONE}
    assert plan.pools["batch"].work_gpus == (0.0,) * HOURS


def test_a_run_without_a_break_starts_where_it_is_cheapest_as_a_whole():
    price = [70.0, 10.0, 900.0, 30.0, 30.0, 60.0]
    plan = planned([job("j", (0, 6), 200.0, 100, preemptible=False)], price)
    assert plan.jobs["j"].work_gpus == pytest.approx((0, 0, 0, 100, 100, 0))
    assert planned([job("j", (0, 6), 200.0, 100)], price).jobs["j"].work_gpus[1] == pytest.approx(100)


def test_a_running_job_that_may_not_be_interrupted_goes_on_through_an_event():
    running = job("j", (-1, 6), 250.0, 100, preemptible=False, started_at=START - timedelta(hours=1))
    called = event("e", (0, 3), 100.0, 400.0)
    made = problem(hourly(HOURS), [site(HOURS)], [inputs(BATCH, HOURS)], [running], [called])
    plan = solve_problem(made)
    assert plan.jobs["j"].work_gpus == pytest.approx((100, 100, 50, 0, 0, 0))
    assert plan.jobs["j"].reasons[0] is Reason.NOT_PREEMPTIBLE
    assert plan.sites["dc"].over_event_kw[0] > 10
    assert Reason.EVENT_UNREACHABLE in {note.code for note in plan.notes}


def test_a_run_that_would_break_an_event_is_not_started_before_it():
    called = event("e", (2, 4), 110.0, 400.0)
    waits = job("j", (0, 6), 200.0, 100, preemptible=False)
    made = problem(
        hourly(HOURS), [site(HOURS, price=[50, 10, 10, 10, 90, 90])], [inputs(BATCH, HOURS)], [waits], [called]
    )
    assert solve_problem(made).jobs["j"].work_gpus == pytest.approx((100, 100, 0, 0, 0, 0))


def test_a_long_run_is_late_rather_than_carried_through_an_event_and_lateness_after_the_horizon_counts():
    called = event("e", (3, 4), 110.0, 400.0)
    long = job("j", (0, 6), 400.0, 100, preemptible=False)
    made = problem(hourly(HOURS), [site(HOURS)], [inputs(BATCH, HOURS)], [long], [called])
    plan = solve_problem(made)
    assert plan.sites["dc"].over_event_kw == (0.0,) * HOURS
    assert plan.jobs["j"].work_gpus == pytest.approx((0, 0, 0, 0, 100, 100))
    assert plan.jobs["j"].late_gpu_h == pytest.approx(200)
    assert plan.jobs["j"].finish == START + timedelta(hours=8)
    assert [(note.code, note.subject) for note in plan.notes] == [(Reason.DEADLINE_UNREACHABLE, "j")]


def test_work_goes_to_the_site_where_power_is_cheap_and_each_job_has_one_home():
    pools = [inputs(pool("here", Work.BATCH, 100, site="dc"), 2), inputs(pool("there", Work.BATCH, 100, site="lab"), 2)]
    sites = [site(2, "dc", 100.0), site(2, "lab", 20.0)]
    jobs = [job(name, (0, 2), 90.0, 100, ("here", "there")) for name in "abc"]
    plan = solve_problem(problem(hourly(2), sites, pools, jobs))
    assert sum(plan.pools["there"].work_gpus) > sum(plan.pools["here"].work_gpus)
    assert sum(orders.undone_gpu_h + orders.late_gpu_h for orders in plan.jobs.values()) == pytest.approx(0, abs=1e-6)
    for pool_id in ("here", "there"):
        mine = [orders.work_gpus for orders in plan.jobs.values() if orders.pool == pool_id]
        assert [sum(row) for row in zip(*mine, strict=True)] == pytest.approx(plan.pools[pool_id].work_gpus)


def test_a_tight_job_keeps_the_whole_pool_at_the_pace_it_needs():
    tight, loose = job("tight", (0, 2), 190.0, 100), job("loose", (0, 6), 100.0, 100)
    plan = planned([tight, loose])
    orders = plan.pools["batch"]
    assert all(orders.cap_w[t] >= 370 for t in (0, 1))
    assert all(orders.cap_w[t] == 200 for t in range(2, 6) if orders.work_gpus[t] > 1e-6)


@pytest.mark.parametrize("preemptible", [True, False])
@pytest.mark.parametrize("hours", [(0, 6), (2, 6), (0, 40)], ids=["at once", "at its release", "due after the horizon"])
def test_work_that_gains_nothing_by_waiting_is_done_at_once(hours, preemptible):
    plan = planned([job("j", hours, 100.0, 50, preemptible=preemptible)])
    rate, needs_h = (25.0, 4) if preemptible else (50.0, 2)  # at the knee, or at full speed
    assert plan.jobs["j"].work_gpus == pytest.approx([rate * (0 <= t - hours[0] < needs_h) for t in range(HOURS)])


def test_a_cent_on_a_megawatt_hour_is_worth_no_wait_and_a_dollar_is_worth_an_hour():
    waits = [planned([job("j", (0, 6), 10.0, 100)], [50.0, 50.0 - less, *[50.0] * 4]).jobs["j"] for less in (0.01, 1.0)]
    assert [orders.work_gpus[:2] == pytest.approx((10.0, 0.0)) for orders in waits] == [True, False]
