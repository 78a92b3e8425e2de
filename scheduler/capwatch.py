"""Caps that came back raised: set again some times, then left to whoever raises them.

Why not for ever: a limit that rises again and again has another owner (a tool of the site, a cluster manager, a board's
own software), and two programs that overwrite each other every second serve nobody. Once or twice it was an accident (a
driver reload, a hand at a shell) and is put right. Past that the GPU is yielded: no more writes, counted as what it
draws, until its limit has been left alone for a quiet time or an operator says so. Pure; both the daemon and the node
agent judge by it, each for the cards that it writes to itself.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field

from adapters.ports import GpuId

DRIFT_W = 1.5
"""Difference between ordered and enforced limit that counts as drift; NVML rounds to whole watts."""

NEVER = float("-inf")


@dataclass(frozen=True, slots=True)
class DriftRules:
    """How often a cap that came back raised is set again, and after how many quiet seconds the count starts anew, or a
    yielded GPU is taken back."""

    reassert: int = 3
    quiet_s: float = 900.0


@dataclass(frozen=True)
class Judgement:
    """GPUs whose cap is to be set again (with the limit found on them, W), and those that were yielded just now."""

    again: Mapping[GpuId, float] = field(default_factory=dict)
    yielded: Mapping[GpuId, float] = field(default_factory=dict)


@dataclass(slots=True)
class _Contest:
    """One GPU: how often its cap came back raised, when its limit last changed, and that limit once it is yielded; the
    limit to which somebody raised it last, and whether the one that it was yielded at is where our writes left it."""

    raised: int = 0
    changed_at: float = NEVER
    limit_w: float | None = None
    risen_w: float = NEVER
    unmoved: bool = False


class CapWatch:
    """The caps that are to be in force, and the GPUs on which somebody else sees to it that they are not."""

    def __init__(self, rules: DriftRules | None = None, slack: float = DRIFT_W) -> None:
        """`slack`: a difference that is none. Whatever counts up where it is not obeyed can be watched in its unit."""
        self.rules, self._slack = rules or DriftRules(), slack
        self._wanted: dict[GpuId, float] = {}
        self._lowest: dict[GpuId, float] = {}
        self._contests: dict[GpuId, _Contest] = {}
        self._counted: set[GpuId] = set()
        self._left_w: dict[GpuId, float] = {}  # by our last write; of those contested, the lowest limit since
        self._calm: Mapping[GpuId, float] | None = None
        self.lowered: frozenset[GpuId] = frozenset()
        """Cards that enforced less than was ordered when they were looked at last: a board controller's limit."""
        self.reasserted = 0
        """Caps set again since the start."""

    @property
    def wanted_w(self) -> Mapping[GpuId, float]:
        """The caps ordered, in W, yielded GPUs included."""
        return self._wanted

    @property
    def yielded_w(self) -> dict[GpuId, float]:
        """Yielded GPUs with the limit that somebody else holds there, in W."""
        if not self._contests:  # as good as always, and asked for in every tick
            return {}
        return {gpu: one.limit_w for gpu, one in self._contests.items() if one.limit_w is not None}

    @property
    def ignoring(self) -> frozenset[GpuId]:
        """Yielded GPUs that took the last writes and did not move at all: no other writer is needed for that."""
        return frozenset(gpu for gpu in self.yielded_w if self._contests[gpu].unmoved)

    @property
    def theirs_w(self) -> dict[GpuId, float]:
        """Yielded GPUs that do have another writer, with the limit in W that it holds there."""
        ignoring = self.ignoring
        return {gpu: watts for gpu, watts in self.yielded_w.items() if gpu not in ignoring}

    def bounds(self, lowest_w: Mapping[GpuId, float]) -> None:
        """Lowest limit that each card takes, in W: below it an order is clamped, which is no drift."""
        self._calm = None
        self._lowest.update(lowest_w)

    @property
    def bounded(self) -> bool:
        """Whether the lowest limit of each card with a cap is known."""
        return self._wanted.keys() <= self._lowest.keys()

    def order(self, caps_w: Mapping[GpuId, float]) -> None:
        """These caps are written (or, on yielded GPUs, would be)."""
        self._calm = None
        self._wanted.update(caps_w)

    def answered(self, enforced_w: Mapping[GpuId, float]) -> None:
        """What was read back right after a write. Who stays there ignores the write; another writer's limit is gone for
        that moment."""
        self._left_w.update(enforced_w)

    def forget(self, gpus: Iterable[GpuId]) -> None:
        """These GPUs are given back: nothing is expected of them."""
        for gpu in gpus:
            self._wanted.pop(gpu, None)
            self._contests.pop(gpu, None)
            self._left_w.pop(gpu, None)
            self._counted.discard(gpu)

    def unwritten(self, gpus: Iterable[GpuId]) -> None:
        """A write of these GPUs failed: what they enforce proves nothing until one succeeds. One that was to set a
        raised cap again did not, and who refuses it is no other writer: it does not count."""
        for gpu in gpus:
            self._wanted.pop(gpu, None)
            if gpu in self._counted:
                self._counted.discard(gpu)
                self.reasserted -= 1
                self._contests[gpu].raised -= 1

    def judge(self, enforced_w: Mapping[GpuId, float], now: float) -> Judgement:
        """Compare with what is enforced at `now` (monotonic seconds). A limit below the order is the more careful one
        and stays; GPUs that don't answer are judged when they do."""
        if enforced_w is self._calm:  # the very same limits under the very same orders were in order before
            return Judgement()
        raised = {
            gpu: enforced_w[gpu]
            for gpu, cap in self._wanted.items()
            if enforced_w.get(gpu, NEVER) > cap + self._slack
            and enforced_w[gpu] > self._lowest.get(gpu, 0.0) + self._slack
        }
        self.lowered = frozenset(
            gpu for gpu, cap in self._wanted.items() if enforced_w.get(gpu, cap) < cap - self._slack
        )
        self._calm = enforced_w if not raised and not self.yielded_w else None
        for gpu in self._contests.keys() & self._left_w.keys() if self._contests else ():
            self._left_w[gpu] = min(self._left_w[gpu], enforced_w.get(gpu, self._left_w[gpu]))  # some follow late
        back = self._quiet(enforced_w, now)
        yielded_before = self.yielded_w.keys()
        again = {gpu: limit for gpu, limit in raised.items() if gpu not in yielded_before}
        lost = {gpu: limit for gpu, limit in again.items() if gpu not in back and self._too_often(gpu, limit, now)}
        again = {gpu: limit for gpu, limit in again.items() if gpu not in lost}
        self.reasserted += len(again)
        self._counted = set(again)
        return Judgement(again, lost)

    def _too_often(self, gpu: GpuId, limit_w: float, now: float) -> bool:
        """Count one more time; True when the GPU is yielded by it."""
        one = self._contests.setdefault(gpu, _Contest())
        if now - one.changed_at >= self.rules.quiet_s:
            one.raised, one.risen_w = 0, NEVER
        left_w = self._left_w.get(gpu)
        if left_w is not None and limit_w > left_w + self._slack:
            one.risen_w = limit_w
        one.raised, one.changed_at = one.raised + 1, now
        if one.raised <= self.rules.reassert:
            return False
        # Where it once obeyed, and does not now, it is at a cap of ours, whoever raised it to another limit before.
        one.unmoved = left_w is not None and abs(one.risen_w - limit_w) > self._slack
        one.limit_w = limit_w
        return True

    def _quiet(self, enforced_w: Mapping[GpuId, float], now: float) -> set[GpuId]:
        """Yielded GPUs whose limit nobody touched for the quiet time are taken back, on probation: the next time that
        they come back raised they are yielded at once."""
        back = set()
        for gpu, limit_w in self.yielded_w.items():
            one, seen_w = self._contests[gpu], enforced_w.get(gpu, limit_w)
            if abs(seen_w - limit_w) > self._slack:
                one.limit_w, one.risen_w, one.changed_at, one.unmoved = seen_w, seen_w, now, False
            elif now - one.changed_at >= self.rules.quiet_s:
                one.limit_w, one.raised, one.changed_at = None, self.rules.reassert, now
                back.add(gpu)
        return back

    def leave(self, limits_w: Mapping[GpuId, float], now: float) -> None:
        """These GPUs were yielded before this watch began, with the limit that another writer holds there."""
        self._calm = None
        self._contests |= {gpu: _Contest(self.rules.reassert, now, limit, limit) for gpu, limit in limits_w.items()}

    def take_back(self) -> tuple[GpuId, ...]:
        """An operator's word: all yielded GPUs are ours again, with a clean record. Returns them."""
        mine = tuple(self.yielded_w)
        for gpu in mine:
            del self._contests[gpu]
            self._counted.discard(gpu)
        return mine

    def owed(self, found_w: Mapping[GpuId, float], limits_w: Mapping[GpuId, float]) -> dict[GpuId, float]:
        """What to give back: the limit found, but on a yielded GPU never more than the limit `limits_w` that another
        writer holds there now. It is lowered to what was found, once, and not raised. What a GPU that ignores writes is
        at may be our own cap."""
        theirs = {gpu: limits_w[gpu] for gpu in self.theirs_w if gpu in limits_w}
        return {gpu: min(found, theirs.get(gpu, found)) for gpu, found in found_w.items()}
