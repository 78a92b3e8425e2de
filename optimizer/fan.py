"""A fan of linear programs, one a scenario: how high a peak will be, how much reserve can be kept, and what taking part
in a voluntary event will cost.

Why a fan: each scenario alone is as fast as a plan, because only vectors change and the last basis goes on; all of them
in one model take many times as long. Why it sizes numbers and decides no step: each of its programs believes that its
scenario will come, so that averaging what they do first takes errors that stay for chances (docs/decisions/0008).
"""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from datetime import datetime

import numpy as np

from optimizer.classes import Classes, classes_of
from optimizer.coarse import ROUGH, shortened
from optimizer.domain import Problem
from optimizer.envelope import event_breakpoints
from optimizer.facts import Facts, Floats, facts_of
from optimizer.faults import SolveError, SolveFault
from optimizer.highs import Answer
from optimizer.model.arrays import Arrays, write_arrays
from optimizer.model.build import declare
from optimizer.model.parts import Ints
from optimizer.reasons import Note, Reason, Severity
from optimizer.scenarios import in_scenario
from optimizer.uncertain import SAME, Weighing, next_whole
from optimizer.voluntary import turned
from optimizer.warm import Warm

WORTH_SAYING_KW, WORTH_SAYING = 0.5, 0.005
"""From how many kW, and how much money, on a size is spoken of."""


@dataclass(frozen=True, eq=False)
class Sizes:
    """What the fan sizes: the most reserve to offer [offer, interval] in kW; by how much the peak of each demand charge
    is to differ from what the forecast alone makes of it [charge] in kW; how much more taking part costs in the mean
    of the scenarios than by the forecast alone [voluntary event that waits for an answer] in money, infinite where it
    can't be kept in too many of them; what is to be said; the solver's seconds."""

    offer_kw: Floats | None = None
    peak_shift_kw: Floats | None = None
    take_shift: Floats | None = None
    notes: tuple[Note, ...] = ()
    seconds: float = 0.0

    def on(self, arrays: Arrays) -> Arrays:
        """The plan's arrays with these sizes: offers bounded, and `peak - import >= shift` in every interval after the
        present one, so that the peak that the plan counts on is the target and the present interval is held to it.
        Vectors change and nothing else."""
        if self.offer_kw is not None:
            offers = arrays.families["offer"]
            high = arrays.high.copy()
            part = slice(offers.start, offers.start + len(offers))
            high[part] = np.minimum(high[part], self.offer_kw[offers.keys])
            arrays = replace(arrays, high=high)
        if self.peak_shift_kw is not None:
            rows = arrays.row_families["peaks"]
            low = arrays.row_low.copy()
            later = rows.keys[1] > 0
            low[rows.start + np.flatnonzero(later)] = self.peak_shift_kw[rows.keys[0][later]]
            arrays = replace(arrays, row_low=low)
        if self.take_shift is not None:
            take, kept = arrays.families["take"], np.isfinite(self.take_shift)
            part = slice(take.start, take.start + len(take))
            cost, high = arrays.cost.copy(), arrays.high.copy()
            cost[part] += np.where(kept, self.take_shift, 0.0)
            high[part] = np.where(kept, high[part], 0.0)
            arrays = replace(arrays, cost=cost, high=high)
        return arrays


NO_SIZES = Sizes()

UNWEIGHED = Note(
    Reason.SCENARIOS_DROPPED,
    "plan",
    "no time to weigh voluntary events over the scenarios: they are answered by the forecast alone",
    Severity.WARNING,
)


@dataclass(frozen=True, eq=False)
class Sized:
    """One scenario's optimum: peaks [charge] and offers [offer, interval], and what was solved, where
    voluntary events wait for an answer."""

    peaks: Floats
    offers: Floats
    asked: tuple[Classes, Arrays] | None


@dataclass(frozen=True)
class Kept:
    """Sizes of peaks that hold until a moment, and what they were found for: events, charges, limits [site]."""

    until: datetime
    names: tuple[object, ...]
    limits_kw: Floats
    sizes: Sizes

    def fits(self, problem: Problem) -> bool:
        """Whether they still hold."""
        return (
            problem.grid.start < self.until
            and _names(problem) == self.names
            and np.allclose(_limits_kw(problem), self.limits_kw, rtol=SAME)
        )


@dataclass
class Fan:
    """Sizes by scenarios; keeps its solver and its basis from plan to plan."""

    _warm: Warm = field(default_factory=Warm)
    _late: frozenset[str] = frozenset()
    _kept: Kept | None = None
    _facts: Facts | None = None

    def sizes(self, problem: Problem, budget_s: float) -> Sizes:
        """What the problem's scenarios size, within `budget_s` seconds of the solver; nothing, with a note, where that
        is not enough. Empty where there is nothing to size."""
        sites = any(site.reserves or site.demand_charges for site in problem.sites)
        edges = frozenset(edge for event in problem.events if event.undecided for edge in event_breakpoints(event))
        if not problem.scenarios or not (sites or edges):
            return NO_SIZES
        if self._kept is not None and self._kept.fits(problem):
            return self._kept.sizes
        self._kept = None
        small, block = shortened(problem, ROUGH, edges)
        order = np.argsort([sum(map(sum, one.price_per_mwh)) for one in small.scenarios], kind="stable")
        found, spent = {}, 0.0
        for number in (-1, *order.tolist()):
            asked = replace(small, scenarios=()) if number < 0 else in_scenario(small, small.scenarios[number])
            try:
                if spent >= budget_s:
                    raise SolveError(SolveFault.TIMEOUT, f"no time within {budget_s:g} s")
                found[number], seconds = self._answer(asked, budget_s - spent)
            except SolveError as error:
                spent = max(spent, budget_s) if error.kind is SolveFault.TIMEOUT else spent + error.seconds
                return Sizes(notes=(_dropped(error, len(found), len(order)),), seconds=spent)
            spent += seconds
        costs, seconds = self._costs(found, budget_s - spent)
        spent += seconds
        sizes = _sized(problem, found, costs, block)
        if sizes.offer_kw is None and problem.weighing.size_every_s > 0:
            until = next_whole(problem.grid.start, problem.weighing.size_every_s)
            self._kept = Kept(until, _names(problem), _limits_kw(problem), sizes)
        return replace(sizes, seconds=spent)

    def _answer(self, problem: Problem, budget_s: float) -> tuple[Sized, float]:
        """One scenario's optimum, and the seconds."""
        self._facts = facts_of(problem, self._facts)
        classes = classes_of(self._facts)
        facts = classes.facts
        arrays = write_arrays(declare(facts.problem, facts, self._late_jobs(facts)), self._warm.arrays)
        answer = self._warm.solve(classes, arrays, budget_s)
        self._remember(facts, arrays, answer)
        offers = arrays.of("offer", answer.point).reshape(-1, facts.count)
        asked = (classes, arrays) if len(arrays.families["take"]) else None
        return Sized(arrays.of("peak", answer.point), offers, asked), answer.seconds

    def _costs(self, found: dict[int, Sized], budget_s: float) -> tuple[Floats | None, float]:
        """What each voluntary event costs by the forecast alone and in every scenario [1 + scenario, event], None
        without time for all; and the seconds."""
        costs, spent = [], 0.0
        for number in range(-1, len(found) - 1):
            asked = found[number].asked
            takes, seconds = self._takes(*asked, budget_s - spent) if asked is not None else (np.zeros(0), 0.0)
            spent += seconds
            if takes is None:
                return None, spent
            costs.append(takes)
        return np.array(costs), spent

    def _takes(self, classes: Classes, arrays: Arrays, budget_s: float) -> tuple[Floats | None, float]:
        """What each voluntary event costs in a scenario: its optimum with yes less its optimum with no, the answers to
        all others free; infinite where it can't be kept; None without time. And the seconds."""
        take, spent = arrays.families["take"], 0.0
        costs = np.full((len(take), 2), np.inf)
        for place, answer in np.ndindex(*costs.shape):
            if spent >= budget_s:
                return None, spent
            try:
                found = self._warm.solve(
                    classes, turned(arrays, take.start + place, float(1 - answer)), budget_s - spent
                )
            except SolveError as error:
                if error.kind is not SolveFault.INFEASIBLE or answer:
                    return None, budget_s
                spent += error.seconds
            else:
                costs[place, answer] = found.objective
                spent += found.seconds
        return costs[:, 0] - costs[:, 1], spent

    def _late_jobs(self, facts: Facts) -> np.ndarray[tuple[int], np.dtype[np.bool_]]:
        """Jobs with columns for late work: those that needed them in the last fan, and those that can't be in time."""
        known = np.array([job.id in self._late for job in facts.table.jobs], dtype=np.bool_)
        late: np.ndarray[tuple[int], np.dtype[np.bool_]] = known | ~facts.table.reachable | facts.table.late_anyway
        return late

    def _remember(self, facts: Facts, arrays: Arrays, answer: Answer) -> None:
        """Keep the names of jobs that missed their deadline without such columns: the next fan gives them some."""
        missed = arrays.families["missed"].keys[0][arrays.of("missed", answer.point) > 1e-7]
        self._late |= {facts.table.jobs[int(n)].id for n in missed}
        self._late &= {job.id for job in facts.table.jobs}


def _names(problem: Problem) -> tuple[object, ...]:
    charges = tuple(charge.id for site in problem.sites for charge in site.demand_charges)
    events = tuple((event.id, event.version, event.undecided) for event in problem.events)
    return tuple(site.id for site in problem.sites), charges, events


def _limits_kw(problem: Problem) -> Floats:
    return np.array([site.limit_kw[0] for site in problem.sites])


def _sized(problem: Problem, found: dict[int, Sized], costs: Floats | None, block: Ints) -> Sizes:
    """Quantiles over the scenarios, and for voluntary events the mean."""
    weight = np.array([scenario.probability for scenario in problem.scenarios])
    peaks = np.array([found[n].peaks for n in range(len(weight))])
    offers = np.array([found[n].offers for n in range(len(weight))])
    asked, (peak, offer) = problem.weighing, (found[-1].peaks, found[-1].offers)
    target = quantile(peaks, weight, asked.peak_share)
    most = quantile(offers, weight, 1.0 - asked.reserve_share)
    takes = take_shift(costs[1:], costs[0], weight, asked) if costs is not None else np.zeros(0)
    notes = (*_peak_notes(problem, peak, target), *_reserve_notes(problem, offer, most), *_take_notes(problem, takes))
    return Sizes(
        most[:, block] if len(offer) else None,
        target - peak if len(peak) else None,
        takes if len(takes) else None,
        (*_said(problem, notes), *(() if costs is not None else (UNWEIGHED,))),
    )


def take_shift(costs: Floats, alone: Floats, weight: Floats, asked: Weighing) -> Floats:
    """How much more taking part costs in the mean of the scenarios than by the forecast alone [event], of `costs`
    [scenario, event]; infinite where it can be kept with less than the probability that reserve must have. Where the
    forecast alone can't keep it the plan finds that itself."""
    kept = np.isfinite(costs)
    sure = weight @ kept
    mean = weight @ np.where(kept, costs, 0.0) / np.maximum(sure, 1e-9)
    shift = np.where(np.isfinite(alone), mean - np.where(np.isfinite(alone), alone, 0.0), 0.0)
    found: Floats = np.where(sure >= asked.reserve_share - 1e-9, shift, np.inf)
    return found


def quantile(values: Floats, weight: Floats, share: float) -> Floats:
    """The lowest value [...] that is not exceeded with probability `share`; `values` [scenario, ...]."""
    order = np.argsort(values, axis=0, kind="stable")
    ranked = np.take_along_axis(values, order, axis=0)
    reached = np.cumsum(weight[order], axis=0) >= share - 1e-9
    at = reached.argmax(axis=0)
    result: Floats = np.take_along_axis(ranked, at[None], axis=0)[0]
    return result


# ---------------------------------------------------------------- what is said
def _dropped(error: SolveError, done: int, count: int) -> Note:
    text = f"scenarios were left out after {max(0, done - 1)} of {count}: {error}; peak and reserve go by the forecast"
    return Note(Reason.SCENARIOS_DROPPED, "plan", text, Severity.WARNING)


def _peak_notes(problem: Problem, peak: Floats, target: Floats) -> list[str]:
    charges = [charge for site in problem.sites for charge in site.demand_charges]
    return [
        f"peak of {charge.id} is aimed at {then:.0f} kW ({now:.0f} kW by the forecast alone)"
        for charge, now, then in zip(charges, peak.tolist(), target.tolist(), strict=True)
        if abs(then - now) > WORTH_SAYING_KW
    ]


def _reserve_notes(problem: Problem, offer: Floats, most: Floats) -> list[str]:
    offers = [offer for site in problem.sites for offer in site.reserves]
    return [
        f"reserve of {one.id} is held to {then:.0f} kW now ({now:.0f} kW by the forecast alone)"
        for one, now, then in zip(offers, offer[:, 0].tolist(), most[:, 0].tolist(), strict=True)
        if now - then > WORTH_SAYING_KW
    ]


def _take_notes(problem: Problem, shift: Floats) -> list[str]:
    events = [event for event in problem.events if event.undecided] if len(shift) else []
    return [
        f"{event.id} can't be kept in enough of them"
        if np.isinf(more)
        else f"taking part in {event.id} costs {abs(more):,.2f} {problem.currency} "
        f"{'more' if more > 0 else 'less'} in the mean than by the forecast alone"
        for event, more in zip(events, shift.tolist(), strict=True)
        if abs(more) > WORTH_SAYING
    ]


def _said(problem: Problem, sized: tuple[str, ...]) -> tuple[Note, ...]:
    if not sized:
        return ()
    text = f"{len(problem.scenarios)} scenarios: " + "; ".join(sized)
    return (Note(Reason.SCENARIOS, "plan", text, Severity.INFO),)
