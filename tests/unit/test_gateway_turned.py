"""Requests that a server turns away for load: one that it never takes, and servers that are busy for everybody."""

import asyncio
import itertools
import json
import random
from contextlib import suppress
from dataclasses import replace

import pytest

from scheduler.gateway.answers import Answers
from scheduler.gateway.runner import Runner
from scheduler.gateway.running import Running
from scheduler.gateway.turned import GIVEN_UP
from scheduler.gateway.upstream import Answer, Away
from tests.support.gateway import line
from tests.unit.test_gateway_parts import batch

REFUSAL = Answer(429, "r-1", {"error": {"message": "larger than your tokens a minute"}})
LONG_S = 0.02


@pytest.fixture
def hurried(monkeypatch):
    """Waits of milliseconds."""
    monkeypatch.setattr("scheduler.gateway.runner.FIRST_WAIT_S", 0.05)
    monkeypatch.setattr("scheduler.gateway.runner.MOST_WAIT_S", 0.1)


def made(tmp_path, runner, name, words):
    path = tmp_path / f"{name}.jsonl"
    path.write_text("".join(json.dumps(line(k, word)) + "\n" for k, word in enumerate(words)))
    one = replace(batch(f"batch_{name}", name), total=len(words))
    found = Running(one, Answers(tmp_path / one.id, len(words)), path)
    runner.add(found)
    return found


async def worked(runner, until, *batches, seconds=20.0):
    """Let it run until `until()`, at most so long, and end."""
    task = asyncio.create_task(runner.run())
    with suppress(TimeoutError):
        async with asyncio.timeout(seconds):
            while not until():
                await asyncio.sleep(0.005)
    task.cancel()
    with suppress(asyncio.CancelledError):
        await task
    await runner.drain(0.0)
    for one in batches:
        one.answers.close()
        if one._lines is not None:
            one._lines.close()


def served(asked, refusal):
    """A server that answers all but what says "never"."""

    async def send(_endpoint, body):
        word = body["messages"][0]["content"]
        asked.append(word)
        await asyncio.sleep(0.001 if word == "never" else LONG_S)
        return refusal if word == "never" else Answer(200, "", {})

    return send


@pytest.mark.parametrize("wait_s", [None, 0.0, 0.3])
def test_a_request_that_is_always_turned_away_keeps_nobody_else_waiting_and_ends_with_what_the_server_says(
    tmp_path, hurried, wait_s
):
    refusal = Away("answers 429", wait_s, answer=REFUSAL)

    async def both(words, count):
        asked = []
        folder = tmp_path / f"{len(words)}{words[0]}"
        folder.mkdir()
        runner = Runner("r", served(asked, refusal), 1, {"a": 1.0, "b": 1.0})
        a, b = made(folder, runner, "a", words), made(folder, runner, "b", [f"w{k}" for k in range(count)])
        runner.grant({a.batch.id: 1, b.batch.id: 15})
        await worked(runner, lambda: not (a.answers.left or b.answers.left), a, b)
        return a, b, asked, runner

    a, b, asked, runner = asyncio.run(both(["never"], 4000))
    assert (a.answers.failed, a.answers.left, b.answers.completed, b.answers.left) == (1, 0, 4000, 0)
    assert asked.count("never") == GIVEN_UP + 1
    (error,) = [json.loads(row) for row in a.answers.bad.read_text().splitlines()]
    assert error["response"] == {"status_code": 429, "request_id": "r-1", "body": REFUSAL.body}
    places = [place for place, word in enumerate(asked) if word == "never"]
    waits = [after - before for before, after in itertools.pairwise(places)]
    rate = 15 / LONG_S
    least = max(wait_s or 0.0, 0.05) * rate * 0.3  # a machine that is busy sends fewer, never none
    assert min(waits) > least, "others went on all the time that it waited"
    assert not runner.trouble


def test_a_retry_after_of_one_line_is_that_lines_alone(tmp_path, hurried):
    """Five minutes, as the server asks: the others of its own batch, and of other tenants, hear nothing of it."""

    async def turns():
        asked = []
        runner = Runner("r", served(asked, Away("answers 429", 300.0, answer=REFUSAL)), 1, {"a": 1.0, "b": 1.0})
        a = made(tmp_path, runner, "a", ["never", *(f"a{k}" for k in range(300))])
        b = made(tmp_path, runner, "b", [f"b{k}" for k in range(300)])
        runner.grant({a.batch.id: 8, b.batch.id: 8})
        await worked(runner, lambda: a.answers.left == 1 and not b.answers.left, a, b)
        return a, b, asked

    a, b, asked = asyncio.run(turns())
    assert (a.answers.completed, b.answers.completed, asked.count("never")) == (300, 300, 1)
    assert a.answers.left == 1, "it waits"


def test_a_line_among_many_of_one_batch_is_found_out_too(tmp_path, hurried):
    async def turns():
        asked = []
        runner = Runner("r", served(asked, Away("answers 429", answer=REFUSAL)), 1, {})
        a = made(tmp_path, runner, "a", [*(f"a{k}" for k in range(20)), "never", *(f"w{k}" for k in range(1500))])
        runner.grant({a.batch.id: 16})
        await worked(runner, lambda: not a.answers.left, a)
        return a

    a = asyncio.run(turns())
    assert (a.answers.completed, a.answers.failed) == (1520, 1)


@pytest.mark.parametrize("busy", ["for a while", "for every third", "for most"])
def test_a_server_that_is_busy_for_all_fails_no_request(tmp_path, monkeypatch, busy):
    """However often lines are turned away: it is the server, not they."""
    monkeypatch.setattr("scheduler.gateway.runner.FIRST_WAIT_S", 0.001)
    monkeypatch.setattr("scheduler.gateway.runner.MOST_WAIT_S", 0.002)
    dice = random.Random(7)

    async def turns():
        asked = []

        async def send(_endpoint, body):
            asked.append(body["messages"][0]["content"])
            await asyncio.sleep(0.0005)
            share = {"for every third": 1 / 3, "for most": 0.8}.get(busy, float(40 < len(asked) < 1500))
            return Away("answers 503") if dice.random() < share else Answer(200, "", {})

        runner = Runner("r", send, 1, {"a": 1.0, "b": 1.0})
        a, b = (made(tmp_path, runner, name, [f"{name}{k}" for k in range(400)]) for name in "ab")
        runner.grant({a.batch.id: 4, b.batch.id: 4})
        await worked(runner, lambda: not (a.answers.left or b.answers.left), a, b, seconds=60.0)
        return a, b, asked

    a, b, asked = asyncio.run(turns())
    assert [(one.answers.completed, one.answers.failed) for one in (a, b)] == [(400, 0)] * 2
    assert len(asked) > 1000


def test_while_nothing_is_answered_all_wait_as_long_as_the_server_asks(tmp_path):
    async def turns():
        asked = []

        async def send(_endpoint, body):
            asked.append(body["messages"][0]["content"])
            await asyncio.sleep(0.001)
            return Away("answers 503", 60.0)

        runner = Runner("r", send, 1, {"a": 1.0, "b": 1.0})
        a, b = (made(tmp_path, runner, name, [f"{name}{k}" for k in range(40)]) for name in "ab")
        runner.grant({a.batch.id: 4, b.batch.id: 4})
        await worked(runner, lambda: False, a, b, seconds=0.3)
        return asked, runner

    asked, runner = asyncio.run(turns())
    assert len(asked) <= 8 + 4, "those that were under way; then one batch waited, and then both"
    assert "503" in runner.trouble
