"""Parked GPUs: idle ones in a deeper sleep, which save power and take their time to wake.

Why whole numbers only in the interval that is about to run, and in steps: what is ordered is so many whole nodes or
workers; what comes later is decided again before it happens.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import ArrayLike

from optimizer.model.parts import NO_INTS, Ints, Model, Rows
from optimizer.parked import Parked

Parks = dict[int, Parked]


def add_parking(model: Model) -> None:
    """parked[g,t] in GPUs: step * parked_now[g] in the first interval (whole), parked_later[g,t] afterwards;

        woken[g,t] >= parked[g,t-1] - parked[g,t]                                  (parked before: as it is now)
        parked[g,t] + sum over u <= t of asleep[u,t] * woken[g,u] <= count - waking now                 (`awake`)
        seg[g,t,k] <= width[k] * (count - waking now - parked[g,t] - sum asleep[u,t] * woken[g,u])      (`room`)

    where `asleep` is the share of interval t in which what was woken at the start of u does no work yet. Each parked
    GPU takes what it draws less off the import (`balance`). Objective: + wake cost * (sum woken + parked at the end).
    """
    facts = model.facts
    parks = {pool.index: pool.parked for pool in facts.pools if pool.parked is not None}
    if not parks:
        _declare_none(model)
        return
    _add_columns(model, parks)
    g, t = _keys(list(parks), facts.count)
    waking = model.rows("waking", "gt", (g, t), low=np.where(t == 0, _of(model, parks, "now")[g], 0.0))
    woken = model.get("woken")
    waking.add(waking.all, woken, woken.all, 1.0)
    _add_parked(model, waking, (g, t), waking.all, 1.0)
    _add_parked(model, waking, (g[t > 0], t[t > 0] - 1), waking.all[t > 0], -1.0)
    site = np.array([pool.site for pool in facts.pools], dtype=np.int64)
    gain = _of(model, parks, "saves_kw")[g] * facts.pue[site[g], t]
    _add_parked(model, model.row_families["balance"], (g, t), site[g] * facts.count + t, gain)
    free = [parked.count - parked.waking_now for parked in parks.values()]
    awake = model.rows("awake", "gt", (g, t), high=np.concatenate(free))
    _add_asleep(model, awake, parks, np.ones(len(awake)))
    _add_room(model, parks)


def _declare_none(model: Model) -> None:
    """The families of a site that parks nothing."""
    for name, axes in (("parked_now", "g"), ("parked_later", "gt"), ("woken", "gt")):
        model.columns(name, axes, (NO_INTS,) * len(axes), whole=name == "parked_now")
    for name, axes in (("waking", "gt"), ("awake", "gt"), ("room", "gtk")):
        model.rows(name, axes, (NO_INTS,) * len(axes))


def _add_columns(model: Model, parks: Parks) -> None:
    """What is parked in the first interval and later, and what is woken."""
    last = model.facts.count - 1
    step, cost = _of(model, parks, "step"), _of(model, parks, "wake_cost")
    most, count = _of(model, parks, "most_steps"), _of(model, parks, "count")
    mine = np.array(list(parks), dtype=np.int64)
    first = cost[mine] * step[mine] * (last == 0)
    model.columns("parked_now", "g", (mine,), high=most[mine], cost=first, whole=True)
    g, t = _keys(list(parks), model.facts.count, start=1)
    model.columns("parked_later", "gt", (g, t), high=count[g], cost=np.where(t == last, cost[g], 0.0))
    g, t = _keys(list(parks), model.facts.count)
    model.columns("woken", "gt", (g, t), cost=cost[g])


def _of(model: Model, parks: Parks, name: str) -> np.ndarray[tuple[int], np.dtype[np.float64]]:
    """A number of every pool [pool]; 0 for those that park nothing."""
    found = np.zeros(len(model.facts.pools))
    for g, parked in parks.items():
        found[g] = getattr(parked, name)
    return found


def _keys(pools: list[int], count: int, start: int = 0) -> tuple[Ints, Ints]:
    """Pool and interval of each pair, from interval `start` on."""
    g = np.repeat(np.array(pools, dtype=np.int64), count - start)
    return g, np.tile(np.arange(start, count, dtype=np.int64), len(pools))


def _add_parked(model: Model, rows: Rows, keys: tuple[Ints, Ints], at: Ints, coefficient: ArrayLike) -> None:
    """Add coefficient * parked[g,t] to rows."""
    (g, t), now, later = keys, model.get("parked_now"), model.get("parked_later")
    shape = (len(model.facts.pools), model.facts.count)
    factor = np.broadcast_to(np.asarray(coefficient, dtype=np.float64), g.shape)
    step = np.array([pool.parked.step if pool.parked is not None else 1 for pool in model.facts.pools])
    first = t == 0
    rows.add(at[first], now, now.find(shape[:1])[g[first]], factor[first] * step[g[first]])
    rows.add(at[~first], later, later.find(shape)[g[~first], t[~first]], factor[~first])


def _add_asleep(model: Model, rows: Rows, parks: Parks, factor: np.ndarray[tuple[int], np.dtype[np.float64]]) -> None:
    """Add factor * (parked + waking GPUs) to rows whose first two keys are pool and interval."""
    g, t, woken = rows.keys[0], rows.keys[1], model.get("woken")
    _add_parked(model, rows, (g, t), rows.all, factor)
    places = woken.find((len(model.facts.pools), model.facts.count))
    for number, parked in parks.items():
        for u, then in zip(*np.nonzero(parked.asleep_after > 0), strict=True):
            here = np.flatnonzero((g == number) & (t == then))
            rows.add(here, woken, places[number, u], factor[here] * parked.asleep_after[u, then])


def _add_room(model: Model, parks: Parks) -> None:
    """No segment is filled further than by the GPUs that can work."""
    facts, seg = model.facts, model.get("seg")
    mine = np.flatnonzero(np.isin(seg.keys[0], list(parks)))
    g, t, k = (key[mine] for key in seg.keys)
    width = np.array([facts.pools[a].seg_width_w[b, c] / 1000.0 for a, b, c in zip(g, t, k, strict=True)])
    free = np.array([parks[a].count - parks[a].waking_now[b] for a, b in zip(g.tolist(), t.tolist(), strict=True)])
    room = model.rows("room", "gtk", (g, t, k), high=width * free)
    room.add(room.all, seg, mine, 1.0)
    _add_asleep(model, room, parks, width)
