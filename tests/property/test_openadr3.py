"""Any interleaving of changes, half readings, lost servers, kills and restarts ends in what the server says at last."""

import os
import random
import shutil
import tempfile
from pathlib import Path

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule

from adapters.dr.vtn.warts import Wart
from optimizer.envelope import tightest_kw
from optimizer.reasons import Reason
from tests.support.openadr3 import HOUR, MINUTE, NOON, capacity, stated
from tests.support.openadr3_world import BASELINE_KW, FAR, Killed, World

STEP_KW = BASELINE_KW / 60 + 1
LIMITS = (1000, 2000, 3000)
NAMES = st.sampled_from(["a", "b", "c"])


class OpenAdr3Machine(RuleBasedStateMachine):
    @initialize(
        warts=st.sets(st.sampled_from([Wart.LOCAL_DATES, Wart.SHORT_PAGES, Wart.NO_FILTER, Wart.ZERO_DURATION]))
    )
    def begin(self, warts):
        self.folder = Path(tempfile.mkdtemp(prefix="gridpace-test-"))
        self.world = World(self.folder, warts)
        self.truth = {}
        self.known = False

    def teardown(self):
        if hasattr(self, "world"):
            self.world.close()
            shutil.rmtree(self.folder)

    def cap(self):
        return min(BASELINE_KW, tightest_kw(self.world.ledger.active(self.world.now), self.world.now))

    @rule(name=NAMES, limit_kw=st.sampled_from(LIMITS), hours=st.integers(0, 5), near=st.booleans())
    def put(self, name, limit_kw, hours, near):
        """A day ahead, where the truth of the ledger is known to the watt, or about now, where it must not jump."""
        name = f"near-{name}" if near else name
        start = NOON + hours * HOUR / 2 if near else FAR + hours * HOUR
        event = capacity(limit_kw, start=start, each="PT1H")
        del event["id"]
        self.world.vtn.put_event("p1", name, **{key: value for key, value in event.items() if key != "programID"})
        self.truth[name] = (start, limit_kw)
        self.known = False

    @rule(name=NAMES, near=st.booleans(), how=st.sampled_from(["delete", "zero", "year one"]))
    def withdraw(self, name, near, how):
        name = f"near-{name}" if near else name
        if name not in self.world.vtn.objects["events"]:
            return
        if how == "delete":
            self.world.vtn.drop_event(name)
        else:
            event = capacity(1, start=NOON if how == "zero" else "0001-01-01", each="PT0S")
            self.world.vtn.put_event("p1", name, **{k: v for k, v in event.items() if k not in {"id", "programID"}})
        self.truth.pop(name, None)
        self.known = False

    @rule()
    def poll(self):
        before = self.cap()
        self.world.feeds.turn("dr")
        self.known = True
        assert abs(self.cap() - before) <= STEP_KW, f"the cap jumped from {before} to {self.cap()} kW"

    @rule(after=st.integers(0, 3))
    def poll_and_lose_the_server_half_way(self, after):
        before = self.world.ledger.active(self.world.now)
        self.world.broken_after = after
        self.world.feeds.turn("dr")
        self.world.broken_after = None
        lost = [note for note in self.world.state.notes if note.code is Reason.CHANNEL_LOST]
        if lost:
            assert self.world.ledger.active(self.world.now) == before

    @rule(after=st.integers(0, 4))
    def poll_and_be_killed_half_way(self, after):
        self.world.killed_after = after
        try:
            self.world.feeds.turn("dr")
        except Killed:
            self.known = False
        self.world.reopen()

    @rule()
    def restart(self):
        before = self.world.ledger.active(self.world.now)
        self.world.reopen()
        assert sorted(self.world.ledger.active(self.world.now), key=str) == sorted(before, key=str)

    @rule(minutes=st.sampled_from([1, 3, 8, 40]))
    def move_clock(self, minutes):
        self.world.now = min(self.world.now + minutes * MINUTE, FAR - 3 * HOUR)
        self.world.ledger.advance(self.world.now)

    @invariant()
    def what_lies_ahead_is_what_the_server_says(self):
        if not getattr(self, "known", False):
            return
        expected = {name: said for name, said in self.truth.items() if not name.startswith("near")}
        held = {
            event.id: (event.start, event.targets[0].value)
            for event in self.world.ledger.active(self.world.now)
            if not event.id.startswith("near")
        }
        assert held == expected
        repeated = self.world.feeds.turn("dr")
        assert repeated == (), "the same truth, read again, changes nothing"


OpenAdr3Machine.TestCase.settings = settings(stateful_step_count=15)
TestOpenAdr3 = OpenAdr3Machine.TestCase


def garbage(rng):
    """An event that a server may hold: often nearly right."""
    values = [
        0,
        1,
        -1,
        2.5,
        "2",
        None,
        True,
        float("nan"),
        float("inf"),
        1e300,
        {},
        [],
        {"x": 1},
        "\x00\ud800",
        "x" * 300,
    ]
    starts = [stated(NOON + HOUR), "0001-01-01", "0000-00-00", "soon", "", None, 5, "9999-12-31T23:59:59Z", stated(FAR)]
    lengths = ["PT1H", "P9999Y", "PT0S", "-PT1H", "P1M", "PT1.5H", "", None, 7, "PT0.000001S", "P99999999999Y"]
    kinds = ["SIMPLE", "IMPORT_CAPACITY_LIMIT", "IMPORT_CAPACITY_SUBSCRIPTION", "PRICE", "ALERT_GRID_EMERGENCY",
             "DISPATCH_SETPOINT", "CONTROL_LEVEL_OFFSET", "X", "", None]  # fmt: skip
    units = ["KW", "MW", "KWH", None, "", 5]

    def some(choices, right=0.6):
        return choices[0] if rng.random() < right else rng.choice(choices)

    def times():
        return {
            "start": some(starts),
            "duration": some(lengths),
            "randomizeStart": rng.choice([None, "PT5M", "-P1Y", "x"]),
        }

    intervals = [
        {"id": some([0, 1, "one", None]), "payloads": [{"type": some(kinds), "values": [some(values)]}]}
        | ({"intervalPeriod": times()} if rng.random() < 0.3 else {})
        for _ in range(rng.choice([0, 1, 1, 1, 2, 5]))
    ]
    event = {"id": f"f{rng.randrange(10**9)}", "programID": "p1", "intervals": intervals, "intervalPeriod": times()}
    event["payloadDescriptors"] = [{"payloadType": kind, "units": some(units)} for kind in kinds[:3]]
    extra = {"priority": [0, -1, "high", None, 2**70], "duration": lengths, "targets": [None, [], ["a"], [{}], "x"],
             "eventName": ["", "x" * 5000, None, 3, "\n"], "reportDescriptors": [None, [], [{}], 5]}  # fmt: skip
    for name, choices in extra.items():
        if rng.random() < 0.2:
            event[name] = rng.choice(choices)
    return rng.choice([event] * 20 + [None, 5, "x", [], {}, {"id": None}])


FUZZED = int(
    os.environ.get("GRIDPACE_FUZZED_EVENTS", "200000" if os.environ.get("HYPOTHESIS_PROFILE") == "long" else "2000")
)


@pytest.mark.timeout(3600)
def test_no_fuzzed_event_is_an_unhandled_error_hides_another_or_changes_what_is_held_of_it(tmp_path):
    world = World(tmp_path)
    rng = random.Random(int(os.environ.get("GRIDPACE_FUZZ_SEED", "5")))
    # Of the highest priority: what another sound one says with a higher one would rightly be laid over it.
    sound = capacity(2000, start=FAR, each="PT1H", priority=0)
    sound["id"] = "sound"
    listed = []
    world.vtn._list = lambda kind, *_: listed if kind == "events" else [*world.vtn.objects[kind].values()]
    batch = 500
    for begin in range(0, FUZZED, batch):
        listed[:] = [garbage(rng) for _ in range(min(batch, FUZZED - begin))]
        listed.insert(rng.randrange(len(listed)), sound)
        world.feeds.turn("dr")
        held = world.ledger.active(world.now)
        assert [event.targets[0].value for event in held if event.id == "sound"] == [2000]
        for event in held:
            assert 0 <= min(span.value for span in event.targets) < float("inf")
            assert event.start < event.end
        assert not [note for note in world.state.notes if note.code is Reason.CHANNEL_LOST]
        listed[:] = [sound]
        world.feeds.turn("dr")
    world.close()
