"""Books that follow others: however commits, crashes, changes of the lead and snapshots fall, they end equal."""

import shutil
import sqlite3
from contextlib import closing, suppress
from datetime import UTC, datetime
from itertools import count
from random import Random
from types import SimpleNamespace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from adapters.jobs.held import Held
from adapters.ports import AdapterError
from scheduler.standby.books import Books, snapshot
from scheduler.standby.member import Member
from scheduler.standby.replica import Told
from scheduler.standby.stream import PART, PARTS, Extent, Overtaken, Unknown
from scheduler.store import capture
from scheduler.store.copy import copy_path
from scheduler.store.opening import connect
from scheduler.store.store import Record, Store, StoreDegraded

AT = datetime(2026, 3, 1, tzinfo=UTC)
MOST = 700
"""Bytes of a message: small, so that large commits come in parts."""


class FakeStream:
    """What `BooksStream` promises, in memory. `fate` of the next message: ok, lost, mute (kept, but the answer gets
    lost), torn (only a first part is kept)."""

    def __init__(self, folder):
        self.folder, self.messages, self.first, self.fate = folder, [], 1, "ok"
        self.snapshot, self.stream = -1, 77

    @property
    def last(self):
        return self.first - 1 + len(self.messages)

    def extent(self):
        return Extent(self.stream, self.first, self.last, sum(len(m.data) for m in self.messages), self.snapshot)

    def append(self, data, after, name, patience_s):
        fate, self.fate = self.fate, "ok"
        if after != self.last:
            raise Overtaken("not at the end")
        if fate == "lost":
            raise Unknown("lost")
        parts = [data[begin : begin + MOST] for begin in range(0, len(data), MOST)]
        for number, part in enumerate(parts[:1] if fate == "torn" else parts):
            self.messages.append(SimpleNamespace(data=part, headers={PART: str(number), PARTS: str(len(parts))}))
        if fate in {"mute", "torn"}:
            raise Unknown(fate)
        return self.last

    def read(self, first, last):
        return self.messages[first - self.first : last - self.first + 1]

    def put_snapshot(self, path, stream, position):
        shutil.copyfile(path, self.folder / "kept.gz")
        self.snapshot = position

    def get_snapshot(self, path):
        shutil.copyfile(self.folder / "kept.gz", path)

    def forget_until(self, number):
        drop = max(0, min(number, self.last + 1) - self.first)
        self.messages, self.first = self.messages[drop:], self.first + drop


class FakeLease:
    """A lease that holds until it is given up."""

    def __init__(self, epoch):
        self.epoch, self.held = epoch, True

    def holds(self):
        return self.held

    def left_s(self):
        return 1.0 if self.held else 0.0


class Daemon:
    """One of them: its file, and how it follows, leads and dies."""

    def __init__(self, folder, stream, name):
        (folder / name).mkdir()
        self.path, self.stream = folder / name / "gridpace.db", stream
        self.books, self.store = Books(self.path), None

    def follow(self):
        if self.store is not None:
            return
        if not self.books.is_open:
            self.books.open()
        for _ in range(200):
            if not self.books.step(self.stream):
                return

    def lead(self, epoch):
        if not self.books.is_open:
            self.books.open()
        extent = self.stream.extent()
        begins = self.books.leads_anew(extent)
        number = self.stream.append(capture.encode(capture.Change(epoch)), extent.last, "fence", 1.0)
        if begins:
            self.save(number)
            self.books.adopt(extent.stream, number)
        else:
            self.books.catch_up(self.stream, number)
        self.books.close()
        self.lease = FakeLease(epoch)
        told = Told(self.stream, self.lease, number, lambda _: setattr(self.lease, "held", False))
        self.store = Store.open(self.path, lambda: AT, told, epoch)

    def save(self, position=None):
        packed = self.path.with_suffix(".packed")
        at = snapshot(self.path, packed)
        self.stream.put_snapshot(packed, self.stream.stream, at if position is None else position)
        return at

    def die(self):
        """Without a last word: what was not committed is gone."""
        if self.store is not None:
            self.store._database.close()
            self.store = None
        self.books.close()


def content(path):
    """All that is told, row by row."""
    with closing(connect(path, "ro")) as connection:
        return {
            table: connection.execute(f"SELECT {', '.join(columns)} FROM {table} ORDER BY 1, 2").fetchall()
            for table, columns in capture.COLUMNS.items()
        }


STEP = st.one_of(
    st.tuples(st.just("put"), st.integers(0, 4), st.sampled_from([1, 1, 5, 900])),
    st.tuples(st.just("log"), st.integers(0, 4), st.just(1)),
    st.tuples(st.just("limit"), st.integers(0, 3), st.just(1)),
    st.tuples(st.just("forget"), st.integers(0, 3), st.just(1)),
    st.tuples(st.just("peak"), st.integers(1, 9), st.just(1)),
    st.tuples(
        st.sampled_from(["lost", "mute", "torn", "crash", "change", "follow", "snapshot"]), st.just(0), st.just(1)
    ),
)


def noise(size):
    """Text that no compression makes much shorter, twice as many letters as `size`."""
    return Random(size).randbytes(size).hex()


def do(store, what, key, size):
    if what == "put":
        store.put_all([Record("job", f"j{key}", {"text": noise(size)}), Record("job", "all", {"n": size})])
    elif what == "log":
        store.put_all([Record("event", f"e{key}", {"n": key}, log_at=AT), Record("event", "x", {}, AT, log_only=True)])
    elif what == "limit":
        store.remember_first_limits({f"g{key}": (700.0 - key, "H100")}, AT)
    elif what == "forget":
        store.forget_first_limits([f"g{key}"])
    else:
        store.raise_peak("c", "2026-03", float(key))


_folders = count()


@settings(max_examples=15, deadline=None)
@given(steps=st.lists(STEP, max_size=30))
def test_commits_crashes_and_changes_of_the_lead_end_in_equal_books(tmp_path_factory, steps):
    folder = tmp_path_factory.mktemp(f"pair-{next(_folders)}")
    stream = FakeStream(folder)
    lead, other = Daemon(folder, stream, "a"), Daemon(folder, stream, "b")
    epoch, acknowledged = 1, set()
    lead.lead(epoch)
    for what, key, size in steps:
        if what in {"lost", "mute", "torn"}:
            stream.fate = what
        elif what == "follow":
            other.follow()
        elif what == "snapshot":
            stream.forget_until(lead.save())
        elif what in {"crash", "change"} or not lead.lease.held:
            stream.fate = "ok"
            lead.die()
            lead, other = (other, lead) if what == "change" else (lead, other)
            epoch += 1
            lead.follow()
            lead.lead(epoch)
            other.follow()
        else:
            with suppress(StoreDegraded):
                do(lead.store, what, key, size)
                if what == "put":
                    acknowledged.add(f"j{key}")
    stream.fate = "ok"
    lead.die()
    for daemon in (lead, other):
        daemon.follow()
        daemon.die()
    assert content(lead.path) == content(other.path)
    newcomer = Daemon(folder, stream, "c")
    newcomer.follow()
    newcomer.die()
    assert content(newcomer.path) == content(other.path)
    kept = {row[2] for row in content(other.path)["records"] if row[1] == "job"}
    assert acknowledged <= kept, "what was acknowledged is lost"
    shutil.rmtree(folder)


def pair(tmp_path):
    stream = FakeStream(tmp_path)
    a, b = Daemon(tmp_path, stream, "a"), Daemon(tmp_path, stream, "b")
    a.lead(1)
    return stream, a, b


def test_a_change_of_which_only_a_part_arrived_is_dropped_by_who_follows(tmp_path):
    stream, a, b = pair(tmp_path)
    stream.fate = "torn"
    with pytest.raises(StoreDegraded, match="torn"):
        a.store.put("job", "half", {"text": noise(900)})
    a.die()
    b.follow()
    b.lead(2)
    b.store.put("job", "whole", {"text": noise(800)})
    b.die()
    for daemon in (a, b, Daemon(tmp_path, stream, "c")):
        daemon.follow()
        daemon.die()
        assert [row[2] for row in content(daemon.path)["records"]] == ["whole"]


def test_an_old_leader_can_write_nothing_once_another_has_begun(tmp_path):
    stream, a, b = pair(tmp_path)
    a.store.put("job", "one", {"n": 1})
    b.follow()
    b.lead(2)
    before = stream.last
    with pytest.raises(StoreDegraded, match="not at the end"):
        a.store.put("job", "two", {"n": 2})
    held = Held("slurm", a.store, AT)
    with pytest.raises(AdapterError, match="can't be written down, and is not done"):
        held.undoing({"7": "held"}, AT)  # the other one leads, and would take it for a stranger's hand
    assert (stream.last, a.store.get("job", "two"), a.lease.held) == (before, None, False)
    b.store.put("job", "three", {"n": 3})
    a.die()
    a.follow()
    a.die()
    b.die()
    assert content(a.path) == content(b.path)


def test_books_kept_while_alone_are_moved_aside_whole_and_not_merged(tmp_path):
    _, a, b = pair(tmp_path)
    a.store.put("job", "one", {"n": 1})
    b.follow()
    b.die()
    alone = Store.open(b.path, lambda: AT)  # without `standby`: the others hear nothing of this
    alone.put("job", "mine", {"n": 9})
    alone.close()
    b.follow()
    assert b.books.aside is not None
    with closing(sqlite3.connect(b.books.aside)) as kept:
        assert kept.execute("SELECT count(*) FROM records WHERE key = 'mine'").fetchone() == (1,)
    b.die()
    a.die()
    assert content(a.path) == content(b.path)
    assert len(content(b.path)["records"]) == 1


def test_the_small_copy_of_a_follower_never_wins_over_what_it_heard_since(tmp_path):
    _, a, b = pair(tmp_path)
    a.store.remember_first_limits({"g": (600.0, "H100")}, AT)
    a.store.forget_first_limits(["g"])
    a.store.remember_first_limits({"g": (700.0, "H100")}, AT)
    copy = copy_path(a.path).read_bytes()
    b.follow()
    copy_path(b.path).write_bytes(copy)
    a.store.forget_first_limits(["g"])
    a.die()
    b.follow()
    b.lead(2)
    assert b.store.first_limits() == {}
    b.die()


def test_a_newcomer_of_another_version_says_so_and_changes_nothing(tmp_path):
    stream, a, b = pair(tmp_path)
    b.follow()
    at = b.books.position
    odd = capture.Change(1, {"records": [[1, "kind"]]})
    stream.append(capture.encode(odd), stream.last, "odd", 1.0)
    with pytest.raises(
        AdapterError, match=r"a row of records has not 6 columns; is the other daemon of another version"
    ):
        b.follow()
    assert b.books.position == at
    b.die()
    a.die()


def test_a_disk_that_refuses_what_the_stream_has_ends_the_lead(tmp_path, monkeypatch):
    _, a, b = pair(tmp_path)
    told = a.store._database._replica
    whole = told.commit

    def commit(connection):
        whole(connection)
        raise sqlite3.OperationalError("database or disk is full")

    monkeypatch.setattr(told, "commit", commit)
    with pytest.raises(StoreDegraded, match="disk is full"):
        a.store.put("job", "one", {"n": 1})
    monkeypatch.setattr(told, "commit", whole)
    with pytest.raises(StoreDegraded, match="this disk did not take what the books' stream has"):
        a.store.put("job", "two", {"n": 2})
    a.die()
    for daemon in (a, b):
        daemon.follow()
        daemon.die()
    assert content(a.path) == content(b.path)
    assert [row[2] for row in content(b.path)["records"]] == ["one"]


def test_books_whose_stream_is_silent_say_what_ended_the_lead_and_that_it_ended(tmp_path, monkeypatch):
    stream, a, b = pair(tmp_path)

    def silent(*_):
        raise Unknown("the books' stream does not answer")

    monkeypatch.setattr(stream, "append", silent)
    with pytest.raises(StoreDegraded, match="the books' stream does not answer"):
        a.store.put("job", "one", {"n": 1})
    with pytest.raises(StoreDegraded, match="does not lead now: the books' stream does not answer"):
        a.store.put("job", "two", {"n": 2})
    a.die()
    b.die()


def leading(daemon, stream, epoch):
    """The daemon's books opened as a member opens them that has won the lead under `epoch`."""
    daemon.books.close()
    member = object.__new__(Member)
    member._books, member._stream, member._of = daemon.books, stream, SimpleNamespace(store=daemon.path)
    member.lease, member._role = FakeLease(epoch), "elected"
    member.copies = SimpleNamespace(renew=lambda: None)
    daemon.store = member.open_store()
    return daemon.store.epoch()


def test_nodes_never_hear_one_epoch_from_two_leaders_though_the_bus_lost_all_it_knew(tmp_path):
    """A node takes a second leader of the same epoch for one that was overtaken, and refuses it."""
    stream, heard = FakeStream(tmp_path), []
    a, b = Daemon(tmp_path, stream, "a"), Daemon(tmp_path, stream, "b")
    for lead, other in ((a, b), (b, a), (a, b)):
        lead.follow()
        heard.append(leading(lead, stream, lead.books.epoch + 1))
        other.follow()
        lead.die()
    (tmp_path / "new").mkdir()
    stream = b.stream = FakeStream(tmp_path / "new")
    stream.stream = 78
    b.follow()
    heard.append(leading(b, stream, b.books.epoch + 1))
    b.die()
    assert heard == sorted(set(heard)), heard
