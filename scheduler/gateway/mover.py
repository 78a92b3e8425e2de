"""Hands batches over to the gateways of other sites, and takes them back: the sending end.

Why nothing is done twice: what counts is what was written down here first. A batch is RELEASED, with a token, after its
last request here came back and before the other site hears of it; from then on nothing of it is sent here until the
other side has said that the token is dead, and its answers have been taken over. So whoever is killed, cut off or told
the same thing twice, at most one side works on a line. The price: what was released to a site that can't be reached
waits for it, at most until `grace` after the window's end.
"""

from __future__ import annotations

import asyncio
import json
import secrets
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from datetime import datetime, timedelta
from functools import partial
from pathlib import Path
from typing import Any

import structlog

from adapters.ports import Clock
from scheduler.gateway.config import GatewayConfig
from scheduler.gateway.disk import DISK_ERRORS, Disk
from scheduler.gateway.lines import LONGEST_ID, Line, LineError, answered, parse, read_lines, unanswered
from scheduler.gateway.model import Batch, Leg, Status
from scheduler.gateway.peer import Far, HttpPeer, Peer, PeerError, PeerRefused
from scheduler.gateway.running import Running
from scheduler.gateway.shelf import Shelf

log = structlog.get_logger("gridpace.gateway")

LOOK_S = 2.0
"""How often work at another site is looked after."""
HEARD_S, PROBE = 10.0, "probe"
"""For so long a site that answered counts as reachable; the token of which it is asked, that of no batch."""
NOT_THERE = frozenset({"batch_expired"})
"""Errors that say that a line was not answered there; it is still ours to answer."""


class Mover:
    """Every hand-over of this gateway. Lives in its event loop; `told` is called when the daemon should hear of one."""

    def __init__(
        self,
        here: str,
        peers: Mapping[str, Peer],
        shelf: Shelf,
        now: Callable[[], datetime],
        grace: timedelta,
        told: Callable[[str], None],
        disk: Disk,
    ) -> None:
        self.here, self._peers, self._shelf, self._now, self._grace, self._told = here, peers, shelf, now, grace, told
        self._disk = disk
        self._silent: dict[str, str] = {}
        """Why sites that are asked whether they answer do not, until they do."""
        self._failed: dict[str, tuple[str, str]] = {}
        """Site and text of batches whose last step failed, until one goes through or they are over."""
        self._tasks: dict[str, asyncio.Task[None]] = {}
        self._next: dict[str, float] = {}
        self._heard: dict[str, float] = {}
        self.steps: Counter[tuple[str, str]] = Counter()
        """Steps of hand-overs since the start, by site: released, taken, refused, home, forgone."""

    @property
    def peers(self) -> tuple[str, ...]:
        """Names of the other sites."""
        return tuple(self._peers)

    @property
    def trouble(self) -> dict[str, str]:
        """What a person should look at, by site."""
        return {**dict(self._failed.values()), **self._silent}

    # ---------------------------------------------------------------- turns
    def turn(self, running: Sequence[Running], homes: Mapping[str, str]) -> None:
        """Begin what is due: `homes` says where batches should run, and nothing of those that it doesn't name."""
        clock, names = asyncio.get_running_loop().time(), {one.batch.id for one in running}
        self._failed = {name: text for name, text in self._failed.items() if name in names}
        for site in list(self._silent):
            self._answers(site)  # until it does, also where nothing is to go there any more
        for one in running:
            name = one.batch.id
            if one.batch.leg is None:
                with self._disk.tries():
                    self._leave(one, homes.get(name))
            elif name not in self._tasks and clock >= self._next.get(name, 0.0):
                task = asyncio.create_task(self._stepped(one, homes.get(name)))
                self._tasks[name] = task
                task.add_done_callback(partial(self._forget, name))

    async def close(self) -> None:
        """Break off; what is under way is begun again after a restart."""
        tasks = list(self._tasks.values())
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        for peer in self._peers.values():
            await peer.close()

    def _forget(self, name: str, _: asyncio.Task[None]) -> None:
        self._tasks.pop(name, None)

    async def _stepped(self, one: Running, home: str | None) -> None:
        """One step, and when the next one is due."""
        name, site = one.batch.id, one.batch.away
        try:
            await self.step(one, home)
        except PeerError as error:
            if site not in self.trouble:
                log.warning("gateway.site_silent", site=site, batch=name, why=str(error))
            self._failed[name] = (site, str(error))
        except (*DISK_ERRORS, ValueError, KeyError, TypeError) as error:  # our disk, or answers that are none
            self._failed[name] = (site, f"{name}: {type(error).__name__}: {error}")
            log.error("gateway.move_failed", site=site, batch=name, why=repr(error))
        else:
            self._failed.pop(name, None)
        self._next[name] = asyncio.get_running_loop().time() + LOOK_S

    # ---------------------------------------------------------------- leaving
    def _leave(self, one: Running, home: str | None) -> None:
        """Stop sending what should run elsewhere; release it when all of it has come back. May be called again."""
        batch = one.batch
        wanted = home is not None and home != self.here and self._may(batch, home) and self._answers(str(home))
        if not wanted or not one.answers.left:
            if one.leaving:
                one.leaving = False  # what is cancelled, or out of its window, sends nothing all the same
                one.stopped = batch.status is Status.CANCELLING or self._now() >= batch.expires_at
            return
        one.stopped = one.leaving = True
        if not one.in_flight:
            self.release(one, str(home))

    def _may(self, batch: Batch, site: str) -> bool:
        """Residency first: nothing ever leaves for a site that its owner did not name."""
        return (
            batch.status is Status.IN_PROGRESS
            and site in batch.open_sites
            and site in self._peers
            and batch.quote is None
            and self._now() < batch.expires_at
        )

    def _answers(self, site: str) -> bool:
        """Whether a site answered a moment ago; asks it where it did not. What would only wait there stays here."""
        clock, probe = asyncio.get_running_loop().time(), f"site {site}"
        if probe not in self._tasks and clock >= self._next.get(probe, 0.0):
            self._tasks[probe] = asyncio.create_task(self._probed(site, probe))
            self._tasks[probe].add_done_callback(partial(self._forget, probe))
        return clock - self._heard.get(site, -HEARD_S) < HEARD_S

    async def _probed(self, site: str, probe: str) -> None:
        try:
            await self._peers[site].look(PROBE)
        except (PeerError, PeerRefused) as error:
            self._silent[site] = str(error)
        else:
            self._heard[site] = asyncio.get_running_loop().time()
            self._silent.pop(site, None)
        self._next[probe] = asyncio.get_running_loop().time() + LOOK_S

    def release(self, one: Running, site: str) -> None:
        """Write down that nothing of it is sent here any more. Nothing of it may be under way."""
        assert not one.in_flight
        one.answers.sync()
        token = f"{one.batch.id}.{one.batch.moves + 1}.{secrets.token_hex(8)}"
        self._put(one, leg=Leg.RELEASED, away=site, token=token, moves=one.batch.moves + 1)
        one.stopped, one.leaving = True, False
        self.steps[site, "released"] += 1
        log.info("gateway.released", batch=one.batch.id, site=site, lines=one.answers.left)

    # ---------------------------------------------------------------- away
    async def step(self, one: Running, home: str | None) -> None:
        """The next step of a batch that is away. Raises PeerError when the other site does not answer."""
        batch, peer = one.batch, self._peers.get(one.batch.away)
        if self._now() > batch.expires_at + self._grace:
            return self._forgo(one)
        if peer is None:
            raise PeerError(f"{batch.away} is not among `peers` any more")
        back = batch.status is Status.CANCELLING or (home is not None and home != batch.away)
        if batch.leg is not Leg.RECALLED and back:
            self._put(one, leg=Leg.RECALLED)
        if one.batch.leg is Leg.RELEASED:
            await self._hand_over(one, peer)
        elif one.batch.leg is Leg.TAKEN:
            far = await peer.look(batch.token)
            if far is None:  # its books are gone: the token must be dead before anything is sent here
                self._put(one, leg=Leg.RECALLED, shunned=(*batch.shunned, batch.away))
                return None
            one.elsewhere = (far.completed, far.failed)
            if far.over:
                await self._collect(one, peer, far, asked=False)
        else:
            far = await peer.give_back(batch.token)
            if far.over:
                await self._collect(one, peer, far, asked=True)
        return None

    async def _hand_over(self, one: Running, peer: Peer) -> None:
        batch, path = one.batch, self._path(one.batch, "moved")
        try:
            if not path.exists():
                await asyncio.to_thread(write_rest, one, path)
            await peer.send(batch.token, path)
            far = await peer.take(batch.token, terms_of(batch, self.here))
        except PeerRefused as error:
            self.steps[batch.away, "refused"] += 1
            log.warning("gateway.not_taken", batch=batch.id, site=batch.away, why=str(error))
            self._put(one, leg=Leg.RECALLED, shunned=(*batch.shunned, batch.away))
            return
        one.elsewhere = (far.completed, far.failed)
        self.steps[batch.away, "taken"] += 1
        self._put(one, leg=Leg.TAKEN)

    async def _collect(self, one: Running, peer: Peer, far: Far, *, asked: bool) -> None:
        """Take over what was answered there; from then on the batch is ours again."""
        batch = one.batch
        for kind, file in (("output", far.output), ("errors", far.errors)):
            if file is not None:
                path = self._path(batch, kind)
                await peer.fetch(batch.token, file, path)
                await asyncio.to_thread(merge, one, path)
        one.answers.sync()
        one.elsewhere = (0, 0)
        undone = bool(one.answers.left) and not asked and batch.status is not Status.CANCELLING
        if undone and far.why:
            log.warning("gateway.not_done", batch=batch.id, site=batch.away, why=far.why)
        self._home(one, batch.away if undone else None)

    def _forgo(self, one: Running) -> None:
        """Its window ended long ago, so that site sends nothing of it any more either; what it answered is lost."""
        self.steps[one.batch.away, "forgone"] += 1
        log.error("gateway.forgone", batch=one.batch.id, site=one.batch.away)
        one.elsewhere = (0, 0)
        self._home(one, one.batch.away)

    def _home(self, one: Running, shun: str | None) -> None:
        batch = one.batch
        shunned = (*batch.shunned, shun) if shun is not None and shun not in batch.shunned else batch.shunned
        self.steps[batch.away, "home"] += 1
        one.restart()
        self._put(one, leg=None, away="", token="", shunned=shunned)
        one.stopped = one.batch.status is Status.CANCELLING
        for kind in ("moved", "output", "errors"):
            self._path(batch, kind).unlink(missing_ok=True)
        self._next.pop(batch.id, None)
        log.info("gateway.home", batch=batch.id, left=one.answers.left)
        one.done()

    def _put(self, one: Running, **changes: Any) -> None:
        """On disk before anybody acts on it."""
        one.batch = self._shelf.put(replace(one.batch, **changes))
        self._told(one.batch.id)

    def _path(self, batch: Batch, kind: str) -> Path:
        return self._shelf.answers_of(batch.id) / f"{kind}-{batch.moves}.jsonl.away"


def mover_of(config: GatewayConfig, shelf: Shelf, clock: Clock, told: Callable[[str], None], disk: Disk) -> Mover:
    """The mover of a configured gateway."""
    peers = {one.name: HttpPeer(one.url, one.key.reveal(config.base_dir)) for one in config.peers}
    return Mover(config.site or "", peers, shelf, clock.now, config.grace, told, disk)


def terms_of(batch: Batch, here: str) -> dict[str, Any]:
    """What the other site must know of a batch."""
    return {
        "endpoint": batch.endpoint,
        "expires_at": batch.expires_at.isoformat(),
        "deadline": batch.deadline.isoformat(),
        "priority": batch.priority,
        "max_price": batch.max_price,
        "origin": f"{here}/{batch.id}",
    }


def write_rest(one: Running, path: Path) -> None:
    """What is not answered, as an input file in which each line's id carries its number here. Raises PeerRefused where
    an id has no room for that, and where a line is none any more."""
    part = path.with_suffix(".part")
    with part.open("wb") as stream:
        for number, text in read_lines(one.source):
            if number < one.answers.total and not one.answers.has(number):
                line = _line_of(one, number, text)
                if len(line["custom_id"]) > LONGEST_ID:
                    raise PeerRefused(f"line {number + 1}: its custom_id is too long to be moved")
                stream.write(json.dumps(line).encode() + b"\n")
    part.rename(path)


def _line_of(one: Running, number: int, text: bytes) -> dict[str, Any]:
    try:
        custom_id = parse(number, text, one.batch.endpoint).custom_id
    except LineError as error:  # altered after it was checked: comes home, where its batch ends
        raise PeerRefused(f"line {number + 1}: {error}") from None
    found: dict[str, Any] = json.loads(text)
    return found | {"custom_id": f"{number}:{custom_id}"}


def merge(one: Running, path: Path) -> None:
    """Answers from another site as our own; those that stand here already change nothing."""
    with path.open("rb") as stream:
        for text in stream:
            found = json.loads(text)
            number, _, custom_id = found["custom_id"].partition(":")
            if 0 <= int(number) < one.answers.total and not (found["error"] and found["error"]["code"] in NOT_THERE):
                one.answers.put(int(number), *_as_ours(one.batch.id, Line(int(number), custom_id, {}), found))


def _as_ours(batch: str, line: Line, found: Mapping[str, Any]) -> tuple[bytes, Any]:
    if found["error"]:
        return unanswered(batch, line, found["error"]["code"], found["error"]["message"]), None
    response = found["response"]
    status, body = response["status_code"], response["body"]
    return answered(batch, line, status, response["request_id"], body), body if 200 <= status < 300 else None
