"""Tenants share a server's slots by time: however long the answers of either take."""

import asyncio
import json
from contextlib import suppress
from dataclasses import replace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from scheduler.gateway.answers import Answers
from scheduler.gateway.runner import Runner
from scheduler.gateway.running import Running
from scheduler.gateway.shares import Shares
from scheduler.gateway.upstream import Answer, Broken
from tests.support.gateway import line
from tests.unit.test_gateway_parts import batch


def simulated(weights, took_s, slots, until_s):
    """Slot-seconds of tenants that always wait, at a server whose requests take so long for each; no real time."""
    now, flying, had = [0.0], [], dict.fromkeys(weights, 0.0)
    shares = Shares(weights, lambda: now[0])
    while now[0] < until_s:
        while len(flying) < slots:
            name = shares.turn(weights)
            flying.append((now[0] + took_s[name], len(flying), name, shares.begin(name)))
        flying.sort(key=lambda one: one[:2])
        ends_s, _, name, begun = flying.pop(0)
        now[0] = ends_s
        shares.end(name, begun)
        had[name] += took_s[name]
    return had


@pytest.mark.parametrize("slots", [2, 16])
def test_a_hundred_times_longer_answers_get_no_larger_share(slots):
    had = simulated({"long": 1.0, "short": 1.0}, {"long": 2.0, "short": 0.02}, slots, 100.0)
    assert had["long"] == pytest.approx(had["short"], rel=0.05)


@settings(max_examples=15)
@given(st.floats(0.2, 10.0), st.floats(0.2, 10.0), st.floats(0.5, 4.0), st.integers(8, 32))
def test_slot_seconds_are_shared_by_weight_whatever_requests_take(first_s, second_s, weight, slots):
    longest = max(first_s, second_s)
    had = simulated({"a": weight, "b": 1.0}, {"a": first_s, "b": second_s}, slots, 100 * longest)
    assert had["a"] / weight == pytest.approx(had["b"], rel=0.1)


def test_requests_that_run_for_long_count_before_they_are_back():
    """The first of a tenant's take minutes: it does not fill the server before anybody knows that."""
    now = [0.0]
    shares = Shares({}, lambda: now[0])
    flying = {"long": [], "short": []}
    for _ in range(2000):
        while sum(map(len, flying.values())) < 16:
            name = shares.turn(flying)
            flying[name].append(shares.begin(name))
        now[0] += 0.02
        for begun in flying["short"]:
            shares.end("short", begun)
        flying["short"].clear()
        assert len(flying["long"]) <= 12, "half of the first sixteen, half of the eight that came back first"


def test_who_comes_back_is_level_with_the_others():
    now = [0.0]
    shares = Shares({}, lambda: now[0])

    def served(names, count):
        order = []
        for _ in range(count):
            order.append(shares.turn(names))
            begun = shares.begin(order[-1])
            now[0] += 0.1
            shares.end(order[-1], begun)
        return order

    served({"a"}, 1000)
    order = served({"a", "b"}, 100)
    assert abs(order.count("b") - 50) <= 1
    served({"b"}, 1000)
    assert abs(served({"a", "b"}, 100).count("a") - 50) <= 1


@pytest.mark.parametrize("told", [True, False], ids=["usage", "no usage"])
def test_tenants_with_unequal_answers_get_equal_time_and_tokens_of_a_server(tmp_path, told):
    """A hundredth of the tokens in a hundredth of the time; also where answers have no `usage`, or break."""
    took_s, tokens = {"long": 0.4, "short": 0.004}, {"long": 2000, "short": 20}

    async def turns():
        got = dict.fromkeys(took_s, 0)

        async def send(_endpoint, body):
            word = body["messages"][0]["content"]
            await asyncio.sleep(took_s[word])
            got[word] += tokens[word]
            if not told and got[word] % 40 == 0:
                return Broken("upstream_error", "answers 500")
            usage = {"usage": {"prompt_tokens": 1, "completion_tokens": tokens[word]}} if told else {}
            return Answer(200, "", usage)

        runner = Runner("r", send, 1, {"a": 1.0, "b": 1.0})
        runner._hold = lambda *_: None  # broken answers of this server mean nothing
        made = []
        for tenant, word in (("a", "long"), ("b", "short")):
            path = tmp_path / f"{tenant}.jsonl"
            path.write_text("".join(json.dumps(line(k, word)) + "\n" for k in range(20_000)))
            one = replace(batch(f"batch_{tenant}", tenant), total=20_000)
            made.append(Running(one, Answers(tmp_path / one.id, 20_000), path))
            runner.add(made[-1])
        runner.grant({one.batch.id: 8 for one in made})
        task = asyncio.create_task(runner.run())
        await asyncio.sleep(6.0)
        task.cancel()
        with suppress(asyncio.CancelledError):
            await task
        had = {name: runner._shares.had_s(name) for name in "ab"}
        await runner.drain(0.0)
        for one in made:
            one.answers.close()
            one._lines.close()
        return had, got

    had, got = asyncio.run(turns())
    assert had["a"] == pytest.approx(had["b"], rel=0.1), "seconds of slots"
    if told:
        assert 0.5 < got["long"] / got["short"] < 2.0, "tokens, as far as short sleeps are on time"
