"""Real cards are not all alike: what the plan is told of their ranges, and what an operator is told of the rest."""

from dataclasses import replace
from datetime import UTC, datetime

import pytest

from adapters.power.nvml import NvmlPower
from optimizer.reasons import Reason
from scheduler.cards import bounded, card_notes
from scheduler.checking import check_config
from scheduler.config import load_config
from tests.support.power_worlds import DEADLINE_S, POOL, fake_machine

NOW = datetime(2022, 9, 6, 21, tzinfo=UTC)

CONFIG = """
mode: observe
currency: USD
state_dir: state
sites: [{id: lab, timezone: UTC, price: energy}]
pools: [{id: serve, site: lab, gpu_model: H100, max_cap_w: 700, count: 8, work: interactive}]
signals: [{id: energy, type: constant, unit: USD/MWh, value: 60}]
power: {type: nvml}
meters: [{type: nvml}]
"""


@pytest.fixture
def fake(tmp_path, monkeypatch):
    return fake_machine(tmp_path, monkeypatch)


def infos(fake):
    power = NvmlPower(DEADLINE_S)
    try:
        return list(power.discover().values())
    finally:
        power.close()


def test_a_pool_is_ordered_no_lower_than_every_card_takes_and_as_high_as_its_best_one(fake):
    fake.set(0, max_w=600, default_w=600, limit_w=600)
    fake.set(1, min_w=300)
    pool = bounded(replace(POOL, count=99), infos(fake))
    assert (pool.count, pool.min_cap_w, pool.max_cap_w) == (8, 300, 700)
    (note,) = card_notes("serve", infos(fake), NOW)
    assert note.code is Reason.CAP_CLAMPED
    assert "from 200 to 300 W" in note.text
    assert "from 600 to 700 W" in note.text


def test_check_connect_tells_of_persistence_mig_and_a_boards_own_limit(fake, tmp_path):
    fake.set(0, persistence=0)
    fake.set(1, mig=1, no_utilisation=1)
    fake.set(2, bmc_w=500)
    (tmp_path / "gridpace.yaml").write_text(CONFIG)
    said = list(check_config(load_config(tmp_path / "gridpace.yaml"), connect=True))
    texts = {line.text: line.state for line in said if line.part == "serve"}
    found = {name: state for text, state in texts.items() for name in ("persistence", "MIG", "board") if name in text}
    assert found == {"persistence": "warning", "MIG": "ok", "board": "warning"}
    assert any("8 of 8 GPUs answer" in line.text for line in said), "an instance is no card, a cut card is one"


def test_without_persistence_a_limit_lives_as_long_as_our_handle(fake):
    fake.set_all(persistence=0)
    power = NvmlPower(DEADLINE_S)
    gpus = [gpu.uuid for gpu in fake.gpus]
    power.release(dict.fromkeys(gpus, 300.0))
    other = NvmlPower(DEADLINE_S)
    other.discover()
    other.close()
    assert set(fake.limits_w().values()) == {300.0}, "another program came and went"
    power.close()
    assert set(fake.limits_w().values()) == {700.0}
