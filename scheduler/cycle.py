"""The slow loop on one screen: every interval, and at once when an event, a job or an operator changes the picture.

Reading order: collect -> build the problem -> plan -> check -> publish -> report. Each line is one function in a file
of its own; nothing here decides anything.
"""

from __future__ import annotations

import time
from datetime import datetime, timedelta

import structlog

from optimizer.check import Violation, check_plan
from optimizer.domain import Problem
from optimizer.fallback import safe_plan
from optimizer.reasons import Note, Reason, Severity
from scheduler.collect import collect
from scheduler.engine import Context, Decision, State
from scheduler.handing import hand_over
from scheduler.latency_trim import keep_books
from scheduler.peaks import book_peaks
from scheduler.problem import build_problem, signal_window
from scheduler.reporting import cycle_report
from scheduler.status import CycleReport
from scheduler.store.store import StoreDegraded
from scheduler.supply import read_devices
from scheduler.timing import next_boundary
from scheduler.voluntary import answer_events
from scheduler.work import tell_starts

log = structlog.get_logger()


def run_cycle(ctx: Context, state: State) -> CycleReport:
    """One turn of the slow loop; returns the report from which log, status line, JSON and metrics are printed.

    Before it, jobs, peaks and what the meters taught of the power curves are brought up to date.

    1. collect every signal (never raises: each source is ok, stale or lost)
    2. freeze the problem: signals, events, jobs, fleet, now
    3. plan it (child process with a deadline; the ladder answers whatever happens)
    4. check the plan independently; one that breaks a promise is never published
    5. answer the voluntary events that are due, and publish: keep it, hand it to the fast loop
    6. report
    """
    started = time.monotonic()
    now = ctx.clock.now()
    bring_jobs(ctx, state, now)
    book_peaks(ctx, now)
    adopt_curves(ctx, state, now)
    if not state.devices:
        state.notes.extend(read_devices(ctx, state, now))
    seen = collect(ctx.sources, signal_window(ctx, now), now, ctx.memory, ctx.read_deadline_s)
    state.base_errors.see(state.bias_kw, frozenset(ctx.sites))
    problem = build_problem(ctx, state, seen, now)
    plan = ctx.planner.plan(problem, state.plan)
    broken = check_plan(problem, plan)
    next_at = next_boundary(now, ctx.timing.interval)
    if broken:
        refuse(ctx, state, problem, broken, now)
    else:
        answer_events(ctx, state, problem, plan, next_at)
        publish(ctx, state, Decision(plan, problem))
    state.cycles += 1
    report = cycle_report(ctx, state, seen, time.monotonic() - started, now, next_at)
    state.report = report
    keep(ctx, state, report)
    return report


def bring_jobs(ctx: Context, state: State, now: datetime) -> None:
    """Queue the config's own jobs that are due; where they can't be kept, the next cycle tries again."""
    try:
        if ctx.bring_jobs is not None:
            state.notes.extend(ctx.bring_jobs(now))
    except StoreDegraded as error:
        state.notes.append(Note(Reason.STORE_DEGRADED, "jobs", str(error), Severity.ALERT, now))


def adopt_curves(ctx: Context, state: State, now: datetime) -> None:
    """Put what was learned of the power curves in force, between two turns of the fast loop."""
    ctx.dispatcher.read_limits()
    with state.lock:
        state.notes.extend(ctx.curves.turn(now))
        for guard in ctx.latency.values():
            guard.forget(now)
    keep_books(ctx)


def refuse(ctx: Context, state: State, problem: Problem, broken: tuple[Violation, ...], now: datetime) -> None:
    """Say what the plan breaks; the one before stays in force, else every pool goes to its floor."""
    stays = state.problem is not None
    what = "the one before stays in force" if stays else "every pool goes to its floor"
    text = f"the plan breaks {len(broken)} promises ({broken[0].text}); {what}"
    state.notes.append(Note(Reason.PLAN_REFUSED, "plan", text, Severity.ALERT, now))
    if not stays:
        publish(ctx, state, Decision(safe_plan(problem), problem))


def publish(ctx: Context, state: State, decision: Decision) -> None:
    """Put a plan in force; a store that can't keep it is a note, never a reason to run without a plan."""
    plan = decision.plan
    assert plan is not None
    state.decision = decision
    tell_starts(ctx, plan)
    now = ctx.clock.now()  # the solver took its time: seconds of the trajectory count from here
    state.notes.extend(hand_over(ctx, state, plan, now))
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
