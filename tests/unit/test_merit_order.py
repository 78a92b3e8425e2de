"""What is shed first between two plans: what loses least by the plan's duals, and not what is worth least in tokens.

By hand: a curve of 5, 3 and 2 GPU-hours a kWh above idle, energy at 50 $/MWh. Training is worth 1 $ a GPU-hour, the
batch job's work 3.
"""

from dataclasses import replace
from datetime import timedelta
from itertools import pairwise

import pytest

import scheduler.dwell
from optimizer.domain import Work
from optimizer.facts import WAITING_PER_GPU_H_H
from optimizer.fallback import greedy_plan
from optimizer.solve import solve_problem
from scheduler.engine import Decision, State
from scheduler.orders import PoolOrder, whole_order
from scheduler.safety import floor_cap_w
from scheduler.service import OperatorOrder
from scheduler.trim import shed_orders
from scheduler.worth import pool_value
from tests.support.loops import lab
from tests.support.problems import START, hourly, inputs, job, pool, problem, site

TRAIN = pool("train", Work.TRAINING, count=100, value=1.0, floor=0.5)
BATCH = pool("batch", Work.BATCH, count=100)


def planned(work_gpu_h, solve=solve_problem, price=50.0):
    """Four hours, in which the job's hundred GPUs can do 400 GPU-hours; it is running."""
    made = replace(job("soft", (0, 4), work_gpu_h, 100, value_per_gpu_h=3.0, late_penalty=2.0), gpus=100)
    of = problem(hourly(4), [site(4, price=price)], [inputs(TRAIN, 4), inputs(BATCH, 4)], [made])
    state = State(decision=Decision(solve(of), of), jobs=(made,), grants={"soft": ("batch", 100)})
    state.busy = {"train": 100.0, "batch": 100.0}
    return state


def shed_kw(state, kw):
    """kW taken from each pool when `kw` must go at once, from caps of 400 W."""
    pools = [TRAIN, BATCH]
    base = {of.id: whole_order(None, of, (), START) for of in pools}
    floors = {of.id: floor_cap_w(of) for of in pools}
    orders, left_kw = shed_orders(state, pools, base, floors, kw, START)
    assert left_kw == 0.0
    idle = {"train": 0, "batch": 100 - orders["batch"].active_gpus}
    return {
        name: ((400 - order.cap_w) * (100 - idle[name]) + 300 * idle[name]) / 1000.0 for name, order in orders.items()
    }


def test_work_that_can_as_well_be_done_later_is_shed_first_though_its_tokens_are_worth_more():
    """200 of 400 GPU-hours: each can be done in the last hour at the knee, for 50 $/MWh / 5 = 1 cent."""
    state = planned(200.0)
    assert pool_value(state, TRAIN, START) == 1.0
    assert pool_value(state, BATCH, START) == pytest.approx(0.01 + 3 * WAITING_PER_GPU_H_H)
    taken = shed_kw(state, 10.0)
    assert taken["train"] == 0.0
    assert taken["batch"] == pytest.approx(10.0, abs=0.3)


def test_work_that_would_be_late_is_shed_last():
    """All 400 GPU-hours: what is not done now is late or never done, and loses 3 $ at least."""
    state = planned(400.0)
    assert pool_value(state, BATCH, START) >= 3.0
    taken = shed_kw(state, 10.0)
    assert taken["train"] == pytest.approx(10.0, abs=0.1)
    assert taken["batch"] == 0.0


def test_what_is_taken_from_a_cheap_hour_is_lost_at_the_price_of_the_next_one():
    """165 GPU-hours: 100 in the first hour, 50 at the knee of the second, 15 above it at 100 $/MWh / 3."""
    state = planned(165.0, price=[20.0, 100.0, 400.0, 400.0])
    assert pool_value(state, BATCH, START) == pytest.approx(0.1 / 3.0 + WAITING_PER_GPU_H_H)
    assert state.plan.quotes["batch"].yield_per_gpu_h[3] is None, "no work is planned there"


def test_without_duals_the_least_valuable_running_job_counts():
    state = planned(200.0, solve=greedy_plan)
    assert state.plan.quotes == {}
    assert pool_value(state, BATCH, START) == 5.0
    assert pool_value(State(), BATCH, START) == 0.0


@pytest.mark.parametrize("worth", [0.97, 1.03])
def test_what_every_plan_tells_apart_by_another_digit_moves_no_cap(worth):
    """Two training pools that are worth the same: the one that gives 10 kW goes on, until the other one is clearly
    cheaper."""
    one, other = replace(TRAIN, id="one"), replace(TRAIN, id="other", value_per_gpu_h=worth)
    state = State(busy={"one": 100.0, "other": 100.0})
    base = {of.id: PoolOrder(400, 100) for of in (one, other)}
    floors = {of.id: floor_cap_w(of) for of in (one, other)}
    for gives in ("one", "other"):
        state.held = base | {gives: PoolOrder(300, 100)}
        orders, _ = shed_orders(state, [one, other], base, floors, 10.0, START)
        assert orders == state.held
    clearly = replace(other, value_per_gpu_h=0.9)
    orders, _ = shed_orders(state, [one, clearly], base, floors, 10.0, START)
    assert orders["other"].cap_w == 300 < orders["one"].cap_w == 400
    state.held = base | {"one": PoolOrder(300, 100)}
    assert shed_orders(state, [one, clearly], base, floors, 10.0, START)[0] == orders


# ---------------------------------------------------------------- dwell
SOFT = """
jobs:
  initial:
    - {id: soft, pool: tune, work_gpu_h: 120, max_gpus: 24, deadline: "2022-09-07T08:00:00Z", value_per_gpu_h: 4}
power: {type: simulated, load_noise: 0.04, seed: 3}
"""


def resumed(folder):
    """How often GPUs were given to the queue again in 150 s in which the plan stays and loads flicker; how many it had
    before, and every second."""
    folder.mkdir()
    with lab(folder, lambda text: text.split("jobs:")[0] + SOFT) as made:
        made.run(timedelta(minutes=2), step_s=2)
        before = made.state.tick.active_gpus["tune"]
        made.facade.order(OperatorOrder("limit", site="lab", limit_kw=46.4, by="me"))
        ticks = [made.tick() for _ in range(150) if made.clock.sleep(1) is None]
        row = [tick.active_gpus["tune"] for tick in ticks]
        assert max(tick.import_kw["lab"] for tick in ticks[20:]) < 46.5
        return sum(b > a for a, b in pairwise(row)), before, row


def test_loads_that_flicker_on_a_ramp_take_no_gpus_from_jobs(tmp_path):
    """The site may rise by 10 kW a minute, a sixth of one a second; users alone move it by more than one a second."""
    with lab(tmp_path, lambda text: text.split("jobs:")[0] + SOFT) as made:
        made.run(timedelta(minutes=2), step_s=2)
        made.facade.order(OperatorOrder("limit", site="lab", limit_kw=40.0, by="me"))
        made.run(timedelta(minutes=2), step_s=1)
        made.facade.order(OperatorOrder("limit", site="lab", limit_kw=400.0, by="me"))
        ticks = made.run(timedelta(minutes=3), step_s=1)
        row = [tick.active_gpus["tune"] for tick in ticks]
        assert row[0] == 0
        assert row == sorted(row), "once a GPU is back it stays"
        assert row[-1] == made.state.plan.pools["tune"].active_gpus[0] > 0
        drawn = [tick.import_kw["lab"] for tick in ticks]
        assert max(b - a for k, a in enumerate(drawn) for b in drawn[k : k + 61]) < 10 + 2 * 1.8, "and flicker"


def test_an_operator_who_lifts_a_limit_is_told_why_jobs_wait_a_minute_more(tmp_path):
    with lab(tmp_path, lambda text: text.split("jobs:")[0] + SOFT.replace("0.04", "0.0")) as made:
        made.run(timedelta(minutes=2), step_s=2)
        before = made.state.tick.active_gpus["tune"]
        made.facade.order(OperatorOrder("limit", site="lab", limit_kw=40.0, by="me"))
        for _ in range(4):  # the fast loop alone: the next plan comes later
            made.clock.sleep(1)
            made.tick()
        made.facade.order(OperatorOrder("limit", site="lab", limit_kw=400.0, by="me"))
        made.run(timedelta(seconds=10), step_s=1)
        assert made.state.tick.active_gpus["tune"] < before
        assert "stay taken for a minute" in made.facade.explain("tune")
        made.run(timedelta(minutes=4), step_s=1)  # the site's ramp takes the rest
        assert made.state.tick.active_gpus["tune"] == made.state.plan.pools["tune"].active_gpus[0] > 0
        assert "taken" not in made.facade.explain("tune")


def test_gpus_that_were_taken_from_jobs_come_back_once_a_minute_at_most(tmp_path, monkeypatch):
    rises, before, row = resumed(tmp_path / "with")
    assert min(row) < before
    assert rises <= 3
    monkeypatch.setattr(scheduler.dwell, "DWELL", timedelta(0))
    assert resumed(tmp_path / "without")[0] > 10
