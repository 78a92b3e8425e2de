"""What a batch of another site leaves behind, and what one sends whose window ends while it is about to leave."""

import asyncio
from dataclasses import replace
from datetime import timedelta

import pytest

from scheduler.clock import WallClock
from scheduler.gateway.checks import Lane
from scheduler.gateway.disk import Disk
from scheduler.gateway.model import Leg, Status
from scheduler.gateway.mover import Mover
from scheduler.gateway.peer import PeerError
from scheduler.gateway.running import Running
from tests.support.gateway import asked
from tests.unit.test_gateway_talk import begun, opened, run


def terms(gateway):
    tomorrow = (gateway._clock.now() + timedelta(days=1)).isoformat()
    return {
        "endpoint": "/v1/chat/completions", "expires_at": tomorrow, "deadline": tomorrow, "priority": 0,
        "max_price": None, "origin": f"{gateway.config.tenants[0].name}/batch_1",
    }  # fmt: skip


def sent(gateway, tenant, content):
    """The input of the hand-over `t`."""
    with gateway.incoming(tenant) as coming:
        coming.write(content)
        gateway.host.keep(tenant, "t", coming)


@pytest.mark.parametrize("ends", ["refused", "given back before it was checked", "given back before it was taken"])
@run
async def test_a_guest_that_never_began_leaves_no_input_and_its_token_stays_dead(tmp_path, ends):
    async with opened(tmp_path) as (gateway, _):
        host, tenant = gateway.host, gateway.config.tenants[0]
        content = b"{}\n" if ends == "refused" else asked(["a"]).encode()
        sent(gateway, tenant, content)
        if "taken" not in ends:
            host.take(tenant, "t", terms(gateway))
        if ends != "refused":
            host.give_back(tenant, "t")
        checking = asyncio.create_task(gateway._check_new(Lane.SMALL))
        while not host.look(tenant, "t").over:
            await asyncio.sleep(0.001)
        checking.cancel()
        assert gateway.shelf.files(tenant.name) == []
        sent(gateway, tenant, content)
        assert gateway.shelf.files(tenant.name) == [], "what comes late is not kept"
        assert host.take(tenant, "t", terms(gateway)).over


@run
async def test_a_batch_whose_window_ends_while_it_is_about_to_leave_sends_nothing_more(tmp_path):
    async with opened(tmp_path) as (gateway, _):
        begun(gateway, 1)
        ((_, one),) = gateway._running()
        assert isinstance(one, Running)
        mover = Mover("here", {}, gateway.shelf, WallClock().now, timedelta(days=1), lambda _: None, Disk())
        one.leaving = one.stopped = True
        mover._leave(one, None)
        assert (one.leaving, one.stopped) == (False, False), "it goes on here"
        one.leaving = one.stopped = True
        one.batch = replace(one.batch, expires_at=one.batch.created_at)
        mover._leave(one, None)
        assert (one.leaving, one.stopped, one.batch.status) == (False, True, Status.IN_PROGRESS)


class Deaf:
    """A site that does not answer, until the test says so."""

    def __init__(self):
        self.deaf = True

    async def look(self, token):
        if self.deaf:
            raise PeerError("http://there: no answer")

    async def close(self):
        pass


@run
async def test_a_sites_trouble_ends_when_it_answers_again_also_where_nothing_goes_there_any_more(tmp_path, monkeypatch):
    monkeypatch.setattr("scheduler.gateway.mover.LOOK_S", 0.01)
    async with opened(tmp_path) as (gateway, _):
        begun(gateway, 1)
        ((_, one),) = gateway._running()
        one.batch, peer = replace(one.batch, sites=("there",)), Deaf()
        day = timedelta(days=1)
        mover = Mover("here", {"there": peer}, gateway.shelf, WallClock().now, day, lambda _: None, Disk())

        async def until(wanted, homes, running):
            while mover.trouble != wanted:
                mover.turn(running, homes)
                await asyncio.sleep(0.005)

        silent = {"there": "http://there: no answer"}
        await asyncio.wait_for(until(silent, {one.batch.id: "there"}, [one]), 20)
        mover.turn([one], {})
        await asyncio.sleep(0.05)
        assert mover.trouble == silent
        peer.deaf = False
        await asyncio.wait_for(until({}, {}, [one]), 20)
        one.batch = replace(one.batch, leg=Leg.TAKEN, away="there", token="t")
        peer.deaf = True
        await asyncio.wait_for(until(silent, {}, [one]), 20)
        await asyncio.wait_for(until({}, {}, []), 20)  # it is over
        await mover.close()
