"""HTTP over a Unix socket: a server whose queue of connections is full is waited for, as long as a call may take."""

from __future__ import annotations

import socket
import threading
import time
from pathlib import Path

import pytest
import requests

from adapters.unix_http import UnixAdapter

ANSWER = b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\nConnection: close\r\n\r\n{}"


@pytest.fixture
def busy(tmp_path: Path):
    """A listening socket whose queue is full, and how to reach it."""
    path = tmp_path / "busy.sock"
    with socket.socket(socket.AF_UNIX) as server, socket.socket(socket.AF_UNIX) as first:
        server.bind(str(path))
        server.listen(0)
        first.connect(str(path))
        yield server, path


def ask(path: Path, timeout_s: float) -> requests.Response:
    with requests.Session() as session:
        session.mount("http://", UnixAdapter(str(path)))
        return session.get("http://localhost/", timeout=timeout_s)


def test_a_full_queue_is_waited_for(busy):
    server, path = busy

    def serve() -> None:
        time.sleep(0.2)
        server.accept()[0].close()  # who filled the queue
        connection, _ = server.accept()
        with connection:
            connection.recv(4096)
            connection.sendall(ANSWER)

    thread = threading.Thread(target=serve, daemon=True)
    thread.start()
    assert ask(path, 10.0).json() == {}
    thread.join()


def test_no_longer_than_a_call_may_take(busy):
    _, path = busy
    with pytest.raises((requests.Timeout, requests.ConnectionError)):
        ask(path, 0.2)
