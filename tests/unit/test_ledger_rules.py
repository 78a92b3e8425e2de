"""The event ledger: what is agreed, how it changes, what is measured, and that a restart knows all of it."""

import re
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from itertools import pairwise

import pytest

from adapters.ports import EventMessage, EventRefused, EventTarget
from optimizer.envelope import event_limit_kw, tightest_kw
from scheduler.ledger.ledger import Ledger, ProgramTerms
from scheduler.store.store import Store, StoreDegraded

NOW = datetime(2022, 9, 6, 22, tzinfo=UTC)
HOUR, MINUTE, SECOND = timedelta(hours=1), timedelta(minutes=1), timedelta(seconds=1)
START, END = NOW + HOUR, NOW + 3 * HOUR


@pytest.fixture
def path(tmp_path):
    return tmp_path / "gridpace.db"


@pytest.fixture
def books(path):
    held = [Store.open(path)]

    def reopen():
        held[0].close()
        held[0] = Store.open(path)
        return Ledger(held[0])

    yield held, reopen
    held[0].close()


@pytest.fixture
def ledger(books):
    return Ledger(books[0][0])


def event(version=1, start=START, end=END, name="flex", **fields):
    value = {key: fields.pop(key) for key in ("limit_kw", "reduce_kw", "reduce_percent") if key in fields}
    targets = (EventTarget(start, end, **(value or {"limit_kw": 3000.0})),)
    return EventMessage(name, version, "sv", start, end, **({"targets": targets, "program": "pge"} | fields))


def tell(ledger, message, now=NOW, baseline_kw=4500.0, available_kw=2000.0, **terms):
    return ledger.accept(
        message, baseline_kw=baseline_kw, available_kw=available_kw, defaults=ProgramTerms(id="pge", **terms), now=now
    )


def cap(ledger, moment):
    return tightest_kw(ledger.active(moment), moment)


def state(ledger, now):
    ledger.advance(now)
    return ledger.statuses()[0].state


def test_an_event_runs_through_its_states_and_each_is_told_once(ledger, books):
    assert tell(ledger, event()).opt == "in"
    moments = [(NOW, "scheduled"), (START - 20 * MINUTE, "near"), (START, "ramping_in"), (START + 5 * MINUTE, "active"),
               (END, "ramping_out"), (END + 5 * MINUTE, "done")]  # fmt: skip
    told = []
    for moment, expected in moments:
        ledger = books[1]()
        told += [str(change.after) for change in ledger.advance(moment)]
        assert ledger.advance(moment) == ()
        assert state(ledger, moment) == expected
    assert told == [expected for _, expected in moments]
    assert len(ledger.active(END + HOUR)) == 1
    assert cap(ledger, END + HOUR) == 4500.0, "no rebound above the baseline for an hour"
    assert ledger.active(END + 66 * MINUTE) == ()


def test_a_clock_that_jumps_ahead_and_comes_back_finds_the_event_where_it_was(ledger):
    tell(ledger, event())
    assert state(ledger, END + 12 * HOUR) == "done"
    assert state(ledger, START + 10 * MINUTE) == "active"
    assert cap(ledger, START + 10 * MINUTE) == 3000.0


@pytest.mark.parametrize(
    ("value", "kw"),
    [
        ({"limit_kw": 2800.0}, 2800.0),
        ({"reduce_kw": 1500.0}, 3000.0),
        ({"reduce_percent": 25.0}, 3375.0),
        ({"reduce_percent": 0.0}, 4500.0),
    ],
)
def test_targets_become_caps_against_the_baseline_of_the_first_message(ledger, value, kw):
    answer = tell(ledger, event(**value))
    assert (answer.target_kw, answer.baseline_kw, answer.available_kw) == (kw, 4500.0, 2000.0)
    assert cap(ledger, START + HOUR) == pytest.approx(kw)
    again = tell(ledger, event(2, **value), now=START + HOUR, baseline_kw=3100.0, available_kw=600.0)
    assert again.available_kw == 2000.0, "what is shed already counts"
    assert (again.target_kw, again.baseline_kw) == (kw, 4500.0), "a running event lowers what the meter shows"


def test_a_repeat_gets_the_same_answer_over_a_restart_and_has_no_effect(ledger, books):
    first = tell(ledger, event())
    ledger = books[1]()
    assert tell(ledger, event(), baseline_kw=1.0) == replace(first, duplicate=True)
    other = tell(ledger, event(limit_kw=100.0))
    assert (other.duplicate, other.target_kw) == (True, 3000.0)
    assert "differs from the one first received" in other.reason
    assert cap(ledger, START + HOUR) == 3000.0
    assert len(ledger.history("flex")) == 1


def test_older_versions_are_ignored_and_logged(ledger):
    tell(ledger, event(3))
    answer = tell(ledger, event(2, limit_kw=100.0))
    assert (answer.state, answer.opt) == ("superseded", "out")
    assert "version 3 is held" in answer.reason
    assert cap(ledger, START + HOUR) == 3000.0
    assert [body["message"]["version"] for _, body in ledger.history("flex")] == [3, 2]


NAN = float("nan")


@pytest.mark.parametrize(
    ("message", "said"),
    [
        (event(start=NOW - 2 * HOUR, end=NOW), "end: .* is past"),
        (event(start=END, end=START), "end: .* is not after the start"),
        (event(end=START + 25 * HOUR), "end: the event is .* the program allows"),
        (event(start=NOW + 400 * 24 * HOUR, end=NOW + 400 * 24 * HOUR + HOUR), "start: .* days ahead"),
        (event(limit_kw=NAN), r"targets\[0\].limit_kw: nan"),
        (event(reduce_kw=float("inf")), r"targets\[0\].reduce_kw: inf"),
        (event(limit_kw=-1.0), r"targets\[0\].limit_kw: -1"),
        (event(reduce_percent=100.5), r"targets\[0\].reduce_percent"),
        (event(limit_kw=1.0, reduce_kw=1.0), "exactly one of"),
        (event(targets=()), "targets: there must be"),
        (event(targets=(EventTarget(START, START + HOUR, 1.0),)), r"targets\[0\].end"),
        (event(targets=(EventTarget(START + HOUR, END, 1.0),)), r"targets\[0\].start"),
        (event(ramp_in_s=NAN), "ramp_in_s"),
        (event(ramp_out_s=-5.0), "ramp_out_s"),
        (event(version=-1), "version"),
        (event(name="a\nb"), "id"),
        (event(start=START.replace(tzinfo=None), end=END.replace(tzinfo=None)), "start: .* no time zone"),
        (event(start=datetime(9999, 12, 30, tzinfo=UTC), end=datetime.max.replace(tzinfo=UTC)), "end"),
    ],
)
def test_nonsense_is_refused_with_its_field_seen_by_people_and_changes_nothing(ledger, books, message, said):
    tell(ledger, event(0))
    before = ledger.active(NOW)
    answer = tell(ledger, message)
    assert (answer.state, answer.opt) == ("refused", "out")
    assert re.search(said, answer.reason), answer.reason
    for held in (ledger, books[1]()):
        assert held.active(NOW) == before
        assert any(status.state == "refused" and status.answer == answer.reason for status in held.statuses())
    assert tell(ledger, message).duplicate


def test_what_is_larger_than_the_site_is_best_effort_and_says_by_how_much(ledger):
    answer = tell(ledger, event(reduce_kw=9000.0))
    assert (answer.opt, answer.target_kw) == ("in", 0.0)
    assert "best effort: 2000 kW can be shed, 7000 kW are missing" in answer.reason
    assert ledger.active(NOW)[0].firm is False


def test_terms_that_refuse_a_shortfall_refuse_firm_events_only(ledger):
    refused = tell(ledger, event(reduce_kw=2500.0), shortfall="refuse")
    assert (refused.opt, refused.state) == ("out", "refused")
    assert "500 kW more than the 2000 kW" in refused.reason
    assert tell(ledger, event(2, reduce_kw=2500.0, firm=False), shortfall="refuse").opt == "in"
    assert tell(ledger, event(3, reduce_kw=2500.0, emergency=True), shortfall="refuse").opt == "in"


def test_an_event_that_began_in_the_past_is_counted_from_now(ledger):
    answer = tell(ledger, event(), now=START + HOUR)
    assert (answer.state, answer.opt) == ("ramping_in", "in")
    assert "counted from now" in answer.reason
    assert cap(ledger, START + HOUR) == 4500.0
    assert cap(ledger, START + HOUR + 5 * MINUTE) == 3000.0


def test_a_load_that_is_not_known_is_not_guessed(ledger):
    with pytest.raises(EventRefused, match="not known") as refused:
        tell(ledger, event(), baseline_kw=NAN)
    assert refused.value.status == 503
    assert tell(ledger, event()).duplicate is False


def test_a_cancellation_before_the_start_ends_it_at_once(ledger):
    tell(ledger, event())
    answer = tell(ledger, event(1, cancelled=True, targets=()))
    assert (answer.state, answer.opt) == ("cancelled", "out")
    assert ledger.active(NOW) == ()
    assert tell(ledger, event(1, cancelled=True, targets=())).duplicate
    assert tell(ledger, event(2)).opt == "in", "a later version revives it"


@pytest.mark.parametrize("after", [2.5 * MINUTE, 30 * MINUTE])
def test_a_cancellation_from_inside_leaves_by_the_ramp_without_a_jump(ledger, books, after):
    tell(ledger, event())
    moment = START + after
    before = cap(ledger, moment)
    answer = tell(ledger, event(2, cancelled=True), now=moment)
    assert answer.state == "ramping_out"
    ledger = books[1]()
    caps = [cap(ledger, moment + second * SECOND) for second in range(0, 300, 10)]
    assert caps[0] == pytest.approx(before)
    steps = [later - earlier for earlier, later in pairwise(caps)]
    assert min(steps) > 0
    assert max(steps) == pytest.approx((4500 - before) / 30)
    assert state(ledger, moment + 5 * MINUTE) == "cancelled"
    assert cap(ledger, moment + 6 * MINUTE) == 4500.0, "the rebound limit stays"


def test_a_cancellation_after_the_end_changes_nothing(ledger):
    tell(ledger, event())
    assert tell(ledger, event(2, cancelled=True), now=END + MINUTE).state == "ramping_out"
    assert state(ledger, END + 6 * MINUTE) == "done"
    assert cap(ledger, END + 6 * MINUTE) == 4500.0


def test_a_cancellation_that_comes_first_wins_over_what_it_cancels(ledger, books):
    assert tell(ledger, event(2, cancelled=True, targets=())).state == "cancelled"
    ledger = books[1]()
    for version in (1, 2):
        answer = tell(ledger, event(version))
        assert (answer.state, answer.opt) == ("cancelled", "out")
        assert "version 2 cancelled it" in answer.reason
    assert ledger.active(NOW) == ()
    assert tell(ledger, event(3)).opt == "in"


def test_an_operators_word_holds_against_later_versions_and_over_a_restart(ledger, books):
    tell(ledger, event())
    answer = ledger.cancel("flex", "ann", START + HOUR)
    assert (answer.state, answer.opt) == ("ramping_out", "out")
    ledger = books[1]()
    later = tell(ledger, event(2), now=START + HOUR)
    assert (later.opt, later.reason) == ("out", "ann withdrew this event; ask the operator")
    assert state(ledger, START + HOUR + 6 * MINUTE) == "cancelled"
    assert ledger.history("flex")[1][1]["by"] == "ann"
    with pytest.raises(KeyError):
        ledger.cancel("unknown", "ann", NOW)


def test_a_running_event_changes_by_its_ramp_and_never_by_a_jump(ledger, books):
    tell(ledger, event())
    moment = START + 30 * MINUTE
    tell(ledger, event(2, end=END + HOUR, limit_kw=2600.0), now=moment)
    ledger = books[1]()
    assert len(ledger.active(moment)) == 1
    caps = [cap(ledger, moment + second * SECOND) for second in range(301)]
    assert caps[0] == pytest.approx(3000, abs=10)
    assert caps[300] == 2600.0
    assert max(abs(later - earlier) for earlier, later in pairwise(caps)) <= 10
    assert cap(ledger, END + 30 * MINUTE) == 2600.0
    tell(ledger, event(3, limit_kw=4000.0), now=moment + HOUR)
    assert cap(ledger, moment + HOUR) == pytest.approx(2600, abs=30)
    assert cap(ledger, moment + HOUR + 6 * MINUTE) == 4000.0


def test_a_running_event_that_is_put_off_is_left_by_its_ramp(ledger):
    tell(ledger, event())
    moment = START + 30 * MINUTE
    tell(ledger, event(2, start=END + HOUR, end=END + 2 * HOUR), now=moment)
    assert cap(ledger, moment) == pytest.approx(3000.0)
    assert cap(ledger, moment + 150 * SECOND) == pytest.approx(3750.0)
    assert cap(ledger, END + HOUR + 30 * MINUTE) == 3000.0


def test_overlapping_events_bind_by_the_stricter_one_and_say_so(ledger):
    tell(ledger, event())
    answer = tell(ledger, event(name="other", start=START + HOUR, end=END + HOUR, limit_kw=2500.0))
    assert "overlaps flex: the stricter cap holds" in answer.reason
    assert cap(ledger, START + 90 * MINUTE) == 2500.0
    assert cap(ledger, START + 30 * MINUTE) == 3000.0
    (note,) = ledger.notes(START + 90 * MINUTE)
    assert "other is the strictest now with 2500 kW" in note.text
    assert ledger.notes(START + 30 * MINUTE) == ()


def test_two_programs_may_use_the_same_id(ledger):
    tell(ledger, event())
    tell(ledger, event(program="other", limit_kw=2000.0))
    assert {status.id for status in ledger.statuses()} == {"flex", "other/flex"}
    ledger.cancel("other/flex", "ann", NOW)
    assert cap(ledger, START + HOUR) == 3000.0


def test_delivery_is_counted_from_the_meter_and_survives_a_kill(ledger, books):
    tell(ledger, event())
    for second in range(0, 7201, 10):
        moment = START + second * SECOND
        lost, late = 3600 < second <= 3660, second == 1800
        import_kw = 3200.0 if late else min(4500.0, event_limit_kw(ledger.active(moment)[0], moment))
        ledger.record(moment, "sv", None if lost else import_kw)
        ledger.record(moment, "elsewhere", 9999.0)
    held = ledger.delivery("flex")
    assert held.seconds == pytest.approx(7200 - 60, abs=11)
    assert held.worst_over_kw == pytest.approx(200.0)
    assert held.over_kwh == pytest.approx(200 * 10 / 3600)
    full = 1500 * (7200 - 60 - 300) / 3600 + 1500 / 2 * 300 / 3600
    assert held.delivered_kwh == pytest.approx(full, rel=0.01)
    again = books[1]()
    assert again.delivery("flex") == held
    status = again.statuses()[0]
    assert (status.delivered_kwh, status.worst_over_kw) == (held.delivered_kwh, held.worst_over_kw)


def test_at_most_a_minute_of_delivery_is_lost(ledger, books):
    tell(ledger, event())
    for second in range(0, 305, 5):
        ledger.record(START + second * SECOND, "sv", 4000.0)
    assert books[1]().delivery("flex").seconds >= 300 - 65


def test_nothing_is_acknowledged_that_is_not_on_disk(ledger, books, monkeypatch):
    tell(ledger, event())

    def full(*_):
        raise StoreDegraded("disk full")

    monkeypatch.setattr(books[0][0], "put_all", full)
    for message in (event(2, limit_kw=1000.0), event(2, cancelled=True), event(name="new")):
        with pytest.raises(StoreDegraded):
            tell(ledger, message)
    with pytest.raises(StoreDegraded):
        ledger.cancel("flex", "ann", NOW)
    assert [str(change.after) for change in ledger.advance(NOW)] == ["scheduled"], "control goes on"
    ledger.record(START, "sv", 4000.0)
    assert cap(ledger, START + HOUR) == 3000.0
    assert len(ledger.statuses()) == 1


def test_names_can_not_break_a_line_of_the_log(ledger):
    tell(ledger, replace(event(), name="\x1b[31mred\nline"))
    assert ledger.statuses()[0].name == "?[31mred?line"


def test_every_acknowledged_event_can_be_had_however_many_and_however_old(ledger, books):
    for number in range(260):
        tell(ledger, event(name=f"e{number}", start=START + number * HOUR, end=START + number * HOUR + 30 * MINUTE))
    ledger = books[1]()
    ledger.advance(START + 400 * HOUR)
    assert len(ledger.statuses()) < 260, "the page's list is short on purpose"
    seen, before = [], None
    while page := ledger.page(before, 100):
        seen += [status.id for status in page]
        before = page[-1].number
    assert seen == [f"e{number}" for number in reversed(range(260))]
    assert ledger.status("e0").id == "e0"
    with pytest.raises(KeyError):
        ledger.status("never-heard-of")
