"""What the reports of a utility's channel are made of: measured, planned, and what became of an event.

Why apart from the feeds: a report reads the books and the last tick and never waits for a loop, so that a utility that
asks for figures every two seconds costs the site nothing.
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime, timedelta

from adapters.dr.polled import EventFigures
from optimizer.envelope import event_limit_kw
from scheduler.facade import Facade
from scheduler.flexibility import available_kw, baseline_kw
from scheduler.programs import ProgramRules
from scheduler.status import EventStatus

MINUTE = timedelta(minutes=1)
INF = float("inf")


@dataclass(frozen=True)
class Figures:
    """`SiteFigures` of one program at one site."""

    facade: Facade
    program: str
    site: str

    def measured_kw(self, start: datetime, end: datetime) -> tuple[float | None, float]:
        """See `SiteFigures`. What is shorter than the minutes that are kept is the last reading."""
        ctx, tick = self.facade.ctx, self.facade.state.tick
        if end - start < MINUTE:
            fresh = tick is not None and abs(tick.at - end) <= 2 * ctx.timing.control_period + MINUTE
            now_kw = tick.import_kw.get(self.site) if fresh and tick is not None else None
            return now_kw, 1.0 if now_kw is not None else 0.0
        values = ctx.store.samples(self.site, start, end)["import_kw"]
        known = [value for value in values if value is not None]
        if not known:
            return None, 0.0
        return sum(known) / len(known), min(1.0, len(known) / max(1, round((end - start) / MINUTE)))

    def planned_kw(self, start: datetime, end: datetime) -> float | None:
        """See `SiteFigures`."""
        plan = self.facade.state.plan
        if plan is None or self.site not in plan.sites:
            return None
        edges, planned, total_s = plan.grid.edges, plan.sites[self.site].import_kw, 0.0
        weighted = 0.0
        for index, kw in enumerate(planned):
            seconds = (min(end, edges[index + 1]) - max(start, edges[index])).total_seconds()
            if seconds > 0:
                total_s, weighted = total_s + seconds, weighted + kw * seconds
        covered = total_s >= (end - start).total_seconds() - 1.0 and total_s > 0
        return weighted / total_s if covered else None

    def look(self, event_id: str) -> EventFigures:
        """See `SiteFigures`."""
        ctx, state = self.facade.ctx, self.facade.state
        now = ctx.clock.now()
        rules = self.facade.rules.get(self.program) or ProgramRules()
        caps = [event_limit_kw(event, now) for event in ctx.ledger.active(now) if event.program == self.program]
        cap_kw = min(caps, default=INF)
        free_kw = min(rules.most_kw, available_kw(ctx, state, self.site, now))
        told = self._status(event_id)
        taken = told is not None and told.opt == "in" and told.baseline_kw is not None
        base_kw = told.baseline_kw if told is not None and taken else None
        refused = told is not None and told.opt == "out" and told.state in {"refused", "declined"}
        return EventFigures(
            import_kw=state.tick.import_kw.get(self.site) if state.tick is not None else None,
            available_kw=free_kw,
            baseline_kw=base_kw if base_kw is not None else baseline_kw(ctx, state, self.site, rules.terms, now),
            cap_kw=cap_kw if cap_kw < INF else None,
            state=told.state if told is not None else "",
            opt=told.opt if told is not None else "",
            reason=told.answer if told is not None else "",
            offer_kw=free_kw if refused and free_kw >= max(1.0, rules.least_kw) else None,
        )

    def _status(self, event_id: str) -> EventStatus | None:
        try:
            return self.facade.ctx.ledger.status(f"{self.program}/{event_id}")
        except KeyError:
            return None
