"""Single cards that draw more than they enforce: the mean of a large pool hides them, and they are told of by name."""

from datetime import timedelta

import pytest

from adapters.meters.simulated import SimulatedMeter
from adapters.ports import CardMeter
from optimizer.reasons import Reason
from scheduler.hardware import Meters
from scheduler.service import OperatorOrder
from tests.support.loops import lab


def told(ticks):
    return [note for tick in ticks for note in tick.notes if note.code is Reason.CAP_UNMOVED]


@pytest.fixture
def made(tmp_path):
    with lab(tmp_path) as running:
        running.run(timedelta(seconds=20))
        running.facade.order(OperatorOrder("limit", site="lab", limit_kw=28.0, by="me"))
        yield running


def drawing(monkeypatch, draws_w):
    """These cards draw so much, whatever their limits."""
    true = SimulatedMeter.cards
    monkeypatch.setattr(SimulatedMeter, "cards", lambda meter: true(meter) | draws_w)


def test_a_few_cards_over_their_limit_are_told_of_by_name_and_as_long_as_it_is_so(made, monkeypatch):
    assert not told(made.run(timedelta(seconds=40))), "who obeys is nothing to tell"
    stuck = made.hall.gpus_of["chat"][:5]
    with monkeypatch.context() as patch:
        drawing(patch, dict.fromkeys(stuck, 395.0))
        ticks = made.run(timedelta(seconds=40))
    (texts,) = {note.text for note in told(ticks)}
    cap_w = ticks[-1].cap_w["chat"]
    assert cap_w < 350
    assert f"5 of the 64 GPUs of chat draw more than the limit in force, which is {cap_w} W for most" in texts
    assert f"{stuck[0]} (395 W)" in texts
    assert "and 2 more" in texts
    assert 15 <= len(told(ticks)) <= 25, "in every tick, so that the metric stays, after some looks"
    assert not told(made.run(timedelta(seconds=20))[6:]), "and no longer"


@pytest.mark.parametrize("share", [1.05, 1.10])
def test_a_little_over_the_limit_is_no_news(made, monkeypatch, share):
    cap_w = made.run(timedelta(seconds=30))[-1].cap_w["chat"]
    drawing(monkeypatch, {made.hall.gpus_of["chat"][0]: cap_w * share})
    assert not told(made.run(timedelta(seconds=40)))


def test_a_card_that_was_above_its_limit_for_some_seconds_is_not_told_of(made, monkeypatch):
    made.run(timedelta(seconds=30))
    with monkeypatch.context() as patch:
        drawing(patch, {made.hall.gpus_of["chat"][0]: 395.0})
        assert not told(made.run(timedelta(seconds=10)))
    assert not told(made.run(timedelta(seconds=30)))


def test_several_meters_know_the_cards_of_those_that_tell_them(made):
    made.run(timedelta(seconds=2))
    both = Meters((SimulatedMeter(made.hall), object()))
    assert isinstance(both, CardMeter)
    assert both.cards().keys() == made.hall.pool_of.keys()
