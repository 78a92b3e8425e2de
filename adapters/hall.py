"""A hall of simulated GPUs: the twin that demo, backtest and tests drive through the same ports as real hardware.

Why one hall behind three adapters: a power cap changes what the meter reads and how fast the jobs run, so the
simulated actuator, meter and job system must share one physics. GPUs follow measured curves (cap -> draw, cap ->
throughput, linear between the measured points), their power settles at first order, and energy, work and import are
integrated exactly. All GPUs live in flat arrays: tens of thousands of them cost less than a real node of eight.

A lower cap settles faster than a higher one. The defaults (95 % after 50 ms down, 0.4 s up) are read from a V100's step
responses at 200 Hz, published with GridPilot (github.com/denisa-c/gridpilot, experiment E2).
"""

from __future__ import annotations

import threading
from collections.abc import Collection, Mapping, Sequence
from datetime import datetime, timedelta
from math import exp

import numpy as np
from numpy.typing import NDArray

from adapters.hall_cooling import Overhead
from adapters.hall_parking import HallParking
from adapters.hall_sensors import Sensors
from adapters.hall_state import (
    MAX_MHZ,
    MIN_MHZ,
    Beside,
    Floats,
    HallCounters,
    HallFaults,
    HallPhysics,
    PoolState,
    Signal,
    Signals,
    clock_reader,
    column_reader,
    follow,
    gpu_ids,
    mean_speed,
    new_gpus,
    order_clocks,
    pool_states,
    sample,
    serving,
)
from adapters.hall_work import Grants, HallWork, Progress
from adapters.meters.sums import LEAST_SHARE_METERED
from adapters.ports import Clock, ClockReceipt, GpuId, GpuInfo, Reading, Receipt
from adapters.power.receipts import UNKNOWN_GPU, clamp_notes, failure_notes
from optimizer.domain import GpuPool, Work
from optimizer.reasons import Note, Reason, Severity
from optimizer.timegrid import floor_time

SIMULATED = "simulated"
"""Stands in the model of every simulated GPU, so that nobody takes the twin for hardware."""

_DRIFT_W = 1.0


class SimulatedHall:
    """Simulated pools under one clock. `load` gives each pool's busy share (0..1; default 1, batch pools: their
    grants), `pue` each site's PUE, `other_it_kw` its IT load that is not GPUs; all as functions of the moment, constant
    between multiples of `physics.sample_s`. Every public method first brings the hall to the clock's present."""

    def __init__(
        self,
        pools: Sequence[GpuPool],
        clock: Clock,
        load: Mapping[str, Signal] | None = None,
        pue: Mapping[str, Signal] | None = None,
        other_it_kw: Mapping[str, Signal] | None = None,
        physics: HallPhysics | None = None,
        faults: HallFaults | None = None,
    ) -> None:
        self.clock = clock
        self.sites = tuple(dict.fromkeys(pool.site for pool in pools))
        self._load, self._pue, self._other = dict(load or {}), dict(pue or {}), dict(other_it_kw or {})
        self._physics, self._faults = physics or HallPhysics(), faults or HallFaults()
        self._random = np.random.default_rng(self._faults.seed)
        self._lock = threading.RLock()
        self._pools = pool_states(pools)
        self._starts = np.array([state.part.start for state in self._pools])
        self.gpus_of: Mapping[str, tuple[GpuId, ...]] = {pool.id: gpu_ids(pool) for pool in pools}
        """The GPUs of every pool, in order; jobs occupy a batch pool from its first GPU on."""
        self._ids = tuple(gpu for ids in self.gpus_of.values() for gpu in ids)
        self._index = {gpu: position for position, gpu in enumerate(self._ids)}
        self.pool_of: Mapping[GpuId, str] = {gpu: pool for pool, ids in self.gpus_of.items() for gpu in ids}
        self._import_kwh = dict.fromkeys(self.sites, 0.0)
        self.beside: list[Beside] = []
        """Batteries, engines and panels at the sites' meters, in the order in which they see the site's power."""
        self._overhead, self._sensors = Overhead(self._physics.cooling_s), Sensors(self._physics.sensor_s)
        self._work, self._now = HallWork(), clock.now()
        self._looked: tuple[object, dict[GpuId, float]] = (None, {})
        self._gpus = new_gpus(self._pools)
        follow(self._gpus, self._pools)
        self.clocks = clock_reader(self._gpus, self._index)
        self.columns = column_reader(self._gpus, self._sensors.told_w)
        self.parking = HallParking(self._pools, self._now, self._lock)
        self._occupy(self._signals(self._now))
        self._gpus.draw_w = self._targets()

    # ---------------------------------------------------------------- time
    @property
    def now(self) -> datetime:
        """The moment up to which everything is integrated."""
        return self._now

    def attach_work(self, grants: Grants, progress: Progress, report_s: float = 0.0) -> None:
        """Let granted jobs occupy the batch pools: `grants()` gives job -> (pool, GPUs[, GPU-hours left]), and
        `progress(job, gpu_h)` is told the GPU-hours newly done, at most every `report_s` and when a job ends."""
        with self._lock:
            self._work = HallWork(grants, progress, report_s)

    def advance(self, to: datetime | None = None) -> None:
        """Integrate up to `to` (default: the clock's present). A moment that has passed changes nothing."""
        with self._lock:
            target = self.clock.now() if to is None else to
            if target <= self._now:
                return
            self._work.refresh()
            while self._now < target:
                signals, cut = self._segment(target)
                self._occupy(signals)
                cut = self._cut_at_job_end(cut)
                self._integrate(signals, (cut - self._now).total_seconds())
                self._now = cut
                self._work.settle(cut)
            self._work.flush(self._now)

    def _segment(self, target: datetime) -> tuple[Signals, datetime]:
        """The signals now, and the moment until which they stay the same (at most `target`)."""
        step = timedelta(seconds=self._physics.sample_s)
        signals, cut = self._signals(self._now), floor_time(self._now, step) + step
        while cut < target and self._signals(cut) == signals:
            cut += step
        return signals, self.parking.next_ready(self._now, min(cut, target))

    def _signals(self, moment: datetime) -> Signals:
        """Sample every outside signal."""
        return Signals(
            tuple(min(1.0, max(0.0, sample(self._load, state.pool.id, moment, 1.0))) for state in self._pools),
            tuple(sample(self._pue, site, moment, 1.0) for site in self.sites),
            tuple(sample(self._other, site, moment, 0.0) for site in self.sites),
        )

    def _cut_at_job_end(self, cut: datetime) -> datetime:
        """End the segment where the first granted job ends, so that its GPUs idle from that moment on."""
        speeds = {
            state.pool.id: mean_speed(self._gpus, state) for state in self._pools if state.pool.work is Work.BATCH
        }
        able = self._gpus.live & self.parking.able(self._now)
        capacity = {state.pool.id: int(able[state.part].sum()) for state in self._pools}
        seconds = self._work.plan(speeds, capacity)
        # One microsecond more than computed: a datetime can't hold less, and the job must have ended at the cut.
        return min(cut, self._now + timedelta(seconds=seconds, microseconds=1)) if seconds < 1e9 else cut

    # ---------------------------------------------------------------- physics
    def _occupy(self, signals: Signals) -> None:
        """Say how busy every GPU is: by load, or in batch pools the first live GPUs that the grants need."""
        gpus = self._gpus
        able = gpus.live & self.parking.able(self._now)
        for state, load in zip(self._pools, signals.load, strict=True):
            live = able[state.part]
            if state.pool.work is Work.BATCH:
                gpus.busy[state.part] = live & (np.cumsum(live) <= self._work.granted(state.pool.id))
            else:
                gpus.busy[state.part] = live * load

    def _targets(self) -> Floats:
        """Draw in W that every GPU settles to."""
        gpus = self._gpus
        targets: Floats = gpus.idle_w + gpus.busy * (gpus.busy_w - gpus.idle_w)
        return np.where(self.parking.asleep, self.parking.parked_w, targets)

    def _integrate(self, signals: Signals, seconds: float) -> None:
        """Advance draw, energy, work and import over one segment of constant targets by the exact solution."""
        gpus = self._gpus
        targets = self._targets()
        gap = gpus.draw_w - targets
        down, up = self._physics.settle_down_s / 3.0, self._physics.settle_up_s / 3.0
        falling = gap > 0
        left = np.where(falling, exp(-seconds / down), exp(-seconds / up))
        joules = targets * seconds + gap * np.where(falling, down, up) * (1.0 - left)
        gpus.draw_w = targets + gap * left
        self._sensors.ran(seconds, joules)
        energy_kwh = np.add.reduceat(joules, self._starts) / 3.6e6
        work_gpu_h = np.add.reduceat(gpus.busy * gpus.speed, self._starts) * (seconds / 3600.0)
        asked_gpu_h = np.add.reduceat(gpus.busy, self._starts) * (seconds / 3600.0)
        site_kwh = dict.fromkeys(self.sites, 0.0)
        for position, state in enumerate(self._pools):
            state.energy_kwh += float(energy_kwh[position])
            state.work_gpu_h += float(work_gpu_h[position])
            state.asked_gpu_h += float(asked_gpu_h[position])
            site_kwh[state.pool.site] += float(energy_kwh[position])
        for site, pue, other_kw in zip(self.sites, signals.pue, signals.other_kw, strict=True):
            it_kw = site_kwh[site] * 3600.0 / seconds + other_kw
            kw = it_kw + self._overhead.run_kw(site, pue, it_kw, seconds)
            for part in self.beside:
                kw += part.run(self._now, seconds, kw) if part.site == site else 0.0
            self._import_kwh[site] += kw * seconds / 3600.0
        self._work.run(seconds / 3600.0)
        self._break_by_chance(seconds / 3600.0)

    # ---------------------------------------------------------------- faults
    def _break_by_chance(self, hours: float) -> None:
        """Lose GPUs and reset caps at the configured rates."""
        if self._faults.gpu_loss_per_h > 0:
            struck = self._random.random(len(self._ids)) < 1.0 - exp(-self._faults.gpu_loss_per_h * hours)
            for position in np.flatnonzero(struck & self._gpus.live).tolist():
                self._gpus.set_fault(position, Reason.GPU_LOST)
        if self._faults.cap_reset_per_h > 0:
            struck = self._random.random(len(self._ids)) < 1.0 - exp(-self._faults.cap_reset_per_h * hours)
            self._gpus.limit_w = np.where(struck, self._gpus.max_w, self._gpus.limit_w)
            follow(self._gpus, self._pools)

    def fail(self, gpu: GpuId, reason: Reason | None) -> None:
        """Make every order to one GPU fail with `reason` (GPU_LOST also takes it off the bus); None heals it."""
        with self._lock:
            self.advance()
            self._gpus.set_fault(self._index[gpu], reason)

    def reset_limit(self, gpu: GpuId) -> None:
        """Put one GPU's limit back to its default, as a driver reload does."""
        with self._lock:
            self.advance()
            self._gpus.limit_w[self._index[gpu]] = self._gpus.max_w[self._index[gpu]]
            self._gpus.clock[self._index[gpu]] = 1.0
            follow(self._gpus, self._pools)

    def limit_out_of_band(self, gpu: GpuId, watts: float | None) -> None:
        """Set a limit behind the driver's back, as a board controller does; None takes it away."""
        with self._lock:
            self.advance()
            self._gpus.ceiling_w[self._index[gpu]] = np.inf if watts is None else watts
            follow(self._gpus, self._pools)

    # ---------------------------------------------------------------- what the adapters ask
    def infos(self) -> dict[GpuId, GpuInfo]:
        """Every GPU that is on the bus, as it is now."""
        with self._lock:
            self.advance()
            gpus, enforced = self._gpus, self._gpus.enforced_w.tolist()
            told_w = self._sensors.told_w(gpus.draw_w)
            limits, draws, live, busy = (row.tolist() for row in (gpus.limit_w, told_w, gpus.live, gpus.busy))
        found: dict[GpuId, GpuInfo] = {}
        for state in self._pools:
            low, high, model = state.pool.min_cap_w, state.pool.max_cap_w, f"{state.pool.gpu_model} ({SIMULATED})"
            for at in range(state.part.start, state.part.stop):
                if live[at]:
                    gpu = self._ids[at]
                    found[gpu] = GpuInfo(
                        gpu, model, low, high, high, limits[at], enforced[at], draws[at], utilisation=busy[at],
                        min_clock_mhz=MIN_MHZ, max_clock_mhz=MAX_MHZ,
                    )  # fmt: skip
        return found

    def serving(self, pool: str) -> tuple[int, float, float]:
        """GPUs of a pool on the bus, the busy share of them, and their mean throughput while busy, now."""
        with self._lock:
            self.advance()
            return serving(self._gpus, next(state for state in self._pools if state.pool.id == pool))

    def set_clocks(self, clocks_mhz: Mapping[GpuId, int]) -> ClockReceipt:
        """Let SM clocks go no higher than this; refusals and lost cards as for limits."""
        with self._lock:
            self.advance()
            receipt = order_clocks(self._gpus, self._index, clocks_mhz)
            follow(self._gpus, self._pools)
        return receipt

    def enforced(self, gpus: Collection[GpuId]) -> dict[GpuId, float]:
        """Enforced limit in W of those of these GPUs that are on the bus; the same object while none has changed."""
        with self._lock:
            state = (tuple(gpus), self._gpus.enforced_w.tobytes(), self._gpus.live.tobytes())
            if state != self._looked[0]:
                enforced, live, index = self._gpus.enforced_w.tolist(), self._gpus.live.tolist(), self._index
                found = {gpu: enforced[at] for gpu in gpus if (at := index.get(gpu)) is not None and live[at]}
                self._looked = (state, found)
            return self._looked[1]

    def set_limits(self, limits_w: Mapping[GpuId, float]) -> Receipt:
        """Set these limits at once, each clamped to its GPU's range; the receipt holds what is then enforced."""
        with self._lock:
            self.advance()
            failures = {gpu: UNKNOWN_GPU for gpu in limits_w if gpu not in self._index}
            known = [gpu for gpu in limits_w if gpu not in failures] if failures else list(limits_w)
            at = np.fromiter(map(self._index.__getitem__, known), np.intp, len(known))
            wanted = np.fromiter(map(limits_w.__getitem__, known), np.float64, len(known))
            clamped = np.clip(wanted, self._gpus.min_w[at], self._gpus.max_w[at])
            refused = self._refusals(at)
            self._order(at, clamped, refused)
            enforced = self._gpus.enforced_w[at]
            notes = clamp_notes((known[k], wanted[k], clamped[k]) for k in np.flatnonzero(clamped != wanted).tolist())
            drifted = np.flatnonzero(np.abs(enforced - clamped) > _DRIFT_W).tolist()
            failures |= {known[k]: Reason.CAP_DRIFT for k in drifted}
            failures |= {self._ids[position]: reason for position, reason in refused.items()}
            read = dict(zip(known, enforced.tolist(), strict=True))
        for gpu, reason in failures.items():
            if reason is not Reason.CAP_DRIFT:
                read.pop(gpu, None)
        return Receipt(read, failures, notes + failure_notes(failures))

    def _order(self, at: NDArray[np.intp], limits_w: Floats, refused: Mapping[int, Reason]) -> None:
        """Let every GPU of an order that doesn't refuse take its limit."""
        if refused:
            obeys = np.fromiter((position not in refused for position in at.tolist()), np.bool_, len(at))
            at, limits_w = at[obeys], limits_w[obeys]
        if np.any(self._gpus.limit_w[at] != limits_w):
            self._gpus.limit_w[at] = limits_w
            follow(self._gpus, [self._pools[k] for k in np.unique(self._starts.searchsorted(at, "right") - 1).tolist()])

    def _refusals(self, at: NDArray[np.intp]) -> dict[int, Reason]:
        """The GPUs of an order that will not take it."""
        asked = set(at.tolist()) if self._gpus.faults else set()
        refused = {position: reason for position, reason in self._gpus.faults.items() if position in asked}
        if self._faults.cap_refusal > 0:
            struck = at[self._random.random(len(at)) < self._faults.cap_refusal]
            refused = {int(position): Reason.CAP_REFUSED for position in struck} | refused
        return refused

    def reading(self) -> Reading:
        """What the meters say. GPUs that don't answer count as the mean of their pool's others, and are named."""
        with self._lock:
            self.advance()
            signals = self._signals(self._now)
            true_kw = np.add.reduceat(self._gpus.draw_w, self._starts) / 1000.0
            site_kw = dict.fromkeys(self.sites, 0.0)
            for state, kw in zip(self._pools, true_kw.tolist(), strict=True):
                site_kw[state.pool.site] += kw
            lost = [self._ids[k] for k in np.flatnonzero(~self._gpus.live).tolist()]
            pool_kw, busy, work = self._metered_pools(lost)
            import_kw = {}
            for site, pue, other_kw in zip(self.sites, signals.pue, signals.other_kw, strict=True):
                if self._telemetry_fails():
                    lost.append(site)
                else:
                    beside_kw = sum(part.kw for part in self.beside if part.site == site)
                    it_kw = site_kw[site] + other_kw
                    import_kw[site] = it_kw + self._overhead.now_kw(site, pue, it_kw) + beside_kw
            energy = {state.pool.id: state.energy_kwh for state in self._pools if state.pool.id in pool_kw}
            return Reading(self._now, pool_kw, import_kw, energy, tuple(lost), busy, work)

    def _metered_pools(self, lost: list[str]) -> tuple[dict[str, float], ...]:
        """Power, busy GPUs and work of each pool that the sensors see enough of; the others join `lost`."""
        gpus, told_w = self._gpus, self._sensors.told_w(self._gpus.draw_w)
        answering = np.add.reduceat(gpus.live.astype(np.float64), self._starts)
        busy = np.add.reduceat(gpus.busy, self._starts)
        work = np.add.reduceat(gpus.busy * gpus.speed, self._starts)
        kw: dict[str, float] = {}
        busy_gpus: dict[str, float] = {}
        work_gpus: dict[str, float] = {}
        for position, state in enumerate(self._pools):
            if (seen_kw := self._seen_kw(state, told_w[state.part])) is None:
                lost.append(state.pool.id)
                continue
            whole = state.pool.count / float(answering[position])
            kw[state.pool.id] = seen_kw
            busy_gpus[state.pool.id] = float(busy[position]) * whole
            work_gpus[state.pool.id] = self._blurred(float(work[position]) * whole)
        return kw, busy_gpus, work_gpus

    def _seen_kw(self, state: PoolState, told_w: Floats) -> float | None:
        """A pool's power as its cards tell theirs; None when too few of them answer."""
        live = self._gpus.live[state.part]
        answering = int(live.sum())
        if self._telemetry_fails() or answering < LEAST_SHARE_METERED * state.pool.count:
            return None
        kw = float(told_w.sum() if answering == state.pool.count else told_w[live].mean() * state.pool.count) / 1000.0
        if (noise := self._faults.sensor_noise) > 0:
            kw *= 1.0 + float(self._random.normal()) * noise / answering**0.5
        if self._faults.outliers > 0 and float(self._random.random()) < self._faults.outliers:
            return kw * float(self._random.uniform(0.0, 2.0))
        return self._blurred(kw)

    def _blurred(self, value: float) -> float:
        """A figure of a whole pool, as a meter of the configured noise tells it."""
        noise = self._faults.pool_noise
        return value * max(0.0, 1.0 + float(self._random.normal()) * noise) if noise > 0 else value

    def _telemetry_fails(self) -> bool:
        return self._faults.telemetry_loss > 0 and float(self._random.random()) < self._faults.telemetry_loss

    def counters(self) -> HallCounters:
        """Totals since the start, free of sensor noise: what a backtest settles on."""
        with self._lock:
            self.advance()
            return HallCounters(
                at=self._now,
                energy_kwh={state.pool.id: state.energy_kwh for state in self._pools},
                import_kwh=dict(self._import_kwh),
                work_gpu_h={state.pool.id: state.work_gpu_h for state in self._pools},
                asked_gpu_h={state.pool.id: state.asked_gpu_h for state in self._pools},
                tokens={state.pool.id: state.work_gpu_h * state.pool.tokens_per_gpu_h for state in self._pools},
            )

    def describe(self) -> Note:
        """One sentence that says what this hall is, for `check`, the page and the log."""
        text = f"{len(self._ids)} {SIMULATED} GPUs in {len(self._pools)} pools: no hardware is read or capped"
        return Note(Reason.SIMULATED, SIMULATED, text, Severity.INFO)
