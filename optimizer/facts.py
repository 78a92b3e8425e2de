"""What follows from a problem before anything is decided: arrays over the grid for pools, jobs and sites.

Why one place: the model, the greedy plan, the shifted plan and the evaluation must read the same problem. (The checker
has arithmetic of its own, on purpose.) Power is in kW of a whole pool, work in GPU equivalents at full throughput.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from datetime import timedelta
from functools import cached_property
from itertools import pairwise

import numpy as np
from numpy.typing import NDArray

from optimizer.assets import CoincidentCharge
from optimizer.batchpools import gpus_for, working_of
from optimizer.curves import (
    cap_for_throughput,
    clipped,
    hull_of_caps,
    throughput_at_cap,
)
from optimizer.domain import GridEvent, PoolInputs, PowerCurve, Problem, Work
from optimizer.envelope import event_breakpoints, mean_limit_kw, promised_kwh
from optimizer.jobfacts import JobFacts, Jobs, JobTable, table_of
from optimizer.parked import parked_of
from optimizer.poolfacts import SLACK, PoolFacts, hulls_at
from optimizer.supply import Supply, supply_of

Floats = NDArray[np.float64]
INF = float("inf")
PREFERENCE_PER_GPU_H = 0.001
"""Money per GPU-hour for each place down a job's list of pools: order decides between equals, and nothing else."""

WAITING_PER_GPU_H_H = 1e-5
"""Money per GPU-hour of a job's work and hour until it is done: where nothing is gained by waiting, work is done now. A
day's wait weighs as much as a third of a USD/MWh at 0.7 kW a GPU, so a plan gives up no price worth waiting for."""

LEAST_GAIN = 0.01
"""Money that taking part in a voluntary event must bring at least: nothing is promised for nothing."""


@dataclass(frozen=True, eq=False)
class Facts:
    """What follows from a problem; arrays are [site, interval] or [event, interval]. Equal to itself only."""

    problem: Problem
    hours: Floats
    cost_per_kwh: Floats
    pue: Floats
    other_kw: Floats
    limit_kw: Floats
    event_kw: Floats
    pools: tuple[PoolFacts, ...]
    jobs: Jobs
    coincident_per_kwh: Floats
    """The part of `cost_per_kwh` that is the expected charge on the grid's own peak."""
    taken: frozenset[str] = frozenset()
    """Voluntary events that wait for an answer and whose caps hold as if it were yes."""

    @cached_property
    def move_per_gpu_h(self) -> Floats:
        """Money for moving a job's data, per GPU-hour of its work [pair of job and pool]: gigabytes * price / work left
        where the pool is at another site than the data, else 0."""
        table, price = self.table, self.problem.prices.move_per_gb
        cost = np.zeros(len(table.pair_job))
        if price > 0:
            data = np.array([self.site_index.get(job.data_site, -1) for job in table.jobs], dtype=np.int64)
            size = np.array([job.data_gb for job in table.jobs])
            where = np.array([pool.site for pool in self.pools], dtype=np.int64)[table.pair_pool]
            home = data[table.pair_job]
            each = (size * price / table.left)[table.pair_job]
            cost = np.where((home >= 0) & (where != home), each, 0.0)
        return cost

    @property
    def count(self) -> int:
        """Number of intervals."""
        return len(self.hours)

    @cached_property
    def waiting_cost(self) -> Floats:
        """Money per GPU-hour of a job's work that is done in an interval and not at once [interval]."""
        found: Floats = WAITING_PER_GPU_H_H * (np.cumsum(self.hours) - self.hours / 2)
        return found

    @property
    def carried_wait(self) -> float:
        """Money per GPU-hour of a job's work that waits until after the horizon."""
        return WAITING_PER_GPU_H_H * float(self.hours.sum())

    @property
    def table(self) -> JobTable:
        """All jobs as arrays."""
        return self.jobs.table

    @cached_property
    def supply(self) -> Supply:
        """Batteries and generators."""
        return supply_of(self)

    @cached_property
    def usable_cap_kw(self) -> Floats:
        """What loads may take per site and interval: the strictest of hard limit and events, and must-take output."""
        caps: Floats = np.maximum(0.0, np.minimum(self.limit_kw, self.events_cap_kw)) + self.supply.must_take_kw
        return caps

    @cached_property
    def site_index(self) -> dict[str, int]:
        """Site id -> its row."""
        return {site.id: number for number, site in enumerate(self.problem.sites)}

    def events_of(self, site: int) -> list[tuple[int, GridEvent]]:
        """Events of a site with their row in `event_kw`."""
        events = enumerate(self.problem.events)
        return [(number, event) for number, event in events if self.site_index[event.site] == site]

    def asking(self, site: int) -> list[tuple[int, GridEvent]]:
        """Events of a site whose caps hold: all but voluntary ones that it does not take part in."""
        return [(number, event) for number, event in self.events_of(site) if self.asks(event)]

    def asks(self, event: GridEvent) -> bool:
        """Whether an event's cap holds."""
        return not event.undecided or event.id in self.taken

    @cached_property
    def promised_kwh(self) -> Floats:
        """Energy below the baseline that each event asks inside the horizon [event]."""
        grid = self.problem.grid
        return np.array([promised_kwh(event, grid.start, grid.end) for event in self.problem.events])

    @cached_property
    def most_import_kw(self) -> Floats:
        """What no plan imports more than, per site and interval: every GPU that may work at full power, every battery
        charging."""
        total = self.other_kw.copy()
        for facts in self.pools:
            total[facts.site] += facts.top_kw
        charge = [sum(battery.charge_kw for battery in site.batteries) for site in self.problem.sites]
        found: Floats = total * self.pue + np.array(charge)[:, None]
        return found

    @cached_property
    def events_cap_kw(self) -> Floats:
        """Strictest event cap per site and interval (inf: none)."""
        caps = np.full_like(self.limit_kw, INF)
        for row in range(len(caps)):
            for number, _ in self.asking(row):
                caps[row] = np.minimum(caps[row], self.event_kw[number])
        return caps

    @cached_property
    def firm_cap_kw(self) -> Floats:
        """Strictest of the hard limit and the firm events per site and interval."""
        caps = self.limit_kw.copy()
        for row in range(len(caps)):
            for number, event in self.asking(row):
                if event.firm or event.emergency:
                    caps[row] = np.minimum(caps[row], self.event_kw[number])
        return caps

    @cached_property
    def fixed_work(self) -> Floats:
        """Work in GPU equivalents per pool and interval of jobs that run and may not be interrupted."""
        work = np.zeros((len(self.pools), self.count))
        for number in np.flatnonzero(self.table.fixed & (self.table.first_pool >= 0)).tolist():
            facts = self.jobs[number]
            work[facts.pools[0]] += unbroken_run(self, facts, 0)
        return work

    def runs_fit(self, index: int) -> bool:
        """Whether a batch pool has the GPUs for all its jobs that run and may not be interrupted."""
        return bool(self.fixed_work[index].max() <= self.pools[index].top_work + 1e-9)

    @cached_property
    def least_import_kw(self) -> Floats:
        """Least import per site and interval: floors that hold, idle GPUs, and jobs that may not be interrupted."""
        return self._import_kw([np.where(pool.may_break_floor, pool.base_kw, pool.least_kw) for pool in self.pools])

    @cached_property
    def kept_import_kw(self) -> Floats:
        """The same with every floor kept, also where one may give."""
        return self._import_kw([pool.least_kw for pool in self.pools])

    def _import_kw(self, draws: Sequence[Floats]) -> Floats:
        """Import per site and interval where pools draw so much, or what the jobs in them that may not be interrupted
        take."""
        total = self.other_kw.copy()
        for facts, draw in zip(self.pools, draws, strict=True):
            running = facts.batch and self.fixed_work[facts.index].any()
            total[facts.site] += facts.draws_for(self.fixed_work[facts.index]) if running else draw
        return total * self.pue

    @cached_property
    def carry_cost(self) -> Floats:
        """Money per GPU-hour of work left for after the horizon: the mean cost of energy at each pool's knee."""
        knees = [facts.from_idle.segments[0] for facts in self.pools]
        found: Floats = self._later_per_kwh * np.array([1.0 / (1000.0 * knee.slope_per_w) for knee in knees])
        return found

    @cached_property
    def run_cost(self) -> Floats:
        """The same for work that may not be interrupted: it runs at full speed, whenever it does."""
        curves = [(facts.curve.points[-1], facts.curve.idle_w) for facts in self.pools]
        kwh = np.array([(top.draw_w - idle_w) / top.throughput / 1e3 for top, idle_w in curves])
        found: Floats = self._later_per_kwh * kwh
        return found

    @cached_property
    def _later_per_kwh(self) -> Floats:
        """Mean cost of energy after the horizon, at each pool's site."""
        lasting = self.cost_per_kwh - self.coincident_per_kwh  # a coincident peak is no price of later hours
        mean_cost = (lasting * self.pue * self.hours).sum(axis=1) / self.hours.sum()
        found: Floats = mean_cost[[pool.site for pool in self.pools]]
        return found


def unbroken_run(facts: Facts, job: JobFacts, start: int) -> Floats:
    """Work in GPU equivalents per interval of a job that starts at interval `start` (or at its release inside it) and
    runs at its highest rate without a break."""
    ends = np.cumsum(facts.hours)
    begins = ends - facts.hours
    first = max(float(begins[start]), _release_h(facts, job)) if not job.fixed else float(begins[start])
    last = first + (job.left / job.rate if job.rate > 0 else 0.0)
    overlap = np.clip(np.minimum(ends, last) - np.maximum(begins, first), 0.0, None)
    work: Floats = job.rate * overlap / facts.hours
    return work


def late_tail(facts: Facts, job: JobFacts, done: float) -> tuple[float, float]:
    """GPU-hours that a run without a break, with `done` of it inside the horizon, does after both horizon and deadline,
    and how many hours after the deadline they lie on average."""
    tail = max(0.0, job.left - done)
    late = tail - job.rate * job.beyond_h
    if job.rate <= 0 or late <= 1e-9 * max(1.0, job.left):
        return 0.0, 0.0
    end_h = float(facts.hours.sum())
    deadline_h = (job.job.deadline - facts.problem.grid.start).total_seconds() / 3600.0
    return late, (max(end_h, deadline_h) + end_h + tail / job.rate) / 2 - deadline_h


def _release_h(facts: Facts, job: JobFacts) -> float:
    """Hours from the grid's start to the job's release."""
    return (job.job.release - facts.problem.grid.start).total_seconds() / 3600.0


def facts_of(problem: Problem, before: Facts | None = None) -> Facts:
    """Compute the facts of a valid problem; `before`: those of the last one, whose jobs are taken over where they, the
    grid and the pools are the same."""
    known = before if before is not None and _same_work(before.problem, problem) else None
    hours = np.array(problem.grid.hours)
    sites = {site.id: number for number, site in enumerate(problem.sites)}
    tonne = problem.prices.carbon_per_tonne
    cost = [
        np.array(site.price_per_mwh) / 1000.0 + np.array(site.carbon_g_per_kwh) * tonne / 1e6 for site in problem.sites
    ]
    coincident = np.array([_coincident_per_kwh(site.coincident, hours) for site in problem.sites])
    jobs = known.jobs if known is not None else Jobs(table_of(problem, hours))
    facts = Facts(
        problem,
        hours,
        np.array(cost) + coincident,
        np.array([site.pue for site in problem.sites]),
        np.array([site.other_it_kw for site in problem.sites]),
        np.array([site.limit_kw for site in problem.sites], dtype=np.float64),
        np.array([_event_kw(problem, event) for event in problem.events]).reshape(len(problem.events), len(hours)),
        tuple(
            _as_before(known, problem, number) or _pool(problem, number, sites, jobs.table)
            for number in range(len(problem.pools))
        ),
        jobs,
        coincident,
    )
    pools = tuple(_with_floors(facts, pool) for pool in facts.pools)
    same = all(new is old for new, old in zip(pools, facts.pools, strict=True))
    return facts if same else replace(facts, pools=pools)


def _same_work(old: Problem, new: Problem) -> bool:
    """Whether two problems have the same jobs on the same grid, pools and sites."""
    return (
        old.grid.edges == new.grid.edges
        and old.jobs == new.jobs
        and [item.pool for item in old.pools] == [item.pool for item in new.pools]
        and [site.id for site in old.sites] == [site.id for site in new.sites]
    )


def _as_before(known: Facts | None, problem: Problem, number: int) -> PoolFacts | None:
    """What is known of a batch pool that parks nothing, which follows from its jobs and its present draw alone; of any
    other pool without its load."""
    old = known.pools[number] if known is not None else None
    inputs = problem.pools[number]
    if known is None or old is None or inputs.pool.parking is not None or old.may_break_floor.any():
        return None
    if old.batch:
        return old if old.draw_now_kw == inputs.draw_now_kw else None
    if known.problem.pools[number].floors != inputs.floors:
        return None
    return old.with_load(np.array(inputs.load) * inputs.pool.count, inputs.draw_now_kw)


def with_taken(facts: Facts, taken: frozenset[str]) -> Facts:
    """The facts with these voluntary events as binding as any other, and no more of them."""
    return facts if taken == facts.taken else replace(facts, taken=taken)


def _event_kw(problem: Problem, event: GridEvent) -> list[float]:
    """Mean cap of an event in each interval (inf: it asks nothing)."""
    edges, marks = problem.grid.edges, event_breakpoints(event)
    return [
        mean_limit_kw(event, start, end) if start < marks[-1] and end > marks[0] else INF
        for start, end in pairwise(edges)
    ]


def _coincident_per_kwh(charges: tuple[CoincidentCharge, ...], hours: Floats) -> Floats:
    """Expected coincident-peak charge as money per kWh: price per kW * expected peaks / hours of the interval."""
    total = np.zeros(len(hours))
    for charge in charges:
        total += charge.price_per_kw * np.array(charge.probability) / hours
    return total


def _with_floors(facts: Facts, pool: PoolFacts) -> PoolFacts:
    """The pool with its floor breakable only where nothing else helps.

    Under an emergency order that the operator has allowed, any floor; under a hard limit, training's; and only where
    all floors together don't fit under that cap.
    """
    cap = facts.limit_kw[pool.site] if pool.pool.work is Work.TRAINING else np.full(facts.count, INF)
    for number, event in facts.events_of(pool.site):
        if event.emergency:
            ended = event.end + timedelta(seconds=event.ramp_out_s)
            active = np.array([start < ended for start in facts.problem.grid.starts])
            asked = np.minimum(facts.limit_kw[pool.site], facts.event_kw[number])
            cap = np.where(active & (facts.event_kw[number] < INF), np.minimum(cap, asked), cap)
    if np.isinf(cap).all():
        return pool
    supplied = facts.least_import_kw[pool.site] - facts.supply.most_output_kw[pool.site]
    may_break = supplied > cap + 1e-9
    return replace(pool, may_break_floor=may_break) if may_break.any() else pool


def _pool(problem: Problem, number: int, sites: dict[str, int], jobs: JobTable) -> PoolFacts:
    inputs = problem.pools[number]
    pool = inputs.pool
    curve = clipped(pool.curve, pool.min_cap_w, pool.max_cap_w)
    floor_caps = _floor_caps(inputs, curve, len(problem.grid))
    parked = parked_of(inputs, np.array(problem.grid.hours), _held_gpus(number, pool.count, curve, jobs))
    speed = lone = None
    if pool.work is Work.BATCH:
        working, speed, lone = working_of(problem, number, curve, jobs)
        hulls = hulls_at(curve, speed, SLACK, np.inf) if pool.one_cap else hulls_at(curve, speed)
        speed = speed if pool.one_cap else None
        working = working if parked is None else np.minimum(working, np.maximum(0.0, parked.most_awake))
    else:
        working = np.array(inputs.load) * pool.count
        hulls = (hull_of_caps(curve),) * len(problem.grid)
    breakable = np.zeros(len(problem.grid), dtype=np.bool_)
    now_kw = inputs.draw_now_kw
    return PoolFacts(
        pool, number, sites[pool.site], curve, working, hulls, floor_caps, breakable, now_kw, parked, speed, lone
    )


def _floor_caps(inputs: PoolInputs, curve: PowerCurve, count: int) -> NDArray[np.int64]:
    """Lowest whole-watt cap that keeps the floor of each interval: the pool's own, or a higher one of the interval."""
    pool = inputs.pool
    top = throughput_at_cap(curve, pool.max_cap_w)
    floors = [min(top, max(pool.floor, floor)) for floor in inputs.floors or (pool.floor,) * count]
    caps = {floor: max(int(pool.min_cap_w), cap_for_throughput(curve, floor)) for floor in set(floors)}
    return np.array([caps[floor] for floor in floors], dtype=np.int64)


def _held_gpus(number: int, count: int, curve: PowerCurve, jobs: JobTable) -> float:
    """GPUs of jobs that run in a pool and may not be interrupted."""
    held = jobs.fixed & (jobs.first_pool == number)
    return float(gpus_for(jobs, held, count, curve).sum())
