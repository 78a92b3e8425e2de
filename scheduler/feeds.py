"""Channels of demand response that are asked: a thread for each, so that a server that hangs holds up nobody.

Why beside the loops: reading a utility's server may take a quarter of a minute, and what it says must be on disk before
it counts. The fast loop sees it in its next turn, through the ledger, like a message that was pushed.
"""

from __future__ import annotations

import logging
import threading
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from functools import partial
from typing import Any

import structlog

from adapters.dr.polled import EventFeed, FeedNews
from adapters.ports import EventMessage
from optimizer.reasons import Note, Reason, Severity
from scheduler.engine import State
from scheduler.facade import Facade
from scheduler.figures import Figures
from scheduler.service import EventAnswer, Refused

log = structlog.get_logger("gridpace.feeds")
JOIN_S = 5.0
SHORTEST_S = 1.0
BREATH_S = 0.1
INF = float("inf")
LEVELS = {Severity.INFO: logging.INFO, Severity.WARNING: logging.WARNING, Severity.ALERT: logging.ERROR}


@dataclass
class Feeds:
    """Reads each feed every `every_s` seconds of real time (by program), when a report is due, and at once when it is
    called. `sites`: the site of each program."""

    feeds: Mapping[str, EventFeed]
    every_s: Mapping[str, float]
    facade: Facade
    state: State
    sites: Mapping[str, str] = field(default_factory=dict)
    _due_s: dict[str, float] = field(default_factory=dict)
    _said: dict[str, dict[tuple[Reason, str], Note]] = field(default_factory=dict)
    _cues: dict[str, threading.Event] = field(default_factory=dict)
    _threads: list[threading.Thread] = field(default_factory=list)
    _stopping: threading.Event = field(default_factory=threading.Event)

    def start(self) -> None:
        """Begin to read."""
        for program, feed in self.feeds.items():
            self._cues[program] = threading.Event()
            if hasattr(feed, "on_cue"):
                feed.on_cue = partial(self.cue, program)
            thread = threading.Thread(target=self._run, args=(program,), name=f"feed-{program}", daemon=True)
            self._threads.append(thread)
            thread.start()

    def stop(self) -> None:
        """End reading; an answer that is still awaited is not waited for longer than some seconds."""
        self._stopping.set()
        for cue in self._cues.values():
            cue.set()
        for thread in self._threads:
            thread.join(JOIN_S)
        for feed in self.feeds.values():
            feed.close()

    def cue(self, program: str) -> None:
        """Read now."""
        if program in self._cues:
            self._cues[program].set()

    def _run(self, program: str) -> None:
        cue = self._cues[program]
        while not self._stopping.is_set():
            cue.clear()
            try:
                self.turn(program)
            except Exception:
                log.exception("a feed could not be read; it is tried again", program=program)
            self._stopping.wait(BREATH_S)  # many cues at once are one
            cue.wait(min(self.every_s.get(program, 30.0), self._due_s.get(program, INF)))

    def turn(self, program: str) -> tuple[EventAnswer, ...]:
        """Read once and put what changed into the ledger; the answers that were given."""
        now = self.facade.ctx.clock.now()
        news = self.feeds[program].poll(now)
        answers = [answer for message in news.messages if (answer := self._follow(message)) is not None]
        if news.complete:
            answers += self._withdraw_missing(program, news, now)
        self._tell(program, news.notes, now)
        self._due_s[program] = self._report(program, now)
        for answer in answers:
            log.info("event read", program=program, event_id=answer.id, state=answer.state, opt=answer.opt)
        return tuple(answers)

    def _tell(self, program: str, notes: Sequence[Note], now: datetime) -> None:
        """Show the notes; what is new is logged, and shown at once. A channel that is well again is said, too."""
        before, said = self._said.get(program, {}), {(note.code, note.subject): note for note in notes}
        well = [
            Note(Reason.CHANNEL_LOST, subject, f"program {program}: well again", Severity.INFO, now)
            for code, subject in before.keys() - said.keys()
            if code is Reason.CHANNEL_LOST
        ]
        self.state.notes.extend((*notes, *well))
        fresh = [*(note for key, note in said.items() if key not in before), *well]
        for note in fresh:
            log.log(LEVELS[note.severity], note.text, program=program)
        if any(note.severity is Severity.ALERT for note in fresh) or well:
            self.facade.wake()
        self._said[program] = said

    def _report(self, program: str, now: datetime) -> float:
        """Send the reports that are due; seconds of real time to the next, inf for none."""
        reporter: Any = self.feeds[program]
        if not hasattr(reporter, "report"):
            return INF
        following: datetime | None = reporter.report(Figures(self.facade, program, self.sites[program]), now)
        if following is None:
            return INF
        speed = float(getattr(self.facade.ctx.clock, "speed", 1.0))
        return max(SHORTEST_S, (following - now).total_seconds() / speed)

    def _follow(self, message: EventMessage) -> EventAnswer | None:
        try:
            return self.facade.follow(message)
        except Refused as error:
            now = self.facade.ctx.clock.now()
            text = f"event {message.id} of {message.program} is not taken yet: {error}"
            self.state.notes.append(Note(Reason.EVENT_UNREAD, message.id, text, Severity.ALERT, now))
            return None

    def _withdraw_missing(self, program: str, news: FeedNews, now: datetime) -> list[EventAnswer]:
        """Withdraw what the server does not say any more; events, and limits, that it says but can't be read stay."""
        said = {message.id for message in news.messages}
        answers = []
        for source in {message.source for message in news.messages} | {"openadr3"}:
            for row in self.facade.ctx.ledger.followed(program, source, now):
                name = row.key.split("/", 1)[1]
                event_id = name.partition("~")[0]
                if name in said or event_id in news.unread or (row.hard and event_id in news.unread_limits):
                    continue
                gone = EventMessage(
                    name, row.version, row.event.site, row.event.start, row.event.end, (), cancelled=True,
                    program=program, source=source, name=row.event.name,
                )  # fmt: skip
                answer = self._follow(gone)
                answers += [answer] if answer is not None else []
        return answers
