"""The HTTP side of the twin: paths, verbs, tokens, watches as chunked streams, and connections that can be broken."""

import contextlib
import json
import time
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from urllib.parse import parse_qs, urlsplit

from tests.support import kube_objects as rules

TOKEN = "a-token-of-the-twin"


class Server(ThreadingHTTPServer):
    daemon_threads = True
    request_queue_size = 128

    def __init__(self, *args):
        self._sockets = set()
        super().__init__(*args)

    def process_request(self, request, address):
        self._sockets.add(request)
        super().process_request(request, address)

    def shutdown_request(self, request):
        self._sockets.discard(request)
        super().shutdown_request(request)

    def break_all(self):
        for one in list(self._sockets):
            with contextlib.suppress(OSError):
                one.shutdown(2)

    def handle_error(self, request, address):
        pass


class Handler(BaseHTTPRequestHandler):
    twin = None
    protocol_version = "HTTP/1.1"

    def log_message(self, *args):
        pass

    def do_GET(self):
        self._answer()

    def do_POST(self):
        self._answer()

    def do_PATCH(self):
        self._answer()

    def do_DELETE(self):
        self._answer()

    def _answer(self):
        twin, url = self.twin, urlsplit(self.path)
        query = {key: values[0] for key, values in parse_qs(url.query).items()}
        size = int(self.headers.get("Content-Length") or 0)
        body = json.loads(self.rfile.read(size)) if size else None
        if query.get("watch") in {"1", "true", "True"} and self._allowed():
            twin.requests.append(("GET", url.path, query, None, None))
            self._watch(url.path, query)
            return
        with twin.lock:
            twin.requests.append((self.command, url.path, query, body, self.headers.get("Content-Type")))
            status, answer = self._handled(url.path, query, body)
            data = json.dumps(answer).encode()
        self.send_response(status)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(data)))
        self.end_headers()
        self.wfile.write(data)

    def _allowed(self):
        return self.headers.get("Authorization") == f"Bearer {TOKEN}" and not self.twin.refuse

    def _place(self, path):
        parts = path.strip("/").split("/")[2 if path.startswith("/api/") else 3 :]
        namespace = ""
        if parts[0] == "namespaces":
            namespace, parts = parts[1], parts[2:]
        return namespace, parts[0], parts[1] if len(parts) > 1 else "", len(parts) > 2 and parts[2] == "status"

    def _handled(self, path, query, body):
        twin = self.twin
        if twin.refuse:
            return twin._status(503, "ServiceUnavailable", None, None)
        if not self._allowed():
            return twin._status(401, "Unauthorized", None, None)
        if path == "/version":
            return 200, twin.version
        verbs = {"POST": self._post, "DELETE": self._delete, "PATCH": self._patch, "GET": self._get}
        return verbs[self.command](*self._place(path), query, body)

    def _post(self, namespace, plural, _name, _status, _query, body):
        return self.twin.create(plural, namespace, body)

    def _delete(self, namespace, plural, name, *_):
        return self.twin.delete(plural, namespace, name)

    def _patch(self, namespace, plural, name, status, query, body):
        if self.headers.get("Content-Type") != "application/merge-patch+json":
            return self.twin._status(415, "UnsupportedMediaType", None, None)
        return self.twin.patch(plural, namespace, name, body, query.get("fieldValidation") == "Strict", status)

    def _get(self, namespace, plural, name, _status, query, _body):
        twin = self.twin
        if plural == "pods":
            return twin.pod_list(namespace, query)
        if not name:
            return twin.listed(plural, namespace, query)
        found = twin.peek(plural, namespace, name)
        return (200, found) if found is not None else twin._status(404, "NotFound", plural, name)

    def _watch(self, path, query):
        twin = self.twin
        namespace, plural, _, _ = self._place(path)
        version, ends = int(query["resourceVersion"]), time.monotonic() + float(query.get("timeoutSeconds", 60))
        self.send_response(200)
        self.send_header("Content-Type", "application/json")
        self.send_header("Transfer-Encoding", "chunked")
        self.end_headers()
        began = twin.cut
        while True:
            with twin.lock:
                events = twin.since(plural, namespace, version)
                if not events and time.monotonic() < ends and twin.cut == began and events is not None:
                    twin.lock.wait(0.2 if twin._live is not None else 0.01)
                    events = twin.since(plural, namespace, version)  # or the bookmark would skip what came meanwhile
                latest, over = twin.latest, time.monotonic() >= ends
            if events is None:
                gone = {"kind": "Status", "code": 410, "reason": "Expired", "message": "too old resource version"}
                self._chunk({"type": "ERROR", "object": gone})
                break
            for rv, sort, item in events:
                self._chunk({"type": sort, "object": item})
                version = rv
            if twin.cut != began:
                self.close_connection = True
                self.connection.shutdown(2)  # in the middle of a chunked body, as when a server dies
                return
            if over or twin._live is None:
                if query.get("allowWatchBookmarks") in {"1", "true", "True"}:
                    kind = rules.KINDS[plural]
                    self._chunk(
                        {"type": "BOOKMARK", "object": {"kind": kind, "metadata": {"resourceVersion": str(latest)}}}
                    )
                break
        self.wfile.write(b"0\r\n\r\n")

    def _chunk(self, event):
        data = json.dumps(event).encode() + b"\n"
        self.wfile.write(f"{len(data):x}\r\n".encode() + data + b"\r\n")
        self.wfile.flush()
