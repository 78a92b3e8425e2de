"""Batches from OpenAI's own client to a real inference server, paced by a real daemon that is killed on the way."""

import io
import json
import os
import random
from contextlib import ExitStack

import openai
import pytest

from tests.support import system
from tests.support.daemon import TOKEN, Machine
from tests.support.gateway import KEY, Desk, line
from tests.support.llama import llama_server

SHORT_DWELL = "import datetime, scheduler.dwell; scheduler.dwell.DWELL = datetime.timedelta(seconds=5)"
KILLS = int(os.environ.get("GRIDPACE_KILLS", "2"))


@pytest.fixture(scope="module")
def hall(tmp_path_factory):
    """A real daemon on fake cards, a real inference server, and a gateway between them."""
    system.require("gcc")
    folder = tmp_path_factory.mktemp("hall")
    with ExitStack() as stack:
        machine = Machine(folder)
        stack.callback(machine.close)
        machine.start(before=SHORT_DWELL)
        url = stack.enter_context(llama_server())
        daemon = f"http://127.0.0.1:{machine.fields['port']}"
        desk = Desk(folder / "gateway", url, daemon, TOKEN, speed=40_000)
        stack.callback(desk.close)
        desk.start()  # while the daemon starts
        machine.lives[-1].serving()
        client = stack.enter_context(openai.OpenAI(base_url=f"{desk.url}/v1", api_key=KEY, max_retries=2, timeout=30))
        yield machine, desk, client


def jsonl(count, **more):
    rows = [line(k, f"question {k}", temperature=0, max_tokens=6, **more) for k in range(count)]
    return io.BytesIO("".join(json.dumps(row) + "\n" for row in rows).encode())


def begin(client, count, **more):
    file = client.files.create(file=("questions.jsonl", jsonl(count)), purpose="batch")
    terms = {"input_file_id": file.id, "endpoint": "/v1/chat/completions", "completion_window": "24h"} | more
    return client.batches.create(**terms)


def finished(desk, client, batch, seconds=120.0):
    over = {"completed", "failed", "expired", "cancelled"}
    return desk.wait(lambda: (one := client.batches.retrieve(batch.id)).status in over and one, seconds)


@pytest.mark.timeout(180)
def test_the_life_of_a_batch_with_the_official_client(hall):
    machine, desk, client = hall
    batch = begin(client, 60, metadata={"project": "night", "deadline": "2m"})
    assert batch.status in {"validating", "in_progress"}
    found = finished(desk, client, batch)
    assert found.status == "completed"
    assert (found.request_counts.total, found.request_counts.completed, found.request_counts.failed) == (60, 60, 0)
    assert found.metadata == {"project": "night", "deadline": "2m"}
    rows = [json.loads(row) for row in client.files.content(found.output_file_id).text.splitlines()]
    assert {row["custom_id"] for row in rows} == {f"c-{k}" for k in range(60)}
    counted = sum(row["response"]["body"]["usage"]["completion_tokens"] for row in rows)
    assert found.usage.output_tokens == counted > 0, "tokens are those that the server counted"
    assert client.batches.list(limit=1).data[0].id == batch.id
    assert [one.id for one in client.files.list(purpose="batch_output")] == [found.output_file_id]
    job = machine.lives[-1].get(f"/api/v1/jobs/{batch.id}")
    desk.wait(lambda: machine.lives[-1].get(f"/api/v1/jobs/{batch.id}")["state"] == "done")
    assert job["pool"] == "tune"


@pytest.mark.timeout(180)
def test_what_went_wrong_is_read_with_the_official_client(hall):
    """Errors of lines, errors of a whole input, and files that are looked at and deleted."""
    _, desk, client = hall
    rows = [line(0, "fine", temperature=0, max_tokens=6), line(1, "odd", messages="no list of messages")]
    text = "".join(json.dumps(row) + "\n" for row in rows).encode()
    file = client.files.create(file=("some.jsonl", text), purpose="batch")
    held = client.files.retrieve(file.id)
    assert (held.filename, held.bytes, held.purpose, held.status) == ("some.jsonl", len(text), "batch", "processed")
    terms = {"endpoint": "/v1/chat/completions", "completion_window": "24h"}
    found = finished(desk, client, client.batches.create(input_file_id=file.id, **terms))
    assert (found.status, found.request_counts.completed, found.request_counts.failed) == ("completed", 1, 1)
    (error,) = [json.loads(row) for row in client.files.content(found.error_file_id).text.splitlines()]
    assert (error["custom_id"], error["error"]) == ("c-1", None)
    assert error["response"]["status_code"] == 400, "as the server said it"
    assert client.files.retrieve(found.error_file_id).purpose == "batch_output"
    for name in (file.id, found.error_file_id):
        assert client.files.delete(name).deleted
        with pytest.raises(openai.NotFoundError):
            client.files.retrieve(name)
    wrong = client.files.create(file=("wrong.jsonl", text + json.dumps(rows[0]).encode()), purpose="batch")
    refused = finished(desk, client, client.batches.create(input_file_id=wrong.id, **terms))
    (why,) = refused.errors.data
    assert (refused.status, why.code, why.line, why.param) == ("failed", "duplicate_custom_id", 3, "custom_id")
    assert "c-0" in why.message
    assert (refused.output_file_id, refused.error_file_id) == (None, None)


@pytest.mark.timeout(180)
def test_an_operator_who_stops_the_pool_stops_the_batch(hall):
    machine, desk, client = hall
    daemon = machine.lives[-1]
    batch = begin(client, 3000)
    desk.wait(lambda: client.batches.retrieve(batch.id).request_counts.completed > 5)
    # All that the site may draw now goes to the users' pool: no GPU is left for jobs.
    assert daemon.call("POST", "/api/v1/operator", {"action": "limit", "site": "lab", "limit_kw": 1.3})[0] == 200
    desk.wait(lambda: daemon.get("/api/v1/jobs/grants")["grants"] == {})
    desk.wait(lambda: "llama 0 of 0" in sentence(desk))
    done = client.batches.retrieve(batch.id).request_counts.completed
    assert daemon.call("POST", "/api/v1/operator", {"action": "limit", "site": "lab", "limit_kw": 100})[0] == 200
    # GPUs that the fast loop took from jobs stay taken for a while (a minute; here less); then the batch goes on.
    desk.wait(lambda: client.batches.retrieve(batch.id).request_counts.completed > done + 20, 100)
    assert client.batches.cancel(batch.id).status == "cancelling"
    assert finished(desk, client, batch).status == "cancelled"


def sentence(desk):
    found = desk.call("GET", "/metrics").text
    values = dict(row.rsplit(" ", 1) for row in found.splitlines() if not row.startswith("#"))
    flying, slots = (values[f'gridpace_gateway_{name}{{upstream="llama"}}'] for name in ("requests_in_flight", "slots"))
    return f"llama {float(flying):g} of {float(slots):g}"


@pytest.mark.kill
@pytest.mark.timeout(900)
def test_kills_of_daemon_and_gateway_lose_no_line_and_double_none(hall):
    machine, desk, client = hall
    dice = random.Random(20261126)
    batch = begin(client, 1000 + 400 * KILLS)
    for turn in range(KILLS):
        done = client.batches.retrieve(batch.id).request_counts.completed
        desk.wait(
            lambda done=done: client.batches.retrieve(batch.id).request_counts.completed > done + dice.randrange(5, 60)
        )
        if turn % 2:
            desk.lives[-1].kill()
            desk.lives[-1].wait()
            desk.start()
        else:
            machine.lives[-1].kill()
            machine.start()
    found = finished(desk, client, batch, 300.0)
    assert found.status == "completed"
    rows = [json.loads(row)["custom_id"] for row in client.files.content(found.output_file_id).text.splitlines()]
    assert sorted(rows) == sorted(f"c-{k}" for k in range(1000 + 400 * KILLS))
