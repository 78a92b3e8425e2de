"""From a message to caps in kW: what is nonsense, what is agreed, and how a running event changes without a jump.

Why caps: limits, reductions and percentages all become one import cap with the baseline that was used written beside
it, so that plan, fast loop and settlement read the same figure, and a later version can't move the baseline.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from datetime import datetime, timedelta
from typing import Literal

from adapters.ports import EventMessage, EventTarget
from optimizer.domain import GridEvent, Span
from optimizer.envelope import event_limit_kw
from scheduler.ledger.pacing import STEP_S, Pace, paced, paced_event
from scheduler.ledger.policy import Calls
from scheduler.ledger.states import EventRow

LONGEST_TEXT, MOST_TARGETS, LONGEST_RAMP_S = 128, 1000, 86_400.0
TOLERANCE_KW = 0.5
"""A shortfall below this is within what a site meter resolves, and is not mentioned."""


@dataclass(frozen=True)
class ProgramTerms:
    """What a program says where its message is silent.

    `rebound_share` caps the import after the event at that share of the baseline (None: no cap). `shortfall` says what
    becomes of a firm event that asks for more than the site can shed: taken as best effort, or refused.
    `declared_baseline_kw` replaces the measured baseline, the mean of the `baseline_s` before the message. Events of a
    `voluntary` program are answered `answer_before_s` before they start, after the plan has weighed them. Caps move no
    faster than `pace`, even where a message asks for it. `rank`: see scheduler.ledger.conflicts.
    """

    id: str = ""
    ramp_in_s: float = 300.0
    ramp_out_s: float = 300.0
    rebound_s: float = 3600.0
    rebound_share: float | None = 1.0
    near_s: float = 1800.0
    max_duration_s: float = 86_400.0
    max_ahead_s: float = 366 * 86_400.0
    shortfall: Literal["best_effort", "refuse"] = "best_effort"
    penalty_per_kwh: float = 5.0
    credit_per_kwh: float = 0.0
    declared_baseline_kw: float | None = None
    baseline_s: float = 900.0
    calls: Calls | None = None
    least_notice_s: float | None = None
    voluntary: bool = False
    answer_before_s: float = 900.0
    rank: int | None = None
    pace: Pace = field(default_factory=Pace)


def nonsense(message: EventMessage, terms: ProgramTerms, now: datetime) -> str:
    """Why a message can't be an event, naming the field; empty when it can."""
    return next(_faults(message, terms, now), "")


def _faults(message: EventMessage, terms: ProgramTerms, now: datetime) -> Iterator[str]:
    """Faults in the order in which a reader meets the fields; later checks rely on earlier ones having passed."""
    if message.fault:
        yield message.fault
    yield from _time_faults(message, terms, now)
    yield from _target_faults(message)


def nameless(message: EventMessage) -> str:
    """Why a message can't even be kept under its name, naming the field; empty when it can."""
    return next(_identity_faults(message), "")


def _identity_faults(message: EventMessage) -> Iterator[str]:
    for name, text in (("id", message.id), ("site", message.site)):
        if not text or len(text) > LONGEST_TEXT or not text.isprintable():
            yield f"{name}: must be 1 to {LONGEST_TEXT} printable characters"
    if message.version < 0:
        yield f"version: {message.version} is below 0"


def _time_faults(message: EventMessage, terms: ProgramTerms, now: datetime) -> Iterator[str]:
    for name, moment in (("start", message.start), ("end", message.end)):
        if moment.tzinfo is None:
            yield f"{name}: {moment.isoformat()} has no time zone"
    if message.end <= message.start:
        yield f"end: {message.end.isoformat()} is not after the start {message.start.isoformat()}"
    if message.end <= now:
        yield f"end: {message.end.isoformat()} is past; it is {now.isoformat()}"
    longest = timedelta(seconds=terms.max_duration_s)
    if message.end - message.start > longest and not message.standing:
        yield f"end: the event is {message.end - message.start} long; the program allows {longest}"
    if message.start - now > timedelta(seconds=terms.max_ahead_s):
        yield f"start: {message.start.isoformat()} is more than {terms.max_ahead_s / 86400:.0f} days ahead"
    for name, seconds in (("ramp_in_s", message.ramp_in_s), ("ramp_out_s", message.ramp_out_s),
                          ("rebound_s", message.rebound_s)):  # fmt: skip
        if seconds is not None and not 0 <= seconds <= LONGEST_RAMP_S:
            yield f"{name}: {seconds} is not between 0 and {LONGEST_RAMP_S:.0f} seconds"


def _target_faults(message: EventMessage) -> Iterator[str]:
    if not 1 <= len(message.targets) <= MOST_TARGETS:
        yield f"targets: there must be 1 to {MOST_TARGETS}, not {len(message.targets)}"
    expected = message.start
    for index, target in enumerate(message.targets):
        if target.start != expected or target.end <= target.start:
            yield f"targets[{index}].start: targets must follow each other without gaps from start to end"
        expected = target.end
        yield from (f"targets[{index}].{fault}" for fault in _value_faults(target))
    if expected != message.end:
        yield f"targets[{len(message.targets) - 1}].end: targets must reach the end {message.end.isoformat()}"


def _value_faults(target: EventTarget) -> Iterator[str]:
    given = {
        name: value
        for name in ("limit_kw", "reduce_kw", "reduce_percent")
        if (value := getattr(target, name)) is not None
    }
    if len(given) != 1:
        yield f"limit_kw: exactly one of limit_kw, reduce_kw, reduce_percent is needed, not {len(given)}"
    for name, value in given.items():
        if not math.isfinite(value) or value < 0:
            yield f"{name}: {value} is not a number from 0 on"
    if (target.reduce_percent or 0) > 100:
        yield f"reduce_percent: {target.reduce_percent} is above 100"


def cap_kw(target: EventTarget, baseline_kw: float) -> float:
    """The import cap that a target means, at least 0."""
    if target.limit_kw is not None:
        return target.limit_kw
    if target.reduce_kw is not None:
        return max(0.0, baseline_kw - target.reduce_kw)
    return baseline_kw * (1 - (target.reduce_percent or 0.0) / 100)


def asked_kw(message: EventMessage, baseline_kw: float) -> float:
    """Largest reduction below the baseline that a message asks for; more than the baseline when it says so."""
    return max(
        target.reduce_kw if target.reduce_kw is not None else baseline_kw - cap_kw(target, baseline_kw)
        for target in message.targets
    )


def resolve(
    message: EventMessage,
    shown_id: str,
    baseline_kw: float,
    terms: ProgramTerms,
    former: EventRow | None,
    now: datetime,
) -> tuple[GridEvent, datetime]:
    """The event in caps, and from when its target is fully owed. What has passed is clipped; where `former` is in
    flight and the message covers the present, the cap moves from where it is now, by the ramp."""
    ramp_in_s, ramp_out_s = _or(message.ramp_in_s, terms.ramp_in_s), _or(message.ramp_out_s, terms.ramp_out_s)
    continued = former is not None and former.in_flight(now) and message.start <= now
    start = min(now, max(message.start, former.event.start)) if continued and former else max(message.start, now)
    targets = tuple(
        Span(max(target.start, now if continued else start), target.end, cap_kw(target, baseline_kw))
        for target in message.targets
        if target.end > (now if continued else start)
    )
    if continued and former is not None:
        level_kw = event_limit_kw(former.event, now)
        targets, due_from = _carried_on(targets, level_kw, start, now, (ramp_in_s, ramp_out_s), terms.pace)
        ramp_in_s = 0.0
    else:
        targets, ramp_in_s = paced_event(targets, baseline_kw, start, ramp_in_s, terms.pace)
        due_from = start + timedelta(seconds=ramp_in_s)
    ramp_out_s = max(ramp_out_s, terms.pace.seconds(targets[-1].value, max(baseline_kw, targets[-1].value)))
    event = GridEvent(
        id=shown_id,
        version=message.version,
        site=message.site,
        start=start,
        end=message.end,
        targets=targets,
        baseline_kw=baseline_kw,
        ramp_in_s=ramp_in_s,
        ramp_out_s=ramp_out_s,
        rebound_kw=None if terms.rebound_share is None else baseline_kw * terms.rebound_share,
        rebound_s=_or(message.rebound_s, terms.rebound_s),
        priority=message.priority,
        firm=message.firm,
        emergency=message.emergency,
        penalty_per_kwh=terms.penalty_per_kwh,
        credit_per_kwh=terms.credit_per_kwh,
        program=message.program,
        source=message.source,
        name=printable(message.name),
        ramp_up_kw_per_min=terms.pace.up_kw_per_min,
        ramp_down_kw_per_min=terms.pace.down_kw_per_min,
    )
    return event, due_from


def _carried_on(
    targets: tuple[Span, ...],
    level_kw: float,
    start: datetime,
    now: datetime,
    ramps_s: tuple[float, float],
    pace: Pace,
) -> tuple[tuple[Span, ...], datetime]:
    """`_moved`, no faster than the program's pace there and in what follows."""
    least_s = pace.seconds(level_kw, targets[0].value)
    targets, due_from = _moved(targets, level_kw, start, now, (max(ramps_s[0], least_s), max(ramps_s[1], least_s)))
    moved, rest = [span for span in targets if span.start < due_from], [s for s in targets if s.start >= due_from]
    return (*moved, *paced(rest, moved[-1].value if moved else level_kw, pace)), due_from


def slowed(message: EventMessage, baseline_kw: float, terms: ProgramTerms) -> list[str]:
    """What to answer where the program's pace leaves no time for the ramp in that was asked for."""
    first_kw = cap_kw(message.targets[0], baseline_kw)
    asked_s = _or(message.ramp_in_s, terms.ramp_in_s)
    least_s = terms.pace.seconds(max(baseline_kw, first_kw), first_kw)
    text = f"the ramp in takes {least_s:.0f} s, not {asked_s:.0f}: {terms.pace.down_kw_per_min:g} kW a minute at most"
    return [text] if least_s > asked_s else []


def _moved(
    targets: tuple[Span, ...], level_kw: float, start: datetime, now: datetime, ramps_s: tuple[float, float]
) -> tuple[tuple[Span, ...], datetime]:
    """Targets that start from the cap in force and reach the new one in small steps, and when they have.

    A straight line would need a field of its own in every consumer; steps of some seconds are caps like any other.
    """
    ramp_s = ramps_s[0] if targets[0].value < level_kw else ramps_s[1]
    steps = min(120, math.ceil(ramp_s / STEP_S))
    due_from = min(now + timedelta(seconds=ramp_s), targets[-1].end)
    held = (Span(start, now, level_kw),) if start < now else ()
    stairs: list[Span] = []
    for step in range(steps):
        left, right = (now + (due_from - now) * (edge / steps) for edge in (step, step + 1))
        goal_kw = next(span.value for span in targets if span.end > left)
        stairs.append(Span(left, right, level_kw + (goal_kw - level_kw) * (step + 1) / steps))
    rest = tuple(replace(span, start=max(span.start, due_from)) for span in targets if span.end > due_from)
    return (*held, *(stairs if steps else ()), *(rest if steps else targets)), due_from


def printable(text: str) -> str:
    """A name that can't break a log line or a terminal."""
    return "".join(letter if letter.isprintable() else "?" for letter in text)[:LONGEST_TEXT]


def _or(value: float | None, default: float) -> float:
    return default if value is None else value
