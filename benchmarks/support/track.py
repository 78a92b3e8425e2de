"""The hall of `tracking`, the two rules that it is compared with, and what counts as a cap that turned for nothing."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from datetime import UTC, datetime, timedelta
from pathlib import Path

from benchmarks.support.mix import LEAST_CAP_W, Mix, World
from optimizer.curves import draw_at_cap, hull_of_caps
from optimizer.domain import GridEvent
from optimizer.envelope import INF, event_limit_kw
from scheduler.wiring import Parts

PUE, PUE_PER_DEGREE, COOLING = 1.15, 0.006, "5m"
OUTSIDE_C = (19, 18, 18, 17, 17, 17, 18, 20, 22, 24, 26, 28, 29, 30, 31, 31, 30, 29, 27, 25, 23, 22, 21, 20)
QUEUE, JOBS, START = 48, 8, datetime(2025, 5, 3, 21, tzinfo=UTC)
BUSY, LATER = 0.8, timedelta(hours=2)
"""Share of the time until the queue's deadline, which comes so long after the end of the run, that its work takes."""
LOAD, RESPONSE = 0.95, "settle_down: 0.05s, settle_up: 0.4s, sensor_mean: 1s"
KINDS = {
    "still": "load_noise: 0, noise: 0",
    "steady": "load_noise: 0.005, noise: 0.003",
    "bursty": "load_noise: 0.01, load_bursts: 0.3, noise: 0.003",
}

Rule = Callable[[Parts, GridEvent | None, datetime, float], None]
"""Told every second: the running parts, the event once it is agreed, the moment, the import at the meter in kW."""


def world(
    kind: str,
    hours: float,
    data: Path | None,
    limit_kw: float | None = None,
    price: Sequence[float] = (60.0,),
    begin: datetime = START,
) -> World:
    """The site around the mix for `hours` from START, of which those before `begin` are over: weather and a lag in the
    PUE, a batch queue that can't wait long, and loads that stand still, are steady or come in bursts. `price.csv` of
    `data` brings other prices than `price` (by hour)."""
    deadline = START + timedelta(hours=hours) + LATER
    work_gpu_h = BUSY * (deadline - begin) / timedelta(hours=1) * QUEUE / JOBS
    limit = f", limit_kw: {limit_kw:.3f}" if limit_kw is not None else ""
    pue = f"pue: {{base: {PUE}, per_degree: {PUE_PER_DEGREE}, maximum: 1.5}}"
    day = [price[hour % len(price)] for hour in range(24)]
    own = data / "price.csv" if data is not None else None
    energy = f"{{id: energy, type: profile, unit: USD/MWh, hours: {day}}}"
    if own is not None and own.exists():
        energy = f"{{id: energy, type: csv, unit: USD/MWh, path: {own.resolve()}, value_column: price_per_mwh}}"
    weather = f"{{id: outside, type: profile, kind: weather, unit: degC, hours: {list(OUTSIDE_C)}}}"
    jobs = [f"    - {{id: batch-{k}, pool: queue, work_gpu_h: {work_gpu_h:.3f}, max_gpus: {QUEUE // JOBS}, "
            f'deadline: "{deadline.isoformat()}", value_per_gpu_h: 0.4}}' for k in range(JOBS)]  # fmt: skip
    queue = (f"  - {{id: queue, site: lab, gpu_model: trial, count: {QUEUE}, work: batch, "
             f"curve: A100-400W/ft_llama_8b_dolly, min_cap_w: {LEAST_CAP_W:g}}}")  # fmt: skip
    return World(
        site=f"id: lab, timezone: Etc/UTC, price: energy, weather: outside, other_it_kw: 4, {pue}{limit}",
        signals=(energy, weather),
        hall=f"{KINDS[kind]}, {RESPONSE}, cooling_settle: {COOLING}",
        load=LOAD,
        more_pools=(queue,),
        tail=("jobs:", "  initial:", *jobs),
    )


def full_kw(parts: Parts) -> float:
    """Import with no cap at all, as the configured curves have it."""
    return _import_kw(parts, INF)


def mark_per_mwh(mix: Mix) -> float:
    """Price at which the last watt of the first job of the mix is no longer worth its energy."""
    job = mix.jobs[0]
    last = hull_of_caps(mix.curves[job.curve]).segments[-1]
    most = max(one.floor / one.gpus for one in mix.jobs)
    return job.floor / job.gpus / most * last.slope_per_w * 1e6 / PUE


# ---------------------------------------------------------------- rules
def uniform_cap_once(parts: Parts, event: GridEvent | None, now: datetime, _import_kw_now: float) -> None:
    """One cap for all GPUs, reckoned from the curves for the event's first target, written at its start and taken off
    at its end."""
    if event is None:
        return
    if now == event.start:
        share = event.targets[0].value / event.baseline_kw
        fits = [cap for cap in range(100, 401) if _import_kw(parts, cap) <= share * full_kw(parts)]
        _write(parts, float(fits[-1] if fits else LEAST_CAP_W))
    elif now == event.end:
        _write(parts, INF)


POLL_S = 10


def polled_10s(parts: Parts, event: GridEvent | None, now: datetime, import_kw: float) -> None:
    """Every 10 s, one cap for all GPUs times the limit over the import."""
    if event is None or now < event.start or now.second % POLL_S:
        return
    limit_kw = event_limit_kw(event, now)
    held_w = max(info.limit_w for info in parts.hardware.power.discover().values())
    released = now >= event.end + timedelta(seconds=event.ramp_out_s)
    _write(parts, INF if released else max(LEAST_CAP_W, held_w * min(1.5, limit_kw / max(import_kw, 1e-6))))


RULES: Mapping[str, Rule] = {"uniform_cap_once": uniform_cap_once, "polled_10s": polled_10s}


def _write(parts: Parts, cap_w: float) -> None:
    hall = parts.hardware.hall
    assert hall is not None
    hall.set_limits({gpu: min(cap_w, info.max_w) for gpu, info in hall.infos().items()})


def _import_kw(parts: Parts, cap_w: float) -> float:
    """Import of the whole site under one cap, by the configured curves and loads."""
    site = parts.ctx.sites["lab"]
    it_kw = site.other_it_kw
    for model in parts.ctx.pools.values():
        pool, busy = model.pool, model.load if isinstance(model.load, float) else 1.0
        working_w = draw_at_cap(pool.curve, min(cap_w, pool.max_cap_w))
        it_kw += pool.count * (pool.curve.idle_w + busy * (working_w - pool.curve.idle_w)) / 1000.0
    return it_kw * PUE


# ---------------------------------------------------------------- hunting
TURN_W = 4
"""A cap that moves by less (1 % of the card) and back has not turned."""


def reversals(caps_w: Sequence[int]) -> int:
    """How often a cap turned: moved by TURN_W or more against its last direction."""
    turns, direction, extreme = 0, 0, caps_w[0] if caps_w else 0
    for cap_w in caps_w:
        if (cap_w - extreme) * direction > 0:
            extreme = cap_w
        elif abs(cap_w - extreme) >= TURN_W:
            turns += direction != 0
            direction, extreme = (1 if cap_w > extreme else -1), cap_w
    return turns
