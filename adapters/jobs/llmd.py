"""Requests that wait in llm-d's async processor: how fast they are dispatched follows the plan.

The contract, as its source has it (llm-d-incubation/llm-d-async: docs/gates.md and docs/transports.md at 569b8fb,
`RedisDispatchGate.Budget` and `RedisSortedSetFlow.processMessages` in pkg/redis at af05ecb; held by
tests/support/llmd.py): the `redis` gate reads a decimal number from a key in database 0 of its `address`, without a
password. Absent or unreadable means 1, more than 1 or less than 0 is cut, and a Redis that doesn't answer means 0. At
each poll the processor takes `batch_size` x budget requests, rounded down, from a sorted set whose scores are deadlines
in Unix seconds, the nearest first, and drops those that are late. Here what waits is jobs, one for each hour of
deadlines, and what these are granted, over the pool's GPUs, is the budget: in whole requests of a poll, and at least
one where anything is granted, or a small grant would be rounded down to nothing.

Why the key expires: a daemon that dies must not keep the queue closed. Its GPUs' caps hold the power meanwhile.
"""

from __future__ import annotations

import math
import threading
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime, timedelta
from itertools import pairwise
from typing import Any, Literal
from urllib.parse import parse_qsl, urlencode, urlsplit

import redis
import structlog
from pydantic import Field
from redis.backoff import NoBackoff
from redis.retry import Retry

from adapters.context import AdapterContext
from adapters.fields import AdapterConfig, Duration, Id
from adapters.jobs.hand import Hand
from adapters.jobs.held import Held
from adapters.permit import NotPermitted
from adapters.ports import AdapterError
from adapters.secrets import Secret
from optimizer.domain import BatchJob, JobState
from optimizer.reasons import Note, Reason, Severity

log = structlog.get_logger("gridpace.llmd")

HOURS = 24
"""Hours of deadlines that are told apart; what is due later is one job more."""

SOONEST = timedelta(minutes=1)
"""A deadline that is nearer, or over, counts as this far away."""


class LlmdConfig(AdapterConfig):
    """Requests in the queue of llm-d's async processor, by its `redis` dispatch gate."""

    type: Literal["llmd"] = Field(description="llm-d's async processor.", examples=["llmd"])
    url: str = Field(
        pattern=r"^rediss?://[^\s@]+$",
        description="The Redis of the queue, and of the gate where `gate_address` names no other; without a password.",
        examples=["redis://redis.llm-d:6379/0"],
    )
    gate_address: str | None = Field(
        default=None, pattern=r"^[^\s@/:]+:[0-9]{1,5}$",
        description="The gate's `address` (host:port), where its Redis is another than the queue's. The gate knows no "
        "password and reads database 0.",
        examples=["gate.llm-d:6379"],
    )  # fmt: skip
    password: Secret | None = Field(default=None, description="Where its password lies.", examples=["credential:redis"])
    pool: Id = Field(description="Batch pool whose GPUs answer the requests.", examples=["tune"])
    gpus: int = Field(ge=1, description="GPUs that answer them when the gate is wide open.", examples=[64])
    requests_per_gpu_h: float = Field(
        gt=0, allow_inf_nan=False, description="Requests that one GPU answers in an hour at full throughput.",
        examples=[1800],
    )  # fmt: skip
    value_per_gpu_h: float = Field(
        default=0.0, ge=0, allow_inf_nan=False, description="Money for each GPU-hour done.", examples=[1.2]
    )
    queue: str = Field(
        default="request-sortedset", min_length=1, description="Sorted set in which requests wait.",
        examples=["request-sortedset"],
    )  # fmt: skip
    budget_key: str = Field(
        default="dispatch-gate-budget", min_length=1, description="Key from which the gate reads its budget.",
        examples=["dispatch-gate-budget"],
    )  # fmt: skip
    batch_size: int = Field(
        default=10, ge=1, description="The processor's `batch_size`: requests that it takes at each poll when the gate "
        "is wide open. The budget is told in these; with fewer than `gpus` it is coarser than one GPU.",
        examples=[64],
    )  # fmt: skip
    refresh: Duration = Field(
        default=timedelta(seconds=1), description="How often the queue is read and the budget renewed.", examples=["1s"]
    )
    lease: Duration = Field(
        default=timedelta(seconds=60),
        description="A budget that is not renewed for so long is gone, and the gate wide open.",
        examples=["60s"],
    )
    timeout: Duration = Field(
        default=timedelta(seconds=2), description="How long one question to Redis may take.", examples=["2s"]
    )


class LlmdJobs:
    """`JobSystem` over one gate. `keeps_state`: what waits has lost nothing."""

    Config = LlmdConfig
    keeps_state = True

    def __init__(self, config: LlmdConfig, context: AdapterContext) -> None:
        self._config, self._clock, self._permit = config, context.clock, context.permit
        self._redis, self._gate = _clients(config, context)
        self._held = Held("llm-d", context.records, context.clock.now())
        self._lock = threading.RLock()
        self._queue: dict[str, tuple[int, datetime]] | None = None
        self._granted: dict[str, int] = {}
        self._since: dict[str, datetime] = {}
        self._asked, self._writes = False, bool(context.extras.get("writes", True))
        self._troubles: dict[str, str] = {}
        self._hand = Hand("llmd", config.refresh.total_seconds(), self._turn, self._broken)

    # ---------------------------------------------------------------- the loops
    def snapshot(self) -> Sequence[BatchJob]:
        """What waits, by hours of deadlines, as last read. Raises AdapterError before the first reading worked."""
        self._hand.begin(self._look)
        with self._lock:
            if self._queue is None:
                raise AdapterError(f"llm-d: {self._trouble or 'not read yet'}")
            return [self._job(name, *entry) for name, entry in self._queue.items()]

    def everything(self) -> Sequence[BatchJob]:
        """The same, the latest deadline first."""
        return list(reversed(self.snapshot()))

    def apply(self, gpus: Mapping[str, int]) -> Mapping[str, Reason]:
        """Leave the grants; the hand makes the budget of them. Names jobs that are gone."""
        with self._lock:
            known = self._queue or {}
            before = self._granted
            self._granted = {job: count for job, count in (before | dict(gpus)).items() if job in known}
            new, self._asked = self._granted != before or not self._asked, True
        if new:
            self._hand.wake()
        return {job: Reason.WORK_DONE for job in gpus if job not in known}

    def quiet(self, on: bool) -> None:
        """Whether the gate is left open now: told before `apply`."""
        if on is self._writes:
            self._writes = not on
            self._hand.wake()

    @property
    def _trouble(self) -> str:
        return "; ".join(list(self._troubles.values()))

    # ---------------------------------------------------------------- people
    def notes(self) -> tuple[Note, ...]:
        """Says while Redis does not answer; the gate is shut then, since it asks the same Redis."""
        trouble = self._trouble
        return (Note(Reason.JOBS_LOST, "llm-d", f"llm-d: {trouble}", Severity.ALERT),) if trouble else ()

    def release(self) -> tuple[Note, ...]:
        """Open the gate wide: take our budget away, and end the hand; what did not work."""
        self.close()
        if not self._held.ours():
            return ()
        try:
            self._open()
        except (redis.RedisError, OSError, NotPermitted) as error:
            text = f"{self._config.budget_key} is still ours, for {self._config.lease.total_seconds():.0f} s: {error}"
            return (Note(Reason.HELD, "llm-d", text, Severity.ALERT),)
        return ()

    def close(self) -> None:
        """End the hand; the budget stays until its lease ends, and in the books."""
        self._hand.end(3 * self._config.timeout.total_seconds())

    def held(self) -> Mapping[str, str]:
        """The key that we write, for people who ask what Gridpace holds."""
        return self._held.ours()

    # ---------------------------------------------------------------- the hand
    def _turn(self) -> None:
        if self._look():
            self._set()

    def _broken(self, error: Exception) -> None:
        self._troubles["hand"] = f"failed: {error}; the log says more"

    def _look(self) -> bool:
        try:
            found = self._read(self._clock.now())
        except (redis.RedisError, OSError) as error:
            self._lost("queue", error)
            return False
        self._troubles.pop("queue", None)
        self._troubles.pop("hand", None)
        with self._lock:
            self._queue = found
            self._granted = {job: gpus for job, gpus in self._granted.items() if job in found}
            self._since = {job: self._since.get(job, self._clock.now()) for job in found}
        return True

    def _lost(self, what: str, error: Exception) -> None:
        where = self._config.gate_address if what == "gate" and self._config.gate_address else self._config.url
        text = f"{what} at {where}: {str(error) or type(error).__name__}"
        if text != self._troubles.get(what):
            log.warning("llmd.lost", why=text)
        self._troubles[what] = text

    def _read(self, now: datetime) -> dict[str, tuple[int, datetime]]:
        """Requests and earliest possible deadline by job, in one round trip."""
        hour = now.astimezone(UTC).replace(minute=0, second=0, microsecond=0)
        edges = [hour + timedelta(hours=k) for k in range(1, HOURS + 1)]
        limits = ["-inf", *(f"{edge.timestamp():.0f}" for edge in edges), "+inf"]
        ask = self._redis.pipeline(transaction=False)
        for low, high in pairwise(limits):
            ask.zcount(self._config.queue, low, f"({high}" if high != "+inf" else high)
        ask.zrange(self._config.queue, 0, 0, withscores=True)
        *counts, first = ask.execute()
        earliest = datetime.fromtimestamp(first[0][1], UTC) if first else now
        starts = [max(earliest, now + SOONEST), *edges]
        names = ["now", *(f"{edge:%Y-%m-%dT%HZ}" for edge in edges)]
        return {
            f"{self._config.queue}@{name}": (int(count), max(due, now + SOONEST))
            for name, due, count in zip(names, starts, counts, strict=True)
            if count
        }

    def _set(self) -> None:
        """Write the budget under its lease, or take it away where everything may go."""
        with self._lock:
            if not self._asked:
                return  # nobody has planned yet: the gate stays as it is
            budget = budget_of(sum(self._granted.values()), self._config.gpus, self._config.batch_size)
        try:
            if budget >= 1.0 or not self._writes:
                self._open()
            else:
                key = self._config.budget_key
                if key not in self._held.ours():
                    self._held.ordering({key: "budget"}, self._clock.now())
                self._permit()
                self._gate.set(key, repr(budget), px=int(self._config.lease.total_seconds() * 1000))
                self._held.stands([key])
        except (redis.RedisError, OSError, NotPermitted) as error:
            self._lost("gate", error)
        else:
            self._troubles.pop("gate", None)

    def _open(self) -> None:
        """Where the key is ours: without it the gate is wide open."""
        if self._held.ours():
            self._permit()
            self._gate.delete(self._config.budget_key)
            self._held.forget(self._held.ours())

    def _job(self, name: str, requests: int, due: datetime) -> BatchJob:
        gpus = self._granted.get(name, 0)
        since = self._since[name]
        return BatchJob(
            id=name,
            pools=(self._config.pool,),
            release=since,
            deadline=due,
            work_gpu_h=requests / self._config.requests_per_gpu_h,
            max_gpus=self._config.gpus,
            value_per_gpu_h=self._config.value_per_gpu_h,
            state=JobState.RUNNING if gpus else JobState.WAITING,
            gpus=gpus,
        )


def budget_of(granted: int, gpus: int, batch_size: int) -> float:
    """The budget, 0 to 1, of which the processor makes so many whole requests a poll as `granted` of `gpus` are due."""
    if granted <= 0 or granted >= gpus:
        return 0.0 if granted <= 0 else 1.0
    requests = max(1, round(granted * batch_size / gpus))
    budget = requests / batch_size
    return budget if math.floor(batch_size * budget) >= requests else math.nextafter(budget, 1.0)


def _clients(config: LlmdConfig, context: AdapterContext) -> tuple[Any, Any]:
    """Clients of the queue's Redis and of the gate's, which is database 0."""
    seconds = config.timeout.total_seconds()
    how: dict[str, Any] = {"socket_timeout": seconds, "socket_connect_timeout": seconds, "retry": Retry(NoBackoff(), 0)}
    password = config.password.reveal(context.base_dir) if config.password else None
    queue: Any = redis.Redis.from_url(config.url, password=password, **how)
    if config.gate_address is not None:
        return queue, redis.Redis.from_url(f"redis://{config.gate_address}/0", **how)
    whole = urlsplit(config.url)
    kept = urlencode([(key, value) for key, value in parse_qsl(whole.query) if key != "db"])  # such as those of TLS
    return queue, redis.Redis.from_url(whole._replace(path="/0", query=kept).geturl(), password=password, **how)
