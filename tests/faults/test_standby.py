"""Two daemons that stand by for each other: killed, stopped, cut off; what was acknowledged is kept, and once."""

import signal
import sqlite3
import threading
import time
from contextlib import ExitStack, closing, contextmanager, suppress

import pytest

from adapters.bus import Bus
from adapters.ports import AdapterError
from adapters.power.agent import AgentPower
from adapters.power.fleet_wire import BOOKS_STREAM, LEADERS
from tests.support.nats import stream_leader
from tests.support.pair import CARDS, Pair
from tests.support.power_worlds import wait_until
from tests.support.system import require

pytestmark = pytest.mark.timeout(240)
BOUND_S = 90.0
"""How long anything may take here at most; on an idle machine it takes a tenth of it."""

LOWERED = 4
"""So many of the eight cards have a lower limit in each of these events at least: their first ones are odd, so that the
same cap of a pool may be above that of one card and below that of the next."""


@pytest.fixture
def stack(tmp_path):
    require("gcc")
    with ExitStack() as made:
        yield made


@contextmanager
def watched(pair):
    """Look all the while; the caller gets how many cards their agent had to give back each time. The loop may bring a
    card up to its first limit, but what is released, even one card, the agent owes no more."""
    seen, done = [pair.owed()], threading.Event()

    def look():
        while not done.wait(0.05):
            seen.append(pair.owed())

    thread = threading.Thread(target=look, daemon=True)
    thread.start()
    try:
        yield seen
    finally:
        done.set()
        thread.join(10)


def told(pair, name, event):
    """How often an event's message stands in a daemon's append-only log."""
    with closing(sqlite3.connect(f"file:{pair.machines[name].state / 'gridpace.db'}?mode=ro", uri=True)) as books:
        query = "SELECT count(*) FROM log WHERE kind = 'event_message' AND key = ?"
        return books.execute(query, (f"elrp/{event}",)).fetchone()[0]


def same_books(pair, names=("a", "b")):
    """Whether both files hold the same events, in the same words."""
    return all(pair.books(names[0], kind) == pair.books(names[1], kind) for kind in ("event", "event_answer", "job"))


def test_an_event_outlives_the_leader_and_an_old_leader_that_comes_back_is_fenced(stack, tmp_path):
    pair = Pair(stack, tmp_path)
    pair.start("a", "b")
    lead, other = pair.leader(BOUND_S)
    # The utility knows one address, that of the daemon that stands by; its signature must hold at the one that leads.
    status, answer = pair.lives[other].event(id="heat", reduce_percent=40, duration="PT20M")
    assert (status, answer["opt"]) == (200, "in"), answer
    assert pair.lives[other].event(id="forged", program="elrp", reduce_percent=-1)[0] == 422
    wait_until(lambda: pair.held() >= LOWERED and pair.owed() == CARDS, BOUND_S)
    wait_until(lambda: same_books(pair), BOUND_S)

    with watched(pair) as seen:
        pair.lives.pop(lead).kill()
        assert pair.leader(BOUND_S)[0] == other
        status, answer = pair.lives[other].event(id="heat", reduce_percent=40, duration="PT20M")
        assert status in {200, 409}, answer  # a second hearing of the same id and version is no second event
        deeper, answer = pair.lives[other].event(id="deeper", reduce_percent=45, duration="PT20M")
        assert deeper == 200, answer
    assert set(seen) == {CARDS}, "limits were given back in the middle of the event"
    events = pair.lives[other].get("/api/v1/events")["events"]
    assert sorted(event["id"] for event in events) == ["deeper", "heat"]
    assert {event["id"]: event["state"] for event in events}["heat"] in {"ramping_in", "active"}, events
    assert told(pair, other, "deeper") == 1

    pair.start(lead)  # it comes back, and has what it missed
    assert pair.leader(BOUND_S) == (other, lead)
    wait_until(lambda: same_books(pair), BOUND_S)

    stalled = pair.lives[other]
    stalled.process.send_signal(signal.SIGSTOP)
    try:
        wait_until(lambda: pair.role(lead) == "leader", BOUND_S)
        status, answer = pair.lives[lead].event(id="late", reduce_percent=50, duration="PT20M")
        assert status == 200, answer
    finally:
        stalled.process.send_signal(signal.SIGCONT)
    assert pair.leader(BOUND_S) == (lead, other), "the old leader follows"
    assert stalled.process.poll() is None
    wait_until(lambda: same_books(pair), BOUND_S)
    assert told(pair, other, "late") == told(pair, lead, "late") == 1
    assert pair.held() >= LOWERED

    with watched(pair) as seen:
        assert pair.lives[lead].stop(60) == 0  # in order: the other goes on, so that nothing is given back
        del pair.lives[lead]
        assert pair.leader(BOUND_S)[0] == other
        assert pair.lives[other].stop(60) == 0  # the last one, in the middle of the event: its agents go on alone
        wait_until(lambda: pair.phase() == "holding", BOUND_S)
        assert pair.held() >= LOWERED
        pair.start(other)
        assert pair.leader(BOUND_S)[0] == other
    assert set(seen) == {CARDS}, "limits were given back in the middle of the event"
    for event in ("heat", "deeper", "late"):
        assert pair.lives[other].event(id=event, version=2, cancelled=True)[0] == 200
    time.sleep(5.0)  # ramps out take 2 s, rebound limits 1 s
    assert pair.lives[other].stop(60) == 0
    wait_until(lambda: pair.cards.limits_w() == pair.machines["a"].first, BOUND_S)  # the last one gives them back


def test_a_leader_that_is_cut_off_stops_before_the_other_begins(stack, tmp_path):
    pair = Pair(stack, tmp_path, relayed=True)
    pair.start("a", "b")
    lead, other = pair.leader(BOUND_S)
    before = pair.status(lead)["epoch"]
    pair.lives[lead].process.send_signal(signal.SIGHUP)  # a reload keeps the lead, under an epoch of its own
    wait_until(lambda: pair.lives[lead].said("reloaded"), BOUND_S)
    assert pair.leader(BOUND_S) == (lead, other)
    assert pair.status(lead)["epoch"] == before + 1
    pair.relays[lead].cut.set()
    wait_until(lambda: pair.role(other) == "leader", BOUND_S)
    wait_until(lambda: pair.said_at(lead, leading=False), BOUND_S)
    assert pair.said_at(lead, leading=False) < pair.said_at(other, leading=True)
    status, answer = pair.lives[lead].event(id="cut", reduce_percent=40) or (503, {"error": "stands by"})
    assert status == 503, answer  # told by the follower that it is, or by the books that it no longer leads
    assert "stands by" in answer["error"] or "does not lead" in answer["error"], answer
    pair.relays[lead].cut.clear()
    assert pair.leader(BOUND_S) == (other, lead)
    wait_until(lambda: pair.lives[lead].event(id="cut", reduce_percent=40)[0] == 200, BOUND_S)


def test_the_only_server_is_killed_in_the_middle_of_an_event_and_ends_the_lead_but_not_the_event(stack, tmp_path):
    pair = Pair(stack, tmp_path, caps_s=8)
    pair.start("a")
    pair.leader(BOUND_S)
    life = pair.lives["a"]
    assert life.event(id="heat", reduce_percent=40, duration="PT20M")[0] == 200
    # The nodes are told of the event with its first caps; the plan comes when it comes.
    wait_until(lambda: pair.held() >= LOWERED and pair.owed() == CARDS and pair.promised() >= LOWERED, BOUND_S)
    with watched(pair) as seen:
        pair.servers.stop()
        wait_until(lambda: pair.said_at("a", leading=False), BOUND_S)
        status, _ = life.event(id="unheard", reduce_percent=45, duration="PT20M") or (503, {})
        assert status == 503, "nobody can say that it is kept"
        wait_until(lambda: pair.phase() == "holding", BOUND_S)  # its lease is over, its trajectory is not
        assert pair.held() >= LOWERED
        pair.servers.start()
        assert pair.leader(BOUND_S) == ("a", None)
        deeper = {"id": "deeper", "reduce_percent": 45, "duration": "PT20M"}
        wait_until(lambda: (life.event(**deeper) or (0,))[0] in {200, 409}, BOUND_S)
    assert set(seen) == {CARDS}, "limits were given back in the middle of the event"
    assert life.process.poll() is None
    assert sorted(event["id"] for event in life.get("/api/v1/events")["events"]) == ["deeper", "heat"]
    assert told(pair, "a", "heat") == told(pair, "a", "deeper") == 1


def leads_all(pair):
    """The server that leads both the lease's bucket and the books' stream, which is brought about: to lose it is the
    hardest."""
    with closing(Bus(pair.servers.settings("daemon"))) as bus:
        bus.wait_connected(20.0)
        step_down, found = f"$JS.API.STREAM.LEADER.STEPDOWN.{BOOKS_STREAM}", set()

        def one_leads_both():
            with suppress(AdapterError):  # a stream that elects its leader may say nothing
                found.clear()
                found.update([stream_leader(bus, stream) for stream in (f"KV_{LEADERS}", BOOKS_STREAM)])
                if len(found) > 1:
                    bus.call(bus.client.request(step_down, b"", 2.0), 3.0)
            return len(found) == 1 and None not in found

        wait_until(one_leads_both, BOUND_S)
        return found.pop()


def test_a_pair_goes_on_when_a_cluster_of_three_loses_the_server_that_leads_its_streams(stack, tmp_path):
    pair = Pair(stack, tmp_path, count=3, replicas=3, lease_s=6)
    pair.start("a", "b")
    pair.leader(BOUND_S)
    lost = leads_all(pair)
    lead, other = pair.leader(BOUND_S)
    assert pair.lives[other].event(id="one", reduce_percent=40, duration="PT20M")[0] == 200
    pair.servers.stop(lost)
    began = time.monotonic()
    wait_until(lambda: (pair.lives[lead].event(id="two", reduce_percent=45) or (0,))[0] == 200, BOUND_S)
    assert time.monotonic() - began < BOUND_S
    lead, other = pair.leader(BOUND_S)
    pair.lives.pop(lead).kill()
    assert pair.leader(BOUND_S)[0] == other
    events = pair.lives[other].get("/api/v1/events")["events"]
    assert sorted(event["id"] for event in events) == ["one", "two"]


LIMIT_KW = 3.6
"""Of the site, which its five cards at work would exceed by half a kilowatt."""


def keeps_its_limit(pair, seconds=2.0):
    """Look for a while."""
    ends = time.monotonic() + seconds
    while time.monotonic() < ends:
        assert pair.import_kw() <= LIMIT_KW * 1.01
        time.sleep(0.02)


def test_a_limit_outlives_both_daemons_and_a_reboot_of_its_node(stack, tmp_path):
    """No event: the site's own limit, for which nodes have a trajectory of a day."""
    pair = Pair(stack, tmp_path, limit=LIMIT_KW, caps_s=5)
    for card in range(5, CARDS):
        pair.cards.set(card, demand_w=75)
    pair.start("a", "b")
    lead, other = pair.leader(BOUND_S)
    wait_until(lambda: pair.import_kw() <= LIMIT_KW and pair.promised() >= LOWERED, BOUND_S)
    with watched(pair) as seen:
        pair.lives.pop(lead).kill()
        while pair.role(other) != "leader":
            keeps_its_limit(pair, 0.1)
        assert pair.leader(BOUND_S)[0] == other
        wait_until(lambda: pair.phase() == "leased", BOUND_S)
        keeps_its_limit(pair)
        pair.lives.pop(other).kill()
        wait_until(lambda: pair.phase() == "holding", BOUND_S)
        keeps_its_limit(pair)

    pair.reboot()  # nobody is there but the bus
    wait_until(lambda: pair.phase() == "holding" and pair.import_kw() <= LIMIT_KW, BOUND_S)
    keeps_its_limit(pair, 8.0)  # past every lease
    assert pair.left_h() > 23, "people have a day to come"
    with closing(AgentPower(pair.socket)) as agent:
        assert agent.status()["found_w"] == pair.machines["a"].first, "a default is no limit that was found"
    pair.start(other)
    while pair.phase() != "leased":
        keeps_its_limit(pair, 0.1)
    assert pair.leader(BOUND_S)[0] == other
    keeps_its_limit(pair)
    assert pair.lives[other].stop(60) == 0
    keeps_its_limit(pair)
    assert set(seen) == {CARDS}
