"""Preemptible jobs: when and where their work is done, what is late, what is left for later, what is never done."""

from __future__ import annotations

import numpy as np

from optimizer.facts import PREFERENCE_PER_GPU_H, Facts, Floats
from optimizer.model.parts import NO_INTS, Columns, Flags, Ints, Model
from optimizer.once import once_for_jobs


def add_rates(model: Model) -> None:
    """x[j,g,t], late[j,g,t]: mean rates in GPU equivalents before and after the deadline.

    0 <= x <= rate limit * share of the interval inside [release, deadline); late likewise inside [deadline, end). Over
    several pools their sum keeps the same bound. Objective: + (weight of a missed deadline + late penalty * mean hours
    late) * hours * late rate; + a tenth of a cent per GPU-h for each place down the job's list of pools, so that equal
    pools don't share a job by chance; + the cost of moving its data to a pool at another site, spread over its work; +
    a thousandth of a cent per GPU-h and hour of waiting, so that work that gains nothing by waiting is done now.
    """
    table = model.facts.table
    premium = model.job_weights.late_per_gpu_h
    pair, t, own = open_rates(model.facts)
    _add_rate(model, "x", (pair, t), own, 0.0)
    pair, t, own = _late_rates(model.facts, model.late)
    j = table.pair_job[pair]
    _add_rate(model, "late", (pair, t), own, premium[j] + table.late_penalty[j] * table.hours_late[j, t])
    soonest, some = table.soonest_late_h, np.isfinite(table.soonest_late_h)
    _add_missed(model, np.where(some, premium + table.late_penalty * np.where(some, soonest, 0.0), np.inf))


@once_for_jobs
def open_rates(facts: Facts) -> tuple[Ints, Ints, Floats]:
    """Pair, interval and highest rate in GPU equivalents of all that preemptible jobs can do before their deadline,
    where no speed is given."""
    return _open(facts, facts.table.on_time_h)


def _late_rates(facts: Facts, late: Flags) -> tuple[Ints, Ints, Floats]:
    """The same after the deadline, of these jobs."""
    if not late.any():
        return NO_INTS, NO_INTS, np.zeros(0)
    return _open(facts, np.where(late[:, None], facts.table.late_h, 0.0))


def _open(facts: Facts, open_h: Floats) -> tuple[Ints, Ints, Floats]:
    """The same of all that jobs can do in so many hours [job, interval]. In a pool of slower or fewer GPUs a job's rate
    is that of its GPUs there."""
    table = facts.table
    bound = open_h / facts.hours * table.rate[:, None]
    open_ = (bound * facts.hours > 1e-6 * table.rate[:, None]) & table.preemptible[:, None]
    pair, t = np.nonzero(open_[table.pair_job])
    return pair, t, bound[table.pair_job[pair], t] * table.pair_share[pair]


def _add_missed(model: Model, least: Floats) -> None:
    """missed[j] in GPU-h: what a job without columns for late work does after its deadline, at less than it costs.

    A plan in which all of these are 0 is the optimum of the whole model; where one is not, that job gets its columns.
    `least`: the least cost of lateness per GPU-hour; whoever is paid to draw power may earn on top of it.
    """
    facts, table = model.facts, model.facts.table
    earned = np.zeros(len(facts.pools))
    for pool in facts.pools:
        paid = np.minimum(0.0, facts.cost_per_kwh[pool.site] * facts.pue[pool.site])
        earned[pool.index] = float((paid * pool.kw_per_work).min()) if pool.batch else 0.0
    most = np.zeros(len(facts.jobs))
    np.minimum.at(most, table.pair_job, earned[table.pair_pool])
    j = np.flatnonzero(table.preemptible & ~model.late & np.isfinite(least) & (table.first_pool >= 0))
    model.columns("missed", "j", (j,), high=table.left[j], cost=(least + most)[j])


def _add_rate(model: Model, family: str, at: tuple[Ints, Ints], own: Floats, cost: Floats | float) -> None:
    """One family of rates `at` pairs and intervals: `own` in GPU equivalents at the highest speed, `cost` of lateness
    per GPU-hour."""
    facts, table = model.facts, model.facts.table
    pair, t = at
    j, g = table.pair_job[pair], table.pair_pool[pair]
    worth = cost + (PREFERENCE_PER_GPU_H * table.pair_place + facts.move_per_gpu_h)[pair] + facts.waiting_cost[t]
    if any(pool.speed is not None for pool in facts.pools):
        speed = np.array([pool.speed_share for pool in facts.pools]).reshape(len(facts.pools), facts.count)
        own = own * speed[g, t]
    columns = model.columns(family, "jgt", (j, g, t), high=own, cost=worth * facts.hours[t])
    _share_rate(model, columns)


def _share_rate(model: Model, columns: Columns) -> None:
    """Sum over the job's pools of its rate <= its rate limit, for jobs with several pools."""
    table, hours = model.facts.table, model.facts.hours
    several = np.bincount(table.pair_job, minlength=len(table)) > 1
    j, _, t = columns.keys
    used = several[j]
    if not used.any():
        model.rows(f"rate_{columns.name}", "jt", (NO_INTS, NO_INTS))
        return
    open_ = np.zeros(table.on_time_h.shape, dtype=np.bool_)
    open_[j[used], t[used]] = True
    rows_j, rows_t = np.nonzero(open_)
    open_h = table.on_time_h if columns.name == "x" else table.late_h
    bound = open_h[rows_j, rows_t] / hours[rows_t] * table.rate[rows_j]
    rows = model.rows(f"rate_{columns.name}", "jt", (rows_j, rows_t), high=bound)
    rows.add(rows.find(open_.shape)[j[used], t[used]], columns, columns.all[used], 1.0)


def add_work(model: Model) -> None:
    """sum hours * (x + late) + missed + carried + undone = work left (GPU-h).

    carried <= what fits between the horizon and the deadline at the highest rate; it costs the mean price of energy and
    the wait, so that a far job neither rushes nor stalls. Objective: + weight of undone work * undone - value * work
    left.
    """
    facts, table = model.facts, model.facts.table
    j = np.flatnonzero(table.preemptible)
    lost = model.job_weights.undone_per_gpu_h
    undone = model.columns("undone", "j", (j,), high=table.left[j], cost=lost[j])
    far = np.flatnonzero(table.preemptible & (table.beyond_h > 0) & (table.first_pool >= 0))
    cost = facts.carry_cost[table.first_pool[far]] + facts.carried_wait if len(far) else 0.0
    carried = model.columns("carried", "j", (far,), high=(table.rate * table.beyond_h)[far], cost=cost)
    work = model.rows("work", "j", (j,), low=table.left[j], high=table.left[j])
    at = work.find(table.left.shape)
    work.add(work.all, undone, undone.all, 1.0)
    work.add(at[far], carried, carried.all, 1.0)
    missed = model.get("missed")
    work.add(at[missed.keys[0]], missed, missed.all, 1.0)
    for family in ("x", "late"):
        columns = model.get(family)
        work.add(at[columns.keys[0]], columns, columns.all, facts.hours[columns.keys[2]])
    model.constant -= float(table.value_per_gpu_h[j] @ table.left[j])
