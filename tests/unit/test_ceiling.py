"""What the best policy could get: on chains small enough to solve by hand."""

from datetime import timedelta

import numpy as np
import pytest

from benchmarks.support.ceiling import Chain, best_share, ceiling_of, chain_of, least_cost
from optimizer.forecast_errors import ErrorModel
from optimizer.forecast_learned import Learned
from tests.support.signals import NOON

HALF = np.full((2, 2), 0.5)


def coin(first, second):
    """Two steps, of which one must be run; each price is one of two by the toss of a coin."""
    return Chain(np.array([first, second], dtype=float), np.array([HALF, HALF]), 0)


def test_seeing_the_present_price_is_worth_what_waiting_for_it_saves():
    """0 or 20 now, 10 later. Who sees it pays 0 or 10, 5 on average; who doesn't pays 10 whatever he does."""
    assert least_cost(coin([0, 20], [10, 10]), 1, lagged=False) == pytest.approx(5.0)
    assert least_cost(coin([0, 20], [10, 10]), 1, lagged=True) == pytest.approx(10.0)
    assert best_share([ceiling_of(coin([0, 20], [10, 10]), False, 1)]) == pytest.approx(1.0, abs=0.15)
    assert best_share([ceiling_of(coin([0, 20], [10, 10]), True, 1)]) == pytest.approx(0.0, abs=1e-9)


def test_a_later_price_that_nobody_knows_is_worth_its_mean_and_no_less():
    """10 now, 0 or 20 later: to wait costs 10 on average too, though one who knew would pay 5."""
    day = ceiling_of(coin([10, 10], [0, 20]), lagged=False, seed=1)
    assert day.best == pytest.approx(0.0, abs=1e-9)
    assert day.perfect == pytest.approx(5.0, abs=1.0)


def test_what_is_learned_of_errors_makes_the_chain():
    """Errors that keep half of themselves from step to step; without any, the best policy is perfect."""
    rng = np.random.default_rng(1)
    first, fresh = rng.normal(0.0, 0.1, (2, 300))
    fresh -= first * (first @ fresh) / (first @ first)
    paths = np.stack([first, 0.5 * first + fresh], axis=1)

    def learned(of):
        model = ErrorModel(10.0, 1.0, np.zeros((2, 4)), of, 0.0, 9.0)
        return Learned(NOON, timedelta(hours=1), 0, np.zeros(4), model)

    chain = chain_of(learned(paths), np.zeros(4))
    assert chain.moves.sum(axis=2) == pytest.approx(1.0)
    states = np.arcsinh(chain.prices[1] / 10.0)
    assert chain.moves[1] @ states == pytest.approx(0.5 * states, abs=0.03)
    assert best_share([ceiling_of(chain, False, 1)]) < 0.95
    known = chain_of(learned(np.zeros((300, 2))), np.array([0.3, 0.1, 0.2, 0.4]))
    assert best_share([ceiling_of(known, True, 1)]) == pytest.approx(1.0, abs=1e-3)
