"""Walks a problem's intervals from the first to the last, as a controller without foresight lives through them.

Why a walk: rules of thumb look at the present. What an interval leaves undone is asked for again in the next one. Only
a job that may not be interrupted is weighed over its whole run, because once begun it can't give way.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace

import numpy as np

from optimizer.answers import EventPlan
from optimizer.assemble import Draft, assemble
from optimizer.domain import Plan, Problem, Rung
from optimizer.facts import Facts, Floats, facts_of, unbroken_run, with_taken
from optimizer.jobfacts import JobFacts
from optimizer.leastruns import keep_runs
from optimizer.reasons import Note, Reason, Severity
from optimizer.rivals.asked import Asked, Given, Scale, least_cut
from optimizer.room import fit
from optimizer.steps import least_now, steps_of

INF = float("inf")
LEAST = 1e-9


def full_power(facts: Facts) -> Floats:
    """Draw [pool, interval] of interactive and training pools without a cap; batch pools idle."""
    return np.array([pool.base_kw if pool.batch else pool.top_kw for pool in facts.pools])


Wish = Callable[[JobFacts, int, int, float], float]
"""From a job, the site where it would run, an interval and the work that it has left, to the share of its highest rate
at which it should run then: 0, it waits, to 1."""


def always(_facts: Facts) -> Wish:
    """Every job runs as soon as it may."""
    return lambda job, site, t, left: 1.0


def late_otherwise(job: JobFacts, t: int, left: float) -> bool:
    """Whether a job that waits in interval t is late, however fast it runs then."""
    later_h = float(job.on_time_h[t + 1 :].sum()) + job.beyond_h
    return left > job.rate * later_h * (1.0 + 1e-9)


@dataclass(frozen=True)
class Policy:
    """What a rule wants (`service`: draws of interactive and training pools), when it runs jobs that could still wait
    (`willing`), who gives way under a cap (`scale`), and whether it says yes to events that need not be met (best
    effort, voluntary)."""

    name: str
    scale: Scale
    service: Callable[[Facts], Floats] = full_power
    willing: Callable[[Facts], Wish] = always
    voluntary: bool = True


def follow(policy: Policy, problem: Problem) -> Plan:
    """The plan of a rule."""
    facts = facts_of(problem)
    taken = _reachable(facts) if policy.voluntary else frozenset()
    facts = with_taken(facts, taken)
    heard = facts if policy.voluntary else _without_voluntary(facts)
    walk = _Walk(heard, policy)
    for t in range(facts.count):
        walk.step(t)
    walk.keep_runs()
    answers = {name: EventPlan(True) for name in taken}
    draft = Draft(fit(heard, walk.draw_kw), walk.rates, tuple(walk.homes), events=answers)
    return assemble(facts, draft, Rung.RULE, (rule_note(policy.name),))


def _reachable(facts: Facts) -> frozenset[str]:
    """Voluntary events that wait for an answer and that floors and running work leave room for: a rule doesn't reckon
    what it costs, it says yes to what it can do."""
    reach = facts.least_import_kw - facts.supply.most_output_kw
    return frozenset(
        event.id
        for s in range(len(facts.problem.sites))
        for number, event in facts.events_of(s)
        if event.undecided and bool((reach[s] <= facts.event_kw[number] + LEAST).all())
    )


def rule_note(name: str) -> Note:
    """Says in every plan that a rule made it."""
    return Note(Reason.RULE_PLAN, "plan", f"made by the rule {name}, not by the optimiser", Severity.INFO)


def _without_voluntary(facts: Facts) -> Facts:
    """Facts as whoever doesn't answer voluntary events sees them."""
    owed = np.array([event.firm or event.emergency for event in facts.problem.events], dtype=np.bool_)
    return replace(facts, event_kw=np.where(owed[:, None], facts.event_kw, INF)) if owed.size else facts


class _Walk:
    """Everything that the walk has decided so far."""

    def __init__(self, facts: Facts, policy: Policy) -> None:
        self.facts, self.policy = facts, policy
        self.draw_kw = policy.service(facts)
        self.willing = policy.willing(facts)
        self.rates = np.zeros((len(facts.jobs), facts.count))
        self.homes = [job.pools[0] if job.pools else -1 for job in facts.jobs]
        self.left = np.array([job.left for job in facts.jobs])
        self.steps = steps_of(facts)
        self.begun = [False] * len(facts.jobs)
        self.kept = np.zeros((len(facts.pools), facts.count))
        self.budget_kw = facts.usable_cap_kw / facts.pue - facts.other_kw
        order = sorted(range(len(facts.jobs)), key=lambda number: _turn(facts.jobs[number]))
        self.order = [number for number in order if facts.jobs[number].pools]
        for number in self.order:
            job = facts.jobs[number]
            if job.fixed and facts.runs_fit(job.pools[0]):
                self._keep(number, job.pools[0], unbroken_run(facts, job, 0))

    def _keep(self, number: int, g: int, run: Floats) -> None:
        """Book a run without a break."""
        self.rates[number], self.homes[number], self.begun[number] = run, g, True
        self.kept[g] += run

    def step(self, t: int) -> None:
        """Decide interval t for every site."""
        wants = self._wants(t)
        for s in range(len(self.facts.problem.sites)):
            mine = [pool for pool in self.facts.pools if pool.site == s]
            homes = {number: self.homes[number] for number in wants if self.facts.pools[self.homes[number]].site == s}
            asked = Asked(
                facts=self.facts,
                site=s,
                t=t,
                wants=Given(
                    {pool.index: float(self.draw_kw[pool.index, t]) for pool in mine if not pool.batch},
                    {number: wants[number] for number in homes},
                ),
                homes=homes,
                kept={pool.index: float(self.kept[pool.index, t]) for pool in mine if pool.batch},
                budget_kw=float(self.budget_kw[s, t]),
            )
            self._take(asked, least_cut(asked, self.policy.scale))

    def _take(self, asked: Asked, given: Given) -> None:
        """Book what an interval gives."""
        t, hours = asked.t, float(self.facts.hours[asked.t])
        given = given if t else self._whole_jobs(given)
        for g, draw in (*given.draw_kw.items(), *asked.batch_kw(given.rates).items()):
            self.draw_kw[g, t] = draw
        for number, rate in given.rates.items():
            self.rates[number, t] = rate
            self.left[number] -= rate * hours
            self.begun[number] = self.begun[number] or rate > LEAST

    def _whole_jobs(self, given: Given) -> Given:
        """In the interval about to run: a job that was cut below its least GPUs waits."""
        least = {number: least_now(self.facts, self.steps, number) * (1 - LEAST) for number in given.rates}
        return replace(given, rates={n: rate if rate >= least[n] else 0.0 for n, rate in given.rates.items()})

    def keep_runs(self) -> None:
        """Keep up what must run for a least time, where there is room."""
        self.draw_kw = keep_runs(self.facts, self.steps, self.rates, self.homes, self.draw_kw)

    def _wants(self, t: int) -> dict[int, float]:
        """Rates that jobs that may wait ask for in interval t, in their turn, up to the GPUs of their pools. Before
        them jobs that may not be interrupted begin, where their whole run has room."""
        asking = [number for number in self.order if self._most(number, t) > LEAST and self._may(number, t)]
        for number in asking:
            if not self.facts.jobs[number].job.preemptible:
                self._begin(number, t)
        free = {pool.index: pool.working[t] * pool.hulls[t].top_throughput - self.kept[pool.index, t]
                for pool in self.facts.pools if pool.batch}  # fmt: skip
        wants: dict[int, float] = {}
        for number in asking:
            job, most = self.facts.jobs[number], self._most(number, t)
            if not job.job.preemptible:
                continue
            g = self.homes[number] if self.begun[number] else _roomiest(job, free, most)
            least = least_now(self.facts, self.steps, number) if t == 0 else 0.0
            if min(most, free[g]) <= max(LEAST, least * (1 - LEAST)):
                continue
            rate = self._share(number, g, t) * job.rate * _open_h(job, t) / float(self.facts.hours[t])
            if rate > LEAST:
                self.homes[number], wants[number] = g, min(most, free[g], max(rate, least))
                free[g] -= wants[number]
        return wants

    def _may(self, number: int, t: int) -> bool:
        """Whether all jobs that this one waits for are done before interval t."""
        before = self.steps.order[self.steps.order[:, 1] == number, 0].tolist()
        done = ((n, float(self.rates[n, :t] @ self.facts.hours[:t])) for n in before)
        return all(work >= self.facts.jobs[n].left * (1 - LEAST) for n, work in done)

    def _most(self, number: int, t: int) -> float:
        """Highest rate of a job in interval t: its window, its rate, its work left; 0 for a run that has begun, or
        whose pool has lost the GPUs for it."""
        job = self.facts.jobs[number]
        if job.fixed or (self.begun[number] and not job.job.preemptible):
            return 0.0
        hours = float(self.facts.hours[t])
        return max(0.0, min(job.rate * _open_h(job, t), float(self.left[number]))) / hours

    def _share(self, number: int, g: int, t: int) -> float:
        """At what share of its highest rate the rule runs a job in interval t."""
        return self.willing(self.facts.jobs[number], self.facts.pools[g].site, t, float(self.left[number]))

    def _begin(self, number: int, t: int) -> None:
        """Begin a run without a break in the first pool that has GPUs and power for all of it."""
        job = self.facts.jobs[number]
        run = unbroken_run(self.facts, job, t)
        for g in job.pools:
            able = 0 < job.rate <= self.facts.pools[g].top_work + LEAST
            able = able and bool((run <= self._unkept(g) + LEAST).all()) and self._share(number, g, t) > LEAST
            if able and self._has_power(g, run):
                self._keep(number, g, run)
                return

    def _unkept(self, g: int) -> Floats:
        """GPU equivalents of a pool that no run without a break holds [interval]."""
        pool = self.facts.pools[g]
        room: Floats = pool.working * pool.hulls[0].top_throughput - self.kept[g]
        return room

    def _has_power(self, g: int, run: Floats) -> bool:
        """Whether a run fits under every cap with all other pools at their least."""
        facts, site = self.facts, self.facts.pools[g].site
        for t in np.flatnonzero(run > LEAST).tolist():
            least = 0.0
            for pool in facts.pools:
                if pool.site == site:
                    work = float(self.kept[pool.index, t]) + (float(run[t]) if pool.index == g else 0.0)
                    least += pool.draw_for(t, work) if pool.batch else float(pool.least_kw[t])
            if least > self.budget_kw[site, t] + LEAST:
                return False
        return True


def _open_h(job: JobFacts, t: int) -> float:
    """Hours of interval t in which a job may run."""
    return float(job.on_time_h[t] + job.late_h[t])


def _turn(job: JobFacts) -> tuple[int, object, object, str]:
    """First released, first served, within a priority."""
    return -job.job.priority, job.job.release, job.job.deadline, job.job.id


def _roomiest(job: JobFacts, free: dict[int, float], most: float) -> int:
    """The first pool of a job's list with room for all that it asks for, else the one with the most."""
    return next((g for g in job.pools if free[g] >= most - LEAST), max(job.pools, key=lambda g: free[g]))
