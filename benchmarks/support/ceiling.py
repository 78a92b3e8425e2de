"""What the best policy could realise if prices moved exactly as the forecast believes: a ceiling for any planner that
knows what this one knows.

Why: perfect foresight is out of reach, and a share of it alone doesn't say whether the planner or the market is to
blame. Here the day is a chain: each step's error follows from the one before by the regression and the innovations that
the forecast learned. On it the best policy is found by dynamic programming (with its option to wait and see), and what
it saves is compared with what one saves who sees the chain's whole day.

A better forecast has a higher ceiling: this is no proof that nobody can do more, but that no better *decision* can.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np

from benchmarks.support.market import DUTY
from optimizer.facts import Floats
from optimizer.forecast_learned import Learned

STATES, INNOVATIONS, PATHS = 31, 15, 200
WIDEST = 5.0
"""Errors reach so many of the largest standard deviation."""
UNMET = 1e9
"""Price of energy that is still owed when the day is over."""


@dataclass(frozen=True)
class Chain:
    """A day of prices [step, state], and the moves of the state before each step [step, from, to]; it begins in
    `start`."""

    prices: Floats
    moves: Floats
    start: int


@dataclass(frozen=True)
class Ceiling:
    """Money per unit of power that is saved over the even spread: by the best policy, and with the whole day known."""

    best: float
    perfect: float


def chain_of(learned: Learned, expected: Floats) -> Chain:
    """The chain of a day whose steps are `expected` at its midnight, on the asinh scale; errors from the paths: each
    step's regression on the step before, and what that leaves (its quantiles, equally likely)."""
    paths, scale = learned.model.paths, learned.model.scale
    states = WIDEST * max(1e-6, float(paths.std(axis=0).max())) * np.sinh(np.linspace(-3.0, 3.0, STATES)) / np.sinh(3.0)
    last = np.zeros(len(paths))
    moves = []
    for step in range(len(expected)):
        now = paths[:, min(step, paths.shape[1] - 1)]
        if step < paths.shape[1]:
            keeps = float(last @ now / (last @ last)) if last.any() else 0.0
            left = np.quantile(now - keeps * last, (np.arange(INNOVATIONS) + 0.5) / INNOVATIONS)
            moves.append(_shares(states, keeps * states[:, None] + left))
        else:
            moves.append(moves[-1])
        last = now
    prices: Floats = scale * np.sinh(expected[:, None] + states)
    return Chain(prices, np.array(moves), STATES // 2)


def _shares(states: Floats, reached: Floats) -> Floats:
    """Probability [from, to] of moves to `reached` [from, innovation], each split between the two states around it."""
    inside = np.clip(reached, states[0], states[-1])
    low = np.clip(np.searchsorted(states, inside) - 1, 0, len(states) - 2)
    high_share = (inside - states[low]) / (states[low + 1] - states[low])
    shares = np.zeros((len(states), len(states)))
    rows = np.broadcast_to(np.arange(len(states))[:, None], low.shape)
    np.add.at(shares, (rows, low), (1.0 - high_share) / reached.shape[1])
    np.add.at(shares, (rows, low + 1), high_share / reached.shape[1])
    return shares


def least_cost(chain: Chain, owed: int, lagged: bool) -> float:
    """Expected cost of running `owed` whole steps under the best policy. V[state, k] is the cost of k steps still owed:

        known:  V_t(s, k) = E min(p_t(s') + V_t+1(s', k-1), V_t+1(s', k))
        lagged: V_t(s, k) = min(E p_t(s') + E V_t+1(s', k-1), E V_t+1(s', k))

    over the state s' that follows s (backward induction; Puterman, Markov Decision Processes, 1994, section 4.5).
    """
    value = np.tile(UNMET * np.arange(owed + 1), (chain.prices.shape[1], 1))
    for prices, move in zip(chain.prices[::-1], chain.moves[::-1], strict=True):
        if lagged:
            later, price = move @ value, (move @ prices)[:, None]
            later[:, 1:] = np.minimum(later[:, 1:], price + later[:, :-1])
            value = later
        else:
            here = value.copy()
            here[:, 1:] = np.minimum(value[:, 1:], prices[:, None] + value[:, :-1])
            value = move @ here
    return float(value[chain.start, owed])


def ceiling_of(chain: Chain, lagged: bool, seed: int) -> Ceiling:
    """What a day's chain allows; days seen whole are drawn from it."""
    count = len(chain.prices)
    owed = round(DUTY * count)
    rng = np.random.default_rng(seed)
    state, drawn = np.full(PATHS, chain.start), np.zeros((PATHS, count))
    likely, even = np.eye(chain.prices.shape[1])[chain.start], 0.0
    for step, (prices, move) in enumerate(zip(chain.prices, chain.moves, strict=True)):
        likely = likely @ move
        even += DUTY * float(likely @ prices)
        ranks = move.cumsum(axis=1)[state] < rng.random(PATHS)[:, None]
        state = np.minimum(ranks.sum(axis=1), len(prices) - 1)
        drawn[:, step] = prices[state]
    perfect = DUTY * drawn.sum(axis=1) - np.sort(drawn, axis=1)[:, :owed].sum(axis=1)
    return Ceiling(even - least_cost(chain, owed, lagged), float(perfect.mean()))


def best_share(days: Iterable[Ceiling]) -> float:
    """Share of perfect foresight's saving that the best policy gets over many days; NaN without days."""
    found = list(days)
    perfect = sum(day.perfect for day in found)
    return sum(day.best for day in found) / perfect if perfect > 0 else float("nan")
