"""The guards of the pools that have latency objectives, from the config and the books."""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import ExitStack
from dataclasses import replace

from adapters.context import AdapterContext
from adapters.hall import SimulatedHall
from adapters.latency.window import LatencySource
from adapters.registry import create
from scheduler.config import Config
from scheduler.latency import Guard, Objective
from scheduler.latency_book import LatencyBook
from scheduler.latency_trim import KIND
from scheduler.store.store import Store, StoreDegraded


def build_guards(
    config: Config, context: AdapterContext, hall: SimulatedHall | None, store: Store, opened: ExitStack
) -> Mapping[str, Guard]:
    """Guards by pool; their sources are closed with `opened`."""
    guards = {}
    for pool in config.pools:
        asked = pool.latency
        if asked is None:
            continue
        extras = {**context.extras, "hall": hall, "pool": pool.id}
        source: LatencySource = create("latency", asked.source, replace(context, extras=extras))
        opened.callback(source.close)
        objectives = tuple(Objective(o.metric, o.quantile, o.threshold.total_seconds()) for o in asked.objectives)
        held = _held(store, pool.id)
        books = {one.name: LatencyBook.of_record(asked.remember, held.get(one.name)) for one in objectives}
        guard = Guard(pool.id, source, objectives, asked.hold, books, pool.floor, asked.remember)
        source.listen(guard.hear)
        guards[pool.id] = guard
    return guards


def _held(store: Store, pool: str) -> dict[str, object]:
    try:
        return store.get(KIND, pool) or {}
    except StoreDegraded:
        return {}
