"""Any interleaving of repeats, late versions, cancellations, restarts and clock moves ends in what the messages say."""

import shutil
import tempfile
from datetime import UTC, datetime, timedelta
from pathlib import Path

from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule

from adapters.ports import EventMessage, EventTarget
from optimizer.envelope import tightest_kw
from scheduler.ledger.ledger import Ledger, ProgramTerms
from scheduler.store.store import Store

NOON = datetime(2022, 9, 6, 19, tzinfo=UTC)
MINUTE = timedelta(minutes=1)
BASELINE_KW, RAMP_S = 4500.0, 300.0
STEP_KW = BASELINE_KW / 60 + 1
"""A running event changes in steps of five seconds: a sixtieth of the whole range, at most."""
FAR = 600
"""Minutes ahead of everything that a clock move reaches: events there end as the messages say, in any order."""
TERMS = ProgramTerms(ramp_in_s=RAMP_S, ramp_out_s=RAMP_S, rebound_s=600.0)

NAMES = st.sampled_from(["near", "far-a", "far-b"])
VERSIONS = st.integers(0, 3)
CANCELLED = st.sampled_from([False, False, True])


def message(name: str, version: int, cancelled: bool) -> EventMessage:
    """The one message of a version; version 2 of the b is nonsense; version 2 of the near one puts it off."""
    first = FAR + version if name.startswith("far") else (0, 2, 40, 4)[version]
    start, end = NOON + first * MINUTE, NOON + (first + 30) * MINUTE
    limit_kw = float("nan") if name.endswith("b") and version == 2 else 3000.0 - 900 * version
    targets = () if cancelled else (EventTarget(start, end, limit_kw=limit_kw),)
    return EventMessage(name, version, "sv", start, end, targets, cancelled=cancelled, program="p", raw={"v": version})


class LedgerMachine(RuleBasedStateMachine):
    @initialize()
    def open_books(self):
        self.folder = Path(tempfile.mkdtemp(prefix="gridpace-test-"))
        self.store = Store.open(self.folder / "gridpace.db")
        self.ledger = Ledger(self.store)
        self.now = NOON - 2 * MINUTE
        self.answers = {}
        self.withdrawn = set()

    def teardown(self):
        if hasattr(self, "folder"):
            self.store.close()
            shutil.rmtree(self.folder)

    def cap(self):
        """The cap in force; above the baseline it holds nobody back."""
        return min(BASELINE_KW, tightest_kw(self.ledger.active(self.now), self.now))

    def no_jump(self, before):
        assert abs(self.cap() - before) <= STEP_KW, f"the cap jumped from {before} to {self.cap()} kW"

    @rule(burst=st.lists(st.tuples(NAMES, VERSIONS, CANCELLED), min_size=1, max_size=6))
    def send(self, burst):
        for identity in burst:
            before = self.cap()
            answer = self.ledger.accept(
                message(*identity), baseline_kw=BASELINE_KW, available_kw=4500.0, defaults=TERMS, now=self.now
            )
            assert (answer.id, answer.version) == identity[:2]
            assert answer.duplicate is (identity in self.answers)
            held = self.answers.setdefault(identity, answer)
            assert (answer.opt, answer.reason, answer.target_kw) == (held.opt, held.reason, held.target_kw)
            self.no_jump(before)

    @rule(version=VERSIONS, minutes=st.integers(0, 12), then=st.tuples(VERSIONS, CANCELLED))
    def change_a_running_event(self, version, minutes, then):
        self.send([("near", version, False)])
        self.move_clock(minutes)
        self.send([("near", *then)])

    @rule(name=st.sampled_from(["near", "far-b"]))
    def withdraw(self, name):
        before = self.cap()
        try:
            assert self.ledger.cancel(name, "ann", self.now).opt == "out"
            self.withdrawn.add(name)
        except KeyError:
            assert not any(answer.opt == "in" for (held, _, _), answer in self.answers.items() if held == name)
        self.no_jump(before)

    @rule(minutes=st.sampled_from([1, 2, 3, 3, 8, 40, -1, -30]))
    def move_clock(self, minutes):
        self.now = min(self.now + minutes * MINUTE, NOON + (FAR - 60) * MINUTE)
        self.ledger.advance(self.now)

    @rule(import_kw=st.floats(0, 6000))
    def measure(self, import_kw):
        self.ledger.record(self.now, "sv", import_kw)

    @rule()
    def restart(self):
        before, cap = self.ledger.active(self.now), self.cap()
        self.ledger.advance(self.now)
        shown = self.ledger.statuses()
        self.ledger.close()
        self.store.close()
        self.store = Store.open(self.folder / "gridpace.db")
        self.ledger = Ledger(self.store)
        assert self.ledger.advance(self.now) == ()
        assert sorted(self.ledger.active(self.now), key=str) == sorted(before, key=str)
        assert self.cap() == cap
        assert self.ledger.statuses() == shown

    @invariant()
    def what_lies_ahead_is_what_the_messages_say(self):
        for name in ("far-a", "far-b"):
            if name in self.withdrawn:
                continue
            told = [identity for identity in self.answers if identity[0] == name]
            valid = [version for _, version, gone in told if not gone and not (name == "far-b" and version == 2)]
            gone = max((version for _, version, cancelled in told if cancelled), default=-1)
            newest = max(valid, default=-1)
            expected = [(newest, 3000.0 - 900 * newest)] if newest > gone else []
            held = [
                (event.version, event.targets[0].value) for event in self.ledger.active(self.now) if event.id == name
            ]
            assert held == expected

    @invariant()
    def an_operators_word_holds(self):
        for event in self.ledger.active(self.now):
            if event.id in self.withdrawn:
                assert event.end <= self.now or not event.id.startswith("far")

    @invariant()
    def every_message_is_in_the_books_once(self):
        logged = self.store.log("event_message")
        said = [body["message"] for _, body in logged if not body["by"]]
        assert sorted((body["id"], body["version"], body["cancelled"]) for body in said) == sorted(self.answers)


LedgerMachine.TestCase.settings = settings(stateful_step_count=30)
TestLedger = LedgerMachine.TestCase
