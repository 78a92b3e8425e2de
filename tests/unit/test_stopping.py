"""An orderly stop: everything is given back, but in the middle of an event that agents can deliver alone."""

from dataclasses import replace
from datetime import timedelta

import pytest

from adapters.ports import AdapterError, EventTarget
from optimizer.reasons import Note
from scheduler.letting_go import left_at_stop, let_all_go
from scheduler.parked import ParkedState
from scheduler.service import OperatorOrder
from scheduler.stopping import end_in_order
from scheduler.takeover import reconcile
from tests.support.loops import lab, order
from tests.unit.test_parking_loops import parks

MINUTE = timedelta(minutes=1)


class Following:
    """The simulated cards behind an agent that follows alone."""

    def __init__(self, power):
        self._power, self.told, self.deaf = power, [], False

    def __getattr__(self, name):
        return getattr(self._power, name)

    def hold(self, steps, until_s, lease):
        if self.deaf:
            raise AdapterError("no agent answers")
        self.told.append((steps, until_s, lease))


class Keeper:
    """A batch system that holds one job."""

    def __init__(self, jobs, store):
        self._jobs, self._store = jobs, store
        store.put("held_jobs", "slurm", {"jobs": {"7": "held", "8": "yielded"}})

    def __getattr__(self, name):
        return getattr(self._jobs, name)

    def notes(self) -> tuple[Note, ...]:
        return ()

    def release(self) -> tuple[Note, ...]:
        self._store.put("held_jobs", "slurm", {"jobs": {}})
        return ()

    def close(self):
        pass


def limited(made, limit_kw, starts=timedelta(0), lasts=60 * MINUTE):
    """An event from now on, or later."""
    begin = made.clock.now() + starts
    target = EventTarget(begin, begin + lasts, limit_kw=limit_kw)
    made.facade.accept(order(begin, begin + lasts, targets=(target,), ramp_in_s=60.0, ramp_out_s=60.0))


def alone(made):
    """Agents that follow alone, and the limits that the cards had before."""
    made.ctx.dispatcher.actuator = agents = Following(made.ctx.dispatcher.actuator)
    made.ctx.dispatcher.lease_s = 20.0
    return agents, caps(made)


def caps(made):
    return {gpu: info.limit_w for gpu, info in made.ctx.dispatcher.actuator.discover().items()}


def kept_jobs(made):
    return made.ctx.store.all("held_jobs")["slurm"]["jobs"]


def test_an_event_in_progress_is_left_to_agents_from_now_on_and_to_its_end(tmp_path):
    with lab(tmp_path) as made:
        agents, first = alone(made)
        made.run(5 * MINUTE, step_s=5)
        limited(made, 30.0)
        made.run(5 * MINUTE, step_s=5)
        capped = caps(made)
        assert capped != first
        ending = end_in_order(made.parts)
        assert ending.notes == ()
        assert "stopped in the middle of e1: its agents deliver to the end" in ending.left
        assert "22:07Z" in ending.left, "its end, its ramp out, and what the site's own ramp takes longer"
        assert caps(made) == capped
        steps, until_s, lease = agents.told[-1]
        assert until_s == pytest.approx(57 * 60, abs=60)
        assert lease.expires_in_s < 0.1, "followed from now on"
        assert all(watts <= capped[gpu] for gpu, watts in steps[0][1].items())
        assert not made.ctx.dispatcher.writes
        assert left_at_stop(made.ctx.store)
        assert let_all_go(made.parts) == (), "which is what `gridpace release` does"
        assert caps(made) == first
        assert not left_at_stop(made.ctx.store)


@pytest.mark.parametrize(("starts", "left"), [(10, True), (40, False)])
def test_an_event_that_begins_within_the_trajectorys_reach_is_left_to_them_too(tmp_path, starts, left):
    with lab(tmp_path) as made:
        _, first = alone(made)
        made.run(5 * MINUTE, step_s=5)
        limited(made, 30.0, starts=starts * MINUTE)
        made.plan()
        made.tick()
        assert bool(end_in_order(made.parts).left) is left
        assert left or caps(made) == first
        assert left_at_stop(made.ctx.store) is left


@pytest.mark.parametrize("why", ["nobody follows alone", "paused", "a limit that binds nobody, and a price"])
def test_else_a_stop_gives_everything_back(tmp_path, why):
    dear = "a limit that binds nobody, and a price"
    with lab(tmp_path, lambda text: text.replace("value: 60", "value: 900") if why == dear else text) as made:
        first = caps(made)
        if why != "nobody follows alone":
            alone(made)
        made.run(5 * MINUTE, step_s=5)
        if why == dear:
            made.facade.order(OperatorOrder("limit", site="lab", limit_kw=66.0, by="me"))
        else:
            limited(made, 30.0)
        made.run(5 * MINUTE, step_s=5)
        assert caps(made) != first
        if why == "paused":
            made.facade.order(OperatorOrder("pause", by="me"))
        ending = end_in_order(made.parts)
        assert (ending.notes, ending.left) == ((), "")
        assert caps(made) == first
        assert not left_at_stop(made.ctx.store)


@pytest.mark.parametrize(("limit_kw", "kept"), [(28.0, True), (60.0, False)])
def test_jobs_and_parked_gpus_are_let_go_only_where_the_caps_alone_keep_the_limit(tmp_path, limit_kw, kept):
    with lab(tmp_path, parks) as made:
        agents, _ = alone(made)
        parts = replace(made.parts, ctx=replace(made.ctx, jobs=Keeper(made.ctx.jobs, made.ctx.store)))
        made.run(5 * MINUTE, step_s=5)
        limited(made, limit_kw)
        made.run(5 * MINUTE, step_s=5)
        asleep = made.state.parked.setdefault("tune", ParkedState()).ordered
        assert asleep > 0
        ending = end_in_order(parts)
        assert agents.told
        assert (f"jobs (1) and parked GPUs ({asleep}) stay held" in ending.left) is kept, ending.left
        assert kept_jobs(made) == ({"7": "held", "8": "yielded"} if kept else {})
        assert made.ctx.parking["tune"].read() == (asleep if kept else 0)


def test_jobs_stay_held_where_their_idle_cards_have_higher_caps_than_the_limit_bears(tmp_path):
    with lab(tmp_path, lambda text: text.split("jobs:")[0]) as made:
        alone(made)
        parts = replace(made.parts, ctx=replace(made.ctx, jobs=Keeper(made.ctx.jobs, made.ctx.store)))
        made.run(2 * MINUTE, step_s=10)
        limited(made, 34.0)
        made.run(3 * MINUTE, step_s=10)
        assert made.state.tick.import_kw["lab"] < 34.0
        assert made.state.held["tune"].cap_w > 300
        assert "jobs (1) stay held" in end_in_order(parts).left
        assert kept_jobs(made)


def test_agents_that_do_not_hear_the_last_word_follow_what_they_had_and_work_stays_held(tmp_path):
    with lab(tmp_path) as made:
        agents, _ = alone(made)
        parts = replace(made.parts, ctx=replace(made.ctx, jobs=Keeper(made.ctx.jobs, made.ctx.store)))
        made.run(5 * MINUTE, step_s=5)
        limited(made, 60.0)
        made.run(MINUTE, step_s=5)
        capped, agents.deaf = caps(made), True
        ending = end_in_order(parts)
        assert "follow what they had: no agent answers" in ending.notes[0].text
        assert "follow what they were told last" in ending.left
        assert caps(made) == capped
        assert kept_jobs(made)


@pytest.mark.parametrize(("west_kw", "value", "held"), [(4, 5, True), (9, 0.05, False)])
def test_a_site_without_an_event_is_given_back_beside_one_that_has_one_unless_a_limit_binds(
    tmp_path, west_kw, value, held
):
    """16 cards draw 6.8 kW at most."""

    def two(text):
        sites = f"sites:\n  - {{id: west, timezone: America/Denver, price: energy, limit_kw: {west_kw}}}"
        pool = (
            "  - {id: west-chat, site: west, gpu_model: A100-400W, count: 16, work: interactive, "
            f"curve: A100-400W/infer_llama_8b, value_per_gpu_h: {value}, floor: 0.5, load: 0.95}}\nsignals:"
        )
        return text.split("jobs:")[0].replace("sites:", sites).replace("signals:", pool)

    with lab(tmp_path, two) as made:
        agents, first = alone(made)
        made.run(5 * MINUTE, step_s=5)
        limited(made, 30.0)
        made.run(5 * MINUTE, step_s=5)
        west = set(made.ctx.dispatcher.gpus["west-chat"])
        capped = caps(made)
        assert any(capped[gpu] < first[gpu] for gpu in west)
        ending = end_in_order(made.parts)
        assert ending.notes == ()
        assert ("and under the limit of west (4 kW)" in ending.left) is held
        now = caps(made)
        assert {gpu: now[gpu] for gpu in west} == {gpu: (capped if held else first)[gpu] for gpu in west}
        assert {gpu: watts for gpu, watts in now.items() if gpu not in west} == {
            gpu: watts for gpu, watts in capped.items() if gpu not in west
        }
        steps, _, _ = agents.told[-1]
        assert all(bool(west & step.keys()) is held for _, step in steps)
        made.clock.sleep(2)
        assert made.hall.reading().import_kw["west"] <= west_kw


def test_who_starts_next_takes_over_and_says_so_as_no_warning(tmp_path):
    with lab(tmp_path) as made:
        alone(made)
        made.run(5 * MINUTE, step_s=5)
        limited(made, 30.0)
        made.run(5 * MINUTE, step_s=5)
        end_in_order(made.parts)
        made.state.notes.forget(made.clock.now() + MINUTE)
        reconcile(made.parts)
        (note,) = [note for note in made.state.notes if "what it found first is kept" in note.text]
        assert "left to their agents by a daemon that was stopped in the middle of an event" in note.text
        assert note.severity == "info"
        assert not left_at_stop(made.ctx.store)
