"""Threads that share out calls: one where all are quick, one each where any is not, none that waits for a dead one."""

import threading
from time import monotonic, sleep

import pytest

from adapters.hands import ALONE_S, Call, Hands
from adapters.workers import Abandoned
from tests.support.power_worlds import wait_until


@pytest.fixture
def hands():
    made = Hands("test-hands")
    yield made
    made.stop()
    wait_until(lambda: not threads())


def threads():
    return {thread.name for thread in threading.enumerate() if thread.name.startswith("test-hands")}


def test_quick_readings_are_made_by_one_thread_however_often(hands):
    made_by = set()
    for _ in range(50):
        calls = [Call(lambda number=number: (made_by.add(threading.get_ident()), number)[1]) for number in range(8)]
        hands.make(calls, 30.0, 30.0)
        assert [call.result for call in calls] == list(range(8))
    assert len(made_by) == len(threads()) == 1


def test_one_that_hangs_holds_up_none_of_the_others_and_is_still_out(hands):
    go, started = threading.Event(), monotonic()
    calls = [Call(lambda: 1), Call(lambda: go.wait(60.0)), *(Call(lambda: 2) for _ in range(6))]
    hands.make(calls, 1.0, 0.01)
    assert monotonic() - started < 10.0
    assert [call.back for call in calls] == [True, False, *[True] * 6]
    for _ in range(20):  # the hand that hangs is not lent again, and no thread is started for each round
        more = [Call(lambda: 3) for _ in range(4)]
        hands.make(more, 30.0, 30.0)
        assert all(call.result == 3 for call in more)
    assert len(threads()) <= 8
    go.set()
    wait_until(lambda: calls[1].back)
    assert calls[1].result is True


def test_slow_readings_are_made_at_once_after_a_moment(hands):
    meet = threading.Barrier(4)
    calls = [Call(lambda: meet.wait(20.0)) for _ in range(4)]  # none returns before all are out
    hands.make(calls, 20.0, ALONE_S)
    assert sorted(call.result for call in calls) == [0, 1, 2, 3]


def test_orders_are_made_at_once_from_the_start(hands):
    meet = threading.Barrier(8)
    calls = [Call(lambda: meet.wait(20.0)) for _ in range(8)]
    hands.make(calls, 20.0)
    assert all(call.back and call.error is None for call in calls)


def test_an_error_is_the_callers_and_what_nobody_began_in_time_is_never_begun(hands, monkeypatch):
    calls = [Call(lambda: 1 / 0), Call(lambda: 5)]
    hands.make(calls, 20.0, 1.0)
    assert isinstance(calls[0].error, ZeroDivisionError)
    assert calls[1].result == 5
    begun = []
    monkeypatch.setattr(hands, "_lend", lambda work: None)  # a machine so busy that no thread gets its turn
    late = Call(lambda: begun.append(1))
    hands.make([late], 0.01)
    assert late.back
    assert isinstance(late.error, Abandoned)
    sleep(0.05)
    assert begun == []
    hands.make([], 20.0)
