"""Voluntary events: one binary for each that still waits for the site's answer.

Why so few: an event that was answered is a cap like any other, or nothing at all; what remains are the one or two that
were announced since.
"""

from __future__ import annotations

import numpy as np

from optimizer.facts import LEAST_GAIN, Facts, Floats
from optimizer.model.parts import Columns, Ints, Model, Rows


def add_participation(model: Model) -> None:
    """take[e] in {0,1}: the site takes part in a voluntary event that waits for an answer. Objective: + (least gain -
    credit * energy promised inside the horizon) * take; `add_events` binds its cap where take = 1."""
    facts = model.facts
    open_ = [number for number, event in enumerate(facts.problem.events) if event.undecided]
    credit = np.array([facts.problem.events[number].credit_per_kwh for number in open_])
    pays = credit * facts.promised_kwh[open_] if open_ else np.zeros(0)
    model.columns("take", "e", (open_,), high=1.0, cost=LEAST_GAIN - pays, whole=True)


def add_taken(model: Model, rows: Rows, e: Ints, slack_kw: Floats) -> None:
    """Add slack * take to rows of events `e`: what they allow more while nobody takes part is in their right sides."""
    take: Columns = model.get("take")
    found = take.find((len(model.facts.problem.events),))[e] if len(e) else e
    used = (found >= 0) & (slack_kw > 0)
    rows.add(rows.all[used], take, found[used], slack_kw[used])


def untaken_kw(facts: Facts, e: Ints, t: Ints, sites: Ints) -> Floats:
    """How far above the cap of a voluntary event the import may be where nobody takes part: as far as it can (kW)."""
    open_ = np.array([event.undecided for event in facts.problem.events], dtype=np.bool_)[e]
    above = facts.most_import_kw[sites, t] - np.maximum(0.0, facts.event_kw[e, t])
    found: Floats = np.where(open_, np.maximum(0.0, above), 0.0)
    return found
