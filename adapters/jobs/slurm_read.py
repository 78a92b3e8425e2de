"""What Slurm says of its jobs, over the forms that its versions give it.

Why one tolerant reader: from 22.05 to 26.05 a state is a text or a list of texts, a number is a number or an object
with `set`, `infinite` and `number`, and GPUs stand in one of five fields. What can't be understood of a job costs that
job, never the others.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta
from typing import Any

INFINITE = 2**32 - 1
_GPU = re.compile(r"(?:gres[:/])?gpu(?::(?:\(null\)|[^:,=()]+))?[:=](\d+)")
OVER = {"BOOT_FAIL", "CANCELLED", "COMPLETED", "DEADLINE", "FAILED", "NODE_FAIL", "OUT_OF_MEMORY", "REVOKED", "TIMEOUT"}
"""States in which a job stays (squeue(1)); others, such as COMPLETING, are on their way to another."""
PENDING, RUNNING, SUSPENDED = "PENDING", "RUNNING", "SUSPENDED"
HELD_BY_USER, HELD_BY_ADMIN = "JobHeldUser", "JobHeldAdmin"


@dataclass(frozen=True, slots=True)
class SlurmJob:
    """One job as squeue tells it. `limit` is its time limit (None: none), `ran` how long it has run so far without what
    it was suspended for, `begin` the earliest start."""

    id: str
    name: str
    user: str
    comment: str
    partition: str
    state: str
    reason: str
    gpus: int
    submitted: datetime
    begin: datetime
    started: datetime | None
    limit: timedelta | None
    ran: timedelta
    licences: str = ""

    @property
    def held(self) -> bool:
        """Whether somebody holds it back."""
        return self.state == PENDING and self.reason in {HELD_BY_USER, HELD_BY_ADMIN}

    @property
    def stopped(self) -> bool:
        """Whether somebody keeps it from running: held back, or suspended."""
        return self.held or self.state == SUSPENDED

    @property
    def priority_held(self) -> bool:
        """Whether it runs with a hold on it, which Slurm heeds when it is requeued."""
        return self.state == RUNNING and self.reason == HELD_BY_ADMIN


def jobs_of(answer: Mapping[str, Any], at: datetime) -> tuple[tuple[SlurmJob, ...], tuple[str, ...]]:
    """Every job of an answer of `squeue --json` at `at` that is not over, and what could not be understood. ValueError
    when the answer as a whole is none, or tells of an error."""
    rows, errors = answer.get("jobs"), answer.get("errors")
    if errors:
        raise ValueError(f"squeue tells of an error: {str(errors[0])[:300]}")
    if not isinstance(rows, list):
        raise ValueError("squeue's answer holds no list of jobs")  # noqa: TRY004 - an answer, not an argument
    found: list[SlurmJob] = []
    odd: list[str] = []
    for row in rows:
        try:
            found += _jobs_in(row, at)
        except (KeyError, TypeError, ValueError, OverflowError) as error:
            odd.append(
                f"job {row.get('job_id', '?') if isinstance(row, dict) else '?'}: {type(error).__name__} {error}"
            )
    return tuple(found), tuple(odd)


def _jobs_in(row: Mapping[str, Any], at: datetime) -> Iterator[SlurmJob]:
    states = row["job_state"]
    state = str(states if isinstance(states, str) else states[0]).upper()
    if state in OVER:
        return
    names = _names(row)
    started = _moment(row, "start_time") if state != PENDING else None
    submitted = _moment(row, "submit_time")
    if submitted is None:
        raise ValueError("submit_time is missing")
    one = SlurmJob(
        id=names[0],
        name=str(row.get("name", "")),
        user=str(row.get("user_name", "")),
        comment=str(_plain(row.get("comment")) or ""),
        partition=str(row["partition"]),
        state=state,
        reason=str(row.get("state_reason", "")),
        gpus=_gpus(row),
        submitted=submitted,
        begin=_moment(row, "eligible_time") or submitted,
        started=started,
        limit=_limit(row),
        ran=_ran(row, state, started, at),
        licences=str(row.get("licenses") or ""),
    )
    yield from (replace(one, id=name) for name in names)


def _names(row: Mapping[str, Any]) -> list[str]:
    """As `scontrol` takes them: the job, one task of an array, or every task that still waits in an array's row."""
    array, task = _number(row.get("array_job_id")), _number(row.get("array_task_id"))
    waiting = str(row.get("array_task_string") or "")
    if array and task is not None:
        return [f"{array:.0f}_{task:.0f}"]
    if array and waiting:
        return [f"{array:.0f}_{number}" for number in _tasks(waiting)]
    return [f"{_number(row['job_id']):.0f}"]


def _tasks(text: str) -> list[int]:
    """Numbers of `16-19,25,30-40:2%5` (at most five at once). ValueError where Slurm shows a part of them alone."""
    if "..." in text:
        raise ValueError(f"an array too large for squeue to show whole ({text[:60]})")
    found: list[int] = []
    for part in text.strip("[]").partition("%")[0].split(","):
        span, _, step = part.partition(":")
        first, dash, last = span.partition("-")
        found += range(int(first), int(last if dash else first) + 1, int(step or 1))
    return found


def _number(value: Any) -> float | None:
    """A number that may stand in an object; None where it is not set or without end."""
    if isinstance(value, Mapping):
        if not value.get("set", True) or value.get("infinite"):
            return None
        value = value.get("number")
    if value is None or isinstance(value, bool):
        return None
    number = float(value)
    return None if number >= INFINITE else number


def _plain(value: Any) -> Any:
    return value.get("job") if isinstance(value, Mapping) else value


def _moment(row: Mapping[str, Any], name: str) -> datetime | None:
    seconds = _number(row.get(name))
    return datetime.fromtimestamp(seconds, UTC) if seconds else None


def _limit(row: Mapping[str, Any]) -> timedelta | None:
    minutes = _number(row.get("time_limit"))
    return timedelta(minutes=minutes) if minutes else None


def _ran(row: Mapping[str, Any], state: str, started: datetime | None, at: datetime) -> timedelta:
    """Slurm keeps the time before the last suspension, and when that began or ended."""
    if started is None:
        return timedelta()
    before = timedelta(seconds=_number(row.get("pre_sus_time")) or 0.0)
    changed = _moment(row, "suspend_time")
    if state == SUSPENDED:
        return before
    return before + max(timedelta(), at - (changed or started))


def _gpus(row: Mapping[str, Any]) -> int:
    """GPUs in all: what is allocated, else what is asked for, a job or a node."""
    for text, times in (
        (row.get("tres_alloc_str"), 1.0),
        (row.get("tres_per_job"), 1.0),
        (row.get("tres_per_node"), max(1.0, _number(row.get("node_count")) or 1.0)),
        (row.get("tres_per_task"), max(1.0, _number(row.get("tasks")) or 1.0)),
        (row.get("tres_req_str"), 1.0),
    ):
        count = gpus_in(str(text or ""))
        if count:
            return int(count * times)
    return 0


def gpus_in(text: str) -> int:
    """GPUs that a list of resources names: `gpu:h100:8`, `gres/gpu=8`, `gpu:h100:8(S:0-1)`."""
    return sum(int(one) for one in _GPU.findall(text))
