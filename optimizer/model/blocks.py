"""Jobs that may not be interrupted: one binary for each interval and pool in which such a job could start.

Why binaries only here: caps move in steps of one watt and preemptible work in any share, so both are continuous. A
job without preemption either starts in an interval or it doesn't.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from optimizer.facts import Facts, Floats, JobFacts, late_tail, unbroken_run
from optimizer.model.parts import Build, Row, Term, row, rows, variables


def add_starts(build: Build) -> None:
    """start[j,g,t] in {0,1}: the job starts in interval t on pool g and runs at its highest rate without a break.

    sum start + later + skipped = 1, where `later` (start after the horizon) exists only if the deadline allows it. A
    job that runs is fixed to go on. Objective: - value of the work, + late penalty, + mean energy price of what runs
    after the horizon, + weight of undone work * skipped.
    """
    options = {
        number: _options(build.facts, job) for number, job in enumerate(build.facts.jobs) if not job.job.preemptible
    }
    keys: list[Any] = [(number, g, t) for number, found in options.items() for g, t in found]
    lower = [1.0 if build.facts.jobs[key[0]].fixed else 0.0 for key in keys]
    start = variables(build, "start", keys, lower=lower, binary=True)
    waiting = [
        n for n in options if build.facts.jobs[n].beyond_h * build.facts.jobs[n].rate >= build.facts.jobs[n].left
    ]
    later = variables(build, "later", waiting, [1.0] * len(waiting))
    skipped = variables(build, "skipped", list(options), [1.0] * len(options))
    build.families["run"] = {}
    members: list[Row] = []
    for number, found in options.items():
        job = build.facts.jobs[number]
        terms: list[Term] = [(1.0, skipped[number])]
        build.constant -= job.job.value_per_gpu_h * job.left
        build.cost.append((build.job_weights[number].undone_per_gpu_h * job.left, skipped[number]))
        if number in later and job.pools:
            terms.append((1.0, later[number]))
            build.cost.append((float(build.facts.carry_cost[job.pools[0]]) * job.left, later[number]))
        for g, t in found:
            terms.append((1.0, start[number, g, t]))
            _add_run(build, number, g, t)
        members.append(row(1.0, terms, 1.0))
    rows(build, "one_start", members)


def _add_run(build: Build, number: int, g: int, t: int) -> None:
    """What one start brings: its work in every interval, and its money."""
    facts, job, start = build.facts, build.facts.jobs[number], build.families["start"][number, g, t]
    run = unbroken_run(facts, job, t)
    for index in np.flatnonzero(run > 1e-12).tolist():
        build.families["run"][number, g, index, t] = (start, float(run[index]))
    tail = job.left - float((run * facts.hours).sum())
    build.cost.append((_late_cost(build, number, run) + float(facts.carry_cost[g]) * max(0.0, tail), start))


def _late_cost(build: Build, number: int, run: Floats) -> float:
    """Cost of what is late at rates `run`: on-time hours of each interval are used first, and
    what runs on after the horizon is late after the deadline."""
    job = build.facts.jobs[number]
    late = np.maximum(0.0, run * build.facts.hours - job.rate * job.on_time_h)
    premium = build.job_weights[number].late_per_gpu_h
    tail, hours = late_tail(build.facts, job, float((run * build.facts.hours).sum()))
    inside = float((late * (premium + job.job.late_penalty * job.hours_late)).sum())
    return inside + tail * (premium + job.job.late_penalty * hours)


def _options(facts: Facts, job: JobFacts) -> list[tuple[int, int]]:
    """Pools and intervals in which the job may start: a running one only where it is; others wherever their run fits
    under every hard limit and firm event, beside the floors and the runs that can't be stopped."""
    if job.fixed:
        return [(job.pools[0], 0)] if job.pools and facts.runs_fit(job.pools[0]) else []
    starts = np.flatnonzero(job.on_time_h + job.late_h > 1e-9).tolist()
    found = []
    for g in job.pools:
        pool = facts.pools[g]
        if job.rate > pool.top_work + 1e-9:
            continue
        per_work_kw = np.array([1.0 / (1000.0 * hull.segments[0].slope_per_w) for hull in pool.hulls])
        room_kw = (facts.firm_cap_kw - facts.least_import_kw)[pool.site] / facts.pue[pool.site]
        for t in starts:
            run = unbroken_run(facts, job, t)
            if np.all((run <= 1e-12) | (run * per_work_kw <= room_kw + 1e-9)):
                found.append((g, t))
    return found
