"""What a backtest found, as values for a program and as text for a person.

Why the units stand in the names: the JSON is read by scripts that were written months before. The money is the config's
currency, named once at the top.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from datetime import datetime
from typing import TYPE_CHECKING, Any

from optimizer.domain import Problem
from scheduler.backtest.account import Account
from scheduler.backtest.commitments import Delivery
from scheduler.backtest.outcome import Outcome

if TYPE_CHECKING:
    import pandas as pd

SCHEMA_VERSION = 1

COUNTED = (
    "net cost = metered import x settlement price + demand charges (rise of the month's peak) "
    "+ coincident-peak charges at their expected value + wear of batteries less what is "
    "left in them + engines' energy at its cost + carbon x its price "
    "+ value of work of interactive and training pools that the load asked for and that was not done + late jobs "
    "+ jobs not done when the window ends (value and penalty) + energy above event caps x penalty - credits for "
    "delivered reduction; the same account for all runs. Broken limits and floors are counted, not priced. Events of "
    "one program count once where they overlap. Jobs whose deadline lies outside the window are left out. Perfect "
    "foresight is a lower bound, free of ramps and whole numbers: no controller can be expected to reach it."
)


@dataclass(frozen=True)
class Run:
    """Gridpace or a rival: its account, and how each event was met."""

    account: Account
    events: tuple[Delivery, ...]

    def as_dict(self) -> dict[str, Any]:
        """Plain values."""
        account, costs = self.account, self.account.costs
        return {
            "net_cost": costs.net,
            "costs": {f"{name}_cost": value for name, value in asdict(costs).items() if name != "event_credit"},
            "event_credit": costs.event_credit,
            "energy_kwh": account.energy_kwh,
            "carbon_kg": account.carbon_kg,
            "over_limit_kwh": account.over_limit_kwh,
            "below_floor_gpu_h": account.below_floor_gpu_h,
            "pools": {name: asdict(pool) for name, pool in account.pools.items()},
            "work_gpu_h_by_class": account.by_class("done_gpu_h"),
            "tokens_by_class": account.by_class("tokens"),
            "jobs": {
                "count": len(account.jobs),
                "asked_gpu_h": sum(job.work_gpu_h for job in account.jobs),
                "done_gpu_h": sum(job.done_gpu_h for job in account.jobs),
                "late_gpu_h": sum(job.late_gpu_h for job in account.jobs),
                "missed_deadline": list(account.missed),
                "flex_tiers": account.tiers,
                "broken_tier": [job.id for job in account.jobs if job.kept is False],
            },
            "events": [asdict(event) for event in self.events],
        }


@dataclass(frozen=True)
class Loops:
    """How the loops fared: turns, rungs of the ladder that answered, alerts by code, seconds."""

    cycles: int
    ticks: int
    rungs: Mapping[str, int]
    alerts: Mapping[str, int]
    slowest_cycle_s: float
    wall_s: float


@dataclass(frozen=True)
class BacktestResult:
    """A finished backtest; `runs` by name, "gridpace" first."""

    config: str
    start: datetime
    end: datetime
    currency: str
    interval_s: float
    control_period_s: float
    settlement_s: float
    runs: Mapping[str, Run]
    loops: Loops
    jobs_left_out: tuple[str, ...]
    no_control: str
    truth: Problem
    outcomes: Mapping[str, Outcome]

    def table(self) -> pd.DataFrame:
        """Every run interval by interval; see scheduler.backtest.table."""
        from scheduler.backtest.table import interval_table

        return interval_table(self.truth, self.outcomes)

    @property
    def gridpace(self) -> Run:
        """Gridpace's own run."""
        return self.runs["gridpace"]

    def saving(self, name: str) -> float:
        """What a run costs less than no control, in money. KeyError without rivals."""
        return self.runs["no_control"].account.costs.net - self.runs[name].account.costs.net

    def as_dict(self) -> dict[str, Any]:
        """Plain values for JSON; the keys are a contract (`schema_version`)."""
        found: dict[str, Any] = {
            "schema_version": SCHEMA_VERSION,
            "config": self.config,
            "from": self.start,
            "to": self.end,
            "currency": self.currency,
            "interval_s": self.interval_s,
            "control_period_s": self.control_period_s,
            "settlement_interval_s": self.settlement_s,
            "no_control_jobs": self.no_control,
            "counted": COUNTED,
            "runs": {name: run.as_dict() for name, run in self.runs.items()},
            "jobs_left_out": list(self.jobs_left_out),
            "loops": asdict(self.loops),
        }
        if "no_control" in self.runs:
            found["savings"] = {name: self.saving(name) for name in self.runs if name != "no_control"}
        return found

    def text(self) -> str:
        """For a terminal."""
        from scheduler.backtest.text import as_text

        return as_text(self)
