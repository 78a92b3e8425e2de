"""Holds the planner to its promises on a range of random problems: the long run in pieces, on as many cores as one has.

    python -m tests.support.sweep 0 20000             # all of it
    python -m tests.support.sweep 4000 2000 --jobs 2  # a piece: problems 4,000 to 5,999, on two cores

Why not hypothesis alone: 20,000 problems take hours, and a run that is cut short has said nothing. Here problem N is
the same on every machine, and a piece that is done need not be done again. The properties are the tests' own.
"""

from __future__ import annotations

import argparse
import sys
import time
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from functools import partial

from tests.property.test_plans import test_the_ladder_answers_with_a_plan_that_may_be_obeyed as ladder
from tests.property.test_rivals import test_no_rule_is_worth_more_than_the_optimum as rivals

STRANGER = 7919
"""The problem so many places on has the stranger's plan."""


def judged(seed: int) -> list[str]:
    """What is wrong with one problem's plans, a line each."""
    checks: dict[str, Callable[[], object]] = {
        "ladder": partial(ladder.hypothesis.inner_test, seed, seed + STRANGER),
        "rivals": partial(rivals.hypothesis.inner_test, seed),
    }
    found = []
    for name, check in checks.items():
        try:
            check()
        except Exception as error:  # whatever it is, the other problems are judged too
            found.append(f"problem {seed}, {name}: {type(error).__name__}: {' '.join(str(error).split())[:300]}")
    return found


def main(argv: list[str] | None = None) -> int:
    """Run from the command line; 1 when a promise was broken."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("first", type=int, help="number of the first problem")
    parser.add_argument("count", type=int, help="how many problems")
    parser.add_argument("--jobs", type=int, default=1, help="processes (1)")
    parser.add_argument("--seconds", type=float, default=float("inf"), help="stop after so long, and say where")
    asked = parser.parse_args(argv)
    began, bad, done, step = time.monotonic(), 0, 0, 20 * asked.jobs
    with ProcessPoolExecutor(asked.jobs) as pool:
        while done < asked.count and time.monotonic() - began < asked.seconds:
            piece = range(asked.first + done, asked.first + min(asked.count, done + step))
            for lines in pool.map(judged, piece, chunksize=20):
                bad += bool(lines)
                for line in lines:
                    print(line, flush=True)
            done += len(piece)
    print(f"{done} problems from {asked.first} on, {bad} bad, {time.monotonic() - began:.0f} s; "
          f"next: {asked.first + done}")  # fmt: skip
    return int(bad > 0)


if __name__ == "__main__":
    sys.exit(main())
