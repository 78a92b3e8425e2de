"""A year of two sites whose movable work goes where power is cheap: the saving beside pinned jobs, and the bound.

Why both sides shift in time: a site that plans alone already runs its work in its own cheap hours. What moving it to
another site adds is only the difference to that, and the bound is what one who knows both years would pay.
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

from benchmarks.support.controllers import Gridpace
from benchmarks.support.market import FIRM_KW, MEAN_KW, Market, market
from benchmarks.support.pairing import disagreement, foresight, live, side_by_side, whole_days
from benchmarks.support.report import Figures, run, say
from optimizer.session import Session
from scheduler.coordination.config import CoordinatorConfig
from scheduler.shipped import shipped

TRANSFERS = {"0.5": 0.5, "5": 5.0}
"""Money per MWh of moved work: 10 and 100 MB for a GPU-hour of a card of 1 kW, at 0.05 a gigabyte."""
LEAST_GAIN = 1000.0 * float(CoordinatorConfig.model_fields["least_gain_per_gpu_h"].default)
"""Money per MWh of cards of 1 kW: what the coordinator asks of a move beside its transfer by default."""
ASK_EVERY = 97
"""Every so many hours the coordinator's own plan is made, which must cost what sorting says."""
TOLERANCE = 0.3
"""Money per MWh: the planner's own thousandth of a cent for each hour of waiting, and the solver's gap."""


@dataclass(frozen=True)
class Size:
    """The last so many days (None: all) of each of these pairs (empty: all)."""

    days: int | None = None
    pairs: tuple[str, ...] = ()
    ask_every: int = ASK_EVERY


FULL, QUICK = Size(), Size(days=9, ask_every=11)
Source = tuple[str, str, str | None, bool]
YEARS: dict[str, tuple[Source, Source]] = {
    "ercot_caiso_2024": (
        ("America/Chicago", "ercot_hubavg_rt15_2024.csv.gz", "ercot_hubavg_da_2024.csv.gz", False),
        ("America/Los_Angeles", "caiso_np15_da_2024.csv.gz", None, True),
    ),
    "pjm_caiso_2022": (
        ("America/New_York", "pjm_dom_rt60_2022.csv.gz", None, False),
        ("America/Los_Angeles", "caiso_np15_da_2022.csv.gz", None, True),
    ),
}
"""Pairs of the same year: time zone, settlement prices, day-ahead prices, whether those that settle are day-ahead."""
SHIPPED: dict[str, tuple[Source, Source]] = {
    "pjm_caiso_2022": (
        ("America/New_York", "prices_pjm_dominion_real_time_2022_autumn.csv", None, False),
        ("America/Los_Angeles", "prices_caiso_np15_day_ahead_2022_december.csv", None, True),
    ),
}


def measure(size: Size, folder: Path | None, seed: int) -> Figures:
    """Every pair: what the movable work costs pinned, moved, and with foresight."""
    del seed  # nothing is random here
    pairs = SHIPPED if folder is None else YEARS
    if folder is None:
        say("without --data: the few weeks of prices that Gridpace ships (config/data), not a year")
    share = MEAN_KW / (FIRM_KW + MEAN_KW)
    say(f"two sites of 10 MW, {share:.0%} of each one's energy movable, due at the end of the day it comes")
    return {"movable_share": share, "pairs": {name: _pair(name, size, folder) for name in size.pairs or pairs}}


def _pair(name: str, size: Size, folder: Path | None) -> dict[str, Any]:
    pair = side_by_side(*(_load(name, source, folder) for source in (SHIPPED if folder is None else YEARS)[name]))
    days = whole_days(pair[0])[-(size.days or 0) :]
    ahead = tuple(_expectations(made) for made in pair)
    pinned, pinned_bound = live(pair, (ahead[0], ahead[1]), days, None), foresight(pair, days, None)
    found: dict[str, Any] = {"days": len(days), "pinned": pinned.cost, "pinned_foresight": pinned_bound.cost}
    say(f"{name}: {len(days)} days; pinned {pinned.cost:,.0f}, with foresight {pinned_bound.cost:,.0f}")
    for label, transfer in TRANSFERS.items():
        session = Session()

        def ask(hour: int, expected: Any, owed: Any, session: Session = session, fee: float = transfer) -> None:
            if hour % size.ask_every == 0:
                _agree(pair, session, hour, (expected, owed), fee)

        moved, bound = live(pair, (ahead[0], ahead[1]), days, transfer, ask), foresight(pair, days, transfer)
        saved, most = pinned.cost - moved.cost, pinned.cost - bound.cost
        shipped_gain = live(pair, (ahead[0], ahead[1]), days, transfer, least_gain=LEAST_GAIN)
        found[f"transfer_{label}"] = {
            "moved": moved.cost, "bound": bound.cost, "saving": saved / pinned.cost, "bound_saving": most / pinned.cost,
            "share_of_bound": saved / most, "moved_share": moved.moved_share, "paid_for_transfer": moved.transfer,
            "saving_by_default": 1.0 - shipped_gain.cost / pinned.cost,
        }  # fmt: skip
        say(f"  transfer {label}/MWh: moved {moved.cost:,.0f} ({saved / pinned.cost:.1%} less), "
            f"bound {bound.cost:,.0f} ({most / pinned.cost:.1%} less), "
            f"{moved.moved_share:.0%} of the work ran away from home; "
            f"{1.0 - shipped_gain.cost / pinned.cost:.1%} less by the coordinator's defaults")  # fmt: skip
    return _short(found)  # type: ignore[no-any-return]


def _agree(
    pair: tuple[Market, Market], session: Session, hour: int, asked: tuple[Any, tuple[float, float]], transfer: float
) -> None:
    """The coordinator's own plan of this hour costs what sorting says, where whole batches can say it. Raises
    RuntimeError where it doesn't."""
    expected, owed = asked
    if sum(owed) < 1e-6 or any(abs(left - round(left)) > 1e-6 or left > len(expected[0]) for left in owed):
        return
    dearer = disagreement(session, pair, hour, expected, owed, transfer)
    if abs(dearer) > TOLERANCE:
        raise RuntimeError(f"{pair[0].starts[hour]}: the plan costs {dearer:.3f}/MWh more than sorting says")


def _expectations(made: Market) -> Any:
    """What the product's forecast expects, made once for each hour; an hour's price is known when it has ended, and
    where day-ahead prices settle, all day."""
    expects = Gridpace(made, lagged=True)
    return lru_cache(maxsize=None)(expects.prices)


def _load(name: str, source: Source, folder: Path | None) -> Market:
    zone, prices, ahead, published = source
    if folder is None:
        return market(name, zone, [Path(str(shipped(f"data/{prices}")))], None, published)
    return market(name, zone, [folder / prices], folder / ahead if ahead else None, published)


def _short(value: Any) -> Any:
    """Four significant digits."""
    if isinstance(value, dict):
        return {key: _short(item) for key, item in value.items()}
    if isinstance(value, int):
        return value
    return float(f"{value:.4g}") if abs(value) < 10 else round(value)


def main(argv: Sequence[str] | None = None) -> None:
    """`--data DIR`: folder with the price files named above (columns `interval_start_utc` and the price)."""
    parser = argparse.ArgumentParser(add_help=False)
    parser.add_argument("--data", type=Path, default=None)
    parser.add_argument("--pair", action="append", default=[], choices=[*YEARS])
    known, rest = parser.parse_known_args(argv)
    about = "Saving of moving work between two sites; --data DIR: whole years (docs/benchmarks.md), --pair NAME: one."

    def asked(quick: bool, seed: int) -> Figures:
        size = QUICK if quick else FULL
        return measure(Size(size.days, tuple(known.pair), size.ask_every), known.data, seed)

    run("two_sites", about, asked, rest)


if __name__ == "__main__":
    main()
