"""Jobs that run or don't: gangs that need so many GPUs at once, runs that last so long, pauses that cost.

Why whole numbers only in the interval that is about to run: what comes later is decided again before it happens, and
relaxed it still says which pauses pay.
"""

from __future__ import annotations

import numpy as np

from optimizer.domain import GridEvent
from optimizer.facts import Facts, Floats
from optimizer.model.parts import NO_INTS, Columns, Flags, Ints, Model, Rows
from optimizer.steps import Steps, last_part, least_rates, steps_of
from optimizer.weights import LATER_CUT


def add_pauses(model: Model) -> None:
    """on[j,t] in {0,1} in the interval about to run (`on_now`), in [0,1] later (`on`), for jobs with a gang, a least
    run or a cost of pausing:

        least[j,t] * on <= x + late <= most[j,t] * on             (GPU equivalents, over all pools)

    `most` is the job's bound of x + late; `least` the work of its least GPUs (one without a gang) at the knee of the
    slowest of its pools, or what is left of it. Jobs with a gang alone have no `on` for later intervals.
    """
    facts = model.facts
    steps = steps_of(facts)
    if not steps.stepped.any():
        _add_none(model)
        return
    most = most_rate(model)
    open_ = (most > 0) & steps.stepped[:, None] & (steps.lasting[:, None] | (np.arange(facts.count) == 0))
    j, t = np.nonzero(open_)
    now = t == 0
    on_now = model.columns("on_now", "jt", (j[now], t[now]), high=1.0, whole=True)
    on = model.columns("on", "jt", (j[~now], t[~now]), high=1.0)
    least = np.minimum(least_rates(facts, steps), most)[j, t]
    rows = (model.rows("run_most", "jt", (j, t), high=0.0), model.rows("run_least", "jt", (j, t), low=0.0))
    for family, coefficient in zip(rows, (-most[j, t], -least), strict=True):
        at = family.find(most.shape)
        for columns in (on_now, on):
            here = at[columns.keys]
            family.add(here, columns, columns.all, coefficient[here])
        add_rate_of(model, family, at, 1.0)
    _add_starts_anew(model, steps, open_ & steps.lasting[:, None])
    _add_whole_pauses(model, steps, open_ & steps.lasting[:, None])
    _add_least_runs(model, steps, open_ & steps.lasting[:, None], most)


NO_COLUMNS = {"on_now": "jt", "on": "jt", "up": "jt", "up_end": "j", "first": "j", "cut": "jt"}
NO_ROWS = {
    "run_most": "jt", "run_least": "jt", "rise": "jt", "again": "j", "first_start": "j", "resumes": "j",
    "least_run": "jt", "goes_on": "jt",
}  # fmt: skip


def _add_none(model: Model) -> None:
    """All of these families, empty: most problems have no such job."""
    for name, axes in NO_COLUMNS.items():
        model.columns(name, axes, (NO_INTS,) * len(axes), whole=name == "on_now")
    for name, axes in NO_ROWS.items():
        model.rows(name, axes, (NO_INTS,) * len(axes))


def add_rate_of(model: Model, rows: Rows, at: Ints, coefficient: float) -> None:
    """Add x + late of all pools to the rows `at` [job, interval] (-1: none)."""
    if not len(rows):
        return
    for name in ("x", "late"):
        columns = model.get(name)
        here = at[columns.keys[0], columns.keys[2]]
        rows.add(here[here >= 0], columns, columns.all[here >= 0], coefficient)


def most_rate(model: Model) -> Floats:
    """Bound of x + late [job, interval], over all pools: that of one pool, since their sum keeps it."""
    facts = model.facts
    most = np.zeros((len(facts.jobs), facts.count))
    for name in ("x", "late"):
        columns = model.get(name)
        bound = np.zeros_like(most)
        np.maximum.at(bound, (columns.keys[0], columns.keys[2]), columns.high)
        most += bound
    return most


def _on(model: Model, rows: Rows, at: Ints, j: Ints, t: Ints, coefficient: float) -> None:
    """Add on[j,t] to rows; pairs without a column are off, and add nothing."""
    if not len(at):
        return
    shape = (len(model.facts.jobs), model.facts.count)
    for name in ("on_now", "on"):
        columns = model.get(name)
        found = columns.find(shape)[j, t]
        rows.add(at[found >= 0], columns, found[found >= 0], coefficient)


def _add_starts_anew(model: Model, steps: Steps, open_: Flags) -> None:
    """up[j,t] >= on[j,t] - on[j,t-1] (before the first interval: whether the job runs now), up_end[j] >= again -
    on[j,last] where again >= carried / work left. Objective: + pause cost * (sum up + up_end - first), first <= 1 and
    first <= sum up + up_end for a job that does not run now: its first start is no pause."""
    facts = model.facts
    cost, runs = steps.pause_cost, steps.runs
    j, t = np.nonzero(open_)
    up = model.columns("up", "jt", (j, t), high=1.0, cost=cost[j])
    begun = runs[j] & (t == 0)
    rise = model.rows("rise", "jt", (j, t), low=np.where(begun, -1.0, 0.0))
    rise.add(rise.all, up, up.all, 1.0)
    _on(model, rise, rise.all, j, t, -1.0)
    later = t > 0
    _on(model, rise, rise.all[later], j[later], t[later] - 1, 1.0)
    carried = model.get("carried")
    some: Flags = np.asarray(open_.any(axis=1))
    far = carried.keys[0][some[carried.keys[0]]]
    end = model.columns("up_end", "j", (far,), high=1.0, cost=cost[far])
    again = model.rows("again", "j", (far,), low=0.0)
    again.add(again.all, end, end.all, 1.0)
    carried_at = carried.find((len(facts.jobs),))
    again.add(again.all, carried, carried_at[far], -1.0 / facts.table.left[far])
    _on(model, again, again.all, far, np.full(len(far), facts.count - 1), 1.0)
    waiting = np.flatnonzero(some & ~runs)
    first = model.columns("first", "j", (waiting,), high=1.0, cost=-cost[waiting])
    once = model.rows("first_start", "j", (waiting,), high=0.0)
    at = once.find((len(facts.jobs),))
    once.add(once.all, first, first.all, 1.0)
    for columns in (up, end):
        here = at[columns.keys[0]]
        once.add(here[here >= 0], columns, columns.all[here >= 0], -1.0)


def _add_whole_pauses(model: Model, steps: Steps, open_: Flags) -> None:
    """sum up[j,t>0] + up_end[j] + (undone[j] + missed[j]) / work left >= 1 - on[j,0] for a job that runs now: whatever
    of its work is not given up starts anew once it pauses now.

    Why, though whole numbers say so: what is left at a low rate later has an `on` of next to nothing where that is
    relaxed, and a pause now would cost as little. (Later plans count none: then the job is paused already.)"""
    facts = model.facts
    some: Flags = np.asarray(open_.any(axis=1))
    j = np.flatnonzero(some & steps.runs & (steps.pause_cost > 0))
    rows = model.rows("resumes", "j", (j,), low=1.0)
    at = rows.find((len(facts.jobs),))
    for name in ("up", "up_end", "undone", "missed"):
        columns = model.get(name)
        number = columns.keys[0]
        later = at[number] >= 0
        if name == "up":
            later &= columns.keys[1] > 0
        share = 1.0 if name.startswith("up") else 1.0 / facts.table.left[number[later]]
        rows.add(at[number[later]], columns, columns.all[later], share)
    _on(model, rows, rows.all, j, np.zeros_like(j), 1.0)


def _add_least_runs(model: Model, steps: Steps, open_: Flags, most: Floats) -> None:
    """on[j,t] + cut[j,t] >= sum of rest[j,t,u] * up[j,u] over starts u < t less than the least run (or what the work
    left takes) before t; and on[j,t] + cut[j,t] >= 1 while a run in progress has not lasted that long. Objective:
    + weight of undone work * least work * hours * cut: a least run gives way to hard limits and firm events, and to
    nothing cheaper. In later intervals, where `on` may be a part, it is of that only what an event's price is above the
    work's: work and run together must be worth less than what they take from a firm event. `cut` may be above 1: of a
    run that was cut and the one after it, both are cut where neither can be. (Without `cut` a run that must not be cut
    could not begin before a limit that stops it, or would break it.) `rest` is 1, but where a run at the highest rate
    has less left to do in t than a least rate does (see `_rest`).
    """
    facts = model.facts
    begun, hold_on = _starts_before(facts, steps, open_), held(facts, steps) & open_
    shape = (len(facts.jobs), facts.count)
    kept = np.zeros(shape, dtype=np.bool_)
    kept[begun[:, 0], begun[:, 1]] = True
    j, t = np.nonzero(kept | hold_on)
    lost = model.job_weights.undone_per_gpu_h[j] * np.where(t == 0, 1.0, LATER_CUT)
    cut = model.columns("cut", "jt", (j, t), cost=lost * steps.least_work[j] * facts.hours[t])
    cut_at = cut.find(shape)
    lasts = model.rows("least_run", "jt", np.nonzero(kept), low=0.0)
    up: Columns = model.get("up")
    rest, starts = _rest(model, steps, begun, most), up.find(shape)[begun[:, 0], begun[:, 2]]
    lasts.add(lasts.find(shape)[begun[:, 0], begun[:, 1]], up, starts, -rest)
    goes_on = model.rows("goes_on", "jt", np.nonzero(hold_on), low=1.0)
    for rows in (lasts, goes_on):
        _on(model, rows, rows.all, rows.keys[0], rows.keys[1], 1.0)
        rows.add(rows.all, cut, cut_at[rows.keys], 1.0)


def _rest(model: Model, steps: Steps, begun: Ints, most: Floats) -> Floats:
    """`last_part` of each triple (job, interval, start). (Held to its least rate for all of the interval in which its
    work ends, a run would have to begin more slowly, or not at all.)"""
    facts, (j, t, u) = model.facts, begun.T
    begins = np.cumsum(facts.hours) - facts.hours
    inside_h = np.minimum(facts.hours[t], begins[u] + steps.least_h[j] - begins[t])
    return last_part(facts, steps, j, inside_h, (np.minimum(least_rates(facts, steps), most) * facts.hours)[j, t])


def _starts_before(facts: Facts, steps: Steps, open_: Flags) -> Ints:
    """Triples (job, interval, interval of a start) in which a run from that start must still last."""
    length = steps.least_h
    begins = np.cumsum(facts.hours) - facts.hours
    found = [
        (j, t, u)
        for j in np.flatnonzero(length > 0).tolist()
        for t in np.flatnonzero(open_[j]).tolist()
        for u in range(t)
        if open_[j, u] and begins[u] + length[j] > begins[t] + 1e-9
    ]
    return np.array(found, dtype=np.int64).reshape(len(found), 3)


def add_giving_way(model: Model) -> None:
    """over[s,t] <= most over[s,t] * (1 - on[j,t]) in kW, for the hard limit and every firm event of the site of j's
    pools, in the present interval and in those that a least run from now on lasts: no job that is whole goes on, or
    begins, while a firm cap is exceeded. One whose deadline is a promise that can't wait for an event's end gives way
    to limits and emergencies alone.

    Why not by price: such a job stops as a whole or not at all, and a kilowatt too much for an hour is always cheaper
    than all the work of a gang.
    """
    facts, steps = model.facts, steps_of(model.facts)
    who = np.flatnonzero(steps.stepped)
    if not len(who):
        for name in ("gives_way_limit", "gives_way_event"):
            model.rows(name, "j" + model.get("over_" + name.removeprefix("gives_way_")).axes[0] + "t", (NO_INTS,) * 3)
        return
    begins = np.cumsum(facts.hours) - facts.hours
    lasts = (begins < steps.least_h[who, None] - 1e-9) & steps.lasting[who, None] | (np.arange(facts.count) == 0)
    home = np.array([_only_site(facts, j) for j in who.tolist()], dtype=np.int64)
    limit, event = model.get("over_limit"), model.get("over_event")
    firm = np.array([item.firm or item.emergency for item in facts.problem.events], dtype=np.bool_)
    waits = [_waits_for(facts, steps, item) for item in facts.problem.events]
    sites = np.array([facts.site_index[item.site] for item in facts.problem.events], dtype=np.int64)
    heed = np.array(waits, dtype=np.bool_).reshape(len(waits), len(facts.table))[:, who].T
    asks = firm[event.keys[0]] & heed[:, event.keys[0]]
    for name, over, caps, at, heard in (
        ("gives_way_limit", limit, facts.limit_kw, limit.keys[0], np.ones((len(who), len(limit)), dtype=np.bool_)),
        ("gives_way_event", event, facts.event_kw, sites[event.keys[0]], asks),
    ):
        row, n = np.nonzero((home[:, None] == at) & heard & lasts[:, over.keys[1]])
        most = np.maximum(0.0, facts.most_import_kw[at, over.keys[1]] - np.maximum(0.0, caps[over.keys]))
        _add_way(model, name, over, (who[row], n), most)


def _waits_for(facts: Facts, steps: Steps, event: GridEvent) -> Flags:
    """Jobs [job] that give way to a firm event: all, but those that have promised their end and must begin, or go on,
    before it is over."""
    over_h = (event.end - facts.problem.grid.start).total_seconds() / 3600.0
    waits: Flags = ~facts.table.firm | (steps.latest_h >= over_h) | event.emergency
    return waits


def _only_site(facts: Facts, job: int) -> int:
    """The one site at which a job can run (-1: none, or several)."""
    sites = {facts.pools[g].site for g in facts.jobs[job].pools}
    return sites.pop() if len(sites) == 1 else -1


def _add_way(model: Model, name: str, over: Columns, pairs: tuple[Ints, Ints], most: Floats) -> None:
    """over[n] + most[n] * on[j,t] <= most[n] for pairs of a job and a column of `over`; none where j has no `on`."""
    shape = (len(model.facts.jobs), model.facts.count)
    found = {family: model.get(family).find(shape) for family in ("on_now", "on")}
    j, n = pairs
    some = np.any([at[j, over.keys[1][n]] >= 0 for at in found.values()], axis=0)
    j, n = j[some], n[some]
    rows = model.rows(name, "j" + over.axes[0] + "t", (j, over.keys[0][n], over.keys[1][n]), high=most[n])
    rows.add(rows.all, over, n, 1.0)
    for family, at in found.items():
        member = at[j, over.keys[1][n]]
        here = member >= 0
        rows.add(rows.all[here], model.get(family), member[here], most[n][here])


def held(facts: Facts, steps: Steps) -> Flags:
    """Intervals [job, interval] in which a run in progress has not lasted as long as it must: the present one, and
    those that lie inside the time that remains."""
    inside: Flags = (np.cumsum(facts.hours) <= steps.hold_h[:, None] + 1e-9) & (steps.hold_h[:, None] > 0)
    inside[:, 0] |= steps.hold_h > 1e-9
    return inside
