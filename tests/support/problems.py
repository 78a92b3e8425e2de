"""Problems for the tests of the optimiser: small ones by hand, random ones of any shape, one as big as a real site."""

import random
from dataclasses import replace
from datetime import UTC, datetime, timedelta

from optimizer.assets import Battery, CoincidentCharge, Generator, Parking, ReserveOffer
from optimizer.curves import parse_curves
from optimizer.domain import (
    BatchJob,
    CurvePoint,
    DemandCharge,
    GpuPool,
    GridEvent,
    JobState,
    PoolInputs,
    PowerCurve,
    Prices,
    Problem,
    SiteInputs,
    Span,
    Work,
)
from optimizer.timegrid import TimeGrid, planning_grid, uniform_grid
from scheduler.shipped import shipped

START = datetime(2022, 9, 6, 21, tzinfo=UTC)
HOUR = timedelta(hours=1)

SIMPLE = PowerCurve("simple", 100.0, (CurvePoint(200, 200, 0.5), CurvePoint(300, 300, 0.8), CurvePoint(400, 400, 1.0)))
"""Hull by hand: 100 W at 0.005 per W, 100 W at 0.003, 100 W at 0.002; idle 100 W."""


def curves():
    return parse_curves(shipped("data/power_cap_curves.csv").read_text())


def hourly(count):
    return uniform_grid(START, START + count * HOUR, HOUR)


def pool(name="chat", work=Work.INTERACTIVE, count=1000, value=1.0, floor=0.5, curve=SIMPLE, site="dc", **more):
    low, high = curve.points[0].cap_w, curve.points[-1].cap_w
    worth = 0.0 if work is Work.BATCH else value
    return GpuPool(name, site, "A100", count, work, curve, worth, floor, low, high, **more)


def inputs(of, count, load=1.0, now=None):
    return PoolInputs(of, (load,) * count if isinstance(load, float) else tuple(load), now)


def site(count, name="dc", price=50.0, limit=float("inf"), pue=1.0, other=0.0, carbon=0.0, **more):
    def spread(value):
        return tuple(value) if isinstance(value, (list, tuple)) else (float(value),) * count

    return SiteInputs(name, spread(price), spread(limit), spread(pue), spread(other), spread(carbon), **more)


def problem(grid, sites, pools, jobs=(), events=(), prices=None):
    prices = prices or Prices(change_per_kw=0.0)
    return Problem(grid.start, grid, tuple(sites), tuple(pools), tuple(jobs), tuple(events), prices)


def job(name="j", hours=(0, 4), work=100.0, gpus=100, pools=("batch",), grid_start=START, **more):
    release, deadline = (grid_start + hour * HOUR for hour in hours)
    return BatchJob(name, tuple(pools), release, deadline, work, gpus, **more)


def event(name="e", hours=(1, 2), target=100.0, baseline=1000.0, site_id="dc", **more):
    start, end = (START + hour * HOUR for hour in hours)
    more = {"ramp_in_s": 0.0, "ramp_out_s": 0.0, **more}
    return GridEvent(name, 1, site_id, start, end, (Span(start, end, target),), baseline, **more)


def random_problem(seed, intervals=None, exact=False):
    """Any valid problem: several sites, every kind of pool and job, events that may conflict or be out of reach.

    `exact`: concave curves without noise and one pool a job, where the linear model is the whole truth.
    """
    rng = random.Random(seed)
    count = intervals or rng.randint(1, 14)
    minutes = [rng.choice((5, 15, 60)) for _ in range(count)]
    edges = [START]
    for length in minutes:
        edges.append(edges[-1] + timedelta(minutes=length))
    grid = TimeGrid(tuple(edges))
    names = ["dc", "lab"][: rng.randint(1, 2)]
    shapes = [SIMPLE] if exact else [SIMPLE, *curves().values()]
    many = range(rng.randint(1, 4))
    pools = [_random_pool(rng, number, rng.choice(names), rng.choice(shapes), count) for number in many]
    batch = [item.pool.id for item in pools if item.pool.work is Work.BATCH]
    jobs = [_random_job(rng, number, batch, exact) for number in range(rng.randint(0, 6) if batch else 0)]
    sites = [_random_site(rng, name, count, pools) for name in names]
    events = [_random_event(rng, number, rng.choice(names)) for number in range(rng.randint(0, 2))]
    prices = Prices(change_per_kw=rng.choice((0.0, 0.002)), carbon_per_tonne=rng.choice((0.0, 80.0)))
    return Problem(START, grid, tuple(sites), tuple(pools), tuple(jobs), tuple(events), prices)


def under_one_cap(made):
    """The problem with every batch pool under one cap."""
    pools = tuple(replace(item, pool=replace(item.pool, one_cap=item.pool.work is Work.BATCH)) for item in made.pools)
    return replace(made, pools=pools)


def with_steps(made, seed):
    """The same problem with gangs, least runs, pauses that cost and jobs that wait for others."""
    rng, jobs = random.Random(seed), []
    for number, of in enumerate(made.jobs):
        runs = of.preemptible and rng.random() < 0.4
        begun = {"state": JobState.RUNNING, "gpus": 1, "started_at": START - HOUR, "running_since": START - HOUR / 4}
        jobs.append(
            replace(
                of,
                min_gpus=rng.choice((0, 2, of.max_gpus)) if of.max_gpus >= 2 else 0,
                min_run_h=rng.choice((0.0, 0.5, 2.0)),
                pause_cost=rng.choice((0.0, 5.0)),
                restart_gpu_h=rng.choice((0.0, 1.0)),
                data_gb=rng.choice((0.0, 100.0)),
                data_site=rng.choice(("dc", "lab", "")),
                after=tuple(f"j{n}" for n in range(number) if rng.random() < 0.25),
                **(begun if runs else {}),
            )
        )
    return replace(made, jobs=tuple(jobs), prices=replace(made.prices, move_per_gb=rng.choice((0.0, 0.05))))


def with_promises(made, seed):
    """The same problem with begun jobs whose deadline is a promise, some of them out of reach."""
    rng, jobs = random.Random(seed), []
    for of in made.jobs:
        firm = of.preemptible and rng.random() < 0.6
        begun = {
            "state": JobState.SUSPENDED,
            "started_at": START - HOUR,
            "release": min(of.release, START),
            "after": (),
        }
        jobs.append(replace(of, firm=firm, **(begun if firm else {})))
    return replace(made, jobs=tuple(jobs))


def with_parking(made, seed):
    """The same problem with batch pools that may park GPUs, some of which are parked or waking now."""
    rng, pools = random.Random(seed), []
    for item in made.pools:
        of, count = item.pool, item.pool.count
        how = Parking(of.curve.idle_w * rng.choice((0.0, 0.2, 1.2)), rng.choice((0.0, 120.0, 1800.0)),
                      rng.choice((0.0, 0.01, 1.0)), rng.choice((1, 1, 4)))  # fmt: skip
        parked = rng.choice((0, 0, count // 2, count))
        now = {"parked_now": parked, "waking_now": rng.choice((0, count - parked))}
        left = {"wake_left_s": rng.uniform(0, how.wake_s)}
        parks = of.work is Work.BATCH
        pools.append(replace(item, pool=replace(of, parking=how), **now, **left) if parks else item)
    return replace(made, pools=tuple(pools))


def with_floors(made, seed):
    """The same problem with service pools that need more than their floors in some intervals."""
    rng, pools, count = random.Random(seed), [], len(made.grid)
    for item in made.pools:
        rows = [tuple(rng.choice((0.0, 0.0, rng.random(), 1.0)) for _ in range(count)) for _ in range(2)]
        serves = item.pool.work is not Work.BATCH and rng.random() < 0.7
        pools.append(replace(item, floors=rows[0]) if serves else item)
    return replace(made, pools=tuple(pools))


def with_starts(made, seed):
    """The same problem with engines that cost something to start, some of which run now."""
    rng, sites = random.Random(seed), []
    for of in made.sites:
        units = []
        for unit in of.generators:
            now_kw = rng.choice((0.0, unit.high_kw[0]))
            units.append(replace(unit, start_cost=rng.choice((1.0, 50.0, 1000.0)), output_now_kw=now_kw))
        sites.append(replace(of, generators=tuple(units)))
    return replace(made, sites=tuple(sites))


def with_options(made, seed):
    """The same problem with events that need not be taken part in, some of which pay, some of which are answered."""
    rng, events = random.Random(seed), []
    site_of = [inputs.id for inputs in made.sites]
    for of in (*made.events, *(_random_event(rng, f"v{number}", rng.choice(site_of)) for number in range(2))):
        answered = rng.random() < 0.2
        money = {"credit_per_kwh": rng.choice((0.0, 0.5, 20.0)), "penalty_per_kwh": rng.choice((0.0, 5.0))}
        if of.emergency:
            events.append(of)
        else:
            events.append(replace(of, voluntary=True, opted=True if answered else None, **money))
    return replace(made, events=tuple(events))


def with_paces(made, seed):
    """The same problem with ramp limits of the programs whose events it has, and two events more."""
    rng, events = random.Random(seed), []
    site_of = [inputs.id for inputs in made.sites]
    for of in (*made.events, *(_random_event(rng, f"p{number}", rng.choice(site_of)) for number in range(2))):
        up, down = (rng.choice((float("inf"), 0.5, 20.0)) for _ in range(2))
        events.append(replace(of, ramp_up_kw_per_min=up, ramp_down_kw_per_min=down))
    return replace(made, events=tuple(events))


def _random_pool(rng, number, name, curve, count):
    work = rng.choice(list(Work))
    size = rng.choice((1, 2, 8, 100, 3000))
    value, floor = rng.choice((0.0, 0.5, 1.0, 5.0)), rng.choice((0.0, 0.5, 0.8, 0.95, 1.0))
    of = pool(f"p{number}", work, size, value, floor, curve, name)
    caps = sorted(rng.sample([point.cap_w for point in curve.points], 2))
    if rng.random() < 0.3:
        of = replace(of, min_cap_w=caps[0], max_cap_w=caps[1])
    load = [rng.choice((0.0, 0.3, 0.7, 1.0, rng.random())) for _ in range(count)]
    return inputs(of, count, load, rng.choice((None, size * rng.uniform(0.05, 0.4))))


def _random_job(rng, number, batch, exact):
    start = rng.uniform(-4, 8)
    width = rng.uniform(0.1, 12)
    more = {"preemptible": True}
    if rng.random() < 0.3:
        more = {"preemptible": False}
        if rng.random() < 0.4:
            more["started_at"] = START - HOUR
    return job(
        f"j{number}", (start, start + width), rng.choice((0.0, 0.3, 20.0, 900.0)), rng.choice((1, 4, 200)),
        rng.sample(batch, 1 if exact else rng.randint(1, len(batch))), value_per_gpu_h=rng.choice((0.0, 0.5, 2.0)),
        **more,
    )  # fmt: skip


def _random_site(rng, name, count, pools):
    size = sum(item.pool.count * 0.4 for item in pools if item.pool.site == name) + 1.0
    more = {}
    if rng.random() < 0.5:
        more["demand_charges"] = (DemandCharge("m", rng.choice((0.0, 12.0)), size * rng.random(), (True,) * count),)
    if rng.random() < 0.5:
        more |= {"ramp_up_kw_per_min": size * 0.02, "ramp_down_kw_per_min": size * 0.02}
    if rng.random() < 0.3:
        chances = tuple(rng.choice((0.0, 0.0, 0.05, 0.4)) for _ in range(count))
        more["coincident"] = (CoincidentCharge("cp", rng.choice((5.0, 60.0)), chances),)
    more |= _random_supply(rng, name, count, size)
    more["import_now_kw"] = rng.choice((None, size * rng.random()))
    return site(
        count, name, [rng.choice((-200.0, 0.0, 40.0, 90.0, 700.0, 9000.0)) for _ in range(count)],
        rng.choice((float("inf"), size, size * 0.5, size * 0.1)), rng.uniform(1.0, 1.6), rng.choice((0.0, size * 0.1)),
        rng.uniform(0, 900), **more,
    )  # fmt: skip


def _random_supply(rng, name, count, size):
    """Sometimes a battery, panels or an engine."""
    more = {}
    if rng.random() < 0.3:
        energy, low = size * rng.choice((0.2, 2.0)), rng.choice((0.0, 0.1))
        more["batteries"] = (
            Battery(f"b-{name}", energy * rng.random(), energy * low, energy * 0.9, size * 0.3,
                    size * rng.choice((0.1, 0.5)), rng.choice((0.9, 1.0)), 0.9, rng.choice((0.0, 0.05)),
                    rng.choice((0.0, 0.1)), rng.random() < 0.5),
        )  # fmt: skip
    if rng.random() < 0.3:
        sun = tuple(size * rng.choice((0.0, 0.2, 1.5)) for _ in range(count))
        units = [Generator(f"sun-{name}", (0.0,) * count, sun, 0.0, True, rng.random() < 0.5)]
        if rng.random() < 0.5:
            low, high = size * rng.choice((0.0, 0.1)), size * 0.3
            cost, away = rng.choice((50.0, 400.0)), rng.random() < 0.5
            units.append(Generator(f"gas-{name}", (low,) * count, (high,) * count, cost, False, away))
        more["generators"] = tuple(units)
    if rng.random() < 0.3:
        prices = tuple(rng.choice((0.0, 0.02, 0.3)) for _ in range(count))
        sustain_s = rng.choice((0.0, 1800.0))
        more["reserves"] = (ReserveOffer(f"r-{name}", prices, size * rng.choice((0.1, 2.0)), 60.0, sustain_s),)
    return more


def _random_event(rng, number, name):
    start = rng.uniform(-3, 6)
    baseline = rng.choice((2.0, 300.0, 1500.0))
    return event(
        f"e{number}", (start, start + rng.uniform(0.3, 4)), baseline * rng.choice((0.0, 0.5, 0.75)), baseline, name,
        ramp_in_s=rng.choice((0.0, 300.0)), ramp_out_s=rng.choice((0.0, 900.0)),
        rebound_kw=rng.choice((None, baseline)), firm=rng.random() < 0.7, emergency=rng.random() < 0.2,
    )  # fmt: skip


def typical_problem(jobs=30, horizon_h=36, seed=1):
    """One site, five pools, some jobs, a grid of about a hundred blocks: what a plan is made for every five minutes."""
    rng, measured = random.Random(seed), curves()
    grid = planning_grid(START, timedelta(hours=horizon_h))
    count = len(grid)
    shapes = [measured["A100-400W/" + name] for name in ("infer_llama_8b", "ft_llama_8b_dolly", "pt_mpt_7b_fast")]
    load = [0.5 + 0.4 * rng.random() for _ in range(count)]
    pools = [
        inputs(pool("chat", Work.INTERACTIVE, 6144, 5.0, 0.9, shapes[0]), count, load),
        inputs(pool("tune", Work.TRAINING, 1024, 1.0, 0.6, shapes[1]), count),
        inputs(pool("train", Work.TRAINING, 2048, 0.8, 0.5, shapes[2]), count),
        inputs(pool("batch", Work.BATCH, 2048, 0.0, 0.0, shapes[0]), count),
        inputs(pool("images", Work.BATCH, 1024, 0.0, 0.0, shapes[0]), count),
    ]  # fmt: skip
    work = [_typical_job(rng, number, horizon_h, 3072.0 / jobs) for number in range(jobs)]
    price = [60 + 50 * rng.random() + (900 if 4 <= (START.hour + h) % 24 - 20 < 6 else 0) for h in range(count)]
    charge = DemandCharge("m", 8.0, 3900.0, (True,) * count)
    where = site(count, price=price, limit=4400.0, pue=1.2, demand_charges=(charge,))
    called = event("e", (3, 6), 3400.0, 4100.0, ramp_in_s=300.0, ramp_out_s=300.0, rebound_kw=4100.0)
    return problem(grid, [where], pools, work, [called], Prices())


def _typical_job(rng, number, horizon_h, mean_gpus):
    start = rng.uniform(-2, horizon_h * 0.7)
    width = rng.lognormvariate(1.95, 0.5)
    gpus = max(1, round(mean_gpus * rng.uniform(1, 6)))
    return job(
        f"j{number}", (start, start + width), gpus * width / rng.uniform(1.3, 6), gpus,
        rng.choice((("batch",), ("images",), ("batch", "images"))), value_per_gpu_h=rng.uniform(0.2, 1.5),
    )  # fmt: skip
