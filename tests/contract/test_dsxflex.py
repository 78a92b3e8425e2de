"""The DSX Flex agent against a real Mosquitto: orders in, states and breaches out, lost brokers, replays, forgeries."""

import json
import subprocess
import time
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta

import pytest
from ruamel.yaml import YAML

from adapters import mqtt
from adapters.context import AdapterContext
from adapters.dr.dsxflex import DsxFlexSession
from adapters.dr.dsxflex_config import DsxFlexConfig
from adapters.ports import AdapterError, EventRefused
from scheduler.checking import _channels
from scheduler.clock import WallClock
from scheduler.store.store import Store
from tests.support.certificates import Authority
from tests.support.dsx_isv import SETTING, Isv, moment, target, write_keys
from tests.support.loops import START, lab
from tests.support.mosquitto import mosquitto
from tests.support.power_worlds import wait_until
from tests.support.system import require

CHANNEL = '{type: webhook, secret: "file:secret"}'
MINUTE, HOUR = timedelta(minutes=1), timedelta(hours=1)


@contextmanager
def agent(folder, port, store=None, setting=SETTING, **changes):
    """A lab whose program speaks DSX Flex, connected."""
    text = "{" + setting.format(port=port, **changes) + "}"
    with lab(folder, lambda site: site.replace(CHANNEL, text), store) as made:
        made.tick()
        made.parts.sessions.start()
        session = made.parts.sessions.sessions["elrp"]
        wait_until(session._link.connected.is_set)
        yield made


@pytest.fixture
def broker(tmp_path):
    with mosquitto(tmp_path) as found:
        yield found


@pytest.fixture
def site(tmp_path, broker):
    write_keys(tmp_path)
    with agent(tmp_path, broker.port) as made:
        yield made


@pytest.fixture
def isv(tmp_path, broker, site):
    found = Isv(tmp_path, broker.port)
    yield found
    found.close()


def events(site):
    """What the ledger holds and has not put an end to, oldest first."""
    return [event for event in reversed(site.facade.events()) if event.state not in {"cancelled", "refused"}]


def refusals(site):
    return [note.text for note in site.state.notes if note.code == "message_refused"]


def settled(site, isv):
    """Wait until the agent has handled all that was published before: its answer to one more target, far ahead."""
    start = START + timedelta(days=100) + timedelta(seconds=time.monotonic())
    marker = isv.set(target(99, start, start + MINUTE))
    isv.wait_state(lambda s: any(t["correlation_id"] == marker["correlationid"] for t in s["targets"]))
    isv.set(target(None, start, start + MINUTE))
    isv.wait_state(lambda s: not any(t["interval"]["start_time"].startswith("2022-12") for t in s["targets"]))
    wait_until(lambda: not any(event.start > START + timedelta(days=90) for event in events(site)))


def test_a_load_target_reaches_the_first_cap_and_is_told_with_its_correlation_id(site, isv):
    sent = isv.set(target(40, START, START + HOUR), target(30, START + HOUR, START + 2 * HOUR, best_effort=True))
    told = isv.wait_state(lambda s: s["event"] == "target_set")
    assert [t["correlation_id"] for t in told["targets"]] == [sent["correlationid"]] * 2
    assert [t["active"] for t in told["targets"]] == [True, False]
    assert told["targets"][1]["strategy"] == {"best_effort": True}
    (event,) = events(site)
    assert (event.target_kw, event.end, event.source) == (40.0, START + 2 * HOUR, "dsxflex acme")
    site.clock.sleep(301)
    assert site.tick().target_kw["lab"] == 40.0
    _, envelope, _ = isv.heard[-1]
    assert envelope["specversion"] == "1.0.2"
    assert envelope["source"] == "//grid/v1/dsx-flex-agent/lab-flex"
    status = next(e for _, e, d in isv.heard if d["feeds"]["main-a"]["event"] == "target_set")
    assert status["correlationid"] == sent["correlationid"]
    assert status["traceparent"].split("-")[1] == sent["traceparent"].split("-")[1]


def test_ramps_are_told_as_they_begin_and_end_and_the_heartbeat_between(site, isv):
    isv.set(target(40, START, START + 10 * MINUTE))
    isv.wait_state(lambda s: s["event"] == "start_ramp_down" and s["in_flight"])
    for seconds, event in ((310, "end_ramp_down"), (300, "start_ramp_up"), (305, "end_ramp_up")):
        site.clock.sleep(seconds)
        site.tick()
        isv.wait_state(lambda s, event=event: s["event"] == event)
    site.clock.sleep(3)
    isv.wait_state(lambda s: s["event"] == "periodic" and not s["targets"] and s["compliant"])


def test_null_ends_a_target_from_inside_by_the_ramp_and_a_scheduled_one_at_once(site, isv):
    isv.set(target(40, START, START + HOUR), target(35, START + 3 * HOUR, START + 4 * HOUR))
    wait_until(lambda: len(events(site)) == 2)
    site.clock.sleep(600)
    site.tick()
    isv.wait_state(lambda s: s["event"] == "end_ramp_down")
    isv.set(target(None))
    wait_until(lambda: not [event for event in events(site) if event.state not in {"ramping_out", "done"}])
    isv.wait_state(lambda s: s["event"] == "start_ramp_up")
    site.clock.sleep(10)
    assert 40.0 < site.tick().target_kw["lab"] < float("inf")


def test_a_tighter_target_in_flight_never_lets_the_site_go_up(site, isv):
    isv.set(target(45, START, START + HOUR))
    wait_until(lambda: events(site))
    site.clock.sleep(600)
    assert site.tick().target_kw["lab"] == 45.0
    isv.set(target(40, START + 10 * MINUTE, START + 2 * HOUR))
    wait_until(lambda: events(site)[0].end == START + 2 * HOUR)
    caps = []
    for _ in range(40):
        site.clock.sleep(10)
        caps.append(site.tick().target_kw["lab"])
    assert caps == sorted(caps, reverse=True)
    assert caps[0] <= 45.0
    assert caps[-1] == 40.0


def test_a_target_without_an_end_goes_on_for_longer_than_the_program_allows_one_event(site, isv):
    isv.set(target(40))
    wait_until(lambda: events(site))
    for version in range(1, 6):
        site.clock.sleep(7 * 3600)
        wait_until(lambda version=version: events(site)[-1].version == version, 5)
        assert site.tick().target_kw["lab"] == 40.0
    assert isv.wait_state(lambda s: s["targets"])["targets"][0]["interval"].get("end_time") is None


def test_the_same_message_twice_is_one_and_its_data_in_another_envelope_is_refused(site, isv):
    sent = isv.set(target(40, START + HOUR, START + 2 * HOUR))
    isv.publish(sent)
    isv.publish({**sent, "id": isv.envelope()["id"], "time": moment(datetime.now(UTC) + MINUTE)})
    settled(site, isv)
    (event,) = events(site)
    assert event.version == 0
    assert "came before" in refusals(site)[-1]


def forged(isv):
    """Messages that must change nothing, each with a word of why."""
    good = target(1, START + HOUR, START + 2 * HOUR)
    whole = isv.envelope(good)
    other = {"targets": [{**good, "load_constraint": {"value": -3, "unit": "kilowatt"}}]}
    head, body, tail = whole["data"].split(".")
    swapped = isv.sign({"targets": [target(2)]}).split(".")[1]
    return {
        "no JSON": (b"{", "JSON"),
        "an array": (b"[]", "object"),
        "too large": (b" " * 300_000, "larger"),
        "not signed": (isv.envelope(data={"targets": [good]}), "not signed"),
        "payload exchanged": (isv.envelope(data=f"{head}.{swapped}.{tail}"), "not authenticated"),
        "no signature": (isv.envelope(data=f"{head}.{body}."), "not authenticated"),
        "unknown key": (isv.envelope(data=isv.sign({"targets": [good]}, kid="else")), "not authenticated"),
        "key of the infrastructure": (
            isv.envelope(data=isv.sign({"targets": [good]}, kid="ima-1", key="ima.pem")),
            "not authenticated",
        ),
        "another's source": (isv.envelope(good, source="//grid/v1/isv/other"), "source"),
        "no JWS": (isv.envelope(data="hello"), "not authenticated"),
        "version of CloudEvents": (isv.envelope(good, specversion="1.0"), "specversion"),
        "id": (isv.envelope(good, id="00000000-0000-1000-8000-000000000000"), "UUIDv4"),
        "no trace": (isv.envelope(good, traceparent=None), "traceparent"),
        "other type": (isv.envelope(good, type="grid.powerstate.status.v1"), "type"),
        "from the future": (isv.envelope(good, time=moment(datetime.now(UTC) + HOUR)), "ahead"),
        "too old": (isv.envelope(good, time=moment(datetime.now(UTC) - timedelta(days=2))), "longer ago"),
        "no targets": (isv.envelope(), "targets"),
        "negative": (isv.envelope(data=isv.sign(other)), "value"),
        "unit": (isv.envelope(target(1, unit="horsepower")), "unit"),
        "no constraint": (isv.envelope({"interval": {}}), "load_constraint"),
        "backwards": (isv.envelope(target(1, START + HOUR, START)), "end_time"),
        "over already": (isv.envelope(target(1, START - 2 * HOUR, START - HOUR)), "is over"),
        "naive time": (isv.envelope({**good, "interval": {"start_time": "2022-09-06T22:00:00"}}), "start_time"),
        "not a number": (isv.envelope(target("40", START)), "value"),
    }


def test_malformed_and_forged_messages_among_good_ones_are_refused_aloud_and_change_nothing(site, isv):
    isv.set(target(40, START + HOUR, START + 2 * HOUR))
    for body, _ in forged(isv).values():
        isv.publish(body)
    isv.set(target(38, START + 3 * HOUR, START + 4 * HOUR))
    settled(site, isv)
    assert [event.target_kw for event in events(site)] == [40.0, 38.0]
    assert all(event.version == 0 for event in events(site))


@pytest.mark.parametrize("number", range(24))
def test_each_refusal_names_what_is_wrong(tmp_path, number):
    from adapters.dr.dsxflex_inbox import Inbox
    from adapters.dr.dsxflex_jws import Keys
    from tests.support.dsx_isv import offline_isv, setting

    write_keys(tmp_path)
    isv, config = offline_isv(tmp_path), DsxFlexConfig.model_validate(setting(1883))
    inbox = Inbox(config, Keys((key, tmp_path / key.file) for key in config.trusted))
    body, why = list(forged(isv).values())[number]
    data = body if isinstance(body, bytes) else json.dumps(body).encode()
    with pytest.raises(EventRefused, match=why):
        inbox.read_targets(data, START, datetime.now(UTC))


def test_rs256_signs_as_well_and_other_feeds_are_passed_over(tmp_path, broker, site, isv):
    rsa = Isv(tmp_path, broker.port, kid="acme-2", key="acme-rsa.pem")
    rsa.set(target(41, START + HOUR, START + 2 * HOUR, feeds=["main-b", "main-a"]))
    wait_until(lambda: [event.target_kw for event in events(site)] == [41.0])
    rsa.set(target(20, START + HOUR, START + 2 * HOUR, feeds=["main-b"]))
    settled(site, isv)
    assert [event.target_kw for event in events(site)] == [41.0]
    rsa.close()


def test_a_message_made_earlier_never_covers_a_later_one_whatever_the_order_of_arrival(site, isv):
    made = datetime.now(UTC)
    late = isv.envelope(target(30, START + HOUR, START + 2 * HOUR), time=moment(made - MINUTE))
    isv.publish(isv.envelope(target(42, START + HOUR, START + 2 * HOUR), time=moment(made)))
    isv.publish(late)
    settled(site, isv)
    assert [event.target_kw for event in events(site)] == [42.0]


def test_a_breach_is_told_grows_critical_and_is_resolved_under_one_id(site, isv):
    site.ctx.dispatcher.writes = False  # orders no longer reach the cards: the site stays above its target
    kw = site.tick().import_kw["lab"] / 1.1
    isv.set(target(kw, START, START + HOUR))
    wait_until(lambda: events(site))
    site.clock.sleep(305)
    wait_until(lambda: site.tick() and site.clock.sleep(1) is None and isv.alerts(), 10)
    isv.set(target(kw / 1.2, None, START + HOUR))
    wait_until(lambda: events(site)[-1].version == 1)
    site.clock.sleep(400)
    wait_until(lambda: site.tick() and len(isv.alerts()) == 2, 10)
    isv.set(target(None))
    wait_until(lambda: site.tick() and len(isv.alerts()) == 3, 10)
    active, escalated, resolved = isv.alerts()
    assert [alert["status"] for alert in isv.alerts()] == ["active", "escalated", "resolved"]
    assert [active["severity"], escalated["severity"]] == ["warning", "critical"]
    assert len({alert["breach"]["breach_id"] for alert in isv.alerts()}) == 1
    assert active["shed_hints"][0]["priority"] == 1
    assert active["shed_hints"][0]["target_power"]["unit"] == "watt"
    assert "shed_hints" not in resolved
    assert resolved["infrastructure_actions"] == []
    assert "resolved_at" in resolved["breach"]


def test_what_the_infrastructure_did_is_shown_to_people(tmp_path, broker, site, isv):
    done = {
        "breach_id": isv.envelope()["id"], "feed_tag": "main-a", "action": "applied", "code": "partial",
        "results": [], "timestamp": moment(START), "diag_msg": "BMC unreachable",
    }  # fmt: skip
    infra = Isv(tmp_path, broker.port, name="ima", kid="ima-1", key="ima.pem")
    body = infra.envelope(source="//grid/v1/infra/ima", type="grid.powerbreach.enforcement.v1", data=infra.sign(done))
    infra.publish(body, qos=2, topic="grid/v1/infra/ima/powerbreach/enforcement")
    wait_until(lambda: any("applied its actions, partial (BMC unreachable)" in note.text for note in site.state.notes))
    infra.close()


def test_a_broker_that_dies_changes_nothing_and_is_found_again(site, isv, broker):
    isv.set(target(40, START, START + HOUR))
    wait_until(lambda: events(site))
    broker.stop()
    site.clock.sleep(400)
    assert site.tick().target_kw["lab"] == 40.0
    broker.start()
    session = site.parts.sessions.sessions["elrp"]
    wait_until(lambda: session._link.connected.is_set() and isv.client.is_connected(), 30)
    isv.heard.clear()
    isv.wait_state(lambda s: s["targets"] and s["targets"][0]["load_constraint"]["value"] == 40.0)
    isv.set(target(38, START, START + HOUR))
    wait_until(lambda: events(site)[-1].version == 1)


def test_orders_given_while_the_daemon_is_away_wait_at_the_broker_and_retained_ones_count_once(tmp_path, broker):
    write_keys(tmp_path)
    store = Store.open(tmp_path / "books.db")
    with agent(tmp_path, broker.port, store) as site:
        isv = Isv(tmp_path, broker.port)
        isv.publish(isv.envelope(target(40, START + HOUR, START + 2 * HOUR)), retain=True)
        wait_until(lambda: events(site))
    isv.set(target(35, START + 3 * HOUR, START + 4 * HOUR))
    with agent(tmp_path, broker.port, Store.open(tmp_path / "books.db")) as site:
        wait_until(lambda: len(events(site)) == 2)
        settled(site, isv)
        assert [(event.target_kw, event.version) for event in events(site)] == [(40.0, 0), (35.0, 0)]
        assert not refusals(site)
    isv.close()


@pytest.mark.filterwarnings("ignore::ResourceWarning")  # paho leaves sockets of failed handshakes to the collector
@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")
def test_mutual_tls_with_the_broker_and_a_login_that_is_refused(tmp_path, monkeypatch):
    monkeypatch.setattr(mqtt, "CONNECT_S", 2.0)
    write_keys(tmp_path)
    ca, stranger = Authority(tmp_path), Authority(tmp_path, "stranger")
    broker_cert, broker_key = ca.issue("broker")
    ca.issue("agent")
    tls = {"ca": ca.path, "certificate": broker_cert, "key": broker_key}
    files = ", ca: ca.pem, certificate: agent.pem, certificate_key: agent.key"
    with mosquitto(tmp_path, tls) as broker:
        safe = SETTING.replace("mqtt://", "mqtts://")
        with agent(tmp_path, broker.port, setting=safe + files) as site:
            check = site.parts.sessions.sessions["elrp"].check()
            assert "lets lab-flex-check in" in check
        stranger.issue("agent")
        for wrong in (files, files.replace("ca.pem", "stranger.pem")):  # their key unknown there; its key unknown here
            config = DsxFlexConfig.model_validate(
                YAML(typ="safe").load("{" + safe.format(port=broker.port) + wrong + "}")
            )
            session = DsxFlexSession(config, AdapterContext(WallClock(), tmp_path))
            with pytest.raises(AdapterError, match="mqtts://"):
                session.check()


def test_a_burst_ends_in_the_last_target_with_few_versions(site, isv):
    for kw in range(60):  # more than the broker has under way without acknowledgements
        isv.set(target(30 + kw / 10, START + HOUR, START + 2 * HOUR))
    wait_until(lambda: [event.target_kw for event in events(site)] == [35.9])
    assert events(site)[0].version < 60


def test_what_cannot_be_written_down_waits_and_is_taken_when_the_books_can(site, isv, monkeypatch):
    records = site.parts.sessions.sessions["elrp"]._context.records

    def full(*_):
        raise OSError("no space left on device")

    with monkeypatch.context() as broken:
        broken.setattr(records, "put", full)
        isv.set(target(40, START + HOUR, START + 2 * HOUR))
        time.sleep(1.5)
        assert events(site) == []
    wait_until(lambda: [event.target_kw for event in events(site)] == [40.0])


def test_check_makes_the_channel_and_connect_asks_the_broker(tmp_path, broker):
    write_keys(tmp_path)
    text = "{" + SETTING.format(port=broker.port) + "}"
    with lab(tmp_path, lambda site: site.replace(CHANNEL, text)) as site:
        config = site.parts.config

    def said(connect=False):
        (line,) = [line for line in _channels(config, connect) if line.part == "program elrp"]
        return line.state, line.text

    assert said() == ("ok", "made; --connect tries the connection")
    assert said(connect=True) == ("ok", f"mqtt://127.0.0.1:{broker.port} lets lab-flex-check in")
    (tmp_path / "acme.pub").write_text("no key")
    assert said()[0] == "failed"
    assert "acme.pub" in said()[1]


def test_a_token_is_the_password_and_is_read_again_at_every_connection(tmp_path, monkeypatch):
    require("mosquitto", "mosquitto_passwd")
    monkeypatch.setattr(mqtt, "CONNECT_S", 3.0)
    write_keys(tmp_path)
    ca = Authority(tmp_path)
    certificate, key = ca.issue("broker")
    (tmp_path / "passwords").write_text("oauthtoken:right\n")
    subprocess.run(["mosquitto_passwd", "-U", tmp_path / "passwords"], check=True)
    (tmp_path / "passwords").chmod(0o644)
    tls = {"ca": ca.path, "certificate": certificate, "key": key}
    with mosquitto(tmp_path, tls, password_file=tmp_path / "passwords") as broker:
        more = ', ca: ca.pem, token: "file:token"'
        setting = SETTING.replace("mqtt://", "mqtts://").format(port=broker.port) + more
        config = DsxFlexConfig.model_validate(YAML(typ="safe").load("{" + setting + "}"))
        session = DsxFlexSession(config, AdapterContext(WallClock(), tmp_path))
        (tmp_path / "token").write_text("wrong")
        with pytest.raises(AdapterError, match="refuses us"):
            session.check()
        (tmp_path / "token").write_text("right")
        assert "lets" in session.check()
