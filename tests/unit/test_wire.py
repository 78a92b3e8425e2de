"""One line of the protocol: what may be written, what is read, and that a faster reader of JSON is no laxer one."""

import json
import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from adapters.ports import Lease
from adapters.power import wire
from optimizer.reasons import Reason, Severity

PLAIN = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text(),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(), inner, max_size=4),
    max_leaves=20,
)


def strict(message):
    """What Python's own writer and reader make of it."""
    return json.loads(json.dumps({"v": 1, **message}, allow_nan=False))


@given(st.dictionaries(st.text(), PLAIN, max_size=5))
def test_what_is_written_is_one_line_that_says_what_was_meant(message):
    line = wire.encode(message)
    assert line.endswith(b"\n")
    assert line.count(b"\n") == 1
    assert json.loads(line) == strict(message)


@given(st.dictionaries(st.text(), PLAIN, max_size=5))
def test_who_writes_with_another_library_is_read_the_same(message):
    line = json.dumps({**message, "v": 1}).encode() + b"\n"
    narrow = json.loads(line, parse_int=lambda digits: int(digits) if abs(int(digits)) < 2**63 else float(digits))
    assert wire.decode(line) == narrow


@pytest.mark.parametrize("number", [math.nan, math.inf, -math.inf, np.float64("nan")])
@pytest.mark.parametrize("beside", [None, 1.0, "null"])
def test_what_is_no_number_is_not_written(number, beside):
    for message in ({"a": number, "b": beside}, {"a": [beside, {"b": [number]}]}, {"d": {"g": number}}):
        with pytest.raises(ValueError, match="not JSON compliant"):
            wire.encode(message)


@pytest.mark.parametrize("value", [np.int64(3), np.array([1.0]), {1, 2}, b"x", Lease(1, 2, 3.0), object()])
def test_what_json_does_not_know_is_not_written(value):
    with pytest.raises(TypeError):
        wire.encode({"a": value})


def test_what_is_written_stays_what_it_was():
    message = {"a": None, "b": "null", "c": Severity.ALERT, "d": (1, 2), "e": {Reason.GPU_LOST: np.float64(1.5)},
               "f": 2**70, "g": "\udcff", "h": 250.0, "i": True, "j": "ü\n"}  # fmt: skip
    assert json.loads(wire.encode(message)) == strict(message)
    assert wire.decode(wire.encode({"a": None, "h": 250.0, "j": "ü\n"})) == {"v": 1, "a": None, "h": 250.0, "j": "ü\n"}
    assert type(wire.decode(wire.encode({"h": 250.0}))["h"]) is float


@pytest.mark.parametrize(
    "line",
    [
        b"", b"\n", b"null\n", b"[]\n", b"{\n", b'{"v":1}', b'{"v":2}\n', b'{"v":"1"}\n', b'{"v":1} x\n', b"\xff\n",
        b'{"v":1,"a":"\xff"}\n', b'{"v":1,"a":"\xed\xa0\x80"}\n', b'{"v":1,"a":"\\ud800"}\n', b'{"v":1,"a":NaN}\n',
        b'{"v":1,"a":-Infinity}\n', b'{"v":1,"a":1e999}\n', b'{"v":1,"a":' + b"9" * 400 + b"}\n",
        b'{"v":1,"a":' + b"[" * 100_000 + b"\n", b'{"v":1,"a":"' + b"x" * wire.MAX_LINE + b'"}\n',
    ],
)  # fmt: skip
def test_what_is_no_line_of_ours_is_refused(line):
    with pytest.raises(wire.BadRequest):
        wire.decode(line)


@pytest.mark.parametrize("depth", [wire.DEEPEST, 500, 1000, 1020])
@pytest.mark.parametrize(("opens", "closes"), [(b"[", b"]"), (b'{"a":', b"}")])
def test_what_lies_too_deep_to_be_named_in_an_answer_is_refused(depth, opens, closes):
    with pytest.raises(wire.BadRequest, match="deeper than"):
        wire.decode(b'{"v":1,"op":' + opens * depth + b"1" + closes * depth + b"}\n")


def test_what_is_long_but_not_deep_is_read():
    steps = [[float(k), {"g": 300}] for k in range(3000)]
    assert wire.steps(wire.decode(wire.encode({"steps": steps}))["steps"])[-1] == (2999.0, {"g": 300})


@pytest.mark.parametrize("digits", [2**63, 2**64, 2**70, -1, -(2**63) - 1])
def test_a_number_wider_than_ours_is_no_lease_and_no_watts(digits):
    message = wire.decode(b'{"v":1,"n":%d}\n' % digits)
    for lease in ({"epoch": message["n"], "sequence": 1}, {"epoch": 1, "sequence": message["n"]}):
        with pytest.raises(wire.BadRequest):
            wire.lease({**lease, "expires_in_s": 9.0})
    with pytest.raises(wire.BadRequest):
        wire.caps({"g": message["n"]}, "caps_w")
