"""Sources over a network: when they ask, what they keep, and that no fault of a server becomes a price."""

import threading
import time
from itertools import pairwise

import pytest

from adapters import registry
from adapters.context import AdapterContext
from adapters.ports import SourceError
from adapters.signals.base import Unit
from adapters.signals.live import Ask, Live, Told
from adapters.signals.web import Web
from optimizer.domain import Span
from optimizer.reasons import Reason
from scheduler.clock import VirtualClock
from tests.support.live import MINUTE, OWN, at, make, values
from tests.support.markets import HOUR, serving, value_at, z
from tests.support.signals import NOON


@pytest.fixture
def market():
    with serving() as (url, markets):
        yield url, markets


# ---------------------------------------------------------------- no fault becomes a price
@pytest.mark.parametrize(("change", "said"), [
    (lambda rows: "closed", "no list of values"),
    (lambda rows: [*rows[:1], {"t": rows[1]["t"]}], None),
    (lambda rows: [*rows[:1], rows[1] | {"p": {"amount": "n/a"}}], 'row 2: "n/a" is not a number'),
    (lambda rows: [*rows[:1], rows[1] | {"p": {"amount": True}}], 'row 2: "True" is not a number'),
    (lambda rows: [*rows[:1], rows[1] | {"t": "noon"}], "row:2"),
    (lambda rows: [*rows[:1], {"p": {"amount": 1}}], 'row 2: time: "None"'),
    (lambda rows: [*rows[:1], rows[1] | {"p": {"amount": float("nan")}}], None),
])  # fmt: skip
def test_rows_that_are_none_are_gaps_or_errors_and_never_zero(market, change, said):
    url, markets = market
    markets.change = change
    source = make(url)
    if said is not None:
        with pytest.raises(SourceError, match=said):
            source.read(NOON, NOON + 2 * HOUR, NOON)
        return
    got = source.read(NOON, NOON + 2 * HOUR, NOON)
    assert values(got) == [(NOON, value_at(NOON))]
    assert [note.code for note in got.notes] == [Reason.SIGNAL_NAN]


PAGE = {"body": b"<html>Please log in</html>", "headers": {"Content-Type": "text/html; charset=utf-8"}}


@pytest.mark.parametrize(("fault", "said"), [
    ({"status": 401}, r"HTTP 401 \(the login is not accepted\)"),
    ({"status": 403, "body": b'{"message": "plan without forecast"}'}, r"HTTP 403 \(plan without forecast\)"),
    ({"status": 500}, "HTTP 500"),
    ({"status": 302, "headers": {"Location": "http://evil.example/x"}}, "HTTP 302 to evil.example"),
    (PAGE, "a web page"),
    ({"body": b'{"data": [1, 2'}, "not JSON"),
    ({"half": True}, "stopped in the middle"),
    ({"body": b"\xff\xfe\x00"}, "not JSON"),
    ({"body": b"[" * 100_000}, "not JSON"),
])  # fmt: skip
def test_what_is_no_answer_is_an_error_that_names_the_server(market, fault, said):
    url, markets = market
    markets.faults = [fault] * 9
    with pytest.raises(SourceError, match=rf"^it 127\.0\.0\.1:\d+: .*{said}"):
        make(url).read(NOON, NOON + 2 * HOUR, NOON)


def test_a_passing_fault_is_asked_again_within_the_read(market):
    url, markets = market
    markets.faults = [{"status": 503}, {"half": True}]
    assert len(make(url).read(NOON, NOON + 2 * HOUR, NOON).spans) == 2
    assert len(markets.requests) == 3


@pytest.mark.parametrize("fault", [{"hang": True}, {"drip": True}])
def test_a_server_that_hangs_or_drips_costs_its_time_out_and_no_more(market, fault):
    url, markets = market
    markets.faults = [fault] * 9
    began = time.monotonic()
    with pytest.raises(SourceError, match="no answer"):
        make(url, timeout="0.4s").read(NOON, NOON + 2 * HOUR, NOON)
    assert time.monotonic() - began < 5


def test_a_dripping_answer_ends_at_its_deadline_also_where_nobody_waits_for_it(market):
    url, markets = market
    markets.faults = [{"drip": True, "body": b"1" * 300}]
    config = registry.config_model("signals", "http_json").model_validate({"id": "it", **OWN, "url": url})
    web = Web(config, AdapterContext(VirtualClock(NOON), None), "it")
    began = time.monotonic()
    with pytest.raises(SourceError, match="no answer in time"):
        web.json(
            Ask(NOON, NOON + HOUR, NOON, began + 0.5, NOON), "/own/x?from=2022-09-06T12:00:00Z&to=2022-09-06T13:00:00Z"
        )
    assert time.monotonic() - began < 10


def test_no_error_tells_a_key_that_stands_in_the_query():
    source = make("http://127.0.0.1:1", url="http://127.0.0.1:1/own?securityToken=hush-hush")
    with pytest.raises(SourceError) as caught:
        source.read(NOON, NOON + HOUR, NOON)
    assert "hush" not in str(caught.value)
    assert "127.0.0.1:1" in str(caught.value)


# ---------------------------------------------------------------- when it asks, what it keeps
def test_asks_at_most_every_refresh_and_later_only_for_what_may_change(market):
    url, markets = market
    clock = VirtualClock(NOON)
    source = make(url, clock, revisit="1d")
    window = (NOON - 72 * HOUR, NOON + 24 * HOUR)
    for _ in range(3):
        first = source.read(*window, NOON)
    assert len(markets.requests) == 1
    at(clock, NOON + 11 * MINUTE)
    markets.change = lambda rows: [row | {"p": {"amount": -5.0}} for row in rows]
    second = source.read(*window, clock.now())
    assert [query["from"] for _, query, _ in markets.requests] == [
        z(NOON - 72 * HOUR),
        z(NOON - 24 * HOUR + 11 * MINUTE),
    ]
    assert len(second.spans) == len(first.spans)
    assert second.at(NOON - 30 * HOUR) == first.at(NOON - 30 * HOUR)
    assert second.at(NOON) == -5.0
    assert second.published_at == clock.now()


def test_what_the_server_withdraws_is_no_longer_told(market):
    url, markets = market
    clock = VirtualClock(NOON)
    source = make(url, clock)
    assert len(source.read(NOON, NOON + 6 * HOUR, NOON).spans) == 6
    markets.known_until = NOON + 4 * HOUR
    at(clock, NOON + 11 * MINUTE)
    assert len(source.read(NOON, NOON + 6 * HOUR, clock.now()).spans) == 4


def test_a_failure_keeps_what_is_known_with_its_age_and_asks_ever_later(market):
    url, markets = market
    clock = VirtualClock(NOON)
    source = make(url, clock)
    window = (NOON, NOON + 6 * HOUR)
    source.read(*window, NOON)
    markets.faults = [{"status": 401}] * 99
    asked = []
    for minute in range(10, 130):
        at(clock, NOON + minute * MINUTE)
        before = len(markets.requests)
        got = source.read(*window, clock.now())
        if len(markets.requests) > before:
            asked.append(minute)
    assert (len(got.spans), got.published_at) == (6, NOON)
    assert [note.code for note in got.notes] == [Reason.STALE_SIGNAL]
    assert "HTTP 401" in got.notes[0].text
    assert "2.1 h ago" in got.notes[0].text or "129 min" in got.notes[0].text
    pauses = [right - left for left, right in pairwise(asked)]
    assert pauses[0] <= 2
    assert 15 <= pauses[-1] <= 23
    assert 8 <= len(asked) <= 14


def test_a_server_that_names_a_time_is_left_alone_until_then(market):
    url, markets = market
    clock = VirtualClock(NOON)
    source = make(url, clock)
    markets.faults = [{"status": 429, "headers": {"Retry-After": "3600"}}]
    with pytest.raises(SourceError, match="HTTP 429"):
        source.read(NOON, NOON + HOUR, NOON)
    at(clock, NOON + 59 * MINUTE)
    with pytest.raises(SourceError, match="HTTP 429"):
        source.read(NOON, NOON + HOUR, clock.now())
    assert len(markets.requests) == 1
    at(clock, NOON + 61 * MINUTE)
    assert source.read(NOON, NOON + HOUR, clock.now()).spans
    assert len(markets.requests) == 2


def test_a_short_pause_is_waited_for_within_the_read(market):
    url, markets = market
    markets.faults = [{"status": 429, "headers": {"Retry-After": "1"}}]
    assert make(url).read(NOON, NOON + HOUR, NOON).spans
    assert len(markets.requests) == 2


def test_a_late_answer_is_taken_when_it_comes_and_only_one_is_waited_for():
    release, asked = threading.Event(), []

    def fetch(ask):
        asked.append(ask)
        release.wait(20)
        return Told((Span(NOON, NOON + HOUR, 7.0),))

    config = registry.config_model("signals", "http_json").model_validate(
        {"id": "it", **OWN, "url": "http://127.0.0.1:1", "timeout": "0.2s"}
    )
    live = Live(config, AdapterContext(VirtualClock(NOON), None), Unit("USD/MWh", 1.0), fetch)
    for _ in range(2):
        with pytest.raises(SourceError, match=r"no answer within 0\.2 s"):
            live.read(NOON, NOON + HOUR, NOON)
    release.set()
    until = time.monotonic() + 10
    while True:
        try:
            assert live.read(NOON, NOON + HOUR, NOON).spans == (Span(NOON, NOON + HOUR, 7.0),)
            break
        except SourceError:
            assert time.monotonic() < until
            time.sleep(0.01)
    assert len(asked) == 1


def test_another_currency_than_the_configs_is_refused_when_it_is_made():
    with pytest.raises(SourceError, match="no conversion is made"):
        make("http://127.0.0.1:1", type="octopus", tariff="E-1R-AGILE-24-10-01-C", currency="USD")
