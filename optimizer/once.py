"""What is reckoned from facts once, and kept with them."""

from __future__ import annotations

from collections.abc import Callable
from functools import wraps
from typing import TypeVar, TypeVarTuple

from optimizer.facts import Facts

Asked = TypeVarTuple("Asked")
Found = TypeVar("Found")


def once(reckon: Callable[[Facts, *Asked], Found]) -> Callable[[Facts, *Asked], Found]:
    """What is reckoned from facts is kept with them and goes when they go: those of tens of thousands of jobs are a
    hundred MB, so nothing else may hold them."""

    @wraps(reckon)
    def kept(facts: Facts, /, *asked: *Asked) -> Found:
        known: dict[tuple[object, ...], Found] = facts.__dict__.setdefault("_reckoned", {})
        key = (reckon, *asked)
        if key not in known:
            known[key] = reckon(facts, *asked)
        return known[key]

    return kept


def once_for_jobs(reckon: Callable[[Facts], Found]) -> Callable[[Facts], Found]:
    """What follows from jobs, grid and pools as they are configured alone is kept with the jobs: the next facts take
    these over where all of that is the same (`facts.facts_of`). Nothing of it may hang on prices, limits, loads, or
    the speeds that a plan chooses."""

    @wraps(reckon)
    def kept(facts: Facts, /) -> Found:
        known: dict[object, Found] = facts.jobs.__dict__.setdefault("_reckoned", {})
        if reckon not in known:
            known[reckon] = reckon(facts)
        return known[reckon]

    return kept
