"""What Gridpace holds (limits, clocks, parked GPUs, jobs), and how all of it is given back: by the daemon that stops,
or without one.

Why without one: whoever removes Gridpace, or whose daemon won't start, must be able to leave nothing behind. The books
know what is held, and the adapters of the config know how to let it go; neither needs the loops.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Callable, Iterator, Mapping
from contextlib import closing
from dataclasses import dataclass
from typing import Any
from urllib.parse import quote

from adapters.jobs.held import KIND as JOBS
from adapters.jobs.held import YIELDED
from adapters.ports import AdapterError
from optimizer.reasons import Note
from scheduler.clock_hand import KIND as CLOCKS
from scheduler.config import Config
from scheduler.lock import NAME, AlreadyRunning, DaemonLock
from scheduler.parking import BOOK as PARKED
from scheduler.parking import adopt_parking, release_parking
from scheduler.store.codec import Damaged, read_body
from scheduler.supply import release_devices
from scheduler.wiring import Parts, build
from scheduler.work import let_work_go

LIMITS = "first_limit"


@dataclass(frozen=True)
class Holding:
    """One thing that is held: its kind (`limit`, `clock`, `parked`, `job`), what it is on, and what was done."""

    kind: str
    subject: str
    text: str


def let_all_go(parts: Parts) -> tuple[Note, ...]:
    """Give back everything that we hold; what did not work."""
    ctx, state, now = parts.ctx, parts.state, parts.ctx.clock.now()
    ctx.dispatcher.writes = False
    left = release_devices(ctx, state, now) + release_parking(ctx, state, now) + let_work_go(ctx)
    left += ctx.clocks.release(now) if ctx.clocks is not None else ()
    return left + ctx.dispatcher.release(now)


def release_alone(config: Config) -> tuple[Note, ...]:
    """Give everything back where no daemon runs. Raises AlreadyRunning, and what building raises; and AdapterError
    for a daemon among others, of which one may lead."""
    if config.standby is not None:
        text = "another daemon may lead this fleet: release there, or without `standby` when none runs any more"
        raise AdapterError(f"{config.place('standby')}: {text}")
    with DaemonLock(config.state_path):
        parts = build(config)
        try:
            parts.ctx.dispatcher.adopt()
            adopt_parking(parts.ctx, parts.state)
            if parts.ctx.clocks is not None:
                parts.ctx.clocks.adopt()
            return let_all_go(parts)
        finally:
            parts.close()


def daemon_runs(config: Config) -> bool:
    """Whether somebody holds the daemon's lock."""
    if not (config.state_path / NAME).exists():
        return False
    try:
        DaemonLock(config.state_path).release()
    except AlreadyRunning:
        return True
    return False


def held_in_books(config: Config) -> tuple[Holding, ...]:
    """Everything that the books say is held, read beside whoever writes. Raises AdapterError where they can't be
    read."""
    path = config.store_path
    if not path.exists():
        return ()
    try:
        with closing(sqlite3.connect(f"file:{quote(str(path))}?mode=ro", uri=True, timeout=5.0)) as books:
            query = "SELECT kind, key, body, crc FROM records WHERE kind IN (?, ?, ?, ?) ORDER BY seq"
            rows = books.execute(query, (LIMITS, CLOCKS, PARKED, JOBS)).fetchall()
        return tuple(
            found for kind, key, body, crc in rows for found in _READ[kind](key, read_body(body, crc, kind, key))
        )
    except (sqlite3.Error, Damaged) as error:
        raise AdapterError(f"{path}: the books can't be read: {error}") from error


def _limit(gpu: str, body: Mapping[str, Any]) -> Iterator[Holding]:
    yield Holding("limit", gpu, f"gets back {body['limit_w']:g} W ({body['model']})")


def _clock(pool: str, body: Mapping[str, Any]) -> Iterator[Holding]:
    if body.get("mhz"):
        yield Holding("clock", pool, f"{len(body.get('gpus', ()))} GPUs are locked to {body['mhz']} MHz")


def _parked(pool: str, body: Mapping[str, Any]) -> Iterator[Holding]:
    if body.get("gpus"):
        yield Holding("parked", pool, f"{body['gpus']} GPUs are parked")


def _jobs(system: str, body: Mapping[str, Any]) -> Iterator[Holding]:
    for job, did in body.get("jobs", {}).items():
        if did != YIELDED:
            yield Holding("job", job, f"{did} in {system}")


_READ: Mapping[str, Callable[[str, Mapping[str, Any]], Iterator[Holding]]] = {
    LIMITS: _limit, CLOCKS: _clock, PARKED: _parked, JOBS: _jobs,
}  # fmt: skip
