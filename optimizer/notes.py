"""What a person must be told about a plan: what had to give, by how much, and which deadlines can't be met.

Why at once: a limit, an event or a deadline that is out of reach is news the moment it is known, not when it is missed.
"""

from __future__ import annotations

from datetime import datetime

import numpy as np

from optimizer.domain import Plan
from optimizer.facts import Facts, with_taken
from optimizer.jobfacts import JobFacts
from optimizer.jobplans import job_rows
from optimizer.reasons import Note, Reason, Severity


def notes_of(facts: Facts, plan: Plan) -> tuple[Note, ...]:
    """Notes on limits, events, floors and deadlines, in that order."""
    facts = with_taken(facts, plan.taken)
    return (*_limits(facts, plan), *_events(facts, plan), *_floors(facts, plan), *_deadlines(facts, plan))


def _limits(facts: Facts, plan: Plan) -> list[Note]:
    notes = []
    for site in facts.problem.sites:
        over = np.array(plan.sites[site.id].over_limit_kw)
        if over.max() > 0:
            t = int(np.argmax(over > 0))
            text = (
                f"{site.id}: hard limit of {site.limit_kw[t]:.0f} kW is out of reach by up to {over.max():.1f} kW "
                f"from {_clock(facts.problem.grid.starts[t])}"
            )
            notes.append(Note(Reason.LIMIT_UNREACHABLE, site.id, text, Severity.ALERT, facts.problem.grid.starts[t]))
    return notes


def _events(facts: Facts, plan: Plan) -> list[Note]:
    notes = []
    for number, event in enumerate(facts.problem.events):
        if not facts.asks(event):
            continue
        imports = np.array(plan.sites[event.site].import_kw)
        over = np.clip(imports - np.maximum(0.0, facts.event_kw[number]), 0.0, None)
        if (over > 1e-6 * (1 + imports)).any():
            t = int(np.argmax(over > 1e-6 * (1 + imports)))
            text = (
                f"event {event.id} is missed by up to {over.max():.1f} kW at {event.site} "
                f"from {_clock(facts.problem.grid.starts[t])}: floors and running work leave no more to shed"
            )
            notes.append(Note(Reason.EVENT_UNREACHABLE, event.id, text, Severity.ALERT, facts.problem.grid.starts[t]))
    return notes


def _floors(facts: Facts, plan: Plan) -> list[Note]:
    notes = []
    for pool in facts.pools:
        if pool.batch:
            continue
        if pool.pool.floor > pool.hulls[0].top_throughput + 1e-9:
            text = f"{pool.pool.id}: floor {pool.pool.floor:.0%} is above what its highest cap reaches"
            notes.append(Note(Reason.FLOOR_BROKEN, pool.pool.id, text, Severity.ALERT))
        short = pool.floor_work - np.array(plan.pools[pool.pool.id].work_gpus)
        broken = short > 1e-3 * (1.0 + pool.working)
        if broken.any():
            t = int(np.argmax(broken))
            text = f"{pool.pool.id} goes below its floor by up to {short.max():.1f} GPUs of work"
            notes.append(Note(Reason.FLOOR_BROKEN, pool.pool.id, text, Severity.ALERT, facts.problem.grid.starts[t]))
    return notes


def _deadlines(facts: Facts, plan: Plan) -> list[Note]:
    table = facts.table
    orders = job_rows(plan.jobs, table.ids, facts.count)
    short = orders.late_gpu_h + orders.undone_gpu_h
    missed = ~table.reachable | (short > 1e-6 * np.maximum(1.0, table.left))
    found = [(facts.jobs[n], float(short[n])) for n in np.flatnonzero(missed).tolist()]
    return [
        Note(Reason.DEADLINE_UNREACHABLE, job.job.id, _missed(job, gpu_h), Severity.ALERT, job.job.deadline)
        for job, gpu_h in found
    ]


def _missed(job: JobFacts, short: float) -> str:
    """The sentence about one deadline."""
    name = job.job.id
    if not job.pools:
        return (
            f"job {name}: none of its pools ({', '.join(job.job.pools) or 'none named'}) is a batch pool of this site"
        )
    hours = float(job.on_time_h.sum()) + job.beyond_h
    if not job.reachable:
        needed = job.left / max(job.rate, 1e-9)
        return (
            f"job {name}: {job.left:.1f} GPU-h at no more than {job.rate:.0f} GPUs need {needed:.1f} h, "
            f"and {hours:.1f} h are left until {_clock(job.job.deadline)}"
        )
    return f"job {name}: {short:.1f} of {job.left:.1f} GPU-h will miss the deadline of {_clock(job.job.deadline)}"


def _clock(moment: datetime) -> str:
    """A moment as a person reads it."""
    return moment.strftime("%Y-%m-%d %H:%MZ")
