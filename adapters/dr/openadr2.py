"""OpenADR 2.0b: our node (VEN) at a utility's server (VTN), through `openleadr`.

Why a thread of its own: the library lives in an event loop and goes on logging where it can't go on working. So it is
watched from outside: a server that is silent for too long is registered at anew, by a new client. Why all events are
asked for now and then: what the server no longer names is withdrawn (implied cancel), and only its whole list says so.
"""

from __future__ import annotations

import asyncio
import logging
import threading
import time
from collections.abc import Mapping
from dataclasses import replace
from datetime import timedelta
from typing import Any

from openleadr import OpenADRClient
from openleadr.objects import SamplingRate

from adapters.context import AdapterContext
from adapters.dr.desk import EventAnswer, EventDesk
from adapters.dr.openadr2_book import Book, Held, messages, next_held, withdrawal
from adapters.dr.openadr2_config import OpenAdr2Config
from adapters.dr.openadr2_event import OVER, WITHDRAWN, Asked, descriptor, read_event
from adapters.dr.openadr2_lock import install
from adapters.ports import AdapterError, EventRefused
from optimizer.reasons import Note, Reason, Severity

IN, OUT = "optIn", "optOut"
DEADLINE_S, RETRY_S = 30.0, 5.0
SLOWEST_REPORT = timedelta(hours=1)
OPEN_END = timedelta(hours=12)
"""How much of an event without an end the ledger is told at most; more follows in time."""

logging.getLogger("openleadr").setLevel(logging.WARNING)
log = logging.getLogger("gridpace.openadr2")
install()


class OpenAdr2Session:
    """`EventSession` at one server. Raises AdapterError for certificates that cannot be read."""

    Config = OpenAdr2Config

    def __init__(self, config: OpenAdr2Config, context: AdapterContext) -> None:
        self._config, self._context = config, context
        names = (config.certificate, config.certificate_key, config.ca)
        self._files = tuple(str(context.path(name)) if name else None for name in names)
        for name in self._files:
            _readable(name)
        self._closing = threading.Event()
        self._thread: threading.Thread | None = None
        self._heard_at = time.monotonic()
        self._unread = 0

    def _client(self) -> OpenADRClient:
        certificate, key, ca = self._files
        client = OpenADRClient(
            self._config.ven_name,
            self._config.url,
            cert=certificate,
            key=key,
            ca_file=ca,
            vtn_fingerprint=self._config.vtn_fingerprint,
            ven_id=self._config.ven_id,
            show_fingerprint=False,
            allow_jitter=False,
        )
        client.add_hook("after_receive_xml", self._received)
        client.add_hook("after_parse_xml", self._heard)
        return client

    def check(self) -> str:
        """See EventSession."""
        kind, _ = asyncio.run(self._asked_once())
        if kind is None:
            raise AdapterError(f"{self._config.url}: no answer that can be read and believed (see the log)")
        return f"{self._config.url} answers with {kind}"

    async def _asked_once(self) -> tuple[str | None, Any]:
        client = self._client()
        try:
            kind, said = await asyncio.wait_for(client.query_registration(), DEADLINE_S)
            return kind, said
        except TimeoutError:
            return None, {}
        finally:
            await _stopped(client)

    def start(self, desk: EventDesk) -> None:
        """See EventSession."""
        self._desk = desk
        self._book = Book(self._context.records, desk.program)
        self._thread = threading.Thread(target=self._run, name=f"openadr2-{desk.program}", daemon=True)
        self._thread.start()

    def close(self) -> None:
        """See EventSession."""
        self._closing.set()
        if self._thread is not None:
            self._thread.join(10)
            self._thread = None

    # ------------------------------------------------------------ the thread
    def _run(self) -> None:
        while not self._closing.is_set():
            try:
                asyncio.run(self._served())
            except Exception:
                log.exception("OpenADR 2.0b failed; it registers anew")
            if not self._closing.is_set():
                text = f"{self._config.url} is lost; what was ordered goes on, and we register anew"
                self._say(Reason.CHANNEL_LOST, text, Severity.ALERT)
                self._closing.wait(RETRY_S)

    async def _served(self) -> None:
        """Register, and stay until the server is silent for too long."""
        client = self._client()
        for handler in ("on_event", "on_update_event"):
            client.add_handler(handler, self._on_event)
        self._offer_reports(client)
        self._heard_at = time.monotonic()
        try:
            await asyncio.wait_for(client.run(), DEADLINE_S)
            while client.registration_id and not self._closing.is_set() and not self._silent():
                await asyncio.wait_for(self._resynced(client), DEADLINE_S)
                await self._pause(self._config.resync.total_seconds())
        except TimeoutError:
            log.warning("%s did not answer within %.0f s", self._config.url, DEADLINE_S)
        finally:
            await _stopped(client)

    async def _pause(self, seconds: float) -> None:
        ends = time.monotonic() + seconds
        while time.monotonic() < ends and not self._closing.is_set() and not self._silent():
            await asyncio.sleep(0.1)

    def _silent(self) -> bool:
        return time.monotonic() - self._heard_at > self._config.lost_after.total_seconds()

    def _received(self, text: str) -> None:
        self._unread += 1

    def _heard(self, kind: str, said: Mapping[str, Any]) -> None:
        """A message that could be read, and whose signature was right where one is asked for."""
        self._heard_at, self._unread = time.monotonic(), 0

    # ------------------------------------------------------------ events
    async def _on_event(self, event: Mapping[str, Any]) -> str:
        """What the library answers to one event; an exception here would opt out of its neighbours as well."""
        about = self._about_event(event)
        if about is None:
            return OUT
        opt = await asyncio.to_thread(self._taken, event)
        self._told(about[0], opt)
        return opt

    def _about_event(self, event: Mapping[str, Any]) -> tuple[str, int, str] | None:
        """Id, modification and status; None, said aloud, for an event that does not even tell these."""
        try:
            return descriptor(event)
        except EventRefused as error:
            self._say(Reason.MESSAGE_REFUSED, f"an event is not followed: {error}", Severity.ALERT)
            return None

    async def _resynced(self, client: OpenADRClient) -> None:
        """Take all events as the server has them now: news, changed answers, and what is there no more."""
        kind, said = await client.request_event()
        if self._unread:
            text = f"{self._config.url} sends what cannot be read, or is not signed as it should be (see the log)"
            self._say(Reason.MESSAGE_REFUSED, text, Severity.ALERT)
        if kind not in {"oadrDistributeEvent", "oadrResponse"}:
            return
        if fault := _refused(said):  # such an answer names no events, which withdraws none
            self._say(Reason.CHANNEL_LOST, f"{self._config.url} does not tell its events: {fault}", Severity.ALERT)
            return
        named, whole = set(), True
        for event in said.get("events") or ():
            about = self._about_event(event)
            if about is None:
                whole = False
                continue
            event_id, modification, status = about
            named.add(event_id)
            opt = await asyncio.to_thread(self._taken, event)
            held = self._book.held.get(event_id)
            if held is not None and held.told != opt and status not in {OVER, WITHDRAWN}:
                client.responded_events[event_id] = opt  # what the library says again of its own
                await client.created_event(said.get("request_id"), event_id, opt, modification)
                self._told(event_id, opt)
        # Which event the nameless one is nobody knows: it may be any that seems to be gone.
        for event_id in [name for name in self._book.held if name not in named] if whole else ():
            await asyncio.to_thread(self._withdrawn, event_id)

    def _taken(self, event: Mapping[str, Any]) -> str:
        """Bring the ledger to what one event says; whether the site takes part. Never raises."""
        event_id, modification, status = descriptor(event)
        try:
            if status == WITHDRAWN:
                return self._withdrawn(event_id)
            held = self._book.held.get(event_id)
            if held is not None and modification < held.modification:
                return held.told or OUT
            if status == OVER and held is None:
                return OUT
            asked = read_event(event, self._config)
            if asked.test:
                self._say(Reason.CHANNEL_MESSAGE, f"test event {event_id}: nothing is done", Severity.INFO, event_id)
                return IN
            return self._followed(asked, held)
        except EventRefused as error:
            self._say(Reason.MESSAGE_REFUSED, f"event {event_id} is not followed: {error}", Severity.ALERT, event_id)
        except Exception:
            log.exception("event %s could not be taken", event_id)
        return OUT

    def _followed(self, asked: Asked, held: Held | None) -> str:
        """Hand an event's parts in. Raises EventRefused; one that can be taken later is handed in again by the next
        resync."""
        now = self._context.clock.now()
        new = next_held(held, asked, now, min(OPEN_END, self._desk.longest))
        if new != held:
            self._book.keep(asked.id, new)
        told = [(message, self._desk.accept(message)) for message in messages(asked, new, now, self._about())]
        answers = [answer for message, answer in told if not message.cancelled]  # of what it asks no more, none is due
        refused = [answer for answer in answers if not _joins(answer) and answer.opt != "pending"]
        if refused and (held is None or held.version != new.version):
            text = f"event {asked.id} is declined: {refused[0].reason}"
            self._say(Reason.OPT_OUT, text, Severity.WARNING, asked.id)
        return IN if all(_joins(answer) for answer in answers) else OUT

    def _withdrawn(self, event_id: str) -> str:
        """End an event that the server cancelled or no longer names."""
        held = self._book.held.get(event_id)
        if held is not None:
            now = self._context.clock.now()
            for part in range(held.parts):
                self._desk.accept(withdrawal(event_id, part, held.version + 1, now, self._about()))
            self._book.keep(event_id, None)
        return IN

    def _told(self, event_id: str, opt: str) -> None:
        held = self._book.held.get(event_id)
        if held is not None and held.told != opt:
            self._book.keep(event_id, replace(held, told=opt))

    def _about(self) -> dict[str, str]:
        return {"site": self._desk.site, "program": self._desk.program, "source": f"openadr2 {self._config.url}"[:128]}

    # ------------------------------------------------------------ reports
    def _offer_reports(self, client: OpenADRClient) -> None:
        """The import in kW, from every `report_every` to once an hour, as the server asks."""
        every = self._config.report_every
        client.add_report(
            self._import_kw,
            resource_id=self._desk.site,
            measurement="powerReal",
            scale="k",
            unit="W",
            report_specifier_id=f"{self._desk.program}-usage",
            r_id=f"{self._desk.site}-import",
            report_duration=SLOWEST_REPORT,
            sampling_rate=SamplingRate(every, max(every, SLOWEST_REPORT), False),
        )

    def _import_kw(self) -> float:
        """The import now. Raises AdapterError without a reading: the report is left out, never a zero."""
        kw = self._desk.look().import_kw
        if kw is None:
            raise AdapterError(f"{self._desk.site}: no reading of the import to report")
        return round(kw, 3)

    def _say(self, code: Reason, text: str, severity: Severity, event_id: str = "") -> None:
        subject = f"{self._desk.program}/{event_id}" if event_id else self._desk.program
        self._desk.say(Note(code, subject[:200], text, severity, self._context.clock.now()))


def _joins(answer: EventAnswer) -> bool:
    """Whether the site takes part."""
    return answer.opt == "in" and answer.state not in {"cancelled", "refused"}


def _refused(said: Mapping[str, Any]) -> str:
    """What went wrong by the response in an answer; empty where nothing did, or none is given."""
    response = said.get("response") or {}
    code = str(response.get("response_code") or "")
    if not code or code.startswith("2"):
        return ""
    text = str(response.get("response_description") or "")
    return f"{code} {text if text.isprintable() else ''}".strip()[:200]


def _readable(name: str | None) -> None:
    try:
        if name is not None:
            with open(name, "rb"):
                pass
    except OSError as error:
        raise AdapterError(f"{name}: cannot be read: {error.strerror}") from None


async def _stopped(client: OpenADRClient) -> None:
    """End a client; the library can't end one that never connected."""
    if client.client_session is not None:
        await client.stop()
