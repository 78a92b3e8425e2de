"""Plans one interval after the other: what was learned from the last solve makes the next one fast.

Why an object: a plan from nothing goes through Pyomo and starts the simplex at zero; five minutes later nearly all of
it is still true. The session keeps the solver with its model, writes new vectors where the structure is the same, and
carries the basis over where it has moved. Now and then it solves from nothing again and compares: a warm start must
never be believed for ever.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field, replace

import numpy as np

from optimizer.answers import EventPlan
from optimizer.assemble import assemble
from optimizer.basis import Remembered, carried
from optimizer.classes import LEVELS, MOST_SINGLE, Classes, classes_of
from optimizer.domain import Plan, Problem, Rung
from optimizer.facts import Facts, facts_of
from optimizer.fan import NO_SIZES, Fan, Sizes
from optimizer.faults import SolveError, SolveFault
from optimizer.highs import Answer, Highs
from optimizer.homes import at_home, confined_to
from optimizer.lateness import late_jobs, mates, missed_in, still_late
from optimizer.model.arrays import Arrays, same_matrix, write_arrays
from optimizer.model.build import JOB_FAMILIES, declare
from optimizer.model.parts import Flags, Ints
from optimizer.model.pyomo_model import compile_model
from optimizer.oneway import goes_both_ways, one_way
from optimizer.onward import going_on
from optimizer.probe import NO_PROBES, Budget
from optimizer.purse import Purse
from optimizer.reading import awake_in_time, draft_of, homes_of, pair_rates
from optimizer.reasons import Note, Reason, Severity
from optimizer.sifting import MOST_SHARE, Sifted, worth_sifting
from optimizer.speeds import LOOK_SHARE, MOST_LOOKS, Speeds, beside_late
from optimizer.steady import tried, worth_steadying
from optimizer.tankhours import in_hours
from optimizer.tanks import Grouped, tanks_of
from optimizer.validate import validate
from optimizer.verify import Verify
from optimizer.voluntary import answers_of
from optimizer.weigher import Weigher, gave, kept
from optimizer.whole import Whole, incumbent_note, whole_numbers

FAN_SHARE = 0.4
"""Share of a plan's time that scenarios may take; they are the first to be left out."""

VERIFY_EVERY = 24
"""Every how many plans a warm one is compared with one from nothing."""

IMPROVE_S = 2.0
"""Most seconds that a search may spend on improving whole numbers that were found by rounding."""

HURRY_S, HURRY_SHARE = 2.0, 0.3
"""Of a plan's time so many seconds, and no larger share, are kept for a coarse one, if the optimum takes too long."""

HURRY_PER_JOB_S = 6e-5
"""And so much for each job: to put them together, hand them their work and write the plan takes time of its own."""

TANKS_SHARE = 0.25
"""Share of those seconds that is kept for tanks of work, if the coarse plan takes too long too."""

MOST_COARSE = 2500
"""More coarse classes than that take longer than there is left."""


@dataclass
class Session:
    """Plans; keeps what makes the next plan fast. Not for several threads."""

    verify_every: int = VERIFY_EVERY
    improve_s: float = IMPROVE_S
    most_single: int = MOST_SINGLE
    """Above so many jobs, those that are nearly alike are planned as one."""
    apart: bool = False
    """Whether warm plans are compared with solves from nothing between plans, when `spare` is called."""
    budget: Budget = NO_PROBES
    """For looking at which price waiting jobs would start."""
    _facts: Facts | None = None
    _compiled: bool = False
    _solver: Highs | None = None
    _sifted: Sifted | None = None
    _last: Remembered | None = None
    _classes: Grouped = field(init=False)
    _verify: Verify = field(init=False)
    _late: frozenset[str] = frozenset()
    _gap: float = 0.0
    _mixed: bool = False
    _fan: Fan = field(default_factory=Fan)
    _sizes: Sizes = NO_SIZES
    _weigher: Weigher = field(default_factory=Weigher)
    _speeds: Speeds = field(default_factory=Speeds)
    _purse: Purse = field(default_factory=Purse)

    def __post_init__(self) -> None:
        self._verify = Verify(self.verify_every, self.apart)

    def plan(self, problem: Problem, time_limit_s: float = 10.0) -> Plan:
        """The best plan for a valid problem; where time is too short for it, the best of far fewer classes of jobs.

        Raises ProblemError for a broken problem, SolveError when HiGHS gives no usable point in `time_limit_s`.
        """
        validate(problem)
        whole = self._facts = facts_of(problem, self._facts)
        self._sizes = self._fan.sizes(problem, FAN_SHARE * time_limit_s)
        self._weigher.look(problem, self._late, FAN_SHARE * (time_limit_s - self._sizes.seconds))
        time_limit_s -= self._sizes.seconds + self._weigher.seconds
        hurry_s = min(HURRY_S, HURRY_SHARE * time_limit_s)
        apart_s = hurry_s + HURRY_PER_JOB_S * len(whole.table)
        try:
            return self._planned(classes_of(whole, self.most_single), max(hurry_s, time_limit_s - apart_s))
        except SolveError as error:
            if error.kind is not SolveFault.TIMEOUT:
                raise
            return self._hurried(whole, error, hurry_s)

    def _hurried(self, whole: Facts, late: SolveError, time_limit_s: float) -> Plan:
        """The plan of coarse classes, from nothing; where these are too many, or take too long, that of tanks. After
        coarse classes the next plan starts where they ended."""
        coarse = classes_of(whole, 0, LEVELS[-1:])
        if coarse.near and len(coarse.facts.table) <= MOST_COARSE:
            tanks_s, time_limit_s = TANKS_SHARE * time_limit_s, (1.0 - TANKS_SHARE) * time_limit_s
            try:
                return self._hastily(coarse, Rung.COARSE, late, time_limit_s)
            except SolveError as error:
                late = error if error.kind is SolveFault.TIMEOUT else late
            time_limit_s = tanks_s
        tanks = tanks_of(whole)
        if len(tanks.facts.table) == len(whole.table):
            raise late
        return self._hastily(in_hours(tanks), Rung.EMERGENCY, late, time_limit_s)

    def _hastily(self, rows: Grouped, rung: Rung, late: SolveError, time_limit_s: float) -> Plan:
        """A plan of far fewer rows than there are jobs, by a session of its own."""
        if self._weigher.held is not None:
            self._weigher.release("time is short")
        weigher = Weigher(notes=self._weigher.notes, seconds=self._weigher.seconds)
        other = Session(improve_s=0.0, _compiled=True, _sizes=self._sizes, _weigher=weigher)
        plan = other._planned(rows, time_limit_s)
        if isinstance(rows, Classes):
            self._last, self._late, self._solver = other._last, other._late, None
        said = "made of far fewer classes of jobs" if rung is Rung.COARSE else "made of tanks of work"
        note = Note(Reason.SOLVER_TIMEOUT, "plan", f"{late}: {said}", Severity.WARNING)
        return replace(plan, rung=rung, notes=(note, *plan.notes))

    def _planned(self, classes: Grouped, time_limit_s: float) -> Plan:
        """The best plan with jobs in these classes."""
        self._classes, whole, facts = classes, classes.whole, classes.facts
        self._gap, self._purse = 0.0, Purse(time_limit_s)
        facts, arrays, answer = self._optimum(facts, time_limit_s)
        if facts.pools is not whole.pools and isinstance(classes, Classes):  # tanks find speeds when they are split
            whole = replace(whole, pools=facts.pools)
        arrays, answer = self._keeping(facts, arrays, answer, time_limit_s)
        answer, homes = self._settled(facts, arrays, answer, time_limit_s)
        answer = self._one_way(facts, arrays, answer, homes, time_limit_s)
        rung = Rung.OPTIMUM if answer.optimal else Rung.INCUMBENT
        said = (*self._sizes.notes, *self._weigher.notes, *self._verify.said(), *classes.said())
        said += () if answer.optimal else (incumbent_note(self._gap),)
        basis = (self._last.columns, self._last.rows) if self._last is not None and not self._mixed else None
        events = self._answers(facts, arrays, answer, homes, time_limit_s)
        draft = draft_of(facts, arrays, answer, homes, basis, self.budget, events)
        draft = classes.split(draft)
        draft = going_on(whole, draft) if isinstance(classes, Classes) else draft
        return assemble(whole, draft, rung, said, answer.seconds + self._sizes.seconds + self._weigher.seconds)

    # ------------------------------------------------------------ the optimum
    def _optimum(self, paced: Facts, time_limit_s: float) -> tuple[Facts, Arrays, Answer]:
        """The facts with the speeds that pay, arrays and their optimum. Columns for late work exist only for jobs that
        need them: a job that misses its deadline in a solve without them gets them, with all jobs of its pools, and the
        solve goes on. (Alone it would meet the deadline in another's place, which then missed its own: one solve after
        the other.)"""
        table, facts = paced.table, self._speeds.begin(paced)
        late = ~table.reachable | table.late_anyway
        if self._late:
            late |= np.array([job.id in self._late for job in table.jobs], dtype=np.bool_)
        seconds = 0.0
        while True:
            facts = beside_late(paced, facts, late)
            arrays = self._arrays(facts, late)
            answer = self._solve(facts, arrays, time_limit_s - seconds)
            seconds += answer.seconds
            facts, arrays, answer, spent = self._sped(facts, arrays, answer, late, time_limit_s - seconds)
            seconds += spent
            missed, self._mixed = missed_in(arrays, answer), bool(arrays.integer.any())
            if not len(missed) and self._mixed:
                arrays, answer = self._whole(facts, arrays, answer)
                seconds += answer.seconds
                missed = missed_in(arrays, answer)
            if not len(missed):
                break
            late[mates(table, missed)] = True
        self._speeds.keep(facts)
        self._late = self._classes.members(still_late(table, late, late_jobs(arrays, answer)))
        cold = self._verify.contradicted(arrays, answer, time_limit_s - seconds)
        if cold is not None:  # it counts
            self._forget()
            answer = replace(cold, optimal=answer.optimal)
        return facts, arrays, replace(answer, seconds=seconds)

    def _sped(
        self, facts: Facts, arrays: Arrays, answer: Answer, late: Flags, time_limit_s: float
    ) -> tuple[Facts, Arrays, Answer, float]:
        """The answer at speeds that pay more, where there are any, and the seconds that were spent on it."""
        seconds = 0.0
        for _ in range(MOST_LOOKS):
            left_s = time_limit_s - seconds
            other = self._speeds.look(facts, arrays, answer, left_s)
            if other is None:
                break
            before, tried = self._last, self._arrays(other, late)
            try:
                found = self._solve(other, tried, max(0.1, LOOK_SHARE * left_s))
            except SolveError:  # what was found before is a plan all the same
                found = replace(answer, seconds=LOOK_SHARE * max(0.0, left_s))
            seconds += found.seconds
            if not self._speeds.better(found, answer):
                self._solver, self._sifted, self._last = None, None, before
                break
            facts, arrays, answer = other, tried, found
        return facts, arrays, answer, seconds

    def _keeping(self, facts: Facts, arrays: Arrays, answer: Answer, time_limit_s: float) -> tuple[Arrays, Answer]:
        """The arrays and the answer that keep to what was decided when risk was weighed, as long as nothing has to give
        for it."""
        held = self._weigher.held
        if held is None:
            return arrays, answer
        fixed = kept(facts, arrays, held)
        try:
            other = self._solve(facts, fixed, max(0.1, time_limit_s - answer.seconds))
        except SolveError as error:
            self._weigher.release(str(error))
            return arrays, answer
        if gave(fixed, other) > gave(arrays, answer) + 1e-6:
            self._weigher.release("something would have to give for it")
            return arrays, answer
        return fixed, replace(other, optimal=answer.optimal, seconds=answer.seconds + other.seconds)

    def _whole(self, facts: Facts, arrays: Arrays, relaxed: Answer) -> tuple[Arrays, Answer]:
        """The arrays with every whole column fixed, and their optimum. The linear program stays the same warm one."""

        before_s = self._purse.spent_s

        def run(made: Arrays, seconds: float) -> Answer:
            return self._solve(facts, made, seconds, remember=False)

        if len(arrays.families["on_now"]):  # a gang is whole in one pool: first where, then whether
            homes = homes_of(facts, pair_rates(facts, arrays, relaxed.point) @ facts.hours)
            arrays = replace(arrays, high=at_home(facts, arrays, homes))
            relaxed = run(arrays, self._purse.left_s)
        if len(arrays.families["parked_now"]):
            arrays = replace(arrays, high=awake_in_time(facts, arrays, relaxed))
            relaxed = run(arrays, self._purse.left_s)
        found: Whole = whole_numbers(arrays, relaxed, run, self._purse.left_s, self.improve_s)
        self._purse.spent_s += found.search_s
        self._gap = found.gap
        answer = replace(found.answer, optimal=found.proven, seconds=self._purse.spent_s - before_s)
        return replace(found.arrays, integer=np.zeros_like(arrays.integer)), answer

    def _arrays(self, facts: Facts, late: np.ndarray[tuple[int], np.dtype[np.bool_]]) -> Arrays:
        """The first time by way of Pyomo, then written."""
        model = declare(facts.problem, facts, late)
        by_pyomo, self._compiled = not self._compiled, True
        before = self._last.arrays if self._last is not None else None
        return self._sizes.on(compile_model(model, JOB_FAMILIES) if by_pyomo else write_arrays(model, before))

    def _solve(self, facts: Facts, arrays: Arrays, time_limit_s: float, remember: bool = True) -> Answer:
        """Solve as a linear program, warm where something is remembered; `remember` it too. Of the plan's purse."""
        return self._purse.paid(time_limit_s, lambda limit_s: self._solved(facts, arrays, limit_s, remember))

    def _solved(self, facts: Facts, arrays: Arrays, time_limit_s: float, remember: bool) -> Answer:
        last, spent = self._last, 0.0
        if remember and last is not None:
            for way in (self._steadily, self._sift):
                found, seconds = way(facts, last, arrays, time_limit_s - spent)
                spent += seconds
                if found is not None:
                    return replace(found, seconds=spent)
        if self._solver is not None and same_matrix(self._solver.arrays, arrays):
            self._solver.write(arrays)
        else:
            self._solver = Highs(arrays, integers=False)
            if self._last is not None:
                self._solver.start_from(*carried(self._last, self._classes, arrays))
        try:
            answer = self._solver.run(time_limit_s - spent)
        except SolveError as error:
            if error.kind is not SolveFault.INFEASIBLE:
                self._solver = None
            raise
        if remember:
            self._last = Remembered(arrays, self._classes, *self._solver.basis(answer.point))
        np.clip(answer.point, arrays.low, arrays.high, out=answer.point)
        return replace(answer, seconds=answer.seconds + spent)

    def _steadily(self, facts: Facts, last: Remembered, arrays: Arrays, limit_s: float) -> tuple[Answer | None, float]:
        """Solve from the last basis by costs that favour what is as it was, and the seconds (None: not so)."""
        if not worth_steadying(arrays):
            return None, 0.0
        held, self._solver = self._solver, None
        alike = same_matrix(last.arrays, arrays)
        codes = (last.columns, last.rows) if alike else carried(last, self._classes, arrays)
        found = tried(arrays, facts.hours, codes, held if alike else None, limit_s)
        self._solver, answer = found.solver, found.answer
        if answer is not None:
            self._last = Remembered(arrays, self._classes, *found.solver.basis(answer.point))
            np.clip(answer.point, arrays.low, arrays.high, out=answer.point)
        return answer, found.seconds

    def _sift(self, facts: Facts, last: Remembered, arrays: Arrays, time_limit_s: float) -> tuple[Answer | None, float]:
        """Solve the last program with other numbers, by a part of its columns at a time, and the seconds (None: it
        can't be had so)."""
        if not worth_sifting(last.arrays, arrays):
            return None, 0.0
        sifted, self._solver, self._sifted = self._sifted, None, None
        if sifted is None or sifted.arrays is not last.arrays or sifted.share > MOST_SHARE:
            sifted = Sifted(last, facts.hours)
        try:
            answer = sifted.run(arrays, time_limit_s)
        except SolveError as error:
            if error.kind is SolveFault.TIMEOUT:
                raise
            return None, sifted.seconds
        self._sifted, basis = sifted, sifted.basis(answer)
        self._last = Remembered(arrays, self._classes, *basis)
        np.clip(answer.point, arrays.low, arrays.high, out=answer.point)
        return answer, answer.seconds

    def spare(self, wanted: Callable[[], bool]) -> None:
        """Use the time between two plans for the comparison with a solve from nothing, until `wanted` says that the
        next one is asked for."""
        if self._verify.spare(wanted):
            self._forget()

    def _forget(self) -> None:
        """Forget all that is warm: it led to a wrong answer."""
        self._solver = self._sifted = self._last = None

    # ------------------------------------------------------------ one pool for each job
    def _settled(self, facts: Facts, arrays: Arrays, answer: Answer, time_limit_s: float) -> tuple[Answer, Ints]:
        """Give every job one pool. Jobs that the optimum splits go where most of their work is; those that then lose
        work may choose once more while all others stay."""
        done = pair_rates(facts, arrays, answer.point) @ facts.hours
        homes = homes_of(facts, done)
        table = facts.table
        split = (np.bincount(table.pair_job, done > 1e-6, minlength=len(facts.jobs)) > 1) & table.preemptible
        if not split.any():
            return answer, homes
        first = self._closed(facts, arrays, answer, np.where(split, homes, -1), time_limit_s)
        homes = homes_of(facts, pair_rates(facts, arrays, first.point) @ facts.hours)
        first = self._closed(facts, arrays, first, homes, time_limit_s)  # others may have moved or split
        total = np.bincount(table.pair_job, done, minlength=len(facts.jobs))
        then = pair_rates(facts, arrays, first.point) @ facts.hours
        losers = split & (np.bincount(table.pair_job, then, minlength=len(facts.jobs)) < total - 1e-6)
        if not losers.any():
            return first, homes
        freed = self._closed(facts, arrays, first, np.where(losers, -1, homes), time_limit_s)
        again = homes_of(facts, pair_rates(facts, arrays, freed.point) @ facts.hours)
        second = self._closed(facts, arrays, first, again, time_limit_s)
        return (second, again) if second.objective < first.objective else (first, homes)

    def _one_way(self, facts: Facts, arrays: Arrays, answer: Answer, homes: Ints, time_limit_s: float) -> Answer:
        """The answer with no battery that charges and discharges at once, jobs in their homes."""
        if not goes_both_ways(arrays, answer):
            return answer
        ends_s, spent = max(0.5, time_limit_s - answer.seconds), answer.seconds

        def solve(tried: Arrays) -> Answer:
            nonlocal spent
            found = self._solve(facts, tried, max(0.1, ends_s - (spent - answer.seconds)))
            spent += found.seconds
            return found

        search_s = min(self.improve_s, self._purse.left_s)
        found = one_way(confined_to(facts, arrays, homes), answer, solve, search_s)
        self._purse.spent_s += max(0.0, found.answer.seconds - spent)  # the search
        self._gap = max(self._gap, found.gap)
        return replace(found.answer, optimal=found.answer.optimal and answer.optimal)

    def _answers(
        self, facts: Facts, arrays: Arrays, answer: Answer, homes: Ints, time_limit_s: float
    ) -> dict[str, EventPlan]:
        """What the plan answers to voluntary events, and what each answer is worth."""
        if not len(arrays.families["take"]):
            return {}
        ends_s = max(0.5, time_limit_s - answer.seconds)
        confined = confined_to(facts, arrays, homes)
        return answers_of(facts, confined, answer, lambda tried: self._solve(facts, tried, ends_s, remember=False))

    def _closed(self, facts: Facts, arrays: Arrays, before: Answer, homes: Ints, time_limit_s: float) -> Answer:
        """Solve again with jobs confined to one pair (-1: free); the time spent adds up."""
        answer = self._solve(facts, confined_to(facts, arrays, homes), max(0.1, time_limit_s - before.seconds))
        return replace(answer, seconds=answer.seconds + before.seconds, optimal=answer.optimal and before.optimal)
