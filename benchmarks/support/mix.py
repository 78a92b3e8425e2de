"""The job mix of the first field trial as a config, or one of your own: curves and jobs from two CSV files.

Jobs, GPUs and floors: Emerald Conductor, arXiv 2507.00909, and its published simulator's samples
(github.com/ai-emerald/emerald-ai-demo-may-2025, Apache-2.0); the curves ship in `config/data/power_cap_curves.csv`.
"""

from __future__ import annotations

import csv
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from optimizer.curves import parse_curves
from optimizer.domain import CurvePoint, PowerCurve
from scheduler.shipped import shipped

CURVE_ERROR = 0.03
"""How far a pool's draw above idle is off its curve (standard deviation): the trial's own simulator had a mean absolute
error of 3.1 % against measurement."""

LEAST_CAP_W = 200.0
"""The published policies never capped below this; under it throughput collapses."""


@dataclass(frozen=True)
class MixJob:
    """One job of the mix: its power curve, its kind of work, its GPUs, and the least throughput that it must keep."""

    id: str
    curve: str
    work: str
    gpus: int
    floor: float


JOBS = (
    MixJob("ft-p3", "A100-400W/ft_llama_8b_p3", "training", 32, 0.75),
    MixJob("infer-32g", "A100-400W/infer_llama_8b", "interactive", 32, 0.5),
    MixJob("infer-48g-strict", "A100-400W/infer_llama_8b", "interactive", 48, 0.9),
    MixJob("infer-48g", "A100-400W/infer_llama_8b", "interactive", 48, 0.75),
    MixJob("pt-13b", "A100-400W/pt_mpt_13b_sm", "training", 48, 0.5),
    MixJob("pt-7b", "A100-400W/pt_mpt_7b_fast", "training", 48, 0.5),
)


@dataclass(frozen=True)
class Mix:
    """Jobs and the curves that they run on, by name."""

    jobs: tuple[MixJob, ...]
    curves: dict[str, PowerCurve]


def split_data(argv: Sequence[str] | None) -> tuple[Path | None, list[str]]:
    """`--data DIR` (or `--data=DIR`) taken out of the command line, and the rest of it."""
    rest = list(sys.argv[1:] if argv is None else argv)
    for place, word in enumerate(rest):
        if word == "--data" and place + 1 < len(rest):
            return Path(rest[place + 1]), rest[:place] + rest[place + 2 :]
        if word.startswith("--data="):
            return Path(word.removeprefix("--data=")), rest[:place] + rest[place + 1 :]
    return None, rest


def mix_from(folder: Path | None) -> Mix:
    """The published mix, or `power_cap_curves.csv` (columns of the shipped one) and `jobs.csv` (id, curve, work, gpus,
    floor) of a folder, each of which may be left out. Raises ValueError or KeyError for files that don't fit."""
    sweep = folder / "power_cap_curves.csv" if folder is not None else None
    text = (sweep if sweep is not None and sweep.exists() else shipped("data/power_cap_curves.csv")).read_text()
    jobs = folder / "jobs.csv" if folder is not None else None
    if folder is not None and not folder.is_dir():
        raise ValueError(f"{folder}: no such folder")
    chosen = _jobs(jobs) if jobs is not None and jobs.exists() else JOBS
    curves = parse_curves(text)
    return Mix(chosen, {job.curve: curves[job.curve] for job in chosen})


def _jobs(path: Path) -> tuple[MixJob, ...]:
    with path.open(encoding="utf-8", newline="") as file:
        return tuple(
            MixJob(row["id"], row["curve"], row["work"], int(row["gpus"]), float(row["floor"]))
            for row in csv.DictReader(file)
        )


@dataclass(frozen=True)
class World:
    """What surrounds the jobs: the site's entry, the price and more signals, what the simulated cards are like, and
    further lines of the config."""

    site: str = "id: lab, timezone: Etc/UTC, price: energy"
    signals: tuple[str, ...] = ("{id: energy, type: constant, unit: USD/MWh, value: 60}",)
    hall: str = "load_noise: 0.02, noise: 0.003, settle_down: 1s, settle_up: 2s"
    load: float = 1.0
    more_pools: tuple[str, ...] = ()
    tail: tuple[str, ...] = ()


def config_text(mix: Mix, seed: int, world: World = World()) -> str:
    """A site with one pool a job, worth by its floor, and simulated cards that differ from the curves by the seed.
    `world.load` is the busy share of interactive pools."""
    rng = np.random.default_rng(seed)
    names = {name: f"c{number}" for number, name in enumerate(mix.curves)}
    curves = [_curve(names[name], curve, 1.0) for name, curve in mix.curves.items()]
    curves += [_curve(f"true-{job.id}", mix.curves[job.curve], 1.0 + CURVE_ERROR * float(rng.normal()))
               for job in mix.jobs]  # fmt: skip
    most = max(job.floor / job.gpus for job in mix.jobs)
    pools = [
        f"  - {{id: {job.id}, site: lab, gpu_model: trial, count: {job.gpus}, work: {job.work}, "
        f"curve: {names[job.curve]}, value_per_gpu_h: {job.floor / job.gpus / most:.6f}, floor: {job.floor}, "
        f"load: {world.load if job.work == 'interactive' else 1.0:g}, "
        f"min_cap_w: {max(LEAST_CAP_W, mix.curves[job.curve].points[0].cap_w):g}}}"
        for job in mix.jobs
    ]
    true = ", ".join(f"{job.id}: true-{job.id}" for job in mix.jobs)
    lines = [
        "mode: control", "currency: USD", "interval: 5m", "horizon: 6h", "state_dir: state",
        f"sites: [{{{world.site}}}]",
        f"signals: [{', '.join(world.signals)}]",
        "curves:", *curves, "pools:", *pools, *world.more_pools,
        f"power: {{type: simulated, seed: {seed}, {world.hall}, true_curves: {{{true}}}}}",
        *world.tail,
    ]  # fmt: skip
    return "\n".join(lines) + "\n"


def _curve(name: str, curve: PowerCurve, factor: float) -> str:
    """A curve as a config entry, its draw above idle times `factor`."""
    points = ", ".join(_point(point, curve.idle_w, factor) for point in curve.points)
    return f"  - {{id: {name}, idle_w: {curve.idle_w:g}, points: [{points}]}}"


def _point(point: CurvePoint, idle_w: float, factor: float) -> str:
    draw_w = idle_w + (point.draw_w - idle_w) * factor
    return f"{{cap_w: {point.cap_w:g}, draw_w: {draw_w:.4f}, throughput: {point.throughput:g}}}"
