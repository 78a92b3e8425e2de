"""Any interleaving over all channels ends in the ledger state that the senders' final truth implies.

One ledger, five senders: an OpenADR 3 server and a 2.0b server that are polled, a DSX Flex isv behind a broker that
delivers at least once, a webhook and an operator who send again until they are answered. Between them duplicates, late
versions, cancellations, half polls, kills in the middle of writing, restarts and a clock that moves.
"""

import asyncio
import json
import os
import shutil
import tempfile
import uuid
from datetime import UTC, datetime, timedelta
from pathlib import Path
from types import SimpleNamespace

from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, rule

from adapters.context import AdapterContext
from adapters.dr.body import parse_event
from adapters.dr.dsxflex import BOOK, DsxFlexSession
from adapters.dr.dsxflex_book import from_record
from adapters.dr.dsxflex_config import DsxFlexConfig
from adapters.dr.dsxflex_inbox import all_seen
from adapters.dr.openadr2 import OpenAdr2Session
from adapters.dr.openadr2_book import Book
from adapters.dr.openadr2_config import OpenAdr2Config
from adapters.dr.webhook import Webhook, sign
from adapters.mqtt import Arrived
from tests.support.dsx_isv import target, write_keys
from tests.support.openadr3 import HOUR, MINUTE, capacity, stated
from tests.support.openadr3_world import BASELINE_KW, FAR, TERMS, Killed, World

SECRET = b"a-secret-for-tests-only"
LIMITS = st.sampled_from([1000.0, 2000.0, 3000.0])
NAMES = st.sampled_from(["a", "b"])
CANCELLED = st.sampled_from([False, False, True])
TOLD = st.sampled_from(["hook", "operator"])
KEYS = Path(tempfile.mkdtemp(prefix="gridpace-test-keys-"))
ADR2 = OpenAdr2Config.model_validate(
    {"type": "openadr2", "url": "http://127.0.0.1/x", "ven_name": "lab", "dispatch_unit": "kW",
     "delta": "positive_reduces", "levels": {}}
)  # fmt: skip
DSX = DsxFlexConfig.model_validate(
    {"type": "dsxflex", "broker": "mqtt://127.0.0.1", "agent": "a", "isv": "acme", "feed": "main-a", "sign_kid": "k",
     "sign_key": "file:lab.pem", "unsigned": True}
)  # fmt: skip


def setup_module():
    write_keys(KEYS)


def teardown_module():
    shutil.rmtree(KEYS)


class Everybody(World):
    """The ledger with all channels in front of it; `broker` holds what was not acknowledged."""

    def __init__(self, folder):
        self.oadr2, self.answering = {}, True
        self.broker, self.made = [], datetime.now(UTC) - timedelta(minutes=1)
        super().__init__(folder)

    def open(self):
        super().open()
        clock = SimpleNamespace(now=lambda: self.now, monotonic=lambda: 0.0)
        self.hook = Webhook({"hook": SECRET}, self.store, lambda: datetime.now(UTC))
        context = AdapterContext(clock, KEYS, self.store)
        self.dsx = DsxFlexSession(DSX, context)
        self.dsx._desk = self.desk("dsx")
        self.dsx._book = from_record(self.store.get(BOOK, "dsx"))
        self.dsx._inbox.seen = all_seen(self.store, "dsx")
        self.dsx._link.acknowledge = self.broker_done
        self.dsx._dirty = True
        self.adr2 = OpenAdr2Session(ADR2, context)
        self.adr2._desk = self.desk("adr2")
        self.adr2._book = Book(self.store, "adr2")

    def desk(self, program):
        return SimpleNamespace(
            program=program, site="sv", longest=timedelta(hours=24), accept=self.accept, say=lambda note: None
        )

    def accept(self, message):
        return self.ledger.accept(message, baseline_kw=BASELINE_KW, available_kw=4500.0, defaults=TERMS, now=self.now)

    # ---- who sends until he is answered
    def tell(self, program, fields):
        """One try of the webhook's or the operator's sender."""
        body = json.dumps(fields).encode()
        if program == "operator":
            return self.accept(parse_event(body, self.now, program="operator", source="ann"))
        headers = sign(SECRET, body, int(datetime.now(UTC).timestamp()), uuid.uuid4().hex, "hook")
        return self.accept(self.hook.receive(headers, body, self.now))

    # ---- the broker of DSX Flex
    def publish(self, *targets):
        self.made += timedelta(milliseconds=1)
        envelope = {
            "specversion": "1.0.2", "id": str(uuid.uuid4()), "source": "//grid/v1/isv/acme",
            "type": "grid.loadtarget.set.v1", "time": stated(self.made), "datacontenttype": "application/json",
            "subject": "loadtarget", "traceparent": f"00-{'a' * 32}-{'b' * 16}-01", "data": {"targets": list(targets)},
        }  # fmt: skip
        self.broker.append(json.dumps(envelope).encode())

    def broker_done(self, message):
        self.broker.remove(message.body)

    def deliver(self, bodies):
        if bodies:
            self.dsx._take([Arrived(self.dsx._set_topic, body, False, n, 1) for n, body in enumerate(bodies)])
        self.dsx._tell_ledger()

    # ---- the 2.0b server
    def poll2(self):
        """All events of the 2.0b server, or an answer that is none."""

        async def request_event():
            if not self.answering:
                return None, {}
            return "oadrDistributeEvent", {"request_id": "r", "events": [event2(*one) for one in self.oadr2.items()]}

        async def created_event(*_):
            pass

        client = SimpleNamespace(request_event=request_event, created_event=created_event, responded_events={})
        asyncio.run(self.adr2._resynced(client))


def event2(name, said):
    modification, start, limit_kw, status = said
    interval = {"dtstart": start, "duration": HOUR, "signal_payload": limit_kw}
    return {
        "event_descriptor": {
            "event_id": name, "modification_number": modification, "event_status": status, "priority": 0,
        },
        "active_period": {"dtstart": start, "duration": HOUR},
        "event_signals": [{"signal_name": "LOAD_DISPATCH", "signal_type": "setpoint", "intervals": [interval]}],
    }  # fmt: skip


class AllChannels(RuleBasedStateMachine):
    @initialize()
    def begin(self):
        self.folder = Path(tempfile.mkdtemp(prefix="gridpace-test-"))
        self.world = Everybody(self.folder)
        self.truth, self.versions, self.unanswered, self.known = {}, {}, [], []
        self.old2 = []

    def teardown(self):
        if hasattr(self, "world"):
            try:
                self.what_all_say_at_last_is_what_the_ledger_holds()
            finally:
                self.world.close()
                shutil.rmtree(self.folder)

    def attempt(self, do, *arguments):
        """True when it came through; a kill on the way is followed by a restart."""
        try:
            do(*arguments)
        except Killed:
            self.world.reopen()
            return False
        return True

    # ---- what senders say
    @rule(program=TOLD, burst=st.lists(st.tuples(NAMES, LIMITS, CANCELLED), min_size=1, max_size=4))
    def say(self, program, burst):
        """New versions; they are sent by `send`, in any order and more than once."""
        for name, limit_kw, cancelled in burst:
            version = self.versions[program, name] = self.versions.get((program, name), -1) + 1
            start = FAR + ((10 if program == "hook" else 20) + 2 * (name == "b")) * HOUR
            body = {"id": name, "version": version, "site": "sv"}
            span = {"start": stated(start), "duration": "PT1H", "limit_kw": limit_kw}
            self.unanswered.append((program, body | ({"cancelled": True} if cancelled else span)))
            self.truth[program, name] = None if cancelled else (start, limit_kw)

    @rule(order=st.randoms(use_true_random=False), most=st.integers(1, 4), repeats=st.integers(0, 2))
    def send(self, order, most, repeats):
        order.shuffle(self.unanswered)
        for one in self.unanswered[:most]:
            if self.attempt(self.world.tell, *one):
                self.unanswered.remove(one)
                self.known.append(one)
        for one in order.choices(self.known, k=repeats) if self.known else ():
            self.attempt(self.world.tell, *one)

    @rule(name=NAMES, limit_kw=st.one_of(st.none(), LIMITS))
    def order_over_the_broker(self, name, limit_kw):
        start = FAR + (30 + 2 * (name == "b")) * HOUR
        self.world.publish(target(limit_kw, start, start + HOUR))
        self.truth["dsx", name] = None if limit_kw is None else (start, limit_kw)

    @rule(order=st.randoms(use_true_random=False), most=st.integers(1, 4))
    def the_broker_delivers(self, order, most):
        waiting = list(self.world.broker)
        order.shuffle(waiting)
        self.attempt(self.world.deliver, waiting[:most])

    @rule(name=NAMES, limit_kw=LIMITS, hour=st.integers(0, 1))
    def the_2_0b_server_changes(self, name, limit_kw, hour):
        start = FAR + (40 + 3 * (name == "b") + hour) * HOUR
        held = self.world.oadr2.get(name, (-1,))
        if held != (-1,):
            self.old2.append((name, held))
        self.world.oadr2[name] = (max(held[0], self.versions.get(("adr2", name), -1)) + 1, start, limit_kw, "far")
        self.versions["adr2", name] = self.world.oadr2[name][0]
        self.truth["adr2", name] = (start, limit_kw)

    @rule(name=NAMES, forgets=st.booleans())
    def the_2_0b_server_withdraws(self, name, forgets):
        if name not in self.world.oadr2:
            return
        modification, start, limit_kw, _ = self.world.oadr2.pop(name)
        self.versions["adr2", name] = modification + 1
        if not forgets:
            self.world.oadr2[name] = (modification + 1, start, limit_kw, "cancelled")
        self.truth["adr2", name] = None

    @rule(answering=st.sampled_from([True, True, False]))
    def poll_the_2_0b_server(self, answering):
        self.world.answering = answering
        before = self.held("adr2")
        if self.attempt(self.world.poll2) and not answering:
            assert self.held("adr2") == before
        self.world.answering = True

    @rule(which=st.integers(0, 5))
    def a_late_2_0b_message_comes(self, which):
        """An older modification changes nothing while a newer one is held."""
        if not self.old2:
            return
        name, said = self.old2[which % len(self.old2)]
        if name in self.world.adr2._book.held and said[0] < self.world.adr2._book.held[name].modification:
            before = self.held("adr2")
            if self.attempt(lambda: asyncio.run(self.world.adr2._on_event(event2(name, said)))):
                assert self.held("adr2") == before

    @rule(name=NAMES, limit_kw=LIMITS, gone=st.booleans())
    def the_openadr_3_server_changes(self, name, limit_kw, gone):
        start = FAR + 2 * (name == "b") * HOUR
        if gone and name in self.world.vtn.objects["events"]:
            self.world.vtn.drop_event(name)
            self.truth["dr", name] = None
        elif not gone:
            event = capacity(limit_kw, start=start, each="PT1H")
            said = {key: value for key, value in event.items() if key not in {"id", "programID"}}
            self.world.vtn.put_event("p1", name, **said)
            self.truth["dr", name] = (start, limit_kw)

    @rule(broken_after=st.sampled_from([None, None, 0, 1, 2]))
    def poll_the_openadr_3_server(self, broken_after):
        self.world.broken_after = broken_after
        self.attempt(self.world.feeds.turn, "dr")
        self.world.broken_after = None

    # ---- what happens to us
    @rule(after=st.integers(0, 3))
    def a_kill_is_near(self, after):
        """The process ends at one of its next writes."""
        self.world.killed_after = after

    @rule()
    def restart(self):
        before = self.held()
        self.world.reopen()
        assert self.held() == before

    @rule(minutes=st.sampled_from([1, 8, 40, 300]))
    def move_clock(self, minutes):
        self.world.killed_after = None
        self.world.now = min(self.world.now + minutes * MINUTE, FAR - 3 * HOUR)
        self.world.ledger.advance(self.world.now)

    # ---- what must hold
    def held(self, program=None):
        """(program, start, cap) of all that binds, in order."""
        events = self.world.ledger.active(self.world.now)
        return sorted(
            (event.program, event.start, event.targets[0].value)
            for event in events
            if program is None or event.program == program
        )

    @rule()
    def what_all_say_at_last_is_what_the_ledger_holds(self):
        """Every sender is heard out, twice; nothing is new the second time."""
        self.world.killed_after = None
        for _ in range(2):
            for program, fields in (*self.unanswered, *self.known):
                self.world.tell(program, fields)
            self.world.deliver(list(self.world.broker))
            self.world.poll2()
            self.world.feeds.turn("dr")
            wanted = sorted((key[0], *said) for key, said in self.truth.items() if said is not None)
            assert self.held() == wanted
        self.known += self.unanswered
        self.unanswered = []
        assert not self.world.broker


AllChannels.TestCase.settings = settings(
    stateful_step_count=30, max_examples=2000 if os.environ.get("HYPOTHESIS_PROFILE") == "long" else 40
)
TestAllChannels = AllChannels.TestCase
