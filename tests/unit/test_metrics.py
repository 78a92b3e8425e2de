"""The metrics say what the report and the tick say, and dashboard, alerts and reference speak of metrics that exist."""

import json
import re
import subprocess
from dataclasses import replace
from datetime import timedelta
from pathlib import Path

import pytest
from prometheus_client.parser import text_string_to_metric_families
from ruamel.yaml import YAML

from optimizer.reasons import Note, Reason
from scheduler.clock import VirtualClock
from scheduler.metrics import FAMILIES, Metrics, reference
from scheduler.status import SupplyStatus
from tests.support.fake_service import LIMIT_KW, START, FakeService
from tests.support.system import require

ROOT = Path(__file__).resolve().parents[2]


def samples(metrics):
    text = metrics.render().decode()
    return {
        (sample.name, *sample.labels.values()): sample.value
        for family in text_string_to_metric_families(text)
        for sample in family.samples
    }


@pytest.fixture
def service():
    return FakeService(VirtualClock(START + timedelta(hours=4)))


def test_a_cycle_is_told_in_base_units(service):
    metrics = Metrics("1.2.3", wall=lambda: 1000.0)
    report = service.report()
    metrics.observe_cycle(report)
    said = samples(metrics)
    assert said["gridpace_build_info", "1.2.3"] == 1
    assert said["gridpace_mode", "control"] == 1
    assert said["gridpace_mode", "observe"] == 0
    assert said["gridpace_cycle_last_success_timestamp_seconds",] == 1000
    assert said["gridpace_cycle_interval_seconds",] == 300
    assert said["gridpace_solver_outcomes_total", "optimum"] == 1
    assert said["gridpace_site_price_per_mwh", "USD", "west"] == report.sites[0].price_per_mwh
    assert said["gridpace_site_marginal_value_per_mwh", "USD", "west"] == report.sites[0].marginal_per_mwh
    assert said["gridpace_pool_quote_per_million_tokens", "USD", "chat"] == report.pools[0].quote_per_mtok
    assert said["gridpace_signal_age_seconds", "sacramento"] == 4210
    assert said["gridpace_signal_state", "grid-carbon", "lost"] == 1
    assert said["gridpace_signal_substitutions_total", "stale_signal", "sacramento"] == 1
    assert said["gridpace_dr_events", "active"] == 1
    assert said["gridpace_jobs", "running"] == 2
    assert said["gridpace_jobs_past_hope",] == 1
    assert said["gridpace_store_degraded",] == 0


def test_jobs_at_other_sites_a_lost_coordinator_and_tiers_are_told(service):
    metrics = Metrics()
    report = service.report()
    assert not any(name.startswith("gridpace_jobs_elsewhere") for name, *_ in samples(metrics))
    first, second, *rest = report.jobs
    jobs = (
        replace(first, state="waiting", site="california"),
        replace(second, tier=2, reduction=0.2),
        *rest,
        replace(second, id="x", tier=2, reduction=None),
        replace(first, id="y", state="done", tier=2, reduction=0.9),
    )
    lost = Note(Reason.COORDINATOR_LOST, "texas", "no coordinator was heard yet")
    metrics.observe_cycle(replace(report, jobs=jobs, notes=(*report.notes, lost)))
    slow = [Note(Reason.TIER_BROKEN, name, "slower") for name in ("j", "j", "k")]
    metrics.observe_tick(replace(service.tick(), notes=tuple(slow)))
    said = samples(metrics)
    assert said["gridpace_jobs_elsewhere", "california"] == 1
    assert said["gridpace_coordinator_lost",] == 1
    assert (said["gridpace_tier_jobs", "2"], said["gridpace_tier_reduction_ratio", "2"]) == (2, 0.2)
    assert said["gridpace_tier_broken",] == 2
    metrics.observe_cycle(report)
    assert samples(metrics)["gridpace_coordinator_lost",] == 0
    assert ("gridpace_jobs_elsewhere", "california") not in samples(metrics)


def test_a_tick_shows_power_and_how_far_it_is_above_the_target(service):
    metrics = Metrics()
    tick = service.tick()
    metrics.observe_tick(replace(tick, import_kw={"west": 3300.0}, target_kw={"west": 3157.0}))
    said = samples(metrics)
    assert said["gridpace_site_power_watts", "west"] == 3.3e6
    assert said["gridpace_site_limit_watts", "west"] == LIMIT_KW * 1000
    assert said["gridpace_dr_shortfall_watts", "west"] == 143e3
    assert said["gridpace_pool_cap_watts", "pretrain"] == tick.cap_w["pretrain"]
    assert said["gridpace_pool_enforced_watts", "pretrain"] == tick.cap_w["pretrain"]
    metrics.observe_tick(replace(tick, enforced_w={"chat": 150.0}))
    said = samples(metrics)
    assert said["gridpace_pool_enforced_watts", "chat"] == 150.0
    assert said["gridpace_pool_cap_watts", "chat"] == tick.cap_w["chat"], "what is ordered stays what it is"
    assert ("gridpace_pool_enforced_watts", "pretrain") not in said, "not known"


def test_no_limit_and_no_target_are_absent_not_infinite(service):
    metrics = Metrics()
    metrics.observe_tick(replace(service.tick(), target_kw={"west": float("inf")}, limit_kw={"west": float("inf")}))
    said = samples(metrics)
    assert not any(name in {"gridpace_site_target_watts", "gridpace_site_limit_watts"} for name, *_ in said)
    assert said["gridpace_dr_shortfall_watts", "west"] == 0


def test_what_is_gone_disappears(service):
    metrics = Metrics()
    report = service.report()
    metrics.observe_cycle(report)
    metrics.observe_cycle(replace(report, sources=report.sources[:1], events=(), mode="observe"))
    said = samples(metrics)
    assert ("gridpace_signal_age_seconds", "sacramento") not in said
    assert not any(name == "gridpace_dr_events" for name, *_ in said)
    assert said["gridpace_mode", "control"] == 0


def test_what_stays_as_it_is_is_not_set_again_and_what_changes_is(service, monkeypatch):
    metrics, tick = Metrics(), service.tick()
    metrics.observe_tick(replace(tick, import_kw={"west": 3300.0, "east": 10.0}))
    gauge, cleared = metrics._of["site_power_watts"], []
    clear = gauge.clear
    monkeypatch.setattr(gauge, "clear", lambda: (cleared.append(1), clear()))
    for import_kw in ({"west": 3300.0, "east": 10.0}, {"west": 3200.0, "east": 10.0}, {"west": 3200.0}, {}, {"a": 1.0}):
        metrics.observe_tick(replace(tick, import_kw=import_kw))
        said = {
            labels[0]: value for (name, *labels), value in samples(metrics).items() if name.endswith("site_power_watts")
        }
        assert said == {site: 1000 * kw for site, kw in import_kw.items()}
    assert len(cleared) == 4


def test_energy_and_cost_are_power_over_time_and_unknown_over_a_silence(service):
    metrics = Metrics()
    report, tick = service.report(), service.tick()
    for price, minutes in ((100.0, 0), (-50.0, 6), (100.0, 18), (100.0, 18 + 60)):
        site = replace(report.sites[0], price_per_mwh=price)
        metrics.observe_cycle(replace(report, sites=(site,)))
        metrics.observe_tick(replace(tick, at=START + timedelta(minutes=minutes), import_kw={"west": 1000.0}))
    said = samples(metrics)
    # Neither is the hour's silence counted, nor does a new price reach back before its cycle.
    assert said["gridpace_energy_joules_total", "west"] == pytest.approx(1e6 * 18 * 60)
    assert said["gridpace_cost_total", "USD", "west"] == pytest.approx(10.0)
    assert said["gridpace_cost_refund_total", "USD", "west"] == pytest.approx(10.0)


def test_drift_and_a_store_that_cannot_write_are_seen(service):
    metrics = Metrics()
    notes = (Note(Reason.CAP_DRIFT, "GPU-1", "was raised"), Note(Reason.STORE_DEGRADED, "store", "disk full"))
    metrics.observe_tick(replace(service.tick(), notes=notes[:1]))
    metrics.observe_cycle(replace(service.report(), notes=notes))
    said = samples(metrics)
    assert said["gridpace_gpu_cap_drift_total",] == 2
    assert said["gridpace_store_degraded",] == 1


def test_a_cap_that_moves_nothing_is_shown_for_its_pool_and_only_while_it_is_so(service):
    metrics, tick = Metrics(), service.tick()
    note = Note(Reason.CAP_UNMOVED, "chat", "the GPUs of chat enforce 300 W and draw 400 W each")
    for notes, value in (((), 0), ((note,), 1), ((), 0)):
        metrics.observe_tick(replace(tick, notes=notes))
        said = samples(metrics)
        assert said["gridpace_pool_cap_unmoved", "chat"] == value
        assert said["gridpace_pool_cap_unmoved", "pretrain"] == 0


def test_every_family_can_be_filled(service):
    metrics = Metrics()
    battery = SupplyStatus("bess", "west", "battery", -5.0, -5.0, 20.0, 0.5, lost=False)
    spin = SupplyStatus("spin", "west", "reserve", None, 30.0, None, None, lost=False)
    quiet, busy = replace(service.tick(), supply=(battery, spin), clock_mhz={"chat": 1200}), service.report()
    quiet = replace(quiet, latency={pool.id: pool.latency for pool in busy.pools if pool.latency})
    away = replace(busy.jobs[0], site="california", tier=1, reduction=0.05, state="waiting")
    busy = replace(busy, jobs=(*busy.jobs, away))
    metrics.observe_cycle(busy)
    for minute, price in ((0, 10.0), (1, -10.0), (2, -10.0)):
        metrics.observe_cycle(replace(busy, sites=(replace(busy.sites[0], price_per_mwh=price),)))
        metrics.observe_tick(replace(quiet, at=START + timedelta(minutes=minute), target_kw={"west": 1.0}))
    metrics.observe_cycle(replace(busy, sites=(replace(busy.sites[0], price_per_mwh=10.0),)))
    metrics.observe_tick(replace(quiet, at=START + timedelta(minutes=3)))
    metrics.observe_standby({"name": "alpha", "role": "standby", "behind": 3, "others": []})
    names = {name for name, *_ in samples(metrics)}
    assert {name for family in FAMILIES for name in family.exposed} == names


# ---------------------------------------------------------------- what is built on them
def queries():
    board = json.loads((ROOT / "config/grafana/gridpace.json").read_text())
    yield from ((panel["title"], target["expr"]) for panel in board["panels"] for target in panel["targets"])
    yield from (("variable", str(variable["query"])) for variable in board["templating"]["list"])
    rules = YAML(typ="safe").load(ROOT / "config/prometheus/alerts.yaml")
    for rule in rules["groups"][0]["rules"]:
        yield rule["alert"], rule["expr"]


@pytest.mark.parametrize(("where", "query"), list(queries()))
def test_dashboard_and_alerts_name_metrics_and_labels_that_exist(where, query):
    exposed = {name: family for family in FAMILIES for name in family.exposed}
    assert set(re.findall(r"gridpace_\w+", query)) <= set(exposed), where
    for name, labels in re.findall(r"(gridpace_\w+)\{([^}]*)\}", query):
        assert set(re.findall(r"(\w+)=~?\"", labels)) <= set(exposed[name].labels), where


def test_prometheus_takes_the_rules_and_alerts_of_a_cap_that_moves_nothing(tmp_path):
    """Its own tool reads all rules, and lives through some minutes of two pools."""
    require("promtool")
    rules = ROOT / "config/prometheus/alerts.yaml"
    rule = next(
        rule for rule in YAML(typ="safe").load(rules)["groups"][0]["rules"] if rule["alert"] == "GridpaceCapUnmoved"
    )
    summary = "GPUs of pool chat accept a cap, but their power does not fall to it"
    alarm = {
        "exp_labels": {"severity": "page", "pool": "chat"},
        "exp_annotations": {"summary": summary, "description": rule["annotations"]["description"]},
    }
    series = [
        {"series": 'gridpace_pool_cap_unmoved{pool="chat"}', "values": "0 0 1x5 0x5"},
        {"series": 'gridpace_pool_cap_unmoved{pool="pretrain"}', "values": "0x20"},
    ]
    looks = [("15s", []), ("45s", []), ("1m30s", [alarm]), ("2m30s", [])]
    asked = [{"eval_time": at, "alertname": rule["alert"], "exp_alerts": alerts} for at, alerts in looks]
    test = {"interval": "15s", "input_series": series, "alert_rule_test": asked}
    file = tmp_path / "test.json"  # JSON is YAML
    file.write_text(json.dumps({"rule_files": [str(rules)], "evaluation_interval": "15s", "tests": [test]}))
    done = subprocess.run(["promtool", "test", "rules", file], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr


def test_the_five_alerts_that_an_operator_was_promised_are_there():
    names = {where for where, _ in queries()}
    assert {"GridpaceCycleLate", "GridpaceSignalStale", "GridpaceCapDrift", "GridpaceEventShortfall",
            "GridpaceStoreDegraded"} <= names  # fmt: skip


def test_the_reference_page_is_as_generated():
    assert (ROOT / "docs/metrics.md").read_text() == reference()
