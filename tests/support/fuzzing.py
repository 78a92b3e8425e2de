"""Utilities that send nonsense over every channel, often nearly right, to a whole site whose clock stands still.

Each sender's `send` gives one message and says whether the site refused it; whatever else is raised is a fault.
"""

import asyncio
import json
import time
import uuid
from copy import deepcopy
from datetime import UTC, datetime, timedelta
from urllib.parse import urlencode, urlsplit

from adapters.dr import dsxflex, openadr2
from adapters.dr.openadr2_book import Book
from adapters.dr.vtn.vtn import Vtn, VtnUser
from adapters.dr.webhook import sign
from adapters.mqtt import Arrived
from scheduler.collect import collect
from scheduler.problem import build_problem, signal_window
from scheduler.service import Refused
from tests.support.dsx_isv import write_keys
from tests.support.openadr3 import capacity, simple, stated

SECRET = b"a-secret-for-tests-only"
HOUR = timedelta(hours=1)
WEBHOOK = '{type: webhook, secret: "file:secret"}'
CHANNELS = {
    "webhook": WEBHOOK,
    "operator": WEBHOOK,
    "dsxflex": '{type: dsxflex, broker: "mqtt://127.0.0.1:1", agent: lab-flex, isv: acme, feed: main-a, '
    'sign_kid: lab-1, sign_key: "file:lab.pem", unsigned: true}',
    "openadr2": '{type: openadr2, url: "http://127.0.0.1:1/x", ven_name: lab, dispatch_unit: kW, '
    'delta: positive_reduces, levels: {"1": {reduce_percent: 10}, "2": {reduce_percent: 25}}}',
    "openadr3": '{type: openadr3, url: "http://127.0.0.1:1/openadr3/3.1.0", program: dr, ven_name: lab, '
    'answers: false, levels: {1: "-10%", 2: "-25%"}, alerts: {ALERT_GRID_EMERGENCY: "-40%"}}',
}
ODD = [0, 1, -1, 2.5, "2", None, True, float("nan"), float("inf"), 1e300, 10**30, {}, [], {"x": 1}, [None],
       "\x00\ud800", "x" * 300, "", "now", "0001-01-01T00:00:00Z", "9999-12-31T23:59:59Z", "PT1H"]  # fmt: skip


def twisted(rng, value, share):
    """A copy of a document in which this share of the parts is something else, missing, or twice there."""
    if rng.random() < share:
        return deepcopy(rng.choice(ODD))
    if isinstance(value, dict):
        kept = {key: twisted(rng, item, share) for key, item in value.items() if rng.random() > share / 2}
        return kept | ({rng.choice(["limit_kW", "id", "x"]): rng.choice(ODD)} if rng.random() < share / 4 else {})
    if isinstance(value, list):
        found = [twisted(rng, item, share) for item in value]
        return found * 2 if rng.random() < share / 4 else found
    return value


def some_share(rng):
    """Half the messages are as they should be, the others broken in a place or in many."""
    return rng.choice([0.0, 0.0, 0.0, 0.02, 0.05, 0.2])


class Sender:
    """One channel's utility."""

    def __init__(self, made):
        self.made, self.now = made, made.clock.now()

    def close(self):
        """End what it started."""

    def span(self, rng):
        """A start within the horizon, and a length."""
        start = self.now + timedelta(minutes=rng.choice([-30, 0, 5, 60, 90, 200]))
        return start, timedelta(minutes=rng.choice([0, 5, 30, 60, 120, 10_000]))

    def fields(self, rng):
        """An event as the webhook and the operator's hand say it."""
        start, lasts = self.span(rng)
        said = {"id": f"e{rng.randrange(12)}", "version": rng.randrange(40), "site": "lab"}
        if rng.random() < 0.15:
            return said | {"cancelled": True}
        kind, most = rng.choice([("limit_kw", 60.0), ("reduce_kw", 30.0), ("reduce_percent", 50.0)])
        value = {kind: rng.random() * most}
        when = {"start": stated(start)} | rng.choice([{"end": stated(start + lasts)}, {"duration": "PT1H"}])
        if rng.random() < 0.2:
            value = {"targets": [value | {"end": stated(start + HOUR / 4)}, {"limit_kw": 40.0}]}
        more = {"priority": rng.choice([None, 0, 3]), "emergency": rng.random() < 0.1, "firm": rng.random() < 0.8,
                "ramp_in_s": rng.choice([None, 0, 600]), "name": "ü", "rebound_s": rng.choice([None, 0])}  # fmt: skip
        return said | when | value | more


def changed_nothing(answer):
    """Whether an answer says that all stays as it is."""
    return answer.opt == "out" and answer.state != "cancelled"


def refusal(refused):
    """True; an error of the server's own is none."""
    assert 400 <= refused.status < 500, refused
    return True


class WebhookSender(Sender):
    def send(self, rng):
        body = json.dumps(twisted(rng, self.fields(rng), some_share(rng))).encode()
        if rng.random() < 0.05:
            body = bytes(rng.randrange(256) for _ in range(rng.randrange(60)))
        elif rng.random() < 0.05:
            body = body[: rng.randrange(len(body) + 1)]
        headers = sign(SECRET, body, int(time.time()) - rng.choice([0] * 30 + [5000]), uuid.uuid4().hex, "elrp")
        if rng.random() < 0.1:
            headers[rng.choice(list(headers))] = rng.choice(["", "\x00", "é", "x" * 300, "0", "-1", "9" * 12])
        try:
            return changed_nothing(self.made.facade.receive_event("elrp", headers, body))
        except Refused as refused:
            return refusal(refused)


class OperatorSender(Sender):
    def send(self, rng):
        facade, kind = self.made.facade, rng.random()
        name = rng.choice([f"e{rng.randrange(12)}", f"operator/e{rng.randrange(12)}", *map(str, ODD)])
        try:
            if kind < 0.1:
                return changed_nothing(facade.cancel_event(name, rng.choice(["ann", "", "\x00\n"])))
            if kind < 0.15:
                return changed_nothing(facade.answer_event(name, rng.choice(["in", "out", "", "maybe"]), "ann"))
            fields = twisted(rng, self.fields(rng), some_share(rng))
            return changed_nothing(facade.add_event(fields if isinstance(fields, dict) else {"x": fields}, "ann"))
        except Refused as refused:
            return refusal(refused)


class DsxSender(Sender):
    def __init__(self, made):
        super().__init__(made)
        self.session = made.parts.sessions.sessions["elrp"]
        self.session._desk = made.parts.sessions.desks["elrp"]
        self.session._link.acknowledge = lambda message: None
        self.session._dirty = True
        self.read = self.session._read
        self.session._read = self.watched
        self.made_at = datetime.now(UTC) - HOUR / 6

    def watched(self, message):
        self.received = self.read(message)
        return self.received

    def send(self, rng):
        start, lasts = self.span(rng)
        end = rng.choice([{"end_time": stated(start + lasts)}, {"end_time": stated(start + HOUR)}, {}])
        kw = rng.choice([None, {"value": rng.random() * 60, "unit": "kilowatt"}, {"value": 0.04, "unit": "megawatt"}])
        one = {"interval": {"start_time": stated(start)} | end, "load_constraint": kw, "feed_tags": ["main-a"],
               "strategy": {"best_effort": rng.random() < 0.3}}  # fmt: skip
        self.made_at += timedelta(milliseconds=1)
        envelope = {
            "specversion": "1.0.2", "id": str(uuid.UUID(int=rng.getrandbits(128), version=4)),
            "source": "//grid/v1/isv/acme", "type": "grid.loadtarget.set.v1", "time": stated(self.made_at),
            "datacontenttype": "application/json", "subject": "loadtarget",
            "traceparent": f"00-{'a' * 32}-{'b' * 16}-01", "data": {"targets": [one] * rng.choice([1, 1, 1, 2])},
        }  # fmt: skip
        envelope = twisted(rng, envelope, some_share(rng))
        if isinstance(envelope, dict) and rng.random() < 0.03:
            envelope["data"] = rng.choice(["a.b.c", "", "..", "eyJhbGciOiJub25lIn0.e30.", "eyJhbGciOiJFUzI1NiJ9.e30.A"])
        body = json.dumps(envelope).encode()
        if rng.random() < 0.05:
            body = body[: rng.randrange(len(body) + 1)]
        topic = self.session._set_topic if rng.random() < 0.95 else "grid/v1/infra/ima/else"
        self.session._take([Arrived(topic, body, rng.random() < 0.1, 1, 1)])
        self.session._tell_ledger()
        assert not self.session._waiting
        return self.received is None


class Adr2Sender(Sender):
    def __init__(self, made):
        super().__init__(made)
        self.session = made.parts.sessions.sessions["elrp"]
        self.session._desk = made.parts.sessions.desks["elrp"]
        self.session._book = Book(made.ctx.store, "elrp")
        self.loop = asyncio.new_event_loop()

    def close(self):
        self.loop.run_until_complete(self.loop.shutdown_default_executor())
        self.loop.close()

    def send(self, rng):
        start, lasts = self.span(rng)
        name, kind = rng.choice(
            [("SIMPLE", "level"), ("LOAD_DISPATCH", "setpoint"), ("LOAD_DISPATCH", "delta"), ("LOAD_DISPATCH", "x")]
        )
        value = rng.choice([0.0, 1.0, 2.0, 3.0]) if name == "SIMPLE" else rng.random() * 60
        one = {"duration": rng.choice([lasts, HOUR]), "signal_payload": value}
        event = {
            "event_descriptor": {
                "event_id": f"e{rng.randrange(12)}", "modification_number": rng.randrange(40),
                "priority": rng.choice([0, 2]),
                "event_status": rng.choice(["far", "near", "active", "active", "cancelled", "completed"]),
            },
            "active_period": {"dtstart": start, "duration": lasts},
            "event_signals": [{"signal_name": name, "signal_type": kind, "intervals": [one] * rng.choice([1, 1, 2])}],
        }  # fmt: skip
        event = twisted(rng, event, some_share(rng))
        if not isinstance(event, dict):
            return True  # the library hands on nothing else
        return self.loop.run_until_complete(self.session._on_event(event)) == openadr2.OUT


class Adr3Sender(Sender):
    """A server of ours that holds what no sound one would; the site polls it. A batch is sent twice: all of it, then
    those alone of which the site follows nothing."""

    def __init__(self, made):
        super().__init__(made)
        self.vtn = Vtn({"ven": VtnUser("x")}, frozenset())
        self.vtn.tokens["t"] = "ven"
        self.vtn._create("programs", {"programName": "dr"}, "ven", "p1")
        self.listed = []
        self.vtn._list = lambda kind, *_: self.listed if kind == "events" else [*self.vtn.objects[kind].values()]
        self.feeds = made.parts.feeds
        self.feeds.feeds["elrp"].client._exchange = self.exchange

    def exchange(self, method, url, token, query, body):
        path = urlsplit(url).path + (f"?{urlencode(query, doseq=True)}" if query else "")
        reply = self.vtn.answer(method, path, {"authorization": "Bearer t"}, json.dumps(body).encode())
        return reply.status, {}, json.dumps(reply.body).encode()

    def event(self, rng):
        """One that is often as it should be; the site follows most of these."""
        start, _ = self.span(rng)
        if rng.random() < 0.5:
            event = capacity(*[rng.random() * 60 for _ in range(rng.choice([1, 3]))], start=start, each="PT30M")
        else:
            event = simple(rng.choice([1, 2]), start=start, duration=rng.choice(["PT1H", "PT2H", "PT0S"]))
        return twisted(rng, event | {"id": f"g{rng.randrange(10**9)}"}, some_share(rng))

    def poll(self, events):
        self.listed[:] = events
        self.feeds.turn("elrp")


SENDERS = {"webhook": WebhookSender, "operator": OperatorSender, "dsxflex": DsxSender, "openadr2": Adr2Sender}


def site(name, folder):
    """The change of the lab's config for this channel, and the files that it needs."""
    if name == "dsxflex":
        write_keys(folder)

    def changed(text):
        text = text.replace(WEBHOOK, CHANNELS[name]).replace(
            "{type: meter_before, minutes: 15}", "{type: declared, kw: 60}"
        )
        assert CHANNELS[name] in text
        return text

    return changed


def asked(made):
    """All that the planner hears of events."""
    now = made.clock.now()
    return (*made.ctx.ledger.active(now), *(row.event for row in made.ctx.ledger.awaiting()))


def problem(made):
    """What the planner would be asked now."""
    ctx, now = made.ctx, made.clock.now()
    seen = collect(ctx.sources, signal_window(ctx, now), now, ctx.memory, ctx.read_deadline_s)
    return build_problem(ctx, made.state, seen, now)


class Loud:
    """In place of a channel's log: what it would write down as an exception is one."""

    def exception(self, text, *values):
        raise AssertionError(text % values)

    def __getattr__(self, name):
        return lambda *args, **kwargs: None


def make_loud(monkeypatch):
    for module in (dsxflex, openadr2):
        monkeypatch.setattr(module, "log", Loud())
