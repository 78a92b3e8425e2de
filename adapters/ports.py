"""The ports: what Gridpace asks of the outside world, each a Protocol of at most three methods.

Why so small: a new tariff, meter or actuator is one file, and one contract suite (`tests/contract/`) runs over every
implementation of a port, its simulated twin included. An adapter never decides anything: it reads, or it applies
exactly what it is told and says what the hardware then holds. Errors are `AdapterError`s with the place in the text.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any, Protocol, runtime_checkable

from optimizer.domain import BatchJob, Series
from optimizer.reasons import Note, Reason

GpuId = str
"""The GPU's UUID as the driver prints it; indices change over a reboot and are never used as keys."""


class AdapterError(Exception):
    """The outside world said no, or said nothing; the text names the place (file:line, URL, GPU, event id)."""


class SourceError(AdapterError):
    """A signal could not be read: unreachable, unreadable, half-written or out of its declared form."""


class EventRefused(AdapterError):
    """A demand-response message is not accepted. `status` is the HTTP status that fits; no hint is given to a
    forger."""

    def __init__(self, text: str, status: int = 400) -> None:
        super().__init__(text)
        self.status = status


# ---------------------------------------------------------------- time
class Clock(Protocol):
    """Where time comes from; injected everywhere, so that backtests and tests run the same loops."""

    def now(self) -> datetime:
        """Aware UTC time of the world that is controlled (may be simulated or sped up)."""
        ...

    def monotonic(self) -> float:
        """Seconds that never step back, at the same speed as `now`; leases, ramps and dwell times run on it."""
        ...

    def sleep(self, seconds: float) -> None:
        """Wait that many seconds of this clock."""
        ...


# ---------------------------------------------------------------- signals
class SignalSource(Protocol):
    """A price, carbon, weather, load or limit signal."""

    def read(self, start: datetime, end: datetime, now: datetime) -> Series:
        """What is known at `now` about [start, end): published values only, gaps left as gaps. Raises SourceError."""
        ...


# ---------------------------------------------------------------- GPUs
@dataclass(frozen=True, slots=True)
class GpuInfo:
    """One GPU as found: allowed range, factory default, limit requested and limit enforced (all W), present draw, the
    share of time that it works (0..1, None where it doesn't tell), and the range in which its SM clock can be locked
    (MHz; 0: it can't be)."""

    id: GpuId
    model: str
    min_w: float
    max_w: float
    default_w: float
    limit_w: float
    enforced_w: float
    draw_w: float
    persistence: bool = True
    mig: bool = False
    utilisation: float | None = None
    min_clock_mhz: int = 0
    max_clock_mhz: int = 0


@dataclass(frozen=True, slots=True)
class Lease:
    """Until when a cap holds without renewal. `expires_in_s` counts on the enforcer's own clock; `epoch` fences off an
    older daemon, `sequence` an older order. When it expires the enforcer follows the trajectory that it was given."""

    epoch: int
    sequence: int
    expires_in_s: float


@dataclass(frozen=True)
class Receipt:
    """What became of one apply: the enforced limit read back per GPU (W), and a note per GPU where it isn't as
    ordered."""

    enforced_w: Mapping[GpuId, float]
    failures: Mapping[GpuId, Reason] = field(default_factory=dict)
    notes: tuple[Note, ...] = ()
    seconds: float = 0.0


@runtime_checkable
class PowerActuator(Protocol):
    """Sets GPU power limits. Never blocks longer than its own deadline; a bad GPU never stops the others."""

    def discover(self) -> Mapping[GpuId, GpuInfo]:
        """Every GPU that answers, read from the hardware now. Raises AdapterError when none can be reached at all."""
        ...

    def apply(self, caps_w: Mapping[GpuId, int], lease: Lease) -> Receipt:
        """Set these limits in parallel (clamped to each card's own range, with a note) and read back the enforced
        ones."""
        ...

    def release(self, limits_w: Mapping[GpuId, float]) -> Receipt:
        """Give these limits (the ones found before the first write) back and read back the enforced ones."""
        ...


@runtime_checkable
class Spokesman(Protocol):
    """An actuator whose far end fences by epoch what carries no lease: releases, clocks let go, cards taken back."""

    def speak_for(self, epoch: int) -> None:
        """Name this epoch from now on, also before the first order."""
        ...


@runtime_checkable
class TrajectoryHolder(Protocol):
    """An actuator with a mind of its own (the node agent): what it does when the daemon falls silent."""

    def hold(self, steps: Sequence[tuple[float, Mapping[GpuId, int]]], until_s: float, lease: Lease) -> None:
        """Caps to follow from the lease's end until `until_s` seconds from now, each from its offset (seconds) on."""
        ...


@runtime_checkable
class WayMaker(Protocol):
    """An actuator that may have trajectories on their way to thousands of nodes when an order is about to be made."""

    def make_way(self) -> None:
        """Hold back what nobody waits for, for a moment: an order comes."""
        ...


@runtime_checkable
class LimitReader(Protocol):
    """An actuator that tells enforced limits cheaply, so that every one of them can be looked at every second."""

    def enforced(self, gpus: Collection[GpuId]) -> Mapping[GpuId, float]:
        """Enforced limit in W of those of these GPUs that answer. Raises AdapterError when none can be reached."""
        ...


@runtime_checkable
class Presence(Protocol):
    """An actuator that hears of its GPUs without asking: who was away and speaks again need not wait for a retry."""

    def heard(self, gpus: Collection[GpuId]) -> Collection[GpuId]:
        """Those of these GPUs of which something was heard since they last did not answer."""
        ...


@dataclass(frozen=True)
class Contested:
    """Caps that somebody else raised: GPUs left to that writer, with the limit in W that it holds there; how many were
    set again; GPUs that enforce less than was ordered; whose locked clocks are left to who freed them (MHz); what else
    an operator must know of who told all this; and those of the first that took caps and did not move."""

    yielded_w: Mapping[GpuId, float] = field(default_factory=dict)
    reasserted: int = 0
    lowered: frozenset[GpuId] = frozenset()
    yielded_mhz: Mapping[GpuId, float] = field(default_factory=dict)
    notes: tuple[Note, ...] = ()
    ignoring: frozenset[GpuId] = frozenset()


@runtime_checkable
class CapGuard(Protocol):
    """An actuator that looks after the caps itself (the node agents): it sets them again, and yields."""

    def contested(self) -> Contested:
        """What became of the caps lately; asks no card. Raises AdapterError."""
        ...

    def take_back(self) -> None:
        """Cap the GPUs again that were left to another writer. Raises AdapterError."""
        ...


@dataclass(frozen=True)
class ClockReceipt:
    """What became of one order about clocks: the SM clock in MHz read back per GPU, and why others did not follow."""

    clock_mhz: Mapping[GpuId, int] = field(default_factory=dict)
    failures: Mapping[GpuId, Reason] = field(default_factory=dict)


@runtime_checkable
class ClockLocker(Protocol):
    """An actuator that can also hold the SM clocks of its GPUs down, for work whose draw no limit moves."""

    def lock(self, clocks_mhz: Mapping[GpuId, int], lease: Lease) -> ClockReceipt:
        """Let SM clocks go no higher than this, on all cards at once, each inside its own range; read them back."""
        ...

    def unlock(self, gpus: Collection[GpuId]) -> ClockReceipt:
        """Let these clocks go free again."""
        ...


@runtime_checkable
class ClockReader(Protocol):
    """An actuator that tells SM clocks cheaply, so that a lock which somebody took away is seen."""

    def clocks(self, gpus: Collection[GpuId]) -> Mapping[GpuId, int]:
        """SM clock in MHz, now, of those of these GPUs that answer. Raises AdapterError when none can be reached."""
        ...


# ---------------------------------------------------------------- batteries and engines
@dataclass(frozen=True, slots=True)
class DeviceReading:
    """A battery or an engine at `at`: power at the meter in kW (positive: it draws), energy in it in kWh (None: it
    holds none), and the set-point that is in force, in kW."""

    at: datetime
    kw: float
    stored_kwh: float | None
    setpoint_kw: float


class SetpointDevice(Protocol):
    """Takes a set-point in kW under a lease: when it is not renewed in time, the device goes to 0 by itself."""

    def read(self) -> DeviceReading:
        """Its state now. Raises AdapterError when it does not answer."""
        ...

    def apply(self, kw: float, lease: Lease) -> DeviceReading:
        """Set, and read back. Raises AdapterError."""
        ...

    def release(self) -> DeviceReading:
        """Go to 0 now, and read back. Raises AdapterError."""
        ...


class ParkingHook(Protocol):
    """Parks idle GPUs of one pool and wakes them; which of those without work, is its own choice."""

    def read(self) -> int:
        """GPUs that are parked now. Raises AdapterError while it can't do what it was told last."""
        ...

    def apply(self, gpus: int) -> None:
        """Have that many parked from now on, the others awake after their time. Returns at once; may be repeated."""
        ...

    def close(self) -> None:
        """Wait until the last order is carried out, at most as long as one may take."""
        ...


# ---------------------------------------------------------------- meters
@dataclass(frozen=True)
class Reading:
    """Power at `at`. `pool_kw`: IT power per pool; `import_kw`: at the site meter, per site (absent: through PUE);
    `energy_kwh`: counters per pool where the hardware has them. `lost` names what could not be read; it is never zero.

    `busy_gpus`: GPUs of a pool that work, where the hardware says how busy it is; `work_gpus`: their work in GPUs at
    full throughput, where something meters it (tokens an hour over the pool's `tokens_per_gpu_h`). Both teach curves.

    `taken`, `import_taken`: over which time, from and to, the power of a pool, or a site's import, was measured, where
    that is not the last second. It is held against the orders of that time.
    """

    at: datetime
    pool_kw: Mapping[str, float]
    import_kw: Mapping[str, float] = field(default_factory=dict)
    energy_kwh: Mapping[str, float] = field(default_factory=dict)
    lost: tuple[str, ...] = ()
    busy_gpus: Mapping[str, float] = field(default_factory=dict)
    work_gpus: Mapping[str, float] = field(default_factory=dict)
    taken: Mapping[str, tuple[datetime, datetime]] = field(default_factory=dict)
    import_taken: Mapping[str, tuple[datetime, datetime]] = field(default_factory=dict)


class Meter(Protocol):
    """Measures what is drawn."""

    def read(self) -> Reading:
        """One reading; parts that fail are named in `lost`. Raises AdapterError only when nothing could be read."""
        ...


@runtime_checkable
class CardMeter(Protocol):
    """A meter that also knows what each card draws."""

    def cards(self) -> Mapping[GpuId, float]:
        """Draw in W of each card that the last reading heard; asks nobody. Empty when that reading failed."""
        ...


# ---------------------------------------------------------------- work
class JobSystem(Protocol):
    """Where deferrable work waits and runs. `keeps_state`: suspending loses nothing."""

    keeps_state: bool

    def snapshot(self) -> Sequence[BatchJob]:
        """Every job that is not finished or cancelled, with its progress."""
        ...

    def apply(self, gpus: Mapping[str, int]) -> Mapping[str, Reason]:
        """Grant each named job that many GPUs from now on (0: wait or suspend); returns the reason per job refused."""
        ...

    def everything(self) -> Sequence[BatchJob]:
        """Every job for people to see, newest first; finished ones too where they are kept."""
        ...


# ---------------------------------------------------------------- demand response
@dataclass(frozen=True)
class EventMessage:
    """A verified demand-response message, before the ledger resolves it: exactly one of `limit_kw`, `reduce_kw`,
    `reduce_percent` per target; `cancelled` withdraws the event. `raw` is kept in the books as it arrived.

    `standing`: the near part of an order without an end, which goes on from day to day; the program's longest event
    does not bound it. `fault`: why nothing of it can be followed; it is kept as refused. `priority`: 0 is the highest,
    None the lowest. `hard`: a limit of the connection, which yields to no priority.
    """

    id: str
    version: int
    site: str
    start: datetime
    end: datetime
    targets: tuple[EventTarget, ...]
    cancelled: bool = False
    ramp_in_s: float | None = None
    ramp_out_s: float | None = None
    rebound_s: float | None = None
    priority: int | None = None
    firm: bool = True
    emergency: bool = False
    program: str = ""
    source: str = ""
    name: str = ""
    raw: Mapping[str, Any] = field(default_factory=dict)
    standing: bool = False
    fault: str = ""
    hard: bool = False


@dataclass(frozen=True, slots=True)
class EventTarget:
    """Target over [start, end) of the event: an import cap, or a reduction from the baseline."""

    start: datetime
    end: datetime
    limit_kw: float | None = None
    reduce_kw: float | None = None
    reduce_percent: float | None = None


class EventChannel(Protocol):
    """A pushed demand-response channel."""

    def receive(self, headers: Mapping[str, str], body: bytes, now: datetime) -> EventMessage:
        """Verify and parse one message. Raises EventRefused (unsigned, replayed, stale, malformed); nothing changes."""
        ...


# ---------------------------------------------------------------- the store, as adapters see it
class RecordStore(Protocol):
    """Durable records for adapters that keep state (the embedded queue, nonces); implemented by the scheduler's
    store."""

    def put(self, kind: str, key: str, value: Mapping[str, Any]) -> None:
        """Insert or replace one record; durable (fsync) when it returns."""
        ...

    def get(self, kind: str, key: str) -> dict[str, Any] | None:
        """One record or None."""
        ...

    def all(self, kind: str) -> dict[str, dict[str, Any]]:
        """Every record of a kind by key, oldest first."""
        ...
