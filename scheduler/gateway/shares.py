"""Whose turn it is among tenants that share a server: by weight, in seconds of its slots.

Why slot-seconds and not requests or tokens: a request may take a hundred times as long as another, so that turns by
requests would give a tenant with long ones the whole server. What the plan grants is slots for a time, so their time is
what is shared. It is measured here, of every request (also one that breaks, is turned away or tells no `usage`), and no
server's way of counting tokens changes it. A request is charged what its tenant's usually take when it begins, what it
takes beyond that while it is under way, and what it really took when it is back (start-time fair queueing).
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass, field
from heapq import heappop, heappush
from itertools import count
from time import monotonic

USUAL_S = 0.01
"""Seconds that a request is expected to take before any is back: little, for what it takes longer counts meanwhile."""
NEWS = 0.2
"""Weight of the latest request in what a tenant's are expected to take."""


@dataclass(slots=True)
class Begun:
    """A request under way: when it began (monotonic, s), and what it was charged then (s). `over`: it has taken longer;
    `back`: it is none any more."""

    at_s: float
    expected_s: float
    over: bool = False
    back: bool = False


@dataclass(slots=True)
class _Tenant:
    """`served`: slot-seconds over weight of requests that are back. Of those under way: `charged_s` of those that take
    no longer than that, by when they will (`dues`); of the others how many, and the sum of their begins."""

    weight: float
    served: float = 0.0
    charged_s: float = 0.0
    over: int = 0
    begins_s: float = 0.0
    usual_s: float | None = None
    dues: list[tuple[float, int, Begun]] = field(default_factory=list)


class Shares:
    """What tenants had of one server. `clock`: monotonic seconds."""

    def __init__(self, weights: Mapping[str, float], clock: Callable[[], float] = monotonic) -> None:
        self._weights, self._clock = weights, clock
        self._tenants: dict[str, _Tenant] = {}
        self._waiting: set[str] = set()
        self._usual_s, self._count = USUAL_S, count()

    def turn(self, names: Collection[str]) -> str:
        """Whose request is next among tenants that wait (one at least); it is charged. Who comes (back) starts level
        with the others: there is no claim on what was not asked for."""
        now = self._clock()
        # What a request was charged too much is given back, so the level is that of now.
        level = min((self._had(self._of(name), now) for name in self._waiting), default=0.0)
        had = {name: self._had(self._of(name), now) for name in sorted(names)}
        for name in had.keys() - self._waiting:
            if had[name] < level:
                self._of(name).served += level - had[name]
                had[name] = level
        self._waiting = set(names)
        turn = min(had, key=had.__getitem__)
        one = self._of(turn)
        one.served += self._expected_s(one, now) / one.weight
        return turn

    def begin(self, name: str) -> Begun:
        """The request that a tenant's turn was for is sent."""
        one = self._of(name)
        now = self._clock()
        begun = Begun(now, self._expected_s(one, now))
        one.served -= begun.expected_s / one.weight  # charged by `turn`; from now on counted as under way
        one.charged_s += begun.expected_s
        heappush(one.dues, (now + begun.expected_s, next(self._count), begun))
        return begun

    def end(self, name: str, begun: Begun) -> None:
        """It is back, with or without an answer."""
        one, took_s = self._of(name), self._clock() - begun.at_s
        begun.back = True
        if begun.over:
            one.over -= 1
            one.begins_s -= begun.at_s if one.over else one.begins_s  # to zero, or rounding would add up
        else:
            one.charged_s -= begun.expected_s
        one.served += took_s / one.weight
        one.usual_s = took_s if one.usual_s is None else one.usual_s + NEWS * (took_s - one.usual_s)
        self._usual_s += NEWS * (took_s - self._usual_s)

    def had_s(self, name: str) -> float:
        """Slot-seconds over its weight that a tenant is charged by now."""
        return self._had(self._of(name), self._clock())

    def _of(self, name: str) -> _Tenant:
        if name not in self._tenants:
            self._tenants[name] = _Tenant(self._weights.get(name, 1.0))
        return self._tenants[name]

    def _had(self, one: _Tenant, now: float) -> float:
        while one.dues and one.dues[0][0] <= now:
            begun = heappop(one.dues)[-1]
            if not begun.back:
                begun.over = True
                one.charged_s -= begun.expected_s
                one.over += 1
                one.begins_s += begun.at_s
        return one.served + (one.charged_s + one.over * now - one.begins_s) / one.weight

    def _expected_s(self, one: _Tenant, now: float) -> float:
        """What a tenant's next request may take: as long as its others did, or those under way already do."""
        usual_s = self._usual_s if one.usual_s is None else one.usual_s
        return max(usual_s, now - one.begins_s / one.over) if one.over else usual_s
