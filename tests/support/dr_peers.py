"""The utility's side of every channel behind one face, each a real peer: what a contract suite and a benchmark drive.

`order`, `change` and `cancel` say the same thing on each channel in its own protocol; `kinds` are what it can say.
"""

import json
import time
import uuid
from contextlib import ExitStack, contextmanager
from datetime import UTC, datetime, timedelta

from adapters.dr.webhook import sign
from scheduler.clock import WallClock
from scheduler.service import Refused
from tests.support.dsx_isv import SETTING, Isv, target, write_keys
from tests.support.loops import lab
from tests.support.mosquitto import mosquitto
from tests.support.openadr3 import server as vtn3
from tests.support.openadr3 import stated
from tests.support.power_worlds import wait_until
from tests.support.vtn2 import vtn2

SECRET = b"a-secret-for-tests-only"
BASE_KW = 46.0
WEBHOOK = '{type: webhook, secret: "file:secret"}'
TERMS = "{id: elrp, ramp_in: 1s, ramp_out: 1s, rebound: 1s, "
BASELINE = f"baseline: {{type: declared, kw: {BASE_KW:g}}}"
FIELDS = {"limit": "limit_kw", "reduce": "reduce_kw", "percent": "reduce_percent"}
SIGNALS = {
    "limit": ("LOAD_DISPATCH", "setpoint"),
    "reduce": ("LOAD_DISPATCH", "delta"),
    "percent": ("SIMPLE", "level"),
}
TYPES = {"limit": "IMPORT_CAPACITY_LIMIT", "reduce": "DISPATCH_SETPOINT_RELATIVE", "percent": "SIMPLE"}
REFUSED = {"message_refused", "event_unread"}


class Peer:
    """A utility on one channel; an order is a list of (start, end, kind, value)."""

    name, kinds, channel = "", ("limit",), WEBHOOK

    def __init__(self):
        self.site, self.refusal, self.version, self.event = None, "", 0, "e1"

    def next_event(self):
        """Speak of another event from now on."""
        self.event, self.version = f"e{int(self.event[1:]) + 1}", 0

    def connected(self):
        """Wait until the channel is ready."""

    def refused(self):
        """Whether the utility or people heard of a refusal."""
        notes = any(note.code in REFUSED for note in self.site.state.notes)
        return bool(self.refusal) or notes or any(event.state == "refused" for event in self.site.facade.events())


class Webhook(Peer):
    name, kinds = "webhook", ("limit", "reduce", "percent")

    def order(self, steps):
        targets = [{"start": stated(a), "end": stated(b), FIELDS[kind]: value} for a, b, kind, value in steps]
        self.body = {
            "id": self.event, "version": self.version, "site": "lab", "start": stated(steps[0][0]),
            "end": stated(steps[-1][1]), "targets": targets, "ramp_in_s": 1, "ramp_out_s": 1, "rebound_s": 1,
        }  # fmt: skip
        self.again()

    def again(self):
        self.send(self.body)

    def change(self, steps):
        self.version += 1
        self.order(steps)

    def cancel(self):
        self.send({"id": self.event, "version": self.version, "site": "lab", "cancelled": True})

    def bad(self):
        try:
            self.send({"id": "bad", "site": "lab", "start": "now", "duration": "PT1H", "limit_kW": 3})
        except Refused as error:
            self.refusal = str(error)

    def send(self, fields):
        body = json.dumps(fields).encode()
        headers = sign(SECRET, body, int(time.time()), uuid.uuid4().hex, "elrp")
        return self.site.facade.receive_event("elrp", headers, body)


class Hand(Webhook):
    name = "operator"

    def send(self, fields):
        return self.site.facade.add_event(fields, "ops")


class Dsx(Peer):
    name = "dsxflex"

    def __init__(self, folder, opened):
        super().__init__()
        write_keys(folder)
        self.folder, self.broker = folder, opened.enter_context(mosquitto(folder))
        self.channel = "{" + SETTING.format(port=self.broker.port) + "}"
        self.opened = opened

    def connected(self):
        wait_until(self.site.parts.sessions.sessions["elrp"]._link.connected.is_set)
        if not hasattr(self, "isv"):
            self.isv = Isv(self.folder, self.broker.port)
            self.opened.callback(self.isv.close)

    def order(self, steps):
        self.steps = steps
        self.sent = self.isv.set(*(target(value, a, b) for a, b, _, value in steps))

    def again(self):
        self.isv.publish(self.sent)

    def change(self, steps):
        cleared = target(None, self.steps[0][0], self.steps[-1][1])
        self.steps = steps
        self.sent = self.isv.set(cleared, *(target(value, a, b) for a, b, _, value in steps))

    def cancel(self):
        self.isv.set(target(None, self.steps[0][0], self.steps[-1][1]))

    def bad(self):
        self.isv.set(target(1, unit="horsepower"))


class Adr2(Peer):
    name, kinds = "openadr2", ("limit", "reduce", "percent")

    def __init__(self, folder, opened):
        super().__init__()
        self.server = opened.enter_context(vtn2())
        self.channel = (
            f'{{type: openadr2, url: "http://127.0.0.1:{self.server.port}/OpenADR2/Simple/2.0b", ven_name: lab, '
            "resync: 1s, report_every: 1s, "
            'dispatch_unit: kW, delta: positive_reduces, levels: {"2": {reduce_percent: 25}}}'
        )

    def connected(self):
        wait_until(lambda: self.server.registered)

    def order(self, steps):
        signal = SIGNALS[steps[0][2]]
        said = [(a, b - a, 2.0 if kind == "percent" else value) for a, b, kind, value in steps]
        self.server.order(*signal, *said, event_id=self.event)

    def again(self):
        self.server._updated()

    def change(self, steps):
        def apply(event):
            event.event_signals[0].intervals[:] = [
                {"dtstart": a, "duration": b - a, "signal_payload": value} for a, b, _, value in steps
            ]
            event.active_period.update(dtstart=steps[0][0], duration=steps[-1][1] - steps[0][0])

        self.server.change(self.event, apply)

    def cancel(self):
        self.server.cancel(self.event)

    def bad(self):
        self.server.order("LOAD_DISPATCH", "level", (now() + timedelta(hours=5), timedelta(hours=1), 1), event_id="bad")


class Adr3(Peer):
    name, kinds = "openadr3", ("limit", "reduce", "percent")

    def __init__(self, folder, opened):
        super().__init__()
        self.server = opened.enter_context(vtn3())
        (folder / "ven").write_text("ven-secret")
        (folder / "ven").chmod(0o600)
        self.channel = (
            f'{{type: openadr3, url: "{self.server.url}", program: dr, client_id: ven, client_secret: "file:ven", '
            'poll: 1s, unit: KW, relative_sense: positive_reduces, levels: {"2": "-25%"}}'
        )

    def order(self, steps, event_id=None):
        intervals = [
            {
                "id": number,
                "intervalPeriod": {"start": stated(a), "duration": f"PT{int((b - a).total_seconds())}S"},
                "payloads": [{"type": TYPES[kind], "values": [2 if kind == "percent" else value]}],
            }
            for number, (a, b, kind, value) in enumerate(steps)
        ]
        self.server.vtn.put_event("p1", event_id or self.event, intervals=intervals)

    def again(self):
        wait_polls(self.server.vtn, 2)

    def change(self, steps):
        self.order(steps)

    def cancel(self):
        self.server.vtn.drop_event(self.event)

    def bad(self):
        start = now() + timedelta(hours=5)
        self.order([(start, start + timedelta(hours=1), "limit", "a lot")], event_id="bad")


def wait_polls(vtn, count):
    """Wait until events were read so often."""
    before = len(vtn.log)
    wait_until(lambda: sum("/events" in path for _, path in vtn.log[before:]) >= count)


def now():
    return datetime.now(UTC).replace(microsecond=0)


PEERS = {"webhook": Webhook, "operator": Hand, "dsxflex": Dsx, "openadr2": Adr2, "openadr3": Adr3}


@contextmanager
def peer(name, folder):
    """A utility on one channel."""
    with ExitStack() as opened:
        kind = PEERS[name]
        yield kind() if kind in {Webhook, Hand} else kind(folder, opened)


@contextmanager
def enrolled(utility, folder, store=None, more=lambda text: text):
    """A lab under the machine's clock whose program is told by this utility, connected."""

    def changed(text):
        head, tail = text.split("{id: elrp, ", 1)
        terms, rest = tail.split("\njobs:", 1)
        terms = terms.replace(WEBHOOK, utility.channel).replace("baseline: {type: meter_before, minutes: 15}", BASELINE)
        head = head.replace("{up: 10, down: 40}", "{up: 6000, down: 6000}")  # the site's own ramps are not the matter
        return more(f"{head}{TERMS}{terms}\njobs:{rest}")

    with lab(folder, changed, store, WallClock()) as site:
        utility.site = site
        site.tick()
        site.parts.sessions.start()
        site.parts.feeds.start()
        utility.connected()
        yield site
