"""What may be ordered of cards whose own limit was found."""

import pytest

from scheduler.allowance import allowed, within

FOUND_W = {"a": 400.0, "b": 250.5, "c": 700.0}


@pytest.mark.parametrize("cap_w", [200, 250, 251, 300, 500, 800])
@pytest.mark.parametrize("raisable", [(), ("b",), ("a", "b", "c")])
def test_nobody_is_set_above_what_was_found_but_who_may_be_raised(cap_w, raisable):
    caps = dict.fromkeys("abc", cap_w)
    orders = allowed(caps, FOUND_W, frozenset(raisable))
    assert orders == {gpu: cap_w if gpu in raisable else min(cap_w, int(FOUND_W[gpu])) for gpu in caps}
    assert orders == {gpu: within(gpu, cap_w, FOUND_W, frozenset(raisable)) for gpu in caps}


def test_a_card_whose_limit_is_not_known_is_not_ordered_about():
    assert allowed({"a": 300, "new": 300}, FOUND_W, frozenset()) == {"a": 300}
    assert allowed({}, {}, frozenset()) == {}


def test_orders_that_are_below_all_of_it_are_taken_as_they_are():
    caps = dict.fromkeys("abc", 250)
    assert allowed(caps, FOUND_W, frozenset()) is caps
