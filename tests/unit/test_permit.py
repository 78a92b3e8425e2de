"""A daemon that may not command any more writes to nothing: batteries, parked GPUs, batch systems, nodes."""

import sys
from contextlib import closing
from datetime import timedelta
from pathlib import Path
from types import SimpleNamespace

import pytest

from adapters.context import AdapterContext
from adapters.jobs.kube_api import JOBS, KubeApi
from adapters.jobs.llmd import LlmdConfig, LlmdJobs
from adapters.jobs.slurm_cli import Slurm
from adapters.parking.command import CommandConfig, CommandParking
from adapters.permit import NotPermitted, Permit
from adapters.ports import AdapterError
from optimizer.reasons import Reason
from scheduler.clock import WallClock
from scheduler.running import begin_lead
from scheduler.store.store import Store
from scheduler.supply import release_devices
from tests.support.kube_twin import Twin
from tests.support.loops import lab
from tests.unit.test_supply_loops import SUPPLIED


class Lead:
    """Our place among several daemons, as the loops see it."""

    def __init__(self):
        self.leads = True

    def may(self):
        if not self.leads:
            raise AdapterError("this daemon does not lead now; another one may")

    def status(self):
        return {"name": "a", "epoch": 3, "aside": ""}


@pytest.fixture
def fenced():
    permit = Permit()
    permit.follow(lambda: (_ for _ in ()).throw(AdapterError("another one leads")))
    return permit


def test_a_turn_that_is_finished_after_the_lead_was_lost_moves_no_battery_and_lets_none_go(tmp_path):
    with lab(tmp_path, lambda _: SUPPLIED) as site:
        lead, power = Lead(), site.parts.hardware.power
        power.permit = lambda: None
        begin_lead(site.parts, lead)
        site.run(timedelta(seconds=10))
        before = {name: device.read().setpoint_kw for name, device in site.ctx.devices.items()}
        assert before["gas"] == pytest.approx(-15.0)
        lead.leads = False
        with pytest.raises(AdapterError, match="does not lead"):
            power.permit()
        state = site.state.devices["gas"]
        state.written_at = float("-inf")  # its lease wants renewing
        written = []
        for device in site.ctx.devices.values():
            device.apply = lambda *order: written.append(order)
            device.release = lambda: written.append("release")
        tick = site.tick()
        assert any(note.code is Reason.DEVICE_LOST and "does not lead" in note.text for note in tick.notes)
        site.ctx.dispatcher.writes = False  # an operator's pause lets devices go, where this daemon leads
        site.tick()
        release_devices(site.ctx, site.state, site.clock.now())
        assert written == []
    with pytest.raises(NotPermitted, match="not in force"):
        site.ctx.permit()
    assert {name: device.read().setpoint_kw for name, device in site.ctx.devices.items()} == before


def test_no_gpu_is_parked_by_a_daemon_that_does_not_lead(tmp_path, fenced):
    words = (sys.executable, "-c", "import sys; open(sys.argv[1], 'w').close()", str(tmp_path / "called"))
    config = CommandConfig(type="command", command=words)
    hook = CommandParking(config, AdapterContext(WallClock(), tmp_path, permit=fenced))
    hook.apply(4)
    hook.close()
    with pytest.raises(AdapterError, match="another one leads"):
        hook.read()
    assert not (tmp_path / "called").exists()


def test_slurm_is_asked_and_told_nothing(tmp_path, fenced):
    commands = tmp_path / "bin"
    commands.mkdir()
    for name in ("scontrol", "squeue"):
        (commands / name).write_text('#!/bin/sh\necho "$@" >> "$0.calls"\necho "{}"\n')
        (commands / name).chmod(0o755)
    slurm = Slurm(None, 30.0, fenced)
    slurm._env["PATH"] = f"{commands}:{slurm._env['PATH']}"
    assert slurm.queue() == {}
    slurm.ask("show", "licenses", "power_kw")
    assert set(slurm.each("suspend", ["1", "2"])) == {"1", "2"}
    slurm.start_now(["3"])
    for words in (("update", "ReservationName=gridpace"), ("delete", "ReservationName=gridpace")):
        with pytest.raises(NotPermitted):
            slurm.ask(*words)
    assert (commands / "scontrol.calls").read_text().splitlines() == ["show licenses power_kw"]


def test_kubernetes_is_asked_and_nothing_patched(tmp_path, fenced):
    twin = Twin().serve()
    api = KubeApi(twin.kubeconfig(tmp_path), None, 5.0, permit=fenced)
    try:
        assert api.list(JOBS, "work")[0] == []
        with pytest.raises(NotPermitted):
            api.patch(JOBS, "work", "j", {"spec": {"suspend": True}})
        assert {method for method, *_ in twin.requests} == {"GET"}
    finally:
        api.close()
        twin.end()


@pytest.mark.parametrize("granted", [0, 16])
def test_the_gate_of_llmd_is_neither_shut_nor_opened(fenced, granted):
    with closing(Store.in_memory()) as store:
        config = LlmdConfig(type="llmd", url="redis://127.0.0.1:1/0", pool="tune", gpus=16, requests_per_gpu_h=100)
        jobs = LlmdJobs(config, AdapterContext(WallClock(), Path(), store, permit=fenced))
        written = []
        jobs._redis = SimpleNamespace(set=lambda *a, **_: written.append(a), delete=lambda *a: written.append(a))
        jobs._held.ordering({config.budget_key: "budget"}, WallClock().now())
        jobs._queue = {"q": (5, WallClock().now())}
        jobs.apply({"q": granted})
        jobs._set()
        assert "another one leads" in jobs.notes()[0].text
        assert jobs.release()[0].severity == "alert"
        assert written == []
        assert jobs.held() == {config.budget_key: "budget"}
