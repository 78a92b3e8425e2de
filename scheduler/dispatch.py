"""Journal -> apply -> read back -> confirm: the only place that writes to GPUs.

Why so ceremonious: in one fleet 113 of 536 cap/restore pairs came back raised. So the limit found before the first
write is on disk before that write and stays there until a release was confirmed; every intent is journalled before it
is applied; the *enforced* limit is read back, and a difference is a note, never noise.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Collection, Iterable, Mapping
from dataclasses import dataclass, field
from datetime import datetime
from functools import partial
from itertools import filterfalse

from adapters.ports import (
    AdapterError,
    CapGuard,
    GpuId,
    GpuInfo,
    Lease,
    LimitReader,
    PowerActuator,
    Presence,
    Receipt,
    TrajectoryHolder,
)
from optimizer.domain import GridEvent
from optimizer.reasons import Note, Reason, Severity
from scheduler.allowance import allowed, within
from scheduler.capwatch import CapWatch
from scheduler.course import INF, Course, Courses, Steps, steps_of
from scheduler.dispatch_back import WayBack
from scheduler.dispatch_books import Books
from scheduler.dispatch_notes import Dispatched, disagreements, not_returned, raised_notes, yielded_notes
from scheduler.errand import Errand
from scheduler.orders import PoolOrder
from scheduler.pool_limits import Lowered, PoolLimit, PoolLimits, enforced_by
from scheduler.store.database import StoreDegraded

RENEWALS = 3
"""A lease is renewed when this part of it has passed."""

MOST_RETRY_S = 30.0
"""A GPU that does not follow is tried again after 1, 2, 4, ... seconds, and at least this often."""


@dataclass
class Dispatcher:
    """Applies pool orders to GPUs. `writes` False (observe, advise, paused): nothing leaves this object but limits that
    are given back. Thread-safe: the loops and an operator's pause meet here.

    No GPU is set above the limit found on it, which may protect a breaker or a cooler, but for the `raisable` ones:
    those for which the operator named a highest cap.
    """

    books: Books
    actuator: PowerActuator
    gpus: Mapping[str, tuple[GpuId, ...]]
    writes: bool = False
    epoch: int = 0
    lease_s: float | None = None
    monotonic: Callable[[], float] = time.monotonic
    _sequence: int = 0
    _renewed_at: float = float("-inf")
    _handed_at: float = float("-inf")
    _handed: tuple[object, ...] = ()
    courses: Courses = field(default_factory=Courses)
    _applied: dict[str, PoolOrder] = field(default_factory=dict)
    raisable: frozenset[GpuId] = frozenset()
    watch: CapWatch = field(default_factory=CapWatch)
    _again: set[GpuId] = field(default_factory=set)
    _yielded: dict[GpuId, float] = field(default_factory=dict)
    ignoring: frozenset[GpuId] = frozenset()  # of these: who took caps and did not move
    _set_again: int | None = None
    _first: dict[GpuId, float] = field(default_factory=dict)
    _limit: PoolLimits = field(init=False)
    _back_way: WayBack = field(init=False)
    _failed: set[GpuId] = field(default_factory=set)
    _silent: set[GpuId] = field(default_factory=set)
    _retry_at: float = 0.0
    _retry_s: float = 1.0
    _lock: threading.RLock = field(default_factory=threading.RLock)
    handing: Errand = field(default_factory=Errand)  # a trajectory on its way; its lock is taken before `_lock`

    def __post_init__(self) -> None:
        self._limit = PoolLimits(self.gpus)
        self._back_way = WayBack(self.books, self.watch)

    def apply(self, orders: Mapping[str, PoolOrder], lease_s: float, now: datetime) -> Dispatched:
        """Apply what changed, and again what failed. Raises nothing: an actuator that can't be reached, or a limit that
        can't be kept for the way back, becomes an alert note."""
        lease_s = self.lease_s or lease_s
        with self._lock:
            if not self.writes:
                return Dispatched()
            changed = {pool: order for pool, order in orders.items() if not self._in_force(pool, order)}
            caps = dict[GpuId, int]()
            for pool, order in changed.items():
                caps |= dict.fromkeys(self.gpus[pool], order.cap_w)
            due = self._again | (self._failed if self.monotonic() >= self._retry_at else self._back())
            if due:
                caps |= {gpu: orders[pool].cap_w for pool in orders for gpu in self.gpus[pool] if gpu in due}
            try:
                try:
                    done = self._write(changed, caps, lease_s, now) if caps else Dispatched()
                finally:
                    self._renew(orders, lease_s)
            except (AdapterError, StoreDegraded) as error:
                return Dispatched(notes=(Note(Reason.CAP_REFUSED, "power", str(error), Severity.ALERT, now),))
            return done

    def _back(self) -> set[GpuId]:
        """GPUs of nodes that did not answer, and speak again: they are not kept waiting."""
        silent = self._silent & self._failed
        return set(self.actuator.heard(silent)) if silent and isinstance(self.actuator, Presence) else set()

    def _in_force(self, pool: str, order: PoolOrder) -> bool:
        """True when the pool's GPUs have this cap; how many of them may work is no matter of the hardware's."""
        return (held := self._applied.get(pool)) is not None and held.cap_w == order.cap_w

    def _remember(self, gpus: Iterable[GpuId], now: datetime) -> None:
        """Put the limits found before our first write of these GPUs on disk. Raises StoreDegraded."""
        if not (fresh := [*filterfalse(self._first.__contains__, gpus)]):
            return
        found = self._discover()
        limits = {gpu: (found[gpu].limit_w, found[gpu].model) for gpu in fresh if gpu in found}
        self.books.remember_first_limits(limits, now)
        self._first.update({gpu: limit_w for gpu, (limit_w, _) in limits.items()})

    def _discover(self) -> Mapping[GpuId, GpuInfo]:
        """Every GPU as it is now, its own range noted. Raises AdapterError."""
        found = self.actuator.discover()
        self.watch.bounds({gpu: info.min_w for gpu, info in found.items()})
        return found

    def _write(
        self, orders: Mapping[str, PoolOrder], caps: dict[GpuId, int], lease_s: float, now: datetime
    ) -> Dispatched:
        """Journal, apply and read back `caps`; GPUs that did not follow are tried again, ever more seldom."""
        self._remember(caps, now)
        intent = self.books.journal_intent(
            {pool: [order.cap_w, len(self.gpus[pool])] for pool, order in orders.items()} or {"again": len(caps)}
        )
        known = allowed(caps, self._first, self.raisable)
        self.watch.order(known)
        try:
            mine = {gpu: cap for gpu, cap in known.items() if gpu not in self._yielded} if self._yielded else known
            receipt = self.actuator.apply(mine, self._lease(lease_s))
        except AdapterError as error:
            self.watch.unwritten(known)
            self.books.journal_result(intent, {"error": str(error)})
            raise
        absent = caps.keys() - known.keys() if known is not caps else ()
        self.watch.answered(receipt.enforced_w)
        failures = dict.fromkeys(absent, Reason.GPU_LOST) | dict(receipt.failures)
        # An agent may put back more than was asked for now, and tells of it too (`AgentCore.apply`).
        failures = {gpu: why for gpu, why in failures.items() if gpu in caps and why is not Reason.CAP_YIELDED}
        notes = receipt.notes + disagreements(len(caps), failures, now)
        self.books.journal_result(intent, {"failed": len(failures), "seconds": round(receipt.seconds, 4)})
        self._applied.update(orders)
        self._limit.read(orders, {**receipt.enforced_w, **self._yielded} if self._yielded else receipt.enforced_w)
        self._note_failed(caps if known is caps else {**caps, **known}, failures, receipt)
        return Dispatched(tuple(orders), notes, receipt.seconds)

    def _note_failed(self, caps: Mapping[GpuId, int], failures: Mapping[GpuId, Reason], receipt: Receipt) -> None:
        """Keep who must be tried again. A board controller's own, lower limit is no failure of ours."""
        lower = {gpu for gpu in failures if receipt.enforced_w.get(gpu, INF) < caps[gpu]}
        raised = {gpu for gpu, why in failures.items() if why is Reason.CAP_DRIFT and gpu not in lower}
        self._failed = {gpu for gpu in self._failed if gpu not in caps} | (failures.keys() - lower - raised)
        silent = {gpu for gpu, why in failures.items() if why in {Reason.NODE_LOST, Reason.GPU_LOST}}
        self._silent = {gpu for gpu in self._silent if gpu not in caps} | silent
        self.watch.unwritten(self._failed)
        self._again = {gpu for gpu in self._again if gpu not in caps}
        self._retry_s = min(MOST_RETRY_S, 2 * self._retry_s) if self._failed else 1.0
        self._retry_at = self.monotonic() + self._retry_s

    def _renew(self, orders: Mapping[str, PoolOrder], lease_s: float) -> None:
        """Renew the lease in time by a word to all, first of all; then hand over the trajectory, if corrected since."""
        now, course = self.monotonic(), self.courses.last
        if now - self._renewed_at > (0.0 if self.courses.near(now) else lease_s / RENEWALS):
            self.actuator.apply({}, self._lease(lease_s))
            self._renewed_at = now
        due = course is not None and now - self._handed_at > lease_s / RENEWALS
        self.handing.check()
        if course is not None and due and not self.handing.busy and course.rest(now, orders) != self._handed:
            self.handing.do(lambda: self._ready(course, orders), aside=True, wait=False)  # a plan's waits for `_lock`

    def next_lease(self, lease_s: float) -> Lease:
        """A lease for an order about clocks."""
        return self._lease(self.lease_s or lease_s)

    def _lease(self, lease_s: float) -> Lease:
        """The next lease; whoever enforces it renews all caps with it."""
        self._sequence += 1
        return Lease(self.epoch, self._sequence, lease_s)

    def hold(
        self, steps: Steps, until_s: float, now: datetime, known: Iterable[GridEvent] = (), aside: bool = False
    ) -> None:
        """Hand the trajectory, which keeps the events `known`, to an actuator that can follow it alone, until `until_s`
        seconds from now; `aside`: without waiting for it. Raises AdapterError and StoreDegraded."""

        def prepare() -> Callable[[], None] | None:
            with self._lock:
                if not self.writes or not isinstance(self.actuator, TrajectoryHolder) or self.lease_s is None:
                    return None
                self._remember((gpu for p in {p for _, orders in steps for p in orders} for gpu in self.gpus[p]), now)
                return self._ready(self.courses.begin(steps, until_s, self.monotonic(), known), self._applied)

        self.handing.do(prepare, aside)

    def _ready(self, course: Course, in_force: Mapping[str, PoolOrder]) -> Callable[[], None]:
        """What gives the rest of the course to the actuator, and a lease with it."""
        assert isinstance(self.actuator, TrajectoryHolder)
        now, hold = self.monotonic(), self.actuator.hold
        ahead, self._handed_at, self._handed = course.ahead(now, in_force), now, ()
        self.courses.told(ahead, now)
        lease, rest = self._lease(self.lease_s or 0.0), course.rest(now, in_force)

        def hand_over() -> None:
            try:
                most_w = partial(within, first_w=self._first, raisable=self.raisable)
                hold(steps_of(ahead, self.gpus, self._first, most_w), max(0.0, course.until - now), lease)
            except AdapterError:
                self._handed_at = -INF  # tried again in the next turn
                raise
            self._handed = rest if self.courses.sent(course, ahead, now) else ()

        return hand_over

    def verify(self, now: datetime) -> tuple[Note, ...]:
        """Read every limit back, whatever the actuator. Where nothing may be written, limits that could not be given
        back before are given back now."""
        if not self.writes and self.books.first_limits():
            return self.release(now)
        with self._lock:
            if not (self.writes and self._applied):
                return ()
            try:
                return self._judge(self._limits(), now)
            except AdapterError as error:
                return (Note(Reason.CAP_REFUSED, "power", str(error), Severity.ALERT, now),)

    def _limits(self) -> Mapping[GpuId, float]:
        """Every enforced limit, read now. Agents tell the rest of their cards every second. Raises AdapterError."""
        reader = self.actuator
        if isinstance(reader, CapGuard) and isinstance(reader, LimitReader) and self.watch.bounded:
            return reader.enforced(self.watch.wanted_w)
        return {gpu: info.enforced_w for gpu, info in self._discover().items()}

    def look(self, now: datetime) -> tuple[Note, ...]:
        """What `verify` does, for every tick: an agent is asked what became of the caps, cards are asked for nothing
        but their limits, and an actuator that can't tell them cheaply waits for `verify`."""
        with self._lock:
            if not self.writes or not self._applied:
                return ()
            try:
                if isinstance(self.actuator, CapGuard):
                    return self._guarded(self.actuator, now)
                if isinstance(self.actuator, LimitReader):
                    return self._judge(self.actuator.enforced(self.watch.wanted_w), now)
            except AdapterError as error:
                return (Note(Reason.CAP_REFUSED, "power", str(error), Severity.ALERT, now),)
            return ()

    def _judge(self, enforced_w: Mapping[GpuId, float], now: datetime) -> tuple[Note, ...]:
        """Caps that came back raised are written again with the next orders, or yielded; so are lower ones that agents
        hold since they were away (a trajectory, a missed order). What they find lowered stays. Raises AdapterError."""
        theirs = self.actuator.contested().lowered if isinstance(self.actuator, CapGuard) else frozenset()
        judged = self.watch.judge(enforced_w, self.monotonic())
        off = dict(judged.again)
        if isinstance(self.actuator, CapGuard):  # the agents yield, nobody else
            off |= judged.yielded
            off |= {gpu: enforced_w[gpu] for gpu in self.watch.lowered - theirs}
        else:
            self._yield(self.watch.yielded_w, self.watch.ignoring)
        again = {gpu: watts for gpu, watts in off.items() if gpu not in self._yielded}
        self._again |= again.keys()
        self._limit.differ(again.keys(), enforced_w)
        self._limit.settle(self.watch.lowered, enforced_w)
        notes = raised_notes(self.gpus, self.watch.wanted_w, again, now)
        return notes + yielded_notes(self.gpus, self._yielded, self.ignoring, now)

    def _guarded(self, guard: CapGuard, now: datetime) -> tuple[Note, ...]:
        """What the agents say of their cards."""
        told = guard.contested()
        before, self._set_again = self._set_again, told.reasserted
        again = told.reasserted - before if before is not None else 0
        mine = {gpu for gpus in self.gpus.values() for gpu in gpus} if told.yielded_w else set()
        self._yield({gpu: watts for gpu, watts in told.yielded_w.items() if gpu in mine}, told.ignoring)
        self._limit.lower(told.lowered)
        text = f"{again} caps came back raised and were set again by their agents"
        notes = (Note(Reason.CAP_DRIFT, "power", text, Severity.WARNING, now),) if again > 0 else ()
        return (*notes, *told.notes, *yielded_notes(self.gpus, self._yielded, self.ignoring, now))

    def _yield(self, limits_w: dict[GpuId, float], ignoring: frozenset[GpuId] = frozenset()) -> None:
        """Leave these GPUs to their other writer, and take those back that it has left."""
        self.ignoring = ignoring
        if limits_w != self._yielded:
            back = self._yielded.keys() - limits_w.keys()
            self._limit.differ(back | limits_w.keys(), limits_w)
            self._again |= back
            self._yielded = limits_w

    def _pools_of(self, gpus: Collection[GpuId]) -> list[str]:
        return [pool for pool, mine in self.gpus.items() if any(gpu in gpus for gpu in mine)] if gpus else []

    def unreached(self, now: bool = False) -> dict[str, tuple[GpuId, ...]]:
        """By pool: GPUs that did not take their last order, and go on as they were. `now`: without those that speak
        again, and will take the next one."""
        with self._lock:
            failed = self._failed - self._yielded.keys() - (self._back() if now else set()) if self.writes else set()
            return {pool: tuple(gpu for gpu in self.gpus[pool] if gpu in failed) for pool in self._pools_of(failed)}

    def yielded(self) -> dict[str, dict[GpuId, float]]:
        """By pool: GPUs left to another writer, with the limit in W that it holds there."""
        left = self._yielded  # replaced, never changed
        return {p: {gpu: left[gpu] for gpu in self.gpus[p] if gpu in left} for p in self._pools_of(left)}

    def lowered(self) -> dict[str, Lowered]:
        """By pool: GPUs that enforce less than was ordered, by a board's or another program's limit."""
        return self._limit.below(self.watch.wanted_w)

    def take_back(self) -> None:
        """An operator's word: GPUs left to another writer are capped again. Raises AdapterError."""
        with self._lock:
            self.watch.take_back()
            if isinstance(self.actuator, CapGuard) and self._yielded:
                self.actuator.take_back()
            self._yield({})

    def release(self, now: datetime, only: Collection[GpuId] | None = None) -> tuple[Note, ...]:
        """Give back the limits found before the first write (of `only` these GPUs, or of all), those of a killed
        predecessor included. What is not confirmed is kept, and tried again by `verify`."""
        with self.handing.lock, self._lock:  # a trajectory that comes after its release would bring the caps back
            limits = self.books.first_limits()
            if only is not None:
                limits = {gpu: limit for gpu, limit in limits.items() if gpu in only}
            if not limits and (only is not None or not isinstance(self.actuator, TrajectoryHolder)):
                return ()
            self.courses = self.courses if only is not None else Courses()
            try:
                lease = self._lease(self.lease_s or 0.0)
                confirmed = self._back_way.give(limits, self.actuator, self._discover, lease, self.monotonic())
            except AdapterError as error:
                return (Note(Reason.CAP_REFUSED, "power", f"limits not given back: {error}", Severity.ALERT, now),)
            for gpu in confirmed:
                self._first.pop(gpu, None)
            self._failed.difference_update(limits)
            self._again.difference_update(limits)
            self.watch.forget(confirmed)
            self.watch.unwritten(limits.keys() - set(confirmed))  # whose it is counts until it is back
            self._yielded = {gpu: watts for gpu, watts in self._yielded.items() if gpu not in confirmed}
            self._limit.clear()
            self._applied = {p: order for p, order in self._applied.items() if not limits.keys() & set(self.gpus[p])}
            return not_returned([gpu for gpu in limits if gpu not in confirmed], len(limits), now)

    def adopt(self) -> int:
        """At start: limits that a predecessor found stay the ones to restore. Returns how many are outstanding."""
        self._first = dict(self.books.first_limits())
        return len(self._first)

    def strangers(self) -> frozenset[GpuId]:
        """GPUs that still have a limit of ours but belong to no pool any more."""
        return frozenset(self.books.first_limits()).difference(*self.gpus.values())

    def limit(self, pool: str) -> PoolLimit | None:
        """The limit that most GPUs of a pool enforced when they were last read, and the odd ones; None when too few of
        them agree, or nobody has looked."""
        return self._limit.held.get(pool)

    def read_limits(self) -> None:
        """Read what pools enforce where we write nothing, or where not all had one limit after the last order."""
        pools = list(self.gpus) if not self.writes else self._limit.unsettled()
        if not pools:
            return
        try:
            found = enforced_by(self.actuator, [gpu for pool in pools for gpu in self.gpus[pool]])
        except AdapterError:
            found = {}
        with self._lock:
            self._limit.read(pools, found)

    def in_force(self) -> dict[str, int]:
        """Cap in W that each pool's GPUs have now, read from the hardware: the highest of them, since the others are
        the exception. A pool without an answer is left out."""
        try:
            found = self.actuator.discover()
        except AdapterError:
            return {}
        caps = {pool: [found[gpu].enforced_w for gpu in gpus if gpu in found] for pool, gpus in self.gpus.items()}
        return {pool: round(max(enforced)) for pool, enforced in caps.items() if enforced}
