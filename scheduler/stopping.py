"""What an orderly stop leaves behind: nothing, or the rest of an event and a limit that binds, to agents that follow
alone.

Why: a daemon that is restarted or upgraded must not do worse than one that is killed, whose agents deliver to the end
of the event, keep a limit for a day, and then give everything back. Where the daemon sets limits by itself nobody would
ever give them back, so that there a stop gives back at once. What would draw more when it is let go (held jobs, parked
GPUs) is let go only where the caps alone keep the site under its limit; batteries and generators go to 0 when the lease
of their last order ends.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import datetime, timedelta
from itertools import pairwise

import structlog

from adapters.jobs.held import KIND as JOBS
from adapters.jobs.held import YIELDED
from adapters.ports import AdapterError, TrajectoryHolder
from optimizer.domain import GridEvent
from optimizer.envelope import INF, event_breakpoints, event_limit_kw, tightest_kw
from optimizer.reasons import Note, Reason, Severity
from scheduler.alone import SAME_KW, over_it_kw
from scheduler.clocked import limits_of
from scheduler.engine import Context, State
from scheduler.flexibility import pue_now, site_pools
from scheduler.letting_go import LEFT, let_all_go
from scheduler.orders import PoolOrder
from scheduler.parked import asleep_kw
from scheduler.parking import BOOK as PARKED
from scheduler.parking import release_parking
from scheduler.standing import Standing, standing
from scheduler.store.store import StoreDegraded
from scheduler.trajectory import INSTANT, LAG, Steps, reach, trajectory
from scheduler.wiring import Parts
from scheduler.work import let_work_go

log = structlog.get_logger()

SPENT_S = 0.001
"""The lease of the last word: agents follow the trajectory from now on."""


@dataclass(frozen=True)
class Ending:
    """How a stop ended: what did not work, and where something was left to the agents, a sentence that says so."""

    notes: tuple[Note, ...] = ()
    left: str = ""


def end_in_order(parts: Parts) -> Ending:
    """Give everything back; or leave events and limits that bind to agents that can follow alone. Call it when the
    loops are over."""
    ctx, state, now = parts.ctx, parts.state, parts.ctx.clock.now()
    events = binding(ctx, now) if ctx.dispatcher.writes else ()
    limits = limiting(ctx, state, now) if ctx.dispatcher.writes else {}
    alone = isinstance(ctx.dispatcher.actuator, TrajectoryHolder) and ctx.dispatcher.lease_s is not None
    if alone and (events or limits):
        return _leave(ctx, state, events, limits, now)
    for event in events:
        if event.start <= now < event.end:
            log.warning("stopped in the middle of an event: its site is free to rise", event_id=event.id)
    for site, limit in limits.items():
        if (kw := limit.over(now, now + INSTANT)) < INF:
            log.warning("stopped under a limit: its site is free to rise above it", site=site, limit_kw=round(kw, 1))
    return Ending(let_all_go(parts))


def limiting(ctx: Context, state: State, now: datetime) -> dict[str, Standing]:
    """The limits that bind sites whatever event there is, by site."""
    found = {site: standing(ctx, state, site, now) for site in ctx.sites}
    return {site: limit for site, limit in found.items() if limit.limits}


def binding(ctx: Context, now: datetime) -> tuple[GridEvent, ...]:
    """Events that put a cap on their site now, or will within the reach of a trajectory."""
    events = ctx.ledger.active(now)
    until = reach(ctx, events, now)

    def binds(event: GridEvent) -> bool:
        moments = (now, *(cut for cut in event_breakpoints(event) if now < cut < until))
        return any(event_limit_kw(event, at) < INF for at in moments)

    return tuple(event for event in events if binds(event))


def _leave(
    ctx: Context, state: State, events: Sequence[GridEvent], limits: Mapping[str, Standing], now: datetime
) -> Ending:
    """Hand the rest over to the agents, under a lease that is spent, and let go what the caps bear."""
    sites = {event.site for event in events} | limits.keys()
    others = {
        gpu for pool, gpus in ctx.dispatcher.gpus.items() if ctx.pools[pool].pool.site not in sites for gpu in gpus
    }
    with state.lock:
        notes = ctx.dispatcher.release(now, others) if others else ()
        notes += _free_clocks(ctx, sites, now)
        failed, steps, until_s = _hand_over(ctx, state, sites, now)
        notes += failed
        ctx.dispatcher.writes = False
    if steps and caps_suffice(ctx, state, steps, until_s, events, limits, now):
        notes += release_parking(ctx, state, now) + let_work_go(ctx)
    text = _left_text(events, limits, now + timedelta(seconds=until_s) if steps else None, _kept(ctx))
    try:
        left = {"events": [event.id for event in events], "limits": list(limits), "text": text}
        ctx.store.put(LEFT, "stop", left)
    except StoreDegraded as error:
        notes += (Note(Reason.STORE_DEGRADED, "store", str(error), Severity.ALERT, now),)
    log.warning(text)
    return Ending(notes, text)


def _free_clocks(ctx: Context, sites: Collection[str], now: datetime) -> tuple[Note, ...]:
    """Let the clocks of all other sites go."""
    if ctx.clocks is None:
        return ()
    kept = {pool: mhz for pool, mhz in ctx.clocks.locked_mhz.items() if ctx.pools[pool].pool.site in sites}
    return ctx.clocks.apply(kept, ctx.dispatcher.lease_s or 0.0, now)


def _left_text(
    events: Sequence[GridEvent], limits: Mapping[str, Standing], until: datetime | None, kept: Sequence[str]
) -> str:
    """What was left to the agents, and until when, if they were told."""
    where = [f"in the middle of {', '.join(event.id for event in events)}"] * bool(events)
    sites = ", ".join(f"{site} ({limit.kw:.4g} kW)" for site, limit in limits.items())
    where += [f"under the limit of {sites}"] * bool(limits)
    do = " and ".join(["deliver to the end"] * bool(events) + ["keep the limit"] * bool(limits))
    told = f"its agents {do}, and give everything back by themselves from"
    text = (
        f"stopped {' and '.join(where)}: {told} {until:%Y-%m-%d %H:%M}Z on"
        if until is not None
        else f"stopped {' and '.join(where)}: its agents follow what they were told last, then give everything back"
    )
    text += f"; {' and '.join(kept)} stay held, which caps alone might not bear" if kept else ""
    return f"{text}; `gridpace release` gives everything back at once"


def _hand_over(
    ctx: Context, state: State, sites: Collection[str], now: datetime
) -> tuple[tuple[Note, ...], Steps, float]:
    """The last trajectory of these sites, as of now: what did not work, its steps (none where they could not be told),
    and for how long it holds."""
    try:
        if state.plan is None:
            raise AdapterError("there was no plan yet")
        steps, until_s = trajectory(ctx, state, state.plan, now, last=True)
        mine = {pool for pool, entry in ctx.pools.items() if entry.pool.site in sites}
        steps = [(at, {pool: order for pool, order in orders.items() if pool in mine}) for at, orders in steps]
        ctx.dispatcher.lease_s = SPENT_S
        ctx.dispatcher.hold([(at, limits_of(ctx.pools, orders)) for at, orders in steps], until_s, now)
        return (), steps, until_s
    except (AdapterError, StoreDegraded) as error:
        text = f"the agents were not told the rest anew, and follow what they had: {error}"
        return (Note(Reason.CAP_REFUSED, "power", text, Severity.ALERT, now),), [], 0.0


def caps_suffice(
    ctx: Context,
    state: State,
    steps: Steps,
    until_s: float,
    events: Sequence[GridEvent],
    limits: Mapping[str, Standing],
    now: datetime,
) -> bool:
    """Whether the sites stay under the caps of events and limits on these steps with every GPU awake and every batch
    GPU at work: then jobs that are let go do no harm."""
    until = now + timedelta(seconds=until_s)
    begins = [(now + timedelta(seconds=offset_s), orders) for offset_s, orders in steps]
    cuts = {cut for event in events for cut in event_breakpoints(event)} | {at for at, _ in begins} | {now, until}
    cuts |= {cut for limit in limits.values() for span, _ in limit.limits for cut in span}
    for at, end in pairwise(sorted(cut for cut in cuts if now <= cut <= until)):
        orders = next(orders for begin, orders in reversed(begins) if begin <= at)
        for site in {event.site for event in events} | limits.keys():
            mine = [event for event in events if event.site == site]
            limit_kw = limits[site].over(at, end) if site in limits else INF
            cap_kw = min(limit_kw, tightest_kw(mine, at), tightest_kw(mine, end - INSTANT))
            if cap_kw < INF and _over_kw(ctx, state, site, orders, cap_kw, at, lagging=at < now + LAG) > SAME_KW:
                return False
    return True


def _over_kw(
    ctx: Context,
    state: State,
    site: str,
    orders: Mapping[str, PoolOrder],
    cap_kw: float,
    at: datetime,
    *,
    lagging: bool,
) -> float:
    """By how much IT power is above what the cap leaves, should nobody hold work back."""
    pools = [entry.pool for entry in site_pools(ctx, site)]
    busy = {pool.id: replace(orders[pool.id], active_gpus=pool.count) for pool in pools}
    woken_kw = sum(asleep_kw(state.parked, pool) for pool in pools) * pue_now(ctx, state, site, at)
    return over_it_kw(ctx, state, site, busy, max(0.0, cap_kw - woken_kw), 0.0, at, lagging=lagging)


def _kept(ctx: Context) -> list[str]:
    """What stays held beside the limits, in words."""
    jobs = [job for body in ctx.store.all(JOBS).values() for job, did in body.get("jobs", {}).items() if did != YIELDED]
    gpus = sum(int(body.get("gpus", 0)) for body in ctx.store.all(PARKED).values())
    return [f"jobs ({len(jobs)})"] * bool(jobs) + [f"parked GPUs ({gpus})"] * bool(gpus)
