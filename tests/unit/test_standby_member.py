"""What daemons of a fleet tell each other, and what one that stands by says of a request that it passed on."""

import asyncio
import sqlite3
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from itertools import pairwise
from types import SimpleNamespace

import pytest
from starlette.testclient import TestClient

from adapters.ports import AdapterError
from adapters.power.fleet_wire import DAEMONS
from scheduler.api.settings import ApiSettings
from scheduler.daemon import Daemon
from scheduler.standby import api, life
from scheduler.standby.member import LeadLost, Member, Membership
from scheduler.standby.pause import Pause
from scheduler.standby.proxy import Unanswered
from scheduler.standby.stream import Extent, Unknown
from scheduler.store.store import StoreDegraded, StoreError


class FakeBus:
    """Keeps what is told on it."""

    def __init__(self):
        self.connected, self.told = True, []
        self.client = SimpleNamespace(publish=lambda _, data: data)

    def call(self, work, _):
        self.told.append(work)

    def close(self):
        pass


@pytest.fixture
def members(tmp_path, monkeypatch):
    monkeypatch.setattr("scheduler.standby.member.Bus", lambda *_: FakeBus())
    made = [Member(Membership(n, f"http://{n}", 3.0, None, 1, tmp_path / n / "books.db"), lambda: None) for n in "ab"]
    for member in made:
        member._books.extent, member._behind, member._told_at = Extent(7, 1, 1, 10, 1), 0, 0.0
        member._books.position, member.lease.holds = 1, lambda: True
    return made


def hear(member, data):
    asyncio.run(member._on_peer(SimpleNamespace(data=data)))


def test_who_leaves_is_not_counted_on_by_a_leader_that_stops_too(members):
    leader, follower = members
    follower._tell()
    hear(leader, follower.bus.told[-1])
    assert leader.followed()
    follower.leave()
    hear(leader, follower.bus.told[-1])
    assert not leader.followed()
    assert len(follower.bus.told) == 2
    follower.close()
    assert len(follower.bus.told) == 2, "it is said once"


def test_a_leader_asks_only_when_its_turns_are_over_whether_anybody_stands_by(members, monkeypatch):
    leader, follower = members
    follower._tell()
    hear(leader, follower.bus.told[-1])
    released = []

    def stop(release):
        follower.leave()  # while the last turns end, as on a shutdown of everything
        hear(leader, follower.bus.told[-1])
        released.append(release())

    monkeypatch.setattr(life.App, "start", lambda *_, **__: SimpleNamespace(stop=stop))
    leader.open_store = lambda: None
    daemon = SimpleNamespace(config=None, app=None, stopping=True, turn=lambda _: None)
    life.lead(daemon, leader)
    assert released == [True]


def lead(leader, turn=lambda _: None, **more):
    daemon = SimpleNamespace(config=None, app=None, stopping=False, turn=turn, **more)
    life.lead(daemon, leader)
    return daemon


def test_a_bus_that_hiccups_while_the_lead_is_taken_up_ends_no_process(members, monkeypatch):
    leader, _ = members
    monkeypatch.setattr(life.App, "start", lambda *_, **__: pytest.fail("there are no books"))
    monkeypatch.setattr(leader._books, "open", lambda: None)

    def silent(*_):
        raise Unknown("the books' stream does not answer")

    leader._role = "elected"
    monkeypatch.setattr(leader._stream, "extent", lambda: Extent(7, 1, 1, 10, 1))
    monkeypatch.setattr(leader._stream, "append", silent)
    lead(leader)
    assert leader.status()["role"] == "standby"
    monkeypatch.setattr(leader._stream, "extent", lambda: (_ for _ in ()).throw(AdapterError("NATS: no answer")))
    for _ in range(3):
        leader._role = "elected"
        lead(leader)
        assert leader.status()["role"] == "standby"
        assert 0.0 < leader.pause.left_s <= 1.0, "nobody leads meanwhile: the pause does not grow"


@pytest.mark.parametrize("error", [StoreError("books.db is in use by another process"), OSError(28, "no space")])
def test_books_that_can_not_be_opened_end_the_lead_visibly_and_not_the_process(members, monkeypatch, error):
    leader, _ = members
    monkeypatch.setattr(life.App, "start", lambda *_, **__: pytest.fail("there are no books"))
    said = []
    monkeypatch.setattr(life, "log", SimpleNamespace(error=lambda event, why, **_: said.append((event, why))))
    leader._role, leader.open_store = "elected", lambda: (_ for _ in ()).throw(error)
    lead(leader)
    assert said == [("standby.lead_not_taken_up", str(error))]
    assert leader.status()["role"] == "standby"


def test_who_can_not_take_the_lead_up_waits_ever_longer_says_so_and_is_not_counted_on(members, monkeypatch):
    """Each try takes an epoch, and the lead from whoever could."""
    leader, other = members
    monkeypatch.setattr(leader, "_follow", lambda: setattr(leader, "_behind", 0))
    now, wins = [0.0], []
    leader.pause = Pause(lambda: now[0])
    leader.open_store = lambda: (_ for _ in ()).throw(StoreError("books.db is in use by another process"))
    leader.lease.turn = lambda eligible, *_: eligible and wins.append(now[0])
    while now[0] < 300.0:
        before = len(wins)
        leader._turn()
        if len(wins) > before:
            leader._role = "elected"
            lead(leader)
            said = leader.status()
            assert "in use by another process" in said["trouble"]
            assert "tried again in" in said["trouble"]
            leader._told_at = 0.0
            leader._follow()
            leader._tell()
            hear(other, leader.bus.told[-1])
            assert not other.followed(), "its limits are given back when it stops: nobody goes on"
        now[0] += 0.5
    gaps = [after - before for before, after in pairwise(wins)]
    assert gaps[:4] == [1.0, 2.0, 4.0, 8.0]
    assert max(gaps) == 30.0
    leader.follow()  # after a lead that was taken up
    leader._follow()
    assert leader.status()["trouble"] == ""
    assert leader._eligible()


@pytest.mark.parametrize("error", [StoreError("in use"), StoreDegraded("the disk is full"), sqlite3.OperationalError()])
def test_books_that_fail_while_the_parts_are_built_or_closed_end_no_process(members, monkeypatch, error):
    leader, _ = members
    leader._role, leader.open_store = "elected", lambda: "books"
    monkeypatch.setattr(life.App, "start", lambda *_, **__: (_ for _ in ()).throw(error))
    assert lead(leader).app is None
    assert leader.status()["role"] == "standby"
    assert leader.pause.left_s > 0
    app = SimpleNamespace(stop=lambda **_: (_ for _ in ()).throw(error))
    monkeypatch.setattr(life.App, "start", lambda *_, **__: app)
    leader._role = "elected"
    assert lead(leader).app is None
    assert leader.status()["role"] == "standby"
    assert leader.pause.left_s == 0, "the lead was taken up"


def test_parts_that_can_not_end_in_order_turn_no_more():
    """Else both loops would go on beside those of the next lead."""
    turned_off = []

    def hang_up():
        raise OSError(32, "Broken pipe")

    ctx = SimpleNamespace(planner=SimpleNamespace(close=lambda: None))
    parts = SimpleNamespace(sessions=SimpleNamespace(close=lambda: None), feeds=SimpleNamespace(stop=hang_up), ctx=ctx)
    app = SimpleNamespace(parts=parts, timer=SimpleNamespace(stop=lambda: turned_off.append(True)))
    with pytest.raises(OSError, match="pipe"):
        life.App.stop(app, release=False)
    assert turned_off == [True]


HICCUPS = [LeadLost("the books' stream does not answer"), StoreError("in use"), OSError(28, "no space"), None]


@pytest.mark.parametrize("books", HICCUPS)
def test_a_bus_that_hiccups_over_a_reload_ends_the_lead_and_not_the_process(members, monkeypatch, tmp_path, books):
    """It keeps the books from being opened under the lead, or, a moment later, the nodes from being asked; so does a
    disk."""
    leader, _ = members
    leader._role, leader.open_store = "elected", lambda: "books"
    stopped = []
    ctx = SimpleNamespace(clock=None, store=SimpleNamespace(in_memory_only=False))
    app = SimpleNamespace(stop=lambda **how: stopped.append(how), parts=SimpleNamespace(ctx=ctx))
    starts = [app]

    def start(*_, **__):
        if not starts:
            raise AdapterError("NATS: no node answers")
        return starts.pop()

    monkeypatch.setattr(life.App, "start", start)
    new, old = SimpleNamespace(clock=None, log_format="json"), SimpleNamespace(clock=None)
    monkeypatch.setattr("scheduler.daemon.load_config", lambda *_, **__: new)
    monkeypatch.setattr("scheduler.daemon.refuse_moved", lambda *_: None)
    daemon = SimpleNamespace(config=old, config_path=tmp_path, app=None, stopping=False, member=leader)

    def opened():
        if books is not None:
            raise books
        return "books"

    daemon.books = opened
    daemon.turn = lambda running: Daemon.reload(daemon, running)
    life.lead(daemon, leader)
    assert stopped == [{"release": False, "keep_store": False}], "limits stay with leases and trajectories"
    assert (daemon.config is new) is (books is not None), (
        "it counts when this daemon leads again, unless it could not run"
    )
    assert leader.status()["role"] == "standby"
    assert daemon.app is None


@pytest.mark.parametrize("connected", [True, False])
def test_what_can_not_start_ends_the_process_unless_the_bus_is_away(members, monkeypatch, connected):
    leader, _ = members
    leader._role, leader.open_store, leader.bus.connected = "elected", lambda: "books", connected
    monkeypatch.setattr(life.App, "start", lambda *_, **__: (_ for _ in ()).throw(AdapterError("port 8080 is taken")))
    if connected:
        with pytest.raises(AdapterError, match="8080"):
            lead(leader)
    else:
        lead(leader)
        assert leader.status()["role"] == "standby"


def test_a_disk_that_says_no_to_a_follower_is_told_and_makes_it_no_leader(members, monkeypatch):
    _, follower = members
    monkeypatch.setattr(follower._books, "open", lambda: (_ for _ in ()).throw(OSError(28, "No space left on device")))
    cell = []
    follower.lease.turn = lambda eligible, *_: cell.append(eligible)
    follower._turn()
    said = follower.status()
    assert "No space left" in said["trouble"]
    assert said["behind"] is None
    assert cell == [False], "and its lease is looked after all the same"


@pytest.mark.parametrize(
    "odd",
    [
        b"", b"[]", b"7", b"{}", b'{"process": "p", "role": "following", "ready": true}',
        b'{"process": [], "role": "gone", "name": "", "folder": "", "url": "", "epoch": null, "position": 1}',
        b'{"process": "p", "role": "following", "name": "", "folder": "", "url": "", "epoch": 1, "position": Infinity}',
    ],
)  # fmt: skip
def test_what_no_daemon_says_is_passed_over(members, odd):
    hear(members[0], odd)
    assert members[0].status()["others"] == []
    assert not members[0].followed()


@pytest.fixture
def client(monkeypatch):
    asked, answers = [], []

    async def passed_on(_, request):
        asked.append(request["path"])
        answer = answers.pop()
        if isinstance(answer, Exception):
            raise answer
        return answer

    monkeypatch.setattr(api, "passed_on", passed_on)
    with ThreadPoolExecutor(1) as hands:
        bus = SimpleNamespace(begin=lambda work: hands.submit(asyncio.run, work))
        status = {"name": "b", "leader": "a", "leader_url": "http://a", "behind": 0, "trouble": ""}
        app = api.standby_app(lambda: status, bus, ApiSettings(open_on_loopback=True), bytes)
        with closing(TestClient(app, base_url="http://127.0.0.1")) as made:
            yield made, asked, answers


def test_a_request_is_passed_on_under_the_very_path_that_was_asked_for(client):
    made, asked, answers = client
    answers.append({"status": 200, "headers": [], "body": b"{}"})
    assert made.delete("/api/v1/events/heat%23one%3Ftwo").status_code == 200
    assert asked == ["/api/v1/events/heat#one?two"]


def test_it_is_said_whether_nobody_heard_a_request_or_nobody_knows_what_became_of_it(client):
    made, _, answers = client
    for fate, words in ((None, "nobody heard this"), (Unanswered("timeout"), "nobody knows whether this was accepted")):
        answers.append(fate)
        answer = made.post("/api/v1/jobs", json={})
        assert (answer.status_code, answer.headers["retry-after"]) == (503, "5")
        assert words in answer.json()["error"]


class Cell:
    """An entry that is always written."""

    def __init__(self):
        self.entry = (0, None)

    def read(self):
        return self.entry

    def write(self, data, last):
        self.entry = (last + 1, data)
        return last + 1


@pytest.mark.parametrize("how", ["books", "clock"])
def test_a_lead_that_other_threads_end_between_two_turns_is_told_all_the_same(tmp_path, monkeypatch, how):
    """The books end it where the bus is gone, and the daemon may follow again before this thread has its next turn: it
    waits for a bus that doesn't answer."""
    monkeypatch.setattr("scheduler.standby.member.Bus", lambda *_: FakeBus())
    woken, told, now = [], [], [100.0]
    member = Member(Membership("a", "http://a", 3.0, None, 1, tmp_path / "books.db"), lambda: woken.append(1))
    member.lease._cell, member.lease._clock = Cell(), lambda: now[0]
    monkeypatch.setattr(member, "_follow", lambda: None)
    monkeypatch.setattr(member, "_eligible", lambda: True)
    monkeypatch.setattr("scheduler.standby.member.log.info", lambda event, **said: told.append((event, said)))
    member._turn()
    assert member.elected
    member._role = "leading"
    if how == "books":
        member._end("the stream does not answer")
    else:
        monkeypatch.setattr(member, "_keep_short", lambda: now.__setitem__(0, 103.5))
        member._turn()  # in the middle of it the lease runs out
        assert member.lost
    member.follow()
    monkeypatch.setattr(member, "_eligible", lambda: False)
    member._turn()
    assert [said["leading"] for event, said in told if event == "standby.lead"] == [True, False]
    assert len(woken) >= 2


def test_copies_are_changed_by_who_has_the_lead_and_looked_at_anew_on_its_new_connection(members):
    member, looked = members[0], []
    member.copies.look, member.copies.renew = looked.append, lambda: looked.append("anew")

    async def subscribe(*_, **__):
        pass

    def connected():
        asyncio.run(member._listen(SimpleNamespace(subscribe=subscribe)))

    member._on_written()  # it won, or takes the lead up
    connected()
    assert looked == []
    member._told, member._role = SimpleNamespace(), "leading"
    connected()
    member._on_written()
    assert looked == ["anew", member.bus]
    member.lease.holds = lambda: False  # it gives the lead up
    member._on_written()
    assert looked == ["anew", member.bus]


def test_a_bus_that_is_there_at_once_is_subscribed_to_while_the_state_folder_is_slow(tmp_path, monkeypatch):
    subjects = []

    async def subscribe(subject, **_):
        subjects.append(subject)

    def bus(_, greet):
        asyncio.run(greet(SimpleNamespace(subscribe=subscribe)))
        return FakeBus()

    monkeypatch.setattr("scheduler.standby.member.Bus", bus)
    Member(Membership("a", "", 3.0, None, 1, tmp_path / "books.db"), lambda: None)
    assert subjects == [DAEMONS]
