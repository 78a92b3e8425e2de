"""The rival that knows everything: one optimisation over the whole window, and with it a cost that nobody can beat.

Why a bound and not just another plan: it is what shows that the rest is right. Everything that could make it dearer
than what is possible is taken away: ramps, costs of change, whole numbers, starts that can't be interrupted, the pace
that jobs impose on a shared cap. Only firm events are kept as well as Gridpace kept them: buying oneself off an order
is not foresight. What Gridpace pays less than this, it pays by a mistake in somebody's arithmetic.
"""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from optimizer.assets import Generator
from optimizer.curves import hull_from_idle
from optimizer.domain import BatchJob, CurvePoint, PoolInputs, PowerCurve, Problem, SiteInputs, Work
from optimizer.facts import Facts, facts_of
from optimizer.highs import Answer, solve_arrays
from optimizer.model.arrays import Arrays, write_arrays
from optimizer.model.build import declare
from optimizer.model.pools import slopes
from optimizer.reading import drawn_of, pair_rates, parked_of
from optimizer.supply import stored_kwh
from optimizer.timegrid import TimeGrid
from scheduler.backtest.commitments import Commitment, commitments
from scheduler.backtest.outcome import Outcome
from scheduler.peaks import METERING

INF = float("inf")
TIME_LIMIT_S = 300.0


def perfect_foresight(truth: Problem, kept: Outcome) -> Outcome:
    """What the best controller would have done had it known the window from the start, as a relaxation. It keeps firm
    events at least as well as `kept` did.

    Raises optimizer.solve.SolveError when the solver gives no answer in five minutes.
    """
    problem = relaxed(truth, kept)
    model = declare(problem, without_pace(facts_of(problem)))
    arrays = write_arrays(model)
    answer = solve_arrays(replace(arrays, integer=_only_answers(arrays)), TIME_LIMIT_S, gap=0.0)
    return _outcome(truth, model.facts, arrays, answer)


def _only_answers(arrays: Arrays) -> np.ndarray[tuple[int], np.dtype[np.int32]]:
    """Which columns are whole: none but the answers to voluntary events, since half an answer can't be settled."""
    take, whole = arrays.families["take"], np.zeros_like(arrays.integer)
    whole[take.start : take.start + len(take)] = 1
    return whole


def relaxed(truth: Problem, kept: Outcome) -> Problem:
    """The window without anything that only costs: ramps, changes, jobs that can't be interrupted."""
    priced = [event for held in commitments(truth) for event in held.as_events(truth.grid)]
    offered = [replace(event, firm=False) for event in truth.events if event.undecided]
    firm = replace(truth, events=tuple(event for event in truth.events if event.firm or event.emergency))
    owed = [event for held in commitments(firm) for event in _as_kept(held, kept).as_events(truth.grid, firm=True)]
    return replace(
        truth,
        sites=tuple(_site(site, truth.grid) for site in truth.sites),
        pools=tuple(_pool(inputs) for inputs in truth.pools),
        jobs=tuple(_free_job(job) for job in truth.jobs),
        events=(*priced, *owed, *offered),
        prices=replace(truth.prices, ramp_per_kw=0.0, change_per_kw=0.0),
    )


def _as_kept(held: Commitment, kept: Outcome) -> Commitment:
    """A commitment whose cap is nowhere stricter than what `kept` imported."""
    return replace(
        held, cap_kw=np.maximum(held.cap_kw, kept.import_kw[held.site]), penalty_per_kwh=0.0, credit_per_kwh=0.0
    )


def _site(site: SiteInputs, grid: TimeGrid) -> SiteInputs:
    """Ramps off; a demand charge counts only in whole metering intervals (the parts of one may have higher peaks)."""
    whole = [abs(hours * 3600.0 - METERING.total_seconds()) < 1e-6 for hours in grid.hours]
    charges = tuple(
        replace(charge, active=tuple(on and counts for on, counts in zip(charge.active, whole, strict=True)))
        for charge in site.demand_charges
    )
    free = tuple(_free(unit) for unit in site.generators)
    return replace(
        site,
        demand_charges=charges,
        ramp_up_kw_per_min=INF,
        ramp_down_kw_per_min=INF,
        import_now_kw=None,
        generators=free,
        reserves=(),
    )


def _free_job(job: BatchJob) -> BatchJob:
    """A job that can take any rate at any time: no gang, no least run, no pause that costs, nobody to wait for."""
    return replace(
        job, preemptible=True, min_gpus=0, min_run_h=0.0, pause_cost=0.0, checkpoint_gpu_h=0.0, restart_gpu_h=0.0,
        after=(), data_gb=0.0,
    )  # fmt: skip


def _free(unit: Generator) -> Generator:
    """A generator that need not run; spilling and starting cost nothing."""
    return replace(unit, low_kw=(0.0,) * len(unit.low_kw), must_take=False, start_cost=0.0)


def _pool(inputs: PoolInputs) -> PoolInputs:
    """The best that its cards can; parked ones wake at once and one by one."""
    pool = replace(inputs.pool, curve=best_case(inputs.pool.curve))
    if pool.parking is not None:
        pool = replace(pool, parking=replace(pool.parking, wake_s=0.0, step=1))
    return replace(inputs, pool=pool, draw_now_kw=None)


def best_case(curve: PowerCurve) -> PowerCurve:
    """A curve nowhere worse than the measured points: where a higher cap drew less, the lower cap does so too."""
    points, least = [], INF
    for point in reversed(curve.points):
        least = min(least, point.draw_w)
        points.append(CurvePoint(point.cap_w, least, point.throughput))
    return replace(curve, points=tuple(reversed(points)))


def without_pace(facts: Facts) -> Facts:
    """Batch pools on the whole hull from idle on, however tight their jobs are."""
    pools = tuple(
        replace(pool, hulls=(hull_from_idle(pool.curve),) * facts.count, speed=None)
        if pool.pool.work is Work.BATCH
        else pool
        for pool in facts.pools
    )
    return replace(facts, pools=pools)


def _outcome(truth: Problem, facts: Facts, arrays: Arrays, answer: Answer) -> Outcome:
    """Import, work and job rates of the solver's point."""
    draw = np.array([pool.base_kw for pool in facts.pools]).reshape(len(facts.pools), facts.count)
    work = np.array([pool.working * pool.base_throughput for pool in facts.pools])
    seg, drawn = arrays.families["seg"], arrays.of("seg", answer.point)
    np.add.at(draw, seg.keys[:2], drawn)
    np.add.at(work, seg.keys[:2], drawn * slopes(facts, seg))
    parked = {pool.index: pool.parked for pool in facts.pools if pool.parked is not None}
    asleep = parked_of(facts, arrays, answer, whole=False)
    for g, how in parked.items():
        draw[g] -= asleep[g] * how.saves_kw
    rates = np.zeros((len(facts.jobs), facts.count))
    np.add.at(rates, facts.table.pair_job, pair_rates(facts, arrays, answer.point))
    site_kw = facts.other_kw.copy()
    for pool in facts.pools:
        site_kw[pool.site] += draw[pool.index]
    beside = drawn_of(facts, arrays, answer, netted=False)
    net_kw, supply = beside.net_kw(facts), facts.supply
    return Outcome(
        grid=truth.grid,
        given_kw={battery.id: beside.discharge_kw[n] for n, (_, battery) in enumerate(supply.batteries)}
        | {unit.id: beside.output_kw[n] for n, (_, unit) in enumerate(supply.generators)},
        stored_kwh={
            battery.id: float(stored_kwh(facts, n, beside.charge_kw[n], beside.discharge_kw[n])[-1])
            for n, (_, battery) in enumerate(supply.batteries)
        },
        import_kw={site.id: site_kw[row] * facts.pue[row] + net_kw[row] for row, site in enumerate(truth.sites)},
        work_gpus={pool.pool.id: work[pool.index] for pool in facts.pools},
        job_gpus={job.job.id: rates[number] for number, job in enumerate(facts.jobs)},
        offered_kw={
            offer.id: np.full(facts.count, offer.max_kw) for site in truth.sites for offer in site.reserves
        },  # all of it, always: what could be delivered depends on plans that nobody may judge by hindsight
        woken={facts.pools[g].pool.id: float(how.woken(asleep[g]).sum() + asleep[g, -1]) for g, how in parked.items()},
        took_part=frozenset(
            facts.problem.events[number].id
            for number, share in zip(arrays.families["take"].keys[0], arrays.of("take", answer.point), strict=True)
            if share > 0.5
        ),
    )
