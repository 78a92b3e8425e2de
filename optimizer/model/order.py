"""Jobs that wait for others: no work before the jobs named in `after` are done.

Why relaxed after the present interval: to know which interval is the first after a predecessor's end takes a whole
decision in each; a rate in proportion to what is done needs none, and the present interval is exact.
"""

from __future__ import annotations

import numpy as np

from optimizer.facts import Floats
from optimizer.model.parts import Ints, Model, Rows
from optimizer.model.pauses import add_rate_of, most_rate
from optimizer.steps import steps_of


def add_order(model: Model) -> None:
    """For each job j and each job i that must be done before it (pair p), in every interval t of j:

        x[j,t] + late[j,t] <= bound[j,t] * done_i(t-1),     start[j,t] <= done_i(t-1)

    where done_i(t-1) = (hours * work of i before t) / (work left of i), in 0..1, and 0 in the present interval: exact
    there. And i is done when j needs it: (work of i before deadline_j - left_j / rate_j) + slip >= left_i (GPU-h).
    Objective: + weight of a missed deadline of j * slip.
    """
    steps = steps_of(model.facts)
    if len(steps.order):
        _add_waits(model, steps.order)
        _add_in_time(model, steps.order, steps.latest_h)


def _add_waits(model: Model, pairs: Ints) -> None:
    """A rate in proportion to what is done before."""
    facts = model.facts
    shape = (len(facts.jobs), facts.count)
    bound = most_rate(model)
    start = model.get("start")
    bound[start.keys[0], start.keys[2]] = 1.0
    p, t = np.nonzero(bound[pairs[:, 1]] > 0)
    rows = model.rows("after", "pt", (p, t), high=0.0)
    at = rows.find((len(pairs), facts.count))
    for number, (before, then) in enumerate(pairs.tolist()):
        mine = np.full(shape, -1, dtype=np.int64)
        mine[then] = at[number]
        add_rate_of(model, rows, mine, 1.0)
        here = np.flatnonzero(start.keys[0] == then)
        rows.add(at[number, start.keys[2][here]], start, here, 1.0)
        scale = bound[then] / facts.table.left[before]
        _add_done(model, rows, at[number], before, -scale)


def _add_done(model: Model, rows: Rows, at: Ints, job: int, scale: Floats) -> None:
    """Add scale[t] * (work of a job before interval t, in GPU-h) to the row of each interval."""
    facts = model.facts
    for name in ("x", "late"):
        columns = model.get(name)
        mine = np.flatnonzero(columns.keys[0] == job)
        row, col = np.nonzero((columns.keys[2][mine][None, :] < np.arange(facts.count)[:, None]) & (at >= 0)[:, None])
        member = mine[col]
        rows.add(at[row], columns, member, scale[row] * facts.hours[columns.keys[2][member]])
    start, (number, _, t, rate) = model.get("start"), model.runs
    mine = np.flatnonzero(start.keys[0] == job)
    work = np.zeros((len(start), facts.count))
    work[number, t] = rate * facts.hours[t]
    before = np.cumsum(work, axis=1) - work
    row, col = np.nonzero((before[mine].T > 1e-12) & (at >= 0)[:, None])
    rows.add(at[row], start, mine[col], scale[row] * before[mine[col], row])


def _add_in_time(model: Model, pairs: Ints, latest_h: Floats) -> None:
    """Predecessors are done when their successors need it."""
    facts, table = model.facts, model.facts.table
    latest = latest_h[pairs[:, 1]]
    ends = np.cumsum(facts.hours)
    begins = ends - facts.hours
    wanted = np.flatnonzero((latest < ends[-1]) & table.preemptible[pairs[:, 0]] & (latest > 0))
    weight = model.job_weights.late_per_gpu_h
    left = table.left[pairs[wanted, 0]]
    slip = model.columns("slip", "p", (wanted,), high=left, cost=weight[pairs[wanted, 1]])
    rows = model.rows("in_time", "p", (wanted,), low=left)
    rows.add(rows.all, slip, slip.all, 1.0)
    for row, number in enumerate(wanted.tolist()):
        inside = np.clip(latest[number] - begins, 0.0, facts.hours)
        for name in ("x", "late"):
            columns = model.get(name)
            mine = np.flatnonzero((columns.keys[0] == pairs[number, 0]) & (inside[columns.keys[2]] > 0))
            rows.add(np.full(len(mine), row), columns, mine, inside[columns.keys[2][mine]])
