"""Prometheus metrics, filled from the same CycleReport and Tick that every other surface prints.

Why one table: the families are declared once, and the collectors, the reference page and the check of dashboard and
alerts are made from it. Base units (watts, joules, seconds), no job or event ids as labels: series must stay few.
Timestamps are the machine's own time, even where the daemon lives in a recorded day, so that alerts work in the demo.
"""

from __future__ import annotations

import threading
import time
from collections import Counter as Tally
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, disable_created_metrics, generate_latest

from optimizer.reasons import Note, Reason, Severity
from scheduler.status import CycleReport, SiteStatus, Tick

SECONDS = (0.001, 0.005, 0.02, 0.1, 0.3, 1.0, 3.0, 10.0, 30.0, 100.0, 300.0)
LONGEST_GAP_S = 900.0  # energy across a longer silence is unknown, not an average
SUBSTITUTIONS = {reason for reason in Reason if reason.name.startswith("SIGNAL_")} | {Reason.STALE_SIGNAL}
KINDS: Mapping[str, Any] = {"gauge": Gauge, "counter": Counter, "histogram": Histogram}


@dataclass(frozen=True)
class Family:
    """One metric: its name (without `_total`), kind, meaning and labels."""

    name: str
    kind: str
    text: str
    labels: tuple[str, ...] = ()

    @property
    def exposed(self) -> tuple[str, ...]:
        """Names as they appear in a query."""
        if self.kind == "histogram":
            return tuple(f"{self.name}_{part}" for part in ("bucket", "sum", "count"))
        return (f"{self.name}_total",) if self.kind == "counter" else (self.name,)


FAMILIES = (
    Family("gridpace_build_info", "gauge", "Always 1; the version is a label", ("version",)),
    Family("gridpace_mode", "gauge", "1 for the mode in force (observe, advise, control)", ("mode",)),
    Family("gridpace_standby_leads", "gauge", "1 where this daemon leads, 0 where it stands by", ("daemon",)),
    Family("gridpace_standby_behind_changes", "gauge", "Changes of the books that this daemon lacks", ("daemon",)),
    Family("gridpace_standby_followers", "gauge", "Other daemons that stand by", ("daemon",)),
    Family("gridpace_cycle_duration_seconds", "histogram", "Length of a turn of the slow loop"),
    Family("gridpace_cycle_interval_seconds", "gauge", "Time from the last cycle to the next one planned"),
    Family("gridpace_cycle_last_success_timestamp_seconds", "gauge", "Unix time at which a cycle last ended"),
    Family("gridpace_solver_seconds", "histogram", "Time the solver took"),
    Family("gridpace_solver_outcomes", "counter", "Plans by the rung of the ladder that made them", ("outcome",)),
    Family("gridpace_tick_duration_seconds", "histogram", "Length of a turn of the fast loop"),
    Family("gridpace_tick_last_timestamp_seconds", "gauge", "Unix time at which a tick last ended"),
    Family("gridpace_orders", "counter", "Power orders sent to the hardware"),
    Family("gridpace_notes", "gauge", "Notes of the last cycle by severity", ("severity",)),
    Family("gridpace_signal_age_seconds", "gauge", "Age of the newest value of an input", ("source",)),
    Family("gridpace_signal_state", "gauge", "1 for the state an input is in (ok, substituted, stale, lost)",
           ("source", "state")),
    Family("gridpace_signal_substitutions", "counter", "Values replaced, by input and reason", ("source", "reason")),
    Family("gridpace_site_power_watts", "gauge", "Import measured at the site meter", ("site",)),
    Family("gridpace_site_planned_watts", "gauge", "Import that the plan asks for now", ("site",)),
    Family("gridpace_site_limit_watts", "gauge", "Hard import limit; absent: none", ("site",)),
    Family("gridpace_site_target_watts", "gauge", "Cap by events or operator now; absent: none", ("site",)),
    Family("gridpace_site_shed_watts", "gauge", "Power held back now", ("site",)),
    Family("gridpace_site_price_per_mwh", "gauge", "Energy price now", ("site", "currency")),
    Family("gridpace_site_flexibility_watts", "gauge", "What can be shed within so many seconds, expected",
           ("site", "within_seconds")),
    Family("gridpace_site_flexibility_sure_watts", "gauge", "What can be shed within so many seconds, 19 times in 20",
           ("site", "within_seconds")),
    Family("gridpace_site_marginal_value_per_mwh", "gauge",
           "What one more MWh of import costs now; absent: a plan without duals", ("site", "currency")),
    Family("gridpace_energy_joules", "counter", "Energy imported since the start of the daemon", ("site",)),
    Family("gridpace_cost", "counter", "Money paid for energy at prices above zero", ("site", "currency")),
    Family("gridpace_cost_refund", "counter", "Money received for energy at prices below zero", ("site", "currency")),
    Family("gridpace_pool_power_watts", "gauge", "IT power of a pool, measured where a meter answers", ("pool",)),
    Family("gridpace_pool_cap_watts", "gauge", "Cap ordered for each active GPU of a pool", ("pool",)),
    Family("gridpace_pool_enforced_watts", "gauge", "Limit that most GPUs of a pool enforce, as read back; absent: not "
           "known, or too few agree", ("pool",)),
    Family("gridpace_pool_active_gpus", "gauge", "GPUs of a pool that may work", ("pool",)),
    Family("gridpace_pool_throughput_ratio", "gauge", "Throughput of a pool against full power, 0 to 1", ("pool",)),
    Family("gridpace_pool_curve_learned", "gauge", "1 while a pool's power curve is learned, 0 for the library's",
           ("pool",)),
    Family("gridpace_pool_curve_samples", "gauge", "Observations that a pool's power curve was learned from",
           ("pool",)),
    Family("gridpace_pool_curve_error_ratio", "gauge", "Standard error of the draw that a pool's curve tells",
           ("pool",)),
    Family("gridpace_pool_quote_per_million_tokens", "gauge",
           "Quoted price of a million tokens more now, an indication; absent: no price", ("pool", "currency")),
    Family("gridpace_device_power_watts", "gauge", "Power of a battery or engine (negative: it gives)", ("device",)),
    Family("gridpace_pool_parked_gpus", "gauge", "GPUs that are parked", ("pool",)),
    Family("gridpace_battery_stored_joules", "gauge", "Energy in a battery", ("device",)),
    Family("gridpace_reserve_offered_watts", "gauge", "Reserve that the plan offers now", ("offer",)),
    Family("gridpace_device_lost", "gauge", "1 while a battery or engine does not answer", ("device",)),
    Family("gridpace_gpu_cap_drift", "counter", "Caps found changed by somebody else"),
    Family("gridpace_pool_clock_hertz", "gauge", "SM clock that a pool's GPUs are locked to; absent: free", ("pool",)),
    Family("gridpace_pool_latency_seconds", "gauge", "Measured quantile of a latency objective (`ttft_p95`); absent: "
           "nobody to measure", ("pool", "objective")),
    Family("gridpace_pool_latency_objective_seconds", "gauge", "Threshold of a latency objective",
           ("pool", "objective")),
    Family("gridpace_pool_latency_forecast_seconds", "gauge", "Most that is expected of it in the present interval of "
           "the plan; absent: not known", ("pool", "objective")),
    Family("gridpace_pool_latency_floor_ratio", "gauge", "Throughput that latency objectives need now; 0: no more than "
           "the floor", ("pool",)),
    Family("gridpace_pool_latency_guard", "gauge", "1 for what the latency guard does (idle, few, kept, slipping, "
           "holding, missed, lost)", ("pool", "state")),
    Family("gridpace_pool_yielded_gpus", "gauge", "GPUs whose limit another program insists on; left to it", ("pool",)),
    Family("gridpace_pool_cap_unmoved", "gauge", "1 while a pool's busy GPUs, or some of its cards, draw clearly "
           "more than the limit that they enforce; 0 also where nobody tells it", ("pool",)),
    Family("gridpace_jobs", "gauge", "Jobs by state", ("state",)),
    Family("gridpace_jobs_elsewhere", "gauge", "Jobs that another site works on", ("site",)),
    Family("gridpace_coordinator_lost", "gauge", "1 while no coordinator of several sites is heard"),
    Family("gridpace_tier_jobs", "gauge", "Jobs of a Flex tier that are not over", ("tier",)),
    Family("gridpace_tier_reduction_ratio", "gauge", "Highest share by which a begun job of a Flex tier was slower so "
           "far; absent: none has begun", ("tier",)),
    Family("gridpace_tier_broken", "gauge", "Jobs that were slower than their Flex tier allows, in the last tick"),
    Family("gridpace_jobs_past_hope", "gauge", "Jobs that cannot meet their deadline"),
    Family("gridpace_dr_events", "gauge", "Demand-response events by state", ("state",)),
    Family("gridpace_dr_shortfall_watts", "gauge", "Import above the target of events and operator", ("site",)),
    Family("gridpace_store_degraded", "gauge", "1 while the store cannot write"),
)  # fmt: skip


class Metrics:
    """Own registry, fed by the loops and rendered for a scrape; every method may be called from any thread."""

    def __init__(self, version: str = "unknown", wall: Callable[[], float] = time.time) -> None:
        disable_created_metrics()  # type: ignore[no-untyped-call]
        self._wall = wall
        self._lock = threading.Lock()
        self._registry = CollectorRegistry()
        self._of = {family.name.removeprefix("gridpace_"): self._made(family) for family in FAMILIES}
        self._of["build_info"].labels(version).set(1)
        self._sites: dict[str, SiteStatus] = {}
        self._shown: dict[str, dict[tuple[Any, ...], float]] = {}
        self._last_tick: tuple[datetime, Mapping[str, float], Mapping[str, SiteStatus]] | None = None

    def _made(self, family: Family) -> Any:
        buckets = {"buckets": SECONDS} if family.kind == "histogram" else {}
        return KINDS[family.kind](family.name, family.text, family.labels, registry=self._registry, **buckets)

    def observe_cycle(self, report: CycleReport) -> None:
        """Take in one turn of the slow loop."""
        with self._lock:
            self._loop(report)
            self._plan(report)
            self._inputs(report)
            self._count_notes(report.notes)
            self._sites = {site.id: site for site in report.sites}

    def observe_tick(self, tick: Tick) -> None:
        """Take in one turn of the fast loop; energy and cost are the last tick's power over the time since then."""
        with self._lock:
            self._book_energy(tick)
            self._of["tick_duration_seconds"].observe(tick.seconds)
            self._of["tick_last_timestamp_seconds"].set(self._wall())
            self._of["orders"].inc(tick.orders)
            for name, kw in (("power", tick.import_kw), ("planned", tick.planned_kw), ("shed", tick.shed_kw),
                             ("limit", tick.limit_kw), ("target", tick.target_kw)):  # fmt: skip
                self._show(f"site_{name}_watts", ((key, 1000 * value) for key, value in kw.items()))
            over = {site: max(0.0, kw - tick.target_kw.get(site, kw)) for site, kw in tick.import_kw.items()}
            self._show("dr_shortfall_watts", ((site, 1000 * kw) for site, kw in over.items()))
            self._show("pool_power_watts", ((pool, 1000 * kw) for pool, kw in tick.pool_kw.items()))
            self._show("pool_cap_watts", tick.cap_w.items())
            self._show("pool_enforced_watts", tick.enforced_w.items())
            self._show("device_power_watts", ((it.id, 1000 * it.kw) for it in tick.supply if it.kw is not None))
            stored = ((it.id, 3.6e6 * it.stored_kwh) for it in tick.supply if it.stored_kwh is not None)
            self._show("battery_stored_joules", stored)
            self._show("device_lost", ((it.id, it.lost) for it in tick.supply if it.kind in {"battery", "engine"}))
            offered = ((it.id, 1000 * it.planned_kw) for it in tick.supply if it.kind == "reserve")
            self._show("reserve_offered_watts", offered)
            self._of["tier_broken"].set(len({one.subject for one in tick.notes if one.code is Reason.TIER_BROKEN}))
            self._show("pool_active_gpus", tick.active_gpus.items())
            self._show("pool_clock_hertz", ((pool, 1e6 * mhz) for pool, mhz in tick.clock_mhz.items()))
            self._show("pool_yielded_gpus", ((pool, tick.yielded_gpus.get(pool, 0)) for pool in tick.cap_w))
            unmoved = {note.subject for note in tick.notes if note.code is Reason.CAP_UNMOVED}
            self._show("pool_cap_unmoved", ((pool, pool in unmoved) for pool in tick.cap_w.keys() | unmoved))
            self._latencies(tick)
            self._count_notes(tick.notes)

    def render(self) -> bytes:
        """The text that Prometheus scrapes (format 0.0.4)."""
        with self._lock:
            return generate_latest(self._registry)

    def _loop(self, report: CycleReport) -> None:
        self._of["cycle_duration_seconds"].observe(report.duration_s)
        self._of["cycle_interval_seconds"].set((report.next_at - report.at).total_seconds())
        self._of["cycle_last_success_timestamp_seconds"].set(self._wall())
        self._of["solver_seconds"].observe(report.solve_s)
        self._of["solver_outcomes"].labels(report.rung).inc()
        self._show("mode", ((mode, mode == report.mode) for mode in ("observe", "advise", "control")))

    def _plan(self, report: CycleReport) -> None:
        self._show("site_price_per_mwh", ((site.id, site.currency, site.price_per_mwh) for site in report.sites))
        marginal = ((it.id, it.currency, it.marginal_per_mwh) for it in report.sites if it.marginal_per_mwh is not None)
        self._show("site_marginal_value_per_mwh", marginal)
        money = {site.id: site.currency for site in report.sites}
        quoted = ((pool.id, money[pool.site], pool.quote_per_mtok) for pool in report.pools)
        self._show("pool_quote_per_million_tokens", (row for row in quoted if row[2] is not None))
        self._show("pool_throughput_ratio", ((pool.id, pool.throughput) for pool in report.pools))
        self._show("pool_parked_gpus", ((pool.id, pool.parked_gpus) for pool in report.pools))
        shed = [(site.id, f"{one.within_s:g}", one) for site in report.sites for one in site.flexibility]
        self._show("site_flexibility_watts", ((*labels, 1000 * one.kw) for *labels, one in shed))
        self._show("site_flexibility_sure_watts", ((*labels, 1000 * one.sure_kw) for *labels, one in shed))
        waits = [
            (pool.id, it.objective, it.forecast_s[0]) for pool in report.pools for it in pool.latency if it.forecast_s
        ]
        self._show("pool_latency_forecast_seconds", (row for row in waits if row[2] is not None))
        curves = [(pool.id, pool.curve) for pool in report.pools if pool.curve is not None]
        self._show("pool_curve_learned", ((pool, curve.kind == "learned") for pool, curve in curves))
        self._show("pool_curve_samples", ((pool, curve.samples) for pool, curve in curves))
        self._show("pool_curve_error_ratio", ((pool, curve.error) for pool, curve in curves))
        self._show("jobs", Tally(job.state for job in report.jobs).items())
        self._show("dr_events", Tally(event.state for event in report.events).items())
        self._show("jobs_elsewhere", Tally(job.site for job in report.jobs if job.site).items())
        self._of["coordinator_lost"].set(any(note.code is Reason.COORDINATOR_LOST for note in report.notes))
        self._tiers(report)
        self._of["jobs_past_hope"].set(sum(job.reason == Reason.DEADLINE_UNREACHABLE for job in report.jobs))

    def _tiers(self, report: CycleReport) -> None:
        open_ = [job for job in report.jobs if job.tier is not None and job.state not in {"done", "cancelled"}]
        self._show("tier_jobs", Tally(str(job.tier) for job in open_).items())
        highest: dict[str, float] = {}
        for job in open_:
            if job.reduction is not None:
                highest[str(job.tier)] = max(highest.get(str(job.tier), 0.0), job.reduction)
        self._show("tier_reduction_ratio", highest.items())

    def _latencies(self, tick: Tick) -> None:
        known = [(pool, one) for pool, some in tick.latency.items() for one in some]
        measured = ((pool, one.objective, one.measured_s) for pool, one in known if one.measured_s is not None)
        self._show("pool_latency_seconds", measured)
        self._show("pool_latency_objective_seconds", ((pool, one.objective, one.threshold_s) for pool, one in known))
        self._show("pool_latency_guard", ((pool, some[0].guard, 1) for pool, some in tick.latency.items()))
        self._show("pool_latency_floor_ratio", ((p, tick.latency_floor.get(p, 0.0)) for p in tick.latency))

    def _inputs(self, report: CycleReport) -> None:
        self._show("signal_age_seconds", ((it.id, it.age_s) for it in report.sources if it.age_s is not None))
        self._show("signal_state", ((it.id, it.state, 1) for it in report.sources))
        self._show("notes", ((level, sum(note.severity is level for note in report.notes)) for level in Severity))
        self._of["store_degraded"].set(any(note.code is Reason.STORE_DEGRADED for note in report.notes))

    def observe_standby(self, status: Mapping[str, Any]) -> None:
        """Our place among daemons that stand by for each other."""
        name, others = status["name"], [one for one in status["others"] if one["role"] == "following"]
        with self._lock:
            self._show("standby_leads", [(name, float(status["role"] == "leader"))])
            self._show("standby_followers", [(name, len(others))])
            self._show("standby_behind_changes", [] if status["behind"] is None else [(name, status["behind"])])

    def _count_notes(self, notes: Iterable[Note]) -> None:
        for note in notes:
            if note.code in SUBSTITUTIONS:
                self._of["signal_substitutions"].labels(note.subject, note.code).inc()
            if note.code is Reason.CAP_DRIFT:
                self._of["gpu_cap_drift"].inc()

    def _show(self, name: str, rows: Iterable[tuple[Any, ...]]) -> None:
        """Set a gauge to exactly these rows (labels, then the value); infinite and vanished ones are absent."""
        shown = {tuple(labels): value for *labels, value in rows if abs(value) != float("inf")}
        if shown == self._shown.get(name):  # as most are from second to second, and to say so again costs the most
            return
        gauge, self._shown[name] = self._of[name], shown
        gauge.clear()
        for labels, value in shown.items():
            gauge.labels(*labels).set(value)

    def _book_energy(self, tick: Tick) -> None:
        last, self._last_tick = self._last_tick, (tick.at, tick.import_kw, self._sites)
        if last is None or not 0 < (seconds := (tick.at - last[0]).total_seconds()) <= LONGEST_GAP_S:
            return
        for site, kw in last[1].items():
            self._of["energy_joules"].labels(site).inc(max(0.0, kw) * 1000 * seconds)
            if status := last[2].get(site):
                money = max(0.0, kw) * seconds / 3.6e6 * status.price_per_mwh
                self._of["cost" if money >= 0 else "cost_refund"].labels(site, status.currency).inc(abs(money))


def reference() -> str:
    """The page docs/metrics.md."""
    rows = [
        f"| `{family.exposed[0].removesuffix('_bucket')}` | {family.kind} | {', '.join(family.labels) or '-'} "
        f"| {family.text} |"
        for family in FAMILIES
    ]
    return "\n".join([
        "# Metrics",
        "",
        "`GET /metrics` answers in the Prometheus text format. This page is generated from `scheduler/metrics.py`.",
        "Units are base units; counters start at zero with the daemon; a gauge without a value (no limit, no event) is",
        "absent. Timestamps are the machine's own time also where the daemon lives in a recorded day.",
        "",
        "Alert rules: `config/prometheus/alerts.yaml`. Dashboard: `config/grafana/gridpace.json`.",
        "",
        "| name | kind | labels | meaning |",
        "|---|---|---|---|",
        *rows,
        "",
    ])  # fmt: skip
