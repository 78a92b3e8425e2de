"""The backtest against arithmetic of another kind: prices summed, the cheapest hours sorted, the future changed."""

import csv
import json
import os
import subprocess
import sys
from dataclasses import replace
from datetime import timedelta
from pathlib import Path

import pandas
import pytest

from adapters.jobs.queue import JobQueue
from scheduler.backtest import BoundBroken, RecordingGap, run_backtest
from scheduler.backtest.drive import drive
from scheduler.backtest.run import assert_bound
from scheduler.backtest.table import write_table
from scheduler.backtest.world import build_world, simulated, window_jobs
from scheduler.clock import VirtualClock
from scheduler.config import load_config
from scheduler.planner import InlinePlanner
from scheduler.shipped import shipped
from tests.support.backtests import hourly_prices, kilowatts, local, uri_prices

CHICAGO, CALIFORNIA = "America/Chicago", "America/Los_Angeles"
ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture(scope="module")
def two_days(tmp_path_factory):
    """Two days before the storm's peak: 12 and 13 February 2021, 142 and 1,186 $/MWh in the mean."""
    config = kilowatts(tmp_path_factory.mktemp("uri"), uri_prices())
    return run_backtest(config, local("2021-02-12", CHICAGO), local("2021-02-14", CHICAGO))


def net(result, name):
    return result.runs[name].account.costs.net


def test_even_work_costs_what_the_price_file_says(two_days):
    prices = hourly_prices(uri_prices(), two_days.start, two_days.end)
    assert len(prices) == 48
    assert net(two_days, "no_control") == pytest.approx(10.0 * sum(prices), rel=1e-9)


def test_voluntary_events_are_answered_settled_and_bounded(tmp_path):
    """Two events of 2 MW on one night: the plan takes the one that pays 400 USD/MWh and declines the one for 0.4."""
    config = kilowatts(tmp_path, uri_prices(), site="")
    text = (
        (tmp_path / "kilowatts.yaml").read_text()
        + "programs:"
        + "".join(
            f"""
  - {{id: {name}, site: here, voluntary: true, credit_per_kwh: {credit}, penalty_per_kwh: 0, rebound: 0m,
     channel: {{type: webhook, secret: "env:NONE"}}, baseline: {{type: declared, kw: 12000}},
     recorded: [{{id: {name}-1, start: "2021-02-12T{hour:02}:00:00-06:00", end: "2021-02-12T{hour + 1:02}:00:00-06:00",
                 notice: 3h, limit_kw: 10000}}]}}"""
            for name, credit, hour in (("rich", 0.4, 9), ("poor", 0.0004, 13))
        )
    )
    (tmp_path / "kilowatts.yaml").write_text(text)
    config = load_config(tmp_path / "kilowatts.yaml")
    result = run_backtest(config, local("2021-02-12", CHICAGO), local("2021-02-13", CHICAGO))
    done = result.gridpace
    assert [event.id for event in done.events] == ["rich-1"]
    assert done.events[0].worst_over_kw <= 1e-6
    assert done.account.costs.event_credit == pytest.approx(0.4 * 2000)
    assert result.runs["no_control"].account.costs.event_credit == 0.0
    assert result.runs["perfect_foresight"].account.costs.event_credit >= 0.4 * 2000 - 1e-6
    assert_bound(result)


def test_parked_gpus_save_what_their_idling_takes(tmp_path):
    """8,000 GPUs that idle at 500 W and sleep at 0: half a day of it is saved, for 0.001 USD a waking."""
    kilowatts(tmp_path, uri_prices(), within="12h")
    text = (tmp_path / "kilowatts.yaml").read_text().replace("idle_w: 0", "idle_w: 90")
    parking = "parking: {parked_w: 0, wake: 10m, wake_cost: 0.001, step: 8, hook: {type: simulated}}"
    (tmp_path / "kilowatts.yaml").write_text(text.replace("work: batch, curve", f"work: batch, {parking}, curve"))
    window = (local("2021-02-12", CHICAGO), local("2021-02-13", CHICAGO))
    parked = run_backtest(load_config(tmp_path / "kilowatts.yaml"), *window)
    (tmp_path / "kilowatts.yaml").write_text(text)
    idle = run_backtest(load_config(tmp_path / "kilowatts.yaml"), *window)
    saved = idle.gridpace.account.energy_kwh - parked.gridpace.account.energy_kwh
    assert saved == pytest.approx(90 * 8 * 12, rel=0.1), "8 MW for 12 h do 96 MWh of work; the rest of the day sleeps"
    costs = parked.gridpace.account.costs
    assert 0 < costs.parking <= 0.001 * 8000 * 4
    assert parked.gridpace.account.missed == ()
    assert costs.net < idle.gridpace.account.costs.net - 0.5 * saved * 0.1
    assert_bound(parked)


def test_the_table_adds_up_to_the_account_in_other_hands(two_days, tmp_path):
    for name, read in (("table.csv", pandas.read_csv), ("table.parquet", pandas.read_parquet)):
        write_table(two_days.table(), tmp_path / name)
        table = read(tmp_path / name)
        site = next(column.removesuffix("_price_per_mwh") for column in table if column.endswith("_price_per_mwh"))
        money = table.groupby("run")[f"{site}_energy_cost"].sum()
        for run, done in two_days.runs.items():
            rows = table[table.run == run]
            assert (rows[f"{site}_import_kw"] * rows.hours).sum() == pytest.approx(done.account.energy_kwh)
            assert money[run] == pytest.approx(done.account.costs.energy)


def test_perfect_foresight_finds_the_cheapest_twelve_hours_of_each_day(two_days):
    days = [hourly_prices(uri_prices(), at, at + timedelta(days=1))
            for at in (two_days.start, two_days.start + timedelta(days=1))]  # fmt: skip
    cheapest = sum(8.0 * sum(sorted(day)[:12]) + 6.0 * sum(day) for day in days)
    assert net(two_days, "perfect_foresight") == pytest.approx(cheapest, rel=1e-6)


def test_gridpace_lies_between_its_rivals_and_does_all_the_work(two_days):
    perfect, mine, none = (net(two_days, name) for name in ("perfect_foresight", "gridpace", "no_control"))
    assert perfect * (1 - 1e-5) <= mine < none, "power that settles in a fraction of a second is worth some cents"
    assert none - mine > 0.9 * (none - perfect)
    energies = [run.account.energy_kwh for run in two_days.runs.values()]
    assert energies == pytest.approx([480_000.0] * 3, rel=1e-5)
    assert not two_days.gridpace.account.missed
    assert two_days.gridpace.account.pools["firm"].done_gpu_h == pytest.approx(288_000.0)
    assert set(two_days.loops.rungs) == {"optimum"}


def test_rules_run_through_the_same_loops_and_are_settled_alike(tmp_path):
    """Six hours of the storm's first day: who buys at once pays more than who waits for the cheap hours."""
    config = kilowatts(tmp_path, uri_prices(), within="6h")
    start = local("2021-02-12", CHICAGO)
    result = run_backtest(config, start, start + timedelta(hours=12), rivals=("do_nothing", "greedy"))
    assert list(result.runs) == ["gridpace", "no_control", "perfect_foresight", "do_nothing", "greedy"]
    assert {"do_nothing", "greedy"} <= set(result.as_dict()["savings"])
    assert "do nothing" in result.text()
    for name in ("gridpace", "do_nothing", "greedy"):
        assert net(result, "perfect_foresight") * (1 - 1e-5) <= net(result, name)
        assert result.runs[name].account.below_floor_gpu_h == pytest.approx(0.0)
    assert set(result.table().run) == set(result.runs)


def test_a_run_that_beats_perfect_foresight_is_an_error(two_days):
    runs = dict(two_days.runs)
    runs["perfect_foresight"] = runs["no_control"]
    assert_bound(two_days)
    with pytest.raises(BoundBroken, match="less than perfect foresight"):
        assert_bound(replace(two_days, runs=runs))


def decisions(config, start, end):
    """Orders and import of every turn of the fast loop, by time."""
    made = simulated(config, None, None)
    requests, _ = window_jobs(made, start, start + timedelta(days=3))
    clock = VirtualClock(start)
    parts = build_world(made, requests, clock, InlinePlanner())
    try:
        assert isinstance(parts.ctx.jobs, JobQueue)
        assert parts.hardware.hall is not None
        driven = drive(parts, clock, parts.hardware.hall, parts.ctx.jobs, end, lambda _share: None)
    finally:
        parts.close()
    readings = zip(driven.recorder.imports, driven.recorder.works, strict=True)
    return dict(zip(driven.recorder.seconds, readings, strict=True))


def test_nothing_is_decided_by_prices_that_are_not_published_yet(tmp_path):
    """The future is changed; until 13:00, when tomorrow's prices are published, not one order may differ."""
    start, published = local("2021-02-12", CHICAGO), local("2021-02-12T13:00", CHICAGO)
    end, tomorrow = local("2021-02-12T18:00", CHICAGO), local("2021-02-13", CHICAGO)
    changed = tmp_path / "changed.csv"
    with uri_prices().open() as source, changed.open("w", newline="") as target:
        rows = list(csv.reader(source))
        stamp = f"{tomorrow:%Y-%m-%dT%H:%M:%SZ}"
        csv.writer(target).writerows([at, "-50" if at[:2] == "20" and at >= stamp else price] for at, price in rows)
    seen = []
    for name, prices in (("as-it-was", uri_prices()), ("changed", changed)):
        folder = tmp_path / name
        folder.mkdir()
        config = kilowatts(folder, prices, within="2d", period="15m")
        seen.append(decisions(config, start, end))
    before = (published - start).total_seconds()
    assert len(seen[0]) == len(seen[1]) > 70
    assert all(seen[0][second] == seen[1][second] for second in seen[0] if second <= before)
    assert any(seen[0][second] != seen[1][second] for second in seen[0] if second > before + 900)


@pytest.fixture(scope="module")
def heat_wave():
    """The afternoon of 6 September 2022 with its nested events, on 12,288 GPUs."""
    config = load_config(shipped("sites/s2-caiso-heat-wave.yaml"))
    start, end = local("2022-09-06T14:30", CALIFORNIA), local("2022-09-06T22:30", CALIFORNIA)
    return run_backtest(config, start, end, control_period=timedelta(minutes=1))


def test_an_event_is_held_in_every_interval_and_leaves_without_a_rebound(heat_wave):
    events = {event.id: event for event in heat_wave.gridpace.events}
    assert {"eea2-0906", "eea3-0906"} <= set(events)
    for event in events.values():
        assert event.target_kw == pytest.approx(0.75 * 4516)
        assert event.worst_over_kw is not None
        assert -0.01 * event.target_kw < event.worst_over_kw <= 0.0, "held, and not given away"
        assert event.rebound_kw is not None
        assert event.rebound_kw <= 0.0
        assert event.delivered_kwh >= event.asked_kwh
    assert heat_wave.gridpace.account.costs.event_penalty == 0.0


def test_training_gives_almost_all_of_an_event_and_answers_to_users_about_a_per_cent(heat_wave):
    hours, pools = 5.0, heat_wave.gridpace.account.pools
    lost = {
        name: (pool.asked_gpu_h - pool.done_gpu_h) / (pool.asked_gpu_h * hours / 8.0) for name, pool in pools.items()
    }
    assert 0.003 < lost["chat"] < 0.02, "about one per cent of the inference of the five hours"
    assert lost["finetune"] > 0.1
    assert lost["pretrain"] > 0.2
    assert net(heat_wave, "perfect_foresight") <= net(heat_wave, "gridpace") < net(heat_wave, "no_control")


def test_ordinary_prices_do_not_throttle_valuable_work(tmp_path):
    """At 1 $ per GPU-hour and a PUE of 1.25 the first cap that pays is at 542 $/MWh; 31 August stays below 300."""
    config = load_config(shipped("sites/s2-caiso-heat-wave.yaml"))
    pools = tuple(pool.model_copy(update={"value_per_gpu_h": 1.0, "floor": 0.5}) for pool in config.pools)
    sites = (config.sites[0].model_copy(update={"pue": config.sites[0].pue.model_copy(update={"base": 1.25})}),)
    changes = {"pools": pools, "sites": sites, "programs": ()}
    start, end = local("2022-08-31T12:00", CALIFORNIA), local("2022-09-01T00:00", CALIFORNIA)
    result = run_backtest(
        config.model_copy(update=changes), start, end, control_period=timedelta(minutes=15), rivals=False
    )
    for pool in result.gridpace.account.pools.values():
        assert pool.done_gpu_h == pytest.approx(pool.asked_gpu_h, rel=1e-9)


def test_a_window_beyond_the_recording_is_refused_by_name(tmp_path):
    config = kilowatts(tmp_path, uri_prices())
    with pytest.raises(RecordingGap, match=r"energy: nothing is recorded from 2021-02-21 06:00Z on"):
        run_backtest(config, local("2021-02-20", CHICAGO), local("2021-02-22", CHICAGO))


def test_the_command_prints_one_object_for_a_program(tmp_path):
    kilowatts(tmp_path, uri_prices(), period="15m")
    command = [Path(sys.executable).with_name("gridpace"), "backtest", "--config", tmp_path / "kilowatts.yaml",
               "--from", "2021-02-12", "--to", "2021-02-12T02:00", "--json"]  # fmt: skip
    done = subprocess.run(
        command, cwd=ROOT, capture_output=True, text=True, check=False, timeout=50, env=dict(os.environ)
    )
    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout)
    assert found["schema_version"] == 1
    assert set(found["runs"]) == {"gridpace", "no_control", "perfect_foresight"}
    assert found["jobs_left_out"] == ["daily-2021-02-12"]
    assert found["runs"]["gridpace"]["energy_kwh"] == pytest.approx(12_000.0)
    assert found["savings"]["perfect_foresight"] == pytest.approx(0.0, abs=0.01)
    assert done.stderr == "", "no progress bar where nobody watches"


@pytest.mark.slow
@pytest.mark.timeout(1500)
@pytest.mark.parametrize(
    ("name", "zone", "first", "last"),
    [("s2-caiso-heat-wave", CALIFORNIA, "2022-08-31", "2022-09-10"), ("s3-uri", CHICAGO, "2021-02-12", "2021-02-21")],
)
def test_whole_scenarios_keep_their_promises(name, zone, first, last):
    config = load_config(shipped(f"sites/{name}.yaml"))
    result = run_backtest(config, local(first, zone), local(last, zone), control_period=timedelta(minutes=1))
    assert net(result, "perfect_foresight") <= net(result, "gridpace") < net(result, "no_control")
    assert set(result.loops.rungs) <= {"optimum", "incumbent"}, "the solver stays bounded whatever the prices"
    for event in result.gridpace.events:
        assert event.worst_over_kw is None or event.worst_over_kw <= 0.0, event
        assert event.rebound_kw is None or event.rebound_kw <= 0.0, event
