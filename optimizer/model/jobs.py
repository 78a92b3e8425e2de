"""Preemptible jobs: when and where their work is done, what is late, what is left for later, what is never done."""

from __future__ import annotations

from typing import Any

import numpy as np

from optimizer.facts import PREFERENCE_PER_GPU_H, JobFacts
from optimizer.model.parts import Build, Row, Term, row, rows, variables


def add_rates(build: Build) -> None:
    """x[j,g,t], late[j,g,t]: mean rates in GPU equivalents before and after the deadline.

    0 <= x <= rate limit * share of the interval inside [release, deadline); late likewise inside [deadline, end). Over
    several pools their sum keeps the same bound.
    """
    keys: dict[str, list[Any]] = {"x": [], "late": []}
    upper: dict[str, list[float | None]] = {"x": [], "late": []}
    shared: list[tuple[str, int, int, float]] = []
    for number, job in enumerate(build.facts.jobs):
        if not job.job.preemptible:
            continue
        for family, hours in (("x", job.on_time_h), ("late", job.late_h)):
            steps = np.flatnonzero(hours > 1e-6)
            bounds = (job.rate * (hours[steps] / build.facts.hours[steps])).tolist()
            times = steps.tolist()
            keys[family].extend([(number, g, t) for t in times for g in job.pools])
            upper[family].extend([bound for bound in bounds for _ in job.pools])
            if len(job.pools) > 1:
                shared.extend((family, number, t, bound) for t, bound in zip(times, bounds, strict=True))
    for family in ("x", "late"):
        variables(build, family, keys[family], upper[family])
    _add_late_cost(build)
    _add_preference(build)
    rows(build, "rate", [_shared_rate(build, *item) for item in shared])


def _add_late_cost(build: Build) -> None:
    """Objective: + (weight of a missed deadline + late penalty * mean hours late) * hours * late rate."""
    hours = build.facts.hours.tolist()
    lateness = [job.hours_late.tolist() for job in build.facts.jobs]
    for (number, _, t), variable in build.families["late"].items():
        job = build.facts.jobs[number].job
        cost = build.job_weights[number].late_per_gpu_h + job.late_penalty * lateness[number][t]
        if cost:
            build.cost.append((cost * hours[t], variable))


def _add_preference(build: Build) -> None:
    """Objective: + a tenth of a cent per GPU-h for each place down the job's list of pools, so that equal pools don't
    share a job by chance."""
    later = {
        (number, g): place for number, job in enumerate(build.facts.jobs) for place, g in enumerate(job.pools) if place
    }
    hours = build.facts.hours.tolist()
    for family in ("x", "late") if later else ():
        for (number, g, t), variable in build.families[family].items():
            place = later.get((number, g))
            if place:
                build.cost.append((PREFERENCE_PER_GPU_H * place * hours[t], variable))


def _shared_rate(build: Build, family: str, number: int, t: int, bound: float) -> Row:
    """Sum over the job's pools of its rate <= its rate limit."""
    found = build.families[family]
    return row(None, [(1.0, found[number, g, t]) for g in build.facts.jobs[number].pools], bound)


def add_work(build: Build) -> None:
    """sum hours * (x + late) + carried + undone = work left (GPU-h).

    carried <= what fits between the horizon and the deadline at the highest rate; it costs the mean price of energy, so
    that a far job neither rushes nor stalls. Objective: + weight of undone work * undone - value * work left.
    """
    numbers = [number for number, job in enumerate(build.facts.jobs) if job.job.preemptible]
    jobs = build.facts.jobs
    undone = variables(build, "undone", numbers, [jobs[number].left for number in numbers])
    far = [number for number in numbers if jobs[number].beyond_h > 0 and jobs[number].pools]
    carried = variables(build, "carried", far, [jobs[n].rate * jobs[n].beyond_h for n in far])
    terms: dict[int, list[Term]] = {number: [(1.0, undone[number])] for number in numbers}
    for number in far:
        terms[number].append((1.0, carried[number]))
        build.cost.append((float(build.facts.carry_cost[jobs[number].pools[0]]), carried[number]))
    hours = build.facts.hours.tolist()
    for family in ("x", "late"):
        for (number, _, t), variable in build.families[family].items():
            terms[number].append((hours[t], variable))
    rows(build, "work", [row(jobs[number].left, terms[number], jobs[number].left) for number in numbers])
    for number in numbers:
        _add_worth(build, jobs[number])
        build.cost.append((build.job_weights[number].undone_per_gpu_h, undone[number]))


def _add_worth(build: Build, job: JobFacts) -> None:
    """Objective: - value of all work left; what is never done gives it back."""
    build.constant -= job.job.value_per_gpu_h * job.left
