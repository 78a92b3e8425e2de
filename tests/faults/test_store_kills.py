"""The store under `kill -9`: what was acknowledged is there, in the form in which it was acknowledged."""

import os
import random
import select
import signal
import subprocess
import sys
import time
from datetime import UTC, datetime, timedelta

import pytest

from adapters.ports import EventMessage, EventTarget
from scheduler.ledger.ledger import Ledger, ProgramTerms
from scheduler.service import OperatorOrder
from scheduler.store.store import Store

NOON = datetime(2022, 9, 6, 19, tzinfo=UTC)
HOUR = timedelta(hours=1)
KILLS = int(os.environ.get("GRIDPACE_KILLS", "5"))

WRITER = """
import sys
from datetime import UTC, datetime, timedelta
from pathlib import Path
from tests.faults.test_store_kills import acknowledge
acknowledge(Path(sys.argv[1]), int(sys.argv[2]))
"""


def event(number, version=1):
    start = NOON + HOUR
    targets = (EventTarget(start, start + HOUR, limit_kw=1000.0 + version),)
    return EventMessage(f"event-{number}", version, "sv", start, start + HOUR, targets, program="p")


def tell(ledger, message):
    return ledger.accept(message, baseline_kw=4000.0, available_kw=4000.0, defaults=ProgramTerms(), now=NOON)


def acknowledge(path, first):
    """Write for ever; print each acknowledgement after it was given, as a client would have seen it."""
    store = Store.open(path)
    ledger = Ledger(store)
    print(f"epoch {store.epoch()}", flush=True)
    for number in range(first, first + 1_000_000):
        store.remember_first_limits(
            {f"GPU-{number}": (500.0 + number % 200, "H100"), "GPU-first": (float(number), "")}, NOON
        )
        print(f"limit {number}", flush=True)
        store.journal_result(store.journal_intent({"n": number}), {})
        tell(ledger, event(number))
        print(f"event {number}", flush=True)
        store.save_order(OperatorOrder("limit", site="sv", limit_kw=float(number)), NOON)
        print(f"order {number}", flush=True)
        store.put("job", f"job-{number}", {"n": number})
        print(f"job {number}", flush=True)
        store.add_sample("sv", NOON + timedelta(minutes=number), float(number), None, None, None, None)


def run_and_kill(path, first, lines, seconds):
    """What the writer had printed when SIGKILL met it, some time after that many lines."""
    command = [sys.executable, "-c", WRITER, str(path), str(first)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, bufsize=0) as writer:
        said = b""
        while said.count(b"\n") < lines:
            assert select.select([writer.stdout], [], [], 30)[0], "the writer is stuck"
            said += os.read(writer.stdout.fileno(), 64)
        time.sleep(seconds)
        writer.send_signal(signal.SIGKILL)
        said += writer.stdout.read()
    return [line.split() for line in said.decode().split("\n")[:-1]]


def check_everything(path, lines):
    """Each acknowledged line is in the books, and nothing is there in another form."""
    store = Store.open(path)
    try:
        assert [note.text for note in store.notes()] == []
        said = {
            kind: [int(number) for held, number in lines if held == kind] for kind in ("limit", "event", "order", "job")
        }
        limits, jobs = store.first_limits(), store.all("job")
        for number in said["limit"]:
            assert limits[f"GPU-{number}"] == 500.0 + number % 200
        assert limits["GPU-first"] == min(said["limit"])
        ledger = Ledger(store)
        held = {held.id for held in ledger.active(NOON)}
        assert held >= {f"event-{number}" for number in said["event"]}
        for number in said["event"][-5:]:
            assert tell(ledger, event(number)).duplicate
        (order,) = store.orders()
        assert order.limit_kw >= max(said["order"])
        assert len(store.order_history()) >= len(said["order"])
        assert all(jobs[f"job-{number}"] == {"n": number} for number in said["job"])
        assert len(store.open_intents()) <= len([line for line in lines if line[0] == "epoch"])
        return store.epoch()
    finally:
        store.close()


def kill_again_and_again(path, times, most_lines):
    dice, lines = random.Random(7), []
    for turn in range(times):
        lines += run_and_kill(path, 1 + turn * 1_000_000, dice.randrange(1, most_lines), dice.uniform(0.0, 0.02))
    epochs = [int(number) for kind, number in lines if kind == "epoch"]
    assert epochs == sorted(set(epochs)), "no epoch is given twice"
    assert check_everything(path, lines) > epochs[-1]
    assert len([line for line in lines if line[0] == "job"]) >= times // 2, "the writer hardly wrote"
    print(f"{times} kills, {len(lines)} acknowledgements, none lost")


def test_what_was_acknowledged_survives_a_few_kills(tmp_path):
    kill_again_and_again(tmp_path / "gridpace.db", 4, 16)


@pytest.mark.kill
@pytest.mark.timeout(900)
def test_what_was_acknowledged_survives_many_kills(tmp_path):
    kill_again_and_again(tmp_path / "gridpace.db", max(20, KILLS), 40)
