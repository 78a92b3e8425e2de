"""The node agent's judgement: whose orders count, when a lease has ended, what to do then.

It knows nothing of markets. While the lease runs, caps are as ordered. When it ends, the trajectory handed over earlier
is followed to its end, and then every GPU is ramped, some watts a second, to the limit found before the first write.
Only a clock counts that nobody sets and no suspension stops. A replaced daemon, or an older number, is refused.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Collection, Mapping
from contextlib import suppress
from dataclasses import replace
from time import sleep
from typing import Any

from adapters.ports import AdapterError, ClockReceipt, GpuId, GpuInfo, Lease, PowerActuator, Receipt
from adapters.power.receipts import UNKNOWN_GPU, failure_notes
from adapters.power.wire import Steps
from optimizer.reasons import Note, Reason
from scheduler.agent.clocks import AgentClocks
from scheduler.agent.fencing import Fenced, fence
from scheduler.agent.limits import AgentLimits
from scheduler.agent.settings import AgentSettings
from scheduler.agent.state import AgentFiles, Held, overtaken, said_at
from scheduler.agent.trouble import Unkept, each
from scheduler.boottime import boottime
from scheduler.restoring import SAME_W

__all__ = ["AgentCore", "AgentSettings", "Fenced"]


class AgentCore:
    """Orders in, leases enforced. All methods may be called from any thread; `tick` from one, again and again."""

    def __init__(
        self,
        power: PowerActuator,
        files: AgentFiles,
        settings: AgentSettings | None = None,
        clock: Callable[[], float] = boottime,
    ) -> None:
        self._power, self._files, self._clock = power, files, clock
        self._settings = settings or AgentSettings()
        self._lock = threading.RLock()
        self._found, self._held = files.load()
        self._limits = AgentLimits(power, files, self._found, self._settings)
        self._watch = self._limits.watch
        self._clocks = AgentClocks(power, files, self._found, self._settings.drift)
        self._ticked_at = self._began = clock()
        self._heard_at = self._held.heard_at if self._held.heard_at >= 0 else self._began
        self._ordered = {gpu: cap for gpu, cap in self._held.ordered.items() if gpu in self._found.limits_w}
        self._early = self._held.early
        self._watch.order(self._due(self._began))
        theirs = {gpu: limit for gpu, limit in self._held.yielded.items() if gpu in self._found.limits_w}
        self._watch.leave(theirs, self._began)
        freed = {gpu: mhz for gpu, mhz in self._held.yielded_mhz.items() if gpu in self._found.clocks_mhz}
        self._clocks.leave(freed, self._began)
        self._stopping = False

    @property
    def outstanding(self) -> bool:
        """True while a limit has to be given back."""
        return bool(self._found.limits_w or self._found.clocks_mhz)

    # ---------------------------------------------------------------- orders
    def discover(self) -> Mapping[GpuId, GpuInfo]:
        """Every GPU that answers, read now."""
        with self._lock:
            return self._power.discover()

    def apply(self, caps_w: Mapping[GpuId, int], lease: Lease) -> Receipt:
        """Cap these GPUs and renew the lease of all. What is to be restored is on disk before anything is written."""
        with self._lock:
            self._admit(lease)
            self._succeed(lease.epoch)
            caps_w = {**self._outlasted(), **caps_w}
            why = self._remember(caps_w)
            self._renew(lease, caps_w)
            absent = {gpu: why for gpu in caps_w if gpu not in self._found.limits_w}
            known = {gpu: cap for gpu, cap in caps_w.items() if gpu not in absent} if absent else caps_w
            receipt = self._in_force_again(known, lease)
            absent |= dict.fromkeys(known.keys() & self._watch.yielded_w.keys(), Reason.CAP_YIELDED)
            notes = receipt.notes + failure_notes(absent)
            return replace(receipt, failures={**receipt.failures, **absent}, notes=notes) if absent else receipt

    def _remember(self, caps_w: Mapping[GpuId, int]) -> Reason:
        """Put what is to be restored on disk; why cards without it take no cap. A full disk keeps no card from its
        order whose limit is written down already. Unkept where that is none of these."""
        try:
            self._limits.remember(caps_w)
        except Unkept:
            if caps_w.keys().isdisjoint(self._found.limits_w):
                raise
            self._files.keep(self._found)  # told with every tick, until there is room
            return Reason.CAP_REFUSED
        return UNKNOWN_GPU

    def hold(self, steps: Steps, until_s: float, lease: Lease, age_s: float = 0.0) -> None:
        """Follow these caps from the lease's end until `until_s`, and renew the lease; seconds count from when this was
        said, `age_s` ago by the wall clocks. What waited while this node was away counts, though it may be older than
        the last renewal, unless a younger trajectory, or this very one, is followed."""
        with self._lock:
            self._admit(lease, trajectory=True)
            waited = lease.expires_in_s <= self._settings.tick_s  # in the bucket: nobody speaks now
            if waited and self._found.steps and self._found.told == (lease.epoch, lease.sequence):
                return
            now, said, last = self._clock(), (lease.epoch, lease.sequence), (self._found.epoch, self._held.sequence)
            at = said_at(now, age_s, self._held.heard_at, older=said < last)
            if said >= last:
                self._succeed(lease.epoch)
                self._renew(lease, heard_at=at)
                if not waited:
                    self._in_force_again(self._outlasted(), lease)
            self._found.follow(said, steps, at, min(at + until_s, now + self._settings.longest_hold_s), now)
            self._files.save_found(self._found)

    def lock(self, clocks_mhz: Mapping[GpuId, int], lease: Lease) -> ClockReceipt:
        """Hold these SM clocks down and renew the lease of all. That they are ours is on disk before it is done."""
        with self._lock:
            self._admit(lease)
            receipt = self._clocks.lock(clocks_mhz, lease, self._clock())
            self._succeed(lease.epoch)
            self._renew(lease)
            self._in_force_again(self._outlasted(), lease)
            return receipt

    def unlock(self, gpus: Collection[GpuId], epoch: int | None = None) -> ClockReceipt:
        """Let these SM clocks go free at once."""
        with self._lock:
            self._listen(epoch)
            return self._clocks.unlock(gpus)

    def release(self, limits_w: Mapping[GpuId, float], epoch: int | None = None) -> Receipt:
        """Give these GPUs back at once: to the limit found here, or to the one named for a GPU never capped here. When
        nothing is left to give back, lease and trajectory are over too."""
        with self._lock:
            if limits_w:
                self._listen(epoch)
            else:  # who has nothing to give back, as one that only observes, takes nothing over when it stops
                fence(epoch, self._found.epoch)
            mine = self._found.limits_w
            due = {gpu: mine.get(gpu, limit) for gpu, limit in limits_w.items()}
            receipt, done = self._limits.give_back(due, self._own_lease(), self._clock())
            told_otherwise = tuple(
                Note(Reason.CAP_DRIFT, gpu, f"{mine[gpu]:g} W was found before the first write, not {limit:g} W")
                for gpu, limit in limits_w.items()
                if gpu in mine and abs(mine[gpu] - limit) > SAME_W
            )
            self._settle(done)
            return replace(receipt, notes=receipt.notes + told_otherwise)

    def status(self) -> dict[str, Any]:
        """Phase, GPUs capped, limits to restore (W), newest epoch, seconds of lease left; `ignoring`: yielded GPUs that
        took caps and did not move; `kept_w`: GPUs that keep a cap though they accepted its release."""
        with self._lock:
            now = self._clock()
            return {
                "phase": self._phase(now),
                "caps_w": dict(self._limits.caps),
                "found_w": dict(self._found.limits_w),
                "clocks_mhz": dict(self._found.clocks_mhz),
                "epoch": self._found.epoch,
                "sequence": self._held.sequence,
                "lease_left_s": max(0.0, self._held.expires_at - now),
                "yielded_w": self._watch.yielded_w,
                "yielded_mhz": self._clocks.watch.yielded_mhz,
                "reasserted": self._watch.reasserted + self._clocks.watch.reasserted,
                "lowered": sorted(self._watch.lowered),
                "ignoring": sorted(self._watch.ignoring),
                "kept_w": self._limits.kept_w,
            }

    def take_back(self, epoch: int | None = None) -> None:
        """An operator's word: cap the GPUs again that were left to another writer."""
        with self._lock:
            self._listen(epoch)
            self._watch.take_back()
            self._clocks.watch.take_back()

    def _admit(self, lease: Lease, *, trajectory: bool = False) -> None:
        """Refuse who has been replaced or overtaken; a repeated order is obeyed again."""
        if self._stopping:
            raise AdapterError("the agent is stopping and gives the limits back; it takes no more orders")
        fence(lease.epoch, self._found.epoch)
        last = self._held.sequence
        if trajectory:
            last = self._found.told[1] if self._found.told[0] == lease.epoch else -1
        if lease.epoch == self._found.epoch and lease.sequence < last:
            raise Fenced(f"order {lease.sequence} of epoch {lease.epoch} was overtaken by {last}")

    def _listen(self, epoch: int | None) -> None:
        """Refuse who has been replaced. Whoever replaces him does so with any word, not with an order alone: a release
        that left the number as it is could be undone by the daemon of before. Who has a new number counts anew."""
        fence(epoch, self._found.epoch)
        if epoch is not None and epoch > self._found.epoch:
            self._succeed(epoch)
            self._found.epoch = epoch
            self._files.keep(self._found)
            self._keep_lease(self._held.expires_at, -1)

    def _renew(self, lease: Lease, caps_w: Mapping[GpuId, int] | None = None, heard_at: float | None = None) -> None:
        """Renew the lease of all caps, with these that were ordered (`heard_at`: then, not now); on disk for heirs.
        Where none were ordered since the machine began it is of nothing: the trajectory counts until some are. On a
        full disk a new epoch counts all the same: else a daemon that was restarted could hold no cap any more."""
        if lease.epoch > self._found.epoch:
            self._found.epoch = lease.epoch
            self._files.keep(self._found)
        now = self._clock()
        self._heard_at = now if heard_at is None else heard_at
        self._ordered.update(caps_w or {})
        some = self._ordered or self._found.clocks_mhz or self._files.torn
        lasts_s = min(lease.expires_in_s, self._settings.longest_lease_s)
        self._keep_lease(now + lasts_s if some else now, lease.sequence)

    def _keep_lease(self, expires_at: float, sequence: int) -> None:
        """Put the lease on disk, and what a successor must know to judge as we would."""
        told = (self._files.boot, self._heard_at, dict(self._ordered), self._early, *self._yielded())
        self._held = Held(expires_at, sequence, *told)
        self._files.save_lease(self._held)

    def _yielded(self) -> tuple[dict[GpuId, float], dict[GpuId, float]]:
        """Who has another writer, of limits and of clocks. Who ignores caps has none: an heir tries it anew."""
        return self._watch.theirs_w, self._clocks.watch.yielded_mhz

    def _keep_yielded(self) -> None:
        """Put on disk who was left to another writer, or is no longer: an heir must not raise a limit over it."""
        if self._yielded() != (self._held.yielded, self._held.yielded_mhz):
            self._keep_lease(self._held.expires_at, self._held.sequence)

    def _succeed(self, epoch: int) -> None:
        """A daemon that takes over has read what is in force: its word puts nothing back that one before it ordered. It
        is a word about what is in force nevertheless: a renewal that comes before its orders gives nothing back."""
        if epoch > self._found.epoch:
            leased = self._phase(self._clock()) == "leased"
            now_w = {gpu: round(cap) for gpu, cap in self._watch.wanted_w.items() if gpu in self._found.limits_w}
            before = {} if self._early else self._ordered
            self._early, self._ordered = False, {**before, **now_w} if leased else {}

    def _outlasted(self) -> dict[GpuId, int]:
        """The caps that were ordered, where the trajectory took their place though who ordered them speaks again."""
        return {gpu: cap for gpu, cap in self._ordered.items() if gpu in self._found.limits_w} if self._early else {}

    def _in_force_again(self, caps_w: Mapping[GpuId, int], lease: Lease) -> Receipt:
        """Write these, among them all that were outlasted. Cards that can't be reached now are written by the next word
        of who ordered them: a renewal is not answered, so that nobody else would know."""
        receipt = self._limits.write(caps_w, lease)
        if self._early and caps_w.keys() <= receipt.enforced_w.keys() | self._watch.yielded_w.keys():
            self._early = False
            self._keep_lease(self._held.expires_at, self._held.sequence)
        return receipt

    def _overtaken(self, now: float) -> bool:
        """See `overtaken`; after a restart of ours who commands is waited for too."""
        in_force, spoken = {**self._watch.wanted_w, **self._limits.caps}, max(self._heard_at, self._began)
        return now < self._held.expires_at and overtaken(self._found, self._heard_at, spoken, in_force, now)

    # ---------------------------------------------------------------- time
    def tick(self) -> str:
        """Enforce what time demands; returns the status line. AdapterError when the cards can't be reached now, Unkept
        when the disk takes nothing: the rest was done nevertheless, limits before clocks."""
        with self._lock:
            now = self._clock()
            seconds, self._ticked_at = now - self._ticked_at, now
            if self._overtaken(now):
                self._ordered = {gpu: round(cap) for gpu, cap in self._watch.wanted_w.items()} | self._ordered
                self._early = True
                self._keep_lease(now, self._held.sequence)
            phase, lease, acts = self._phase(now), self._own_lease(), list[Callable[[], object]]()
            if phase in {"leased", "holding"}:
                acts.append(lambda: self._limits.guard(self._due(now), lease, now))
            if phase == "holding":
                acts.append(lambda: self._follow(self._step(now)))
            if phase in {"leased", "holding"}:
                acts.append(lambda: self._clocks.keep(lease, now))
            elif phase == "releasing":
                # After a machine was suspended or a card hung, the time lost is not made up for in one step.
                acts.append(lambda: self._back(self._settings.release_w_per_s, min(seconds, 4 * self._settings.tick_s)))
            each(*acts, lambda: self._files.catch_up(self._found), self._keep_yielded)
            return self._line(self._phase(now), now)

    def _back(self, w_per_s: float, seconds: float) -> None:
        """Ramp limits and clocks for so many seconds."""
        lease, now = self._own_lease(), self._clock()
        each(lambda: self._ramp(w_per_s * seconds), lambda: self._clocks.ramp(seconds, lease, now))

    def _phase(self, now: float) -> str:
        pending = now < self._found.hold_until
        if not self.outstanding and not pending:
            return "free"
        return "leased" if now < self._held.expires_at else "holding" if pending else "releasing"

    def _line(self, phase: str, now: float) -> str:
        if phase == "free":
            return "free: no GPU is capped by Gridpace"
        ends = {"leased": self._held.expires_at, "holding": self._found.hold_until}.get(phase)
        left = f", {ends - now:.0f} s left" if ends is not None else ""
        return f"{phase}: {len(self._found.limits_w)} GPUs to give back{left}{self._kept()}"

    def _kept(self) -> str:
        """For the status line: who took a release and did not obey."""
        if not (kept := self._limits.kept_w):
            return ""
        first = next(iter(kept))
        return f"; {len(kept)} keep their cap though they accepted the release, {first} the first, at {kept[first]:g} W"

    def _step(self, now: float) -> dict[GpuId, int]:
        """The trajectory's caps for this moment; before its first step nothing changes."""
        due = [caps for at, caps in self._found.steps if at <= now]
        return due[-1] if due else {}

    def _due(self, now: float) -> dict[GpuId, int]:
        """What was ordered of each card, or is by the trajectory where that is followed."""
        due = self._step(now) if self._phase(now) == "holding" else {}
        return {gpu: due.get(gpu, cap) for gpu, cap in self._ordered.items()}

    def _follow(self, caps_w: Mapping[GpuId, int]) -> None:
        """Apply one step of the trajectory, asserted with every tick."""
        lease, found = self._own_lease(), self._found
        each(
            lambda: self._limits.remember(caps_w),
            lambda: self._limits.write({gpu: cap for gpu, cap in caps_w.items() if gpu in found.limits_w}, lease),
        )

    def _own_lease(self) -> Lease:
        return Lease(self._found.epoch, max(0, self._held.sequence), self._settings.longest_lease_s)

    def _ramp(self, most_w: float) -> None:
        self._settle(self._limits.ramp(most_w, self._own_lease(), self._clock()))

    def _settle(self, done: Collection[GpuId]) -> None:
        """These are given back; with the last of all the trajectory is over, and the lease unless clocks are locked."""
        for gpu in done:
            self._ordered.pop(gpu, None)
        locked = bool(self._found.clocks_mhz)  # whose lease this is too
        over = not self._found.limits_w and (self._found.steps or (self._held.expires_at > 0 and not locked))
        if not done and not over:
            return
        if over:
            self._found.steps, self._found.hold_until = [], 0.0
            if not locked:
                self._keep_lease(0.0, self._held.sequence)
        self._files.keep(self._found)

    def stop(self) -> str:
        """Take no more orders. What a lease or a trajectory asks for stays, for a successor (docs/decisions/0056); else
        give everything back. Returns what became of it."""
        with self._lock:
            self._stopping, now = True, self._clock()
            if (phase := self._phase(now)) in {"leased", "holding"}:
                return f"left as it is, for the next agent: {self._line(phase, now)}"
        trouble = ""
        try:
            self.give_back(hurry=True)
        except AdapterError as error:
            trouble = f"; {error}"
        if not self.outstanding:
            return f"everything is given back{trouble}"
        left = sorted(self._found.limits_w.keys() | self._found.clocks_mhz.keys())
        return f"not given back, and written down: {len(left)} GPUs, {left[0]} the first{self._kept()}{trouble}"

    def give_back(self, hurry: bool) -> None:
        """End lease and trajectory, then give all back by the ramp; `hurry`: within what a stop may take. What is not
        back then is given back at once, or (a card that is away) stays written down. AdapterError says what went wrong
        at the end; the rest was done nevertheless."""
        stop_s, tick_s, rate = self._settings.stop_s, self._settings.tick_s, max(self._settings.release_w_per_s, SAME_W)
        with self._lock:
            self._stopping, self._found.steps, self._found.hold_until = True, [], 0.0
            self._files.keep(self._found)  # first: who is broken off here leaves a release to the next one
            self._keep_lease(0.0, self._held.sequence)
            with suppress(AdapterError):
                self._ramp(0.0)  # a process that has written nothing yet knows no cap
            whole_s = self._limits.ramp_s(rate)
            with suppress(AdapterError):
                whole_s = max(whole_s, self._clocks.ramp_s())
        speed = max(1.0, whole_s / max(stop_s / 2, 0.1)) if hurry else 1.0
        ends = self._clock() + stop_s + (0.0 if hurry else whole_s)
        while self.outstanding and self._clock() < ends:
            sleep(tick_s)
            with self._lock, suppress(AdapterError):
                self._back(rate, speed * tick_s)
        with self._lock:
            left, lease, now = dict(self._found.limits_w), self._own_lease(), self._clock()
            each(
                lambda: self._settle(self._limits.give_back(left, lease, now)[1]),
                lambda: self._clocks.unlock(tuple(self._found.clocks_mhz)),
                lambda: self._files.catch_up(self._found),
            )
