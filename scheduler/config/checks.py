"""What can be judged only when every part is right by itself: units against the currency, files, clocks, safety.

Each check is a few lines and reports to the document; none of them touches hardware or the network.
"""

from __future__ import annotations

from collections.abc import Mapping

from pydantic import BaseModel

from adapters.ports import SourceError
from adapters.secrets import SecretError, SecretRef
from adapters.signals.base import SignalConfig, unit_of
from optimizer.domain import PowerCurve
from optimizer.library import NoCurve, Start, nearest
from scheduler.config.base import LOOPBACK
from scheduler.config.document import Document, Place
from scheduler.config.errors import Problem
from scheduler.config.models import Config
from scheduler.config.pool import PoolConfig
from scheduler.config.runtime import Mode

SIMULATED = "simulated"
OWN_METERS = (SIMULATED, "nvml", "gpus")
"""Meters that read the GPUs themselves, and so belong to one kind of power."""
NVML_POWER = ("nvml", "agent", "fleet")
"""Kinds of power whose cards' sensors the name `nvml` may stand for."""


def check_whole(document: Document, config: Config, curves: Mapping[str, PowerCurve]) -> None:
    """Report everything about the config as a whole."""
    _check_units(document, config)
    _check_caps(document, config, curves)
    _check_jobs(document, config)
    _check_order(document, config)
    _check_limits(document, config)
    _check_meters(document, config)
    _check_hardware(document, config)
    _check_devices(document, config)
    _check_parking(document, config)
    _check_latency(document, config)
    _check_api(document, config)
    _check_standby(document, config)
    speed = config.clock.speed if config.clock is not None else 1.0
    if config.solver.hard_deadline > config.interval / speed:
        faster = f" at {speed:g} times real time ({(config.interval / speed).total_seconds():g}s)" if speed != 1 else ""
        document.report(("solver", "hard_deadline"), f"must not be longer than `interval`{faster}")


def secrets(config: Config) -> list[tuple[Place, SecretRef]]:
    """Every secret that the config refers to, with its place."""
    found: list[tuple[Place, SecretRef]] = [
        (("api", "tokens", i, "secret"), token.secret) for i, token in enumerate(config.api.tokens)
    ]
    entries: list[tuple[Place, BaseModel]] = [
        (("programs", i, "channel"), program.channel) for i, program in enumerate(config.programs)
    ]
    entries += [(("signals", i), signal) for i, signal in enumerate(config.signals)]
    entries += [(("meters", i), meter) for i, meter in enumerate(config.meters)]
    entries += [
        (("pools", i, "latency", "source"), pool.latency.source)
        for i, pool in enumerate(config.pools)
        if pool.latency is not None
    ]
    entries += [(("power",), config.power), (("jobs", "system"), config.jobs.system)]
    for place, entry in entries:
        for name in type(entry).model_fields:
            value = getattr(entry, name)
            if isinstance(value, SecretRef):
                found.append(((*place, name), value))
    return found


def check_secrets(document: Document, config: Config) -> None:
    """Report every secret that cannot be read now, and two names that share one token."""
    for place, secret in secrets(config):
        try:
            secret.reveal(document.base_dir)
        except SecretError as error:
            document.report(place, str(error))


def warnings(document: Document, config: Config) -> tuple[Problem, ...]:
    """What is allowed but looks wrong. In a simulation nothing real hangs on a secret, so it may lie open."""
    if is_simulated(config):
        return ()
    return tuple(
        config.problem(place, f"{secret}: every user of this machine can read this file.")
        for place, secret in secrets(config)
        if secret.world_readable(document.base_dir)
    )


def is_simulated(config: Config) -> bool:
    """True when no order of this config reaches real hardware."""
    return getattr(config.power, "type", "") == SIMULATED


def _check_standby(document: Document, config: Config) -> None:
    if config.standby is None:
        return
    if getattr(config.power, "type", "") != "fleet":
        text = "daemons stand by for each other over a fleet's bus: `power` must be of type fleet"
        document.report(("standby",), text)
    if config.clock is not None:
        document.report(("standby",), "is for the machine's own clock; leave `clock` out")


def _check_units(document: Document, config: Config) -> None:
    for index, signal in enumerate(config.signals):
        if isinstance(signal, SignalConfig):
            try:
                unit_of(signal.kind, signal.unit, config.currency)
            except SourceError as error:
                document.report(("signals", index, "unit"), str(error).removeprefix("unit: "))


def _check_caps(document: Document, config: Config, curves: Mapping[str, PowerCurve]) -> None:
    for index, pool in enumerate(config.pools):
        try:
            curve = start_of(pool, curves).curve
        except NoCurve as error:
            document.report(("pools", index, "gpu_model"), str(error))
            continue
        low, high = curve.points[0].cap_w, curve.points[-1].cap_w
        for name, value in (("min_cap_w", pool.min_cap_w), ("max_cap_w", pool.max_cap_w)):
            if value is not None and not low <= value <= high:
                text = f"{value:g} W is outside the curve {curve.name}, which was measured from {low:g} to {high:g} W"
                document.report(("pools", index, name), text)


def start_of(pool: PoolConfig, curves: Mapping[str, PowerCurve]) -> Start:
    """The curve that a pool starts from: the one it names, else the nearest of the shipped ones. Raises NoCurve."""
    if pool.curve is not None:
        return Start(curves[pool.curve])
    return nearest(curves, pool.gpu_model, pool.work, pool.max_cap_w)


def _check_limits(document: Document, config: Config) -> None:
    for index, site in enumerate(config.sites):
        if site.limit_signal is not None and site.limit_kw is None:
            text = "needs `limit_kw` beside it: the limit that holds while the signal is lost"
            document.report(("sites", index, "limit_signal"), text)


def _check_jobs(document: Document, config: Config) -> None:
    counts = {pool.id: pool.count for pool in config.pools}
    for name, jobs in (("initial", config.jobs.initial), ("recurring", config.jobs.recurring)):
        for index, job in enumerate(jobs):
            if job.min_gpus > job.max_gpus:
                text = f"{job.min_gpus} is more than `max_gpus` ({job.max_gpus})"
                document.report(("jobs", name, index, "min_gpus"), text)
            if job.max_gpus > counts.get(job.pool, job.max_gpus):
                text = f"{job.max_gpus} is more than pool {job.pool} has ({counts[job.pool]})"
                document.report(("jobs", name, index, "max_gpus"), text)


def _check_order(document: Document, config: Config) -> None:
    """A job waits only for jobs that stand before it, so that no circle can be written."""
    known: set[str] = set()
    for index, job in enumerate(config.jobs.initial):
        for position, name in enumerate(job.after):
            if name not in known:
                text = f'"{name}" is no job further up in this list'
                document.report(("jobs", "initial", index, "after", position), text)
        known.add(job.id)


def _check_meters(document: Document, config: Config) -> None:
    simulated, power = is_simulated(config), getattr(config.power, "type", "")
    for index, meter in enumerate(config.meters):
        kind = getattr(meter, "type", "")
        foreign = kind == "nvml" and power not in NVML_POWER
        if kind in OWN_METERS and ((kind == SIMULATED) != simulated or foreign):
            right = SIMULATED if simulated else "nvml" if power in NVML_POWER else "gpus"
            document.report(
                ("meters", index, "type"), f"a meter of type {kind} can't measure {power} GPUs; write {right}"
            )


def _check_hardware(document: Document, config: Config) -> None:
    if is_simulated(config):
        return
    if config.clock is not None and config.mode is not Mode.OBSERVE:
        document.report(
            ("clock",), "a simulated clock must not steer real GPUs; use `power: {type: simulated}` or `mode: observe`"
        )
    if len(config.pools) > 1:
        for index, pool in enumerate(config.pools):
            if pool.gpus is None:
                document.report(
                    ("pools", index), "needs `gpus`: with several pools, each must say which GPUs are its own"
                )
            elif pool.gpus.all:
                document.report(("pools", index, "gpus", "all"), "with several pools none can have all GPUs")
    owners: dict[str, str] = {}
    for index, pool in enumerate(config.pools):
        for position, uuid in enumerate(pool.gpus.uuids if pool.gpus else ()):
            if uuid in owners:
                document.report(
                    ("pools", index, "gpus", "uuids", position), f'"{uuid}" is in pool {owners[uuid]} already'
                )
            owners[uuid] = pool.id


def _check_devices(document: Document, config: Config) -> None:
    """Twins beside a simulated hall, real devices beside real GPUs: nothing real hangs on a simulation."""
    simulated = is_simulated(config)
    for index, site in enumerate(config.sites):
        devices = [("batteries", n, battery.device) for n, battery in enumerate(site.batteries)]
        devices += [("generators", n, unit.device) for n, unit in enumerate(site.generators) if unit.device is not None]
        for family, number, device in devices:
            if (getattr(device, "type", "") == SIMULATED) != simulated:
                needs = "simulated GPUs need simulated devices" if simulated else "real GPUs need real devices"
                document.report(("sites", index, family, number, "device", "type"), needs)


def _check_parking(document: Document, config: Config) -> None:
    """The twin beside a simulated hall, a command beside real GPUs."""
    simulated = is_simulated(config)
    for index, pool in enumerate(config.pools):
        if pool.parking is not None and (getattr(pool.parking.hook, "type", "") == SIMULATED) != simulated:
            needs = "simulated GPUs need a simulated hook" if simulated else "real GPUs need a real hook"
            document.report(("pools", index, "parking", "hook", "type"), needs)


def _check_latency(document: Document, config: Config) -> None:
    """Simulated users are those of a simulated hall; real servers may be told of beside one."""
    for index, pool in enumerate(config.pools):
        kind = getattr(pool.latency.source, "type", "") if pool.latency is not None else ""
        if kind == SIMULATED and not is_simulated(config):
            document.report(("pools", index, "latency", "source", "type"), "real GPUs need a source that asks servers")


def _check_api(document: Document, config: Config) -> None:
    if config.api.host not in LOOPBACK and not config.api.tokens:
        document.report(
            ("api", "host"), f'"{config.api.host}" is reachable from other machines; add `tokens`, or use 127.0.0.1'
        )
