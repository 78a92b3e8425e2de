"""Power through management controllers: sessions, other writers, both forms of a limit, and controllers that are away.

DMTF's own client talks to a stub that behaves as the standard says; no real controller was at hand.
"""

import threading
from contextlib import contextmanager
from time import perf_counter, sleep

import pytest
from pydantic import ValidationError

from adapters.context import AdapterContext
from adapters.ports import AdapterError, Lease
from adapters.power.redfish import RedfishConfig, RedfishPower
from adapters.power.redfish_view import OFF
from optimizer.reasons import Reason
from scheduler.clock import VirtualClock, WallClock
from scheduler.fleet.certificates import certificates
from tests.support.ports import free_port
from tests.support.power_worlds import wait_until
from tests.support.problems import START
from tests.support.redfish_bmc import PASSWORD, ROOT, USER, metrics, power, running_bmc, tree

BOARD = f"{ROOT}/Systems/HGX_Baseboard_0/Processors"
BOX = f"{ROOT}/Chassis/Self"
LEASE = Lease(1, 1, 60.0)


def gpu(number, server="n1"):
    return f"{server}/HGX_Baseboard_0/GPU_SXM_{number}"


def uri(number):
    return f"{BOARD}/GPU_SXM_{number}/EnvironmentMetrics"


@pytest.fixture(autouse=True)
def _password(monkeypatch):
    monkeypatch.setenv("BMC", PASSWORD)


@contextmanager
def power_of(servers, folder=None, clock=None, **more):
    servers = {"n1": servers} if isinstance(servers, str) else servers
    base = {"type": "redfish", "servers": servers, "username": USER, "password": "env:BMC", "timeout": "1s"}
    made = RedfishPower(RedfishConfig.model_validate(base | more), AdapterContext(clock or WallClock(), folder))
    try:
        yield made
    finally:
        made.close()


def test_a_session_that_ended_is_begun_anew_and_the_last_one_is_given_back(tmp_path):
    with running_bmc(tree(2)) as (bmc, url):
        with power_of(url, tmp_path) as actuator:
            actuator.discover()
            assert (bmc.logins, len(bmc.sessions)) == (1, 1)
            bmc.sessions.clear()  # a controller that restarted, or lost patience
            assert actuator.apply({gpu(1): 300, gpu(2): 310}, LEASE).failures == {}
            assert bmc.logins == 2
        assert bmc.sessions == {}
        assert (bmc.limit(uri(1)), bmc.limit(uri(2))) == (300, 310), "closing changes no limit"


def test_a_login_that_is_refused_is_said_and_does_not_try_for_ever(tmp_path, monkeypatch):
    monkeypatch.setenv("BMC", "let me in")
    with running_bmc(tree(1)) as (bmc, url), power_of(url, tmp_path) as actuator:
        with pytest.raises(AdapterError, match=r"Redfish n1 \(http.*the login is not accepted") as refused:
            actuator.discover()
        assert "let me in" not in str(refused.value)
        receipt = actuator.apply({gpu(1): 300}, LEASE)
        assert set(receipt.failures.values()) <= {Reason.NO_PERMISSION, Reason.NODE_LOST}
        assert bmc.patches == []


def test_another_writer_in_between_is_seen_and_the_order_is_decided_anew(tmp_path):
    with running_bmc(tree(1)) as (bmc, url), power_of(url, tmp_path) as actuator:
        others = iter([{"SetPoint": 650}, {"AllowableMax": 280}])
        bmc.before_patch = lambda uri: bmc.touch(uri, **next(others, {})) if bmc.versions[uri] < 3 else None
        receipt = actuator.apply({gpu(1): 300}, LEASE)
        assert receipt.enforced_w == {gpu(1): 280}, "the range that holds at last"
        assert [body for _, body in bmc.patches] == [{"PowerLimitWatts": {"SetPoint": 280}}]
        bmc.before_patch = bmc.touch
        receipt = actuator.apply({gpu(1): 250}, LEASE)
        assert receipt.failures == {gpu(1): Reason.CAP_REFUSED}
        assert any("others write it all the time" in note.text for note in receipt.notes)


def test_a_limit_that_somebody_moved_is_named_at_the_next_order(tmp_path):
    with running_bmc(tree(1)) as (bmc, url), power_of(url, tmp_path) as actuator:
        actuator.apply({gpu(1): 300}, LEASE)
        bmc.touch(uri(1), SetPoint=700)
        receipt = actuator.apply({gpu(1): 300}, LEASE)
        assert receipt.failures == {}
        texts = [note.text for note in receipt.notes if note.code is Reason.CAP_DRIFT]
        assert texts == ["the limit was 700 W where 300 W had been set; 300 W set now"]


def test_controllers_are_read_at_most_every_two_seconds_and_at_once_after_an_order(tmp_path):
    clock = VirtualClock(START)
    with running_bmc(tree(1)) as (bmc, url), power_of(url, tmp_path, clock) as actuator:
        actuator.discover()
        asked = bmc.requests
        bmc.touch(uri(1), SetPoint=600)
        clock.sleep(1.9)
        assert actuator.discover()[gpu(1)].limit_w == 700
        assert bmc.requests == asked
        clock.sleep(0.2)
        assert actuator.discover()[gpu(1)].limit_w == 600
        actuator.apply({gpu(1): 300}, LEASE)
        assert actuator.discover()[gpu(1)].limit_w == 300


@pytest.mark.parametrize("restarted", [False, True])
def test_a_limit_that_was_switched_off_is_switched_off_again(tmp_path, restarted):
    resources = tree(1)
    resources[uri(1)] |= metrics(ControlMode="Disabled", SetPoint=500)
    with running_bmc(resources) as (bmc, url):
        with power_of(url, tmp_path) as actuator:
            found = actuator.discover()[gpu(1)]
            assert (found.limit_w, found.enforced_w, found.max_w) == (701 + OFF, 700, 700)
            assert actuator.apply({gpu(1): 300}, LEASE).enforced_w == {gpu(1): 300}
            assert bmc.resources[uri(1)]["PowerLimitWatts"]["ControlMode"] == "Automatic"
            if not restarted:
                assert actuator.release({gpu(1): found.limit_w}).failures == {}
        if restarted:  # what the books kept is all that is left
            with power_of(url, tmp_path) as actuator:
                assert actuator.release({gpu(1): found.limit_w}).failures == {}
        control = bmc.resources[uri(1)]["PowerLimitWatts"]
        assert control["ControlMode"] == "Disabled"
        assert control["SetPoint"] == (300 if restarted else 500)


def test_a_whole_server_is_a_card_by_the_older_power_resource(tmp_path):
    with running_bmc(tree(1, {"Power": power()})) as (bmc, url):
        with power_of(url, tmp_path, card="server", min_w=3500) as actuator:
            info = actuator.discover()["n1/Self"]
            assert (info.min_w, info.max_w, info.limit_w, info.draw_w) == (3500, 10200, 10201 + OFF, 5200)
            assert info.model == "Acme G8"
            receipt = actuator.apply({"n1/Self": 3000}, LEASE)
            assert receipt.enforced_w == {"n1/Self": 3500}
            assert [note.code for note in receipt.notes] == [Reason.CAP_CLAMPED]
            assert bmc.limit(f"{BOX}/Power") == 3500
            assert actuator.release({"n1/Self": info.limit_w}).failures == {}
            assert bmc.limit(f"{BOX}/Power") is None
        with (
            power_of(url, tmp_path, card="server") as actuator,
            pytest.raises(AdapterError, match="tells no range of limits; set `min_w` and `max_w`"),
        ):
            actuator.discover()


def test_the_newer_form_is_preferred_and_its_range_holds_inside_the_configs(tmp_path):
    chassis = {
        "EnvironmentMetrics": metrics(5000.0, AllowableMin=3000, AllowableMax=9000, SetPoint=9000),
        "Power": power(),
    }
    with (
        running_bmc(tree(1, chassis)) as (bmc, url),
        power_of(url, tmp_path, card="server", min_w=2000, max_w=8000) as actuator,
    ):
        info = actuator.discover()["n1/Self"]
        assert (info.min_w, info.max_w, info.limit_w, info.draw_w) == (3000, 8000, 9000, 5000)
        assert actuator.apply({"n1/Self": 4000}, LEASE).failures == {}
        assert (bmc.limit(f"{BOX}/EnvironmentMetrics"), bmc.limit(f"{BOX}/Power")) == (4000, None)


@pytest.mark.parametrize(("gpus", "card", "text"), [
    (0, "gpu", "no GPU shows a power limit"), (1, "server", "no chassis has a power limit"),
])  # fmt: skip
def test_a_controller_with_nothing_to_limit_is_named(tmp_path, gpus, card, text):
    with (
        running_bmc(tree(gpus)) as (_, url),
        power_of(url, tmp_path, card=card) as actuator,
        pytest.raises(AdapterError, match=f"Redfish n1: {text}"),
    ):
        actuator.discover()


def test_a_controller_that_is_away_or_slow_holds_up_no_other_and_is_left_alone(tmp_path):
    clock = VirtualClock(START)
    with running_bmc(tree(1)) as (_, url), running_bmc(tree(1)) as (slow, slow_url):
        servers = {"n1": url, "away": f"http://127.0.0.1:{free_port()}", "slow": slow_url}
        with power_of(servers, tmp_path, clock, deadline="1s") as actuator:
            slow.slow_s = 0.4  # every answer is in time; all of them together are not
            orders = {gpu(1): 300, gpu(1, "away"): 300, gpu(1, "slow"): 300}
            started = perf_counter()
            receipt = actuator.apply(orders, LEASE)
            assert perf_counter() - started < 4
            assert receipt.enforced_w == {gpu(1): 300}
            assert receipt.failures == {gpu(1, "away"): Reason.NODE_LOST, gpu(1, "slow"): Reason.CALL_TIMEOUT}
            slow.slow_s = 0.0
            wait_until(lambda: settled(slow))
            asked = slow.requests
            assert slow.patches == [], "no order is set after its deadline"
            receipt = actuator.apply(orders, LEASE)
            assert receipt.failures == {gpu(1, "away"): Reason.NODE_LOST, gpu(1, "slow"): Reason.NODE_LOST}
            assert set(actuator.discover()) == {gpu(1)}
            assert slow.requests == asked, "left alone for a while"
            clock.sleep(60.0)
            assert set(actuator.discover()) == {gpu(1), gpu(1, "slow")}


def settled(bmc):
    """True once nobody asks this controller any more."""
    before = bmc.requests
    sleep(0.8)
    return bmc.requests == before


def test_a_password_goes_over_verified_tls_only(tmp_path):
    certificates(tmp_path, ["127.0.0.1"])
    with running_bmc(tree(1), tmp_path) as (bmc, url):
        with power_of(url, tmp_path, ca="ca.pem") as actuator:
            assert list(actuator.discover()) == [gpu(1)]
        logins = bmc.logins
        with (
            power_of(url, tmp_path) as actuator,
            pytest.raises(AdapterError, match=r"TLS: .*certificate verify failed"),
        ):
            actuator.discover()
        assert bmc.logins == logins


def test_a_value_that_is_no_number_loses_its_card_and_no_other(tmp_path):
    resources = tree(3)
    resources[uri(1)]["PowerWatts"] = {"Reading": None}
    resources[uri(2)]["PowerLimitWatts"] = None
    with running_bmc(resources) as (_, url), power_of(url, tmp_path) as actuator:
        assert list(actuator.discover()) == [gpu(3)]
        receipt = actuator.apply({gpu(1): 300, gpu(2): 300, gpu(3): 300}, LEASE)
        assert receipt.enforced_w == {gpu(3): 300}
        assert set(receipt.failures) == {gpu(1), gpu(2)}


@pytest.mark.parametrize("change", [
    {"servers": {}}, {"servers": {"n 1": "https://h"}}, {"servers": {"n1": "https://user:pw@h"}},
    {"servers": {"n1": "https://h/redfish/v1"}}, {"password": "plain"}, {"card": "rack"}, {"min_w": 0},
])  # fmt: skip
def test_a_config_that_cannot_be_is_refused(change):
    good = {"type": "redfish", "servers": {"n1": "https://h"}, "username": "u", "password": "env:P"}
    with pytest.raises(ValidationError, match=next(iter(change))):
        RedfishConfig.model_validate(good | change)


def test_meter_and_look_share_a_reading_however_often_limits_are_asked_for(tmp_path):
    clock = VirtualClock(START)
    with running_bmc(tree(2)) as (bmc, url), power_of(url, tmp_path, clock, refresh="2s") as actuator:
        actuator.apply({gpu(1): 300, gpu(2): 310}, LEASE)
        assert actuator.enforced([gpu(1)]) == {gpu(1): 300}
        asked = bmc.requests
        for _ in range(3):
            actuator.discover()
            assert actuator.enforced([gpu(1), gpu(2)]) == {gpu(1): 300, gpu(2): 310}
            clock.sleep(0.6)
        assert bmc.requests == asked, "within `refresh` nobody asks"
        bmc.touch(uri(1), SetPoint=650)
        clock.sleep(0.3)
        assert actuator.enforced([gpu(1)]) == {gpu(1): 650}
        assert bmc.requests == asked + 2
        with pytest.raises(AdapterError, match="Redfish: none of the 1 GPUs asked about answers"):
            actuator.enforced(["n1/nowhere"])


def test_threads_that_ask_at_the_same_time_take_turns_and_no_old_reading_outlives_an_order(tmp_path):
    with running_bmc(tree(2)) as (bmc, url), power_of(url, tmp_path, refresh="60s") as actuator:
        actuator.apply({gpu(1): 400, gpu(2): 400}, LEASE)
        bmc.slow_s = 0.1
        reader = threading.Thread(target=actuator.discover)
        reader.start()
        sleep(0.05)
        receipt = actuator.apply({gpu(1): 300, gpu(2): 310}, LEASE)
        reader.join()
        assert receipt.failures == {}, "a controller that is being read is not taken for one that hangs"
        assert actuator.enforced([gpu(1), gpu(2)]) == {gpu(1): 300, gpu(2): 310}
