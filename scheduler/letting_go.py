"""What Gridpace holds (limits, clocks, parked GPUs, jobs), and how all of it is given back: by the daemon that stops,
or without one.

Why without one: whoever removes Gridpace, or whose daemon won't start, must be able to leave nothing behind. The books
know what is held, and the adapters of the config know how to let it go; neither needs the loops.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import suppress
from typing import Any

from adapters.jobs.held import KIND as JOBS
from adapters.jobs.held import YIELDED
from adapters.ports import AdapterError
from optimizer.reasons import Note
from scheduler.clock_hand import KIND as CLOCKS
from scheduler.config import Config
from scheduler.holdings import Holding, records_in
from scheduler.lock import DaemonLock, runs_in
from scheduler.parking import BOOK as PARKED
from scheduler.parking import adopt_parking, release_parking
from scheduler.store.store import Store, StoreDegraded
from scheduler.supply import release_devices
from scheduler.wiring import Parts, build
from scheduler.work import let_work_go

LIMITS = "first_limit"
LEFT = "left_at_stop"
"""What a daemon left to its agents when it was stopped in the middle of an event, or under a limit that binds
(scheduler/stopping.py)."""


def let_all_go(parts: Parts) -> tuple[Note, ...]:
    """Give back everything that we hold; what did not work."""
    ctx, state, now = parts.ctx, parts.state, parts.ctx.clock.now()
    ctx.dispatcher.writes = False
    left = release_devices(ctx, state, now) + release_parking(ctx, state, now) + let_work_go(ctx)
    left += ctx.clocks.release(now) if ctx.clocks is not None else ()
    left += ctx.dispatcher.release(now)
    if not left:
        forget_left(ctx.store)
    return left


def left_at_stop(store: Store) -> bool:
    """Whether a daemon before left something to its agents when it was stopped, and nobody has seen to it."""
    return any(body.get("events") or body.get("limits") for body in store.all(LEFT).values())


def forget_left(store: Store) -> None:
    """Who runs now holds what was left, or has given it back."""
    if left_at_stop(store):
        with suppress(StoreDegraded):  # `doctor` then tells of it once more than it should
            store.put(LEFT, "stop", {"events": [], "limits": []})


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
    return runs_in(config.state_path)


def held_in_books(config: Config) -> tuple[Holding, ...]:
    """Everything that the books say is held, read beside whoever writes. Raises AdapterError where they can't be
    read."""
    rows = records_in(config.store_path, (LIMITS, CLOCKS, PARKED, JOBS, LEFT))
    return tuple(found for kind, key, body in rows for found in _READ[kind](key, body))


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


def _left(_: str, body: Mapping[str, Any]) -> Iterator[Holding]:
    events, sites = body.get("events", ()), body.get("limits", ())
    if events or sites:
        yield Holding("event" if events else "site", ", ".join((*events, *sites)), str(body["text"]))


_READ: Mapping[str, Callable[[str, Mapping[str, Any]], Iterator[Holding]]] = {
    LIMITS: _limit, CLOCKS: _clock, PARKED: _parked, JOBS: _jobs, LEFT: _left,
}  # fmt: skip
