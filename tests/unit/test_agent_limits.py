"""What a node's agent knows of its cards' limits: what was ordered of each, who refused it, and what was given back."""

import json
from dataclasses import replace

import pytest

from adapters.ports import Lease
from optimizer.reasons import Reason
from tests.support.agent_node import Node


@pytest.fixture
def node(tmp_path):
    return Node(tmp_path)


def renewed(node, seconds, sequence=10):
    """As a daemon does that has nothing new to order."""
    for second in range(seconds):
        node.core.apply({}, Lease(1, sequence + second, 30.0))
        node.live(1)


def test_a_cap_that_a_card_refused_to_take_again_stays_the_order(node):
    """The write that puts right what a driver's reload did, or a new order, meets a card that is not up yet."""
    node.cap(400)
    node.live(2)
    node.hall.fail(node.gpus[2], Reason.GPU_LOST)
    assert node.cap(300, sequence=2).failures == {node.gpus[2]: Reason.GPU_LOST}
    node.hall.reset_limit(node.gpus[2])
    node.live(3)
    node.hall.fail(node.gpus[2], None)
    renewed(node, 2)
    assert node.limits() == {300}


def test_who_refuses_a_cap_is_no_other_writer_and_was_not_set_again(node, monkeypatch):
    node.cap(400)
    node.live(2)
    node.hall.reset_limit(node.gpus[2])
    refusing = type(node.power).apply

    def refused(caps_w, lease):
        node.hall.fail(node.gpus[2], Reason.CALL_TIMEOUT)
        try:
            return refusing(node.power, caps_w, lease)
        finally:
            node.hall.fail(node.gpus[2], None)

    monkeypatch.setattr(node.power, "apply", refused)
    renewed(node, 10)
    status = node.core.status()
    assert (status["yielded_w"], status["reasserted"], node.limit(2)) == ({}, 0, 700)
    monkeypatch.undo()
    renewed(node, 1, sequence=30)
    assert (node.limits(), node.core.status()["reasserted"]) == ({400}, 1)
    for second in range(5):
        node.hall.reset_limit(node.gpus[2])
        renewed(node, 1, sequence=40 + second)
    assert node.core.status()["yielded_w"] == {node.gpus[2]: 700.0}, "that one is"


@pytest.mark.parametrize("restarted", [True, False])
def test_a_limit_that_another_writer_holds_is_not_touched_on_the_way_back_nor_by_an_heir(node, restarted):
    node.cap(300, seconds=60.0)
    for _ in range(6):
        node.power.release({node.gpus[0]: 500.0})
        node.live(1)
    assert node.core.status()["yielded_w"] == {node.gpus[0]: 500.0}
    if restarted:
        node.kill_and_restart()
        assert node.core.status()["yielded_w"] == {node.gpus[0]: 500.0}
    assert set(node.live(120)) == {500}
    assert node.limits() == {500, 700}
    assert not node.core.outstanding
    node.kill_and_restart()
    assert node.core.status()["yielded_w"] == {}


def test_an_heir_takes_a_yielded_card_back_by_the_same_rules_and_reads_leases_of_before(node):
    node.cap(300, seconds=5000.0)
    for _ in range(6):
        node.power.release({node.gpus[0]: 500.0})
        node.live(1)
    node.kill_and_restart()
    assert set(node.live(890)) == {500}
    assert node.live(30)[-1] == 300, "nobody touched it for a quiet time"
    path = node.folder / "lease.json"
    older = json.loads(path.read_text())
    del older["yielded"]
    path.write_text(json.dumps(older))
    node.kill_and_restart()
    assert set(node.live(5)) == {300}


def test_who_speaks_again_in_the_middle_of_a_ramp_finds_no_other_writer(tmp_path):
    """Else a link that fails again and again ends with every card at a height of our own ramp, and nothing owed."""
    node = Node(tmp_path)
    node.cap(300, seconds=5)
    for number in range(2, 8):
        assert node.live(12)[-1] > 300
        node.core.apply({}, Lease(1, number, 5))
        assert node.live(2)[-1] == 300
    status = node.core.status()
    assert (status["yielded_w"], status["reasserted"]) == ({}, 0)
    node.live(60)
    assert node.limits() == {700}


def test_a_link_that_fails_again_and_again_blames_nobody_for_a_card_that_refuses_the_first_write(node, monkeypatch):
    node.cap(300, seconds=5)
    apply, gpu = type(node.power).apply, node.gpus[0]

    def refused(caps_w, lease):
        node.hall.fail(gpu, Reason.CALL_TIMEOUT)
        try:
            return apply(node.power, caps_w, lease)
        finally:
            node.hall.fail(gpu, None)

    for sequence in range(2, 9):
        node.live(12)
        with monkeypatch.context() as patch:
            patch.setattr(node.power, "apply", refused)
            node.core.apply({}, Lease(1, sequence, 5.0))
            node.live(1)
        assert node.live(2)[-1] == 300
    assert node.core.status()["yielded_w"] == {}
    node.live(80)
    assert (node.limits(), node.core.outstanding) == ({700}, False)


def test_a_limit_that_somebody_set_lower_in_the_middle_of_the_ramp_stays(node):
    node.cap(500, seconds=5)
    node.live(10)
    node.hall.set_limits({node.gpus[0]: 350.0})
    node.core.apply({}, Lease(1, 2, 60.0))
    node.live(2)
    assert (node.limit(0), node.limit(1), node.core.status()["lowered"]) == (350, 500, [node.gpus[0]])


@pytest.mark.parametrize("restarted", [False, True])
def test_a_writer_that_holds_its_limit_at_once_is_not_taken_for_a_card_that_ignores_caps(node, monkeypatch, restarted):
    """It was left the card before, at this limit; when the card is taken back it is too fast for what is read back."""
    gpu, first = node.gpus[0], 600.0 if restarted else 650.0
    node.cap(300, seconds=20000.0)
    for _ in range(8):
        node.hall.set_limits({gpu: first})
        node.live(1)
    assert node.core.status()["yielded_w"] == {gpu: first}
    node.hall.set_limits({gpu: 600.0})
    release = type(node.power).release

    def held(limits_w):
        receipt = release(node.power, limits_w)
        if gpu not in limits_w:
            return receipt
        node.hall.set_limits({gpu: 600.0})
        return replace(receipt, enforced_w={**receipt.enforced_w, gpu: 600.0})

    with monkeypatch.context() as patch:
        patch.setattr(node.power, "release", held)
        patch.setattr(node.power, "apply", lambda caps_w, _lease: held(caps_w))
        if restarted:
            node.kill_and_restart()
        node.live(1000)
    assert (node.core.status()["yielded_w"], node.core.status()["ignoring"]) == ({gpu: 600.0}, [])
    node.core.release(dict.fromkeys(node.gpus, 700.0), epoch=1)
    assert node.limit() == 600
