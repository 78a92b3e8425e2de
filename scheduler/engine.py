"""What the two loops share: the fixed parts (Context) and the little that changes (State).

Why: `run_cycle` and `run_tick` are plain functions of these two, so that the daemon, the backtest and the tests drive
the very same code; whoever drives them owns the clock.
"""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from typing import Any, Protocol
from zoneinfo import ZoneInfo

from adapters.permit import Permit
from adapters.ports import Clock, JobSystem, Meter, ParkingHook, Reading, SetpointDevice
from optimizer.domain import BatchJob, DemandCharge, Plan, Prices, Problem
from optimizer.forecast_learned import look_ahead
from optimizer.forecasters import Forecaster
from optimizer.reasons import Note
from optimizer.timegrid import TimeGrid
from scheduler.backoff import BaseLoadErrors
from scheduler.clock_hand import ClockHand
from scheduler.collect import Memory, Source
from scheduler.coordination.shares import Shares
from scheduler.curve_book import CurveBook
from scheduler.devicemodels import BatteryModel, DeviceState, GeneratorModel, ReserveModel
from scheduler.dispatch import Dispatcher
from scheduler.estimate import Foreign, Seeming
from scheduler.fall import Fall
from scheduler.flex_book import FlexBook
from scheduler.latency import Guard
from scheduler.ledger.ledger import Ledger
from scheduler.meterline import Overhead
from scheduler.missed import Missed
from scheduler.news import Notes
from scheduler.orders import PoolOrder
from scheduler.parked import ParkedState
from scheduler.pool_limits import Lowered
from scheduler.pools import Pools
from scheduler.pue import PueModel
from scheduler.sales import SalesBook
from scheduler.service import OperatorOrder
from scheduler.sitemodels import CoincidentModel
from scheduler.status import CycleReport, Tick
from scheduler.store.store import Store
from scheduler.stuck import StuckCards
from scheduler.surprise import Highest, Surprises
from scheduler.targets import LastMinute

ChargeBuilder = Callable[[TimeGrid, Mapping[str, float]], tuple[DemandCharge, ...]]


@dataclass(frozen=True)
class SiteModel:
    """One site as configured: names of its signals, its PUE, limits, ramps and charges on peaks."""

    id: str
    timezone: str
    price: str
    currency: str
    price_forecast: str | None = None
    carbon: str | None = None
    weather: str | None = None
    limit_signal: str | None = None
    pue: PueModel = field(default_factory=PueModel)
    other_it_kw: float = 0.0
    limit_kw: float = float("inf")
    ramp_up_kw_per_min: float = float("inf")
    ramp_down_kw_per_min: float = float("inf")
    charges: ChargeBuilder | None = None
    ratchets: Mapping[str, tuple[float, int]] = field(default_factory=dict)
    """Charge -> share of the highest peak of so many months before that is billed at least."""
    coincident: tuple[CoincidentModel, ...] = ()
    batteries: tuple[BatteryModel, ...] = ()
    generators: tuple[GeneratorModel, ...] = ()
    reserves: tuple[ReserveModel, ...] = ()

    @property
    def zone(self) -> ZoneInfo:
        """What clocks at the site show."""
        return ZoneInfo(self.timezone)


@dataclass(frozen=True)
class Caution:
    """How a plan allows for what it can't know: the history that forecasts learn from, the probabilities with which
    the base load (`base_load`) and the load of interactive pools (`load`) stay within what is planned, how many
    `scenarios` are weighed (0: none), and how (see optimizer/uncertain.py). `forecaster` learns what signals
    will be."""

    history: timedelta = timedelta(days=60)
    base_load: float = 0.95
    load: float = 0.9
    scenarios: int = 0
    forecaster: Forecaster = look_ahead
    reserve: float = 0.95
    peak: float = 0.5
    risk_weight: float = 0.0
    risk_tail: float = 0.1
    weigh_every: timedelta = timedelta(hours=1)
    size_every: timedelta = timedelta(0)


@dataclass(frozen=True)
class Timing:
    """Lengths of the loops: planning interval, control period, horizon, longest horizon for far deadlines."""

    interval: timedelta = timedelta(minutes=5)
    control_period: timedelta = timedelta(seconds=1)
    horizon: timedelta = timedelta(hours=36)
    max_horizon: timedelta = timedelta(days=7)
    verify_every: int = 30
    look_every: int = 1


class Planner(Protocol):
    """A planner answers every problem with a plan; the ladder inside it never raises."""

    def plan(self, problem: Problem, last_plan: Plan | None = None) -> Plan:
        """The plan for `problem`."""
        ...

    def close(self) -> None:
        """Stop whatever it keeps running."""
        ...


@dataclass(frozen=True)
class Context:
    """Everything that stays the same between two turns of the loops."""

    mode: str
    clock: Clock
    timing: Timing
    sites: Mapping[str, SiteModel]
    pools: Pools
    sources: Mapping[str, Source]
    memory: Memory
    planner: Planner
    ledger: Ledger
    jobs: JobSystem
    meter: Meter
    dispatcher: Dispatcher
    store: Store
    curves: CurveBook
    flex: FlexBook
    prices: Prices
    currency: str
    margin: float = 0.003
    caution: Caution = field(default_factory=Caution)
    emergency_programs: frozenset[str] = frozenset()
    read_deadline_s: float | None = 5.0
    bring_jobs: Callable[[datetime], tuple[Note, ...]] | None = None
    devices: Mapping[str, SetpointDevice] = field(default_factory=dict)
    parking: Mapping[str, ParkingHook] = field(default_factory=dict)
    sales: SalesBook = field(default_factory=SalesBook)
    permit: Permit = field(default_factory=Permit)
    clocks: ClockHand | None = None
    """Where pools may be moved by their SM clocks."""
    latency: Mapping[str, Guard] = field(default_factory=dict)
    """Guards of the pools that have latency objectives."""
    shares: Shares | None = None
    """The coordinator's word, where one plans for several daemons."""


@dataclass(frozen=True)
class Decision:
    """A plan and the problem that it answers, replaced together so that no reader ever mixes two. A plan from before a
    restart has no problem."""

    plan: Plan | None = None
    problem: Problem | None = None


@dataclass(frozen=True, slots=True)
class Moment:
    """The end of a tick: orders that hold from then on, and each site's IT power in kW in the time before."""

    at: datetime
    held: Mapping[str, PoolOrder]
    it_kw: Mapping[str, float]


REMEMBERED = 120
"""Ticks whose orders are remembered; readings of before that are held against the oldest of them."""


@dataclass
class State:
    """What changes; replaced piece by piece under `lock`, read without it.

    `orders` are the last tick's; `held` are those that the GPUs really have (none for a pool that nobody throttles),
    and `setpoint_kw` is empty while none are. `data_sites`: site at which each job ran last.
    """

    lock: threading.RLock = field(default_factory=threading.RLock)
    decision: Decision = field(default_factory=Decision)
    report: CycleReport | None = None
    tick: Tick | None = None
    followed: Decision = field(default_factory=Decision)
    """What the last tick followed: a plan that was made since shows in no order yet."""
    reading: Reading | None = None
    """The last reading, brought up to now where it is of earlier (scheduler/lagging.py)."""
    measured: Reading | None = None
    """The last reading, as it was measured."""
    it_kw: dict[str, float] = field(default_factory=dict)
    """IT power of each site before this tick."""
    past: deque[Moment] = field(default_factory=lambda: deque(maxlen=REMEMBERED))
    cycles: int = 0
    ticks: int = 0
    last_tick_at: datetime | None = None
    setpoint_kw: dict[str, float] = field(default_factory=dict)
    cap_kw: dict[str, float] = field(default_factory=dict)
    """What the last tick's set-points had to stay below: ceilings, and the way down to coming events."""
    limits_told: dict[str, datetime] = field(default_factory=dict)
    """By site with a signal of limits: until when they are published; later ones are expected, no more."""
    falls: dict[str, Fall] = field(default_factory=dict)
    """By site: how far a ceiling is ahead of the ramps."""
    lately: dict[str, LastMinute] = field(default_factory=dict)
    unmetered: frozenset[str] = frozenset()
    """Sites of whose import nothing was known in the last tick."""
    bias_kw: dict[str, float] = field(default_factory=dict)
    base_errors: BaseLoadErrors = field(default_factory=BaseLoadErrors)
    busy: dict[str, float] = field(default_factory=dict)
    foreign: dict[str, Foreign] = field(default_factory=dict)
    missed: dict[str, Missed] = field(default_factory=dict)
    """By site: what it misses of its ceiling."""
    loads: dict[str, deque[float]] = field(default_factory=dict)
    """Busy GPUs of each pool in the last seconds."""
    tops: dict[str, Highest] = field(default_factory=dict)
    """The most GPUs of each pool that were busy lately."""
    overhead: dict[str, Overhead] = field(default_factory=dict)
    surprises: dict[str, Surprises] = field(default_factory=dict)
    unmoved_ticks: dict[str, int] = field(default_factory=dict)
    stuck: StuckCards = field(default_factory=StuckCards)
    """Cards that draw more than they enforce."""
    away: dict[str, int] = field(default_factory=dict)
    """GPUs of each pool that did not take their last order."""
    away_w: dict[str, Seeming] = field(default_factory=dict)
    """The limits that these seem to have."""
    latency_caps: dict[str, int] = field(default_factory=dict)
    """Lowest caps that the latency objectives of pools allow now, where that is above their floors."""
    calm_w: dict[str, int] = field(default_factory=dict)
    """Caps of pools that were last ordered for the price of energy."""
    tier_caps: dict[str, int] = field(default_factory=dict)
    """Caps of pools with jobs that may be slowed down no longer."""
    tiers: dict[str, Any] = field(default_factory=dict)
    """Jobs of Flex tiers that have begun (scheduler/flex.py)."""
    jobs_read: bool = False
    """Whether the job system has answered since the start."""
    adopted: bool = False
    orders: dict[str, PoolOrder] = field(default_factory=dict)
    held: dict[str, PoolOrder] = field(default_factory=dict)
    devices: dict[str, DeviceState] = field(default_factory=dict)
    supply_kw: dict[str, float] = field(default_factory=dict)
    """What batteries and generators are expected to add to each site's import now."""
    parked: dict[str, ParkedState] = field(default_factory=dict)
    lowered: dict[str, Lowered] = field(default_factory=dict)
    """By pool: cards that enforce less than was ordered, as they were told of last."""
    taken: dict[str, tuple[int, datetime]] = field(default_factory=dict)
    """GPUs of a batch pool that the fast loop left, when it last took some, and until when they stay as many."""
    grants: dict[str, tuple[str, int]] = field(default_factory=dict)
    data_sites: dict[str, str] = field(default_factory=dict)
    jobs: tuple[BatchJob, ...] = ()
    operator: dict[str, OperatorOrder] = field(default_factory=dict)
    notes: Notes = field(default_factory=Notes)
    wake: threading.Event = field(default_factory=threading.Event)
    """Set by the fast loop where the picture has changed and a plan is wanted at once."""

    @property
    def plan(self) -> Plan | None:
        """Plan in force."""
        return self.decision.plan

    @property
    def problem(self) -> Problem | None:
        """The problem that the plan in force answers."""
        return self.decision.problem
