"""A trajectory took the place of caps, and who had ordered them speaks again: whose word counts for which card."""

import pytest

from adapters.ports import AdapterError, Contested, Lease, Receipt
from optimizer.reasons import Reason
from scheduler.dispatch import Dispatcher
from scheduler.orders import PoolOrder
from scheduler.store.store import Store
from tests.unit.test_agent_core import Node


@pytest.fixture
def node(tmp_path):
    return Node(tmp_path)


def refuse_once(node, monkeypatch):
    """The cards don't answer the next order."""
    apply, refused = node.power.apply, []

    def once(caps_w, lease):
        if not refused:
            refused.append(caps_w)
            raise AdapterError("the driver hangs")
        return apply(caps_w, lease)

    monkeypatch.setattr(node.power, "apply", once)


@pytest.mark.parametrize("word", ["renewal", "clocks", "trajectory", "renewal to cards that hang"])
def test_whatever_who_ordered_says_first_brings_back_what_the_trajectory_outlasted(node, monkeypatch, word):
    later = ((40.0, dict.fromkeys(node.gpus, 300)),)
    node.cap(500, seconds=60)
    node.core.hold(((10.0, dict.fromkeys(node.gpus, 300)),), 90.0, Lease(1, 2, 60))
    assert node.live(12)[-1] == 300
    if word == "clocks":
        node.core.lock({node.gpus[0]: 900}, Lease(1, 3, 60.0))
    elif word == "trajectory":
        node.core.hold(later, 90.0, Lease(1, 3, 60.0))
    else:
        if "hang" in word:
            refuse_once(node, monkeypatch)
            with pytest.raises(AdapterError, match="hangs"):
                node.core.apply({}, Lease(1, 3, 60.0))
            assert node.limit() == 300
        node.core.apply({}, Lease(1, 4, 60.0))
    assert node.limits() == {500}
    assert set(node.live(20)) == {500}


def test_a_trajectory_that_waited_in_the_bucket_is_nobodys_word(node):
    """The server comes back, its daemon does not: what the node finds there says nothing about orders."""
    steps = ((10.0, dict.fromkeys(node.gpus, 300)),)
    node.cap(500, seconds=60)
    node.core.hold(steps, 90.0, Lease(1, 2, 60))
    assert node.live(12)[-1] == 300
    node.core.hold(((0.0, dict.fromkeys(node.gpus, 300)),), 80.0, Lease(1, 2, 0.001))
    assert node.limits() == {300}, "not even until the next tick"
    assert set(node.live(5)) == {300}
    node.core.apply({}, Lease(1, 3, 60.0))
    assert node.limits() == {500}


def test_a_trajectory_that_is_found_again_ends_no_lease(node):
    """The connection was lost for a moment; what lies in the bucket was the last word heard, and its lease runs."""
    steps = ((0.0, dict.fromkeys(node.gpus, 300)),)
    node.cap(500, seconds=60)
    node.core.hold(steps, 90.0, Lease(1, 2, 60))
    node.live(5)
    node.core.hold(steps, 85.0, Lease(1, 2, 0.001))
    assert set(node.live(5)) == {500}
    node.core.hold(steps, 80.0, Lease(1, 3, 0.001))
    assert node.live(1) == [300], "what was not heard counts at once"


def test_cards_that_were_away_when_who_ordered_spoke_again_are_written_by_the_next_word(node):
    node.cap(500, seconds=60)
    node.core.hold(((10.0, dict.fromkeys(node.gpus, 300)),), 90.0, Lease(1, 2, 60))
    assert node.live(12)[-1] == 300
    node.hall.fail(node.gpus[0], Reason.GPU_LOST)
    node.core.apply({}, Lease(1, 3, 60.0))
    node.hall.fail(node.gpus[0], None)
    node.live(3)
    assert node.limit(1) == 500
    node.core.apply({}, Lease(1, 4, 60.0))
    assert node.limits() == {500}
    node.cap(450, sequence=5)
    node.core.apply({}, Lease(1, 6, 60.0))
    assert node.limits() == {450}, "what is in force is not written over by what was"


def test_a_daemon_that_takes_over_puts_nothing_back_that_the_one_before_had_ordered(node):
    node.cap(500, seconds=60)
    node.core.hold(((10.0, dict.fromkeys(node.gpus, 300)),), 90.0, Lease(1, 2, 60))
    assert node.live(12)[-1] == 300
    node.core.apply({}, Lease(2, 1, 60.0))
    node.cap(400, epoch=2, sequence=2, gpus=node.gpus[:1])
    node.core.apply({}, Lease(2, 3, 60.0))
    assert node.live(3)[-1] == 400
    assert node.limit(1) == 300, "it read 300 W when it came"


@pytest.mark.parametrize("restarted", [True, False])
def test_a_daemon_that_takes_over_by_a_renewal_keeps_what_is_in_force(node, restarted):
    """Every node hears the renewal; the order may be a second late, or lost."""
    node.cap(300, seconds=60.0)
    node.live(1)
    node.core.apply({}, Lease(2, 1, 60.0))
    if restarted:
        node.kill_and_restart()
    node.hall.reset_limit(node.gpus[0])
    assert set(node.live(50)) == {300}, "and it is looked after"
    assert node.live(20)[-1] > 300, "nobody renews any more"


def test_cards_that_fail_beside_those_asked_for_keep_no_order_from_being_written(node, tmp_path):
    """What the trajectory outlasted comes back with the next order for other cards; the agent tells how that went."""
    first, second = node.gpus[:2]
    store = Store.open(tmp_path / "books.db", node.clock.now)
    hand = Dispatcher(
        store, node.core, {"one": (first,), "two": (second,)}, True, 1, 60.0, monotonic=node.clock.monotonic
    )
    now = node.clock.now()
    hand.apply({"one": PoolOrder(500, 1), "two": PoolOrder(500, 1)}, 60.0, now)
    hand.hold([(10.0, {"one": PoolOrder(300, 1), "two": PoolOrder(300, 1)})], 90.0, now)
    assert node.live(14)[-1] == 300
    node.hall.fail(first, Reason.GPU_LOST)
    done = hand.apply({"one": PoolOrder(500, 1), "two": PoolOrder(450, 1)}, 60.0, node.clock.now())
    store.close()
    assert done.pools == ("two",)
    assert node.limit(1) == 450


class Link:
    """An agent as the daemon has it: what only renews a lease is not answered, and gets lost while the link is down."""

    def __init__(self, core):
        self.core, self.down = core, False
        self.discover, self.release, self.hold = core.discover, core.release, core.hold

    def apply(self, caps_w, lease):
        return Receipt({}) if self.down and not caps_w else self.core.apply(caps_w, lease)

    def contested(self):
        if self.down:
            raise AdapterError("the agent does not answer")
        return Contested(lowered=frozenset(self.core.status()["lowered"]))

    def take_back(self):
        raise NotImplementedError


def test_caps_that_an_agent_holds_too_low_are_written_again_and_what_others_lowered_is_left(node, tmp_path):
    """Its link was down for longer than a lease, and no order went out meanwhile: it followed the trajectory."""
    missed, board, other = node.gpus[:3]
    store, link = Store.open(tmp_path / "books.db", node.clock.now), Link(node.core)
    hand = Dispatcher(store, link, {"one": tuple(node.gpus)}, True, 1, 30.0, monotonic=node.clock.monotonic)
    held = {"one": PoolOrder(500, len(node.gpus))}

    def live(seconds):
        for _ in range(seconds):
            hand.apply(held, 30.0, node.clock.now())
            node.live(1)

    hand.apply(held, 30.0, node.clock.now())
    hand.hold([(0.0, {"one": PoolOrder(300, len(node.gpus))})], 900.0, node.clock.now())
    live(5)
    link.down = True
    live(40)
    (note,) = hand.verify(node.clock.now())
    assert note.code is Reason.CAP_REFUSED, "nobody says whose it is"
    link.down = False
    live(12)
    assert node.limits() == {300}, "a renewal says nothing of caps, and nothing failed"
    node.hall.limit_out_of_band(board, 250.0)
    node.hall.set_limits({other: 280.0})
    live(2)
    (note,) = hand.verify(node.clock.now())
    live(2)
    found = node.hall.infos()
    store.close()
    assert note.code is Reason.CAP_DRIFT
    assert found[missed].limit_w == 500
    assert {found[gpu].limit_w for gpu in node.gpus[3:]} <= {500}
    assert (found[board].enforced_w, found[other].limit_w) == (250, 280)
