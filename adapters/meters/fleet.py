"""Power of all nodes' cards as the nodes tell it once a second, summed per pool.

Why told and not asked: ten thousand questions a second would be most of the traffic. A node that has been silent for
some seconds is lost, never zero.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping

from adapters.meters.sums import PoolSums
from adapters.ports import AdapterError, Clock, GpuId, Reading
from adapters.power.fleet_wire import NodeState


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
        self._sums = PoolSums(self._pool_of)

    def read(self) -> Reading:
        """One reading; silent nodes and their cards are named in `lost`. AdapterError when no node is heard."""
        states = self._states()
        if not states:
            raise AdapterError("the fleet: no node has told its state lately")
        draws = {
            gpu: draw_w for state in states.values() for gpu, draw_w in state.draw_w.items() if gpu in self._pool_of
        }
        pool_kw, lost = self._sums.power_kw(draws)
        told = {gpu: share for state in states.values() for gpu, share in state.utilisation.items()}
        busy = self._sums.busy_gpus({gpu: told.get(gpu) for gpu in draws})
        return Reading(self._clock.now(), pool_kw, {}, {}, (*self._silent(), *lost), busy)
