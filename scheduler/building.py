"""From config to the domain: curves, pools, sites, jobs and program terms. Pure: no adapter is made here.

Why apart from the wiring: the backtest, `gridpace plan` and the tests need the same objects without a daemon.
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping
from dataclasses import replace
from datetime import UTC, date, datetime, time, timedelta
from typing import Any
from zoneinfo import ZoneInfo

from adapters.registry import import_extra
from optimizer.assets import Parking
from optimizer.coincident import PeakRule
from optimizer.domain import DemandCharge, GpuPool, PowerCurve, Prices, Work
from optimizer.forecasters import FORECASTERS, LIBRARIES, Forecaster
from optimizer.timegrid import TimeGrid
from scheduler.charges import site_charges
from scheduler.config import Config, ProgramConfig, curves_of, start_of
from scheduler.config.base import WEEKDAYS
from scheduler.config.parking import ParkingConfig
from scheduler.config.pool import PoolConfig
from scheduler.config.program import ShortNotice
from scheduler.config.site import CoincidentPeakConfig, SiteConfig
from scheduler.config.supply import BatteryConfig, GeneratorConfig, ReserveConfig
from scheduler.config.work import JobTerms, RecurringJobConfig
from scheduler.devicemodels import BatteryModel, GeneratorModel, ReserveModel
from scheduler.engine import Caution, ChargeBuilder, SiteModel, Timing
from scheduler.ledger.ledger import ProgramTerms
from scheduler.ledger.pacing import Pace
from scheduler.ledger.policy import Calls
from scheduler.pools import PoolModel
from scheduler.programs import ProgramRules
from scheduler.pue import PueModel
from scheduler.service import JobRequest
from scheduler.sitemodels import CoincidentModel

INF = float("inf")


def pool_model(pool: PoolConfig, known: Mapping[str, PowerCurve]) -> PoolModel:
    """A pool with its load, and the curve that it starts from. Raises NoCurve."""
    start = start_of(pool, known)
    return PoolModel(gpu_pool(pool, start.curve), pool.load, pool.learn_curves, start.spread, start.text)


def gpu_pool(pool: PoolConfig, curve: PowerCurve) -> GpuPool:
    """A pool on a curve; caps default to the curve's range."""
    if pool.idle_w is not None:
        curve = replace(curve, idle_w=pool.idle_w)
    caps = [point.cap_w for point in curve.points]
    return GpuPool(
        id=pool.id,
        site=pool.site,
        gpu_model=pool.gpu_model,
        count=pool.count,
        work=pool.work,
        curve=curve,
        value_per_gpu_h=pool.value_per_gpu_h,
        floor=pool.floor,
        min_cap_w=pool.min_cap_w or min(caps),
        max_cap_w=pool.max_cap_w or max(caps),
        tokens_per_gpu_h=pool.tokens_per_gpu_h,
        parking=_parking(pool.parking) if pool.parking is not None else None,
        one_cap=pool.one_cap and pool.work is Work.BATCH,
    )


def _parking(parking: ParkingConfig) -> Parking:
    return Parking(parking.parked_w, parking.wake.total_seconds(), parking.wake_cost, parking.step)


def pool_models(config: Config) -> dict[str, PoolModel]:
    """Every pool with its load."""
    known = curves_of(config)
    return {pool.id: pool_model(pool, known) for pool in config.pools}


def site_models(config: Config, tariffs: Mapping[str, ChargeBuilder]) -> dict[str, SiteModel]:
    """Every site; `tariffs` adds the demand charges that a price signal itself declares."""
    return {site.id: _site_model(config, site, tariffs.get(site.price)) for site in config.sites}


def _site_model(config: Config, site: SiteConfig, tariff: ChargeBuilder | None) -> SiteModel:
    def charges(grid: TimeGrid, peaks_kw: Mapping[str, float]) -> tuple[DemandCharge, ...]:
        return site_charges(site, grid, peaks_kw) + (tariff(grid, peaks_kw) if tariff else ())

    ramps = site.ramp_kw_per_min
    return SiteModel(
        id=site.id,
        timezone=site.timezone,
        price=site.price,
        currency=config.currency,
        price_forecast=site.price_forecast,
        carbon=site.carbon,
        weather=site.weather,
        limit_signal=site.limit_signal,
        pue=PueModel(site.pue.base, site.pue.per_degree, site.pue.reference_c, site.pue.maximum),
        other_it_kw=site.other_it_kw,
        limit_kw=site.limit_kw or INF,
        ramp_up_kw_per_min=ramps.up or INF,
        ramp_down_kw_per_min=ramps.down or INF,
        charges=charges,
        ratchets={f"{site.id}/{c.id}": (c.ratchet.share, c.ratchet.months) for c in site.demand_charges if c.ratchet},
        coincident=tuple(_coincident(site, peak) for peak in site.coincident_peaks),
        batteries=tuple(_battery(battery) for battery in site.batteries),
        generators=tuple(_generator(unit) for unit in site.generators),
        reserves=tuple(_reserve(offer) for offer in site.reserves),
    )


def _coincident(site: SiteConfig, peak: CoincidentPeakConfig) -> CoincidentModel:
    rule = PeakRule(
        zone=ZoneInfo(site.timezone),
        months=frozenset(peak.months),
        by_month=peak.season == "month",
        top=peak.peaks,
        interval=peak.interval,
        load_error=peak.load_error,
    )
    return CoincidentModel(peak.id, peak.price_per_kw, rule, peak.probability, peak.system_load)


def _battery(battery: BatteryConfig) -> BatteryModel:
    return BatteryModel(
        id=battery.id,
        energy_kwh=battery.energy_kwh,
        min_kwh=battery.min_soc * battery.energy_kwh,
        max_kwh=battery.max_soc * battery.energy_kwh,
        charge_kw=battery.charge_kw,
        discharge_kw=battery.discharge_kw,
        efficiency=battery.efficiency,
        wear_per_kwh=battery.wear_per_kwh,
        end_value_per_kwh=battery.end_value_per_kwh,
        may_export=battery.may_export,
    )


def _generator(unit: GeneratorConfig) -> GeneratorModel:
    return GeneratorModel(
        unit.id, unit.output, unit.min_kw, unit.max_kw or 0.0, unit.cost_per_mwh, unit.may_export, unit.start_cost
    )


def _reserve(offer: ReserveConfig) -> ReserveModel:
    return ReserveModel(
        offer.id,
        offer.price_per_kw_h,
        offer.price,
        offer.max_kw,
        offer.notice.total_seconds(),
        offer.sustain.total_seconds(),
    )


def forecaster(name: str) -> Forecaster:
    """By its name in the config. MissingExtra where its library is not installed."""
    if name in LIBRARIES:
        # It learns on one thread. Said so, scikit-learn does not look for physical cores, and does not warn at length
        # where a system tells of none (a chroot, some containers).
        os.environ.setdefault("LOKY_MAX_CPU_COUNT", "1")
        import_extra(LIBRARIES[name])
    return FORECASTERS[name]()


def caution(config: Config) -> Caution:
    """How plans allow for what is not known yet."""
    asked = config.uncertainty
    return Caution(
        history=asked.history,
        base_load=asked.base_load,
        load=asked.load,
        scenarios=asked.scenarios,
        forecaster=forecaster(asked.forecaster),
        reserve=asked.reserve,
        peak=asked.peak,
        risk_weight=asked.risk_weight,
        risk_tail=asked.risk_tail,
        weigh_every=asked.weigh_every,
        size_every=asked.size_every,
    )


def timing(config: Config) -> Timing:
    """Lengths of the loops."""
    period_s = config.control_period.total_seconds()
    return Timing(
        interval=config.interval,
        control_period=config.control_period,
        horizon=config.horizon,
        max_horizon=config.max_horizon,
        verify_every=max(1, round(config.verify_every.total_seconds() / period_s)),
        look_every=max(1, round(config.drift.look_every.total_seconds() / period_s)),
    )


def prices(config: Config) -> Prices:
    """What breaking a soft requirement costs."""
    economics = config.economics
    return Prices(
        over_limit_per_kwh=economics.over_limit_per_kwh,
        below_floor_per_gpu_h=economics.below_floor_per_gpu_h,
        ramp_per_kw=economics.ramp_per_kw,
        change_per_kw=economics.change_per_kw,
        carbon_per_tonne=economics.carbon_per_tonne,
        move_per_gb=economics.move_per_gb,
    )


def due_jobs(config: Config, start: datetime, until: datetime, first: bool) -> Iterator[JobRequest]:
    """Jobs that the config brings: the initial ones once (`first`), recurring ones released in [start, until)."""
    if first:
        for job in config.jobs.initial:
            yield JobRequest(release=job.release, deadline=job.deadline, after=job.after, **_terms(job))
    zones = {site.id: ZoneInfo(site.timezone) for site in config.sites}
    sites = {pool.id: pool.site for pool in config.pools}
    for recurring in config.jobs.recurring:
        zone = zones[sites[recurring.pool]]
        day = start.astimezone(zone).date() - timedelta(days=1)
        while day <= until.astimezone(zone).date():
            release, deadline = _window(recurring, day, zone)
            if start <= release < until and WEEKDAYS[day.weekday()] in recurring.days:
                terms = _terms(recurring) | {"id": f"{recurring.id}-{day.isoformat()}"}
                yield JobRequest(release=release, deadline=deadline, **terms)
            day += timedelta(days=1)


def _window(job: RecurringJobConfig, day: date, zone: ZoneInfo) -> tuple[datetime, datetime]:
    release = datetime.combine(day, time.fromisoformat(job.at), zone).astimezone(UTC)
    midnight = datetime.combine(day + timedelta(days=1), time(), zone).astimezone(UTC)
    return release, release + job.within if job.within else midnight


def _terms(job: JobTerms) -> dict[str, Any]:
    names = (
        "id",
        "pool",
        "work_gpu_h",
        "max_gpus",
        "preemptible",
        "value_per_gpu_h",
        "late_penalty",
        "undone_penalty",
        "priority",
        "min_gpus",
        "min_run_h",
        "pause_cost",
        "checkpoint_gpu_h",
        "restart_gpu_h",
        "data_gb",
        "tier",
    )
    return {name: getattr(job, name) for name in names}


def program_rules(config: Config) -> dict[str, ProgramRules]:
    """What each program says where its message is silent, and what it promises at most."""
    zones = {site.id: site.timezone for site in config.sites}
    return {program.id: _rules(program, zones[program.site]) for program in config.programs}


def _rules(program: ProgramConfig, zone: str) -> ProgramRules:
    calls = program.calls
    terms = ProgramTerms(
        id=program.id,
        ramp_in_s=program.ramp_in.total_seconds(),
        ramp_out_s=program.ramp_out.total_seconds(),
        rebound_s=program.rebound.total_seconds(),
        max_duration_s=program.longest.total_seconds(),
        penalty_per_kwh=program.penalty_per_kwh,
        credit_per_kwh=program.credit_per_kwh,
        declared_baseline_kw=program.baseline.kw,
        baseline_s=program.baseline.minutes * 60.0,
        shortfall=program.shortfall.value,
        calls=Calls(calls.per_day, calls.per_season, calls.months, zone) if calls is not None else None,
        least_notice_s=program.notice.total_seconds() if program.short_notice is ShortNotice.REFUSE else None,
        voluntary=program.voluntary,
        answer_before_s=program.answer_before.total_seconds(),
        rank=program.rank,
        pace=Pace(program.ramp_kw_per_min.up or INF, program.ramp_kw_per_min.down or INF),
    )
    return ProgramRules(terms, program.site, program.notice, program.min_kw, program.max_kw or INF)
