"""Which node said what of itself last, and when: the daemon asks several times a second, of thousands of nodes.

Why so arranged: to look at every node whenever somebody asks is a good part of what an idle daemon costs. So nodes
stand in the order in which they spoke, the silent ones first, and those of which something must be told stand apart.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable, Mapping
from typing import Any

from adapters.ports import GpuId
from adapters.power.fleet_wire import NodeState

STALE_S = 10.0
"""A node whose last word is older counts as lost."""

Ordered = tuple[int, int, float]
"""Epoch and sequence of a node's last order, and when it left (monotonic)."""


class Roll:
    """The nodes that were ever heard. Not thread-safe: whoever has it holds a lock."""

    def __init__(self, clock: Callable[[], float]) -> None:
        """`clock` tells monotonic seconds."""
        self._clock = clock
        self.last: dict[str, NodeState] = {}
        """The last word of each node, however old."""
        self._at: OrderedDict[str, float] = OrderedDict()
        self._contested: dict[str, NodeState] = {}
        self.cards: dict[GpuId, str] = {}
        """Which node has a card."""
        self._refused: dict[str, tuple[str, float]] = {}

    def believes(self, state: NodeState, node: str) -> bool:
        """Whether to take this word of who speaks as `node`, which the server vouches for: whoever names itself
        otherwise, or claims a card that another node has and tells of, could have that card's orders sent to itself."""
        why = f"calls itself {state.node!r}" if state.node != node else self._claim(state)
        if why is not None:
            self._refused[node] = (why, self._clock())
        return why is None

    def refused(self) -> dict[str, str]:
        """Nodes of which a word was not believed lately, and why."""
        if self._refused:
            since = self._clock() - STALE_S
            self._refused = {node: (why, at) for node, (why, at) in self._refused.items() if at >= since}
        return {node: why for node, (why, _) in self._refused.items()}

    def _claim(self, state: NodeState) -> str | None:
        """Why a node's cards can't all be its own."""
        if {*map(self.cards.get, state.draw_w)} == {state.node}:  # as good as always
            return None
        now = self._clock()
        for gpu in state.draw_w:
            owner = self.cards.get(gpu, state.node)
            if owner != state.node and gpu in self.last[owner].draw_w and now - self._at[owner] <= STALE_S:
                return f"claims {gpu}, which {owner} has"
        return None

    def has(self, node: str, gpu: GpuId) -> bool:
        """Whether a node may speak of this card: it is its own, or nobody's."""
        return self.cards.get(gpu, node) == node

    def by_node(self, values: Mapping[GpuId, Any]) -> tuple[dict[str, dict[GpuId, Any]], list[GpuId]]:
        """Values by node, and GPUs of which no node is known."""
        per_node: dict[str, dict[GpuId, Any]] = {}
        absent: list[GpuId] = []
        before, mine = None, dict[GpuId, Any]()  # the cards of a node mostly follow each other
        for (gpu, value), node in zip(values.items(), map(self.cards.get, values), strict=True):
            if node is None:
                absent.append(gpu)
                continue
            if node != before:
                before, mine = node, per_node.setdefault(node, {})
            mine[gpu] = value
        return per_node, absent

    def hear(self, state: NodeState) -> None:
        """A node spoke now."""
        node = state.node
        self.last[node] = state
        self._at[node] = self._clock()
        self._at.move_to_end(node)
        self.cards.update(dict.fromkeys(state.draw_w, node))
        if state.yielded_w or state.lowered or state.yielded_mhz or state.kept_w:
            self._contested[node] = state
        else:
            self._contested.pop(node, None)

    def stale(self) -> list[str]:
        """Nodes that have said nothing for too long."""
        now, found = self._clock(), []
        for node, at in self._at.items():
            if now - at <= STALE_S:
                break
            found.append(node)
        return found

    def fresh(self) -> dict[str, NodeState]:
        """The last word of every node heard of lately."""
        states = self.last.copy()
        for node in self.stale():
            del states[node]
        return states

    def contested(self) -> list[NodeState]:
        """Of these the nodes that left cards to another writer, or found some held lower."""
        if not self._contested:
            return []
        stale = set(self.stale())
        return [state for node, state in self._contested.items() if node not in stale]

    def obeyed(self, state: NodeState, last: Ordered | None) -> bool:
        """Whether a node said this after its last order, so that its limits can be compared with it: it knows the
        order's number, or (after a reboot it knows none) speaks long after it."""
        if last is None:
            return True
        epoch, sequence, at = last
        return (state.epoch, state.sequence) >= (epoch, sequence) or self._at[state.node] - at > STALE_S
