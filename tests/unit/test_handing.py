"""Nodes that can go on alone know of an event as soon as its caps are set, not only once there is a plan for it."""

from contextlib import contextmanager
from dataclasses import replace
from datetime import timedelta

import pytest

from adapters.ports import AdapterError, EventTarget
from optimizer.reasons import Reason
from scheduler.control import run_tick
from tests.support.loops import lab, order

MINUTE = timedelta(minutes=1)


class Nodes:
    """A lab's cards whose nodes can be handed a trajectory."""

    def __init__(self, power):
        self._power, self.told, self.away = power, [], False

    def __getattr__(self, name):
        return getattr(self._power, name)

    def hold(self, steps, until_s, lease):
        if self.away:
            raise AdapterError("the bus is away")
        self.told.append((steps, until_s, lease))


@contextmanager
def followed_lab(folder):
    with lab(folder, lambda text: text.split("jobs:")[0]) as made:
        hand = made.ctx.dispatcher
        hand.actuator, hand.lease_s = Nodes(hand.actuator), 3000.0  # so long that no renewal tells them anything
        made.run(4 * MINUTE, step_s=10)
        made.clock.sleep(20)
        made.tick()
        yield made, hand.actuator


def event_of(made, percent=30.0):
    now = made.clock.now()
    end = now + 30 * MINUTE
    targets = (EventTarget(now, end, reduce_percent=percent),)
    return order(now, end, targets=targets, ramp_in_s=0.0, ramp_out_s=60.0)


def summed_w(caps):
    return sum(caps.values())


def test_the_tick_that_lowers_caps_for_an_event_hands_it_to_the_nodes(tmp_path):
    with followed_lab(tmp_path) as (made, nodes):
        before, plans = len(nodes.told), made.state.cycles
        made.facade.accept(event_of(made))
        run_tick(made.ctx, made.state)
        assert made.state.cycles == plans, "no plan knows of it yet"
        assert len(nodes.told) == before + 1
        steps, until_s, _ = nodes.told[-1]
        assert until_s >= 31 * 60
        limits = made.ctx.dispatcher.actuator.enforced(tuple(steps[0][1]))
        assert summed_w(steps[0][1]) <= summed_w(limits) + len(limits), "as low as the caps in force"
        lasting = [caps for offset_s, caps in steps if offset_s < 30 * 60]
        assert max(summed_w(caps) for caps in lasting) < 0.9 * summed_w(nodes.told[before - 1][0][0][1])
        run_tick(made.ctx, made.state)
        assert len(nodes.told) == before + 1, "and says it once"


def test_an_event_that_was_changed_is_handed_over_again_and_one_that_was_withdrawn_waits_for_the_plan(tmp_path):
    with followed_lab(tmp_path) as (made, nodes):
        message = event_of(made, 20)
        made.facade.accept(message)
        run_tick(made.ctx, made.state)
        heard = len(nodes.told)
        deeper = event_of(made, 35)
        made.facade.accept(replace(deeper, id=message.id, version=message.version + 1))
        run_tick(made.ctx, made.state)
        assert len(nodes.told) == heard + 1
        assert summed_w(nodes.told[-1][0][0][1]) < summed_w(nodes.told[-2][0][0][1])
        made.facade.cancel_event(f"{message.program}/{message.id}", "operator")
        run_tick(made.ctx, made.state)
        assert len(nodes.told) == heard + 1
        made.plan()
        assert len(nodes.told) == heard + 2


@pytest.mark.parametrize("ticks", [1, 3])
def test_what_nodes_could_not_be_told_is_said_and_tried_again(tmp_path, ticks):
    with followed_lab(tmp_path) as (made, nodes):
        nodes.away, before = True, len(nodes.told)
        made.facade.accept(event_of(made))
        for _ in range(ticks):
            run_tick(made.ctx, made.state)
        assert any(note.code is Reason.CAP_REFUSED and "bus is away" in note.text for note in made.state.notes)
        assert len(nodes.told) == before
        nodes.away = False
        run_tick(made.ctx, made.state)
        assert len(nodes.told) == before + 1
