"""The node agent's hold on power limits: written down before a cap, looked after, and ramped back.

Why apart from `core`: whose order counts, and for how long, is one question; what a card is at, what is owed to it and
whether it was given back is another.
"""

from __future__ import annotations

import logging
from collections.abc import Collection, Mapping
from dataclasses import replace

from adapters.ports import GpuId, GpuInfo, Lease, LimitReader, PowerActuator, Receipt
from optimizer.reasons import Reason
from scheduler.agent.settings import AgentSettings
from scheduler.agent.state import AgentFiles, Found, first_of
from scheduler.capwatch import CapWatch
from scheduler.restoring import SAME_W, Restorer

_log = logging.getLogger("gridpace.agent")


class AgentLimits:
    """Power limits of this node, in `found` and on disk. Called under the agent's lock."""

    def __init__(self, power: PowerActuator, files: AgentFiles, found: Found, settings: AgentSettings) -> None:
        self._power, self._files, self._found = power, files, found
        self._reader = power if isinstance(power, LimitReader) else None  # to ask this costs as much as a look
        self.watch = CapWatch(settings.drift)
        self.caps: dict[GpuId, float] = {}
        """What each card was brought to, by an order or on the ramp."""
        self._refused: set[GpuId] = set()
        self._ramped: set[GpuId] = set()
        self._restorer = Restorer()

    @property
    def kept_w(self) -> dict[GpuId, float]:
        """Cards that keep a cap though they took its release, with the limit in W that they enforce."""
        return self._restorer.kept_w

    def _discover(self) -> Mapping[GpuId, GpuInfo]:
        infos = self._power.discover()
        self.watch.bounds({gpu: info.min_w for gpu, info in infos.items()})
        return infos

    # ---------------------------------------------------------------- caps
    def remember(self, gpus: Collection[GpuId]) -> None:
        """Put the limits of GPUs that are capped for the first time on disk."""
        fresh = [gpu for gpu in gpus if gpu not in self._found.limits_w]
        if fresh:
            infos = self._discover()
            limits = {gpu: infos[gpu].limit_w for gpu in fresh if gpu in infos}
            if limits:
                self._files.save_found(replace(self._found, limits_w={**self._found.limits_w, **limits}))
                self._found.limits_w.update(limits)

    def write(self, caps_w: Mapping[GpuId, int], lease: Lease) -> Receipt:
        """Set caps, but those of GPUs that are left to another writer, and expect them to stay."""
        yielded = self.watch.yielded_w
        mine = {gpu: cap for gpu, cap in caps_w.items() if gpu not in yielded} if yielded else caps_w
        receipt = self._power.apply(mine, lease) if mine else Receipt({})
        self.caps.update({gpu: receipt.enforced_w[gpu] for gpu in mine if gpu in receipt.enforced_w})
        self._restorer.forget(mine)
        self._ramped.difference_update(mine)
        self.watch.order(caps_w)
        self.watch.answered(receipt.enforced_w)
        self.watch.unwritten(mine.keys() - receipt.enforced_w.keys())
        return receipt

    def guard(self, ordered_w: Mapping[GpuId, float], lease: Lease, now: float) -> None:
        """Look at every cap that is to be in force; one that came back raised is set again, or yielded. A card whose
        last write failed is held to what was ordered of it. Where nobody knows what that was (a lease that could not be
        read), the limits in force are taken for it, until the daemon says otherwise."""
        unknown = self._found.limits_w.keys() - self.watch.wanted_w.keys()
        if unknown or not self.watch.bounded:
            infos = self._discover()
            self.watch.order({gpu: ordered_w.get(gpu, infos[gpu].limit_w) for gpu in unknown if gpu in infos})
        if self._ramped:
            self._down_again(lease)
        judged = self.watch.judge(self._enforced(), now)
        if judged.yielded:
            self._log_yielded(judged.yielded.keys())
        if judged.again:
            receipt = self.write({gpu: round(self.watch.wanted_w[gpu]) for gpu in judged.again}, lease)
            self._log_raised(judged.again.keys() & receipt.enforced_w.keys(), receipt.failures)

    def _down_again(self, lease: Lease) -> None:
        """Who ordered speaks again in the middle of our way back: nobody else raised these. One that can't be written
        now is still ours to bring down; one below its cap was lowered by somebody."""
        wanted, was = self.watch.wanted_w, self._enforced()
        mine = self._ramped & wanted.keys()
        back = {gpu: round(wanted[gpu]) for gpu in mine if was.get(gpu, 0.0) > wanted[gpu]}
        receipt = self.write(back, lease)
        self._ramped = {gpu for gpu in mine if gpu not in was} | (back.keys() - receipt.enforced_w.keys())

    def _log_yielded(self, gpus: Collection[GpuId]) -> None:
        """Cards that are left alone since now, and why."""
        ignoring = self.watch.ignoring.intersection(gpus)
        if ignoring:
            _log.error("%d GPUs take their caps and ignore them, %s the first", *first_of(ignoring))
        if others := set(gpus) - ignoring:
            _log.error("%d GPUs have another writer and are left to it, %s the first", *first_of(others))

    def _log_raised(self, again: Collection[GpuId], refused: Mapping[GpuId, Reason]) -> None:
        """Caps that were set again, and (once, not with every try) those that could not be."""
        if again:
            _log.warning("%d caps came back raised and were set again, %s the first", *first_of(again))
        refused = {gpu: why for gpu, why in refused.items() if gpu not in again}
        if refused.keys() - self._refused:
            _log.error("%d caps came back raised and can't be set again now, %s the first", *first_of(refused))
        self._refused = set(refused)

    def _enforced(self) -> Mapping[GpuId, float]:
        """Enforced limits in W of the GPUs with a cap."""
        capped = self.watch.wanted_w
        if not capped:
            return {}
        if self._reader is not None:
            return self._reader.enforced(tuple(capped))
        return {gpu: info.enforced_w for gpu, info in self._discover().items()}

    # ---------------------------------------------------------------- the way back
    def ramp(self, most_w: float, lease: Lease, now: float) -> list[GpuId]:
        """Move every GPU towards the limit found, at most so many watts; give it back for good when it arrives. One
        that keeps its cap then begins anew, after a while. Returns those given back."""
        yielded = self.watch.yielded_w
        infos = {} if self._found.limits_w.keys() <= self.caps.keys() else self._discover()
        arrived: dict[GpuId, float] = {}
        moving: dict[GpuId, float] = {}
        for gpu, limit in self._found.limits_w.items():
            if not self._restorer.due(gpu, now):
                continue
            if gpu not in self.caps and gpu in infos:
                self.caps[gpu] = infos[gpu].limit_w
            cap = self.caps.get(gpu, limit)
            if gpu in yielded or abs(limit - cap) <= max(most_w, SAME_W):
                arrived[gpu] = limit
            else:
                moving[gpu] = cap + most_w if limit > cap else cap - most_w
        if moving:
            receipt = self._power.apply({gpu: round(cap) for gpu, cap in moving.items()}, lease)
            # A card that is away keeps its place on the ramp.
            self.caps.update({gpu: cap for gpu, cap in moving.items() if gpu in receipt.enforced_w})
            self._ramped |= moving.keys()
        return self.give_back(arrived, lease, now)[1] if arrived else []

    def ramp_s(self, w_per_s: float) -> float:
        """How long the ramp takes from here."""
        gaps_w = [abs(limit - self.caps.get(gpu, limit)) for gpu, limit in self._found.limits_w.items()]
        return max(gaps_w, default=0.0) / w_per_s

    def give_back(self, limits_w: Mapping[GpuId, float], lease: Lease, now: float) -> tuple[Receipt, list[GpuId]]:
        """Give these back at once, and forget what was read back as restored (in memory: whoever calls this sees to the
        disk). A board limit below it is not ours, so drift counts as restored; see `Restorer`. Returns the GPUs of
        which that is true."""
        before = self.kept_w
        receipt = self._restorer.restore(self._power, self._owed(limits_w), lease, now)
        kept = self.kept_w
        self.caps.update({gpu: kept[gpu] for gpu in limits_w if gpu in kept})
        if fresh := kept.keys() - before.keys():
            _log.error("%d GPUs took a release and keep their cap; tried again (%s the first)", *first_of(fresh))
        done = [gpu for gpu in limits_w if receipt.failures.get(gpu, Reason.CAP_DRIFT) is Reason.CAP_DRIFT]
        done = [gpu for gpu in done if gpu in receipt.enforced_w]
        for gpu in done:
            self.caps.pop(gpu, None)
        self.watch.forget(done)
        self._found.limits_w = {gpu: limit for gpu, limit in self._found.limits_w.items() if gpu not in done}
        return receipt, done

    def _owed(self, found_w: Mapping[GpuId, float]) -> dict[GpuId, float]:
        """What to give back: see `CapWatch.owed`."""
        if not self.watch.theirs_w.keys() & found_w.keys():
            return dict(found_w)
        return self.watch.owed(found_w, {gpu: info.limit_w for gpu, info in self._discover().items()})
