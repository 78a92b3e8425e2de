"""`gridpace check`: would this config run? A line for each part, with the place to edit.

Why more than parsing: a config that parses may still name a file without today's prices, a port that is taken or a
folder that can't be written. So every adapter is made, each signal is read once, and one plan is solved; with
`connect` the hardware or the agent is asked as well. Nothing is written anywhere.
"""

from __future__ import annotations

import os
import socket
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, replace

from adapters import registry
from adapters.context import AdapterContext
from adapters.ports import AdapterError, Reading
from optimizer.reasons import Reason, Severity
from scheduler.building import pool_models
from scheduler.busy import unwatched
from scheduler.config import Config, is_simulated, secrets
from scheduler.config.builtin import WebhookConfig
from scheduler.cycle import run_cycle
from scheduler.hardware import Hardware, build_hardware, parts_of
from scheduler.offline import rehearsal
from scheduler.status import CycleReport
from scheduler.wiring import build_clock, build_sources

OK, WARNING, FAILED = "ok", "warning", "failed"
READ_S = 60.0
"""How long a check waits for signals: a market's first answer holds its whole history."""


@dataclass(frozen=True, slots=True)
class CheckLine:
    """One finding: where in the config, which part, `state` (ok, warning, failed), and a sentence."""

    place: str
    part: str
    state: str
    text: str


def check_config(config: Config, connect: bool = False) -> Iterator[CheckLine]:
    """Everything that can be found out about a loaded config, line by line as it is found."""
    yield CheckLine(
        str(config.file), "config", OK, f"{len(config.sites)} sites, {len(config.pools)} pools, mode {config.mode}"
    )
    for problem in config.warnings:
        yield CheckLine(f"{problem.file}:{problem.line}", problem.path, WARNING, problem.text)
    yield from _secrets(config)
    yield _state_folder(config)
    yield _port(config)
    if config.standby is not None:
        yield _standby(config)
    yield from _borrowed_curves(config)
    broken = list(_broken_signals(config))
    yield from broken
    if not broken:
        yield from _one_cycle(config)
    yield from _channels(config, connect)
    if connect:
        yield from _hardware(config)
    elif not is_simulated(config):
        yield CheckLine(config.place("power"), "power", OK, "not tried; --connect asks the hardware or the agent")


def _secrets(config: Config) -> Iterator[CheckLine]:
    for place, secret in secrets(config):
        yield CheckLine(config.place(*place), f"secret {secret}", OK, "can be read")


def _state_folder(config: Config) -> CheckLine:
    folder = config.state_path
    existing = next(path for path in (folder, *folder.parents) if path.exists())
    usable = existing.is_dir() and os.access(existing, os.W_OK | os.X_OK)
    text = f"{folder} {'can be written' if usable else 'cannot be written by this user'}"
    # Whoever checks is often not the user of the service, so that this alone is no failure.
    return CheckLine(config.place("state_dir"), "state_dir", OK if usable else WARNING, text)


def _standby(config: Config) -> CheckLine:
    from scheduler.standby.life import membership  # needs the extra `fleet`

    mine = membership(config)
    text = f"{mine.name}, reached at {mine.url}, takes over {1.1 * mine.lease_s:g} s after another's last word"
    return CheckLine(config.place("standby"), "standby", OK, text)


def _port(config: Config) -> CheckLine:
    family = socket.AF_INET6 if ":" in config.api.host else socket.AF_INET
    with socket.socket(family) as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((config.api.host, config.api.port))
        except OSError as error:
            text = f"{config.api.host}:{config.api.port}: {error.strerror} (is the daemon running?)"
            return CheckLine(config.place("api", "port"), "api", WARNING, text)
    return CheckLine(config.place("api", "port"), "api", OK, f"{config.api.host}:{config.api.port} is free")


def _borrowed_curves(config: Config) -> Iterator[CheckLine]:
    """Pools that start from a curve that nobody chose for them."""
    for index, model in enumerate(pool_models(config).values()):
        if model.start:
            place = config.place("pools", index)
            yield CheckLine(place, f"pool {model.pool.id}", OK, f"starts from {model.start}")


def _broken_signals(config: Config) -> Iterator[CheckLine]:
    """Signals whose adapter cannot even be made."""
    context = AdapterContext(build_clock(config), config.base_dir, None, config.currency)
    for index, entry in enumerate(config.signals):
        try:
            registry.create("signals", entry, context)
        except AdapterError as error:
            yield CheckLine(config.place("signals", index), f"signal {getattr(entry, 'id', index)}", FAILED, str(error))


def _one_cycle(config: Config) -> Iterator[CheckLine]:
    with rehearsal(config) as parts:
        report = run_cycle(replace(parts.ctx, read_deadline_s=READ_S), parts.state)
    places = {getattr(entry, "id", ""): config.place("signals", index) for index, entry in enumerate(config.signals)}
    for source in report.sources:
        state = {"ok": OK, "lost": FAILED}.get(source.state, WARNING)
        value = "no value now" if source.value is None else f"{source.value:g} {source.unit}"
        text = f"{source.state}, {value}{', ' + source.text if source.text else ''}"
        yield CheckLine(places.get(source.id, str(config.file)), f"signal {source.id}", state, text)
    yield _plan_line(config, report)


def _plan_line(config: Config, report: CycleReport) -> CheckLine:
    alerts = [note.text for note in report.notes if note.severity is Severity.ALERT]
    text = f"{report.rung} in {report.duration_s:.1f} s{'; ' + '; '.join(alerts) if alerts else ''}"
    good = report.rung in {"optimum", "incumbent"}
    return CheckLine(config.place("sites"), "plan", OK if good and not alerts else WARNING if good else FAILED, text)


def _channels(config: Config, connect: bool) -> Iterator[CheckLine]:
    """Channels that are more than a signed webhook: made, and with `connect` asked once."""
    for index, program in enumerate(config.programs):
        extras = {"program": program.id, "site": program.site}
        context = AdapterContext(build_clock(config), config.base_dir, None, config.currency, extras)
        if isinstance(program.channel, WebhookConfig):
            continue
        place, part = config.place("programs", index, "channel"), f"program {program.id}"
        try:
            channel = registry.create("dr", program.channel, context)
            asked = connect and hasattr(channel, "check")
            yield CheckLine(place, part, OK, channel.check() if asked else "made; --connect tries the connection")
        except AdapterError as error:
            yield CheckLine(place, part, FAILED, str(error))


def _hardware(config: Config) -> Iterator[CheckLine]:
    place = config.place("power")
    if is_simulated(config):
        yield CheckLine(place, "power", OK, "simulated: there is nothing to connect to")
        return
    context = AdapterContext(build_clock(config), config.base_dir, None, config.currency)
    try:
        hardware = build_hardware(config, context, pool_models(config), {}, build_sources(config, context)[0])
    except AdapterError as error:
        yield CheckLine(place, "power", FAILED, str(error))
        return
    for index, pool in enumerate(config.pools):
        found = len(hardware.gpus.get(pool.id, ()))
        state = OK if found == pool.count else WARNING
        yield CheckLine(config.place("pools", index), f"pool {pool.id}", state, f"{found} of {pool.count} GPUs answer")
    for note in hardware.notes:
        yield CheckLine(place, note.subject, OK if note.severity is Severity.INFO else WARNING, note.text)
    yield _cards(place, hardware)
    yield from _meters(config, hardware)
    hardware.close()


def _cards(place: str, hardware: Hardware) -> CheckLine:
    """Which cards answer, and between which limits they may be set."""
    try:
        infos = list(hardware.power.discover().values())
    except AdapterError as error:
        return CheckLine(place, "power", FAILED, str(error))
    models = ", ".join(f"{count} x {model}" for model, count in sorted(Counter(info.model for info in infos).items()))
    low, high = min(info.min_w for info in infos), max(info.max_w for info in infos)
    drawn_kw = sum(info.draw_w for info in infos) / 1000.0
    return CheckLine(place, "power", OK, f"{models}; limits from {low:g} to {high:g} W; they draw {drawn_kw:.3g} kW")


def _meters(config: Config, hardware: Hardware) -> Iterator[CheckLine]:
    """What each meter reads now, and, where all of them answer, which pools they don't let us watch."""
    readings = []
    for index, (entry, meter) in enumerate(zip(config.meters, parts_of(hardware.meter), strict=True)):
        place, part = config.place("meters", index), f"meter {getattr(entry, 'type', index)}"
        try:
            reading = meter.read()
        except AdapterError as error:
            yield CheckLine(place, part, FAILED, str(error))
            continue
        powers = [f"{name} {kw:.3g} kW" for name, kw in {**reading.pool_kw, **reading.import_kw}.items()]
        lost = f"; lost: {', '.join(reading.lost[:3])} (of {len(reading.lost)})" if reading.lost else ""
        yield CheckLine(place, part, WARNING if lost else OK, (", ".join(powers) or "nothing read") + lost)
        readings.append(reading)
    if len(readings) == len(config.meters):
        yield from _unwatched(config, readings)


def _unwatched(config: Config, readings: list[Reading]) -> Iterator[CheckLine]:
    """Pools of which no alarm would say that caps are accepted and move nothing."""
    lost = {name for reading in readings for name in reading.lost}  # said already, and perhaps told tomorrow
    for index, model in enumerate(pool_models(config).values()):
        why = None if model.pool.id in lost else unwatched(model, readings)
        if why is not None:
            text = f"nobody would notice a cap that does not lower its power (`{Reason.CAP_UNMOVED}`): {why}"
            yield CheckLine(config.place("pools", index), f"watch {model.pool.id}", WARNING, text)


def worst(lines: list[CheckLine]) -> int:
    """Exit code: 1 when anything failed, else 0."""
    return 1 if any(line.state == FAILED for line in lines) else 0
