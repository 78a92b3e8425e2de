"""A backtest interval by interval: one row for each run and settlement interval, for anybody's own analysis.

Why pandas here and nowhere near the loops: whoever doubts a figure loads this file into the tool of their trade and
works it out again; the daemon itself never pays for the import.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from optimizer.domain import Problem
from optimizer.facts import facts_of
from scheduler.backtest.outcome import Outcome

if TYPE_CHECKING:
    import pandas as pd


def interval_table(truth: Problem, outcomes: Mapping[str, Outcome]) -> pd.DataFrame:
    """Columns: run, start (UTC), hours; per site import_kw, price_per_mwh, pue, limit_kw, event_kw (NaN: none) and
    energy_cost; per pool and job its work in full-speed GPU equivalents. One block of rows for each run."""
    import pandas as pd

    facts = facts_of(truth)
    blocks = []
    for run, outcome in outcomes.items():
        columns: dict[str, object] = {"run": run, "start": list(truth.grid.starts), "hours": facts.hours}
        for row, site in enumerate(truth.sites):
            imports = outcome.import_kw[site.id]
            columns |= {
                f"{site.id}_import_kw": imports,
                f"{site.id}_price_per_mwh": site.price_per_mwh,
                f"{site.id}_pue": site.pue,
                f"{site.id}_limit_kw": _finite(facts.limit_kw[row]),
                f"{site.id}_event_kw": _finite(facts.events_cap_kw[row]),
                f"{site.id}_energy_cost": imports * facts.hours * np.array(site.price_per_mwh) / 1000.0,
            }
        columns |= {f"{pool}_work_gpus": work for pool, work in outcome.work_gpus.items()}
        columns |= {f"{job}_work_gpus": work for job, work in outcome.job_gpus.items()}
        blocks.append(pd.DataFrame(columns))
    return pd.concat(blocks, ignore_index=True)


def write_table(table: pd.DataFrame, path: Path) -> None:
    """Write as Parquet (`.parquet`, with the extra `parquet`) or as CSV, by the name's ending."""
    if path.suffix == ".parquet":
        table.to_parquet(path, index=False)
    else:
        table.to_csv(path, index=False)


def _finite(values: np.ndarray) -> np.ndarray:
    return np.where(np.isfinite(values), values, np.nan)
