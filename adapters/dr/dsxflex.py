"""NVIDIA DSX Flex 1.7 in the agent's role: load targets in, power states and breaches out, over MQTT.

Why the order "read, keep, acknowledge, tell the ledger": a target is fire and forget, and the broker forgets it when it
is acknowledged. What is on disk is brought to the ledger again after a crash, and a burst of messages becomes the few
versions that count. A malformed message is refused aloud and changes nothing.
"""

from __future__ import annotations

import json
import logging
import queue
import secrets
import threading
import time
from collections.abc import Mapping
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from typing import Any
from uuid import uuid4

from adapters.context import AdapterContext
from adapters.dr.desk import EventDesk
from adapters.dr.dsxflex_book import Book, Order, Piece, Sent, from_record, groups, orders, to_record
from adapters.dr.dsxflex_config import DsxFlexConfig
from adapters.dr.dsxflex_inbox import Inbox, Received, all_seen, keep_seen
from adapters.dr.dsxflex_jws import Keys, Signer
from adapters.dr.dsxflex_schema import ALERT, SPEC, STATUS, moment
from adapters.dr.dsxflex_state import FeedTeller
from adapters.mqtt import Arrived, MqttLink, MqttSettings
from adapters.ports import EventMessage, EventRefused, EventTarget
from optimizer.reasons import Note, Reason, Severity

BOOK = "dsx_book"
LOOK_S, RETRY_S, LOST_S = 1.0, 1.0, 30.0
MOST_AT_ONCE = 500
OPEN_END = timedelta(hours=12)
"""How much of a target without an end the ledger is told at most; more follows in time."""

log = logging.getLogger("gridpace.dsxflex")


class DsxFlexSession:
    """`EventSession` for one feed. Raises AdapterError for keys and certificates that cannot be read."""

    Config = DsxFlexConfig

    def __init__(self, config: DsxFlexConfig, context: AdapterContext) -> None:
        self._config, self._context = config, context
        self._signer = Signer(config.sign_kid, config.sign_key.reveal(context.base_dir), str(config.sign_key))
        self._inbox = Inbox(config, Keys((key, context.path(key.file)) for key in config.trusted))
        self._set_topic = f"grid/v1/isv/{config.isv}/loadtarget/set"
        self._done_topic = f"grid/v1/infra/{config.infra}/powerbreach/enforcement"
        topics = [(self._set_topic, 1), *([(self._done_topic, 2)] if config.infra else [])]
        self._link = MqttLink(self._settings(config.agent, lasting=True), topics)
        self._teller = FeedTeller(config)
        self._book = Book()
        self._waiting: list[Arrived] = []
        self._last: Received | None = None
        self._target_set = self._dirty = False
        self._look_at = self._retry_at = 0.0
        self._lost_since: float | None = time.monotonic()
        self._closing = threading.Event()
        self._thread: threading.Thread | None = None

    def _settings(self, client_id: str, lasting: bool) -> MqttSettings:
        config, context = self._config, self._context
        files = (config.ca, config.certificate, config.certificate_key)
        ca, certificate, key = (str(context.path(name)) if name else None for name in files)
        token = config.token
        password = (lambda: token.reveal(context.base_dir)) if token is not None else None
        user = "oauthtoken" if token is not None else None
        return MqttSettings(config.broker, client_id, ca, certificate, key, user, password, lasting)

    def check(self) -> str:
        """See EventSession."""
        return MqttLink(self._settings(f"{self._config.agent}-check", lasting=False)).check()

    def start(self, desk: EventDesk) -> None:
        """See EventSession."""
        self._desk = desk
        if self._context.records is not None:
            self._book = from_record(self._context.records.get(BOOK, desk.program))
            self._inbox.seen = all_seen(self._context.records, desk.program)
        self._dirty = True
        self._thread = threading.Thread(target=self._run, name=f"dsxflex-{desk.program}", daemon=True)
        self._thread.start()
        self._link.start()

    def close(self) -> None:
        """See EventSession."""
        self._closing.set()
        if self._thread is not None:
            self._link.close()
            self._thread.join(10)
            self._thread = None

    # ------------------------------------------------------------ the thread
    def _run(self) -> None:
        while not self._closing.is_set():
            try:
                self._turn()
            except Exception:
                log.exception("DSX Flex failed; it goes on in a second")
                self._closing.wait(RETRY_S)

    def _turn(self) -> None:
        """Take what arrived; tell the ledger; look at the site once a second."""
        batch, self._waiting = self._waiting + self._gathered(), []
        if batch:
            self._take(batch)
        if time.monotonic() >= self._retry_at:
            self._tell_ledger()
        if time.monotonic() >= self._look_at:
            self._look_at = time.monotonic() + LOOK_S
            self._tell_others()

    def _gathered(self) -> list[Arrived]:
        """Messages that wait, or the first that comes until the next look."""
        found: list[Arrived] = []
        wait_s = 0.0 if self._target_set else max(0.0, self._look_at - time.monotonic())
        try:
            while len(found) < MOST_AT_ONCE:
                message = self._link.arrived.get(timeout=wait_s) if wait_s else self._link.arrived.get_nowait()
                if message is None:
                    break
                found.append(message)
                wait_s = 0.0
        except queue.Empty:
            pass
        return found

    # ------------------------------------------------------------ in
    def _take(self, batch: list[Arrived]) -> None:
        """Read and keep a batch, then acknowledge it; it waits where the books cannot be written."""
        read = [received for message in batch if (received := self._read(message)) is not None]
        unique = {received.digest: received for received in read}
        if unique:
            book = self._book.painted(piece for received in read for piece in received.pieces)
            try:
                self._keep(book, {digest: received.id for digest, received in unique.items()})
            except Exception:  # whatever the store raises: not on disk, not acknowledged
                log.exception("load targets wait, the books cannot be written")
                self._waiting = batch
                for digest in unique:
                    self._inbox.seen.pop(digest, None)
                self._closing.wait(RETRY_S)
                return
            self._last, self._target_set, self._dirty = read[-1], True, True
            self._look_at = 0.0
        for message in batch:
            self._link.acknowledge(message)

    def _read(self, message: Arrived) -> Received | None:
        """What a message says to us; None where it says nothing new, or was refused."""
        try:
            if message.topic == self._set_topic:
                received = self._inbox.read_targets(message.body, self._context.clock.now(), datetime.now(UTC))
                if received is not None:
                    self._inbox.seen[received.digest] = received.id
                return received
            done = self._inbox.read_enforcement(message.body)
            text = f"breach {done.breach_id}: {self._config.infra} {done.action} its actions, {done.code}"
            text += f" ({done.diag_msg})" if done.diag_msg.isprintable() and done.diag_msg else ""
            self._say(Reason.CHANNEL_MESSAGE, text, Severity.WARNING)
        except EventRefused as error:
            self._say(Reason.MESSAGE_REFUSED, f"a message on {message.topic} was refused: {error}", Severity.WARNING)
        return None

    def _keep(self, book: Book, seen: Mapping[str, str]) -> None:
        """Put both on disk, then believe them. Raises what the store raises."""
        if self._context.records is not None:
            self._context.records.put(BOOK, self._desk.program, to_record(book))
            keep_seen(self._context.records, self._desk.program, seen)
        self._book = book

    # ------------------------------------------------------------ the ledger
    def _tell_ledger(self) -> None:
        """Bring the ledger to what the book says; what can't be taken now is told again."""
        now = self._context.clock.now()
        due = orders(self._book, now, min(OPEN_END, self._desk.longest))
        if not due and not self._dirty:
            return
        sent = dict(self._book.sent)
        try:
            for order in due:
                told = self._accepted(order)
                sent.pop(order.id, None)
                if told is not None:
                    sent[order.id] = told
        except EventRefused:  # not acknowledged: the site can't say yet what it draws, or its books can't be written
            self._retry_at = time.monotonic() + RETRY_S
        else:
            self._dirty = False
        self._keep(replace(self._book, sent=sent).without_past(now, self._config.oldest), {})

    def _accepted(self, order: Order) -> Sent | None:
        """What the ledger holds of an event after an order. Raises EventRefused when it must be told again."""
        try:
            answer = self._desk.accept(self._message(order))
        except EventRefused as error:
            if error.status == 503:
                raise
            refused, why = True, str(error)
        else:
            refused, why = answer.state == "refused" or (answer.opt == "out" and bool(order.pieces)), answer.reason
        if refused:
            self._say(Reason.MESSAGE_REFUSED, f"load target {order.id} is not followed: {why}", Severity.ALERT)
        return replace(order.sent, refused=refused) if order.sent is not None else None

    def _message(self, order: Order) -> EventMessage:
        now = self._context.clock.now()
        pieces = order.pieces
        start, end = (pieces[0].start, pieces[-1].end) if pieces else (now, now + timedelta(seconds=1))
        messages = list(dict.fromkeys(piece.stamp[1] for piece in pieces))
        return EventMessage(
            id=order.id,
            version=order.version,
            site=self._desk.site,
            start=start,
            end=end,
            targets=tuple(EventTarget(piece.start, piece.end, limit_kw=piece.kw) for piece in pieces),
            cancelled=not pieces,
            firm=not any(piece.best_effort for piece in pieces),
            program=self._desk.program,
            source=f"dsxflex {self._config.isv}",
            name=f"load target {self._config.feed}",
            raw={"messages": messages, "version": order.version, "cancelled": not pieces},
        )

    # ------------------------------------------------------------ out
    def _tell_others(self) -> None:
        """Publish what is due, and say when the broker is lost."""
        self._watch_link()
        view, pieces = self._desk.look(), self._followed()
        alert = self._teller.alert(view, pieces)
        if alert is not None:
            text = f"breach {alert['status']} ({alert['severity']}): {view.import_kw:.0f} kW at {self._config.feed}"
            self._say(Reason.EVENT_UNREACHABLE, text, Severity.ALERT)
            self._publish(ALERT, "powerbreach", "powerbreach", alert, 2, None)
        if self._link.connected.is_set():
            cause = self._last if self._target_set else None
            for state in self._teller.states(view, pieces, self._target_set):
                self._publish(STATUS, "powerstate/status", "powerstate", state, 1, cause)
                cause = None
            self._target_set = False

    def _followed(self) -> list[Piece]:
        """Targets that the site follows; those that were refused are not told as ours."""
        refused = [(told.start, told.end) for told in self._book.sent.values() if told.refused]
        held = [piece for group in groups(self._book.pieces) for piece in group]
        return [piece for piece in held if not any(start <= piece.start < end for start, end in refused)]

    def _watch_link(self) -> None:
        if self._link.connected.is_set():
            if self._lost_since is not None:
                self._teller.again()
            self._lost_since = None
            return
        self._lost_since = self._lost_since or time.monotonic()
        if time.monotonic() - self._lost_since > LOST_S:
            text = f"no connection to {self._config.broker}: {self._link.trouble}; what was ordered goes on"
            self._say(Reason.CHANNEL_LOST, text, Severity.ALERT)

    def _publish(
        self, type_: str, path: str, subject: str, data: Mapping[str, Any], qos: int, cause: Received | None
    ) -> None:
        trace = cause.traceparent.split("-")[1] if cause is not None else secrets.token_hex(16)
        envelope = {
            "specversion": SPEC,
            "id": str(uuid4()),
            "source": f"//grid/v1/dsx-flex-agent/{self._config.agent}",
            "type": type_,
            "time": moment(datetime.now(UTC)),
            "datacontenttype": "application/json",
            "subject": subject,
            "traceparent": f"00-{trace}-{secrets.token_hex(8)}-01",
            **({"correlationid": cause.correlation} if cause is not None else {}),
            "data": self._signer.sign(data),
        }
        topic = f"grid/v1/dsx-flex-agent/{self._config.agent}/{path}"
        self._link.publish(topic, json.dumps(envelope).encode(), qos)

    def _say(self, code: Reason, text: str, severity: Severity) -> None:
        self._desk.say(Note(code, self._desk.program, text, severity, self._context.clock.now()))
