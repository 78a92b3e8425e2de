"""Streams that are there already get the number of copies that the config says, on real servers; or the operator is
told why not, and nobody waits."""

import logging
import time
from contextlib import ExitStack
from datetime import UTC, datetime
from types import SimpleNamespace

import pytest

from adapters import bus_copies
from adapters.ports import AdapterError
from adapters.power import fleet_wire
from adapters.power.fleet import FleetPower
from optimizer.reasons import Reason
from scheduler.news import Notes
from scheduler.running import note_standby
from scheduler.standby.cell import BucketCell
from scheduler.standby.member import Member, Membership
from scheduler.standby.stream import BooksStream, Overtaken, Unknown
from tests.support.nats import nats_servers
from tests.support.power_worlds import wait_until

TRAJECTORIES = f"KV_{fleet_wire.BUCKET}"
SHARED = (f"KV_{fleet_wire.LEADERS}", fleet_wire.BOOKS_STREAM, f"OBJ_{fleet_wire.SNAPSHOTS}")
BOUND_S = 30.0


@pytest.fixture
def stack():
    with ExitStack() as made:
        yield made


def power(stack, servers, replicas):
    """The daemon's side of a fleet."""
    made = FleetPower(servers.settings("daemon"), 2.0, replicas=replicas)
    stack.callback(made.close)
    made.bus.wait_connected(10.0)
    return made


def keep(fleet):
    """Whether a trajectory is kept, and how long that took."""
    began = time.monotonic()
    try:
        fleet.bus.call(fleet._post.hand_over(fleet.bus, ["n1"], lambda _: b"{}", 2.0), 6.0)
    except AdapterError:
        return None
    return time.monotonic() - began


def daemon(stack, folder, servers, name, replicas):
    """One of several, that follows."""
    path = folder / name / "gridpace.db"
    member = Member(Membership(name, "", 6.0, servers.settings("daemon"), replicas, path), lambda: None)
    stack.callback(member.close)
    member.start()
    return member


def leader(stack, member):
    """Lead, with these books."""
    wait_until(lambda: member.elected, BOUND_S)
    store = member.open_store()
    stack.callback(store.close)
    return store


def copies(bus, stream):
    """How many servers are to keep a stream, and how many do by now; who leads it."""

    async def ask():
        return await bus.jetstream.stream_info(stream)

    try:
        info = bus.call(ask(), 2.0)
    except AdapterError:
        return 0, 0, None
    others = (info.cluster.replicas or ()) if info.cluster else ()
    return info.config.num_replicas, 1 + sum(one.current for one in others), info.cluster and info.cluster.leader


def have(bus, wanted, *streams):
    return all(copies(bus, stream)[:2] == (wanted, wanted) for stream in streams)


def wrote(bus):
    """Whether the lease can be read and written, and the books' stream too."""
    cell, books = BucketCell(bus, 2.0, 3), BooksStream(bus, 3)
    try:
        revision, _ = cell.read()
        return cell.write(b"{}", revision) and books.append(b"x", books.extent().last, f"{revision}", 2.0)
    except (AdapterError, Unknown, Overtaken):
        return False


def test_streams_of_one_copy_get_three_while_all_goes_on_and_then_outlive_their_server(stack, tmp_path):
    servers = stack.enter_context(nats_servers(tmp_path / "bus", "n1", count=3))
    with ExitStack() as before:
        fleet, member = power(before, servers, 2), daemon(before, tmp_path, servers, "a", 1)
        wait_until(lambda: keep(fleet), BOUND_S)
        leader(before, member)
        fleet = power(before, servers, 1)
        assert keep(fleet)
        wait_until(lambda: have(fleet.bus, 1, TRAJECTORIES, *SHARED), BOUND_S)  # downwards too

    fleet = power(stack, servers, 3)
    with ExitStack() as leads:
        member = daemon(leads, tmp_path, servers, "a", 3)
        store = leader(leads, member)
        wait_until(lambda: keep(fleet), BOUND_S)
        wait_until(lambda: have(fleet.bus, 3, TRAJECTORIES, *SHARED), BOUND_S)
        store.put("job", "one", {"n": 1})
        assert member.lease.holds()
        follower = daemon(leads, tmp_path, servers, "b", 1)
        wait_until(member.followed, BOUND_S)
        assert follower.copies.notes == member.copies.notes == fleet.contested().notes == ()
        assert have(fleet.bus, 3, *SHARED), "who stands by changes nothing"

    servers.stop(copies(fleet.bus, TRAJECTORIES)[2])
    wait_until(lambda: keep(fleet), BOUND_S)
    wait_until(lambda: wrote(fleet.bus), BOUND_S)


def test_what_the_servers_refuse_is_told_once_and_nobody_waits_for_it(stack, tmp_path, monkeypatch, caplog):
    servers = stack.enter_context(nats_servers(tmp_path / "bus", "n1"))
    with ExitStack() as before:
        assert keep(power(before, servers, 1))
        leader(before, daemon(before, tmp_path, servers, "a", 1))
    asked, ask = [], bus_copies._ask
    monkeypatch.setattr(bus_copies, "_ask", lambda bus, what, data: asked.append(what) or ask(bus, what, data))
    monkeypatch.setattr(bus_copies, "FIRST_S", 0.1)
    monkeypatch.setattr(bus_copies, "ASK_S", 4.0)
    caplog.set_level(logging.WARNING, "gridpace.bus")

    fleet = power(stack, servers, 3)
    told(fleet, caplog, "a cluster with 3 servers")
    before = len(asked)
    assert before <= 10, "not with every trajectory"
    wait_until(lambda: len(asked) > before, BOUND_S)  # by itself
    told(fleet, caplog, "a cluster with 3 servers")
    fleet.close()

    member = daemon(stack, tmp_path, servers, "a", 3)
    store = leader(stack, member)
    wait_until(lambda: len(member.copies.notes) == len(SHARED), BOUND_S)
    store.put("job", "one", {"n": 1})
    assert member.lease.holds()
    state, clock = SimpleNamespace(notes=Notes()), SimpleNamespace(now=lambda: datetime.now(UTC))
    note_standby(SimpleNamespace(state=state, ctx=SimpleNamespace(clock=clock)), member)
    said = [note.subject for note in state.notes if note.code is Reason.REPLICAS_REFUSED]
    assert sorted(said) == sorted(SHARED)

    conf = servers.folder / "s0.conf"  # a key that may not ask gets no answer at all
    names = ("INFO.>", "CREATE.>", "MSG.GET.>", "PURGE.>")
    conf.write_text(conf.read_text().replace('"$JS.API.>"', ", ".join(f'"$JS.API.STREAM.{name}"' for name in names)))
    servers.stop("s0")
    servers.start("s0")
    monkeypatch.setattr(bus_copies, "TOLD", 1)
    caplog.clear()
    other = power(stack, servers, 1)
    wait_until(lambda: keep(other), BOUND_S)  # the server has read its streams
    fleet = power(stack, servers, 3)
    told(fleet, caplog, "`gridpace fleet init` once more")


def test_streams_begin_with_one_copy_where_too_few_servers_are_there(stack, tmp_path):
    servers = stack.enter_context(nats_servers(tmp_path / "bus", "n1"))
    fleet = power(stack, servers, 3)
    assert keep(fleet)
    member = daemon(stack, tmp_path, servers, "a", 3)
    leader(stack, member).put("job", "one", {"n": 1})
    assert have(fleet.bus, 1, TRAJECTORIES, *SHARED)
    wait_until(lambda: len(member.copies.notes) == len(SHARED), BOUND_S)


def told(fleet, caplog, what):
    """Trajectories are kept meanwhile, none slower than the servers' word takes; and it is said once."""
    slowest = 0.0

    def kept():
        nonlocal slowest
        slowest = max(slowest, keep(fleet) or 60.0)
        return fleet.contested().notes

    wait_until(kept, BOUND_S)
    assert all(kept() for _ in range(20))
    assert slowest < bus_copies.ASK_S * 0.75
    (note,) = fleet.contested().notes
    assert (note.code, note.subject) == (Reason.REPLICAS_REFUSED, TRAJECTORIES)
    assert what in note.text
    assert sum(TRAJECTORIES in line.getMessage() for line in caplog.records) == 1
