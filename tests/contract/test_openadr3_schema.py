"""Every OpenADR 3 request that we send, and every answer of our own server, against the Alliance's document.

Judged by openapi-core on the unmodified document (tests/data/openadr/NOTICE.md), which knows nothing of our code.
"""

from hashlib import sha256
from pathlib import Path

import pytest
import requests
from openapi_core import OpenAPI
from openapi_core.contrib.requests import RequestsOpenAPIRequest, RequestsOpenAPIResponse
from ruamel.yaml import YAML

from adapters.dr.openadr3.http import ServerError
from adapters.dr.polled import EventFigures
from tests.support.openadr3 import HOUR, NOON, capacity, feed, payload, period, server, simple, units
from tests.unit.test_openadr3_reports import Meter

pytestmark = pytest.mark.filterwarnings("ignore:Unsupported scheme type")

DOCUMENT = Path(__file__).parent.parent / "data/openadr/openadr-3.1.0.yaml"
SHA256 = "0a85f28a91565b3e2c7488d2a7a7a9afb11ce3ef6b35afddb328484720077006"


@pytest.fixture(scope="module")
def document():
    raw = DOCUMENT.read_bytes()
    assert sha256(raw).hexdigest() == SHA256
    loaded = YAML(typ="safe").load(raw)
    # The document's one slip against its own rules: a default of "null          -" where null was meant.
    slip = loaded["components"]["schemas"]["BlVenRequest"]["properties"]["targets"]
    assert slip.pop("default") == "null          -"
    # What a server shows must be a VEN (objectMetadata) and a BL_VEN_REQUEST at once, which nothing can be.
    for name in ("BlVenRequest", "BlResourceRequest"):
        kind = loaded["components"]["schemas"][name]["properties"]["objectType"]
        assert kind.pop("enum")[0].startswith("BL_")
    return loaded


def judge(document, base):
    return OpenAPI.from_dict(document | {"servers": [{"url": base}]})


@pytest.fixture
def judged(document, monkeypatch):
    """Judges every exchange of `requests` with the address that it is given; the list of what was exchanged."""
    monkeypatch.setenv("VEN_SECRET", "ven-secret")
    monkeypatch.setenv("CALL_SECRET", "call-me")
    seen, faults, judges = [], [], {}
    send = requests.Session.send

    def judging(session, request, **kwargs):
        answer = send(session, request, **kwargs)
        if "/openadr3/3.1.0" not in request.url:
            return answer
        base = request.url.partition("/openadr3/3.1.0")[0] + "/openadr3/3.1.0"
        judges.setdefault(base, None)
        judges[base] = judges[base] or judge(document, base)
        answer.content  # noqa: B018 - reads the stream, so that the judge can
        path = request.url.removeprefix(base).partition("?")[0]
        seen.append((request.method, path, answer.status_code))
        try:
            asked = RequestsOpenAPIRequest(request)
            judges[base].validate_request(asked)
            if answer.status_code < 500:
                judges[base].validate_response(asked, RequestsOpenAPIResponse(answer))
        except Exception as error:
            faults.append(
                f"{request.method} {path}: {error!r} {getattr(error.__cause__, 'schema_errors', error.__cause__)}"
            )
        return answer

    monkeypatch.setattr(requests.Session, "send", judging)
    yield seen
    assert faults == []


def asked(kind, **more):
    return {"payloadType": kind} | more


def test_all_that_a_life_with_a_server_sends_fits_the_alliances_document(judged):
    with (
        server() as running,
        feed(running.url, callback="http://127.0.0.1:9/", callback_secret="env:CALL_SECRET") as vtn,
    ):
        running.vtn.challenge = lambda *_: True
        reports = [
            asked("USAGE"),
            asked("DEMAND", aggregate=True),
            asked("BASELINE"),
            asked("OPERATING_STATE", frequency=0),
            asked("LOAD_SHED_DELTA_AVAILABLE", historical=False),
            asked("USAGE_FORECAST", historical=False),
            asked("USAGE", reportIntervals="SUB_INTERVALS"),
        ]
        for event in (simple(2, start=NOON, reportDescriptors=reports), capacity(4000) | {"id": "e2"}):
            running.vtn.put_event("p1", event["id"], **{k: v for k, v in event.items() if k not in {"id", "programID"}})
        vtn.poll(NOON)
        meter = Meter()
        meter.told = EventFigures(4000.0, 900.0, 4500.0, 3000.0, "refused", "out", "too much", 900.0)
        vtn.report(meter, NOON)
        meter.kw = None
        vtn.report(meter, NOON + HOUR)
        running.vtn.tokens.clear()
        vtn.poll(NOON)
        vtn.check()
        assert len(running.vtn.objects["reports"]) >= 8
    ways = {(method, path) for method, path, _ in judged}
    assert ways >= {("GET", f"/{name}") for name in ("auth/server", "programs", "events", "vens", "resources")}
    assert ways >= {("POST", f"/{name}") for name in ("auth/token", "vens", "resources", "subscriptions", "reports")}
    assert {status for *_, status in judged} >= {200, 201, 401}


def test_what_is_rarely_sent_fits_too(judged):
    """Targets by name, topics of the MQTT notifier, a report looked for after a lost answer, a program that is gone."""
    with server(broker="mqtt://127.0.0.1:1883") as running, feed(running.url, targets=["a", "b"]) as vtn:
        event = simple(2, start=NOON, reportDescriptors=[asked("USAGE")], targets=["a"])
        running.vtn.put_event("p1", "e1", **{k: v for k, v in event.items() if k not in {"id", "programID"}})
        vtn.poll(NOON)
        running.vtn.objects["vens"][vtn.party.ven_id]["targets"] = ["a", "b"]
        vtn.poll(NOON)
        assert len(vtn._listener._topics()) == 4
        vtn.client.get("/notifiers")
        post = vtn.client.post

        def lost(path, body):
            post(path, body)
            raise ServerError("no answer in time")

        vtn.client.post = lost
        vtn.report(Meter(), NOON + HOUR)
        vtn.client.post = post
        vtn.poll(NOON + HOUR)
        vtn.report(Meter(), NOON + HOUR)
        assert len(running.vtn.objects["reports"]) == 1
        running.vtn.objects["programs"].clear()
        vtn.poll(NOON + HOUR)
        assert "gone from the server" in vtn.party.missing
    ways = {(method, path) for method, path, _ in judged}
    assert ways >= {("GET", "/notifiers"), ("GET", "/reports"), ("GET", "/programs/p1")}
    assert any(path.startswith("/notifiers/mqtt/topics/vens/") for _, path in ways)


def test_what_the_utilitys_hand_does_and_is_refused_fits_too(judged):
    with server() as running:
        form = {"grant_type": "client_credentials", "client_id": "bl", "client_secret": "bl-secret"}
        token = requests.post(running.url + "/auth/token", data=form, timeout=5).json()["access_token"]
        session = requests.Session()
        session.headers["Authorization"] = f"Bearer {token}"
        made = session.post(running.url + "/programs", json={"programName": "other"}, timeout=5)
        assert made.status_code == 201
        assert session.post(running.url + "/programs", json={"programName": "other"}, timeout=5).status_code == 409
        event = {"programID": made.json()["id"], "intervals": [{"id": 0, "payloads": [payload("PRICE", 0.1)]}]}
        event |= period(NOON, "PT1H") | {"payloadDescriptors": [units("PRICE", "KWH", currency="USD")]}
        event = session.post(running.url + "/events", json=event, timeout=5).json()
        address = f"{running.url}/events/{event['id']}"
        assert session.put(address, json=event, timeout=5).status_code == 200
        assert session.get(address, timeout=5).json()["id"] == event["id"]
        assert session.delete(address, timeout=5).status_code == 200
        assert session.get(address, timeout=5).status_code == 404
        assert session.get(running.url + "/notifiers", timeout=5).status_code == 200
        session.close()


def test_the_judge_finds_what_does_not_fit(document):
    api = judge(document, "http://h/openadr3/3.1.0")
    bad = {"eventID": "not/an/id", "clientName": "x", "resources": [{"resourceName": "r"}]}
    request = requests.Request(
        "POST", "http://h/openadr3/3.1.0/reports", json=bad, headers={"Authorization": "Bearer t"}
    )
    with pytest.raises(Exception, match=r"[Vv]alidation|Invalid"):
        api.validate_request(RequestsOpenAPIRequest(request.prepare()))
