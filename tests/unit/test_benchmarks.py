"""Every benchmark ends with the one line that programs read; here on sizes that take a second, no time is judged."""

import json
import subprocess
import sys
from datetime import UTC, datetime, timedelta
from importlib import import_module
from pathlib import Path

import numpy as np
import pytest

from benchmarks.__main__ import names
from benchmarks.support.mix import config_text, mix_from, split_data
from benchmarks.support.plans import Planned
from benchmarks.support.reference import coarse_grid, fine_grid, reference_problem
from benchmarks.support.report import run
from benchmarks.support.rolling import closed_loop, under_caps
from benchmarks.support.twin_fleet import OWN
from optimizer.domain import GridEvent, Plan, PoolPlan, Problem, Span, Work
from optimizer.facts import facts_of
from optimizer.fallback import safe_plan
from optimizer.validate import validate
from scheduler.config import load_config
from tests.support.fake_nvml import STATE
from tests.support.power_worlds import fake_machine
from tests.support.problems import hourly, inputs, job, pool, problem, site
from tests.support.system import require

ROOT = Path(__file__).resolve().parents[2]
TINY = {
    "plan_speed": {
        "jobs": 6,
        "pools": 4,
        "horizon_h": 3.0,
        "instances": 2,
        "many_jobs": 12,
        "many_instances": 1,
        "most_jobs": 40,
        "days": 0,
        "rolling_steps": 3,
    },
    "backtest_speed": {"hours": 0.5, "repeats": 1, "charged_hours": 0.5},
    "cards": {"calls": 2, "seconds": 0.3},
    "batch": {"requests": 200, "turns": 1, "lines": 500},
    "field_trial": {"hours": 0.05, "before_min": 2.0, "halls": 1, "rules": 1},
    "forecasts": {"days": 2, "every_h": 24},
    "footprint": {"seconds": 1.0, "watches": 1, "nodes": 5, "settle_s": 1.0},
    "plan_quality": {
        "days": 1,
        "weeks_apart": 99,
        "markets": ("pjm_2022",),
        "processes": 1,
        "weighed_jobs": 6,
        "weighed_repeats": 1,
    },
    "two_sites": {"days": 1, "ask_every": 9},
    "tracking": {"hours": 0.02, "before_min": 1.0, "after_min": 0.2, "day_h": 0.02, "day_pools": 1, "rules": 1},
    "dr_channels": {"channels": ("dsxflex",), "orders": 1, "flood": 12, "flood_s": 0.1, "webhooks": 8},
    "failover": {"deaths": 1, "lease_s": 2},
    "quotes": {"clients": 20, "seconds": 3.0, "think_s": 0.3},
    "storm": {"cases": 1, "events": 2, "faults": 1},
    "reaction": {"events": 2, "simulated": 4, "phases": 2, "slips": 1, "fleets": ((12, 2, OWN),), "idle_s": 0.5},
}
KEYS = {
    "plan_speed": {
        "cold_ratio",
        "refresh_ratio",
        "overhead_ratio",
        "next_step_ratio",
        "multires_ratio",
        "jobs12_ratio",
        "emergency40_solve_s",
        "emergency40_plan_s",
        "rolling_p99_s",
        "peak_mb",
    },
    "backtest_speed": {"times_real_time", "highs_share", "charged_times_real_time", "scenarios_hourly_ratio"},
    "cards": {"cards", "models", "discover_ms", "look_ms", "meter_ms", "draw_w", "energy_over_draw", "draw_ms"},
    "batch": {"overhead_ratio", "peak_mb", "peak_again_mb", "plan_to_concurrency_s", "lost", "doubled"},
    "field_trial": {"weighted_performance", "over_delivery_points", "lowest_point"},
    "plan_quality": {"share_of_perfect", "rivals", "regret", "knowing_block_means", "best_policy", "scenario_ratio_20"},
    "forecasts": {"mean_error", "median_error", "inside_band_90"},
    "footprint": {"agent_mb", "agent_core_share", "daemon_mb", "daemon_core_share_5_nodes"},
    "two_sites": {"movable_share", "pairs"},
    "tracking": {
        "steady_p95",
        "bursty_p95",
        "old_p95",
        "over_delivery_points",
        "samples_above_limit",
        "rebound_points",
    },
    "dr_channels": {"first_cap_ms", "ledger_ms", "flood_events", "flood_late_ticks", "flood_wrong", "webhooks_per_s"},
    "failover": {"failover_s", "worst_s", "beyond_lease_s"},
    "quotes": {"calls", "p99_s", "prices_p99_s", "ask_p99_s", "lost", "late_ticks", "longest_gap_s"},
    "storm": {"events", "samples_above_limit", "floors_broken", "caps_past_lease", "not_restored"},
    "reaction": {"gpus8_ms", "measured_30pct_s", "users_s", "nodes12_before_s", "nodes12_server_cpu_s"},
}
COUNTED = ("cpu_s", "core_share", "messages_per_s")
SIGNED = {
    "lowest_point", "highest_point", "rebound_points", "worst_points", "bursty_worst_points", "samples_above_limit",
    "bursty_samples_above_limit", "over_delivery_points", "bursty_over_delivery_points", "reversals", "orders_per_h",
    "limited_reversals", "limited_still_price_reversals",
    "lost", "doubled", "late_ticks", "flood_late_ticks", "flood_longest_gap_s", "flood_wrong",
    "webhooks_lost", "webhooks_wrong", "webhooks_late_ticks", "webhooks_longest_gap_s",
    "floors_broken", "caps_past_lease", "not_restored", "acknowledged_lost", "failing_cases",
    "excused_seconds", "unreachable_seconds", "unreachable_untold",
    "worst_kw", "first_behind_pct", "risen_too_fast", "rise_points", "bursty_rise_points", "old_rise_points",
    "old_over_delivery_points", "old_samples_above_limit", "old_worst_points",
}  # fmt: skip
"""Figures that may be nothing, or less."""


SLOW = {
    "dr_channels": pytest.mark.timeout(180),
    "failover": (pytest.mark.slow, pytest.mark.timeout(180)),
    "quotes": pytest.mark.timeout(180),
}
"""Whole daemons with their planners' processes are started."""


@pytest.mark.parametrize("name", [pytest.param(name, marks=SLOW.get(name, ())) for name in names()])
def test_benchmark_ends_with_the_line_that_programs_read(name, monkeypatch, capsys, tmp_path):
    if name in {"cards", "footprint", "reaction", "failover"}:
        require("gcc")
    if name == "dr_channels":
        require("mosquitto")
    monkeypatch.setenv(STATE, "")
    if name == "cards":
        fake_machine(tmp_path, monkeypatch)
    module = import_module(f"benchmarks.{name}")
    monkeypatch.setattr(module, "QUICK", module.Size(**TINY[name]))
    module.main(["--quick", "--seed", "3"])
    *text, last = capsys.readouterr().out.splitlines()
    said = json.loads(last)
    assert set(said) == {"name", "figures", "machine", "seed"}
    assert (said["name"], said["seed"]) == (name, 3)
    assert KEYS[name] <= set(said["figures"])
    figures = {key: value for key, value in said["figures"].items() if key not in SIGNED}
    # What is over in a moment may cost less than the hundredth of a second in which the system counts.
    assert all(value > 0 for key, value in figures.items() if not isinstance(value, dict) and not key.endswith(COUNTED))
    assert all(value >= 0 for value in figures.values() if not isinstance(value, dict))
    assert {"cpu", "cores", "python", "highspy"} <= set(said["machine"])
    assert text


def test_the_field_trial_takes_jobs_and_curves_of_your_own(tmp_path):
    (tmp_path / "jobs.csv").write_text("id,curve,work,gpus,floor\nmine,our/llm,interactive,8,0.8\n")
    (tmp_path / "power_cap_curves.csv").write_text(
        "source,gpu,workload,batch,cap_w,power_w,rel_throughput\nhere,our,llm,,300,290,0.8\nhere,our,llm,,700,600,1.0\n"
    )
    mix = mix_from(tmp_path)
    assert [(job.id, job.gpus) for job in mix.jobs] == [("mine", 8)]
    assert [point.draw_w for point in mix.curves["our/llm"].points] == [290.0, 600.0]
    (tmp_path / "mine.yaml").write_text(config_text(mix, 1))
    assert load_config(tmp_path / "mine.yaml").pools[0].count == 8
    assert split_data(["--quick", "--data", "x", "--seed", "3"]) == (Path("x"), ["--quick", "--seed", "3"])
    with pytest.raises(ValueError, match="no such folder"):
        mix_from(tmp_path / "nowhere")


def test_cards_are_asked_and_nothing_of_them_is_changed(tmp_path, monkeypatch, capsys):
    """Through NVIDIA's own binding: what each card is like, and what the counters say of its draw."""
    fake = fake_machine(tmp_path, monkeypatch, 2)
    fake.set_all(settle_down_s=1e-6)
    fake.set(0, limit_w=500, bmc_w=450, demand_w=400)
    fake.set(1, demand_w=200, persistence=0)
    before = fake.limits_w()
    module = import_module("benchmarks.cards")
    monkeypatch.setattr(module, "QUICK", module.Size(calls=3, seconds=1.0))
    module.main(["--quick"])
    *text, last = capsys.readouterr().out.splitlines()
    figures = json.loads(last)["figures"]
    assert fake.limits_w() == before
    assert sum(fake.state(gpu)["set_calls"] + fake.state(gpu)["lock_calls"] for gpu in (0, 1)) == 0
    assert (figures["cards"], figures["models"]) == (2, {"NVIDIA H100 80GB HBM3": 2})
    assert figures["draw_w"] == pytest.approx(600.0, rel=0.02)
    assert figures["energy_over_draw"] == pytest.approx(1.0, abs=0.25)
    assert {f"{call}_ms" for call in module.CALLS} <= set(figures)
    said = "limits 200 to 700 W, default 700, set 500, enforced 450; draws 400.0 W, SM clocks 210 to 1980 MHz"
    assert any(line.endswith(said) for line in text)
    assert any("set 700, enforced 700" in line and line.endswith(", persistence mode off") for line in text)


def test_cards_that_tell_no_draw_give_no_ratio_of_it(tmp_path, monkeypatch, capsys):
    fake = fake_machine(tmp_path, monkeypatch, 1)
    fake.set_all(settle_down_s=1e-6, demand_w=0, idle_w=0, draw_w=0)
    module = import_module("benchmarks.cards")
    monkeypatch.setattr(module, "QUICK", module.Size(calls=1, seconds=0.3))
    module.main(["--quick"])
    *text, last = capsys.readouterr().out.splitlines()
    figures = json.loads(last)["figures"]
    assert "the cards count no energy, or tell no draw" in text
    assert "meter_ms" in figures
    assert not {"draw_w", "energy_over_draw"} & set(figures)


def test_where_no_card_answers_that_is_said_and_no_figure_is(tmp_path, monkeypatch, capsys):
    fake = fake_machine(tmp_path, monkeypatch, 1)
    fake.header.no_driver = 1
    import_module("benchmarks.cards").main(["--quick"])
    *text, last = capsys.readouterr().out.splitlines()
    assert json.loads(last)["figures"] == {}
    assert text[-1].startswith("not measured: NVML: the NVIDIA driver is not loaded")


@pytest.mark.parametrize(("climbs_s", "rise_points"), [(75, 0.0), (1, 24.7)])
def test_tracking_sees_a_site_that_springs_back_below_its_limit(climbs_s, rise_points):
    """Twenty points in a minute are allowed; a site that was five too low may not make up for them in a second."""
    module = import_module("benchmarks.tracking")
    start = datetime(2025, 5, 3, 21, tzinfo=UTC)
    end = start + timedelta(seconds=300)
    event = GridEvent("e", 1, "lab", start, end, (Span(start, end, 80.0),), 100.0, ramp_in_s=0.0, ramp_out_s=60.0)
    seconds = np.arange(480)
    kw = 75.0 + 25.0 * np.clip((seconds - 360.0) / climbs_s, 0.0, 1.0)
    at = [start + timedelta(seconds=int(second)) for second in seconds]
    score = module.judged(module.Seen(at, list(np.cumsum(kw) / 3600.0), event))
    assert score.above == 0
    assert score.rise_points == pytest.approx(rise_points, abs=0.1)


def test_a_part_of_tracking_says_nothing_of_the_others(monkeypatch, capsys):
    module = import_module("benchmarks.tracking")
    monkeypatch.setattr(module, "QUICK", module.Size(**TINY["tracking"]))
    module.main(["--quick", "--only", "day", "--seed", "3"])
    assert set(json.loads(capsys.readouterr().out.splitlines()[-1])["figures"]) == {
        "reversals", "orders_per_h", "limited_reversals", "limited_orders_per_h", "limited_still_price_reversals",
        "limited_still_price_orders_per_h",
    }  # fmt: skip
    assert module.split_only(["--only=steady", "--quick"]) == (("steady",), ["--quick"])
    assert module.split_event(["--event", "0.5", "--quick"]) == (0.5, ["--quick"])
    with pytest.raises(ValueError, match="one of steady, bursty, old, rivals, day"):
        module.split_only(["--only"])
    with pytest.raises(ValueError, match="hours of an event"):
        module.split_event(["--event=25"])


def test_what_was_not_measured_is_absent(capsys):
    run("some", "about", lambda quick, seed: {"known": 1.23456, "unknown": None}, [])
    assert json.loads(capsys.readouterr().out)["figures"] == {"known": 1.235}


def test_all_benchmarks_are_listed_with_a_line_each():
    command = [sys.executable, "-m", "benchmarks", "--list"]
    said = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True).stdout.splitlines()
    assert [line.split()[0] for line in said] == names()
    assert all(len(line.split()) > 5 for line in said)


def test_the_reference_problem_is_the_same_day_on_both_grids():
    fine, coarse = reference_problem(5, fine_grid()), reference_problem(5, coarse_grid())
    validate(fine)
    validate(coarse)
    assert (fine.jobs, fine.events) == (coarse.jobs, coarse.events)
    assert [inputs.pool for inputs in fine.pools] == [inputs.pool for inputs in coarse.pools]
    assert (len(fine.grid), len(fine.pools), len(fine.jobs)) == (288, 20, 1000)
    assert min(fine.sites[0].price_per_mwh) < 0
    assert {inputs.pool.work for inputs in fine.pools} == {Work.INTERACTIVE, Work.BATCH}
    assert fine.jobs != reference_problem(6, fine_grid()).jobs


def test_a_day_in_closed_loop_costs_what_its_planner_loses() -> None:
    planned, plans = Planned(), iter(range(10**6))

    def careless(problem: Problem) -> Plan:
        """The floor's plan is the optimum, those of the day keep every pool at its floor."""
        return planned.plan(problem) if next(plans) == 0 else safe_plan(problem)

    day = closed_loop(1, 12, 4, 3.0, planned.plan)
    assert -1e-6 <= day.loss < 0.2
    assert day.bound <= day.optimum * (1 + 1e-6)
    assert closed_loop(1, 12, 4, 3.0, careless).loss > day.loss + 0.01


def test_in_a_day_that_is_lived_a_job_does_no_more_than_its_gpus_under_the_cap_of_their_pool() -> None:
    """SIMPLE: half of the work for 100 W above the idle 100 W, under a cap of 200 W."""
    jobs = [job("fast", (0, 2), 20.0, 20), job("slow", (0, 2), 40.0, 80)]
    facts = facts_of(problem(hourly(2), [site(2)], [inputs(pool("batch", Work.BATCH, 100), 2)], jobs))
    planned = np.array([[20.0, 0.0], [20.0, 40.0]])
    orders = PoolPlan((14.0, 22.0), (40.0, 40.0), (199, 199), (80, 80), (None, None))
    done, draw_kw = under_caps(facts, facts.pools[0], slice(0, 2), orders, planned)
    assert done == pytest.approx(np.array([[10.0, 0.0], [20.0, 40.0]]))
    assert draw_kw == pytest.approx([10.0 + (20 + 40) * 0.1, 22.0])  # where nothing is short, as planned
