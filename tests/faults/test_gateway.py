"""The gateway as its clients, its servers and its operator meet it: a real process, real sockets."""

import json
import resource
import signal
import time
from contextlib import ExitStack

import openai
import pytest

from tests.support.gateway import KEY, OTHER_KEY, Desk, Granting, asked, line
from tests.support.openai_server import OpenAiServer, good, word


@pytest.fixture
def stack():
    with ExitStack() as kept:
        yield kept


@pytest.fixture(scope="module")
def shared(tmp_path_factory):
    """One server, one daemon and one gateway for all tests here: a gateway takes seconds to start."""
    with ExitStack() as kept:
        server, daemon = OpenAiServer(), Granting()
        kept.callback(server.close)
        kept.callback(daemon.close)
        desk = Desk(tmp_path_factory.mktemp("gateway"), server.url, daemon.url, "token")
        kept.callback(desk.close)
        desk.start()
        yield server, daemon, desk


@pytest.fixture
def server(shared):
    return shared[0]


@pytest.fixture
def daemon(shared):
    return shared[1]


@pytest.fixture
def desk(shared):
    """The gateway without anybody's batches under way."""
    server, daemon, made = shared
    server.forget()
    daemon.forget()
    yield made
    server.forget()
    daemon.forget()
    for key in (KEY, OTHER_KEY):
        for one in made.call("GET", "/v1/batches", key, params={"limit": 100}).json()["data"]:
            if one["status"] in {"validating", "in_progress"}:
                made.call("POST", f"/v1/batches/{one['id']}/cancel", key)
                made.ended(one["id"], key)


def test_every_line_is_answered_once_with_its_tokens(desk, server, daemon):
    words = [f"word {k}" for k in range(300)]
    found = desk.ended(desk.batch(words, metadata={"team": "a"}))
    assert found["status"] == "completed"
    assert found["request_counts"] == {"total": 300, "completed": 300, "failed": 0}
    assert (found["usage"]["input_tokens"], found["usage"]["output_tokens"]) == (2100, 1500)
    lines = desk.lines(found["output_file_id"])
    said = {one["custom_id"]: one["response"]["body"]["choices"][0]["message"]["content"] for one in lines}
    assert len(lines) == 300
    assert said == {f"c-{k}": f"you said word {k}" for k in range(300)}
    assert found["error_file_id"] is None
    assert set(server.asked.values()) == {1}
    job = daemon.jobs[found["id"]]
    assert job["pool"] == "tune"
    assert job["max_gpus"] == 75  # 300 requests, four a GPU
    tokens = len(asked(words)) / 4 + 300 * 300  # four bytes a token, and usual answers
    assert job["work_gpu_h"] == pytest.approx(tokens / 12_000)
    desk.wait(lambda: daemon.progress.get(found["id"], {}).get("finished"))
    assert daemon.progress[found["id"]]["done_gpu_h"] == pytest.approx(job["work_gpu_h"])


ENDPOINTS = {
    "/v1/completions": ({"prompt": "w"}, {"prompt_tokens": 7, "completion_tokens": 5}, (7, 5)),
    "/v1/embeddings": ({"input": "w"}, {"prompt_tokens": 7, "total_tokens": 7}, (7, 0)),
    "/v1/responses": ({"input": "w"}, {"input_tokens": 7, "output_tokens": 5}, (7, 5)),
}


@pytest.mark.parametrize("endpoint", ENDPOINTS)
def test_every_endpoint_is_served_with_its_own_words_for_tokens(desk, server, endpoint):
    asks, usage, counted = ENDPOINTS[endpoint]
    server.answer = lambda body: (200, {"object": "x", "model": body["model"], "usage": usage}, {})
    row = {"custom_id": "c-0", "method": "POST", "url": endpoint, "body": {"model": "tiny", **asks}}
    found = desk.ended(desk.create(desk.upload(json.dumps(row)), endpoint=endpoint).json()["id"])
    assert (found["status"], found["request_counts"]["completed"]) == ("completed", 1)
    assert (found["usage"]["input_tokens"], found["usage"]["output_tokens"]) == counted
    assert set(server.paths) == {endpoint}


def test_the_official_client_walks_through_long_lists_page_by_page(desk, daemon):
    daemon.gpus = 0
    file = desk.upload(asked(["a"]))
    made = [desk.create(file).json()["id"] for _ in range(5)]
    with openai.OpenAI(base_url=f"{desk.url}/v1", api_key=KEY, max_retries=0) as client:
        batches = [one.id for one in client.batches.list(limit=2)]
        assert batches[:5] == made[::-1], "newest first"
        assert len(batches) == len(set(batches)) == len(list(client.batches.list(limit=100)))
        first = client.batches.list(limit=2)
        assert first.has_more
        assert [one.id for one in client.batches.list(limit=2, after=first.data[-1].id).data] == batches[2:4]
        newest = next(iter(client.files.list(limit=1, order="desc")))
        assert newest.id == file
        assert [one.id for one in client.files.list(limit=2, order="asc")][-1] == file


def test_requests_at_once_follow_what_is_granted(desk, server, daemon):
    server.delay_s, daemon.gpus = 0.2, 2
    name = desk.batch([f"w{k}" for k in range(400)])
    desk.wait(lambda: server.now == 8)
    time.sleep(0.5)
    assert server.most == 8, "two GPUs, four requests each"
    daemon.gpus = 5
    desk.wait(lambda: server.now == 20)
    daemon.gpus = 1
    desk.wait(lambda: server.now <= 4)
    daemon.gpus = 0
    desk.wait(lambda: 'gridpace_gateway_slots{upstream="llama"} 0.0' in desk.call("GET", "/metrics").text)
    desk.wait(lambda: server.now == 0)
    before = sum(server.asked.values())
    time.sleep(1.0)
    assert sum(server.asked.values()) == before, "nothing is sent while nothing is granted"
    daemon.gpus = 20
    assert desk.ended(name)["request_counts"]["completed"] == 400
    assert set(server.asked.values()) == {1}, "what was under way was let finish"


def test_kill_9_repeats_at_most_what_was_under_way_and_loses_nothing(desk, server, daemon):
    server.delay_s, daemon.gpus = 0.05, 4
    name = desk.batch([f"w{k}" for k in range(600)])
    lives = 0
    while lives < 5:
        done = desk.look(name)["request_counts"]["completed"]
        desk.wait(lambda done=done: desk.look(name)["request_counts"]["completed"] > done + 20)
        desk.lives[-1].send_signal(signal.SIGKILL)
        desk.lives[-1].wait()
        lives += 1
        desk.start()
    found = desk.ended(name)
    lines = desk.lines(found["output_file_id"])
    assert sorted(one["custom_id"] for one in lines) == sorted(f"c-{k}" for k in range(600))
    assert found["request_counts"] == {"total": 600, "completed": 600, "failed": 0}
    assert found["usage"]["output_tokens"] == 3000, "no token is counted twice"
    assert max(server.asked.values()) <= 1 + lives
    assert sum(server.asked.values()) <= 600 + lives * 16, "sixteen were under way at each kill"


def test_a_stop_waits_for_what_is_under_way(desk, server, daemon):
    server.delay_s = 0.5
    name = desk.batch([f"w{k}" for k in range(40)])
    desk.wait(lambda: server.now == 8)
    desk.lives[-1].terminate()
    assert desk.lives[-1].wait(20) == 0
    desk.start()
    desk.ended(name)
    assert set(server.asked.values()) == {1}


def test_a_busy_server_is_waited_for_and_a_broken_answer_is_tried_once_more(desk, server, daemon):
    busy = [5]

    def answer(body):
        if busy[0]:
            busy[0] -= 1
            return 429, {"error": {"message": "slow down"}}, {"Retry-After": "0.2"}
        if word(body) == "breaks once" and server.asked[word(body)] <= 1 + 5:
            return 500, {"error": {"message": "oh"}}, {}
        if word(body) == "breaks always":
            return 500, {"error": {"message": "oh"}}, {}
        if word(body) == "is wrong":
            return 400, {"error": {"message": "no such thing"}}, {}
        return good(body)

    server.answer = answer
    found = desk.ended(desk.batch(["fine", "breaks always", "is wrong", *(f"w{k}" for k in range(20))]))
    assert found["request_counts"] == {"total": 23, "completed": 21, "failed": 2}
    errors = {one["custom_id"]: one["response"] for one in desk.lines(found["error_file_id"])}
    assert {key: one["status_code"] for key, one in errors.items()} == {"c-1": 500, "c-2": 400}
    assert errors["c-2"]["body"] == {"error": {"message": "no such thing"}}
    assert server.asked["breaks always"] <= 2 + 5
    assert server.asked["is wrong"] <= 1 + 5
    assert sum(server.asked.values()) == 23 + 1 + 5, "one try more, and the five that were turned away"


def test_a_server_that_is_gone_fails_no_request(desk, server, daemon):
    server.delay_s = 0.05
    name = desk.batch([f"w{k}" for k in range(100)])
    desk.wait(lambda: sum(server.asked.values()) > 20)
    server.close()
    # what was being written when it went is told first; the next try finds nobody
    desk.wait(lambda: not (up := desk.up())["ok"] and "can't be reached" in up["trouble"][0])
    server.open()
    found = desk.ended(name)
    assert found["request_counts"]["completed"] + found["request_counts"]["failed"] == 100
    assert found["request_counts"]["failed"] == 0
    assert desk.up()["ok"]


def test_a_full_disk_refuses_what_it_would_have_to_keep_and_loses_nothing(desk, server, daemon):
    server.delay_s, daemon.gpus = 0.02, 2
    name, late = desk.batch([f"w{k}" for k in range(300)]), desk.upload(asked(["late"]))
    desk.wait(lambda: desk.look(name)["request_counts"]["completed"] > 10)
    pid, before = desk.lives[-1].pid, len(desk.lives)
    unlimited = resource.prlimit(pid, resource.RLIMIT_FSIZE)
    try:
        resource.prlimit(pid, resource.RLIMIT_FSIZE, (0, unlimited[1]))
        refused = desk.create(late)
        assert (refused.status_code, refused.json()["error"]["code"]) == (503, "storage_unavailable")
        assert int(refused.headers["Retry-After"]) > 0
        upload = desk.call("POST", "/v1/files", files={"file": ("in", asked(["x"]))}, data={"purpose": "batch"})
        assert upload.status_code == desk.call("POST", f"/v1/batches/{name}/cancel").status_code == 503
        desk.wait(lambda: "answers can't be kept" in str(desk.up()["trouble"]))
        assert desk.look(name)["status"] == "in_progress"
    finally:
        resource.prlimit(pid, resource.RLIMIT_FSIZE, unlimited)
    found = desk.ended(name)
    answered = sorted(one["custom_id"] for one in desk.lines(found["output_file_id"]))
    assert answered == sorted(f"c-{k}" for k in range(300))
    assert desk.ended(desk.create(late).json()["id"])["status"] == "completed"
    assert (len(desk.lives), desk.lives[-1].poll()) == (before, None), "it stayed up"


def test_a_cancelled_batch_ends_with_what_it_has(desk, server, daemon):
    server.delay_s = 0.1
    name = desk.batch([f"w{k}" for k in range(200)])
    desk.wait(lambda: desk.look(name)["request_counts"]["completed"] > 10)
    assert desk.call("POST", f"/v1/batches/{name}/cancel").json()["status"] == "cancelling"
    found = desk.ended(name)
    assert found["status"] == "cancelled"
    done = found["request_counts"]["completed"]
    assert 10 < done < 200
    assert len(desk.lines(found["output_file_id"])) == done == sum(server.asked.values())
    desk.wait(lambda: name in daemon.cancelled)
    assert desk.call("POST", f"/v1/batches/{name}/cancel").json()["status"] == "cancelled"


def test_an_operator_who_cancels_the_job_ends_the_batch(desk, server, daemon):
    daemon.gpus = 0
    name = desk.batch(["a", "b"])
    desk.wait(lambda: name in daemon.jobs)
    daemon.cancelled.append(name)
    assert desk.ended(name)["status"] == "cancelled"


def test_what_is_not_answered_when_the_window_ends_is_said(desk, daemon):
    daemon.gpus = 0
    name = desk.batch(["a", "b"], completion_window="3s")
    found = desk.ended(name)
    assert found["status"] == "expired"
    assert found["request_counts"] == {"total": 2, "completed": 0, "failed": 2}
    assert {one["error"]["code"] for one in desk.lines(found["error_file_id"])} == {"batch_expired"}


def test_a_job_that_the_planner_refuses_fails_with_its_reason(desk, daemon):
    daemon.refuse = (422, {"error": "pool: 'tune' is not one of chat"})
    found = desk.ended(desk.batch(["a"]))
    assert found["status"] == "failed"
    assert "is not one of chat" in found["errors"]["data"][0]["message"]


def test_grants_stand_while_the_daemon_is_away(desk, server, daemon):
    server.delay_s = 0.05
    name = desk.batch([f"w{k}" for k in range(300)])
    desk.wait(lambda: sum(server.asked.values()) > 10)
    daemon.away = True
    desk.wait(lambda: not desk.up()["ok"])
    assert "daemon" in desk.up()["trouble"][0]
    assert desk.ended(name)["status"] == "completed"


@pytest.mark.parametrize(
    ("text", "code", "row"),
    [
        ("", "empty_file", None),
        ("{", "invalid_json_line", 1),
        ("[1]\n", "invalid_json_line", 1),
        (json.dumps(line(0, "a") | {"method": "GET"}), "invalid_method", 1),
        (json.dumps(line(0, "a") | {"url": "/v1/embeddings"}), "invalid_url", 1),
        (json.dumps(line(0, "a") | {"custom_id": 7}), "missing_required_parameter", 1),
        (asked(["a"]) + asked(["b"]), "duplicate_custom_id", 2),
        (json.dumps(line(0, "a", model="huge")), "model_not_found", 1),
        (asked(["a"]) + json.dumps(line(1, "b", model="small")), "mismatched_model", 2),
        (json.dumps(line(0, "a", stream=True)), "invalid_request", 1),
    ],
)
def test_a_wrong_input_fails_by_line_and_nothing_is_sent(desk, server, daemon, text, code, row):
    found = desk.ended(desk.create(desk.upload(text)).json()["id"])
    assert found["status"] == "failed"
    assert [(one["code"], one["line"]) for one in found["errors"]["data"]] == [(code, row)]
    assert not server.asked
    assert found["id"] not in daemon.jobs


@pytest.mark.parametrize(
    ("more", "param"),
    [
        ({"endpoint": "/v1/audio"}, "endpoint"),
        ({"completion_window": "soon"}, "completion_window"),
        ({"completion_window": "90d"}, "completion_window"),
        ({"metadata": {"deadline": "2026-01-01T00:00:00"}}, "metadata.deadline"),
        ({"metadata": {"deadline": "2d"}}, "metadata.deadline"),
        ({"metadata": {"priority": "high"}}, "metadata.priority"),
        ({"metadata": {"max_price_per_million_tokens": "nan"}}, "metadata.max_price_per_million_tokens"),
        ({"metadata": {"a": 1}}, "metadata.a"),
        ({"input_file_id": "file-none"}, "id"),
    ],
)
def test_a_wrong_batch_is_refused_with_its_parameter(desk, more, param):
    file = desk.upload(asked(["a"]))
    answer = desk.create(file, **more)
    assert answer.status_code in {400, 404}
    assert answer.json()["error"]["param"] == param
    assert all(one["input_file_id"] != file for one in desk.call("GET", "/v1/batches").json()["data"])


def test_tenants_neither_see_nor_starve_each_other(desk, server, daemon):
    server.delay_s, daemon.gpus = 0.05, 1
    first = desk.batch([f"research {k}" for k in range(400)])
    desk.wait(lambda: desk.look(first)["request_counts"]["completed"] > 20)
    second = desk.batch([f"product {k}" for k in range(150)], OTHER_KEY)
    assert desk.call("GET", f"/v1/batches/{second}").status_code == 404
    assert desk.call("GET", "/v1/batches", "sk-nobody").status_code == 401
    assert desk.call("GET", "/v1/batches").json()["data"][0]["id"] == first
    desk.ended(second, OTHER_KEY)
    product = [place for place, asked_word in enumerate(server.order) if asked_word.startswith("product")]
    between = product[-1] - product[0] + 1 - len(product)
    assert 45 <= between <= 55, "three of four requests are the product's, by weight"


def test_a_tenant_that_asks_too_much_is_told_when_to_come_back(stack, tmp_path, server, daemon):
    desk = Desk(tmp_path / "small", server.url, daemon.url, "token", most=12, largest=20, bytes=10_000)
    stack.callback(desk.close)
    desk.start()
    daemon.gpus = 0
    name = desk.batch([f"w{k}" for k in range(12)])
    desk.wait(lambda: name in daemon.jobs)
    full = desk.upload(asked(["a"]))
    answer = desk.create(full)
    assert answer.status_code == 429
    assert int(answer.headers["Retry-After"]) == 60, "nobody knows a price"
    daemon.quote(3.0, 1.0)
    made = daemon.quotes["made_at"]
    desk.wait(lambda: desk.call("GET", "/v1/quotes").json()["made_at"] == made)
    answer = desk.create(full)
    assert answer.status_code == 429
    assert 3400 < int(answer.headers["Retry-After"]) <= 3600, "when power is cheap, and its batch gets done"
    large = desk.call("POST", "/v1/files", files={"file": ("in", b"x" * 10_001)}, data={"purpose": "batch"})
    assert large.status_code == 413
    found = desk.ended(
        desk.create(desk.upload(asked(str(k) for k in range(21)), OTHER_KEY), OTHER_KEY).json()["id"], OTHER_KEY
    )
    assert found["errors"]["data"][0]["code"] == "too_many_requests"


def test_a_bid_is_worth_what_it_pays_and_may_stay_undone(desk, daemon):
    daemon.gpus = 0
    name = desk.batch(["a"], metadata={"max_price_per_million_tokens": "2.5", "priority": "7", "deadline": "3h"})
    job = desk.wait(lambda: daemon.jobs.get(name))
    assert job["value_per_gpu_h"] == pytest.approx(2.5 * 12_000 / 1e6)
    assert (job["undone_penalty"], job["late_penalty"], job["priority"]) == (0.0, 0.0, 7)


def test_files_in_use_stay_and_others_go(desk, daemon):
    daemon.gpus = 0
    file = desk.upload(asked(["a"]))
    name = desk.create(file).json()["id"]
    assert desk.call("DELETE", f"/v1/files/{file}").status_code == 409
    desk.call("POST", f"/v1/batches/{name}/cancel")
    desk.ended(name)
    assert desk.call("DELETE", f"/v1/files/{file}").json()["deleted"]
    assert desk.call("GET", f"/v1/files/{file}").status_code == 404
    assert desk.call("GET", f"/v1/files/{file}/content", KEY).status_code == 404
