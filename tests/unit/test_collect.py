"""The first line of the slow loop: it never raises, never waits long, and says what it had to use instead."""

import threading
import time
from datetime import timedelta

import pytest

from adapters.ports import SourceError
from adapters.signals.simulated import SimulatedConfig, SimulatedSource
from optimizer.quality import GateRules
from optimizer.reasons import Reason
from scheduler.collect import Memory, Source, SourceState, collect
from tests.support.signals import NOON, RULES, context, series

HOUR = timedelta(hours=1)
WINDOW = (NOON - HOUR, NOON + 4 * HOUR)


class Told:
    """A source that does what the test says: return, raise, or wait."""

    def __init__(self, *answers):
        self.answers, self.calls = list(answers), 0

    def read(self, start, end, now):
        self.calls += 1
        answer = self.answers.pop(0) if len(self.answers) > 1 else self.answers[0]
        if isinstance(answer, threading.Event):
            answer.wait(20)
            return series([7.0] * 5, NOON - HOUR)
        if isinstance(answer, BaseException):
            raise answer
        return answer


def see(reader, memory, now=NOON, deadline_s=None, rules=RULES):
    return collect({"price": Source(reader, rules)}, WINDOW, now, memory, deadline_s).signals["price"]


GOOD = series([1.0, 2.0, 3.0, 4.0, 5.0], NOON - HOUR)


@pytest.mark.parametrize("error", [
    SourceError("p.csv:5: torn"), ZeroDivisionError("a bug"), KeyError("zone"), MemoryError(),
])  # fmt: skip
def test_a_failing_source_becomes_a_sentence_and_the_last_good_stays_until_its_limit(error):
    reader, memory = Told(GOOD, error), Memory()
    assert see(reader, memory).state is SourceState.OK
    stale = see(reader, memory, NOON + HOUR)
    assert (stale.state, stale.age_s) == (SourceState.STALE, 3600)
    assert stale.series.spans == GOOD.spans
    assert [note.code for note in stale.notes] == [Reason.SIGNAL_LOST, Reason.STALE_SIGNAL]
    assert str(error) in stale.notes[0].text
    lost = see(reader, memory, NOON + 49 * HOUR)
    assert lost.state is SourceState.LOST


def test_one_bad_source_never_stops_the_others():
    sources = {"bad": Source(Told(SourceError("no")), RULES), "good": Source(Told(GOOD), RULES)}
    seen = collect(sources, WINDOW, NOON, Memory())
    assert [seen.signals[name].state for name in ("bad", "good")] == [SourceState.LOST, SourceState.OK]
    assert seen.series("bad").name == "bad"
    assert seen.series("good").name == "good"
    assert {note.subject for note in seen.notes} == {"bad"}


def test_a_source_that_hangs_is_left_behind_and_not_asked_twice():
    gate, memory = threading.Event(), Memory()
    hanging, quick = Told(gate), Told(GOOD)
    sources = {"price": Source(hanging, RULES), "other": Source(quick, RULES)}
    began = time.monotonic()
    first = collect(sources, WINDOW, NOON, memory, 0.2)
    again = collect(sources, WINDOW, NOON + HOUR, memory, 30.0)
    assert time.monotonic() - began < 5
    for seen in (first, again):
        assert seen.signals["price"].state is SourceState.LOST
        assert seen.signals["price"].notes[0].code is Reason.CALL_TIMEOUT
        assert seen.signals["other"].state is SourceState.OK
    assert (hanging.calls, quick.calls) == (1, 2)
    gate.set()
    memory.pending["price"].done.wait(5)
    hanging.answers = [SourceError("down again")]
    later = collect(sources, WINDOW, NOON + 2 * HOUR, memory, 5.0).signals["price"]
    assert hanging.calls == 2
    assert (later.state, later.series.spans[0].value) == (SourceState.STALE, 7.0)
    assert later.age_s == 2 * 3600


def test_refused_values_do_not_become_the_last_good_ones():
    reader, memory = Told(GOOD, series([1.0] * 5, NOON - HOUR, unit="EUR/MWh"), SourceError("down")), Memory()
    for hour in range(3):
        seen = see(reader, memory, NOON + hour * HOUR)
    assert seen.series.spans == GOOD.spans
    assert seen.age_s == 2 * 3600


def test_what_is_kept_from_before_ages_although_the_rest_is_fresh():
    torn = series([1.0, 2.0, None, 4.0, 5.0], NOON - HOUR)
    reader, memory = Told(GOOD, torn), Memory()
    rules = GateRules("USD/MWh", max_age_s=5 * 3600)
    values = []
    for hour in (0, 2, 4, 6):
        seen = collect({"price": Source(reader, rules)}, WINDOW, NOON + hour * HOUR, memory).signals["price"]
        values.append(seen.series.at(NOON + HOUR))
    assert values == [3.0, 3.0, 3.0, None]


def test_the_simulated_twin_with_every_fault_at_once_is_survived():
    faults = {"nan_share": 0.3, "gap_share": 0.3, "spike_share": 0.3, "late": "30m", "stale": "1h"}
    config = SimulatedConfig.model_validate({"id": "s", "type": "simulated", "faults": faults})
    source = Source(SimulatedSource(config, context()), GateRules("USD/MWh", cap=5000, floor=-1000))
    memory = Memory()
    for step in range(24):
        now = NOON + step * HOUR
        seen = collect({"s": source}, (now - 24 * HOUR, now + 24 * HOUR), now, memory, None).signals["s"]
        assert all(-1000 <= span.value <= 5000 for span in seen.series.spans)
        assert all(span.start <= now - 1.5 * HOUR for span in seen.series.spans)
        assert seen.notes
