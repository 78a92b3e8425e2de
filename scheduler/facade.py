"""The running daemon as the API, the page and the CLI see it (scheduler.service.Service).

Why apart from the loops: whatever a client asks is answered from frozen reports and the store, or becomes a durable
record and a wake-up of the slow loop; no request ever runs inside a loop or waits for the solver.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from datetime import datetime, timedelta
from math import inf
from time import monotonic
from typing import Any

from adapters.dr.polled import EventFeed
from adapters.dr.webhook import parse_event
from adapters.jobs.queue_rules import JobDesk, JobRefused, Movable
from adapters.ports import AdapterError, EventChannel, EventMessage, EventRefused
from optimizer.domain import BatchJob, Plan
from scheduler.coordination.desk import CoordinationDesk
from scheduler.engine import Context, State
from scheduler.explaining import explain_target
from scheduler.flexibility import available_kw, baseline_kw
from scheduler.orders import step_index
from scheduler.overrides import apply_order
from scheduler.programs import ProgramRules
from scheduler.reporting import job_status, pools_now
from scheduler.sales import Sale, Sold
from scheduler.service import EventAnswer, Grant, JobRequest, OperatorOrder, Place, Refused
from scheduler.status import CycleReport, EventStatus, JobStatus, Tick
from scheduler.store.store import StoreDegraded
from scheduler.tokens import Quotes, quotes_of

SETTLE = timedelta(minutes=15)

APART_S = 0.25
"""Events that come closer together than that hurry the fast loop once: a flood of them costs it no more."""


@dataclass
class Facade:
    """Answers clients; `channels` by program id, `rules` the programs' own, `wake` asks for a plan at once, `hurry` for
    a turn of the fast loop."""

    ctx: Context
    state: State
    channels: Mapping[str, EventChannel]
    rules: Mapping[str, ProgramRules]
    wake: Callable[[], None]
    feeds: Mapping[str, EventFeed] = field(default_factory=dict)
    cued: Callable[[str], None] = lambda _: None
    _quoted: tuple[Plan, int, Quotes] | None = None
    _shown: tuple[CycleReport, Tick, CycleReport] | None = None
    coordination: CoordinationDesk = field(init=False)
    standby: Callable[[], Mapping[str, Any] | None] = lambda: None
    hurry: Callable[[], None] = lambda: None
    _hurried_at: float = -inf

    def __post_init__(self) -> None:
        self.coordination = CoordinationDesk(self.ctx, self.state)

    def report(self) -> CycleReport | None:
        """See Service."""
        report, tick, shown = self.state.report, self.state.tick, self._shown
        if report is None or tick is None:
            return report
        if shown is None or shown[0] is not report or shown[1] is not tick:
            self._shown = shown = (report, tick, pools_now(self.ctx, self.state, report, self.ctx.clock.now()))
        return shown[2]

    def tick(self) -> Tick | None:
        """See Service."""
        return self.state.tick

    def plan(self) -> Plan | None:
        """See Service."""
        return self.state.plan

    def quotes(self) -> Quotes | None:
        """See Service."""
        decision, now, held = self.state.decision, self.ctx.clock.now(), self._quoted
        if decision.plan is None or decision.problem is None:
            return None
        step = step_index(decision.plan, now)  # what is quoted changes with the plan and the interval, and only then
        if held is None or held[0] is not decision.plan or held[1] != step:
            self._quoted = held = (decision.plan, step, quotes_of(decision.problem, decision.plan, now))
        return held[2]

    def series(self, site: str, start: datetime, end: datetime) -> Mapping[str, Sequence[Any]]:
        """See Service."""
        self._site(site)
        return self.ctx.store.samples(site, start, end)

    def prices(self, site: str) -> Sequence[tuple[datetime, datetime, float]]:
        """See Service."""
        self._site(site)
        problem = self.state.problem
        past = self._past_prices(site)
        if problem is None:
            return past
        inputs = next(inputs for inputs in problem.sites if inputs.id == site)
        edges = problem.grid.edges
        ahead = [(edges[i], edges[i + 1], price) for i, price in enumerate(inputs.price_per_mwh)]
        return [(start, min(end, edges[0]), price) for start, end, price in past if start < edges[0]] + ahead

    def _past_prices(self, site: str) -> list[tuple[datetime, datetime, float]]:
        now = self.ctx.clock.now()
        series = self.ctx.memory.last_good.get(self.ctx.sites[site].price)
        if series is None:
            return []
        begin = now - timedelta(hours=12)
        return [(s.start, min(s.end, now), s.value) for s in series.spans if s.end > begin and s.start < now]

    def events(self, before: int | None = None, limit: int | None = None) -> Sequence[EventStatus]:
        """See Service."""
        return self.ctx.ledger.statuses() if limit is None else self.ctx.ledger.page(before, limit)

    def event(self, event_id: str) -> EventStatus:
        """See Service."""
        try:
            return self.ctx.ledger.status(event_id)
        except KeyError as error:
            raise Refused(f"no event {event_id!r}", 404) from error

    def receive_event(self, channel: str, headers: Mapping[str, str], body: bytes) -> EventAnswer:
        """See Service."""
        source = self.channels.get(channel)
        if source is None:
            raise Refused("no such channel", 404)
        try:
            message = source.receive(headers, body, self.ctx.clock.now())
        except EventRefused as error:
            raise Refused(str(error), error.status) from error
        except StoreDegraded as error:
            raise Refused(f"not acknowledged, the store can't keep it: {error}", 503) from error
        return self.accept(message)

    def polled(self, channel: str) -> bool:
        """See Service."""
        return channel in self.feeds

    def cue(self, channel: str, headers: Mapping[str, str], body: bytes) -> None:
        """See Service."""
        if channel not in self.feeds:
            raise Refused("no such channel", 404)
        try:
            self.feeds[channel].cue(headers, body)
        except EventRefused as error:
            raise Refused(str(error), error.status) from error
        self.cued(channel)

    def add_event(self, fields: Mapping[str, Any], by: str) -> EventAnswer:
        """See Service."""
        try:
            message = parse_event(
                json.dumps(fields, default=str).encode(), self.ctx.clock.now(), program="operator", source=by
            )
        except EventRefused as error:
            raise Refused(str(error), error.status) from error
        return self.accept(message)

    def accept(self, message: EventMessage) -> EventAnswer:
        """Put a verified message into the ledger and plan at once. Raises Refused."""
        now = self.ctx.clock.now()
        if message.site not in self.ctx.sites:
            raise Refused(f"site: {message.site!r} is not one of {', '.join(self.ctx.sites)}")
        rules, base_kw, free_kw = self._weighed(message, now)
        try:
            answer = self.ctx.ledger.accept(
                rules.applied(message, base_kw, now),
                baseline_kw=base_kw,
                available_kw=free_kw,
                defaults=rules.terms,
                now=now,
            )
        except EventRefused as error:
            raise Refused(str(error), error.status) from error
        except StoreDegraded as error:
            raise Refused(f"not acknowledged, the store can't keep it: {error}", 503) from error
        self._act()
        return answer

    def follow(self, message: EventMessage) -> EventAnswer | None:
        """Put the present word of a polled channel into the ledger; None where it holds that already. What the program
        does not allow is kept as refused, since nobody waits for the error. Raises Refused (the store, the load)."""
        if not self.ctx.ledger.differs(message):
            return None
        now = self.ctx.clock.now()
        rules, base_kw, free_kw = self._weighed(message, now)
        try:
            message = rules.applied(message, base_kw, now)
        except EventRefused as error:
            message = replace(message, fault=str(error))
        try:
            answer = self.ctx.ledger.follow(
                message, baseline_kw=base_kw, available_kw=free_kw, defaults=rules.terms, now=now
            )
        except EventRefused as error:
            raise Refused(str(error), error.status) from error
        except StoreDegraded as error:
            raise Refused(f"event {message.id} is not taken, the store can't keep it: {error}", 503) from error
        if answer is not None:
            self._act()
        return answer

    def _act(self) -> None:
        """Somebody's word has changed what a site may draw: the fast loop acts on it now, not at its next turn by the
        clock, and the slow loop plans with it."""
        now = monotonic()
        if now - self._hurried_at >= APART_S:
            self._hurried_at = now
            self.hurry()
        self.wake()

    def _weighed(self, message: EventMessage, now: datetime) -> tuple[ProgramRules, float, float]:
        """The program's rules, the site's baseline, and what can be shed while the message lasts."""
        rules = self.rules.get(message.program) or ProgramRules()
        lasts_s = max(0.0, (message.end - max(message.start, now)).total_seconds()) if _aware(message) else 0.0
        base_kw = baseline_kw(self.ctx, self.state, message.site, rules.terms, now)
        return rules, base_kw, min(rules.most_kw, available_kw(self.ctx, self.state, message.site, now, lasts_s))

    def cancel_event(self, event_id: str, by: str) -> EventAnswer:
        """See Service."""
        try:
            answer = self.ctx.ledger.cancel(event_id, by, self.ctx.clock.now())
        except KeyError as error:
            raise Refused(f"no event {event_id!r}", 404) from error
        except StoreDegraded as error:
            raise Refused(f"not acknowledged, the store can't keep it: {error}", 503) from error
        self._act()
        return answer

    def answer_event(self, event_id: str, opt: str, by: str) -> EventAnswer:
        """See Service."""
        if opt not in {"in", "out"}:
            raise Refused(f"opt: {opt!r} is not in or out")
        try:
            answer = self.ctx.ledger.decide(event_id, opt, f"opted {opt} by {by}", by, self.ctx.clock.now())
        except KeyError as error:
            raise Refused(f"no event {event_id!r}", 404) from error
        except ValueError as error:
            raise Refused(str(error), 409) from error
        except StoreDegraded as error:
            raise Refused(f"not acknowledged, the store can't keep it: {error}", 503) from error
        self._act()
        return answer

    def jobs(self) -> Sequence[JobStatus]:
        """See Service."""
        return [job_status(job, self.ctx, self.state) for job in self._everything()]

    def grants(self) -> Mapping[str, Grant]:
        """See Service."""
        pools = {job: pool for job, (pool, _) in self.state.grants.items()}
        try:
            waiting = self.ctx.jobs.snapshot()
        except AdapterError:
            waiting = self.state.jobs
        return {job.id: Grant(pools.get(job.id, job.pools[0]), job.gpus) for job in waiting if job.gpus}

    def job(self, job_id: str) -> JobStatus:
        """See Service."""
        found = next((job for job in self._everything() if job.id == job_id), None)
        if found is None:
            raise Refused(f"no job {job_id!r}", 404)
        return job_status(found, self.ctx, self.state)

    def submit_job(self, request: JobRequest) -> JobStatus:
        """See Service."""
        return self._job(lambda queue: queue.submit(request, self.ctx.clock.now()).id)

    def cancel_job(self, job_id: str, by: str) -> JobStatus:
        """See Service."""
        return self._job(lambda queue: queue.cancel(job_id, by).id)

    def report_progress(
        self, job_id: str, done_gpu_h: float, finished: bool, sold: Sold | None = None, place: Place | None = None
    ) -> JobStatus:
        """See Service."""
        if sold is not None:
            self.ctx.sales.sold(job_id, sold, self.ctx.clock.now())
        place = place or Place()
        moved = isinstance(self.ctx.jobs, Movable) and self.ctx.jobs.elsewhere().get(job_id, "") != place.site

        def report(queue: JobDesk) -> str:
            if place.sites is not None:
                queue.confine(job_id, place.sites)
            return queue.report(job_id, done_gpu_h, finished, place.site).id

        found = self._job(report, replan=finished or moved)
        if sold is not None:
            self._keep_sales()
        return found

    def report_sold(self, job_id: str, sold: Sold) -> None:
        """See Service."""
        self.ctx.sales.sold(job_id, sold, self.ctx.clock.now(), last=True)
        self._keep_sales()

    def sales(self) -> Sequence[Sale]:
        """See Service."""
        return self.ctx.sales.rows()

    def _keep_sales(self) -> None:
        try:
            self.ctx.sales.flush()
        except StoreDegraded as error:
            raise Refused(f"not acknowledged, the store can't keep it: {error}", 503) from error

    def _job(self, change: Callable[[JobDesk], str], replan: bool = True) -> JobStatus:
        if not isinstance(self.ctx.jobs, JobDesk):
            raise Refused("this site's jobs are not kept in the embedded queue", 409)
        try:
            job_id = change(self.ctx.jobs)
        except JobRefused as error:
            raise Refused(str(error), error.status) from error
        except StoreDegraded as error:
            raise Refused(f"not acknowledged, the store can't keep it: {error}", 503) from error
        if replan:
            self.wake()
        return next(job_status(job, self.ctx, self.state) for job in self._everything() if job.id == job_id)

    def _everything(self) -> Sequence[BatchJob]:
        """Every job that the job system tells of; those last seen while it can't be read."""
        try:
            return self.ctx.jobs.everything()
        except AdapterError:
            return tuple(reversed(self.state.jobs))

    def order(self, order: OperatorOrder) -> None:
        """See Service."""
        try:
            apply_order(self.ctx, self.state, order, self.ctx.clock.now())
        except StoreDegraded as error:
            raise Refused(f"not acknowledged, the store can't keep it: {error}", 503) from error
        self._act()

    def explain(self, target: str) -> str:
        """See Service."""
        return explain_target(self.ctx, self.state, target)

    def health(self) -> Mapping[str, Any]:
        """See Service."""
        now = self.ctx.clock.now()
        tick_age = (now - self.state.last_tick_at).total_seconds() if self.state.last_tick_at else None
        report = self.state.report
        cycle_age = (now - report.at).total_seconds() if report else None
        speed = getattr(self.ctx.clock, "speed", 1.0)
        late = 5 * self.ctx.timing.control_period.total_seconds() + 10 * speed
        planning = 3 * self.ctx.timing.interval.total_seconds() + 60 * speed
        turning = tick_age is not None and tick_age < late
        ok = turning and cycle_age is not None and cycle_age < planning
        return {
            "ok": ok,
            "tick_age_s": tick_age,
            "cycle_age_s": cycle_age,
            "mode": self.ctx.mode,
            "speed": speed,
            "now": now,
            "store": self.ctx.store.state(),
            "standby": self.standby(),
            "coordination": self.coordination.status(),
        }

    def _site(self, site: str) -> None:
        if site not in self.ctx.sites:
            raise Refused(f"no site {site!r}", 404)


def _aware(message: EventMessage) -> bool:
    """Whether a message's times can be reckoned with; the ledger refuses one whose can't."""
    return message.start.tzinfo is not None and message.end.tzinfo is not None
