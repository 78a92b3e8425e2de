"""Rules for deadlines that are promises (Flex tiers): whoever plans without the solver keeps them up too.

Why after everything else is placed: what is missing before such a deadline takes what is free, and gives way only where
nothing is.
"""

from __future__ import annotations

import numpy as np

from optimizer.facts import Facts, Floats
from optimizer.leastruns import Space
from optimizer.steps import Steps, least_now


def keep_promises(facts: Facts, steps: Steps, rates: Floats, homes: list[int], space: Space) -> bool:
    """Give every job with a promised deadline what is missing before it, the earliest deadline first, where there is
    room; its later work becomes less. Changes `rates` [job, interval]. Whether anything is missing still."""
    table, short = facts.table, False
    firm = np.flatnonzero(table.firm & table.preemptible & (table.first_pool >= 0))
    for number in firm[np.argsort(table.deadline_h[firm], kind="stable")].tolist():
        g = homes[number] = homes[number] if homes[number] >= 0 else int(table.first_pool[number])
        pair = np.flatnonzero((table.pair_job == number) & (table.pair_pool == g))
        rate = table.rate[number] * float(table.pair_share[pair].max(initial=0.0))
        limit = rate * table.on_time_h[number]
        # What its GPUs here can't do (another pool's are faster) would take the place of work that they can.
        work = np.minimum(rates[number] * facts.hours, limit + rate * table.late_h[number])
        rates[number] = work / facts.hours
        timely = np.minimum(work, limit)
        missing = table.left[number] - float(timely.sum()) - table.rate[number] * table.beyond_h[number]
        if missing <= 1e-9:
            continue
        room_kw = np.clip(space.room_kw[facts.pools[g].site] - space.first_kw[g], 0.0, None)
        room = np.minimum(space.free[g], room_kw / space.kw_per_work[g]) * facts.hours
        spare = np.clip(np.minimum(room, limit - timely), 0.0, None)
        least = least_now(facts, steps, number) * facts.hours[0] - work[0]
        more = _more(spare, missing, float(least))
        _book(facts, rates, (number, g), more, space)
        short |= float(more.sum()) < missing - 1e-9
    return short


def _more(spare: Floats, missing: float, least: float) -> Floats:
    """What is taken of spare GPU-hours [interval] for the work that is missing, the earliest first. In the interval
    about to run a gang needs `least` more (GPU-h) or takes nothing: only where the others do not suffice it has to."""

    def taken(room: Floats) -> Floats:
        before = np.cumsum(room) - room
        found: Floats = np.clip(np.minimum(room, missing - before), 0.0, None)
        return found

    more = taken(spare)
    if more[0] >= least * (1 - 1e-9):
        return more
    later = spare.copy()
    later[0] = 0.0
    more = taken(later)
    if float(more.sum()) < missing - 1e-9 and spare[0] >= least * (1 - 1e-9):
        more[0] = least
    return more


def _book(facts: Facts, rates: Floats, job_pool: tuple[int, int], more: Floats, space: Space) -> None:
    """Take the room; what was planned for later than the work lasts is free again for nobody."""
    number, g = job_pool
    site = facts.pools[g].site
    taken_kw = more / facts.hours * space.kw_per_work[g] + np.where(more > 0, space.first_kw[g], 0.0)
    space.free[g] -= more / facts.hours
    space.room_kw[site] = np.clip(space.room_kw[site] - taken_kw, 0.0, None)
    space.first_kw[g] = np.where(more > 0, 0.0, space.first_kw[g])
    work = rates[number] * facts.hours + more
    done = np.cumsum(work) - work
    rates[number] = np.clip(np.minimum(work, facts.table.left[number] - done), 0.0, None) / facts.hours
