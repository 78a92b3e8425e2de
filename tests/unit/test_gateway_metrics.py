"""What the gateway tells Prometheus, and whom it tells of its tenants."""

from collections import Counter
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from types import SimpleNamespace
from unittest.mock import Mock

import pytest
from starlette.testclient import TestClient

from scheduler.config.errors import ConfigError
from scheduler.gateway.app import create_app
from scheduler.gateway.config import load_gateway
from scheduler.gateway.metrics import metrics_text
from scheduler.gateway.model import Batch, Leg, Status
from tests.support.gateway import KEY, Desk

NOW = datetime(2026, 11, 27, 5, tzinfo=UTC)


def batch(name, **more):
    until = NOW + timedelta(hours=24)
    state = {"status": Status.IN_PROGRESS, **more}
    return Batch(name, "a", "/v1/chat/completions", "file-1", "24h", NOW, until, until, **state)


def test_batches_at_other_sites_and_their_moves_are_told():
    kept = [batch("b1", leg=Leg.TAKEN, away="california"), batch("b2", leg=Leg.TAKEN, away="california"),
            batch("b3", leg=Leg.RECALLED, away="oregon"), batch("b4")]  # fmt: skip
    mover = SimpleNamespace(
        steps=Counter({("california", "taken"): 2, ("oregon", "released"): 1}),
        peers=("california", "oregon"),
        trouble={"oregon": "no route"},
    )
    shelf, talk = SimpleNamespace(batches=lambda: kept), SimpleNamespace(trouble="")
    disk = SimpleNamespace(trouble="")
    told = (
        metrics_text(SimpleNamespace(runners={}, talk=talk, shelf=shelf, mover=mover, disk=disk)).decode().splitlines()
    )
    assert [line for line in told if not line.startswith("#") and ("site=" in line)] == [
        'gridpace_gateway_batches_away{leg="taken",site="california"} 2.0',
        'gridpace_gateway_batches_away{leg="recalled",site="oregon"} 1.0',
        'gridpace_gateway_moves_total{site="california",step="taken"} 2.0',
        'gridpace_gateway_moves_total{site="oregon",step="released"} 1.0',
        'gridpace_gateway_site_up{site="california"} 1.0',
        'gridpace_gateway_site_up{site="oregon"} 0.0',
    ]


METRICS_KEY = "sk-prometheus-for-tests"


def served(folder, key=None):
    """What `/metrics` tells of two tenants' batches, by the Authorization that it is asked with."""
    desk = Desk(folder, "http://127.0.0.1:9", "http://127.0.0.1:9", "token")
    if key is not None:
        (desk.folder / "prometheus").write_text(key)
        (desk.folder / "prometheus").chmod(0o600)
        with (desk.folder / "gateway.yaml").open("a") as file:
            file.write('metrics_key: "file:prometheus"\n')
    kept = [replace(batch(f"b{k}", completed=3, failed=1, input_tokens=7, output_tokens=5), tenant=tenant)
            for k, tenant in enumerate(("research", "product"))]  # fmt: skip
    gateway = Mock(config=load_gateway(desk.folder / "gateway.yaml"), runners={})
    gateway.mover.steps, gateway.mover.peers = Counter(), ()
    gateway.shelf.batches.return_value = kept
    client = TestClient(create_app(gateway))
    return lambda shown: client.get("/metrics", headers={} if shown is None else {"Authorization": shown}).text


@pytest.mark.parametrize("shown", [None, f"Bearer {KEY}", "Bearer ", f"Basic {METRICS_KEY}", "Bearer sk-guessed"])
@pytest.mark.parametrize("key", [None, METRICS_KEY])
def test_without_its_key_metrics_tell_totals_and_no_tenant(tmp_path, key, shown):
    told = served(tmp_path, key)(shown)
    assert "tenant=" not in told
    assert not any(name in told for name in ("research", "product"))
    assert 'gridpace_gateway_requests_total{result="completed"} 6.0' in told
    assert 'gridpace_gateway_tokens_total{kind="input"} 14.0' in told


def test_with_its_key_metrics_tell_what_each_tenant_had(tmp_path):
    told = served(tmp_path, METRICS_KEY)(f"Bearer {METRICS_KEY}")
    for tenant in ("research", "product"):
        assert f'gridpace_gateway_requests_total{{result="failed",tenant="{tenant}"}} 1.0' in told
        assert f'gridpace_gateway_tokens_total{{kind="output",tenant="{tenant}"}} 5.0' in told


def test_a_key_for_metrics_that_can_not_be_read_is_named(tmp_path):
    with pytest.raises(ConfigError, match="metrics_key"):
        served(tmp_path, "")
