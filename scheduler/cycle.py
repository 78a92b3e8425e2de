"""The slow loop on one screen: every interval, and at once when an event, a job or an operator changes the picture.

Reading order: collect -> build the problem -> plan -> check -> publish -> report. Each line is one function in a file
of its own; nothing here decides anything.
"""

from __future__ import annotations

import time
from datetime import datetime, timedelta

import structlog

from adapters.ports import AdapterError
from optimizer.check import check_plan
from optimizer.domain import Plan
from optimizer.reasons import Note, Reason, Severity
from scheduler.collect import collect
from scheduler.engine import Context, State
from scheduler.peaks import book_peaks
from scheduler.problem import build_problem, signal_window
from scheduler.reporting import cycle_report
from scheduler.status import CycleReport
from scheduler.store import StoreDegraded
from scheduler.timing import next_boundary
from scheduler.trajectory import trajectory

log = structlog.get_logger()


def run_cycle(ctx: Context, state: State) -> CycleReport:
    """One turn of the slow loop; returns the report from which log, status line, JSON and metrics are printed.

    1. collect every signal (never raises: each source is ok, stale or lost)
    2. freeze the problem: signals, events, jobs, fleet, now
    3. plan it (child process with a deadline; the ladder answers whatever happens)
    4. check the plan independently; one that breaks a promise is never published
    5. publish: keep it, hand it to the fast loop
    6. report
    """
    started = time.monotonic()
    now = ctx.clock.now()
    bring_jobs(ctx, state, now)
    book_peaks(ctx, now)
    seen = collect(ctx.sources, signal_window(ctx, now), now, ctx.memory, ctx.read_deadline_s)
    problem = build_problem(ctx, state, seen, now)
    plan = ctx.planner.plan(problem, state.plan)
    broken = check_plan(problem, plan)
    if not broken or state.plan is None:
        publish(ctx, state, plan)
    state.problem, state.cycles = problem, state.cycles + 1
    if broken:
        text = f"the plan breaks {len(broken)} promises ({broken[0].text}); the one before stays in force"
        state.notes.append(Note(Reason.PLAN_REFUSED, "plan", text, Severity.ALERT, now))
    next_at = next_boundary(now, ctx.timing.interval)
    report = cycle_report(ctx, state, seen, problem, state.plan or plan, time.monotonic() - started, next_at)
    state.report = report
    keep(ctx, state, report)
    return report


def bring_jobs(ctx: Context, state: State, now: datetime) -> None:
    """Queue the config's own jobs that are due; where they can't be kept, the next cycle tries again."""
    try:
        if ctx.bring_jobs is not None:
            ctx.bring_jobs(now)
    except StoreDegraded as error:
        state.notes.append(Note(Reason.STORE_DEGRADED, "jobs", str(error), Severity.ALERT, now))


def publish(ctx: Context, state: State, plan: Plan) -> None:
    """Put the plan in force; a store that can't keep it is a note, never a reason to run without a plan."""
    state.plan = plan
    try:
        ctx.dispatcher.hold(*trajectory(ctx, plan, plan.made_at), plan.made_at)
    except (AdapterError, StoreDegraded) as error:
        state.notes.append(Note(Reason.CAP_REFUSED, "power", str(error), Severity.ALERT, plan.made_at))
    try:
        ctx.store.save_plan(plan)
    except StoreDegraded as error:
        state.notes.append(Note(Reason.STORE_DEGRADED, "store", str(error), Severity.ALERT, plan.made_at))


def keep(ctx: Context, state: State, report: CycleReport) -> None:
    """Book the report, and say when the cycle took longer than its interval."""
    late = report.duration_s - ctx.timing.interval.total_seconds() / getattr(ctx.clock, "speed", 1.0)
    if late > 0:
        text = f"the cycle took {report.duration_s:.1f} s, {late:.1f} s more than its interval; the next starts at once"
        state.notes.append(Note(Reason.CYCLE_LATE, "cycle", text, Severity.WARNING, report.at))
    try:
        ctx.store.save_report(report)
    except StoreDegraded as error:
        state.notes.append(Note(Reason.STORE_DEGRADED, "store", str(error), Severity.ALERT, report.at))


def expire_notes(state: State, report: CycleReport, age: timedelta = timedelta(minutes=30)) -> None:
    """Forget what is no news any more."""
    state.notes.forget(report.at - age)
