"""What a gateway with thousands of batches tells a daemon that is slow, hangs or is gone, turn by turn."""

import asyncio
import os
import socket
from collections import Counter
from contextlib import ExitStack, asynccontextmanager, suppress
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from functools import wraps

import pytest

from adapters.ports import AdapterError
from scheduler.clock import WallClock
from scheduler.gateway import talk, trade
from scheduler.gateway.config import load_gateway
from scheduler.gateway.daemon import DaemonError
from scheduler.gateway.gateway import Gateway
from scheduler.gateway.model import ApiError, Status
from scheduler.gateway.sales import State
from scheduler.gateway.shelf import Shelf
from scheduler.gateway.upstream import Away, Upstream
from scheduler.store.store import Store
from tests.support.gateway import Desk, asked, stored

PER_GPU_H = 0.012
"""A GPU-hour at this price makes 12,000 tokens: one unit of money for a million."""


class Slow:
    """A daemon in this process: each answer takes `takes_s`; `error` is what it says instead of one."""

    def __init__(self):
        self.takes_s, self.error = 0.0, {}
        self.calls, self.jobs, self.reports, self.plan = Counter(), {}, Counter(), None
        self.done, self.books = {}, {}

    async def _answer(self, call):
        self.calls[call] += 1
        await asyncio.sleep(self.takes_s)
        if call in self.error:
            raise DaemonError("of a test", self.error[call])

    async def submit(self, job):
        await self._answer("submit")
        self.jobs[job["id"]] = job

    async def grants(self):
        await self._answer("grants")
        return {}, {}

    async def progress(self, job, done_gpu_h, finished, sold, place=None):
        self.reports[job] += 1
        await self._answer("progress")
        self.done[job], self.books[job] = done_gpu_h, sold

    async def sold(self, job, sold):
        await self._answer("sold")
        self.books[job] = sold

    async def quotes(self):
        if self.plan is None:
            raise DaemonError("no plan yet", 404)
        return self.plan

    async def cancel(self, job):
        await self._answer("cancel")

    async def close(self):
        pass


def quoted(free, made_at=None, per_gpu_h=PER_GPU_H):
    """A plan of two hours with `free` GPUs."""
    now = made_at or datetime.now(UTC)
    edges = [now + timedelta(hours=k) for k in range(3)]
    slots = [{"start": edges[k].isoformat(), "end": edges[k + 1].isoformat(), "per_gpu_h": per_gpu_h,
              "free_gpus": free} for k in range(2)]  # fmt: skip
    return {"made_at": now.isoformat(), "currency": "USD", "note": "", "pools": [{"pool": "tune", "intervals": slots}]}


@asynccontextmanager
async def opened(folder):
    """A gateway on this folder's books, and its daemon."""
    desk = Desk(folder, "http://127.0.0.1:9", "http://127.0.0.1:9", "token", most=10**9)
    config = load_gateway(desk.folder / "gateway.yaml")
    config = config.model_copy(update={"tenants": tuple(
        one.model_copy(update={"max_batches": 10_000}) for one in config.tenants)})  # fmt: skip
    config.state_dir.mkdir(exist_ok=True)
    store, daemon = Store.open(config.state_dir / "gateway.db"), Slow()
    try:
        gateway = Gateway(config, Shelf(config.state_dir, store, WallClock().now), WallClock(), daemon)
        yield gateway, daemon
        await gateway.close(0.0)
    finally:
        store.close()


def research(gateway):
    return gateway.config.tenants[0]


def created(gateway, count=1, **more):
    file = stored(gateway, research(gateway), asked(["a"]))
    body = {"input_file_id": file.id, "endpoint": "/v1/chat/completions", "completion_window": "24h"} | more
    return [gateway.create(research(gateway), body) for _ in range(count)]


def begun(gateway, count):
    """Batches in progress, as if they had been checked."""
    made = []
    for batch in created(gateway, count):
        made.append(batch.at(Status.IN_PROGRESS, batch.created_at, model="tiny", total=1, work_gpu_h=0.1))
        gateway._start(gateway.shelf.put(made[-1]))
    return made


def run(test):
    """A test that needs an event loop."""

    @wraps(test)
    def ran(*args, **more):
        asyncio.run(test(*args, **more))

    return ran


@run
async def test_a_daemon_that_hangs_holds_no_turn_up_for_each_batch(tmp_path):
    async with opened(tmp_path) as (gateway, daemon):
        begun(gateway, 200)
        daemon.takes_s, daemon.error = 0.01, {"submit": 0}
        await gateway._turn(1)
        assert 1 <= daemon.calls["submit"] <= talk.AT_ONCE
        assert daemon.calls["grants"] == 1
        daemon.error = {}
        for turn in range(2, 6):
            await gateway._turn(turn)
        assert len(daemon.jobs) == 200, "all of them, once it answers"


@run
async def test_a_new_batch_is_introduced_however_many_ended_ones_are_still_to_be_told(tmp_path, monkeypatch):
    monkeypatch.setattr(talk, "TALK_S", 0.05)
    async with opened(tmp_path) as (gateway, daemon):
        ended = begun(gateway, 300)
        for batch in ended:
            gateway.cancel("research", batch.id)
        daemon.takes_s = 0.01
        await gateway._turn(1)
        assert not gateway.runners["llama"].running, "all are over for their clients"
        assert 0 < daemon.calls["cancel"] < 150
        (new,) = begun(gateway, 1)
        await gateway._turn(2)
        assert set(daemon.jobs) == {new.id}
        assert daemon.calls["cancel"] < 300
        daemon.takes_s, turn = 0.0, 3
        while not all(gateway.shelf.known(batch.id).told for batch in ended):
            await gateway._turn(turn)
            turn += 1
        assert daemon.calls["cancel"] == 300, "each once"


@run
async def test_reports_of_batches_that_wait_are_spread_over_the_turns(tmp_path):
    async with opened(tmp_path) as (gateway, daemon):
        begun(gateway, 400)
        await gateway._turn(None)
        each = []
        for turn in range(trade.LOOK_EVERY):
            before = sum(daemon.reports.values())
            await gateway._turn(turn + 1)
            each.append(sum(daemon.reports.values()) - before)
        assert set(daemon.reports.values()) == {1}
        assert len(daemon.reports) == 400
        assert max(each) < 40, "a fortieth of them at a time, by chance a few more"


@run
async def test_a_batch_that_is_cancelled_before_its_check_ends_also_in_the_next_life(tmp_path):
    async with opened(tmp_path) as (gateway, _):
        first, second = created(gateway, 2)
        gateway.cancel("research", first.id)
        assert gateway.look("research", first.id).status is Status.CANCELLING
    async with opened(tmp_path) as (gateway, _):
        gateway.cancel("research", second.id)
        working = asyncio.create_task(gateway.run())
        for _ in range(100):
            await asyncio.sleep(0.02)
            found = {gateway.look("research", one.id).status for one in (first, second)}
            if found == {Status.CANCELLED} or working.done():
                break
        working.cancel()
        with suppress(asyncio.CancelledError):
            await working
        assert found == {Status.CANCELLED}


@run
async def test_batches_that_wait_hold_no_files_open(tmp_path):
    async with opened(tmp_path) as (gateway, _):
        before = len(os.listdir("/proc/self/fd"))
        begun(gateway, 50)
        assert len(os.listdir("/proc/self/fd")) < before + 10


@run
async def test_a_model_that_is_no_longer_served_is_named_with_the_batch_that_needs_it(tmp_path):
    async with opened(tmp_path) as (gateway, _):
        (batch,) = begun(gateway, 1)
        gateway.shelf.put(replace(gateway.shelf.known(batch.id), model="gone"))
    with pytest.raises(AdapterError, match=f"upstreams: {batch.id} is under way .* 'gone'"):
        async with opened(tmp_path):
            pass


@run
async def test_requests_of_batches_that_were_created_before_others_were_checked_count_too(tmp_path):
    async with opened(tmp_path) as (gateway, _):
        gateway.config = gateway.config.model_copy(update={"tenants": tuple(
            one.model_copy(update={"max_requests": 1}) for one in gateway.config.tenants)})  # fmt: skip
        first, second = created(gateway, 2)  # neither has any request that is known yet
        await gateway._check(first)
        await gateway._check(second)
        assert gateway.look("research", first.id).status is Status.IN_PROGRESS
        refused = gateway.look("research", second.id)
        assert (refused.status, [error.code for error in refused.errors]) == (Status.FAILED, ["quota_exceeded"])


@pytest.mark.parametrize(("most", "begins"), [(3, False), (4, True)])
@run
async def test_the_lines_of_a_new_batch_count_among_its_tenants_requests(tmp_path, most, begins):
    async with opened(tmp_path) as (gateway, _):
        gateway.config = gateway.config.model_copy(update={"tenants": tuple(
            one.model_copy(update={"max_requests": most}) for one in gateway.config.tenants)})  # fmt: skip
        begun(gateway, 1)
        file = stored(gateway, research(gateway), asked(["a", "b", "c"]))
        (batch,) = created(gateway, input_file_id=file.id)
        await gateway._check(batch)
        found = gateway.look("research", batch.id)
        if begins:
            assert found.status is Status.IN_PROGRESS
        else:
            (error,) = found.errors
            assert (found.status, error.code) == (Status.FAILED, "quota_exceeded")
            assert error.message == "3 requests, beside 1 of other batches that are not over yet, are more than 3"


@run
async def test_a_server_that_lets_nobody_in_is_away_and_costs_no_attempt(tmp_path, monkeypatch):
    """A host that is gone answers nothing, not even that it does not listen."""
    monkeypatch.setattr("scheduler.gateway.upstream.CONNECT_S", 0.2)
    with socket.socket() as deaf, ExitStack() as others:
        deaf.bind(("127.0.0.1", 0))
        deaf.listen(0)
        for _ in range(4):  # those who fill its queue
            one = others.enter_context(socket.socket())
            one.setblocking(False)
            one.connect_ex(deaf.getsockname())
        upstream = Upstream(f"http://127.0.0.1:{deaf.getsockname()[1]}", None, 30.0)
        found = await upstream.send("/v1/chat/completions", {})
        await upstream.close()
    assert isinstance(found, Away), found
    assert "can't be reached" in found.text


# ---------------------------------------------------------------- sales
def bought(gateway, tokens, deadline="1h"):
    quote = gateway.trade.sales.ask(research(gateway), {"model": "tiny", "tokens": tokens, "deadline": deadline})
    return gateway.trade.sales.accept("research", quote.id)


@run
async def test_what_is_sold_can_be_done_in_time_on_the_gpus_of_its_job(tmp_path):
    async with opened(tmp_path) as (gateway, daemon):
        daemon.plan = quoted(free=3.0)
        await gateway.trade.hear_prices()
        sold = bought(gateway, 17_900)
        job = gateway.trade.sales.job(sold, sold.deadline)  # half of three GPUs for an hour make 18,000
        assert job["work_gpu_h"] <= job["max_gpus"] * 1.0


@run
async def test_a_sale_stays_set_aside_until_a_plan_was_made_with_its_job(tmp_path):
    async with opened(tmp_path) as (gateway, daemon):
        daemon.plan = quoted(free=4.0)
        await gateway.trade.hear_prices()
        sold = bought(gateway, 20_000)
        daemon.plan = quoted(free=4.0, made_at=sold.accepted_at + timedelta(milliseconds=1))
        await gateway.trade.hear_prices()
        with pytest.raises(ApiError, match="no 20000 tokens are left"):
            bought(gateway, 20_000)  # the daemon has not heard of the first one, so no plan counts it
        await gateway.trade.tell_sales()
        assert set(daemon.jobs) == {sold.id}
        daemon.plan = quoted(free=4.0)
        await gateway.trade.hear_prices()
        assert bought(gateway, 20_000).state is State.ACCEPTED


@run
async def test_a_sale_that_is_withdrawn_before_a_batch_uses_it_is_not_owed(tmp_path):
    async with opened(tmp_path) as (gateway, daemon):
        daemon.plan = quoted(free=4.0)
        await gateway.trade.hear_prices()
        sold = bought(gateway, 10_000)
        await gateway.trade.tell_sales()
        daemon.error = {"progress": 409}
        for turn in range(trade.LOOK_EVERY):
            await gateway.trade.look(turn)
        found = gateway.trade.sales.find("research", sold.id)
        assert (found.state, found.paid) == (State.CANCELLED, 0.0)
