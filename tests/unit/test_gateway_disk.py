"""A disk that takes nothing: calls are refused, nothing ends, and what was left is done once it does again."""

import asyncio
import errno
import json
from contextlib import suppress
from dataclasses import replace
from unittest.mock import Mock

import pytest

from scheduler.gateway.answers import Answers
from scheduler.gateway.lines import Line, answered, unanswered
from scheduler.gateway.model import ApiError, Status
from scheduler.gateway.sales import State
from scheduler.store.store import StoreDegraded
from tests.support.gateway import asked, stored
from tests.unit.test_gateway_parts import USAGE
from tests.unit.test_gateway_talk import begun, bought, created, opened, quoted, research, run


def fill(gateway):
    """From now on its store takes nothing; what is called makes room."""
    store = gateway.shelf.store
    put = store.put

    def full(kind, key, value):
        raise StoreDegraded("gateway.db: database or disk is full")

    store.put = full

    def freed():
        store.put = put

    return freed


@run
async def test_every_kind_of_end_is_written_down_once_the_disk_takes_it_and_others_go_on_meanwhile(tmp_path):
    async with opened(tmp_path) as (gateway, daemon):
        daemon.plan = quoted(free=4.0)
        await gateway.trade.hear_prices()
        sold, refused_sale = bought(gateway, 1000), bought(gateway, 1000)
        (done,) = begun(gateway, 1)
        await gateway._turn(1)
        gateway.runners["llama"].running[done.id].answers.put(0, b"{}\n", {})
        refused, kept = begun(gateway, 2)
        freed = fill(gateway)
        gateway.trade.sales.heard.pop(refused_sale.id)
        daemon.error["submit"] = 422
        await gateway._turn(2)
        assert "disk: gateway.db" in gateway.trouble()[0]
        running = set(gateway.runners["llama"].running)
        assert running == {done.id, refused.id, kept.id}, "no record says that one is over"
        assert daemon.calls["grants"] == 2, "grants are heard all the same"
        with pytest.raises(StoreDegraded):
            gateway.cancel("research", kept.id)
        with pytest.raises(StoreDegraded):
            gateway.trade.sales.drop("research", sold.id)
        with pytest.raises(StoreDegraded):
            created(gateway)
        assert gateway.look("research", kept.id).status is Status.IN_PROGRESS
        freed()
        await gateway._turn(3)
        assert not gateway.runners["llama"].running, "the daemon refuses the two others"
        statuses = {gateway.look("research", one.id).status for one in (refused, kept)}
        assert statuses == {Status.FAILED}
        assert gateway.look("research", done.id).status is Status.COMPLETED
        assert gateway.trade.sales.find("research", refused_sale.id).state is State.CANCELLED
        assert gateway.trade.sales.find("research", sold.id).state is State.ACCEPTED
        await gateway._turn(4)
        assert gateway.trouble() == []
        assert all(gateway.shelf.known(one.id).told for one in (done, refused, kept))
        assert not any("kept" in path.name for path in (tmp_path / "state/files").iterdir())


@run
async def test_a_batch_whose_check_could_not_be_written_down_is_checked_again(tmp_path, monkeypatch):
    monkeypatch.setattr("scheduler.gateway.gateway.AGAIN_S", 0.05)
    async with opened(tmp_path) as (gateway, _):
        (batch,) = created(gateway)
        freed = fill(gateway)
        working = asyncio.create_task(gateway.run())
        while not gateway.disk.trouble:
            await asyncio.sleep(0.01)
        assert not gateway.runners["llama"].running
        freed()
        while gateway.look("research", batch.id).status is not Status.IN_PROGRESS:
            assert not working.done()
            await asyncio.sleep(0.01)
        working.cancel()
        with suppress(asyncio.CancelledError):
            await working
        assert set(gateway.runners["llama"].running) == {batch.id}


@run
async def test_an_upload_that_could_not_be_kept_leaves_nothing(tmp_path):
    async with opened(tmp_path) as (gateway, _):
        freed = fill(gateway)
        with pytest.raises(StoreDegraded):
            stored(gateway, research(gateway), asked(["a"]))
        freed()
        assert list((tmp_path / "state/files").iterdir()) == []


def test_answers_that_could_not_be_synced_are_synced_again(tmp_path, monkeypatch):
    answers, synced, full = Answers(tmp_path, 1), [], [True]

    def fsync(handle):
        if full[0]:
            raise OSError(errno.ENOSPC, "No space left on device")
        synced.append(handle)

    answers.put(0, b"{}\n", {})
    monkeypatch.setattr("os.fsync", fsync)
    with pytest.raises(OSError, match="No space"):
        answers.sync()
    full[0] = False
    answers.close()
    assert len(synced) == 1


@pytest.mark.parametrize("bad", [False, True])
@run
async def test_answers_that_a_power_cut_left_zeros_in_are_cut_there_and_asked_again(tmp_path, bad, monkeypatch):
    """The zeros hold no end of a line: what is left of two lines looks like one."""
    said = []
    monkeypatch.setattr("scheduler.gateway.answers.log", Mock(warning=lambda *what, **more: said.append((what, more))))
    async with opened(tmp_path) as (gateway, _):
        (made,) = begun(gateway, 1)
        gateway.shelf.put(replace(made, total=5))
        folder = gateway.shelf.answers_of(made.id)

    def answer(answers, number):
        found, body = Line(number, f"c{number}", {}), USAGE | {"text": "y" * 100}
        text = answered(made.id, found, 200, "r", body)
        answers.put(number, unanswered(made.id, found, "x", "y" * 300) if bad else text, None if bad else body)

    before = Answers(folder, 5)
    for number in range(4):
        answer(before, number)
    before.close()
    path = before.bad if bad else before.good
    rows = path.read_bytes().splitlines(keepends=True)
    rows[1:3] = [(rows[1] + rows[2])[:80] + b"\0" * len(rows[1]) + (rows[1] + rows[2])[80 + len(rows[1]) :]]
    assert rows[1].count(b"\n") == 1
    path.write_bytes(b"".join(rows))
    async with opened(tmp_path) as (gateway, _):  # it starts
        gateway._resume()
        ((_, one),) = gateway._running()
        assert (one.answers.left, [number for number in range(5) if one.answers.has(number)]) == (4, [0])
        assert path.read_bytes() == rows[0]
        for number in range(5):
            answer(one.answers, number)
        assert one.answers.usage.json()["total_tokens"] == (0 if bad else 25)
        one.answers.close()
        assert [json.loads(row)["custom_id"] for row in path.read_text().splitlines()] == [f"c{k}" for k in range(5)]
    (((what,), more),) = said
    assert (what, more["kept"], more["at_byte"]) == ("gateway.answers_cut", 1, len(rows[0]))


@run
async def test_uploads_that_come_at_once_fit_into_what_their_tenant_may_store_together(tmp_path):
    async with opened(tmp_path) as (gateway, _):
        content = asked(["a"]).encode()
        tenant = research(gateway).model_copy(update={"max_bytes": 2 * len(content) + 10})
        stored(gateway, tenant, content)
        with gateway.incoming(tenant) as first, gateway.incoming(tenant) as second:
            first.write(content[:20])
            with pytest.raises(ApiError, match=f"only {len(content) - 10} more bytes") as refused:
                second.write(content)  # the first one has twenty bytes of what is left
            assert refused.value.status == 413
            first.write(content[20:])
            kept = gateway.shelf.keep(first, "first.jsonl")
        assert gateway.shelf.bytes_of("research") == 2 * len(content)
        assert kept.id in {path.name for path in (tmp_path / "state/files").iterdir()}
        assert len(list((tmp_path / "state/files").iterdir())) == 2


@run
async def test_contents_that_no_record_names_are_told_of_and_stay(tmp_path):
    async with opened(tmp_path) as (gateway, _):
        (batch,) = begun(gateway, 1)
        shelf = gateway.shelf
        shelf.answers_of(batch.id).mkdir(parents=True, exist_ok=True)
        assert shelf.strays() == ()
        paths = (shelf.folder / "files/file-0123", shelf.answers_of("batch_0123"))
        paths[0].write_text("a line")
        paths[1].mkdir()
        assert shelf.strays() == paths
    async with opened(tmp_path) as (gateway, _):
        assert gateway.shelf.strays() == paths
