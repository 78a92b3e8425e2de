"""The real daemon as a child process on a fake machine: lives that are started, watched, spoken to and ended.

The machine's cards, its config and its state folder outlive every daemon. What a life says is read from its log, what
it tells systemd from a socket of ours, and what the cards hold from the fake driver itself.
"""

import json
import os
import re
import signal
import socket
import sqlite3
import subprocess
import sys
import threading
import time
import uuid
from contextlib import closing, suppress
from datetime import datetime
from pathlib import Path

import pytest
import requests

from adapters.dr.webhook import sign
from tests.support.fake_nvml import FakeGpu, FakeNvml, build
from tests.support.ports import free_port

ROOT = Path(__file__).resolve().parents[2]
SECRET, TOKEN = "a-secret-for-tests-only", "a-token-for-tests-only"
FOUND_W = (613, 587, 700, 655, 641, 599, 688, 571)
"""Limits that the cards have before Gridpace comes: odd ones, so that a wrong restore shows."""
CHAT = 5
"""The first five cards serve users, the others run jobs."""

CONFIG = """
mode: {mode}
currency: USD
interval: 1m
control_period: {period}
horizon: 3h
max_horizon: 12h
verify_every: 1s
state_dir: {state}
log_format: journal
sites:
  - {{id: lab, timezone: America/Los_Angeles, price: energy, limit_kw: {limit}, pue: {{base: 1.2}}}}
curves:
  - id: h100
    idle_w: 75
    points:
      - {{cap_w: 200, draw_w: 190, throughput: 0.45}}
      - {{cap_w: 350, draw_w: 345, throughput: 0.75}}
      - {{cap_w: 500, draw_w: 490, throughput: 0.92}}
      - {{cap_w: 700, draw_w: 650, throughput: 1}}
pools:
  - {{id: chat, site: lab, gpu_model: H100, count: 5, work: interactive, curve: h100, value_per_gpu_h: 5, floor: 0.6,
     gpus: {{uuids: [{chat}]}}}}
  - {{id: tune, site: lab, gpu_model: H100, count: 3, work: batch, curve: h100, gpus: {{uuids: [{tune}]}}}}
signals:
  - {{id: energy, type: constant, unit: USD/MWh, value: {price}}}
power: {power}
meters:
  - {{type: nvml}}
programs:
  - {{id: elrp, site: lab, channel: {{type: webhook, secret: "file:secret"}}, baseline: {{type: declared, kw: 6}},
     ramp_in: 1s, ramp_out: 2s, rebound: 1s}}
api:
  port: {port}
  page: {page}
  tokens:
    - {{name: ops, scope: write, secret: "file:token"}}
{more}"""


class Machine:
    """Eight fake cards, a config that tests change by `fields`, and the daemons that run on them."""

    def __init__(self, folder, **fields):
        self.folder, self.state = folder, folder / "state"
        gpus = [
            FakeGpu(f"GPU-0000000{k}-aaaa-bbbb-cccc-dddddddddddd", limit_w=watts) for k, watts in enumerate(FOUND_W)
        ]
        self.fake = FakeNvml(folder / "nvml", gpus, build(_library()))
        self.first = self.fake.limits_w()
        self.path = folder / "gridpace.yaml"
        (folder / "secret").write_text(SECRET)
        (folder / "token").write_text(TOKEN)
        for name in ("secret", "token"):
            (folder / name).chmod(0o600)
        ids = [gpu.uuid for gpu in gpus]
        self.fields = {
            "mode": "control", "period": "0.25s", "state": "state", "limit": 100, "port": free_port(),
            "page": "false", "price": 60, "more": "",
            "power": "{type: nvml}", "chat": ", ".join(ids[:CHAT]), "tune": ", ".join(ids[CHAT:]),
        }  # fmt: skip
        self.lives = []
        self.configure(**fields)

    def configure(self, **fields):
        """Write the config, with these fields changed from now on."""
        self.fields |= fields
        self.path.write_text(CONFIG.format(**self.fields))

    def start(self, **more):
        """The next daemon; `before` is Python that it runs first, the rest goes to Popen."""
        life = Life(self, len(self.lives), **more)
        self.lives.append(life)
        return life

    def close(self):
        """End what still runs."""
        self.fake.set_all(hang=0)
        for life in self.lives:
            life.kill()
            life.ears.close()

    def records(self, kind):
        """What the books hold of a kind, by key; read beside whoever writes."""
        with closing(sqlite3.connect(f"file:{self.state / 'gridpace.db'}?mode=ro", uri=True)) as books:
            rows = books.execute("SELECT key, body FROM records WHERE kind = ? ORDER BY seq", (kind,)).fetchall()
        return {key: json.loads(body) for key, body in rows}


class Life:
    """One daemon: `python -m scheduler.cli run`, with its log and what it told systemd."""

    def __init__(self, machine, number, before="", **more):
        self.machine, self.told = machine, []
        self.log = machine.folder / f"life-{number}.log"
        name = str(machine.folder / f"notify-{number}")
        self.ears = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        self.ears.bind(name)
        self.began = time.time()
        start = ["-c", f"{before}; from scheduler.cli import main; main()"] if before else ["-m", "scheduler.cli"]
        command = [sys.executable, *start, "run", "--config", str(machine.path)]
        environment = {**machine.fake.env(), "NOTIFY_SOCKET": name}
        with self.log.open("w") as stream:
            self.process = subprocess.Popen(command, cwd=ROOT, env=environment, stderr=stream, **more)
        threading.Thread(target=self._listen, daemon=True).start()

    def _listen(self):
        self.ears.settimeout(0.2)
        while self.ears.fileno() >= 0:
            with suppress(OSError):
                self.told.append((time.monotonic(), self.ears.recv(4096).decode()))

    # ------------------------------------------------------------ what it says
    def lines(self):
        """Its log so far, each line as an object."""
        found = []
        for line in self.log.read_text().splitlines():
            with suppress(ValueError):
                found.append(json.loads(re.sub(r"^<\d>", "", line)))
        return found

    def said(self, event, after=0):
        """The first log line of this event past the first `after` lines, or None."""
        return next((line for line in self.lines()[after:] if str(line.get("event", "")).startswith(event)), None)

    def wait(self, true, seconds=40.0):
        """Poll until `true()` holds and return it; fails when the daemon ends before, or when time is up."""
        ends = time.monotonic() + seconds
        while not (found := true()):
            if time.monotonic() > ends or self.process.poll() is not None:
                pytest.fail(f"it did not happen (exit code {self.process.poll()}):\n{self.log.read_text()[-4000:]}")
            time.sleep(0.02)
        return found

    def ready(self):
        """Wait until it told systemd so."""
        self.wait(lambda: any("READY=1" in said for _, said in self.told))
        return self

    def reconciled_s(self):
        """Seconds from the start of the process to its log line, and the CPU time that it had taken soon after."""
        line = self.wait(lambda: self.said("reconciled"))
        fields = Path(f"/proc/{self.process.pid}/stat").read_text().rpartition(")")[2].split()
        cpu_s = (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")
        return datetime.fromisoformat(line["timestamp"]).timestamp() - self.began, cpu_s

    # ------------------------------------------------------------ talking to it
    def call(self, method, path, body=None, headers=None):
        """Status and answer of one request; None where nobody answered."""
        url = f"http://127.0.0.1:{self.machine.fields['port']}{path}"
        kept = {"Authorization": f"Bearer {TOKEN}", "Content-Type": "application/json", **(headers or {})}
        data = body if isinstance(body, bytes) or body is None else json.dumps(body).encode()
        try:
            answer = requests.request(method, url, data=data, headers=kept, timeout=20)
            return answer.status_code, answer.json()
        except (requests.RequestException, ValueError):
            return None

    def get(self, path):
        """The body of a 200."""
        status, body = self.call("GET", path)
        assert status == 200, body
        return body

    def serving(self):
        """Wait until both loops have turned and the API says so."""
        self.wait(lambda: (self.call("GET", "/healthz") or (0,))[0] == 200, 120)
        return self

    def event(self, **fields):
        """Send a signed event from now on; the status and the answer, None where nobody answered."""
        body = json.dumps({"version": 1, "site": "lab", "start": "now", "duration": "PT60S"} | fields).encode()
        headers = sign(SECRET.encode(), body, int(time.time()), uuid.uuid4().hex, "elrp")
        return self.call("POST", "/dr/elrp", body, headers)

    def command(self, *words):
        """Exit code and output of another `gridpace` command with the daemon's config."""
        command = [sys.executable, "-m", "scheduler.cli", *words, "--config", str(self.machine.path)]
        environment = {**os.environ, **self.machine.fake.env()}
        done = subprocess.run(
            command, cwd=ROOT, env=environment, capture_output=True, text=True, timeout=120, check=False
        )
        return done.returncode, done.stdout + (done.stderr if done.returncode else "")

    # ------------------------------------------------------------ ending it
    def kill(self):
        """SIGKILL, whatever it does; nothing of it is left."""
        if self.process.poll() is None:
            self.process.kill()
        self.process.wait(30)

    def stop(self, seconds=30.0):
        """SIGTERM; its exit code."""
        self.process.send_signal(signal.SIGTERM)
        return self.process.wait(seconds)


_LIBRARIES = []


def _library():
    """A folder for the compiled fake, one for each test process."""
    if not _LIBRARIES:
        import tempfile

        _LIBRARIES.append(Path(tempfile.mkdtemp(prefix="gridpace-fake-nvml-")))
    return _LIBRARIES[0]
