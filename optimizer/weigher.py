"""Weighs risk: the extensive form decides the first step now and then, and the plan keeps to it until the next time.

Why not in every interval: all scenarios in one model take many times as long as a plan. Why kept to: what is decided
for the hour is common to all scenarios through the hour; a plan of the mean five minutes later would undo it.
"""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from datetime import datetime

import numpy as np
from scipy.sparse import csc_matrix

from optimizer.classes import classes_of
from optimizer.coarse import ROUGH, shortened
from optimizer.domain import Problem
from optimizer.facts import Facts, Floats, facts_of
from optimizer.faults import SolveError, SolveFault
from optimizer.highs import Answer
from optimizer.model.arrays import Arrays, write_arrays
from optimizer.model.build import declare
from optimizer.model.parts import Columns, Flags
from optimizer.model.risk import declare_weighed
from optimizer.reasons import Note, Reason, Severity
from optimizer.scenarios import fewer
from optimizer.uncertain import SAME, next_whole
from optimizer.warm import Warm

MOST_COLUMNS = 60_000
"""Columns of the extensive form up to which it is solved in the time that it has by default: with more, scenarios are
put together."""

KEPT = ("x", "late", "charge", "discharge")
"""What the plan keeps to: decisions that move work and energy through time. All else follows from prices now."""

GAVE = ("over_limit", "over_event", "over_ramp", "short", "missed", "slip")
"""Families in which a plan that keeps to the step shows that it no longer fits."""

CLEAR = 0.01
"""How far from yes or no an answer to a voluntary event may be and still be one."""

Step = dict[tuple[str, str, str], tuple[float, float]]
"""(family, job or battery, pool) -> value in the present interval, and in what remains of the step."""


@dataclass(frozen=True, eq=False)
class Picture:
    """What a first step is decided for: sites, reserves and events by name, and limits and reserve prices of the
    present interval, which may move a little."""

    names: tuple[object, ...]
    levels: Floats

    def fits(self, now: Picture) -> bool:
        """Whether it is nearly the picture of now. Compared with what the step was made for, so that a slow drift is
        noticed."""
        return now.names == self.names and np.allclose(now.levels, self.levels, rtol=SAME)


@dataclass(frozen=True)
class Held:
    """A first step: from when and until when it holds, for which picture, its values, the most reserve offered [offer]
    in kW, and what is answered to voluntary events, by id."""

    made_at: datetime
    until: datetime
    first_ends: datetime
    picture: Picture
    step: Step
    offer_kw: tuple[float, ...]
    takes: tuple[tuple[str, bool], ...] = ()


@dataclass
class Weigher:
    """Keeps the last first step, and what makes the next weighing fast."""

    _warm: Warm = field(default_factory=Warm)
    held: Held | None = None
    notes: tuple[Note, ...] = ()
    seconds: float = 0.0

    def look(self, problem: Problem, late: frozenset[str], budget_s: float) -> Held | None:
        """The first step in force; weighed anew where that is due. None without scenarios or risk weight, and with a
        note where there was no time: the plan is then that of the mean."""
        self.notes, self.seconds = (), 0.0
        if not problem.scenarios or problem.weighing.risk_weight <= 0:
            self.held = None
        elif due(problem, self.held):
            try:
                self.held = self._weighed(problem, late, budget_s)
            except SolveError as error:
                self.held = None
                self.seconds = max(0.0, budget_s) if error.kind is SolveFault.TIMEOUT else error.seconds
                text = f"risk is not weighed: {error}; the plan goes by the mean of what may come"
                self.notes = (Note(Reason.SCENARIOS_DROPPED, "plan", text, Severity.WARNING),)
        return self.held

    def release(self, why: str) -> None:
        """Forget the step, with a note."""
        self.held = None
        text = f"what was decided for the hour no longer fits ({why}); the plan goes by the mean of what may come"
        self.notes += (Note(Reason.SCENARIOS_DROPPED, "plan", text, Severity.WARNING),)

    def _weighed(self, problem: Problem, late: frozenset[str], budget_s: float) -> Held:
        if budget_s <= 0:
            raise SolveError(SolveFault.TIMEOUT, "no time is left for it")
        small, _ = shortened(problem, ROUGH)
        classes = classes_of(facts_of(replace(small, scenarios=())))
        facts = classes.facts
        until = step_ends(problem)
        common = sum(start < until for start in small.grid.starts)
        chosen = late_jobs(facts, late)
        alone = declare(replace(small, scenarios=()), facts, chosen).columns_count
        small = replace(small, scenarios=fewer(small, max(2, MOST_COLUMNS // alone)))
        arrays = write_arrays(declare_weighed(small, common, chosen))
        answer = self._warm.solve(classes, arrays, budget_s)
        self.seconds = answer.seconds
        mean, worst = costs(small, arrays, answer)
        text = (
            f"{put_together(len(problem.scenarios), len(small.scenarios))}: after the step until {until:%H:%M}Z the "
            f"horizon costs {mean:,.2f} {problem.currency} in the mean and {worst:,.2f} in the worst "
            f"{problem.weighing.risk_tail:.0%}"
        )
        self.notes = (Note(Reason.SCENARIOS, "plan", text, Severity.INFO),)
        offered = (
            arrays.of("offer@0", answer.point).reshape(-1, len(small.grid))[:, :common].min(axis=1, initial=np.inf)
        )
        step = _step(facts, arrays, answer)
        takes = _takes(problem, arrays, answer)
        return Held(problem.made_at, until, small.grid.edges[1], picture(problem), step, tuple(offered.tolist()), takes)


def due(problem: Problem, held: Held | None) -> bool:
    """Whether risk is to be weighed: at the start, when the last step has ended, and when a bid is due or the picture
    has changed (a limit, an event, the price of a reserve)."""
    return held is None or problem.grid.start >= held.until or not held.picture.fits(picture(problem))


def picture(problem: Problem) -> Picture:
    """What a first step is decided for, as the problem has it."""
    sites = tuple((site.id, tuple(offer.id for offer in site.reserves)) for site in problem.sites)
    events = tuple((event.id, event.version) for event in problem.events)
    limits = [site.limit_kw[0] for site in problem.sites]
    prices = [offer.price_per_kw_h[0] for site in problem.sites for offer in site.reserves]
    return Picture((sites, events), np.array(limits + prices))


def put_together(all_: int, left: int) -> str:
    """How many scenarios are weighed, and of how many."""
    return f"{left} scenarios" if left == all_ else f"{all_} scenarios put together as {left}"


def step_ends(problem: Problem) -> datetime:
    """End of the step that begins now: the next whole `weigh_every_s` of the clock."""
    return next_whole(problem.grid.start, problem.weighing.weigh_every_s)


def late_jobs(facts: Facts, late: frozenset[str]) -> Flags:
    """Jobs with columns for late work."""
    known = np.array([job.id in late for job in facts.table.jobs], dtype=np.bool_)
    found: Flags = known | ~facts.table.reachable | facts.table.late_anyway
    return found


def costs(problem: Problem, arrays: Arrays, answer: Answer) -> tuple[float, float]:
    """Mean cost over the scenarios, and CVaR: the mean of the worst tail, both money over the horizon."""
    share = np.array([scenario.probability for scenario in problem.scenarios])
    level, worst = arrays.of("level", answer.point)[0], arrays.of("worst", answer.point)
    matrix = csc_matrix((arrays.value, arrays.index, arrays.starts), shape=(len(arrays.row_low), len(arrays.cost)))
    rows = arrays.row_families["risk"]
    part = slice(rows.start, rows.start + len(rows))
    cost = level + worst - (matrix @ answer.point)[part] + arrays.row_low[part]
    return float(share @ cost), float(level + share @ worst / problem.weighing.risk_tail)


def _step(facts: Facts, arrays: Arrays, answer: Answer) -> Step:
    """What the first two intervals hold, by name."""
    found: Step = {}
    for family in KEPT:
        columns, values = arrays.families[f"{family}@0"], arrays.of(f"{family}@0", answer.point)
        t = columns.keys[-1]
        for number in np.flatnonzero(t <= 1).tolist():
            key = _name(facts, family, columns, number)
            now, then = found.get(key, (0.0, 0.0))
            value = float(values[number])
            found[key] = (value, then) if t[number] == 0 else (now, value)
    return found


def _takes(problem: Problem, arrays: Arrays, answer: Answer) -> tuple[tuple[str, bool], ...]:
    """The answers to voluntary events, common to all scenarios, where the linear program is clear about them."""
    numbers, shares = arrays.families["take@0"].keys[0].tolist(), arrays.of("take@0", answer.point).tolist()
    pairs = zip(numbers, shares, strict=True)
    return tuple((problem.events[number].id, share > 0.5) for number, share in pairs if min(share, 1 - share) < CLEAR)


def _name(facts: Facts, family: str, columns: Columns, number: int) -> tuple[str, str, str]:
    if family in ("x", "late"):
        j, g = int(columns.keys[0][number]), int(columns.keys[1][number])
        return (family, facts.jobs[j].job.id, facts.pools[g].pool.id)
    return (family, facts.supply.batteries[int(columns.keys[0][number])][1].id, "")


def kept(facts: Facts, arrays: Arrays, held: Held) -> Arrays:
    """The plan's arrays with the present interval held to the step, as far as each job has work left."""
    at = 0 if facts.problem.grid.start < held.first_ends else 1
    low, high = arrays.low.copy(), arrays.high.copy()
    left = facts.table.left.copy()
    for family in KEPT:
        columns = arrays.families[family]
        for number in np.flatnonzero(columns.keys[-1] == 0).tolist():
            key = _name(facts, family, columns, number)
            values = held.step.get(key)
            if values is None or (family == "charge" and held.step.get(("discharge", *key[1:]), (0.0, 0.0))[at] > 0):
                continue
            place, value = columns.start + number, values[at]
            if family in ("x", "late"):
                job = int(columns.keys[0][number])
                value = min(value, left[job] / float(facts.hours[0]))
                left[job] -= value * float(facts.hours[0])
            low[place] = high[place] = min(max(value, arrays.low[place]), arrays.high[place])
    take, answers = arrays.families["take"], dict(held.takes)
    for place, number in enumerate(take.keys[0].tolist(), start=take.start):
        name = facts.problem.events[number].id
        if name in answers:
            low[place] = high[place] = float(answers[name])
    offers = arrays.families["offer"]
    now = np.array([facts.problem.grid.starts[t] < held.until for t in offers.keys[1]], dtype=np.bool_)
    part = offers.start + np.flatnonzero(now)
    most = np.array(held.offer_kw)
    high[part] = np.minimum(high[part], most[offers.keys[0][now]]) if len(part) else high[part]
    return replace(arrays, low=low, high=high)


def gave(arrays: Arrays, answer: Answer) -> float:
    """How much gives way in an answer, over all families that may."""
    return float(sum(arrays.of(family, answer.point).sum() for family in GAVE))
