"""Which waiting jobs Slurm could start: those for which GPUs are free, or would be once a job that may be requeued is.

Why: a suspended job keeps its GPUs, and so does a running one until it ends. A plan that swaps one for another that
waits would stop the first and start nothing.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping
from datetime import timedelta

from adapters.jobs.slurm_read import PENDING, RUNNING, SUSPENDED, SlurmJob
from adapters.jobs.slurm_terms import Terms

NO_LIMIT = timedelta(days=7)
"""Work that a job without a time limit is taken to have left."""


def seated(jobs: Mapping[str, tuple[SlurmJob, Terms]], free: Mapping[str, int], granted: Collection[str]) -> set[str]:
    """Ids of all jobs but those that wait and for which no GPU is left. `granted` jobs take theirs first, then the
    others by deadline. Jobs of a partition that `free` doesn't name all count as seated."""
    left = dict(free)
    found: set[str] = set()
    waiting: list[tuple[SlurmJob, Terms]] = []
    for name, (job, terms) in jobs.items():
        if job.state == PENDING:
            waiting.append((job, terms))
            continue
        found.add(name)
        if job.state == RUNNING and terms.pause == "requeue" and job.partition in left:
            left[job.partition] += job.gpus
    waiting.sort(key=lambda one: (one[0].id not in granted, one[1].deadline, one[0].submitted, one[0].id))
    for job, _ in waiting:
        if job.partition not in left:
            found.add(job.id)
        elif job.gpus <= left[job.partition]:
            found.add(job.id)
            left[job.partition] -= job.gpus
    return found


def first_end(jobs: Iterable[SlurmJob], partition: str) -> timedelta:
    """How long until the first job of a partition that holds GPUs ends by its limit."""
    rests = [
        max(timedelta(), (job.limit or job.ran + NO_LIMIT) - job.ran)
        for job in jobs
        if job.partition == partition and job.state in {RUNNING, SUSPENDED} and job.gpus
    ]
    return min(rests, default=timedelta())
