"""Moving work between two sites: the exchange by sorting is the best one, and nobody lives below the bound."""

from datetime import UTC, datetime
from zoneinfo import ZoneInfo

import numpy as np
import pytest

from benchmarks.support.market import DUTY, Market
from benchmarks.support.pairing import HOUR, disagreement, foresight, live, moved, power_cost
from optimizer.session import Session


@pytest.fixture
def dice():
    """The same numbers for each test, whichever ran before it."""
    return np.random.default_rng(20261127)


def cost(left, right, owed, flow, transfer):
    return power_cost(left, owed[0] - flow) + power_cost(right, owed[1] + flow) + abs(flow) * transfer


@pytest.mark.parametrize("transfer", [0.0, 0.5, 30.0])
def test_no_other_amount_of_exchange_is_cheaper(dice, transfer):
    for _ in range(200):
        hours = int(dice.integers(1, 9))
        left, right = dice.normal(40, 30, hours), dice.normal(45, 10, hours)
        first = float(dice.integers(0, 3 * hours + 1)) / 2  # more than its own hours can do, now and then
        owed = (first, float(dice.integers(0, 4 * hours - 2 * max(first, hours) + 1)) / 2)
        least, most = max(-owed[1], owed[0] - hours), min(owed[0], hours - owed[1])
        flows = [flow for flow in np.arange(-8 * hours, 8 * hours + 1) / 4 if least <= flow <= most]
        chosen = moved(left, right, owed, transfer)
        assert (
            cost(left, right, owed, chosen, transfer)
            <= min(cost(left, right, owed, flow, transfer) for flow in flows) + 1e-9
        )
        assert -owed[1] - 1e-9 <= chosen <= owed[0] + 1e-9
        assert max(owed[0] - chosen, owed[1] + chosen) <= hours + 1e-9, "more than its hours can do"


def years(dice, days=6, dearer=0.0):
    start = datetime(2024, 3, 1, tzinfo=UTC)
    starts = tuple(start + HOUR * k for k in range(24 * days))
    means = {"here": 40.0 + dearer, "there": 40.0}
    return tuple(
        Market(name, ZoneInfo("UTC"), starts, HOUR, dice.normal(mean, 25, len(starts)), None)
        for name, mean in means.items()
    )


@pytest.mark.parametrize("transfer", [None, 0.5, 20.0])
def test_nobody_lives_below_the_bound_and_who_knows_all_lives_on_it(dice, transfer):
    pair = years(dice)
    days = pair[0].days()
    bound = foresight(pair, days, transfer)
    known = live(pair, tuple(lambda a, b, made=made: made.price[a:b] for made in pair), days, transfer)
    assert known.cost == pytest.approx(bound.cost)
    guess = live(pair, tuple(lambda a, b: dice.normal(40, 25, b - a) for _ in pair), days, transfer)
    assert guess.cost > bound.cost
    assert (bound.moved_share > 0.02) == (transfer == 0.5), (
        "much moves where it is cheap to, and hardly any where it is dear"
    )
    assert foresight(pair, days, 1e6).cost == pytest.approx(foresight(pair, days, None).cost), "too dear to move"


@pytest.mark.parametrize("transfer", [0.5, 5.0])
def test_the_coordinator_itself_finds_the_same_exchange(dice, transfer):
    pair = years(dice, days=1, dearer=25.0)
    expected = tuple(made.price for made in pair)
    owed = (DUTY * 24,) * 2
    assert abs(disagreement(Session(), pair, 0, expected, owed, transfer)) < 0.3
    assert abs(moved(*expected, owed, transfer)) >= 1.0, "a day on which nothing moves tells nothing"
