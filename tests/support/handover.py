"""Two gateways in this process, a network between them that loses, doubles and delays, and lives that end anywhere."""

import asyncio
import json
from collections import Counter
from contextlib import suppress
from dataclasses import replace

from scheduler.clock import WallClock
from scheduler.gateway.checks import Lane
from scheduler.gateway.config import load_gateway
from scheduler.gateway.gateway import Gateway
from scheduler.gateway.model import ApiError, Status
from scheduler.gateway.peer import PeerError, PeerRefused
from scheduler.gateway.shelf import Shelf
from scheduler.gateway.upstream import Answer
from scheduler.store.store import Store
from tests.support.gateway import Desk

RESEARCH_SITES = ", sites: [there]"
PEERS = """site: {site}
peers: [{{name: {other}, url: "http://127.0.0.1:9", key: "file:product"}}]
"""


class Said:
    """A daemon that grants GPUs to all, and wants jobs where a test says."""

    def __init__(self):
        self.homes, self.sites, self.plan = {}, {}, None

    async def submit(self, job):
        pass

    async def grants(self):
        return AllGpus(), self.homes

    async def progress(self, job, done_gpu_h, finished, sold, place=None):
        self.sites[job] = place

    async def sold(self, job, sold):
        pass

    async def quotes(self):
        return {"made_at": "2026-11-27T00:00:00+00:00", "currency": "USD", "note": "", "pools": []}

    async def cancel(self, job):
        pass

    async def close(self):
        pass


class AllGpus(dict):
    """Two GPUs for each job."""

    def get(self, key, default=None):
        return 2


class Place:
    """A site's gateway, life after life; its folder and books outlive it."""

    def __init__(self, folder, site, other, dice, **fields):
        self.dice = dice
        desk = Desk(folder, "http://127.0.0.1:9", "http://127.0.0.1:9", "token",
                    others=PEERS.format(site=site, other=other), second=other, **fields)  # fmt: skip
        self.site, self.config = site, load_gateway(desk.folder / "gateway.yaml")
        self.config.state_dir.mkdir(exist_ok=True)
        self.store, self.daemon, self.sent, self.peers = Store.in_memory(), Said(), Counter(), {}
        self.cut = False
        self.gateway = None

    async def start(self):
        shelf = Shelf(self.config.state_dir, self.store, WallClock().now)
        self.gateway = gateway = Gateway(self.config, shelf, WallClock(), self.daemon)
        await gateway.mover.close()
        gateway.mover._peers = self.peers
        for runner in gateway.runners.values():
            runner._send = self._send
        gateway._resume()

    async def _send(self, endpoint, body):
        """An inference server that takes a moment."""
        word = body["messages"][0]["content"]
        self.sent[word] += 1
        for _ in range(self.dice.choice((0, 3, 200))):
            await asyncio.sleep(0)
        return Answer(200, "r", {"echo": word, "usage": {"prompt_tokens": 1, "completion_tokens": 1}})

    async def kill(self):
        """Its process ends here and now: what was under way in it never ends."""
        gateway = self.gateway
        tasks = [*gateway.mover._tasks.values(), *(task for one in gateway.runners.values() for task in one._tasks)]
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        for upstream in gateway._upstreams.values():
            await upstream.close()
        for _, running in gateway._running():
            running.answers.close()

    async def turn(self, lines):
        """Check what is new, send up to so many lines, and one turn of the gateway."""
        gateway = self.gateway
        checking = asyncio.create_task(gateway._check_new(Lane.SMALL))
        waiting = gateway._checks._waiting.values()
        while any(waiting) or any(one.status is Status.VALIDATING for one in gateway.shelf.batches()):
            await asyncio.sleep(0.001)
        checking.cancel()
        with suppress(asyncio.CancelledError):
            await checking
        await gateway._turn(1)
        for runner in gateway.runners.values():
            runner._per_gpu = lines
            runner._fill()

    def works_on(self, batch):
        """Whether requests of a batch may be sent here now."""
        gateway = self.gateway
        found = [one for _, one in gateway._running() if one.batch.id == batch]
        return any(not one.stopped and one.answers.left for one in found) or any(one.in_flight for one in found)


class Wire:
    """The way to another site's gateway. `dice` decides what becomes of each call; `late` calls arrive another time."""

    def __init__(self, here, there, dice):
        self.here, self.there, self.dice, self.late, self.bad = here, there, dice, [], 0.0

    def tenant(self):
        return self.there.config.tenants[1]

    async def _call(self, do):
        await asyncio.sleep(0)
        fate = self.dice.random()
        if self.here.cut or self.there.cut or fate < self.bad * 0.3:
            raise PeerError("lost on the way there")
        if fate < self.bad * 0.5:
            self.late.append(do)
            raise PeerError("on its way for long")
        if fate < self.bad * 0.7:
            self._done(do)
        found = self._done(do)
        await asyncio.sleep(0)
        if self.bad * 0.7 <= fate < self.bad:
            raise PeerError("lost on the way back")
        if isinstance(found, Exception):
            raise found
        return found

    def _done(self, do):
        try:
            return do()
        except ApiError as error:
            return (PeerError if error.status in {409, 429} else PeerRefused)(str(error))

    def arrive(self):
        """Something that was sent long ago."""
        if self.late and not self.there.cut:
            self._done(self.late.pop(self.dice.randrange(len(self.late))))

    async def send(self, token, source):
        content, gateway = source.read_bytes(), self.there.gateway

        def do():
            with gateway.incoming(self.tenant()) as coming:
                coming.write(content)
                gateway.host.keep(self.tenant(), token, coming)

        await self._call(do)

    async def take(self, token, terms):
        return await self._call(
            lambda: self.there.gateway.host.take(self.tenant(), token, json.loads(json.dumps(terms)))
        )

    async def look(self, token):
        def do():
            try:
                return self.there.gateway.host.look(self.tenant(), token)
            except ApiError as error:
                if error.status == 404:
                    return None
                raise

        return await self._call(do)

    async def give_back(self, token):
        return await self._call(lambda: self.there.gateway.host.give_back(self.tenant(), token))

    async def fetch(self, token, file, into):
        def do():
            shelf = self.there.gateway.shelf
            return shelf.path(shelf.file(self.tenant().name, file)).read_bytes()

        into.write_bytes(await self._call(do))

    async def close(self):
        pass


def ended_at_once(batch):
    """The batch, as if its window had ended now."""
    return replace(batch, expires_at=batch.created_at)
