"""A battery, an engine and panels in the daemon's loops: planned, set under a lease, counted once, lost and safe."""

from datetime import timedelta

import pytest

from adapters.ports import DeviceReading, EventTarget
from optimizer.reasons import Reason
from scheduler.backtest import run_backtest
from scheduler.config import load_config
from scheduler.flexibility import available_kw, flexibility
from scheduler.metrics import Metrics
from scheduler.supply import release_devices
from scheduler.web import tables
from scheduler.web.board import gather
from tests.support.loops import SITE, START, lab, order

SUPPLIED = SITE.replace(
    "     ramp_kw_per_min: {up: 10, down: 40}}",
    "     batteries: [{id: bess, energy_kwh: 40, charge_kw: 20, discharge_kw: 20, wear_per_kwh: 0.01,"
    " device: {type: simulated, stored_share: 0.5}}],\n"
    "     generators: [{id: roof, output: solar},"
    " {id: gas, max_kw: 15, cost_per_mwh: 150, device: {type: simulated}}]}",
).replace(
    "signals:\n  - {id: energy, type: constant, unit: USD/MWh, value: 60}\n",
    "signals:\n  - {id: solar, type: constant, kind: generation, unit: kW, value: 6}\n"
    "  - {id: energy, type: profile, unit: USD/MWh, timezone: America/Los_Angeles, hours: ["
    + ", ".join(["60"] * 14 + ["500"] + ["60"] * 9)
    + "]}\n",
)  # fmt: skip


def test_the_dear_hour_is_met_from_the_battery_and_the_engine_and_the_meter_shows_it_once(tmp_path):
    with lab(tmp_path, lambda _: SUPPLIED) as site:  # 14:00 local: the dear hour begins now
        site.tick()
        ticks = site.run(timedelta(minutes=3))
        devices = {item.id: item for item in ticks[-1].supply}
        assert devices["bess"].kw == pytest.approx(devices["bess"].planned_kw, abs=0.5)
        assert devices["bess"].kw < -1.0
        assert devices["gas"].kw == pytest.approx(-15.0)
        assert devices["roof"].planned_kw == pytest.approx(-6.0)
        it_kw = sum(ticks[-1].pool_kw.values()) + 2
        expected = 1.2 * it_kw + devices["bess"].kw + devices["gas"].kw - 6.0
        assert ticks[-1].import_kw["lab"] == pytest.approx(expected, rel=0.01)
        assert ticks[-1].planned_kw["lab"] == pytest.approx(expected, rel=0.05)
        assert devices["bess"].stored_kwh < 20.0
        assert "bess 50% full" in site.state.report.sentence()
        text = Metrics()
        text.observe_tick(ticks[-1])
        assert b'gridpace_device_power_watts{device="gas"} -15000.0' in text.render()
        board = gather(site.facade, "lab")
        assert all(word in tables.supply(board) for word in ("bess", "gas", "roof", "must-take"))
        release_devices(site.ctx, site.state, site.clock.now())
        assert site.ctx.devices["bess"].read().setpoint_kw == 0.0


def test_a_surprise_is_met_from_the_battery_before_work_is_slowed_down(tmp_path):
    calm = SUPPLIED.replace("500", "60").replace("limit_kw: 100", "limit_kw: 200")
    with lab(tmp_path, lambda _: calm) as site:
        site.tick()
        ticks = site.run(timedelta(minutes=2))
        before, caps = ticks[-1].import_kw["lab"], dict(ticks[-1].cap_w)
        now = site.clock.now()
        site.facade.accept(
            order(now, now + timedelta(minutes=10), firm=True, ramp_in_s=0.0, targets=_limit(now, before - 6.0))
        )
        for _ in range(4):
            tick = site.tick()
            site.clock.sleep(1.0)
        assert tick.import_kw["lab"] <= before - 6.0 + 0.5
        assert tick.cap_w == caps
        assert {item.id: item.kw for item in tick.supply}["bess"] < -4.0


def _limit(now, kw):
    return (EventTarget(now, now + timedelta(minutes=10), limit_kw=kw),)


def test_a_lost_battery_is_told_of_planned_without_and_the_limit_holds(tmp_path):
    tight = SUPPLIED.replace("limit_kw: 100", "limit_kw: 52").replace("{id: gas, max_kw: 15", "{id: gas, max_kw: 1")
    with lab(tmp_path, lambda _: tight) as site:
        site.tick()
        site.run(timedelta(minutes=2))
        battery = site.ctx.devices["bess"]
        assert site.state.problem.sites[0].batteries[0].id == "bess"
        battery.lost = True
        tick = site.tick()
        assert Reason.DEVICE_LOST in {note.code for note in tick.notes}
        assert next(item for item in tick.supply if item.id == "bess").lost
        site.run(timedelta(minutes=20))
        assert site.state.problem.sites[0].batteries == ()
        assert battery._in_force(site.clock.now()) == 0.0  # its lease has ended, nobody could renew it
        assert site.state.tick.import_kw["lab"] <= 52.0
        battery.lost = False
        site.tick()
        site.plan()
        assert site.state.problem.sites[0].batteries[0].id == "bess"


def test_a_set_point_that_did_not_stick_is_written_again_and_told(tmp_path):
    with lab(tmp_path, lambda _: SUPPLIED) as site:
        site.tick()
        site.run(timedelta(seconds=10))
        battery = site.ctx.devices["bess"]
        wanted = battery.setpoint_kw
        battery.setpoint_kw = 5.0  # another hand
        tick = site.tick()
        assert Reason.SETPOINT_DRIFT in {note.code for note in tick.notes}
        assert battery.setpoint_kw == pytest.approx(wanted, abs=1.0)


def test_nothing_is_set_where_it_only_observes(tmp_path):
    with lab(tmp_path, lambda _: SUPPLIED.replace("mode: control", "mode: observe")) as site:
        site.tick()
        site.run(timedelta(minutes=1))
        reading: DeviceReading = site.ctx.devices["bess"].read()
        assert (reading.kw, reading.setpoint_kw) == (0.0, 0.0)
        assert reading.at > START


def test_a_backtest_counts_wear_fuel_and_what_is_left_and_never_beats_foresight(tmp_path):
    text = SUPPLIED.replace("horizon: 12h", "horizon: 4h").replace("max_gpus: 12", "max_gpus: 1")
    spin = "     reserves: [{id: spin, price_per_kw_h: 0.01, max_kw: 6, notice: 1m, sustain: 10m}],\n     batteries:"
    text = text.replace("     batteries:", spin).replace("cost_per_mwh: 150", "cost_per_mwh: 150, start_cost: 0.5")
    (tmp_path / "secret").write_text("a-secret-for-tests-only")
    (tmp_path / "gridpace.yaml").write_text(text)
    config = load_config(tmp_path / "gridpace.yaml")
    start = START - timedelta(minutes=30)
    found = run_backtest(config, start, start + timedelta(hours=2), control_period=timedelta(seconds=30))
    ours, best = found.runs["gridpace"].account.costs, found.runs["perfect_foresight"].account.costs
    idle = found.runs["no_control"].account.costs
    assert (idle.storage, idle.generation) == (0.0, 0.0)
    assert ours.generation == pytest.approx(0.150 * 15.0 + 0.5, rel=0.05)  # the engine for the dear hour, started once
    assert ours.storage > 0.01
    assert -0.01 * 6 * 2 <= ours.reserve < -0.01 * 6, "held ready for most of the two hours"
    assert (best.reserve, idle.reserve) == (pytest.approx(-0.01 * 6 * 2), 0.0)
    assert best.net <= ours.net <= idle.net


def test_reserve_is_offered_shown_and_leaves_with_the_power_that_backs_it(tmp_path):
    text = SUPPLIED.replace(
        "     batteries:",
        "     reserves: [{id: spin, price_per_kw_h: 0.01, max_kw: 50, notice: 1m, sustain: 10m}],\n     batteries:",
    )
    with lab(tmp_path, lambda _: text.replace("500", "60")) as site:
        site.tick()
        site.run(timedelta(minutes=1))
        offered = {item.id: item for item in site.state.tick.supply}["spin"].planned_kw
        assert 1.0 < offered <= 50.0
        assert site.facade.plan().reserves["spin"].offered_kw[0] == pytest.approx(offered)
        assert "spin" in tables.supply(gather(site.facade, "lab"))
        site.ctx.devices["bess"].lost = True
        site.tick()
        site.plan()
        assert site.facade.plan().reserves["spin"].offered_kw[0] < offered - 1.0


def test_what_can_be_shed_counts_batteries_as_long_as_they_last_and_engines_once_they_run(tmp_path):
    """20 kWh of 40 are in it, 2 stay: 18 kWh * sqrt(0.86) = 16.69 kWh arrive. It gives its 8 kW for 15 min, and 4.17 kW
    for four hours; the engine's 5 kW come within 15 min."""
    calm = (
        SUPPLIED.replace("500", "60").replace("discharge_kw: 20", "discharge_kw: 8").replace("max_kw: 15", "max_kw: 5")
    )
    with lab(tmp_path, lambda _: calm) as site:
        site.run(timedelta(seconds=5))
        now, idle = site.clock.now(), {"bess": 0.0, "gas": 0.0}
        for name in idle:
            site.state.devices[name].reading = DeviceReading(now, 0.0, 20.0 if name == "bess" else None, 0.0)
        with_it = [one.kw for one in flexibility(site.ctx, site.state, "lab", now)]
        short = available_kw(site.ctx, site.state, "lab", now)
        long = available_kw(site.ctx, site.state, "lab", now, 14_400.0)
        site.state.devices["bess"].reading = DeviceReading(now, 5.0, 20.0, 5.0)
        assert available_kw(site.ctx, site.state, "lab", now) == pytest.approx(short + 5.0), "it stops charging as well"
        site.state.devices["bess"].reading = site.state.devices["gas"].reading = None
        without = [one.kw for one in flexibility(site.ctx, site.state, "lab", now)]
        alone = available_kw(site.ctx, site.state, "lab", now)
        assert [more - less for more, less in zip(with_it, without, strict=True)] == pytest.approx([8, 8, 13])
        assert (short - alone, long - alone) == (pytest.approx(13.0), pytest.approx(5 + 18 * 0.86**0.5 / 4))
