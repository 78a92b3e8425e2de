"""From the solver's point to what it decides: draws, job rates, and one pool for each job."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

from optimizer.answers import EventPlan
from optimizer.assemble import Draft, Worth
from optimizer.facts import Facts, Floats, with_taken
from optimizer.highs import Answer
from optimizer.model.arrays import Arrays
from optimizer.model.parts import Columns, Ints
from optimizer.once import once_for_jobs
from optimizer.probe import NO_PROBES, Basis, Budget, confined, probed
from optimizer.quotes import marginal_per_mwh, prices_of, quotes_of
from optimizer.starts import prices_now, starts_of
from optimizer.supply import Drawn


def pair_rates(facts: Facts, arrays: Arrays, point: Floats) -> Floats:
    """Rates in GPU equivalents [pair of job and pool, interval]."""
    table = facts.table
    rates = np.zeros((len(table.pair_job), facts.count))
    pair = pair_index(facts)
    for family in ("x", "late"):
        j, g, t = arrays.families[family].keys
        if len(j):
            here = pair.reshape(-1)[j * len(facts.pools) + g] * facts.count + t
            rates += np.bincount(here, arrays.of(family, point), minlength=rates.size).reshape(rates.shape)
    starts, (number, g, t, rate) = arrays.families["start"], arrays.runs
    chosen = arrays.of("start", point)[number] > 0.5
    jobs = starts.keys[0][number[chosen]]
    np.add.at(rates, (pair[jobs, g[chosen]], t[chosen]), rate[chosen])
    return rates


@once_for_jobs
def pair_index(facts: Facts) -> Ints:
    """Number of the pair of a job and a pool [job, pool] (-1: the job may not run there)."""
    table = facts.table
    places = np.full((len(facts.jobs), len(facts.pools)), -1, dtype=np.int64)
    places[table.pair_job, table.pair_pool] = np.arange(len(table.pair_job))
    return places


def homes_of(facts: Facts, done: Floats) -> Ints:
    """The one pair of each job: where most of its work is, else its first choice (-1: none). `done`: GPU-hours a
    pair."""
    table = facts.table
    homes = np.full(len(facts.jobs), -1, dtype=np.int64)
    order = np.lexsort((table.pair_place, -np.round(done, 9), table.pair_job))
    jobs, first = np.unique(table.pair_job[order], return_index=True)
    homes[jobs] = order[first]
    return homes


def drawn_of(facts: Facts, arrays: Arrays, answer: Answer, netted: bool = True) -> Drawn:
    """What the point lets batteries and generators do; `netted`: what `oneway.py` tolerates of both at once goes."""
    charge, discharge, output = (arrays.of(name, answer.point) for name in ("charge", "discharge", "output"))
    stores, units = len(facts.supply.batteries), len(facts.supply.generators)
    both = np.minimum(charge, discharge) * netted
    shape = (stores, facts.count)
    offered = np.clip(arrays.of("offer", answer.point), 0.0, None).reshape(-1, facts.count)
    net = ((charge - both).reshape(shape), (discharge - both).reshape(shape))
    return Drawn(*net, output.reshape(units, facts.count), offered)


def draft_of(
    facts: Facts,
    arrays: Arrays,
    answer: Answer,
    homes: Ints,
    basis: Basis | None = None,
    budget: Budget = NO_PROBES,
    events: Mapping[str, EventPlan] | None = None,
) -> Draft:
    """What the point decides, and what its duals are worth; start prices are probed within `budget`. `events`: answers
    to voluntary events."""
    answers = events or {}
    facts = with_taken(facts, frozenset(name for name, given in answers.items() if given.take_part))
    draw = np.array([pool.base_kw for pool in facts.pools]).reshape(len(facts.pools), facts.count)
    seg: Columns = arrays.families["seg"]
    np.add.at(draw, (seg.keys[0], seg.keys[1]), arrays.of("seg", answer.point))
    rates = pair_rates(facts, arrays, answer.point)
    picked = np.where((homes >= 0)[:, None], rates[homes], 0.0) if len(rates) else np.zeros((len(homes), facts.count))
    picked = np.where(picked > 1e-9, picked, 0.0).reshape(len(facts.jobs), facts.count)
    pools = tuple(np.append(facts.table.pair_pool, -1)[homes].tolist())  # -1: none
    worth = _worth(facts, arrays, answer, homes, basis, budget)
    return Draft(draw, picked, pools, worth, drawn_of(facts, arrays, answer), answers, parked_of(facts, arrays, answer))


def awake_in_time(facts: Facts, arrays: Arrays, answer: Answer) -> Floats:
    """Upper bounds under which what must be awake within the time that waking takes is woken now, in whole steps.

    Why: later intervals are relaxed, and part of a step can always be woken in the next one; put off so again and
    again, work that could have been in time is late.
    """
    high, parked = arrays.high.copy(), parked_of(facts, arrays, answer, whole=False)
    begins = np.cumsum(facts.hours) - facts.hours
    now = arrays.families["parked_now"]
    for place, g in enumerate(now.keys[0].tolist()):
        how = facts.pools[g].parked
        if how is not None:
            soon = parked[g, begins <= how.parking.wake_s / 3600.0 + 1e-9].min()
            high[now.start + place] = min(high[now.start + place], np.floor(soon / how.step + 1e-6))
    return high


def parked_of(facts: Facts, arrays: Arrays, answer: Answer, whole: bool = True) -> Floats:
    """GPUs that the point parks [pool, interval]; `whole`: whole steps in the first one."""
    parked = np.zeros((len(facts.pools), facts.count))
    later = arrays.families["parked_later"]
    parked[later.keys] = np.clip(np.round(arrays.of("parked_later", answer.point), 6), 0.0, None)
    mine = arrays.families["parked_now"].keys[0]
    steps = np.array([pool.parked.step if pool.parked is not None else 0 for pool in facts.pools])
    first = arrays.of("parked_now", answer.point)
    parked[mine, 0] = (np.round(first) if whole else first) * steps[mine]
    return parked


def _worth(facts: Facts, arrays: Arrays, answer: Answer, homes: Ints, basis: Basis | None, budget: Budget) -> Worth:
    """What the duals are worth."""
    prices = prices_of(facts, arrays, answer, homes)
    starts = starts_of(facts, arrays, answer, homes, prices, prices_now(facts))
    if starts and budget.probes > 0:
        starts = probed(facts, confined(facts, arrays, answer, homes), homes, starts, basis, budget)
    ids = facts.table.ids
    named = {ids[job]: start for job, start in starts.items()}
    return Worth(marginal_per_mwh(facts, arrays, answer), quotes_of(facts, prices), named)
