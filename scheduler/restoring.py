"""Giving limits back, and knowing whether that was done.

Why that is a question: much hardware tells one number, its limit. A controller that accepts a release and does nothing
then looks like one that holds a lower limit of its own, and whoever takes our cap for the board's forgets what was
found. The two are told apart by a small step down: a card that follows it, and comes up again with the next release,
obeys, so that the limit that it stops at is not ours. One that stands still keeps our cap: its limit stays owed. The
daemon and the node agent give back by this, each the cards that it writes to itself.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace

from adapters.ports import AdapterError, GpuId, Lease, PowerActuator, Receipt
from adapters.power.receipts import failure_notes
from optimizer.reasons import Reason

SAME_W = 1.0
"""Limits closer than this are the same: drivers round."""

STEP_W = 5
"""The step down: more than any firmware rounds, and less than any work feels."""

MOST_WAIT_S = 30.0
"""Who kept a cap is tried again after 1, 2, 4, ... seconds, and at least this often."""

_MEANING = {Reason.CAP_REFUSED: "keeps its cap though it accepted the release; the limit found is kept and tried again"}


@dataclass(frozen=True, slots=True)
class _Kept:
    """A card that kept our cap: at how many W, whether it has followed a step down since, seconds to wait till then."""

    at_w: float
    followed: bool
    wait_s: float
    again_at: float


class Restorer:
    """Gives limits back, and remembers who kept a cap."""

    def __init__(self) -> None:
        self._kept: dict[GpuId, _Kept] = {}

    @property
    def kept_w(self) -> dict[GpuId, float]:
        """Cards that kept a cap though they took its release, with the limit in W that they enforce."""
        return {gpu: one.at_w for gpu, one in self._kept.items()}

    def due(self, gpu: GpuId, now: float) -> bool:
        """Whether to try this card (again)."""
        return (one := self._kept.get(gpu)) is None or now >= one.again_at

    def forget(self, gpus: Iterable[GpuId]) -> None:
        """These are capped again, or are no longer owed anything."""
        for gpu in gpus if self._kept else ():
            self._kept.pop(gpu, None)

    def restore(self, power: PowerActuator, limits_w: Mapping[GpuId, float], lease: Lease, now: float) -> Receipt:
        """Give these back. Whoever accepted that and keeps a cap has failed (CAP_REFUSED); where CAP_DRIFT is told, a
        limit that is not ours is in force, and ours was given back. Raises AdapterError."""
        receipt = power.release(limits_w) if limits_w else Receipt({})
        odd = {
            gpu: receipt.enforced_w[gpu]
            for gpu, why in receipt.failures.items()
            if why is Reason.CAP_DRIFT and gpu in limits_w and gpu in receipt.enforced_w
        }
        kept = self._keeping(power, limits_w, odd, lease, now) if odd else {}
        self.forget(gpu for gpu in limits_w if gpu in receipt.enforced_w and gpu not in kept)
        if not kept:
            return receipt
        for gpu, (at_w, followed) in kept.items():
            wait_s = min(MOST_WAIT_S, 2 * self._kept[gpu].wait_s) if gpu in self._kept else 1.0
            self._kept[gpu] = _Kept(at_w, followed, wait_s, now + wait_s)
        failures = dict.fromkeys(kept, Reason.CAP_REFUSED)
        enforced = {**receipt.enforced_w, **{gpu: at_w for gpu, (at_w, _) in kept.items()}}
        notes = receipt.notes + failure_notes(failures, _MEANING)
        return replace(receipt, enforced_w=enforced, failures={**receipt.failures, **failures}, notes=notes)

    def _keeping(
        self,
        power: PowerActuator,
        limits_w: Mapping[GpuId, float],
        odd_w: Mapping[GpuId, float],
        lease: Lease,
        now: float,
    ) -> dict[GpuId, tuple[float, bool]]:
        """Of cards that are not at the limit that they were given, those that keep a cap: where they are, and whether
        they followed a step down."""
        try:
            infos = power.discover()
            asked = {g: infos[g].limit_w for g in odd_w if g in infos}  # where limit and enforced are two numbers
            odd_w = {g: w for g, w in odd_w.items() if abs(asked.get(g, w) - limits_w[g]) > SAME_W}
            above = {g: (w, False) for g, w in odd_w.items() if w > limits_w[g]}  # no board raises a limit
            below = {g: w for g, w in odd_w.items() if g not in above}
            return above | self._unmoved(power, limits_w, below, lease)
        except AdapterError:
            return {gpu: (watts, False) for gpu, watts in odd_w.items()}

    def _stopped_at(self, gpu: GpuId, at_w: float) -> bool:
        one = self._kept.get(gpu)
        return one is not None and one.followed and abs(one.at_w - at_w) <= SAME_W

    def _unmoved(
        self, power: PowerActuator, limits_w: Mapping[GpuId, float], below_w: Mapping[GpuId, float], lease: Lease
    ) -> dict[GpuId, tuple[float, bool]]:
        """Of cards below their limit, those that don't step down and come up again. Who did the first and not the other
        is not asked again where it stopped, or it would go down with every try. Raises AdapterError."""
        before = {gpu for gpu in below_w if self._stopped_at(gpu, below_w[gpu])}
        steps = {gpu: round(watts) - STEP_W for gpu, watts in below_w.items() if gpu not in before}
        if not steps:
            return {gpu: (watts, True) for gpu, watts in below_w.items()}
        down = power.apply(steps, lease).enforced_w
        up = power.release({gpu: limits_w[gpu] for gpu in steps}).enforced_w
        kept = {gpu: (below_w[gpu], True) for gpu in before}
        for gpu in steps:
            followed = down.get(gpu, below_w[gpu]) < below_w[gpu] - SAME_W
            at_w = up.get(gpu, down.get(gpu, below_w[gpu]))  # one that was not reached again is where we brought it
            if not followed or at_w <= down[gpu] + SAME_W:
                kept[gpu] = (at_w, followed)
        return {gpu: (w, followed) for gpu, (w, followed) in kept.items() if abs(w - limits_w[gpu]) > SAME_W}
