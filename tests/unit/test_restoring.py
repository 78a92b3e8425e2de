"""A release that is accepted and not done is not one; a board's own lower limit is no cap of ours."""

from dataclasses import replace
from datetime import UTC, datetime

import pytest

from adapters.ports import AdapterError, Lease, Receipt
from optimizer.reasons import Reason
from scheduler.agent.core import AgentCore, AgentSettings
from scheduler.agent.state import AgentFiles
from scheduler.clock import VirtualClock
from tests.support.dispatching import FOUND_W, GPUS, NOW, Cards, Clock, dispatcher, orders

FIRST = GPUS[0]
SETTINGS = AgentSettings(tick_s=1.0, release_w_per_s=10.0, stop_s=20.0)


class Controllers(Cards):
    """Cards that tell one number, the limit that is enforced. `deaf`: they accept a write and do nothing; `stiff`: they
    go down and not up."""

    def __init__(self, books=None, two=False):
        super().__init__(books)
        self.deaf, self.stiff, self.two = set(), set(), two

    def discover(self):
        found = super().discover()
        return found if self.two else {gpu: replace(info, limit_w=info.enforced_w) for gpu, info in found.items()}

    def _set(self, wanted):
        before = dict(self.limits)
        receipt = super()._set(wanted)
        self.limits |= {gpu: before[gpu] for gpu in self.deaf}
        self.limits |= {gpu: min(before[gpu], self.limits[gpu]) for gpu in self.stiff}
        enforced = {gpu: self._enforced(gpu) for gpu in receipt.enforced_w}
        drift = {gpu: Reason.CAP_DRIFT for gpu, watts in enforced.items() if abs(watts - wanted[gpu]) > 1.0}
        return Receipt(enforced, drift)


class Agent:
    """An agent over such cards, that capped them all at 300 W."""

    def __init__(self, folder, cards, seconds=600.0):
        self.clock, self.cards = VirtualClock(datetime(2022, 9, 6, tzinfo=UTC)), cards
        self.core = AgentCore(cards, AgentFiles(folder), SETTINGS, self.clock.monotonic)
        self.core.apply(dict.fromkeys(GPUS, 300), Lease(1, 1, seconds))

    def live(self, seconds):
        for _ in range(seconds):
            self.clock.sleep(1)
            line = self.core.tick()
        return line


@pytest.fixture
def cards():
    return Controllers()


# ---------------------------------------------------------------- the agent
@pytest.mark.parametrize("deaf_at_w", [300, 450])
def test_a_controller_that_goes_deaf_on_the_ramp_is_owed_its_limit_until_it_hears(tmp_path, cards, deaf_at_w):
    agent = Agent(tmp_path, cards, seconds=1.0)
    while cards.limits[FIRST] < deaf_at_w:
        agent.live(1)
    cards.deaf = {FIRST}
    line = agent.live(120)
    assert cards.limits == FOUND_W | {FIRST: deaf_at_w}
    assert agent.core.status()["found_w"] == {FIRST: FOUND_W[FIRST]}
    assert agent.core.status()["kept_w"] == {FIRST: deaf_at_w}
    assert f"1 keep their cap though they accepted the release, {FIRST} the first, at {deaf_at_w} W" in line
    cards.deaf = set()
    agent.live(90)
    assert (cards.limits, agent.core.outstanding, agent.core.status()["kept_w"]) == (FOUND_W, False, {})


def test_an_ordered_release_that_was_accepted_and_not_done_is_said_and_a_stop_names_it(tmp_path, cards, monkeypatch):
    agent = Agent(tmp_path, cards)
    monkeypatch.setattr("scheduler.agent.core.sleep", agent.clock.sleep)
    cards.deaf = {FIRST}
    receipt = agent.core.release(FOUND_W, epoch=1)
    assert (dict(receipt.failures), receipt.enforced_w[FIRST]) == ({FIRST: Reason.CAP_REFUSED}, 300)
    agent.live(600)
    before = len(cards.calls)
    agent.live(600)
    assert agent.core.outstanding
    line = agent.core.stop()
    assert f"not given back, and written down: 1 GPUs, {FIRST} the first" in line
    assert len(cards.calls) - before < 900, "a ramp, then a pause"


@pytest.mark.parametrize("two", [True, False])
@pytest.mark.parametrize("board_w", [250, 300, 450, 454])
@pytest.mark.parametrize("ramped", [True, False])
def test_a_boards_own_lower_limit_is_not_ours_wherever_it_lies(tmp_path, two, board_w, ramped):
    agent = Agent(tmp_path, cards := Controllers(two=two), seconds=1.0 if ramped else 600.0)
    cards.board_w[FIRST] = board_w
    if ramped:
        agent.live(60)
    else:
        agent.core.release(FOUND_W, epoch=1)
    assert not agent.core.outstanding
    assert cards.limits == FOUND_W, "which count again when the board lets go"


def test_a_card_that_goes_down_and_not_up_is_not_brought_down_with_every_try(tmp_path, cards):
    agent = Agent(tmp_path, cards, seconds=1.0)
    cards.stiff = {FIRST}
    agent.live(1200)
    assert 290 <= cards.limits[FIRST] < 300
    cards.stiff = set()
    agent.live(90)
    assert cards.limits == FOUND_W


@pytest.mark.parametrize("raises", [True, False])
def test_a_card_that_is_lost_while_it_is_one_step_down_is_owed_its_limit(tmp_path, cards, monkeypatch, raises):
    agent = Agent(tmp_path, cards)
    cards.board_w[FIRST] = 290
    hearing, tries = cards.release, []

    def lost_the_second_time(limits_w):
        tries.append(limits_w)
        if len(tries) != 2:
            return hearing(limits_w)
        if raises:
            raise AdapterError("no card answers")
        return Receipt({}, dict.fromkeys(limits_w, Reason.CALL_TIMEOUT))

    monkeypatch.setattr(cards, "release", lost_the_second_time)
    agent.core.release(FOUND_W, epoch=1)
    assert agent.core.status()["found_w"] == {FIRST: FOUND_W[FIRST]}
    agent.core.release(FOUND_W, epoch=1)
    assert (cards.limits, agent.core.outstanding) == (FOUND_W, False)


@pytest.mark.parametrize("way", ["release", "ramp", "heir"])
def test_a_card_that_ignored_a_lower_cap_is_owed_what_was_found_and_not_what_it_is_at(tmp_path, cards, way):
    agent = Agent(tmp_path, cards, seconds=20.0)
    agent.core.apply(dict.fromkeys(GPUS, 400), Lease(1, 2, 20.0))
    cards.deaf = {FIRST}
    agent.core.apply(dict.fromkeys(GPUS, 300), Lease(1, 3, 20.0))
    agent.live(10)
    status = agent.core.status()
    assert (status["yielded_w"], status["ignoring"]) == ({FIRST: 400}, [FIRST])
    if way == "heir":
        agent.core = AgentCore(cards, AgentFiles(tmp_path), SETTINGS, agent.clock.monotonic)
    if way == "release":
        agent.core.release(FOUND_W, epoch=1)
    agent.live(60)
    assert agent.core.status()["found_w"] == {FIRST: FOUND_W[FIRST]}
    cards.deaf = set()
    agent.live(120)
    assert (cards.limits, agent.core.outstanding) == (FOUND_W, False)


def test_a_card_that_ignores_its_caps_now_and_then_is_owed_what_was_found(tmp_path, cards):
    """It obeyed in between: what it is at is a cap of ours, and no other writer's limit."""
    agent = Agent(tmp_path, cards, seconds=100.0)
    for number, (cap, seconds) in enumerate([(450, 2), (400, 1), (300, 10)], 2):
        cards.deaf = {FIRST} if cap < 450 else set()
        agent.core.apply(dict.fromkeys(GPUS, cap), Lease(1, number, 100.0))
        agent.live(seconds)
        cards.deaf = set()
        agent.live(2)
    status = agent.core.status()
    assert (status["yielded_w"], status["ignoring"]) == ({FIRST: 400}, [FIRST])
    agent.core.release(FOUND_W, epoch=1)
    assert (cards.limits, agent.core.outstanding) == (FOUND_W, False)


# ---------------------------------------------------------------- a daemon without agents
@pytest.mark.parametrize("restarted", [True, False])
def test_a_daemon_keeps_what_its_cards_did_not_take_back(books, restarted):
    hand = dispatcher(books, cards := Controllers(books), Clock())
    hand.apply(orders(), 900.0, NOW)
    cards.deaf = {FIRST}
    if restarted:
        hand = dispatcher(books, cards, Clock(), epoch=8)
        hand.adopt()
    hand.writes = False
    for count, notes in ((3, hand.release(NOW)), (1, hand.verify(NOW))):
        assert [note.text for note in notes] == [
            f"1 of {count} GPUs did not take their limit back ({FIRST}); kept, and tried again"
        ]
    assert books.first_limits() == {FIRST: FOUND_W[FIRST]}
    cards.deaf = set()
    assert hand.verify(NOW) == ()
    assert (cards.limits, books.first_limits()) == (FOUND_W, {})


def test_a_daemon_blames_no_other_writer_for_a_card_that_ignores_its_cap_and_owes_it_the_limit_found(books):
    hand = dispatcher(books, cards := Controllers(books), clock := Clock())
    hand.apply(orders(), 900.0, NOW)
    (at_w,) = {cards.limits[gpu] for gpu in GPUS[:2]}
    cards.deaf, lower = {FIRST}, orders(chat=at_w - 50)
    said = []
    for _ in range(6):
        clock.now += 1.0
        hand.apply(lower, 900.0, NOW)
        said.extend(hand.verify(NOW))
    assert f"1 GPUs of chat ({FIRST}) take their caps and ignore them" in said[-1].text
    assert not any("another writer" in note.text for note in said)
    assert hand.ignoring == {FIRST}
    hand.writes = False
    hand.release(NOW)
    assert books.first_limits() == {FIRST: FOUND_W[FIRST]}
    cards.deaf = set()
    hand.verify(NOW)
    assert (cards.limits, books.first_limits()) == (FOUND_W, {})


@pytest.mark.parametrize("board_w", [250, 400, 500])
def test_a_daemon_takes_a_boards_limit_for_no_cap_of_ours(books, board_w):
    hand = dispatcher(books, cards := Controllers(books), Clock())
    hand.apply(orders(), 900.0, NOW)
    cards.board_w[FIRST] = board_w
    assert hand.release(NOW) == ()
    assert (cards.limits, books.first_limits()) == (FOUND_W, {})
