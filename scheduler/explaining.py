"""`gridpace explain`: one sentence about a pool, a job, an event or a site."""

from __future__ import annotations

from contextlib import suppress

from adapters.ports import AdapterError
from optimizer.curves import throughput_at_cap
from optimizer.explain import explain_job, explain_pool
from scheduler.clocked import clock_text
from scheduler.dispatch_notes import yielded_text
from scheduler.engine import Context, State
from scheduler.holding import held_by
from scheduler.latency_trim import latency_text
from scheduler.lowered import effective_w
from scheduler.orders import step_index
from scheduler.reporting import coordinated, elsewhere, zone_of
from scheduler.service import Refused
from scheduler.status import can_shed


def explain_target(ctx: Context, state: State, target: str) -> str:
    """The sentence for `target`. Raises Refused with the known names when there is no such thing."""
    plan, problem = state.decision.plan, state.decision.problem
    with suppress(KeyError):
        event = ctx.ledger.status(target)
        zone = ctx.sites[event.site].zone
        start, end = event.start.astimezone(zone), event.end.astimezone(zone)
        return (
            f"Event {event.id} ({event.program or 'by hand'}) is {event.state}: "
            f"{event.site} at or below {event.target_kw:.0f} kW from {start:%Y-%m-%d %H:%M} "
            f"to {end:%H:%M %Z}, baseline {event.baseline_kw:.0f} kW; "
            f"{event.delivered_kwh:.0f} kWh delivered so far, "
            f"at worst {event.worst_over_kw:.0f} kW over. {event.answer}".rstrip()
        )
    if plan is None or problem is None:
        raise Refused("no plan yet; ask again after the first cycle", 503)
    step = step_index(plan, ctx.clock.now())
    if target in plan.pools:
        held = held_by(ctx, state, ctx.pools[target].pool, plan, ctx.clock.now())
        why = held[1] if held is not None else explain_pool(problem, plan, target, step, zone_of(ctx, target))
        left = ctx.dispatcher.yielded().get(target, {})
        others = f" {yielded_text(target, tuple(left), left, ctx.dispatcher.ignoring)}." if left else ""
        curve = f" Its power curve: {ctx.curves.status(target).text}."
        waits = latency_text(ctx, state, target)
        return f"{why}{_enforced(ctx, state, target)}{curve}{others}{clock_text(ctx, target)}{waits}"
    if elsewhere(ctx, target):
        return coordinated(ctx, target)
    if target in plan.jobs:
        text = explain_job(problem, plan, target, zone_of(ctx, plan.jobs[target].pool))
        return f"{text} {coordinated(ctx, target)}".rstrip()
    if target in ctx.sites:
        return _site_sentence(state, target)
    with suppress(AdapterError):
        if any(job.id == target for job in ctx.jobs.snapshot()):
            return f"{target} is queued and not planned yet; the next plan decides about it."
    known = [*ctx.pools, *ctx.sites, *plan.jobs]
    raise Refused(f"nothing is called {target!r}; known: {', '.join(known[:20])}", 404)


def _enforced(ctx: Context, state: State, pool: str) -> str:
    """What holds instead of the order, where boards or other programs hold cards lower."""
    lowered, order = ctx.dispatcher.lowered().get(pool), state.orders.get(pool)
    if lowered is None or order is None:
        return ""
    limit, held_w = ctx.dispatcher.limit(pool), effective_w(ctx, pool, order.cap_w)
    if limit is None or held_w >= order.cap_w:
        return f" {lowered.text(pool)}."
    share = throughput_at_cap(ctx.pools[pool].pool.curve, held_w)
    return f" {lowered.text(pool)}; {held_w:.0f} W are {share:.0%} throughput."


def _site_sentence(state: State, site: str) -> str:
    tick, report = state.tick, state.report
    if tick is None or report is None:
        raise Refused("no measurement yet", 503)
    cap = min(tick.target_kw[site], tick.limit_kw[site])
    bound = f"at most {cap:.0f} kW now" if cap < float("inf") else "without a limit now"
    status = next(status for status in report.sites if status.id == site)
    return (
        f"{site} draws {tick.import_kw[site]:.0f} kW, {bound}; "
        f"the plan ({report.rung}) aims at {tick.planned_kw[site]:.0f} kW "
        f"at a price of {status.price_per_mwh:.2f} {status.currency}/MWh; "
        f"{tick.shed_kw[site]:.0f} kW are shed below the plan. "
        f"It can shed {can_shed(status)}."
    )
