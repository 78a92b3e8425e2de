"""Load targets as they arrive, checked before anything believes them: envelope, sender, signature, age, replay.

Why what is signed is remembered: the signature covers the data alone, so that whoever recorded a message could send its
data again in a new envelope. The same data in another envelope is a replay; the same message again is a duplicate,
which brokers make by themselves (QoS 1, retained messages) and which is passed over in silence.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta

from adapters.dr.dsxflex_book import FOREVER, Piece
from adapters.dr.dsxflex_config import DsxFlexConfig
from adapters.dr.dsxflex_jws import Keys
from adapters.dr.dsxflex_schema import ENFORCEMENT, SET, Enforcement, Envelope, LoadTargets, read_data, read_envelope
from adapters.ports import EventRefused, RecordStore

SEEN = "dsx_seen"
SEEN_FOR_S = 400 * 86_400.0
AHEAD = timedelta(minutes=5)
"""How far a message's time may lie ahead of the clock: it would cover everything that is made until then."""


@dataclass(frozen=True, slots=True)
class Received:
    """What one message says: targets of our feed, and what remembers it."""

    pieces: tuple[Piece, ...]
    digest: str
    id: str
    correlation: str
    traceparent: str


@dataclass
class Inbox:
    """Reads messages of one isv about one feed. `seen`: digest of signed data -> id of the message that brought it."""

    config: DsxFlexConfig
    keys: Keys
    seen: dict[str, str] = field(default_factory=dict)

    def read_targets(self, body: bytes, now: datetime, wall: datetime) -> Received | None:
        """One message; a target without a start begins at `now`. None: it came before. Raises EventRefused."""
        envelope = read_envelope(body, SET)
        source = f"//grid/v1/isv/{self.config.isv}"
        if envelope.source != source:
            raise EventRefused(f"source: {envelope.source!r} on the topic of {source}", 401)
        data, digest = self._verified(envelope)
        if digest in self.seen:
            if self.seen[digest] == str(envelope.id):
                return None
            raise EventRefused(f"message {envelope.id}: its data came before, in message {self.seen[digest]}", 401)
        if envelope.time > wall + AHEAD:
            raise EventRefused(f"time: {envelope.time.isoformat()} lies ahead; it is {wall.isoformat()}", 422)
        if envelope.time < wall - self.config.oldest:
            raise EventRefused(f"time: {envelope.time.isoformat()} is longer ago than {self.config.oldest}", 422)
        correlation = str(envelope.correlationid or envelope.id)
        pieces = self._pieces(read_data(LoadTargets, data), envelope, correlation, now)
        return Received(tuple(pieces), digest, str(envelope.id), correlation, envelope.traceparent)

    def read_enforcement(self, body: bytes) -> Enforcement:
        """What the infrastructure did about a breach. Raises EventRefused."""
        envelope = read_envelope(body, ENFORCEMENT)
        if envelope.source != f"//grid/v1/infra/{self.config.infra}":
            raise EventRefused(f"source: {envelope.source!r} is not whom we listen to", 401)
        return read_data(Enforcement, self._verified(envelope)[0])

    def _verified(self, envelope: Envelope) -> tuple[bytes, str]:
        """Data that its source signed, and its digest."""
        if isinstance(envelope.data, str):
            return self.keys.verify(envelope.data, envelope.source), _digest(envelope.data)
        if not self.config.unsigned:
            raise EventRefused("data: it is not signed", 401)
        return json.dumps(envelope.data).encode(), _digest(str(envelope.id))

    def _pieces(self, data: LoadTargets, envelope: Envelope, correlation: str, now: datetime) -> Iterable[Piece]:
        made = envelope.time.astimezone(UTC).isoformat(timespec="microseconds")
        for place, target in enumerate(data.targets):
            if target.feed_tags and self.config.feed not in target.feed_tags:
                continue
            start = target.interval.start_time or now
            end = min(target.interval.end_time or FOREVER, FOREVER)
            if end <= max(start, now):
                raise EventRefused(f"targets.{place}.interval: it is over; it is {now.isoformat()}", 422)
            cap_kw = target.load_constraint.kw if target.load_constraint is not None else None
            stamp = (made, str(envelope.id), place)
            yield Piece(start, end, cap_kw, target.strategy.best_effort, stamp, correlation)


def keep_seen(records: RecordStore, program: str, seen: Mapping[str, str]) -> None:
    """Remember messages, on disk when it returns."""
    if seen:
        first = next(iter(seen))
        records.put(SEEN, f"{program}/{first}", {"seen": dict(seen), "forget_after_s": SEEN_FOR_S})


def all_seen(records: RecordStore, program: str) -> dict[str, str]:
    """What was remembered."""
    kept = (body["seen"] for key, body in records.all(SEEN).items() if key.startswith(f"{program}/"))
    return {digest: message for batch in kept for digest, message in batch.items()}


def _digest(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()[:32]
