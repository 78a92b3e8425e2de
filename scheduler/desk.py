"""The site's side of a channel that stays connected (adapters.dr.desk): messages in, a look at the site, notes out.

Why its own object for each program: a channel speaks for one program at one site, and can't do more than its desk.
What it reads is taken from the last tick and from the ledger's rows in memory, so that a utility that asks often never
makes the loops wait.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from datetime import timedelta

from adapters.dr.desk import EventAnswer, EventDesk, EventSession, Shed, SiteView
from adapters.ports import EventMessage, EventRefused
from optimizer.envelope import event_limit_kw
from optimizer.reasons import Note
from scheduler.config import Config
from scheduler.facade import Facade
from scheduler.flexibility import available_kw, full_import_kw, present_import_kw, site_pools
from scheduler.safety import floor_cap_w
from scheduler.service import Refused
from scheduler.worth import pool_value


@dataclass
class Desk:
    """`EventDesk` of one program. `gpus`: pool -> its cards."""

    program: str
    site: str
    longest: timedelta
    facade: Facade
    gpus: dict[str, tuple[str, ...]]

    def accept(self, message: EventMessage) -> EventAnswer:
        """See EventDesk."""
        try:
            return self.facade.accept(message)
        except Refused as error:
            raise EventRefused(str(error), error.status) from error

    def look(self) -> SiteView:
        """See EventDesk."""
        ctx, state = self.facade.ctx, self.facade.state
        now = ctx.clock.now()
        rows = [row for row in ctx.ledger.running(now) if row.event.program == self.program]
        present_kw = present_import_kw(ctx, state, self.site, now)
        return SiteView(
            at=now,
            import_kw=state.tick.import_kw.get(self.site) if state.tick is not None else None,
            event_kw=min((event_limit_kw(row.event, now) for row in rows), default=math.inf),
            event_start=min((row.event.start for row in rows), default=None),
            ramping=any(not row.event.start <= now < row.event.end or now < row.due_from for row in rows),
            least_kw=max(0.0, present_kw - available_kw(ctx, state, self.site, now)),
            most_kw=full_import_kw(ctx, state, self.site, now),
            limit_kw=ctx.sites[self.site].limit_kw,
            sheds=self._sheds(),
        )

    def say(self, note: Note) -> None:
        """See EventDesk."""
        self.facade.state.notes.append(note)

    def _sheds(self) -> tuple[Shed, ...]:
        """The site's pools, the least valuable work first, each down to its floor."""
        pools = [model.pool for model in site_pools(self.facade.ctx, self.site)]
        now = self.facade.ctx.clock.now()
        pools.sort(key=lambda pool: pool_value(self.facade.state, pool, now))
        return tuple(Shed(self.gpus.get(pool.id, ()), float(floor_cap_w(pool))) for pool in pools)


@dataclass
class Sessions:
    """The channels that stay connected, by program."""

    sessions: dict[str, EventSession]
    desks: dict[str, EventDesk]

    def start(self) -> None:
        """Let each connect."""
        for program, session in self.sessions.items():
            session.start(self.desks[program])

    def close(self) -> None:
        """End each."""
        for session in self.sessions.values():
            session.close()


def desks(config: Config, facade: Facade, gpus: dict[str, tuple[str, ...]]) -> dict[str, EventDesk]:
    """A desk for each program."""
    return {program.id: Desk(program.id, program.site, program.longest, facade, gpus) for program in config.programs}
