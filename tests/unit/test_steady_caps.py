"""Caps under an event stand still, or go one way: also where cards of jobs don't draw what they may.

In these sites the jobs load their data and compute nothing: caps that move them move no power, and the meter shows less
than modelled. What that leaves is room for nobody who another pool would have to pay for.
"""

from datetime import timedelta

import pytest

from adapters.ports import EventTarget
from benchmarks.support.track import reversals
from tests.support.loops import order
from tests.unit.test_flex_outside import caps_apart, outside

MINUTE = timedelta(minutes=1)
ONE, TWO = {"a": (3, 4.0, 16, 4.0)}, {"a": (3, 2.0, 16, 2.0), "b": (2, 2.0, 16, 2.0)}


@pytest.mark.parametrize(
    ("jobs", "limit_kw", "first_min", "then_min", "step_s"),
    [(ONE, 37.0, 5, 6, 10), (TWO, 37.0, 2, 1, 1)],
    ids=["steady", "on-the-way-down"],
)
def test_no_cap_turns_under_an_event(tmp_path, jobs, limit_kw, first_min, then_min, step_s):
    with outside(tmp_path, jobs, change=caps_apart) as (site, _):
        site.run(5 * MINUTE, 10)
        begin = site.clock.now() + MINUTE
        end = begin + 60 * MINUTE
        site.facade.accept(order(begin, end, targets=(EventTarget(begin, end, limit_kw=limit_kw),)))
        site.run(first_min * MINUTE, 10)
        ticks = site.run(then_min * MINUTE, step_s)
        assert max(tick.import_kw["lab"] for tick in ticks) <= max(tick.target_kw["lab"] for tick in ticks)
        assert {pool: reversals([tick.cap_w[pool] for tick in ticks]) for pool in ("chat", "train", "tune")} == {
            "chat": 0, "train": 0, "tune": 0,
        }  # fmt: skip
        assert min(tick.cap_w["chat"] for tick in ticks) < 400, "the event holds the site"
