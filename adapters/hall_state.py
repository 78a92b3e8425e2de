"""The state of a simulated hall: its constants, its faults, one array entry a GPU, one record a pool.

Why apart from the hall: what a hall *is* (plain data, made from the pools of the config) reads better without what it
*does*. GPU ids are made from the pool's name and the GPU's place in it, so that they survive restarts like real UUIDs.
"""

from __future__ import annotations

import uuid
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from typing import NamedTuple, Protocol

import numpy as np
from numpy.typing import NDArray

from adapters.ports import ClockReceipt, GpuId
from optimizer.domain import GpuPool
from optimizer.reasons import Reason

Signal = Callable[[datetime], float]
Floats = NDArray[np.float64]

_NAMESPACE = uuid.UUID("6b1f5c0e-6f0f-5d0a-9b53-9f6f7d1c2a44")


MIN_MHZ, MAX_MHZ = 210, 1980
"""Range of a simulated card's SM clock: that of an H100."""

CLOCKED_DRAW, CLOCKED_SPEED = 0.7, 0.6
"""How a simulated card answers a locked clock: the part of its draw above idle that falls with the square of the clock,
and the part of its throughput that falls with the clock itself (the rest waits for memory). Assumed, not measured: work
that draws little under any cap is bound by memory."""


class Beside(Protocol):
    """Something at a site's meter beside the hall; `kw` is what it draws now (negative: gives)."""

    site: str
    kw: float

    def run(self, start: datetime, seconds: float, site_kw: float) -> float:
        """Mean kW that it adds over a step to a site that draws `site_kw` without it."""
        ...


@dataclass(frozen=True, slots=True)
class HallPhysics:
    """Seconds until 95 % of a step in power is done, downwards and upwards, how often the signals are sampled, seconds
    until cooling has followed 95 % of a step in heat (0: at once), and the seconds whose mean cards tell as their power
    (0: that of the moment)."""

    settle_down_s: float = 0.05
    settle_up_s: float = 0.4
    sample_s: float = 60.0
    cooling_s: float = 0.0
    sensor_s: float = 0.0


@dataclass(frozen=True, slots=True)
class HallFaults:
    """What goes wrong by itself, all drawn from one seed: relative sensor noise of one GPU (standard deviation), chance
    that a pool's or a site's reading is lost, GPUs lost and caps reset per GPU-hour, chance of a refused cap, relative
    noise of a whole pool's reading, chance that such a reading is nonsense (anything between nothing and double)."""

    seed: int = 0
    sensor_noise: float = 0.0
    telemetry_loss: float = 0.0
    gpu_loss_per_h: float = 0.0
    cap_reset_per_h: float = 0.0
    cap_refusal: float = 0.0
    pool_noise: float = 0.0
    outliers: float = 0.0


@dataclass(frozen=True)
class HallCounters:
    """Totals since the start: energy and import in kWh, work in GPU-hours at full throughput, tokens, and the
    GPU-hours of work that the load asked for (batch: that were granted)."""

    at: datetime
    energy_kwh: Mapping[str, float]
    import_kwh: Mapping[str, float]
    work_gpu_h: Mapping[str, float]
    asked_gpu_h: Mapping[str, float]
    tokens: Mapping[str, float]


@dataclass
class PoolState:
    """One pool: its slice of the arrays, its curve as arrays, its busy share (of each GPU, or of the granted ones)."""

    pool: GpuPool
    part: slice
    caps_w: Floats
    draws_w: Floats
    speeds: Floats
    energy_kwh: float = 0.0
    work_gpu_h: float = 0.0
    asked_gpu_h: float = 0.0


@dataclass(frozen=True, slots=True)
class Signals:
    """The outside of one segment: load per pool, PUE and other IT load per site."""

    load: tuple[float, ...]
    pue: tuple[float, ...]
    other_kw: tuple[float, ...]


@dataclass
class Gpus:
    """One entry a GPU. `limit_w` is the limit requested, `ceiling_w` a lower one set out of band (inf: none)."""

    min_w: Floats
    max_w: Floats
    idle_w: Floats
    limit_w: Floats
    ceiling_w: Floats
    draw_w: Floats
    busy_w: Floats
    speed: Floats
    busy: Floats
    live: NDArray[np.bool_]
    clock: Floats
    """Highest SM clock allowed, as a share of the highest there is."""
    faults: dict[int, Reason] = field(default_factory=dict)

    def set_fault(self, position: int, reason: Reason | None) -> None:
        """Give one GPU a fault, or heal it; a lost one is off the bus."""
        self.faults.pop(position, None)
        if reason is not None:
            self.faults[position] = reason
        self.live[position] = reason is not Reason.GPU_LOST

    @property
    def enforced_w(self) -> Floats:
        """The lower of the requested limit and the one set out of band."""
        enforced: Floats = np.minimum(self.limit_w, self.ceiling_w)
        return enforced


def gpu_ids(pool: GpuPool) -> tuple[GpuId, ...]:
    """Stable UUIDs of a pool's simulated GPUs, in the form that the NVIDIA driver prints."""
    return tuple(f"GPU-{uuid.uuid5(_NAMESPACE, f'{pool.site}/{pool.id}/{place}')}" for place in range(pool.count))


def pool_states(pools: Sequence[GpuPool]) -> tuple[PoolState, ...]:
    """One record a pool, each with its slice of the arrays."""
    states: list[PoolState] = []
    start = 0
    for pool in pools:
        points = pool.curve.points
        columns = np.array([(point.cap_w, point.draw_w, point.throughput) for point in points], dtype=np.float64).T
        states.append(PoolState(pool, slice(start, start + pool.count), columns[0], columns[1], columns[2]))
        start += pool.count
    return tuple(states)


def new_gpus(states: Sequence[PoolState]) -> Gpus:
    """All GPUs idle, at their default limit, on the bus."""
    counts = [state.pool.count for state in states]

    def spread(values: Sequence[float]) -> Floats:
        return np.repeat(np.array(values, dtype=np.float64), counts)

    low, high = spread([state.pool.min_cap_w for state in states]), spread([state.pool.max_cap_w for state in states])
    idle, zero = spread([state.pool.curve.idle_w for state in states]), np.zeros(sum(counts))
    return Gpus(
        min_w=low,
        max_w=high,
        idle_w=idle,
        limit_w=high.copy(),
        ceiling_w=np.full(sum(counts), np.inf),
        draw_w=idle.copy(),
        busy_w=idle.copy(),
        speed=zero.copy(),
        busy=zero.copy(),
        live=np.ones(sum(counts), dtype=np.bool_),
        clock=np.ones(sum(counts)),
    )


def follow(gpus: Gpus, states: Sequence[PoolState]) -> None:
    """Look up draw and throughput of every busy GPU at its enforced limit on its pool's measured curve, and let a
    locked clock take both further down."""
    enforced = gpus.enforced_w
    for state in states:
        caps, clock, idle_w = enforced[state.part], gpus.clock[state.part], state.pool.curve.idle_w
        clocked_w = idle_w + (state.draws_w[-1] - idle_w) * (1.0 - CLOCKED_DRAW * (1.0 - clock**2))
        gpus.busy_w[state.part] = np.minimum(np.interp(caps, state.caps_w, state.draws_w), clocked_w)
        slowed = 1.0 - CLOCKED_SPEED * (1.0 - clock)
        gpus.speed[state.part] = np.minimum(np.interp(caps, state.caps_w, state.speeds), slowed)


def mean_speed(gpus: Gpus, state: PoolState) -> float:
    """Mean throughput of the pool's busy GPUs (of all when none is busy)."""
    busy, speed = gpus.busy[state.part], gpus.speed[state.part]
    total = float(busy.sum())
    return float((busy * speed).sum() / total) if total > 0 else float(speed.mean())


def serving(gpus: Gpus, state: PoolState) -> tuple[int, float, float]:
    """GPUs of a pool on the bus, the busy share of them, and their mean throughput while busy."""
    count, busy = int(gpus.live[state.part].sum()), float(gpus.busy[state.part].sum())
    return count, busy / count if count else 0.0, mean_speed(gpus, state)


class Columns(NamedTuple):
    """All GPUs as they are now, an entry each, in the order of the pools: limit in force and draw as told, in W,
    whether it is on the bus, how busy it is."""

    enforced_w: Floats
    draw_w: Floats
    live: NDArray[np.bool_]
    busy: Floats


def column_reader(gpus: Gpus, told_w: Callable[[Floats], Floats]) -> Callable[[], Columns]:
    """Tells all GPUs at once, for who has thousands; `told_w` says what sensors make of draws."""
    return lambda: Columns(gpus.enforced_w, told_w(gpus.draw_w), gpus.live, gpus.busy)


def clock_reader(gpus: Gpus, places: Mapping[GpuId, int]) -> Callable[[Collection[GpuId]], dict[GpuId, int]]:
    """Tells the SM clock in MHz at which each of some GPUs that is there runs: as high as it may, or low where it
    idles."""

    def clocks(wanted: Collection[GpuId]) -> dict[GpuId, int]:
        found = {gpu: places[gpu] for gpu in wanted if gpu in places and gpus.live[places[gpu]]}
        return {gpu: round(gpus.clock[at] * MAX_MHZ) if gpus.busy[at] > 0 else MIN_MHZ for gpu, at in found.items()}

    return clocks


def order_clocks(gpus: Gpus, places: Mapping[GpuId, int], clocks_mhz: Mapping[GpuId, int]) -> ClockReceipt:
    """Lock the SM clocks of GPUs that don't refuse, each inside the range."""
    bad = {gpu: gpus.faults.get(places[gpu]) if gpu in places else Reason.GPU_LOST for gpu in clocks_mhz}
    done = {gpu: min(MAX_MHZ, max(MIN_MHZ, mhz)) for gpu, mhz in clocks_mhz.items() if bad[gpu] is None}
    for gpu, mhz in done.items():
        gpus.clock[places[gpu]] = mhz / MAX_MHZ
    return ClockReceipt(done, {gpu: reason for gpu, reason in bad.items() if reason is not None})


def sample(signals: Mapping[str, Signal], name: str, moment: datetime, default: float) -> float:
    """A signal's value at a moment; `default` when there is none of that name."""
    return float(signals[name](moment)) if name in signals else default
