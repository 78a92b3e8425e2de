"""What management controllers get back: the limit found, on or off, whatever range and config say by then."""

from contextlib import contextmanager

import pytest

from adapters.context import AdapterContext
from adapters.ports import Lease
from adapters.power.redfish import RedfishConfig, RedfishPower
from optimizer.reasons import Reason
from scheduler.agent.core import AgentCore, AgentSettings
from scheduler.agent.state import AgentFiles
from scheduler.clock import WallClock
from tests.support.redfish_bmc import PASSWORD, ROOT, USER, metrics, power, running_bmc, tree

GPU = f"{ROOT}/Systems/HGX_Baseboard_0/Processors/GPU_SXM_1/EnvironmentMetrics"
BOX = f"{ROOT}/Chassis/Self/Power"
NAMES = {GPU: "n1/HGX_Baseboard_0/GPU_SXM_1", BOX: "n1/Self"}


@pytest.fixture(autouse=True)
def _password(monkeypatch):
    monkeypatch.setenv("BMC", PASSWORD)


def shown(bmc, uri, **limit):
    """What the controller shows from now on, in whichever form the resource has."""
    control = bmc.resources[uri].get("PowerLimitWatts")
    (bmc.resources[uri]["PowerControl"][0] if control is None else control).update(limit)
    bmc.versions[uri] += 1


@contextmanager
def agent_over(url, folder, **config):
    base = {"type": "redfish", "servers": {"n1": url}, "username": USER, "password": "env:BMC", "timeout": "5s"}
    actuator = RedfishPower(RedfishConfig.model_validate(base | config), AdapterContext(WallClock(), folder))
    settings = AgentSettings(tick_s=0.01, release_w_per_s=1e6)
    try:
        yield AgentCore(actuator, AgentFiles(folder / "state"), settings)
    finally:
        actuator.close()


def box(limit_w=None, capacity_w=10200):
    made = power(LimitInWatts=limit_w)
    made["PowerControl"][0]["PowerCapacityWatts"] = capacity_w
    return made


SERVER = {"card": "server", "min_w": 3500}
OFF_POINT = {"ControlMode": "Disabled", "SetPoint": 700}


@pytest.mark.parametrize("restarted", [False, True])
@pytest.mark.parametrize(("uri", "limits", "moved", "configs"), [
    (BOX, (10000, 8000, 10000), {}, (SERVER | {"max_w": 9000}, {})),
    (BOX, (9001, 8000, 9001), {}, (SERVER | {"max_w": 9000}, {})),  # what meant "off" in books of before
    (BOX, (10000, 8000, 10000), {}, (SERVER, {"max_w": 9000})),
    (BOX, (3000, 4000, 3000), {}, (SERVER, {})),
    (BOX, (5000, 4000, 5000), {"PowerCapacityWatts": None}, (SERVER, {"min_w": None})),
    (BOX, (5000, 4000, 5000), {}, (SERVER, {"min_w": 12000})),  # a range that is none bounds no restore
    (BOX, (None, 8000, None), {"PowerCapacityWatts": 12000}, (SERVER, {})),
    (BOX, (None, 8000, None), {}, (SERVER | {"max_w": 9000}, {"max_w": None})),
    (GPU, (700, 400, 650), {"AllowableMax": 650}, ({}, {})),
    (GPU, (700, 400, 700), {"AllowableMax": 750}, ({}, {"max_w": 600})),
    (GPU, (200, 400, 250), {"AllowableMin": 250}, ({}, {})),
    (GPU, (650.5, 400, 650.5), {}, ({}, {})),
    (GPU, (None, 400, None), {"AllowableMax": 750}, ({}, {})),
    (GPU, (None, 400, None), {"AllowableMax": 650}, ({}, {})),
    (GPU, (None, 400, None), {"AllowableMax": 702}, ({}, {})),
    (GPU, (None, 400, None), {}, ({"max_w": 500}, {})),
])  # fmt: skip
def test_the_limit_found_is_given_back_on_or_off(tmp_path, caplog, restarted, uri, limits, moved, configs):
    """`limits`: found, our cap, and given back; `moved`: what the controller shows meanwhile; `configs`: of the process
    that caps, and how another one's that gives back differs."""
    (found, cap, given_back), (before, after) = limits, configs
    resources = tree(1, {"Power": box(found)} if uri == BOX else {})
    if uri == GPU:
        resources[uri] |= metrics(**OFF_POINT) if found is None else metrics(SetPoint=found)
    gpu = NAMES[uri]
    with running_bmc(resources) as (bmc, url):
        with agent_over(url, tmp_path, **before) as agent:
            assert agent.apply({gpu: cap}, Lease(1, 1, 60.0)).enforced_w == {gpu: cap}
            assert agent.status()["found_w"][gpu] < 10300, "a number that may be ramped to and added up"
            shown(bmc, uri, **moved)
            if not restarted and not after:
                assert agent.release({gpu: 1.0}, epoch=1).failures == {}
                assert not agent.outstanding
        if restarted or after:
            with agent_over(url, tmp_path, **before | after) as agent:
                assert agent.release({gpu: 1.0}, epoch=1).failures == {}
                assert not agent.outstanding
        assert bmc.limit(uri) == given_back
        told = [record.getMessage() for record in caplog.records if "is not given back" in record.getMessage()]
        assert (len(told) == 1) == (found != given_back), told


def test_a_limit_that_was_on_is_never_taken_for_the_number_that_meant_off_in_books_of_before(tmp_path):
    with running_bmc(tree(1)) as (bmc, url), agent_over(url, tmp_path) as agent:
        agent.apply({NAMES[GPU]: 400}, Lease(1, 1, 60.0))
        bmc.touch(GPU, AllowableMax=699)
        agent.release({NAMES[GPU]: 1.0}, epoch=1)
        assert (bmc.limit(GPU), bmc.resources[GPU]["PowerLimitWatts"]["ControlMode"]) == (699, "Automatic")


@pytest.mark.parametrize(("uri", "config", "book_w", "given_back"), [
    (GPU, {}, 701.0, None), (GPU, {"max_w": 600}, 601.0, None), (GPU, {"max_w": 600}, 701.0, None),
    (BOX, SERVER, 10201.0, None), (BOX, SERVER | {"max_w": 9000}, 9001.0, None),
    (GPU, {}, 700.0, 700), (GPU, {}, 702.0, 700), (BOX, SERVER, 10200.0, 10200),
])  # fmt: skip
def test_books_of_before_are_understood(tmp_path, uri, config, book_w, given_back):
    """A card that was off stands there as a watt above its range, or the config's."""
    resources = tree(1, {"Power": box(4000)} if uri == BOX else {})
    gpu = NAMES[uri]
    with running_bmc(resources) as (bmc, url):
        base = {"type": "redfish", "servers": {"n1": url}, "username": USER, "password": "env:BMC"}
        actuator = RedfishPower(RedfishConfig.model_validate(base | config), AdapterContext(WallClock(), tmp_path))
        actuator.apply({gpu: 4000 if uri == BOX else 400}, Lease(1, 1, 60.0))
        assert actuator.release({gpu: book_w}).failures == {}
        assert bmc.limit(uri) == given_back
        actuator.close()


@pytest.mark.parametrize("watts", [700, 701, 702])
def test_a_limit_that_stays_on_where_it_was_off_is_told(tmp_path, watts):
    """Also one that stands where the number for "off" would."""
    resources = tree(1)
    resources[GPU] |= metrics(ControlMode="Disabled")
    with running_bmc(resources) as (bmc, url), agent_over(url, tmp_path) as agent:
        agent.apply({NAMES[GPU]: 400}, Lease(1, 1, 60.0))
        bmc.patch = lambda uri, _: (204, bmc.touch(uri, SetPoint=watts) or "")
        # Off is told as a little over 701 W: at 700 W it does not follow a step down, and stays owed.
        told = Reason.CAP_REFUSED if watts == 700 else Reason.CAP_DRIFT
        assert agent.release({NAMES[GPU]: 1.0}, epoch=1).failures == {NAMES[GPU]: told}


@pytest.mark.parametrize(("reads", "failures"), [(2, {}), (20, {NAMES[GPU]: Reason.CAP_DRIFT})])
def test_a_controller_that_shows_a_limit_only_after_a_moment_is_read_again_and_not_for_ever(tmp_path, reads, failures):
    with running_bmc(tree(1)) as (bmc, url), agent_over(url, tmp_path) as agent:
        bmc.late[GPU] = reads
        receipt = agent.apply({NAMES[GPU]: 300}, Lease(1, 1, 60.0))
        assert receipt.failures == failures
        assert receipt.enforced_w == {NAMES[GPU]: 700 if failures else 300}


def test_the_limit_that_is_read_is_the_one_that_is_written_among_several(tmp_path):
    """`PowerControl` is a list: fans or a rack's share may stand before the server, with or without limits."""
    first, second = box()["PowerControl"][0], box(10000)["PowerControl"][0]
    del first["PowerLimit"]
    server = box() | {"PowerControl": [first, second | {"MemberId": "1"}]}
    with running_bmc(tree(1, {"Power": server})) as (bmc, url), agent_over(url, tmp_path, **SERVER) as agent:
        assert agent.apply({NAMES[BOX]: 8000}, Lease(1, 1, 60.0)).enforced_w == {NAMES[BOX]: 8000}
        controls = bmc.resources[BOX]["PowerControl"]
        assert ("PowerLimit" in controls[0], controls[1]["PowerLimit"]["LimitInWatts"]) == (False, 8000)
        assert agent.release({NAMES[BOX]: 1.0}, epoch=1).failures == {}
        assert controls is not bmc.resources[BOX]["PowerControl"], "written once more"
        assert bmc.resources[BOX]["PowerControl"][1]["PowerLimit"]["LimitInWatts"] == 10000
