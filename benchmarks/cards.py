"""What the NVIDIA cards of this machine are like, and how long its driver takes to answer; nothing is written.

Discovery, limits, draw and energy counters come through the very adapters that the daemon and the agent use; then every
call that they make is timed by itself, card by card. Where no driver or no card answers that is said, and no figure is.
"""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pynvml

from adapters.meters.nvml import NvmlMeter
from adapters.nvml_session import Handle, NvmlSession, optional
from adapters.ports import AdapterError, GpuId, GpuInfo
from adapters.power.nvml import NvmlPower
from adapters.workers import Turn
from benchmarks.support.report import Figures, run, say
from scheduler.clock import WallClock

POOL = "cards"


@dataclass(frozen=True)
class Size:
    """How often each call is made on each card, and for how long draw is watched beside the energy counter."""

    calls: int = 200
    seconds: float = 20.0


FULL = Size()
QUICK = Size(calls=20, seconds=2.0)

CALLS: Mapping[str, Callable[[Handle], Any]] = {
    "draw": pynvml.nvmlDeviceGetPowerUsage,
    "energy": pynvml.nvmlDeviceGetTotalEnergyConsumption,
    "limit": pynvml.nvmlDeviceGetPowerManagementLimit,
    "enforced_limit": pynvml.nvmlDeviceGetEnforcedPowerLimit,
    "limit_range": pynvml.nvmlDeviceGetPowerManagementLimitConstraints,
    "utilisation": pynvml.nvmlDeviceGetUtilizationRates,
    "sm_clock": lambda handle: pynvml.nvmlDeviceGetClockInfo(handle, pynvml.NVML_CLOCK_SM),
}


def measure(quick: bool, _seed: int) -> Figures:
    """The figures of all cards; none where no card answers. Nothing here is random."""
    size, session = QUICK if quick else FULL, NvmlSession(10.0)
    power = NvmlPower(session=session)
    try:
        started = time.perf_counter()
        infos = power.discover()
        discover_ms = _ms(started)
        say(f"driver {pynvml.nvmlSystemGetDriverVersion()}; {len(infos)} cards found in {discover_ms:.1f} ms")
        for gpu, info in infos.items():
            say(f"  {gpu}  {described(info)}")
        figures: dict[str, Any] = {"cards": len(infos), "models": _models(infos), "discover_ms": discover_ms}
        figures |= _together(power, session, infos, size)
        return figures | _each(session, infos, size)
    except AdapterError as error:
        say(f"not measured: {error}")
        return {}
    finally:
        session.close()


def described(info: GpuInfo) -> str:
    """A card in one line."""
    clocks = f", SM clocks {info.min_clock_mhz} to {info.max_clock_mhz} MHz" if info.max_clock_mhz else ""
    modes = f"{'' if info.persistence else ', persistence mode off'}{', MIG' if info.mig else ''}"
    limits = f"limits {info.min_w:g} to {info.max_w:g} W, default {info.default_w:g}, set {info.limit_w:g}"
    return f"{info.model}: {limits}, enforced {info.enforced_w:g}; draws {info.draw_w:.1f} W{clocks}{modes}"


def _models(infos: Mapping[GpuId, GpuInfo]) -> dict[str, int]:
    return dict(Counter(info.model for info in infos.values()))


def _together(power: NvmlPower, session: NvmlSession, gpus: Collection[GpuId], size: Size) -> dict[str, Any]:
    """All cards at once, as the loops ask them: the limits in force, the meter; and draw beside the energy counter."""
    meter = NvmlMeter(WallClock(), dict.fromkeys(gpus, POOL), session=session)
    look_ms = _timed(lambda: power.enforced(gpus), size.calls)
    read_ms = _timed(meter.read, size.calls)
    _told("all cards at once: limits in force", look_ms)
    _told("all cards at once: draw, energy, utilisation", read_ms)
    figures = {"look_ms": float(np.median(look_ms)), "meter_ms": float(np.median(read_ms))}
    draws, first, began = [], meter.read(), time.perf_counter()
    while time.perf_counter() - began < size.seconds:
        draws.append(meter.read().pool_kw.get(POOL, 0.0))
        time.sleep(0.1)
    last, hours = meter.read(), (time.perf_counter() - began) / 3600.0
    if not first.energy_kwh.keys() & last.energy_kwh.keys() or not any(draws):  # no counters, or a card that fell away
        say("the cards count no energy, or tell no draw")
        return figures
    counted_kw, drawn_kw = (last.energy_kwh[POOL] - first.energy_kwh[POOL]) / hours, float(np.mean(draws))
    say(f"{size.seconds:g} s: {1000 * drawn_kw:.1f} W drawn, {1000 * counted_kw:.1f} W by the energy counters")
    return figures | {"draw_w": 1000.0 * drawn_kw, "energy_over_draw": counted_kw / drawn_kw}


def _each(session: NvmlSession, gpus: Collection[GpuId], size: Size) -> dict[str, Any]:
    """Every call by itself on every card; a call that no card supports is left out, and said."""
    figures = {}
    for name, call in CALLS.items():
        took: list[float] = []

        def timed(_gpu: GpuId, handle: Handle, _turn: Turn, call: Callable[[Handle], Any] = call) -> float | None:
            started = time.perf_counter()
            answer = optional(lambda: call(handle), None)
            return None if answer is None else _ms(started)

        for _ in range(size.calls):
            for gpu in gpus:
                took += [ms for ms in session.each([gpu], timed)[0].values() if ms is not None]
        if took:
            _told(f"one card: {name}", took)
            figures[f"{name}_ms"] = float(np.median(took))
        else:
            say(f"one card: {name} is not supported")
    return figures


def _timed(call: Callable[[], object], times: int) -> list[float]:
    took = []
    for _ in range(times):
        started = time.perf_counter()
        call()
        took.append(_ms(started))
    return took


def _ms(started: float) -> float:
    return 1000.0 * (time.perf_counter() - started)


def _told(what: str, took_ms: Sequence[float]) -> None:
    median, late = np.percentile(took_ms, [50, 99])
    say(f"  {what:<48}{median:>8.3f} ms, 99 of 100 within {late:.3f} ms")


def main(argv: list[str] | None = None) -> None:
    """Run from the command line."""
    run("cards", __doc__.splitlines()[0], measure, argv)


if __name__ == "__main__":
    main()
