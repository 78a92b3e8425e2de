"""Why a waiting job waits, in money, and which price of the present interval would start it.

Why from its own alternatives and not from the job's one dual: a job that fills its intervals exactly has a range of
duals. What a GPU-hour less saves where it is planned, and what one more costs now, are well defined.
"""

from __future__ import annotations

import numpy as np

from optimizer.answers import StartPrice
from optimizer.facts import Facts, Floats
from optimizer.highs import Answer
from optimizer.model.arrays import Arrays
from optimizer.model.parts import Ints
from optimizer.quotes import INF, Prices

TOL = 1e-7
SAME = 1e-6
"""Relative difference under which the marginal value of power is the price of energy alone."""


def starts_of(
    facts: Facts, arrays: Arrays, answer: Answer, homes: Ints, prices: Prices, price_now: Floats
) -> dict[int, StartPrice]:
    """Start prices of the preemptible jobs that could run now and don't, by the job's number; `price_now` is the price
    per MWh of the first interval at which the answer was found [site].

    With u the cost of a GPU-hour of the job's own (lateness, preference) and prices of work from `quotes.py`:

        saved = max of u[t] + less[g,t] where its work is planned (others may fill the gap, itself not), and of what
                carrying it on or leaving it undone costs
        extra = u[0] + min(fill[g,0], given[g,0]) - saved                     (money per GPU-hour, >= 0)
        never above = price[0] + (v/a(v) - f/a(f)) * 1000 / PUE,   v = saved - u[0], f = fill[g,0]   (money per MWh)

    with a the kW that a GPU equivalent takes: at the segment with room where the price is above zero, at full speed
    below. It is known where energy and a billed peak alone make power's value now, and the pool has GPUs to fill. Below
    it the job starts, or one that wants the same GPUs more: `probe.py` looks which.
    """
    if not facts.jobs:
        return {}
    saved = _saved(facts, arrays, answer, homes, prices)
    work = arrays.families["x"]
    now = np.flatnonzero(work.keys[2] == 0)
    j, g = work.keys[0][now], work.keys[1][now]
    own = work.cost[now] / facts.hours[0]
    rate = rates_now(facts, arrays, answer)
    at_home = (homes[j] >= 0) & (facts.table.pair_pool[np.maximum(homes[j], 0)] == g)
    waits = at_home & (rate[j] <= TOL * (1.0 + facts.table.rate[j])) & np.isfinite(saved[j])
    free = _price_alone(facts, arrays, answer, price_now)
    j, g, worth = j[waits], g[waits], (saved[j] - own)[waits]
    extra = np.minimum(prices.fill[g, 0], prices.given[g, 0]) - worth
    helps = np.array(free)[[pool.site for pool in facts.pools]][g] & (prices.fill[g, 0] < INF)
    start = _below(facts, prices, g[helps], worth[helps], price_now)
    below = np.full(len(j), None, dtype=object)
    below[helps] = start
    more = np.maximum(0.0, extra).astype(object)
    more[extra >= INF] = None
    return dict(zip(j.tolist(), map(StartPrice, more.tolist(), below.tolist()), strict=True))


def rates_now(facts: Facts, arrays: Arrays, answer: Answer) -> Floats:
    """Rate of preemptible work in the first interval [job]."""
    rate = np.zeros(len(facts.jobs))
    j, _, t = arrays.families["x"].keys
    now = np.flatnonzero(t == 0)
    np.add.at(rate, j[now], arrays.of("x", answer.point)[now])
    return rate


def _saved(facts: Facts, arrays: Arrays, answer: Answer, homes: Ints, prices: Prices) -> Floats:
    """Most that a GPU-hour less of a job saves where it is planned [job]; -inf where nothing is planned for it."""
    saved = np.full(len(facts.jobs), -INF)
    for family in ("x", "late"):
        columns = arrays.families[family]
        j, g, t = columns.keys
        used = np.flatnonzero(arrays.of(family, answer.point) > TOL)
        j, g, t = j[used], g[used], t[used]
        gap = np.where(prices.heir[g, t] == j, prices.next_saves[g, t], prices.heir_saves[g, t])
        np.maximum.at(saved, j, columns.cost[used] / facts.hours[t] + np.maximum(prices.spent[g, t], gap))
    for family in ("carried", "undone", "missed"):
        columns = arrays.families[family]
        used = np.flatnonzero(arrays.of(family, answer.point) > TOL)
        np.maximum.at(saved, columns.keys[0][used], columns.cost[used])
    return saved


def _price_alone(facts: Facts, arrays: Arrays, answer: Answer, price_now: Floats) -> list[bool]:
    """Whether energy's price, and what a peak costs, make the value of power in the first interval [site]: no limit,
    event or ramp has a part in it."""
    dual = arrays.of_rows("balance", answer.duals).reshape(facts.other_kw.shape)[:, 0].copy()
    rows, site = arrays.row_families["peaks"], _site_of_charges(facts)
    now = rows.keys[1] == 0
    np.subtract.at(dual, site[rows.keys[0][now]], arrays.of_rows("peaks", answer.duals)[now])
    energy = cost_now(facts, price_now) * facts.hours[0]
    alone: list[bool] = (np.abs(dual - energy) <= SAME * (1.0 + np.abs(energy))).tolist()
    return alone


def _site_of_charges(facts: Facts) -> Ints:
    """Site of every demand charge, in the order of the model's."""
    sites = facts.problem.sites
    return np.array([s for s, site in enumerate(sites) for _ in site.demand_charges], dtype=np.int64)


def prices_now(facts: Facts) -> Floats:
    """Money per MWh in the first interval [site]."""
    return np.array([site.price_per_mwh[0] for site in facts.problem.sites], dtype=np.float64)


def cost_now(facts: Facts, price_now: Floats) -> Floats:
    """Money per kWh in the first interval at other prices than the problem's [site]."""
    cost: Floats = facts.cost_per_kwh[:, 0] + (price_now - prices_now(facts)) / 1000.0
    return cost


def _below(facts: Facts, prices: Prices, pools: Ints, worth: Floats, price_now: Floats) -> Floats:
    """The price of the first interval at which a GPU-hour in each of these pools is worth `worth`; never above the
    present one."""
    site = np.array([pool.site for pool in facts.pools], dtype=np.int64)[pools]
    full_kw = np.array([pool.kw_per_work[0] for pool in facts.pools])[pools]
    fill_kw, now = prices.fill_kw[pools, 0], prices.fill[pools, 0]
    step = (worth / np.where(worth >= 0, fill_kw, full_kw) - now / np.where(now >= 0, fill_kw, full_kw)) * 1000.0
    found: Floats = price_now[site] + np.minimum(0.0, step / facts.pue[site, 0])
    return found
