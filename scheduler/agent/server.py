"""The agent's socket: who may have a seat at it, how much they may say, and whose file it is.

Why seats are kept: whoever may read the socket could hold every connection, or fill this small process's memory, and
a daemon that comes back would find no place to renew its lease. So readers get some of the seats, short lines and one
turn after the other; who may write always finds a seat. The kernel says who calls (SO_PEERCRED), before a word is read.
"""

from __future__ import annotations

import errno
import logging
import os
import selectors
import socket
import socketserver
import struct
import sys
import threading
from collections.abc import Callable, Collection, Iterator, Mapping
from contextlib import contextmanager, nullcontext, suppress
from dataclasses import dataclass
from pathlib import Path
from stat import S_ISSOCK
from time import monotonic
from typing import Any

from adapters.ports import AdapterError
from adapters.power import wire

MOST_CONNECTIONS, MOST_READERS = 32, 16
"""Seats, and how many of them those may have who may only read."""

READER_LINE = 4096
"""Longest line in bytes of who may only read; the longest of his questions has some thirty."""

LONG_LINE = 64 * 1024
"""Of lines longer than this only one is read and obeyed at a time: as objects they are twenty times as large."""

IDLE_S = 600.0
"""A connection that says nothing for so long is closed; clients open a new one by themselves."""

READER_IDLE_S, WRITER_IDLE_S = 5.0, 60.0
"""Where seats are short a reader, or a writer, that asked nothing for so long makes room for another."""

Answer = Callable[[Mapping[str, Any], bool], dict[str, Any]]
"""Obeys a request of somebody who may write, or may not."""

_log = logging.getLogger("gridpace.agent")


def peer(channel: socket.socket) -> tuple[int, int]:
    """Process and user id of who is at the other end, as the kernel knows them."""
    layout = struct.Struct("3i")
    pid, uid, _ = layout.unpack(channel.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, layout.size))
    return int(pid), int(uid)


@dataclass(slots=True, eq=False)
class _Seat:
    channel: socket.socket
    writes: bool
    asked_at: float
    busy: bool = False


class Seats:
    """Who is connected. May be used from any thread."""

    def __init__(self, clock: Callable[[], float] = monotonic) -> None:
        self._clock, self._lock = clock, threading.Lock()
        self._taken: dict[socket.socket, _Seat] = {}

    def take(self, channel: socket.socket, writes: bool) -> bool:
        """A seat for this connection; False where there is none, and none that somebody had to give up."""
        with self._lock:
            if not self._room(writes) and not self._hang_up(self._weakest(writes)):
                return False
            self._taken[channel] = _Seat(channel, writes, self._clock())
            return True

    def of(self, channel: socket.socket) -> _Seat | None:
        """The seat of a connection; None for one that had to give it up."""
        return self._taken.get(channel)

    def leave(self, channel: socket.socket) -> None:
        """Give a seat back. To be called before the connection is closed, so that nobody hangs up another one."""
        with self._lock:
            self._taken.pop(channel, None)

    @contextmanager
    def asking(self, seat: _Seat) -> Iterator[None]:
        """While a request is obeyed the seat is in use; from its end on it idles."""
        seat.busy = True
        try:
            yield
        finally:
            seat.busy, seat.asked_at = False, self._clock()

    def _room(self, writes: bool) -> bool:
        readers = sum(not seat.writes for seat in self._taken.values())
        return len(self._taken) < MOST_CONNECTIONS and (writes or readers < MOST_READERS)

    def _weakest(self, writes: bool) -> _Seat | None:
        """Who makes room: for a writer any reader, the one that has been silent longest, else a writer that seems to
        be gone; for a reader one that asks nothing."""
        now, all_of_them = self._clock(), self._taken.values()
        idle = [seat for seat in all_of_them if not seat.busy]
        readers = [seat for seat in (all_of_them if writes else idle) if not seat.writes]
        if not writes:
            readers = [seat for seat in readers if now - seat.asked_at >= READER_IDLE_S]
        gone = [seat for seat in idle if seat.writes and now - seat.asked_at >= WRITER_IDLE_S]
        return min(readers or (gone if writes else []), key=lambda seat: seat.asked_at, default=None)

    def _hang_up(self, seat: _Seat | None) -> bool:
        """End a connection; its thread, which may wait for it to speak or to listen, wakes up and closes it."""
        if seat is None:
            return False
        del self._taken[seat.channel]
        with suppress(OSError):
            seat.channel.shutdown(socket.SHUT_RDWR)
        return True


class Server(socketserver.ThreadingUnixStreamServer):
    """The socket: mode 0660, a thread a connection, a bounded number of them."""

    daemon_threads = True
    block_on_close = False
    request_queue_size = 64
    timeout = 0.0  # of `handle_request`, which is called when somebody waits

    def __init__(self, path: Path, answer: Answer, writers: Collection[int]) -> None:
        """AdapterError where the socket can't be made, or is another program's."""
        self.answer, self.seats = answer, Seats()
        self._writers, self._path = writers, path
        self._one_reader, self._one_long_line = threading.Lock(), threading.Lock()
        self._mine: tuple[int, int] | None = None
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            make_room(path)
            self._bell, self._ended = socket.socketpair(), threading.Event()
            super().__init__(str(path), _Conversation)
            self._mine = _identity(path)
        except OSError as error:
            raise AdapterError(f"{path}: {error}") from error

    def serve_forever(self, poll_interval: float = 0.0) -> None:
        """Serve until `shutdown`. The library's wakes up again and again to see whether it shall end; this one sleeps
        until somebody calls or the bell rings."""
        with selectors.DefaultSelector() as selector:
            selector.register(self, selectors.EVENT_READ)
            selector.register(self._bell[0], selectors.EVENT_READ)
            while all(key.fileobj is self for key, _ in selector.select()):
                self.handle_request()
        self._ended.set()

    def shutdown(self) -> None:
        """End `serve_forever`, which must be running, and wait for that."""
        self._bell[1].send(b".")
        self._ended.wait()

    def server_bind(self) -> None:
        """Make the socket file for its owner alone, then open it to the group: never for a moment to others, and
        without the umask, which belongs to every thread of the process."""
        os.fchmod(self.socket.fileno(), 0o600)
        super().server_bind()
        self._path.chmod(0o660)

    def process_request(self, request: Any, client_address: Any) -> None:
        """Serve in a thread, or hang up where there is no seat."""
        _, uid = peer(request)
        if self.seats.take(request, uid in self._writers):
            super().process_request(request, client_address)
        else:
            self.shutdown_request(request)

    def shutdown_request(self, request: Any) -> None:
        """Give the seat back and hang up."""
        self.seats.leave(request)
        super().shutdown_request(request)

    def handle_error(self, request: Any, client_address: Any) -> None:
        """A conversation that broke is one line in the log; the agent serves on."""
        _log.warning("a connection ended: %s", sys.exc_info()[1])

    @contextmanager
    def turn(self, seat: _Seat, length: int) -> Iterator[None]:
        """The time in which one line is read and obeyed. Readers wait for each other, so that the cards, and memory,
        are asked by at most one of them beside the daemon."""
        one_at_a_time = self._one_reader if not seat.writes else self._one_long_line if length > LONG_LINE else None
        with self.seats.asking(seat), one_at_a_time or nullcontext():
            yield

    def server_close(self) -> None:
        """Close, and take the file away where it is still ours."""
        super().server_close()
        for end in self._bell:
            end.close()
        with suppress(OSError):
            if _identity(self._path) == self._mine:
                self._path.unlink()


class _Conversation(socketserver.StreamRequestHandler):
    """Requests and answers of one connection, in order."""

    server: Server

    def setup(self) -> None:
        """Wait no longer than `IDLE_S`, neither for words nor for who doesn't listen."""
        super().setup()
        self.connection.settimeout(IDLE_S)

    def handle(self) -> None:
        """Answer every line; hang up after one that can't be one of ours."""
        seat = self.server.seats.of(self.request)
        if seat is None:
            return
        most, goes_on = wire.MAX_LINE if seat.writes else READER_LINE, True
        while goes_on and (line := self.rfile.readline(most + 1)):
            with self.server.turn(seat, len(line)):
                reply, goes_on = self._reply(line, seat.writes)
            self.wfile.write(wire.encode(reply))

    def _reply(self, line: bytes, writes: bool) -> tuple[dict[str, Any], bool]:
        """What to say, and whether to hear more. What a reader may not say at such length isn't looked at."""
        if not writes and len(line) > READER_LINE:
            text = f"this user may read but not give orders; a question has at most {READER_LINE} bytes"
            return {"ok": False, "code": wire.DENIED, "error": text}, False
        try:
            request = wire.decode(line)
        except wire.BadRequest as error:
            return {"ok": False, "code": wire.BAD_REQUEST, "error": str(error)}, False
        return self.server.answer(request, writes), True


def make_room(path: Path) -> None:
    """Take away the socket of an agent that is dead. AdapterError where somebody answers on it, and for any other file,
    which is not ours to remove; an agent over another state folder can't be known by that folder's lock."""
    try:
        mode = path.lstat().st_mode
    except FileNotFoundError:
        return
    if not S_ISSOCK(mode):
        raise AdapterError(f"{path}: is there and is no socket, so it is left alone; name another place: --socket")
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as caller:
        caller.setblocking(False)
        refused = caller.connect_ex(str(path))
        if refused == errno.ECONNREFUSED:  # nobody listens any more
            path.unlink(missing_ok=True)
        elif refused == 0:
            raise AdapterError(f"{path}: {_named(peer(caller)[0])} answers there; stop it, or name another: --socket")
        elif refused != errno.ENOENT:
            busy = "somebody listens there" if refused == errno.EAGAIN else os.strerror(refused)
            raise AdapterError(f"{path}: {busy}; it is left alone, name another place: --socket")


def _named(pid: int) -> str:
    """A process as an operator knows it, as far as this one may see it."""
    try:
        return f"{Path(f'/proc/{pid}/comm').read_text(encoding='utf-8', errors='replace').strip()} (pid {pid})"
    except OSError:
        return f"another program (pid {pid or '?'})"


def _identity(path: Path) -> tuple[int, int]:
    """Which file it is, whatever becomes of its name."""
    found = path.lstat()
    return found.st_dev, found.st_ino
