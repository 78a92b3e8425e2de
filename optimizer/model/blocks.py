"""Jobs that may not be interrupted: one binary for each interval and pool in which such a job could start.

Why binaries only here: caps move in steps of one watt and preemptible work in any share, so both are continuous. A
job without preemption either starts in an interval or it doesn't.
"""

from __future__ import annotations

import numpy as np

from optimizer.facts import Facts, Floats, late_tail, unbroken_run
from optimizer.jobfacts import JobFacts
from optimizer.model.parts import Ints, Model

Start = tuple[int, int, int]
"""Job, pool, interval."""


def add_starts(model: Model) -> None:
    """start[j,g,t] in {0,1}: the job starts in interval t on pool g and runs at its highest rate without a break.

    sum start + later + skipped = 1, where `later` (start after the horizon) exists only if the deadline allows it. A
    job that runs is fixed to go on. Objective: - value of the work, + late penalty, + mean energy price of what runs
    after the horizon, + the wait, + weight of undone work * skipped.
    """
    facts = model.facts
    whole: list[int] = np.flatnonzero(~facts.table.preemptible).tolist()
    starts: list[Start] = [(number, g, t) for number in whole for g, t in _options(facts, facts.jobs[number])]
    runs = [unbroken_run(facts, facts.jobs[number], t) for number, _, t in starts]
    keys = tuple(np.array(starts, dtype=np.int64).reshape(len(starts), 3).T)
    start = model.columns(
        "start",
        "jgt",
        keys,
        low=[1.0 if facts.jobs[number].fixed else 0.0 for number, _, _ in starts],
        high=1.0,
        cost=[_start_cost(model, key, run) for key, run in zip(starts, runs, strict=True)],
        whole=True,
    )
    _keep_runs(model, keys[1], runs)
    _add_choice(model, whole)
    choice = model.row_families["one_start"]
    choice.add(choice.find((len(facts.jobs),))[keys[0]], start, start.all, 1.0)


def _add_choice(model: Model, whole: list[int]) -> None:
    """One start, or later, or never."""
    facts, jobs = model.facts, model.facts.jobs
    waiting = [n for n in whole if jobs[n].beyond_h * jobs[n].rate >= jobs[n].left and jobs[n].pools]
    carry = [(float(facts.run_cost[jobs[n].pools[0]]) + facts.carried_wait) * jobs[n].left for n in waiting]
    later = model.columns("later", "j", (waiting,), high=1.0, cost=carry)
    lost = [float(model.job_weights.undone_per_gpu_h[n]) * jobs[n].left for n in whole]
    skipped = model.columns("skipped", "j", (whole,), high=1.0, cost=lost)
    model.constant -= sum(jobs[n].job.value_per_gpu_h * jobs[n].left for n in whole)
    choice = model.rows("one_start", "j", (whole,), low=1.0, high=1.0)
    choice.add(choice.all, skipped, skipped.all, 1.0)
    choice.add(choice.find((len(jobs),))[later.keys[0]], later, later.all, 1.0)


def _keep_runs(model: Model, pools: Ints, runs: list[Floats]) -> None:
    """What each start brings: its work in every interval."""
    if runs:
        table = np.array(runs)
        number, t = np.nonzero(table > 1e-12)
        model.runs = (number, pools[number], t, table[number, t])


def _start_cost(model: Model, key: Start, run: Floats) -> float:
    """Money that one start costs: what is late, the energy of what runs on after the horizon, moving its data, and the
    wait."""
    number, g, _ = key
    job = model.facts.jobs[number]
    tail = job.left - float((run * model.facts.hours).sum())
    table = model.facts.table
    pair = np.flatnonzero((table.pair_job == number) & (table.pair_pool == g))
    moved = float(model.facts.move_per_gpu_h[pair].sum()) * job.left
    waits = float((run * model.facts.hours) @ model.facts.waiting_cost)
    after = float(model.facts.run_cost[g]) + model.facts.carried_wait
    return moved + waits + _late_cost(model, number, run) + after * max(0.0, tail)


def _late_cost(model: Model, number: int, run: Floats) -> float:
    """Cost of what is late at rates `run`: on-time hours of each interval are used first, and
    what runs on after the horizon is late after the deadline."""
    job, hours = model.facts.jobs[number], model.facts.hours
    late = np.maximum(0.0, run * hours - job.rate * job.on_time_h)
    premium = float(model.job_weights.late_per_gpu_h[number])
    tail, tail_h = late_tail(model.facts, job, float((run * hours).sum()))
    inside = float((late * (premium + job.job.late_penalty * job.hours_late)).sum())
    return inside + tail * (premium + job.job.late_penalty * tail_h)


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
        per_work_kw = 1.0 / pool.seg_slope_per_kw[:, 0]
        room_kw = (facts.firm_cap_kw + facts.supply.most_output_kw - facts.least_import_kw)[pool.site] / facts.pue[
            pool.site
        ]
        for t in starts:
            run = unbroken_run(facts, job, t)
            if np.all((run <= 1e-12) | (run * per_work_kw <= room_kw + 1e-9)):
                found.append((g, t))
    return found
