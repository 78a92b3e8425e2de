"""The test server on a socket, with its calls to subscribers.

Why the standard library's server: it is for rehearsals and tests on one machine, and must come with every installation.
"""

from __future__ import annotations

import json
import re
import secrets
import socket
import ssl
import threading
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import TYPE_CHECKING, Any

import requests

from adapters.dr.vtn.vtn import Vtn, topic_of
from adapters.dr.vtn.warts import Wart

if TYPE_CHECKING:
    from adapters.mqtt import MqttLink

MOST_BYTES = 8 * 1024 * 1024
CALL_S = 3.0


class VtnServer:
    """A `Vtn` that listens."""

    def __init__(
        self, vtn: Vtn, host: str = "127.0.0.1", port: int = 0, certificate: tuple[Path, Path] | None = None
    ) -> None:
        """Listens from now on; answers from `start` on. `certificate`: files of the certificate and of its key. Raises
        OSError when the port is taken."""
        self.vtn = vtn
        self._link: MqttLink | None = None
        self._open: set[socket.socket] = set()
        self._server = ThreadingHTTPServer((host, port), _handler(vtn, self._open))
        self._server.daemon_threads = True
        scheme = "http"
        if certificate is not None:
            context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
            context.load_cert_chain(*certificate)
            # Hands are shaken by the thread of a connection, with its time limit: one that accepts waits for no client.
            self._server.socket = context.wrap_socket(
                self._server.socket, server_side=True, do_handshake_on_connect=False
            )
            scheme = "https"
        shown = f"[{host}]" if ":" in host else host
        vtn.address = f"{scheme}://{shown}:{self._server.server_address[1]}"
        vtn.told, vtn.challenge = self._tell, _challenge
        self._thread = threading.Thread(target=self._server.serve_forever, args=(0.05,), name="vtn", daemon=True)

    @property
    def url(self) -> str:
        """Base address for clients."""
        return self.vtn.address + self.vtn.base_path

    def start(self) -> None:
        """Answer from now on."""
        if self.vtn.broker:
            from adapters.mqtt import MqttLink, MqttSettings

            self._link = MqttLink(MqttSettings(self.vtn.broker, "gridpace-vtn", lasting=False))
            self._link.start()
        self._thread.start()

    def stop(self) -> None:
        """Close the port and every connection."""
        if self._thread.is_alive():
            self._server.shutdown()
        self._server.server_close()
        if self._link is not None:
            self._link.close()
        for connection in tuple(self._open):
            with suppress(OSError):
                connection.shutdown(socket.SHUT_RDWR)

    def _publish(self, link: MqttLink, operation: str, item: Mapping[str, Any]) -> None:
        """Tell a change on the topics of its program and of every VEN, retained and in snake_case, as servers do."""
        body = json.dumps({"object_type": "EVENT", "operation": operation, "object": _snake(dict(item))}).encode()
        with self.vtn.lock:
            vens = list(self.vtn.objects["vens"])
        for kind, name in [("programs", str(item["programID"])), *(("vens", ven) for ven in vens)]:
            link.publish(topic_of(kind, name, operation), body, 1, retain=True)

    def _tell(self, kind: str, operation: str, item: Mapping[str, Any]) -> bool:
        """Call every subscriber of such a change; whether all of them could be called."""
        if self._link is not None and kind == "EVENT":
            self._publish(self._link, operation, item)
        calls = list(_calls(self.vtn, kind, operation, item))
        if Wart.FAILS_ON_DEAD_SUBSCRIBER in self.vtn.warts:
            heard = [_call(self.vtn, url, token, kind, operation, item) for url, token in calls]
            return all(heard)
        for url, token in calls:
            arguments = (self.vtn, url, token, kind, operation, item)
            threading.Thread(target=_call, args=arguments, name="vtn-call", daemon=True).start()
        return True


def _calls(vtn: Vtn, kind: str, operation: str, item: Mapping[str, Any]) -> Iterator[tuple[str, str]]:
    old = {"CREATE": "POST", "UPDATE": "PUT", "DELETE": "DELETE"}[operation]
    program = item.get("programID") if kind == "EVENT" else item["id"] if kind == "PROGRAM" else None
    with vtn.lock:
        subscriptions = list(vtn.objects["subscriptions"].values())
    for subscription in subscriptions:
        if subscription.get("programID") not in {None, program}:
            continue
        for one in subscription["objectOperations"]:
            if kind in one["objects"] and {operation, old} & set(one["operations"]):
                yield str(one["callbackUrl"]), str(one.get("bearerToken") or "")


def _call(vtn: Vtn, url: str, token: str, kind: str, operation: str, item: Mapping[str, Any]) -> bool:
    body: Any = {"objectType": kind, "operation": operation, "object": item}
    body = _snake(body) if Wart.SNAKE_CASE in vtn.warts else body
    text = json.dumps(json.dumps(body)) if Wart.DOUBLE_ENCODED in vtn.warts else json.dumps(body)
    headers = {"Content-Type": "application/json"} | ({"Authorization": f"Bearer {token}"} if token else {})
    try:
        return requests.post(url, data=text, headers=headers, timeout=CALL_S, allow_redirects=False).ok
    except requests.RequestException:
        return False


def _challenge(url: str, below: bool) -> bool:
    word = secrets.token_hex(8)
    address = f"{url}/echo?echo={word}" if below else f"{url}?echo={word}"
    try:
        answer = requests.get(address, timeout=CALL_S, allow_redirects=False)
    except requests.RequestException:
        return False
    return answer.ok and answer.text.strip().strip('"') == word


def _snake(value: Any) -> Any:
    if isinstance(value, dict):
        return {re.sub(r"(?<=[a-z])(ID|[A-Z])", r"_\1", name).lower(): _snake(one) for name, one in value.items()}
    return [_snake(one) for one in value] if isinstance(value, list) else value


def _handler(vtn: Vtn, connections: set[socket.socket]) -> type[BaseHTTPRequestHandler]:
    class Handler(BaseHTTPRequestHandler):
        """Hands requests to the `Vtn`."""

        protocol_version = "HTTP/1.1"
        timeout = 30
        wbufsize = 65_536
        disable_nagle_algorithm = True

        def setup(self) -> None:
            """Remember the connection, so that a server that stops can end it."""
            super().setup()
            connections.add(self.connection)

        def handle(self) -> None:
            """Answer until the client goes, if need be without a word: its end is no fault of ours, and no news."""
            with suppress(ConnectionError):
                super().handle()

        def finish(self) -> None:
            """Forget it."""
            connections.discard(self.connection)
            with suppress(OSError):
                super().finish()

        def _serve(self) -> None:
            length = int(self.headers.get("Content-Length") or 0)
            if length > MOST_BYTES:
                self.send_error(413)
                return
            headers = {name.lower(): value for name, value in self.headers.items()}
            reply = vtn.answer(self.command, self.path, headers, self.rfile.read(length))
            content = b"" if reply.body is None else json.dumps(reply.body).encode()
            self.send_response(reply.status)
            self.send_header("Content-Type", "application/json")
            self.send_header("Content-Length", str(len(content)))
            self.end_headers()
            self.wfile.write(content)
            self.wfile.flush()

        do_GET = do_POST = do_PUT = do_DELETE = _serve  # noqa: N815 - names of http.server

        def log_message(self, *_: Any) -> None:
            """Say nothing: the CLI prints what matters."""

    return Handler


@contextmanager
def served(vtn: Vtn, host: str = "127.0.0.1", port: int = 0) -> Iterator[VtnServer]:
    """A server that runs inside the `with`."""
    server = VtnServer(vtn, host, port)
    server.start()
    try:
        yield server
    finally:
        server.stop()
