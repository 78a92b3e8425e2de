"""GPU power of AMD cards of this machine through AMD's own library (`amdsmi`), in parallel over the cards.

Why such an import: without the driver's library the package raises KeyError and prints; that becomes one sentence that
says what to do. Caps are in microwatts there. Some cards tell 0 W as their lowest cap, and on some a cap below the
present power state switches the limiter off altogether (https://github.com/ilya-zlobintsev/LACT/issues/207), which
nothing that can be read back shows: so such a card is not touched until the config says how low one may go.

Functions are those of AMD SMI's Python interface: https://rocm.docs.amd.com/projects/amdsmi/en/latest/.
"""

from __future__ import annotations

import importlib
import io
import threading
from collections.abc import Callable, Collection, Mapping
from contextlib import redirect_stdout, suppress
from datetime import timedelta
from time import perf_counter
from types import ModuleType
from typing import Any, Literal, TypeVar

from pydantic import Field

from adapters.context import AdapterContext
from adapters.fields import AdapterConfig, Duration
from adapters.ports import AdapterError, GpuId, GpuInfo, Lease, Receipt
from adapters.power.orders import CardError, OrderBook, Setting, inside
from adapters.power.servers import nothing
from adapters.registry import MissingExtra
from adapters.workers import Crew, Turn, Worker
from optimizer.reasons import Reason

T = TypeVar("T")
UW = 1e6
"""Microwatts in a watt."""
MOST_W = 60_000
"""Readings from here on are the library's ways to say that there is none (all bits set, in 16, 32 or 64 of them)."""
SENSOR = 0
NOT_SUPPORTED, TIMEOUT, NO_PERMISSION, NOT_FOUND, NOT_INIT, NO_DRIVER = 2, 8, 10, 31, 32, 34
_REASONS = {
    TIMEOUT: Reason.CALL_TIMEOUT,
    NO_PERMISSION: Reason.NO_PERMISSION,
    NOT_FOUND: Reason.GPU_LOST,
    NOT_INIT: Reason.GPU_LOST,
    NO_DRIVER: Reason.GPU_LOST,
}
HOW = "install the amdsmi package of this machine's ROCm (pip install /opt/rocm/share/amd_smi)"


class AmdConfig(AdapterConfig):
    """AMD GPUs of this machine, through AMD SMI (setting needs root)."""

    type: Literal["amdsmi"] = Field(description="AMD GPUs of this machine, through AMD SMI.", examples=["amdsmi"])
    min_w: float | None = Field(
        default=None,
        gt=0,
        description="Lowest limit that may be set, in W. Needed where a card tells 0; otherwise the higher of both.",
        examples=[400],
    )
    call_timeout: Duration = Field(
        default=timedelta(seconds=3),
        description="How long one call of the driver may take before its GPU counts as lost.",
        examples=["3s"],
    )


class AmdPower:
    """`PowerActuator` and `LimitReader` over AMD SMI. No call takes longer than about `call_timeout`, whatever a card
    does."""

    Config = AmdConfig

    def __init__(self, config: AmdConfig, context: AdapterContext) -> None:
        self._config = config
        self._deadline_s = config.call_timeout.total_seconds()
        self._smi = load()
        self._door, self._finding = Worker("amdsmi"), threading.Lock()
        self._crew: Crew[GpuId] = Crew("amdsmi")
        self._handles: dict[GpuId, Any] = {}
        self._open = False
        self._book = OrderBook()

    def discover(self) -> Mapping[GpuId, GpuInfo]:
        """Every card that answers now, by UUID. AdapterError without driver or any card that can be limited."""
        handles = self._there()
        answers = self._crew.each(handles, lambda gpu, _: self._info(gpu, handles[gpu]), self._deadline_s)
        infos = {gpu: answer for gpu, answer in answers.items() if isinstance(answer, GpuInfo)}
        if not infos:
            said = [f"{gpu}: {error}" for gpu, error in answers.items() if isinstance(error, Exception)]
            raise AdapterError(f"AMD SMI: no GPU that can be limited answers ({'; '.join(said[:3]) or 'none there'})")
        return infos

    def apply(self, caps_w: Mapping[GpuId, int], lease: Lease) -> Receipt:
        """Set these limits on all cards at once, each clamped to its range, and read them back. The lease is the node
        agent's to keep."""
        return self._order(caps_w, ours=True)

    def release(self, limits_w: Mapping[GpuId, float]) -> Receipt:
        """Give these limits back, to the microwatt, and read them back."""
        return self._order(limits_w, ours=False)

    def enforced(self, gpus: Collection[GpuId]) -> Mapping[GpuId, float]:
        """Cap in W of each of these cards that answers, read now: one call a card. AdapterError when none does."""
        known = self._known(gpus)
        done = self._crew.each(known, lambda gpu, _: self._cap(known[gpu])["power_cap"] / UW, self._deadline_s)
        self._look_again(done)
        limits = {gpu: limit_w for gpu, limit_w in done.items() if isinstance(limit_w, float)}
        if gpus and not limits:
            raise nothing("AMD SMI", (), done.values())
        return limits

    def close(self) -> None:
        """Let the library go; the limits stay as they are."""
        self._crew.stop()
        self._door.stop()
        if self._open:
            self._open = False
            with suppress(CardError):  # a driver that is gone has nothing to shut down
                self._call(self._smi.amdsmi_shut_down)

    # ---------------------------------------------------------------- orders
    def _order(self, limits_w: Mapping[GpuId, float], ours: bool) -> Receipt:
        started = perf_counter()
        known = self._known(limits_w)

        def order(gpu: GpuId, turn: Turn) -> Setting:
            return self._set(gpu, known[gpu], limits_w[gpu], ours, turn)

        done = self._crew.each(known, order, self._deadline_s)
        self._look_again(done)
        return self._book.receipt(limits_w, done, ours, started)

    def _set(self, gpu: GpuId, handle: Any, ordered_w: float, ours: bool, turn: Turn) -> Setting:
        """Bring one card to a limit and read it back; writes only where another limit holds. What is given back was
        found on the card, so that the config's own lowest does not count then, nor any range where it holds anyway."""
        found = self._cap(handle)
        low_w, high_w = self._range(gpu, found) if ours else (found["min_power_cap"] / UW, found["max_power_cap"] / UW)
        holds = not ours and found["power_cap"] == round(ordered_w * UW)
        allowed_w = ordered_w if holds else inside(ordered_w, low_w, high_w)
        cap = round(allowed_w * UW)
        if found["power_cap"] != cap:
            turn.check()
            self._call(self._smi.amdsmi_set_power_cap, handle, SENSOR, cap)
            enforced = self._cap(handle)["power_cap"]
        else:
            enforced = cap
        return Setting(ordered_w, allowed_w, found["power_cap"] / UW, enforced / UW)

    # ---------------------------------------------------------------- looking
    def _there(self) -> dict[GpuId, Any]:
        """All cards that are there now. Two threads that ask take turns."""
        with self._finding:
            self._handles = handles = self._door.answer(self._find, self._deadline_s, "AMD SMI")
        return handles

    def _known(self, gpus: Collection[GpuId]) -> dict[GpuId, Any]:
        """Those of these cards that are there."""
        handles = self._handles
        if any(gpu not in handles for gpu in gpus):
            handles = self._there()
        return {gpu: handles[gpu] for gpu in gpus if gpu in handles}

    def _look_again(self, done: Mapping[GpuId, object]) -> None:
        """Look for all cards anew with the next call, where one was lost."""
        if any(isinstance(one, CardError) and one.reason is Reason.GPU_LOST for one in done.values()):
            self._handles = {}

    def _cap(self, handle: Any) -> dict[str, Any]:
        """A card's cap and the range of it, in microwatts."""
        return self._call(self._smi.amdsmi_get_power_cap_info, handle)

    def _find(self) -> dict[GpuId, Any]:
        """The cards by UUID. Partitions of a card have no limit of their own and are left out."""
        if not self._open:
            self._call(self._smi.amdsmi_init)
            self._open = True
        try:
            handles = self._call(self._smi.amdsmi_get_processor_handles)
        except CardError as error:  # a driver that was loaded anew; what is open already would not be opened again
            if error.reason is not Reason.GPU_LOST:
                raise
            self._open = False
            with suppress(CardError):
                self._call(self._smi.amdsmi_shut_down)
            self._call(self._smi.amdsmi_init)
            self._open = True
            handles = self._call(self._smi.amdsmi_get_processor_handles)
        found: dict[GpuId, Any] = {}
        for handle in handles:
            try:
                found[str(self._call(self._smi.amdsmi_get_gpu_device_uuid, handle))] = handle
            except CardError:
                continue  # a card that has fallen off has no name any more
        return found

    def _info(self, gpu: GpuId, handle: Any) -> GpuInfo:
        cap = self._cap(handle)
        low_w, high_w = self._range(gpu, cap)
        limit_w = cap["power_cap"] / UW
        asic = self._call(self._smi.amdsmi_get_gpu_asic_info, handle)
        return GpuInfo(
            id=gpu,
            model=str(asic.get("market_name", "AMD GPU")),
            min_w=low_w,
            max_w=high_w,
            default_w=cap["default_power_cap"] / UW,
            limit_w=limit_w,
            enforced_w=limit_w,
            draw_w=self._draw(handle),
            utilisation=self._busy(handle),
        )

    def _range(self, gpu: GpuId, cap: Mapping[str, Any]) -> tuple[float, float]:
        low_w = max(cap["min_power_cap"] / UW, self._config.min_w or 0.0)
        high_w = cap["max_power_cap"] / UW
        if low_w <= 0 or low_w > high_w:
            text = (
                f"tells limits from {cap['min_power_cap'] / UW:g} to {high_w:g} W; set `min_w` to the lowest that holds"
            )
            raise CardError(f"{gpu}: {text}", Reason.CAP_REFUSED)
        return low_w, high_w

    def _draw(self, handle: Any) -> float:
        """Power now in W: MI300 and later tell the present, older cards an average."""
        told = self._call(self._smi.amdsmi_get_power_info, handle)
        for name in ("socket_power", "current_socket_power", "average_socket_power"):
            value = told.get(name)
            if isinstance(value, int | float) and 0 < value < MOST_W:
                return float(value)
        raise CardError("tells no power", Reason.GPU_LOST)

    def _busy(self, handle: Any) -> float | None:
        try:
            percent = self._call(self._smi.amdsmi_get_gpu_activity, handle).get("gfx_activity")
        except CardError:
            return None
        return percent / 100.0 if isinstance(percent, int | float) and 0 <= percent <= 100 else None

    def _call(self, function: Callable[..., T], *arguments: Any) -> T:
        """One call of the library; its errors as CardErrors."""
        try:
            return function(*arguments)
        except self._smi.AmdSmiLibraryException as error:
            code = error.get_error_code()
            text = f"AMD SMI: {error.get_error_info()}{'; run as root' if code == NO_PERMISSION else ''}"
            raise CardError(text, _REASONS.get(code, Reason.CAP_REFUSED)) from error
        except self._smi.AmdSmiException as error:
            raise CardError(f"AMD SMI: {error}", Reason.CAP_REFUSED) from error


def load() -> ModuleType:
    """The library's Python interface. AdapterError, with what to do, when it or the driver's library is missing."""
    printed = io.StringIO()
    try:
        with redirect_stdout(printed):
            return importlib.import_module("amdsmi")
    except ModuleNotFoundError as error:
        raise MissingExtra(f"AMD SMI: the package {error.name} is not installed; {HOW}") from None
    except (KeyError, OSError, AttributeError) as error:
        why = printed.getvalue().strip().splitlines()
        text = why[0] if why else f"{type(error).__name__}: {error}"
        raise AdapterError(
            f"AMD SMI: the driver's library libamd_smi.so cannot be used ({text}); `amd-smi list` must work on this "
            f"machine, and the package must fit its ROCm: {HOW}"
        ) from None
