"""The long run over random problems in sittings: 20,000 of them take an hour and a half of one core, a sitting as long
as one likes.

    python -m tests.slices --state var/random.jsonl --processes 2 --minutes 4    # goes on where the last one stopped
    python -m tests.slices --state var/random.jsonl --minutes 0                  # only says what was found

Each seed is one problem, held to the very properties that `make test-long` draws seeds for. What a seed breaks is said
and kept (property, kind, traceback), and the sitting goes on; it ends with status 1 where any seed is known to fail.
Seeds that failed are held again at the next sitting: the code may have been mended. Without `--state` nothing is kept,
and a sitting says at which seed the next one begins.

Models are written as a daemon does it after its first plan; that Pyomo's are the same to the last bit is
`tests/unit/test_model_equivalence.py`.
"""

from __future__ import annotations

import argparse
import json
import time
import traceback
from collections import Counter
from collections.abc import Callable, Iterable
from inspect import signature
from multiprocessing import get_context
from pathlib import Path
from typing import Any

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
    test_plans.test_promised_deadlines_are_kept_on_every_rung_while_there_is_room,
)
"""Of these one a seed."""

Failed = dict[str, str]
"""What a problem breaks: `property`, `kind` (the exception and the line that raised it), `text` and `trace`."""


def held(seed: int) -> list[Failed]:
    """What the problem of a seed breaks."""
    found = []
    for test in (*ALWAYS, IN_TURN[seed % len(IN_TURN)]):
        plain: Callable[..., None] = test.hypothesis.inner_test  # type: ignore[attr-defined]
        try:
            plain(*(seed, seed + 1)[: len(signature(plain).parameters)])
        except Exception as error:
            found.append(_failed(test.__name__, error))
    return found


def _failed(name: str, error: Exception) -> Failed:
    last = traceback.extract_tb(error.__traceback__)[-1]
    kind = f"{type(error).__name__} at {last.line or last.name}"
    return {"property": name, "kind": kind, "text": str(error)[:400], "trace": traceback.format_exc()}


def _numbered(seed: int) -> tuple[int, list[Failed]]:
    return seed, held(seed)


def _written(model: Model, _families: frozenset[str]) -> Arrays:
    return write_arrays(model)


def _without_pyomo() -> None:
    optimizer.session.compile_model = _written


# ---------------------------------------------------------------- what is kept
def known(path: Path) -> dict[int, list[Failed]]:
    """What earlier sittings found, by seed; a line that was cut short when one was killed is no finding."""
    found: dict[int, list[Failed]] = {}
    for line in path.read_text().splitlines() if path.exists() else ():
        try:
            kept = json.loads(line)
        except ValueError:
            continue
        found[int(kept["seed"])] = kept["failed"]
    return found


def waiting(asked: Iterable[int], seen: dict[int, list[Failed]]) -> list[int]:
    """Seeds still to be held: those that failed first, then those that were never held."""
    failed, fresh = list[int](), list[int]()
    for seed in asked:
        if seed not in seen:
            fresh.append(seed)
        elif seen[seed]:
            failed.append(seed)
    return failed + fresh


def kept_in(path: Path | None) -> Callable[[int, list[Failed]], None]:
    """What writes a seed's findings behind those of a file; a line that was cut short there is ended first."""
    if path is None:
        return lambda _seed, _found: None
    if path.exists() and path.read_bytes()[-1:] not in {b"", b"\n"}:
        with path.open("a") as file:
            file.write("\n")

    def keep(seed: int, found: list[Failed]) -> None:
        with path.open("a") as file:
            file.write(json.dumps({"seed": seed, "failed": found}) + "\n")

    return keep


def told(seen: dict[int, list[Failed]]) -> list[str]:
    """Each kind of failure with how often it was seen, and its first seeds."""
    kinds: Counter[str] = Counter()
    seeds: dict[str, list[int]] = {}
    for seed in sorted(seen):
        for one in seen[seed]:
            kind = f"{one['property']}: {one['kind']}"
            kinds[kind] += 1
            seeds.setdefault(kind, []).append(seed)
    return [f"{number} x {kind}, seeds {seeds[kind][:20]}" for kind, number in kinds.most_common()]


# ---------------------------------------------------------------- a sitting
def sit(todo: list[int], processes: int, minutes: float, keep: Callable[[int, list[Failed]], Any]) -> int:
    """Hold seeds until all are done or so many minutes have passed; how many were."""
    ends, done = time.monotonic() + 60.0 * minutes, 0
    if not todo or minutes <= 0:
        return done
    with get_context("spawn").Pool(processes, _without_pyomo) as pool:
        for seed, found in pool.imap(_numbered, todo, chunksize=1):
            done += 1
            keep(seed, found)
            for one in found:
                print(f"seed {seed}, {one['property']}: {one['kind']}: {one['text']}", flush=True)
            if time.monotonic() >= ends:
                break
    return done


def _options() -> argparse.Namespace:
    options = argparse.ArgumentParser(prog="python -m tests.slices", description="random problems, in sittings")
    options.add_argument("--state", type=Path, help="file that keeps what is done and what failed (JSON lines)")
    options.add_argument("--first", type=int, default=0, help="first seed (default: %(default)s)")
    options.add_argument("--count", type=int, default=MANY, help="most problems (default: %(default)s)")
    options.add_argument("--minutes", type=float, default=240.0, help="begin none after so long (default: %(default)s)")
    options.add_argument("--processes", type=int, default=1, help="side by side (default: %(default)s)")
    return options.parse_args()


def main() -> int:
    """Run a sitting; 1 where a seed failed."""
    asked, began = _options(), time.monotonic()
    seen = known(asked.state) if asked.state else {}
    seeds = range(asked.first, asked.first + asked.count)
    todo, write = waiting(seeds, seen), kept_in(asked.state)

    def keep(seed: int, found: list[Failed]) -> None:
        seen[seed] = found
        write(seed, found)

    done, spent_s = sit(todo, asked.processes, asked.minutes, keep), time.monotonic() - began
    mine = {seed: seen[seed] for seed in seeds if seed in seen}
    for line in told(mine):
        print(line)
    failed = sum(map(bool, mine.values()))
    going_on = "" if asked.state else f"; go on with --first {asked.first + done}"
    print(f"{done} problems in {spent_s:.0f} s ({done / max(spent_s, 1e-9):.2f} a second)", end="; ")
    print(f"in all {len(mine)} of {len(seeds)} held, {failed} failed{going_on}")
    return 1 if failed else 0


if __name__ == "__main__":
    raise SystemExit(main())
