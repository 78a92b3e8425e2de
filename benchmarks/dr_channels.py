"""From the utility's order to the ledger and the first lower cap, per channel; and a flood of ten thousand events.

Every channel has a real peer: HTTP with the signed webhook, the operator's request, Mosquitto with a DSX Flex isv,
openleadr's OpenADR 2.0b server, our OpenADR 3 server. The daemon is whole (planner, both loops, API, books on disk) on
simulated cards. Polled channels wait for their poll, by default 1 s here; what the wire and the daemon add is told
beside it. Both floods are of ten thousand: load targets through the broker within a minute, and webhooks as fast as
they are answered.
"""

from __future__ import annotations

import argparse
import json
import logging
import tempfile
import threading
import time
import uuid
import warnings
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass
from datetime import datetime, timedelta
from functools import partial
from itertools import pairwise
from multiprocessing import get_context
from pathlib import Path
from random import Random
from statistics import median
from typing import Any

import pytest
import requests
import structlog

from adapters.dr.webhook import sign
from benchmarks.support.dr_site import SITE
from benchmarks.support.report import Figures, run, say, spread
from scheduler.config import load_config
from scheduler.running import App
from tests.support.dr_peers import SECRET, Peer, now, peer
from tests.support.dsx_isv import target
from tests.support.ports import free_port

TOKEN = "a-token-for-benchmarks-only"
CHANNELS = ("webhook", "operator", "dsxflex", "openadr2", "openadr3")
DEADLINE_S = 30.0
LATE = 2.0
"""A tick is late when it begins this many control periods after the one before."""


@dataclass(frozen=True)
class Size:
    """Orders for each channel; load targets of the flood, over so many seconds; webhooks and their senders."""

    channels: tuple[str, ...] = CHANNELS
    orders: int = 5
    flood: int = 10_000
    flood_s: float = 60.0
    webhooks: int = 10_000
    senders: int = 8


FULL = Size()
QUICK = Size(orders=2, flood=500, flood_s=3.0, webhooks=100)
PARTS = ("channels", "flood", "webhooks")


def measure(quick: bool, seed: int, parts: Sequence[str] = ()) -> Figures:
    """The figures of these parts (none named: of all), printed on the way; `seed` orders the floods."""
    size, parts = QUICK if quick else FULL, parts or PARTS
    figures = _channels(size) if "channels" in parts else {}
    return figures | (_floods(size, Random(seed), parts) if {"flood", "webhooks"} & set(parts) else {})


def _channels(size: Size) -> dict[str, Any]:
    """Every channel that this machine has a peer for."""
    found: dict[str, tuple[float, float]] = {}
    for name in size.channels:
        try:
            found[name] = _channel(name, size)
        except (pytest.skip.Exception, pytest.fail.Exception) as missing:
            say(f"{name} is not measured: {missing}")
    return {
        "first_cap_ms": {name: round(cap_ms, 1) for name, (_, cap_ms) in found.items()},
        "ledger_ms": {name: round(ledger_ms, 1) for name, (ledger_ms, _) in found.items()},
    }


def _channel(name: str, size: Size) -> tuple[float, float]:
    """Median milliseconds from the order to the ledger and to the first lower cap."""
    with (
        tempfile.TemporaryDirectory(prefix="gridpace-dr-") as folder,
        peer(name, Path(folder)) as utility,
        _daemon(Path(folder), utility) as app,
    ):
        times = [_one_order(app, utility) for _ in range(size.orders)]
    ledger, cap = ([row[column] for row in times] for column in range(2))
    say(f"{name:<9} to the ledger {spread(ledger, '.0f')} ms; to the first lower cap {spread(cap, '.0f')} ms")
    return median(ledger), median(cap)


def _one_order(app: App, utility: Peer) -> tuple[float, float]:
    """One event from now on, and its end again. RuntimeError when it does not arrive."""
    ctx, state = app.parts.ctx, app.parts.state
    free = {pool: order.cap_w for pool, order in state.orders.items()}
    began, start = time.perf_counter(), now()
    utility.order([(start, start + timedelta(hours=1), "limit", 38.0)])
    ledger_s = _until(lambda: ctx.ledger.running(ctx.clock.now())) - began
    cap_s = _until(lambda: any(order.cap_w < free[pool] for pool, order in state.held.items())) - began
    utility.cancel()
    _until(lambda: not ctx.ledger.running(ctx.clock.now()))
    _until(lambda: all(order.cap_w >= free[pool] for pool, order in state.held.items()))
    utility.next_event()
    return 1000 * ledger_s, 1000 * cap_s


def _until(true: Any) -> float:
    """When something held at last."""
    ends = time.perf_counter() + DEADLINE_S
    while not true():
        if time.perf_counter() > ends:
            raise RuntimeError(f"it did not happen within {DEADLINE_S:.0f} s")
        time.sleep(0.001)
    return time.perf_counter()


@contextmanager
def _daemon(folder: Path, utility: Peer) -> Iterator[App]:
    """A whole daemon whose program is told by this utility, once it controls."""
    port = free_port()
    for name, secret in (("secret", SECRET.decode()), ("token", TOKEN)):
        (folder / name).write_text(secret)
        (folder / name).chmod(0o600)
    (folder / "gridpace.yaml").write_text(SITE.format(channel=utility.channel, port=port))
    app = App.start(load_config(folder / "gridpace.yaml"))
    try:
        utility.site = _Over(app, port)
        utility.connected()
        _until(lambda: app.parts.state.held and app.parts.state.plan is not None)
        yield app
    finally:
        app.stop(release=True)


class _Over:
    """The daemon as peers see it: its parts, and its API over HTTP in the place of its face."""

    def __init__(self, app: App, port: int) -> None:
        self.parts, self.facade, self._url = app.parts, self, f"http://127.0.0.1:{port}"
        self._http = requests.Session()

    def receive_event(self, program: str, headers: dict[str, str], body: bytes) -> Any:
        """POST to the webhook."""
        return self._posted(f"/dr/{program}", headers, body)

    def add_event(self, fields: dict[str, Any], by: str) -> Any:
        """POST by the operator's hand."""
        head = {"Authorization": f"Bearer {TOKEN}"}
        return self._posted("/api/v1/events", head, json.dumps(fields).encode())

    def _posted(self, path: str, headers: dict[str, str], body: bytes) -> Any:
        answer = self._http.post(
            self._url + path, data=body, headers={"Content-Type": "application/json", **headers}, timeout=DEADLINE_S
        )
        answer.raise_for_status()
        return answer.json()


# ---------------------------------------------------------------- the floods
def _watched(app: App) -> list[float]:
    """The moments of all ticks from now on."""
    ticks, turn = [time.monotonic()], app.metrics.observe_tick

    def seen(tick: Any) -> None:
        ticks.append(time.monotonic())
        turn(tick)

    app.metrics.observe_tick = seen  # type: ignore[method-assign]
    return ticks


def _lateness(app: App, ticks: list[float]) -> tuple[int, float]:
    """Ticks that began late, and the longest time without one, in seconds."""
    gaps = [right - left for left, right in pairwise([*ticks, time.monotonic()])]
    period_s = app.parts.ctx.timing.control_period.total_seconds()
    return sum(gap > LATE * period_s for gap in gaps), max(gaps)


def _floods(size: Size, random: Random, parts: Sequence[str]) -> dict[str, Any]:
    """The floods, on one daemon."""
    with tempfile.TemporaryDirectory(prefix="gridpace-dr-flood-") as folder, ExitStack() as opened:
        name = "dsxflex" if "dsxflex" in size.channels and "flood" in parts else "webhook"
        utility = opened.enter_context(peer(name, Path(folder)))
        app = opened.enter_context(_daemon(Path(folder), utility))
        flood = _flood(app, utility, size, random) if name == "dsxflex" else {}
        return flood | (_webhooks(app, size, random) if "webhooks" in parts else {})


def _flood(app: App, utility: Peer, size: Size, random: Random) -> dict[str, Any]:
    """Load targets of a minute through the broker: how long until the last one holds, which windows are wrong then, and
    how late control was meanwhile."""
    windows = [now() + timedelta(hours=6 + 2 * number) for number in range(40)]
    ticks, begin = _watched(app), time.monotonic()
    said: dict[datetime, float | None] = {}
    for number in range(size.flood):
        start = random.choice(windows)
        said[start] = None if random.random() < 0.05 else float(random.randrange(30, 45))
        utility.isv.post(target(said[start], start, start + timedelta(hours=1)))
        time.sleep(max(0.0, begin + size.flood_s * number / size.flood - time.monotonic()))
    sent_s = time.monotonic() - begin
    with suppress(RuntimeError):
        _until(lambda: not _wrong(app, said))
    seconds, wrong = time.monotonic() - begin, _wrong(app, said)
    late, longest_s = _lateness(app, ticks)
    say(f"{size.flood} load targets in {sent_s:.1f} s through the broker; {wrong} windows wrong after {seconds:.1f} s")
    say(f"  {len(ticks)} ticks meanwhile, late {late}, the longest time without one {longest_s:.2f} s")
    return {
        "flood_events": size.flood,
        "flood_seconds": seconds,
        "flood_late_ticks": late,
        "flood_longest_gap_s": longest_s,
        "flood_wrong": wrong,
    }


def _wrong(app: App, said: dict[datetime, float | None]) -> int:
    """Windows in which the ledger does not hold what was said last."""
    active = app.parts.ctx.ledger.active(app.parts.ctx.clock.now())
    held = {event.start: event.targets[-1].value for event in active if event.program == "elrp"}
    return sum(held.get(start) != kw for start, kw in said.items())


def _webhooks(app: App, size: Size, random: Random) -> dict[str, Any]:
    """Signed events one after the other, as fast as they are answered: each is on disk before its answer."""
    ticks, said, cpu_s = _watched(app), _messages(size.webhooks, random), time.process_time()
    failed, seconds = _sent(app, said, size)
    cpu_ms = 1000 * (time.process_time() - cpu_s) / len(said)
    wrong = _newest(app, said)
    late, longest_s = _lateness(app, ticks)
    rate = (len(said) - failed) / seconds
    say(
        f"{len(said)} webhooks by {size.senders} senders: {rate:.0f} a second, {failed} not acknowledged, {wrong} wrong"
    )
    say(f"  {cpu_ms:.1f} ms of the daemon's processor time each, both loops included, the planner's child not")
    say(f"  {len(ticks)} ticks meanwhile, late {late}, the longest time without one {longest_s:.2f} s")
    return {
        "webhooks_per_s": rate,
        "webhooks_cpu_ms": cpu_ms,
        "webhooks_in_a_minute": 60.0 * rate,
        "webhooks_lost": failed,
        "webhooks_wrong": wrong,
        "webhooks_late_ticks": late,
        "webhooks_longest_gap_s": longest_s,
    }


def _messages(count: int, random: Random) -> list[dict[str, Any]]:
    """Versions of a few hundred events, repeats, stale ones and cancellations among them."""
    start = now() + timedelta(hours=6)
    versions: dict[str, int] = {}
    found: list[dict[str, Any]] = []
    for _ in range(count):
        name = f"f{random.randrange(max(1, count // 25))}"
        kind = random.random()
        if kind < 0.1 and found:
            found.append(found[random.randrange(len(found))])
            continue
        versions[name] = versions.get(name, -1) + 1
        fields = {"id": name, "version": versions[name], "site": "lab"}
        span = {"start": start.isoformat(), "duration": "PT1H", "limit_kw": float(random.randrange(30, 45))}
        found.append({**fields, "cancelled": True} if kind < 0.15 else {**fields, **span})
    return found


def _sent(app: App, said: list[dict[str, Any]], size: Size) -> tuple[int, float]:
    """Send all from a process of its own; how many were not acknowledged, and how long it took."""
    mine, theirs = get_context("spawn").Pipe()
    sender = get_context("spawn").Process(target=_send_all, args=(theirs, app.parts.config.api.port, said, size))
    sender.start()
    try:
        failed, seconds = mine.recv()
    finally:
        sender.join()
    return failed, seconds


def _send_all(pipe: Any, port: int, said: list[dict[str, Any]], size: Size) -> None:
    """The utility's process: threads with a connection each."""
    begin, failed = time.monotonic(), []

    def send(part: int) -> None:
        http = requests.Session()
        for number in range(part, len(said), size.senders):
            body = json.dumps(said[number]).encode()
            headers = sign(SECRET, body, int(time.time()), uuid.uuid4().hex, "hook")
            headers["Content-Type"] = "application/json"
            try:
                http.post(f"http://127.0.0.1:{port}/dr/hook", data=body, headers=headers, timeout=60).raise_for_status()
            except requests.RequestException:
                failed.append(number)

    threads = [threading.Thread(target=send, args=(part,)) for part in range(size.senders)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    pipe.send((len(failed), time.monotonic() - begin))


def _newest(app: App, said: list[dict[str, Any]]) -> int:
    """Events that the ledger does not hold in the state of their highest version."""
    newest: dict[str, dict[str, Any]] = {}
    for message in said:
        if message["version"] >= newest.get(message["id"], {"version": -1})["version"]:
            newest[message["id"]] = message
    held = {event.id: event for event in app.parts.ctx.ledger.active(app.parts.ctx.clock.now())}
    wrong = 0
    for name, message in newest.items():
        event = held.get(name)
        kw = event.targets[-1].value if event is not None else None
        wrong += kw != (None if message.get("cancelled") else message["limit_kw"])
    return wrong


def main(argv: list[str] | None = None) -> None:
    """Run from the command line, `--part NAME` for a part of it; the daemon's own log is left out."""
    structlog.configure(wrapper_class=structlog.make_filtering_bound_logger(logging.ERROR))
    options = argparse.ArgumentParser(add_help=False)
    options.add_argument("--part", action="append", default=[], choices=PARTS)
    asked, others = options.parse_known_args(argv)
    run("dr_channels", __doc__.splitlines()[0], partial(measure, parts=asked.part), others)


if __name__ == "__main__":
    warnings.simplefilter("ignore")  # of the peers' libraries
    logging.disable(logging.WARNING)
    main()
