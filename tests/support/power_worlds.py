"""Small worlds of eight GPUs behind each power actuator, with the same handles to break them.

The NVML worlds run the real `pynvml` against the compiled fake, in this process; the agent's world puts a real agent
with a real socket in between. `capable` tests ask the world, never the adapter, what the hardware really holds.
"""

import tempfile
import threading
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from functools import cache, partial
from pathlib import Path
from typing import Any

import pytest

from adapters.context import AdapterContext
from adapters.hall import SimulatedHall
from adapters.meters.agent import AgentMeter
from adapters.meters.fleet import FleetMeter
from adapters.meters.nvml import NvmlMeter
from adapters.meters.prometheus import PrometheusConfig, PrometheusMeter
from adapters.meters.simulated import SimulatedMeter
from adapters.ports import AdapterError, Meter, PowerActuator
from adapters.power.agent import AgentPower
from adapters.power.amdsmi import AmdConfig, AmdPower
from adapters.power.fleet import FleetPower
from adapters.power.fleet_wire import NodeState
from adapters.power.nvml import NvmlPower
from adapters.power.redfish import RedfishConfig, RedfishPower
from adapters.power.simulated import SimulatedPower
from adapters.power.zeusd import ZeusdConfig, ZeusdPower
from optimizer.domain import CurvePoint, GpuPool, PowerCurve, Work
from optimizer.reasons import Reason
from scheduler.agent.core import AgentSettings
from scheduler.agent.process import run_agent
from scheduler.clock import VirtualClock, WallClock
from tests.support.fake_nvml import HANG_SET, STATE, FakeNvml, build, h100s

CURVE = PowerCurve("test", 75.0, (CurvePoint(200, 190, 0.5), CurvePoint(400, 390, 0.9), CurvePoint(700, 650, 1.0)))
POOL = GpuPool("serve", "north", "H100", 8, Work.INTERACTIVE, CURVE, 2.0, 0.9, 200.0, 700.0)
# Long enough that a loaded machine does not take a slow thread for a hanging card.
DEADLINE_S = 3.0


@dataclass
class World:
    """An actuator, its GPUs, and the hand that breaks them: `fail(gpu, reason)`, `board(gpu, watts)` for a limit set
    out of band, `truth()` for the limits that the hardware holds, `write(gpu, watts)` for another program that sets
    limits, `writes(gpu)` for how often ours did. `fake` is there where the driver is the fake one."""

    actuator: PowerActuator
    gpus: list[str]
    fail: Callable[[str, Reason], None]
    board: Callable[[str, float], None]
    truth: Callable[[], dict[str, float]]
    write: Callable[[str, float], None]
    writes: Callable[[str], int] = lambda gpu: 0
    fake: FakeNvml | None = None
    tells_requested: bool = True
    """False where the hardware tells one limit only, not the requested one beside the enforced one."""


@contextmanager
def power_world(kind: str, folder: Path, monkeypatch: pytest.MonkeyPatch, **settings: Any) -> Iterator[World]:
    """The world of one kind of actuator; `settings` are the agent's, where there is one."""
    if kind == "simulated":
        yield _simulated_world()
        return
    others = {"redfish": _redfish_world, "amdsmi": _amd_world, "zeusd": _zeusd_world}
    if kind in others:
        with others[kind](folder, monkeypatch) as made:
            yield made
        return
    with ExitStack() as stack:
        fake = fake_machine(folder, monkeypatch)
        stack.callback(fake.set_all, hang=0)
        power = NvmlPower(DEADLINE_S)
        stack.callback(power.close)
        actuator: PowerActuator = power
        if kind == "agent":
            actuator = stack.enter_context(running_agent(folder, power, **settings))
        if kind == "fleet":
            actuator = stack.enter_context(running_fleet(folder, power, **settings))
        gpus = [gpu.uuid for gpu in fake.gpus]
        yield World(actuator, gpus, _breaker(fake), _board(fake), fake.limits_w, _writer(fake), _writes(fake), fake)


@contextmanager
def running_agent(folder: Path, power: PowerActuator, **settings: Any) -> Iterator[AgentPower]:
    """An agent in a thread of this process, and the client that talks to it."""
    stop, path = threading.Event(), folder / "agent.sock"
    chosen = AgentSettings(**({"tick_s": 0.02, "stop_s": 0.2} | settings))
    thread = threading.Thread(target=run_agent, args=(path, folder / "agent", power, (), chosen, stop))
    thread.start()
    client = AgentPower(path)
    try:
        wait_until(lambda: serves(client))
        yield client
    finally:
        client.close()
        stop.set()
        thread.join(20)
        assert not thread.is_alive()


@contextmanager
def running_fleet(folder: Path, power: PowerActuator, **settings: Any) -> Iterator[FleetPower]:
    """A NATS server, an agent that listens on it in a thread of this process, and the daemon's side."""
    from tests.support.nats import nats_servers  # needs what this module has

    with nats_servers(folder / "fleet", "n1") as server:
        stop = threading.Event()
        chosen = AgentSettings(**({"tick_s": 0.02, "state_s": 0.05, "stop_s": 0.2} | settings))
        arguments = (folder / "agent.sock", folder / "agent", power, (), chosen, stop, server.settings("n1"))
        thread = threading.Thread(target=run_agent, args=arguments)
        thread.start()
        fleet = FleetPower(server.settings("daemon"), 2 * DEADLINE_S, ["n1"])
        try:
            wait_until(lambda: answers(fleet))
            yield fleet
        finally:
            fleet.close()
            stop.set()
            thread.join(20)
            assert not thread.is_alive()


def _told_from_now_on(fleet: FleetPower) -> Mapping[str, NodeState]:
    """The states, once the node has told what it saw after this moment (it reads, then tells)."""
    for _ in range(2):
        before = fleet.states()["n1"]
        wait_until(lambda before=before: fleet.states()["n1"] is not before)
    return fleet.states()


def answers(fleet: FleetPower) -> bool:
    """True once a node answers."""
    try:
        return bool(fleet.discover())
    except AdapterError:
        return False


def serves(client: AgentPower) -> bool:
    """True once the agent at the other end answers."""
    try:
        return bool(client.status())
    except AdapterError:
        return False


def wait_until(true: Callable[[], object], seconds: float = 20.0) -> None:
    """Poll until something holds; fails after `seconds`."""
    pause = threading.Event()
    for _ in range(int(seconds / 0.01)):
        if true():
            return
        pause.wait(0.01)
    pytest.fail(f"did not happen within {seconds} s")


def fake_machine(folder: Path, monkeypatch: pytest.MonkeyPatch, count: int = 8) -> FakeNvml:
    """A fresh fake machine that NVML in this process sees."""
    fake = FakeNvml(folder, h100s(count), _library())
    fake.preload()
    monkeypatch.setenv(STATE, str(fake.path))
    return fake


@contextmanager
def meter_world(kind: str, folder: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[tuple[Meter, World]]:
    """A meter over the same GPUs, all in the pool "serve"."""
    if kind == "simulated":
        world = _simulated_world()
        yield SimulatedMeter(world.actuator.hall), world
        return
    with power_world(kind, folder, monkeypatch) as world:
        if kind == "fleet":
            fleet = world.actuator
            wait_until(lambda: any(draw for state in fleet.states().values() for draw in state.draw_w.values()))
            yield FleetMeter(partial(_told_from_now_on, fleet), WallClock(), dict.fromkeys(world.gpus, "serve")), world
            return
        if kind == "prometheus":
            with _scraped(folder, world) as meter:
                yield meter, world
            return
        if kind == "agent":
            yield AgentMeter(world.actuator, WallClock(), dict.fromkeys(world.gpus, "serve")), world
            return
        meter = NvmlMeter(WallClock(), dict.fromkeys(world.gpus, "serve"), DEADLINE_S)
        yield meter, world
        meter.close()


@contextmanager
def _scraped(folder: Path, world: World) -> Iterator[Meter]:
    """A meter over a real Prometheus that scrapes the fake cards; each reading waits for what is true from now on."""
    from tests.support import prometheus  # needs what this module has

    url, exporter = prometheus.shared()
    exporter.text = lambda: prometheus.dcgm([card for gpu in world.gpus for card in _told(world, gpu)])
    config = PrometheusConfig(type="prometheus", url=url, timeout="5s")
    pool_of = dict.fromkeys(world.gpus, "serve")
    meter = PrometheusMeter(config, AdapterContext(WallClock(), folder, extras={"pool_of": pool_of}))
    read = meter.read
    meter.read = lambda: (prometheus.wait_for_scrapes(url, exporter), read())[1]
    try:
        yield meter
    finally:
        exporter.text = lambda: "up_and_running 1"
        meter.close()


def _told(world: World, gpu: str) -> list[dict]:
    """What an exporter tells of one fake card: nothing once it is lost."""
    state = world.fake.state(gpu)
    if state["lost"]:
        return []
    percent = None if state["no_utilisation"] else state["busy_percent"]
    return [{"uuid": gpu, "watts": state["draw_w"], "mj": state["energy_j"] * 1000, "percent": percent}]


def simulated_hall(prefix: str = "serve") -> SimulatedHall:
    """Eight simulated cards, named after the pool."""
    return SimulatedHall([replace(POOL, id=prefix)], VirtualClock(datetime(2022, 9, 6, tzinfo=UTC)))


def _simulated_world() -> World:
    hall = simulated_hall()

    def truth() -> dict[str, float]:
        return {gpu: info.limit_w for gpu, info in hall.infos().items()}

    def write(gpu: str, watts: float) -> None:
        hall.set_limits({gpu: watts})

    return World(SimulatedPower(hall), list(hall.pool_of), hall.fail, hall.limit_out_of_band, truth, write)


@contextmanager
def _redfish_world(folder: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[World]:
    from tests.support.redfish_bmc import PASSWORD, ROOT, USER, running_bmc

    monkeypatch.setenv("BMC", PASSWORD)
    with running_bmc() as (bmc, url):
        config = RedfishConfig.model_validate({
            "type": "redfish", "servers": {"n1": url}, "username": USER, "password": "env:BMC", "timeout": "1s",
            "refresh": "0.1s",
        })  # fmt: skip
        power = RedfishPower(config, AdapterContext(WallClock(), folder))
        gpus = [f"n1/HGX_Baseboard_0/GPU_SXM_{number}" for number in range(1, 9)]
        uris = {gpu: f"{ROOT}/Systems/HGX_Baseboard_0/Processors/{gpu[-9:]}/EnvironmentMetrics" for gpu in gpus}

        def fail(gpu: str, reason: Reason) -> None:
            if reason is Reason.GPU_LOST:
                bmc.gone.add(uris[gpu])
            elif reason is Reason.CALL_TIMEOUT:
                bmc.hang[uris[gpu]] = threading.Event()
            else:
                bmc.status[uris[gpu]] = 403 if reason is Reason.NO_PERMISSION else 400

        def truth() -> dict[str, float]:
            return {gpu: bmc.limit(uri) for gpu, uri in uris.items()}

        def board(gpu: str, watts: float) -> None:
            bmc.board[uris[gpu]] = watts

        def write(gpu: str, watts: float) -> None:
            bmc.touch(uris[gpu], SetPoint=watts)

        def writes(gpu: str) -> int:
            return sum(uri == uris[gpu] for uri, _ in bmc.patches)

        yield World(power, gpus, fail, board, truth, write, writes, tells_requested=False)
        for held in bmc.hang.values():
            held.set()
        power.close()


@contextmanager
def _amd_world(folder: Path, _monkeypatch: pytest.MonkeyPatch) -> Iterator[World]:
    from tests.support import fake_amdsmi

    cards = {card.uuid.decode(): card for card in fake_amdsmi.cards()}
    fields = {Reason.GPU_LOST: "lost", Reason.NO_PERMISSION: "no_permission", Reason.CAP_REFUSED: "refuse",
              Reason.CALL_TIMEOUT: "hang"}  # fmt: skip
    power = AmdPower(AmdConfig(type="amdsmi", call_timeout="1s"), AdapterContext(WallClock(), folder))

    def truth() -> dict[str, float]:
        return {gpu: card.cap_uw / 1e6 for gpu, card in cards.items()}

    def board(gpu: str, watts: float) -> None:
        cards[gpu].board_uw = round(watts * 1e6)

    def write(gpu: str, watts: float) -> None:
        cards[gpu].cap_uw = round(watts * 1e6)

    def writes(gpu: str) -> int:
        return cards[gpu].set_calls

    try:
        fail = lambda gpu, reason: setattr(cards[gpu], fields[reason], 1)  # noqa: E731
        yield World(power, list(cards), fail, board, truth, write, writes, tells_requested=False)
    finally:
        for card in cards.values():
            card.hang = 0
        power.close()


@contextmanager
def _zeusd_world(folder: Path, _monkeypatch: pytest.MonkeyPatch) -> Iterator[World]:
    from tests.support.zeusd import running_zeusd

    with running_zeusd(folder / "zeusd.sock") as (zeusd, url):
        config = ZeusdConfig(type="zeusd", servers={"n1": url}, timeout="3s")
        power = ZeusdPower(config, AdapterContext(WallClock(), folder))
        cards = {f"n1/{gpu.address}": gpu for gpu in zeusd.gpus}

        def fail(gpu: str, reason: Reason) -> None:
            if reason is Reason.GPU_LOST:
                cards[gpu].broken = (500, "NVML error: the GPU has fallen off the bus or has become inaccessible")
            elif reason is Reason.CALL_TIMEOUT:
                cards[gpu].hang = threading.Event()
            elif reason is Reason.NO_PERMISSION:
                cards[gpu].refuses = (403, "NVML error: the current user does not have permission")
            else:
                cards[gpu].refuses = (400, "NVML error: a provided argument is invalid")

        def board(gpu: str, watts: float) -> None:
            cards[gpu].board = round(watts * 1000)

        def truth() -> dict[str, float]:
            return {gpu: card.limit / 1000 for gpu, card in cards.items()}

        def write(gpu: str, watts: float) -> None:
            cards[gpu].limit = round(watts * 1000)

        def writes(gpu: str) -> int:
            return cards[gpu].sets

        yield World(power, list(cards), fail, board, truth, write, writes, tells_requested=False)
        power.close()


def _breaker(fake: FakeNvml) -> Callable[[str, Reason], None]:
    faults = {
        Reason.GPU_LOST: {"lost": 1},
        Reason.NO_PERMISSION: {"no_permission": 1},
        Reason.CAP_REFUSED: {"refuse": 1},
        Reason.CALL_TIMEOUT: {"hang": HANG_SET},
    }
    return lambda gpu, reason: fake.set(gpu, **faults[reason])


def _board(fake: FakeNvml) -> Callable[[str, float], None]:
    return lambda gpu, watts: fake.set(gpu, bmc_w=watts)


def _writer(fake: FakeNvml) -> Callable[[str, float], None]:
    return lambda gpu, watts: fake.set(gpu, limit_w=watts)


def _writes(fake: FakeNvml) -> Callable[[str], int]:
    return lambda gpu: fake.state(gpu)["set_calls"]


@cache
def _library() -> Path:
    """The fake, compiled once per test process; the loader keeps it, so it must not change."""
    return build(Path(tempfile.mkdtemp(prefix="gridpace-fake-nvml-")))
