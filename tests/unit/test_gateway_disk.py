"""A disk that takes nothing: calls are refused, nothing ends, and what was left is done once it does again."""

import asyncio
import errno
from contextlib import suppress

import pytest

from scheduler.gateway.answers import Answers
from scheduler.gateway.model import ApiError, Status
from scheduler.gateway.sales import State
from scheduler.store.store import StoreDegraded
from tests.support.gateway import asked, stored
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
