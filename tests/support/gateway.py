"""The real gateway as a child process, over a daemon of the tests' or a stand-in that grants what a test says."""

import json
import os
import subprocess
import sys
import threading
import time
from datetime import UTC, datetime, timedelta
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest
import requests

from tests.support.daemon import ROOT
from tests.support.ports import free_port

KEY, OTHER_KEY = "sk-research-for-tests", "sk-product-for-tests"

CONFIG = """
port: {port}
state_dir: state
log_format: journal
daemon: {daemon}
token: "file:token"
upstreams:
  - {{id: llama, url: "{upstream}", pool: tune, models: [tiny, small], tokens_per_gpu_h: {speed},
     requests_per_gpu: {per_gpu}}}
tenants:
  - {{name: research, key: "file:research", max_requests: {most}{mine}}}
  - {{name: {second}, key: "file:product", weight: 3, requests_per_s: {often}}}
max_batch_requests: {largest}
max_file_bytes: {bytes}
{others}"""


class Desk:
    """A gateway's folder, and its lives one after the other."""

    def __init__(self, folder, upstream, daemon, token, **fields):
        folder.mkdir(exist_ok=True)
        self.folder, self.lives = folder, []
        for name, text in (("research", KEY), ("product", OTHER_KEY), ("token", token)):
            (folder / name).write_text(text)
            (folder / name).chmod(0o600)
        self.port = free_port()
        values = {"port": self.port, "daemon": daemon, "upstream": upstream, "speed": 12_000, "per_gpu": 4,
                  "most": 1_000_000, "often": 200, "largest": 1_000_000, "bytes": 10**9,
                  "mine": "", "others": "", "second": "product"} | fields  # fmt: skip
        (folder / "gateway.yaml").write_text(CONFIG.format(**values))

    @property
    def url(self):
        return f"http://127.0.0.1:{self.port}"

    def start(self):
        """The next life, once it answers."""
        command = [sys.executable, "-m", "scheduler.cli", "gateway", "--config", str(self.folder / "gateway.yaml")]
        with (self.folder / f"life-{len(self.lives)}.log").open("w") as log:
            life = subprocess.Popen(command, cwd=ROOT, stderr=log, env=dict(os.environ))
        self.lives.append(life)
        self.wait(self.up, 120.0)  # a busy machine imports for long
        return life

    def up(self):
        try:
            return requests.get(f"{self.url}/health", timeout=2).json()
        except requests.RequestException:
            return None

    def wait(self, true, seconds=40.0):
        """Poll until `true()` holds and return it."""
        ends = time.monotonic() + seconds
        while not (found := true()):
            if time.monotonic() > ends or self.lives[-1].poll() is not None:
                log = (self.folder / f"life-{len(self.lives) - 1}.log").read_text()
                pytest.fail(f"it did not happen (exit code {self.lives[-1].poll()}):\n{log[-3000:]}")
            time.sleep(0.02)
        return found

    def close(self):
        for life in self.lives:
            if life.poll() is None:
                life.kill()
            life.wait(10)

    # ------------------------------------------------------------ as a client without a library
    def call(self, method, path, key=KEY, **how):
        return requests.request(method, self.url + path, headers={"Authorization": f"Bearer {key}"}, timeout=60, **how)

    def session(self, key=KEY):
        """A connection that is kept, for many calls."""
        made = requests.Session()
        made.headers["Authorization"] = f"Bearer {key}"
        return made

    def upload(self, text, key=KEY):
        answer = self.call("POST", "/v1/files", key, files={"file": ("in.jsonl", text)}, data={"purpose": "batch"})
        assert answer.status_code == 200, answer.text
        return answer.json()["id"]

    def create(self, file, key=KEY, **more):
        body = {"input_file_id": file, "endpoint": "/v1/chat/completions", "completion_window": "24h"} | more
        return self.call("POST", "/v1/batches", key, json=body)

    def batch(self, lines, key=KEY, **more):
        """The id of a new batch of these words."""
        answer = self.create(self.upload(asked(lines), key), key, **more)
        assert answer.status_code == 200, answer.text
        return answer.json()["id"]

    def look(self, name, key=KEY):
        return self.call("GET", f"/v1/batches/{name}", key).json()

    def ended(self, name, key=KEY, seconds=60.0):
        """The batch once it is over."""
        over = {"completed", "failed", "expired", "cancelled"}
        return self.wait(lambda: (found := self.look(name, key))["status"] in over and found, seconds)

    def lines(self, file, key=KEY):
        """The lines of a file."""
        answer = self.call("GET", f"/v1/files/{file}/content", key)
        assert answer.status_code == 200, answer.text
        return [json.loads(line) for line in answer.text.splitlines()]


def stored(gateway, tenant, text):
    """A file of a gateway in this process."""
    with gateway.incoming(tenant) as coming:
        coming.write(text.encode() if isinstance(text, str) else text)
        return gateway.shelf.keep(coming, "in.jsonl")


def line(number, word, model="tiny", **more):
    body = {"model": model, "messages": [{"role": "user", "content": word}]} | more
    return {"custom_id": f"c-{number}", "method": "POST", "url": "/v1/chat/completions", "body": body}


def asked(words):
    return "".join(json.dumps(line(number, word)) + "\n" for number, word in enumerate(words))


class _Api(BaseHTTPRequestHandler):
    daemon = None
    protocol_version = "HTTP/1.1"

    def log_message(self, *_):
        pass

    def _say(self, status, body):
        if self.daemon.away:
            self.close_connection = True
            return
        data = json.dumps(body).encode()
        self.send_response(status)
        self.send_header("Content-Length", str(len(data)))
        self.end_headers()
        self.wfile.write(data)

    def do_GET(self):
        if self.path == "/api/v1/quotes":
            return self._say(*((200, self.daemon.quotes) if self.daemon.quotes else (404, {"error": "no plan yet"})))
        live = [job for job in self.daemon.jobs if job not in self.daemon.cancelled]
        self._say(
            200, {"grants": {job: {"pool": "tune", "gpus": self.daemon.gpus} for job in live if self.daemon.gpus}}
        )

    def do_POST(self):
        body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        if self.path == "/api/v1/jobs":
            if self.daemon.refuse:
                return self._say(*self.daemon.refuse)
            self.daemon.jobs[body["id"]] = body
            return self._say(201, {})
        job = self.path.split("/")[4]
        if job in self.daemon.cancelled:
            return self._say(409, {"error": f"{job} was cancelled"})
        self.daemon.progress[job] = body
        return self._say(200, {})

    def do_PUT(self):
        self.daemon.sold[self.path.split("/")[4]] = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        self._say(200, {})

    def do_DELETE(self):
        self.daemon.cancelled.append(self.path.split("/")[4])
        self._say(200, {})


class Granting:
    """A stand-in for the daemon's job API: takes jobs, grants `gpus` to each, remembers progress."""

    def __init__(self):
        self.jobs, self.progress, self.cancelled = {}, {}, []
        self.gpus, self.refuse, self.away, self.quotes, self.sold = 2, None, False, None, {}
        self.forget()
        self._server = ThreadingHTTPServer(("127.0.0.1", 0), type("Handler", (_Api,), {"daemon": self}))
        self._server.handle_error = lambda *_: None  # a client that is killed leaves in the middle
        self.url = f"http://127.0.0.1:{self._server.server_port}"
        threading.Thread(target=self._server.serve_forever, daemon=True).start()

    def forget(self):
        """Grant two GPUs to each job, and answer."""
        self.gpus, self.refuse, self.away, self.quotes, self.sold = 2, None, False, None, {}

    def quote(self, *prices, free=4.0, minutes=60, made_at=None):
        """A plan that begins now, with a price of a GPU-hour for each interval."""
        now = made_at or datetime.now(UTC)
        edges = [now + timedelta(minutes=minutes * k) for k in range(len(prices) + 1)]
        slots = [{"start": edges[k].isoformat(), "end": edges[k + 1].isoformat(), "per_mtok": None, "per_gpu_h": price,
                  "reason": None, "free_gpus": free} for k, price in enumerate(prices)]  # fmt: skip
        self.quotes = {"made_at": now.isoformat(), "rung": "optimum", "currency": "USD", "note": "of a test",
                       "pools": [{"pool": "tune", "site": "lab", "intervals": slots}], "sites": []}  # fmt: skip

    def close(self):
        self._server.shutdown()
        self._server.server_close()
