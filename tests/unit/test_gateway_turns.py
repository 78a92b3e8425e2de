"""Whose request is next at a server where some have bought what they are granted, and others share."""

import asyncio
import json
from dataclasses import replace
from datetime import timedelta

import pytest

from scheduler.gateway.answers import Answers
from scheduler.gateway.lines import Line
from scheduler.gateway.runner import Runner
from scheduler.gateway.running import Running
from tests.support.gateway import line
from tests.unit.test_gateway_parts import NOW, batch, waiting


@pytest.mark.parametrize("buyers", [1, 3])
def test_what_was_sold_has_what_it_was_granted_and_the_others_share_the_rest_by_weight(tmp_path, buyers):
    path = tmp_path / "in.jsonl"
    path.write_text("".join(json.dumps(line(k, "w")) + "\n" for k in range(200)))
    weights = {f"t{k}": 1.0 + (k == 0) for k in range(10)}

    async def turns(others):
        runner, made = Runner("r", None, 4, weights), {}
        for name in [f"b{k}" for k in range(buyers)] + others:
            quote = f"quote_{name}" if name.startswith("b") else None
            one = batch(f"batch_{len(others)}{name}", name, quote=quote, deadline=NOW + timedelta(hours=9))
            made[name] = Running(one, Answers(tmp_path / one.id, 200), path)
            runner.add(made[name])
        runner.grant({one.batch.job: 10 if one.batch.quote else 1 for one in made.values()})
        for _ in range(2):
            while runner.in_flight < runner.slots:
                chosen = runner._choose()
                chosen.next()
                chosen.in_flight += 1
                runner.in_flight += 1
            found = {name: one.in_flight for name, one in made.items()}
            for one in made.values():  # an answer for each: who may send again stands where he stood
                one.in_flight -= 1
                runner.in_flight -= 1
                runner._queue(one)
        for one in made.values():
            one._lines.close()
        return found

    found = asyncio.run(turns(list(weights)))
    assert [found[f"b{k}"] for k in range(buyers)] == [40] * buyers, "ten GPUs of four requests"
    assert abs(found.pop("t0") - 80 / 11) <= 1, "twice the weight"
    assert all(abs(count - 40 / 11) <= 1 for name, count in found.items() if name.startswith("t"))
    alone = asyncio.run(turns([]))
    assert sum(alone.values()) == 40 * buyers


def test_what_was_sold_takes_beyond_its_grant_only_what_nobody_else_wants(tmp_path):
    async def turns():
        runner = Runner("r", None, 1, {})
        sold, plain = (waiting(tmp_path, runner, number) for number in (0, 1))
        sold.batch = replace(sold.batch, quote="quote_1")
        runner.grant({"quote_1": 1, plain.batch.id: 4})
        order = []
        while (one := runner._choose()) is not None:
            one.next()
            one.in_flight += 1
            order.append(one)
        assert order == [sold, plain, plain, plain, sold, sold]
        assert not sold.eligible
        sold.in_flight = 0
        sold.again.append(Line(0, "c-0", {}))
        runner._queue(sold)
        assert runner._choose() is sold
        runner.remove(sold.batch.id)
        assert runner._choose() is None
        for one in (sold, plain):
            one._lines.close()

    asyncio.run(turns())
