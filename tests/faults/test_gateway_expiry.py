"""Files that end when their owner says so: through OpenAI's own client, and on the shelf when the time has come."""

import io
from contextlib import ExitStack
from dataclasses import replace
from datetime import UTC, datetime, timedelta

import openai
import pytest

from scheduler.gateway.model import ApiError, Batch, Status
from scheduler.gateway.shelf import Shelf
from scheduler.store.store import Store
from tests.support.gateway import KEY, Desk, Granting, asked
from tests.support.openai_server import OpenAiServer

HOUR = {"anchor": "created_at", "seconds": 3600}
WRONG = [
    ({"anchor": "created_at", "seconds": 3599}, "seconds"),
    ({"anchor": "created_at", "seconds": 2_592_001}, "seconds"),
    ({"anchor": "last_active_at", "seconds": 3600}, "anchor"),
    ({"anchor": "created_at"}, "seconds"),
    ({"seconds": 3600}, "anchor"),
    ({"anchor": "created_at", "seconds": "soon"}, "seconds"),
]


@pytest.fixture(scope="module")
def client(tmp_path_factory):
    with ExitStack() as kept:
        server, daemon = OpenAiServer(), Granting()
        kept.callback(server.close)
        kept.callback(daemon.close)
        desk = Desk(tmp_path_factory.mktemp("gateway"), server.url, daemon.url, "token")
        kept.callback(desk.close)
        desk.start()
        made = kept.enter_context(openai.OpenAI(base_url=f"{desk.url}/v1", api_key=KEY, max_retries=0))
        made.desk, made.server = desk, server
        yield made


def uploaded(client, **more):
    return client.files.create(file=("a.jsonl", io.BytesIO(asked(["a", "b"]).encode())), purpose="batch", **more)


def begin(client, file, **more):
    return client.batches.create(
        input_file_id=file.id, endpoint="/v1/chat/completions", completion_window="24h", **more
    )


def test_files_tell_when_they_end(client):
    kept = uploaded(client, expires_after=HOUR)
    assert kept.expires_at == kept.created_at + 3600
    assert client.files.retrieve(kept.id).expires_at == kept.expires_at
    client.server.answer = lambda body: (
        (400, {"error": {}}, {}) if body["messages"][0]["content"] == "a" else (200, {"usage": {}}, {})
    )
    batch = begin(client, kept, output_expires_after={"anchor": "created_at", "seconds": 2_592_000})
    client.desk.ended(batch.id)
    batch = client.batches.retrieve(batch.id)
    for name in (batch.output_file_id, batch.error_file_id):
        found = client.files.retrieve(name)
        assert found.expires_at == found.created_at + 2_592_000, "from the file's creation on"
    plain = uploaded(client)
    assert plain.expires_at is None


@pytest.mark.parametrize(("wrong", "field"), WRONG)
def test_wrong_times_are_refused_with_their_parameter_and_keep_nothing(client, wrong, field):
    before = len(client.files.list().data)
    with pytest.raises(openai.BadRequestError) as refused:
        uploaded(client, expires_after=wrong)
    assert refused.value.param == f"expires_after.{field}"
    assert len(client.files.list().data) == before
    file = uploaded(client)
    with pytest.raises(openai.BadRequestError) as refused:
        begin(client, file, output_expires_after=wrong)
    assert refused.value.param == f"output_expires_after.{field}"
    assert all(one.input_file_id != file.id for one in client.batches.list().data)


def test_what_is_no_object_is_refused_too(client):
    form = {"files": {"file": ("in.jsonl", asked(["a"]))}, "data": {"purpose": "batch", "expires_after": "3600"}}
    answer = client.desk.call("POST", "/v1/files", **form)
    assert (answer.status_code, answer.json()["error"]["param"]) == (400, "expires_after")
    answer = client.desk.create(uploaded(client).id, output_expires_after=3600)
    assert (answer.status_code, answer.json()["error"]["param"]) == (400, "output_expires_after")


def test_a_file_is_deleted_when_its_time_has_come_and_no_open_batch_reads_it(tmp_path):
    now = [datetime(2026, 11, 27, tzinfo=UTC)]
    store = Store.in_memory()
    shelf = Shelf(tmp_path, store, lambda: now[0])

    def kept(keep_s):
        with shelf.incoming("a", lambda _: 10**6) as coming:
            coming.write(b"{}\n")
            return shelf.keep(coming, "in.jsonl", keep_s=keep_s)

    short, read, long, plain = kept(3600), kept(3600), kept(7200), kept(None)
    until = now[0] + timedelta(days=1)
    batch = shelf.put(Batch("batch_1", "a", "/v1/chat/completions", read.id, "24h", now[0], until, until,
                            status=Status.IN_PROGRESS, output_keep_s=3600))  # fmt: skip

    def there():
        return {one.id for one in shelf.files("a") if shelf.path(one).exists()}

    shelf.tidy(timedelta(days=30))
    assert there() == {short.id, read.id, long.id, plain.id}
    now[0] += timedelta(seconds=3600)
    shelf.tidy(timedelta(days=30))
    assert there() == {read.id, long.id, plain.id}, "what an open batch reads stays"
    with pytest.raises(ApiError):
        shelf.file("a", short.id)
    answers = shelf.answers_of(batch.id) / "output.jsonl"
    answers.parent.mkdir(parents=True)
    answers.write_bytes(b"{}\n")
    output = shelf.publish(batch, answers, "output")
    shelf.put(replace(batch, status=Status.COMPLETED, output_file=output, times={"completed_at": now[0]}))
    shelf = Shelf(tmp_path, store, lambda: now[0])  # the next life knows when they end
    shelf.tidy(timedelta(days=30))
    assert there() == {long.id, plain.id, output}
    now[0] += timedelta(seconds=3600)
    shelf.tidy(timedelta(days=30))
    assert there() == {plain.id}
    assert shelf.batch("a", batch.id).output_file == output, "the batch itself is kept"
    assert not answers.exists()
