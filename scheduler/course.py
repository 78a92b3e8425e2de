"""The trajectory that an agent holds, as the fast loop has corrected it.

Why corrected: the plan's caps come from curves. What the fast loop took off them to meet a target in measured power
would come back with the daemon's death, in the middle of the event. So the steps are handed over again with each lease,
none of them above the cap in force now unless the plan itself rises there.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field

from adapters.ports import GpuId
from optimizer.domain import GridEvent
from scheduler.orders import PoolOrder

Orders = Mapping[str, PoolOrder]
Steps = Sequence[tuple[float, Orders]]
INF = float("inf")

ABOUT_S = 2.0
"""So long before and after a step every tick renews the lease: a node that hears of nobody when its trajectory falls
follows it, though its lease would last (`scheduler.agent.core`)."""

SEEN_S, AHEAD_S = 3.0, 1.5
"""A step of a node that hears of nobody shows in its power after so long; and so long before it others make room."""

FAR_S = 6 * 3600.0
"""Steps that lie further ahead than this (the end of a limit that is held for a day) count as they were told last: else
those of all plans of a day would be kept."""


@dataclass(frozen=True)
class Course:
    """Orders by pool from moments on (monotonic seconds), and until when they hold."""

    steps: tuple[tuple[float, Orders], ...]
    until: float
    known: tuple[GridEvent, ...] = ()
    """The events that it keeps."""

    @classmethod
    def begun(cls, steps: Steps, until_s: float, now: float, known: Iterable[GridEvent] = ()) -> Course:
        """A course from offsets in seconds from `now`."""
        return cls(tuple((now + offset_s, orders) for offset_s, orders in steps), now + until_s, tuple(known))

    def ahead(self, now: float, in_force: Orders) -> list[tuple[float, Orders]]:
        """The rest of it as (seconds from now, orders), caps no higher than those in force until the plan rises."""
        past = [orders for at, orders in self.steps if at <= now]
        current: Orders = past[-1] if past else {}
        coming = [(0.0, current)] if past else []
        coming += [(at - now, orders) for at, orders in self.steps if at > now]
        return [(offset_s, _corrected(orders, current, in_force)) for offset_s, orders in coming]

    def rest(self, now: float, in_force: Orders) -> tuple[object, ...]:
        """What `ahead` says, in values that stay the same while nothing but time has passed."""
        caps = [
            (round(now + offset_s, 3) if offset_s > 0 else 0.0, sorted((p, order.cap_w) for p, order in orders.items()))
            for offset_s, orders in self.ahead(now, in_force)
        ]
        return (self.until, *((at, tuple(orders)) for at, orders in caps))


def _moments(steps: Steps, now: float) -> dict[float, Orders]:
    """The steps that come after `now`, by their moment."""
    return {round(now + offset_s, 3): orders for offset_s, orders in steps if offset_s > 0}


def _corrected(orders: Orders, current: Orders, in_force: Orders) -> dict[str, PoolOrder]:
    """A step's orders; where the plan does not rise above its present step, not above what is in force now."""
    corrected = {}
    for pool, order in orders.items():
        was, held = current.get(pool), in_force.get(pool)
        rises = was is None or held is None or order.cap_w > was.cap_w
        cap_w = order.cap_w if rises or held is None else min(order.cap_w, held.cap_w)
        corrected[pool] = PoolOrder(cap_w, order.active_gpus)
    return corrected


def steps_of(
    ahead: Sequence[tuple[float, Orders]],
    gpus: Mapping[str, Sequence[GpuId]],
    first_w: Mapping[GpuId, float],
    cap: Callable[[GpuId, int], int],
) -> list[tuple[float, dict[GpuId, int]]]:
    """Steps of a trajectory by GPU, each with its own cap. Where no GPU of a pool was found below its order (`first_w`)
    none is asked: they are a million in a large fleet."""
    lowest_w = {
        pool: min((first_w.get(gpu, INF) for gpu in gpus[pool]), default=INF)
        for pool in {pool for _, orders in ahead for pool in orders}
    }
    steps = []
    for offset_s, orders in ahead:
        caps: dict[GpuId, int] = {}
        for pool, order in orders.items():
            if order.cap_w <= lowest_w[pool]:
                caps |= dict.fromkeys(gpus[pool], order.cap_w)
            else:
                caps |= {gpu: cap(gpu, order.cap_w) for gpu in gpus[pool]}
        steps.append((offset_s, caps))
    return steps


@dataclass
class Courses:
    """What nodes may be following: the course handed over last, and for one that did not hear it, what was handed over
    before: who is cut off shows only when an order fails."""

    last: Course | None = None
    """The one handed over last; None when nothing is to be followed."""
    _coming: dict[float, dict[str, int]] = field(default_factory=dict)
    _about: set[float] = field(default_factory=set)

    def begin(self, steps: Steps, until_s: float, now: float, known: Iterable[GridEvent] = ()) -> Course:
        """A new one."""
        self.last = Course.begun(steps, until_s, now, known)
        return self.last

    def told(self, steps: Steps, now: float) -> None:
        """Nodes that hear it follow these from now on: each step counts with the highest caps it was told with. What
        the fast loop may be reading meanwhile is replaced, never changed."""
        coming = {at: caps for at, caps in self._coming.items() if now - SEEN_S <= at <= now + FAR_S}
        moments = _moments(steps, now)
        for at, orders in moments.items():
            caps = coming.get(at, {})
            coming[at] = caps | {pool: max(order.cap_w, caps.get(pool, 0)) for pool, order in orders.items()}
        self._coming = coming
        self._about = {at for at in self._about if now - ABOUT_S <= at <= now + FAR_S} | moments.keys()

    def sent(self, course: Course, steps: Steps, now: float) -> bool:
        """All nodes were sent these, as told at `now`: no later step of what was told before comes any more. Returns
        whether this course is still the last one."""
        self._about = {at for at in self._about if at <= now} | _moments(steps, now).keys()
        return self.last is course

    def near(self, now: float) -> bool:
        """Whether a step that nodes may follow begins or began about now. Until the last course was sent to all, which
        takes seconds with thousands of nodes, those told before it count: who still has an old one would follow it,
        away from what was ordered since."""
        return any(abs(at - now) <= ABOUT_S for at in self._about)

    def coming_w(self, pool: str, now: float) -> int:
        """The highest cap in W to which a node may step about now by itself; 0 where none does."""
        due = [caps for at, caps in self._coming.items() if now - SEEN_S <= at <= now + AHEAD_S]
        return max((caps[pool] for caps in due if pool in caps), default=0)
