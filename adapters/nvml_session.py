"""One conversation with NVML: cards by UUID, a worker thread for each, a deadline for every round of calls.

Why threads: NVML calls block, sometimes for ever when a card falls off the bus, and ctypes lets other threads run
meanwhile. A card whose call has not returned is left alone until it does; it never holds up the others. Handles are
looked up by UUID, because indices change over a reboot, and again after a card was lost or the driver reloaded.

Function names and error classes are those of the `nvidia-ml-py` package (module `pynvml`), units milliwatts and
millijoules: https://docs.nvidia.com/deploy/nvml-api/.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterable, Mapping
from concurrent.futures import Future, wait
from typing import Any, TypeVar

import pynvml

from adapters.ports import AdapterError, GpuId
from adapters.workers import Abandoned, Turn, Worker
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
    return _REASONS.get(getattr(error, "value", -1), Reason.CAP_REFUSED)


class _Worker(Worker):
    """One card's thread, and the driver's handle of the card."""

    def __init__(self, gpu: GpuId) -> None:
        self.handle: Handle = None
        super().__init__(f"nvml-{gpu[-8:]}")


class NvmlSession:
    """Cards of this machine. No method takes longer than `deadline_s`, whatever the driver does, but for the very first
    one: a machine without persistence mode may need seconds to wake its driver."""

    def __init__(self, deadline_s: float = 3.0) -> None:
        self.deadline_s = deadline_s
        self._workers: dict[GpuId, _Worker] = {}
        self._slots: dict[int, _Worker] = {}
        self._door = _Worker("driver")
        self._round = threading.Lock()
        self._open = False

    def find(self) -> tuple[GpuId, ...]:
        """UUIDs of the cards that answer now, in the driver's order. AdapterError: no library, no driver, no answer."""
        with self._round:
            return self._find()

    def _find(self) -> tuple[GpuId, ...]:
        """Count the cards, then ask each place for its card, all at once: one that hangs hides none of the others."""
        future = self._door.submit(self._count)
        opening = not self._open
        patience_s = OPENING_S if opening else self.deadline_s / 4
        if future is None or not wait([future], patience_s).done:
            raise AdapterError(f"NVML: the driver did not say within {patience_s:g} s how many GPUs there are")
        error = future.exception()
        if error is not None:
            self._open = False
            raise AdapterError(_instruction(error)) from error
        asked = {index: self._ask(index) for index in range(future.result())}
        answers = [answer for answer in asked.values() if answer is not None]
        wait(answers, self.deadline_s if opening else self.deadline_s / 4)
        found = [answer.result() for answer in answers if answer.done() and answer.exception() is None]
        for gpu, handle in found:
            if gpu not in self._workers:
                self._workers[gpu] = _Worker(gpu)
            self._workers[gpu].handle = handle
        return tuple(gpu for gpu, _ in found)

    def _count(self) -> int:
        if not self._open:
            pynvml.nvmlInit()
            self._open = True
        return int(pynvml.nvmlDeviceGetCount())

    def _ask(self, index: int) -> Future[tuple[GpuId, Handle]] | None:
        """Ask one place for its card; None while the last question is still open."""

        def identify() -> tuple[GpuId, Handle]:
            handle = pynvml.nvmlDeviceGetHandleByIndex(index)
            return str(pynvml.nvmlDeviceGetUUID(handle)), handle

        if index not in self._slots:
            self._slots[index] = _Worker(f"slot-{index}")
        return self._slots[index].submit(identify)

    def each(
        self, gpus: Iterable[GpuId], call: Callable[[GpuId, Handle, Turn], T]
    ) -> tuple[dict[GpuId, T], dict[GpuId, Reason]]:
        """Run `call(gpu, handle, turn)` on all these cards at once; results, and a reason for each that has none."""
        with self._round:
            wanted = list(gpus)
            if not self._open or any(gpu not in self._workers for gpu in wanted):
                self._find()
            turn = Turn(self.deadline_s / 2)
            failures = {gpu: Reason.GPU_LOST for gpu in wanted if gpu not in self._workers}
            futures: dict[GpuId, Future[T]] = {}
            for gpu in wanted:
                if gpu in failures:
                    continue
                future = self._workers[gpu].submit(self._bound(gpu, call, turn))
                if future is None:
                    failures[gpu] = Reason.CALL_TIMEOUT
                else:
                    futures[gpu] = future
            wait(futures.values(), self.deadline_s / 2)
        return self._sorted_out(futures, failures)

    def _bound(self, gpu: GpuId, call: Callable[[GpuId, Handle, Turn], T], turn: Turn) -> Callable[[], T]:
        worker = self._workers[gpu]

        def run() -> T:
            if worker.handle is None:
                worker.handle = pynvml.nvmlDeviceGetHandleByUUID(gpu)
            try:
                return call(gpu, worker.handle, turn)
            except pynvml.NVMLError as error:
                if reason_of(error) is Reason.GPU_LOST:
                    worker.handle = None
                raise

        return run

    def _sorted_out(
        self, futures: Mapping[GpuId, Future[T]], failures: dict[GpuId, Reason]
    ) -> tuple[dict[GpuId, T], dict[GpuId, Reason]]:
        results: dict[GpuId, T] = {}
        for gpu, future in futures.items():
            error = future.exception() if future.done() else Abandoned()
            if error is None:
                results[gpu] = future.result()
            elif isinstance(error, Abandoned):
                failures[gpu] = Reason.CALL_TIMEOUT
            elif isinstance(error, pynvml.NVMLError):
                failures[gpu] = reason_of(error)
                self._open = self._open and getattr(error, "value", 0) not in _DRIVER_GONE
            else:
                raise error
        return results, failures

    def close(self) -> None:
        """End the workers (a hanging one when its call returns) and let NVML go."""
        with self._round:
            for worker in (*self._workers.values(), *self._slots.values(), self._door):
                worker.stop()
            self._workers.clear()
            self._slots.clear()
            if self._open:
                self._open = False
                pynvml.nvmlShutdown()


def _instruction(error: BaseException) -> str:
    """What the operator should do about it."""
    value = getattr(error, "value", -1)
    if value == pynvml.NVML_ERROR_LIBRARY_NOT_FOUND:
        return (
            "NVML: libnvidia-ml.so.1 was not found. Install the NVIDIA driver on this machine (`nvidia-smi` must work) "
            "or choose another `power` in the config; nothing is simulated in its place"
        )
    if value == pynvml.NVML_ERROR_DRIVER_NOT_LOADED:
        return "NVML: the NVIDIA driver is not loaded (`nvidia-smi` must work; try `modprobe nvidia`)"
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
