"""Work beside a loop: one piece at a time, at once where there are no threads, and no failure is lost."""

from __future__ import annotations

import threading
import time

import pytest

from adapters.ports import AdapterError
from scheduler.errand import Errand


def fail() -> None:
    raise AdapterError("the bus is away")


def test_work_aside_does_not_hold_up_who_asked_and_keeps_others_from_beginning() -> None:
    errand, go_on, done = Errand(threads=True), threading.Event(), list[str]()

    def slow() -> None:
        go_on.wait(10)
        done.append("slow")

    errand.do(lambda: slow, aside=True)
    assert errand.busy
    assert done == []
    errand.do(lambda: done.append("never"), aside=True, wait=False)  # type: ignore[func-returns-value, arg-type]
    assert done == []
    threading.Timer(0.1, go_on.set).start()
    errand.do(lambda: lambda: done.append("next"))
    assert done == ["slow", "next"]
    assert not errand.busy


def test_what_fails_aside_is_raised_once_by_the_next_check() -> None:
    errand = Errand(threads=True)
    errand.do(lambda: fail, aside=True)
    while errand.busy:
        time.sleep(0.001)
    with pytest.raises(AdapterError, match="the bus is away"):
        errand.check()
    errand.check()


@pytest.mark.parametrize("aside", [True, False])
def test_without_threads_all_is_done_at_once_and_raises_here(aside: bool) -> None:
    errand, done = Errand(), list[int]()
    errand.do(lambda: lambda: done.append(1), aside=aside)
    assert done == [1]
    with pytest.raises(AdapterError):
        errand.do(lambda: fail, aside=aside)
    with pytest.raises(AdapterError):
        errand.do(fail, aside=aside)  # type: ignore[arg-type]
    assert not errand.busy
    errand.check()
