"""Channels that are asked: what they bring, and what they may read to report.

Why beside `adapters.dr.desk`: a server that is polled tells its whole present truth each time, without versions; what
changed, and what is missing, is for the ledger to find.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime
from typing import Protocol

from adapters.ports import EventMessage
from optimizer.reasons import Note


@dataclass(frozen=True)
class FeedNews:
    """What a polled channel says at present: every order that is not over, each as a message whose version the ledger
    counts. `complete`: what is missing here was withdrawn, except what belongs to an id of `unread`, and hard caps of
    an id of `unread_limits`. `notes` are for people."""

    messages: tuple[EventMessage, ...] = ()
    complete: bool = False
    unread: frozenset[str] = frozenset()
    unread_limits: frozenset[str] = frozenset()
    notes: tuple[Note, ...] = ()


@dataclass(frozen=True)
class EventFigures:
    """What a utility may know of one event and its site now, in kW at the meter (None: not known). `opt` is empty for
    an event that is not in the ledger; `offer_kw`: a reduction that can be had instead of what was not promised."""

    import_kw: float | None = None
    available_kw: float | None = None
    baseline_kw: float | None = None
    cap_kw: float | None = None
    state: str = ""
    opt: str = ""
    reason: str = ""
    offer_kw: float | None = None


class SiteFigures(Protocol):
    """What the reports of a channel are made of."""

    def measured_kw(self, start: datetime, end: datetime) -> tuple[float | None, float]:
        """Mean import over [start, end), and the share of it that was measured; None when nothing was."""
        ...

    def planned_kw(self, start: datetime, end: datetime) -> float | None:
        """Mean import that the plan in force expects; None where it does not reach."""
        ...

    def look(self, event_id: str) -> EventFigures:
        """The site now, and what became of an event."""
        ...


class EventReporter(Protocol):
    """A feed that also tells."""

    def report(self, figures: SiteFigures, now: datetime) -> datetime | None:
        """Send what is due; when the next is (None: nothing is). A server that is lost is told by the next poll."""
        ...


class EventFeed(Protocol):
    """A demand-response channel that is asked, and not told."""

    def poll(self, now: datetime) -> FeedNews:
        """The present orders, asked for now. A server that is lost is a note and changes nothing: what it said last
        goes on."""
        ...

    def cue(self, headers: Mapping[str, str], body: bytes) -> None:
        """Check a call that says that something changed. Raises EventRefused."""
        ...

    def close(self) -> None:
        """End connections."""
        ...
