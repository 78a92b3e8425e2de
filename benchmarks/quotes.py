"""What thousands of clients that ask, bid, buy and cancel cost: latencies, what is lost, and whether control is late.

Daemon (both loops on a simulated hall, its clock the machine's), gateway and the inference server's stand-in run in
processes of their own beside the clients. The clients share keys of fifty tenants and keep their connections.
"""

from __future__ import annotations

import asyncio
import json
import multiprocessing
import random
import tempfile
import time
from collections import Counter
from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field
from itertools import pairwise
from pathlib import Path
from typing import Any

import aiohttp

from benchmarks.batch import cpu_s, server
from benchmarks.support.report import Figures, run, say
from tests.support.daemon import TOKEN
from tests.support.gateway import Desk, asked
from tests.support.ports import free_port

LATE = 2.0
"""A tick is late when it begins this many control periods after the one before."""
TENANTS, MODEL = 50, "tiny"

SITE = """
mode: control
currency: USD
interval: 1m
horizon: 24h
state_dir: state
log_format: journal
sites:
  - {{id: lab, timezone: America/Los_Angeles, price: energy, limit_kw: 400, pue: {{base: 1.2}}}}
pools:
  - {{id: chat, site: lab, gpu_model: A100-400W, count: 256, work: interactive, curve: A100-400W/infer_llama_8b,
     value_per_gpu_h: 5, floor: 0.9, load: 0.7}}
  - {{id: tune, site: lab, gpu_model: A100-400W, count: 512, work: batch, curve: A100-400W/ft_llama_8b_dolly}}
signals:
  - {{id: energy, type: constant, unit: USD/MWh, value: 60}}
api:
  port: {port}
  page: false
  tokens: [{{name: gateway, scope: write, secret: "file:token"}}]
"""


@dataclass(frozen=True)
class Size:
    """Clients, seconds, and seconds that a client thinks between two calls (mean)."""

    clients: int = 5000
    seconds: float = 60.0
    think_s: float = 20.0


FULL = Size()
QUICK = Size(clients=200, seconds=6.0, think_s=1.0)


@dataclass
class Seen:
    """What the clients saw: seconds of each call by kind, answers by kind and status, what they own at the end."""

    took_s: dict[str, list[float]] = field(default_factory=dict)
    answers: Counter[tuple[str, int]] = field(default_factory=Counter)
    failed: int = 0
    bought: dict[str, str] = field(default_factory=dict)
    batches: dict[str, str] = field(default_factory=dict)


def measure(quick: bool, seed: int) -> Figures:
    """The figures, printed on the way."""
    size = QUICK if quick else FULL
    with tempfile.TemporaryDirectory(prefix="gridpace-quotes-") as name, ExitStack() as stack:
        folder = Path(name)
        port = free_port()
        pipe = _daemon(stack, folder / "daemon", port)
        desk = _gateway(stack, folder / "gateway", server(stack), f"http://127.0.0.1:{port}")
        desk.wait(lambda: json.loads(desk.call("GET", "/v1/quotes", _key(0)).content)["made_at"], 120)
        files = [desk.upload(asked([f"w{k}" for k in range(4)]), _key(tenant)) for tenant in range(TENANTS)]
        pipe.send("watch")
        before_s = cpu_s(desk.lives[-1].pid)
        seen = asyncio.run(_crowd(size, desk.url, files, seed))
        spent_s = cpu_s(desk.lives[-1].pid) - before_s
        pipe.send("tell")
        gaps = pipe.recv()
        lost = asyncio.run(_lost(desk.url, seen))
        calls = sum(seen.answers.values())
        figures = _figures(size, seen, gaps) | {"lost": lost + seen.failed, "cpu_ms_per_call": 1e3 * spent_s / calls}
        say(f"CPU time of the gateway, its talk with the daemon included: {figures['cpu_ms_per_call']:.2f} ms a call")
        say(f"lost {figures['lost']}; late ticks {figures['late_ticks']}, longest gap {figures['longest_gap_s']:.2f} s")
        return figures


def _figures(size: Size, seen: Seen, gaps: list[float]) -> dict[str, Any]:
    found: dict[str, Any] = {"clients": size.clients, "calls": sum(seen.answers.values())}
    for kind, seconds in sorted(seen.took_s.items()):
        middle, most = _share(seconds, 0.5), _share(seconds, 0.99)
        codes = {code: count for (name, code), count in sorted(seen.answers.items()) if name == kind}
        say(f"{kind:8} {len(seconds):6} calls, median {middle * 1e3:.0f} ms, p99 {most * 1e3:.0f} ms, answers {codes}")
        found[f"{kind}_p99_s"] = most
    everything = [one for seconds in seen.took_s.values() for one in seconds]
    return found | {
        "p99_s": _share(everything, 0.99),
        "ticks": len(gaps) + 1,
        "late_ticks": sum(gap > LATE for gap in gaps),
        "longest_gap_s": max(gaps),
    }


def _share(values: Sequence[float], share: float) -> float:
    return sorted(values)[min(len(values) - 1, int(share * len(values)))]


# ---------------------------------------------------------------- clients
async def _crowd(size: Size, url: str, files: Sequence[str], seed: int) -> Seen:
    seen, ends = Seen(), time.perf_counter() + size.seconds
    async with aiohttp.ClientSession(url, connector=aiohttp.TCPConnector(limit=0, keepalive_timeout=600)) as session:
        crowd = (
            _client(_Caller(session, seen, _key(n % TENANTS)), n, files, ends, size, seed) for n in range(size.clients)
        )
        await asyncio.gather(*crowd)
    return seen


async def _client(client: _Caller, number: int, files: Sequence[str], ends: float, size: Size, seed: int) -> None:
    """Looks at the prices; now and then asks for a firm quote and buys or cancels it, or bids with a batch and
    withdraws it."""
    dice = random.Random(f"{seed} {number}")
    await asyncio.sleep(dice.uniform(0, min(size.think_s, 0.8 * (ends - time.perf_counter()))))
    while time.perf_counter() < ends:
        await client.call("prices", "GET", "/v1/quotes")
        if dice.random() < 0.3:
            body = {"model": MODEL, "tokens": dice.randrange(1_000, 50_000), "deadline": f"{dice.randrange(4, 24)}h"}
            quote = await client.call("ask", "POST", "/v1/quotes", body)
            if quote is not None and dice.random() < 0.3:
                if await client.call("accept", "POST", f"/v1/quotes/{quote['id']}/accept", {}) is not None:
                    client.seen.bought[quote["id"]] = client.key
            elif quote is not None:
                await client.call("cancel", "DELETE", f"/v1/quotes/{quote['id']}")
        elif dice.random() < 0.15:
            await _bid(client, dice, files[number % TENANTS])
        await asyncio.sleep(max(0.0, min(dice.expovariate(1.0 / size.think_s), ends - time.perf_counter())))


async def _bid(client: _Caller, dice: random.Random, file: str) -> None:
    terms = {"max_price_per_million_tokens": f"{dice.uniform(0.1, 20):.2f}"}
    body = {"input_file_id": file, "endpoint": "/v1/chat/completions", "completion_window": "24h", "metadata": terms}
    batch = await client.call("bid", "POST", "/v1/batches", body)
    if batch is not None:
        client.seen.batches[batch["id"]] = client.key
        await asyncio.sleep(dice.uniform(0.5, 5.0))
        await client.call("withdraw", "POST", f"/v1/batches/{batch['id']}/cancel", {})


@dataclass
class _Caller:
    session: aiohttp.ClientSession
    seen: Seen
    key: str
    etag: str = ""

    async def call(self, kind: str, method: str, path: str, body: Any = None) -> Any:
        """The answer of a 200, else None; a call without any answer counts as lost."""
        start = time.perf_counter()
        try:
            headers = {"Authorization": f"Bearer {self.key}"}
            if kind == "prices" and self.etag:
                headers["If-None-Match"] = self.etag
            async with self.session.request(method, path, json=body, headers=headers) as answer:
                text = await answer.read()
                self.etag = answer.headers.get("ETag", self.etag)
        except aiohttp.ClientError:
            self.seen.failed += 1
            return None
        self.seen.took_s.setdefault(kind, []).append(time.perf_counter() - start)
        self.seen.answers[kind, answer.status] += 1
        self.seen.failed += answer.status >= 500
        return json.loads(text) if answer.status == 200 else None


async def _lost(url: str, seen: Seen) -> int:
    """Quotes that were bought and batches that were taken of which the gateway knows nothing."""
    known: set[str] = set()
    async with aiohttp.ClientSession(url) as session:
        for key in {*seen.bought.values(), *seen.batches.values()}:
            for path in ("/v1/quotes/mine", "/v1/batches?limit=10000"):
                async with session.get(path, headers={"Authorization": f"Bearer {key}"}) as answer:
                    known.update(one["id"] for one in (await answer.json())["data"])
    return len({*seen.bought, *seen.batches} - known)


# ---------------------------------------------------------------- servers
def _key(tenant: int) -> str:
    return f"sk-of-tenant-{tenant}"


def _gateway(stack: ExitStack, folder: Path, upstream: str, daemon: str) -> Desk:
    """A gateway of fifty tenants who may ask a lot."""
    desk = Desk(folder, upstream, daemon, TOKEN, speed=1.2e6)
    path = folder / "gateway.yaml"
    head, _, rest = path.read_text().partition("tenants:\n")
    rows = []
    for tenant in range(TENANTS):
        (folder / f"key-{tenant}").write_text(_key(tenant))
        (folder / f"key-{tenant}").chmod(0o600)
        rows.append(f'  - {{name: t{tenant}, key: "file:key-{tenant}", max_batches: 1000, max_quotes: 1000}}\n')
    tail = "".join(row for row in rest.splitlines(keepends=True) if not row.startswith("  "))
    path.write_text(head + "tenants:\n" + "".join(rows) + tail)
    stack.callback(desk.close)
    desk.start()
    return desk


def _daemon(stack: ExitStack, folder: Path, port: int) -> Any:
    """The pipe to a daemon in a process of its own."""
    folder.mkdir()
    (folder / "token").write_text(TOKEN)
    (folder / "token").chmod(0o600)
    (folder / "gridpace.yaml").write_text(SITE.format(port=port))
    context = multiprocessing.get_context("spawn")
    here, there = context.Pipe()
    process = context.Process(target=_live, args=(there, folder / "gridpace.yaml"))
    process.start()
    stack.callback(process.join, 60)
    stack.callback(here.send, "stop")
    if here.recv() != "ready":
        raise RuntimeError("the daemon did not start")
    return here


def _live(pipe: Any, path: Path) -> None:
    from scheduler.config import load_config
    from scheduler.running import App

    app = App.start(load_config(path))
    ticks, turn = [time.monotonic()], app.metrics.observe_tick

    def seen(tick: Any) -> None:
        ticks.append(time.monotonic())
        turn(tick)

    app.metrics.observe_tick = seen  # type: ignore[method-assign]
    pipe.send("ready")
    while (asked := pipe.recv()) != "stop":
        if asked == "watch":
            ticks[:] = [time.monotonic()]
        else:
            pipe.send([right - left for left, right in pairwise([*ticks, time.monotonic()])])
    app.stop(release=True)


def main(argv: Sequence[str] | None = None) -> None:
    """The command."""
    run("quotes", (__doc__ or "").splitlines()[0], measure, argv)


if __name__ == "__main__":
    main()
