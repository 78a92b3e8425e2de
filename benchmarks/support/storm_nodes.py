"""The nodes of a storm: real agents with real ears on a bus in the process, each over its part of one hall.

An agent can be killed, its machine rebooted, its cable cut; what it keeps on disk survives as a disk's content does,
never as an object in memory.
"""

from __future__ import annotations

import copy
import itertools
from collections.abc import Callable, Collection, Mapping
from typing import TypeVar

from adapters.hall import SimulatedHall
from adapters.ports import AdapterError, GpuId, GpuInfo, Lease, Receipt
from benchmarks.support.storm_bus import LocalClient, Wires
from optimizer.reasons import Reason
from scheduler.agent.bus import Ear
from scheduler.agent.core import AgentCore, AgentSettings
from scheduler.agent.news import News
from scheduler.agent.process import answer
from scheduler.agent.state import AgentFiles, Found, Held
from scheduler.clock import VirtualClock

T = TypeVar("T")
_BOOTS = itertools.count()
TICK_S = 1.0


class HallView:
    """One look at the whole hall a second and after every write, shared by all nodes."""

    def __init__(self, hall: SimulatedHall) -> None:
        self.hall = hall
        self._writes = 0
        self._seen: tuple[object, dict[GpuId, GpuInfo]] = (None, {})

    def infos(self) -> dict[GpuId, GpuInfo]:
        """Every GPU on the bus, as it is now."""
        state = (self.hall.clock.now(), self._writes)
        if self._seen[0] != state:
            self._seen = (state, self.hall.infos())
        return self._seen[1]

    def touched(self) -> None:
        """Somebody changed something."""
        self._writes += 1


class NodeCards:
    """`PowerActuator` over the cards of one node."""

    def __init__(self, view: HallView, gpus: Collection[GpuId]) -> None:
        self.view, self.gpus = view, tuple(gpus)

    def discover(self) -> Mapping[GpuId, GpuInfo]:
        """The node's cards that are on the bus. AdapterError when none is."""
        infos = self.view.infos()
        found = {gpu: infos[gpu] for gpu in self.gpus if gpu in infos}
        if not found:
            raise AdapterError("no card answers")
        return found

    def enforced(self, gpus: Collection[GpuId]) -> Mapping[GpuId, float]:
        """Enforced limits in W."""
        infos = self.view.infos()
        return {gpu: infos[gpu].enforced_w for gpu in gpus if gpu in infos}

    def apply(self, caps_w: Mapping[GpuId, int], lease: Lease) -> Receipt:
        """Set these limits."""
        return self.release(caps_w)

    def release(self, limits_w: Mapping[GpuId, float]) -> Receipt:
        """Give these limits back."""
        receipt = self.view.hall.set_limits({gpu: w for gpu, w in limits_w.items() if gpu in self.gpus})
        self.view.touched()
        return receipt


class Disk(AgentFiles):
    """What an agent keeps, as bytes on a disk would be: nobody else's object."""

    def __init__(self) -> None:
        self.boot = f"boot-{next(_BOOTS)}"
        self._kept: tuple[Found, Held] = (Found(), Held())

    def load(self) -> tuple[Found, Held]:
        """What was kept; lease and trajectory only within one boot."""
        found, held = copy.deepcopy(self._kept)
        if held.boot != self.boot:
            held = Held()
        if found.boot != self.boot:
            found.steps, found.hold_until = [], 0.0
        return found, held

    def save_found(self, found: Found) -> None:
        """Keep it."""
        found.boot = self.boot
        self._kept = (copy.deepcopy(found), self._kept[1])

    def save_lease(self, held: Held) -> None:
        """Keep it."""
        self._kept = (self._kept[0], held)

    def reboot(self) -> None:
        """The machine starts anew."""
        self.boot = f"boot-{next(_BOOTS)}"


class Node:
    """One node: its cards, its disk, and its agent while that runs."""

    def __init__(self, name: str, view: HallView, gpus: Collection[GpuId], wires: Wires, clock: VirtualClock) -> None:
        self.name, self._view, self._wires, self._clock = name, view, wires, clock
        self.cards, self.disk = NodeCards(view, gpus), Disk()
        self.core: AgentCore | None = None
        self._ear: Ear | None = None
        self._client = LocalClient(wires, name)
        self.start()

    @property
    def heard(self) -> bool:
        """Whether orders reach it."""
        return self.core is not None and self.name not in self._wires.cut

    def start(self) -> None:
        """The agent's process begins, over whatever its predecessor left on disk."""
        self.core = AgentCore(self.cards, self.disk, AgentSettings(tick_s=TICK_S), self._clock.monotonic)
        news = News(self._clock.monotonic)
        self._ear = Ear(self.core, self.name, answer, TICK_S, _at_once, self._wall, news)
        self._wires.at_once(self._ear.listen(self._client))  # type: ignore[arg-type]
        self.reconnect()

    def reconnect(self) -> None:
        """On the bus (again): take what waited."""
        if self._ear is not None and self.name not in self._wires.cut:
            self._wires.at_once(self._ear.catch_up(self._client))  # type: ignore[arg-type]

    def kill(self) -> None:
        """The agent's process ends, its cards stay as they are."""
        self._wires.leave(self.name)
        self.core = self._ear = None

    def crash(self) -> None:
        """The machine goes down, its cards with it."""
        self.kill()
        for gpu in self.cards.gpus:
            self._view.hall.fail(gpu, Reason.GPU_LOST)
        self._view.touched()

    def boot(self) -> None:
        """The machine comes back: cards at their default limits, a new boot, the agent from its disk."""
        for gpu in self.cards.gpus:
            self._view.hall.fail(gpu, None)
            self._view.hall.reset_limit(gpu)
        self._view.touched()
        self.disk.reboot()
        self.start()

    def tick(self) -> None:
        """A second of the agent: enforce, and tell."""
        if self.core is None or self._ear is None:
            return
        try:
            self.core.tick()
        except AdapterError:
            return
        self._wires.at_once(self._ear.tell(self._client))  # type: ignore[arg-type]

    def _wall(self) -> float:
        return self._clock.now().timestamp()


async def _at_once(work: Callable[[], T]) -> T:
    """Simulated cards never block."""
    return work()
