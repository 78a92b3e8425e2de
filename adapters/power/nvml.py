"""GPU power through NVIDIA's own library, in parallel over the cards of this machine.

What is trusted is the *enforced* limit read back, not the one requested: a board controller's lower limit wins
silently, a driver reload puts the default back, another program may write too. An order that is already in force is
not written again, so that renewing a lease costs one read a card. A card in MIG mode is capped as a whole: its
instances have no limit of their own. Setting needs root (CAP_SYS_ADMIN).
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import replace
from time import monotonic, perf_counter

import pynvml

from adapters.nvml_session import MW, Handle, NvmlSession, optional, utilisation
from adapters.ports import AdapterError, ClockReceipt, GpuId, GpuInfo, Lease, Receipt
from adapters.power.nvml_clocks import NO_RANGE, clock_range, lock_clocks, read_clocks, unlock_clocks
from adapters.power.receipts import clamp_notes, failure_notes
from adapters.workers import Turn
from optimizer.reasons import Note, Reason, Severity

DRIFT_MW = 1000
"""Limits closer than a watt are the same: drivers round."""


FIND_S = 5.0
"""How old the knowledge of which cards there are may be while all of them answer."""


class _Set:
    """What became of one order on one card, in milliwatts."""

    def __init__(self, ordered: int, allowed: int, found: int, enforced: int) -> None:
        self.ordered, self.allowed, self.found, self.enforced = ordered, allowed, found, enforced


class NvmlPower:
    """`PowerActuator` over NVML. No call takes longer than `deadline_s` seconds, whatever a card does."""

    def __init__(self, deadline_s: float = 3.0, session: NvmlSession | None = None) -> None:
        self.session = session or NvmlSession(deadline_s)
        self._set_mw: dict[GpuId, int] = {}
        self._clocks: dict[GpuId, tuple[int, int]] = {}
        self._without_persistence: set[GpuId] = set()
        self._said: set[GpuId] = set()
        self._known: dict[GpuId, GpuInfo] = {}
        self._found_at, self._most = float("-inf"), 0

    def discover(self) -> Mapping[GpuId, GpuInfo]:
        """Every card that answers now, by UUID. AdapterError (with what to do) without library, driver or any card.

        Which cards there are, and what of them does not change from second to second, is asked every FIND_S, and always
        while one that was there before is missing.
        """
        if monotonic() - self._found_at < FIND_S and len(self._known) == self._most > 0:
            infos, failures = self.session.look(self._known, self._fresh)
            if not failures:
                return infos
        self._known = {}  # whatever goes wrong below, the next call looks for all again
        self._known = found = self._find()
        self._found_at, self._most = monotonic(), max(self._most, len(found))
        return found

    def _fresh(self, gpu: GpuId, handle: Handle, _turn: Turn) -> GpuInfo:
        """A card that is known, with what changes from second to second."""
        return replace(
            self._known[gpu],
            limit_w=pynvml.nvmlDeviceGetPowerManagementLimit(handle) / MW,
            enforced_w=pynvml.nvmlDeviceGetEnforcedPowerLimit(handle) / MW,
            draw_w=pynvml.nvmlDeviceGetPowerUsage(handle) / MW,
            utilisation=utilisation(handle),
        )

    def _find(self) -> dict[GpuId, GpuInfo]:
        infos, _ = self.session.look(self.session.find(), _info)
        self._without_persistence = {gpu for gpu, info in infos.items() if not info.persistence}
        new = infos.keys() - self._clocks.keys()
        self._clocks.update(self.session.look(new, clock_range)[0] if new else {})
        return {gpu: _with_clocks(info, *self._clocks.get(gpu, NO_RANGE)) for gpu, info in infos.items()}

    def apply(self, caps_w: Mapping[GpuId, int], lease: Lease) -> Receipt:
        """Set these limits on all cards at once, each clamped to its own range, and read back what is enforced.

        The lease is enforced by the node agent, which owns this object; alone it has nobody to outlive.
        """
        return self._order(caps_w, ours=True)

    def release(self, limits_w: Mapping[GpuId, float]) -> Receipt:
        """Give these limits back, to the milliwatt, and read back what is enforced."""
        return self._order(limits_w, ours=False)

    def enforced(self, gpus: Collection[GpuId]) -> Mapping[GpuId, float]:
        """Enforced limit in W of each of these cards that answers, read now: one call a card. AdapterError when none
        does."""
        limits, failures = self.session.look(gpus, _enforced)
        if failures and not limits:
            raise AdapterError(f"NVML: none of {len(failures)} GPUs tells its limit ({next(iter(failures.values()))})")
        return limits

    def lock(self, clocks_mhz: Mapping[GpuId, int], lease: Lease) -> ClockReceipt:
        """Lock these SM clocks at most, all cards at once, and read them back; needs root."""
        orders = dict(clocks_mhz)
        if new := orders.keys() - self._clocks.keys():
            self._clocks.update(self.session.look(new, clock_range)[0])
        return lock_clocks(self.session, orders, self._clocks)

    def unlock(self, gpus: Collection[GpuId]) -> ClockReceipt:
        """Reset the locked clocks of these cards."""
        return unlock_clocks(self.session, gpus)

    def clocks(self, gpus: Collection[GpuId]) -> Mapping[GpuId, int]:
        """The SM clocks that run now."""
        return read_clocks(self.session, gpus)

    def describe(self) -> tuple[Note, ...]:
        """What an operator should know about this machine's cards: those without persistence mode."""
        return tuple(_persistence_note(gpu) for gpu in sorted(self._without_persistence))

    def close(self) -> None:
        """Let NVML go; the limits stay as they are."""
        self.session.close()

    def _order(self, limits_w: Mapping[GpuId, float], ours: bool) -> Receipt:
        """Set limits; `ours` are remembered, so that a change by somebody else is noticed at the next order."""
        started = perf_counter()

        def order(gpu: GpuId, handle: Handle, turn: Turn) -> _Set:
            return _set(handle, round(limits_w[gpu] * MW), turn)

        done, failures = self.session.each(limits_w, order)
        notes = clamp_notes((gpu, one.ordered / MW, one.allowed / MW) for gpu, one in done.items() if _clamped(one))
        for gpu, one in done.items():
            if abs(one.enforced - one.allowed) > DRIFT_MW:
                failures[gpu] = Reason.CAP_DRIFT
            notes += self._moved(gpu, one)
        for gpu in limits_w:
            self._set_mw.pop(gpu, None)
        self._set_mw.update({gpu: one.allowed for gpu, one in done.items()} if ours else {})
        unsaid = (self._without_persistence & limits_w.keys()) - self._said
        self._said |= unsaid
        notes += tuple(_persistence_note(gpu) for gpu in sorted(unsaid)) + failure_notes(failures)
        enforced_w = {gpu: one.enforced / MW for gpu, one in done.items()}
        return Receipt(enforced_w, failures, notes, perf_counter() - started)

    def _moved(self, gpu: GpuId, one: _Set) -> tuple[Note, ...]:
        """A note when the limit found is not the one that we had set: somebody or something else changed it."""
        ours = self._set_mw.get(gpu)
        if ours is None or abs(one.found - ours) <= DRIFT_MW:
            return ()
        text = f"the limit was {one.found / MW:g} W where {ours / MW:g} W had been set; {one.allowed / MW:g} W set now"
        return (Note(Reason.CAP_DRIFT, gpu, text),)


def _set(handle: Handle, ordered: int, turn: Turn) -> _Set:
    """Bring one card to a limit (mW) and read it back; writes only where the limit requested is another."""
    low, high = pynvml.nvmlDeviceGetPowerManagementLimitConstraints(handle)
    allowed = min(max(ordered, low), high)
    found = int(pynvml.nvmlDeviceGetPowerManagementLimit(handle))
    if found != allowed:
        turn.check()
        pynvml.nvmlDeviceSetPowerManagementLimit(handle, allowed)
    return _Set(ordered, allowed, found, int(pynvml.nvmlDeviceGetEnforcedPowerLimit(handle)))


def _with_clocks(info: GpuInfo, low_mhz: int, high_mhz: int) -> GpuInfo:
    return replace(info, min_clock_mhz=low_mhz, max_clock_mhz=high_mhz)


def _enforced(_gpu: GpuId, handle: Handle, _turn: Turn) -> float:
    return float(pynvml.nvmlDeviceGetEnforcedPowerLimit(handle)) / MW


def _clamped(one: _Set) -> bool:
    return one.ordered != one.allowed


def _info(gpu: GpuId, handle: Handle, turn: Turn) -> GpuInfo:
    """Everything about one card; watts from milliwatts."""
    low, high = pynvml.nvmlDeviceGetPowerManagementLimitConstraints(handle)
    on = pynvml.NVML_FEATURE_ENABLED
    return GpuInfo(
        id=gpu,
        model=str(pynvml.nvmlDeviceGetName(handle)),
        min_w=low / MW,
        max_w=high / MW,
        default_w=pynvml.nvmlDeviceGetPowerManagementDefaultLimit(handle) / MW,
        limit_w=pynvml.nvmlDeviceGetPowerManagementLimit(handle) / MW,
        enforced_w=pynvml.nvmlDeviceGetEnforcedPowerLimit(handle) / MW,
        draw_w=pynvml.nvmlDeviceGetPowerUsage(handle) / MW,
        persistence=optional(lambda: pynvml.nvmlDeviceGetPersistenceMode(handle), on) == on,
        mig=optional(lambda: pynvml.nvmlDeviceGetMigMode(handle)[0], 0) == 1,
        utilisation=utilisation(handle),
    )


def _persistence_note(gpu: GpuId) -> Note:
    text = "persistence mode is off: the cap is lost whenever no program uses the GPU; run `nvidia-smi -pm 1`"
    return Note(Reason.PERSISTENCE_OFF, gpu, text, Severity.WARNING)
