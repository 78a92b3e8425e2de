"""What a site owed to its programs, interval by interval, and how each event was delivered.

Why merged: events of one program may lie inside each other (a flex alert, then an emergency on top of it). The
strictest cap holds, and a kWh is paid or fined once. Rivals and account read the same arrays; the grid is cut where a
cap changes its slope, so that an interval's mean cap is exact.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta

import numpy as np

from optimizer.domain import GridEvent, Problem, Span
from optimizer.envelope import INF, mean_limit_kw
from optimizer.timegrid import TimeGrid
from scheduler.backtest.outcome import Floats, Outcome


@dataclass(frozen=True)
class Commitment:
    """One program at one site: mean cap in kW of each interval (inf: none), the reduction below the baseline that it
    asks during its events and their ramps, and money per kWh."""

    program: str
    site: str
    cap_kw: Floats
    promised_kw: Floats
    baseline_kw: float
    penalty_per_kwh: float
    credit_per_kwh: float

    def over_kw(self, import_kw: Floats) -> Floats:
        """Mean import above the cap in each interval, ramps and rebound limit included."""
        over: Floats = np.where(self.cap_kw < INF, np.maximum(0.0, import_kw - self.cap_kw), 0.0)
        return over

    def as_events(self, grid: TimeGrid, firm: bool = False) -> tuple[GridEvent, ...]:
        """The same caps as events without ramps of their own, one for each unbroken run of them.

        Best effort unless `firm`: then the model prices an excess as the account does, and not above everything else.
        """
        return tuple(self._event(grid, first, last, firm) for first, last in runs(self.cap_kw < INF))

    def _event(self, grid: TimeGrid, first: int, last: int, firm: bool) -> GridEvent:
        edges = grid.edges
        spans = tuple(Span(edges[t], edges[t + 1], float(self.cap_kw[t])) for t in range(first, last))
        return GridEvent(
            id=f"{self.program}/{self.site}/{first}{'/firm' if firm else ''}",
            version=1,
            site=self.site,
            start=edges[first],
            end=edges[last],
            targets=spans,
            baseline_kw=self.baseline_kw,
            ramp_in_s=0.0,
            ramp_out_s=0.0,
            rebound_s=0.0,
            firm=firm,
            penalty_per_kwh=self.penalty_per_kwh,
            credit_per_kwh=self.credit_per_kwh,
            program=self.program,
        )


def runs(flags: Sequence[bool] | np.ndarray[tuple[int], np.dtype[np.bool_]]) -> list[tuple[int, int]]:
    """[first, last) of every unbroken run of true flags."""
    padded = np.concatenate(([0], np.asarray(flags, dtype=np.int8), [0]))
    turns = np.flatnonzero(np.diff(padded)).tolist()
    return list(zip(turns[::2], turns[1::2], strict=True))


def released(event: GridEvent) -> datetime:
    """End of the event's ramp out."""
    return event.end + timedelta(seconds=event.ramp_out_s)


def owed(truth: Problem, took_part: Collection[str]) -> list[GridEvent]:
    """Events that ask something: all but the voluntary ones that the site did not take part in."""
    return [event for event in truth.events if not event.undecided or event.id in took_part]


def commitments(truth: Problem, took_part: Collection[str] = ()) -> tuple[Commitment, ...]:
    """One for each program and site that had events in the window, and for each voluntary event that the site took part
    in: an agreement of its own."""
    groups: dict[tuple[str, str, str], list[GridEvent]] = {}
    for event in owed(truth, took_part):
        groups.setdefault((event.program, event.site, event.id if event.undecided else ""), []).append(event)
    return tuple(_commitment(truth.grid, events) for events in groups.values())


def _commitment(grid: TimeGrid, events: Sequence[GridEvent]) -> Commitment:
    pairs = list(zip(grid.edges[:-1], grid.edges[1:], strict=True))
    caps = np.array([[max(0.0, mean_limit_kw(event, *pair)) for pair in pairs] for event in events])
    promised = [
        [
            max(0.0, event.baseline_kw - cap) if event.start <= left < released(event) else 0.0
            for (left, _), cap in zip(pairs, row, strict=True)
        ]
        for event, row in zip(events, caps.tolist(), strict=True)
    ]
    first = events[0]
    return Commitment(
        program=first.program,
        site=first.site,
        cap_kw=caps.min(axis=0),
        promised_kw=np.array(promised).max(axis=0),
        baseline_kw=max(event.baseline_kw for event in events),
        penalty_per_kwh=first.penalty_per_kwh,
        credit_per_kwh=first.credit_per_kwh,
    )


@dataclass(frozen=True)
class Delivery:
    """How one event was met. `worst_over_kw` is the highest interval mean above the target once the ramp in is over
    (negative: always below), `rebound_kw` the highest interval mean above the baseline in the hour after the ramp out
    (or as long as the event says). None where the window holds no such interval."""

    id: str
    target_kw: float
    baseline_kw: float
    asked_kwh: float
    delivered_kwh: float
    worst_over_kw: float | None
    rebound_kw: float | None


def deliveries(truth: Problem, outcome: Outcome) -> tuple[Delivery, ...]:
    """Performance of every event of the window that was owed, in the order of their starts."""
    events = sorted(owed(truth, outcome.took_part), key=lambda e: (e.start, e.id))
    return tuple(_delivery(event, truth.grid, outcome) for event in events)


def _delivery(event: GridEvent, grid: TimeGrid, outcome: Outcome) -> Delivery:
    import_kw, starts = outcome.import_kw[event.site], grid.edges[:-1]
    due, free = event.start + timedelta(seconds=event.ramp_in_s), released(event)
    quiet = free + timedelta(seconds=event.rebound_s)
    during = np.array([event.start <= start < event.end for start in starts])
    owed = np.array([due <= start < event.end for start in starts])
    after = np.array([free <= start < quiet for start in starts])
    caps = np.array([mean_limit_kw(event, *pair) for pair in zip(grid.edges[:-1], grid.edges[1:], strict=True)])
    hours = np.array(grid.hours)
    return Delivery(
        id=event.id,
        target_kw=min(span.value for span in event.targets),
        baseline_kw=event.baseline_kw,
        asked_kwh=float(((event.baseline_kw - caps) * hours)[during].sum()),
        delivered_kwh=float(((event.baseline_kw - import_kw) * hours)[during].sum()),
        worst_over_kw=float((import_kw - caps)[owed].max()) if owed.any() else None,
        rebound_kw=float((import_kw - event.baseline_kw)[after].max()) if after.any() else None,
    )
