"""The quoted price of a token: what the plan's duals say about the coming day, in the words of a client.

Why an indication: a quote holds at the margin, for the plan in force, and changes with the next one. A plan without
duals quotes nothing; it never guesses.
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime, timedelta

from optimizer.domain import GpuPool, Plan, Problem, Work
from optimizer.envelope import tightest_kw

AHEAD = timedelta(hours=24)
INDICATION = "an indication at the margin of the plan in force, not an offer"
NO_DUAL = "no price: the plan comes from a rung without duals"


@dataclass(frozen=True, slots=True)
class QuotedInterval:
    """What more work costs in one interval: money for a million tokens (None: the pool has no tokens, or see `reason`)
    and for a GPU-hour at full throughput. `reason` says why there is no price, or that another job gives way.
    `free_gpus`: GPUs of a batch pool at full throughput that the plan leaves idle, and limits and events leave power
    for, which is split between the batch pools of a site."""

    start: datetime
    end: datetime
    per_mtok: float | None
    per_gpu_h: float | None
    reason: str | None
    free_gpus: float = 0.0


@dataclass(frozen=True)
class PoolQuotes:
    """The quotes of one pool: one model of GPU at one kind of work."""

    pool: str
    site: str
    gpu_model: str
    work: str
    intervals: tuple[QuotedInterval, ...]


@dataclass(frozen=True, slots=True)
class SiteValue:
    """Marginal value of power at a site in one interval, money per MWh of import."""

    site: str
    start: datetime
    end: datetime
    per_mwh: float


@dataclass(frozen=True)
class Quotes:
    """All quotes of a plan for the coming day. `note` says what they are worth, or why there are none."""

    made_at: datetime
    rung: str
    currency: str
    note: str
    pools: tuple[PoolQuotes, ...]
    sites: tuple[SiteValue, ...]


def quotes_of(problem: Problem, plan: Plan, now: datetime, ahead: timedelta = AHEAD) -> Quotes:
    """The quotes of the intervals of `plan` that touch [now, now + ahead)."""
    steps = [t for t, edge in enumerate(plan.grid.starts) if plan.grid.edges[t + 1] > now and edge < now + ahead]
    note = INDICATION if plan.quotes else NO_DUAL
    pools = tuple(
        PoolQuotes(
            item.pool.id,
            item.pool.site,
            item.pool.gpu_model,
            item.pool.work.value,
            _intervals(problem, plan, item.pool, steps),
        )
        for item in problem.pools
        if item.pool.id in plan.quotes
    )
    sites = tuple(
        SiteValue(site, plan.grid.edges[t], plan.grid.edges[t + 1], orders.marginal_per_mwh[t])
        for site, orders in plan.sites.items()
        if orders.marginal_per_mwh
        for t in steps
    )
    return Quotes(plan.made_at, plan.rung.value, problem.currency, note, pools, sites)


def _intervals(problem: Problem, plan: Plan, pool: GpuPool, steps: list[int]) -> tuple[QuotedInterval, ...]:
    quote, edges = plan.quotes[pool.id], plan.grid.edges
    return tuple(
        QuotedInterval(
            edges[t], edges[t + 1], quote.per_mtok[t], quote.more_per_gpu_h[t],
            reason.value if (reason := quote.reasons[t]) is not None else None,
            free_gpus(problem, plan, pool, t),
        )
        for t in steps
    )  # fmt: skip


def free_gpus(problem: Problem, plan: Plan, pool: GpuPool, step: int) -> float:
    """GPUs of a batch pool at full throughput beyond those of the plan: fewer than idle ones where the site's limit or
    an event leaves less power, which its batch pools share by what their idle GPUs would draw, so that it is there
    once. Parked ones count: they wake for work."""
    if pool.work is not Work.BATCH:
        return 0.0
    inputs = next(site for site in problem.sites if site.id == pool.site)
    events = [event for event in problem.events if event.site == pool.site and not event.undecided]
    start, end = plan.grid.edges[step], plan.grid.edges[step + 1]
    cap_kw = min(inputs.limit_kw[step], *(tightest_kw(events, at) for at in (start, start + (end - start) / 2, end)))
    room_kw = max(0.0, cap_kw - plan.sites[pool.site].import_kw[step]) / inputs.pue[step]
    beside = [item.pool for item in problem.pools if item.pool.site == pool.site and item.pool.work is Work.BATCH]
    wanted_kw = sum(_idle(plan, one, step) * _each_kw(one) for one in beside)
    return _idle(plan, pool, step) * min(1.0, room_kw / max(1e-9, wanted_kw))


def _idle(plan: Plan, pool: GpuPool, step: int) -> float:
    """GPUs without work in the plan."""
    return max(0.0, pool.count - plan.pools[pool.id].active_gpus[step])


def _each_kw(pool: GpuPool) -> float:
    """What one GPU more at full throughput draws beyond an idle one."""
    return max(1e-6, (pool.curve.points[-1].draw_w - pool.curve.idle_w) / 1000.0)
