"""Whatever is thrown at the API: never a 5xx, a refusal is JSON that says why, and it goes on answering afterwards."""

import json

import pytest
from fastapi.testclient import TestClient
from hypothesis import given
from hypothesis import strategies as st

from scheduler.api import ApiSettings, Token, create_app
from scheduler.clock import VirtualClock
from tests.support.fake_service import START, FakeService

pytestmark = pytest.mark.timeout(300)  # thousands of requests, on a machine that may be busy

TOKEN = {"Authorization": "Bearer w"}
ROUTES = [("POST", "/dr/utility"), ("POST", "/api/v1/events"), ("POST", "/api/v1/jobs"), ("POST", "/api/v1/operator"),
          ("POST", "/api/v1/jobs/eval-nightly/progress")]  # fmt: skip
FIELDS = ["id", "version", "site", "start", "end", "name", "pool", "work_gpu_h", "max_gpus", "deadline", "release",
          "priority", "metadata", "done_gpu_h", "finished", "action", "limit_kw", "until", "mode"]  # fmt: skip
KINDS = ["application/json", "text/plain", "multipart/form-data", "application/x-www-form-urlencoded", ";;", ""]
METHODS = ["GET", "POST", "PUT", "DELETE", "PATCH", "OPTIONS"]
ROOTS = ["", "/api/v1/explain/", "/api/v1/jobs/", "/api/v1/events/", "/dr/", "/api/v1/series?"]
TIMES = ["2022-09-07T14:00:00Z", "2022-09-07T14:00:00", "0001-01-01T00:00:00+23:59", "9999-12-31T23:59:59-23:59"]
ODD = [1, 10**400, 1e308, -0.0, float("nan"), float("inf"), "\ud800", "a\x00b"]
GOOD = ["west", "limit", "control", "finetune", *TIMES, *ODD]
VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=30) | st.sampled_from(GOOD),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=8), inner, max_size=4),
    max_leaves=8,
)
OBJECTS = st.dictionaries(st.sampled_from(FIELDS) | st.text(max_size=8), VALUES, max_size=10)
HEADER_TEXT = st.text(st.characters(codec="latin-1", exclude_characters="\r\n\0"), max_size=40)


@pytest.fixture(scope="module")
def client():
    settings = ApiSettings(page=False, write_tokens=(Token("w", "w"),), max_body_bytes=10_000)
    app = create_app(FakeService(VirtualClock(START)), settings)
    return TestClient(app, base_url="http://localhost", raise_server_exceptions=False)


def check(answer):
    assert answer.status_code < 500, answer.text
    if answer.status_code >= 400:
        said = json.loads(answer.content)
        assert set(said) == {"error", "field"}
        assert isinstance(said["error"], str)


@given(route=st.sampled_from(ROUTES), fields=OBJECTS)
def test_objects_that_almost_fit(client, route, fields):
    check(client.request(*route, content=json.dumps(fields), headers=TOKEN | {"Content-Type": "application/json"}))
    check(client.get("/api/v1/events"))
    check(client.get("/api/v1/jobs"))


@given(route=st.sampled_from(ROUTES), body=st.binary(max_size=12_000), kind=st.sampled_from(KINDS))
def test_bytes_that_are_nothing(client, route, body, kind):
    check(client.request(*route, content=body, headers=TOKEN | {"Content-Type": kind, "X-Signature": "good"}))


@given(method=st.sampled_from(METHODS), root=st.sampled_from(ROOTS), rest=st.text(max_size=60))
def test_paths_and_queries_that_lead_nowhere(client, method, root, rest):
    try:
        request = client.build_request(method, f"{root or '/'}{rest}".replace("//", "/"), headers=TOKEN)
    except Exception:  # the client itself refuses to send it
        return
    check(client.send(request))


@given(
    query=st.dictionaries(
        st.sampled_from(["site", "start", "end"]), st.text(max_size=40) | st.sampled_from(["west", *TIMES]), max_size=3
    )
)
def test_queries_of_series(client, query):
    check(client.get("/api/v1/series", params=query))


@given(name=st.sampled_from(["Authorization", "Host", "Content-Length", "X-Signature", "Origin", "Accept"]),
       value=HEADER_TEXT)  # fmt: skip
def test_headers_that_mean_nothing(client, name, value):
    answer = client.get("/api/v1/status", headers=[(name.encode(), value.encode("latin-1"))])
    check(answer)
