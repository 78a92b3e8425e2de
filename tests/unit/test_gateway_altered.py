"""Input and answers that should not be: files altered after their check, numbers and depths that nothing holds."""

import asyncio
import json
from contextlib import suppress
from dataclasses import replace
from time import monotonic

import pytest

from scheduler.gateway.answers import Answers
from scheduler.gateway.lines import DEEPEST, Line
from scheduler.gateway.model import ApiError, Status
from scheduler.gateway.mover import write_rest
from scheduler.gateway.peer import PeerRefused
from scheduler.gateway.runner import Runner
from scheduler.gateway.running import Running
from scheduler.gateway.terms import checked_metadata
from scheduler.gateway.upstream import Answer
from scheduler.gateway.validate import check
from tests.support.gateway import asked, line, stored
from tests.unit.test_gateway_parts import CHAT, batch, waiting
from tests.unit.test_gateway_talk import created, opened, research, run


def spoiled(path):
    rows = path.read_text().splitlines(keepends=True)
    path.write_text(rows[0] + "no request\n" + rows[2])


def shortened(path):
    path.write_text(path.read_text().splitlines(keepends=True)[0])


def longer(path):
    """A line in front that is no request, so that there are four."""
    path.write_text("{}\n" + path.read_text())


async def until(true):
    ends = monotonic() + 30
    while not true():
        assert monotonic() < ends
        await asyncio.sleep(0.01)


async def with_altered(gateway, daemon, alter, work):
    """Live with a batch of three lines whose file is altered after its check, beside another one."""

    async def send(_endpoint, _body):
        return Answer(200, "", {})

    gateway.runners["llama"]._send = send
    file = stored(gateway, research(gateway), asked(["a", "b", "c"]))
    (mine,) = created(gateway, input_file_id=file.id)
    (other,) = created(gateway)
    working = asyncio.create_task(gateway.run())
    await until(lambda: all(gateway.shelf.known(one.id).status is Status.IN_PROGRESS for one in (mine, other)))
    alter(gateway.shelf.path(file))
    work(mine, other)
    await until(lambda: gateway.shelf.known(mine.id).over or working.done())
    await until(lambda: gateway.shelf.known(other.id).over or working.done() or not daemon.granted)
    working.cancel()
    with suppress(asyncio.CancelledError):
        await working
    return gateway.shelf.known(mine.id), gateway.shelf.known(other.id)


def grants(daemon):
    """Have the daemon grant what stands in `granted`."""
    daemon.granted = {}

    async def granted():
        return daemon.granted, {}

    daemon.grants = granted


@pytest.mark.parametrize(("alter", "where", "answered"), [(spoiled, 2, 1), (shortened, 1, 1), (longer, 1, 0)])
@run
async def test_an_input_that_was_altered_after_its_check_fails_its_batch_alone(tmp_path, alter, where, answered):
    async with opened(tmp_path) as (gateway, daemon):
        grants(daemon)

        def work(*batches):
            daemon.granted = {one.id: 1 for one in batches}

        mine, other = await with_altered(gateway, daemon, alter, work)
        assert (mine.status, mine.completed) == (Status.FAILED, answered)
        assert (mine.errors[0].code, mine.errors[0].line) == ("input_changed", where)
        assert (mine.output_file is not None) is bool(answered), "what was answered is there"
        assert other.status is Status.COMPLETED


@pytest.mark.parametrize("alter", [spoiled, shortened, lambda path: path.unlink()])
@run
async def test_an_altered_input_is_found_at_the_end_of_the_window_too(tmp_path, alter):
    async with opened(tmp_path) as (gateway, daemon):
        grants(daemon)

        def expire(mine, _other):
            running = gateway.runners["llama"].running[mine.id]
            running.batch = replace(running.batch, expires_at=mine.created_at)

        mine, other = await with_altered(gateway, daemon, alter, expire)
        assert (mine.status, mine.errors[0].code) == (Status.FAILED, "input_changed")
        assert other.status is Status.IN_PROGRESS


def test_an_altered_line_is_moved_to_no_other_site(tmp_path):
    one = waiting(tmp_path, Runner("r", None, 1, {}), 0)
    spoiled(one.source)
    with pytest.raises(PeerRefused, match="line 2"):
        write_rest(one, tmp_path / "rest.jsonl")


def checked(tmp_path, **body):
    path = tmp_path / "in.jsonl"
    request = line("a", "w")
    path.write_text(json.dumps(request | {"body": request["body"] | body}) + "\n")
    return check(path, CHAT, {"tiny"}.__contains__, 10, 100.0)


def test_numbers_and_depths_that_nothing_holds_are_no_end_of_the_gateway(tmp_path):
    assert checked(tmp_path, max_tokens=10**400).tokens < 300, "an answer is as long as usual at most"
    deep = inner = []
    for _ in range(DEEPEST - 3):  # beside the line, its body and the outermost list
        inner.append(inner := [])
    assert checked(tmp_path, deep=deep).errors == ()
    inner.append([])
    (error,) = checked(tmp_path, deep=deep).errors
    assert (error.code, error.line) == ("invalid_json_line", 1)
    assert checked(tmp_path, text="[{" * 1000).errors == ()


def test_an_answer_that_can_not_be_written_ends_its_request_alone(tmp_path):
    deep = inner = []
    for _ in range(5000):
        inner.append(inner := [])

    async def send(_endpoint, _body):
        return Answer(200, "", {"deep": deep})

    async def one():
        runner = Runner("r", send, 1, {})
        running = Running(batch(), Answers(tmp_path, 1), tmp_path / "in.jsonl")
        running.in_flight = runner.in_flight = 1
        await runner._one(running, Line(0, "a", {}))
        assert (running.answers.failed, running.answers.left, runner.in_flight) == (1, 0, 0)
        running.answers.close()
        assert json.loads(running.answers.bad.read_text())["error"]["code"] == "gateway_error"

    asyncio.run(one())


def test_a_server_that_asks_for_no_wait_is_not_asked_thousands_of_times():
    async def waits():
        runner, begun = Runner("r", None, 1, {}), monotonic()
        found = []
        for _ in range(3):
            runner._hold_until = 0.0
            runner._hold("busy", 0.0)
            found.append(runner._hold_until - begun)
        return found

    first, second, third = asyncio.run(waits())
    assert 0.4 < first < second < third


@pytest.mark.parametrize("found", [{"note": "a\ud800"}, {"\udfff": "a"}])
def test_half_a_character_in_metadata_is_refused(found):
    """Kept, it would make every list of its tenant's batches fail."""
    with pytest.raises(ApiError, match="half a character"):
        checked_metadata(found)
    assert checked_metadata({"note": "\u00e9 \U0001f600"})
