"""The HTTP side over a fake daemon: who may do what, what is refused and how, and what never leaves."""

import asyncio
import json
import socket
from datetime import timedelta

import httpx2 as httpx
import pytest
from fastapi.testclient import TestClient

from scheduler.api import ApiServer, ApiSettings, ServerError, Token, create_app
from scheduler.api.encode import Json, clean
from scheduler.clock import VirtualClock
from scheduler.service import Refused
from tests.support.fake_service import START, FakeService

READ, WRITE = "read-secret", "write-secret"
TOKENS = {"read_tokens": (Token("viewer", READ),), "write_tokens": (Token("amy", WRITE),)}
READS = ["/api/v1/status", "/api/v1/plan", "/api/v1/series", "/api/v1/prices", "/api/v1/health", "/api/v1/events",
         "/api/v1/quotes", "/api/v1/events/evening-peak", "/api/v1/jobs/eval-nightly",
         "/api/v1/jobs", "/api/v1/explain/chat", "/metrics"]  # fmt: skip
JOB = {"work_gpu_h": 64, "max_gpus": 16, "deadline": "2022-09-07T14:00:00Z"}
EVENT = {"id": "e1", "version": 1, "site": "west", "start": "2022-09-07T00:00:00Z", "end": "2022-09-07T02:00:00Z",
         "reduce_percent": 25}  # fmt: skip
WRITES = [
    ("POST", "/api/v1/events", EVENT, 201),
    ("DELETE", "/api/v1/events/evening-peak", None, 200),
    ("POST", "/api/v1/jobs", JOB, 201),
    ("DELETE", "/api/v1/jobs/eval-nightly", None, 200),
    ("POST", "/api/v1/jobs/eval-nightly/progress", {"done_gpu_h": 3}, 200),
    ("POST", "/api/v1/operator", {"action": "pause"}, 200),
]


def client_for(service=None, **settings):
    service = service or FakeService(VirtualClock(START + timedelta(hours=4)))
    app = create_app(service, ApiSettings(page=False, **(TOKENS | settings)), lambda: b"gridpace_up 1\n")
    return TestClient(app, base_url="http://localhost:8787", raise_server_exceptions=False)


def bearer(secret):
    return {"Authorization": f"Bearer {secret}"}


@pytest.fixture
def client():
    return client_for()


AS_AMY = bearer(WRITE) | {"Content-Type": "application/json"}


def test_events_come_a_page_at_a_time_and_one_by_id(client):
    def get(path):
        return client.get(path, headers=bearer(READ))

    assert client.post("/api/v1/events", json=EVENT, headers=AS_AMY).status_code == 201
    ids, before = [], None
    while True:
        page = get(f"/api/v1/events?limit=1{f'&before={before}' if before else ''}").json()
        ids += [event["id"] for event in page["events"]]
        if (before := page["next_before"]) is None:
            break
    assert ids == [event["id"] for event in get("/api/v1/events").json()["events"]]
    assert len(ids) > 1
    assert get(f"/api/v1/events/{ids[-1]}").json()["id"] == ids[-1]
    assert get("/api/v1/events/never-heard-of").status_code == 404
    assert get("/api/v1/jobs/never-heard-of").status_code == 404
    assert get("/api/v1/events?limit=0").status_code == 422


# ---------------------------------------------------------------- who may
@pytest.mark.parametrize("path", READS)
@pytest.mark.parametrize(
    ("host", "open_on_loopback", "secret", "status"),
    [
        ("127.0.0.1", True, None, 200),
        ("::1", True, None, 200),
        ("127.0.0.1", True, "wrong", 401),
        ("127.0.0.1", False, None, 401),
        ("0.0.0.0", True, None, 401),
        ("0.0.0.0", True, "wrong", 401),
        ("0.0.0.0", True, "", 401),
        ("0.0.0.0", True, READ, 200),
        ("0.0.0.0", True, WRITE, 200),
    ],
)
def test_reading_needs_a_token_unless_only_this_machine_can_ask(path, host, open_on_loopback, secret, status):
    client = client_for(host=host, open_on_loopback=open_on_loopback)
    answer = client.get(path, headers=bearer(secret) if secret is not None else {})
    assert answer.status_code == status, answer.text
    if status == 401:
        assert answer.headers["www-authenticate"] == "Bearer"


@pytest.mark.parametrize(("method", "path", "body", "done"), WRITES)
def test_changing_needs_a_write_token_even_on_loopback(client, method, path, body, done):
    def status(headers):
        return client.request(method, path, json=body, headers=headers).status_code

    assert [status({}), status(bearer("wrong")), status(bearer(READ))] == [401, 401, 403]
    assert status({"Authorization": "Basic YW15OndyaXRlLXNlY3JldA=="}) == 401  # what a browser sends by itself
    assert status(bearer(WRITE)) == done


def test_an_empty_secret_opens_nothing():
    client = client_for(host="0.0.0.0", read_tokens=(Token("x", ""),), write_tokens=(Token("y", ""),))
    assert client.get("/api/v1/status", headers=bearer("")).status_code == 401
    assert client.post("/api/v1/operator", json={"action": "pause"}, headers=bearer("")).status_code == 401


def test_the_books_hear_the_tokens_name_and_never_its_secret():
    service = FakeService(VirtualClock(START))
    client_for(service).post("/api/v1/operator", json={"action": "pause"}, headers=bearer(WRITE))
    assert service.orders[0].by == "amy"
    assert WRITE not in repr(ApiSettings(**TOKENS))


def test_a_signed_message_needs_no_bearer_and_a_forger_gets_no_hint(client):
    assert client.post("/dr/utility", content=b"peak", headers={"X-Signature": "good"}).json()["opt"] == "in"
    forged = client.post("/dr/utility", content=b"peak")
    assert (forged.status_code, forged.json()) == (401, {"error": "not accepted", "field": None})
    assert client.post("/dr/nowhere", content=b"peak").status_code == 404


def test_a_header_sent_twice_cannot_hide_behind_the_first(client):
    twice = [("X-Signature", "good"), ("X-Signature", "bad")]
    assert client.post("/dr/utility", content=b"peak", headers=twice).status_code == 401


# ---------------------------------------------------------------- what is refused
@pytest.mark.parametrize(
    "host", ["evil.example", "localhost.evil.example", "", "127.0.0.1.evil.example", "[::1", "a b"]
)
def test_a_foreign_host_name_is_refused(client, host):
    assert client.get("/healthz", headers={"Host": host}).status_code == 421


@pytest.mark.parametrize("host", ["localhost", "LOCALHOST:8787", "127.0.0.1:1", "[::1]:8787", "10.1.2.3", "grid.site"])
def test_our_names_and_literal_addresses_are_served(host):
    assert client_for(allowed_hosts=("grid.site",)).get("/healthz", headers={"Host": host}).status_code == 200


@pytest.mark.parametrize(
    ("change", "field"),
    [
        ({"deadline": "2022-09-07T14:00:00"}, "deadline"),
        ({"deadline": 1662559200}, "deadline"),
        ({"deadline": "9999-12-31T23:59:59-12:00"}, "deadline"),
        ({"work_gpu_h": float("nan")}, "work_gpu_h"),
        ({"work_gpu_h": float("inf")}, "work_gpu_h"),
        ({"work_gpu_h": -1}, "work_gpu_h"),
        ({"max_gpus": 1.5}, "max_gpus"),
        ({"id": "a\nb"}, "id"),
        ({"urgency": 3}, "urgency"),
        ({"pool": "chat"}, "pool"),
    ],
)
def test_a_wrong_job_names_its_field_and_is_not_queued(client, change, field):
    before = client.get("/api/v1/jobs").json()
    answer = client.post("/api/v1/jobs", content=json.dumps(JOB | change), headers=AS_AMY)
    assert answer.status_code == 422, answer.text
    assert answer.json()["field"] == field
    assert field in answer.json()["error"]
    assert client.get("/api/v1/jobs").json() == before


@pytest.mark.parametrize(
    "body",
    [b"", b"null", b"[]", b"{", b'{"a": NaN}', b'{"a": 1e999}', b'"x"', b"\xff\xfe", b'{"a": "\\ud800"}',
     b"[" * 100_000, b'{"a":' * 500 + b"1" + b"}" * 500, b'{"a": ' + b"9" * 5000 + b"}"],
)  # fmt: skip
def test_a_malformed_event_is_a_400_that_says_why(client, body):
    answer = client.post("/api/v1/events", content=body, headers=bearer(WRITE))
    assert answer.status_code == 400
    assert answer.json()["error"].startswith("the body is")


@pytest.mark.parametrize(
    "order",
    [{"action": "explode"}, {"action": "mode"}, {"action": "limit", "limit_kw": 5}, {"action": "pause", "limit_kw": 5},
     {"action": "resume", "mode": "control"}, {"action": "limit", "site": "mars", "limit_kw": 5}, {}],
)  # fmt: skip
def test_an_order_that_means_nothing_is_refused(order):
    service = FakeService(VirtualClock(START))
    assert client_for(service).post("/api/v1/operator", json=order, headers=bearer(WRITE)).status_code == 422
    assert service.orders == []


def test_an_event_known_already_is_answered_without_being_made_again(client):
    answers = [client.post("/api/v1/events", json=EVENT, headers=bearer(WRITE)) for _ in range(2)]
    assert [(answer.status_code, answer.json()["duplicate"]) for answer in answers] == [(201, False), (200, True)]


@pytest.mark.parametrize("query", ["start=2022-09-06T21:00:00", "start=2022-09-06T21:00:00Z&end=2022-09-06T20:00:00Z",
                                   "start=1999-01-01T00:00:00Z&end=2022-01-01T00:00:00Z"])  # fmt: skip
def test_series_refuses_naive_reversed_and_endless_spans(client, query):
    assert client.get(f"/api/v1/series?{query}").status_code == 422


def test_a_plus_in_a_query_is_a_plus(client):
    answer = client.get("/api/v1/series?start=2022-09-06T14:00:00-07:00&end=2022-09-06T22:00:00+00:00")
    assert answer.json()["at"][0] == "2022-09-06T21:00:00Z"


def test_refusals_and_failures_of_the_service_keep_their_status_and_shape():
    service = FakeService(VirtualClock(START))
    client = client_for(service)
    assert client.get("/api/v1/explain/nobody").status_code == 404
    service.explain = lambda target: (_ for _ in ()).throw(Refused("not now", 503))
    assert client.get("/api/v1/explain/chat").json() == {"error": "not now", "field": None}
    service.broken = True
    answer = client.get("/api/v1/status")
    assert (answer.status_code, answer.json()["error"]) == (500, "internal error; the log says more")
    assert client.get("/no/such/path").json() == {"error": "Not Found", "field": None}


def test_requested_enforced_and_measured_power_of_a_pool_are_told_apart():
    service = FakeService(VirtualClock(START))
    service.enforced_w = {"chat": 150.0}
    answer = client_for(service).get("/api/v1/status").json()
    chat, *others = answer["cycle"]["pools"]
    assert (chat["id"], chat["enforced_w"]) == ("chat", 150.0)
    assert chat["cap_w"] > 150
    assert chat["draw_kw"] > 0
    assert all(pool["enforced_w"] == pool["cap_w"] for pool in others)
    assert answer["tick"]["enforced_w"]["chat"] == 150.0


# ---------------------------------------------------------------- limits
def test_a_body_above_the_limit_is_refused_whether_it_says_its_length_or_not():
    client = client_for(max_body_bytes=1000)
    assert client.post("/dr/utility", content=b"x" * 1001).status_code == 413
    assert client.post("/dr/utility", content=iter([b"x" * 600, b"x" * 600])).status_code == 413
    assert client.post("/dr/utility", content=b"x" * 1000).status_code == 401


def test_a_body_that_never_ends_is_cut_off():
    settings = ApiSettings(page=False, body_timeout_s=0.05)
    app = create_app(FakeService(VirtualClock(START)), settings)
    sent = []

    async def receive():
        await asyncio.sleep(0.02)
        return {"type": "http.request", "body": b"x", "more_body": True}

    async def send(message):
        sent.append(message)

    scope = {"type": "http", "method": "POST", "path": "/dr/utility", "query_string": b"", "root_path": "",
             "headers": [(b"host", b"localhost")], "http_version": "1.1", "scheme": "http"}  # fmt: skip
    asyncio.run(asyncio.wait_for(app(scope, receive, send), 5))
    assert sent[0]["status"] == 408


# ---------------------------------------------------------------- what leaves
@pytest.mark.parametrize("hour", [1, 4])
@pytest.mark.parametrize("path", [path for path in READS if path != "/metrics"])
def test_answers_are_strict_json_with_utc_times(path, hour):
    client = client_for(FakeService(VirtualClock(START + timedelta(hours=hour))))

    def no_constant(name):
        raise AssertionError(f"{name} in {path}")

    answer = client.get(path)
    value = json.loads(answer.content, parse_constant=no_constant)
    assert answer.headers["content-type"] == "application/json"
    if path == "/api/v1/status":
        assert value["tick"]["at"] == f"2022-09-06T{21 + hour - 24 * (hour > 2):02}:00:00Z".replace("06T01", "07T01")
        assert (value["tick"]["target_kw"]["west"] is None) == (hour == 1)  # no event: no limit, not infinity


def test_before_the_first_cycle_everything_still_answers():
    service = FakeService(VirtualClock(START))
    service.started = False
    client = client_for(service)
    assert client.get("/api/v1/status").json() == {"cycle": None, "tick": None}
    assert client.get("/api/v1/plan").status_code == 404
    assert client.get("/healthz").status_code == 503
    assert client.get("/api/v1/series").status_code == 404


def test_text_that_is_no_text_still_makes_an_answer():
    assert Json({"name": "\ud800", "limit": float("inf")}).body == b'{"name":"\\ud800","limit":null}'


def test_what_reaches_a_log_stays_on_its_line():
    assert clean("peak\n2022 ALERT \x1b[31mfake\u2028") == "peak\\n2022 ALERT \\x1b[31mfake\\u2028"


def test_the_description_is_whole_and_nothing_asks_another_host(client):
    paths = client.get("/openapi.json").json()["paths"]
    assert len(paths) == 22
    assert client.get("/docs").status_code == client.get("/redoc").status_code == 404
    assert "default-src 'self'" in client.get("/healthz").headers["content-security-policy"]


def test_without_the_page_the_root_says_where_to_go(client):
    assert "/api/v1" in client.get("/").text


# ---------------------------------------------------------------- the server
def test_server_starts_listening_stops_and_frees_its_port():
    app = create_app(FakeService(VirtualClock(START)), ApiSettings(page=False))
    server = ApiServer(app, "127.0.0.1", 0)
    server.start()
    assert httpx.get(f"{server.url}/healthz").json() == {"ok": True}
    with pytest.raises(ServerError, match=f"127.0.0.1:{server.port}.*in use"):
        ApiServer(app, "127.0.0.1", server.port).start()
    assert server.stop()
    with socket.create_server(("127.0.0.1", server.port)):
        pass


def test_server_says_when_the_address_is_not_ours():
    app = create_app(FakeService(VirtualClock(START)), ApiSettings(page=False))
    with pytest.raises(ServerError, match=r"no-such-host\.invalid"):
        ApiServer(app, "no-such-host.invalid", 0).start()
