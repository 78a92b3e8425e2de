"""A real OpenADR 2.0b server (openleadr's own) on loopback, in a thread; one at a time in a process."""

import asyncio
import threading
import warnings
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import timedelta

from openleadr import OpenADRServer, hooks

from tests.support.ports import free_port


@dataclass
class Vtn2:
    """What a utility does at its server. `answers`: (event id, opt) in order; `reports`: values in order."""

    port: int = field(default_factory=free_port)
    poll: timedelta = timedelta(seconds=1)
    every: timedelta = timedelta(seconds=2)
    tls: dict | None = None
    fingerprint: str = ""
    answers: list = field(default_factory=list)
    reports: list = field(default_factory=list)
    registered: int = 0
    ven: str = "ven-1"

    def start(self):
        self.loop, ready = asyncio.new_event_loop(), threading.Event()
        with warnings.catch_warnings():  # aiohttp wants its keys otherwise than the library has them
            warnings.simplefilter("ignore")
            self.server = OpenADRServer(
                "VTN-1", http_port=self.port, http_host="127.0.0.1", requested_poll_freq=self.poll,
                ven_lookup=self._lookup, show_fingerprint=False, show_server_cert_domain=False, **(self.tls or {}),
            )  # fmt: skip

        hooks.register("before_handle", self._handles)

        async def serve():
            self.server.add_handler("on_create_party_registration", self._registered)
            self.server.add_handler("on_register_report", self._report_offered)
            await self.server.run()
            ready.set()

        def run():
            asyncio.set_event_loop(self.loop)
            self.loop.run_until_complete(serve())
            self.loop.run_forever()
            self.loop.close()

        self.thread = threading.Thread(target=run, daemon=True)
        self.thread.start()
        assert ready.wait(20)
        return self

    def stop(self):
        hooks.HOOKS["before_handle"].clear()
        asyncio.run_coroutine_threadsafe(self.server.stop(), self.loop).result(20)
        self.loop.call_soon_threadsafe(self.loop.stop)
        self.thread.join(20)

    async def _lookup(self, ven_id):
        known = {"ven_id": self.ven, "ven_name": "lab", "fingerprint": self.fingerprint, "registration_id": "reg-1"}
        return known if ven_id == self.ven and self.registered else None

    async def _registered(self, about):
        self.registered += 1
        return self.ven, "reg-1"

    async def _report_offered(self, ven_id, resource_id, measurement, unit, scale, min_sampling_interval,
                              max_sampling_interval):  # fmt: skip
        self.offered = (resource_id, measurement, unit, scale, min_sampling_interval, max_sampling_interval)

        async def received(data):
            self.reports.extend(value for _, value in data)

        return received, self.every

    # ------------------------------------------------------------ what a utility does
    def _do(self, call):
        done = threading.Event()
        found = []

        def run():
            try:
                found.append(call())
            finally:
                done.set()

        self.loop.call_soon_threadsafe(run)
        assert done.wait(10)
        assert found, "the server refused to do it"
        return found[0]

    async def _handles(self, kind, message):
        """Hear every answer; the library calls back at the first one alone."""
        if kind == "oadrCreatedEvent":
            self.answers.extend((answer["event_id"], answer["opt_type"]) for answer in message["event_responses"])

    def order(self, signal, kind, *steps, event_id, measurement=None, **more):
        """Add an event of (start, duration, payload) steps."""
        intervals = [{"dtstart": at, "duration": lasts, "signal_payload": value} for at, lasts, value in steps]
        call = lambda: self.server.add_event(  # noqa: E731
            self.ven, signal, kind, intervals, callback=_ignored, event_id=event_id, **more
        )
        self._do(call)
        if measurement is not None:
            self.event(event_id).event_signals[0].measurement = measurement

    def event(self, event_id):
        events = self.server.services["event_service"].events[self.ven]
        return next(event for event in events if event.event_descriptor.event_id == event_id)

    def change(self, event_id, change):
        """Change an event and raise its modification number."""

        def run():
            event = self.event(event_id)
            change(event)
            event.event_descriptor.modification_number += 1
            self._updated()
            return True

        self._do(run)

    def cancel(self, event_id):
        self._do(lambda: self.server.cancel_event(self.ven, event_id) or True)

    def drop(self, event_id):
        """Name an event no longer: an implied cancel."""

        def run():
            self.server.services["event_service"].events[self.ven].remove(self.event(event_id))
            self._updated()
            return True

        self._do(run)

    def _updated(self):
        self.server.services["poll_service"].events_updated[self.ven] = True


def _ignored(ven_id, event_id, opt_type):
    """Answers are heard elsewhere."""


@contextmanager
def vtn2(**fields):
    server = Vtn2(**fields).start()
    try:
        yield server
    finally:
        server.stop()
