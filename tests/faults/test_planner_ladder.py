"""Whatever the solver process does, a plan comes in time, says which rung it is and why, and the next one is good."""

import os
import pickle
import signal
import subprocess
import sys
import threading
import time
from contextlib import closing
from dataclasses import replace

import pytest

from optimizer.check import check_plan
from optimizer.domain import Rung, Work
from optimizer.ladder import answer
from optimizer.reasons import Reason
from optimizer.solve import solve_problem
from optimizer.validate import ProblemError
from scheduler.planner import ChildPlanner, InlinePlanner
from tests.support import planner_targets as wrong
from tests.support.problems import hourly, inputs, job, pool, problem, site

BATCH = pool("batch", Work.BATCH, 100)


def made():
    pools = [inputs(pool(floor=0.5), 3), inputs(BATCH, 3)]
    return problem(hourly(3), [site(3, limit=430.0)], pools, [job("j", (0, 3), 90.0, 100)])


@pytest.fixture
def planner(request):
    kept = ChildPlanner(5.0, 1.5, target=request.param, memory_mb=300)
    yield kept
    kept.close()


@pytest.mark.parametrize(
    ("planner", "code"),
    [
        (wrong.hang, Reason.SOLVER_TIMEOUT),
        (wrong.crash, Reason.SOLVER_CRASH),
        (wrong.leave, Reason.SOLVER_CRASH),
        (wrong.raise_odd, Reason.SOLVER_CRASH),
        (wrong.refuse, Reason.SOLVER_INFEASIBLE),
        (wrong.nonsense, Reason.SOLVER_CRASH),
        (wrong.unpicklable, Reason.SOLVER_CRASH),
        (wrong.stop_half_way, Reason.SOLVER_TIMEOUT),
        (wrong.eat_memory, Reason.SOLVER_CRASH),
        (wrong.over_the_limit, Reason.PLAN_REFUSED),
    ],
    indirect=["planner"],
    ids=lambda value: getattr(value, "__name__", str(value)),
)
def test_a_bad_solver_costs_a_rung_and_never_the_plan(planner, code):
    asked = made()
    first = planner.plan(asked)
    assert first.rung is Rung.GREEDY
    assert first.notes[0].code is code
    assert Reason.GREEDY_PLAN in {note.code for note in first.notes}
    assert check_plan(asked, first) == ()
    if planner._target is wrong.hang:
        assert first.solve_s < 1.5 + 25.0  # the deadline, and the start of the process on a busy machine
        assert planner.plan(asked, first).rung is Rung.SHIFTED


def test_the_child_compares_between_plans_and_lets_go_when_the_next_one_is_asked_for(tmp_path):
    told = tmp_path / "told"
    with closing(ChildPlanner(5.0, 60.0, target=wrong.Idle(str(told)))) as planner:
        for turn in (1, 2):
            assert planner.plan(made()).rung is Rung.OPTIMUM
            deadline = time.monotonic() + 60.0
            while not told.exists() or told.read_text() != "ended".join(["begun"] * turn):
                assert time.monotonic() < deadline, "it does nothing between two plans"
                time.sleep(0.02)
        assert planner.restarts == 0


def test_the_killed_child_is_replaced_and_the_next_plan_is_the_optimum():
    with closing(ChildPlanner(5.0, 20.0)) as planner:
        assert planner.plan(made()).rung is Rung.OPTIMUM
        os.kill(planner._child.pid, signal.SIGKILL)
        planner._child.join(5.0)
        assert planner.plan(made()).rung is Rung.OPTIMUM
        assert planner.restarts == 1


def test_a_child_that_is_stopped_before_it_reads_costs_no_more_than_the_deadline():
    pools, jobs = [inputs(pool(floor=0.5), 3), inputs(BATCH, 3)], [job(f"j{n}", (0, 3), 0.01, 1) for n in range(5000)]
    long = problem(hourly(3), [site(3, limit=430.0)], pools, jobs)
    assert len(pickle.dumps(long)) > 500_000, "it must not fit into what the pipe holds"
    with closing(ChildPlanner(2.0, 4.0)) as planner:
        assert planner.plan(made()).rung is Rung.OPTIMUM
        os.kill(planner._child.pid, signal.SIGSTOP)
        found = _in_time(lambda: planner.plan(long))
        assert (found.rung, found.notes[0].code) == (Rung.GREEDY, Reason.SOLVER_TIMEOUT)
        assert planner.restarts == 1


def test_a_new_child_that_takes_long_to_start_is_waited_for_no_longer_than_the_deadline_and_used_when_ready():
    with closing(ChildPlanner(5.0, 5.0)) as planner:
        assert planner.plan(made()).rung is Rung.OPTIMUM
        os.kill(planner._child.pid, signal.SIGKILL)
        planner._child.join(5.0)
        planner._stop()
        planner._start()
        slow = planner._child.pid
        os.kill(slow, signal.SIGSTOP)
        found = _in_time(lambda: planner.plan(made()))
        assert (found.rung, found.notes[0].code) == (Rung.GREEDY, Reason.SOLVER_TIMEOUT)
        assert "was not ready within 5 s" in found.notes[0].text
        os.kill(slow, signal.SIGCONT)
        assert planner._pipe.poll(60.0), "it starts after all"
        assert planner.plan(made()).rung is Rung.OPTIMUM
        assert planner._child.pid == slow, "whoever is starting is not killed for it"


def test_a_new_child_that_is_ready_too_late_for_a_plan_is_kept_for_the_next_one(monkeypatch):
    with closing(ChildPlanner(2.0, 20.0)) as planner:
        assert planner.plan(made()).rung is Rung.OPTIMUM
        planner._stop()
        planner._start()
        ready, late = planner._expect_ready, 18.5
        monkeypatch.setattr(planner, "_expect_ready", lambda: max(late, ready()))
        found = planner.plan(made())
        assert (found.rung, found.notes[0].code) == (Rung.GREEDY, Reason.SOLVER_TIMEOUT)
        assert "ready too late" in found.notes[0].text
        kept = planner._child.pid
        assert planner.plan(made()).rung is Rung.OPTIMUM
        assert planner._child.pid == kept, "killed for it, it would be as late for the next one"


def _in_time(ask):
    """What this gives, within half a minute; it would block for good where a deadline does not hold."""
    given = []
    asking = threading.Thread(target=lambda: given.append(ask()), daemon=True)
    asking.start()
    asking.join(30.0)
    assert given, "the deadline does not hold"
    return given[0]


def test_the_child_keeps_its_words_off_standard_output(capfd):
    planner = ChildPlanner(5.0, 20.0, target=wrong.chatty)
    planner.plan(made())
    planner.close()
    assert "hello" not in capfd.readouterr().out


def test_the_terminal_s_signals_do_not_reach_the_child():
    with closing(ChildPlanner(5.0, 20.0)) as planner:
        assert planner.plan(made()).rung is Rung.OPTIMUM
        for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
            os.kill(planner._child.pid, number)
        assert planner.plan(made()).rung is Rung.OPTIMUM
        assert planner.restarts == 0


def test_closing_stops_a_child_that_hangs_at_once():
    planner = ChildPlanner(60.0, 60.0, target=wrong.hang)
    plans = []
    asking = threading.Thread(target=lambda: plans.append(planner.plan(made())))
    asking.start()
    time.sleep(0.5)
    started = time.monotonic()
    planner.close()
    asking.join(20.0)
    assert time.monotonic() - started < 10.0
    assert plans[0].rung is Rung.GREEDY


ORPHAN = """
import os, sys, threading, time
from dataclasses import replace
from scheduler.planner import ChildPlanner
from tests.faults.test_planner_ladder import made
from tests.support.planner_targets import hang_and_tell
if __name__ == "__main__":
    planner = ChildPlanner(60.0, 60.0, target=hang_and_tell)
    threading.Thread(target=planner.plan, args=(replace(made(), currency=sys.argv[1]),), daemon=True).start()
    while not os.path.exists(sys.argv[1]):
        time.sleep(0.05)
    time.sleep(0.2)
    os.kill(os.getpid(), 9)
"""


def test_a_child_in_the_middle_of_a_solve_dies_with_its_parent(tmp_path):
    script, told = tmp_path / "orphan.py", tmp_path / "pid"
    script.write_text(ORPHAN)
    environment = {**os.environ, "PYTHONPATH": os.getcwd()}
    subprocess.run([sys.executable, script, told], env=environment, check=False, timeout=50)
    pid = int(told.read_text())
    deadline = time.monotonic() + 10.0
    while _alive(pid):
        assert time.monotonic() < deadline, "the child outlived its parent"
        time.sleep(0.05)


def _alive(pid):
    try:
        with open(f"/proc/{pid}/stat", encoding="ascii") as stream:
            return stream.read().rsplit(")", 1)[1].split()[0] != "Z"
    except FileNotFoundError:
        return False


def test_signals_that_are_no_numbers_are_replaced_with_a_note_and_a_broken_build_is_refused():
    asked = made()
    broken = replace(asked, sites=(replace(asked.sites[0], price_per_mwh=(50.0, float("nan"), 50.0)),))
    plan = InlinePlanner().plan(broken)
    assert plan.rung is Rung.OPTIMUM
    assert [note.code for note in plan.notes] == [Reason.SIGNAL_NAN]
    with pytest.raises(ProblemError, match="2 values for 3 intervals"):
        InlinePlanner().plan(replace(asked, sites=(replace(asked.sites[0], pue=(1.0, 1.0)),)))


def test_every_refused_plan_is_seen_and_the_lowest_rung_still_answers(monkeypatch):
    from optimizer import ladder

    asked = made()
    last = solve_problem(asked)
    refused = lambda *_: (_ for _ in ()).throw(ValueError("broken rule"))  # noqa: E731
    for name in ("shift_plan", "greedy_plan", "hold_plan"):
        monkeypatch.setattr(ladder, name, refused)
    plan = answer(asked, last, lambda _: replace(last, pools={}))
    assert plan.rung is Rung.SAFE
    assert [note.code for note in plan.notes][:4] == [Reason.PLAN_REFUSED] + [Reason.RUNG_FAILED] * 3
    assert Reason.SAFE_STATE in {note.code for note in plan.notes}
