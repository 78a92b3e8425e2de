"""The latency guard over a real inference server on the CPU: what its users wait for is measured, and when nobody can
wait for the next tick it is not waited for. Only the cards are simulated."""

import json
import threading
import time
from contextlib import contextmanager
from datetime import timedelta

import pytest
import requests
from prometheus_client import CollectorRegistry, Histogram, generate_latest

from adapters.latency.vllm import ITL, TTFT, parsed
from adapters.ports import AdapterError
from scheduler.clock import WallClock
from scheduler.running import App
from tests.support import system
from tests.support.llama import llama_server
from tests.support.loops import lab
from tests.support.power_worlds import wait_until
from tests.support.prometheus import Exporter
from tests.unit.test_latency_guard import TOP_W, users

WAITING = "llamacpp:requests_deferred"


@pytest.fixture(scope="module")
def llama():
    system.require("gcc")
    with llama_server() as url:
        yield url


class Users:
    """They stream answers, and keep the histograms that vLLM would: llama.cpp's server tells sums alone."""

    def __init__(self, url):
        self.url, self.gone = url, threading.Event()
        self.registry, self.threads = CollectorRegistry(), []
        bounds = [0.001 * 1.5**k for k in range(30)]
        self.first = Histogram(TTFT, "first token", buckets=bounds, registry=self.registry)
        self.between = Histogram(ITL[0], "between tokens", buckets=bounds, registry=self.registry)

    def metrics(self):
        """What a scrape of the server tells, with the histograms beside its own figures."""
        return generate_latest(self.registry).decode() + requests.get(f"{self.url}/metrics", timeout=20).text

    def ask(self, tokens=30):
        """One answer; seconds to its first token."""
        body = {
            "messages": [{"role": "user", "content": "so?"}],
            "max_tokens": tokens,
            "stream": True,
            "ignore_eos": True,
        }
        begun, first_s = time.monotonic(), None
        with requests.post(f"{self.url}/v1/chat/completions", json=body, stream=True, timeout=120) as answer:
            last = begun
            for line in answer.iter_lines():
                if not line.startswith(b"data: {") or not told(line):
                    continue
                now = time.monotonic()
                if first_s is None:
                    first_s = now - begun
                    self.first.observe(first_s)
                else:
                    self.between.observe(now - last)
                last = now
        return first_s

    def crowd(self, count):
        """So many at once, again and again."""
        self.threads = [threading.Thread(target=self._stay) for _ in range(count)]
        for thread in self.threads:
            thread.start()

    def _stay(self):
        while not self.gone.is_set():
            self.ask(tokens=100)

    def leave(self):
        self.gone.set()
        for thread in self.threads:
            thread.join(120)


def told(line):
    """Whether a piece of a stream carries some of the answer."""
    choices = json.loads(line.removeprefix(b"data: ")).get("choices") or [{}]
    return choices[0].get("delta", {}).get("content") is not None


@contextmanager
def guarded(folder, llama):
    """A site whose chat pool's users wait at most ten times as long as they do alone, and both loops under the daemon's
    own timer, which ticks once an hour."""
    users_there = Users(llama)
    alone_s = sorted(users_there.ask() for _ in range(20))[18]
    exporter = Exporter(users_there.metrics)
    source = (
        f'{{type: vllm, url: "http://127.0.0.1:{exporter.port}", every: 0.2s, window: 2s, '
        f'waiting_metric: "{WAITING}", timeout: 5s}}'
    )

    def change(text):
        text = users(text).replace("{type: simulated}", source).replace("interval: 5m", "interval: 1h")
        text = text.replace("{metric: ttft, threshold: 1.3s}, {metric: itl, threshold: 0.06s}",
                            f"{{metric: ttft, threshold: {10 * alone_s:.4f}s}}")  # fmt: skip
        return text.replace("horizon: 12h", "horizon: 12h\ncontrol_period: 1h\nverify_every: 1h")

    with lab(folder, change, clock=WallClock()) as site:
        try:
            yield site, App(site.parts), users_there
        finally:
            users_there.leave()
            exporter.stop()


def alarms_of(guard, clock):
    """When readings showed a slip, in the thread that read them."""
    told, alarm = [], guard.alarm

    def tell():
        told.append(clock.now())
        alarm()

    guard.alarm = tell
    return told


@pytest.mark.timeout(120)
def test_users_of_a_real_server_who_begin_to_wait_get_their_power_back_between_two_ticks(tmp_path, llama):
    with guarded(tmp_path, llama) as (site, app, crowd):
        source = site.ctx.latency["chat"].source
        wait_until(lambda: not said(source) and source.read().histograms["ttft"].total == 0, 60)  # nobody asks now
        site.plan()
        site.tick()
        assert site.tick().cap_w["chat"] < 250, "throttled, and nothing is known of latencies yet"
        guard = site.ctx.latency["chat"]
        alarms = alarms_of(guard, site.clock)
        app.timer.start()
        try:
            wait_until(lambda: site.state.ticks == 3, 60)
            assert site.state.tick.cap_w["chat"] < 250
            crowd.crowd(48)
            wait_until(lambda: site.state.tick.cap_w["chat"] == TOP_W, 90)  # until so many have waited
            assert (guard.state.value, guard.floor) == ("slipping", 1.0)
            assert site.state.ticks == 4, "the next one by the clock is an hour away"
            acted = site.state.tick.at + timedelta(seconds=site.state.tick.seconds)
            assert timedelta() <= acted - alarms[0] < timedelta(seconds=1), "from the reading to full power"
        finally:
            app.timer.stop()


def test_what_a_server_without_histograms_tells_is_its_queue_and_no_latency(tmp_path, llama):
    text = requests.get(f"{llama}/metrics", timeout=20).text
    counters, waiting = parsed(text, {"ttft": (TTFT,), "itl": ITL}, WAITING)
    assert (counters, waiting) == ({}, 0.0)
    plain = f'{{type: vllm, url: "{llama}", every: 0.1s, waiting_metric: "{WAITING}", timeout: 5s}}'
    with lab(tmp_path, lambda made: users(made).replace("{type: simulated}", plain), clock=WallClock()) as site:
        wait_until(lambda: f"no histogram {TTFT}" in said(site.ctx.latency["chat"].source), 30)


def said(source):
    """Why it tells nothing; "" when it does."""
    try:
        source.read()
    except AdapterError as error:
        return str(error)
    return ""
