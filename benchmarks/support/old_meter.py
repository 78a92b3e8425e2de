"""A meter that has a new value every few seconds only, as meters behind a gateway or a scraper have."""

from __future__ import annotations

from dataclasses import replace
from datetime import datetime, timedelta

from adapters.ports import Clock, Meter, Reading
from scheduler.wiring import Parts

SENSOR = timedelta(seconds=1)

SITES, POOLS = timedelta(seconds=5), timedelta(seconds=2)
"""How often a meter of feeders behind a gateway, and a scraper of cards, have something new."""


class OldMeter:
    """`meter`, of which the sites' imports (`sites`), the pools' powers (`pools`), or both are told anew every `every`;
    between that they stay. As the adapters of real ones do, it says over which time they were measured."""

    def __init__(self, meter: Meter, clock: Clock, every: timedelta, *, sites: bool, pools: bool) -> None:
        self._meter, self._clock, self._every = meter, clock, every
        self._sites, self._pools = sites, pools
        self._kept: tuple[datetime, Reading] | None = None

    def read(self) -> Reading:
        """The present reading with what is kept of an earlier one."""
        fresh, now = self._meter.read(), self._clock.now()
        if self._kept is None or now - self._kept[0] >= self._every:
            self._kept = (now, fresh)
        at, kept = self._kept
        told = fresh
        if self._sites:
            told = replace(told, import_kw=kept.import_kw)
        if self._pools:
            told = replace(told, pool_kw=kept.pool_kw, busy_gpus=kept.busy_gpus, work_gpus=kept.work_gpus)
        span = (at - SENSOR, at)
        pools = dict.fromkeys(kept.pool_kw, span) if self._pools else fresh.taken
        sites = dict.fromkeys(kept.import_kw, span) if self._sites else fresh.import_taken
        return replace(told, taken=pools, import_taken=sites)


def seconds_ago(parts: Parts) -> None:
    """Let a site's loop read old values of its import and of its pools."""
    meter, clock = parts.ctx.meter, parts.ctx.clock
    meter = OldMeter(OldMeter(meter, clock, POOLS, sites=False, pools=True), clock, SITES, sites=True, pools=False)
    parts.ctx = parts.facade.ctx = replace(parts.ctx, meter=meter)
