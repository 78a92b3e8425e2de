"""A newcomer's rehearsal: `gridpace vtn`, `gridpace run`, an event by hand, and what the page's API then shows."""

import json
import os
import shutil
import subprocess
import sys
import time
from pathlib import Path

import pytest
import requests

from tests.support.ports import free_port

ROOT = Path(__file__).resolve().parent.parent.parent
CLI = [sys.executable, "-m", "scheduler.cli"]


def wait_for(what, seconds=60.0):
    end = time.monotonic() + seconds
    while True:
        found = what()
        if found:
            return found
        assert time.monotonic() < end, "it does not happen"
        time.sleep(0.2)


class Rehearsal:
    """Both commands as processes, and what a newcomer types and sees."""

    def __init__(self, folder):
        self.folder, self.vtn_port, self.api_port = folder, free_port(), free_port()
        shutil.copy(ROOT / "config/rehearsal-secret", folder)
        config = (ROOT / "config/rehearsal.yaml").read_text().replace("../var/rehearsal", "state")
        config = config.replace(":8643/", f":{self.vtn_port}/").replace("port: 8642", f"port: {self.api_port}")
        (folder / "rehearsal.yaml").write_text(config)
        self.page, self.vtn = f"http://127.0.0.1:{self.api_port}", f"http://127.0.0.1:{self.vtn_port}/openadr3/3.1.0"
        self.environment = os.environ | {"PYTHONPATH": str(ROOT)}
        self.log = (folder / "log").open("a")
        self.running = []

    def start(self, *arguments):
        command = [*CLI, *arguments]
        self.running.append(subprocess.Popen(command, env=self.environment, stdout=self.log, stderr=self.log))
        return self.running[-1]

    def start_vtn(self, *arguments):
        return self.start("vtn", "--port", str(self.vtn_port), *arguments)

    def start_daemon(self):
        daemon = self.start("run", "--config", str(self.folder / "rehearsal.yaml"))
        wait_for(lambda: _answers(f"{self.page}/api/v1/health"))
        return daemon

    def said(self, *arguments):
        command = [*CLI, "vtn", *arguments, "--vtn", self.vtn]
        done = subprocess.run(command, env=self.environment, capture_output=True, text=True, timeout=60, check=True)
        return done.stdout

    def events(self):
        try:
            return requests.get(f"{self.page}/api/v1/events", timeout=5).json()["events"]
        except requests.RequestException:
            return []

    def end(self):
        for process in self.running:
            process.terminate()  # what a shell without a terminal starts in the background is deaf to Ctrl-C
        for process in self.running:
            process.wait(30)
        self.log.close()
        print((self.folder / "log").read_text()[-4000:])


@pytest.fixture
def rehearsal(tmp_path):
    made = Rehearsal(tmp_path)
    yield made
    made.end()
    assert "Traceback" not in (tmp_path / "log").read_text()


@pytest.mark.timeout(300)
def test_two_commands_and_an_event_by_hand_are_seen_on_the_page_and_in_the_reports(rehearsal):
    rehearsal.start_vtn("--wart", "short_pages", "--wart", "local_dates")
    rehearsal.start_daemon()
    said, events = rehearsal.said, rehearsal.events
    sent = json.loads(said("send", "--level", "2", "--duration", "5m", "--report", "operating_state", "--json"))
    (event,) = wait_for(events)
    assert (event["id"], event["opt"], event["program"]) == (sent["id"], "in", "utility")
    wait_for(lambda: "X_GRIDPACE_OPT in" in said("reports"))
    assert f"{sent['id']}: from 0001-01-01T00:00:00Z for PT300S: SIMPLE 2" in said("events")
    said("send", "--limit", "100kW", "--event", sent["id"], "--duration", "5m")
    wait_for(lambda: [one for one in events() if one["version"] == 1 and one["target_kw"] is not None])
    said("cancel", sent["id"])
    wait_for(lambda: events()[0]["state"] in {"ramping_out", "cancelled"})


@pytest.mark.kill
@pytest.mark.timeout(300)
def test_an_event_outlives_kill_9_of_the_daemon_and_the_loss_of_the_server(rehearsal):
    vtn = rehearsal.start_vtn()
    daemon = rehearsal.start_daemon()
    rehearsal.said("send", "--level", "2", "--duration", "forever")
    (before,) = wait_for(rehearsal.events)
    for process in (daemon, vtn):
        process.kill()
        process.wait(10)
    rehearsal.start_daemon()
    (after,) = wait_for(rehearsal.events)
    assert (after["id"], after["version"], after["opt"], after["end"]) == (before["id"], 0, "in", before["end"])

    def told():
        report = requests.get(f"{rehearsal.page}/api/v1/status", timeout=5).json()["cycle"]
        return [note for note in report["notes"] if note["code"] == "channel_lost"] if report else []

    wait_for(told)
    assert rehearsal.events()[0]["state"] in {"ramping_in", "active"}


def _answers(url):
    try:
        return requests.get(url, timeout=2).status_code < 600
    except requests.RequestException:
        return False


def test_the_cli_refuses_what_is_no_order_and_says_who_is_not_there():
    def run(*arguments):
        environment = os.environ | {"PYTHONPATH": str(ROOT)}
        command = [*CLI, "vtn", *arguments]
        return subprocess.run(command, env=environment, capture_output=True, text=True, timeout=60, check=False)

    assert "exactly one of" in run("send").stderr
    assert "short_pages" in run("--wart", "list").stdout
    assert "is not one of" in run("--wart", "nice").stderr
    assert "must be your own" in run("--host", "0.0.0.0").stderr
    gone = run("events", "--vtn", f"http://127.0.0.1:{free_port()}/x")
    assert gone.returncode == 1
    assert "Is `gridpace vtn` running?" in gone.stderr
