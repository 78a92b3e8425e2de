"""Nonsense over every channel: no error that nobody handles, and nothing refused changes what the planner is asked.

In CI 2,000 events a channel, in the long run 200,000 (`make fuzz`); GRIDPACE_FUZZED_EVENTS and GRIDPACE_FUZZ_SEED
choose a slice.
"""

import os
import random
from contextlib import closing, contextmanager
from dataclasses import replace
from datetime import UTC, datetime

import pytest

from optimizer.reasons import Reason
from scheduler.clock import VirtualClock
from scheduler.news import Notes
from tests.property.test_openadr3 import FUZZED, garbage
from tests.support.fuzzing import SENDERS, Adr3Sender, asked, make_loud, problem, site
from tests.support.loops import lab
from tests.support.openadr3 import HOUR, NOON, capacity

SEED = os.environ.get("GRIDPACE_FUZZ_SEED", "5")
A_SITE = 5000
"""Events until another site begins, so that its books stay small."""
PROBLEM_EVERY, PLAN_EVERY = 200, 2000
BATCH = 100

pytestmark = pytest.mark.timeout(7200)


@contextmanager
def a_site(name, folder, now=None):
    """A site with this channel, its first plan made; its clock stands still, by default at the real time."""
    folder.mkdir(parents=True)
    clock = VirtualClock(now or datetime.now(UTC).replace(microsecond=0))
    with lab(folder, site(name, folder), clock=clock) as made:
        made.plan()
        yield made


def parts(folder):
    """A folder and a number of events for each site that is needed."""
    for number, begin in enumerate(range(0, FUZZED, A_SITE)):
        yield folder / str(number), min(A_SITE, FUZZED - begin)


def planned(made):
    """A real plan, without how long it took."""
    return replace(made.ctx.planner.plan(problem(made), made.state.plan), solve_s=0.0)


@pytest.mark.parametrize("name", SENDERS)
def test_what_is_refused_changes_no_plan_and_nothing_is_an_error(name, tmp_path, monkeypatch):
    make_loud(monkeypatch)
    rng, refused = random.Random(f"{name} {SEED}"), 0
    for folder, events in parts(tmp_path):
        with a_site(name, folder) as made, closing(SENDERS[name](made)) as sender:
            refused += one_by_one(made, sender, rng, events)
    assert FUZZED / 5 < refused < FUZZED * 0.95, "some are refused, and some are taken"


def one_by_one(made, sender, rng, events):
    """Send so many; how many were refused. What the ledger gives the planner is compared each time, the whole problem
    and a plan now and then."""
    refused, asked_for, before, plan = 0, asked(made), None, None
    for number in range(events):
        if number % PROBLEM_EVERY == 0:
            before = problem(made)
            plan = planned(made) if number % PLAN_EVERY == 0 else None
        if sender.send(rng):
            refused += 1
            assert asked(made) == asked_for
            if before is not None:
                assert problem(made) == before
                assert plan is None or planned(made) == plan
                before = plan = None
        else:
            asked_for = asked(made)
            before = problem(made) if before is not None else None
            plan = planned(made) if plan is not None else None
        if number % 50 == 49:
            made.ctx.ledger.advance(made.clock.now())
            made.state.notes = Notes()
    return refused


def test_what_an_openadr_3_server_holds_that_is_refused_changes_no_plan(tmp_path):
    """What a site follows nothing of is found at one of its own; the other then gets to see that alone."""
    rng, refused = random.Random(f"openadr3 {SEED}"), 0
    sound = capacity(30, start=NOON + HOUR, each="PT1H", priority=0) | {"id": "sound"}
    for folder, events in parts(tmp_path):
        with a_site("openadr3", folder / "judge", NOON) as judged, a_site("openadr3", folder / "site", NOON) as made:
            judge, server = Adr3Sender(judged), Adr3Sender(made)
            server.poll([sound])
            assert [event.id for event in asked(made)] == ["sound"]
            for begin in range(0, events, BATCH):
                batch = [
                    server.event(rng) if rng.random() < 0.5 else garbage(rng) for _ in range(min(BATCH, events - begin))
                ]
                judge.poll([*batch, sound])
                followed = {event.id.partition("~")[0] for event in asked(judged)}
                nothing = [one for one in batch if not (isinstance(one, dict) and str(one.get("id")) in followed)]
                refused += len(nothing)
                unchanged(made, server, [*nothing, sound])
                server.poll([*batch, sound])
                server.poll([sound])  # what was in flight leaves by its ramp: the next batch comes on top of that
                judge.poll([])
    assert FUZZED / 5 < refused < FUZZED * 0.95, "some are refused, and some are taken"


def unchanged(made, server, listed):
    """Read a list that asks nothing new."""
    made.ctx.ledger.advance(NOON)
    asked_for, before = asked(made), problem(made)
    server.poll(listed)
    assert asked(made) == asked_for
    assert problem(made) == before
    assert not [note for note in made.state.notes if note.code is Reason.CHANNEL_LOST]
    made.state.notes = Notes()
