"""One site in one tick: from the plan's wish and the ceiling to orders that meet the set-point.

Feed-forward: the curves and the measured number of busy GPUs predict what an order draws, and the meter line what of it
the meter will show. Feedback: what the prediction was last off by is carried along. What a ceiling turns out not to
need is given back first (`giveback`). Above the set-point the cheapest kW go first, down to the floors; below it (a
ramp that forbids falling faster) the last orders are given up step by step.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass, field
from datetime import datetime

from optimizer.domain import GpuPool, GridEvent, Work
from optimizer.reasons import Note
from optimizer.shed import ShedPool, shed
from scheduler.calm import BAND, calmed, given_w
from scheduler.dwell import dwelling, take
from scheduler.engine import Context, State
from scheduler.flexibility import pue_now, site_pools
from scheduler.giveback import give_back
from scheduler.granting import filled
from scheduler.latency_trim import held_caps, kept_cap_w, raised, yields
from scheduler.observing import foreign_gpus, site_import
from scheduler.orders import PoolOrder, whole_order
from scheduler.overrides import operator_limit_kw
from scheduler.predict import (
    busy_under,
    coming_kw,
    held_it_kw,
    held_order,
    it_kw,
    meter_line,
    missing_kw,
    peak_it_kw,
    quiet_kw,
    rises,
)
from scheduler.safety import clamp, lowest_cap_w
from scheduler.supply import asked_kw, relieve, sun_kw
from scheduler.surprise import Surprises
from scheduler.targets import (
    INF,
    Ceiling,
    approach_kw,
    careful,
    ceiling,
    descent_kw,
    live,
    pace,
    release_kw_per_min,
    risen_by_load,
    setpoint,
)
from scheduler.worth import kept_gpus, pool_value

LATE_TICKS = 10
"""What a ramp catches up on at most, in ticks."""

SLACK_KW = 0.5
"""A difference between wish and set-point that is not worth an order."""

STILL_W, STILL_SHARE, MARGIN_USED = 4, 0.0015, 0.5
"""Caps that would move by no more than this stay as they are, while the power that they leave unused is less than this
share and they take no more than this part of the margin: a site that answers every flicker with an order to all its
cards hunts after noise. While a load rises nothing of the margin is taken: another one may turn in the same second."""


@dataclass(frozen=True)
class SiteTrim:
    """Orders of one site's pools and how they came about; `short_kw` is what no lever could shed. What the plan
    orders below a floor counts as ordered at it (`notes`), so that others make up for it, or the shortfall is known.
    `cap_kw`: the ceiling, or what a coming event leaves."""

    ceiling: Ceiling
    setpoint_kw: float
    planned_kw: float
    shed_kw: float
    short_kw: float
    orders: Mapping[str, PoolOrder]
    devices_kw: Mapping[str, float] = field(default_factory=dict)
    notes: tuple[Note, ...] = ()
    cap_kw: float = INF
    spent: bool = False
    """Whether every lever is used and more would be needed for the aim, which lies a margin below the ceiling."""

    @property
    def reached_kw(self) -> float:
        """From where a ramp goes on: the set-point, and above a ceiling that is out of reach what the orders draw. (A
        ramp up from far below would hold a site at its floors for minutes after the limit is lifted.)"""
        return max(self.setpoint_kw, self.ceiling.kw + self.short_kw) if self.short_kw > 0 else self.setpoint_kw


def trim_site(
    ctx: Context,
    state: State,
    site: str,
    events: tuple[GridEvent, ...],
    now: datetime,
    then: datetime,
    below_floor: Collection[str],
) -> SiteTrim:
    """Set-point and orders of `site` until the next tick at `then`."""
    pools = [entry.pool for entry in site_pools(ctx, site)]
    planned, notes = clamp(raised(state, planned_orders(ctx, state, pools, now)), pools, below_floor, now)
    devices_kw = asked_kw(ctx, state, site, now)
    state.supply_kw[site] = sum(devices_kw.values()) - sun_kw(ctx, state, site, now)
    limit_kw = min(limit_now(ctx, state, site, at) for at in (now, then))
    top = ceiling(site, limit_kw, events, operator_limit_kw(state, site, now), now, then)
    surprises, drawn_kw = state.surprises.setdefault(site, Surprises()), site_import(ctx, state, site, now)
    line = meter_line(ctx, state, site, now)
    held_kw = line.import_of(held_it_kw(state, pools))
    surge_kw = surprises.surge_kw(drawn_kw, held_kw, coming_kw(state, pools))
    seconds, last_kw = ramped_s(state, now, then), _last_kw(state, site, drawn_kw)
    cap_kw = min(top.kw, coming_cap_kw(ctx, state, site, events, now, then))
    surge_kw += surprises.onset_kw(missing_kw(state, pools), cap_kw, quiet_kw(state, pools)) - surprises.ebb_kw
    most_kw = cap_kw - surprises.margin_kw(cap_kw, ctx.margin) if cap_kw < INF else INF
    cap_it_kw = line.it_of(careful(most_kw, held_kw) - surge_kw)
    kept = dwelling(state, planned, now)
    wish = give_back(ctx, state, pools, kept, _free_kw(state, pools, kept, cap_it_kw, line.it_of(most_kw)), now)
    wish_kw = line.import_of(it_kw(state, pools, wish))
    up, down, risen_kw = ramps_now(ctx, state, site, events, now, (last_kw, held_kw))
    aim_kw = setpoint(wish_kw, last_kw, most_kw, seconds, up, down, risen_kw)
    aim_kw = max(aim_kw, min(most_kw, line.import_of(guarded_it_kw(state, pools))))
    base, floors = _base(state, pools, wish, ramping=aim_kw > wish_kw + SLACK_KW, deep=site in below_floor)
    base_it_kw, target_kw = it_kw(state, pools, base), min(line.it_of(aim_kw), cap_it_kw)
    over_kw = line.import_of(base_it_kw) - line.import_of(target_kw)
    target_kw = line.it_of(line.import_of(target_kw) + relieve(ctx, state, site, devices_kw, max(0.0, over_kw)))
    orders, left_kw = shed_orders(state, pools, base, floors, base_it_kw - target_kw, now)
    hard_kw = min(top.limit_kw, top.operator_kw)
    room_kw = line.it_of(hard_kw - surprises.margin_kw(hard_kw, ctx.margin)) if hard_kw < INF else INF
    orders, left_kw, more = give_way(state, pools, orders, left_kw, top, room_kw, now)
    take(state, pools, wish, orders, now)
    if orders != planned:
        orders = still(state, pools, orders, target_kw, ctx.margin)
    ordered_kw = line.import_of(it_kw(state, pools, orders))
    surprises.aim(most_kw if left_kw <= 0 else INF, ordered_kw, drawn_kw)
    short_kw = max(0.0, ordered_kw - top.kw) if left_kw > 0 else 0.0  # not of a ramp that goes on below the ceiling
    planned_kw = line.import_of(it_kw(state, pools, planned))
    shed_kw = max(0.0, wish_kw - aim_kw)
    spent = left_kw > 0
    return SiteTrim(top, aim_kw, planned_kw, shed_kw, short_kw, orders, devices_kw, notes + more, cap_kw, spent)


def ramps_now(
    ctx: Context,
    state: State,
    site: str,
    events: tuple[GridEvent, ...],
    now: datetime,
    kw: tuple[float | None, float],
) -> tuple[float, float, float]:
    """Ramp limits of a site now, up and down, in kW per minute: its own, of live events, and of those just released;
    and by how much load has raised it from its last set-point, which a release is not meant for. `kw`: that set-point,
    and the import under the orders in force."""
    (last_kw, held_kw), model = kw, ctx.sites[site]
    up, down = pace(site, events, now, model.ramp_up_kw_per_min, model.ramp_down_kw_per_min)
    least_kw = state.lately[site].least_kw if site in state.lately and not live(site, events, now) else -INF
    risen_kw = risen_by_load(last_kw, held_kw, least_kw, up)
    release = release_kw_per_min(site, events, now, ctx.timing.interval)
    if release < up == INF and last_kw is not None:
        risen_kw = max(0.0, held_kw - last_kw)
    return min(up, release), down, risen_kw


def coming_cap_kw(
    ctx: Context, state: State, site: str, events: tuple[GridEvent, ...], now: datetime, then: datetime
) -> float:
    """What leads down to events' caps, and to limits that are known to fall: from the last tick's cap, or, where that
    held nothing, from little above its set-point. (That is a margin below its cap: from there, each tick would fall by
    a margin more than the pace allows.) A tick that comes late may fall by as much more; not so one after a machine was
    suspended."""
    last_kw, period = state.setpoint_kw.get(site), then - now
    passed = now - state.last_tick_at if state.last_tick_at is not None else period
    if last_kw is not None:
        above_kw = 2.0 * state.surprises[site].margin_kw(last_kw, ctx.margin)
        last_kw = min(state.cap_kw.get(site, INF), last_kw + above_kw)
    late_s, own = min(passed, LATE_TICKS * period).total_seconds(), ctx.sites[site].ramp_down_kw_per_min
    falls_kw = descent_kw(limits_ahead(state, site), then, last_kw, late_s, own) if own < INF else INF
    return min(falls_kw, approach_kw(site, events, then, last_kw, late_s, own))


def _last_kw(state: State, site: str, drawn_kw: float | None) -> float | None:
    """Import from which a ramp goes on: the last set-point; where no meter told how far below it the site was (what
    nobody sees is counted in full), what is drawn when one does again."""
    last_kw = state.setpoint_kw.get(site)
    if last_kw is None or drawn_kw is None or site not in state.unmetered:
        return last_kw
    return min(last_kw, drawn_kw)


def ramped_s(state: State, now: datetime, then: datetime) -> float:
    """Seconds of ramp in this tick: until the next one, and no more than have passed since the last, which was given as
    much. So the ticks for which somebody hurries make no ramp steeper."""
    passed = now - state.last_tick_at if state.last_tick_at is not None else then - now
    return max(0.001, min(then - now, passed).total_seconds())


def planned_orders(ctx: Context, state: State, pools: list[GpuPool], now: datetime) -> dict[str, PoolOrder]:
    """What the plan orders for now, in whole watts and GPUs that have work; caps that a price moves for next to nothing
    stay."""
    orders = {pool.id: whole_order(state.plan, pool, state.jobs, now) for pool in pools}
    pue = pue_now(ctx, state, pools[0].site, now) if pools else 1.0
    return filled(ctx, state, calmed(state, pools, orders, pue, now), now)


def _free_kw(
    state: State, pools: list[GpuPool], orders: Mapping[str, PoolOrder], cap_it_kw: float, most_it_kw: float
) -> float:
    """IT power that may be given back: what is free below `cap_it_kw` with the load of every one of the last seconds,
    but no more than the orders may come to (`most_it_kw`). An ebb makes the former larger; what is given beyond the
    latter is taken from another pool in the same tick and comes back to it in the next: caps would hunt."""
    return min(cap_it_kw - peak_it_kw(state, pools, orders), most_it_kw - it_kw(state, pools, orders))


def _base(
    state: State, pools: list[GpuPool], wish: Mapping[str, PoolOrder], *, ramping: bool, deep: bool
) -> tuple[Mapping[str, PoolOrder], dict[str, int]]:
    """Orders from which is shed, and the caps down to which: from the wish to the floors, or, while a ramp forbids to
    fall as fast as wished, from what is held to the wish."""
    if ramping:
        held = {pool.id: _higher(held_order(state, pool), wish[pool.id]) for pool in pools}
        return held, {pool.id: wish[pool.id].cap_w for pool in pools}
    return wish, {pool.id: int(pool.min_cap_w) if deep else kept_cap_w(state, pool) for pool in pools}


def still(
    state: State, pools: list[GpuPool], orders: dict[str, PoolOrder], target_kw: float, margin: float
) -> dict[str, PoolOrder]:
    """The orders in force instead of `orders`, where they do as well: hardly another cap, no more IT power above
    `target_kw` than is to spare of the least `margin` (a share), and little less."""
    beyond = 0.0 if any(rises(state, pool) for pool in pools) else MARGIN_USED * margin
    held = {pool.id: state.held.get(pool.id) for pool in pools}
    near = {
        name: before for name, before in held.items()
        if before is not None and before.active_gpus == orders[name].active_gpus
        and abs(before.cap_w - orders[name].cap_w) <= STILL_W
    }  # fmt: skip
    if len(near) < len(pools):
        return orders
    unused_kw = target_kw - it_kw(state, pools, near)
    return near if -beyond * target_kw <= unused_kw <= STILL_SHARE * target_kw else orders


def guarded_it_kw(state: State, pools: list[GpuPool]) -> float:
    """IT power of what is held now with what the latency guard takes back, which waits for no ramp; else nothing."""
    held = {pool.id: held_order(state, pool) for pool in pools} if held_caps(state) else {}
    return it_kw(state, pools, raised(state, held)) if held and raised(state, held) != held else -INF


def give_way(
    state: State,
    pools: list[GpuPool],
    orders: dict[str, PoolOrder],
    left_kw: float,
    top: Ceiling,
    room_kw: float,
    now: datetime,
) -> tuple[dict[str, PoolOrder], float, tuple[Note, ...]]:
    """The latency guard yields to hard limits and operators, which leave `room_kw` of IT power: where every other lever
    is used, its pools go down to their floors, as far as those need it. An event gets no more than the rest; that it
    falls short is known."""
    if not held_caps(state):
        return orders, left_kw, ()
    over_kw = min(left_kw, it_kw(state, pools, orders) - room_kw)
    if over_kw > 0:
        orders, still_kw = shed_orders(state, pools, orders, {p.id: lowest_cap_w(p) for p in pools}, over_kw, now)
        left_kw -= over_kw - still_kw
    operators = "the operator's order" if top.operator_kw <= top.limit_kw else "the site's limit"
    return orders, left_kw, yields(state, pools, orders, operators if over_kw > 0 else "an emergency", now)


def limit_now(ctx: Context, state: State, site: str, now: datetime) -> float:
    """The hard import limit of the present interval."""
    problem = state.problem
    if problem is not None and problem.grid.start <= now < problem.grid.end:
        inputs = next(inputs for inputs in problem.sites if inputs.id == site)
        return inputs.limit_kw[problem.grid.index(now)]
    return ctx.sites[site].limit_kw


def limits_ahead(state: State, site: str) -> Iterator[tuple[datetime, float]]:
    """When each interval of the problem in force begins whose hard limit is published, and that limit in kW: nobody is
    throttled now for one that is only expected."""
    problem, until = state.problem, state.limits_told.get(site)
    if problem is None or until is None:
        return iter(())
    inputs = next(inputs for inputs in problem.sites if inputs.id == site)
    return ((at, kw) for at, kw in zip(problem.grid.starts, inputs.limit_kw, strict=True) if at < until)


def _higher(one: PoolOrder, other: PoolOrder) -> PoolOrder:
    return PoolOrder(max(one.cap_w, other.cap_w), max(one.active_gpus, other.active_gpus))


def shed_orders(
    state: State,
    pools: list[GpuPool],
    base: Mapping[str, PoolOrder],
    floors: Mapping[str, int],
    kw: float,
    now: datetime,
) -> tuple[dict[str, PoolOrder], float]:
    """`base` with `kw` of IT power taken off in merit order; what remains when every lever is used.

    The last lever: caps below the knee, in pools without a floor whose work must go on.
    """
    orders, left_kw = _shed(state, pools, base, floors, kw, now)
    low = {pool.id: max(lowest_cap_w(pool), held_caps(state).get(pool.id, 0)) for pool in pools}
    last = {pool.id: min(floors[pool.id], low[pool.id]) for pool in pools}
    if left_kw > 0 and all(floors[pool.id] <= kept_cap_w(state, pool) for pool in pools) and last != floors:
        return _shed(state, pools, orders, last, left_kw, now)
    return orders, left_kw


def _shed(
    state: State,
    pools: list[GpuPool],
    base: Mapping[str, PoolOrder],
    floors: Mapping[str, int],
    kw: float,
    now: datetime,
) -> tuple[dict[str, PoolOrder], float]:
    if kw <= 1e-6:
        return dict(base), 0.0
    entries = []
    for pool in pools:
        order, batch = base[pool.id], pool.work is Work.BATCH
        entries.append(
            ShedPool(
                id=pool.id,
                curve=pool.curve,
                count=pool.count,
                busy=busy_under(state, pool, order),
                cap_w=order.cap_w,
                low_cap_w=min(order.cap_w, floors[pool.id]),
                high_cap_w=int(pool.max_cap_w),
                value_per_gpu_h=pool_value(state, pool, now),
                may_idle=batch,
                low_busy=float(kept_gpus(state, pool) + foreign_gpus(state, pool.id)) if batch else 0.0,
                given_w=given_w(state, pool, order),
                stays=BAND,
            )
        )
    result = shed(entries, kw)
    orders = {
        pool.id: PoolOrder(
            result.orders[pool.id].cap_w,
            max(0, min(result.orders[pool.id].active_gpus - foreign_gpus(state, pool.id), base[pool.id].active_gpus))
            if pool.work is Work.BATCH
            else pool.count,
        )
        for pool in pools
    }
    return orders, max(0.0, result.remaining_kw)
