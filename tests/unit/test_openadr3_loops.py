"""From the utility's server to the caps of the GPUs, through the parts that the daemon runs."""

import socket
import time
from datetime import timedelta

import pytest
from fastapi.testclient import TestClient

from adapters.dr.vtn.warts import Wart
from optimizer.envelope import tightest_kw
from optimizer.reasons import Reason, Severity
from scheduler.api import ApiServer, ApiSettings, create_app
from scheduler.service import Refused
from tests.support.loops import START, lab
from tests.support.mosquitto import mosquitto
from tests.support.openadr3 import HOUR, MINUTE, capacity, payload, server, simple

LONG = timedelta(seconds=10)
BODY = b'{"objectType": "EVENT", "operation": "CREATE", "object": {}}'


@pytest.fixture(autouse=True)
def _secrets(monkeypatch):
    monkeypatch.setenv("VEN_SECRET", "ven-secret")
    monkeypatch.setenv("CALL_SECRET", "call-me")


def channel(url, terms="", **more):
    said = {"levels": '{1: "-10%", 2: "-25%"}', "client_id": "ven", "client_secret": "env:VEN_SECRET",
            "program": "dr", "timeout": "3s", "poll": "1s"} | more  # fmt: skip
    text = ", ".join(f"{key}: {value}" for key, value in said.items())
    old = '{id: elrp, site: lab, channel: {type: webhook, secret: "file:secret"},'
    return lambda site: site.replace(
        old, f'{{id: elrp, site: lab, {terms} channel: {{type: openadr3, url: "{url}", {text}}},'
    )


def put(running, event, name="e1"):
    running.vtn.put_event("p1", name, **{key: value for key, value in event.items() if key not in {"id", "programID"}})


def cap(made):
    return tightest_kw(made.ctx.ledger.active(made.clock.now()), made.clock.now())


def test_an_event_of_the_server_is_in_the_ledger_and_held_by_the_gpus(tmp_path):
    with server() as running, lab(tmp_path, channel(running.url)) as made:
        made.run(16 * MINUTE, 60.0)
        before = made.state.tick.import_kw["lab"]
        put(running, simple(2, start=made.clock.now() + 5 * MINUTE))
        (answer,) = made.parts.feeds.turn("elrp")
        assert (answer.state, answer.opt) == ("near", "in")
        assert answer.target_kw == pytest.approx(0.75 * answer.baseline_kw)
        ticks = made.run(20 * MINUTE, 5.0)
        assert ticks[-1].import_kw["lab"] <= answer.target_kw * 1.001 < before
        status = made.facade.event("e1")
        assert (status.state, status.source, status.program) == ("active", "openadr3", "elrp")
        running.vtn.drop_event("e1")
        (gone,) = made.parts.feeds.turn("elrp")
        assert gone.state == "ramping_out"
        made.run(6 * MINUTE, 5.0)
        assert made.facade.event("e1").state == "cancelled"


def test_case_15_a_running_event_that_is_extended_is_never_left_in_between(tmp_path):
    with server() as running, lab(tmp_path, channel(running.url)) as made:
        made.run(2 * MINUTE, 60.0)
        put(running, capacity(40, start=START, each="PT2H"))
        made.parts.feeds.turn("elrp")
        made.run(HOUR, 30.0)
        assert cap(made) == 40
        changed = capacity(40, 35, start=START, each="PT1H")
        changed["intervals"][1]["intervalPeriod"] = {"duration": "PT2H"}
        put(running, changed)
        made.parts.feeds.turn("elrp")
        highest, end = 0.0, made.clock.now() + 2 * HOUR - 10 * MINUTE
        while made.clock.now() < end:
            highest = max(highest, cap(made))
            made.clock.sleep(30)
        assert highest <= 40
        assert cap(made) == 35
        assert made.facade.event("e1").end == START + 3 * HOUR


def test_case_18_a_running_limit_that_can_no_longer_be_read_holds_beside_a_level_that_can(tmp_path):
    with server() as running, lab(tmp_path, channel(running.url)) as made:
        made.run(2 * MINUTE, 60.0)
        event = capacity(20, start=START, each="PT2H")
        event["intervals"][0]["payloads"].append(payload("SIMPLE", 1))
        put(running, event)
        made.parts.feeds.turn("elrp")
        made.run(10 * MINUTE, 30.0)
        put(running, event | {"payloadDescriptors": []})  # no unit any more
        made.parts.feeds.turn("elrp")
        alarm = next(note for note in made.state.notes if note.code is Reason.EVENT_UNREAD)
        assert (alarm.severity, "no unit is declared" in alarm.text) == (Severity.ALERT, True)
        made.run(10 * MINUTE, 30.0)
        assert (cap(made), made.facade.event("e1").state) == (20, "active")
        running.vtn.drop_event("e1")
        made.parts.feeds.turn("elrp")
        made.run(10 * MINUTE, 30.0)
        assert made.facade.event("e1").state == "cancelled"


def test_a_setpoint_of_nothing_goes_to_the_floors_and_says_what_is_missing(tmp_path):
    with server() as running, lab(tmp_path, channel(running.url)) as made:
        made.run(2 * MINUTE, 60.0)
        put(running, capacity(0, kind="DISPATCH_SETPOINT", start="0001-01-01", each="PT4H"))
        (answer,) = made.parts.feeds.turn("elrp")
        assert "are missing" in answer.reason
        ticks = made.run(10 * MINUTE, 5.0)
        assert any("can't get below" in note.text for note in ticks[-1].notes)


def test_what_a_program_does_not_allow_is_refused_in_the_books(tmp_path):
    with server() as running, lab(tmp_path, channel(running.url, "min_kw: 30,")) as made:
        made.run(2 * MINUTE, 60.0)
        put(running, simple(1, start=START + HOUR))
        (answer,) = made.parts.feeds.turn("elrp")
        assert (answer.state, answer.opt) == ("refused", "out")
        assert "below the program's smallest reduction" in answer.reason
        assert made.parts.feeds.turn("elrp") == (), "said once"


def test_a_server_that_is_lost_is_shown_at_once_and_so_is_its_return(tmp_path):
    with server() as running, lab(tmp_path, channel(running.url)) as made:
        made.tick()
        made.parts.feeds.turn("elrp")
        asked = []
        made.facade.wake = lambda: asked.append(1)
        port, state = running._server.server_address[1], running.vtn
        running.stop()
        made.parts.feeds.turn("elrp")
        made.parts.feeds.turn("elrp")
        assert asked == [1], "told once"
        with server(port=port, vtn=state):
            made.parts.feeds.turn("elrp")
        assert asked == [1, 1]
        (note,) = [note for note in made.state.notes if note.code is Reason.CHANNEL_LOST]
        assert (note.severity, note.text) == (Severity.INFO, "program elrp: well again")


def test_an_operators_withdrawal_holds_against_a_server_that_repeats_itself(tmp_path):
    with server() as running, lab(tmp_path, channel(running.url)) as made:
        made.run(2 * MINUTE, 60.0)
        put(running, simple(2, start=START + HOUR))
        made.parts.feeds.turn("elrp")
        made.facade.cancel_event("e1", "ann")
        made.parts.feeds.turn("elrp")
        put(running, simple(1, start=START + HOUR))
        made.parts.feeds.turn("elrp")
        assert made.ctx.ledger.active(made.clock.now()) == ()


@pytest.mark.parametrize("warts", [(), (Wart.DOUBLE_ENCODED, Wart.SNAKE_CASE, Wart.ECHO_BELOW), (Wart.V301,)])
def test_case_23_a_server_proves_our_address_and_its_calls_are_answered_by_reading(tmp_path, warts):
    """Server and daemon over two sockets: the echo test, the subscription, a call for each change."""
    with socket.create_server(("127.0.0.1", 0)) as probe:
        port = probe.getsockname()[1]
    settings = {"callback": f"http://127.0.0.1:{port}", "callback_secret": "env:CALL_SECRET", "poll": "1h"}
    with server(*warts) as running, lab(tmp_path, channel(running.url, **settings)) as made:
        made.tick()
        api = ApiServer(create_app(made.facade, ApiSettings(page=False, port=port), lambda: b""), "127.0.0.1", port)
        api.start()
        try:
            made.parts.feeds.start()
            wait_for(lambda: running.vtn.objects["subscriptions"], LONG)
            wait_for(lambda: any("/events?" in path for _, path in running.vtn.log), LONG)
            put(running, simple(2, start=START + HOUR))
            wait_for(made.facade.events, LONG)
            running.vtn.drop_event("e1")
            wait_for(lambda: made.facade.event("e1").state == "cancelled", LONG)
        finally:
            api.stop()


def test_case_17_and_19_a_message_over_mqtt_makes_it_read_and_a_retained_one_changes_nothing(tmp_path):
    with mosquitto(tmp_path) as broker, server(broker=f"mqtt://127.0.0.1:{broker.port}") as running:
        settings = {"mqtt": "true", "poll": "1h"}
        with lab(tmp_path, channel(running.url, **settings)) as made:
            made.tick()
            made.parts.feeds.start()
            link = made.parts.feeds.feeds["elrp"]._listener
            wait_for(lambda: link._link is not None and link._link.connected.is_set(), LONG)
            put(running, simple(2, start=START + HOUR))
            wait_for(made.facade.events, LONG)
            running.vtn.drop_event("e1")
            wait_for(lambda: made.facade.event("e1").state == "cancelled", LONG)
        with lab(tmp_path, channel(running.url, **settings)) as made:
            made.tick()
            made.parts.feeds.start()
            feed = made.parts.feeds.feeds["elrp"]
            heard, cue = [], made.parts.feeds.cue
            feed.on_cue = lambda: heard.append(cue("elrp"))
            wait_for(lambda: heard, LONG)
            before = len(running.vtn.log)
            wait_for(lambda: len(running.vtn.log) > before, LONG)
            assert made.facade.events() == (), "a retained message of an event that is gone is no event"
            broker.stop()
            wait_for(lambda: feed._listener.trouble, LONG)
            made.parts.feeds.turn("elrp")
            assert any("MQTT: the connection was lost" in note.text for note in made.state.notes)


def test_one_dead_subscriber_does_not_keep_an_event_from_us(tmp_path):
    with server(Wart.FAILS_ON_DEAD_SUBSCRIBER) as running, lab(tmp_path, channel(running.url)) as made:
        made.tick()
        dead = {"clientName": "x", "objectOperations": [
            {"objects": ["EVENT"], "operations": ["CREATE"], "callbackUrl": "http://127.0.0.1:9/"}]}  # fmt: skip
        running.vtn._create("subscriptions", dead, "other")
        put(running, simple(2, start=START + HOUR))
        (answer,) = made.parts.feeds.turn("elrp")
        assert answer.opt == "in"


def test_a_call_makes_the_thread_read_at_once(tmp_path):
    settings = {"callback": "https://me.example.net", "callback_secret": "env:CALL_SECRET", "poll": "1h"}
    with server() as running, lab(tmp_path, channel(running.url, **settings)) as made:
        made.tick()
        made.parts.feeds.start()
        client = TestClient(create_app(made.facade, ApiSettings(page=False), lambda: b""), base_url="http://localhost")
        wait_for(lambda: any("/events?" in path for _, path in running.vtn.log), LONG)
        put(running, simple(2, start=START + HOUR))
        good = {"Authorization": "Bearer call-me"}
        assert client.post("/dr/elrp", content=BODY, headers={"Authorization": "Bearer no"}).status_code == 401
        assert client.post("/dr/elrp", content=BODY, headers=good).json() == {"read": True}
        wait_for(made.facade.events, LONG)
        for path in ("/dr/elrp?echo=word", "/dr/elrp/echo?echo=word"):
            assert client.get(path).text == "word"
        assert client.get("/dr/elrp?echo=<script>").status_code == 422
        assert client.get("/dr/nobody?echo=word").status_code == 404
        with pytest.raises(Refused, match="no such channel"):
            made.facade.cue("nobody", {}, BODY)


def wait_for(what, until):
    end = time.monotonic() + until.total_seconds()
    while not what():
        assert time.monotonic() < end, "it does not happen"
        time.sleep(0.02)
