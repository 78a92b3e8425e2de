"""The agent's socket: a crowd that may only read keeps nobody out who may write, and costs little; whose file it is."""

import json
import os
import re
import signal
import socket
import subprocess
import sys
import threading
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path

import pytest

from adapters.ports import AdapterError, Lease
from adapters.power import wire
from adapters.power.agent import AgentPower
from scheduler.agent import server as sockets
from scheduler.agent.server import MOST_CONNECTIONS, MOST_READERS, READER_IDLE_S, READER_LINE, Seats, Server
from tests.faults.test_agent_process import ROOT, Service
from tests.support.power_worlds import wait_until
from tests.support.system import require_root

ME = os.geteuid()


@contextmanager
def listening(path, answer=None, writers=(ME,)):
    """A server in a thread of this process that answers everything with what it was asked."""
    server = Server(path, answer or (lambda request, writes: {"ok": True, "result": [request["op"], writes]}), writers)
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    try:
        yield server
    finally:
        server.shutdown()
        thread.join(20)
        server.server_close()


@pytest.fixture
def connect(request, tmp_path):
    """Another connection to the socket; all are closed at the end."""
    with ExitStack() as stack:

        def one():
            channel = stack.enter_context(socket.socket(socket.AF_UNIX))
            channel.settimeout(20)
            channel.connect(str(tmp_path / "agent.sock"))
            return channel

        yield one


def ask(channel, **fields):
    """What is answered; None where the other end hung up."""
    with suppress(ConnectionError):
        channel.sendall(wire.encode(fields))
        return json.loads(channel.makefile("rb").readline() or b"null")
    return None


def may(server, yes):
    """From now on who connects may write, or may only read: in a test it is always the same user."""
    server._writers = {ME} if yes else set()


def test_a_crowd_of_readers_leaves_seats_to_who_may_write(tmp_path, connect):
    with listening(tmp_path / "agent.sock") as server:
        may(server, False)
        crowd = [connect() for _ in range(2 * MOST_CONNECTIONS)]
        assert {late.recv(1) for late in crowd[MOST_READERS:]} == {b""}
        may(server, True)
        daemons = [connect() for _ in range(MOST_CONNECTIONS)]
        assert {tuple(ask(daemon, op="x")["result"]) for daemon in daemons} == {("x", True)}
        assert not any(ask(reader, op="x") for reader in crowd), "whoever writes has every seat, if it must be"


def test_a_daemon_calls_again_where_too_many_call_at_once(tmp_path):
    """The kernel refuses at once who finds the queue full and has said that it will not wait for ever."""
    path = tmp_path / "agent.sock"
    with ExitStack() as stack:
        agent = stack.enter_context(socket.socket(socket.AF_UNIX))
        agent.bind(str(path))
        agent.listen(0)
        first = stack.enter_context(socket.socket(socket.AF_UNIX))
        first.connect(str(path))
        answers = []
        daemon = AgentPower(path)
        stack.callback(daemon.close)
        thread = threading.Thread(target=lambda: answers.append(daemon.status()))
        thread.start()
        thread.join(0.2)
        assert thread.is_alive()
        agent.accept()[0].close()
        served = stack.enter_context(agent.accept()[0])
        served.recv(1000)
        served.sendall(wire.encode({"ok": True, "result": {"phase": "free"}}))
        thread.join(20)
        assert answers == [{"phase": "free"}]
        hurried = AgentPower(path, 0.05)
        other = stack.enter_context(socket.socket(socket.AF_UNIX))
        other.connect(str(path))
        with pytest.raises(AdapterError, match="temporarily unavailable"):
            hurried.status()


class Channel:
    """A connection as far as a seat needs one."""

    hung_up = False

    def shutdown(self, how):
        self.hung_up = True


def test_where_seats_are_short_who_has_been_silent_longest_makes_room_and_nobody_at_work_does():
    now = [0.0]
    seats = Seats(lambda: now[0])
    readers = [Channel() for _ in range(MOST_READERS)]
    for reader in readers:
        assert seats.take(reader, False)
        now[0] += 0.01
    assert not seats.take(Channel(), False), "all of them have just come"
    now[0] += READER_IDLE_S
    with seats.asking(seats.of(readers[0])):
        assert seats.take(late := Channel(), False)
        assert [reader.hung_up for reader in readers[:3]] == [False, True, False]
    assert seats.of(readers[1]) is None
    writers = [Channel() for _ in range(MOST_CONNECTIONS - MOST_READERS)]
    assert all(seats.take(writer, True) for writer in writers)
    assert not any(reader.hung_up for reader in readers[2:])
    assert seats.take(Channel(), True)
    assert (readers[2].hung_up, late.hung_up) == (True, False)
    for _ in range(MOST_READERS - 1):
        assert seats.take(Channel(), True)
    assert not seats.take(Channel(), True), "writers do not hang each other up"
    now[0] += sockets.WRITER_IDLE_S
    assert seats.take(Channel(), True), "but for one that seems to be gone"
    assert writers[0].hung_up


def test_a_reader_who_trickles_or_does_not_listen_makes_room_too(tmp_path, connect, monkeypatch):
    monkeypatch.setattr(sockets, "READER_IDLE_S", 0.0)
    big, answered = {"ok": True, "result": "x" * 10_000_000}, []
    others = threading.active_count()

    def answer(request, writes):
        answered.append(request["op"])
        return big

    with listening(tmp_path / "agent.sock", answer, ()) as server:
        for channel in [connect() for _ in range(MOST_READERS)]:
            channel.sendall(b'{"v":1,"op":"x"}\n{"v":1,')
        wait_until(lambda: len(answered) == MOST_READERS)
        first = list(server.seats._taken)
        wait_until(lambda: not any(server.seats.of(channel).busy for channel in first))
        for _ in range(MOST_READERS):
            connect()
        wait_until(lambda: len(server.seats._taken) == MOST_READERS and not {*first} & {*server.seats._taken})
        wait_until(lambda: threading.active_count() <= others + 1 + MOST_READERS)


def test_what_a_reader_says_at_length_is_not_looked_at(tmp_path, connect, monkeypatch):
    decoded = []
    monkeypatch.setattr(sockets.wire, "decode", lambda line: decoded.append(len(line)) or {"op": "x"})
    with listening(tmp_path / "agent.sock", writers=()):
        reader = connect()
        reader.sendall(b'{"v":1,"x":[' + b"[]," * READER_LINE)
        assert json.loads(reader.makefile("rb").readline())["code"] == "denied"
        assert not decoded
        assert ask(connect(), op="x")["result"] == ["x", False]


@pytest.mark.parametrize("writers", [(), (ME,)])
def test_what_lies_too_deep_to_be_named_comes_to_nobody(tmp_path, connect, writers):
    obeyed = []
    with listening(tmp_path / "agent.sock", lambda request, writes: obeyed.append(request), writers):
        channel = connect()
        channel.sendall(b'{"v":1,"op":' + b"[" * 200 + b"]" * 200 + b"}\n")
        assert "deeper than" in json.loads(channel.makefile("rb").readline())["error"]
        assert (channel.recv(1), obeyed) == (b"", []), "and hangs up"


@pytest.mark.parametrize(("writers", "length"), [((), 10), ((ME,), sockets.LONG_LINE)])
def test_readers_and_long_lines_come_one_after_the_other(tmp_path, connect, writers, length):
    inside, goes_on = [], threading.Event()

    def answer(request, writes):
        inside.append(request["op"])
        goes_on.wait(20)
        return {"ok": True, "result": None}

    with listening(tmp_path / "agent.sock", answer, writers) as server:
        for _ in range(5):
            connect().sendall(wire.encode({"op": "x", "more": "x" * length}))
        wait_until(lambda: sum(seat.busy for seat in list(server.seats._taken.values())) == 5)
        assert inside == ["x"]
        may(server, True)
        connect().sendall(wire.encode({"op": "order"}))
        wait_until(lambda: len(inside) == 2)  # who may write waits for none of them
        assert inside == ["x", "order"]
        goes_on.set()
        wait_until(lambda: len(inside) == 6)


def test_who_says_nothing_is_hung_up_in_the_end(tmp_path, connect, monkeypatch):
    assert 0 < sockets.IDLE_S <= 3600
    monkeypatch.setattr(sockets, "IDLE_S", 0.2)
    with listening(tmp_path / "agent.sock"):
        assert connect().recv(1) == b""


CROWD = """
import os, socket, sys, threading
os.setgid(65534), os.setuid(65534)
body = b'{"v":1,"op":"apply","x":[' + b"[]," * 1_390_000 + b"[]]}\\n"
def one():
    while True:
        try:
            with socket.socket(socket.AF_UNIX) as channel:
                channel.connect(sys.argv[1])
                channel.sendall(body)
                channel.recv(1000)
        except OSError:
            pass
for _ in range(40):
    threading.Thread(target=one, daemon=True).start()
print("go", flush=True)
sys.stdin.read()
"""


def test_a_daemon_holds_its_event_through_a_flood_by_somebody_who_may_only_read(tmp_path_factory):
    require_root()
    folder = tmp_path_factory.mktemp("flood", numbered=True)
    for place in (folder, *list(folder.parents)[:2]):
        place.chmod(0o755)
    service = Service(folder)
    power = service.start()
    service.path.chmod(0o666)
    crowd = subprocess.Popen([sys.executable, "-c", CROWD, service.path], stdin=subprocess.PIPE, stdout=subprocess.PIPE)
    try:
        assert crowd.stdout.readline() == b"go\n"
        for number in range(100):
            assert power.apply(dict.fromkeys(service.gpus, 300), Lease(1, number, 20.0)).failures == {}
            power.close()  # it comes back each time, and finds a seat
        assert set(service.fake.limits_w().values()) == {300}
        told = Path(f"/proc/{service.process.pid}/status").read_text(encoding="ascii")
        assert int(told.split("VmHWM:")[1].split()[0]) / 1000 < 150, "MB at their most; four of these lines take more"
    finally:
        crowd.stdin.close()
        crowd.wait(20)
        crowd.stdout.close()
        power.close()
        service.end(signal.SIGKILL)


@pytest.fixture
def service(tmp_path):
    made = Service(tmp_path)
    yield made
    if made.process and made.process.poll() is None:
        made.end(signal.SIGKILL)


def test_an_agent_over_another_folder_does_not_take_a_live_ones_socket(service, tmp_path):
    power = service.start()
    power.apply(dict.fromkeys(service.gpus, 300), Lease(1, 1, 60.0))
    command = [str(tmp_path / "other") if word == str(service.state_dir) else word for word in service.command()]
    second = subprocess.run(
        command, cwd=ROOT, env=service.fake.env(), capture_output=True, text=True, check=False, timeout=60
    )
    assert second.returncode == 2
    assert re.search(rf"{service.path}: \S+ \(pid {service.process.pid}\) answers there", second.stderr)
    assert power.status()["found_w"] == dict.fromkeys(service.gpus, 700.0)
    power.close()
    again = AgentPower(service.path)
    assert len(again.discover()) == 8
    again.close()


@pytest.mark.parametrize("what", ["file", "folder", "link"])
def test_what_is_no_socket_is_not_taken_away(tmp_path, what):
    path = tmp_path / "agent.sock"
    (tmp_path / "target").write_text("kept")
    make = {
        "file": lambda: path.write_text("kept"),
        "folder": path.mkdir,
        "link": lambda: path.symlink_to(tmp_path / "target"),
    }
    make[what]()
    with pytest.raises(AdapterError, match=f"{path}: is there and is no socket"):
        Server(path, None, ())
    assert path.is_dir() if what == "folder" else path.read_text() == "kept"


def test_an_agent_too_busy_to_take_a_call_is_not_taken_for_a_dead_one(tmp_path):
    path = tmp_path / "agent.sock"
    with ExitStack() as stack:
        busy, other = (stack.enter_context(socket.socket(socket.AF_UNIX)) for _ in range(2))
        busy.bind(str(path))
        busy.listen(0)
        other.connect(str(path))
        with pytest.raises(AdapterError, match="somebody listens there"):
            Server(path, None, ())
        assert path.exists()
    with listening(path) as server:  # it is dead now
        assert server.seats.of(None) is None
        path.rename(tmp_path / "moved")
        path.write_text("another's")
    assert path.read_text() == "another's", "who closes takes away what is its own"


def test_a_place_where_no_socket_can_be_is_said(tmp_path):
    (tmp_path / "file").write_text("")
    for path in (tmp_path / "file" / "agent.sock", tmp_path / ("x" * 120)):
        with pytest.raises(AdapterError, match=re.escape(f"{path}: ")):
            Server(path, None, ())
