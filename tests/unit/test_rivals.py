"""Rules of thumb against answers worked out by hand: who gives way under a cap, and when jobs run."""

import pytest
import typer

from optimizer.check import check_plan
from optimizer.domain import Rung, Work
from optimizer.reasons import Reason, Severity
from optimizer.rivals import RIVALS
from scheduler.cli.local import chosen_rules
from scheduler.config import ConfigError, load_config
from scheduler.wiring import build_planner
from tests.support.loops import lab
from tests.support.problems import event, hourly, inputs, job, pool, problem, site


def two_pools(target, hours=1, **more):
    """A thousand GPUs each: users with a floor of 80 % (300 W) and training with 50 % (200 W); 800 kW at full power."""
    pools = [inputs(pool("chat", floor=0.8, value=5.0), hours),
             inputs(pool("train", Work.TRAINING, floor=0.5, value=1.0), hours)]  # fmt: skip
    return problem(hourly(hours), [site(hours)], pools, events=[event("e", (0, hours), target, 800.0, **more)])


def draws(name, made):
    plan = RIVALS[name](made, None)
    assert check_plan(made, plan) == ()
    return tuple(plan.pools[of].draw_kw[0] for of in ("chat", "train"))


@pytest.mark.parametrize(
    ("name", "target", "chat", "train"),
    [
        ("uniform_cap", 700, 350, 350),
        ("uniform_cap", 560, 300, 260),  # users are at their floor
        ("fair_tiered", 700, 400 - 100 / 3, 400 - 200 / 3),
        ("fair_tiered", 500, 300, 200),
        ("greedy_tiered", 700, 400, 300),
        ("greedy_tiered", 560, 360, 200),
        ("greedy", 700, 400, 300),
    ],
)
def test_who_gives_way_under_an_event(name, target, chat, train):
    assert draws(name, two_pools(float(target))) == pytest.approx((chat, train), abs=1e-6)


@pytest.mark.parametrize("name", ["do_nothing", "price_threshold"])
def test_voluntary_events_are_ignored_and_firm_ones_obeyed(name):
    assert draws(name, two_pools(700.0, firm=False)) == pytest.approx((400, 400))
    assert draws(name, two_pools(700.0)) == pytest.approx((350, 350))
    assert draws("uniform_cap", two_pools(700.0, firm=False)) == pytest.approx((350, 350))


PRICES = [10.0, 100.0, 10.0, 100.0]


def with_job(price=PRICES, **more):
    pools = [inputs(pool("batch", Work.BATCH, 100), 4)]
    return problem(hourly(4), [site(4, price=price)], pools, [job("j", (0, 4), 200.0, 100, **more)])


@pytest.mark.parametrize(
    ("name", "rates"),
    [
        ("do_nothing", (100, 100, 0, 0)),
        ("uniform_cap", (100, 100, 0, 0)),
        ("price_threshold", (100, 0, 100, 0)),
        ("cheapest_remaining", (100, 0, 100, 0)),
    ],
)
def test_when_jobs_run(name, rates):
    plan = RIVALS[name](with_job(), None)
    assert plan.jobs["j"].work_gpus == pytest.approx(rates)
    assert plan.jobs["j"].undone_gpu_h == 0.0


def test_a_price_rule_runs_what_would_be_late_otherwise():
    plan = RIVALS["price_threshold"](with_job([100.0, 10.0, 100.0, 10.0]), None)
    assert plan.jobs["j"].work_gpus == pytest.approx((0, 100, 0, 100))
    plan = RIVALS["price_threshold"](with_job([10.0, 10.0, 50.0, 100.0], preemptible=False), None)
    assert plan.jobs["j"].work_gpus == pytest.approx((100, 100, 0, 0))
    late = with_job([9.0, 90.0, 90.0, 9.0])
    short = problem(late.grid, late.sites, late.pools, [job("j", (1, 3), 200.0, 100)])
    assert RIVALS["price_threshold"](short, None).jobs["j"].work_gpus == pytest.approx((0, 100, 100, 0))


def test_a_job_uses_as_much_of_the_present_as_does_not_fit_into_what_is_cheaper():
    """`tight` needs an hour of the two and a half before its deadline. Half of it fits into the cheapest, which is cut
    by the deadline, so half is left for the present one. `loose` has none of that haste: it waits."""
    pools = [inputs(pool("batch", Work.BATCH, 200), 6)]
    tight, loose = job("tight", (0, 2.5), 100.0, 100), job("loose", (0, 6), 100.0, 100)
    made = problem(hourly(6), [site(6, price=[50, 90, 20, 80, 10, 10])], pools, [tight, loose])
    plan = RIVALS["cheapest_remaining"](made, None)
    assert check_plan(made, plan) == ()
    assert plan.jobs["tight"].work_gpus == pytest.approx((50, 0, 50, 0, 0, 0))
    assert plan.jobs["loose"].work_gpus == pytest.approx((0, 0, 0, 0, 100, 0))
    late = problem(made.grid, made.sites, pools, [job("late", (-2, 0), 100.0, 100, late_penalty=1.0)])
    assert RIVALS["cheapest_remaining"](late, None).jobs["late"].work_gpus[0] == pytest.approx(100)


def test_training_stops_at_its_floor_while_power_costs_more_than_its_work():
    """An hour at full power takes 0.4 kWh: worth 1 up to 2,500 per MWh."""
    pools = [inputs(pool("train", Work.TRAINING, 100, value=1.0, floor=0.5), 2)]
    plan = RIVALS["price_threshold"](problem(hourly(2), [site(2, price=[2499.0, 2501.0])], pools), None)
    assert plan.pools["train"].draw_kw == pytest.approx((40, 20))


def test_jobs_give_way_before_pools_and_the_least_valuable_first():
    pools = [inputs(pool("train", Work.TRAINING, 100, floor=0.5), 1), inputs(pool("batch", Work.BATCH, 100), 1)]
    jobs = [job("dear", (0, 1), 50.0, 50, value_per_gpu_h=2.0), job("cheap", (0, 1), 50.0, 50, value_per_gpu_h=1.0)]
    made = problem(hourly(1), [site(1)], pools, jobs, [event("e", (0, 1), 65.0, 80.0)])
    plan = RIVALS["greedy_tiered"](made, None)
    assert check_plan(made, plan) == ()
    assert plan.jobs["cheap"].work_gpus == (0.0,)
    assert plan.jobs["dear"].work_gpus == pytest.approx((50.0,))
    assert plan.pools["train"].draw_kw == pytest.approx((40.0,))


def test_a_run_without_a_break_begins_only_where_all_of_it_has_power():
    """The event of the third hour leaves 5 kW above idle: no room for a job of 30 kW, whenever it is begun before."""
    pools = [inputs(pool("batch", Work.BATCH, 100), 6)]
    jobs = [job("run", (0, 6), 200.0, 100, preemptible=False)]
    made = problem(hourly(6), [site(6)], pools, jobs, [event("e", (2, 3), 15.0, 40.0)])
    for name in ("do_nothing", "uniform_cap", "fair_tiered", "greedy_tiered"):
        plan = RIVALS[name](made, None)
        assert check_plan(made, plan) == (), name
        assert plan.jobs["run"].work_gpus == pytest.approx((100, 100, 0, 0, 0, 0)), name
    late = problem(made.grid, made.sites, made.pools, [job("run", (1, 6), 200.0, 100, preemptible=False)], made.events)
    assert RIVALS["do_nothing"](late, None).jobs["run"].work_gpus == pytest.approx((0, 0, 0, 100, 100, 0))


def test_every_plan_says_which_rule_made_it():
    for name, rule in RIVALS.items():
        note = rule(two_pools(700.0), None).notes[0]
        assert (note.code, note.severity, name in note.text) == (Reason.RULE_PLAN, Severity.INFO, True)


def test_a_config_may_put_a_rule_in_the_optimisers_place(tmp_path):
    (tmp_path / "one").mkdir()
    with lab(tmp_path / "one", lambda text: text + "\nsolver: {planner: do_nothing}\n") as made:
        planner = build_planner(made.parts.config)
        made.plan()
        plan = planner.plan(made.state.problem)
        assert plan.rung is Rung.RULE
        assert Reason.RULE_PLAN in {note.code for note in plan.notes}
        planner.close()
    text = (tmp_path / "one" / "gridpace.yaml").read_text().replace("do_nothing", "gready")
    (tmp_path / "wrong.yaml").write_text(text)
    with pytest.raises(ConfigError, match='"gready" is not one of optimum, do_nothing'):
        load_config(tmp_path / "wrong.yaml")


def test_the_command_names_rules_that_exist():
    assert (chosen_rules("none"), chosen_rules("bounds"), chosen_rules("all")) == (False, True, tuple(RIVALS))
    assert chosen_rules("greedy, uniform_cap") == ("greedy", "uniform_cap")
    with pytest.raises(typer.BadParameter, match='"lucky" is not one of'):
        chosen_rules("lucky")


@pytest.mark.parametrize("name", RIVALS)
def test_every_rule_lets_jobs_wait_for_others_and_gangs_be_whole_or_wait(name):
    """`then` waits for `first`, which has the pool to itself for an hour. In the present hour a cap leaves 12 kW above
    the idle cards, 60 GPU equivalents at the most; the gang of 200 GPUs needs 100 and waits."""
    order = [job("first", (0, 6), 40.0, 100, ("batch",)), job("then", (0, 6), 40.0, 100, ("batch",), after=("first",))]
    gang = job("gang", (0, 6), 300.0, 300, ("batch",), min_gpus=200)
    batch = inputs(pool("batch", Work.BATCH, 1000), 6)
    called = event("e", (0, 1), 112.0, 400.0)
    for made in (
        problem(hourly(6), [site(6)], [batch], order),
        problem(hourly(6), [site(6)], [batch], [gang], [called]),
    ):
        plan = RIVALS[name](made, None)
        assert check_plan(made, plan) == ()
        if "gang" in plan.jobs:
            assert plan.jobs["gang"].work_gpus[0] == 0.0
            assert sum(plan.jobs["gang"].work_gpus) == pytest.approx(300)
        else:
            done = next(t for t, rate in enumerate(plan.jobs["then"].work_gpus) if rate > 0)
            assert sum(plan.jobs["first"].work_gpus[:done]) == pytest.approx(40)
            assert sum(plan.jobs["then"].work_gpus) == pytest.approx(40)
