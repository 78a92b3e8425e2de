"""The tests' controller serves what DMTF's schemas ask, and takes no write that they forbid."""

from copy import deepcopy

import pytest

from tests.support.redfish_bmc import ROOT, FakeBmc, metrics, power, tree
from tests.support.redfish_rules import broken, unwritable

GPU = f"{ROOT}/Systems/HGX_Baseboard_0/Processors/GPU_SXM_1/EnvironmentMetrics"


@pytest.mark.parametrize("chassis", [{}, {"Power": power()}, {"EnvironmentMetrics": metrics(), "Power": power()}])
def test_every_resource_is_as_its_schema_asks(chassis):
    served = tree(2, chassis)
    assert {uri: list(broken(body)) for uri, body in served.items() if list(broken(body))} == {}
    bmc = FakeBmc(served)
    assert bmc.patch(GPU, {"PowerLimitWatts": {"SetPoint": 400, "ControlMode": "Manual"}})[0] == 204
    if "Power" in chassis:
        assert (
            bmc.patch(f"{ROOT}/Chassis/Self/Power", {"PowerControl": [{"PowerLimit": {"LimitInWatts": 4000}}]})[0]
            == 204
        )
    assert not [text for body in bmc.resources.values() for text in broken(body)]


@pytest.mark.parametrize(
    ("change", "told"),
    [
        (lambda body: body.pop("Name"), "EnvironmentMetrics: Name is missing"),
        (
            lambda body: body["PowerLimitWatts"].update(Setpoint=1),
            "EnvironmentMetrics.PowerLimitWatts: nobody knows Setpoint",
        ),
        (
            lambda body: body["PowerLimitWatts"].update(SetPoint="400"),
            "EnvironmentMetrics.PowerLimitWatts.SetPoint: '400' is of another kind",
        ),
        (
            lambda body: body["PowerLimitWatts"].update(ControlMode="Off"),
            "EnvironmentMetrics.PowerLimitWatts.ControlMode: 'Off' is none of its values",
        ),
    ],
)
def test_what_a_schema_forbids_is_found(change, told):
    body = deepcopy(tree(1)[GPU])
    change(body)
    assert list(broken(body)) == [told]


def test_what_may_not_be_written_is_refused():
    assert unwritable({"PowerLimitWatts": {"SetPoint": 400, "AllowableMax": 900}}) == ["AllowableMax"]
    status, text = FakeBmc(tree(1)).patch(GPU, {"PowerLimitWatts": {"AllowableMax": 900}})
    assert (status, "AllowableMax" in text) == (400, True)
