"""From a plan, a tick and the ledger to one CycleReport: the object that every surface prints.

Why here: the loops decide, this module only words it. It must never raise for a thing that is merely absent.
"""

from __future__ import annotations

from dataclasses import replace
from datetime import UTC, datetime, tzinfo
from typing import TYPE_CHECKING

from adapters.jobs.queue_rules import Movable
from optimizer.curves import throughput_at_cap
from optimizer.domain import BatchJob, GpuPool, JobState, Plan, Problem, Work
from optimizer.explain import explain_job, explain_pool
from optimizer.reasons import Note, Reason
from scheduler.clocked import locked_mhz, yielded_gpus
from scheduler.flex import flex_now, flex_text
from scheduler.flexibility import flexibility
from scheduler.holding import held_by
from scheduler.latency import status_of
from scheduler.latency_plan import forecast_s
from scheduler.latency_trim import needed
from scheduler.lowered import effective_w, enforced_w
from scheduler.orders import planned_order, step_index
from scheduler.overrides import mode_now
from scheduler.status import CycleReport, JobStatus, LatencyStatus, PoolStatus, SiteStatus, SourceStatus
from scheduler.supply import supply_statuses
from scheduler.targets import INF

if TYPE_CHECKING:
    from scheduler.collect import Seen, Snapshot
    from scheduler.engine import Context, State


def cycle_report(
    ctx: Context, state: State, seen: Snapshot, duration_s: float, now: datetime, next_at: datetime
) -> CycleReport:
    """The report of one finished cycle."""
    plan, problem = state.decision.plan, state.decision.problem
    assert plan is not None
    assert problem is not None
    return CycleReport(
        cycle=state.cycles,
        at=now,
        mode=mode_now(ctx, state),
        rung=plan.rung.value,
        duration_s=duration_s,
        solve_s=plan.solve_s,
        objective=plan.objective,
        next_at=next_at,
        sites=tuple(_site(ctx, state, problem, plan, site, now) for site in ctx.sites),
        pools=tuple(pool_status(ctx, state, model.pool, problem, plan, now) for model in ctx.pools.values()),
        jobs=tuple(job_status(job, ctx, state) for job in problem.jobs),
        events=tuple(ctx.ledger.statuses()),
        supply=supply_statuses(ctx, state, now),
        sources=tuple(source_status(name, one, now, ctx.sources[name].kind) for name, one in seen.signals.items()),
        notes=merge_notes(
            seen.notes,
            problem.notes,
            plan.notes,
            ctx.ledger.notes(now),
            ctx.store.notes(),
            ctx.shares.notes(now) if ctx.shares is not None else (),
            tuple(state.notes),
        ),
    )


def merge_notes(*groups: tuple[Note, ...]) -> tuple[Note, ...]:
    """All notes, each sentence once. Two sentences of one code about one subject both stay: the second is often what
    follows from the first, and the first names the place."""
    merged = {(note.code, note.subject, note.text): note for group in groups for note in group}
    return tuple(merged.values())


def source_status(name: str, one: Seen, now: datetime, kind: str = "") -> SourceStatus:
    """An input as the page shows it: its light, its age, its present value, and what is wrong with it."""
    text = "; ".join(note.text for note in one.notes[:2])
    kinds = {"g/kWh": "carbon", "degC": "weather", "fraction": "load", "kW": "limit", "MW": "system_load"}
    kind = kind or kinds.get(one.series.unit, "price")
    return SourceStatus(name, kind, one.state.value, one.age_s, one.series.at(now), one.series.unit, text)


def _site(ctx: Context, state: State, problem: Problem, plan: Plan, site: str, now: datetime) -> SiteStatus:
    inputs = next(inputs for inputs in problem.sites if inputs.id == site)
    model, tick = ctx.sites[site], state.tick
    return SiteStatus(
        id=site,
        import_kw=tick.import_kw.get(site) if tick else None,
        planned_kw=plan.sites[site].import_kw[step_index(plan, now)],
        target_kw=tick.target_kw.get(site, INF) if tick else INF,
        limit_kw=inputs.limit_kw[0],
        price_per_mwh=inputs.price_per_mwh[0],
        pue=inputs.pue[0],
        currency=model.currency,
        timezone=model.timezone,
        flexibility=flexibility(ctx, state, site, now),
        marginal_per_mwh=next(iter(plan.sites[site].marginal_per_mwh[step_index(plan, now) :]), None),
    )


def pools_now(ctx: Context, state: State, report: CycleReport, now: datetime) -> CycleReport:
    """The report with its pools as they are after the last tick, each with the reason that holds then: the plan's that
    this tick followed, or what the fast loop holds it to. What a plan orders that no tick has followed yet is told by
    the next."""
    problem, plan = state.followed.problem, state.followed.plan
    if problem is None or plan is None:
        return report
    models = [model.pool for model in ctx.pools.values()]
    return replace(report, pools=tuple(pool_status(ctx, state, pool, problem, plan, now) for pool in models))


def pool_status(ctx: Context, state: State, pool: GpuPool, problem: Problem, plan: Plan, now: datetime) -> PoolStatus:
    """A pool now: the order in force, what it draws, and why."""
    held = held_by(ctx, state, pool, plan, now)
    step = step_index(plan, now)
    order = state.orders.get(pool.id) or planned_order(plan, pool, now)
    draw = state.tick.pool_kw.get(pool.id) if state.tick else None
    busy = pool.count if pool.work is not Work.BATCH else order.active_gpus
    return PoolStatus(
        id=pool.id,
        site=pool.site,
        work=pool.work.value,
        gpus=pool.count,
        active_gpus=busy,
        cap_w=order.cap_w,
        max_cap_w=int(pool.max_cap_w),
        planned_kw=plan.pools[pool.id].draw_kw[step],
        draw_kw=draw,
        throughput=throughput_at_cap(pool.curve, effective_w(ctx, pool.id, order.cap_w)),
        reason=held[0].value if held else plan.pools[pool.id].reasons[step].value,
        why=held[1] if held else explain_pool(problem, plan, pool.id, step, zone_of(ctx, pool.id)),
        curve=ctx.curves.status(pool.id),
        clock_mhz=locked_mhz(ctx).get(pool.id),
        enforced_w=enforced_w(ctx).get(pool.id),
        yielded=yielded_gpus(ctx).get(pool.id, 0),
        parked_gpus=state.parked[pool.id].asleep if pool.id in state.parked else 0,
        latency=_latency(ctx, pool, problem, plan, now),
        latency_floor=needed(ctx, state).get(pool.id, 0.0),
        quote_per_mtok=plan.quotes[pool.id].per_mtok[step] if pool.id in plan.quotes else None,
    )


def _latency(ctx: Context, pool: GpuPool, problem: Problem, plan: Plan, now: datetime) -> tuple[LatencyStatus, ...]:
    guard = ctx.latency.get(pool.id)
    return status_of(guard, forecast_s(guard, problem, plan, now)) if guard is not None else ()


def zone_of(ctx: Context, pool: str) -> tzinfo:
    """What clocks show where a pool is; UTC for a job that has none yet."""
    return ctx.sites[ctx.pools[pool].pool.site].zone if pool in ctx.pools else UTC


def job_status(job: BatchJob, ctx: Context, state: State) -> JobStatus:
    """A job now: how far it is, when it will be done by the plan, and why it waits or runs."""
    plan, problem = state.decision.plan, state.decision.problem
    planned = plan.jobs.get(job.id) if plan is not None else None
    progress = min(1.0, job.done_gpu_h / job.work_gpu_h) if job.work_gpu_h > 0 else 1.0
    reason, why = Reason.NO_WORK.value, "not planned yet"
    site = elsewhere(ctx, job.id)
    if job.state in (JobState.DONE, JobState.CANCELLED):
        reason, why = Reason.WORK_DONE.value, f"{job.id} is {job.state.value}"
    elif site:
        reason, why = Reason.ELSEWHERE.value, coordinated(ctx, job.id)
    elif plan is not None and problem is not None and planned is not None:
        step = step_index(plan, problem.made_at)
        reason, why = planned.reasons[step].value, explain_job(problem, plan, job.id, zone_of(ctx, planned.pool))
        why = f"{why} {coordinated(ctx, job.id)}".rstrip()
    sale = ctx.sales.of(job.id)
    return JobStatus(
        id=job.id,
        pool=planned.pool if planned is not None and planned.pool else job.pools[0],
        state=job.state.value,
        progress=progress,
        gpus=job.gpus,
        deadline=job.deadline,
        finish=planned.finish if planned is not None else None,
        reason=reason,
        why=why + flex_text(ctx, state, job),
        tokens=sale.tokens if sale is not None else 0,
        energy_kwh=sale.energy_kwh if sale is not None else 0.0,
        margin=sale.margin if sale is not None and sale.tokens else None,
        site=site,
        **flex_now(ctx, state, job),
    )


def elsewhere(ctx: Context, job: str) -> str:
    """The other site that works on a job, or ""."""
    return ctx.jobs.elsewhere().get(job, "") if isinstance(ctx.jobs, Movable) else ""


def coordinated(ctx: Context, job: str) -> str:
    """What the coordinator said of a job last, and where it is; "" where there is nothing to say."""
    site, word = elsewhere(ctx, job), ctx.shares.last(job) if ctx.shares is not None else None
    if word is None:
        return f"{job} is worked on at {site}." if site else ""
    assert ctx.shares is not None
    where = f"{job} is worked on at {site}" if site else f"{job} is here"
    should = "" if word.site == (site or ctx.shares.name) else f" and goes to {word.site}"
    return f"{where}{should}: {word.why}."
