"""A voluntary event from its message to its end: it waits, the plan answers in time, and the answer is kept."""

from datetime import timedelta

import pytest

from optimizer.fallback import greedy_plan
from optimizer.reasons import Reason
from scheduler.explaining import explain_target
from scheduler.ledger.ledger import Ledger
from scheduler.service import Refused
from scheduler.store.store import Store
from tests.support.loops import START, lab, order

HOUR, MINUTE = timedelta(hours=1), timedelta(minutes=1)
FIRST, LAST = START + HOUR, START + 2 * HOUR


def program(credit, **more):
    terms = "".join(
        f", {key}: {value}" for key, value in ({"voluntary": "true", "answer_before": "20m"} | more).items()
    )
    return lambda text: text.replace(
        "{id: elrp, site: lab,", f"{{id: elrp, site: lab, credit_per_kwh: {credit}{terms},"
    )


def ask(made, **changes):
    made.plan()
    made.tick()
    return made.facade.accept(order(FIRST, LAST, **changes))


def status(made):
    return made.facade.event("e1")


def caps(made):
    return [event.id for event in made.ctx.ledger.active(made.clock.now())]


def test_an_event_that_pays_is_taken_in_time_and_held(tmp_path):
    with lab(tmp_path, program(20.0)) as made:
        answer = ask(made)
        assert (answer.state, answer.opt, answer.answer_by) == ("awaiting", "pending", FIRST - 20 * MINUTE)
        assert (status(made).state, caps(made)) == ("awaiting", [])
        made.run(30 * MINUTE, 60.0)
        assert status(made).state == "awaiting", "the plan of 21:35 still comes before 21:40"
        made.run(6 * MINUTE, 60.0)
        told = status(made)
        assert (told.state, told.opt, caps(made)) == ("near", "in", ["e1"])
        assert told.answer.startswith("opted in: pays ")
        assert "opted in: pays" in explain_target(made.ctx, made.state, "e1")
        assert Reason.OPT_IN in {note.code for note in made.state.report.notes}
        again = made.facade.accept(order(FIRST, LAST))
        assert (again.opt, again.duplicate, again.reason) == ("in", True, told.answer)
        ticks = made.run(80 * MINUTE, 10.0)
        inside = [tick.import_kw["lab"] for tick in ticks if FIRST + 6 * MINUTE <= tick.at < LAST]
        assert max(inside) <= told.target_kw * 1.01
        assert made.ctx.ledger.delivery("e1").delivered_kwh > 1.0


def test_an_event_that_does_not_pay_is_declined_with_its_reason(tmp_path):
    with lab(tmp_path, program(0.01)) as made:
        ask(made)
        made.run(40 * MINUTE, 60.0)
        told = status(made)
        assert (told.state, told.opt, caps(made)) == ("declined", "out", [])
        assert told.answer.startswith("opted out: would pay 0.")
        assert Reason.OPT_OUT in {note.code for note in made.state.notes}
        before = made.state.tick.import_kw["lab"]
        ticks = made.run(80 * MINUTE, 60.0)
        assert min(tick.import_kw["lab"] for tick in ticks) > 0.95 * before, "nothing is shed for it"
        assert made.facade.accept(order(FIRST, LAST)).opt == "out"


def test_the_answer_and_the_wait_survive_a_restart(tmp_path):
    store = Store.open(tmp_path / "books.db")
    with lab(tmp_path, program(20.0), store) as made:
        ask(made)
    store = Store.open(tmp_path / "books.db")
    ledger = Ledger(store)
    assert [row.event.id for row in ledger.awaiting()] == ["e1"]
    ledger.decide("e1", "in", "because", "plan", START + MINUTE)
    store.close()
    store = Store.open(tmp_path / "books.db")
    ledger = Ledger(store)
    assert ledger.awaiting() == ()
    assert [event.id for event in ledger.active(START + MINUTE)] == ["e1"]
    assert ledger.status("e1").answer == "because"
    assert [change.after for change in ledger.advance(START + MINUTE)] == ["scheduled"]
    assert ledger.advance(START + MINUTE) == ()
    store.close()


def test_silence_is_a_no(tmp_path):
    """No plan is made any more: at the deadline the event is declined, once, and is told as such."""
    with lab(tmp_path, program(20.0)) as made:
        ask(made)
        made.clock.sleep(39 * 60)
        made.tick()
        assert status(made).state == "awaiting"
        made.clock.sleep(60)
        made.tick()
        assert (status(made).state, status(made).answer) == (
            "declined",
            "opted out: no plan decided before the answer was due",
        )
        assert made.facade.accept(order(FIRST, LAST)).opt == "out"


def test_a_plan_without_a_solver_declines(tmp_path):
    with lab(tmp_path, program(20.0)) as made:
        ask(made)
        made.ctx.planner.plan = lambda problem, _last=None: greedy_plan(problem)
        made.run(36 * MINUTE, 60.0)
        assert (status(made).opt, status(made).answer) == ("out", "opted out: no solver weighed it")


@pytest.mark.parametrize(("begins", "state"), [(10 * MINUTE, "near"), (timedelta(0), "declined")])
def test_what_comes_late_is_answered_at_once_and_what_begins_now_is_declined(tmp_path, begins, state):
    with lab(tmp_path, program(20.0)) as made:
        made.plan()
        made.tick()
        made.facade.accept(order(START + begins, LAST))
        made.plan()
        made.tick()
        assert status(made).state == state


def test_the_operator_answers_in_the_plans_place_and_only_once(tmp_path):
    with lab(tmp_path, program(20.0)) as made:
        ask(made)
        with pytest.raises(Refused, match="opt: 'maybe' is not in or out"):
            made.facade.answer_event("e1", "maybe", "me")
        answer = made.facade.answer_event("e1", "out", "me")
        assert (answer.opt, answer.reason, answer.state) == ("out", "opted out by me", "declined")
        with pytest.raises(Refused, match="waits for no answer; it is declined") as refused:
            made.facade.answer_event("e1", "in", "me")
        assert refused.value.status == 409


def test_a_new_version_is_asked_anew_until_the_event_has_begun(tmp_path):
    with lab(tmp_path, program(20.0)) as made:
        ask(made)
        made.facade.answer_event("e1", "in", "me")
        assert caps(made) == ["e1"]
        answer = made.facade.accept(order(FIRST, LAST, version=2))
        assert (answer.opt, caps(made)) == ("pending", [])
        assert [row.version for row in made.ctx.ledger.awaiting()] == [2]
        made.facade.answer_event("e1", "in", "me")
        made.clock.sleep(70 * 60)
        made.tick()
        answer = made.facade.accept(order(FIRST, LAST, version=3))
        assert (answer.opt, caps(made)) == ("in", ["e1"])


def test_an_event_that_waits_can_be_cancelled(tmp_path):
    with lab(tmp_path, program(20.0)) as made:
        ask(made)
        assert made.facade.accept(order(FIRST, LAST, cancelled=True)).state == "cancelled"
        assert made.ctx.ledger.awaiting() == ()
        made.run(50 * MINUTE, 300.0)
        assert (status(made).state, caps(made)) == ("cancelled", [])


def test_an_emergency_of_a_voluntary_program_must_be_obeyed(tmp_path):
    with lab(tmp_path, program(20.0)) as made:
        assert ask(made, emergency=True).opt == "in"
