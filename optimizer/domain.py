"""The frozen types that everything in Gridpace speaks: signals, pools, jobs, events, the problem and the plan.

Why here: the optimiser is pure and owns the vocabulary; adapters and scheduler depend on it, never the reverse.
Units are in the names: `_w` is watts of one GPU, `_kw` of a pool or a site, `_per_mwh` is the config's currency per
metered MWh, `_gpu_h` is work in GPU-hours at full throughput. All times are aware UTC.
"""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime
from enum import StrEnum
from functools import cached_property

from optimizer.answers import EventPlan, PoolQuote, StartPrice
from optimizer.assets import (
    Battery,
    BatteryPlan,
    CoincidentCharge,
    Generator,
    GeneratorPlan,
    Parking,
    ReserveOffer,
    ReservePlan,
)
from optimizer.reasons import Note, Reason
from optimizer.timegrid import TimeGrid
from optimizer.uncertain import Scenario, Weighing


# ---------------------------------------------------------------- signals
@dataclass(frozen=True, slots=True)
class Span:
    """One value that holds over [start, end)."""

    start: datetime
    end: datetime
    value: float


@dataclass(frozen=True)
class Series:
    """A piecewise-constant signal with explicit gaps: `spans` are sorted and do not overlap.

    `unit` is one of "USD/MWh"-like currency/MWh, "g/kWh", "degC", "fraction", "kW". `published_at` is when the source
    said so (None: unknown). A moment that no span covers is a gap, never zero. `notes` are the oddities of the source
    inside the spans (rows left out, repeated hours), for a person to see.
    """

    name: str
    unit: str
    spans: tuple[Span, ...]
    published_at: datetime | None = None
    notes: tuple[Note, ...] = ()

    @cached_property
    def _starts(self) -> list[datetime]:
        return [span.start for span in self.spans]

    def at(self, moment: datetime) -> float | None:
        """Value at `moment`, or None in a gap."""
        position = bisect_right(self._starts, moment) - 1
        if position < 0 or moment >= self.spans[position].end:
            return None
        return self.spans[position].value

    def mean(self, start: datetime, end: datetime) -> float | None:
        """Time-weighted mean over [start, end), or None when any part of it is a gap."""
        total = covered = 0.0
        for position in range(max(0, bisect_right(self._starts, start) - 1), len(self.spans)):
            span = self.spans[position]
            if span.start >= end:
                break
            seconds = (min(end, span.end) - max(start, span.start)).total_seconds()
            if seconds > 0:
                total += span.value * seconds
                covered += seconds
        return total / covered if covered >= (end - start).total_seconds() - 1e-6 and covered > 0 else None

    def until(self, moment: datetime) -> datetime:
        """End of the unbroken coverage that holds `moment`; `moment` itself when it lies in a gap."""
        reached = moment
        for span in self.spans[max(0, bisect_right(self._starts, moment) - 1) :]:
            if span.start > reached:
                break
            reached = max(reached, span.end)
        return reached


# ---------------------------------------------------------------- GPUs
@dataclass(frozen=True, slots=True)
class CurvePoint:
    """One measured point: limit set, mean draw, throughput relative to the highest cap (1.0)."""

    cap_w: float
    draw_w: float
    throughput: float


@dataclass(frozen=True)
class PowerCurve:
    """Cap -> draw -> throughput of one busy GPU, `points` sorted by cap; `idle_w` is the draw with no work."""

    name: str
    idle_w: float
    points: tuple[CurvePoint, ...]
    source: str = ""

    def __hash__(self) -> int:
        """Of the ends alone: curves are looked up thousands of times a plan, and seldom share both."""
        return hash((self.name, self.idle_w, self.points[-1:], len(self.points)))


class Work(StrEnum):
    """What a pool does: serve users, train without pause, or run queued jobs."""

    INTERACTIVE = "interactive"
    TRAINING = "training"
    BATCH = "batch"


@dataclass(frozen=True)
class GpuPool:
    """GPUs of one model that do one class of work at one site.

    `floor` is the least share of the load's full throughput that must be served (0..1), `value_per_gpu_h` the worth of
    an hour of one GPU at full throughput (batch pools: 0, their jobs carry it). `min_cap_w`/`max_cap_w` bound orders,
    `tokens_per_gpu_h` makes tokens of work for reports, `one_cap` holds jobs to the pool's one cap (`speeds.py`).
    """

    id: str
    site: str
    gpu_model: str
    count: int
    work: Work
    curve: PowerCurve
    value_per_gpu_h: float
    floor: float
    min_cap_w: float
    max_cap_w: float
    tokens_per_gpu_h: float = 0.0
    parking: Parking | None = None
    one_cap: bool = False


# ---------------------------------------------------------------- work and events
class JobState(StrEnum):
    """Life of a batch job as the planner sees it."""

    WAITING = "waiting"
    RUNNING = "running"
    SUSPENDED = "suspended"
    DONE = "done"
    CANCELLED = "cancelled"


@dataclass(frozen=True)
class BatchJob:
    """Deferrable work: `work_gpu_h` in total, `done_gpu_h` of it done, never faster than `max_gpus` at full throughput.

    `late_penalty` is money per GPU-hour of work and hour after the deadline, `undone_penalty` per GPU-hour never done,
    `value_per_gpu_h` per GPU-hour done. A job that is not preemptible runs at `max_gpus` without a break once started
    (`started_at`). `pools` are the pools that may run it, in order of preference.
    `min_gpus`: at least so many GPUs or none (a gang). `min_run_h`: a run, once started (`running_since`), lasts so
    long or until the work is done. A suspend and restart cost `pause_cost` money and `checkpoint_gpu_h` +
    `restart_gpu_h` GPU-hours. `after`: ids of jobs that must be done before it begins; ids that the problem
    doesn't hold are done. `data_gb` lie at `data_site` and go where it runs. The deadline of a `firm` one is promised.
    """

    id: str
    pools: tuple[str, ...]
    release: datetime
    deadline: datetime
    work_gpu_h: float
    max_gpus: int
    preemptible: bool = True
    value_per_gpu_h: float = 0.0
    late_penalty: float = 2.0
    undone_penalty: float = 50.0
    priority: int = 0
    done_gpu_h: float = 0.0
    state: JobState = JobState.WAITING
    started_at: datetime | None = None
    gpus: int = 0
    min_gpus: int = 0
    min_run_h: float = 0.0
    pause_cost: float = 0.0
    checkpoint_gpu_h: float = 0.0
    restart_gpu_h: float = 0.0
    running_since: datetime | None = None
    after: tuple[str, ...] = ()
    data_gb: float = 0.0
    data_site: str = ""
    tier: int | None = None
    firm: bool = False

    @property
    def left_gpu_h(self) -> float:
        """Work still to do, in GPU-hours at full throughput."""
        return max(0.0, self.work_gpu_h - self.done_gpu_h)


@dataclass(frozen=True)
class GridEvent:
    """A demand-response event as caps on a site's import: `targets` in kW over consecutive spans of [start, end).
    The ramp in begins at `start` from `baseline_kw` and lasts `ramp_in_s`; the ramp out begins at `end` and reaches
    `baseline_kw` after `ramp_out_s`; then the import stays at or below `rebound_kw` for `rebound_s`. Where events
    overlap, the strictest cap holds; by `priority` (0: highest) the ledger settles conflicts. Money is per kWh. A
    `voluntary` event asks and pays nothing before the site said that it takes part; while `opted` is None the plan
    decides. Until the ramp out is over neither caps nor import move faster than `ramp_*_kw_per_min`.
    """

    id: str
    version: int
    site: str
    start: datetime
    end: datetime
    targets: tuple[Span, ...]
    baseline_kw: float
    ramp_in_s: float = 300.0
    ramp_out_s: float = 300.0
    rebound_kw: float | None = None
    rebound_s: float = 3600.0
    priority: int | None = None
    firm: bool = True
    emergency: bool = False
    penalty_per_kwh: float = 5.0
    credit_per_kwh: float = 0.0
    program: str = ""
    source: str = ""
    name: str = ""
    voluntary: bool = False
    opted: bool | None = None
    ramp_up_kw_per_min: float = float("inf")
    ramp_down_kw_per_min: float = float("inf")

    @property
    def undecided(self) -> bool:
        """Whether the plan decides if the site takes part."""
        return self.voluntary and self.opted is None


@dataclass(frozen=True, slots=True)
class DemandCharge:
    """Money per kW of the billing period's highest interval mean, counted where `active` is true on the grid."""

    id: str
    price_per_kw: float
    peak_so_far_kw: float
    active: tuple[bool, ...]


# ---------------------------------------------------------------- the problem
@dataclass(frozen=True)
class SiteInputs:
    """One site on the grid: every tuple has one entry an interval.

    `pue` turns IT power into import; `other_it_kw` is IT load that is not GPUs; `limit_kw` is the hard import limit
    (inf: none). `ramp_*_kw_per_min` bound how fast the import may change (inf: free). `import_now_kw` None: unknown.
    """

    id: str
    price_per_mwh: tuple[float, ...]
    limit_kw: tuple[float, ...]
    pue: tuple[float, ...]
    other_it_kw: tuple[float, ...]
    carbon_g_per_kwh: tuple[float, ...]
    demand_charges: tuple[DemandCharge, ...] = ()
    ramp_up_kw_per_min: float = float("inf")
    ramp_down_kw_per_min: float = float("inf")
    import_now_kw: float | None = None
    coincident: tuple[CoincidentCharge, ...] = ()
    batteries: tuple[Battery, ...] = ()
    generators: tuple[Generator, ...] = ()
    reserves: tuple[ReserveOffer, ...] = ()


@dataclass(frozen=True)
class PoolInputs:
    """A pool with its load on the grid (share of its GPUs that are busy, 0..1; ignored for batch), present draw, GPUs
    parked now, and GPUs that wake and work within `wake_left_s`; `floors`: higher ones than its own (empty: none)."""

    pool: GpuPool
    load: tuple[float, ...]
    draw_now_kw: float | None = None
    parked_now: int = 0
    waking_now: int = 0
    wake_left_s: float = 0.0
    floors: tuple[float, ...] = ()


@dataclass(frozen=True, slots=True)
class Prices:
    """What breaking a soft requirement costs, per kWh, and the other economic knobs; see config for their meaning."""

    over_limit_per_kwh: float = 1000.0
    below_floor_per_gpu_h: float = 500.0
    ramp_per_kw: float = 2.0
    change_per_kw: float = 0.002
    carbon_per_tonne: float = 0.0
    move_per_gb: float = 0.0


@dataclass(frozen=True)
class Problem:
    """Everything one plan depends on: the same problem, the same plan. `scenarios`: what may be otherwise (or none)."""

    made_at: datetime
    grid: TimeGrid
    sites: tuple[SiteInputs, ...]
    pools: tuple[PoolInputs, ...]
    jobs: tuple[BatchJob, ...] = ()
    events: tuple[GridEvent, ...] = ()
    prices: Prices = field(default_factory=Prices)
    currency: str = "USD"
    notes: tuple[Note, ...] = ()
    scenarios: tuple[Scenario, ...] = ()
    weighing: Weighing = field(default_factory=Weighing)


class Rung(StrEnum):
    """Which step of the ladder answered, best first; `RULE` where a rule was chosen in the optimiser's place."""

    OPTIMUM = "optimum"
    RULE = "rule"
    INCUMBENT = "incumbent"
    COARSE = "coarse"
    EMERGENCY = "emergency"
    SHIFTED = "last_plan_shifted"
    GREEDY = "greedy"
    HOLD = "hold"
    SAFE = "safe"


@dataclass(frozen=True)
class PoolPlan:
    """A pool's orders on the grid: draw of the whole pool, work in full-speed GPU equivalents, cap of each active GPU,
    how many GPUs are active (the rest idle or parked), the primary reason of each interval, and how many GPUs are
    parked (whole ones in the first interval; empty: none ever)."""

    draw_kw: tuple[float, ...]
    work_gpus: tuple[float, ...]
    cap_w: tuple[int, ...]
    active_gpus: tuple[int, ...]
    reasons: tuple[Reason, ...]
    parked_gpus: tuple[float, ...] = ()


@dataclass(frozen=True)
class JobPlan:
    """A job's rate on the grid in full-speed GPU equivalents, and what is late or never done inside the horizon.
    `start` is known for a waiting job of a plan with duals."""

    work_gpus: tuple[float, ...]
    pool: str
    late_gpu_h: float
    undone_gpu_h: float
    finish: datetime | None
    reasons: tuple[Reason, ...]
    start: StartPrice | None = None


@dataclass(frozen=True)
class SitePlan:
    """A site's planned import, what had to give (kW over limit or event target), and the marginal value of power: what
    one more MWh of import that nothing can shed costs in an interval (empty: a rung without duals made the plan)."""

    import_kw: tuple[float, ...]
    over_limit_kw: tuple[float, ...]
    over_event_kw: tuple[float, ...]
    marginal_per_mwh: tuple[float, ...]


@dataclass(frozen=True)
class Plan:
    """What to do on the grid, which rung of the ladder answered, and why. `objective` is money over the horizon.
    `quotes` by pool; empty: the plan comes from a rung without duals."""

    made_at: datetime
    grid: TimeGrid
    rung: Rung
    pools: Mapping[str, PoolPlan]
    jobs: Mapping[str, JobPlan]
    sites: Mapping[str, SitePlan]
    objective: float
    solve_s: float = 0.0
    notes: tuple[Note, ...] = ()
    quotes: Mapping[str, PoolQuote] = field(default_factory=dict)
    batteries: Mapping[str, BatteryPlan] = field(default_factory=dict)
    generators: Mapping[str, GeneratorPlan] = field(default_factory=dict)
    reserves: Mapping[str, ReservePlan] = field(default_factory=dict)
    events: Mapping[str, EventPlan] = field(default_factory=dict)
    """Voluntary events that wait for an answer, by id."""

    @property
    def taken(self) -> frozenset[str]:
        """Ids of the voluntary events that the plan takes part in."""
        return frozenset(name for name, answer in self.events.items() if answer.take_part)
