"""Orders that contradict each other, whatever brought them: by priority, then the stricter, and said aloud."""

from dataclasses import replace
from datetime import UTC, datetime, timedelta
from itertools import pairwise, permutations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from adapters.ports import EventMessage, EventTarget
from optimizer.envelope import tightest_kw
from optimizer.reasons import Reason
from scheduler.ledger.conflicts import group_of, level_of
from scheduler.ledger.ledger import Ledger, ProgramTerms
from scheduler.ledger.pacing import Pace
from scheduler.store.store import Store
from tests.support.loops import START as LAB_START
from tests.support.loops import lab, order

NOW = datetime(2022, 9, 6, 22, tzinfo=UTC)
HOUR, MINUTE = timedelta(hours=1), timedelta(minutes=1)
START, END = NOW + HOUR, NOW + 3 * HOUR
RANKS = {"utility": 1, "iso": 0}


@pytest.fixture
def ledger():
    store = Store.in_memory()
    yield Ledger(store)
    store.close()


def ask(name, program, limit_kw, start=START, end=END, **fields):
    targets = (EventTarget(start, end, limit_kw=limit_kw),)
    return EventMessage(name, 1, "sv", start, end, targets, program=program, source="test", **fields)


def tell(ledger, message, ranks=None, now=NOW):
    terms = ProgramTerms(id=message.program, ramp_in_s=0.0, ramp_out_s=0.0, rank=(ranks or {}).get(message.program))
    return ledger.accept(message, baseline_kw=100.0, available_kw=90.0, defaults=terms, now=now)


def cap(ledger, moment):
    return tightest_kw(ledger.active(moment), moment)


EQUAL = (
    ask("dispatch", "hook", 30.0),
    ask("limit", "adr3", 45.0, hard=True),
    ask("target", "dsx", 40.0),
    ask("level", "adr2", 35.0, priority=1),
    ask("phone", "operator", 50.0),
)


@pytest.mark.parametrize("sequence", list(permutations(range(5), 5))[::17])
def test_case_13_of_equal_standing_the_stricter_of_all_channels_holds_whatever_came_first(ledger, sequence):
    answers = [tell(ledger, EQUAL[number]) for number in sequence]
    assert cap(ledger, START + HOUR) == 30.0
    assert "the stricter cap holds" in answers[-1].reason
    (note,) = ledger.notes(START + HOUR)
    assert note.code is Reason.EVENT_CONFLICT
    assert "dispatch is the strictest now with 30 kW" in note.text
    ledger.cancel("dispatch", "ann", NOW)
    assert cap(ledger, START + HOUR) == 35.0


def test_priorities_of_programs_without_a_rank_do_not_compare(ledger):
    tell(ledger, ask("strict", "utility", 30.0, priority=9))
    tell(ledger, ask("loose", "iso", 60.0, priority=0))
    assert cap(ledger, START + HOUR) == 30.0


@pytest.mark.parametrize("first", ["loose", "strict"])
def test_the_higher_rank_holds_also_with_the_looser_cap_and_all_are_told(ledger, first):
    strict = ask("strict", "utility", 30.0)
    loose = ask("loose", "iso", 60.0, start=START + 30 * MINUTE, end=END - 30 * MINUTE)
    answers = {one.id: tell(ledger, one, RANKS) for one in sorted((strict, loose), key=lambda one: one.id != first)}
    told = answers["loose" if first == "strict" else "strict"].reason
    assert ("its priority holds over strict" if first == "strict" else "yields to loose") in told
    assert [cap(ledger, START + minutes * MINUTE) for minutes in (0, 29, 30, 89, 90, 119)] == [30, 30, 60, 60, 30, 30]
    shown = {status.id: status for status in ledger.statuses()}
    assert "yields to loose (program iso ranked 0, priority none before" in shown["strict"].answer
    assert "yields" not in shown["loose"].answer
    note = ledger.notes(START + HOUR)[0]
    assert (note.code, note.subject) == (Reason.EVENT_CONFLICT, "strict")
    assert "its own cap of 30 kW does not hold now" in note.text
    assert not any("yields" in note.text for note in ledger.notes(START + 10 * MINUTE))
    ledger.cancel("loose", "ann", NOW)
    assert cap(ledger, START + HOUR) == 30.0
    assert "yields" not in next(one.answer for one in ledger.statuses() if one.id == "strict")


def test_of_one_program_the_priority_counts_across_payload_types_and_none_is_the_lowest(ledger):
    tell(ledger, ask("level", "utility", 30.0))
    tell(ledger, ask("dispatch", "utility", 60.0, priority=3))
    assert cap(ledger, START + HOUR) == 60.0
    tell(ledger, ask("stricter", "utility", 50.0, priority=3))
    assert cap(ledger, START + HOUR) == 50.0
    tell(ledger, ask("first", "utility", 70.0, priority=0))
    assert cap(ledger, START + HOUR) == 70.0


@pytest.mark.parametrize("fields", [{"hard": True}, {"emergency": True}, {"program": "operator"}])
def test_hard_limits_emergencies_and_the_operator_yield_to_nobody(ledger, fields):
    tell(ledger, replace(ask("strict", "utility", 30.0, priority=9), **fields), RANKS)
    answer = tell(ledger, ask("loose", "iso", 60.0, priority=0), RANKS)
    assert cap(ledger, START + HOUR) == 30.0
    assert "overlaps strict: the stricter cap holds" in answer.reason


def test_what_yields_outlives_a_restart(tmp_path):
    store = Store.open(tmp_path / "books.db")
    ledger = Ledger(store)
    tell(ledger, ask("strict", "utility", 30.0), RANKS)
    tell(ledger, ask("loose", "iso", 60.0), RANKS)
    store.close()
    store = Store.open(tmp_path / "books.db")
    assert cap(Ledger(store), START + HOUR) == 60.0
    store.close()


def test_what_was_taken_before_priorities_counted_keeps_the_stricter_cap(tmp_path):
    store = Store.open(tmp_path / "books.db")
    tell(Ledger(store), ask("loose", "utility", 60.0, priority=0))  # 0 stood for none as well
    tell(Ledger(store), ask("limit", "utility", 50.0))
    for key, body in store.all("event").items():
        store.put("event", key, {name: value for name, value in body.items() if name not in {"rank", "hard"}})
    store.close()
    store = Store.open(tmp_path / "books.db")
    ledger = Ledger(store)
    assert cap(ledger, START + HOUR) == 50.0
    answer = tell(ledger, ask("strict", "utility", 40.0, priority=3))
    assert cap(ledger, START + HOUR) == 40.0
    assert "overlaps loose, limit: the stricter cap holds" in answer.reason
    tell(ledger, ask("back", "utility", 55.0, priority=1))
    assert cap(ledger, START + HOUR) == 50.0, "what yields is lifted, what was agreed before is not"
    store.close()


def test_a_cap_that_comes_back_keeps_the_programs_pace(ledger):
    terms = ProgramTerms(id="utility", ramp_in_s=0.0, ramp_out_s=0.0, rank=1, pace=Pace(10.0, 10.0))
    ledger.accept(ask("strict", "utility", 30.0), baseline_kw=60.0, available_kw=50.0, defaults=terms, now=NOW)
    tell(ledger, ask("loose", "iso", 50.0, start=START + 30 * MINUTE, end=START + HOUR), RANKS)
    seen = [cap(ledger, START + 20 * MINUTE + second * timedelta(seconds=1)) for second in range(3600)]
    assert max(seen) == 50.0
    assert max(abs(after - before) for before, after in pairwise(seen)) <= 10.0 / 60 * 5 + 1e-9


def test_the_plan_and_the_fast_loop_meet_the_stricter_and_the_ranked(tmp_path):
    """Through the loops: of equal standing the stricter cap, of ranked programs that of the higher."""

    def programs(ranks):
        hook = 'channel: {type: webhook, secret: "file:secret"}'
        said = [f"  - {{id: {name}, site: lab, {rank}{hook}}}" for name, rank in ranks.items()]
        return lambda text: text[: text.index("  - {id: elrp")] + "\n".join(said) + text[text.index("\njobs:") :]

    for ranks, wanted in (({"elrp": "", "iso": ""}, 38.0), ({"elrp": "rank: 1, ", "iso": "rank: 0, "}, 42.0)):
        with lab(tmp_path, programs(ranks)) as site:
            site.run(5 * MINUTE, step_s=5)
            begin = site.clock.now()
            assert begin > LAB_START
            for name, program, kw in (("a", "elrp", 38.0), ("b", "iso", 42.0)):
                target = (EventTarget(begin, begin + HOUR, limit_kw=kw),)
                site.facade.accept(order(begin, begin + HOUR, id=name, program=program, targets=target, ramp_in_s=0.0))
            ticks = site.run(10 * MINUTE, step_s=5)
            assert ticks[-1].target_kw["lab"] == wanted
            assert ticks[-1].import_kw["lab"] <= wanted * 1.01
            assert site.state.plan.sites["lab"].import_kw[1] <= wanted * 1.001
            assert any(note.code is Reason.EVENT_CONFLICT for note in site.state.report.notes)


# ---------------------------------------------------------------- against the naive rule
@st.composite
def crowds(draw):
    found = []
    for number in range(draw(st.integers(2, 7))):
        first = draw(st.integers(0, 8))
        last = draw(st.integers(first + 1, 9))
        fields = draw(st.sampled_from([{}, {}, {}, {"hard": True}, {"emergency": True}]))
        found.append(
            ask(f"e{number}", draw(st.sampled_from(["utility", "iso", "free", "operator"])),
                float(draw(st.integers(2, 9)) * 10), START + first * MINUTE, START + last * MINUTE,
                priority=draw(st.sampled_from([None, 0, 1])), **fields)
        )  # fmt: skip
    return found


@given(crowds())
def test_the_cap_of_any_crowd_is_that_of_the_naive_rule(messages):
    store = Store.in_memory()
    ledger = Ledger(store)
    for message in messages:
        tell(ledger, message, RANKS)
    rows = list(ledger._books.bound())
    for minute in range(10):
        at = START + minute * MINUTE + timedelta(seconds=1)
        groups = {}
        for row in rows:
            if row.event.start <= at < row.event.end:
                groups.setdefault(group_of(row) or row.id, []).append((level_of(row), row.event.targets[0].value))
        wanted = min((min(kw for level, kw in same if level == min(same)[0]) for same in groups.values()), default=None)
        held = tightest_kw([e for e in ledger.active(at) if e.start <= at < e.end], at)
        assert held == (wanted if wanted is not None else float("inf"))
    store.close()
