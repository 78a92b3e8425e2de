"""The gateway's work: takes batches on, keeps them fed while the plan grants GPUs, and ends them.

`Gateway.run` on one screen: every half second hear what is granted, write down what is answered, end what is over;
checks of new batches run beside it.
"""

from __future__ import annotations

import asyncio
import secrets
from collections.abc import Awaitable, Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import replace
from datetime import datetime
from time import monotonic
from typing import Any

import structlog

from adapters.ports import Clock
from scheduler.gateway.answers import Answers
from scheduler.gateway.checks import Checks, Lane
from scheduler.gateway.config import GatewayConfig, TenantConfig
from scheduler.gateway.daemon import Daemon
from scheduler.gateway.disk import AGAIN_S, Disk
from scheduler.gateway.expiry import expires_after_s
from scheduler.gateway.host import Host
from scheduler.gateway.intake import Incoming
from scheduler.gateway.lines import ENDPOINTS
from scheduler.gateway.model import ApiError, Batch, InputError, Status
from scheduler.gateway.mover import mover_of
from scheduler.gateway.quota import beyond, refuse_beyond
from scheduler.gateway.runner import Runner
from scheduler.gateway.running import Running, expire
from scheduler.gateway.served import check_served
from scheduler.gateway.settling import Settling
from scheduler.gateway.shelf import Shelf
from scheduler.gateway.talk import Talk
from scheduler.gateway.terms import checked_metadata, sites_of, terms
from scheduler.gateway.trade import Trade
from scheduler.gateway.upstream import upstream_of
from scheduler.gateway.validate import Checked, check

log = structlog.get_logger("gridpace.gateway")

TURN_S = 0.5
PRICES_EVERY = 4
"""Turns between looks at the daemon's quotes."""
TIDY_EVERY = 7200


class Gateway:
    """Everything behind the routes. Lives in one event loop; only `keep` and the checks use threads."""

    def __init__(self, config: GatewayConfig, shelf: Shelf, clock: Clock, daemon: Daemon) -> None:
        """Raises AdapterError where a batch under way, or what was sold, has a model that no server serves."""
        self.config, self.shelf, self._clock, self._daemon = config, shelf, clock, daemon
        self._of_model = {model: one for one in config.upstreams for model in one.models}
        self.disk = Disk()
        self.trade = Trade(config, self._of_model, shelf, clock, daemon, self.disk)
        check_served(self._of_model, shelf.batches(), self.trade.sales.accepted.values(), clock.now())
        self._upstreams = {one.id: upstream_of(one, config.base_dir) for one in config.upstreams}
        weights = {tenant.name: tenant.weight for tenant in config.tenants}
        self.runners = {
            one.id: Runner(one.id, self._upstreams[one.id].send, one.requests_per_gpu, weights)
            for one in config.upstreams
        }
        self.settling = Settling(shelf.store, shelf.batches, clock.now())
        self.trade.sales.unkept = self.settling.unkept
        self.talk = Talk(
            daemon, self.trade, shelf, clock, self._of_model, self.disk, refuse=self._refused, withdraw=self._cancelling
        )
        self.mover = mover_of(config, shelf, clock, self.talk.tell, self.disk)
        self.host = Host(shelf, clock.now, self._begin, self._cancelling, self._seen, self._quota)
        self._checks = Checks()
        self._news = asyncio.Event()

    # ---------------------------------------------------------------- clients
    @contextmanager
    def incoming(self, tenant: TenantConfig, size: int | None = None) -> Iterator[Incoming]:
        """A content that comes in, which will have `size` bytes (None: nobody knows). Raises ApiError (413) as soon as
        it is too much, and OSError."""

        def room(already: int) -> int:
            return min(
                self.config.max_file_bytes, already + max(0, tenant.max_bytes - self.shelf.bytes_of(tenant.name))
            )

        with self.shelf.incoming(tenant.name, room) as coming:
            coming.expect(size)
            yield coming

    def create(self, tenant: TenantConfig, body: Mapping[str, Any]) -> Batch:
        """Take a batch on; its file is checked next. Raises ApiError naming the parameter."""
        now = self._clock.now()
        endpoint, window = body.get("endpoint"), body.get("completion_window")
        if endpoint not in ENDPOINTS:
            raise ApiError(400, f"endpoint: is one of {', '.join(ENDPOINTS)}", "invalid_value", "endpoint")
        if not isinstance(window, str):
            raise ApiError(400, 'completion_window: write a time such as "24h"', "invalid_value", "completion_window")
        metadata = checked_metadata(body.get("metadata"))
        keep_s = expires_after_s(body.get("output_expires_after"), "output_expires_after")
        asked = terms(window, metadata, now)
        file = self.shelf.file(tenant.name, str(body.get("input_file_id")))
        if file.purpose != "batch":
            raise ApiError(400, f"{file.id} has not the purpose batch", "invalid_value", "input_file_id")
        self._quota(tenant)
        quote = self.trade.bought(tenant, metadata, asked.max_price)
        asked = replace(asked, deadline=min(asked.deadline, quote.deadline)) if quote is not None else asked
        batch = Batch(
            id=f"batch_{secrets.token_hex(12)}", tenant=tenant.name, endpoint=str(endpoint), input_file=file.id,
            window=window, created_at=now, expires_at=asked.expires_at, deadline=asked.deadline,
            priority=asked.priority, max_price=asked.max_price, metadata=metadata,
            quote=quote.id if quote is not None else None, sites=sites_of(metadata, tenant.sites),
            output_keep_s=keep_s,
        )  # fmt: skip
        return self._begin(self.shelf.put(batch))

    def _begin(self, batch: Batch) -> Batch:
        """Have a new batch checked."""
        file = self.shelf.held(batch.input_file)
        self._checks.put(batch.id, batch.tenant, file.bytes if file is not None else 0)
        return batch

    def stir(self) -> None:
        """Have the next turn at once."""
        self._news.set()

    def cancel(self, tenant: str, name: str) -> Batch:
        """Send nothing more of a batch; what is under way comes back, then it is cancelled. Again is the same."""
        batch = self.shelf.batch(tenant, name)
        if batch.status in {Status.CANCELLING, Status.CANCELLED}:
            return batch
        if batch.over or batch.status is Status.FINALIZING:
            raise ApiError(409, f"{name} is {batch.status.value}", "invalid_state")
        return self._cancelling(batch)

    def look(self, tenant: str, name: str) -> Batch:
        """A tenant's batch with what is answered now. Raises ApiError (404)."""
        return self._seen(self.shelf.batch(tenant, name))

    def _seen(self, batch: Batch) -> Batch:
        for runner in self.runners.values():
            if batch.id in runner.running:
                self._count(runner.running[batch.id])
                return runner.running[batch.id].batch
        return batch

    def trouble(self) -> list[str]:
        """What a person should look at now."""
        found = [f"disk: {self.disk.trouble}"] if self.disk.trouble else []
        found += [f"daemon: {self.talk.trouble}"] if self.talk.trouble else []
        found += [f"site {name}: {text}" for name, text in self.mover.trouble.items()]
        return found + [f"{name}: {one.trouble}" for name, one in self.runners.items() if one.trouble]

    def sentence(self) -> str:
        """What it does, in one line."""
        doing = ", ".join(f"{name} {one.in_flight} of {one.slots} requests" for name, one in self.runners.items())
        left = sum(one.answers.left for _, one in self._running())
        trouble = self.trouble()
        return f"{doing}; {left} requests wait or run{f'; {trouble[0]}' if trouble else ''}"

    def _quota(self, tenant: TenantConfig) -> None:
        refuse_beyond(tenant, self.shelf.batches(tenant.name), self.trade.cheap_in_s)

    def _beyond(self, batch: Batch, found: Checked) -> tuple[InputError, ...]:
        """Why a batch that was checked can't begin."""
        tenant = next((one for one in self.config.tenants if one.name == batch.tenant), None)
        mine = self.shelf.batches(batch.tenant)
        return found.errors or self.trade.beyond(batch, found) or beyond(tenant, batch, found.total, mine)

    # ---------------------------------------------------------------- the work
    async def run(self) -> None:
        """Work until cancelled."""
        self._resume()
        async with asyncio.TaskGroup() as group:
            for runner in self.runners.values():
                group.create_task(runner.run())
            for lane in Lane:
                group.create_task(self._check_new(lane))
            turn, due = 0, monotonic()
            while True:
                await self._turn(turn if monotonic() >= due else None)
                if monotonic() >= due:
                    turn, due = turn + 1, monotonic() + TURN_S
                await self._until_news(due - monotonic())

    async def _until_news(self, seconds: float) -> None:
        """Until a batch is checked or all of one is answered, else so long: neither should wait for the next turn."""
        with suppress(TimeoutError):  # asyncio.wait_for can lose a cancellation that comes with the news
            async with asyncio.timeout(max(0.0, seconds)):
                await self._news.wait()
        self._news.clear()

    async def close(self, drain_s: float) -> None:
        """Wait for what is under way, and close everything."""
        await self.mover.close()
        await asyncio.gather(*(runner.drain(drain_s) for runner in self.runners.values()))
        for _, running in self._running():
            with suppress(OSError):  # the next life reads what is there
                running.answers.close()
        for upstream in self._upstreams.values():
            await upstream.close()
        await self._daemon.close()

    async def _turn(self, turn: int | None) -> None:
        """One turn; None for one between two, which news asked for. What the disk does not let be done is left for the
        next one."""
        for step in self._steps(turn):
            with self.disk.tries():
                await step
        self.disk.turned()

    def _steps(self, turn: int | None) -> Iterator[Awaitable[None]]:
        yield self._hear_prices(turn)
        yield self.talk.introduce(self._running())
        yield self.talk.trying(self.trade.tell_sales())
        yield self.talk.hear(self.runners.values())
        yield self._look(turn)
        if turn is not None:
            yield self.talk.trying(self.trade.look(turn))
            yield self.talk.report([running for _, running in self._running()], turn)
        yield self._end_all()
        yield self.talk.tell_ends()
        if turn is not None and turn % TIDY_EVERY == 0:
            yield self._tidy()

    async def _hear_prices(self, turn: int | None) -> None:
        if turn is not None and turn % PRICES_EVERY == 0:
            await self.talk.trying(self.trade.hear_prices())

    async def _look(self, turn: int | None) -> None:
        """Count what is answered, begin what is due to move, and let every server see what may be sent."""
        self.mover.turn([running for _, running in self._running()], self.talk.homes)
        for _, running in self._running():
            self._count(running)
        for runner in self.runners.values():
            runner.order()
        if turn is not None:
            self.settling.beat(self._clock.now())

    async def _end_all(self) -> None:
        for runner, running in self._running():
            with self.disk.tries():
                await self._end(runner, running)

    async def _tidy(self) -> None:
        self.shelf.tidy(self.config.keep)
        self.trade.sales.forget(self._clock.now() - self.config.keep)

    def _running(self) -> list[tuple[Runner, Running]]:
        return [(runner, one) for runner in self.runners.values() for one in list(runner.running.values())]

    # ---------------------------------------------------------------- beginning
    def _resume(self) -> None:
        """Go on where a stop or a crash left off."""
        for quote in list(self.trade.sales.accepted):
            with self.disk.tries():
                self.trade.recount(quote)
        for batch in self.shelf.batches():
            if batch.over:
                if batch.model and not batch.told:
                    self.talk.over(batch.id)
                continue
            done = False
            with self.disk.tries():
                done = self._went_on(batch)
            if not done:
                self._begin(batch)

    def _went_on(self, batch: Batch) -> bool:
        """Take up again what was checked before; False for what was not. Raises OSError."""
        if not batch.model:
            return False
        running = self._start(batch)
        self._count(running)
        if batch.status is Status.CANCELLING or batch.leg is not None:
            self.runners[self._of_model[batch.model].id].stop(batch.id)
        return True

    async def _check_new(self, lane: Lane) -> None:
        while True:
            batch, done = self._found(await self._checks.next(lane)), False
            with self.disk.tries():
                await self._check(batch)
                done = True
            if not done and batch is not None:
                asyncio.get_running_loop().call_later(AGAIN_S, self._begin, batch)

    async def _check(self, batch: Batch | None) -> None:
        if batch is None or batch.over or self._went_on(batch):
            return
        if batch.status is Status.CANCELLING:  # before it was checked
            self._unbegun(batch.at(Status.CANCELLED, self._clock.now()))
        elif batch.status is Status.VALIDATING:
            file = self.shelf.file(batch.tenant, batch.input_file)
            usual = max(one.answer_tokens for one in self.config.upstreams)
            most = self.config.max_batch_requests
            known = self._of_model.__contains__
            found = await asyncio.to_thread(check, self.shelf.path(file), batch.endpoint, known, most, usual)
            self._checked(batch.id, found)

    def _checked(self, name: str, found: Checked) -> None:
        batch, now = self._found(name), self._clock.now()
        if batch is None:
            return
        if batch.status is Status.CANCELLING:
            self._unbegun(batch.at(Status.CANCELLED, now))
        elif errors := self._beyond(batch, found):
            self._unbegun(batch.at(Status.FAILED, now, errors=errors))
        else:
            work = found.tokens / self._of_model[found.model].tokens_per_gpu_h
            batch = batch.at(Status.IN_PROGRESS, now, model=found.model, total=found.total, work_gpu_h=work)
            self._start(batch, new=True)
        self._news.set()

    def _unbegun(self, batch: Batch) -> None:
        """Over before anything of it was sent."""
        self.shelf.put(batch)
        if batch.origin:
            self.shelf.drop(self.shelf.file(batch.tenant, batch.input_file))  # its owner has it

    def _start(self, batch: Batch, *, new: bool = False) -> Running:
        """Have it worked. Raises OSError and StoreDegraded, with nothing changed."""
        file = self.shelf.file(batch.tenant, batch.input_file)
        answers = Answers(self.shelf.answers_of(batch.id), batch.total)
        running = Running(batch, answers, self.shelf.path(file), done=self._news.set)
        if new:
            self.shelf.put(batch)
        self.runners[self._of_model[batch.model].id].add(running)
        return running

    # ---------------------------------------------------------------- ending
    def _count(self, running: Running) -> None:
        found, batch, (far_good, far_bad) = running.answers, running.batch, running.elsewhere
        good, bad = min(found.completed + far_good, batch.total), min(found.failed + far_bad, batch.total)
        tokens = (found.usage.input_tokens, found.usage.output_tokens)
        counted = replace(batch, completed=good, failed=bad, input_tokens=tokens[0], output_tokens=tokens[1])
        if counted != batch or self.shelf.known(batch.id) is not batch:
            running.batch = counted
            self.shelf.show(counted)

    async def _end(self, runner: Runner, running: Running) -> None:
        now, batch = self._clock.now(), running.batch
        if batch.leg is not None:
            return  # another site's, until it has come back
        if running.spoiled is not None and batch.status is Status.IN_PROGRESS:
            if not running.in_flight:
                self._over(runner, running, Status.FAILED, now, (running.spoiled,))
            return
        if batch.status is Status.IN_PROGRESS and now >= batch.expires_at and running.answers.left:
            runner.stop(batch.id)
            if not running.in_flight:
                await asyncio.to_thread(expire, running)
                if running.spoiled is None:
                    self._over(runner, running, Status.EXPIRED, now)
        elif batch.status is Status.CANCELLING:
            if not running.in_flight:
                self._over(runner, running, Status.CANCELLED, now)
        elif not running.answers.left and not running.in_flight:
            self._over(runner, running, Status.COMPLETED, now)

    def _refused(self, runner: Runner, running: Running, why: InputError) -> None:
        self._over(runner, running, Status.FAILED, self._clock.now(), (why,))

    def _over(
        self, runner: Runner, running: Running, status: Status, now: datetime, why: tuple[InputError, ...] = ()
    ) -> None:
        """Publish what is answered; once the record says that it is over, it is."""
        self._count(running)
        running.answers.close()
        batch = self.trade.charged(running.batch)
        if status is Status.COMPLETED:
            batch = batch.at(Status.FINALIZING, now)
        output = self.shelf.publish(batch, running.answers.good, "output")
        errors = self.shelf.publish(batch, running.answers.bad, "error")
        self.shelf.put(batch.at(status, now, output_file=output, error_file=errors, errors=why))
        runner.remove(batch.id)
        self.talk.over(batch.id)
        with self.disk.tries():
            self.trade.recount(batch.quote)
        with self.disk.tries():
            if batch.origin:
                self.shelf.drop(self.shelf.file(batch.tenant, batch.input_file))  # its owner has it
        log.info("gateway.over", batch=batch.id, status=status.value, completed=batch.completed, failed=batch.failed)

    def _cancelling(self, batch: Batch) -> Batch:
        batch = self.shelf.put(batch.at(Status.CANCELLING, self._clock.now()))
        for runner in self.runners.values():
            if batch.id in runner.running:
                runner.running[batch.id].batch = batch
                runner.stop(batch.id)
        return batch

    def _found(self, name: str) -> Batch | None:
        return self.shelf.known(name)
