"""A daemon made of formulas: a `scheduler.service.Service` whose site, prices, jobs and event move with its clock.

Why: API and page are tested without loops, solver or store. Everything is a function of the clock's time.
"""

import math
import threading
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from itertools import pairwise

from optimizer.answers import PoolQuote
from optimizer.domain import JobPlan, Plan, PoolPlan, Rung, SitePlan
from optimizer.reasons import Note, Reason, Severity
from optimizer.timegrid import TimeGrid, floor_time, planning_grid
from scheduler.service import EventAnswer, Grant, Refused
from scheduler.status import (
    CurveStatus,
    CycleReport,
    EventStatus,
    Flexibility,
    LatencyStatus,
    PoolStatus,
    SiteStatus,
    SourceStatus,
    Tick,
)
from scheduler.tokens import INDICATION, PoolQuotes, QuotedInterval, Quotes, SiteValue
from tests.support.fake_jobs import Alone, first_jobs, row

START = datetime(2022, 9, 6, 21, tzinfo=UTC)  # 14:00 in California
SITE, ZONE, LIMIT_KW, PUE = "west", "America/Los_Angeles", 4500.0, 1.12
STEP = timedelta(minutes=5)
CURVE = CurveStatus("A100/x", "learned", 360, 2, 0.021, -0.07, "learned (360 samples, error 2.1%), -7% against A100/x")
POOLS = {  # id: work, GPUs, highest cap W, draw at full speed kW, share of a shed it bears
    "chat": ("interactive", 4000, 400, 1240.0, 0.05),
    "pretrain": ("training", 4800, 400, 1680.0, 0.45),
    "finetune": ("batch", 2400, 400, 840.0, 0.50),
}
FULL_KW = sum(pool[3] for pool in POOLS.values()) * PUE
EVENT = EventStatus(
    id="evening-peak", version=1, site=SITE, state="scheduled",
    start=START + timedelta(hours=3), end=START + timedelta(hours=5), target_kw=0.75 * FULL_KW, baseline_kw=FULL_KW,
    program="Emergency reduction", name="Evening peak", source="webhook:utility", answer="in",
)  # fmt: skip


WAITS = (LatencyStatus("ttft_p95", 0.5, 0.43, "kept", (0.45, 0.62, None)),
         LatencyStatus("itl_p99", 0.05, None, "kept", (None,)))  # fmt: skip


class FakeService:
    """See scheduler.service.Service. `started = False`: no cycle has run; `broken = True`: every answer fails."""

    def __init__(self, clock):
        self.clock = clock
        self.polled, self.cue = (lambda channel: channel == "asked"), (lambda *_: None)
        self.lock = threading.Lock()
        self.book = {EVENT.id: EVENT}
        self.queue = {job.id: job for job in first_jobs(START)}
        self.orders = []
        self.extra_notes = ()
        self.enforced_w = {}  # by pool, where it is not the cap
        self.started, self.broken = True, False

        self.coordination = Alone()

    # ------------------------------------------------------------ the site as formulas
    def price_at(self, moment):
        """Dear after sunset, cheap at noon; changes on the five minutes."""
        hour = (floor_time(moment, STEP) - START).total_seconds() / 3600 + 14  # local
        spike = 900 * math.exp(-(((hour % 24) - 18.2) ** 2) / 2.2)
        return round(60 + 35 * math.sin((hour - 10) / 24 * 2 * math.pi) + spike + 12 * math.sin(hour * 9), 2)

    def target_at(self, moment):
        """Tightest target of the accepted events, ramps of five minutes included."""
        tightest = float("inf")
        for event in self.book.values():
            if event.state != "cancelled" and event.start <= moment < event.end + STEP:
                since, left = (moment - event.start) / STEP, 1 - (moment - event.end) / STEP
                share = min(1.0, since, left) if moment >= event.end else min(1.0, since)
                tightest = min(tightest, event.baseline_kw - share * (event.baseline_kw - event.target_kw))
        return tightest

    def planned_at(self, moment):
        """What the plan asks of the site."""
        wanted = FULL_KW * (0.97 + 0.02 * math.sin(moment.timestamp() / 5400))
        if self.price_at(moment) > 500:
            wanted *= 0.92
        return min(wanted, self.target_at(moment) * 0.995, LIMIT_KW)

    def drawn_at(self, moment):
        """What the meter says: the plan with a little noise below it."""
        second = moment.timestamp()
        return self.planned_at(moment) * (0.992 + 0.006 * math.sin(second / 97) + 0.002 * math.sin(second / 13))

    def _event(self, event):
        """The event with its state and delivery at this time."""
        now = self.clock.now()
        if event.state == "cancelled":
            return event
        elapsed_h = max(0.0, (min(now, event.end) - event.start).total_seconds() / 3600)
        states = [
            (event.start - timedelta(hours=1), "scheduled"),
            (event.start, "near"),
            (event.start + STEP, "ramping_in"),
            (event.end, "active"),
            (event.end + STEP, "ramping_out"),
            (datetime.max.replace(tzinfo=UTC), "done"),
        ]
        state = next(name for until, name in states if now < until)
        return replace(event, state=state, delivered_kwh=elapsed_h * (event.baseline_kw - event.target_kw) * 0.99)

    def _pool(self, name, site_kw):
        work, gpus, top_w, full_kw, share = POOLS[name]
        shed_kw = (FULL_KW - site_kw) / PUE * share
        part = 1 - shed_kw / full_kw
        cap_w = int(top_w * part) if part < 0.995 else top_w
        event = self.target_at(self.clock.now()) < float("inf")
        reason = Reason.DR_EVENT if event else Reason.HIGH_PRICE if cap_w < top_w else Reason.FULL_POWER
        whys = {
            Reason.DR_EVENT: f"Capped at {cap_w} W: the event needs {shed_kw:.0f} kW from here, the cheapest there is.",
            Reason.HIGH_PRICE: f"Capped at {cap_w} W: a kWh costs more than the work it does is worth.",
            Reason.FULL_POWER: "At full power: the work is worth more than the energy.",
        }
        return PoolStatus(name, SITE, work, gpus, gpus, cap_w, top_w, full_kw * part, full_kw * part * 0.993,
                          min(1.0, part**0.4), reason.value, whys[reason], CURVE,
                          self.price_at(self.clock.now()) * 0.0005,
                          latency=WAITS if name == "chat" else (), latency_floor=0.9,
                          enforced_w=self.enforced_w.get(name, float(cap_w)))  # fmt: skip

    def _jobs(self):
        now = self.clock.now()
        for job in self.queue.values():
            if job.state != "running":
                yield job
                continue
            progress = min(1.0, job.progress + (now - START).total_seconds() / 3600 * 0.08)
            yield replace(job, progress=progress)

    # ------------------------------------------------------------ Service
    def report(self):
        self._may_fail()
        if not self.started:
            return None
        at = floor_time(self.clock.now(), STEP)
        planned, target, drawn = self.planned_at(at), self.target_at(at), self.drawn_at(self.clock.now())
        site = SiteStatus(SITE, self.drawn_at(at), planned, target, LIMIT_KW, self.price_at(at), PUE, "USD", ZONE,
                          (Flexibility(5.0, 600.0, 550.0), Flexibility(900.0, 900.0, 800.0)),
                          self.price_at(at))  # fmt: skip
        sources = (
            SourceStatus("caiso-np15", "price", "ok", 134.0, self.price_at(at), "USD/MWh"),
            SourceStatus("sacramento", "weather", "substituted", 4210.0, 43.1, "degC", "held, nothing for 70 min"),
            SourceStatus("meter-main", "meter", "ok", 1.0, self.drawn_at(at), "kW"),
            SourceStatus("grid-carbon", "carbon", "lost", None, None, "g/kWh", "connection refused, forecast instead"),
        )  # fmt: skip
        notes = (
            Note(Reason.STALE_SIGNAL, "sacramento", "Temperature is 70 min old and held.", Severity.WARNING, at),
            Note(
                Reason.DEADLINE_UNREACHABLE, "job-late", "Cannot finish before 16:00: 3.2 h short.", Severity.ALERT, at
            ),
            Note(
                Reason.CHEAP_WINDOW, "finetune", "Batch work waits for 01:00, when a MWh costs 31.", Severity.INFO, at
            ),
            *self.extra_notes,
        )
        return CycleReport(
            int((at - START) / STEP) + 1, at, "control", Rung.OPTIMUM.value, 1.34, 0.92, 18230.5, at + STEP,
            (site,), tuple(self._pool(name, drawn) for name in POOLS), tuple(self._jobs()), tuple(self.events()),
            sources, notes,
        )  # fmt: skip

    def tick(self):
        self._may_fail()
        if not self.started:
            return None
        now = self.clock.now()
        drawn, planned = self.drawn_at(now), self.planned_at(now)
        pools = {name: self._pool(name, drawn) for name in POOLS}
        return Tick(
            now, {SITE: drawn}, {SITE: self.target_at(now)}, {SITE: planned}, {SITE: LIMIT_KW},
            {SITE: max(0.0, FULL_KW - drawn)}, {name: pool.draw_kw for name, pool in pools.items()},
            {name: pool.cap_w for name, pool in pools.items()}, {name: pool.gpus for name, pool in pools.items()},
            orders=3, seconds=0.004,
            enforced_w={name: pool.enforced_w for name, pool in pools.items()},
        )  # fmt: skip

    def _grid(self):
        return planning_grid(self.clock.now(), timedelta(hours=24))

    def plan(self):
        self._may_fail()
        if not self.started:
            return None
        grid: TimeGrid = self._grid()
        count = len(grid)
        planned = tuple(self.planned_at(start) for start in grid.starts)
        pools = {
            name: PoolPlan((full,) * count, (float(gpus),) * count, (top,) * count, (gpus,) * count,
                           (Reason.FULL_POWER,) * count)
            for name, (_, gpus, top, full, _) in POOLS.items()
        }  # fmt: skip
        jobs = {
            job.id: JobPlan((float(job.gpus),) * count, job.pool, 0.0, 0.0, job.finish, (Reason(job.reason),) * count)
            for job in self.queue.values()
        }
        site = SitePlan(planned, (0.0,) * count, (0.0,) * count, tuple(map(self.price_at, grid.starts)))
        quotes = {name: self._quote(grid) for name in POOLS}
        return Plan(grid.start, grid, Rung.OPTIMUM, pools, jobs, {SITE: site}, 18230.5, 0.92, quotes=quotes)

    def _quote(self, grid):
        """What 0.5 kWh a million tokens cost."""
        prices = tuple(self.price_at(start) * 0.0005 for start in grid.starts)
        return PoolQuote(tuple(2 * price for price in prices), tuple(2 * price for price in prices), prices,
                         (None,) * len(prices))  # fmt: skip

    def quotes(self):
        plan = self.plan()
        if plan is None:
            return None
        edges = plan.grid.edges
        pools = tuple(
            PoolQuotes(name, SITE, "A100", POOLS[name][0], tuple(
                QuotedInterval(edges[t], edges[t + 1], price, quote.more_per_gpu_h[t], None)
                for t, price in enumerate(quote.per_mtok)
            ))
            for name, quote in plan.quotes.items()
        )  # fmt: skip
        sites = tuple(
            SiteValue(SITE, edges[t], edges[t + 1], value) for t, value in enumerate(plan.sites[SITE].marginal_per_mwh)
        )
        return Quotes(plan.made_at, plan.rung.value, "USD", INDICATION, pools, sites)

    def series(self, site, start, end):
        self._site(site)
        end = min(end, self.clock.now())
        if not self.started or end <= start:
            return {name: [] for name in ("at", "import_kw", "target_kw", "limit_kw", "planned_kw", "price_per_mwh")}
        step = timedelta(seconds=30)
        at = [floor_time(start, step) + i * step for i in range(int((end - start) / step) + 1)]
        targets = [self.target_at(moment) for moment in at]
        return {
            "at": at,
            "import_kw": [self.drawn_at(moment) for moment in at],
            "target_kw": [target if target < float("inf") else None for target in targets],
            "limit_kw": [LIMIT_KW] * len(at),
            "planned_kw": [self.planned_at(moment) for moment in at],
            "price_per_mwh": [self.price_at(moment) for moment in at],
        }

    def prices(self, site):
        self._site(site)
        if not self.started:
            return []
        grid = self._grid()
        past = [grid.start - i * STEP for i in range(72, 0, -1)]
        return [(at, at + STEP, self.price_at(at)) for at in past] + [
            (start, end, self.price_at(start)) for start, end in pairwise(grid.edges)
        ]

    def events(self, before=None, limit=None):
        self._may_fail()
        with self.lock:
            shown = [replace(self._event(event), number=place) for place, event in enumerate(self.book.values(), 1)]
        return [event for event in reversed(shown) if before is None or event.number < before][:limit]

    def event(self, event_id):
        found = next((event for event in self.events() if event.id == event_id), None)
        if found is None:
            raise Refused(f"no event {event_id!r}", 404)
        return found

    def receive_event(self, channel, headers, body):
        if channel != "utility":
            raise Refused("no such channel", 404)
        if headers.get("x-signature") != "good":
            raise Refused("not accepted", 401)
        return self._keep({"id": body.decode("utf-8", "replace")[:40]}, channel)

    def add_event(self, fields, by):
        if fields.get("site") != SITE:
            raise Refused(f"site: {fields.get('site')!r} is not one of {SITE}")
        return self._keep(fields, by)

    def _keep(self, fields, by):
        name, version = str(fields.get("id", "by-hand")), fields.get("version", 1)
        if not isinstance(version, int):
            raise Refused("version: is not a whole number")
        now = self.clock.now()
        with self.lock:
            known = self.book.get(name)
            if known is None or known.version < version:
                start, end = now + timedelta(minutes=10), now + timedelta(minutes=70)
                title = str(fields.get("name", name))
                self.book[name] = replace(EVENT, id=name, version=version, name=title, source=by, start=start, end=end)
        known_already = known is not None and known.version >= version
        return EventAnswer(
            name, version, "scheduled", "in", "within reach", 0.75 * FULL_KW, FULL_KW, 1500.0, known_already
        )

    def cancel_event(self, event_id, by):
        with self.lock:
            if event_id not in self.book:
                raise Refused(f"no event {event_id!r}", 404)
            self.book[event_id] = replace(self.book[event_id], state="cancelled")
        return EventAnswer(event_id, self.book[event_id].version, "cancelled", "out", f"withdrawn by {by}")

    def answer_event(self, event_id, opt, by):
        raise Refused(f"event {event_id} waits for no answer", 409 if event_id in self.book else 404)

    def jobs(self):
        self._may_fail()
        with self.lock:
            return list(self._jobs())[::-1]

    def grants(self):
        return {job.id: Grant(job.pool, job.gpus) for job in self.jobs() if job.gpus}

    def job(self, job_id):
        found = next((job for job in self.jobs() if job.id == job_id), None)
        if found is None:
            raise Refused(f"no job {job_id!r}", 404)
        return found

    def submit_job(self, request):
        if request.pool not in {None, "finetune"}:
            raise Refused(f"pool: {request.pool!r} is no batch pool; there is finetune")
        with self.lock:
            name = request.id or f"job-{len(self.queue) + 1}"
            return self.queue.setdefault(
                name, row(name, "waiting", 0.0, 0, request.deadline, "not_released", "Just in.")
            )

    def cancel_job(self, job_id, by):
        with self.lock:
            job = self.queue[job_id] = replace(self._known(job_id), state="cancelled", gpus=0)
            return job

    def sales(self):
        return ()

    def report_sold(self, job_id, sold):
        self._known(job_id)

    def report_progress(self, job_id, done_gpu_h, finished, sold=None, place=None):
        with self.lock:
            job = self._known(job_id)
            job = self.queue[job_id] = replace(job, state="done" if finished else job.state)
            return job

    def _known(self, job_id):
        if job_id not in self.queue:
            raise Refused(f"no job {job_id!r}", 404)
        return self.queue[job_id]

    def order(self, order):
        if order.site not in {None, SITE}:
            raise Refused(f"site: {order.site!r} is not one of {SITE}")
        self.orders.append(order)

    def explain(self, target):
        if target not in POOLS:
            raise Refused(f"nothing here is called {target!r}", 404)
        return self._pool(target, self.planned_at(self.clock.now())).why

    def health(self):
        self._may_fail()
        return {"ok": self.started, "tick_age_s": 1.0 if self.started else None,
                "cycle_age_s": 60.0 if self.started else None, "mode": "control",
                "speed": getattr(self.clock, "speed", 1.0), "now": self.clock.now(), "store": "ok"}  # fmt: skip

    def _site(self, site):
        self._may_fail()
        if site != SITE:
            raise Refused(f"no site {site!r}", 404)

    def _may_fail(self):
        if self.broken:
            raise OSError("the store does not answer")


def serve(host="127.0.0.1", port=8787, speed=90.0, start=START):
    """Serve the page over this fake until interrupted: `python -m tests.support.fake_service`."""
    import time

    from scheduler.api import ApiServer, ApiSettings, Token, create_app
    from scheduler.clock import ScaledClock

    settings = ApiSettings(host=host, port=port, write_tokens=(Token("developer", "developer"),), demo=speed != 1)
    clock = ScaledClock(start, speed)
    clock.begin()
    with ApiServer(create_app(FakeService(clock), settings), host, port) as server:
        print(server.url)
        while True:
            time.sleep(60)


if __name__ == "__main__":
    serve()
