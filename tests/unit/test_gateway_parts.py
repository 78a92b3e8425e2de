"""Parts of the gateway that a process is too slow for: torn files, overlong lines, full disks, fair turns."""

import asyncio
import json
from contextlib import suppress
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from scheduler.config.errors import ConfigError
from scheduler.gateway.answers import Answers
from scheduler.gateway.config import load_gateway
from scheduler.gateway.lines import LONGEST_LINE, Line, answered, parse, read_lines, unanswered
from scheduler.gateway.model import Batch, InputError, Status, read_batch, written
from scheduler.gateway.runner import Runner
from scheduler.gateway.running import Running
from scheduler.gateway.upstream import Answer, Away, Broken, _retry_after
from tests.support.gateway import asked, line

ROOT = Path(__file__).resolve().parents[2]
NOW = datetime(2026, 11, 26, 18, tzinfo=UTC)
CHAT = "/v1/chat/completions"


def batch(name="batch_1", tenant="a", **more):
    base = {"input_file": "file-1", "window": "24h", "created_at": NOW, "expires_at": NOW + timedelta(hours=24)}
    return Batch(**{"id": name, "tenant": tenant, "endpoint": CHAT, "deadline": base["expires_at"], **base, **more})


def out(number, body=None):
    found = Line(number, f"c-{number}", {})
    return unanswered("batch_1", found, "x", "y") if body is None else answered("batch_1", found, 200, "r", body)


# ---------------------------------------------------------------- answers
USAGE = {"usage": {"prompt_tokens": 3, "completion_tokens": 2}}


@given(st.permutations(range(12)), st.integers(0, 12), st.data())
def test_a_file_cut_anywhere_loses_only_what_is_cut(tmp_path_factory, order, good, data):
    folder = tmp_path_factory.mktemp("answers")
    first = Answers(folder, 12)
    for place, number in enumerate(order):
        body = USAGE if place < good else None
        first.put(number, out(number, body), body)
    first.close()
    text = first.good.read_bytes()
    cut = data.draw(st.integers(0, len(text)))
    first.good.write_bytes(text[:cut])
    again = Answers(folder, 12)
    whole = text[:cut].count(b"\n")
    kept = {number for place, number in enumerate(order) if place < whole or place >= good}
    assert {number for number in range(12) if again.has(number)} == kept
    assert (again.completed, again.failed, again.left) == (whole, 12 - good, good - whole)
    assert again.usage.json() == {"input_tokens": 3 * whole, "output_tokens": 2 * whole, "total_tokens": 5 * whole}
    for number in range(12):
        again.put(number, out(number, USAGE), USAGE)
    again.close()
    rows = [json.loads(row)["custom_id"] for path in (again.good, again.bad) for row in path.read_text().splitlines()]
    assert sorted(rows) == sorted(f"c-{number}" for number in range(12))


def test_a_disk_that_fills_up_in_the_middle_leaves_no_half_line(tmp_path, monkeypatch):
    answers = Answers(tmp_path, 3)
    answers.put(0, out(0, {}), {})
    file = answers._files[answers.good]

    class Full:
        def __init__(self):
            self.left = 20

        def __getattr__(self, name):
            return getattr(file, name)

        def write(self, text):
            if not self.left:
                raise OSError(28, "No space left on device")
            count = file.write(bytes(text[: self.left]))
            self.left = 0
            return count

    answers._files[answers.good] = Full()
    with pytest.raises(OSError, match="No space"):
        answers.put(1, out(1, {}), {})
    assert not answers.has(1)
    answers._files[answers.good] = file
    answers.put(1, out(1, {}), {})
    answers.close()
    assert [json.loads(row)["custom_id"] for row in answers.good.read_text().splitlines()] == ["c-0", "c-1"]


# ---------------------------------------------------------------- lines
@given(st.lists(st.sampled_from(["", " ", "{}", '{"custom_id": 1}']), max_size=20), st.integers(0, 20))
def test_lines_are_numbered_alike_wherever_reading_begins(tmp_path_factory, rows, first):
    path = tmp_path_factory.mktemp("lines") / "in.jsonl"
    path.write_text("\n".join(rows))
    everything = list(read_lines(path))
    assert [number for number, _ in everything] == list(range(sum(bool(row.strip()) for row in rows)))
    assert list(read_lines(path, first)) == everything[first:]


def test_an_overlong_line_is_one_line_and_wrong(tmp_path):
    path = tmp_path / "in.jsonl"
    path.write_bytes(b'{"a": "' + b"x" * (2 * LONGEST_LINE + 5) + b'"}\n' + asked(["b"]).encode())
    found = list(read_lines(path))
    assert [number for number, _ in found] == [0, 1]
    with pytest.raises(ValueError, match="at most"):
        parse(0, found[0][1], CHAT)
    assert parse(1, found[1][1], CHAT).custom_id == "c-0"


def test_a_half_character_of_an_answer_is_written_all_the_same():
    text = answered("batch_1", Line(0, "\ud800", {}), 200, "", {"x": "\udfff"})
    assert json.loads(text)["response"]["body"] == {"x": "\udfff"}


# ---------------------------------------------------------------- records
def test_a_batch_is_the_same_after_it_was_written_down():
    made = batch(model="m", total=3, errors=(InputError("a", "b", "c", 1),), metadata={"k": "v"}, max_price=2.0)
    made = made.at(Status.FAILED, NOW + timedelta(seconds=5))
    assert read_batch(json.loads(json.dumps(written(made)))) == made
    assert made.json()["failed_at"] == int(NOW.timestamp()) + 5


@pytest.mark.parametrize(
    ("text", "seconds"),
    [("2", 2.0), ("0.5", 0.5), ("-3", 0.0), ("inf", None), ("99999", 300.0), ("soon", None), (None, None),
     ("Thu, 01 Jan 1970 00:00:00 GMT", 0.0)],
)  # fmt: skip
def test_how_long_a_server_asks_to_wait(text, seconds):
    assert _retry_after(text) == seconds


# ---------------------------------------------------------------- turns
def test_a_tenant_that_comes_later_has_no_claim_on_what_it_did_not_ask_for(tmp_path):
    async def turns():
        order, gate = [], asyncio.Event()

        async def send(_endpoint, body):
            order.append(body["messages"][0]["content"])
            await gate.wait()
            await asyncio.sleep(0.02)  # it is time that is shared, so all take some
            return Answer(200, "", {})

        runner = Runner("r", send, 1, {"a": 1.0, "b": 1.0})

        def add(tenant, count, **more):
            path = tmp_path / f"{tenant}{count}.jsonl"
            path.write_text("".join(json.dumps(line(k, f"{tenant}{count}")) + "\n" for k in range(count)))
            name = f"batch_{tenant}{count}"
            runner.add(Running(batch(name, tenant, **more), Answers(tmp_path / name, count), path))
            return name

        first = add("a", 100)
        task = asyncio.create_task(runner.run())
        runner.grant({first: 20})
        await until(lambda: len(order) == 20)
        urgent, later = add("b", 41, deadline=NOW + timedelta(hours=1)), add("b", 40)
        gate.set()
        runner.grant({first: 4, urgent: 4, later: 4})
        await until(lambda: len(order) == 181)
        task.cancel()
        with suppress(asyncio.CancelledError):
            await task
        for one in runner.running.values():
            one.answers.close()
            one._lines.close()
        return order[20:]

    order = asyncio.run(turns())
    for count in (20, 60, 100):
        assert abs(order[:count].count("a100") - count / 2) <= 1, "level from the moment it came"
    assert order.index("b40") > [k for k, word in enumerate(order) if word == "b41"][-1], "the nearer deadline first"


def waiting(tmp_path, runner, number, tenants=("a",)):
    """A batch that may send, once it has its grant."""
    path = tmp_path / "in.jsonl"
    if not path.exists():
        path.write_text("".join(json.dumps(line(k, "w")) + "\n" for k in range(3)))
    tenant, name = tenants[number % len(tenants)], f"batch_{number:05}"
    made = Running(batch(name, tenant, priority=number % 3), Answers(tmp_path / name, 3), path)
    runner.add(made)
    return made


def test_a_choice_looks_at_no_batch_that_only_waits(tmp_path, monkeypatch):
    looked = [0]
    eligible = Running.eligible.fget

    def counted(self):
        looked[0] += 1
        return eligible(self)

    async def turns():
        runner = Runner("r", None, 1, {})
        made = [waiting(tmp_path, runner, number, ("a", "b", "c")) for number in range(300)]
        runner.grant({one.batch.id: 1 for one in made})
        monkeypatch.setattr(Running, "eligible", property(counted))
        order = []
        for _ in range(900):
            one = runner._choose()
            one.in_flight += 1
            one.next()
            order.append(one.batch)
        assert runner._choose() is None
        return order

    order = asyncio.run(turns())
    assert looked[0] < 6 * 900, "the first of each of three tenants, and who leaves the queue"
    for tenant in "abc":
        own = [one for one in order if one.tenant == tenant]
        assert own == sorted(own, key=lambda one: (-one.priority, one.id)), "by priority"
        assert len(own) == 300
    assert all({one.tenant for one in order[k : k + 3]} == set("abc") for k in range(0, 900, 3)), "in turns"


def test_who_may_send_again_stands_in_the_queue_again(tmp_path):
    async def turns():
        runner = Runner("r", None, 1, {})
        one = waiting(tmp_path, runner, 0)
        runner.grant({one.batch.id: 1})
        lines = [one.next() for _ in range(3)]
        one.in_flight = 3
        assert runner._choose() is None
        runner._tasks, one.in_flight, runner.in_flight = set(), 3, 3

        async def away(_endpoint, _body):
            return Away("busy", 0.0)

        runner._send = away
        await runner._one(one, lines[0])
        assert runner._choose() is one, "what was turned away is sent again"
        one.stopped = True
        assert runner._choose() is None
        one.stopped = False
        assert runner._choose() is None, "others' decisions count from the next look on"
        runner.order()
        assert runner._choose() is one
        assert runner.slots == 1
        runner.remove(one.batch.id)
        assert (runner.slots, runner._choose()) == (0, None)

    asyncio.run(turns())


def test_an_input_that_can_not_be_read_holds_up_its_batch_alone_and_is_read_on_where_it_was(tmp_path, monkeypatch):
    async def turns():
        runner = Runner("r", None, 1, {})
        broken, fine = waiting(tmp_path, runner, 2), waiting(tmp_path, runner, 0)
        runner.grant({broken.batch.id: 1, fine.batch.id: 1})
        assert broken.next().number == 0
        broken._lines.close()
        source, broken.source, broken._lines = broken.source, tmp_path / "gone", None
        begun = []

        def begin(running, _line):
            begun.append(running)
            runner.in_flight = runner.slots

        monkeypatch.setattr(runner, "_begin", begin)
        runner._fill()
        assert begun == [fine]
        broken.source, broken.unread_until = source, 0.0
        runner.order()
        assert [broken.next().number for _ in range(2)] == [1, 2]
        for one in (broken, fine):
            if one._lines is not None:
                one._lines.close()

    asyncio.run(turns())


def test_a_server_that_breaks_every_request_breaks_few_and_gets_them_one_at_a_time(tmp_path, monkeypatch):
    """A proxy before a server that is being restarted answers 500 or 502 to whatever it is asked."""
    monkeypatch.setattr("scheduler.gateway.runner.FIRST_WAIT_S", 0.001)
    monkeypatch.setattr("scheduler.gateway.runner.MOST_WAIT_S", 0.004)

    async def turns():
        sent, told, full = [], [], asyncio.Event()

        async def send(_endpoint, _body):
            sent.append(runner.in_flight)
            told.append(runner.trouble)
            if len(sent) == 20:
                full.set()
            await full.wait()  # the first twenty break at once, none before all are under way
            await asyncio.sleep(0)
            return Broken("upstream_error", "answers 502") if len(sent) <= 20 + 10 else Answer(200, "", {})

        runner = Runner("r", send, 20, {})
        path = tmp_path / "many.jsonl"
        path.write_text("".join(json.dumps(line(k, "w")) + "\n" for k in range(200)))
        answers = Answers(tmp_path / "many", 200)
        runner.add(Running(batch("batch_many"), answers, path))
        runner.grant({"batch_many": 1})
        task = asyncio.create_task(runner.run())
        await until(lambda: not answers.left)
        task.cancel()
        with suppress(asyncio.CancelledError):
            await task
        answers.close()
        return sent, told, answers

    sent, told, answers = asyncio.run(turns())
    assert max(sent[20:30]) == 1
    assert all("502" in one for one in told[20:30]), "what is wrong is told while it is tried again"
    assert told[-1] == ""
    assert (answers.completed, answers.failed) == (190, 10), "the ten that were tried while it was broken"
    assert len(sent) == 200 + 20
    assert max(sent[40:]) > 10, "and all slots again"


def test_a_stop_that_comes_with_a_wake_up_is_a_stop(tmp_path):
    """Answers come all the time; one that arrives in the moment of the stop must not keep the gateway running."""

    async def turns():
        runner = Runner("r", None, 1, {})
        runner._hold("busy", 60.0)
        task = asyncio.create_task(runner.run())
        await asyncio.sleep(0.01)
        runner._wake.set()
        await asyncio.sleep(0)  # the wake-up is on its way
        task.cancel()
        done, _ = await asyncio.wait({task}, timeout=5)
        assert done
        assert task.cancelled()

    asyncio.run(turns())


def test_a_trouble_that_nobody_has_seen_lately_is_none(tmp_path):
    async def turns():
        runner = Runner("r", None, 1, {})
        runner._hold("gone", 60.0)
        assert runner.trouble == "gone"
        runner._hold_until = 0.0
        assert runner.trouble == "", "nothing was sent since"
        runner.in_flight = 1
        assert runner.trouble == "gone", "until what was sent has come back"

    asyncio.run(turns())


async def until(true):
    for _ in range(500):
        if true():
            return
        await asyncio.sleep(0.01)
    raise AssertionError("it did not happen")


# ---------------------------------------------------------------- the file
SMALL = """
token: "env:GRIDPACE_T"
upstreams:
  - {id: llama, url: "http://127.0.0.1:8000", pool: tune, models: [tiny], tokens_per_gpu_h: 1.0e6}
tenants:
  - {name: research, key: "env:GRIDPACE_K"}
"""


@pytest.fixture
def keys(monkeypatch):
    monkeypatch.setenv("GRIDPACE_T", "t")
    monkeypatch.setenv("GRIDPACE_K", "k")


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (("tokens_per_gpu_h: 1.0e6", "tokens_per_gpu_h: 0"), "gateway.yaml:4: upstreams[0].tokens_per_gpu_h"),
        (("url: ", "uri: "), "gateway.yaml:4: upstreams[0].u"),
        (("env:GRIDPACE_K", "k"), "gateway.yaml:6: tenants[0].key"),
        (("env:GRIDPACE_K", "env:GRIDPACE_NONE"), "gateway.yaml:6: tenants[0].key"),
        (("tenants:\n", "tenants:\n  - {name: product, key: 'env:GRIDPACE_K'}\n"), "is the key of tenants[0] too"),
        (("models: [tiny]", "models: []"), "gateway.yaml:4: upstreams[0].models"),
    ],
)
def test_what_is_wrong_in_the_file_is_said_with_its_line(tmp_path, keys, change, said):
    path = tmp_path / "gateway.yaml"
    path.write_text(SMALL)
    assert load_gateway(path).upstreams[0].requests_per_gpu == 32
    path.write_text(SMALL.replace(*change))
    with pytest.raises(ConfigError) as caught:
        load_gateway(path)
    assert said in str(caught.value)


def test_the_sample_needs_nothing_but_its_secrets(tmp_path, monkeypatch):
    monkeypatch.setenv("CREDENTIALS_DIRECTORY", str(tmp_path))
    for name in ("gridpace-token", "research-key"):
        (tmp_path / name).write_text(name)
    assert load_gateway(ROOT / "config/gateway.yaml").upstreams[0].models == ("llama-3.1-8b",)
