"""Latencies: quantiles of a window, what a table of them knows, and vLLM's own text."""

import threading
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from math import inf
from time import monotonic, sleep
from types import SimpleNamespace

import pytest
from prometheus_client import CollectorRegistry, Gauge, Histogram, generate_latest

from adapters.latency.polled import Polled
from adapters.latency.vllm import ITL, TTFT, WAITING, _rate, _Seen, parsed
from adapters.latency.window import Histogram as Counts
from adapters.latency.window import LatencyReading, from_buckets, together
from optimizer.domain import CurvePoint, PowerCurve
from scheduler.latency import Guard, Objective
from scheduler.latency_book import LatencyBook, place_of
from scheduler.latency_trim import needed

NOW = datetime(2026, 5, 2, 12, tzinfo=UTC)
NAMES = {"ttft": (TTFT,), "itl": ITL}


def test_a_quantile_is_that_of_prometheus_and_of_what_came_since():
    seen = Counts((0.1, 0.5, 1.0, inf), (50.0, 90.0, 100.0, 100.0))
    assert [seen.quantile(share) for share in (0.25, 0.5, 0.7, 0.95)] == pytest.approx([0.05, 0.1, 0.3, 0.75])
    assert Counts((0.1, inf), (0.0, 5.0)).quantile(0.95) == 0.1, "the highest finite bound, as Prometheus answers"
    assert Counts((0.1, inf), (0.0, 0.0)).quantile(0.95) is None
    later = Counts((0.1, 0.5, 1.0, inf), (50.0, 90.0, 100.0, 110.0))
    added = later.since(seen)
    assert added is not None
    assert added.quantile(0.5) == 1.0, "all ten that came were slow, whatever the thousands before were"
    assert seen.since(later) is None, "a server that began anew"
    assert together([seen, later]).total == 210
    assert from_buckets({0.1: 3.0, inf: 2.0}) is None
    assert from_buckets({0.1: 3.0}) is None


def test_who_asks_again_and_again_outlives_an_answer_that_nobody_foresaw():
    answers = iter([RuntimeError("no thread"), LatencyReading({}, 0.0, 10.0)])

    def ask():
        answer = next(answers)
        if isinstance(answer, Exception):
            raise answer
        return answer

    polled = Polled(ask, 0.01, 60.0, "there")
    try:
        ends = monotonic() + 10.0
        while polled._newest is None and monotonic() < ends:
            sleep(0.02)
        assert polled.read().waiting == 0.0
    finally:
        polled.close()


def test_an_answer_that_is_too_old_to_be_read_alarms_nobody_either():
    """Else each question would bring a tick that does not act on it."""
    answers = iter([LatencyReading({}, 7.0, 60.0, age_s=50.0), LatencyReading({}, 3.0, 60.0, age_s=5.0)])
    ready, heard = threading.Event(), []

    def ask():
        assert ready.wait(10.0)
        return next(answers)

    def hear(reading):
        heard.append((reading.waiting, round(reading.age_s)))

    polled = Polled(ask, 0.01, 45.0, "there")
    polled.heard = hear
    ready.set()
    try:
        ends = monotonic() + 10.0
        while not heard and monotonic() < ends:
            sleep(0.02)
    finally:
        polled.close()
    assert heard == [(3.0, 5)]


def test_after_a_silence_nothing_that_came_in_it_counts_as_of_now():
    seen, bounds = _Seen(silent_s=10.0), (0.1, inf)
    for at, slow in ((0.0, 0.0), (4.0, 20.0), (9.0, 20.0), (15.0, 20.0)):
        seen.add(at, {"ttft": Counts(bounds, (0.0, slow))}, 0.0, 10.0)
    assert (seen.span_s, seen.within("ttft").total) == (11.0, 0.0), "those before the window are forgotten"
    seen.add(26.0, {"ttft": Counts(bounds, (0.0, 500.0))}, 0.0, 10.0)
    assert (seen.span_s, seen.within("ttft").total) == (0.0, 0.0), "480 slow ones of nobody knows when"
    seen.add(26.5, {"ttft": Counts(bounds, (9.0, 509.0))}, 0.0, 10.0)
    assert seen.within("ttft").counts == (9.0, 9.0)


def test_a_queue_is_measured_by_the_time_for_which_its_server_was_seen():
    """Five first tokens in half a second are ten a second, also while the window is ten seconds long."""
    just_begun, long_idle = _Seen(10.0), _Seen(10.0)
    told = ((just_begun, 9.5, 0.0), (just_begun, 10.0, 5.0), (long_idle, 0.0, 7.0), (long_idle, 10.0, 7.0))
    for seen, at, count in told:
        seen.add(at, {"ttft": Counts((0.1, inf), (count, count))}, 1.0, 10.0)
    assert _rate([just_begun, long_idle]) == pytest.approx(10.0)
    reading = LatencyReading({"ttft": Counts((0.1, inf), (5.0, 5.0))}, 2.0, 10.0, firsts_per_s=10.0)
    assert Guard._queue_s(reading) == pytest.approx(0.2)
    assert Guard._queue_s(replace(reading, firsts_per_s=None)) == pytest.approx(4.0)


@pytest.mark.parametrize("itl", ITL)
def test_the_text_of_a_vllm_server_is_read_by_its_present_and_its_older_names(itl):
    registry = CollectorRegistry()
    first = Histogram(TTFT, "first token", ["model_name", "engine"], buckets=(0.1, 0.5), registry=registry)
    between = Histogram(itl, "between tokens", ["model_name"], buckets=(0.02, 0.05), registry=registry)
    waiting = Gauge(WAITING, "waiting", ["model_name", "engine"], registry=registry)
    Gauge("vllm:num_requests_running", "running", registry=registry).set(7)
    for engine in ("0", "1"):
        waiting.labels("chat", engine).set(3)
        first.labels("chat", engine).observe(0.3)
    between.labels("chat").observe(0.03)
    counters, waits = parsed(generate_latest(registry).decode(), NAMES, WAITING)
    assert waits == 6
    assert counters["ttft"] == Counts((0.1, 0.5, inf), (0.0, 2.0, 2.0)), "both engines together"
    assert counters["itl"].counts == (0.0, 1.0, 1.0)
    assert parsed("# nothing here\nup 1\n", NAMES, WAITING) == ({}, None)


def test_what_slipped_slips_at_higher_loads_and_lower_caps_until_it_is_forgotten():
    book = LatencyBook(timedelta(hours=24))
    assert book.least_speed(1.0, NOW) == 0.0
    assert book.forecast(0.5, 0.9, NOW) == (None, None)
    book.see(place_of(0.65, 0.873), 1.5, NOW)
    book.see(place_of(0.65, 0.95), 0.8, NOW)
    assert book.least_speed(0.5, NOW) == 0.0
    assert book.missed(0.65, NOW) == book.missed(0.9, NOW) == pytest.approx(0.87)
    assert book.least_speed(0.65, NOW) == pytest.approx(0.95), "the lowest at which it was kept"
    assert book.least_speed(0.9, NOW) == 1.0, "with more load it was kept nowhere"
    assert book.forecast(0.65, 0.95, NOW) == (pytest.approx(0.8), pytest.approx(0.8))
    assert book.forecast(0.3, 1.0, NOW) == (None, pytest.approx(0.8)), "at most, with less load and more power"
    assert book.forecast(0.9, 0.8, NOW) == (pytest.approx(1.5), None), "at least, with more load and less power"
    later = NOW + timedelta(hours=24)
    assert book.least_speed(0.9, later) == 0.0
    book.forget(later)
    assert not book.cells
    book.see(place_of(0.7, 1.0), 1.1, NOW)
    assert book.least_speed(0.7, NOW) == 1.0
    again = LatencyBook.of_record(timedelta(hours=24), [*book.as_record(), ["no", "row"], None])
    assert again.cells == book.cells


def test_a_cell_rises_at_once_and_falls_slowly():
    book, place = LatencyBook(timedelta(hours=24)), place_of(0.7, 0.9)
    book.see(place, 0.5, NOW)
    book.see(place, 1.3, NOW)
    assert book.cells[place].ratio == 1.3
    for second in range(40):
        book.see(place, 0.5, NOW + timedelta(seconds=second))
        assert second > 20 or book.missed(0.7, NOW) > 0
    assert book.least_speed(0.7, NOW) == 0.0


def test_who_reads_a_table_while_it_learns_reads_on():
    book, (first, second, third) = LatencyBook(timedelta(hours=24)), [place_of(0.1 * k, 0.9) for k in (1, 2, 3)]
    for change in (
        lambda: book.see(second, 0.5, NOW), lambda: book.put_back(third, book.cells[first]),
        lambda: book.put_back(third, None), lambda: book.forget(NOW + timedelta(hours=25)),
    ):  # fmt: skip
        book.see(first, 0.5, NOW)
        reads = iter(book.cells.items())
        assert next(reads)[0] == first
        change()
        assert all(place in {second, third} for place, _ in reads)
    assert not book.cells


class Going(dict):
    """What the fast loop takes away just when somebody has seen that it is there."""

    def __contains__(self, key):
        self.gone()
        return super().__contains__(key)


def test_who_asks_in_the_middle_of_a_tick_is_answered_from_before_or_after_it():
    guard = Guard("chat", None, (Objective("ttft", 0.95, 1.3),), timedelta(minutes=1), {})
    guard.measured_s = Going(ttft_p95=1.0)
    guard.measured_s.gone = lambda: setattr(guard, "measured_s", {})
    assert guard.sentence() == "ttft_p95 1000 ms of 1300"
    assert guard.sentence() == "no requests"

    class Pools(dict):
        def __getitem__(self, name):
            state.latency_caps.pop(name)  # in the middle: users need no more than their floor
            return super().__getitem__(name)

    curve = PowerCurve("of a test", 60.0, (CurvePoint(100.0, 100.0, 0.5), CurvePoint(400.0, 400.0, 1.0)))
    pools = Pools({name: SimpleNamespace(pool=SimpleNamespace(curve=curve)) for name in ("chat", "code")})
    state = SimpleNamespace(latency_caps={"chat": 400, "code": 400})
    assert needed(SimpleNamespace(pools=pools), state) == {"chat": 1.0, "code": 1.0}
    assert needed(SimpleNamespace(pools=pools), state) == {}
