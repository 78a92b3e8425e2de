"""A server, our OpenADR 3 client and the ledger without a network between, for tests of interleavings."""

import json
from datetime import timedelta
from types import SimpleNamespace
from urllib.parse import urlencode, urlsplit

from adapters.context import AdapterContext
from adapters.dr.openadr3.feed import OpenAdr3
from adapters.dr.openadr3.http import ServerError
from adapters.dr.vtn.vtn import Vtn, VtnUser
from scheduler.clock import WallClock
from scheduler.engine import State
from scheduler.feeds import Feeds
from scheduler.ledger.ledger import Ledger, ProgramTerms
from scheduler.store.store import Store
from tests.support.openadr3 import NOON, config

BASELINE_KW, RAMP_S = 4500.0, 300.0
TERMS = ProgramTerms(ramp_in_s=RAMP_S, ramp_out_s=RAMP_S, rebound_s=600.0, max_duration_s=12 * 3600.0)
FAR = NOON + timedelta(days=1)


class Killed(BaseException):
    """The process ends here."""


class World:
    """A server, our client and the ledger, with nothing between them but what the test does."""

    def __init__(self, folder, warts=frozenset()):
        self.folder, self.now = folder, NOON
        self.vtn = Vtn({"ven": VtnUser("x")}, frozenset(warts))
        self.vtn.tokens["t"] = "ven"
        self.vtn._create("programs", {"programName": "dr"}, "ven", "p1")
        self.broken_after = None
        self.killed_after = None
        self.open()

    def open(self):
        self.store = Store.open(self.folder / "books.db")
        self.ledger = Ledger(self.store)
        keep = self.store._records.put_all

        def until_killed(records):
            if self.killed_after is not None:
                self.killed_after -= 1
                if self.killed_after < 0:
                    raise Killed
            keep(records)

        self.store._records.put_all = until_killed
        context = AdapterContext(WallClock(), self.folder, self.store, extras={"program": "dr", "site": "sv"})
        self.feed = OpenAdr3(config(answers=False), context)
        self.feed.client._exchange = self.exchange
        self.state = State()
        ctx = SimpleNamespace(ledger=self.ledger, clock=SimpleNamespace(now=lambda: self.now))
        self.feeds = Feeds(
            {"dr": self.feed},
            {},
            SimpleNamespace(ctx=ctx, follow=self.follow, wake=lambda: None),
            self.state,
            {"dr": "sv"},
        )

    def exchange(self, method, url, token, query, body):
        if self.broken_after is not None:
            self.broken_after -= 1
            if self.broken_after < 0:
                raise ServerError("lost")
        path = urlsplit(url).path + (f"?{urlencode(query, doseq=True)}" if query else "")
        reply = self.vtn.answer(method, path, {"authorization": "Bearer t"}, json.dumps(body).encode())
        return reply.status, {}, json.dumps(reply.body).encode()

    def follow(self, message):
        return self.ledger.follow(message, baseline_kw=BASELINE_KW, available_kw=4500.0, defaults=TERMS, now=self.now)

    def close(self):
        self.feed.close()
        self.store.close()

    def reopen(self):
        self.killed_after = None
        self.close()
        self.open()
        self.ledger.advance(self.now)
