"""Batches that move between sites: whatever is lost, doubled, late, cut off or killed, each line is answered once."""

import asyncio
import json
import random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from scheduler.gateway import mover
from scheduler.gateway.model import Status
from tests.support.gateway import asked, stored
from tests.support.handover import RESEARCH_SITES, Place, Wire

LINES = 12


class World:
    """Site `here` owns a batch that may run `there` too."""

    def __init__(self, folder, seed):
        folder.mkdir()
        self.dice = random.Random(seed)
        self.here = Place(folder / "here", "here", "there", self.dice, mine=RESEARCH_SITES)
        self.there = Place(folder / "there", "there", "here", self.dice)
        self.wire = Wire(self.here, self.there, self.dice)
        self.here.peers, self.there.peers = {"there": self.wire}, {}
        self.kills, self.moved = 0, False

    async def begin(self, metadata=None):
        for place in (self.here, self.there):
            await place.start()
        gateway = self.here.gateway
        tenant = gateway.config.tenants[0]
        file = stored(gateway, tenant, asked([f"w{k}" for k in range(LINES)]))
        body = {"input_file_id": file.id, "endpoint": "/v1/chat/completions", "completion_window": "24h"}
        self.batch = gateway.create(tenant, body | ({"metadata": metadata} if metadata else {})).id
        return self

    def look(self):
        return self.here.gateway.look("research", self.batch)

    def guests(self):
        return [one for one in self.there.gateway.shelf.batches() if one.origin]

    async def act(self, kind):
        """One thing that happens."""
        place = self.dice.choice((self.here, self.there))
        if kind == "turn":
            await place.turn(self.dice.randrange(1, 3))
        elif kind == "kill":
            self.kills += 1
            await place.kill()
            await place.start()
        elif kind == "want":
            self.here.daemon.homes = self.dice.choice(
                ({}, *({self.batch: name} for name in ("here", "here", "there", "there")))
            )
        elif kind == "late":
            self.wire.arrive()
        elif kind == "cut":
            self.there.cut = not self.there.cut
        else:
            await asyncio.sleep(0)
        self.check()

    def check(self):
        """At most one site works on it; what is a guest there is away here."""
        working = [self.here.works_on(self.batch), *(self.there.works_on(one.id) for one in self.guests())]
        assert sum(working) <= 1, (working, self.look())
        self.moved = self.moved or any(one.completed for one in self.guests())

    async def settle(self):
        """The network is good again: turns until the batch is over."""
        self.wire.bad, self.there.cut = 0.0, False
        for _ in range(3000):
            for place in (self.here, self.there):
                await place.turn(2)
                await asyncio.sleep(0.001)  # files are written in threads, which turns alone don't wait for
                self.check()
            if self.look().over:
                return self.look()
        raise AssertionError(f"it never ends: {self.look()}")

    def answers(self):
        """Words answered in the batch's own files, as a client reads them."""
        batch, shelf = self.look(), self.here.gateway.shelf
        path = shelf.path(shelf.file("research", batch.output_file))
        found = [json.loads(line) for line in path.read_text().splitlines()]
        for row in found:
            assert row["response"]["body"]["echo"] == "w" + row["custom_id"].removeprefix("c-"), "another line's answer"
            assert row["id"].startswith("batch_req_" + batch.id.removeprefix("batch_"))
        return sorted(int(row["custom_id"].removeprefix("c-")) for row in found)

    async def end(self):
        for place in (self.here, self.there):
            await place.kill()
            place.store.close()


@pytest.fixture(autouse=True)
def at_once(monkeypatch):
    monkeypatch.setattr(mover, "LOOK_S", 0.0)


@given(
    st.integers(0, 2**32),
    st.lists(st.sampled_from(["turn"] * 8 + ["want"] * 4 + ["kill", "late", "cut", "pause"]), min_size=15, max_size=60),
    st.floats(0, 0.9),
    st.booleans(),
)
def test_every_line_is_answered_once_whatever_happens_on_the_way(tmp_path_factory, seed, actions, bad, cancelled):
    async def live():
        world = await World(tmp_path_factory.mktemp("w") / "x", seed).begin()
        world.here.daemon.homes = {world.batch: "there"}
        world.wire.bad = bad
        for kind in actions:
            await world.act(kind)
        if cancelled and not world.look().over:
            world.here.gateway.cancel("research", world.batch)
        found = await world.settle()
        answered = world.answers() if found.output_file else []
        if found.status is Status.COMPLETED:
            assert answered == list(range(LINES))
        else:
            assert cancelled
            assert found.status is Status.CANCELLED
            assert len(set(answered)) == len(answered) == found.completed
        sent = world.here.sent + world.there.sent
        assert max(sent.values(), default=0) <= 1 + world.kills, "sent again though nobody was killed"
        while world.wire.late:  # what was sent long ago wakes nothing
            world.wire.arrive()
        for _ in range(3):
            await world.there.turn(2)
        assert not any(world.there.works_on(one.id) for one in world.guests())
        await world.end()

    asyncio.run(live())


@pytest.mark.parametrize("why", ["residency", "cut", "no room"])
def test_a_batch_stays_where_it_may_not_or_cannot_go_whatever_the_coordinator_says(tmp_path, why):
    async def live():
        world = await World(tmp_path / "w", 1).begin({"sites": "none"} if why == "residency" else None)
        world.here.daemon.homes = {world.batch: "there"}
        world.there.cut = why == "cut"
        if why == "no room":
            crowded = world.there.config.tenants[1].model_copy(update={"max_batches": 0})
            world.there.config = world.there.config.model_copy(
                update={"tenants": (world.there.config.tenants[0], crowded)}
            )
        for _ in range(3000):
            for place in (world.here, world.there):
                await place.turn(1)
                await asyncio.sleep(0.001)
            world.check()
            if world.look().over:
                break
        assert world.look().status is Status.COMPLETED
        assert world.answers() == list(range(LINES))
        assert not world.there.sent
        assert world.look().shunned == (("there",) if why == "no room" else ())
        assert world.look().moves == (why == "no room")
        told = world.here.daemon.sites.get(world.batch)
        assert why != "no room" or told in (None, {"sites": []}), "the daemon hears that it goes there no more"
        await world.end()

    asyncio.run(live())
