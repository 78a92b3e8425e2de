"""The cards of many simulated nodes: slices of one simulated hall, with its measured curves, first-order power,
restless loads and faults on a seed.

Why in steps of a tenth of a second: thousands of nodes look and write at any moment, and a hall that were brought to
each of them would compute all cards for the sake of eight. So the hall goes on in steps of one length, what was written
since takes hold at the next (never sooner than written), and looks see the step before. That also makes the faults of a
seed the same ones at the same seconds, however busy the machine is.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from time import monotonic
from zlib import crc32

import numpy as np
from numpy.typing import NDArray

from adapters.hall import SimulatedHall
from adapters.hall_noise import Bursts, Flicker
from adapters.hall_state import HallFaults, HallPhysics, Signal
from adapters.ports import AdapterError, GpuId, GpuInfo, Lease, Receipt
from adapters.power.receipts import UNKNOWN_GPU
from optimizer.domain import GpuPool, PowerCurve, Work
from optimizer.reasons import Reason
from scheduler.clock import VirtualClock
from scheduler.fleet.twin_site import TwinSite

STEP_S, STEPS_A_SECOND = 0.1, 10
DIGITS = 1
"""A card's sensor tells tenths of a watt."""

GROUPS = 16
"""So many groups of nodes in a process have a load of their own."""

SITE = "twin"
START = datetime(2022, 9, 6, tzinfo=UTC)


@dataclass(frozen=True, slots=True)
class TwinModel:
    """How simulated nodes behave: the curve of their cards, the share of time that these work; dips of that load and
    depth of its bursts (see `hall_noise`); relative noise of a card's sensor; chance that a node's cards can't be read
    in a second; cards lost, and limits put back by a driver, per card and hour. All of it from one seed. And the site
    around them, by the wall clock."""

    curve: PowerCurve
    load: float = 0.9
    seed: int = 0
    load_noise: float = 0.0
    bursts: float = 0.0
    sensor_noise: float = 0.0
    losses: float = 0.0
    gpu_loss_per_h: float = 0.0
    cap_reset_per_h: float = 0.0
    site: TwinSite = field(default_factory=TwinSite)


class TwinHall:
    """The cards of some nodes; `clock` gives seconds. Not thread-safe: one event loop has it."""

    def __init__(
        self,
        names: Sequence[str],
        gpus: int,
        model: TwinModel,
        clock: Callable[[], float] = monotonic,
        wall: datetime | None = None,
    ) -> None:
        """`wall`: the moment of the site's weather at the start; now, unless told."""
        self.names, self.gpus, self.model, self._clock = tuple(names), gpus, model, clock
        self._seed = crc32(f"{model.seed}/{self.names[0]}".encode())
        self._began, self._step, self._world = clock(), 0, VirtualClock(START)
        pools = [_pool(number, len(part) * gpus, model.curve) for number, part in enumerate(_groups(self.names))]
        faults = HallFaults(self._seed, gpu_loss_per_h=model.gpu_loss_per_h, cap_reset_per_h=model.cap_reset_per_h)
        loads = {pool.id: _load(model, self._seed, pool.id) for pool in pools}
        self._ahead = (wall or datetime.now(UTC)) - START
        pue: Mapping[str, Signal] = {SITE: lambda moment: model.site.pue_at(moment + self._ahead)}
        physics = HallPhysics(sample_s=1.0, cooling_s=model.site.cooling_s)
        self._hall = SimulatedHall(pools, self._world, loads, pue, physics=physics, faults=faults)
        self.low_w, self.high_w = pools[0].min_cap_w, pools[0].max_cap_w
        self._ids = [gpu for pool in pools for gpu in self._hall.gpus_of[pool.id]]
        self._written: dict[int, float] = {}
        self._noise = np.random.default_rng((self._seed, 1))
        self.silent: frozenset[int] = frozenset()
        """Nodes whose cards can't be read in this second."""
        self.cards = tuple(TwinCards(self, number) for number in range(len(self.names)))
        """Of each node, in the order of the names."""
        self.limit_w: list[float] = []
        self.live: list[bool] = []
        self._seen: tuple[NDArray[np.float64], NDArray[np.bool_]] | None = None
        self._see(())

    def look(self) -> None:
        """Bring everything to the last whole step."""
        until = int((self._clock() - self._began) * STEPS_A_SECOND + 1e-6)
        if until <= self._step:
            return
        written: set[int] = set()
        while self._step < until:
            self._step += 1
            self._world.sleep(STEP_S)
            self._hall.advance()
            if self._written:
                self._hall.set_limits({self._ids[at]: watts for at, watts in self._written.items()})
                written |= self._written.keys()
                self._written = {}
            if self._step % STEPS_A_SECOND == 0 and self.model.losses > 0:
                chances = np.random.default_rng((self._seed, 2, self._step)).random(len(self.names))
                self.silent = frozenset(np.flatnonzero(chances < self.model.losses).tolist())
        self._see(written)

    def write(self, limits_w: Mapping[int, float]) -> None:
        """Set these cards' limits, from the next step on."""
        self._written.update(limits_w)
        for at, watts in limits_w.items():
            self.limit_w[at] = watts

    def metered(self) -> tuple[float, float, float]:
        """Import of the site and power of its cards now in kW, and degrees Celsius outside."""
        self.look()
        cards_kw = float(self._hall.columns().draw_w.sum()) / 1000.0
        outside_c = self.model.site.outside_c(self._world.now() + self._ahead)
        return self._hall.reading().import_kw[SITE], cards_kw, outside_c

    def _see(self, written: Collection[int]) -> None:
        """Take over what the cards do now, and what became of the limits that were written."""
        seen, before = self._hall.columns(), self._seen
        self._draw_w, self._busy = seen.draw_w, seen.busy
        if self.model.sensor_noise:
            self._draw_w = seen.draw_w * (1.0 + self.model.sensor_noise * self._noise.normal(size=len(self._ids)))
        self._draw_w = np.round(self._draw_w, DIGITS)  # else a draw that settles is another one for ever
        self._seen = enforced, live = seen.enforced_w.copy(), seen.live.copy()
        if before is None:
            self.limit_w, self.live = enforced.tolist(), live.tolist()
            return
        changed = np.flatnonzero((enforced != before[0]) | (live != before[1])).tolist()
        places = [*{*written, *changed}]
        for at, limit_w, there in zip(places, enforced[places].tolist(), live[places].tolist(), strict=True):
            self.limit_w[at], self.live[at] = limit_w, there
        for node in {at // self.gpus for at in places}:
            self.cards[node].touched()

    def told(self, part: slice = slice(None)) -> tuple[list[float], list[float]]:
        """Draw in W and share of time at work of these cards, or of all."""
        return self._draw_w[part].tolist(), self._busy[part].tolist()


class TwinCards:
    """`PowerActuator` and `LimitReader` over the cards of one node."""

    def __init__(self, hall: TwinHall, node: int) -> None:
        self._hall, self._node = hall, node
        first = node * hall.gpus
        self.places = {f"GPU-{hall.names[node]}-{number}": first + number for number in range(hall.gpus)}
        self._part = slice(first, first + hall.gpus)
        self._looked: dict[GpuId, float] = {}
        self._found: tuple[object, dict[GpuId, GpuInfo]] = (None, {})

    def touched(self) -> None:
        """A limit has changed, or a card was lost."""
        self._looked, self._found = {}, (None, {})

    def discover(self) -> Mapping[GpuId, GpuInfo]:
        """Every card that is there, as it is now; the same object while nothing has changed. AdapterError while they
        can't be read."""
        hall = self._ready()
        told = hall.told(self._part)
        if told != self._found[0]:
            low, high, model, limits, live = hall.low_w, hall.high_w, hall.model.curve.name, hall.limit_w, hall.live
            found = {
                gpu: GpuInfo(gpu, model, low, high, high, limits[at], limits[at], draw_w, utilisation=busy)
                for (gpu, at), draw_w, busy in zip(self.places.items(), *told, strict=True)
                if live[at]
            }
            self._found = (told, found)
        return self._found[1]

    def enforced(self, gpus: Collection[GpuId]) -> Mapping[GpuId, float]:
        """Enforced limits in W of these cards; the same object while none has changed. AdapterError as above."""
        hall, looked = self._ready(), self._looked
        if len(looked) != len(gpus) or not looked.keys() >= set(gpus):
            places, limits, live = self.places, hall.limit_w, hall.live
            self._looked = looked = {gpu: limits[places[gpu]] for gpu in gpus if gpu in places and live[places[gpu]]}
        return looked

    def apply(self, caps_w: Mapping[GpuId, int], lease: Lease) -> Receipt:
        """Set these limits. AdapterError as above."""
        hall, failures, read = self._ready(), dict[GpuId, Reason](), dict[GpuId, float]()
        places, low, high, limits, live = self.places, hall.low_w, hall.high_w, hall.limit_w, hall.live
        written: dict[int, float] = {}
        for gpu, watts in caps_w.items():
            at = places.get(gpu)
            if at is None or not live[at]:
                failures[gpu] = UNKNOWN_GPU if at is None else Reason.GPU_LOST
                continue
            read[gpu] = limit_w = low if watts < low else high if watts > high else float(watts)
            if limit_w != limits[at]:
                written[at] = limit_w
        if written:
            hall.write(written)
            self.touched()
        return Receipt(read, failures)

    def release(self, limits_w: Mapping[GpuId, float]) -> Receipt:
        """Give these limits back."""
        return self.apply(limits_w, Lease(0, 0, 0.0))  # type: ignore[arg-type]

    def _ready(self) -> TwinHall:
        self._hall.look()
        if self._node in self._hall.silent:
            raise AdapterError(f"the cards of {self._hall.names[self._node]} can't be read (simulated)")
        return self._hall


def _groups(names: Sequence[str]) -> Iterator[Sequence[str]]:
    share = -(-len(names) // GROUPS)
    for begin in range(0, len(names), share):
        yield names[begin : begin + share]


def _pool(number: int, count: int, curve: PowerCurve) -> GpuPool:
    low, high = curve.points[0].cap_w, curve.points[-1].cap_w
    return GpuPool(f"group-{number}", SITE, curve.name, count, Work.TRAINING, curve, 1.0, 0.0, low, high)


def _load(model: TwinModel, seed: int, name: str) -> Signal:
    load: Signal = lambda _moment: model.load  # noqa: E731
    if model.bursts:
        load = Bursts(load, model.bursts, seed, name)
    return Flicker(load, model.load_noise, seed, name) if model.load_noise else load
