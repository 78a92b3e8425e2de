"""The OpenADR 2.0b node against openleadr's own server: registration, signals, answers, withdrawals, reports, TLS."""

from contextlib import contextmanager
from datetime import UTC, datetime, timedelta

import pytest
import requests
from openleadr.objects import Measurement, PowerAttributes
from openleadr.utils import certificate_fingerprint

from scheduler.clock import WallClock
from scheduler.store.store import Store
from tests.support.certificates import Authority
from tests.support.loops import lab
from tests.support.power_worlds import wait_until
from tests.support.vtn2 import vtn2

pytestmark = pytest.mark.xdist_group("openadr2")
CHANNEL = '{type: webhook, secret: "file:secret"}'
SETTING = """{{type: openadr2, url: "{scheme}://127.0.0.1:{port}/OpenADR2/Simple/2.0b", ven_name: lab, resync: 1s,
  lost_after: 4s, report_every: 1s, dispatch_unit: kW, delta: positive_reduces,
  levels: {{"1": {{reduce_percent: 10}}, "2": {{reduce_percent: 25}}}}{more}}}"""
HOUR, MINUTE = timedelta(hours=1), timedelta(minutes=1)
ZERO = timedelta(0)


@contextmanager
def node(folder, port, scheme="http", more="", store=None, change=lambda text: text):
    text = SETTING.format(port=port, scheme=scheme, more=more)
    with lab(folder, lambda site: change(site.replace(CHANNEL, text)), store, WallClock()) as site:
        site.tick()
        site.parts.sessions.start()
        yield site


@pytest.fixture(scope="module")
def server():
    with vtn2() as found:
        yield found


@pytest.fixture
def site(tmp_path, server):
    server.answers.clear()
    with node(tmp_path, server.port) as made:
        yield made
    for event in list(server.server.services["event_service"].events.get(server.ven, [])):
        server.drop(event.event_descriptor.event_id)


def now():
    return datetime.now(UTC).replace(microsecond=0)


def row(site, event_id):
    return next((event for event in site.facade.events() if event.id == event_id), None)


def known(site, event_id, true=lambda event: True):
    wait_until(lambda: (found := row(site, event_id)) is not None and true(found))
    return row(site, event_id)


def answered(server, event_id, opt):
    wait_until(lambda: (event_id, opt) in server.answers)


def test_a_level_becomes_its_target_and_is_answered(site, server):
    start = now() + HOUR
    server.order("SIMPLE", "level", (start, HOUR, 2.0), (start + HOUR, HOUR, 1.0), event_id="levels")
    event = known(site, "levels")
    answered(server, "levels", "optIn")
    assert (event.start, event.end) == (start, start + 2 * HOUR)
    base_kw = event.baseline_kw
    assert event.target_kw == pytest.approx(0.75 * base_kw)
    (held,) = [event for event in site.ctx.ledger.active(now()) if event.id == "levels"]
    assert [span.value for span in held.targets] == pytest.approx([0.75 * base_kw, 0.9 * base_kw])


def power(scale, description="RealPower"):
    return Measurement("powerReal", description, "W", scale=scale, power_attributes=PowerAttributes(60, 480, True))


@pytest.mark.parametrize(
    ("kind", "value", "measurement", "share"),
    [
        ("setpoint", 40.0, None, lambda base: 40.0),
        ("setpoint", 0.04, power("M"), lambda base: 40.0),
        ("multiplier", 0.8, None, lambda base: 0.8 * base),
        ("delta", 5.0, None, lambda base: base - 5.0),
    ],
)
def test_a_dispatch_is_a_cap_a_share_or_a_difference(site, server, kind, value, measurement, share):
    name = f"dispatch-{kind}-{value}"
    server.order("LOAD_DISPATCH", kind, (now() + HOUR, HOUR, value), event_id=name, measurement=measurement)
    answered(server, name, "optIn")
    event = known(site, name)
    assert event.target_kw == pytest.approx(share(event.baseline_kw))


def test_what_cannot_be_followed_is_declined_aloud_and_does_not_hide_the_others(site, server):
    start = now() + HOUR
    server.order("ELECTRICITY_PRICE", "price", (start, HOUR, 0.3), event_id="price")
    server.order("LOAD_DISPATCH", "level", (start, HOUR, 1.0), event_id="dispatch-level")
    server.order("SIMPLE", "level", (start, HOUR, 3.0), event_id="level-3")
    energy = Measurement("energyReal", "RealEnergy", "Wh", scale="k")
    server.order("LOAD_DISPATCH", "setpoint", (start, HOUR, 4.0), event_id="energy", measurement=energy)
    server.order("SIMPLE", "level", (start + 3 * HOUR, HOUR, 1.0), event_id="good")
    answered(server, "good", "optIn")
    for name in ("price", "dispatch-level", "level-3", "energy"):
        answered(server, name, "optOut")
        assert row(site, name) is None
    said = " ".join(note.text for note in site.state.notes if note.code == "message_refused")
    assert all(word in said for word in ("ELECTRICITY_PRICE", "level is not followed", "level 3", "Wh"))


def test_a_message_that_breaks_the_schema_is_shown_to_people(site, server):
    start = now() + HOUR
    server.order("LOAD_DISPATCH", "setpoint", (start, HOUR, 4.0), event_id="bad", measurement=power("k", "Apparent"))
    wait_until(lambda: any("cannot be read" in note.text for note in site.state.notes))
    assert row(site, "bad") is None


def test_a_change_is_a_new_version_and_a_cancellation_leaves_by_the_ramp(site, server):
    start = now() - MINUTE
    server.order("LOAD_DISPATCH", "setpoint", (start, HOUR, 42.0), event_id="moves")
    known(site, "moves", lambda event: event.state in {"ramping_in", "active"})
    answered(server, "moves", "optIn")
    server.answers.clear()
    server.change("moves", lambda event: event.event_signals[0].intervals[0].update(signal_payload=39.0))
    known(site, "moves", lambda event: event.version == 1 and event.target_kw != 42.0)
    answered(server, "moves", "optIn")
    server.cancel("moves")
    known(site, "moves", lambda event: event.state == "ramping_out")


def test_case_16_an_event_that_the_server_no_longer_names_is_withdrawn(site, server):
    server.order("SIMPLE", "level", (now() + HOUR, HOUR, 1.0), event_id="dropped")
    known(site, "dropped", lambda event: event.state == "scheduled")
    server.drop("dropped")
    known(site, "dropped", lambda event: event.state == "cancelled")


@pytest.mark.parametrize("kind", ["oadrResponse", "oadrDistributeEvent"])
def test_an_answer_that_is_an_error_withdraws_nothing_and_is_told(site, server, monkeypatch, kind):
    server.order("SIMPLE", "level", (now() + HOUR, HOUR, 1.0), event_id="holds")
    known(site, "holds", lambda event: event.state == "scheduled")
    service = server.server.services["event_service"]

    async def failing(asked, said):
        events = {"events": []} if kind == "oadrDistributeEvent" else {}
        fault = {"response_code": 452, "response_description": "who are you", "request_id": said.get("request_id")}
        return kind, {"response": fault, "request_id": "r", **events}

    with monkeypatch.context() as patch:
        patch.setattr(service, "handle_message", failing)
        told = lambda: any("not tell its events: 452 who" in note.text for note in site.state.notes)  # noqa: E731
        wait_until(lambda: told() or row(site, "holds").state != "scheduled")
        assert row(site, "holds").state == "scheduled"
    server.drop("holds")
    known(site, "holds", lambda event: event.state == "cancelled")


def test_duration_0_is_open_ended(site, server):
    server.order("LOAD_DISPATCH", "setpoint", (now() - MINUTE, ZERO, 41.0), event_id="open")
    event = known(site, "open")
    assert event.end > now() + 11 * HOUR
    assert event.target_kw == 41.0
    answered(server, "open", "optIn")


def test_the_operators_no_reaches_the_server(site, server):
    server.order("SIMPLE", "level", (now() + HOUR, HOUR, 1.0), event_id="phoned")
    answered(server, "phoned", "optIn")
    site.facade.cancel_event("phoned", "ops")
    answered(server, "phoned", "optOut")


def test_the_import_is_reported_every_few_seconds_in_kw(site, server):
    server.reports.clear()
    wait_until(lambda: len(server.reports) >= 2)
    assert server.offered[:4] == ("lab", "powerReal", "W", "k")
    kw = site.state.tick.import_kw["lab"]
    assert server.reports[-1] == pytest.approx(kw, abs=0.01)


def test_a_voluntary_event_is_declined_at_first_and_joined_when_it_was_decided(tmp_path, server):
    server.answers.clear()
    voluntary = lambda text: text.replace("{id: elrp,", "{id: elrp, voluntary: true,")  # noqa: E731
    with node(tmp_path, server.port, change=voluntary) as site:
        server.order("SIMPLE", "level", (now() + 2 * HOUR, HOUR, 1.0), event_id="wished")
        answered(server, "wished", "optOut")
        site.facade.answer_event("wished", "in", "ops")
        answered(server, "wished", "optIn")
    server.drop("wished")


def test_a_restart_keeps_versions_and_says_the_same_again(tmp_path, server):
    server.answers.clear()
    server.order("SIMPLE", "level", (now() + HOUR, HOUR, 2.0), event_id="kept")
    for _ in range(2):
        with node(tmp_path, server.port, store=Store.open(tmp_path / "books.db")) as site:
            event = known(site, "kept")
            assert (event.version, event.state) == (0, "scheduled")
            wait_until(lambda: site.parts.sessions.sessions["elrp"]._book.held["kept"].told == "optIn")
    server.drop("kept")


def test_a_server_that_dies_is_lost_and_found(tmp_path):
    with vtn2() as first, node(tmp_path, first.port) as site:
        first.order("SIMPLE", "level", (now() + HOUR, HOUR, 1.0), event_id="stays")
        known(site, "stays")
        first.stop()
        wait_until(lambda: any(note.code == "channel_lost" for note in site.state.notes))
        assert row(site, "stays").state == "scheduled"
        with vtn2(port=first.port) as again:
            wait_until(lambda: again.registered)
            again.order("SIMPLE", "level", (now() + 2 * HOUR, HOUR, 2.0), event_id="after")
            known(site, "after")
        first.start()


def test_mutual_tls_and_signed_messages(tmp_path):
    ca = Authority(tmp_path)
    (vtn_cert, vtn_key), (ven_cert, ven_key) = ca.issue("vtn"), ca.issue("ven")
    tls = {
        "cert": str(vtn_cert), "key": str(vtn_key), "http_cert": str(vtn_cert), "http_key": str(vtn_key),
        "http_ca_file": str(ca.path),
    }  # fmt: skip
    mine, theirs = (certificate_fingerprint(path.read_text()) for path in (ven_cert, vtn_cert))
    files = ", certificate: ven.pem, certificate_key: ven.key, ca: ca.pem"
    with vtn2(tls=tls, fingerprint=mine) as server:
        with node(tmp_path, server.port, "https", f'{files}, vtn_fingerprint: "{theirs}"') as site:
            server.order("SIMPLE", "level", (now() + HOUR, HOUR, 2.0), event_id="signed")
            answered(server, "signed", "optIn")
            known(site, "signed")
            assert "oadr" in site.parts.sessions.sessions["elrp"].check()
        wrong = ":".join(["00"] * 10)
        with node(tmp_path, server.port, "https", f'{files}, vtn_fingerprint: "{wrong}"') as site:
            wait_until(lambda: any(note.code == "channel_lost" for note in site.state.notes))
            assert row(site, "signed") is None
        before = server.registered
        with node(tmp_path, server.port, "https") as site:  # no certificate of ours, and their CA unknown
            wait_until(lambda: any(note.code == "channel_lost" for note in site.state.notes))
            assert server.registered == before
        url = f"https://127.0.0.1:{server.port}/OpenADR2/Simple/2.0b/OadrPoll"
        with pytest.raises(requests.ConnectionError):  # the server lets nobody in without a certificate
            requests.post(url, data="", verify=str(ca.path), timeout=10)
        assert requests.post(url, data="", verify=str(ca.path), cert=(ven_cert, ven_key), timeout=10).status_code >= 400
