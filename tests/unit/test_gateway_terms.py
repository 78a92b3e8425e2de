"""What the gateway makes of its tenants' batches for others: when to come again, and what moving one counts."""

from dataclasses import replace
from datetime import UTC, datetime, timedelta

import pytest

from scheduler.coordination.joint import Terms
from scheduler.gateway.config import UpstreamConfig
from scheduler.gateway.model import ApiError, Status
from tests.unit.test_coordination import decided, homes, job, report
from tests.unit.test_gateway_talk import begun, created, opened, quoted, research, run


def pool(name, *prices):
    """Hours of a pool, the first of which begins now."""
    edges = [datetime.now(UTC) + timedelta(hours=k) for k in range(len(prices) + 1)]
    slots = [{"start": edges[k].isoformat(), "end": edges[k + 1].isoformat(), "per_gpu_h": price, "free_gpus": 1.0}
             for k, price in enumerate(prices)]  # fmt: skip
    return {"pool": name, "intervals": slots}


@pytest.mark.parametrize(("model", "least_s"), [("tiny", 3600.0), ("big", 7200.0), ("", 60.0)])
@run
async def test_a_full_quota_opens_when_power_is_cheap_for_the_models_that_fill_it(tmp_path, model, least_s):
    """Another server's power is cheap now, and does nothing for these batches."""
    async with opened(tmp_path) as (gateway, daemon):
        tiny = gateway.config.upstreams[0]
        fields = {"url": tiny.url, "tokens_per_gpu_h": 1000}
        for number, name in enumerate(("big", "other")):
            one = UpstreamConfig(id=name, pool=f"pool{number}", models=(name,), **fields)
            gateway._of_model[name] = one
        daemon.plan = quoted(free=3.0) | {"pools": [pool("tune", 3.0, 1.0, 1.0), pool("pool0", 3.0, 3.0, 1.0),
                                                    pool("pool1", 1.0, 3.0, 3.0)]}  # fmt: skip
        await gateway.trade.hear_prices()
        for batch in begun(gateway, 2):
            gateway.shelf.put(replace(batch, model=model))
        (over,) = created(gateway)  # what is over fills nothing
        gateway.shelf.put(replace(over, model="other", status=Status.COMPLETED))
        tenant = research(gateway).model_copy(update={"max_batches": 2})
        with pytest.raises(ApiError) as refused:
            gateway._quota(tenant)
        assert refused.value.status == 429
        assert refused.value.retry_after_s == pytest.approx(least_s, abs=5.0)


@run
async def test_what_is_left_of_a_batch_and_its_answers_to_come_are_what_moving_it_counts(tmp_path):
    async with opened(tmp_path) as (gateway, daemon):
        (batch,) = begun(gateway, 1)
        upstream = gateway.config.upstreams[0]
        running = gateway.runners[upstream.id].running[batch.id]
        asked_bytes, tokens = gateway.shelf.held(batch.input_file).bytes, 25e9
        work = tokens / upstream.tokens_per_gpu_h
        assert asked_bytes < 4 * tokens

        async def told(**more):
            running.batch = replace(batch, sites=("california",), **more)
            gateway.talk._known.discard(batch.id)
            await gateway.talk.introduce(gateway._running())
            return daemon.jobs[batch.id]["data_gb"]

        assert await told(work_gpu_h=0.0) == pytest.approx(asked_bytes / 1e9)
        whole = await told(work_gpu_h=work)
        assert whole == pytest.approx(100.0), "four bytes for each token, of questions and answers"
        assert await told(work_gpu_h=work, total=10, completed=6, failed=1) == pytest.approx(30.0)
        running.batch = batch
        gateway.talk._known.discard(batch.id)
        await gateway.talk.introduce(gateway._running())
        assert "data_gb" not in daemon.jobs[batch.id], "it may not move"
    # 50 GPU-hours draw, at low caps 0.2 kWh for each: moving saves 50 * 0.2 * 0.18 = 1.8.
    pair = [
        report("texas", 200.0, [job("j", work=50.0, gpus=50, data_gb=whole)], movable={"j": ("california",)}),
        report("california", 20.0),
    ]
    assert homes(decided(pair, Terms(per_gb=0.01))[0], "texas") == {"j": "california"}
    assert homes(decided(pair, Terms(per_gb=0.2))[0], "texas") == {"j": "texas"}, "its data keeps it at home"
