"""Which of several orders holds where they overlap at a site: by priority, then the stricter; and who is told so.

Why a pure function of the rows: whatever brought the orders, and in whatever order, the same rows give the same caps,
after a restart too. What yields gets the cap of what holds laid over its own: a hole would be left and entered again by
ramps. Priorities of different senders compare only where the operator has ranked their programs; else both are owed,
and the stricter cap meets both. Hard limits, emergencies and the operator's own orders yield to nobody.
"""

from __future__ import annotations

import heapq
import math
from bisect import bisect_right
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import datetime
from itertools import pairwise

from optimizer.domain import GridEvent, Span
from optimizer.envelope import event_limit_kw
from optimizer.reasons import Note, Reason, Severity
from scheduler.ledger.pacing import Pace, paced
from scheduler.ledger.states import EventRow

Level = tuple[float, float]
"""Rank of the program, priority of the event; the lower goes first. What states none comes last."""


@dataclass(frozen=True, slots=True)
class Rule:
    """The cap that holds over [start, end) among the orders of a group: the strictest of the highest level."""

    start: datetime
    end: datetime
    level: Level
    cap_kw: float
    row_id: str


@dataclass(frozen=True, slots=True)
class Settled:
    """An event with the caps of what it yields to laid over its own, and those pieces."""

    event: GridEvent
    rules: tuple[Rule, ...]

    def ruler(self, now: datetime) -> str | None:
        """Id of the row that holds in its place at `now`."""
        return next((rule.row_id for rule in self.rules if rule.start <= now < rule.end), None)


def level_of(row: EventRow) -> Level:
    """What its priority is compared by."""
    priority = row.event.priority
    return math.inf if row.rank is None else row.rank, math.inf if priority is None else priority


def group_of(row: EventRow) -> tuple[str, str] | None:
    """Site and program of rows whose priorities compare; all ranked programs are one. None: it yields to nobody."""
    if row.hard or row.event.emergency or row.event.program == "operator":
        return None
    return row.event.site, "" if row.rank is not None else row.event.program


def settled(rows: Iterable[EventRow]) -> dict[str, Settled]:
    """By row, the events that yield somewhere to one of higher priority and looser cap; all others are as they say."""
    groups: dict[tuple[str, str], list[EventRow]] = defaultdict(list)
    for row in rows:
        if (group := group_of(row)) is not None:
            groups[group].append(row)
    found = {}
    for same in groups.values():
        if len({level_of(row) for row in same}) > 1:
            rules = _rules(same)
            for row in same:
                if (one := _yielding(row, rules)) is not None:
                    found[row.id] = one
    return found


def _rules(rows: Sequence[EventRow]) -> list[Rule]:
    """For each moment the strictest cap of the highest level, in the order of time; equal neighbours are one."""
    spans = sorted(
        ((span.start, span.end, (level_of(row), span.value, row.id)) for row in rows for span in row.event.targets),
        reverse=True,
    )
    cuts = sorted({cut for start, end, _ in spans for cut in (start, end)})
    heap: list[tuple[tuple[Level, float, str], datetime]] = []
    found: list[Rule] = []
    for left, right in pairwise(cuts):
        while spans and spans[-1][0] <= left:
            _, end, key = spans.pop()
            heapq.heappush(heap, (key, end))
        while heap and heap[0][1] <= left:
            heapq.heappop(heap)
        if not heap:
            continue
        (level, cap_kw, row_id), _ = heap[0]
        last = found[-1] if found else None
        if last and last.end == left and (last.level, last.cap_kw, last.row_id) == (level, cap_kw, row_id):
            found[-1] = replace(last, end=right)
        else:
            found.append(Rule(left, right, level, cap_kw, row_id))
    return found


def _yielding(row: EventRow, rules: Sequence[Rule]) -> Settled | None:
    """The event under the rules of its group; None where nothing of it yields."""
    event, level = row.event, level_of(row)
    pieces: list[Span] = []
    used: list[Rule] = []
    for span in event.targets:
        at = span.start
        index = max(0, bisect_right(rules, span.start, key=lambda rule: rule.start) - 1)
        while index < len(rules) and rules[index].start < span.end:
            rule = rules[index]
            index += 1
            begin, stop = max(at, rule.start), min(span.end, rule.end)
            if begin >= stop or rule.level >= level or rule.cap_kw <= span.value:
                continue
            pieces += [Span(at, begin, span.value)] if at < begin else []
            pieces.append(Span(begin, stop, rule.cap_kw))
            used.append(replace(rule, start=begin, end=stop))
            at = stop
        pieces += [Span(at, span.end, span.value)] if at < span.end else []
    if not used:
        return None
    pace = Pace(event.ramp_up_kw_per_min, event.ramp_down_kw_per_min)
    targets = (pieces[0], *paced(pieces[1:], pieces[0].value, pace))
    return Settled(replace(event, targets=targets), tuple(used))


# ---------------------------------------------------------------- what is said
def told(row: EventRow, others: Iterable[EventRow]) -> tuple[list[str], list[str]]:
    """What to answer about others at the same time: whom it yields to (which a later message may change), and what
    yields to it or where the stricter cap holds."""
    beside = {other.id: other for other in others if other.key != row.key and _overlap(other.event, row.event)}
    found = settled([*beside.values(), row])
    mine = found.pop(row.id, None)
    above = {rule.row_id for rule in mine.rules} if mine else set()
    below = {key for key, one in found.items() if any(rule.row_id == row.id for rule in one.rules)}
    rest = [other for key, other in beside.items() if key not in above | below]
    beside_it = [f"its priority holds over {_names(beside[key] for key in sorted(below))}"] if below else []
    beside_it += [f"overlaps {_names(rest)}: the stricter cap holds at each moment"] if rest else []
    return [yielding(mine, row, beside)] if mine else [], beside_it


def yielding(one: Settled, row: EventRow, rows: Mapping[str, EventRow]) -> str:
    """To whom an event yields, and from when to when."""
    above = list(dict.fromkeys(rule.row_id for rule in one.rules))
    first = rows[above[0]]
    by = f"{_said(first)} before {_said(row)}" if len(above) == 1 else "higher priority"
    start, end = one.rules[0].start, one.rules[-1].end
    when = f"between {start:%Y-%m-%d %H:%M} and {end:%Y-%m-%d %H:%M}Z"
    return f"yields to {_names(rows[key] for key in above)} ({by}) {when}"


def notes(rows: Sequence[EventRow], found: Mapping[str, Settled], now: datetime) -> tuple[Note, ...]:
    """Overlaps of `rows`, which are running, said aloud: which is the stricter one, and who yields to whom."""
    by_id = {row.id: row for row in rows}
    said = []
    for row in rows:
        above = by_id.get((found[row.id].ruler(now) or "") if row.id in found else "")
        if above is not None:
            text = f"event {row.event.id} at {row.event.site} yields to {above.event.id}: "
            text += f"{_said(above)} before {_said(row)}"
            text += f"; its own cap of {event_limit_kw(row.event, now):.0f} kW does not hold now"
            said.append(Note(Reason.EVENT_CONFLICT, row.event.id, text, Severity.WARNING, now))
    events = [found[row.id].event if row.id in found else row.event for row in rows]
    for site in sorted({event.site for event in events}):
        caps = sorted((event_limit_kw(event, now), event.id) for event in events if event.site == site)
        if len(caps) > 1:
            names = ", ".join(name for _, name in caps)
            text = f"events {names} overlap at {site}: {caps[0][1]} is the strictest now with {caps[0][0]:.0f} kW"
            said.append(Note(Reason.EVENT_CONFLICT, caps[0][1], text, Severity.INFO, now))
    return tuple(said)


def _overlap(one: GridEvent, other: GridEvent) -> bool:
    return one.site == other.site and one.start < other.end and other.start < one.end


def _names(rows: Iterable[EventRow]) -> str:
    names = list(dict.fromkeys(row.event.id for row in rows))
    return ", ".join(names[:5]) + (f" and {len(names) - 5} more" if len(names) > 5 else "")


def _said(row: EventRow) -> str:
    rank = f"program {row.event.program} ranked {row.rank}, " if row.rank is not None else ""
    return f"{rank}priority {'none' if row.event.priority is None else row.event.priority}"
