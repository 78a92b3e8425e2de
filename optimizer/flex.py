"""Flex tiers: how much slower than at full allocation a job may be, averaged over its life.

The field's names: Flex 0 tolerates no reduction, Flex 1, 2 and 3 tolerate 10, 25 and 50 % (the tiers of the field
trial in Phoenix, arXiv:2507.00909). A job whose work takes `full_h` at full allocation (all its GPUs at their full
throughput), and which was begun at s and is done at e, was reduced by 1 - full_h / (e - s) on average, whatever
happened in between. So a tier is a latest end, s + full_h / (1 - tolerated); and what is left until then beyond the
work still to do is the allowance that is not used yet.
"""

from __future__ import annotations

from datetime import datetime, timedelta

from optimizer.domain import BatchJob

TOLERATED = (0.0, 0.10, 0.25, 0.50)
"""Share of its throughput that a job of each tier may lose, averaged over its life."""


def full_h(job: BatchJob, gpu_h: float, speed: float = 1.0) -> float:
    """Hours that so much work takes on all GPUs of the job, each at `speed` (its throughput at full power)."""
    return gpu_h / (job.max_gpus * max(speed, 1e-9))


def latest_end(job: BatchJob, speed: float = 1.0) -> datetime | None:
    """When a job that has begun must be done for its tier; None: it has none, or has not begun."""
    if job.tier is None or job.started_at is None:
        return None
    return job.started_at + timedelta(hours=full_h(job, job.work_gpu_h, speed) / (1.0 - TOLERATED[job.tier]))


def allowance(job: BatchJob, now: datetime, speed: float = 1.0) -> timedelta | None:
    """For how long such a job may still do nothing, if it runs at full allocation ever after; below zero: its tier
    can't be kept any more. None as above."""
    end = latest_end(job, speed)
    return end - now - timedelta(hours=full_h(job, job.left_gpu_h, speed)) if end is not None else None


def reduction(job: BatchJob, now: datetime, speed: float = 1.0) -> float | None:
    """Share by which a job that has begun was slower than at full allocation until `now`, on average; None where it has
    not begun. Below zero where it was faster than its GPUs count as."""
    if job.started_at is None or now <= job.started_at:
        return None
    return 1.0 - full_h(job, job.done_gpu_h, speed) / ((now - job.started_at).total_seconds() / 3600.0)
