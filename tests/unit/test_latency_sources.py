"""Where latencies come from: servers in vLLM's words, asked themselves and through a real Prometheus."""

import time
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

import pytest
from prometheus_client import CollectorRegistry, Gauge, Histogram, generate_latest

from adapters.context import AdapterContext
from adapters.latency.prometheus import PrometheusLatency, PrometheusLatencyConfig
from adapters.latency.vllm import ITL, TTFT, WAITING, VllmConfig, VllmLatency
from adapters.meters.prometheus import PrometheusConfig, PrometheusMeter
from adapters.ports import AdapterError
from scheduler.clock import WallClock
from scheduler.latency_book import place_of
from tests.support.loops import lab
from tests.support.power_worlds import wait_until
from tests.support.prometheus import Exporter, dcgm, shared, wait_for_scrapes
from tests.unit.test_latency_guard import TOP_W, users

TOKEN_BOUNDS = (0.01, 0.025, 0.05, 0.1, 0.5)
BOUNDS = (0.1, 0.25, 0.5, 0.75, 1.0, 2.5, 5.0)


class Served:
    """A stand-in for a vLLM server: its metrics, and requests that the test says it served."""

    def __init__(self):
        self.begin_anew()
        self.exporter = Exporter(lambda: generate_latest(self.registry).decode())
        self.url = f"http://127.0.0.1:{self.exporter.port}"

    def begin_anew(self):
        self.registry = CollectorRegistry()
        self.first = Histogram(TTFT, "t", ["model_name"], buckets=BOUNDS, registry=self.registry).labels("chat")
        self.between = Histogram(ITL[0], "t", ["model_name"], buckets=TOKEN_BOUNDS, registry=self.registry).labels(
            "chat"
        )
        self.waiting = Gauge(WAITING, "t", ["model_name"], registry=self.registry).labels("chat")

    def serve(self, seconds, requests=50):
        for _ in range(requests):
            self.first.observe(seconds)
            self.between.observe(seconds / 10)


@contextmanager
def source_of(make, config, **values):
    source = make(config.model_validate(values), AdapterContext(WallClock(), Path()))
    try:
        yield source
    finally:
        source.close()


def told(source):
    """What it says now; nothing while it has nothing to say."""
    try:
        return source.read()
    except AdapterError:
        return None


def seen_s(source):
    """Of how many seconds its first tokens are judged."""
    reading = told(source)
    return reading.seen("ttft")[1] if reading else None


def p95(source):
    reading = told(source)
    histogram = reading.histograms.get("ttft") if reading else None
    return histogram.quantile(0.95) if histogram else None


def test_servers_are_asked_themselves_together_and_only_for_what_came_lately():
    one, two = Served(), Served()
    one.serve(0.05, 5000)  # long ago
    asked = {"type": "vllm", "url": one.url, "others": [two.url], "every": "0.05s", "window": "1s", "timeout": "5s"}
    with source_of(VllmLatency, VllmConfig, **asked) as source:
        wait_until(lambda: told(source) is not None)
        one.serve(0.2), two.serve(2.0), two.waiting.set(4)
        wait_until(lambda: told(source).histograms["ttft"].total == 100)
        reading = told(source)
        assert 1.0 < reading.histograms["ttft"].quantile(0.95) <= 2.5
        assert reading.histograms["ttft"].quantile(0.4) <= 0.25
        assert (reading.waiting, reading.lost) == (4, ())
        wait_until(lambda: told(source).histograms["ttft"].total == 0)  # a second later nobody is served
        longer, span_s = told(source).seen("ttft")
        assert (longer.total, 1 < span_s < 10) == (100, True), "but a little before"
        two.begin_anew()
        two.serve(0.6, 10)  # fewer than before: its counters begin anew
        wait_until(lambda: told(source).waiting == 0)
        two.serve(0.3, 20)
        wait_until(lambda: told(source).histograms["ttft"].total in {20, 30})
        two.exporter.stop()
        wait_until(lambda: told(source) is not None and told(source).lost == (two.url,))
        one.exporter.stop()
        wait_until(lambda: told(source) is None, 20)
        with pytest.raises(AdapterError, match=one.url):
            source.read()


def test_a_server_without_the_histograms_is_named_with_what_it_lacks():
    exporter = Exporter(lambda: "llamacpp:requests_processing 1")
    asked = {"type": "vllm", "url": f"http://127.0.0.1:{exporter.port}", "every": "0.05s", "timeout": "5s"}
    with source_of(VllmLatency, VllmConfig, **asked) as source:
        wait_until(lambda: "no histogram" in said(source))
        assert TTFT in said(source)
    exporter.stop()


def said(source):
    try:
        source.read()
    except AdapterError as error:
        return str(error)
    return ""


def test_a_real_prometheus_tells_the_same_and_how_old_it_is():
    url, exporter = shared()
    server = Served()
    exporter.text = server.exporter.text
    wait_for_scrapes(url, exporter)
    asked = {"type": "prometheus", "url": url, "window": "10s", "every": "0.2s", "timeout": "5s", "max_age": "5s"}
    with source_of(PrometheusLatency, PrometheusLatencyConfig, **asked, selector='model_name="chat"') as source:
        server.waiting.set(3)
        server.serve(0.6)
        wait_until(lambda: p95(source) is not None and 0.5 < p95(source) <= 0.75, 30)
        reading = told(source)
        assert reading.waiting == 3
        assert 0 <= reading.age_s < 5
        assert 0.01 < reading.histograms["itl"].quantile(0.5) <= 0.1
        with source_of(PrometheusLatency, PrometheusLatencyConfig, **(asked | {"window": "2s"})) as short:
            wait_until(lambda: seen_s(short) == 300.0, 30)  # nobody came in the last two seconds
            assert told(short).seen("ttft")[0].total >= 45
            assert 0.5 < told(short).seen("ttft")[0].quantile(0.95) <= 0.75
        exporter.text = lambda: "up_and_running 1"
        wait_until(lambda: told(source) is None, 60)
        assert "no series of" in said(source) or "too old" in said(source)
    server.exporter.stop()


@pytest.mark.timeout(120)
def test_a_floor_comes_from_vllm_and_dcgm_through_one_prometheus(tmp_path):
    """Both through a real Prometheus: how long users wait, and by the cards' power how many of them work."""
    url, exporter = shared()
    server = Served()
    told_by = f'{{type: prometheus, url: "{url}", window: 5s, every: 0.2s, timeout: 5s}}'
    with lab(tmp_path, lambda text: users(text).replace("{type: simulated}", told_by), clock=WallClock()) as site:
        pools = [model.pool for model in site.ctx.pools.values()]
        pool_of = {f"GPU-{pool.id}-{k}": pool.id for pool in pools for k in range(pool.count)}
        chat = [uuid for uuid, pool in pool_of.items() if pool == "chat"]
        watts = {uuid: site.ctx.pools[pool].pool.curve.idle_w for uuid, pool in pool_of.items()}
        watts |= dict.fromkeys(chat[: len(chat) // 4], 300.0)
        cards = dcgm([{"uuid": uuid, "watts": drawn} for uuid, drawn in watts.items()])
        exporter.text = lambda: f"{cards}\n{server.exporter.text()}"
        wait_for_scrapes(url, exporter)
        context = AdapterContext(WallClock(), Path(), extras={"pool_of": pool_of})
        config = PrometheusConfig.model_validate({"type": "prometheus", "url": url, "timeout": "5s"})
        site.ctx = replace(site.ctx, meter=PrometheusMeter(config, context))

        def turn():
            server.serve(2.0)
            time.sleep(0.1)
            return site.tick()

        guard, book = site.ctx.latency["chat"], site.ctx.latency["chat"].books["ttft_p95"]
        wait_until(lambda: turn().cap_w["chat"] == TOP_W and guard.state.value in {"slipping", "missed"}, 60)
        busy = site.state.busy["chat"]
        assert busy < 0.5 * len(chat), "a quarter of the cards draws power"
        newest = max(book.cells, key=lambda place: book.cells[place].at)
        assert newest[0] == place_of(busy / len(chat), 1.0)[0]
        site.ctx.meter.close()
    exporter.text = lambda: "up_and_running 1"
    server.exporter.stop()


def test_a_real_server_that_slows_down_gets_its_power_back(tmp_path):
    """The hall's cards are simulated, the telemetry is not: text over HTTP, differenced, on the machine's clock."""
    server = Served()
    told_by = f'{{type: vllm, url: "{server.url}", every: 0.1s, window: 2s, timeout: 5s}}'
    with lab(tmp_path, lambda text: users(text).replace("{type: simulated}", told_by), clock=WallClock()) as site:
        guard = site.ctx.latency["chat"]
        site.plan()

        def turn():
            cap_w = site.tick().cap_w["chat"]
            server.serve(0.3 if site.hall.serving("chat")[2] > 0.97 else 2.0)
            time.sleep(0.1)
            return cap_w

        assert turn() < 250
        wait_until(lambda: turn() == TOP_W and guard.state.value == "slipping")
        wait_until(lambda: turn() == TOP_W and guard.state.value == "holding")
    server.exporter.stop()
