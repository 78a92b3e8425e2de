"""Two sites of which each has work that may run at either: the best exchange between them, known by sorting.

Why sorting is enough: without other limits than the power of each site's pool, only the net amount that is moved
counts, and it pays to move one more unit as long as the dearest hour that it leaves costs more than the cheapest one
that it takes, by more than its transfer.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from datetime import datetime, timedelta

import numpy as np

from benchmarks.support.controllers import CURVE
from benchmarks.support.market import DUTY, FIRM_KW, MOST_KW, Market
from optimizer.check import check_plan
from optimizer.domain import BatchJob, GpuPool, PoolInputs, Prices, Problem, SiteInputs, Work
from optimizer.facts import PREFERENCE_PER_GPU_H, Floats
from optimizer.session import Session
from optimizer.timegrid import TimeGrid
from scheduler.coordination.joint import Terms, joint_problem, shares
from scheduler.coordination.messages import SiteReport

HOUR = timedelta(hours=1)
NAMES = ("here", "there")


@dataclass(frozen=True)
class Lived:
    """What the movable work of some days cost: power in each site's hours and transfers, in money, and the share of it
    that ran away from home."""

    power: float
    transfer: float
    moved_share: float

    @property
    def cost(self) -> float:
        """All of it."""
        return self.power + self.transfer


def hourly(made: Market) -> Market:
    """The market in whole hours, at the mean price of each."""
    count = round(HOUR / made.step)
    first = next(at for at, start in enumerate(made.starts) if start.minute == 0)
    last = first + (len(made.starts) - first) // count * count
    starts = made.starts[first:last:count]
    if starts[-1] - starts[0] != HOUR * (len(starts) - 1):
        raise ValueError(f"{made.name}: hours are missing between {starts[0]} and {starts[-1]}")

    def means(values: Floats) -> Floats:
        found: Floats = values[first:last].reshape(-1, count).mean(axis=1)
        return found

    ahead = None if made.day_ahead is None else means(made.day_ahead)
    return replace(made, starts=starts, step=HOUR, price=means(made.price), day_ahead=ahead)


def side_by_side(here: Market, there: Market) -> tuple[Market, Market]:
    """Both in the hours that both have, with the days of the first."""
    here, there = hourly(here), hourly(there)
    first, end = max(here.starts[0], there.starts[0]), min(here.starts[-1], there.starts[-1]) + HOUR
    if end <= first:
        raise ValueError(f"{here.name} and {there.name} have no hour in common")

    def cut(made: Market) -> Market:
        part = slice((first - made.starts[0]) // HOUR, (end - made.starts[0]) // HOUR)
        ahead = None if made.day_ahead is None else made.day_ahead[part]
        return replace(made, zone=here.zone, starts=made.starts[part], price=made.price[part], day_ahead=ahead)

    return cut(here), cut(there)


def whole_days(made: Market) -> list[tuple[int, int]]:
    """Local days that are there from begin to end."""
    return [(first, last) for first, last in made.days() if 23 <= last - first <= 25]


def moved(left: Floats, right: Floats, owed: tuple[float, float], transfer: float) -> float:
    """Hours of full power that move from the first site to the second (negative: back) in the cheapest schedule.
    Prices of the hours ahead; `transfer` per MWh moved."""
    if (gain := _one_way(np.sort(left), np.sort(right), owed, transfer)) > 0.0:
        return gain
    return -_one_way(np.sort(right), np.sort(left), owed[::-1], transfer)


def _one_way(source: Floats, target: Floats, owed: tuple[float, float], transfer: float) -> float:
    """How much leaves `source` (prices in order, like `target`): the dearest used hour for the cheapest free one."""
    amount = max(0.0, owed[0] - len(source))  # what its own hours can't hold
    have, used = owed[0] - amount, owed[1] + amount
    while have > 1e-9 and used < len(target) - 1e-9:
        dearest, cheapest = source[int(np.ceil(have - 1e-9)) - 1], target[int(used + 1e-9)]
        if dearest <= cheapest + transfer:
            break
        piece = min(have - (np.ceil(have - 1e-9) - 1), np.floor(used + 1e-9) + 1 - used, have)
        amount, have, used = amount + piece, have - piece, used + piece
    return amount


def cheapest_now(prices: Floats, owed: float) -> float:
    """Share of full power in the first hour of the cheapest schedule; among equals the first hours."""
    rank = int((prices[1:] < prices[0]).sum())
    return float(np.clip(owed - rank, 0.0, 1.0))


def power_cost(prices: Floats, owed: float) -> float:
    """What `owed` hours of full power cost in the cheapest hours, per unit of full power."""
    run = np.clip(owed - np.arange(len(prices)), 0.0, 1.0)
    return float((np.sort(prices) * run).sum())


def foresight(pair: tuple[Market, Market], days: list[tuple[int, int]], transfer: float | None) -> Lived:
    """One who knows every day; `transfer` None: each site's work stays at home."""
    power = paid = away = whole = 0.0
    for first, last in days:
        left, right = (made.price[first:last] for made in pair)
        owed = DUTY * (last - first)
        flow = 0.0 if transfer is None else moved(left, right, (owed, owed), transfer)
        power += power_cost(left, owed - flow) + power_cost(right, owed + flow)
        paid, away, whole = paid + abs(flow) * (transfer or 0.0), away + abs(flow), whole + 2 * owed
    return _money(power, paid, away / whole)


Ahead = Callable[[int, int], Floats]
"""What a site expects of its prices in hours [first, last)."""


def live(
    pair: tuple[Market, Market], ahead: tuple[Ahead, Ahead], days: list[tuple[int, int]], transfer: float | None,
    ask: Callable[[int, tuple[Floats, Floats], tuple[float, float]], None] = lambda *_: None,
    least_gain: float = 0.0,
) -> Lived:  # fmt: skip
    """Live through the days hour by hour: plan on what is expected, pay what it costs. `transfer` None: pinned.
    `ask` hears every hour's expectations and what is owed; nothing moves for less than `least_gain` per MWh, which
    nobody pays."""
    power = paid = away = whole = 0.0
    for first, last in days:
        owed = [DUTY * (last - first)] * 2
        whole += sum(owed)
        for hour in range(first, last):
            expected = (ahead[0](hour, last), ahead[1](hour, last))
            flow = 0.0 if transfer is None else moved(*expected, (owed[0], owed[1]), transfer + least_gain)
            run = (cheapest_now(expected[0], owed[0] - flow), cheapest_now(expected[1], owed[1] + flow))
            ask(hour, expected, (owed[0], owed[1]))
            for site, much in enumerate(run):
                own = min(much, owed[site])  # what is at home goes first: whether the rest moves is decided later
                owed[site] -= own
                owed[1 - site] -= much - own
                power += much * float(pair[site].price[hour])
                paid, away = paid + (much - own) * (transfer or 0.0), away + much - own
        if max(map(abs, owed)) > 1e-6:
            raise ValueError(f"the day at {pair[0].starts[first]:%Y-%m-%d} leaves work undone: {owed}")
    return _money(power, paid, away / whole)


def _money(power: float, paid: float, share: float) -> Lived:
    return Lived(power * MOST_KW / 1000.0, paid * MOST_KW / 1000.0, share)


def reports(
    pair: tuple[Market, Market], hour: int, expected: tuple[Floats, Floats], owed: tuple[float, float]
) -> tuple[SiteReport, ...]:
    """The rest of a day as two daemons tell their coordinator: a site each, and batches that may run at either."""
    return tuple(
        _report(name, other, pair[0].starts[hour], prices, left)
        for name, other, prices, left in zip(NAMES, NAMES[::-1], expected, owed, strict=True)
    )


def _report(name: str, other: str, start: datetime, prices: Floats, owed: float) -> SiteReport:
    count = len(prices)
    grid = TimeGrid(tuple(start + HOUR * k for k in range(count + 1)))
    zero, free = (0.0,) * count, (float("inf"),) * count
    site = SiteInputs(name, tuple(prices.tolist()), free, (1.0,) * count, (FIRM_KW,) * count, zero)
    pool = GpuPool("tune", name, "any", int(MOST_KW), Work.BATCH, CURVE, 0.0, 0.0, 1000.0, 1000.0)
    jobs = tuple(
        BatchJob(f"batch_{k}", ("tune",), start, grid.end, piece * MOST_KW, int(MOST_KW), late_penalty=1e5,
                 undone_penalty=1e6, data_gb=piece * MOST_KW / 1000.0)
        for k, piece in enumerate(_pieces(owed))
    )  # fmt: skip
    problem = Problem(start, grid, (site,), (PoolInputs(pool, (1.0,) * count),), jobs, (), Prices(change_per_kw=0.0))
    return SiteReport(name, "USD", problem, {job.id: (other,) for job in jobs}, {}, {})


def _pieces(owed: float) -> list[float]:
    """Batches of an hour of full power each: one runs at one site, so work can't move in smaller ones."""
    whole = int(owed + 1e-9)
    return [1.0] * whole + ([owed - whole] if owed - whole > 1e-6 else [])


def disagreement(
    session: Session, pair: tuple[Market, Market], hour: int, expected: tuple[Floats, Floats],
    owed: tuple[float, float], transfer: float,
) -> float:  # fmt: skip
    """What the coordinator's own plan for both costs more (or less) than the schedule by sorting, in money per MWh of
    the work. The planner's preference for a job's first pool counts as transfer: it is part of what it minimises."""
    told = reports(pair, hour, expected, owed)
    problem, movable = joint_problem(told, Terms(per_gb=transfer), told[0].problem.made_at)
    plan = session.plan(problem)
    if broken := check_plan(problem, plan):
        raise RuntimeError(f"the joint plan breaks a promise: {broken[0].text}")
    homes = shares(problem, plan, movable, told)
    fee = transfer + 1000.0 * PREFERENCE_PER_GPU_H
    away = (
        sum(
            sum(plan.jobs[key].work_gpus) for key, one in movable.items() if homes[one.owner][one.job].site != one.owner
        )
        / MOST_KW
    )
    power = sum(
        float(np.array(plan.pools[f"{name}/tune"].draw_kw) @ prices) / MOST_KW
        for name, prices in zip(NAMES, expected, strict=True)
    )
    flow = moved(*expected, owed, fee)
    best = power_cost(expected[0], owed[0] - flow) + power_cost(expected[1], owed[1] + flow) + abs(flow) * fee
    return (power + away * fee - best) / sum(owed)
