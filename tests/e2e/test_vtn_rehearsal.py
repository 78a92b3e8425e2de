"""A newcomer's rehearsal: `gridpace vtn`, `gridpace run`, an event by hand, and what the page's API then shows."""

import json
import os
import re
import shutil
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

import pytest
import requests

ROOT = Path(__file__).resolve().parent.parent.parent
CLI = [sys.executable, "-m", "scheduler.cli"]


def free_port():
    with socket.create_server(("127.0.0.1", 0)) as probe:
        return probe.getsockname()[1]


def wait_for(what, seconds=40.0):
    end = time.monotonic() + seconds
    while True:
        found = what()
        if found:
            return found
        assert time.monotonic() < end, "it does not happen"
        time.sleep(0.2)


@pytest.mark.timeout(180)
def test_two_commands_and_an_event_by_hand_are_seen_on_the_page_and_in_the_reports(tmp_path):
    vtn_port, api_port = free_port(), free_port()
    shutil.copy(ROOT / "config/rehearsal-secret", tmp_path)
    config = (ROOT / "config/rehearsal.yaml").read_text()
    config = (
        config.replace("../var/rehearsal", "state")
        .replace(":8643/", f":{vtn_port}/")
        .replace("port: 8642", f"port: {api_port}")
    )
    (tmp_path / "rehearsal.yaml").write_text(config)
    page, vtn = f"http://127.0.0.1:{api_port}", f"http://127.0.0.1:{vtn_port}/openadr3/3.1.0"
    environment = os.environ | {"PYTHONPATH": str(ROOT)}

    def said(*arguments):
        command = [*CLI, "vtn", *arguments, "--vtn", vtn]
        done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=60, check=True)
        return done.stdout

    def events():
        try:
            return requests.get(f"{page}/api/v1/events", timeout=5).json()["events"]
        except requests.RequestException:
            return []

    commands = [
        [*CLI, "vtn", "--port", str(vtn_port), "--wart", "short_pages", "--wart", "local_dates"],
        [*CLI, "run", "--config", str(tmp_path / "rehearsal.yaml")],
    ]
    with open(tmp_path / "log", "w") as log:
        running = [subprocess.Popen(command, env=environment, stdout=log, stderr=log) for command in commands]
        try:
            wait_for(lambda: _answers(f"{page}/api/v1/health"))
            sent = json.loads(said("send", "--level", "2", "--duration", "5m", "--report", "operating_state", "--json"))
            (event,) = wait_for(events)
            assert (event["id"], event["opt"], event["program"]) == (sent["id"], "in", "utility")
            wait_for(lambda: "X_GRIDPACE_OPT in" in said("reports"))
            assert f"{sent['id']}: from 0001-01-01T00:00:00Z for PT300S: SIMPLE 2" in said("events")
            said("send", "--limit", "100kW", "--event", sent["id"], "--duration", "5m")
            wait_for(lambda: [one for one in events() if one["version"] == 1 and one["target_kw"] is not None])
            said("cancel", sent["id"])
            wait_for(lambda: events()[0]["state"] in {"ramping_out", "cancelled"})
        except BaseException:
            print((tmp_path / "log").read_text()[-4000:])
            raise
        finally:
            for process in running:
                process.send_signal(signal.SIGINT)
            for process in running:
                process.wait(30)
    assert "Traceback" not in re.sub(r"x1b\[[0-9;]*m", "", (tmp_path / "log").read_text())


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
