"""Users who begin to wait: from the moment at which a server's metrics show it to full power."""

from __future__ import annotations

import time
from collections.abc import Callable
from datetime import timedelta
from pathlib import Path

from prometheus_client import CollectorRegistry, Histogram, generate_latest

from adapters.latency.vllm import TTFT
from adapters.ports import AdapterError
from scheduler.clock import WallClock
from scheduler.latency import Guard
from scheduler.timing import Timer
from tests.support.loops import Lab, lab
from tests.support.prometheus import Exporter

THRESHOLD_S, FAST_S, SLOW_S = 0.5, 0.1, 2.0
REQUESTS, SLOW_REQUESTS = 5, 2000
"""In a hundredth of a second, and at a slip: more than the window holds, so that the metrics show it at once."""
GIVE_UP_S = 30.0
HOUR = timedelta(hours=1)


def slips(folder: Path, count: int) -> list[float]:
    """Seconds of each of `count` slips, at different moments between two ticks and between two readings: half a second
    between readings and a second between ticks, as is usual. The cards are simulated, everything else is the daemon's.
    RuntimeError where full power does not come."""
    registry = CollectorRegistry()
    first = Histogram(TTFT, "first token", buckets=(0.05, 0.1, 0.25, 0.5, 1.0, 2.5), registry=registry)
    exporter = Exporter(lambda: generate_latest(registry).decode())
    latency = (
        f'latency: {{source: {{type: vllm, url: "http://127.0.0.1:{exporter.port}", window: 2s}}, '
        f"objectives: [{{metric: ttft, threshold: {THRESHOLD_S}s}}]}}"
    )

    def change(text: str) -> str:
        dear = text.replace("value: 60", "value: 4000").replace("up: 10, down: 40", "up: 500, down: 500")
        return dear.replace("floor: 0.9, load: 0.95", f"floor: 0.6, load: 0.7, {latency}")

    folder.mkdir()
    with lab(folder, change, clock=WallClock()) as site:
        guard = site.ctx.latency["chat"]
        timer = Timer(WallClock(), HOUR, site.ctx.timing.control_period, lambda: None, lambda: _tick(site))
        guard.alarm = timer.hurry
        site.plan()
        timer.start()
        try:
            return [_slip(site, guard, first, (k * 0.618) % 1.0) for k in range(count)]
        finally:
            timer.stop()
            exporter.stop()


def _tick(site: Lab) -> None:
    with site.state.lock:
        site.tick()


def _slip(site: Lab, guard: Guard, first: Histogram, phase: float) -> float:
    """Seconds of one slip, as if there had been none before."""
    top_w = site.ctx.pools["chat"].pool.max_cap_w
    _until(lambda: _serve(first, FAST_S) and _forget(site, guard) and site.state.orders["chat"].cap_w < top_w)
    time.sleep(phase)
    began = time.monotonic()
    _serve(first, SLOW_S, SLOW_REQUESTS)
    _until(lambda: site.state.orders["chat"].cap_w == top_w)
    return time.monotonic() - began


def _serve(first: Histogram, seconds: float, requests: int = REQUESTS) -> bool:
    for _ in range(requests):
        first.observe(seconds)
    return True


def _forget(site: Lab, guard: Guard) -> bool:
    """Let the guard know of no slip; whether its readings tell of none any more either."""
    with site.state.lock:
        for book in guard.books.values():
            book.cells.clear()
        guard.floor = 0.0
    try:
        histogram = guard.source.read().histograms.get("ttft")
    except AdapterError:
        return False
    seen = histogram.quantile(0.95) if histogram is not None else None
    return seen is not None and seen < THRESHOLD_S


def _until(true: Callable[[], object]) -> None:
    ends = time.monotonic() + GIVE_UP_S
    while not true():
        if time.monotonic() > ends:
            raise RuntimeError("full power did not come, or was not left")
        time.sleep(0.01)
