"""What a turn tells the daemon and hears of it: new batches as jobs, grants, progress, ends.

Why bounded: thousands of batches may wait to be told, and an answer takes milliseconds, or five seconds where the
daemon hangs. So a turn has some calls under way at once and begins no more after a while, and the next one goes on
where it left off: grants are heard, and batches end, whatever waits. A daemon that can't be reached is told of
no batch until it has answered for its grants.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import replace
from time import monotonic
from typing import Any, TypeVar
from zlib import crc32

import structlog

from adapters.ports import Clock
from scheduler.gateway.config import UpstreamConfig
from scheduler.gateway.daemon import Daemon, DaemonError
from scheduler.gateway.disk import Disk
from scheduler.gateway.model import Batch, InputError, Status
from scheduler.gateway.runner import Runner
from scheduler.gateway.running import Running
from scheduler.gateway.shelf import Shelf
from scheduler.gateway.terms import job_of
from scheduler.gateway.trade import HELD, LOOK_EVERY, NEVER, TALK_S, UNKNOWN, Trade

log = structlog.get_logger("gridpace.gateway")

T = TypeVar("T")

AT_ONCE = 8
"""Calls of the daemon that are under way at once."""
REPORT_EVERY = 20
"""Turns between reports of a batch's progress to the daemon, and fsyncs of its answers."""


class Talk:
    """What the daemon was told. Lives in the gateway's event loop. `trouble`: why it did not answer, "" while it does.

    `refuse` ends a batch that the planner can't take, `withdraw` one whose job an operator has cancelled."""

    def __init__(
        self,
        daemon: Daemon,
        trade: Trade,
        shelf: Shelf,
        clock: Clock,
        upstreams: Mapping[str, UpstreamConfig],
        disk: Disk,
        *,
        refuse: Callable[[Runner, Running, InputError], None],
        withdraw: Callable[[Batch], object],
    ) -> None:
        """`upstreams` by the models that they serve."""
        self._daemon, self._trade, self._shelf, self._clock, self._of_model = daemon, trade, shelf, clock, upstreams
        self._disk, self._refuse, self._withdraw = disk, refuse, withdraw
        self.trouble, self._reached = "", True
        self._known: set[str] = set()
        self._due: dict[str, bool] = {}
        self._ended: dict[str, None] = {}
        self.homes: dict[str, str] = {}

    # ---------------------------------------------------------------- beginning
    async def introduce(self, running: Sequence[tuple[Runner, Running]]) -> None:
        """Make jobs of batches that the daemon does not know yet (again after a restart: the same job stays one)."""
        await self._each((one for one in running if self._new(one[1].batch)), self._submit)

    def _new(self, batch: Batch) -> bool:
        return not batch.quote and batch.id not in self._known and batch.status is Status.IN_PROGRESS

    async def _submit(self, one: tuple[Runner, Running]) -> None:
        runner, running = one
        batch, upstream = running.batch, self._of_model[running.batch.model]
        size = self._shelf.file(batch.tenant, batch.input_file).bytes
        per_h, per_gpu = upstream.tokens_per_gpu_h, upstream.requests_per_gpu
        job = job_of(batch, upstream.pool, per_h, per_gpu, self._clock.now(), size)
        try:
            await self._daemon.submit(job)
        except DaemonError as error:
            if error.status == NEVER:
                log.error("gateway.job_refused", batch=batch.id, why=str(error))
                why = InputError("not_plannable", f"the site's planner refuses it: {error}")
                return self._refuse(runner, running, why)
            if error.status != HELD:
                return self._troubled(error)
        self._known.add(batch.id)
        return None

    async def hear(self, runners: Iterable[Runner]) -> None:
        """Pass on what the daemon grants."""
        try:
            gpus, self.homes = await self._daemon.grants()
        except DaemonError as error:
            self.homes = {}  # no new move on an old word
            self._troubled(error)
            return
        if self.trouble:
            log.info("gateway.daemon_back")
        self.trouble, self._reached = "", True
        for runner in runners:
            runner.grant(gpus)

    # ---------------------------------------------------------------- progress
    async def report(self, running: Sequence[Running], turn: int) -> None:
        """Charge and tell what was answered of the batches whose turn it is: each has its own, so that a thousand that
        wait don't all ask at once."""
        by_name = {one.batch.id: one for one in running}
        for name in by_name:
            at = turn + crc32(name.encode())
            if at % REPORT_EVERY == 0:
                self._due[name] = at % LOOK_EVERY == 0 or self._due.get(name, False)
        await self._each(_popped(self._due), lambda one: self._progress(by_name.get(one[0]), one[1]))

    def tell(self, name: str) -> None:
        """The daemon is to hear of a batch with the next turn: it has gone to another site, or come back."""
        self._due[name] = True

    async def _progress(self, running: Running | None, anyway: bool) -> None:
        """Tell the daemon, where there is something to tell or `anyway`: its answer says whether the job still is."""
        if running is None:
            return  # over meanwhile
        await asyncio.to_thread(running.answers.sync)
        batch = running.batch
        answered = batch.completed + batch.failed
        if running.told != answered:
            running.batch = batch = self._shelf.put(self._trade.charged(batch))
        elif not anyway:
            return
        if await (self._of_sale(batch) if batch.quote else self._of_batch(batch, finished=False)):
            running.told = answered

    async def _of_sale(self, batch: Batch) -> bool:
        try:
            if not await self._trade.report(batch) and batch.status is Status.IN_PROGRESS:
                self._withdraw(batch)
        except DaemonError as error:
            self._troubled(error)
            return False
        return True

    async def _of_batch(self, batch: Batch, *, finished: bool) -> bool:
        """True once the daemon has heard it, or need not."""
        share = (batch.completed + batch.failed) / batch.total if batch.total else 1.0
        try:
            done, sold = share * batch.work_gpu_h, sold_of(batch)
            await self._daemon.progress(batch.id, done, finished, sold, None if finished else place_of(batch))
        except DaemonError as error:
            if error.status == HELD and batch.status is Status.IN_PROGRESS:
                log.warning("gateway.job_cancelled", batch=batch.id, why=str(error))
                self._withdraw(batch)  # the site's operator withdrew it
            elif error.status == UNKNOWN:
                self._known.discard(batch.id)  # a daemon without its books: introduced anew
            elif error.status != HELD:
                self._troubled(error)
                return False
        return True

    # ---------------------------------------------------------------- ending
    def over(self, name: str) -> None:
        """The daemon is to hear that a batch is over."""
        self._ended[name] = None

    async def tell_ends(self) -> None:
        """Tell the daemon of ended batches until it has heard; whether it has, survives a restart."""
        failed: list[str] = []

        async def tell(one: tuple[str, None]) -> None:
            batch = self._shelf.known(one[0])
            done = batch is None
            with self._disk.tries():
                done = batch is None or await self._end(batch)
            if not done:
                failed.append(one[0])

        await self._each(_popped(self._ended), tell)
        self._ended.update(dict.fromkeys(failed))  # behind the others

    async def _end(self, batch: Batch) -> bool:
        try:
            if batch.quote is not None:
                pass  # its job is the quote's, and lasts as long
            elif batch.status is not Status.COMPLETED:
                await self._daemon.sold(batch.id, sold_of(batch))
                await self._daemon.cancel(batch.id)
            elif not await self._of_batch(batch, finished=True):
                return False
        except DaemonError as error:
            self._troubled(error)
            return False
        self._known.discard(batch.id)
        self._shelf.put(replace(batch, told=True))
        return True

    # ---------------------------------------------------------------- how
    async def trying(self, doing: Awaitable[None]) -> None:
        """Do it; what the daemon says against it is told."""
        try:
            await doing
        except DaemonError as error:
            self._troubled(error)

    def _troubled(self, error: DaemonError) -> None:
        if not self.trouble:
            log.warning("gateway.daemon_trouble", why=str(error))
        self.trouble, self._reached = str(error), error.status != 0

    async def _each(self, items: Iterable[T], do: Callable[[T], Awaitable[None]]) -> None:
        """Do it for each, some at once; begin no more after a while, or while the daemon can't be reached."""
        todo, ends = iter(items), monotonic() + TALK_S

        async def some() -> None:
            while self._reached and monotonic() < ends and (one := next(todo, None)) is not None:
                with self._disk.tries():
                    await do(one)

        async with asyncio.TaskGroup() as group:
            for _ in range(AT_ONCE):
                group.create_task(some())


def _popped(waiting: dict[str, T]) -> Iterator[tuple[str, T]]:
    """What waits, taken out one by one."""
    while waiting:
        name = next(iter(waiting))
        yield name, waiting.pop(name)


def place_of(batch: Batch) -> dict[str, Any]:
    """Where a batch goes on that may move; nothing of one that may not."""
    if not batch.sites:
        return {}
    return {"sites": list(batch.open_sites)} | ({"site": batch.away} if batch.away else {})


def sold_of(batch: Batch) -> dict[str, Any]:
    """The books of a batch as the daemon hears them."""
    return {"tokens": batch.tokens, "paid": batch.paid, "tenant": batch.tenant, "model": batch.model}
