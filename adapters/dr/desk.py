"""Channels that keep a connection of their own: what they are, what they are given, and what they may read.

Why a desk: such a channel does not only bring events, it answers and reports for as long as it is connected. All that
it may do is hand a message in, look at its site, and say something to people; the ledger decides. `EventChannel` in
`adapters.ports` is the other kind: it checks what somebody else received.
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Protocol, runtime_checkable

from adapters.ports import EventMessage
from optimizer.reasons import Note


@dataclass(frozen=True)
class EventAnswer:
    """What a utility is told: the event's id and version, `state` in the ledger, opt `in`, `out` or `pending` (the plan
    decides about a voluntary event until `answer_by`; the same message sent again then gets the answer), and why."""

    id: str
    version: int
    state: str
    opt: str
    reason: str
    target_kw: float | None = None
    baseline_kw: float | None = None
    available_kw: float | None = None
    duplicate: bool = False
    answer_by: datetime | None = None


@dataclass(frozen=True, slots=True)
class Shed:
    """Cards from which power is taken together, and the cap in W down to which each of them may be taken."""

    gpus: tuple[str, ...]
    cap_w: float


@dataclass(frozen=True)
class SiteView:
    """A site as a utility may see it, in kW at its meter.

    `import_kw`: measured (None: no reading). `event_kw`: the cap that this program's events put on it now, with their
    ramps (inf: none); `event_start`: when the one that runs began; `ramping`: it is in a ramp. `least_kw`: what the
    site can come down to now, `most_kw`: what it can draw at most, `limit_kw`: its limit without events (inf: none).
    `sheds`: in which order its cards give power.
    """

    at: datetime
    import_kw: float | None
    event_kw: float
    event_start: datetime | None
    ramping: bool
    least_kw: float
    most_kw: float
    limit_kw: float
    sheds: tuple[Shed, ...] = ()


class EventDesk(Protocol):
    """The site's side of one channel. Thread-safe. `program` and `site` are what its messages are about, `longest` is
    the longest event that the program accepts."""

    program: str
    site: str
    longest: timedelta

    def accept(self, message: EventMessage) -> EventAnswer:
        """Put a verified message into the ledger; durable when it returns. Raises EventRefused: with status 503 it is
        not acknowledged and must be handed in again, otherwise it never will be taken."""
        ...

    def look(self) -> SiteView:
        """The site now."""
        ...

    def say(self, note: Note) -> None:
        """Tell people."""
        ...


@runtime_checkable
class EventSession(Protocol):
    """A channel that calls the utility, or a broker, and stays connected. Made from its config alone; raises
    AdapterError then for what is wrong on this machine (a key that cannot be read)."""

    def check(self) -> str:
        """Connect once and say with what, changing nothing. Raises AdapterError."""
        ...

    def start(self, desk: EventDesk) -> None:
        """Connect and stay connected, in threads of its own; returns at once, also where nobody answers yet."""
        ...

    def close(self) -> None:
        """End the connection and the threads; harmless when it was never started."""
        ...
