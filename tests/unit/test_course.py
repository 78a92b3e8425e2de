"""A trajectory and the leases about its steps, and what a pool's cards have in common."""

import threading

from scheduler.course import Courses
from scheduler.dispatch import Dispatcher
from scheduler.orders import PoolOrder
from tests.support.dispatching import GPUS, NOW, Cards, Held, dispatcher, orders
from tests.support.power_worlds import wait_until


def test_every_tick_about_a_step_renews_the_lease_so_that_nobody_takes_the_daemon_for_dead(books, clock):
    cards = Held(books)
    hand = Dispatcher(books, cards, {"a": GPUS}, writes=True, epoch=3, lease_s=30.0, monotonic=clock)
    order = {"a": PoolOrder(500, 3)}
    hand.apply(order, 30.0, NOW)
    hand.hold([(0.0, order), (40.0, {"a": PoolOrder(300, 3)})], 900.0, NOW)
    begun, renewed = clock.now, []
    for _ in range(60):
        clock.now += 1.0
        before, cards.held = len(cards.calls), None
        hand.apply(order, 30.0, NOW)
        renewed += [clock.now - begun] * (len(cards.calls) > before or cards.held is not None)
    assert [at for at in renewed if 36.0 < at < 44.0] == [38.0, 39.0, 40.0, 41.0, 42.0]
    assert len(renewed) <= 10


def test_nodes_that_wait_for_the_next_course_hear_of_the_daemon_about_the_steps_of_the_one_before(books, clock):
    """An event was withdrawn: who still has its trajectory would go back to it, though caps were raised since."""
    cards, under_way = Held(books), threading.Event()
    hand = Dispatcher(books, cards, {"a": GPUS}, writes=True, epoch=3, lease_s=3000.0, monotonic=clock)
    hand.handing.threads = True
    hand.apply({"a": PoolOrder(300, 3)}, 3000.0, NOW)
    hand.hold([(0.0, {"a": PoolOrder(300, 3)}), (10.0, {"a": PoolOrder(350, 3)}), (30.0, {"a": PoolOrder(400, 3)})],
              900.0, NOW)  # fmt: skip
    raised, begun = {"a": PoolOrder(500, 3)}, clock.now
    hand.apply(raised, 3000.0, NOW)
    cards.hold = lambda *_: under_way.wait(60.0)
    hand.hold([(0.0, raised)], 900.0, NOW, aside=True)

    def renewed(until):
        seconds = []
        while clock.now < begun + until:
            clock.now, before = clock.now + 1.0, len(cards.calls)
            hand.apply(raised, 3000.0, NOW)
            seconds += [clock.now - begun] * (len(cards.calls) > before)
        return seconds

    assert renewed(20) == [8.0, 9.0, 10.0, 11.0, 12.0]
    under_way.set()
    wait_until(lambda: not hand.handing.busy)
    assert renewed(40) == [], "all have the next one"


def test_a_pool_of_which_a_board_holds_some_cards_lower_has_no_common_limit(books, clock):
    cards = Cards(books)
    hand = Dispatcher(books, cards, {"a": GPUS}, writes=True, epoch=3, monotonic=clock)
    hand.apply({"a": PoolOrder(500, 3)}, 900.0, NOW)
    assert hand.limit("a").cap_w == 500
    cards.limits["GPU-b"] = 150.0
    hand.verify(NOW)
    assert hand.limit("a") is None


def test_room_is_made_for_the_rise_of_nodes_that_follow_what_they_heard_last(books, clock):
    cards = Held(books)
    hand = Dispatcher(books, cards, {"a": GPUS}, writes=True, epoch=3, lease_s=30.0, monotonic=clock)
    hand.apply({"a": PoolOrder(500, 3)}, 30.0, NOW)
    hand.hold([(0.0, {"a": PoolOrder(400, 3)}), (40.0, {"a": PoolOrder(600, 3)})], 900.0, NOW)
    clock.now += 10.0
    hand.hold([(0.0, {"a": PoolOrder(450, 3)})], 900.0, NOW)  # who has just been cut off does not hear of this one
    coming = {}
    for second in range(11, 60):
        clock.now += 1.0
        coming[second] = hand.courses.coming_w("a", clock.now)
    assert {second for second, cap_w in coming.items() if cap_w == 600} == {39, 40, 41, 42, 43}
    assert set(coming.values()) == {0, 600}
    clock.now += 900.0
    hand.hold([(0.0, {"a": PoolOrder(450, 3)})], 900.0, NOW)
    assert hand.courses._coming == {}, "the others are over"


def test_no_room_is_made_for_a_step_that_nodes_were_told_with_the_cap_in_force(books, clock):
    """The fast loop holds less than the plan and hands that over: the plan's cap is nothing that a node may step to."""
    cards = Held(books)
    hand = Dispatcher(books, cards, {"a": GPUS}, writes=True, epoch=3, lease_s=30.0, monotonic=clock)
    hand.apply({"a": PoolOrder(550, 3)}, 30.0, NOW)
    hand.hold([(0.0, {"a": PoolOrder(600, 3)}), (40.0, {"a": PoolOrder(600, 3)})], 900.0, NOW)
    clock.now += 25.0
    hand.apply({"a": PoolOrder(500, 3)}, 30.0, NOW)
    assert cards.held[0][-1] == (15.0, {"GPU-a": 500, "GPU-b": 500, "GPU-c": 500})
    clock.now += 14.0
    assert hand.courses.coming_w("a", clock.now) == 550, "who was cut off in between heard of no less"


def test_a_trajectory_that_is_told_in_the_middle_of_a_tick_disturbs_no_tick():
    """Plans are handed over in a thread of their own, while the fast loop asks what nodes may be about to do."""
    courses = Courses()
    courses.told([(5.0, {"a": PoolOrder(300, 3)})], 0.0)
    asked = []

    def steps():
        yield 5.0, {"a": PoolOrder(400, 3), "b": PoolOrder(200, 3)}
        asked.extend([iter(courses._coming.items()), iter(courses._coming[5.0].items())])
        yield 10.0, {"a": PoolOrder(500, 3)}

    courses.told(steps(), 0.0)
    assert [list(one) for one in asked] == [[(5.0, {"a": 300})], [("a", 300)]]
    assert [courses.coming_w(pool, 5.0) for pool in "ab"] == [400, 200]
    assert courses.coming_w("a", 10.0) == 500


def test_an_order_goes_out_while_a_corrected_trajectory_is_still_on_its_way(books, clock):
    class Slow(Held):
        def hold(self, steps, until_s, lease):
            if self.held is not None:  # a corrected one: the first is the plan's
                assert go_on.wait(10)
            super().hold(steps, until_s, lease)

    cards, go_on = Slow(books), threading.Event()
    hand = dispatcher(books, cards, clock, lease_s=30.0)
    hand.handing.threads = True
    hand.hold([(0.0, orders(400)), (60.0, orders(350))], 180.0, NOW)
    clock.now += 20.0
    hand.apply(orders(380), 900.0, NOW)
    assert hand.handing.busy
    hand.apply(orders(300), 900.0, NOW)
    ordered = [caps for caps, _ in cards.calls if caps]
    assert set(ordered[-1].values()) == {300}
    go_on.set()
    hand.release(NOW)
    assert [caps["GPU-a"] for _, caps in cards.held[0]] == [380, 350], "released only once it had arrived"


def test_steps_of_the_next_day_are_those_that_were_told_last():
    """A limit is held for a day: else every plan of that day would leave its steps here."""
    courses, now = Courses(), 1000.0
    for _ in range(300):
        courses.told([(0.0, {"a": PoolOrder(300, 3)}), (86400.0, {"a": PoolOrder(400, 3)})], now)
        now += 300.0
    assert len(courses._coming) <= 2
    assert len(courses._about) <= 2
