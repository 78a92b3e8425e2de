"""The long run over random problems in slices: 20,000 of them take an hour or two, a slice as long as one likes.

    python -m tests.slices --first 0 --minutes 4        # says at which seed the next slice begins

Each seed is one problem, held to the very properties that `make test-long` draws seeds for. A seed that fails is said,
with its traceback, and the slice goes on; it then ends with status 1. Models are written as a daemon does it after its
first plan; that Pyomo's are the same to the last bit is `tests/unit/test_model_equivalence.py`.
"""

from __future__ import annotations

import argparse
import time
import traceback
from collections.abc import Callable
from inspect import signature
from multiprocessing import get_context

import optimizer.session
from optimizer.model.arrays import Arrays, write_arrays
from optimizer.model.parts import Model
from tests.property import test_plans, test_rivals
from tests.support.examples import MANY

ALWAYS = (
    test_plans.test_the_ladder_answers_with_a_plan_that_may_be_obeyed,
    test_rivals.test_no_rule_is_worth_more_than_the_optimum,
)
IN_TURN = (
    test_plans.test_gangs_least_runs_pauses_and_order_are_kept_on_every_rung,
    test_plans.test_parked_gpus_are_counted_and_woken_on_every_rung,
    test_plans.test_floors_that_differ_from_interval_to_interval_are_kept_on_every_rung,
    test_plans.test_answers_to_voluntary_events_are_kept_on_every_rung,
)
"""Of these one a seed."""


def held(seed: int) -> list[str]:
    """What the problem of a seed breaks, as tracebacks."""
    found = []
    for test in (*ALWAYS, IN_TURN[seed % len(IN_TURN)]):
        plain: Callable[..., None] = test.hypothesis.inner_test  # type: ignore[attr-defined]
        try:
            plain(*(seed, seed + 1)[: len(signature(plain).parameters)])
        except Exception:
            found.append(f"seed {seed}, {test.__name__}:\n{traceback.format_exc()}")
    return found


def _written(model: Model, _families: frozenset[str]) -> Arrays:
    return write_arrays(model)


def _without_pyomo() -> None:
    optimizer.session.compile_model = _written


def main() -> int:
    """Run a slice; 1 where a seed failed."""
    options = argparse.ArgumentParser(prog="python -m tests.slices", description="random problems, in slices")
    options.add_argument("--first", type=int, default=0, help="first seed (default: %(default)s)")
    options.add_argument("--count", type=int, default=MANY, help="most problems (default: %(default)s)")
    options.add_argument("--minutes", type=float, default=240.0, help="begin none after so long (default: %(default)s)")
    options.add_argument("--processes", type=int, default=1, help="side by side (default: %(default)s)")
    asked = options.parse_args()
    ends, done, failed = time.monotonic() + 60.0 * asked.minutes, 0, 0
    with get_context("spawn").Pool(asked.processes, _without_pyomo) as pool:
        for found in pool.imap(held, range(asked.first, asked.first + asked.count)):
            done += 1
            failed += bool(found)
            for text in found:
                print(text, flush=True)
            if time.monotonic() >= ends:
                break
    following = asked.first + done
    print(f"{done} problems from seed {asked.first}: {failed} failed; the next slice begins with --first {following}")
    return 1 if failed else 0


if __name__ == "__main__":
    raise SystemExit(main())
