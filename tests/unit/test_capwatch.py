"""Whose GPU is it: a cap raised once is set again, one raised again and again is left alone, and tried later."""

import pytest

from scheduler.capwatch import CapWatch, DriftRules

RULES = DriftRules(reassert=3, quiet_s=600.0)


@pytest.fixture
def watch():
    made = CapWatch(RULES)
    made.order({"a": 300, "b": 300})
    return made


def look(watch, now, a=300.0, b=300.0):
    judged = watch.judge({"a": a, "b": b}, now)
    return sorted(judged.again), sorted(judged.yielded)


def test_a_cap_raised_now_and_then_is_set_again_for_ever(watch):
    for turn in range(20):
        assert look(watch, 1000.0 * turn, a=700.0) == (["a"], [])
        assert look(watch, 1000.0 * turn + 1, a=300.0) == ([], [])
    assert watch.yielded_w == {}
    assert watch.reasserted == 20


def test_a_cap_raised_again_and_again_is_yielded_after_so_many_tries_and_alone(watch):
    assert [look(watch, float(now), a=700.0) for now in range(5)] == [(["a"], [])] * 3 + [([], ["a"]), ([], [])]
    assert watch.yielded_w == {"a": 700.0}
    assert look(watch, 6.0, a=700.0, b=700.0) == (["b"], [])


def test_a_slow_writer_is_found_out_as_well(watch):
    found = []
    for minute in range(5):
        found.append(look(watch, 60.0 * minute, a=700.0))
        look(watch, 60.0 * minute + 1, a=300.0)
    assert found[3] == ([], ["a"])


def test_what_nobody_touches_for_the_quiet_time_is_taken_back_on_probation(watch):
    for now in range(4):
        look(watch, float(now), a=700.0)
    assert look(watch, 500.0, a=650.0) == ([], []), "its writer moved it: the quiet time begins anew"
    assert look(watch, 1099.0, a=650.0) == ([], [])
    assert look(watch, 1100.0, a=650.0) == (["a"], [])
    assert watch.yielded_w == {}
    assert look(watch, 1101.0, a=300.0) == ([], [])
    assert look(watch, 1110.0, a=700.0) == ([], ["a"]), "once is enough now"
    look(watch, 1710.0, a=700.0)
    assert look(watch, 2400.0, a=700.0) == (["a"], []), "a clean record after a quiet time"
    assert look(watch, 2401.0, a=700.0) == (["a"], [])


def test_an_operator_takes_back_at_once_and_with_a_clean_record(watch):
    for now in range(4):
        look(watch, float(now), a=700.0)
    assert watch.take_back() == ("a",)
    assert [look(watch, 10.0 + now, a=700.0) for now in range(4)] == [(["a"], [])] * 3 + [([], ["a"])]


def test_lower_limits_clamped_orders_and_silent_cards_are_no_drift(watch):
    watch.order({"c": 50})
    watch.bounds({"c": 200})
    judged = watch.judge({"a": 250.0, "c": 200.0}, 1.0)
    assert (judged.again, judged.yielded) == ({}, {})
    assert watch.lowered == {"a"}
    assert set(watch.judge({"c": 210.0}, 2.0).again) == {"c"}
    assert not watch.lowered


def test_a_write_that_failed_proves_nothing(watch):
    watch.unwritten(["a"])
    assert look(watch, 1.0, a=700.0) == ([], [])


def test_nothing_is_raised_over_another_writer_and_what_was_found_is_never_exceeded(watch):
    for now in range(4):
        look(watch, float(now), a=700.0, b=500.0)
    found = {"a": 650.0, "b": 650.0, "c": 600.0}
    assert watch.owed(found, {"a": 700.0, "b": 500.0, "c": 300.0}) == {"a": 650.0, "b": 500.0, "c": 600.0}


@pytest.mark.parametrize(("answer", "ignoring"), [(700.0, {"a"}), (300.0, set()), (650.0, set())])
def test_who_does_not_move_with_any_write_has_no_other_writer(watch, answer, ignoring):
    for now in range(4):
        look(watch, float(now), a=700.0)
        watch.answered({"a": answer if now == 1 else 700.0})
    assert watch.yielded_w == {"a": 700.0}
    assert watch.ignoring == ignoring
    assert watch.owed({"a": 800.0}, {"a": 700.0}) == {"a": 800.0 if ignoring else 700.0}


def test_who_was_seen_to_move_or_was_never_written_to_is_not_said_to_ignore_writes(watch):
    for now in range(4):
        look(watch, 2.0 * now, a=700.0)
        watch.answered({"a": 700.0})
        look(watch, 2.0 * now + 1, a=300.0)
    assert (watch.yielded_w.keys(), watch.ignoring) == ({"a"}, set())
    hasty = CapWatch(DriftRules(reassert=0))
    hasty.order({"a": 300})
    look(hasty, 0.0, a=700.0)
    hasty.answered({"a": 700.0})
    assert (hasty.yielded_w.keys(), hasty.ignoring) == ({"a"}, set())


def test_who_was_raised_once_by_a_hand_and_ignores_its_cap_later_is_at_a_cap_of_ours(watch):
    watch.answered({"a": 300.0})
    look(watch, 0.0, a=700.0)
    watch.answered({"a": 300.0})
    watch.order({"a": 250})
    for now in range(1, 4):
        watch.answered({"a": 300.0})
        look(watch, float(now), a=300.0)
    assert (watch.yielded_w, watch.ignoring) == ({"a": 300.0}, {"a"})
    assert watch.owed({"a": 800.0}, {"a": 300.0}) == {"a": 800.0}
    look(watch, 5.0, a=400.0)
    assert (watch.theirs_w, watch.ignoring) == ({"a": 400.0}, set()), "who raises it is another writer"
