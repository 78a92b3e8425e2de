"""Answers of many nodes that are added up as they come."""

from types import SimpleNamespace

import pytest

from adapters.ports import Receipt
from adapters.power import wire
from adapters.power.fleet_answers import Tally, Unheard
from adapters.power.fleet_roll import Roll
from optimizer.reasons import Note, Reason, Severity

ASKS = {node: {"op": "apply", "caps_w": {f"{node}-0": 250, f"{node}-1": 250}} for node in ("a", "b", "c")}


def said(**message):
    return SimpleNamespace(headers=None, data=wire.encode(message))


def obeyed(enforced_w, failures=(), notes=()):
    return said(ok=True, result=wire.receipt_out(Receipt(enforced_w, dict(failures), tuple(notes))))


def test_the_sum_is_of_all_answers_in_whatever_order_they_come():
    tally = Tally(ASKS)
    note = Note(Reason.CAP_CLAMPED, "a-0", "255 W", Severity.INFO)
    assert tally.take(2, obeyed({"c-0": 250.0, "c-1": 250.0})) is None
    assert tally.take(0, obeyed({"a-0": 255.0}, {"a-1": Reason.GPU_LOST}, [note])) is None
    assert tally.take(1, said(ok=False, code=wire.FENCED, error="order 3 was overtaken by 4")) is None
    receipt = tally.receipt([None, None, None])
    assert receipt.enforced_w == {"c-0": 250.0, "c-1": 250.0, "a-0": 255.0}
    assert receipt.failures == {"a-1": Reason.GPU_LOST, "b-0": Reason.NODE_LOST, "b-1": Reason.NODE_LOST}
    assert note in receipt.notes
    assert any("overtaken by 4" in one.text for one in receipt.notes)


def test_who_did_not_answer_is_lost_with_the_reason():
    tally = Tally(ASKS)
    tally.take(0, obeyed({"a-0": 250.0, "a-1": 250.0}))
    nobody = SimpleNamespace(headers={"Status": "503"}, data=b"")
    why = [None, tally.take(1, nobody), Unheard("no answer within 3 s")]
    receipt = tally.receipt(why)
    assert receipt.failures == dict.fromkeys(["b-0", "b-1", "c-0", "c-1"], Reason.NODE_LOST)
    texts = {one.subject: one.text for one in receipt.notes}
    assert "nobody listens there" in texts["b"]
    assert "no answer within 3 s" in texts["c"]


def test_a_second_answer_to_the_same_order_counts_for_nothing():
    tally = Tally(ASKS)
    tally.take(0, obeyed({"a-0": 250.0, "a-1": 250.0}))
    assert tally.take(0, obeyed({"a-0": 100.0}, {"a-1": Reason.GPU_LOST})) is None
    receipt = tally.receipt([None, "", ""])
    assert receipt.enforced_w == {"a-0": 250.0, "a-1": 250.0}
    assert "a-1" not in receipt.failures


@pytest.mark.parametrize(
    "result",
    [
        None,
        7,
        {},
        {"enforced_w": 3, "failures": {}, "notes": [], "seconds": 0.0},
        {"enforced_w": {}, "failures": {"a-0": "no such"}, "notes": [], "seconds": 0.0},
    ],
)
def test_an_answer_that_is_no_receipt_is_none(result):
    """One node that is broken must not end the order of all others, nor count as one that obeyed."""
    tally = Tally(ASKS)
    why = tally.take(0, said(ok=True, result=result))
    assert "no receipt" in why
    assert tally.take(1, obeyed({"b-0": 250.0, "b-1": 250.0})) is None
    receipt = tally.receipt([why, None, Unheard("silent")])
    assert receipt.enforced_w == {"b-0": 250.0, "b-1": 250.0}
    assert receipt.failures["a-0"] is receipt.failures["a-1"] is Reason.NODE_LOST


def test_a_node_speaks_of_its_own_cards_alone():
    owners = {"c-0": "c", "a-9": "a"}
    tally = Tally(ASKS, lambda node, gpu: owners.get(gpu, node) == node)
    tally.take(0, obeyed({"a-0": 250.0, "c-0": 1.0, "a-9": 200.0}))
    assert tally.receipt([None, "", ""]).enforced_w == {"a-0": 250.0, "a-9": 200.0}


def test_values_go_to_the_nodes_of_their_cards_though_these_are_mixed():
    roll = Roll(lambda: 0.0)
    roll.cards = {"a-0": "a", "b-0": "b", "a-1": "a"}
    assert roll.by_node({"a-0": 1, "b-0": 2, "a-1": 3, "x": 4}) == ({"a": {"a-0": 1, "a-1": 3}, "b": {"b-0": 2}}, ["x"])
