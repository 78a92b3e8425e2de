"""What a program's contract lets it ask: how often, and how long before. The answer to more says what would be taken.

Why in the ledger: whether the tenth call of a summer is still owed is known from the nine in the books, whatever
channel brought them. An emergency is always taken; a change of an event that was taken is no new call.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from datetime import date, datetime, timedelta
from zoneinfo import ZoneInfo

from adapters.ports import EventMessage
from scheduler.ledger.states import EventRow


@dataclass(frozen=True)
class Calls:
    """Calls that a program may make, by the calendar of `zone`: in a day, in a season of these months (in their order,
    so that a winter begins in its first), or in a year where no months are named."""

    per_day: int | None = None
    per_season: int | None = None
    months: tuple[int, ...] = ()
    zone: str = "UTC"

    def day(self, moment: datetime) -> date:
        """The site's day of a moment."""
        return moment.astimezone(ZoneInfo(self.zone)).date()

    def season(self, day: date) -> int | None:
        """The year in which the season of a day began; None for a day outside."""
        if not self.months:
            return day.year
        if day.month not in self.months:
            return None
        return day.year if day.month >= self.months[0] else day.year - 1

    def next_season(self, season: int) -> date:
        """First day of the season after."""
        return date(season + 1, self.months[0] if self.months else 1, 1)


def not_owed(
    message: EventMessage, rows: Iterable[EventRow], calls: Calls | None, notice_s: float | None, now: datetime
) -> str:
    """Why the program may not ask this, with what it may; empty when it may. `notice_s`: the least notice of an event
    that is taken at all (None: any)."""
    if message.emergency or (calls is None and notice_s is None):
        return ""
    held = [row for row in rows if row.event.program == message.program and counts(row)]
    calls_of = _calls(held)
    if _call(f"{message.program}/{message.id}", message.source, calls_of) in calls_of.values():
        return ""
    return next(_reasons(message, held, calls, notice_s, now), "")


def counts(row: EventRow) -> bool:
    """Whether a row is a call that was taken: it binds, or bound until it was withdrawn from inside."""
    return row.opt == "in" and not row.refused and not row.voided


def _reasons(
    message: EventMessage, held: list[EventRow], calls: Calls | None, notice_s: float | None, now: datetime
) -> Iterator[str]:
    if notice_s is not None and message.start - now < timedelta(seconds=notice_s):
        first = now + timedelta(seconds=notice_s)
        yield f"start: the program's notice is {notice_s / 60:.0f} min; from {first:%Y-%m-%d %H:%M}Z on it can be had"
    if calls is None:
        return
    day = calls.day(message.start)
    season = calls.season(day)
    if season is None:
        yield f"start: {day} is outside the program's season"
        return
    calls_of = _calls(held)
    days = {calls_of[row.key]: calls.day(row.event.start) for row in held}
    if calls.per_day is not None and sum(1 for one in days.values() if one == day) >= calls.per_day:
        following = day + timedelta(days=1)
        yield f"start: the program's {calls.per_day} a day are taken on {day}; from {following} on it can be had"
    if calls.per_season is not None:
        taken = sum(1 for one in days.values() if calls.season(one) == season)
        if taken >= calls.per_season:
            following = calls.next_season(season)
            yield f"start: the program's {calls.per_season} of the season are taken; from {following} on it can be had"


def _calls(rows: Iterable[EventRow]) -> dict[str, str]:
    """The call that each row is a part of, by its key."""
    sources = {row.key: row.event.source for row in rows}
    return {key: _call(key, source, sources) for key, source in sources.items()}


def _call(key: str, source: str, known: Iterable[str]) -> str:
    """Parts of one event are one call: `E~...` of OpenADR 3, `E.1` beside the `E` of the channels that number them."""
    name = key.partition("~")[0]
    base, dot, part = name.rpartition(".")
    numbered = dot and part.isdecimal() and source.startswith(("openadr2 ", "dsxflex "))
    return base if numbered and base in known else name
