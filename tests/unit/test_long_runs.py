"""Long runs in sittings: nothing is timed twice, nothing is lost, and two problems never make one figure."""

from dataclasses import replace
from math import inf
from multiprocessing import dummy as threads

import pytest

from benchmarks import plan_speed
from benchmarks.support import longrun
from benchmarks.support.days import CLOSED_LOOP, Book, Days
from benchmarks.support.plans import Planned
from benchmarks.support.reference import fine_grid, reference_problem
from benchmarks.support.rolling import Living
from optimizer.domain import Rung
from optimizer.fallback import greedy_plan
from tests import slices
from tests.property import test_plans
from tests.support.problems import random_problem

WHAT = {"seed": 1}


class Quick:
    """A planner that keeps rules and remembers what it was asked."""

    asked: list

    def __init__(self, *_):
        pass

    def plan(self, problem, last=None):
        Quick.asked.append((problem.made_at, last is not None))
        return replace(greedy_plan(problem), rung=Rung.OPTIMUM)

    def close(self):
        pass


@pytest.fixture
def steps(monkeypatch):
    monkeypatch.setattr(longrun, "ChildPlanner", Quick)
    Quick.asked = []
    asked = []

    def step(number):
        asked.append(number)
        return random_problem(number, 2)

    return step, asked


def test_a_run_goes_on_where_it_was_left_and_warms_up_with_the_last_step(steps, tmp_path):
    step, asked = steps
    path = tmp_path / "kept.json"
    first = longrun.roll(step, 3, WHAT, path, 0.0)  # a sitting without time still makes one step
    assert (len(first.wall_s), first.sittings, asked) == (1, 1, [0, 0])
    whole = longrun.roll(step, 3, WHAT, path, 5.0)
    assert (len(whole.wall_s), whole.sittings, asked) == (3, 2, [0, 0, 0, 1, 2])
    assert [last for _, last in Quick.asked] == [False, True, False, True, True], (
        "the first of a sitting is not counted"
    )
    figures = whole.figures()
    assert (figures["rolling_steps"], figures["rolling_sittings"], figures["rolling_share_optimal"]) == (3, 2, 1.0)
    assert figures["rolling_longest_s"] == figures["rolling_p99_s"] == max(whole.wall_s)
    assert whole.wall_s[0] == first.wall_s[0]
    assert longrun.roll(step, 3, WHAT, path, 5.0) == whole, "nothing is left to do"


def test_a_sitting_of_which_nothing_would_be_kept_is_refused(capsys):
    with pytest.raises(SystemExit):
        plan_speed.main(["--part", "rolling", "--minutes", "0"])
    assert "--minutes needs --state FILE" in capsys.readouterr().err


def test_steps_of_another_problem_are_refused(steps, tmp_path):
    step, _ = steps
    path = tmp_path / "kept.json"
    longrun.roll(step, 1, WHAT, path, 0.0)
    with pytest.raises(ValueError, match=r"is of \{'seed': 1\}, not of \{'seed': 2\}"):
        longrun.roll(step, 1, {"seed": 2}, path, 0.0)


def test_a_seed_that_fails_is_said_with_what_it_breaks(monkeypatch):
    assert slices.held(3) == []
    monkeypatch.setattr(test_plans, "check_plan", lambda *_: ("broken",))
    found = slices.held(3)
    first = next(one for one in found if "test_the_ladder_answers" in one["property"])
    assert first["kind"].startswith("AssertionError at assert ")
    assert "broken" in first["trace"]


def test_a_sitting_goes_on_where_the_last_one_was_killed_and_holds_what_failed_again(monkeypatch, tmp_path, capsys):
    asked, path = [], tmp_path / "kept.jsonl"
    bad = {"property": "order", "kind": "AssertionError at assert", "text": "seen", "trace": "long"}
    failing = {1}

    def sit(todo, _processes, _minutes, keep):
        asked.append(todo)
        for seed in todo[:2]:
            keep(seed, [bad] if seed in failing else [])
        return len(todo[:2])

    monkeypatch.setattr(slices, "sit", sit)
    monkeypatch.setattr("sys.argv", ["slices", "--state", str(path), "--count", "4"])
    assert slices.main() == 1
    with path.open("a") as file:
        file.write('{"seed": 3, "fai')  # killed while it wrote
    failing.clear()
    assert [slices.main(), slices.main()] == [0, 0]
    assert asked == [[0, 1, 2, 3], [1, 2, 3], [3]]
    said = capsys.readouterr().out
    assert "1 x order: AssertionError at assert, seeds [1]" in said
    assert "in all 4 of 4 held, 0 failed" in said


def test_a_sitting_hands_seeds_out_until_its_time_is_over(monkeypatch):
    monkeypatch.setattr(slices, "get_context", lambda _how: threads)
    monkeypatch.setattr(slices, "_without_pyomo", lambda: None)
    bad = {"property": "order", "kind": "AssertionError at assert", "text": "seen", "trace": "long"}
    monkeypatch.setattr(slices, "held", lambda seed: [bad] * (seed - 5))
    kept = {}
    assert slices.sit([5, 6], 1, 5.0, kept.__setitem__) == 2
    assert {seed: len(found) for seed, found in kept.items()} == {5: 0, 6: 1}
    assert slices.sit([5, 6], 1, 0.0, kept.__setitem__) == 0
    assert slices.sit([5, 6], 1, 1e-9, kept.__setitem__) == 1


def test_a_day_in_closed_loop_is_the_same_in_as_many_sittings_as_it_has_plans(tmp_path):
    whole = Days(16, 6, 2.0, None, inf).lived([CLOSED_LOOP], [3])
    sittings, done = 0, {}
    while not done and sittings < 40:
        done = Days(16, 6, 2.0, tmp_path / "days", 0.0).lived([CLOSED_LOOP], [3])
        sittings += 1
    assert sittings == 13, "four optima, eight plans, each in a sitting of its own; and one that ends it"
    (day,), (one,) = done.values(), whole.values()
    assert (day.lived, day.optimum, day.bound) == pytest.approx((one.lived, one.optimum, one.bound), rel=1e-5)
    assert Days(16, 6, 2.0, tmp_path / "days", 0.0).lived([CLOSED_LOOP], [3]) == done
    with pytest.raises(ValueError, match="remove it"):
        Days(17, 6, 2.0, tmp_path / "days", 0.0).lived([CLOSED_LOOP], [3])


def test_a_planner_goes_on_in_the_next_sitting_with_the_basis_and_the_speeds_of_its_last_plan(tmp_path):
    first = Planned()
    first.plan(reference_problem(3, fine_grid(1.0), 16, 6, one_cap=True))
    book = Book({})
    book.going = ((CLOSED_LOOP, 3), Living(), first)
    book.write(tmp_path / "days")
    before, after = first._session, Book.read(tmp_path / "days", {}).going[2]._session
    speeds = before._speeds._least
    assert speeds
    assert {pool: tuple(speed) for pool, speed in after._speeds._least.items()} == {
        pool: tuple(speed) for pool, speed in speeds.items()
    }
    assert after._speeds._grid == before._speeds._grid
    assert [tuple(codes) for codes in (after._last.columns, after._last.rows)] == [
        tuple(codes) for codes in (before._last.columns, before._last.rows)
    ]
    assert (after._late, after._verify, after._compiled) == (before._late, before._verify, True)
