"""Power of all nodes' cards as the nodes tell it once a second, summed per pool.

Why told and not asked: ten thousand questions a second would be most of the traffic. A node that has been silent for
some seconds is lost, never zero.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Callable, Mapping
from dataclasses import dataclass

from adapters.meters.sums import LEAST_SHARE_METERED
from adapters.ports import AdapterError, Clock, GpuId, Reading
from adapters.power.fleet_wire import NodeState


@dataclass(frozen=True, slots=True)
class _Part:
    """A node's last word, and what it adds to each pool: cards, watts, cards that tell their busy share, their shares.
    Of thousands of nodes few have news in a second."""

    state: NodeState
    pools: Mapping[str, tuple[int, float, int, float]]


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
        self._parts: dict[str, _Part] = {}

    def read(self) -> Reading:
        """One reading; silent nodes and their cards are named in `lost`. AdapterError when no node is heard."""
        states = self._states()
        if not states:
            raise AdapterError("the fleet: no node has told its state lately")
        kept, self._parts = self._parts, {}
        for node, state in states.items():
            part = kept.get(node)
            self._parts[node] = part if part is not None and part.state is state else self._part(state)
        seen, working = Counter[str](), Counter[str]()
        watts, shares = defaultdict[str, float](float), defaultdict[str, float](float)
        for part in self._parts.values():
            for pool, (cards, drawn_w, told, share) in part.pools.items():
                seen[pool] += cards
                watts[pool] += drawn_w
                working[pool] += told
                shares[pool] += share
        pool_kw = {p: watts[p] / seen[p] * size / 1000.0 for p, size in self._sizes.items() if self._enough(seen, p)}
        busy = {p: shares[p] / working[p] * size for p, size in self._sizes.items() if self._enough(working, p)}
        lost = () if seen == self._sizes else self._lost(states, pool_kw)
        return Reading(self._clock.now(), pool_kw, {}, {}, (*self._silent(), *lost), busy)

    def _part(self, state: NodeState) -> _Part:
        """What one node adds to each pool."""
        pools: dict[str, tuple[int, float, int, float]] = {}
        for gpu, draw_w in state.draw_w.items():
            if (pool := self._pool_of.get(gpu)) is not None:
                share = state.utilisation.get(gpu)
                cards, watts, told, shares = pools.get(pool, (0, 0.0, 0, 0.0))
                pools[pool] = (cards + 1, watts + draw_w, told + (share is not None), shares + (share or 0.0))
        return _Part(state, pools)

    def _enough(self, counts: Counter[str], pool: str) -> bool:
        return counts[pool] >= LEAST_SHARE_METERED * self._sizes[pool]

    def _lost(self, states: Mapping[str, NodeState], metered: Mapping[str, float]) -> tuple[str, ...]:
        """Cards that nobody tells of, and pools of which too little is seen."""
        told = {gpu for state in states.values() for gpu in state.draw_w}
        return (*(gpu for gpu in self._pool_of if gpu not in told), *(p for p in self._sizes if p not in metered))
