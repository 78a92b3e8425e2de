"""Runs the solver where it can do no harm: in a child process that is kept warm, and killed when it overruns.

Why a process: building a model holds the interpreter's lock, and HiGHS can ignore its time limit or eat memory; neither
may delay a control tick. The child talks over one pipe only, ignores the terminal's signals, dies with its parent, and
is replaced when it crashes, hangs or answers nonsense. Above it stands the ladder, so that there is always a plan.
"""

from __future__ import annotations

import gc
import os
import pickle
import resource
import signal
import sys
import threading
import time
from collections.abc import Callable
from dataclasses import replace
from multiprocessing import get_context, parent_process
from multiprocessing.connection import Connection, wait
from multiprocessing.context import SpawnProcess
from typing import TYPE_CHECKING, Any

from optimizer.domain import Plan, Problem
from optimizer.faults import SolveError, SolveFault
from optimizer.ladder import answer

if TYPE_CHECKING:
    from optimizer.session import Session

READY = "ready"
START_S = 60.0
"""How long a fresh child may take to import the solver before it is replaced. The first plan of all waits so long; any
other one no longer than its deadline."""

PROBES = 8
"""How often a plan of the daemon asks at which price waiting jobs would start; one takes a few simplex iterations."""

Target = Callable[[Problem, float], Plan]


class Warm:
    """What a planner runs: a session that is made on its first use, in the process that uses it. `probes`: how often a
    plan may ask at which price waiting jobs would start; `apart`: warm plans are compared with solves from nothing
    between plans, by `spare`."""

    def __init__(self, probes: int = 0, apart: bool = False) -> None:
        self._probes, self._apart = probes, apart
        self._session: Session | None = None

    def __call__(self, problem: Problem, time_limit_s: float) -> Plan:
        """One plan."""
        if self._session is None:
            from optimizer.probe import Budget
            from optimizer.session import Session  # takes seconds to import: the child does it while the daemon goes on

            self._session = Session(budget=Budget(self._probes), apart=self._apart)
        return self._session.plan(problem, time_limit_s)

    def spare(self, wanted: Callable[[], bool]) -> None:
        """Use the time between two plans, until `wanted` says that the next one is asked for."""
        if self._session is not None:
            self._session.spare(wanted)


class InlinePlanner:
    """The same ladder without a process, for backtests and `gridpace plan`."""

    def __init__(self, time_limit_s: float = 30.0, target: Target | None = None) -> None:
        self._time_limit_s = time_limit_s
        self._target = target or Warm()

    def plan(self, problem: Problem, last_plan: Plan | None = None) -> Plan:
        """The plan for `problem`, by the ladder."""
        return answer(problem, last_plan, lambda asked: _without_collector(self._target, asked, self._time_limit_s))

    def close(self) -> None:
        """Nothing is kept running."""


class ChildPlanner:
    """Plans in a warm child with a hard deadline. Thread-safe: one plan at a time."""

    def __init__(
        self,
        time_limit_s: float = 5.0,
        hard_deadline_s: float = 10.0,
        memory_mb: int | None = 2048,
        target: Target | None = None,
    ) -> None:
        """`time_limit_s` is told to the solver; after `hard_deadline_s` the child is killed. `memory_mb` caps its
        address space above what its imports take (None: no cap). `target` is what it runs, importable by name (None:
        a session of its own)."""
        self._time_limit_s = time_limit_s
        self._hard_deadline_s = max(hard_deadline_s, time_limit_s)
        self._memory_mb = memory_mb
        self._target = target or Warm(PROBES, apart=True)
        self._lock = threading.Lock()
        self._child: SpawnProcess | None = None
        self._pipe: Connection | None = None
        self._warm = False
        self._started_at = 0.0
        self._closed = False
        self.restarts = -1
        with self._lock:
            self._start()

    def plan(self, problem: Problem, last_plan: Plan | None = None) -> Plan:
        """The plan for `problem`, by the ladder; soon after the hard deadline whatever the child does. The first plan
        of all also waits for the child's imports."""
        started = time.monotonic()
        plan = answer(problem, last_plan, self._ask)
        return replace(plan, solve_s=time.monotonic() - started)

    def close(self) -> None:
        """Stop the child: an idle one ends by itself, a solve in progress is killed and ends as a failed one."""
        self._closed = True
        idle = self._lock.acquire(blocking=False)
        if not idle:
            if self._child is not None:
                self._child.kill()
            self._lock.acquire()
        try:
            self._stop(grace_s=1.0 if idle else 0.0)
        finally:
            self._lock.release()

    # ------------------------------------------------------------ the child
    def _start(self) -> None:
        """Start a fresh child; it warms up while the daemon goes on."""
        context = get_context("spawn")
        self._pipe, theirs = context.Pipe()
        child = context.Process(
            target=_serve,
            args=(theirs, self._target, self._time_limit_s, self._memory_mb),
            name="gridpace-planner",
            daemon=True,
        )
        child.start()
        theirs.close()
        self._child, self._warm = child, False
        self._started_at = time.monotonic()
        self.restarts += 1

    def _stop(self, grace_s: float = 0.0) -> None:
        """Hang up, wait for an idle child to end by itself, then kill: a solver in native code hears nothing else."""
        if self._pipe is not None:
            self._pipe.close()
        if self._child is not None:
            self._child.join(grace_s)
            self._child.kill()
            self._child.join(5.0)
        self._child = self._pipe = None

    def _ask(self, problem: Problem) -> Plan:
        """One solve in the child. Raises SolveError when it fails, overruns or answers nonsense, and replaces it."""
        with self._lock:
            if self._closed:
                raise SolveError(SolveFault.FAILED, "the planner is closed")
            if self._child is None or not self._child.is_alive():
                self._stop()
                self._start()
            try:
                return self._exchange(problem)
            except _ChildLost as lost:
                self._stop()
                if not self._closed:
                    self._start()
                raise SolveError(lost.kind, str(lost)) from lost

    def _exchange(self, problem: Problem) -> Plan:
        """Send the problem, wait for the plan. A child that is stopped or busy reads nothing, or half: a pipe that is
        full blocks its writer for good, so it is the end of the child that ends an exchange."""
        assert self._pipe is not None
        assert self._child is not None
        left_s = self._hard_deadline_s - (0.0 if self._warm else self._expect_ready())
        if left_s < self._time_limit_s < self._hard_deadline_s:
            raise SolveError(SolveFault.TIMEOUT, "a new solver process was ready too late for this plan")
        watch = _Watch(self._child, left_s)
        try:
            with watch:
                self._pipe.send(problem)
                made = self._pipe.recv()
        except (EOFError, OSError) as error:
            if watch.fired:
                late = f"the solver was killed after {self._hard_deadline_s:g} s"
                raise _ChildLost(SolveFault.TIMEOUT, late) from error
            raise _ChildLost(SolveFault.FAILED, "the solver process died while it planned") from error
        except (pickle.UnpicklingError, AttributeError, ImportError, IndexError, ValueError, TypeError) as error:
            raise _ChildLost(SolveFault.FAILED, f"the solver process answered nonsense: {error!r}") from error
        if isinstance(made, SolveError):
            raise made
        if not isinstance(made, Plan):
            raise _ChildLost(SolveFault.FAILED, f"the solver process answered {made!r:.200}")
        return made

    def _expect_ready(self) -> float:
        """Wait for the child's imports; the seconds of the plan's deadline that this took. A child that needs longer
        goes on starting: the next plan finds it ready."""
        assert self._pipe is not None
        first, began = self.restarts == 0, time.monotonic()
        try:
            if not self._pipe.poll(START_S if first else self._hard_deadline_s):
                if time.monotonic() - self._started_at >= START_S:
                    text = f"the solver process did not start within {START_S:g} s"
                    raise _ChildLost(SolveFault.TIMEOUT, text)
                text = f"a new solver process was not ready within {self._hard_deadline_s:g} s"
                raise SolveError(SolveFault.TIMEOUT, text)
            if self._pipe.recv() != READY:
                raise _ChildLost(SolveFault.FAILED, "the solver process started with nonsense")
        except (EOFError, OSError) as error:
            raise _ChildLost(SolveFault.FAILED, "the solver process died while it started") from error
        self._warm = True
        return 0.0 if first else time.monotonic() - began


class _Watch:
    """Kills a process when the block takes too long, which breaks the pipe to it: `fired` tells so."""

    def __init__(self, child: SpawnProcess, seconds: float) -> None:
        self._child = child
        self._timer = threading.Timer(max(0.0, seconds), self._fire)
        self._timer.daemon = True
        self.fired = False

    def _fire(self) -> None:
        self.fired = True
        self._child.kill()

    def __enter__(self) -> None:
        self._timer.start()

    def __exit__(self, *_: object) -> None:
        self._timer.cancel()


class _ChildLost(Exception):
    """The child must be replaced."""

    def __init__(self, kind: SolveFault, text: str) -> None:
        super().__init__(text)
        self.kind = kind


# ---------------------------------------------------------------- in the child
def _serve(pipe: Connection, target: Target, time_limit_s: float, memory_mb: int | None) -> None:
    """The child's life: warm up, then answer problems until the pipe closes."""
    _detach()
    import optimizer.session  # noqa: F401 - the slow imports, done before the first problem comes

    _cap_memory(memory_mb)
    gc.collect()
    gc.freeze()
    try:
        pipe.send(READY)
        while True:
            pipe.send(_attempt(target, pipe.recv(), time_limit_s))
            if isinstance(target, Warm):
                target.spare(pipe.poll)
    except (EOFError, BrokenPipeError, ConnectionResetError):
        return


def _attempt(target: Target, problem: Problem, time_limit_s: float) -> Any:
    """A plan, or the SolveError that says why there is none."""
    try:
        return _without_collector(target, problem, time_limit_s)
    except SolveError as error:
        return error
    except MemoryError:
        return SolveError(SolveFault.FAILED, "the solver ran out of the memory that it is allowed")
    except Exception as error:  # noqa: BLE001 - it is carried to the parent, which says it and goes on without
        return SolveError(SolveFault.FAILED, f"{type(error).__name__}: {error}")


def _without_collector(target: Target, problem: Problem, time_limit_s: float) -> Plan:
    """Run a solve without the cyclic collector, which would walk the growing model again and again."""
    was_on = gc.isenabled()
    gc.disable()
    try:
        return target(problem, time_limit_s)
    finally:
        if was_on:
            gc.enable()


def _detach() -> None:
    """Leave the terminal's signals to the parent, die when it dies, and keep every word off its standard output."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    signal.signal(signal.SIGHUP, signal.SIG_IGN)
    threading.Thread(target=_die_with_parent, name="parent-watch", daemon=True).start()
    os.dup2(2, 1)


def _die_with_parent() -> None:
    """Exit when the parent is gone, however far a solve is. (Linux's parent-death signal follows the thread that made
    the child, not its process, and would come too early.)"""
    parent = parent_process()
    assert parent is not None
    wait([parent.sentinel])
    os._exit(1)


def _cap_memory(memory_mb: int | None) -> None:
    """Cap the address space at what the imports take plus `memory_mb`."""
    if memory_mb is None or sys.platform != "linux":
        return
    with open("/proc/self/statm", encoding="ascii") as stream:
        now = int(stream.read().split()[0]) * resource.getpagesize()
    cap = now + memory_mb * 1024 * 1024
    _, hard = resource.getrlimit(resource.RLIMIT_AS)
    if hard == resource.RLIM_INFINITY or cap < hard:
        resource.setrlimit(resource.RLIMIT_AS, (cap, cap))
