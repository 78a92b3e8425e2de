"""The fleet's meter counts only what is news, and says exactly what summing every card anew would."""

from datetime import UTC, datetime

import numpy as np
import pytest

from adapters.meters.fleet import FleetMeter
from adapters.meters.sums import PoolSums
from adapters.ports import AdapterError
from adapters.power.fleet_wire import NodeState
from scheduler.clock import VirtualClock


def test_readings_are_those_of_all_cards_summed_anew_whoever_spoke():
    rng = np.random.default_rng(4)
    cards = {f"n{n}": [f"GPU-{n}-{k}" for k in range(4)] for n in range(10)}
    pool_of = {gpu: "a" if n in {"n0", "n1", "n2"} else "b" for n, ids in cards.items() for gpu in ids[:3]}
    pool_of |= {ids[3]: "c" for ids in cards.values()}
    states = {}
    meter = FleetMeter(lambda: dict(states), VirtualClock(datetime(2025, 1, 1, tzinfo=UTC)), pool_of)
    sums = PoolSums(pool_of)
    with pytest.raises(AdapterError):
        meter.read()
    for _ in range(60):
        for node, ids in cards.items():
            roll = rng.random()
            if roll < 0.15:
                states.pop(node, None)
            elif roll < 0.5:
                heard = ids if rng.random() < 0.8 else ids[:2]
                draws = {gpu: float(rng.integers(100, 700)) for gpu in heard}
                busy = {gpu: None if rng.random() < 0.2 else float(rng.random()) for gpu in heard}
                states[node] = NodeState(node, draws, "free", 1, 1, 0.0, 0, busy)
        if not states:
            continue
        draws = {gpu: watts for state in states.values() for gpu, watts in state.draw_w.items()}
        told = {gpu: share for state in states.values() for gpu, share in state.utilisation.items()}
        pool_kw, lost = sums.power_kw(draws)
        reading = meter.read()
        assert reading.pool_kw == pytest.approx(pool_kw)
        assert reading.busy_gpus == pytest.approx(sums.busy_gpus(told))
        assert sorted(reading.lost) == sorted(lost)
