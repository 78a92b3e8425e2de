"""The ledger's rows on the store, and the same rows in memory.

Why both: the fast loop asks each second and must not touch the disk; a message is on disk before its row shows in
memory, so what the loops act on is never more than what a restart would find.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, MutableMapping
from contextlib import contextmanager, suppress
from dataclasses import asdict, replace
from datetime import datetime, timedelta
from typing import Any

from adapters.ports import EventMessage
from scheduler.ledger.conflicts import Settled, settled, yielding
from scheduler.ledger.states import Delivery, EventRow, EventState
from scheduler.service import EventAnswer
from scheduler.store.codec import checksum, json_text, plain_values, typed_value
from scheduler.store.store import Record, Store, StoreDegraded

KEEP_EVERY = timedelta(minutes=1)
WATCHED = timedelta(days=1)
"""How long a row that is over stays in sight of the loops: a clock that jumped ahead may come back."""
_ABSENT = object()


class Books:
    """Rows by id, the highest accepted version of each event (`heads`), answers, deliveries and last states."""

    def __init__(self, store: Store) -> None:
        self._store = store
        # Taken before priorities counted (then 0 also stood for none): as it was answered, the stricter cap holds.
        before = {"hard": True}
        self.rows = {key: typed_value(EventRow, {**before, **body}) for key, body in store.all("event").items()}
        self.heads: dict[str, EventRow] = {}
        self.live: dict[str, EventRow] = {}
        self._settled: dict[str, Settled] | None = None
        self._numbers = 0
        self._gathered: list[Record] | None = None
        self._before: list[tuple[MutableMapping[str, Any], str, Any]] = []
        self._shown: dict[str, str] = {}
        for row in sorted(self.rows.values(), key=lambda row: row.number):
            self._index(row)
        self.deliveries = {key: typed_value(Delivery, body) for key, body in store.all("event_delivery").items()}
        self.states = {key: EventState(body["state"]) for key, body in store.all("event_state").items()}
        self._answers = store.all("event_answer")
        self._said: dict[str, tuple[int, bool]] = {}
        for identity in self._answers:
            self._hear(identity)
        self._kept_at: dict[str, datetime] = {}

    @contextmanager
    def together(self) -> Iterator[None]:
        """What is kept within the block goes to disk when it ends, in one transaction. An error, of the disk or of the
        block, leaves rows and answers as they were before it, on disk and here."""
        self._gathered, numbers = [], self._numbers
        try:
            yield
            if self._gathered:
                self._store.put_all(self._gathered)
        except BaseException:
            self._settled, self._numbers = None, numbers
            for mapping, key, value in reversed(self._before):
                if value is _ABSENT:
                    del mapping[key]
                else:
                    mapping[key] = value
            raise
        finally:
            self._gathered = None
            self._before.clear()

    def _put(self, records: list[Record]) -> None:
        """On disk now, or with all else at the end of the block."""
        if self._gathered is None:
            self._store.put_all(records)
        else:
            self._gathered += records

    def _set(self, mapping: MutableMapping[str, Any], key: str, value: Any) -> None:
        """Change what is held in memory, in a way that the end of the block can take back."""
        if self._gathered is not None:
            self._before.append((mapping, key, mapping.get(key, _ABSENT)))
        mapping[key] = value

    def _index(self, row: EventRow) -> None:
        self._set(self.rows, row.id, row)
        self._set(self.live, row.id, row)
        self._settled = None
        self._numbers = max(self._numbers, row.number)
        if row.event.id not in self._shown:
            self._set(self._shown, row.event.id, row.key)
        head = self.heads.get(row.key)
        if not row.refused and (head is None or row.version >= head.version):
            self._set(self.heads, row.key, row)

    def _hear(self, identity: str) -> None:
        """Remember the newest version of an event that anybody sent, and whether it was a cancellation."""
        key, _, version = identity.rpartition("#")
        said = int(version.removesuffix("!")), version.endswith("!")
        self._set(self._said, key, max(said, self._said.get(key, (-1, False))))

    def next_version(self, message: EventMessage) -> int | None:
        """The version that a message of a sender without versions gets; None when it says what was said last."""
        key = f"{message.program}/{message.id}"
        last, withdrawn = self._said.get(key, (-1, False))
        if message.cancelled:
            head = self.heads.get(key)
            return None if head is None or head.cancelled or withdrawn else max(last, head.known_version)
        held = self._answers.get(f"{key}#{last}")
        same = not withdrawn and held is not None and held["content"] == _content(message)
        return None if same else max(last, self.heads[key].known_version if key in self.heads else -1) + 1

    def followed(self, program: str, source: str, now: datetime) -> tuple[EventRow, ...]:
        """Heads of a program that came by a channel, are not over and were not withdrawn."""
        heads = [head for key in {row.key for row in self.live.values()} if (head := self.heads.get(key)) is not None]
        mine = [row for row in heads if (row.event.program, row.event.source) == (program, source)]
        return tuple(row for row in mine if now < row.event.end and not (row.voided or row.cancelled))

    def bound(self) -> Iterable[EventRow]:
        """Rows that put a cap on something, those long over left out."""
        return [row for row in self.live.values() if row.binds]

    def settled(self) -> Mapping[str, Settled]:
        """Rows that yield to others, reckoned once for each change."""
        if self._settled is None:
            self._settled = settled(self.bound())
        return self._settled

    def as_settled(self, row: EventRow, now: datetime) -> EventRow:
        """The row as it holds beside the others, for people to see."""
        one = self.settled().get(row.id)
        if one is None or now >= row.event.end:
            return row
        return replace(row, event=one.event, answer=f"{row.answer}; {yielding(one, row, self.rows)}")

    def next_number(self) -> int:
        """Number of the next row."""
        return self._numbers + 1

    def shown_id(self, message: EventMessage) -> str:
        """The event's id as people see it: its own, or program/id where another program uses the same."""
        key = f"{message.program}/{message.id}"
        return message.id if self._shown.get(message.id, key) == key else key

    def find(self, event_id: str) -> EventRow:
        """The head of an event by its shown id or by program/id. Raises KeyError."""
        if event_id in self.heads:
            return self.heads[event_id]
        return self.heads[self._shown[event_id]]

    def find_any(self, event_id: str) -> EventRow:
        """As `find`; for an event that was only ever refused, its last refusal. Raises KeyError."""
        with suppress(KeyError):
            return self.find(event_id)
        key = self._shown.get(event_id, event_id)
        refused = [row for row in self.rows.values() if row.key == key]
        if not refused:
            raise KeyError(event_id)
        return max(refused, key=lambda row: row.number)

    def answer(self, message: EventMessage) -> tuple[EventAnswer, bool] | None:
        """What this version was answered, and whether this message says the same as the one first received."""
        held = self._answers.get(_identity(message))
        if held is None:
            return None
        return typed_value(EventAnswer, held["answer"]), held["content"] == _content(message)

    def keep(
        self, message: EventMessage, rows: Iterable[EventRow], answer: EventAnswer | None, now: datetime, by: str = ""
    ) -> None:
        """Message, rows and answer, on disk together and then in memory (in a block of `together`: on disk when that
        ends). Raises StoreDegraded, nothing changed."""
        rows = tuple(rows)
        identity = _identity(message)
        said = plain_values(answer) if answer is not None else {}
        log = {"message": plain_values(message), "answer": said, "by": by}
        records = [Record("event_message", f"{message.program}/{message.id}", log, log_at=now, log_only=True)]
        records += [Record("event", row.id, plain_values(row)) for row in rows]
        held = {"answer": said, "content": _content(message)}
        if answer is not None:
            records.append(Record("event_answer", identity, held))
        self._put(records)
        if answer is not None:
            self._set(self._answers, identity, held)
            self._hear(identity)
        for row in rows:
            self._index(row)

    def carry_on(self, former: EventRow, row: EventRow) -> None:
        """What was measured for a version counts for the one that takes over in flight."""
        if former.id in self.deliveries:
            self._set(self.deliveries, row.id, self.deliveries[former.id])

    def keep_decision(self, row: EventRow, answer: EventAnswer, now: datetime, by: str) -> None:
        """The site's answer to a voluntary event, in place of the one that said to wait. Raises StoreDegraded, nothing
        changed."""
        said = plain_values(answer)
        held = {**self._answers.get(row.id, {"content": 0}), "answer": said}
        log = {"message": plain_values(row.event), "answer": said, "by": by}
        self._put(
            [
                Record("event_message", row.key, log, log_at=now, log_only=True),
                Record("event", row.id, plain_values(row)),
                Record("event_answer", row.id, held),
            ]
        )
        self._set(self._answers, row.id, held)
        self._index(row)

    def keep_states(self, states: Mapping[str, EventState], now: datetime) -> None:
        """Remember which states were told, and let go of rows that are over. A disk that says no lets the states be
        told again after a restart."""
        kept = {key: row for key, row in self.live.items() if row.binds or row.pending}
        self.live = {key: row for key, row in kept.items() if now - WATCHED < row.over_at}
        changed = {key: state for key, state in states.items() if self.states.get(key) != state}
        self.states.update(changed)
        if not changed:
            return
        with suppress(StoreDegraded):
            self._store.put_all(Record("event_state", key, {"state": str(state)}) for key, state in changed.items())

    def keep_delivery(self, row_id: str, now: datetime | None, at_once: bool = False) -> None:
        """Write what was counted when a minute has passed since the last time, or at once."""
        last = self._kept_at.get(row_id)
        due = last is None or now is None or abs(now - last) >= KEEP_EVERY
        if row_id in self.deliveries and (due or at_once):
            if now is not None:
                self._kept_at[row_id] = now
            with suppress(StoreDegraded):
                self._store.put("event_delivery", row_id, asdict(self.deliveries[row_id]))

    def messages(self, event_id: str) -> list[tuple[datetime, dict[str, Any]]]:
        """Every message about an event as it arrived. Raises KeyError."""
        return self._store.log("event_message", self.find(event_id).key)


def _identity(message: EventMessage) -> str:
    return f"{message.program}/{message.id}#{message.version}{'!' if message.cancelled else ''}"


def _content(message: EventMessage) -> int:
    """Tells two messages of one version apart, by what arrived where that is known: a start of "now" always differs."""
    return checksum(json_text(message.raw or plain_values(message)))
