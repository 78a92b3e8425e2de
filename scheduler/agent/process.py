"""The node agent: a small privileged process that owns this machine's GPUs and outlives the daemon.

Everything it may do is in `core`; here is what may be asked of it, and how it is kept alive. One request a line over a
Unix socket (`server`, `adapters.power.wire`); only root, the agent's own user and the users named may change anything.
It imports nothing heavy: no market, no solver, no web server, and stays below 45 MB.
"""

from __future__ import annotations

import argparse
import logging
import os
import platform
import pwd
import sys
import threading
from collections.abc import Callable, Collection, Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from adapters.ports import AdapterError, PowerActuator
from adapters.power import wire
from scheduler.agent.core import AgentCore, AgentSettings
from scheduler.agent.ending import forget_alone, only_one, release_alone
from scheduler.agent.fencing import Fenced
from scheduler.agent.server import Server
from scheduler.agent.state import AgentFiles
from scheduler.agent.trouble import Unkept
from scheduler.capwatch import DriftRules
from scheduler.sdnotify import notify
from scheduler.stopsignals import stop_event

if TYPE_CHECKING:
    from adapters.bus_settings import BusSettings

DAEMON_USER = "gridpace"
"""The daemon's user in our systemd units; it may write when the system has it and no other user is named."""

NO_USER = 2**32 - 1
"""The uid that the kernel gives nobody."""

_DEFAULTS = AgentSettings()
_log = logging.getLogger("gridpace.agent")


def run_agent(
    socket_path: Path,
    state_dir: Path,
    power: PowerActuator,
    writers: Collection[int] = (),
    settings: AgentSettings | None = None,
    stop: threading.Event | None = None,
    fleet: BusSettings | None = None,
) -> None:
    """Serve until `stop` is set; then see `AgentCore.stop`. `writers` are user ids that may give orders besides root
    and the agent's own; with `fleet` the daemon of that bus gives orders too. AdapterError when another
    agent runs over `state_dir`, or its files or the socket can't be used."""
    settings, stop = settings or _DEFAULTS, stop or threading.Event()
    with only_one(state_dir):
        core = AgentCore(power, AgentFiles(state_dir), settings)
        mouth, mine = partial(answer, core), {0, os.geteuid(), *writers}
        with Server(socket_path, mouth, mine) as server, _ear(core, fleet, settings.state_s):
            threading.Thread(target=server.serve_forever, name="agent-socket", daemon=True).start()
            _greet(core)
            _tick(core)
            notify("READY=1")
            while not stop.wait(settings.tick_s):
                _tick(core)
            notify("STOPPING=1")
            server.shutdown()
        line = core.stop()
        notify(f"STATUS={line}")
        _log.warning("%s", line)


def _greet(core: AgentCore) -> None:
    """Say in the log what is here, or what the operator should do about it."""
    try:
        _log.info("%d GPUs found", len(core.discover()))
    except AdapterError as error:
        _log.error("%s", error)
    if core.outstanding:
        _log.warning("an earlier agent left limits to give back; they stay the ones found before its first write")


def _tick(core: AgentCore) -> None:
    """One round of enforcement. The watchdog is fed by a finished round only; cards that can't be reached now are a
    state to report, not a reason to be restarted."""
    try:
        line = core.tick()
    except Unkept as error:
        line = f"the agent's own files can't be written: {error}"
        _log.error("%s", line)
    except AdapterError as error:
        line = f"the GPUs can't be reached: {error}"
        _log.error("%s", line)
    notify(f"WATCHDOG=1\nSTATUS={line}")


@contextmanager
def _ear(core: AgentCore, fleet: BusSettings | None, state_s: float) -> Iterator[None]:
    """Listen on the fleet's bus, if there is one. A server that is away is no reason not to start."""
    if fleet is None:
        yield
        return
    # nats-py loads aiohttp for its web sockets where that is installed: 15 MB for what no agent uses.
    sys.modules.setdefault("aiohttp", None)  # type: ignore[arg-type]
    try:
        from scheduler.agent.bus import FleetEar  # a node on its own needs no bus, and no library for it
    except ModuleNotFoundError as error:
        raise AdapterError(f"--fleet needs {error.name}; pip install gridpace[fleet]") from error
    ear = FleetEar(core, fleet, answer, state_s)
    try:
        yield
    finally:
        ear.close()


def answer(core: AgentCore, request: Mapping[str, Any], may_write: bool) -> dict[str, Any]:
    """Obey one request, or say why not."""
    operation = _OPERATIONS.get(str(request.get("op")))
    if operation is None:
        return _refusal(wire.BAD_REQUEST, f"unknown op; known: {', '.join(_OPERATIONS)}")
    writes, act = operation
    if writes and not may_write:
        return _refusal(wire.DENIED, "this user may read but not give orders; start the agent with --allow-user")
    try:
        return {"ok": True, "result": act(core, request)}
    except wire.BadRequest as error:
        return _refusal(wire.BAD_REQUEST, str(error))
    except Fenced as error:
        return _refusal(wire.FENCED, str(error))
    except AdapterError as error:
        return _refusal(wire.FAILED, str(error))


def _refusal(code: str, text: str) -> dict[str, Any]:
    return {"ok": False, "code": code, "error": text}


def _apply(core: AgentCore, request: Mapping[str, Any]) -> Any:
    caps = wire.caps(request.get("caps_w"), "caps_w")
    return wire.receipt_out(core.apply(caps, wire.lease(request.get("lease"))))


def _release(core: AgentCore, request: Mapping[str, Any]) -> Any:
    epoch = wire.epoch(request.get("epoch"))
    return wire.receipt_out(core.release(wire.watts(request.get("limits_w"), "limits_w"), epoch))


def _hold(core: AgentCore, request: Mapping[str, Any]) -> Any:
    steps = wire.steps(request.get("steps"))
    core.hold(steps, wire.seconds(request.get("until_s"), "until_s"), wire.lease(request.get("lease")))
    return {}


def _lock(core: AgentCore, request: Mapping[str, Any]) -> Any:
    clocks = wire.clocks(request.get("clocks_mhz"), "clocks_mhz")
    return wire.clock_receipt_out(core.lock(clocks, wire.lease(request.get("lease"))))


def _unlock(core: AgentCore, request: Mapping[str, Any]) -> Any:
    gpus, epoch = request.get("gpus"), wire.epoch(request.get("epoch"))
    if not isinstance(gpus, list) or not all(isinstance(gpu, str) for gpu in gpus):
        raise wire.BadRequest("gpus must be a list of GPUs")
    return wire.clock_receipt_out(core.unlock(gpus, epoch))


def _take_back(core: AgentCore, request: Mapping[str, Any]) -> Any:
    core.take_back(wire.epoch(request.get("epoch")))
    return {}


_OPERATIONS: dict[str, tuple[bool, Callable[[AgentCore, Mapping[str, Any]], Any]]] = {
    "discover": (False, lambda core, _: wire.infos_out(core.discover())),
    "status": (False, lambda core, _: core.status()),
    "apply": (True, _apply),
    "release": (True, _release),
    "hold": (True, _hold),
    "take_back": (True, _take_back),
    "lock": (True, _lock),
    "unlock": (True, _unlock),
}
"""Operation -> (does it change anything, how it is obeyed)."""


# ---------------------------------------------------------------- the command
def main(arguments: list[str] | None = None) -> int:
    """`gridpace agent`, also `python -m scheduler.agent.process`; returns the exit status (2: it can't run here)."""
    parser = _parser()
    options = parser.parse_args(arguments)
    if options.unseen and not options.forget:
        parser.error("--unseen is for --forget")
    logging.basicConfig(level=logging.INFO, format="%(name)s: %(message)s", stream=sys.stderr)
    stop = stop_event()
    drift = DriftRules(options.reassert, options.quiet_s)
    settings = replace(_DEFAULTS, release_w_per_s=options.release_w_per_s, tick_s=options.tick_s, drift=drift)
    try:
        writers = _writers(options.allow_user)
        fleet = _fleet(options)
        power = _power(options)
        if options.forget:
            forget_alone(power, options.state_dir, options.forget, options.unseen)
            return 0
        if options.release:
            return release_alone(power, options.state_dir, settings)
        run_agent(options.socket, options.state_dir, power, writers, settings, stop, fleet)
        getattr(power, "close", lambda: None)()
    except AdapterError as error:
        _log.error("%s", error)
        return 2
    return 0


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="gridpace agent", description="Own this node's GPUs and enforce leases.")
    parser.add_argument("--socket", type=Path, default=Path("/run/gridpace-agent/agent.sock"))
    parser.add_argument("--state-dir", type=Path, default=Path("/var/lib/gridpace-agent"))
    parser.add_argument("--backend", choices=["nvml"], default="nvml", help="library that sets the limits")
    parser.add_argument("--power", type=Path, help="YAML file with other hardware, as `power` in a daemon's config")
    parser.add_argument(
        "--allow-user", action="append", default=[], help="user or uid that may give orders (repeatable)"
    )
    _number(
        parser, "--release-w-per-s", _DEFAULTS.release_w_per_s, (0.1, 100_000.0), "watts a second of a release's ramp"
    )
    instead = parser.add_mutually_exclusive_group()
    instead.add_argument(
        "--release", action="store_true", help="give back what a stopped agent left here, at once, and end"
    )
    instead.add_argument(
        "--forget", action="append", default=[], metavar="GPU", help="where a stopped agent owes something to a GPU"
        " that died for good, owe it nothing any more, and end (repeatable)"
    )  # fmt: skip
    parser.add_argument(
        "--unseen", action="store_true", help="with --forget: believe that they are dead where no GPU answers at all"
    )
    _number(parser, "--tick-s", _DEFAULTS.tick_s, (0.01, 30.0), "seconds between two checks of lease and limits")
    drift = _DEFAULTS.drift
    again = "how often a cap that another program raised is set again"
    _number(parser, "--reassert", drift.reassert, (0, 1000), again)
    quiet = "seconds after which a GPU left to it is taken back"
    _number(parser, "--quiet-s", drift.quiet_s, (1.0, 30 * 86400.0), quiet)
    group = parser.add_argument_group("fleet", "orders over NATS too; files made by `gridpace fleet init`")
    group.add_argument("--fleet", action="append", default=[], metavar="URL", help="a NATS server (repeatable)")
    group.add_argument("--node", default=platform.node().partition(".")[0], help="this node's name (its host name)")
    group.add_argument("--seed", type=Path, help="secret nkey of this node")
    group.add_argument("--ca", type=Path, help="certificate authority of the servers")
    return parser


def _number(
    parser: argparse.ArgumentParser, name: str, usual: float, allowed: tuple[float, float], meaning: str
) -> None:
    """An option that is a number of a range, a whole one where the range is; anything else (NaN, infinity) is refused
    by name, because a ramp or a tick that is none would hold limits for ever."""
    lowest, highest = allowed
    kind = type(lowest)
    words = f"{lowest:.15g} to {highest:.15g}"

    def read(text: str) -> float:
        with suppress(ValueError):
            if lowest <= (value := kind(text)) <= highest:
                return value
        raise argparse.ArgumentTypeError(f"{text!r} is not a {'whole ' * (kind is int)}number from {words}")

    parser.add_argument(name, type=read, default=usual, help=f"{meaning} ({words}; default: {usual:g})")


def _fleet(options: argparse.Namespace) -> BusSettings | None:
    """The fleet's bus as the options name it. AdapterError for a name that no subject can carry, and for the key of a
    fleet that isn't named."""
    if not options.fleet:
        if options.seed or options.ca:
            raise AdapterError("--seed and --ca are for a fleet, but no server of one is named: give --fleet URL")
        return None
    from adapters.bus_settings import BusSettings
    from adapters.power.fleet_wire import node_name

    try:
        return BusSettings(tuple(options.fleet), node_name(options.node), options.seed, options.ca)
    except ValueError as error:
        raise AdapterError(f"--node: {error}") from error


def _power(options: argparse.Namespace) -> PowerActuator:
    """What sets the limits: the hardware of a file, else this machine's NVIDIA cards."""
    if options.power is None:
        return _backend(options.backend)
    from scheduler.agent.power import power_from  # an agent over NVML loads no configuration

    return power_from(options.power)


def _backend(_name: str) -> PowerActuator:
    """The library that sets the limits; imported here, so that tests run the agent over simulated GPUs without it."""
    from adapters.power.nvml import NvmlPower

    return NvmlPower()


def _writers(names: list[str]) -> list[int]:
    """User ids of the users named; by default the daemon's user, where the system has it."""
    if not names:
        with suppress(KeyError):
            return [pwd.getpwnam(DAEMON_USER).pw_uid]
        return []
    return [_user_id(name) for name in names]


def _user_id(name: str) -> int:
    if name.isascii() and name.isdigit() and int(name) < NO_USER:
        return int(name)
    try:
        return pwd.getpwnam(name).pw_uid
    except KeyError:
        raise AdapterError(f"--allow-user {name}: no user of this machine, and no uid below {NO_USER}") from None


if __name__ == "__main__":
    sys.exit(main())
