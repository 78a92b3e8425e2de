"""A thousand random events with faults through the real loops: no limit, no floor, no lease and no restore may suffer.

Each case is a script drawn from a seed: a utility that announces, changes, repeats and withdraws events in any order,
late or in time, and a site in which nodes, meters, agents and the daemon die and come back, cables are cut, and another
program writes limits. The daemon as its wiring builds it, real agents and one simulated hall live through it second by
second under a virtual clock. A failing case is printed with its script; `--seed N --case K` plays it again.
"""

from __future__ import annotations

import argparse
import logging
import sys
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory

import structlog

from benchmarks.support.report import Figures, run, say
from benchmarks.support.storm_judge import Findings
from benchmarks.support.storm_play import play
from benchmarks.support.storm_script import FULL_KW, Script, script


@dataclass(frozen=True)
class Size:
    """How many cases, and how many events and faults each has."""

    cases: int = 48
    events: int = 24
    faults: int = 10


FULL, QUICK = Size(), Size(cases=1)
MEMORY = Path("/dev/shm")


def storm(seed: int, cases: Sequence[int], size: Size = FULL) -> Iterator[tuple[Script, Findings]]:
    """Live through these cases."""
    for case in cases:
        one = script(seed, case, FULL_KW, size.events, size.faults)
        with TemporaryDirectory(prefix="gridpace-storm-", dir=MEMORY if MEMORY.is_dir() else None) as folder:
            yield one, play(one, Path(folder))


def hush() -> None:
    """What daemon and agents say in their logs is theirs; a storm has a thousand faults on purpose."""
    structlog.configure(wrapper_class=structlog.make_filtering_bound_logger(logging.CRITICAL))
    logging.getLogger("gridpace").setLevel(logging.CRITICAL)


def measure(seed: int, cases: Sequence[int], size: Size = FULL) -> Figures:
    """The figures; failing cases are printed on the way."""
    hush()
    total: Counter[str] = Counter()
    worst_kw = 0.0
    for one, found in storm(seed, cases, size):
        total["events"] += one.events
        total["seconds"] += found.samples
        total["bound_seconds"] += found.bound
        total["excused_seconds"] += found.excused
        total["unreachable_seconds"] += found.unreachable
        total["unreachable_untold"] += found.untold
        total["samples_above_limit"] += found.above_limit
        total["floors_broken"] += found.floors
        total["caps_past_lease"] += found.past_lease
        total["not_restored"] += found.not_restored
        total["acknowledged_lost"] += found.lost
        total["risen_too_fast"] += found.too_fast
        total["failing_cases"] += found.bad > 0
        worst_kw = max(worst_kw, found.worst_kw)
        say(f"case {one.case}: {one.events} events, {found.bound} s under a limit, {found.unreachable} s under one out "
            f"of reach, {found.excused} s right after a break, {found.bad} faults")  # fmt: skip
        if found.bad:
            say(f"FAILED, again with: python -m benchmarks.storm --seed {one.seed} --case {one.case}")
            say(str(one))
            say("found:\n" + "\n".join(found.lines))
    names = ("events", "samples_above_limit", "floors_broken", "caps_past_lease", "not_restored", "acknowledged_lost",
             "risen_too_fast", "unreachable_untold", "failing_cases", "seconds", "bound_seconds",
             "unreachable_seconds", "excused_seconds")  # fmt: skip
    say(f"{len(cases)} cases: {total['events']} events, {total['seconds']:,} s, {total['bound_seconds']:,} of them "
        f"under a limit; {total['samples_above_limit']} above a reachable one (worst {worst_kw:.3f} kW), "
        f"{total['unreachable_seconds']} as low as one can be under a limit out of reach, "
        f"{total['excused_seconds']} above one right after a break")  # fmt: skip
    return {name: total[name] for name in names} | {"worst_kw": worst_kw}


def split_cases(argv: Sequence[str] | None) -> tuple[list[int] | None, list[str]]:
    """`--case K` (one) or `--cases A-B` (a part of them) taken out of the command line, and the rest of it."""
    parser = argparse.ArgumentParser(add_help=False)
    parser.add_argument("--case", type=int)
    parser.add_argument("--cases", type=lambda text: [int(edge) for edge in text.split("-")])
    known, rest = parser.parse_known_args(sys.argv[1:] if argv is None else argv)
    if known.case is not None:
        return [known.case], rest
    return (list(range(known.cases[0], known.cases[1] + 1)) if known.cases else None), rest


def main(argv: list[str] | None = None) -> None:
    """Run from the command line."""
    chosen, rest = split_cases(argv)
    run(
        "storm",
        __doc__.splitlines()[0],
        lambda quick, seed: measure(seed, chosen or range((QUICK if quick else FULL).cases), QUICK if quick else FULL),
        rest,
    )


if __name__ == "__main__":
    main()
