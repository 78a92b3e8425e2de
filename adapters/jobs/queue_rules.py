"""What a job must say to be queued, and how it is written down.

Why apart from the queue: every refusal names its field and is decided before anything changes.
"""

from __future__ import annotations

import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from datetime import datetime
from typing import Any, Protocol, runtime_checkable

from adapters.ports import AdapterError
from optimizer.domain import BatchJob, JobState
from optimizer.flex import TOLERATED
from optimizer.reasons import Note, Reason, Severity
from optimizer.timegrid import require_utc

_ID = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.:-]{0,127}")
_NUMBERS = ("work_gpu_h", "value_per_gpu_h", "late_penalty", "undone_penalty", "min_run_h", "pause_cost",
            "checkpoint_gpu_h", "restart_gpu_h", "data_gb")  # fmt: skip
MOST_METADATA, LONGEST_METADATA = 16, 512


class JobRefused(AdapterError):
    """The job or the report is not accepted; `status` is the HTTP status that fits, the text names the field."""

    def __init__(self, text: str, status: int = 422) -> None:
        super().__init__(text)
        self.status = status


class JobFields(Protocol):
    """A job as submitted; see `optimizer.domain.BatchJob` for the meaning. `pool` None: any pool of the queue."""

    @property
    def id(self) -> str | None:
        """Its id; None: the queue gives one."""
        ...

    @property
    def pool(self) -> str | None:
        """The pool that must run it; None: any."""
        ...

    @property
    def work_gpu_h(self) -> float:
        """Work in GPU-hours at full throughput."""
        ...

    @property
    def max_gpus(self) -> int:
        """Most GPUs at once."""
        ...

    @property
    def deadline(self) -> datetime:
        """When it must be done."""
        ...

    @property
    def release(self) -> datetime | None:
        """When it may begin; None: at once."""
        ...

    @property
    def preemptible(self) -> bool:
        """May be interrupted."""
        ...

    @property
    def value_per_gpu_h(self) -> float:
        """Money for each GPU-hour done."""
        ...

    @property
    def late_penalty(self) -> float:
        """Money for each GPU-hour and hour late."""
        ...

    @property
    def undone_penalty(self) -> float:
        """Money for each GPU-hour never done."""
        ...

    @property
    def priority(self) -> int:
        """Higher goes first."""
        ...

    @property
    def min_gpus(self) -> int:
        """Least GPUs at once, or none; 0: any number."""
        ...

    @property
    def min_run_h(self) -> float:
        """Hours that a run must last once started."""
        ...

    @property
    def pause_cost(self) -> float:
        """Money for each suspend and restart."""
        ...

    @property
    def checkpoint_gpu_h(self) -> float:
        """GPU-hours that a suspend costs."""
        ...

    @property
    def restart_gpu_h(self) -> float:
        """GPU-hours that a restart costs."""
        ...

    @property
    def data_gb(self) -> float:
        """Gigabytes that go with it to another site."""
        ...

    @property
    def sites(self) -> tuple[str, ...]:
        """Other daemons' sites that may run it; its worker must know how to hand it over."""
        ...

    @property
    def tier(self) -> int | None:
        """Flex tier, 0 to 3; None: its deadline alone counts."""
        ...

    @property
    def after(self) -> tuple[str, ...]:
        """Jobs that must be done before it begins."""
        ...

    @property
    def metadata(self) -> Mapping[str, str] | None:
        """The client's own notes."""
        ...


@runtime_checkable
class Movable(Protocol):
    """A job system whose workers can hand jobs over to other sites."""

    def movable(self) -> Mapping[str, tuple[str, ...]]:
        """The other sites that may run each job that is not over."""
        ...

    def elsewhere(self) -> Mapping[str, str]:
        """Jobs that another site works on, and which."""
        ...


@runtime_checkable
class JobDesk(Protocol):
    """A job system that takes jobs from clients of Gridpace; it raises JobRefused."""

    def submit(self, request: JobFields, now: datetime) -> BatchJob:
        """Queue a job, durably."""
        ...

    def cancel(self, job_id: str, by: str) -> BatchJob:
        """Withdraw a job."""
        ...

    def report(self, job_id: str, done_gpu_h: float, finished: bool, site: str = "") -> BatchJob:
        """A worker's word: work done so far in GPU-hours, whether that was all, and which other site does it."""
        ...

    def confine(self, job_id: str, sites: Sequence[str]) -> None:
        """Of the other sites that may run a job, keep these only: the others did not do it."""
        ...


def new_job(
    request: JobFields, job_id: str, pools: Mapping[str, int], now: datetime
) -> tuple[BatchJob, tuple[Note, ...]]:
    """The job that a request means, and what was changed about it. Raises JobRefused naming the field."""
    if not _ID.fullmatch(job_id):
        raise JobRefused('id: write letters, digits, "_", "-", ":" or ".", at most 128 of them')
    _check_numbers(request)
    _check_metadata(request.metadata or {})
    if request.pool is not None and request.pool not in pools:
        raise JobRefused(f"pool: {request.pool!r} is not one of {', '.join(pools) or 'none'}")
    deadline, release = _moment(request.deadline, "deadline"), _moment(request.release or now, "release")
    if deadline <= now:
        raise JobRefused(f"deadline: {deadline.isoformat()} is past; it is {now.isoformat()}")
    if release >= deadline:
        raise JobRefused(f"release: {release.isoformat()} is not before the deadline {deadline.isoformat()}")
    names = (request.pool,) if request.pool is not None else tuple(pools)
    largest = max((pools[name] for name in names), default=0)
    if largest < 1:
        raise JobRefused("pool: there is no pool that could run it")
    gpus = min(request.max_gpus, largest)
    if request.min_gpus > gpus:
        raise JobRefused(f"min_gpus: {request.min_gpus} is more than it can ever have ({gpus})")
    job = BatchJob(
        id=job_id, pools=names, release=release, deadline=deadline, work_gpu_h=float(request.work_gpu_h), max_gpus=gpus,
        preemptible=request.preemptible, value_per_gpu_h=float(request.value_per_gpu_h),
        late_penalty=float(request.late_penalty), undone_penalty=float(request.undone_penalty),
        priority=request.priority, min_gpus=request.min_gpus, min_run_h=float(request.min_run_h),
        pause_cost=float(request.pause_cost), checkpoint_gpu_h=float(request.checkpoint_gpu_h),
        restart_gpu_h=float(request.restart_gpu_h), after=tuple(dict.fromkeys(request.after)),
        data_gb=float(request.data_gb), tier=request.tier,
    )  # fmt: skip
    if gpus == request.max_gpus:
        return job, ()
    text = (
        f"{job_id} asks for {request.max_gpus} GPUs; {', '.join(names)} has {largest}, so it runs on {largest} at most"
    )
    return job, (Note(Reason.POOL_FULL, job_id, text, Severity.INFO, now),)


def _check_numbers(request: JobFields) -> None:
    for name in _NUMBERS:
        value = getattr(request, name)
        if not math.isfinite(value) or value < 0:
            raise JobRefused(f"{name}: {value} is not a number from 0 on")
    if request.work_gpu_h <= 0:
        raise JobRefused(f"work_gpu_h: {request.work_gpu_h} is not above 0")
    if request.min_gpus < 0:
        raise JobRefused(f"min_gpus: {request.min_gpus} is below 0")
    if request.tier is not None and request.tier not in range(len(TOLERATED)):
        raise JobRefused(f"tier: {request.tier} is not 0, 1, 2 or 3")
    if request.max_gpus < 1:
        raise JobRefused(f"max_gpus: {request.max_gpus} is below 1")


def _check_metadata(metadata: Mapping[str, str]) -> None:
    if len(metadata) > MOST_METADATA:
        raise JobRefused(f"metadata: more than {MOST_METADATA} entries")
    for key, value in metadata.items():
        if len(key) + len(value) > LONGEST_METADATA:
            raise JobRefused(
                f"metadata.{key[:40]}: key and text together are longer than {LONGEST_METADATA} characters"
            )


def sites_of(request: JobFields) -> tuple[str, ...]:
    """The other sites that may run it. Raises JobRefused for a job that can't be divided between two."""
    if request.sites and (not request.preemptible or request.after):
        raise JobRefused("sites: only a preemptible job that comes after no other may move")
    return tuple(dict.fromkeys(request.sites))


def _moment(moment: datetime, name: str) -> datetime:
    try:
        return require_utc(moment, name)
    except (ValueError, OverflowError) as error:
        raise JobRefused(f"{name}: {error}") from None


def written(job: BatchJob) -> dict[str, Any]:
    """A job as a record; who holds which GPUs is kept elsewhere."""
    plain = asdict(job)
    plain.update(release=job.release.isoformat(), deadline=job.deadline.isoformat(), pools=list(job.pools))
    plain.update(state=str(job.state), gpus=0, started_at=None, running_since=None, after=list(job.after))
    return plain


def read(plain: Mapping[str, Any]) -> BatchJob:
    """The job of a record."""
    times = {name: datetime.fromisoformat(plain[name]) for name in ("release", "deadline")}
    return BatchJob(
        **{
            **plain,
            **times,
            "pools": tuple(plain["pools"]),
            "after": tuple(plain.get("after", ())),
            "state": JobState(plain["state"]),
        }
    )
