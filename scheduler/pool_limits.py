"""The limit that the GPUs of a pool enforce, and the few of them that enforce another one or don't tell.

Why not simply the limit of all: among thousands of cards there is always one that fell off its bus, that its board
holds lower, or that was found at another limit. What is concluded from the others must not end with it. So the limit
of most cards is the pool's, the odd ones are kept with what they may enforce, and whoever concludes something says how
much they matter to it.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Iterable, Mapping, Sequence, Set
from contextlib import suppress
from dataclasses import dataclass, field, replace
from functools import cached_property
from itertools import repeat

from adapters.ports import AdapterError, GpuId, LimitReader, PowerActuator
from scheduler.capwatch import DRIFT_W

MOST = 0.9
"""Share of a pool's cards that must enforce one limit for it to be the pool's."""

FEW = 10
"""In a pool of fewer cards than this, one is more than a tenth of them: there all must."""

INF = float("inf")


@dataclass(frozen=True, slots=True)
class Span:
    """What a card enforces, in W, as far as anybody knows: from `least_w` to `most_w`."""

    least_w: float = 0.0
    most_w: float = INF


UNKNOWN = Span()


@dataclass(frozen=True)
class PoolLimit:
    """The limit in W that most cards of a pool enforce, how many cards it has, and the odd ones."""

    cap_w: float
    count: int
    odd: Mapping[GpuId, Span] = field(default_factory=dict)

    @cached_property
    def spans(self) -> Mapping[Span, int]:
        """How many odd cards enforce what."""
        return Counter(self.odd.values())

    def but(self, odd: Mapping[GpuId, Span]) -> PoolLimit | None:
        """With these cards odd as well; None when the others are too few."""
        every = {**self.odd, **odd}
        return replace(self, odd=every) if _enough(self.count - len(every), self.count) else None


def _enough(alike: int, count: int) -> bool:
    return alike == count if count < FEW else alike >= MOST * count - 1e-9


def limit_of(gpus: Sequence[GpuId], limits_w: Mapping[GpuId, float]) -> PoolLimit | None:
    """The limit that most of these GPUs have, within `DRIFT_W` of each other; None when too few do."""
    found = Counter(map(limits_w.get, gpus, repeat(INF)))
    unknown = found.pop(INF, 0)
    if not found:
        return None
    alike = _largest(found)
    if not _enough(sum(alike.values()), len(gpus)):
        return None
    cap_w = max(alike, key=alike.__getitem__)
    if not unknown and len(alike) == len(found):
        return PoolLimit(cap_w, len(gpus))
    odd = {gpu: limits_w.get(gpu) for gpu in gpus if limits_w.get(gpu, INF) not in alike}
    return PoolLimit(cap_w, len(gpus), {gpu: UNKNOWN if w is None else Span(w, w) for gpu, w in odd.items()})


def enforced_by(actuator: PowerActuator, gpus: Collection[GpuId]) -> Mapping[GpuId, float]:
    """What these cards enforce. Nodes of a fleet tell their limits unasked, and to ask ten thousand for all that they
    are takes a quarter of a minute. Raises AdapterError."""
    if isinstance(actuator, LimitReader):
        with suppress(AdapterError):  # nobody tells any
            return actuator.enforced(gpus)
    return {gpu: info.enforced_w for gpu, info in actuator.discover().items()}


def _largest(found: Mapping[float, int]) -> dict[float, int]:
    """Of limits and how many cards have each: those within `DRIFT_W` of each other that most cards have."""
    limits, first, cards, best = sorted(found), 0, 0, (0, 0, 0)
    for last, limit_w in enumerate(limits):
        cards += found[limit_w]
        while limit_w - limits[first] > DRIFT_W:
            cards -= found[limits[first]]
            first += 1
        best = max(best, (cards, first, last + 1))
    return {limit_w: found[limit_w] for limit_w in limits[best[1] : best[2]]}


@dataclass(frozen=True)
class Lowered:
    """Cards of a pool that enforce less than the `ordered_w` that they were last told: from `least_w` to `most_w`, None
    where agents say that they do, and nobody has read how much yet."""

    count: int
    ordered_w: float
    least_w: float | None
    most_w: float | None

    def text(self, pool: str) -> str:
        """What a person should know."""
        held = "" if self.least_w is None else f" {self.least_w:.0f} W,"
        if self.least_w is not None and self.most_w is not None and self.most_w - self.least_w > DRIFT_W:
            held = f" {self.least_w:.0f} to {self.most_w:.0f} W,"
        who = f"{self.count:,} GPUs of {pool} enforce" if self.count > 1 else f"1 GPU of {pool} enforces"
        return f"{who}{held} less than the {self.ordered_w:.0f} W ordered: a board's or another program's limit"


@dataclass
class PoolLimits:
    """What each pool's cards enforced when they were looked at last. Not thread-safe: the dispatcher's lock is held."""

    gpus: Mapping[str, tuple[GpuId, ...]]
    held: dict[str, PoolLimit | None] = field(default_factory=dict)
    lowered: Mapping[GpuId, float | None] = field(default_factory=dict)
    """Cards that enforce less than was ordered, with their limit in W where it was read; replaced, never changed."""

    def read(self, pools: Iterable[str], limits_w: Mapping[GpuId, float]) -> None:
        """All cards of these pools were read: this is what they enforce."""
        self.held |= {pool: limit_of(self.gpus[pool], limits_w) for pool in pools}

    def unsettled(self) -> list[str]:
        """Pools that have odd cards or no limit: they are worth another look."""
        return [pool for pool in self.gpus if (held := self.held.get(pool)) is None or held.odd]

    def settle(self, lowered: Collection[GpuId], limits_w: Mapping[GpuId, float]) -> None:
        """All limits were read, and these cards enforce less than was ordered: pools that have such cards, or had, have
        the limit that was read, which may be the lower one of them all."""
        concerned = {*lowered, *self.lowered}
        self.lowered = {gpu: limits_w.get(gpu) for gpu in lowered}
        if concerned:
            self.read([pool for pool in self.held if not concerned.isdisjoint(self.gpus[pool])], limits_w)

    def lower(self, gpus: Collection[GpuId]) -> None:
        """Agents say that these cards enforce less than was ordered, and not how much: who was not among them before is
        odd until limits are read, and so is who is no more."""
        now = {gpu: self.lowered.get(gpu) for gpu in gpus}
        self.differ(now.keys() - self.lowered.keys(), {}, lower=True)
        self.differ(self.lowered.keys() - now.keys(), {})
        self.lowered = now

    def below(self, wanted_w: Mapping[GpuId, float]) -> dict[str, Lowered]:
        """By pool: the cards that enforce less than was ordered, where that is less than what is wanted now."""
        found: dict[str, Lowered] = {}
        low = {
            gpu: watts
            for gpu, watts in self.lowered.items()
            if gpu in wanted_w and (watts is None or watts < wanted_w[gpu] - DRIFT_W)
        }
        for pool, gpus in self.gpus.items() if low else ():
            mine = [gpu for gpu in gpus if gpu in low]
            known = [watts for gpu in mine if (watts := low[gpu]) is not None]
            if mine:
                ordered_w = max(wanted_w[gpu] for gpu in mine)
                found[pool] = Lowered(len(mine), ordered_w, min(known, default=None), max(known, default=None))
        return found

    def clear(self) -> None:
        """Limits were given back: nothing is known of what is enforced now."""
        self.held.clear()
        self.lowered = {}

    def differ(self, gpus: Set[GpuId], limits_w: Mapping[GpuId, float], lower: bool = False) -> None:
        """These cards (a set: they may be half of a large fleet) enforce something else than their order since the last
        look, and `limits_w` where they are in it; `lower`: less than the others in any case."""
        for pool, held in self.held.items() if gpus else ():
            if held is None:
                continue
            rest = Span(0.0, held.cap_w) if lower else UNKNOWN
            odd = {gpu: Span(limits_w[gpu], limits_w[gpu]) if gpu in limits_w else held.odd.get(gpu, rest)
                   for gpu in self.gpus[pool] if gpu in gpus}  # fmt: skip
            if any(held.odd.get(gpu) != span for gpu, span in odd.items()):
                self.held[pool] = held.but(odd)
