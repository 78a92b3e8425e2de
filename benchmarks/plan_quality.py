"""How much of the saving of perfect foresight the plans realise over whole market years, beside every rival.

Why settled in the open: a plan is judged by what its first steps cost at the price that came, never by its own
objective. Forecast and planner are the product's own; what is not yet public at a moment is hidden from them.
"""

from __future__ import annotations

import argparse
import os
from collections.abc import Sequence
from dataclasses import dataclass, replace
from datetime import date
from itertools import starmap
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.support.ceiling import Ceiling, best_share
from benchmarks.support.controllers import regret
from benchmarks.support.market import Days, Market
from benchmarks.support.pieces import CASES, Arrays, Piece, Source, lived
from benchmarks.support.report import Figures, run, say
from benchmarks.support.weighing import scenario_ratio
from scheduler.shipped import shipped

PIECE_DAYS = 7
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


def measure(size: Size, folder: Path | None, seed: int, keep: Path | None = None) -> Figures:
    """All markets, both cases, and the causes of what is missed; and what it costs to weigh scenarios."""
    names = SHIPPED if folder is None else SHARED
    if folder is None:
        say("without --data: the few weeks of prices that Gridpace ships (config/data), not whole years")
    asked = {name: _asked(name, size, folder, seed) for name in size.markets or names}
    parts = lived([piece for pieces in asked.values() for piece in pieces], size.processes or os.cpu_count() or 1, keep)
    shares: dict[str, float] = {}
    beside: dict[str, dict[str, float]] = {}
    causes: dict[str, dict[str, float]] = {}
    blocks: dict[str, dict[str, float]] = {}
    best: dict[str, float] = {}
    for pieces in asked.values():
        year = _together(pieces, [next(parts) for _ in pieces])
        for tail in CASES:
            found = _found(year, tail)
            shares.update(found.share)
            beside.update(found.rivals)
            causes[found.key], blocks[found.key] = found.regret, found.blocks
            if found.best is not None:
                best[found.key] = found.best
            _tell(found)
    ratio = scenario_ratio(size.weighed_jobs, 20, size.weighed_repeats, seed, keep=keep)
    return {"share_of_perfect": _short(shares), "rivals": _short(beside), "regret": _short(causes),
            "knowing_block_means": _short(blocks), "best_policy": _short(best), "scenario_ratio_20": ratio}  # fmt: skip


@dataclass(frozen=True)
class Year:
    """A market's pieces put together: `runs` are shares of full power in every interval, 0 where none was lived."""

    made: Market
    days: Days
    examples: Days
    windows: dict[str, Days]
    runs: Arrays
    best: Arrays


def _asked(name: str, size: Size, folder: Path | None, seed: int) -> list[Piece]:
    """The pieces of a market: days that are chosen, and with `--data` those of the scenarios inside it."""
    source = _source(name, folder)
    made = source.load()
    days = chosen(made, size)
    examples = set(days[:: size.examples])
    if folder:
        days = sorted({*days, *(day for part in _windows(made).values() for day in part)})
    parts = [days[at : at + PIECE_DAYS] for at in range(0, len(days), PIECE_DAYS)]
    return [Piece(source, tuple(part), tuple(d for d in part if d in examples), BLOCKS_H, seed) for part in parts]


def _together(pieces: list[Piece], found: list[Arrays]) -> Year:
    made = pieces[0].source.load()
    days, examples = ([day for piece in pieces for day in getattr(piece, of)] for of in ("days", "examples"))
    runs: Arrays = {}
    for name in found[0]:
        parts = np.concatenate([piece[name] for piece in found])
        if not name.startswith("best"):
            of = examples if name.startswith(("planned", "coarse", "fine")) else days
            runs[name] = np.zeros(len(made.price))
            runs[name][np.concatenate([np.arange(0), *(np.arange(first, last) for first, last in of)])] = parts
    best = {name: np.concatenate([piece[name] for piece in found]) for name in found[0] if name.startswith("best")}
    windows = {label: part for label, part in _windows(made).items() if part and set(part) <= set(days)}
    return Year(made, days, examples, windows, runs, best)


def _found(year: Year, tail: str) -> Found:
    """One case: shares of the year and of the scenarios inside it, rivals, regret by cause."""
    made, runs = year.made, year.runs
    own = {name.removesuffix(tail).removeprefix("rival "): run for name, run in runs.items()
           if name.startswith("rival") and name.endswith("_lagged") == bool(tail)}  # fmt: skip
    shares, beside = {}, {}
    for label, part in {made.name: year.days, **year.windows}.items():
        shares[label + tail] = made.share(runs[f"gridpace{tail}"], part)
        beside[label + tail] = {rival: made.share(run, part) for rival, run in own.items()}
    lived_by = {name: made.share(runs[name], year.examples) for name in (f"planned{tail}", "coarse", "fine")}
    blocks = {f"{hours}h": made.share(runs[f"{hours}h"], year.days) for hours in BLOCKS_H}
    best = year.best.get(f"best{tail}")
    ceiling = None if best is None else best_share(starmap(Ceiling, best.reshape(-1, 2).tolist()))
    return Found(made.name + tail, shares, beside, regret(*lived_by.values()), blocks, ceiling)


def _source(name: str, folder: Path | None) -> Source:
    """A market of `--data`, or the slice of it that is shipped."""
    zone, prices, ahead, published = (SHIPPED if folder is None else SHARED)[name]
    paths = tuple(Path(str(shipped(f"data/{part}"))) if folder is None else folder / part for part in prices.split())
    return Source(name, zone, paths, folder / ahead if folder and ahead else None, published)


def _windows(made: Market) -> dict[str, Days]:
    return {label: within(made, first, last) for label, (of, first, last) in WINDOWS.items() if of == made.name}


def chosen(made: Market, size: Size) -> list[tuple[int, int]]:
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
    parser.add_argument("--keep", type=Path, default=None)
    parser.add_argument("--market", action="append", default=[], choices=[*SHARED])
    parser.add_argument("--processes", type=int, default=None)
    known, rest = parser.parse_known_args(argv)
    if known.data is None and (unshipped := set(known.market) - SHIPPED.keys()):
        parser.error(f"prices of {', '.join(unshipped)} are not shipped: --data DIR says where they are")
    about = (
        "Share of the saving of perfect foresight that plans realise (docs/benchmarks.md). --data DIR: whole years; "
        "--keep DIR: every week that is done is kept there, and a run that was cut off goes on from them; "
        "--market NAME: only that one (may be given again); --processes N: side by side (default: one a core)."
    )

    def asked(quick: bool, seed: int) -> Figures:
        size = QUICK if quick else FULL
        size = replace(size, markets=tuple(known.market) or size.markets, processes=known.processes or size.processes)
        return measure(size, known.data, seed, known.keep)

    run("plan_quality", about, asked, rest)


if __name__ == "__main__":
    main()
