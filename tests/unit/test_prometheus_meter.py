"""The meter over Prometheus: what counts as a reading, what is lost, and who gets in. The server is Debian's own."""

import json
import threading
import time
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from urllib.parse import parse_qs

import pytest
from pydantic import ValidationError

from adapters.context import AdapterContext
from adapters.meters.prometheus import POOL_OF, PrometheusConfig, PrometheusMeter, Sample
from adapters.ports import AdapterError
from scheduler.clock import VirtualClock, WallClock
from scheduler.fleet.certificates import certificates
from tests.support.ports import free_port
from tests.support.power_worlds import wait_until
from tests.support.problems import START
from tests.support.prometheus import Exporter, dcgm, prometheus, shared, wait_for_scrapes

CARDS = [f"GPU-{number:08d}-0000" for number in range(5)]
# "let me read", by bcrypt
WEB_USER = "basic_auth_users: {gridpace: $2b$04$abcdefghijklmnopqrstuuZx7bwzEt2zO5rYiIG2MPCzROol.usxu}\n"


def card(number, watts=500.0, **more):
    return {"uuid": CARDS[number], "watts": watts, "mj": 3.6e9, "percent": 50} | more


def meter_of(url, folder=Path(), clock=None, cards=CARDS, **more):
    config = PrometheusConfig.model_validate({"type": "prometheus", "url": url, "timeout": "5s"} | more)
    context = AdapterContext(clock or WallClock(), folder, extras={"pool_of": dict.fromkeys(cards, "chat")})
    return PrometheusMeter(config, context)


@contextmanager
def real(cards):
    """The address of a real server that knows of these cards; `dead` as a card: the exporter fails."""
    url, exporter = shared()
    exporter.text = lambda: dcgm(cards) if "dead" not in cards else ""
    wait_for_scrapes(url, exporter)
    yield url, exporter


def test_a_bad_series_loses_its_card_and_no_other():
    cards = [card(number) for number in range(4)] + [card(4, watts="NaN")]
    with real(cards) as (url, exporter):
        meter = meter_of(url)
        for bad in ("NaN", "+Inf", -20, 2e7, None):
            cards[4] = card(4, watts=bad)
            wait_for_scrapes(url, exporter)
            reading = meter.read()
            assert reading.lost == (CARDS[4],), bad
            assert reading.pool_kw == pytest.approx({"chat": 5 * 0.5}), "the lost one is not zero"
        cards[4] = {"watts": 500.0}  # no UUID at all
        wait_for_scrapes(url, exporter)
        assert meter.read().lost == (CARDS[4],)
        cards[:] = [{"watts": 500.0}]
        wait_for_scrapes(url, exporter)
        with pytest.raises(AdapterError, match="1 series of DCGM_FI_DEV_POWER_USAGE, and none has the label UUID"):
            meter.read()
        meter.close()


def test_a_card_in_several_series_counts_once_and_foreign_cards_not_at_all():
    instances = [card(0, watts=400.0, labels={"GPU_I_ID": str(number)}) for number in range(3)]
    cards = [*instances, *(card(number, watts=400.0) for number in range(1, 5)), {"uuid": "GPU-other", "watts": 9e4}]
    with real(cards) as (url, _):
        meter = meter_of(url)
        assert meter.read().pool_kw == pytest.approx({"chat": 5 * 0.4})
        meter.close()
        chosen = meter_of(url, selector='GPU_I_ID="2"', cards=CARDS[:1])
        assert chosen.read().pool_kw == pytest.approx({"chat": 0.4})
        chosen.close()
        wrong = meter_of(url, selector="GPU_I_ID=2")
        with pytest.raises(AdapterError, match=r"HTTP 400 \(.*parse error"):
            wrong.read()
        wrong.close()


def test_what_was_scraped_too_long_ago_does_not_count():
    """Prometheus goes on repeating the last sample of a target that it asks seldom."""
    cards = [card(number) for number in range(5)]
    with real(cards) as (url, _):
        patient, strict = meter_of(url, max_age="60s"), meter_of(url, max_age="0.0001s")
        reading = patient.read()
        assert 0 <= (datetime.now(UTC) - reading.at).total_seconds() < 10
        ((begins, ends),) = set(reading.taken.values())
        assert begins < reading.at <= ends <= datetime.now(UTC), "the scrape's time, and a sensor's mean before it"
        with pytest.raises(AdapterError, match=r"no sample of DCGM_FI_DEV_POWER_USAGE in the last 0\.0001 s"):
            strict.read()
        patient.close()
        strict.close()


def test_a_dead_exporter_is_noticed_with_the_next_scrape():
    cards = [card(number) for number in range(5)]
    with real(cards) as (url, _):
        meter = meter_of(url, max_age="60s")
        assert meter.read().lost == ()
        cards.append("dead")

        def silent():
            try:
                return not meter.read()
            except AdapterError as error:
                return "no sample" in str(error)

        wait_until(silent)
        meter.close()


def test_it_gets_in_by_password_over_verified_tls_and_not_without(tmp_path, monkeypatch):
    certificates(tmp_path, ["127.0.0.1"])
    tls = f"tls_server_config: {{cert_file: {tmp_path}/server.pem, key_file: {tmp_path}/server.key}}\n"
    monkeypatch.setenv("PROM", "let me read")
    monkeypatch.setenv("WRONG", "let me in")
    login = {"username": "gridpace", "password": "env:PROM", "ca": "ca.pem"}
    exporter = Exporter(lambda: dcgm([card(number) for number in range(5)]))
    ask = {"auth": ("gridpace", "let me read"), "verify": str(tmp_path / "ca.pem")}
    with prometheus(tmp_path / "server", exporter, tls + WEB_USER, **ask) as url:
        for change, text in (
            ({}, None),
            ({"password": "env:WRONG"}, r"HTTP 401 \(the login is not accepted\)"),
            ({"password": "env:ABSENT"}, "the environment has no variable ABSENT"),
            ({"ca": None}, "TLS: .*certificate verify failed"),
            ({"ca": "nowhere.pem"}, "nowhere.pem"),
        ):
            meter = meter_of(url, tmp_path, **login | change)
            if text is None:
                assert meter.read().pool_kw["chat"] == pytest.approx(2.5)
            else:
                with pytest.raises(AdapterError, match=text) as refused:
                    meter.read()
                assert "let me" not in str(refused.value)
            meter.close()
    exporter.stop()


class Odd(BaseHTTPRequestHandler):
    """A server that is no Prometheus: answers what the test says."""

    def do_POST(self):
        length = int(self.headers["Content-Length"])
        self.server.asked.append((self.headers.get("Authorization"), parse_qs(self.rfile.read(length).decode())))
        status, headers, body, pause_s = self.server.answer
        time.sleep(pause_s)
        self.send_response(status)
        for name, value in headers.items():
            self.send_header(name, value)
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *_):
        pass


@contextmanager
def odd(status=200, body=b"{}", pause_s=0.0, **headers):
    server = ThreadingHTTPServer(("127.0.0.1", 0), Odd)
    server.handle_error = lambda *_: None  # who asked may have hung up
    server.answer, server.asked = (status, headers, body, pause_s), []
    thread = threading.Thread(target=server.serve_forever, args=(0.02,))
    thread.start()
    try:
        yield server, f"http://127.0.0.1:{server.server_port}"
    finally:
        server.shutdown()
        thread.join()
        server.server_close()


@pytest.mark.parametrize(("answer", "text"), [
    ({"body": b"<html>"}, "not JSON"),
    ({"body": b"[" * 100_000}, "not JSON"),
    ({"body": b"[]"}, "not one of Prometheus' query API"),
    ({"body": json.dumps({"status": "success", "data": {"resultType": "scalar", "result": [1, "2"]}}).encode()},
     "not one of Prometheus' query API"),
    ({"body": json.dumps({"status": "success", "data": {"resultType": "vector", "result": [
        None, 7, {}, {"metric": [], "value": []},
        {"metric": {"__name__": "DCGM_FI_DEV_POWER_USAGE"}, "value": [1]},
        {"metric": {"__name__": "DCGM_FI_DEV_POWER_USAGE", "UUID": 5}, "value": [1, "2"]}]}}).encode()},
     "no sample of"),
    ({"status": 503, "body": b'{"status":"error","error":"query timed out"}'}, r"HTTP 503 \(query timed out\)"),
    ({"status": 302, "Location": "http://192.0.2.1/"}, "HTTP 302"),
])  # fmt: skip
def test_rubbish_is_an_error_that_names_the_server(answer, text):
    with odd(**answer) as (server, url):
        meter = meter_of(url)
        with pytest.raises(AdapterError, match=text) as error:
            meter.read()
        assert url in str(error.value)
        assert len(server.asked) == 1
        meter.close()


@pytest.mark.parametrize("first", ["young", "old"])
def test_of_a_card_that_two_scrapers_tell_of_the_youngest_sample_counts(first):
    now = datetime.now(UTC).timestamp()
    told = {"young": ("420", now - 1), "old": ("650", now - 8)}
    result = []
    for scraper in sorted(told, key=first.__ne__):
        labels, (watts, at) = {"UUID": CARDS[0], "prometheus": scraper}, told[scraper]
        result.append({"metric": labels | {"__name__": "DCGM_FI_DEV_POWER_USAGE"}, "value": [now, watts]})
        result.append({"metric": labels | {"gridpace_is_time": "1"}, "value": [now, str(at)]})
    body = json.dumps({"status": "success", "data": {"resultType": "vector", "result": result}}).encode()
    with odd(body=body) as (_, url):
        meter = meter_of(url, clock=VirtualClock(START), cards=CARDS[:1])
        reading = meter.read()
        assert reading.pool_kw == {"chat": 0.42}
        assert reading.at == START - timedelta(seconds=1)
        meter.close()


def test_a_token_is_read_anew_for_each_request_and_goes_nowhere_else(tmp_path):
    with odd(status=302, Location="http://192.0.2.1/") as (server, url):
        (tmp_path / "token").write_text("first\n")
        clock = VirtualClock(datetime(2026, 1, 1, tzinfo=UTC))
        meter = meter_of(url, tmp_path, clock, token="file:token")
        for token in ("first", "second"):
            (tmp_path / "token").write_text(f"{token}\n")
            with pytest.raises(AdapterError, match="HTTP 302"):
                meter.read()
            assert server.asked[-1][0] == f"Bearer {token}"
            clock.sleep(60.0)
        meter.close()


def test_a_server_that_does_not_answer_costs_one_deadline_and_is_then_left_alone():
    clock = VirtualClock(datetime(2026, 1, 1, tzinfo=UTC))
    with odd(pause_s=1.0) as (server, url):
        meter = meter_of(url, clock=clock, timeout="0.1s")
        with pytest.raises(AdapterError, match="no answer"):
            meter.read()
        for _ in range(20):
            with pytest.raises(AdapterError, match="left alone"):
                meter.read()
        assert len(server.asked) == 1
        meter.close()
    absent = meter_of(f"http://127.0.0.1:{free_port()}")
    with pytest.raises(AdapterError, match="refused"):
        absent.read()
    absent.close()


@pytest.mark.parametrize(("change", "text"), [
    ({"url": "http://user:secret@host"}, "url"), ({"username": "me"}, "go together"),
    ({"token": "env:A", "username": "me", "password": "env:B"}, "not both"), ({"token": "plain"}, "secret never"),
    ({"timeout": "0s"}, "longer than nothing"), ({"power_metric": 'x"}'}, "power_metric"),
])  # fmt: skip
def test_a_login_that_cannot_be_is_refused(change, text):
    with pytest.raises(ValidationError, match=text):
        PrometheusConfig.model_validate({"type": "prometheus", "url": "http://localhost:9090"} | change)


def test_a_card_that_was_not_scraped_lately_speaks_for_itself_alone():
    """A node that dies keeps its last sample for as long as `max_age`; its pool's others are of now."""
    pool_of = {f"GPU-{number}": "big" if number < 100 else "small" for number in range(104)}
    context = AdapterContext(VirtualClock(START), Path(), extras={POOL_OF: pool_of})
    meter = PrometheusMeter(PrometheusConfig(type="prometheus", url="http://127.0.0.1:1"), context)
    power = {gpu: Sample("p", gpu, 9.0 if gpu == "GPU-3" else 1.0, 300.0) for gpu in pool_of}
    spans = meter._taken(power, ("big", "small"), START)
    begins, ends = spans["big"]
    assert START - begins < timedelta(seconds=2.2), "and not ten"
    assert ends == spans["small"][1] == START - timedelta(seconds=1)
    assert spans["small"][0] == START - timedelta(seconds=2)
