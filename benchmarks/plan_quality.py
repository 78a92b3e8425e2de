"""How much of the saving of perfect foresight the plans realise over whole market years, beside every rival.

Why settled in the open: a plan is judged by what its first steps cost at the price that came, never by its own
objective. Forecast and planner are the product's own; what is not yet public at a moment is hidden from them.
"""

from __future__ import annotations

import argparse
import os
from collections.abc import Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from datetime import date
from multiprocessing import get_context
from pathlib import Path
from typing import Any

from benchmarks.support.ceiling import best_share
from benchmarks.support.controllers import Gridpace, knowing_means, regret, rivals
from benchmarks.support.market import Market, market, walk
from benchmarks.support.report import Figures, run, say
from benchmarks.support.weighing import scenario_ratio
from optimizer.facts import Floats
from scheduler.shipped import shipped

Days = list[tuple[int, int]]
Asked = tuple[str, bool, "Size", Path | None, int]
EXAMPLES = 25
"""Every so many days are lived by the planner itself, on both grids, to tell regret by cause."""
BLOCKS_H = (1, 2, 4)
"""What knowing the mean of every block of so many hours would be worth: what a better forecast can bring."""


@dataclass(frozen=True)
class Found:
    """One market in one case: shares by window, those of rivals, regret by cause, shares of who knows blocks' means,
    and what the best policy would get if errors came as the forecast has learned them (None: nothing is forecast)."""

    key: str
    share: dict[str, float]
    rivals: dict[str, dict[str, float]]
    regret: dict[str, float]
    blocks: dict[str, float]
    best: float | None


@dataclass(frozen=True)
class Size:
    """Every `weeks_apart`-th week is planned (1: all; else the last one, and on backwards), of each at most so many
    `days`; `markets` (empty: all that there are) by so many processes (None: one a core). Every so many days are
    `examples` of regret by cause."""

    weeks_apart: int = 1
    days: int = 7
    markets: tuple[str, ...] = ()
    processes: int | None = None
    examples: int = EXAMPLES
    weighed_jobs: int = 1000
    weighed_repeats: int = 7


FULL, QUICK = Size(), Size(weeks_apart=13, examples=7, weighed_jobs=60, weighed_repeats=3)

SHARED = {
    "ercot_2024": ("America/Chicago", "ercot_hubavg_rt15_2024.csv.gz", "ercot_hubavg_da_2024.csv.gz", False),
    "caiso_2022": ("America/Los_Angeles", "caiso_np15_da_2022.csv.gz", None, True),
    "pjm_2022": ("America/New_York", "pjm_dom_rt60_2022.csv.gz", None, False),
    "s3_uri": ("America/Chicago", "ercot_hubavg_da_2021_uri.csv.gz", None, True),
}
PJM = "prices_pjm_dominion_real_time_2022"
SHIPPED = {
    "caiso_2022": ("America/Los_Angeles", "prices_caiso_np15_day_ahead_2022_heat_wave.csv", None, True),
    "pjm_2022": ("America/New_York", f"{PJM}_autumn.csv {PJM}_elliott.csv", None, False),
    "s3_uri": ("America/Chicago", "prices_ercot_hubavg_day_ahead_2021_uri.csv", None, True),
}
WINDOWS = {
    "s1": ("ercot_2024", date(2024, 5, 6), date(2024, 5, 12)),
    "s2": ("caiso_2022", date(2022, 8, 31), date(2022, 9, 9)),
    "s3": ("s3_uri", date(2021, 2, 12), date(2021, 2, 20)),
}


def measure(size: Size, folder: Path | None, seed: int) -> Figures:
    """All markets, both cases, and the causes of what is missed; and what it costs to weigh scenarios."""
    ratio = scenario_ratio(size.weighed_jobs, 20, size.weighed_repeats, seed)
    names = SHIPPED if folder is None else SHARED
    if folder is None:
        say("without --data: the few weeks of prices that Gridpace ships (config/data), not whole years")
    work = [(name, lagged, size, folder, seed) for name in size.markets or names for lagged in (False, True)]
    shares: dict[str, float] = {}
    beside: dict[str, dict[str, float]] = {}
    causes: dict[str, dict[str, float]] = {}
    blocks: dict[str, dict[str, float]] = {}
    best: dict[str, float] = {}
    for found in _all(work, size.processes or os.cpu_count() or 1):
        shares.update(found.share)
        beside.update(found.rivals)
        causes[found.key], blocks[found.key] = found.regret, found.blocks
        if found.best is not None:
            best[found.key] = found.best
        _tell(found)
    return {"share_of_perfect": _short(shares), "rivals": _short(beside), "regret": _short(causes),
            "knowing_block_means": _short(blocks), "best_policy": _short(best), "scenario_ratio_20": ratio}  # fmt: skip


def _all(work: list[Asked], processes: int) -> Iterator[Found]:
    """Every case, side by side where there are cores."""
    if processes == 1:
        yield from map(_case, work)
        return
    with ProcessPoolExecutor(processes, mp_context=get_context("spawn")) as pool:
        yield from pool.map(_case, work)


def _case(asked: Asked) -> Found:
    """One market in one case: shares of the year and of the scenarios inside it, rivals, regret by cause."""
    name, lagged, size, folder, seed = asked
    made = load(name, folder)
    days = chosen(made, size)
    windows = {label: part for label, (of, first, last) in WINDOWS.items() if of == name
               and (part := within(made, first, last))}  # fmt: skip
    days = sorted({*days, *(day for part in windows.values() for day in part)}) if folder else days
    tail = "_lagged" if lagged else ""
    planner = Gridpace(made, lagged)
    runs: dict[str, Floats] = {"gridpace": walk(made, planner.choose, days)}
    runs |= {rival: walk(made, choose, days) for rival, choose in rivals(made, lagged).items()}
    shares: dict[str, float] = {}
    beside: dict[str, dict[str, float]] = {}
    for label, part in {name: days, **windows}.items():
        if set(part) <= set(days):
            realised = {who: made.share(what, part) for who, what in runs.items()}
            shares[label + tail] = realised.pop("gridpace")
            beside[label + tail] = realised
    blocks = {f"{hours}h": made.share(walk(made, knowing_means(made, hours), days), days) for hours in BLOCKS_H}
    best = None if made.published else best_share(planner.chains(days), lagged, seed)
    return Found(name + tail, shares, beside, regret(planner, days[:: size.examples]), blocks, best)


def load(name: str, folder: Path | None) -> Market:
    """A market from `--data`, or the slice of it that is shipped."""
    zone, prices, ahead, published = (SHIPPED if folder is None else SHARED)[name]
    if folder is None:
        return market(name, zone, [Path(str(shipped(f"data/{part}"))) for part in prices.split()], None, published)
    return market(name, zone, [folder / prices], folder / ahead if ahead else None, published)


def chosen(made: Market, size: Size) -> Days:
    """Days that are planned. Weeks are counted from the last one back, so that a few of them are not the first ones, of
    which nothing was known before."""
    back = enumerate(reversed(made.days()))
    return sorted(day for number, day in back if number // 7 % size.weeks_apart == 0 and number % 7 < size.days)


def within(made: Market, first: date, last: date) -> Days:
    """Local days of a window."""
    return [day for day in made.days() if first <= made.starts[day[0]].astimezone(made.zone).date() <= last]


def _tell(found: Found) -> None:
    for label, value in found.share.items():
        others = found.rivals[label]
        best = max(others, key=lambda rival: others[rival])
        say(f"{label:20} {value:7.2%} of perfect foresight; best rival {best} {others[best]:.2%}")
    missed = ", ".join(f"{cause} {share:.2%}" for cause, share in found.regret.items())
    say(f"{'':20} missed on some days, planned on the daemon's grid: {missed}")
    known = ", ".join(f"{hours} {share:.2%}" for hours, share in found.blocks.items())
    say(f"{'':20} who knew the mean of every block of hours: {known}")
    if found.best is not None:
        say(f"{'':20} the best policy, if errors came as the forecast has learned them: {found.best:.2%}")


def _short(value: Any) -> Any:
    """Four decimals."""
    return {key: _short(item) for key, item in value.items()} if isinstance(value, dict) else round(value, 4)


def main(argv: Sequence[str] | None = None) -> None:
    """`--data DIR`: folder with the price files named above (columns `interval_start_utc` and the price)."""

    parser = argparse.ArgumentParser(add_help=False)
    parser.add_argument("--data", type=Path, default=None)
    known, rest = parser.parse_known_args(argv)
    about = "Share of the saving of perfect foresight that plans realise; --data DIR: whole years (docs/benchmarks.md)."
    run("plan_quality", about, lambda quick, seed: measure(QUICK if quick else FULL, known.data, seed), rest)


if __name__ == "__main__":
    main()
