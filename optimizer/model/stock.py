"""Tanks of work: what must and what can be done of the work of many jobs by the end of each interval."""

from __future__ import annotations

import numpy as np

from optimizer.model.parts import Model


def add_stock(model: Model) -> None:
    """stock[j,t] = stock[j,t-1] + hours * x[j,t] + given_up[j,t], least[j,t] <= stock[j,t] <= most[j,t] (GPU-h), for
    rows of the table that are tanks: given up is work that would have had to be done by then.

    Objective: + (weight of a missed deadline + late penalty of an hour) * given up, which stays in the work to do as
    carried on or undone, at the price of that.
    """
    facts, stock = model.facts, model.facts.table.stock
    rows = stock.rows if stock is not None else np.zeros(0, dtype=np.int64)
    j, t = np.repeat(rows, facts.count), np.tile(np.arange(facts.count), len(rows))
    least, most = (stock.least.ravel(), stock.most.ravel()) if stock is not None else (np.zeros(0), np.zeros(0))
    level = model.columns("stock", "jt", (j, t), low=least, high=most)
    lost = model.job_weights.late_per_gpu_h + facts.table.late_penalty
    given_up = model.columns("given_up", "jt", (j, t), cost=lost[j])
    flow = model.rows("stock_flow", "jt", (j, t), low=0.0, high=0.0)
    if stock is None:
        return
    at = flow.find((len(facts.jobs), facts.count))
    flow.add(flow.all, level, level.all, 1.0)
    later = t > 0
    flow.add(flow.all[later], level, level.all[later] - 1, -1.0)
    flow.add(flow.all, given_up, given_up.all, -1.0)
    x = model.get("x")
    mine = at[x.keys[0], x.keys[2]]
    flow.add(mine[mine >= 0], x, x.all[mine >= 0], -facts.hours[x.keys[2][mine >= 0]])
