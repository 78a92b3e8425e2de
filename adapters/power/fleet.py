"""GPU power of many nodes: one request a node over NATS, all at the same time, answered with the enforced limits.

A node that doesn't answer fails alone: its GPUs are named, the others are served. Its own agent keeps to the lease that
it has, then follows the trajectory that lies in the key-value bucket, then releases.
"""

from __future__ import annotations

import asyncio
import threading
import time
from collections.abc import Callable, Collection, Mapping, Sequence, Sized
from contextlib import suppress
from dataclasses import asdict, replace
from typing import Any

from nats.aio.client import Client
from nats.aio.msg import Msg
from nats.errors import Error as NatsError

from adapters.bus import Bus
from adapters.bus_copies import Copies
from adapters.bus_pace import GATHER_S
from adapters.bus_settings import BusSettings
from adapters.ports import AdapterError, ClockReceipt, Contested, GpuId, GpuInfo, Lease, Receipt
from adapters.power import fleet_wire, wire
from adapters.power.fleet_answers import Tally, Unheard, answer_of, refusals, with_absent
from adapters.power.fleet_ask import NOT_ASKED, Message, Questions
from adapters.power.fleet_post import TrajectoryPost
from adapters.power.fleet_roll import Ordered, Roll
from adapters.power.fleet_wire import NodeState
from adapters.power.receipts import UNKNOWN_GPU, kept_notes
from optimizer.reasons import Reason

HELLO_S = 1.0
"""How long a call to all nodes waits for the last answer after the one before, and `NODE_S` more for each so far: a
thousand nodes on few cores speak in bursts."""

LONGEST_HELLO_S = 120.0
"""A call to all nodes ends by itself long before; this is for a bus that hangs."""

NODE_S = 0.001
"""What each node adds to the time that answers may take: the daemon reads them one after the other."""

LATE = 2.0 / 3.0
"""All nodes are told of a lease again at the latest when this share of it has passed."""


class FleetPower:
    """`PowerActuator` and `TrajectoryHolder` over all nodes that answer; calls end soon after `deadline_s`, with some
    more for each thousand nodes."""

    hello_s = HELLO_S

    def __init__(
        self,
        settings: BusSettings,
        deadline_s: float = 3.0,
        nodes: Sequence[str] = (),
        replicas: int = 1,
        clock: Callable[[], float] = time.monotonic,
        wall: Callable[[], float] = time.time,
        bus: Bus | None = None,
    ) -> None:
        """`nodes`: names that must be there (empty: whoever answers). `replicas` of the trajectories' bucket: 3 in a
        cluster. `wall` tells UTC seconds; `bus` is used in place of one of its own, and must be told who listens."""
        self._deadline_s, self._expected, self._clock = deadline_s, tuple(nodes), clock
        self._wall = wall
        self._roll = Roll(clock)
        self._greeted: set[asyncio.Queue[tuple[str, dict[GpuId, GpuInfo]]]] = set()
        self._epoch: int | None = None
        self._reasserted = 0
        self._renewed_at = float("-inf")
        self._ordered: dict[str, Ordered] = {}
        self._mute: set[str] = set()
        self._back: set[str] = set()
        self._gone: set[str] = set()  # did not answer, or the server says that nobody is there
        self._lock = threading.Lock()
        self._unpack: set[str] = set()
        self._questions = Questions(lambda: self.bus.client, deadline_s, self._on_late)
        self._post = TrajectoryPost(
            replicas, lambda all_, share: self._questions.ask(all_, share * self._patience_s(all_)), self._permit
        )
        self.permit: Callable[[], None] = lambda: None
        """Raises AdapterError when this daemon may not order anything: asked before each order leaves."""
        self.bus = bus or Bus(settings, self.listen, GATHER_S)

    @property
    def copies(self) -> Copies:
        """How many servers keep the trajectories."""
        return self._post.copies

    def _permit(self) -> None:
        self.permit()

    # ------------------------------------------------------------ the port
    def speak_for(self, epoch: int) -> None:
        """Name this epoch in all that carries no lease; each order's own from then on."""
        self._epoch = epoch

    def discover(self) -> Mapping[GpuId, GpuInfo]:
        """Every GPU of every node that answers now. AdapterError when no server or no node does."""
        self.bus.wait_connected(self._deadline_s)
        found: dict[GpuId, GpuInfo] = {}
        last_s = self._deadline_s if self._expected else self.hello_s
        for infos in self.bus.call(self._everybody(len(self._expected), last_s), LONGEST_HELLO_S):
            found.update(infos)
        if not found:
            raise AdapterError(
                f"NATS at {self.bus.settings.place}: no node answers; is `gridpace agent --fleet` running?"
            )
        return found

    def enforced(self, gpus: Collection[GpuId]) -> Mapping[GpuId, float]:
        """Enforced limit in W of those of these GPUs whose nodes told it since their last order: each tells it of
        itself, again as soon as it changes. AdapterError when none tells any."""
        self.bus.wait_connected(self._deadline_s)
        found: dict[GpuId, float] = {}
        with self._lock:
            told = [state for state in self._roll.fresh().values() if state.limit_w is not None]
            for state in told:
                if self._roll.obeyed(state, self._ordered.get(state.node)):
                    found.update(state.enforced_w)
        if not told:
            raise AdapterError(f"NATS at {self.bus.settings.place}: no node tells its limits")
        return {gpu: found[gpu] for gpu in gpus if gpu in found}

    def apply(self, caps_w: Mapping[GpuId, int], lease: Lease) -> Receipt:
        """Set these limits, each node its own, and renew the lease of all caps on all nodes."""
        started = self._clock()
        self._epoch = lease.epoch
        per_node, absent = self._by_node(caps_w)
        body = asdict(lease)
        asks = {node: {"op": "apply", "caps_w": caps, "lease": body} for node, caps in per_node.items()}
        with self._lock:
            self._ordered.update(dict.fromkeys(asks, (lease.epoch, lease.sequence, started)))
        receipt = self._ask_all(asks, *self._renewals(asks, lease), prompt=True)
        return with_absent(replace(receipt, seconds=self._clock() - started), absent)

    def _renewals(self, asks: Mapping[str, object], lease: Lease) -> tuple[bytes, bytes]:
        """What to tell all nodes of a lease before these orders, which renew it too, and behind them. Who was never
        heard of may have one of ours all the same, so it is told whatever is asked before that one ends; where all who
        are known are asked, behind: each node of thousands would have two things to do at once."""
        now = self._clock()
        with self._lock:
            all_asked = bool(asks) and self._roll.last.keys() <= asks.keys()
        if all_asked and now - self._renewed_at < lease.expires_in_s * LATE:
            return b"", b""
        self._renewed_at, told = now, wire.encode({"lease": asdict(lease)})
        return (b"", told) if all_asked else (told, b"")

    def release(self, limits_w: Mapping[GpuId, float]) -> Receipt:
        """Give back the limits that each agent found; for a GPU that it never capped, the limit named here."""
        per_node, absent = self._by_node(limits_w)
        asks = {node: {"op": "release", "limits_w": limits, "epoch": self._epoch} for node, limits in per_node.items()}
        if asks:
            self.bus.call(self._post.forget(self.bus, list(asks)), self._patience_s(asks))
        return with_absent(self._ask_all(asks), absent)

    def hold(self, steps: Sequence[tuple[float, Mapping[GpuId, int]]], until_s: float, lease: Lease) -> None:
        """Put every node's trajectory into the bucket, from where nodes that are there take it at once and others when
        they come back. AdapterError when the bucket can't be written."""
        now, cards = self._wall(), self._cards(steps)

        def told(node: str) -> bytes:
            plan = [(offset, {gpu: caps[gpu] for gpu in cards[node] if gpu in caps}) for offset, caps in steps]
            mine = tuple((offset, caps) for offset, caps in plan if caps)
            return fleet_wire.trajectory_out(mine, until_s, lease, now, packed=node in self._unpack)

        if cards:
            most_s = self._patience_s(cards)
            self.bus.call(self._post.hand_over(self.bus, list(cards), told, most_s), 3.0 * most_s)

    def make_way(self) -> None:
        """Trajectories wait until the order that comes has left."""
        self._post.make_way()

    def _cards(self, steps: Sequence[tuple[float, Mapping[GpuId, int]]]) -> dict[str, dict[GpuId, Any]]:
        """By node: its cards in these steps. Of thousands of cards each is looked for once, not in every step."""
        named: dict[GpuId, int] = {}
        for _, caps in steps:
            if not caps.keys() <= named.keys():
                named.update(caps)
        return self._by_node(named)[0]

    def states(self) -> dict[str, NodeState]:
        """Every node heard of lately, as it told of itself."""
        with self._lock:
            return self._roll.fresh()

    def lock(self, clocks_mhz: Mapping[GpuId, int], lease: Lease) -> ClockReceipt:
        """Hold these SM clocks down, each node its own."""
        self._epoch = lease.epoch
        per_node, absent = self._by_node(clocks_mhz)
        body = asdict(lease)
        asks = {node: {"op": "lock", "clocks_mhz": part, "lease": body} for node, part in per_node.items()}
        return self._about_clocks(asks, absent, prompt=True)

    def unlock(self, gpus: Collection[GpuId]) -> ClockReceipt:
        """Let these SM clocks go free."""
        per_node, absent = self._by_node(dict.fromkeys(gpus, 0))
        asks = {n: {"op": "unlock", "gpus": list(part), "epoch": self._epoch} for n, part in per_node.items()}
        return self._about_clocks(asks, absent)

    def _about_clocks(
        self, asks: Mapping[str, Mapping[str, Any]], absent: Sequence[GpuId], *, prompt: bool = False
    ) -> ClockReceipt:
        """All nodes' answers about clocks as one. AdapterError when there is no server."""
        if not self.bus.connected:
            raise self.bus.unreachable()
        most_s = 2.0 * self._patience_s(asks) + 1.0
        answers = self.bus.call(self._gather(asks, prompt=prompt), most_s) if asks else []
        clocks: dict[GpuId, int] = {}
        failures: dict[GpuId, Reason] = dict.fromkeys(absent, UNKNOWN_GPU)
        for ask, answer in zip(asks.values(), answers, strict=True):
            if isinstance(answer, str) or answer.get("ok") is not True:
                failures.update(dict.fromkeys(ask.get("clocks_mhz") or ask.get("gpus") or (), Reason.NODE_LOST))
                continue
            part = wire.clock_receipt_in(answer["result"])
            clocks.update(part.clock_mhz)
            failures.update(part.failures)
        return ClockReceipt(clocks, failures)

    def contested(self) -> Contested:
        """What became of the caps, as the nodes told it within the last seconds; nobody is asked."""
        with self._lock:
            states, refused, has = self._roll.contested(), self._roll.refused(), self._roll.has
            yielded = {g: watts for state in states for g, watts in state.yielded_w.items() if has(state.node, g)}
            lowered = frozenset(gpu for state in states for gpu in state.lowered if has(state.node, gpu))
            clocks = {g: mhz for state in states for g, mhz in state.yielded_mhz.items() if has(state.node, g)}
            ignoring = frozenset(gpu for state in states for gpu in state.ignoring if has(state.node, gpu))
            kept = {g: watts for state in states for g, watts in state.kept_w.items() if has(state.node, g)}
        notes = (*refusals(refused), *kept_notes(kept), *self.copies.notes)
        return Contested(yielded, self._reasserted, lowered, clocks, notes, ignoring)

    def heard(self, gpus: Collection[GpuId]) -> Collection[GpuId]:
        """Those of these GPUs whose node speaks again (or for the first time), had no order since, and would get one
        now: not while it may be at work on the one before it spoke."""
        if not self._back:  # as good as always
            return set()
        busy, states = self._questions.at_work(), self.states()
        with self._lock:
            back = self._back - busy
        return {gpu for node in back if node in states for gpu in states[node].draw_w}.intersection(gpus)

    def take_back(self) -> None:
        """Let every agent cap the GPUs again that it left to another writer."""
        ask, states = {"op": "take_back", "epoch": self._epoch}, self.states()
        asks = {node: ask for node, state in states.items() if state.yielded_w or state.yielded_mhz}
        if asks:
            self.bus.call(self._gather(asks), self._patience_s(asks))

    def silent(self) -> tuple[str, ...]:
        """Nodes that were known or are expected, and say nothing."""
        with self._lock:
            never = [node for node in self._expected if node not in self._roll.last]
            return tuple(sorted({*self._roll.stale(), *never}))

    def close(self) -> None:
        """Hang up; the agents keep to their leases."""
        self.bus.close()

    # ------------------------------------------------------------ in the bus's loop
    async def listen(self, client: Client) -> None:
        """Hear the states; once a connection is new, its bucket is looked up again."""
        self._post.renew()
        if not self._states_heard:
            self._states_heard = True
            await client.subscribe(fleet_wire.STATES, cb=self._on_state)

    _states_heard = False

    async def _on_state(self, message: Msg) -> None:
        node = message.subject.rpartition(".")[2]  # the server lets nobody speak under another's name
        infos = self._take(message.data, node)
        if infos is not None:
            for greeted in self._greeted:
                greeted.put_nowait((node, infos))

    def _take(self, data: bytes, node: str) -> dict[GpuId, GpuInfo] | None:
        """Keep what a node told of itself; its GPUs, where all of them are told. What can't be so is left out."""
        try:
            state, infos = fleet_wire.state_in(data)  # of all that an idle daemon does most is to read this
        except wire.BadRequest:
            return None
        with self._lock:
            if not self._roll.believes(state, node):
                return None
            before = self._roll.last.get(node)
            self._reasserted += max(0, state.reasserted - before.reasserted) if before is not None else 0
            self._speaks(node, new=before is None)
            self._questions.speaks(node)
            self._roll.hear(state)
            if infos is not None:
                (self._unpack.add if state.unpacks else self._unpack.discard)(node)
        return infos

    def _speaks(self, node: str, *, new: bool = False) -> None:
        """A node that was away is there again. Under the lock."""
        if new or node in self._gone:
            self._back.add(node)
        self._mute.discard(node)
        self._gone.discard(node)

    def _on_late(self, node: str) -> None:
        with self._lock:
            self._speaks(node)

    async def _everybody(self, expected: int, last_s: float) -> list[dict[GpuId, GpuInfo]]:
        """The GPUs of all nodes, which tell them under their own names; it ends when so many as are `expected` (0:
        nobody knows) have spoken, or nobody does any more for `last_s`, and some more for each that did."""
        heard: asyncio.Queue[tuple[str, dict[GpuId, GpuInfo]]] = asyncio.Queue()
        answers: dict[str, dict[GpuId, GpuInfo]] = {}
        quiet_s = max(self._deadline_s, self.hello_s)
        self._greeted.add(heard)
        try:
            await self.bus.client.publish(fleet_wire.HELLO, b"")
            while not expected or len(answers) < expected:
                node, infos = await asyncio.wait_for(heard.get(), quiet_s)
                answers[node] = infos
                quiet_s = last_s + NODE_S * len(answers)
        except TimeoutError:
            pass
        finally:
            self._greeted.discard(heard)
        return list(answers.values())

    async def _gather(
        self,
        asks: Mapping[str, Mapping[str, Any]],
        before: bytes = b"",
        behind: bytes = b"",
        read: Callable[[int, Msg], Any] = lambda _, told: answer_of(told),
        prompt: bool = False,
    ) -> list[Any]:
        """Ask all nodes at once, with these renewals; each one's answer as `read`, or (a text) why there is none.
        `prompt`: the fast loop waits, so that nobody is waited for of whom nothing is to be expected."""
        self.permit()
        if before:
            await self.bus.client.publish(fleet_wire.RENEW, before)
        messages: list[Message] = [(fleet_wire.ask_subject(node), ask, None) for node, ask in asks.items()]
        nodes, mute = list(asks), self._mute & asks.keys()
        self._post.orders += 1
        try:
            found = await self._questions.ask(messages, self._patience_s(asks), read, nodes, mute, prompt)
        finally:
            self._post.orders -= 1
        with self._lock:  # before anything else is waited for: an answer that is late comes after this
            if self._back:  # an order about clocks says nothing of caps: those it has still to get
                had = (n for n, answer in zip(nodes, found, strict=True) if answer is not NOT_ASKED)
                self._back.difference_update(node for node in had if asks[node]["op"] in {"apply", "release"})
            self._mute |= {node for node, answer in zip(nodes, found, strict=True) if isinstance(answer, Unheard)}
            self._gone |= {node for node, answer in zip(nodes, found, strict=True) if isinstance(answer, str)}
        with suppress(AdapterError, NatsError, OSError):  # orders were obeyed, whoever may renew now
            if behind:
                self.permit()
                await self.bus.client.publish(fleet_wire.RENEW, behind)
        return found

    # ------------------------------------------------------------ asking many
    def _patience_s(self, asks: Sized) -> float:
        """How long so many answers may take."""
        return self._deadline_s + NODE_S * len(asks)

    def _by_node(self, values: Mapping[GpuId, Any]) -> tuple[dict[str, dict[GpuId, Any]], list[GpuId]]:
        """Values by node, and GPUs of which no node is known."""
        with self._lock:
            return self._roll.by_node(values)

    def _ask_all(
        self, asks: Mapping[str, Mapping[str, Any]], before: bytes = b"", behind: bytes = b"", prompt: bool = False
    ) -> Receipt:
        """All answers as one receipt, added up while they come. AdapterError when there is no server."""
        if not self.bus.connected:
            raise self.bus.unreachable()
        tally = Tally(asks, self._roll.has)
        gathering = self._gather(asks, before, behind, tally.take, prompt)
        return tally.receipt(self.bus.call(gathering, 2.0 * self._patience_s(asks) + 1.0))
