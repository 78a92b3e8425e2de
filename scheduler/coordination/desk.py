"""What the daemon answers the coordinator, and what its workers hear of it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from adapters.jobs.queue_rules import Movable
from scheduler.coordination.messages import MOVED_FROM, Home, Share, SiteReport
from scheduler.coordination.shares import Shares, Stale
from scheduler.engine import Context, State
from scheduler.service import Refused
from scheduler.store.store import StoreDegraded


class CoordinationDesk:
    """Answers over the daemon's context. Every method raises Refused where no coordinator is in the config."""

    def __init__(self, ctx: Context, state: State) -> None:
        self._ctx, self._state = ctx, state

    def report(self) -> SiteReport:
        """This daemon's problem and its jobs that may move, are away or are guests."""
        shares, problem = self._shares(), self._state.problem
        if problem is None:
            raise Refused("no plan yet; ask again after the first cycle", 503)
        jobs: Any = self._ctx.jobs
        movable = isinstance(jobs, Movable)
        waiting = {job.id: job for job in jobs.snapshot()} if movable else {}
        known = tuple(waiting.get(job.id, job) for job in problem.jobs if not movable or job.id in waiting)
        origins = {job.id: jobs.metadata(job.id).get(MOVED_FROM, "") for job in known} if movable else {}
        return SiteReport(
            name=shares.name,
            currency=self._ctx.currency,
            problem=replace(problem, jobs=known, notes=(), scenarios=()),
            movable=dict(jobs.movable()) if movable else {},
            away=dict(jobs.elsewhere()) if movable else {},
            guests={job: origin for job, origin in origins.items() if "/" in origin},
        )

    def share(self, share: Share) -> None:
        """Keep the coordinator's word."""
        shares = self._shares()
        try:
            shares.accept(share, self._ctx.clock.now())
        except Stale as error:
            raise Refused(str(error), 409) from error
        except StoreDegraded as error:
            raise Refused(f"not acknowledged, the store can't keep it: {error}", 503) from error

    def homes(self) -> Mapping[str, Home]:
        """Where movable jobs should run now; empty without a coordinator, or when its word is old."""
        return self._ctx.shares.homes(self._ctx.clock.now()) if self._ctx.shares is not None else {}

    def status(self) -> Mapping[str, Any] | None:
        """For the status: None without a coordinator."""
        return self._ctx.shares.status(self._ctx.clock.now()) if self._ctx.shares is not None else None

    def _shares(self) -> Shares:
        if self._ctx.shares is None:
            raise Refused("coordination: is not in this daemon's config", 409)
        return self._ctx.shares
