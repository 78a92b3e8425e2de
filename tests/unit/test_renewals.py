"""Leases are renewed whatever else fails: a daemon that lives lets none run out."""

import pytest

from adapters.ports import AdapterError
from scheduler.store.store import StoreDegraded
from tests.support.dispatching import NOW, Cards, Held, dispatcher, orders


@pytest.mark.parametrize("threads", [False, True])
def test_leases_are_renewed_though_no_trajectory_can_be_handed_over(books, clock, threads):
    """Nodes hear orders where their trajectories can't be kept: a stream without a majority refuses at once."""

    class Refused(Held):
        def hold(self, steps, until_s, lease):
            raise AdapterError("a trajectory was not kept: no stream takes it")

    cards = Refused(books)
    hand = dispatcher(books, cards, clock, lease_s=30.0)
    hand.handing.threads = threads
    hand.apply(orders(400), 30.0, NOW)
    with pytest.raises(AdapterError, match="not kept"):
        hand.hold([(0.0, orders(400)), (600.0, orders(350))], 900.0, NOW)
    notes, begun = [], len(cards.calls)
    for _ in range(60):
        clock.now += 1.0
        notes += hand.apply(orders(400), 30.0, NOW).notes
        with hand.handing.lock:
            pass
    assert len(cards.calls) - begun >= 5
    assert notes


def test_a_renewal_that_did_not_leave_is_said_again_in_the_next_turn(books, clock):
    class Away(Cards):
        def apply(self, caps_w, lease):
            if self.gone:
                raise AdapterError("no server")
            return super().apply(caps_w, lease)

    cards = Away(books)
    hand = dispatcher(books, cards, clock, lease_s=30.0)
    hand.apply(orders(400), 30.0, NOW)
    clock.now += 11.0
    cards.gone = True
    for _ in range(12):
        assert hand.apply(orders(400), 30.0, NOW).notes
        clock.now += 1.0
    cards.gone = False
    begun = len(cards.calls)
    hand.apply(orders(400), 30.0, NOW)
    assert [caps for caps, _ in cards.calls[begun:]] == [{}]


def test_leases_are_renewed_though_an_order_can_not_be_written_down(books, clock, monkeypatch):
    cards = Cards(books)
    hand = dispatcher(books, cards, clock, lease_s=30.0)

    def full(_limits, _now):
        raise StoreDegraded("no space left on device")

    monkeypatch.setattr(books, "remember_first_limits", full)
    begun = len(cards.calls)
    for _ in range(60):
        clock.now += 1.0
        (note,) = hand.apply(orders(400), 30.0, NOW).notes
        assert "no space left" in note.text
    assert [caps for caps, _ in cards.calls[begun:]] == [{}] * 6
