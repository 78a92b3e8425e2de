"""Caps and throughputs of many pools at once are, to the bit, those that the curves give one by one."""

import random

import numpy as np

from optimizer.curve_arrays import caps_for_draws, throughputs_at_draws
from optimizer.curves import cap_for_draw, throughput_at_draw
from optimizer.domain import CurvePoint, PowerCurve
from tests.support.problems import SIMPLE, curves


def _noisy(seed: int) -> PowerCurve:
    """A curve as telemetry may leave it: points that draw the same, or less than the one below."""
    rng = random.Random(seed)
    points = tuple(
        CurvePoint(100.0 + 50.0 * n, rng.choice((90.0, 80.0 + 40.0 * n, 300.0)), rng.random()) for n in range(5)
    )
    return PowerCurve(f"noisy {seed}", 60.0, points)


def test_pools_with_different_curves_are_read_together_as_one_by_one() -> None:
    shapes = [SIMPLE, *curves().values(), *(_noisy(seed) for seed in range(20))]
    marks = [
        [0.0, 1e-9, *(point.draw_w + off for point in of.points for off in (-1e-9, 0.0, 1e-7)), 2000.0] for of in shapes
    ]
    width = max(map(len, marks))
    rng = random.Random(1)
    draws = np.array([row + [rng.uniform(0.0, 800.0) for _ in range(width - len(row) + 50)] for row in marks])
    caps, rates = caps_for_draws(shapes, draws), throughputs_at_draws(shapes, draws)
    for row, curve in enumerate(shapes):
        assert caps[row].tolist() == [cap_for_draw(curve, draw) for draw in draws[row].tolist()]
        assert rates[row].tolist() == [throughput_at_draw(curve, draw) for draw in draws[row].tolist()]


def test_no_pools_have_no_caps() -> None:
    assert caps_for_draws([], np.zeros((0, 4))).shape == (0, 4)
