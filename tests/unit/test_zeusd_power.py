"""Power through zeusd: who may, what it refuses, cards that change their index, persistence mode.

The stand-in serves the documented API; the real daemon comes from a registry that was not at hand.
"""

import re
from contextlib import contextmanager

import pytest
from pydantic import ValidationError

from adapters.context import AdapterContext
from adapters.ports import AdapterError, Lease
from adapters.power.zeusd import ZeusdConfig, ZeusdPower
from optimizer.reasons import Reason
from scheduler.clock import VirtualClock, WallClock
from tests.support.ports import free_port
from tests.support.problems import START
from tests.support.zeusd import running_zeusd

LEASE = Lease(1, 1, 60.0)
FIRST, SECOND = "n1/0000:01:00.0", "n1/0000:02:00.0"


@contextmanager
def power_of(servers, folder, clock=None, **more):
    servers = {"n1": servers} if isinstance(servers, str) else servers
    config = ZeusdConfig.model_validate({"type": "zeusd", "servers": servers, "timeout": "5s"} | more)
    made = ZeusdPower(config, AdapterContext(clock or WallClock(), folder))
    try:
        yield made
    finally:
        made.close()


def test_it_is_asked_as_its_documentation_says(tmp_path):
    with running_zeusd(tmp_path / "s", 1) as (zeusd, url), power_of(url, tmp_path) as actuator:
        assert actuator.apply({FIRST: 300}, LEASE).enforced_w == {FIRST: 300}
        assert zeusd.requests == [
            ("GET", "/discover", {}),
            ("GET", "/gpu/get_power_limit_constraints", {"gpu_ids": "0"}),
            ("GET", "/gpu/get_power_limit", {"gpu_ids": "0"}),
            ("POST", "/gpu/set_power_limit", {"gpu_ids": "0", "power_limit_mw": "300000", "block": "true"}),
            ("GET", "/gpu/get_power_limit", {"gpu_ids": "0"}),
        ]


def test_limits_alone_are_asked_for_unless_a_reading_is_at_hand(tmp_path):
    clock = VirtualClock(START)
    with running_zeusd(tmp_path / "s", 2) as (zeusd, url), power_of(url, tmp_path, clock) as actuator:
        assert actuator.enforced([SECOND, "n2/0000:01:00.0"]) == {SECOND: 700}
        assert zeusd.requests == [("GET", "/discover", {}), ("GET", "/gpu/get_power_limit", {"gpu_ids": "1"})]
        actuator.discover()
        asked = len(zeusd.requests)
        assert actuator.enforced([FIRST, SECOND]) == {FIRST: 700, SECOND: 700}
        assert len(zeusd.requests) == asked


def test_a_reading_from_before_an_order_tells_nothing_of_after_it(tmp_path):
    clock = VirtualClock(START)
    with running_zeusd(tmp_path / "s", 2) as (zeusd, url), power_of(url, tmp_path, clock, refresh="60s") as actuator:
        actuator.discover()
        zeusd.gpus[1].limit = 650_000
        assert actuator.enforced([FIRST, SECOND]) == {FIRST: 700, SECOND: 700}, "read a moment ago"
        actuator.apply({FIRST: 300}, LEASE)
        assert actuator.enforced([FIRST, SECOND]) == {FIRST: 300, SECOND: 650}
        actuator.discover()
        zeusd.gpus[0].limit = 700_000
        clock.sleep(60.1)
        assert actuator.enforced([FIRST]) == {FIRST: 700}


@pytest.mark.parametrize(("found", "now", "given_back"), [
    (654_321, {}, 654_321), (654_321, {"low": 660_000}, 660_000), (700_000, {"high": 650_000}, 650_000),
    (700_000, {"high": 800_000}, 700_000), (700_000, {"limit": 700_000, "high": 650_000}, 700_000),
])  # fmt: skip
def test_what_was_found_is_given_back_to_the_milliwatt(tmp_path, found, now, given_back):
    """Nothing but the card's own range bounds it, and where it holds anyway not even that."""
    with running_zeusd(tmp_path / "s", 1) as (zeusd, url), power_of(url, tmp_path) as actuator:
        card = zeusd.gpus[0]
        card.limit = found
        limit_w = actuator.discover()[FIRST].limit_w
        actuator.apply({FIRST: 300}, LEASE)
        vars(card).update(now)
        receipt = actuator.release({FIRST: limit_w})
        assert (receipt.failures, card.limit) == ({}, given_back)
        assert (Reason.CAP_CLAMPED in {note.code for note in receipt.notes}) == (found != given_back)


def test_a_card_keeps_its_name_when_its_index_changes(tmp_path):
    with running_zeusd(tmp_path / "s", 2) as (zeusd, url), power_of(url, tmp_path) as actuator:
        actuator.apply({FIRST: 300, SECOND: 400}, LEASE)
        zeusd.gpus.reverse()  # a reboot
        assert actuator.apply({FIRST: 310}, LEASE).failures == {}
        assert {gpu.address: gpu.limit for gpu in zeusd.gpus} == {"0000:01:00.0": 310_000, "0000:02:00.0": 400_000}


@pytest.mark.parametrize(("change", "text", "reads"), [
    ({"token": "right", "scopes": {"gpu-read"}}, r"HTTP 403 \(Insufficient scope\.\): the token, its scopes", True),
    ({"token": "other"}, r"HTTP 401 \(Invalid token\.\): the token", False),
    ({"groups": ["gpu-read"]}, r"HTTP 404 \(API group is not enabled\.\): the API group of this call", True),
    ({"groups": ["gpu-control"]}, "its API group gpu-read is not enabled", False),
])  # fmt: skip
def test_what_it_does_not_allow_is_said_with_the_reason(tmp_path, monkeypatch, change, text, reads):
    monkeypatch.setenv("ZEUSD", "right")
    with running_zeusd(None, 1) as (zeusd, url), power_of(url, tmp_path, token="env:ZEUSD") as actuator:
        vars(zeusd).update(change)
        receipt = actuator.apply({FIRST: 300}, LEASE)
        assert receipt.failures == {FIRST: Reason.NO_PERMISSION}
        assert zeusd.gpus[0].sets == 0
        if reads:
            assert list(actuator.discover()) == [FIRST]
            assert re.search(text, "; ".join(note.text for note in receipt.notes))
    if not reads:
        with running_zeusd(None, 1) as (zeusd, url), power_of(url, tmp_path, token="env:ZEUSD") as actuator:
            vars(zeusd).update(change)
            with pytest.raises(AdapterError, match=text):
                actuator.discover()


def test_a_token_is_shown_to_it_and_to_nobody_who_reads_errors(tmp_path, monkeypatch):
    monkeypatch.setenv("ZEUSD", "hunter2")
    with running_zeusd(None, 1) as (zeusd, url), power_of(url, tmp_path, token="env:ZEUSD") as actuator:
        zeusd.token = "hunter2"
        assert actuator.apply({FIRST: 300}, LEASE).failures == {}
        zeusd.token = "new"
        notes = actuator.apply({FIRST: 310}, LEASE).notes
        assert notes
        assert "hunter2" not in str(notes)


def test_persistence_is_turned_on_before_a_limit_where_the_config_says_so(tmp_path):
    with running_zeusd(tmp_path / "s", 2) as (zeusd, url):
        zeusd.gpus[0].persistence = False
        with power_of(url, tmp_path) as actuator:
            assert [info.persistence for info in actuator.discover().values()] == [False, True]
            assert actuator.apply({FIRST: 400}, LEASE).failures == {}
            assert not zeusd.gpus[0].persistence
        with power_of(url, tmp_path, persistence=True) as actuator:
            receipt = actuator.apply({FIRST: 300, SECOND: 300}, LEASE)
            assert zeusd.gpus[0].persistence
            assert [(note.code, note.subject) for note in receipt.notes] == [(Reason.PERSISTENCE_OFF, FIRST)]
            zeusd.gpus[0].persistence = zeusd.gpus[0].keeps_persistence = False
            receipt = actuator.apply({FIRST: 350, SECOND: 350}, LEASE)
            assert receipt.failures == {FIRST: Reason.CAP_REFUSED}
            assert zeusd.gpus[0].limit == 300_000, "no limit without what makes it last"


def test_cards_that_know_no_persistence_are_cards_like_others(tmp_path):
    with running_zeusd(tmp_path / "s", 1) as (zeusd, url), power_of(url, tmp_path, persistence=True) as actuator:
        zeusd.gpus[0].vendor_amd = True
        assert actuator.discover()[FIRST].persistence is True
        assert actuator.apply({FIRST: 300}, LEASE).failures == {}


def test_one_machine_that_is_away_stops_no_other_and_is_left_alone(tmp_path):
    clock = VirtualClock(START)
    with running_zeusd(tmp_path / "s", 1) as (zeusd, url):
        servers = {"n1": url, "n2": f"unix://{tmp_path}/nobody", "n3": f"http://127.0.0.1:{free_port()}"}
        with power_of(servers, tmp_path, clock) as actuator:
            orders = {FIRST: 300, "n2/0000:01:00.0": 300, "n3/0000:01:00.0": 300}
            receipt = actuator.apply(orders, LEASE)
            assert receipt.enforced_w == {FIRST: 300}
            assert set(receipt.failures.values()) == {Reason.NODE_LOST}
            assert any("is zeusd running?" in note.text for note in receipt.notes)
            receipt = actuator.apply(orders, LEASE)
            assert any("left alone" in note.text for note in receipt.notes)
            assert list(actuator.discover()) == [FIRST]
            zeusd.groups = []
            assert list(actuator.discover()) == [FIRST], "read a moment ago"
            clock.sleep(0.6)
            with pytest.raises(AdapterError, match=r"gpu-read is not enabled"):
                actuator.discover()


@pytest.mark.parametrize("answer", [
    {"gpu_ids": [0], "cpu_ids": [], "enabled_api_groups": ["gpu-control", "gpu-read"], "auth_required": False},
    {"gpus": [{"id": 0, "name": "NVIDIA H100"}], "enabled_api_groups": ["gpu-read"]},
])  # fmt: skip
def test_a_version_that_tells_no_addresses_is_refused_with_a_sentence(tmp_path, answer):
    with running_zeusd(tmp_path / "s", 1) as (zeusd, url), power_of(url, tmp_path) as actuator:
        zeusd.discover = lambda: answer
        with pytest.raises(AdapterError, match="tells no GPUs with their addresses; a newer zeusd does"):
            actuator.discover()


@pytest.mark.parametrize("change", [
    {"servers": {}}, {"servers": {"n1": "unix://relative"}}, {"servers": {"n1": "/run/zeusd.sock"}},
    {"servers": {"n1": "http://h:1/x"}}, {"token": "plain"},
])  # fmt: skip
def test_a_config_that_cannot_be_is_refused(change):
    with pytest.raises(ValidationError, match=next(iter(change))):
        ZeusdConfig.model_validate({"type": "zeusd"} | change)
