"""Power of all nodes' cards as the nodes tell it once a second, summed per pool.

Why told and not asked: ten thousand questions a second would be most of the traffic. A node that has been silent for
some seconds is lost, never zero.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Mapping

from adapters.meters.sums import LEAST_SHARE_METERED
from adapters.ports import AdapterError, Clock, GpuId, Reading
from adapters.power.fleet_wire import NodeState

Part = tuple[int, float, int, float]
"""What a node adds to a pool: cards, watts, cards that tell their busy share, their shares."""


class FleetMeter:
    """`Meter` over the states of nodes; `pool_of` says which pool each card belongs to."""

    def __init__(
        self,
        states: Callable[[], Mapping[str, NodeState]],
        clock: Clock,
        pool_of: Mapping[GpuId, str],
        silent: Callable[[], tuple[str, ...]] = tuple,
    ) -> None:
        """`states`: what every node heard of lately told of itself; `silent`: nodes that should be there."""
        self._silent = silent
        self._states, self._clock, self._pool_of = states, clock, dict(pool_of)
        self._sizes = Counter(self._pool_of.values())
        self._heard: dict[str, NodeState] = {}
        self._parts: dict[str, dict[str, Part]] = {pool: {} for pool in self._sizes}
        """By pool and node. Of thousands of nodes few have news in a second."""

    def read(self) -> Reading:
        """One reading; silent nodes and their cards are named in `lost`. AdapterError when no node is heard."""
        states = self._states()
        if not states:
            self._take_in({})
            raise AdapterError("the fleet: no node has told its state lately")
        self._take_in(states)
        seen, pool_kw, busy = Counter[str](), dict[str, float](), dict[str, float]()
        for pool, size in self._sizes.items():
            rows = self._parts[pool].values()
            cards, watts, told, shares = map(sum, zip(*rows, strict=True)) if rows else (0, 0.0, 0, 0.0)
            seen[pool], enough = cards, LEAST_SHARE_METERED * size
            if cards >= enough:
                pool_kw[pool] = watts / cards * size / 1000.0
            if told >= enough:
                busy[pool] = shares / told * size
        lost = () if seen == self._sizes else self._lost(states, pool_kw)
        return Reading(self._clock.now(), pool_kw, {}, {}, (*self._silent(), *lost), busy)

    def cards(self) -> Mapping[GpuId, float]:
        """Draw in W of each card of the nodes that were heard at the last reading."""
        found: dict[GpuId, float] = {}
        for state in self._heard.values():
            found.update(state.draw_w)
        return found

    def _take_in(self, states: Mapping[str, NodeState]) -> None:
        """Count anew what was told since the last reading, and nodes that are not heard any more no longer."""
        before, self._heard = self._heard, dict(states)
        for node in before.keys() - states.keys():
            self._put(node, {})
        for node, state in states.items():
            last = before.get(node)
            if last is state:
                continue
            if last is None or last.draw_w != state.draw_w or last.utilisation != state.utilisation:
                self._put(node, self._added(state))

    def _put(self, node: str, added: Mapping[str, Part]) -> None:
        """What a node adds to each pool, in place of what it added before."""
        for pool, parts in self._parts.items():
            if pool in added:
                parts[node] = added[pool]
            else:
                parts.pop(node, None)

    def _added(self, state: NodeState) -> Mapping[str, Part]:
        """What one node adds to each pool."""
        pools: dict[str, Part] = {}
        for gpu, draw_w in state.draw_w.items():
            if (pool := self._pool_of.get(gpu)) is not None:
                share = state.utilisation.get(gpu)
                cards, watts, told, shares = pools.get(pool, (0, 0.0, 0, 0.0))
                pools[pool] = (cards + 1, watts + draw_w, told + (share is not None), shares + (share or 0.0))
        return pools

    def _lost(self, states: Mapping[str, NodeState], metered: Mapping[str, float]) -> tuple[str, ...]:
        """Cards that nobody tells of, and pools of which too little is seen."""
        told = {gpu for state in states.values() for gpu in state.draw_w}
        return (*(gpu for gpu in self._pool_of if gpu not in told), *(p for p in self._sizes if p not in metered))
