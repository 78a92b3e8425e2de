"""The lease among daemons: whatever gets lost or late on the way, and whoever stalls, two never hold it at once."""

from dataclasses import replace
from random import Random

import pytest

from adapters.ports import AdapterError
from scheduler.standby.lease import Entry, Lease


class FakeCell:
    """A bucket with one entry. `fate` of a call: ok, lost (never arrives), mute (arrives, but the answer doesn't)."""

    def __init__(self):
        self.revision, self.data, self.fate = 0, None, "ok"

    def read(self):
        self.reach()
        return self.revision, self.data

    def write(self, data, last):
        if self.fate == "lost":
            self.reach()
        done = last == self.revision
        if done:
            self.revision, self.data = self.revision + 1, data
        self.reach()
        return self.revision if done else None

    def reach(self):
        if self.fate != "ok":
            raise AdapterError("cut off")


class Clock:
    def __init__(self):
        self.now = 0.0

    def __call__(self):
        return self.now


def daemons(cell, clock, *names, lease_s=6.0):
    return [Lease(cell, Entry(name, f"http://{name}", name, f"p-{name}", lease_s), clock) for name in names]


@pytest.mark.parametrize("seed", range(8))
def test_never_two_leaders_and_never_the_same_epoch_twice(seed):
    random = Random(seed)
    led = 0
    for _ in range(40):
        cell, clock = FakeCell(), Clock()
        leases, owner = daemons(cell, clock, "a", "b", "c"), {}
        for _ in range(250):
            clock.now += random.expovariate(1 / random.choice((0.3, 3.0)))
            cell.fate = random.choice(("ok", "ok", "ok", "ok", "lost", "mute"))
            lease, action = random.choice(leases), random.random()
            if action < 0.02:
                lease.give_up()
            elif action < 0.06 and lease.leading:
                lease.raise_epoch()
            else:
                lease.turn(eligible=action < 0.9)
            holding = [number for number, lease in enumerate(leases) if lease.holds()]
            assert len(holding) <= 1
            for number in holding:
                assert owner.setdefault(leases[number].epoch, number) == number, "an epoch of two leaders"
        led += len(owner)
    assert led > 400, "hardly anybody ever led"


def test_a_free_lease_is_taken_and_kept_and_left_in_order():
    cell, clock = FakeCell(), Clock()
    a, b = daemons(cell, clock, "a", "b")
    a.turn(eligible=True)
    for _ in range(10):
        clock.now += 3.0
        a.turn(eligible=True)
        b.turn(eligible=True)
        assert (a.holds(), b.holds(), b.leader.name) == (True, False, "a")
    a.give_up()
    b.turn(eligible=True)
    assert (a.holds(), b.holds(), b.epoch) == (False, True, 2)


def test_a_silent_leader_stops_by_itself_before_another_begins():
    cell, clock = FakeCell(), Clock()
    a, b = daemons(cell, clock, "a", "b")
    a.turn(eligible=True)
    b.turn(eligible=True)
    ends = {}
    while "b" not in ends and clock.now < 60:
        clock.now += 0.05
        if not a.holds():
            ends.setdefault("a", clock.now)
        b.turn(eligible=True)
        if b.holds():
            ends["b"] = clock.now
    assert ends["a"] + 0.5 < ends["b"] <= 6.7
    for _ in range(2):  # whoever was stopped stops, and then looks
        a.turn(eligible=True)
    assert (a.leading, a.leader.name) == (False, "b")


def test_a_predecessor_over_the_same_folder_is_not_waited_for():
    cell, clock = FakeCell(), Clock()
    (a,) = daemons(cell, clock, "a")
    a.turn(eligible=True)
    again = Lease(cell, replace(a.leader, process="another"), clock)
    again.turn(eligible=True, least_epoch=7)
    assert (again.holds(), again.epoch) == (True, 8)


def test_an_epoch_that_was_seen_is_never_used_again_though_the_bucket_is_lost():
    cell, clock = FakeCell(), Clock()
    a, b = daemons(cell, clock, "a", "b")
    for _ in range(3):
        a.turn(eligible=True)
        b.turn(eligible=False)
        a.give_up()
    cell.revision, cell.data = 0, None
    b.turn(eligible=True)
    assert (b.holds(), b.epoch) == (True, 4)


def test_who_is_not_eligible_takes_nothing():
    cell, clock = FakeCell(), Clock()
    (a,) = daemons(cell, clock, "a")
    a.turn(eligible=False)
    assert (a.holds(), cell.revision) == (False, 0)
