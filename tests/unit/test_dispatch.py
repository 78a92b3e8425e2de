"""The only hand on the GPUs: what is on disk before a write, what is read back, tried again, given back."""

import pytest

from adapters.ports import AdapterError
from optimizer.reasons import Reason
from scheduler.dispatch import Dispatcher
from scheduler.orders import PoolOrder
from scheduler.store.store import StoreDegraded
from tests.support.dispatching import FOUND_W, GPUS, NOW, Cards, Held, dispatcher, orders


@pytest.fixture
def cards(books):
    return Cards(books)


@pytest.fixture
def hand(books, cards, clock):
    return dispatcher(books, cards, clock)


# ---------------------------------------------------------------- writing
def test_limits_found_and_intent_are_on_disk_before_the_first_write(hand, cards, books):
    done = hand.apply(orders(), 900.0, NOW)
    assert set(done.pools) == {"chat", "tune"}
    assert cards.limits == {"GPU-a": 400, "GPU-b": 400, "GPU-c": 300}
    assert books.first_limits() == FOUND_W
    assert [row.result for row in books.journal()] == [{"failed": 0, "seconds": 0.0}]


def test_without_a_place_for_the_limit_found_nothing_is_written(hand, cards, books, monkeypatch):
    def full(*_):
        raise StoreDegraded("disk full")

    monkeypatch.setattr(books, "remember_first_limits", full)
    done = hand.apply(orders(), 900.0, NOW)
    assert cards.caps == []
    assert [(note.code, note.severity) for note in done.notes] == [(Reason.CAP_REFUSED, "alert")]


def test_only_what_changed_is_written(hand, cards):
    hand.apply(orders(), 900.0, NOW)
    assert hand.apply(orders(), 900.0, NOW).pools == ()
    assert hand.apply(orders(chat=390), 900.0, NOW).pools == ("chat",)
    assert cards.caps[1:] == [{"GPU-a": 390, "GPU-b": 390}]
    idle = {"chat": PoolOrder(390, 2), "tune": PoolOrder(300, 0)}
    assert hand.apply(idle, 900.0, NOW).pools == (), "how many GPUs may work is no matter of the hardware's"


def test_a_first_limit_is_never_overwritten_by_our_own_cap(books, cards, clock):
    """Five daemons in a row, each killed with its caps in force."""
    for cap in (500, 450, 400, 350, 300):
        hand = dispatcher(books, cards, clock)
        hand.adopt()
        hand.apply(orders(cap, cap), 900.0, NOW)
    assert books.first_limits() == FOUND_W
    assert hand.release(NOW) == ()
    assert cards.limits == FOUND_W
    dispatcher(books, cards, clock).apply(orders(), 900.0, NOW)  # without `adopt` the books themselves would refuse
    dispatcher(books, cards, clock).apply(orders(350), 900.0, NOW)
    assert books.first_limits() == FOUND_W


def test_no_gpu_goes_above_the_limit_found_unless_its_pool_names_a_highest(books, cards, clock):
    dispatcher(books, cards, clock).apply(orders(700, 700), 900.0, NOW)
    assert cards.limits == {"GPU-a": 613, "GPU-b": 587, "GPU-c": 700}
    dispatcher(books, cards, clock, raisable=frozenset({"GPU-a"})).apply(orders(650, 700), 900.0, NOW)
    assert cards.limits == {"GPU-a": 650, "GPU-b": 587, "GPU-c": 700}


@pytest.mark.parametrize("reason", [Reason.CALL_TIMEOUT, Reason.CAP_REFUSED, Reason.NO_PERMISSION])
def test_a_gpu_that_fails_is_told_of_and_tried_again_alone_and_ever_more_seldom(hand, cards, clock, reason):
    cards.broken["GPU-b"] = reason
    done = hand.apply(orders(), 900.0, NOW)
    assert [(note.code, note.severity) for note in done.notes] == [(reason, "alert")]
    tried = []
    for _ in range(90):
        clock.now += 1.0
        before = len(cards.caps)
        hand.apply(orders(), 900.0, NOW)
        tried += [clock.now] * (len(cards.caps) - before)
    assert set(map(frozenset, cards.caps[1:])) == {frozenset({"GPU-b"})}
    gaps = [after - before for before, after in zip([1000.0, *tried], tried, strict=False)]
    assert gaps == [2, 4, 8, 16, 30, 30]
    cards.broken.clear()
    clock.now += 30
    assert hand.apply(orders(), 900.0, NOW).notes == ()
    assert cards.limits["GPU-b"] == 400
    clock.now += 60
    before = len(cards.caps)
    hand.apply(orders(), 900.0, NOW)
    assert len(cards.caps) == before, "it is in order again"


def test_a_gpu_that_was_away_is_capped_when_it_comes_back_and_its_own_limit_is_kept(hand, cards, clock, books):
    cards.absent.add("GPU-b")
    assert hand.apply(orders(), 900.0, NOW).notes[0].code is Reason.GPU_LOST
    assert "GPU-b" not in books.first_limits()
    cards.absent.clear()
    clock.now += 5
    hand.apply(orders(), 900.0, NOW)
    assert cards.limits["GPU-b"] == 400
    assert books.first_limits() == FOUND_W


def test_a_board_controllers_lower_limit_is_said_once_and_not_fought(hand, cards, clock):
    cards.board_w["GPU-a"] = 250.0
    assert hand.apply(orders(), 900.0, NOW).notes[0].code is Reason.CAP_DRIFT
    clock.now += 100
    hand.apply(orders(), 900.0, NOW)
    assert len(cards.caps) == 1
    assert hand.verify(NOW) == ()
    assert hand.release(NOW) == ()
    assert cards.limits == FOUND_W


def test_an_actuator_that_is_gone_is_an_alert_and_is_tried_again(hand, cards, books):
    cards.gone = True
    assert hand.apply(orders(), 900.0, NOW).notes[0].text == "no card answers"
    cards.gone = False
    assert hand.apply(orders(), 900.0, NOW).notes == ()
    cards.gone = True
    assert hand.apply(orders(390), 900.0, NOW).notes[0].code is Reason.CAP_REFUSED
    cards.gone = False
    assert hand.apply(orders(390), 900.0, NOW).notes == ()
    assert cards.limits["GPU-a"] == 390
    assert books.open_intents() == (), "how each one ended is written down"


# ---------------------------------------------------------------- reading back
def test_a_cap_that_somebody_raised_is_said_and_set_again(hand, cards):
    hand.apply(orders(), 900.0, NOW)
    cards.limits["GPU-b"] = 587.0
    (note,) = hand.verify(NOW)
    assert (note.code, note.subject) == (Reason.CAP_DRIFT, "chat")
    assert "GPU-b is at 587 W" in note.text
    hand.apply(orders(), 900.0, NOW)
    assert cards.limits["GPU-b"] == 400
    assert hand.verify(NOW) == ()


def test_a_lower_limit_than_ordered_and_a_limit_kept_at_what_was_found_are_no_drift(hand, cards):
    hand.apply(orders(700, 300), 900.0, NOW)
    cards.limits["GPU-a"] = 350.0
    assert hand.verify(NOW) == ()


# ---------------------------------------------------------------- not writing, giving back
def test_observe_writes_nothing_at_all(books, cards, clock):
    hand = dispatcher(books, cards, clock, writes=False)
    for _ in range(5):
        clock.now += 1000
        hand.apply(orders(), 900.0, NOW)
        hand.verify(NOW)
        hand.hold([(0.0, orders())], 60.0, NOW)
    assert cards.calls == []
    assert books.first_limits() == {}
    assert books.journal() == ()


def test_release_gives_the_limits_found_back_and_forgets_what_was_confirmed(hand, cards, books):
    hand.apply(orders(), 900.0, NOW)
    assert hand.release(NOW) == ()
    assert cards.limits == FOUND_W
    assert books.first_limits() == {}
    hand.apply(orders(), 900.0, NOW)  # and everything is written again
    assert cards.limits == {"GPU-a": 400, "GPU-b": 400, "GPU-c": 300}
    assert books.first_limits() == FOUND_W


def test_what_was_not_given_back_is_kept_and_tried_again(hand, cards, books):
    hand.apply(orders(), 900.0, NOW)
    cards.broken["GPU-b"] = Reason.CALL_TIMEOUT
    hand.writes = False
    (note,) = hand.release(NOW)
    assert note.text == "1 of 3 GPUs did not take their limit back (GPU-b); kept, and tried again"
    assert books.first_limits() == {"GPU-b": 587.0}
    assert hand.verify(NOW) != ()
    cards.broken.clear()
    assert hand.verify(NOW) == ()
    assert cards.limits == FOUND_W
    assert books.first_limits() == {}
    before = len(cards.calls)
    assert hand.verify(NOW) == ()
    assert len(cards.calls) == before


def test_a_stranger_gets_its_limit_back_and_the_others_keep_their_caps(hand, cards, books, clock):
    hand.apply(orders(), 900.0, NOW)
    smaller = Dispatcher(books, cards, {"chat": GPUS[:2]}, writes=True, monotonic=clock)
    assert smaller.adopt() == 3
    assert smaller.strangers() == {"GPU-c"}
    assert smaller.release(NOW, smaller.strangers()) == ()
    assert cards.limits == {"GPU-a": 400, "GPU-b": 400, "GPU-c": 700}
    assert books.first_limits().keys() == {"GPU-a", "GPU-b"}
    assert smaller.in_force() == {"chat": 400}


# ---------------------------------------------------------------- leases
def test_a_lease_is_renewed_by_a_third_without_a_change_and_every_one_is_newer(hand, cards, clock):
    for _ in range(101):
        hand.apply(orders(), 90.0, NOW)
        clock.now += 1.0
    leases = [lease for _, lease in cards.calls]
    assert [caps for caps, _ in cards.calls] == [cards.caps[0], {}, {}, {}, {}]
    assert {(lease.epoch, lease.expires_in_s) for lease in leases} == {(7, 90.0)}
    assert [lease.sequence for lease in leases] == [1, 2, 3, 4, 5]


def test_who_has_no_order_is_renewed_though_others_have_one_every_second(hand, cards, clock):
    for second in range(101):
        hand.apply(orders(400 + second % 2), 90.0, NOW)
        clock.now += 1.0
    assert len([caps for caps, _ in cards.calls if caps]) == 101
    assert len([caps for caps, _ in cards.calls if not caps]) == 4


def test_the_trajectory_is_handed_over_with_each_lease_as_the_fast_loop_corrected_it(books, clock):
    cards = Held(books)
    hand = dispatcher(books, cards, clock, lease_s=30.0)
    plan = [(0.0, orders(400)), (60.0, orders(350)), (120.0, orders(500))]
    hand.hold(plan, 180.0, NOW)
    steps, until_s, lease = cards.held
    assert [(offset, caps["GPU-a"]) for offset, caps in steps] == [(0.0, 400), (60.0, 350), (120.0, 500)]
    assert (until_s, lease.expires_in_s) == (180.0, 30.0)
    for _ in range(20):  # the curves promised too much: 380 W is what meets the target
        clock.now += 1.0
        hand.apply(orders(380), 900.0, NOW)
    steps, until_s, lease = cards.held
    assert [caps["GPU-a"] for _, caps in steps] == [380, 350, 500]
    assert steps[0][0] == 0.0
    assert 160.0 <= until_s <= 170.0
    assert lease.sequence > 1
    clock.now += 130.0
    hand.apply(orders(480), 900.0, NOW)
    assert [caps["GPU-a"] for _, caps in cards.held[0]] == [480]
    hand.release(NOW)
    cards.held = None
    clock.now += 100.0
    hand.apply(orders(480), 900.0, NOW)
    assert cards.held is None, "what was given back is not followed any more"


def test_nothing_is_handed_over_after_a_pause(books, clock):
    cards = Held(books)
    hand = dispatcher(books, cards, clock, lease_s=30.0)
    hand.apply(orders(), 900.0, NOW)
    hand.writes = False
    hand.release(NOW)
    hand.hold([(0.0, orders())], 180.0, NOW)
    assert cards.held is None
    assert cards.limits == FOUND_W


class Speaking(Cards):
    """The same, heard of without being asked."""

    back = ()

    def heard(self, gpus):
        return set(self.back) & set(gpus)


def test_a_node_that_speaks_again_is_ordered_at_once_and_not_at_the_next_retry(books, clock):
    cards = Speaking(books)
    hand = Dispatcher(books, cards, {"a": GPUS}, writes=True, epoch=3, monotonic=clock)
    hand.apply({"a": PoolOrder(500, 3)}, 900.0, NOW)
    cards.broken["GPU-b"] = Reason.NODE_LOST
    hand.apply({"a": PoolOrder(400, 3)}, 900.0, NOW)
    for _ in range(40):  # the retries are half a minute apart by now
        clock.now += 1.0
        hand.apply({"a": PoolOrder(400, 3)}, 900.0, NOW)
    assert hand.unreached() == {"a": ("GPU-b",)}
    cards.broken.clear()
    cards.back = ("GPU-b",)
    clock.now += 1.0
    hand.apply({"a": PoolOrder(400, 3)}, 900.0, NOW)
    assert cards.limits["GPU-b"] == 400
    assert hand.unreached() == {}


def test_a_trajectory_is_handed_over_again_only_where_it_was_corrected(books, clock):
    cards = Held(books)
    hand = Dispatcher(books, cards, {"a": GPUS}, writes=True, epoch=3, lease_s=30.0, monotonic=clock)
    order = {"a": PoolOrder(500, 3)}
    hand.apply(order, 30.0, NOW)
    hand.hold([(0.0, order), (600.0, {"a": PoolOrder(550, 3)})], 900.0, NOW)
    cards.held = None
    leases = len(cards.calls)
    for _ in range(60):
        clock.now += 1.0
        hand.apply(order, 30.0, NOW)
    assert cards.held is None
    assert [caps for caps, _ in cards.calls[leases:]] == [{}] * 5, "the lease is renewed all the same"
    hand.apply({"a": PoolOrder(480, 3)}, 30.0, NOW)
    for _ in range(15):
        clock.now += 1.0
        hand.apply({"a": PoolOrder(480, 3)}, 30.0, NOW)
    steps, _, _ = cards.held
    assert steps[0][1] == dict.fromkeys(GPUS, 480)


class Tellers(Cards):
    """Cards whose limits are told unasked, as those of a fleet are; `looks` counts who asks for all that they are."""

    looks, mute = 0, False

    def discover(self):
        self.looks += 1
        return super().discover()

    def enforced(self, gpus):
        if self.mute:
            raise AdapterError("no node tells its limits")
        return {gpu: self._enforced(gpu) for gpu in gpus}


def test_pools_whose_limit_is_not_known_are_looked_at_by_what_cards_tell(books, clock):
    """To ask ten thousand nodes for all that they are took a quarter of a minute, in the middle of plans and events."""
    cards = Tellers()
    watching = dispatcher(books, cards, clock, writes=False)
    watching.read_limits()
    assert (watching.limit("tune").cap_w, cards.looks) == (700.0, 0)
    cards.mute = True
    cards.limits["GPU-c"] = 650.0
    watching.read_limits()
    assert (watching.limit("tune").cap_w, cards.looks) == (650.0, 1)
