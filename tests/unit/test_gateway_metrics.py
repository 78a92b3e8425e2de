"""What the gateway tells Prometheus of batches that other sites have."""

from collections import Counter
from datetime import UTC, datetime, timedelta
from types import SimpleNamespace

from scheduler.gateway.metrics import metrics_text
from scheduler.gateway.model import Batch, Leg, Status

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
