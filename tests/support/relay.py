"""A TCP relay whose cable can be pulled: connections stay open and nothing passes, as when a switch dies."""

import select
import socket
import threading


class Relay:
    """Listens on `port` of loopback and passes everything on to `target`, until it is cut."""

    def __init__(self, target):
        self.target, self.cut = target, threading.Event()
        self.listener = socket.create_server(("127.0.0.1", 0))
        self.port = self.listener.getsockname()[1]
        self._open, self._closed = [], threading.Event()
        self._thread = threading.Thread(target=self._run, daemon=True)
        self._thread.start()

    def _run(self):
        pairs = {}
        while not self._closed.is_set():
            if self.cut.is_set():
                self._closed.wait(0.05)
                continue
            for one in select.select([self.listener, *pairs], [], [], 0.05)[0]:
                if one is self.listener:
                    near, _ = self.listener.accept()
                    try:
                        far = socket.create_connection(("127.0.0.1", self.target), 5)
                    except OSError:  # nobody listens there (yet, or any more)
                        near.close()
                        continue
                    pairs[near], pairs[far] = far, near
                    self._open += [near, far]
                elif one in pairs:
                    self._pass(one, pairs)

    @staticmethod
    def _pass(one, pairs):
        other = pairs[one]
        try:
            data = one.recv(65536)
            other.sendall(data)
        except OSError:
            data = b""
        if not data:
            for end in (one, other):
                pairs.pop(end, None)
                end.close()

    def close(self):
        self._closed.set()
        self._thread.join(10)
        for one in (*self._open, self.listener):
            one.close()
