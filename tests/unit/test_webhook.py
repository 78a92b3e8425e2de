"""The signed webhook: what is genuine comes through whole, all else is refused without a hint and without a trace."""

import json
import re
import subprocess
import threading
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from adapters.dr.simulated import SimulatedUtility
from adapters.dr.webhook import BODY_LIMIT, Webhook, parse_event, sign
from adapters.ports import EventRefused, EventTarget
from scheduler.store.store import Store
from tests.support.system import require

REAL = datetime(2026, 3, 1, 12, tzinfo=UTC)
SITE_TIME = datetime(2022, 9, 6, 23, tzinfo=UTC)
HOUR = timedelta(hours=1)
SECRET = b"a-secret-of-the-utility"
FIELDS = {"id": "flex-1", "version": 2, "site": "sv", "start": "now", "duration": "PT2H", "limit_kw": 3000}


class Wall:
    def __init__(self):
        self.now = REAL

    def __call__(self):
        return self.now


@pytest.fixture
def wall():
    return Wall()


@pytest.fixture
def store(tmp_path, wall):
    opened = Store.open(tmp_path / "gridpace.db", wall=wall)
    yield opened
    opened.close()


@pytest.fixture
def webhook(store, wall):
    return Webhook({"pge": SECRET, "other": b"another-secret-entirely"}, store, wall)


def signed(body=None, secret=SECRET, at=REAL, nonce="nonce-0001", key="pge"):
    body = json.dumps(FIELDS).encode() if body is None else body
    return sign(secret, body, int(at.timestamp()), nonce, key), body


def refusal(webhook, headers, body):
    with pytest.raises(EventRefused) as refused:
        webhook.receive(headers, body, SITE_TIME)
    return refused.value.status, str(refused.value)


def test_a_genuine_message_comes_through_in_the_sites_own_time(webhook):
    headers, body = signed()
    message = webhook.receive({name.upper(): value for name, value in headers.items()}, body, SITE_TIME)
    assert (message.id, message.version, message.site, message.program, message.source) == (
        "flex-1",
        2,
        "sv",
        "pge",
        "webhook",
    )
    assert message.targets == (EventTarget(SITE_TIME, SITE_TIME + 2 * HOUR, limit_kw=3000.0),)
    assert message.raw == FIELDS


def forged(change):
    headers, body = signed()
    return change(dict(headers), body)


@pytest.mark.parametrize(
    "change",
    [
        lambda headers, body: ({}, body),
        lambda headers, body: (headers, body.replace(b"3000", b"9000")),
        lambda headers, body: (headers | {"X-Gridpace-Nonce": "nonce-0002"}, body),
        lambda headers, body: (headers | {"X-Gridpace-Timestamp": str(int(REAL.timestamp()) + 1)}, body),
        lambda headers, body: (headers | {"X-Gridpace-Key-Id": "other"}, body),
        lambda headers, body: (headers | {"X-Gridpace-Key-Id": "nobody"}, body),
        lambda headers, body: (headers | {"X-Gridpace-Signature": "é\ud800" * 32}, body),
        lambda headers, body: signed(key="nobody", secret=b"\0" * 32),
        lambda headers, body: signed(secret=b"a-secret-of-the-utilitx"),
        lambda headers, body: signed(nonce="short"),
        lambda headers, body: signed(nonce="nonce-0001\n"),
        lambda headers, body: signed(at=REAL - timedelta(seconds=301)),
        lambda headers, body: signed(at=REAL + timedelta(seconds=301)),
        lambda headers, body: signed(at=SITE_TIME),
    ],
)
def test_whatever_is_not_genuine_gets_the_same_answer_and_leaves_no_trace(webhook, store, change):
    assert refusal(webhook, *forged(change)) == (401, "not authenticated")
    assert store.all("nonce") == {}


def test_a_captured_message_is_refused_after_a_restart_and_after_the_clock_was_set_back(webhook, store, wall):
    headers, body = signed()
    webhook.receive(headers, body, SITE_TIME)
    assert refusal(webhook, headers, body)[0] == 401
    wall.now += timedelta(seconds=299)
    again = Webhook({"pge": SECRET}, store, wall)
    assert refusal(again, headers, body)[0] == 401
    wall.now += HOUR
    again.receive(*signed(at=wall.now, nonce="nonce-0003"), SITE_TIME)
    wall.now = REAL
    assert refusal(again, headers, body)[0] == 401
    assert again.receive(*signed(nonce="nonce-0004"), SITE_TIME).id == "flex-1"


@pytest.mark.parametrize(
    ("body", "status", "said"),
    [
        (b"{", 400, "not JSON"),
        (b"\xff\xfe", 400, "not JSON"),
        (b"[" * 60_000, 400, "not JSON"),
        (b"[]", 422, "object"),
        ({"limit_kw": float("nan")}, 422, "limit_kw: Input should be a finite number"),
        ({"limit_kw": -1, "colour": "x"}, 422, "limit_kw: .*; colour: Extra inputs"),
        ({"limit_kw": "3000"}, 422, "limit_kw"),
        ({"reduce_kw": 1}, 422, "exactly one of"),
        ({"limit_kw": None}, 422, "exactly one of"),
        ({"limit_kw": None, "reduce_percent": 101}, 422, "reduce_percent"),
        ({"start": "2022-09-06T12:00:00"}, 422, "start: .*timezone"),
        ({"start": 1662500000}, 422, "start"),
        ({"duration": None}, 422, "end: give either end or duration"),
        ({"duration": "P9999Y"}, 422, "end: .* 9999"),
        ({"duration": "-PT1H"}, 422, "duration"),
        ({"version": True}, 422, "version"),
        ({"limit_kw": None, "targets": [{"limit_kw": 1}, {"limit_kw": 2}]}, 422, r"targets\[1\].start"),
        ({"limit_kw": None, "targets": [{"limit_kw": 1, "reduce_kw": 2}]}, 422, r"targets\[0\]: .*exactly one"),
    ],
)
def test_a_malformed_body_is_refused_with_the_name_of_the_field(webhook, body, status, said):
    body = body if isinstance(body, bytes) else json.dumps(FIELDS | body).encode()
    got, text = refusal(webhook, *signed(body))
    assert got == status
    assert re.search(said, text), text


def test_a_body_that_is_too_large_is_refused_before_anything_else(webhook):
    assert refusal(webhook, {}, b" " * (BODY_LIMIT + 1))[0] == 413
    assert refusal(webhook, {}, b" " * BODY_LIMIT)[0] == 401


def test_targets_follow_each_other_and_a_cancellation_needs_no_targets():
    body = FIELDS | {
        "limit_kw": None,
        "targets": [{"end": "2022-09-07T05:30:00+05:30", "limit_kw": 3}, {"reduce_percent": 5}],
    }
    message = parse_event(json.dumps(body).encode(), SITE_TIME, program="p", source="s")
    middle = SITE_TIME + HOUR
    assert message.targets == (
        EventTarget(SITE_TIME, middle, limit_kw=3.0),
        EventTarget(middle, SITE_TIME + 2 * HOUR, reduce_percent=5.0),
    )
    bare = parse_event(b'{"id":"flex-1","version":3,"site":"sv","cancelled":true}', SITE_TIME, program="p", source="s")
    assert (bare.cancelled, bare.version, bare.targets) == (True, 3, ())


def test_a_secret_that_is_none_is_refused_at_the_start(store, wall):
    with pytest.raises(ValueError, match="program pge has less than 16 bytes"):
        Webhook({"pge": b""}, store, wall)


def test_the_recipe_of_the_manual_signs_as_the_daemon_expects(webhook, tmp_path):
    require("bash", "openssl")
    page = (Path(__file__).resolve().parents[2] / "docs" / "dr-webhook.md").read_text()
    script = re.search(r"```bash\n(.*?)```", page, re.DOTALL)[1]
    # The manual's last command sends; here it prints what would be sent.
    (tmp_path / "curl").write_text('#!/bin/bash\nprintf "%s\\n" "$@"\n')
    (tmp_path / "curl").chmod(0o755)
    (tmp_path / "secret").write_bytes(SECRET + b"\n")  # as editors and `echo` leave it; the daemon drops it too
    environment = {"PATH": f"{tmp_path}:/usr/bin:/bin", "SECRET_FILE": str(tmp_path / "secret"), "PROGRAM": "pge"}
    run = subprocess.run(["bash", "-eu"], input=script, capture_output=True, text=True, env=environment, check=True)
    sent = run.stdout.split("\n")
    headers = dict(line.split(": ", 1) for line in sent if line.startswith("X-Gridpace-"))
    body = next(line for line in sent if line.startswith("{"))
    webhook._wall = lambda: datetime.now(UTC)
    assert webhook.receive(headers, body.encode(), SITE_TIME).id == "flex-2022-09-06"


def test_the_scripted_utility_sends_each_message_once_when_it_is_due():
    message = parse_event(json.dumps(FIELDS).encode(), SITE_TIME, program="p", source="script")
    utility = SimulatedUtility([(SITE_TIME + HOUR, message), (SITE_TIME, message)])
    assert [len(utility.poll(SITE_TIME + hours * HOUR)) for hours in (-1, 0, 0, 3, 3)] == [0, 1, 0, 1, 0]


def test_of_a_message_that_comes_many_times_at_once_one_counts(webhook, store):
    headers, body = signed()
    taken, refused = [], []

    def send():
        try:
            taken.append(webhook.receive(headers, body, SITE_TIME))
        except EventRefused as error:
            refused.append(error.status)

    threads = [threading.Thread(target=send) for _ in range(8)]
    with store._database.lock:  # all are past the signature before the first nonce is on disk
        for thread in threads:
            thread.start()
        while len(refused) < len(threads) - 1:
            threading.Event().wait(0.001)
    for thread in threads:
        thread.join()
    assert len(taken) == 1
    assert refused == [401] * 7
