"""Batteries, generators and charges on peaks in the config: each mistake is named with its place."""

import pytest

from scheduler.config import ConfigError, load_config
from tests.unit.test_coincident import CONFIGURED
from tests.unit.test_supply_loops import SUPPLIED


@pytest.mark.parametrize(
    ("text", "change", "said"),
    [
        (SUPPLIED, ("energy_kwh: 40", "energy_kwh: 40, min_soc: 0.96"), "is not above `min_soc`"),
        (SUPPLIED, ("output: solar", "output: energy"), 'has kind "price"; here it must be "generation"'),
        (SUPPLIED, ("{id: roof, output: solar}", "{id: roof, output: solar, max_kw: 3}"), "either `output`"),
        (SUPPLIED, (", cost_per_mwh: 150, device: {type: simulated}", ""), "an engine (`max_kw`) needs one"),
        (SUPPLIED, ("device: {type: simulated, stored_share: 0.5}", "device: {type: modbus, host: x}"), "power"),
        (SUPPLIED, ("device: {type: simulated, stored_share: 0.5}", "device: {type: modbuss}"), "Did you mean"),
        (CONFIGURED, ("system_load: grid", "system_load: grid, probability: told"), "give either `probability`"),
        (CONFIGURED, ("system_load: grid", "system_load: told"), 'here it must be "system_load"'),
        (CONFIGURED, ("months: [6, 7, 8, 9]", "months: [13]"), "13 is not a month"),
    ],
)
def test_a_mistake_is_named(tmp_path, text, change, said):
    assert change[0] in text
    (tmp_path / "secret").write_text("a-secret-for-tests-only")
    (tmp_path / "gridpace.yaml").write_text(text.replace(*change))
    with pytest.raises(ConfigError) as refused:
        load_config(tmp_path / "gridpace.yaml")
    assert said in str(refused.value)


def test_a_real_battery_needs_real_gpus(tmp_path):
    register = "{address: 1}"
    device = f"device: {{type: modbus, host: h, power: {register}, setpoint: {register}, timeout: {register}}}"
    text = SUPPLIED.replace("device: {type: simulated, stored_share: 0.5}", device)
    (tmp_path / "secret").write_text("a-secret-for-tests-only")
    (tmp_path / "gridpace.yaml").write_text(text)
    with pytest.raises(ConfigError, match="simulated GPUs need simulated devices"):
        load_config(tmp_path / "gridpace.yaml")
