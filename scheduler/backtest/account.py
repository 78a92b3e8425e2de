"""What a window cost: one account for Gridpace and for its rivals, so that their figures can be compared.

Why not the optimiser's own objective: the account must find fault with the optimiser. It reads metered import and work
done, never a plan's intentions, and knows nothing of models, weights or slacks. Everything is money of the config's
currency over the whole window; credits are negative costs. Work is compared with what the load asked for at full speed.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, fields
from datetime import datetime

import numpy as np

from optimizer.curves import draw_at_cap, throughput_at_cap
from optimizer.domain import BatchJob, Problem, SiteInputs, Work
from optimizer.flex import TOLERATED
from optimizer.timegrid import floor_time
from scheduler.backtest.commitments import commitments
from scheduler.backtest.outcome import Floats, Outcome
from scheduler.peaks import METERING

TIER_TOLERANCE = 0.01
"""Reduction that is not held against anybody: progress is read every control period."""

DONE_SHARE = 1e-6
"""Share of a job that may be missing at its deadline: what whole seconds and floating point lose."""


@dataclass(frozen=True)
class Costs:
    """Money of one window, by cause. `lost_value` is work of interactive and training pools that the load asked for and
    that was not done; `undone` holds the penalty and the value of job work never done; `event_credit` is a credit,
    `reserve` a negative cost. `pauses` are suspends and restarts of jobs for which they cost something."""

    energy: float = 0.0
    demand_charge: float = 0.0
    coincident_peak: float = 0.0
    storage: float = 0.0
    generation: float = 0.0
    carbon: float = 0.0
    lost_value: float = 0.0
    late: float = 0.0
    undone: float = 0.0
    parking: float = 0.0
    pauses: float = 0.0
    reserve: float = 0.0
    event_penalty: float = 0.0
    event_credit: float = 0.0

    @property
    def net(self) -> float:
        """All of it, credits taken off."""
        return sum(float(getattr(self, item.name)) for item in fields(self)) - 2 * self.event_credit


@dataclass(frozen=True)
class PoolWork:
    """Work of one pool: GPU-hours at full throughput done and asked for (batch: by its jobs), tokens where known."""

    work: str
    done_gpu_h: float
    asked_gpu_h: float
    tokens: float


@dataclass(frozen=True)
class JobResult:
    """One job: work done, what of it came after the deadline, and whether the deadline was met. `reduction`: the share
    by which one of a Flex `tier` that is done was slower than on all its GPUs at full power, where its life is known.
    """

    id: str
    work_gpu_h: float
    done_gpu_h: float
    late_gpu_h: float
    met: bool
    tier: int | None = None
    reduction: float | None = None

    @property
    def kept(self) -> bool | None:
        """Whether its tier was kept; None: it has none, or it is not known."""
        if self.tier is None or self.reduction is None:
            return None
        return self.reduction <= TOLERATED[self.tier] + TIER_TOLERANCE


@dataclass(frozen=True)
class Account:
    """Costs, energy in kWh, emissions in kg, work per pool, the fate of every job, and promises broken: energy above
    hard limits, work below service floors. Those have no price in money; `broken` is what a plan weighs them with."""

    costs: Costs
    energy_kwh: float
    carbon_kg: float
    pools: Mapping[str, PoolWork]
    jobs: tuple[JobResult, ...]
    over_limit_kwh: float
    below_floor_gpu_h: float
    broken: float

    def by_class(self, name: str) -> dict[str, float]:
        """`done_gpu_h`, `asked_gpu_h` or `tokens` of all pools of each class of work."""
        found: dict[str, float] = {}
        for pool in self.pools.values():
            found[pool.work] = found.get(pool.work, 0.0) + float(getattr(pool, name))
        return found

    @property
    def missed(self) -> tuple[str, ...]:
        """Jobs that were not done by their deadline."""
        return tuple(job.id for job in self.jobs if not job.met)

    @property
    def tiers(self) -> dict[str, dict[str, float]]:
        """By Flex tier: how many jobs are known, how many kept it, and the highest reduction."""
        found: dict[str, dict[str, float]] = {}
        for job in sorted(self.jobs, key=lambda one: (one.tier or 0, one.id)):
            if job.kept is not None and job.reduction is not None:
                one = found.setdefault(str(job.tier), {"jobs": 0, "kept": 0, "highest_reduction": job.reduction})
                one["jobs"], one["kept"] = one["jobs"] + 1, one["kept"] + int(job.kept)
                one["highest_reduction"] = max(one["highest_reduction"], job.reduction)
        return found


def settle(truth: Problem, outcome: Outcome) -> Account:
    """The account of `outcome` on the window `truth`."""
    hours = np.array(truth.grid.hours)
    jobs = {job.id: _job_result(job, truth, outcome) for job in truth.jobs}
    lost, short = _service(truth, outcome, hours)
    sites = [(site, outcome.import_kw[site.id]) for site in truth.sites]
    carbon_kg = sum(float((np.array(site.carbon_g_per_kwh) * kw * hours).sum()) / 1000.0 for site, kw in sites)
    penalty, credit = _events(truth, outcome)
    costs = Costs(
        energy=sum(float((np.array(site.price_per_mwh) * kw * hours).sum()) / 1000.0 for site, kw in sites),
        demand_charge=sum(_demand_charge(site, truth, kw) for site, kw in sites),
        storage=sum(_storage(site, outcome, hours) for site, _ in sites),
        generation=sum(_generation(site, outcome, hours) for site, _ in sites),
        coincident_peak=sum(_coincident(site, kw) for site, kw in sites),
        carbon=carbon_kg / 1000.0 * truth.prices.carbon_per_tonne,
        lost_value=lost,
        late=sum(_late_cost(job, truth, outcome) for job in truth.jobs),
        undone=sum(_undone_cost(job, jobs[job.id]) for job in truth.jobs),
        parking=_parking(truth, outcome),
        pauses=sum(outcome.pauses.get(job.id, 0) * _pause_cost(job, truth) for job in truth.jobs),
        reserve=-sum(_reserve(site, outcome, hours) for site, _ in sites),
        event_penalty=penalty,
        event_credit=credit,
    )
    over_kwh = sum(_over_limit_kwh(site, kw, hours) for site, kw in sites)
    return Account(
        costs=costs,
        energy_kwh=sum(float((kw * hours).sum()) for _, kw in sites),
        carbon_kg=carbon_kg,
        pools=_pools(truth, outcome, hours),
        jobs=tuple(jobs.values()),
        over_limit_kwh=over_kwh,
        below_floor_gpu_h=short,
        broken=over_kwh * truth.prices.over_limit_per_kwh + short * truth.prices.below_floor_per_gpu_h,
    )


# ---------------------------------------------------------------- work
def _service(truth: Problem, outcome: Outcome, hours: Floats) -> tuple[float, float]:
    """Money of work that the load asked for and didn't get, and GPU-hours below the service floors."""
    lost = short = 0.0
    for inputs in truth.pools:
        pool = inputs.pool
        if pool.work is Work.BATCH:
            continue
        asked = np.array(inputs.load) * pool.count * throughput_at_cap(pool.curve, pool.max_cap_w)
        done = outcome.work_gpus[pool.id]
        lost += pool.value_per_gpu_h * float(((asked - done) * hours).sum())
        short += float((np.maximum(0.0, pool.floor * asked - done - 1e-6 * pool.count) * hours).sum())
    return lost, short


def _pools(truth: Problem, outcome: Outcome, hours: Floats) -> dict[str, PoolWork]:
    found = {}
    for inputs in truth.pools:
        pool = inputs.pool
        done = float((outcome.work_gpus[pool.id] * hours).sum())
        asked = float((np.array(inputs.load) * hours).sum()) * pool.count
        if pool.work is Work.BATCH:
            asked = sum(job.left_gpu_h for job in truth.jobs if job.pools[0] == pool.id)
        found[pool.id] = PoolWork(pool.work.value, done, asked, done * pool.tokens_per_gpu_h)
    return found


def _split(job: BatchJob, truth: Problem, outcome: Outcome) -> tuple[Floats, Floats, Floats]:
    """Work of a job in GPU-hours per interval in time and late, and mean hours late of the late part.

    Inside the interval that holds the deadline, the time before it is used first, at the job's highest rate.
    """
    edges = np.array([(edge - job.deadline).total_seconds() / 3600.0 for edge in truth.grid.edges])
    hours = np.diff(edges)
    work = outcome.job_gpus.get(job.id, np.zeros(len(hours))) * hours
    in_time_h = np.clip(np.minimum(edges[1:], 0.0) - edges[:-1], 0.0, None)
    in_time = np.minimum(work, np.where(in_time_h >= hours - 1e-9, np.inf, job.max_gpus * in_time_h))
    late_h = hours - in_time_h
    return in_time, work - in_time, np.where(late_h > 0, edges[1:] - late_h / 2.0, 0.0)


def _job_result(job: BatchJob, truth: Problem, outcome: Outcome) -> JobResult:
    in_time, late, _ = _split(job, truth, outcome)
    done = min(float((in_time + late).sum()), job.left_gpu_h)
    met = float(in_time.sum()) >= job.left_gpu_h * (1.0 - DONE_SHARE)
    return JobResult(
        job.id, job.left_gpu_h, done, float(late.sum()), met, job.tier, _reduction(job, truth, outcome, done)
    )


def _reduction(job: BatchJob, truth: Problem, outcome: Outcome, done_gpu_h: float) -> float | None:
    """See JobResult; by arithmetic of its own, from the readings of its progress."""
    life = outcome.lives.get(job.id)
    if job.tier is None or life is None or done_gpu_h < job.left_gpu_h * (1.0 - DONE_SHARE) or life[1] <= life[0]:
        return None
    pool = next(item.pool for item in truth.pools if item.pool.id == job.pools[0])
    full_h = job.left_gpu_h / (min(job.max_gpus, pool.count) * throughput_at_cap(pool.curve, pool.max_cap_w))
    return 1.0 - full_h * 3600.0 / (life[1] - life[0])


def _late_cost(job: BatchJob, truth: Problem, outcome: Outcome) -> float:
    _, late, hours_late = _split(job, truth, outcome)
    return job.late_penalty * float((late * hours_late).sum())


def _undone_cost(job: BatchJob, result: JobResult) -> float:
    """Penalty and value of what was not done when the window ended."""
    undone = job.left_gpu_h - result.done_gpu_h
    return (job.undone_penalty + job.value_per_gpu_h) * undone if undone > DONE_SHARE * job.left_gpu_h else 0.0


def _pause_cost(job: BatchJob, truth: Problem) -> float:
    """One suspend and restart: its own price, and its GPU-hours as work not done, at full speed and the mean price."""
    gpu_h = job.checkpoint_gpu_h + job.restart_gpu_h
    pools = [item.pool for item in truth.pools if item.pool.id in job.pools]
    if gpu_h <= 0 or not pools:
        return job.pause_cost
    pool, hours = pools[0], np.array(truth.grid.hours)
    site = next(site for site in truth.sites if site.id == pool.site)
    price = float((np.array(site.price_per_mwh) * np.array(site.pue) * hours).sum() / hours.sum()) / 1000.0
    energy = draw_at_cap(pool.curve, pool.max_cap_w) / 1000.0 * max(0.0, price)
    return job.pause_cost + gpu_h * (max(0.0, job.value_per_gpu_h) + energy)


def _parking(truth: Problem, outcome: Outcome) -> float:
    """Waking GPUs that were parked."""
    parks = [item.pool for item in truth.pools if item.pool.parking is not None]
    return sum(outcome.woken.get(pool.id, 0.0) * pool.parking.wake_cost for pool in parks if pool.parking)


# ---------------------------------------------------------------- the meter
def _over_limit_kwh(site: SiteInputs, import_kw: Floats, hours: Floats) -> float:
    limit = np.array(site.limit_kw)
    over = np.where(np.isfinite(limit), import_kw - limit, 0.0)
    return float((np.maximum(0.0, over) * hours).sum())


def _demand_charge(site: SiteInputs, truth: Problem, import_kw: Floats) -> float:
    """Price times the rise of the month's peak, from the means of whole metering intervals."""
    blocks: dict[datetime, list[int]] = {}
    for index in range(len(truth.grid)):
        blocks.setdefault(floor_time(truth.grid.edges[index], METERING), []).append(index)
    hours = np.array(truth.grid.hours)
    total = 0.0
    for charge in site.demand_charges:
        peaks = [
            float((import_kw[part] * hours[part]).sum() / hours[part].sum())
            for part in blocks.values()
            if any(charge.active[index] for index in part)
        ]
        total += charge.price_per_kw * max(0.0, max(peaks, default=0.0) - charge.peak_so_far_kw)
    return total


def _storage(site: SiteInputs, outcome: Outcome, hours: Floats) -> float:
    """Wear of what was discharged, and what was taken out of the batteries by the end (negative: put in)."""
    total = 0.0
    for battery in site.batteries:
        total += battery.wear_per_kwh * float((outcome.given_kw.get(battery.id, 0.0 * hours) * hours).sum())
        left = outcome.stored_kwh.get(battery.id, battery.stored_now_kwh)
        total -= battery.end_value_per_kwh * (left - battery.stored_now_kwh)
    return total


def _generation(site: SiteInputs, outcome: Outcome, hours: Floats) -> float:
    """Energy of engines at its cost, and their starts."""
    return sum(
        outcome.starts.get(unit.id, 0) * unit.start_cost
        + unit.cost_per_mwh / 1000.0 * float((outcome.given_kw.get(unit.id, 0.0 * hours) * hours).sum())
        for unit in site.generators
    )


def _reserve(site: SiteInputs, outcome: Outcome, hours: Floats) -> float:
    """Revenue of the reserve that was held ready (nobody calls it in a backtest)."""
    none = np.zeros(len(hours))
    return sum(
        float((np.array(offer.price_per_kw_h) * outcome.offered_kw.get(offer.id, none) * hours).sum())
        for offer in site.reserves
    )


def _coincident(site: SiteInputs, import_kw: Floats) -> float:
    """Expected charges on the grid's own peak: a window seldom holds the whole season that decides it."""
    return sum(charge.price_per_kw * float(np.array(charge.probability) @ import_kw) for charge in site.coincident)


def _events(truth: Problem, outcome: Outcome) -> tuple[float, float]:
    """Penalties for what was above each program's cap, and credits for what was delivered of its promise."""
    hours = np.array(truth.grid.hours)
    penalty = credit = 0.0
    for held in commitments(truth, outcome.took_part):
        over = float((held.over_kw(outcome.import_kw[held.site]) * hours).sum())
        penalty += over * held.penalty_per_kwh
        credit += (float((held.promised_kw * hours).sum()) - over) * held.credit_per_kwh
    return penalty, credit
