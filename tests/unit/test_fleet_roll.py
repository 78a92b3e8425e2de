"""What a daemon knows of its nodes from what they told: cheap to ask, and the same as looking at every node."""

import json

import numpy as np
import pytest

from adapters.ports import GpuInfo
from adapters.power import fleet_wire, wire
from adapters.power.fleet_roll import STALE_S, Roll
from adapters.power.fleet_wire import NodeState

STATUS = {"phase": "leased", "epoch": 1, "sequence": 7, "lease_left_s": 9.5, "found_w": {"g": 1}, "reasserted": 0,
          "yielded_w": {}}  # fmt: skip


def said(node, odd):
    more = {0: {}, 1: {"yielded_w": {f"{node}-0": 500.0}}, 2: {"lowered": (f"{node}-0",)}, 3: {"yielded_mhz": {"x": 9}},
            4: {"kept_w": {f"{node}-0": 300.0}}}  # fmt: skip
    return NodeState(node, {f"{node}-0": 300.0}, "leased", 1, 1, 9.0, 1, **more[odd])


def test_who_is_heard_who_is_silent_and_who_is_contested_is_what_looking_at_all_would_say():
    rng, now = np.random.default_rng(2), [100.0]
    roll, told = Roll(lambda: now[0]), {}
    for _ in range(400):
        now[0] += float(rng.random() * 2.0)
        node = f"n{rng.integers(8)}"
        told[node] = (now[0], said(node, int(rng.integers(5))))
        roll.hear(told[node][1])
        fresh = {name: state for name, (at, state) in told.items() if now[0] - at <= STALE_S}
        assert roll.fresh() == fresh
        assert set(roll.stale()) == told.keys() - fresh.keys()
        odd = [s for s in fresh.values() if s.yielded_w or s.lowered or s.yielded_mhz or s.kept_w]
        assert sorted(roll.contested()) == sorted(odd)


def message(**more):
    apart = 1.0 if more else 0.0
    infos = {
        f"g{k}": GpuInfo(f"g{k}", "H100", 200, 700, 700, 700, 300.0 + apart * k, 250.0 + k, utilisation=0.5)
        for k in range(3)
    }
    return fleet_wire.state_out("n1", infos, {**STATUS, **more}, whole=False)


def whole():
    infos = {f"g{k}": GpuInfo(f"g{k}", "H100", 200, 700, 700, 700, 300.0, 250.0) for k in range(3)}
    return fleet_wire.state_out("n1", infos, STATUS, whole=True)


@pytest.mark.parametrize("more", [{}, {"lowered": ["g1"], "yielded_w": {"g2": 700.0}, "reasserted": 3}])
def test_a_state_is_read_as_it_was_told(more):
    state, infos = fleet_wire.state_in(message(**more))
    assert infos is None
    assert state.draw_w == {"g0": 250.0, "g1": 251.0, "g2": 252.0}
    assert state.utilisation == dict.fromkeys(("g0", "g1", "g2"), 0.5)
    assert state.lowered == tuple(more.get("lowered", ()))
    apart = 1.0 if more else 0.0
    assert state.enforced_w == {f"g{k}": 300.0 + apart * k for k in range(3)}
    assert (b'"limit_w":300.0' in message(**more)) == (not more), "what all have in common is told once"


def test_a_node_is_believed_of_itself_and_of_its_own_cards():
    now = [100.0]
    roll = Roll(lambda: now[0])
    roll.hear(said("n2", 0))
    assert roll.believes(said("n1", 0), "n1")
    assert not roll.believes(said("n2", 0), "n1"), "another's name"
    thief = said("n1", 0)._replace(draw_w={"n1-0": 300.0, "n2-0": 300.0})
    assert not roll.believes(thief, "n1")
    assert roll.refused() == {"n1": "claims n2-0, which n2 has"}
    assert (roll.has("n2", "n2-0"), roll.has("n1", "n2-0"), roll.has("n1", "nobody's")) == (True, False, True)
    assert roll.believes(said("n1", 0), "n1")
    assert roll.refused(), "told for a while: who asks comes once a second"
    now[0] += STALE_S + 0.1
    assert roll.refused() == {}
    assert roll.believes(thief, "n1"), "a card that went to another host, while its first one is gone"
    roll.hear(thief)
    assert roll.cards == {"n1-0": "n1", "n2-0": "n1"}


def test_limits_are_compared_once_a_node_knows_its_last_order():
    now = [100.0]
    roll = Roll(lambda: now[0])
    one = said("n1", 0)._replace(epoch=2, sequence=5)
    roll.hear(one)
    assert [roll.obeyed(one, last) for last in (None, (2, 5, 99.0), (2, 6, 99.0), (3, 1, 99.0), (1, 9, 99.0))] == [
        True, True, False, False, True]  # fmt: skip
    now[0] += STALE_S
    roll.hear(one)  # after a reboot a node knows of no order
    assert roll.obeyed(one, (2, 6, 99.0))


@pytest.mark.parametrize(
    "broken",
    [
        b"", b"\n", b"[]\n", b"{\n", b'{"v":1}\n', b"\xff\n", b'{"v":2,"node":"n"}\n', b"[" * 100_000 + b"\n",
        message().replace(b"250.0", b'"x"'), message().replace(b'"capped":1', b'"capped":null'),
        message().replace(b'"busy":[', b'"busy":["y",'),
        message().replace(b'"draw_w":{', b'"draw_w":[{').replace(b"},", b"}],", 1),
        message().replace(b'"limit_w":300.0', b'"limit_w":NaN'), message().replace(b"250.0", b"NaN"),
        message().replace(b"250.0", b"-1.0"), message().replace(b'"busy":[0.5', b'"busy":[NaN'),
        message(reasserted=1).replace(b'"limit_w":[300.0', b'"limit_w":[-3.0'),
        message(reasserted=1).replace(b'"limit_w":[300.0,', b'"limit_w":['),
        whole().replace(b'"max_w":700', b'"max_w":NaN', 1), whole().replace(b'"id":"g1"', b'"id":"g9"'),
    ],
)  # fmt: skip
def test_what_is_no_state_is_refused(broken):
    with pytest.raises(wire.BadRequest):
        fleet_wire.state_in(broken)


def test_whole_numbers_are_watts_too_and_floats_are_checked_as_strictly():
    draws = json.loads(message())["draw_w"]
    told = message().replace(json.dumps(draws, separators=(",", ":")).encode(), b'{"g0":250,"g1":251.5,"g2":0}')
    (state, _) = fleet_wire.state_in(told)
    assert state.draw_w == {"g0": 250.0, "g1": 251.5, "g2": 0.0}
    assert {*map(type, state.draw_w.values())} == {float}
    assert wire.watts({"a": 1.5, "b": 0.0}, "w") == {"a": 1.5, "b": 0.0}
    for wrong in (float("nan"), float("inf"), -1.0, 1e6):
        for beside in ({}, {"b": 2.0}, {"b": 2}):
            with pytest.raises(wire.BadRequest):
                wire.watts({"a": wrong, **beside}, "w")


def test_a_node_tells_who_ignores_caps_and_who_keeps_one_after_its_release():
    state, _ = fleet_wire.state_in(message(yielded_w={"g1": 500.0}, ignoring=["g1"], kept_w={"g2": 300.0}))
    assert (state.ignoring, state.kept_w) == (("g1",), {"g2": 300.0})
    quiet, _ = fleet_wire.state_in(message(ignoring=[], kept_w={}))
    assert (quiet.ignoring, quiet.kept_w) == ((), {})
