"""The jobs as the job system tells them, and what is kept when it doesn't.

Why here: a batch system that is away must stop neither the plan nor the loop that holds the site under its limit. Both
go on with the jobs as last seen, and say so.
"""

from __future__ import annotations

from collections.abc import Collection
from datetime import datetime

from adapters.ports import AdapterError
from adapters.work_ports import Drainable, StartTeller, WorkKeeper
from optimizer.domain import BatchJob, Plan
from optimizer.reasons import Note, Reason, Severity
from scheduler.engine import Context, State
from scheduler.flex import bound_jobs


def read_jobs(ctx: Context, state: State, now: datetime) -> tuple[Note, ...]:
    """Take the jobs as they are into the state; what a person should know about the job system."""
    try:
        state.jobs, state.jobs_read = bound_jobs(ctx, state, ctx.jobs.snapshot(), now), True
    except AdapterError as error:
        return (_lost(error, now),)
    return ctx.jobs.notes() if isinstance(ctx.jobs, WorkKeeper) else ()


def jobs_now(ctx: Context, state: State, now: datetime) -> tuple[BatchJob, ...]:
    """The jobs for a plan: as they are, else as last seen."""
    try:
        return bound_jobs(ctx, state, ctx.jobs.snapshot(), now)
    except AdapterError as error:
        state.notes.append(_lost(error, now))
        return state.jobs


def tell_emergency(ctx: Context, sites: Collection[str]) -> None:
    """Tell the job system whether an emergency order that the operator allowed is in force at one of `sites`."""
    if isinstance(ctx.jobs, Drainable):
        ctx.jobs.emergency(bool(sites) and ctx.dispatcher.writes)


def tell_starts(ctx: Context, plan: Plan) -> None:
    """Tell a job system that shows it when the plan lets each job start: where it first has a rate."""
    if not isinstance(ctx.jobs, StartTeller):
        return
    firsts = {
        job: next((k for k, rate in enumerate(one.work_gpus) if rate > 0), None) for job, one in plan.jobs.items()
    }
    ctx.jobs.expect({job: plan.grid.edges[k] for job, k in firsts.items() if k is not None})


def let_work_go(ctx: Context) -> tuple[Note, ...]:
    """Let every job go that we hold in a job system outside; what did not work. Whatever fails there, the limits are
    still to be given back, so nothing is raised."""
    if not isinstance(ctx.jobs, WorkKeeper):
        return ()
    try:
        return ctx.jobs.release()
    except Exception as error:  # noqa: BLE001 - as said
        text = f"jobs may still be held: {type(error).__name__}: {error}"
        return (Note(Reason.HELD, "jobs", text, Severity.ALERT),)


def _lost(error: AdapterError, now: datetime) -> Note:
    text = f"the jobs can't be read, those last seen are kept: {error}"
    return Note(Reason.JOBS_LOST, "jobs", text, Severity.ALERT, now)
