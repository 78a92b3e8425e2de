"""Messages that come to the ledger at once: one flush, each judged on what those before it left, nothing half done."""

import threading
from dataclasses import replace
from datetime import UTC, datetime, timedelta

import pytest

from adapters.ports import EventMessage, EventTarget
from scheduler.ledger.ledger import Ledger, ProgramTerms
from scheduler.store.store import Store, StoreDegraded

NOW = datetime(2022, 9, 6, 22, tzinfo=UTC)
HOUR = timedelta(hours=1)


class Counted(Store):
    """A store that counts its transactions, and fails where it is told to."""

    fails = staticmethod(lambda records: None)

    def put_all(self, records):
        records = list(records)
        self.written.append(len(records))
        if (error := self.fails(records)) is not None:
            raise error
        super().put_all(records)


@pytest.fixture
def store(tmp_path):
    store = Counted.open(tmp_path / "gridpace.db")
    store.written = []
    yield store
    store.close()


def event(name, version=0, limit_kw=3000.0, **fields):
    start, end = NOW + HOUR, NOW + 3 * HOUR
    targets = (EventTarget(start, end, limit_kw=limit_kw),)
    return EventMessage(name, version, "sv", start, end, targets=targets, program="pge", **fields)


def tell(ledger, message):
    terms = ProgramTerms(id="pge")
    return ledger.accept(message, baseline_kw=4500.0, available_kw=4500.0, defaults=terms, now=NOW)


def told_at_once(ledger, messages):
    """The answer, or the error, that each of the senders gets whose messages wait in this order."""
    answers = [None] * len(messages)

    def send(number):
        try:
            answers[number] = tell(ledger, messages[number])
        except Exception as error:
            answers[number] = error

    threads = [threading.Thread(target=send, args=(number,)) for number in range(len(messages))]
    with ledger._lock:
        for number, thread in enumerate(threads):
            thread.start()
            while len(ledger._together._waiting) <= number:
                threading.Event().wait(0.001)
    for thread in threads:
        thread.join()
    return answers


def held(ledger):
    return {row.id: (row.version, row.targets[0].value) for row in ledger.active(NOW)}


def test_who_waits_is_written_with_the_others_and_judged_after_those_before_him(store):
    ledger = Ledger(store)
    messages = [event("a"), event("b"), event("a", 1, 2000.0), event("a", 1, 2000.0), event("a", 0), event("c")]
    answers = told_at_once(ledger, messages)
    assert len(store.written) == 1, "one flush for all of them"
    assert [answer.state for answer in answers] == ["scheduled"] * 6
    assert [answer.duplicate for answer in answers] == [False, False, False, True, True, False]
    wanted = {"a": (1, 2000.0), "b": (0, 3000.0), "c": (0, 3000.0)}
    assert held(ledger) == wanted
    assert held(Ledger(store)) == wanted, "a restart knows what was answered"
    assert [status.id for status in ledger.statuses()] == ["c", "a", "b"]


def test_where_the_disk_says_no_nobody_is_answered_and_nothing_is_held_of_it(store):
    ledger = Ledger(store)
    tell(ledger, event("a"))
    before, numbers = held(ledger), [status.number for status in ledger.statuses()]
    store.fails = lambda records: StoreDegraded("disk full")
    messages = [event("a", 1, 2000.0), event("b"), replace(event("a", 2), cancelled=True, targets=())]
    answers = told_at_once(ledger, messages)
    assert all(isinstance(answer, StoreDegraded) for answer in answers)
    assert len(store.written) == 2, "a disk that says no is not asked for each of them"
    assert held(ledger) == before
    assert [status.number for status in ledger.statuses()] == numbers
    store.fails = lambda records: None
    answers = told_at_once(ledger, messages)
    assert not any(answer.duplicate for answer in answers), "what was not acknowledged was not remembered"
    assert held(ledger) == held(Ledger(store)) == {"b": (0, 3000.0)}


def test_a_message_that_cannot_be_written_is_nobody_elses_fault(store):
    ledger = Ledger(store)
    odd = "the books cannot hold this"
    store.fails = lambda records: TypeError(odd) if any("/b" in record.key for record in records) else None
    first, second, third = told_at_once(ledger, [event("a"), event("b"), event("c")])
    assert (first.state, third.state) == ("scheduled", "scheduled")
    assert str(second) == odd
    assert held(ledger) == held(Ledger(store)) == {"a": (0, 3000.0), "c": (0, 3000.0)}
