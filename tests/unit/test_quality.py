"""The gate: what is taken, what is replaced, what is refused, and that each of these is said."""

from dataclasses import replace
from datetime import timedelta

import pytest

from optimizer.domain import Span
from optimizer.quality import GateRules, SignalState, gate
from optimizer.reasons import Note, Reason, Severity
from tests.support.signals import NOON, RULES, series

HOUR = timedelta(hours=1)
WINDOW = (NOON, NOON + 6 * HOUR)
NAN = float("nan")


def codes(result):
    return [note.code for note in result.notes]


def values(result):
    return [span.value for span in result.series.spans]


def judge(fresh, previous=None, rules=RULES, now=NOON):
    return gate(fresh, previous, rules, now, WINDOW)


def test_negative_and_nine_thousand_are_prices():
    result = judge(series([-1000, -0.5, 0.0, 9000]), rules=GateRules("USD/MWh", cap=9000, floor=-1000))
    assert (values(result), result.notes, result.state) == ([-1000, -0.5, 0.0, 9000], (), SignalState.OK)


@pytest.mark.parametrize(("bad", "code"), [
    (NAN, Reason.SIGNAL_NAN), (float("inf"), Reason.SIGNAL_NAN),
    (9000.01, Reason.SIGNAL_SPIKE), (-1000.01, Reason.SIGNAL_SPIKE),
])  # fmt: skip
def test_what_is_no_price_is_left_out_never_zero(bad, code):
    result = judge(series([40, bad, 60]), rules=GateRules("USD/MWh", cap=9000, floor=-1000))
    assert values(result) == [40, 60]
    assert codes(result) == [code, Reason.SIGNAL_GAP]
    assert result.state is SignalState.SUBSTITUTED
    assert result.series.at(NOON + HOUR) is None


def test_a_hole_is_filled_with_what_was_known_before_and_said():
    before = series([11, 22, 33], published_at=NOON - HOUR)
    result = judge(series([40, NAN, 60]), before)
    assert values(result) == [40, 22, 60]
    assert codes(result) == [Reason.SIGNAL_NAN, Reason.STALE_SIGNAL]
    assert result.series.published_at == NOON - HOUR
    too_old = replace(before, published_at=NOON - timedelta(hours=49))
    assert values(judge(series([40, NAN, 60]), too_old)) == [40, 60]


def test_a_tail_that_was_published_once_is_not_forgotten():
    result = judge(series([40, 50]), series([1, 2, 3, 4], published_at=NOON))
    assert values(result) == [40, 50, 3, 4]


@pytest.mark.parametrize(("age", "state"), [(47, SignalState.SUBSTITUTED), (49, SignalState.LOST)])
def test_a_failed_read_keeps_the_last_good_values_until_their_limit(age, state):
    before = series([11, 22, 33], NOON - HOUR, published_at=NOON - age * HOUR)
    result = judge(None, before)
    assert (result.state, result.age_s) == (state, age * 3600)
    lost = state is SignalState.LOST
    assert values(result) == ([11] if lost else [11, 22, 33])
    assert codes(result) == [Reason.SIGNAL_LOST if lost else Reason.STALE_SIGNAL]
    assert result.notes[0].severity is (Severity.ALERT if lost else Severity.WARNING)


def test_nothing_at_all_is_lost_and_empty():
    result = judge(None)
    assert (result.state, result.series.spans, codes(result)) == (SignalState.LOST, (), [Reason.SIGNAL_LOST])


def test_a_series_that_stopped_long_ago_is_lost_whatever_it_says_of_itself():
    result = judge(series([1, 2], NOON - 60 * HOUR))
    assert (result.state, result.age_s) == (SignalState.LOST, 58 * 3600)
    assert values(result) == [1, 2]


def test_a_source_that_admits_its_age_is_believed():
    result = judge(series([1, 2, 3], published_at=NOON - 50 * HOUR))
    assert (result.state, values(result)) == (SignalState.LOST, [])


@pytest.mark.parametrize("unit", ["EUR/MWh", "USD/kWh"])
def test_another_unit_or_currency_takes_nothing(unit):
    before = series([11, 22], published_at=NOON)
    result = judge(series([40, 50], unit=unit), before)
    assert values(result) == [11, 22]
    assert codes(result) == [Reason.SIGNAL_UNIT, Reason.STALE_SIGNAL]
    assert unit in result.notes[0].text
    assert judge(series([40, 50], unit=unit)).state is SignalState.LOST


@pytest.mark.parametrize("factor", [1000, 0.001])
def test_values_that_all_jump_by_a_thousand_are_refused(factor):
    before = series([30, 40, -5, 50, 60, 70], published_at=NOON)
    result = judge(series([span.value * factor for span in before.spans]), before)
    assert values(result) == [30, 40, -5, 50, 60, 70]
    assert codes(result)[0] is Reason.SIGNAL_UNIT
    revised = judge(series([30, 40, -5, 50, 60, 9000]), before)
    assert values(revised)[-1] == 9000


def test_a_unit_a_thousand_too_small_is_doubted_but_kept():
    rules = GateRules("USD/MWh", plausible_p90=1.0)
    small = judge(series([0.03 + n / 1000 for n in range(24)]), rules=rules)
    assert codes(small) == [Reason.SIGNAL_UNIT]
    assert len(values(small)) == 24
    assert judge(series([n * 2.0 for n in range(24)]), rules=rules).notes == ()


def test_a_unit_a_thousand_too_large_is_named_as_the_likely_cause():
    result = judge(series([30_000, 41_000, 52_000]), rules=GateRules("USD/MWh", cap=5000))
    assert result.state is SignalState.LOST
    assert "is the unit right?" in result.notes[0].text


def test_duplicates_the_revision_wins_overlaps_the_earlier_stays():
    spans = (Span(NOON, NOON + HOUR, 1), Span(NOON, NOON + HOUR, 2), Span(NOON + HOUR / 2, NOON + 2 * HOUR, 3),
             Span(NOON + 2 * HOUR, NOON + 3 * HOUR, 4), Span(NOON + 3 * HOUR, NOON + 3 * HOUR, 5))  # fmt: skip
    result = judge(replace(series([]), spans=spans))
    assert values(result) == [2, 4]
    assert codes(result) == [Reason.SIGNAL_DUPLICATE, Reason.SIGNAL_GAP]
    assert "3 values" in result.notes[0].text


def test_unsorted_values_are_put_in_order():
    forward = series([1, 2, 3])
    assert judge(replace(forward, spans=forward.spans[::-1])).series.spans == forward.spans


def test_a_gap_ahead_is_louder_than_one_behind():
    assert judge(series([1, None, 3])).notes[0].severity is Severity.WARNING
    assert judge(series([1, None, 3]), now=NOON + 5 * HOUR).notes[0].severity is Severity.INFO
    assert judge(series([None, 2, 3])).notes == ()


def test_what_the_source_itself_reports_reaches_the_person():
    said = Note(Reason.STALE_SIGNAL, "price", "p.csv:5: torn")
    result = judge(series([1, 2], notes=(said,)))
    assert result.notes == (said,)
    assert result.state is SignalState.SUBSTITUTED
