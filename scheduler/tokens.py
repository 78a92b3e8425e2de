"""The quoted price of a token: what the plan's duals say about the coming day, in the words of a client.

Why an indication: a quote holds at the margin, for the plan in force, and changes with the next one. A plan without
duals quotes nothing; it never guesses.
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime, timedelta

from optimizer.domain import Plan, Problem

AHEAD = timedelta(hours=24)
INDICATION = "an indication at the margin of the plan in force, not an offer"
NO_DUAL = "no price: the plan comes from a rung without duals"


@dataclass(frozen=True, slots=True)
class QuotedInterval:
    """What more work costs in one interval: money for a million tokens (None: the pool has no tokens, or see `reason`)
    and for a GPU-hour at full throughput. `reason` says why there is no price, or that another job gives way."""

    start: datetime
    end: datetime
    per_mtok: float | None
    per_gpu_h: float | None
    reason: str | None


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
            _intervals(plan, item.pool.id, steps),
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


def _intervals(plan: Plan, pool: str, steps: list[int]) -> tuple[QuotedInterval, ...]:
    quote, edges = plan.quotes[pool], plan.grid.edges
    return tuple(
        QuotedInterval(
            edges[t], edges[t + 1], quote.per_mtok[t], quote.more_per_gpu_h[t],
            reason.value if (reason := quote.reasons[t]) is not None else None,
        )
        for t in steps
    )  # fmt: skip
