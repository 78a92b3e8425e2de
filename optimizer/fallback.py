"""Plans without a solver, for when there is none in time: greedy, shifted, held and safe. Always inside every cap.

Why greedy is good enough to run on: least slack first, each job in its cheapest hours, caps in merit order. It loses
money against the optimum, never a promise. All of it is arrays: a thousand jobs take a fraction of a second.
"""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
from numpy.typing import NDArray

from optimizer.answers import EventPlan
from optimizer.assemble import Draft, assemble
from optimizer.curves import draw_at_cap
from optimizer.domain import Plan, Problem, Rung
from optimizer.facts import Facts, Floats, facts_of, late_tail, unbroken_run, with_taken
from optimizer.jobfacts import JobFacts
from optimizer.leastruns import Space, keep_runs, space_left
from optimizer.poolfacts import PoolFacts
from optimizer.promises import keep_promises
from optimizer.reasons import Note, Reason, Severity
from optimizer.room import fit, fixed_draw, headroom_kw, kw_per_work, wanted_draw
from optimizer.steps import depths, least_now, may_work, steps_of
from optimizer.weights import job_weights

INF = float("inf")


def greedy_plan(problem: Problem) -> Plan:
    """A plan from rules alone: the most valuable draws under the caps, then jobs by slack in their cheapest hours."""
    facts = facts_of(problem)
    draw = fit(facts, wanted_draw(facts))
    book = _Book(facts, draw)
    depth = depths(facts, book.steps.order)
    for number in sorted(range(len(facts.jobs)), key=lambda n: (depth[n], _rank(facts.jobs[n]))):
        book.place(number)
    return book.plan(Rung.GREEDY, Reason.GREEDY_PLAN, "made by rules without the solver")


def safe_plan(problem: Problem) -> Plan:
    """Every pool at its floor, no job but those that may not be interrupted: the least that keeps every promise."""
    facts = facts_of(problem)
    draw = fixed_draw(facts)
    for pool in facts.pools:
        if not pool.batch:
            draw[pool.index] = pool.least_kw
    return _Book(facts, fit(facts, draw)).plan(Rung.SAFE, Reason.SAFE_STATE, "every pool at its floor, jobs wait")


def hold_plan(problem: Problem, last: Plan) -> Plan:
    """The caps and jobs of the last plan's present interval, held over the whole grid and cut to every cap."""
    facts = _answered(problem, last)
    index = _index_at(last, 0, facts)
    book = _Book(facts, fit(facts, _draw_under_caps(facts, last, [index] * facts.count)))
    for number in book.in_order():
        orders = last.jobs.get(facts.jobs[number].job.id)
        if orders is not None and orders.work_gpus[index] > 1e-9:
            book.follow(number, np.full(facts.count, orders.work_gpus[index]), orders.pool)
    return book.plan(Rung.HOLD, Reason.HELD, "the present caps are held", last.events)


def shift_plan(last: Plan, problem: Problem) -> Plan:
    """The last plan cut anew onto the problem's grid: its caps under the new load, its jobs' rates, under every cap."""
    facts = _answered(problem, last)
    steps = [_index_at(last, t, facts) for t in range(facts.count)]
    book = _Book(facts, fit(facts, _draw_under_caps(facts, last, steps)))
    old_edges = np.array([(edge - problem.grid.start).total_seconds() / 3600.0 for edge in last.grid.edges])
    new_edges = np.concatenate(([0.0], np.cumsum(facts.hours)))
    for number in book.in_order():
        orders = last.jobs.get(facts.jobs[number].job.id)
        if orders is not None:
            done = np.concatenate(([0.0], np.cumsum(np.array(orders.work_gpus) * np.diff(old_edges))))
            book.follow(number, np.diff(np.interp(new_edges, old_edges, done)) / facts.hours, orders.pool)
    return book.plan(
        Rung.SHIFTED, Reason.LAST_PLAN_SHIFTED, f"the plan of {last.made_at:%H:%M}Z is followed", last.events
    )


def _answered(problem: Problem, last: Plan) -> Facts:
    """Facts under the last plan's answers to voluntary events: those that it takes part in bind."""
    open_ = frozenset(event.id for event in problem.events if event.undecided)
    return with_taken(facts_of(problem), open_ & last.taken)


def _index_at(last: Plan, t: int, facts: Facts) -> int:
    """The last plan's interval at the start of interval t; its first or last one beyond its ends."""
    moment = facts.problem.grid.starts[t]
    if moment >= last.grid.end:
        return len(last.grid) - 1
    return last.grid.index(max(moment, last.grid.start))


def _draw_under_caps(facts: Facts, last: Plan, steps: list[int]) -> Floats:
    """Draw [pool, interval] of the last plan's caps under the present load; batch pools only what they can't avoid."""
    draw = fixed_draw(facts)
    for pool in facts.pools:
        orders = last.pools.get(pool.pool.id)
        if pool.batch:
            continue
        caps = [orders.cap_w[step] for step in steps] if orders else [pool.pool.max_cap_w] * facts.count
        top_w = pool.hulls[0].top_w
        busy_w = {cap: min(top_w, draw_at_cap(pool.curve, cap)) for cap in set(caps)}
        above = np.array([busy_w[cap] - pool.hulls[0].base_w for cap in caps])
        draw[pool.index] = np.maximum(pool.base_kw + pool.working * np.maximum(0.0, above) / 1000.0, pool.least_kw)
    return draw


def _rank(job: JobFacts) -> tuple[int, float, str]:
    """Order of placing: by priority, then by what is left until the deadline at the highest rate."""
    hours = float(job.on_time_h.sum()) + job.beyond_h
    return -job.job.priority, hours - job.left / max(job.rate, 1e-9), job.job.id


class _Book:
    """Free GPUs and power while jobs are placed. Power is booked at what full speed takes: it always suffices."""

    def __init__(self, facts: Facts, draw_kw: Floats) -> None:
        self.facts = facts
        self.steps = steps_of(facts)
        self.draw_kw = draw_kw
        self.room_kw = headroom_kw(facts, draw_kw)
        self.kw_per_work = kw_per_work(facts)
        self.free = np.zeros((len(facts.pools), facts.count))
        self.rates = np.zeros((len(facts.jobs), facts.count))
        self.homes = [job.pools[0] if job.pools else -1 for job in facts.jobs]
        self.cost = facts.cost_per_kwh * facts.pue
        self.order = np.argsort(self.cost, axis=1, kind="stable")
        self.mean = (self.cost @ facts.hours) / facts.hours.sum()
        for pool in facts.pools:
            if pool.batch:
                self.free[pool.index] = pool.working * pool.hulls[0].top_throughput
                self._book_at_full_speed(pool)
        for number, job in enumerate(facts.jobs):
            if job.fixed and job.pools and facts.runs_fit(job.pools[0]):
                self.rates[number] = unbroken_run(facts, job, 0)
                self.free[job.pools[0]] -= self.rates[number]
        self.free = np.clip(self.free, 0.0, None)

    def _book_at_full_speed(self, pool: PoolFacts) -> None:
        """Power of runs that may not be interrupted as for any job: slow GPUs take less, until others fill the pool."""
        if self.facts.runs_fit(pool.index):
            full_kw = pool.base_kw + self.facts.fixed_work[pool.index] * self.kw_per_work[pool.index]
            extra_kw = np.clip(full_kw - self.draw_kw[pool.index], 0.0, None)
            self.room_kw[pool.site] = np.clip(self.room_kw[pool.site] - extra_kw, 0.0, None)

    def in_order(self) -> list[int]:
        """Jobs, whoever waits for others after them."""
        depth = depths(self.facts, self.steps.order)
        return sorted(range(len(depth)), key=lambda number: depth[number])

    def _available(self, g: int) -> Floats:
        """GPU equivalents that pool g could still take [interval]."""
        available: Floats = np.minimum(self.free[g], self.room_kw[self.facts.pools[g].site] / self.kw_per_work[g])
        return available

    def _take(self, number: int, g: int, rates: Floats) -> None:
        """Book a job's rates on a pool; one that is short of its least GPUs in the present interval waits in it."""
        if 1e-12 < rates[0] < least_now(self.facts, self.steps, number):
            rates = np.concatenate(([0.0], rates[1:]))
        self.rates[number] = rates
        self.homes[number] = g
        self.free[g] -= rates
        self.room_kw[self.facts.pools[g].site] -= rates * self.kw_per_work[g]

    def place(self, number: int) -> None:
        """Place one job on the pool of its list that takes most of it."""
        job = self.facts.jobs[number]
        if job.fixed:
            return
        best: tuple[float, int, Floats] | None = None
        for g in job.pools:
            rates = self._spread(number, g) if job.job.preemptible else self._run(number, g)
            done = float(rates @ self.facts.hours)
            if best is None or done > best[0] + 1e-9:
                best = (done, g, rates)
            if done >= job.left - 1e-9:
                break
        if best is not None and best[0] > 1e-9:
            self._take(number, best[1], best[2])

    def _spread(self, number: int, g: int) -> Floats:
        """Rates of a preemptible job: its cheapest hours before the deadline, then the earliest after it."""
        job, facts, s = self.facts.jobs[number], self.facts, self.facts.pools[g].site
        available = self._available(g) * facts.hours * may_work(facts, self.steps, self.rates, number)
        least = least_now(facts, self.steps, number) * float(facts.hours[0])
        if available[0] < least * (1 - 1e-9):
            available[0] = 0.0  # too few GPUs for it now: it waits
        limit = np.minimum(available, job.rate * job.on_time_h)
        order = self.order[s]
        work = _fill(limit, order, job.left)
        if job.beyond_h > 0:  # later is possible: now only what must be, and what is cheaper than the mean
            must = max(0.0, job.left - job.rate * job.beyond_h)
            reached = np.cumsum(work[order])
            keep = (self.cost[s][order] <= self.mean[s]) | (reached <= must + 1e-12)
            work[order] = np.where(keep, work[order], np.clip(work[order] - (reached - must), 0.0, None))
        pays = self.cost[s] * self.kw_per_work[g] <= job_weights(facts).undone_per_gpu_h[number]
        work = np.where(pays, work, 0.0)
        left = job.left - float(work.sum())
        if left > 1e-9 and job.late_h.any():
            spare = np.minimum(available - work, job.rate * job.late_h)
            work = work + np.where(pays, _fill(np.clip(spare, 0.0, None), np.arange(facts.count), left), 0.0)
        if 1e-12 < work[0] < least:  # now it runs with its least GPUs, and has less to do later
            work[0] = least
            work = np.clip(np.minimum(work, job.left - (np.cumsum(work) - work)), 0.0, None)
        rates: Floats = work / facts.hours
        return rates

    def _run(self, number: int, g: int) -> Floats:
        """Rates of a job that may not be interrupted: the cheapest start that fits and ends in time, else the first."""
        facts, job, s = self.facts, self.facts.jobs[number], self.facts.pools[g].site
        available = np.where(may_work(facts, self.steps, self.rates, number), self._available(g) + 1e-9, 0.0)
        if job.rate > facts.pools[g].top_work + 1e-9 or job.rate <= 0:
            return np.zeros(facts.count)
        chosen: tuple[bool, float, Floats] | None = None
        for t in np.flatnonzero(job.on_time_h + job.late_h > 1e-9).tolist():
            run = unbroken_run(facts, job, t)
            if (run > available).any():
                continue
            inside = float(np.clip(run * facts.hours - job.rate * job.on_time_h, 0.0, None).sum())
            late = inside + late_tail(facts, job, float(run @ facts.hours))[0] > 1e-9
            cost = float((run * facts.hours) @ self.cost[s])
            if chosen is None or (late, cost) < chosen[:2]:
                chosen = (late, cost, run)
        return chosen[2] if chosen else np.zeros(facts.count)

    def follow(self, number: int, rates: Floats, pool: str) -> None:
        """Book rates of an older plan as far as window, room and the work left allow."""
        facts, job = self.facts, self.facts.jobs[number]
        g = next((g for g in job.pools if facts.pools[g].pool.id == pool), -1)
        if g < 0 or job.fixed:
            return
        if not job.job.preemptible:
            self._follow_run(number, g, rates)
            return
        allowed = self._available(g) * may_work(facts, self.steps, self.rates, number)
        bound = np.minimum(allowed, job.rate * (job.on_time_h + job.late_h) / facts.hours)
        work = np.minimum(rates, bound) * facts.hours
        before = np.cumsum(work) - work
        self._take(number, g, np.clip(np.minimum(work, job.left - before), 0.0, None) / facts.hours)

    def _follow_run(self, number: int, g: int, rates: Floats) -> None:
        """Start a job that may not be interrupted where the older plan did, if it still fits there."""
        job = self.facts.jobs[number]
        starts: NDArray[np.int64] = np.flatnonzero((rates > 1e-9) & (job.on_time_h + job.late_h > 1e-9))
        if starts.size and 0 < job.rate <= self.facts.pools[g].top_work + 1e-9:
            run = unbroken_run(self.facts, job, int(starts[0]))
            allowed = may_work(self.facts, self.steps, self.rates, number)
            if (run <= np.where(allowed, self._available(g) + 1e-9, 0.0)).all():
                self._take(number, g, run)

    def plan(self, rung: Rung, reason: Reason, text: str, events: Mapping[str, EventPlan] | None = None) -> Plan:
        """The plan of what was booked; `events`: answers to voluntary events (None: no to all)."""
        facts = self.facts
        space = Space(self.free, self.room_kw, self.kw_per_work, np.zeros_like(self.free))
        if keep_promises(facts, self.steps, self.rates, self.homes, space):  # what was booked left no room for these
            space = space_left(facts, self.rates, self.homes, self.draw_kw, self.kw_per_work)
            keep_promises(facts, self.steps, self.rates, self.homes, space)
        draw = keep_runs(facts, self.steps, self.rates, self.homes, self.draw_kw)
        note = Note(reason, "plan", text, Severity.WARNING)
        return assemble(facts, Draft(draw, self.rates, tuple(self.homes), events=events or {}), rung, (note,))


def _fill(limit: Floats, order: NDArray[np.int64], left: float) -> Floats:
    """Take from `limit` in `order` until `left` is reached."""
    ordered = limit[order]
    before = np.cumsum(ordered) - ordered
    work = np.zeros_like(limit)
    work[order] = np.clip(np.minimum(ordered, left - before), 0.0, None)
    return work
