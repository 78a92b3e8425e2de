"""One conversation with NVML: cards by UUID, threads that make the calls, a deadline for every round of them.

Why threads: NVML calls block, sometimes for ever when a card falls off the bus, and ctypes lets other threads run
meanwhile. A card whose call has not returned is left alone until it does; it never holds up the others. Orders go to
all cards at once; readings are made by one thread while none of them takes long (see `adapters.hands`). Handles are
looked up by UUID, because indices change over a reboot, and again after a card was lost or the driver reloaded, which
NVML learns of only when it is shut down and opened again (see `adapters.nvml_library`).

Function names and error classes are those of the `nvidia-ml-py` package (module `pynvml`), units milliwatts and
millijoules: https://docs.nvidia.com/deploy/nvml-api/.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterable, Mapping
from contextlib import suppress
from functools import partial
from time import monotonic
from typing import Any, TypeVar, cast

import pynvml

from adapters.hands import ALONE_S, Call, Hands
from adapters.nvml_library import NVML
from adapters.ports import AdapterError, GpuId
from adapters.workers import Abandoned, Turn
from optimizer.reasons import Reason

T = TypeVar("T")
Handle = Any
"""An opaque pointer of NVML."""

MW = 1000.0
"""Milliwatts in a watt, and millijoules in a joule."""

OPENING_S = 30.0
"""Longest wait for the driver when it is opened."""

_DRIVER_GONE = (pynvml.NVML_ERROR_UNINITIALIZED, pynvml.NVML_ERROR_DRIVER_NOT_LOADED)
_REASONS: dict[int, Reason] = {
    pynvml.NVML_ERROR_NO_PERMISSION: Reason.NO_PERMISSION,
    pynvml.NVML_ERROR_GPU_IS_LOST: Reason.GPU_LOST,
    pynvml.NVML_ERROR_NOT_FOUND: Reason.GPU_LOST,
    pynvml.NVML_ERROR_UNINITIALIZED: Reason.GPU_LOST,
    pynvml.NVML_ERROR_DRIVER_NOT_LOADED: Reason.GPU_LOST,
    pynvml.NVML_ERROR_RESET_REQUIRED: Reason.GPU_LOST,
    pynvml.NVML_ERROR_TIMEOUT: Reason.CALL_TIMEOUT,
}


def reason_of(error: Exception) -> Reason:
    """What an error of NVML means in Gridpace's words; anything unexpected is a refusal."""
    return _REASONS.get(_value(error), Reason.CAP_REFUSED)


def _value(error: BaseException | None) -> int:
    """NVML's number of an error; -1: it is none of NVML's."""
    return int(getattr(error, "value", -1))


class _Card:
    """The driver's handle of one card, and the last call about it."""

    __slots__ = ("call", "handle")

    def __init__(self) -> None:
        self.handle: Handle = None
        self.call: Call[Any] | None = None


class NvmlSession:
    """Cards of this machine. No method takes longer than `deadline_s`, whatever the driver does, but for the very first
    one: a machine without persistence mode may need seconds to wake its driver."""

    def __init__(self, deadline_s: float = 3.0) -> None:
        self.deadline_s = deadline_s
        self._cards: dict[GpuId, _Card] = {}
        self._places: dict[int, Call[tuple[GpuId, Handle]]] = {}
        self._counted: Call[int] | None = None
        self._hands = Hands("nvml")
        self._round = threading.Lock()
        self._age: int | None = None
        """When NVML was opened for this session, in NVML's own count; None before the first time."""
        self._gone = False
        """Whether the driver of that time is known to be gone."""
        self._closed = False

    def find(self) -> tuple[GpuId, ...]:
        """UUIDs of the cards that answer now, in the driver's order. AdapterError: no library, no driver, no answer."""
        with self._round:
            try:
                return self._find()
            except AdapterError:
                if not self._gone:
                    raise
            return self._find()  # the driver was loaded again since NVML was opened, by this session or another

    def _find(self, patience_s: float = 0.0) -> tuple[GpuId, ...]:
        """Count the cards, then ask each place for its card: one that hangs hides none of the others, and is not asked
        again before it has answered. Either takes `patience_s` at most (0: a quarter of the deadline), but for the
        first time."""
        first = self._age is None
        patience_s = OPENING_S if first else patience_s or self.deadline_s / 4
        out = self._counted is not None and not self._counted.back
        if not out:
            self._counted = Call(self._count)
            self._hands.make([self._counted], patience_s)
        if out or self._counted is None or not self._counted.back:
            raise AdapterError(f"NVML: the driver did not say within {patience_s:g} s how many GPUs there are")
        error = self._counted.error
        if error is not None:
            self._gone = self._gone or _value(error) in _DRIVER_GONE
            raise AdapterError(_instruction(error, first)) from error
        free = [at for at in range(self._counted.result or 0) if at not in self._places or self._places[at].back]
        asked = [Call(partial(_identify, at)) for at in free]
        self._places.update(zip(free, asked, strict=True))
        self._hands.make(asked, self.deadline_s if first else patience_s, ALONE_S)
        found = [call.result for call in asked if call.back and call.result is not None]
        for gpu, handle in found:
            self._cards.setdefault(gpu, _Card()).handle = handle
        return tuple(gpu for gpu, _ in found)

    def _count(self) -> int:
        if not self._open:
            if self._age is not None:
                NVML.let_go(self._age)
            for card in tuple(self._cards.values()):
                card.handle = None
            self._age, self._gone = NVML.open(), False
            if self._closed:  # meanwhile
                NVML.close(self._age)
        return int(pynvml.nvmlDeviceGetCount())

    @property
    def _open(self) -> bool:
        return self._age == NVML.age and not self._gone

    def each(
        self, gpus: Iterable[GpuId], call: Callable[[GpuId, Handle, Turn], T]
    ) -> tuple[dict[GpuId, T], dict[GpuId, Reason]]:
        """Run `call(gpu, handle, turn)` on all these cards at once; results, and a reason for each that has none."""
        return self._each(gpus, call, 0.0)

    def look(
        self, gpus: Iterable[GpuId], call: Callable[[GpuId, Handle, Turn], T]
    ) -> tuple[dict[GpuId, T], dict[GpuId, Reason]]:
        """The same for calls that only read, and take no time as a rule: the cards take turns while that is so."""
        return self._each(gpus, call, ALONE_S)

    def _each(
        self, gpus: Iterable[GpuId], call: Callable[[GpuId, Handle, Turn], T], alone_s: float
    ) -> tuple[dict[GpuId, T], dict[GpuId, Reason]]:
        with self._round:
            wanted, ends = list(gpus), monotonic() + self.deadline_s
            if not self._open or any(gpu not in self._cards for gpu in wanted):
                self._find()
            turn = Turn(self.deadline_s / 2)
            calls, failures = self._made(wanted, call, turn, self.deadline_s / 2, alone_s)
            gone = [gpu for gpu, made in calls.items() if made.back and _value(made.error) in _DRIVER_GONE]
            if gone:
                alone = sum(made.back for made in calls.values()) > len(gone) or len(gone) < min(2, len(self._cards))
                self._gone = self._gone or not alone
                again, lost = self._once_more(gone, call, max(0.001, (ends - monotonic()) / 4), alone_s)
                calls, failures = calls | again, failures | lost
        return self._sorted_out(calls, failures)

    def _once_more(
        self, gpus: list[GpuId], call: Callable[[GpuId, Handle, Turn], T], patience_s: float, alone_s: float
    ) -> tuple[dict[GpuId, Call[T]], dict[GpuId, Reason]]:
        """The driver was loaded again, it seems: open it anew and ask again, in four steps of `patience_s`. What one
        card alone says is not enough for that, since who shuts NVML down may lose the limits of all: the driver is
        asked how many there are. No calls where it does not answer; the next round opens it then."""
        if not self._gone:
            with suppress(AdapterError):
                self._find(patience_s)
        if self._gone:
            try:
                self._find(patience_s)
            except AdapterError:
                return {}, {}
        return self._made(gpus, call, Turn(patience_s), patience_s, alone_s)

    def _made(
        self,
        gpus: list[GpuId],
        call: Callable[[GpuId, Handle, Turn], T],
        turn: Turn,
        seconds: float,
        alone_s: float,
    ) -> tuple[dict[GpuId, Call[T]], dict[GpuId, Reason]]:
        """Calls about these cards, waited for; a reason for each that can't be asked."""
        failures: dict[GpuId, Reason] = {}
        calls: dict[GpuId, Call[T]] = {}
        for gpu in gpus:
            card = self._cards.get(gpu)
            if card is None:
                failures[gpu] = Reason.GPU_LOST
            elif card.call is not None and not card.call.back:
                failures[gpu] = Reason.CALL_TIMEOUT
            else:
                card.call = calls[gpu] = Call(partial(_about, card, gpu, call, turn))
        self._hands.make(list(calls.values()), seconds, alone_s)
        return calls, failures

    def _sorted_out(
        self, calls: Mapping[GpuId, Call[T]], failures: dict[GpuId, Reason]
    ) -> tuple[dict[GpuId, T], dict[GpuId, Reason]]:
        results: dict[GpuId, T] = {}
        for gpu, call in calls.items():
            error = call.error if call.back else Abandoned()
            if error is None:
                results[gpu] = cast("T", call.result)
            elif isinstance(error, Abandoned):
                failures[gpu] = Reason.CALL_TIMEOUT
            elif isinstance(error, pynvml.NVMLError):
                failures[gpu] = reason_of(error)
            else:
                raise error
        return results, failures

    def close(self) -> None:
        """End the threads (one that hangs when its call returns) and let NVML go."""
        with self._round:
            if self._age is not None:
                self._hands.make([Call(partial(NVML.close, self._age))], self.deadline_s)
            self._hands.stop()
            self._cards.clear()
            self._places.clear()
            self._age, self._closed = None, True


def _identify(index: int) -> tuple[GpuId, Handle]:
    """The card at a place."""
    handle = pynvml.nvmlDeviceGetHandleByIndex(index)
    return str(pynvml.nvmlDeviceGetUUID(handle)), handle


def _about(card: _Card, gpu: GpuId, call: Callable[[GpuId, Handle, Turn], T], turn: Turn) -> T:
    """One call about a card. Its handle is looked up again after it was lost."""
    if card.handle is None:
        card.handle = pynvml.nvmlDeviceGetHandleByUUID(gpu)
    try:
        return call(gpu, card.handle, turn)
    except pynvml.NVMLError as error:
        if reason_of(error) is Reason.GPU_LOST:
            card.handle = None
        raise


def _instruction(error: BaseException, first: bool) -> str:
    """What the operator should do about it; `first`: NVML was never open."""
    value = _value(error)
    if value == pynvml.NVML_ERROR_LIBRARY_NOT_FOUND:
        return (
            "NVML: libnvidia-ml.so.1 was not found. Install the NVIDIA driver on this machine (`nvidia-smi` must work) "
            "or choose another `power` in the config; nothing is simulated in its place"
        )
    if value == pynvml.NVML_ERROR_DRIVER_NOT_LOADED:
        return "NVML: the NVIDIA driver is not loaded (`nvidia-smi` must work; try `modprobe nvidia`)"
    if value == pynvml.NVML_ERROR_LIB_RM_VERSION_MISMATCH:
        text = "NVML: its library and the loaded driver are of different versions"
        return (
            f"{text} (reload the driver, or reboot)" if first else f"{text} since an upgrade; start this process again"
        )
    if value == pynvml.NVML_ERROR_NO_PERMISSION:
        return "NVML: no permission to talk to the driver; run as root or allow /dev/nvidia* to this user"
    return f"NVML: {error}"


def optional(call: Callable[[], T], default: T) -> T:
    """The result of a call that some cards do not support; `default` for those."""
    try:
        return call()
    except (pynvml.NVMLError_NotSupported, pynvml.NVMLError_FunctionNotFound):
        return default


def utilisation(handle: Handle) -> float | None:
    """Share of the last sample period (a sixth of a second to one) in which a kernel ran, 0..1; None for cards that
    don't tell, such as those cut into MIG instances."""
    return optional(lambda: float(pynvml.nvmlDeviceGetUtilizationRates(handle).gpu) / 100.0, None)
