"""What counts as broken in a storm, judged by the twin's physics alone: the controller's own excuses are not asked.

A second is above a *reachable* limit when the energy at the site's connection in that second is more than the strictest
cap of every acknowledged event and of the site, although the hall could have drawn less: with every card that hears
orders at the lowest cap that its pool's floor leaves (or the card's own lowest), preemptible jobs stopped, and every
other card as it is. Where even that is above the cap, it is what must be drawn. Ramps in are
left out. So are the seconds in which something broke and the one after, which no controller that looks once a second
can know of before; and where power comes back (a machine, a card, what a board's own limit held down) while no daemon
runs, as much as those cards draw more, until a lease's length after the daemon's death: till then the other nodes hold
what was ordered without it, and nobody is there who could know. What the nodes' trajectories do from then on is judged.

A card is below its floor by permission while an emergency allows it; on a node that is cut off, one that its node had
heard of, for as long as it was to last by then: that it was withdrawn since nobody can have told.

Where even the least that can be drawn is above a cap, the daemon that runs must have said so: no operator shall learn
it from a breaker, and no utility from its meter.

Power that caps give back comes by the site's ramp, with and without a daemon: see `storm_ramp`.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from typing import TYPE_CHECKING

import numpy as np

from adapters.ports import EventMessage, GpuId, GpuInfo
from benchmarks.support.storm_ramp import RampWatch
from optimizer.domain import GpuPool, GridEvent, Work
from optimizer.envelope import event_limit_kw
from optimizer.reasons import Reason

if TYPE_CHECKING:
    from benchmarks.support.storm_nodes import Node
    from benchmarks.support.storm_world import World

GRACE = timedelta(seconds=2)
"""From a break until the next order can have been obeyed."""
LEASE = timedelta(seconds=30)
"""Of the caps, as the world's config has it; nobody renews it once the daemon is dead."""
ROOM = 0.01
"""The least that can be drawn is reckoned from a second's end, and what was drawn is the mean over it."""
ROUND_W = 1.5
"""Limits are whole watts."""
HALF, SECOND = timedelta(seconds=0.5), timedelta(seconds=1)
TOLD_S = 5
"""Seconds in which a limit that is out of reach must have been told of."""
RELEASE_S = 60.0
"""A ramp of 300 W at 10 W a second, twice."""


OUT_OF_REACH = frozenset({Reason.EVENT_UNREACHABLE, Reason.LIMIT_UNREACHABLE})
"""By which it is told."""


@dataclass
class Findings:
    """What was found, and a line for each of the first of them."""

    samples: int = 0
    bound: int = 0
    above_limit: int = 0
    excused: int = 0
    unreachable: int = 0
    untold: int = 0
    floors: int = 0
    past_lease: int = 0
    not_restored: int = 0
    lost: int = 0
    too_fast: int = 0
    worst_kw: float = 0.0
    lines: list[str] = field(default_factory=list)

    @property
    def bad(self) -> int:
        """Everything that must not be."""
        broken = self.above_limit + self.floors + self.past_lease + self.not_restored + self.lost + self.too_fast
        return broken + self.untold

    def say(self, line: str) -> None:
        """Keep the first few."""
        if len(self.lines) < 12:
            self.lines.append(line)


def lowest_cap_w(pool: GpuPool, floored: bool) -> float:
    """The lowest whole cap at which a card keeps its pool's floor, on the measured curve itself; the card's own lowest
    where there is no floor."""
    if not floored or pool.floor <= 0 or pool.work is Work.BATCH:
        return pool.min_cap_w
    caps = np.array([point.cap_w for point in pool.curve.points])
    speeds = np.array([point.throughput for point in pool.curve.points])
    whole = np.arange(np.ceil(pool.min_cap_w), pool.max_cap_w + 1)
    keeps = whole[np.interp(whole, caps, speeds) >= pool.floor * speeds[-1] - 1e-9]
    return float(keeps[0]) if len(keeps) else pool.max_cap_w


def _allows_deep(event: GridEvent, moment: datetime, room: timedelta) -> bool:
    """Whether floors may be broken for it: from its start to the end of its ramp out, with some room."""
    over = event.end + timedelta(seconds=event.ramp_out_s)
    return event.emergency and event.start - room <= moment < over + room


class Judge:
    """Watches one world, a second at a time."""

    def __init__(self, world: World) -> None:
        self.world, self.found = world, Findings()
        self._pools = {model.pool.id: model.pool for model in world.models.values()}
        self._before = world.hall.counters()
        self._broken_at = world.clock.now() - GRACE
        self._releasing: dict[str, float] = {}
        self._promised: tuple[GridEvent, ...] = ()
        self._returned: dict[GpuId, float] = {}
        self._leases_end_at = self._broken_at
        self._knows: dict[str, tuple[GridEvent, ...]] = {}
        self._away: set[str] = set()
        self._died: dict[str, datetime] = {}
        self._back_at: dict[GpuId, datetime] = {}
        self._withdrawals: set[str] = set()
        self._ramp = self._ramp_watch(world)
        self._silent_s = 0
        self.foreign: set[GpuId] = set()
        """Cards on which somebody else has written."""
        self.found_w = {gpu: info.limit_w for gpu, info in world.view.infos().items()}

    def broke(self) -> None:
        """Something broke, came back or was said just now."""
        self._broken_at = self.world.clock.now()

    def returned(self, gpus: Iterable[GpuId], drawn_w: Mapping[GpuId, float] | None = None) -> None:
        """Power came back that was not there when the last orders were given; `drawn_w`: what was there of it."""
        gpus = tuple(gpus)
        self._back_at |= dict.fromkeys(gpus, self.world.clock.now())
        if self.world.parts is None:
            before = {gpu: drawn_w.get(gpu, 0.0) if drawn_w is not None else 0.0 for gpu in gpus}
            self._returned |= {gpu: min(watts, self._returned.get(gpu, watts)) for gpu, watts in before.items()}

    def second(self) -> None:
        """Judge the second that has just passed."""
        world, now = self.world, self.world.clock.now()
        if world.parts is not None:
            self._returned.clear()
        after, before = world.hall.counters(), self._before
        self._before = after
        import_kw = (after.import_kwh["lab"] - before.import_kwh["lab"]) * 3600.0
        it_kw = sum(after.energy_kwh[pool] - before.energy_kwh[pool] for pool in after.energy_kwh) * 3600.0
        infos, middle = world.view.infos(), now - HALF
        self.found.samples += 1
        limit_kw, whose, deep = self._limit(middle)
        unreachable = self.found.unreachable
        if limit_kw < float("inf"):
            self.found.bound += 1
            if import_kw > limit_kw + 1e-6:
                self._above(import_kw, it_kw, limit_kw, whose, deep, infos, now)
        self._silent_s = self._silent_s if self.found.unreachable > unreachable else 0
        self._rise(import_kw, infos, now)
        self._floors(infos, middle)
        self._leases(infos)
        self._away = {node.name for node in world.nodes if not node.heard}
        self._knows.update({node.name: world.events() for node in world.nodes if node.heard})

    def _ramp_watch(self, world: World) -> RampWatch:
        site, pools = world.config.sites[0], self._pools
        pool_of = {gpu: pools[name] for name, gpus in world.hall.gpus_of.items() for gpu in gpus}
        floored = {name: pool for name, pool in pools.items() if pool.work is not Work.BATCH and pool.floor > 0}
        floors_w = {name: lowest_cap_w(pool, floored=True) for name, pool in floored.items()}
        return RampWatch(site.ramp_kw_per_min.up or float("inf"), site.pue.base, pool_of, floors_w)

    def _rise(self, import_kw: float, infos: Mapping[GpuId, GpuInfo], now: datetime) -> None:
        """Power that caps give back comes by the site's ramp, whoever gives it back."""
        broken = now - self._broken_at < GRACE
        over_kw = 0.0 if broken else self._ramp.risen_kw(import_kw, infos, self.foreign)
        # What was done about a break, a tick after it, shows in the second that ends with the grace.
        self._ramp.see(import_kw, infos, broken=now - self._broken_at <= GRACE)
        if over_kw > 0:
            self.found.too_fast += 1
            alive = "" if self.world.parts is not None else ", daemon down"
            self.found.say(f"{self.world.at_s:>5} s  {import_kw:.3f} kW, {over_kw:.3f} more than the ramp up{alive}")

    def _limit(self, middle: datetime) -> tuple[float, str, bool]:
        """The strictest cap, whose it is, and whether an emergency allows to go below the floors. Ramps in and what is
        steeper than a second's move are left out."""
        caps = [(self.world.config.sites[0].limit_kw or float("inf"), "site")]
        if self.world.operator_kw is not None:
            caps.append((self.world.operator_kw, "operator"))
        events = self.world.events()
        for event in events:
            if event.start + timedelta(seconds=event.ramp_in_s) <= middle:
                caps.append((event_limit_kw(event, middle), f"{event.id} v{event.version}"))
        return (*min(caps), any(_allows_deep(event, middle, timedelta(0)) for event in events))

    def reachable_kw(self, infos: Mapping[GpuId, GpuInfo], beside_kw: float, pue: float, deep: bool) -> float:
        """The least that the site could draw: `beside_kw` is other IT; cooling by PUE."""
        world, it_w = self.world, 0.0
        yielded = world.yielded()
        for pool_id, gpus in world.hall.gpus_of.items():
            pool = self._pools[pool_id]
            cap_w = lowest_cap_w(pool, floored=not deep)
            caps = [point.cap_w for point in pool.curve.points]
            draws = [point.draw_w for point in pool.curve.points]
            kept = world.kept_gpus(pool_id) if pool.work is Work.BATCH else 0
            for gpu in gpus:
                info = infos.get(gpu)
                if info is None:
                    it_w += pool.curve.idle_w
                    continue
                hears = world.node_of(gpu).heard and gpu not in yielded
                busy = info.utilisation or 0.0
                if pool.work is Work.BATCH:
                    kept, busy = (kept - 1, busy) if kept > 0 and busy > 0 else (kept, 0.0)
                if hears:
                    it_w += pool.curve.idle_w + busy * (float(np.interp(cap_w, caps, draws)) - pool.curve.idle_w)
                elif pool.work is Work.BATCH:
                    it_w += pool.curve.idle_w + busy * (info.draw_w - pool.curve.idle_w)
                else:
                    it_w += info.draw_w
        return (it_w / 1000.0 + beside_kw) * pue

    def _above(
        self,
        import_kw: float,
        it_kw: float,
        limit_kw: float,
        whose: str,
        deep: bool,
        infos: Mapping[GpuId, GpuInfo],
        now: datetime,
    ) -> None:
        other_kw, pue = self.world.config.sites[0].other_it_kw, self.world.config.sites[0].pue.base
        least_kw = self.reachable_kw(infos, other_kw, pue, deep)
        if self.world.script.cooling_s:  # the heat of a minute ago is still being cooled
            least_kw += max(0.0, import_kw - (it_kw + other_kw) * pue)
        unknown_kw = 0.0
        if now < self._leases_end_at + GRACE:
            back = {gpu: was_w for gpu, was_w in self._returned.items() if gpu in infos}
            unknown_kw = sum(max(0.0, infos[gpu].draw_w - was_w) for gpu, was_w in back.items()) / 1000.0 * pue
        if now - self._broken_at < GRACE or import_kw <= limit_kw + unknown_kw:
            self.found.excused += 1
            return
        if limit_kw < least_kw and import_kw <= least_kw * (1 + ROOM) + unknown_kw:
            self.found.unreachable += 1
            self._told(import_kw, limit_kw, least_kw)
            return
        self.found.above_limit += 1
        self.found.worst_kw = max(self.found.worst_kw, import_kw - max(limit_kw, least_kw))
        alive = "" if self.world.parts is not None else ", daemon down"
        self.found.say(
            f"{self.world.at_s:>5} s  {import_kw:.3f} kW, limit {limit_kw:.3f} ({whose}), least {least_kw:.3f}{alive}"
        )

    def _told(self, import_kw: float, limit_kw: float, least_kw: float) -> None:
        """A limit that is clearly out of reach is told of, within some seconds."""
        told = self.world.tick is not None and any(note.code in OUT_OF_REACH for note in self.world.tick.notes)
        silent = self.world.parts is not None and not told and limit_kw < least_kw * (1 - ROOM)
        self._silent_s = self._silent_s + 1 if silent else 0
        if self._silent_s > TOLD_S:
            self.found.untold += 1
            self.found.say(f"{self.world.at_s:>5} s  {import_kw:.3f} kW, limit {limit_kw:.3f} out of reach, none told")

    def _may_go_deep(self, middle: datetime) -> set[GpuId]:
        """Cards that an emergency allows to be below their floor: as the books have it, and on nodes that are away, or
        were a second ago, as the books were when these heard last. Where no agent lives nobody can raise them: what
        was allowed when it died still is; one that just came back may have written what is allowed now."""
        now, allowed = self.world.events(), set()
        for node in self.world.nodes:
            away = not node.heard or node.name in self._away
            if node.core is not None and not away:
                self._died.pop(node.name, None)
            elif node.core is None:
                self._died.setdefault(node.name, middle)
            events = (*now, *self._knows.get(node.name, ())) if away else now
            moments = {self._died.get(node.name, middle), *([middle] if node.core is not None else [])}
            if any(_allows_deep(event, moment, SECOND) for event in events for moment in moments):
                allowed.update(node.cards.gpus)
        return allowed

    def _floors(self, infos: Mapping[GpuId, GpuInfo], middle: datetime) -> None:
        """No card of a pool with a floor may have a limit below it from us. One that was away has what was allowed when
        it was lost, until it could be written to."""
        back = {gpu for gpu, at in self._back_at.items() if middle - at < GRACE}
        allowed = self.foreign | self._may_go_deep(middle) | back
        for pool_id, gpus in self.world.hall.gpus_of.items():
            pool = self._pools[pool_id]
            if pool.work is Work.BATCH or pool.floor <= 0:
                continue
            lowest_w = lowest_cap_w(pool, floored=True)
            for gpu in gpus:
                info = infos.get(gpu)
                if (
                    info is not None
                    and gpu not in allowed
                    and info.limit_w < min(lowest_w, self.found_w[gpu]) - ROUND_W
                ):
                    self.found.floors += 1
                    self.found.say(
                        f"{self.world.at_s:>5} s  {gpu} of {pool_id} has {info.limit_w:.0f} W, floor {lowest_w:.0f} W"
                    )
                    return

    def _leases(self, infos: Mapping[GpuId, GpuInfo]) -> None:
        """A cap in force means an agent that knows until when; a release gets to its end."""
        for node in self.world.nodes:
            if node.core is None:
                self._releasing.pop(node.name, None)
                continue
            status = node.core.status()
            lowered = [
                gpu for gpu in node.cards.gpus
                if gpu in infos and gpu not in self.foreign and infos[gpu].limit_w < self.found_w[gpu] - ROUND_W
            ]  # fmt: skip
            if status["phase"] == "releasing" and lowered:
                self._releasing[node.name] = self._releasing.get(node.name, 0.0) + 1.0
            else:
                self._releasing.pop(node.name, None)
            if (status["phase"] == "free" and lowered) or self._releasing.get(node.name, 0.0) > RELEASE_S:
                self.found.past_lease += 1
                self.found.say(
                    f"{self.world.at_s:>5} s  {node.name} is {status['phase']} with {len(lowered)} cards capped"
                )

    # ------------------------------------------------------------ what was acknowledged
    def acknowledged(self, message: EventMessage, opt: str) -> None:
        """What was answered with yes must be in the books, with the cap that it means."""
        if message.cancelled and opt != "refused":
            self._withdrawals.add(message.id)
        if opt != "in" or message.cancelled or self.world.parts is None:
            return
        held = {(event.id, event.version) for event in self.world.events()}
        if (message.id, message.version) not in held and message.end > self.world.clock.now():
            newer = any(name == message.id for name, _ in held)
            if not newer and message.id not in self._withdrawals:
                self.found.lost += 1
                self.found.say(f"{self.world.at_s:>5} s  {message.id} v{message.version} was agreed and is not held")

    def remember(self) -> None:
        """The daemon is about to be killed: this is what it has promised."""
        self._promised = self.world.events()
        self._leases_end_at = self.world.clock.now() + LEASE

    def remembered(self) -> None:
        """It is back: it must know all that still holds."""
        held, now = set(self.world.events()), self.world.clock.now()
        for event in self._promised:
            over = event.end + timedelta(seconds=event.ramp_out_s + event.rebound_s)
            if event not in held and over > now:
                self.found.lost += 1
                self.found.say(f"{self.world.at_s:>5} s  {event.id} v{event.version} did not survive the daemon")

    def rebooted(self, node: Node) -> None:
        """Cards whose limit nobody had to give back have their default now."""
        assert node.core is not None
        owed, infos = node.core.status()["found_w"], self.world.view.infos()
        self.found_w |= {gpu: infos[gpu].limit_w for gpu in node.cards.gpus if gpu in infos and gpu not in owed}

    def restored(self) -> None:
        """At the end every card has the limit that was found, and nobody holds anything."""
        infos = self.world.view.infos()
        for gpu, limit_w in self.found_w.items():
            if gpu in self.foreign or gpu not in infos:
                continue
            if abs(infos[gpu].limit_w - limit_w) > ROUND_W:
                self.found.not_restored += 1
                self.found.say(f"  end    {gpu} has {infos[gpu].limit_w:.0f} W, found was {limit_w:.0f} W")
        for node in self.world.nodes:
            if node.core is not None and node.core.status()["phase"] != "free":
                self.found.not_restored += 1
                self.found.say(f"  end    {node.name} is {node.core.status()['phase']}")
