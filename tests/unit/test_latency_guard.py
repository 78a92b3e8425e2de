"""The latency guard in the loops: what it takes back, what ranks above it, what plans learn from it."""

import re
from contextlib import contextmanager
from datetime import timedelta

import pytest

from adapters.latency.vllm import _reading, _Seen
from adapters.latency.window import Histogram, LatencyReading
from adapters.ports import AdapterError, EventTarget
from optimizer.curves import throughput_at_cap
from optimizer.reasons import Reason
from scheduler.service import OperatorOrder
from scheduler.store.store import Store
from tests.support.loops import lab, order

CHAT = "value_per_gpu_h: 5, floor: 0.9, load: 0.95, tokens_per_gpu_h: 3.0e+6}"
USERS = """value_per_gpu_h: 0.02, floor: 0.6, load: 0.7, tokens_per_gpu_h: 3.0e+6,
     latency: {source: {type: simulated},
               objectives: [{metric: ttft, threshold: 1.3s}, {metric: itl, threshold: 0.06s}]}}"""
TOP_W = 400


def users(text, price=400.0, **changes):
    """The lab with users who wait 1.0 s at full power (p95) and too long below 98 % of full speed; power is so dear
    that the plan goes to the floor of 60 % if nothing else forbids it."""
    text = (
        text.replace(CHAT, USERS)
        .replace("value: 60", f"value: {price}")
        .replace("up: 10, down: 40", "up: 500, down: 500")
    )
    for old, new in changes.items():
        text = text.replace(old, new)
    return text


@contextmanager
def served(folder, store=None, change=users):
    with lab(folder, change, store) as site:
        yield site, site.ctx.latency["chat"]


def ticks(site, count):
    done = []
    for _ in range(count):
        done.append(site.tick())
        site.clock.sleep(1)
    return done


def codes(tick):
    return {note.code for note in tick.notes}


def p95_s(tick):
    return tick.latency["chat"][0].measured_s


def test_a_slip_is_taken_back_in_the_tick_that_sees_it_and_not_planned_again(tmp_path):
    with served(tmp_path) as (site, _):
        site.plan()
        assert site.state.plan.pools["chat"].cap_w[0] < 250, "nothing is known of latencies yet"
        first, slip, after = ticks(site, 3)
        assert first.cap_w["chat"] < 250
        assert (slip.cap_w["chat"], slip.latency["chat"][0].guard) == (TOP_W, "slipping")
        assert p95_s(slip) > 1.3 >= p95_s(after)
        assert Reason.LATENCY_GUARD in codes(slip)
        assert site.state.wake.is_set(), "a new plan, at once"
        assert "for its users' sake: ttft_p95 " in site.facade.explain("chat")
        site.plan()
        chat, inputs = site.state.plan.pools["chat"], site.state.problem.pools[0]
        assert set(chat.cap_w) == {TOP_W}, "the load is the same all day"
        assert inputs.floors[0] == 1.0
        assert "its latency objective needs it" in site.state.report.pools[0].why
        kept = site.run(timedelta(minutes=40))
        assert all(tick.cap_w["chat"] == TOP_W for tick in kept[:59]), "held for a minute"
        last = kept[-1]
        needed = throughput_at_cap(site.ctx.pools["chat"].pool.curve, last.cap_w["chat"])
        assert (p95_s(last) <= 1.3, 0.97 < needed < 0.995, last.cap_w["chat"] < TOP_W) == (True, True, True)
        assert site.state.plan.pools["chat"].cap_w[0] == last.cap_w["chat"], "the plan and the guard agree"
        expected = site.state.report.pools[0].latency[0].forecast_s
        assert expected[0] == pytest.approx(p95_s(last), rel=0.02)
        assert len(expected) == len(site.state.plan.grid)


def test_others_are_shed_for_the_users_of_one_pool_and_the_event_is_still_kept(tmp_path):
    spare = {"value_per_gpu_h: 0.8, floor: 0.6": "value_per_gpu_h: 0.8, floor: 0.0"}
    with served(tmp_path, change=lambda text: users(text, price=20.0, **spare)) as (site, _):
        site.run(timedelta(minutes=10))
        begun = site.clock.now()
        site.facade.accept(order(begun + timedelta(minutes=2), begun + timedelta(minutes=40)))
        site.run(timedelta(minutes=10))
        held = [tick for tick in site.run(timedelta(minutes=10)) if tick.target_kw["lab"] < 1e9]
        assert all(tick.import_kw["lab"] <= tick.target_kw["lab"] * 1.001 for tick in held)
        assert max(p95_s(tick) for tick in held[60:]) <= 1.3
        assert held[-1].cap_w["train"] < TOP_W


@pytest.mark.parametrize("who", ["limit", "operator", "emergency"])
def test_what_ranks_above_the_guard_is_kept_and_named(tmp_path, who):
    allowed = {"baseline: {": "emergency_below_floor: true, baseline: {"} if who == "emergency" else {}
    tight = {"limit_kw: 100": "limit_kw: 26"} if who == "limit" else allowed
    with served(tmp_path, change=lambda text: users(text, price=20.0, **tight)) as (site, guard):
        site.run(timedelta(minutes=6))
        now = site.clock.now()
        if who == "operator":
            site.facade.order(OperatorOrder("limit", "lab", 26.0, now + timedelta(hours=1)))
        if who == "emergency":
            begin, end = now + timedelta(seconds=5), now + timedelta(hours=1)
            cap = (EventTarget(begin, end, limit_kw=26.0),)
            site.facade.accept(order(begin, end, emergency=True, ramp_in_s=0.0, targets=cap))
        site.run(timedelta(minutes=2))
        last = ticks(site, 30)[-1]
        assert guard.floor == 1.0, "the guard wants full power"
        assert last.import_kw["lab"] <= 26.0 * 1.001
        assert last.cap_w["chat"] < TOP_W
        said = [note for note in last.notes if note.code is Reason.LATENCY_YIELDS]
        words = {"limit": "the site's limit", "operator": "the operator's order", "emergency": "an emergency"}[who]
        assert said
        assert words in said[0].text
        assert "comes first" in site.facade.explain("chat")
        site.plan()
        assert not [n for n in site.state.report.notes if n.code is Reason.LIMIT_UNREACHABLE], (
            "floors yield in the plan"
        )


class Told:
    """A source that the test fills."""

    def __init__(self, p95_s=0.2, waiting=0.0):
        self.p95_s, self.waiting, self.fails, self.number = p95_s, waiting, False, 100.0

    def read(self):
        if self.fails:
            raise AdapterError("metrics of http://a: no answer in time")
        some = Histogram((0.9 * self.p95_s, self.p95_s, float("inf")), (0.0, self.number, self.number))
        return LatencyReading({"ttft": some}, self.waiting, 10.0)

    def close(self):
        pass


def test_a_slip_at_full_power_is_not_blamed_on_the_caps(tmp_path):
    with served(tmp_path) as (site, guard):
        guard.source = told = Told()
        site.plan()
        assert ticks(site, 3)[-1].cap_w["chat"] < 250
        told.p95_s = 5.0
        slow = ticks(site, 30)
        assert slow[0].cap_w["chat"] == TOP_W
        assert (slow[1].latency["chat"][0].guard, slow[-1].latency["chat"][0].guard) == ("slipping", "missed")
        assert Reason.LATENCY_MISSED in codes(slow[-1])
        told.p95_s = 0.2
        ticks(site, 1)
        assert guard.least_speed(1.0, site.clock.now()) == 0.0, "what was held against the cap is withdrawn"


@pytest.mark.parametrize("lost", [True, False])
def test_a_slip_holds_up_power_for_as_long_as_it_is_remembered_and_no_longer(tmp_path, lost):
    with served(tmp_path) as (site, guard):
        guard.source, told = (source := Told(p95_s=5.0)), site.clock.now()
        guard.step(0.7, 0.6, 1.0, told)
        source.p95_s, source.fails = 0.2, lost
        for hours in range(1, 24):
            guard.step(0.7, 1.0, 1.0, told + timedelta(hours=hours))
            assert guard.floor >= 0.95, "nobody has shown that less would do"
        guard.step(0.7, 1.0, 1.0, told + guard.remember)
        assert (guard.floor, guard.floor_at(0.7, told + guard.remember)) == (0.0, 0.0)


def test_a_queue_that_grows_is_a_slip_before_any_first_token_says_so(tmp_path):
    with served(tmp_path) as (site, guard):
        guard.source = told = Told()
        site.plan()
        ticks(site, 2)
        told.waiting = 12.0  # at ten first tokens a second they wait 1.2 s
        assert ticks(site, 1)[-1].latency["chat"][0].guard == "kept"
        told.waiting = 14.0
        assert ticks(site, 1)[-1].cap_w["chat"] == TOP_W
        guard.floor, told.number = 0.0, 0.0
        assert [tick.latency["chat"][0].guard for tick in ticks(site, 3)] == ["idle", "idle", "slipping"], (
            "no token at all"
        )


class Rare:
    """A server that is asked once in `every` seconds, on the site's clock; slow unless its pool has nearly full speed,
    or always as `ttft_s` says."""

    def __init__(self, site, every, ttft_s=None):
        self.site, self.every, self.ttft_s = site, every, ttft_s
        self.seen, self.first, self.counts = _Seen(10.0), site.clock.now(), [0.0, 0.0]

    def read(self):
        now_s = (self.site.clock.now() - self.first).total_seconds()
        while self.counts[1] < now_s // self.every:
            slow = self.site.hall.serving("chat")[2] < 0.97 if self.ttft_s is None else self.ttft_s > 1.3
            self.counts = [self.counts[0] + (not slow), self.counts[1] + 1]
        bounds = (0.5, 2.0, float("inf"))
        counters = Histogram(bounds, (self.counts[0], self.counts[1], self.counts[1]))
        self.seen.add(now_s, {"ttft": counters}, 0.0, 10.0)
        return _reading([self.seen], 10.0)

    def close(self):
        pass


@pytest.mark.parametrize(("every", "within"), [(3, 21), (12, 65), (50, 255)])
def test_a_pool_that_is_seldom_asked_has_its_throttling_taken_back_too(tmp_path, every, within):
    """Five slow ones say it, also where they came in four minutes; and what takes so long is not blamed on others."""
    with served(tmp_path) as (site, guard):
        guard.source = Rare(site, every)
        site.plan()
        throttled = ticks(site, within)
        assert throttled[0].cap_w["chat"] < 250
        assert throttled[-1].cap_w["chat"] == TOP_W
        assert sum(tick.cap_w["chat"] < 250 for tick in throttled) >= 4 * every, "not before five are known"
        assert guard.state.value == "slipping"
        later = ticks(site, 720)
        assert {tick.latency["chat"][0].guard for tick in later} <= {"slipping", "holding", "kept"}
        assert all(tick.cap_w["chat"] == TOP_W for tick in later[: 4 * every])
        assert min(tick.cap_w["chat"] for tick in later) > 300, (
            "it is let go in steps, and no further than what was kept"
        )
        assert guard.least_speed(0.7, site.clock.now()) > 0.65, "the plan knows it too"


def test_few_that_are_fast_take_nothing_back(tmp_path):
    with served(tmp_path) as (site, guard):
        guard.source = Rare(site, 12, ttft_s=0.3)
        site.plan()
        kept = ticks(site, 400)
        assert all(tick.cap_w["chat"] < 250 for tick in kept)
        assert [kept[at].latency["chat"][0].guard for at in (5, 30, 70, 399)] == ["idle", "few", "kept", "kept"]
        assert p95_s(kept[-1]) <= 0.5


def test_too_few_to_judge_in_five_minutes_is_said(tmp_path):
    with served(tmp_path) as (site, guard):
        guard.source = Rare(site, 90, ttft_s=5.0)
        site.plan()
        last = ticks(site, 700)[-1]
        assert (last.cap_w["chat"] < 250, last.latency["chat"][0].guard, p95_s(last)) == (True, "few", None)
        assert re.search(r"\(few\): ttft_p95 of 3 in (29\d|300) s, too few to judge;", site.facade.explain("chat"))


def test_without_telemetry_what_was_learned_holds_and_is_said_also_after_a_restart(tmp_path):
    store = Store.in_memory()
    with served(tmp_path, store) as (site, guard):
        site.run(timedelta(minutes=25))
        site.plan()
        learned_w = site.tick().cap_w["chat"]
        assert 250 < learned_w < TOP_W
        guard.source.read = Told.read.__get__(failing := Told())
        failing.fails = True
        silent = ticks(site, 5)[-1]
        assert (silent.cap_w["chat"], silent.latency["chat"][0].guard) == (learned_w, "lost")
        assert p95_s(silent) is None
        assert Reason.LATENCY_LOST in codes(silent)
        site.ctx.store.close = lambda: None
    with served(tmp_path, store) as (site, guard):
        site.plan()
        assert site.state.plan.pools["chat"].cap_w[0] == pytest.approx(learned_w, abs=2)
