"""Which node said what of itself last, and when: the daemon asks several times a second, of thousands of nodes.

Why so arranged: to look at every node whenever somebody asks is a good part of what an idle daemon costs. So nodes
stand in the order in which they spoke, the silent ones first, and those of which something must be told stand apart.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable

from adapters.power.fleet_wire import NodeState

STALE_S = 10.0
"""A node whose last word is older counts as lost."""


class Roll:
    """The nodes that were ever heard. Not thread-safe: whoever has it holds a lock."""

    def __init__(self, clock: Callable[[], float]) -> None:
        """`clock` tells monotonic seconds."""
        self._clock = clock
        self.last: dict[str, NodeState] = {}
        """The last word of each node, however old."""
        self._at: OrderedDict[str, float] = OrderedDict()
        self._contested: dict[str, NodeState] = {}

    def hear(self, state: NodeState) -> None:
        """A node spoke now."""
        node = state.node
        self.last[node] = state
        self._at[node] = self._clock()
        self._at.move_to_end(node)
        if state.yielded_w or state.lowered or state.yielded_mhz:
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
