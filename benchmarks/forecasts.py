"""How wrong each forecaster is, so many hours ahead, and how often its bands hold, on recorded real-time prices.

Every forecast is made from what was public at its moment. Beside the forecasters stands the usual day alone.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.support.market import Market, market
from benchmarks.support.report import Figures, run, say
from optimizer.domain import Series
from optimizer.forecast_kept import Pasts
from optimizer.forecast_learned import TAIL_DAYS, Fan, Recall
from optimizer.forecasters import FORECASTERS, Forecaster
from scheduler.shipped import shipped

PARTS = ("prices_pjm_dominion_real_time_2022_autumn.csv", "prices_pjm_dominion_real_time_2022_elliott.csv")
LEADS_H = (1, 6, 24)
BAND = (0.05, 0.95)
RECALL_DAYS = 60
Values = dict[str, list[float]]
"""Hours ahead -> one value a forecast."""


@dataclass(frozen=True)
class Size:
    """Days at the end of the series that are forecast, one forecast every so many hours."""

    days: int = 28
    every_h: int = 3


FULL, QUICK = Size(), Size(days=3, every_h=6)


@dataclass
class Usual:
    """The usual day alone (or the second signal mixed with it), whatever the last errors were."""

    pasts: Pasts

    def __call__(
        self, series: Series, reference: Series | None, start: datetime, until: datetime, recall: Recall
    ) -> Fan | None:
        past = self.pasts.past(series, reference, start, until, recall)
        if past is None:
            return None
        known, total = ((moment - past.start) // past.step for moment in (start, until))
        return Fan(start, past.step, past.scale * np.sinh(past.base[None, known:total]), past.scale)


def measure(size: Size, folder: Path | None) -> Figures:
    """Mean and median error of the mean of the paths, in money per MWh, and the share of prices inside the band that is
    to hold nine in ten."""
    made = load(folder)
    say(f"{made.name}: {size.days} days up to {made.starts[-1]:%Y-%m-%d}, a forecast every {size.every_h} h, per MWh")
    makers: Mapping[str, Callable[[], Forecaster]] = {"usual_day": lambda: Usual(Pasts()), **FORECASTERS}
    found = {name: judged(made, make(), size) for name, make in makers.items()}
    for name, (wrong, held) in found.items():
        bands = f"; inside the band {_by(np.mean, held)}" if name != "usual_day" else ""
        say(f"  {name:10} mean error {_by(np.mean, wrong)}, median {_by(np.median, wrong)}{bands}")
    return {
        "mean_error": {name: _by(np.mean, wrong) for name, (wrong, _) in found.items()},
        "median_error": {name: _by(np.median, wrong) for name, (wrong, _) in found.items()},
        "inside_band_90": {name: _by(np.mean, held) for name, (_, held) in found.items() if name != "usual_day"},
    }


def judged(made: Market, forecaster: Forecaster, size: Size) -> tuple[Values, Values]:
    """Absolute errors, and whether the price was inside the band, by hours ahead; the same moments for everybody."""
    step = round(1 / made.hours)
    first, last = len(made.price) - size.days * 24 * step, len(made.price) - max(LEADS_H) * step
    back = (RECALL_DAYS + TAIL_DAYS) * 24 * step
    wrong: Values = {f"{lead}h": [] for lead in LEADS_H}
    held: Values = {f"{lead}h": [] for lead in LEADS_H}
    for at in range(first, last, size.every_h * step):
        series = made.series(made.price, max(0, at - back), at)
        ahead = made.day_ahead
        told = None if ahead is None else made.series(ahead, max(0, at - back), made.day_end(at), "day_ahead")
        until = made.starts[at] + timedelta(hours=max(LEADS_H))
        fan = forecaster(series, told, made.starts[at], until, Recall(made.zone, RECALL_DAYS))
        if fan is None:
            raise RuntimeError(f"{made.starts[at]}: too little is known to learn from")
        expected, low, high = fan.mean, fan.quantile(BAND[0]), fan.quantile(BAND[1])
        for lead in LEADS_H:
            place = lead * step - 1
            true = made.price[at + place]
            wrong[f"{lead}h"].append(abs(float(expected[place] - true)))
            held[f"{lead}h"].append(float(low[place] <= true <= high[place]))
    return wrong, held


def _by(what: Callable[[list[float]], Any], found: Values) -> dict[str, float]:
    return {key: round(float(what(values)), 2) for key, values in found.items()}


def load(folder: Path | None) -> Market:
    """`prices.csv` (and `day_ahead.csv`, where there is one) of `--data`, or eight weeks of PJM that are shipped."""
    if folder is None:
        return market("PJM Dominion", "America/New_York", [Path(str(shipped(f"data/{part}"))) for part in PARTS])
    ahead = folder / "day_ahead.csv"
    return market(str(folder), "UTC", [folder / "prices.csv"], ahead if ahead.exists() else None)


def main(argv: Sequence[str] | None = None) -> None:
    """`--data DIR`: `prices.csv` and `day_ahead.csv` with the columns `interval_start_utc` and the price."""
    parser = argparse.ArgumentParser(add_help=False)
    parser.add_argument("--data", type=Path, default=None)
    known, rest = parser.parse_known_args(argv)
    run("forecasts", __doc__.splitlines()[0], lambda quick, _: measure(QUICK if quick else FULL, known.data), rest)


if __name__ == "__main__":
    main()
