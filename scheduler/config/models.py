"""The config as a whole."""

from __future__ import annotations

import os
from datetime import timedelta
from pathlib import Path

from pydantic import Field, PrivateAttr, model_validator

from scheduler.config.base import ConfigPath, Currency, Model, PositiveDuration
from scheduler.config.coordination import CoordinationConfig
from scheduler.config.document import Document, path_text
from scheduler.config.entries import MeterEntry, PowerEntry, SignalEntry, default_entry
from scheduler.config.errors import FieldError, Problem
from scheduler.config.pool import CurveConfig, PoolConfig
from scheduler.config.program import ProgramConfig
from scheduler.config.runtime import (
    ApiConfig,
    BacktestConfig,
    ClockConfig,
    DriftConfig,
    EconomicsConfig,
    LogFormat,
    Mode,
    SolverConfig,
    StoreConfig,
    UncertaintyConfig,
)
from scheduler.config.site import SiteConfig
from scheduler.config.standby import StandbyConfig
from scheduler.config.work import JobsConfig

DAY_S = 86400


def default_state_dir() -> Path:
    """Where systemd says that state goes, else the place of a packaged service."""
    return Path(os.environ.get("STATE_DIRECTORY", "/var/lib/gridpace").partition(":")[0])


class Config(Model):
    """One Gridpace daemon."""

    mode: Mode = Field(
        default=Mode.OBSERVE,
        description="observe (plans and shows, writes nothing), advise (also says what it would set) or control.",
        examples=["observe"],
    )
    currency: Currency = Field(description="Currency of all money in this file and of all prices.", examples=["USD"])
    interval: PositiveDuration = Field(
        default=timedelta(minutes=5),
        description="How often it plans; a whole number of them makes a day.",
        examples=["5m"],
    )
    control_period: PositiveDuration = Field(
        default=timedelta(seconds=1), description="How often it measures and corrects.", examples=["1s"]
    )
    horizon: PositiveDuration = Field(
        default=timedelta(hours=36), description="How far it plans ahead.", examples=["36h"]
    )
    max_horizon: PositiveDuration = Field(
        default=timedelta(days=7),
        description="How far the horizon stretches for jobs with later deadlines.",
        examples=["7d"],
    )
    verify_every: PositiveDuration = Field(
        default=timedelta(seconds=30), description="How often the limits in the GPUs are read back.", examples=["30s"]
    )
    drift: DriftConfig = Field(
        default_factory=DriftConfig,
        description="Limits that somebody else raises.",
        examples=[{"reassert": 3, "quiet": "15m"}],
    )
    margin: float = Field(
        default=0.003,
        ge=0,
        le=0.1,
        description="Share of a limit or an event's target that the fast loop keeps free below it.",
        examples=[0.003],
    )
    state_dir: ConfigPath = Field(
        default_factory=default_state_dir,
        description="Folder of the books and the lock; the default is systemd's state directory, or /var/lib/gridpace.",
        examples=["/var/lib/gridpace"],
    )
    log_format: LogFormat = Field(
        default=LogFormat.AUTO,
        description="auto (console on a terminal, else journal), console or journal (JSON with a priority).",
        examples=["journal"],
    )
    clock: ClockConfig | None = Field(
        default=None,
        description="A simulated clock, for demos. Absent: the clock of the machine.",
        examples=[{"start": "2022-09-06T14:00:00-07:00", "speed": 90}],
    )
    sites: tuple[SiteConfig, ...] = Field(min_length=1, description="Connections to the grid.", examples=[[]])
    curves: tuple[CurveConfig, ...] = Field(
        default=(), description="Power curves measured here, beside the shipped ones.", examples=[[]]
    )
    pools: tuple[PoolConfig, ...] = Field(min_length=1, description="GPUs and their work.", examples=[[]])
    signals: tuple[SignalEntry, ...] = Field(
        min_length=1, description="Prices, carbon, weather, loads and limits.", examples=[[]]
    )
    power: PowerEntry = Field(
        default_factory=lambda: default_entry("power", "simulated"),
        description="How GPU power is set.",
        examples=[{"type": "nvml"}],
    )
    meters: tuple[MeterEntry, ...] = Field(
        default_factory=lambda: (default_entry("meters", "simulated"),),
        description="How power is measured. Absent: by the GPUs that `power` sets.",
        examples=[[{"type": "nvml"}]],
    )
    jobs: JobsConfig = Field(
        default_factory=JobsConfig, description="Deferrable work.", examples=[{"system": {"type": "queue"}}]
    )
    programs: tuple[ProgramConfig, ...] = Field(default=(), description="Demand-response programs.", examples=[[]])
    economics: EconomicsConfig = Field(
        default_factory=EconomicsConfig,
        description="Prices of what must give, and of carbon.",
        examples=[{"carbon_per_tonne": 80}],
    )
    uncertainty: UncertaintyConfig = Field(
        default_factory=UncertaintyConfig,
        description="How plans allow for what is not known yet.",
        examples=[{"load": 0.9}],
    )
    solver: SolverConfig = Field(
        default_factory=SolverConfig, description="Limits of the planner.", examples=[{"time_limit": "10s"}]
    )
    api: ApiConfig = Field(
        default_factory=ApiConfig, description="The HTTP API and the page.", examples=[{"port": 8642}]
    )
    store: StoreConfig = Field(
        default_factory=StoreConfig, description="The books.", examples=[{"path": "gridpace.db"}]
    )
    standby: StandbyConfig | None = Field(
        default=None,
        description="Daemons that stand by for each other, on several machines. Absent: this one is alone.",
        examples=[{"lease": "6s"}],
    )
    coordination: CoordinationConfig | None = Field(
        default=None,
        description="Several daemons for which one coordinator plans. Absent: jobs stay at this daemon's sites.",
        examples=[{"name": "texas"}],
    )
    backtest: BacktestConfig = Field(
        default_factory=BacktestConfig, description="What a backtest compares with.", examples=[{"no_control": "even"}]
    )

    _document: Document = PrivateAttr(default_factory=lambda: Document("(no file)", Path.cwd()))
    _warnings: tuple[Problem, ...] = PrivateAttr(default=())

    @model_validator(mode="after")
    def _times_fit(self) -> Config:
        interval_s = self.interval.total_seconds()
        if interval_s < 60 or DAY_S % interval_s:
            raise FieldError("interval", "must be at least 1m, and a whole number of them must make a day")
        _at_most("control_period", self.control_period, "interval", self.interval)
        _at_most("interval", self.interval, "horizon", self.horizon)
        _at_most("horizon", self.horizon, "max_horizon", self.max_horizon)
        _at_most("control_period", self.control_period, "verify_every", self.verify_every)
        return self

    @property
    def file(self) -> Path:
        """The config's own file."""
        return Path(self._document.file)

    @property
    def base_dir(self) -> Path:
        """Folder from which relative paths count."""
        return self._document.base_dir

    @property
    def state_path(self) -> Path:
        """`state_dir`, absolute also where the config was made without a file."""
        return self.base_dir / self.state_dir

    @property
    def store_path(self) -> Path:
        """The SQLite file as an absolute path."""
        return self.state_path / Path(self.store.path).expanduser()

    @property
    def warnings(self) -> tuple[Problem, ...]:
        """What is allowed but looks wrong; shown by `check` and at the start."""
        return self._warnings

    def place(self, *path: str | int) -> str:
        """`file:line` of a key, for messages: `config.place("signals", 1)`."""
        return f"{self._document.file}:{self._document.line(path)}"

    def problem(self, path: tuple[str | int, ...], text: str) -> Problem:
        """A problem at a key, for what is found out only when adapters are made."""
        return Problem(self._document.file, self._document.line(path), path_text(path), text)


def _at_most(name: str, value: timedelta, other: str, limit: timedelta) -> None:
    if value > limit:
        raise FieldError(name, f"must not be longer than `{other}`")
