"""What clients owe the gateway when prices, servers or models were not there."""

from dataclasses import replace
from datetime import timedelta

import pytest

from adapters.ports import AdapterError
from scheduler.gateway.model import Status
from scheduler.gateway.sales import State
from tests.unit.test_gateway_talk import begun, bought, opened, quoted, run


def priceless(plan):
    """The same plan, in which no interval has a price."""
    pools = [{**pool, "intervals": [{**one, "per_gpu_h": None} for one in pool["intervals"]]} for pool in plan["pools"]]
    return plan | {"pools": pools}


@run
async def test_tokens_in_an_interval_without_a_price_cost_the_last_one_also_after_a_restart(tmp_path):
    async with opened(tmp_path) as (gateway, daemon):
        daemon.plan = quoted(free=3.0)
        await gateway.trade.hear_prices()
        (batch,) = begun(gateway, 1)
        assert gateway.trade.charged(tokens(batch, 500_000)).paid == pytest.approx(0.5)
    async with opened(tmp_path) as (gateway, daemon):
        daemon.plan = priceless(quoted(free=3.0))
        await gateway.trade.hear_prices()
        assert gateway.trade.charged(tokens(batch, 500_000)).paid == pytest.approx(0.5)


@run
async def test_before_any_price_nothing_is_charged_and_it_is_made_up_for(tmp_path):
    async with opened(tmp_path) as (gateway, daemon):
        (batch,) = begun(gateway, 1)
        free = gateway.trade.charged(tokens(batch, 500_000))
        assert (free.paid, free.paid_tokens) == (0.0, 0)
        daemon.plan = quoted(free=3.0)
        await gateway.trade.hear_prices()
        assert gateway.trade.charged(tokens(free, 600_000)).paid == pytest.approx(0.6)


def tokens(batch, count):
    return replace(batch, input_tokens=count, output_tokens=0)


async def sold_with_a_batch(gateway, daemon):
    daemon.plan = quoted(free=4.0)
    await gateway.trade.hear_prices()
    sold = bought(gateway, 1000)
    (batch,) = begun(gateway, 1)
    return sold, gateway.shelf.put(replace(batch, quote=sold.id))


@run
async def test_a_model_that_was_sold_and_is_no_longer_served_is_named_at_the_start(tmp_path):
    async with opened(tmp_path) as (gateway, daemon):
        daemon.plan = quoted(free=4.0)
        await gateway.trade.hear_prices()
        sold = bought(gateway, 1000)
        gateway.trade.sales.put(replace(sold, model="gone"))
    with pytest.raises(AdapterError, match=f"{sold.id} is sold until .* no server has its model 'gone'"):
        async with opened(tmp_path):
            pass


@run
async def test_a_sale_that_the_planner_refuses_withdraws_the_batch_that_waits_for_it(tmp_path):
    async with opened(tmp_path) as (gateway, daemon):
        sold, batch = await sold_with_a_batch(gateway, daemon)
        assert await gateway.trade.report(batch)
        daemon.error["submit"] = 422
        gateway.trade.sales.heard.clear()
        await gateway.trade.tell_sales()
        assert gateway.trade.sales.find("research", sold.id).state is State.CANCELLED
        assert not await gateway.trade.report(batch), "the batch is withdrawn, and does not wait for ever"


@pytest.mark.parametrize(("trouble", "owed"), [("", 1000), ("no server answers", 0)])
@run
async def test_a_sale_whose_servers_are_down_at_its_deadline_is_owed_as_far_as_it_was_used(tmp_path, trouble, owed):
    async with opened(tmp_path) as (gateway, daemon):
        sold, batch = await sold_with_a_batch(gateway, daemon)
        for runner in gateway.runners.values():
            runner.trouble = trouble
        gateway.trade.sales.expire(sold.deadline + timedelta(seconds=1))
        ended = gateway.trade.sales.find("research", sold.id)
        assert ended.paid == pytest.approx(owed * sold.per_million / 1e6)
        assert ended.state is (State.CLOSED if owed else State.CANCELLED)
        gateway.shelf.put(batch.at(Status.CANCELLED, sold.deadline))
        again = gateway.trade.sales.put(replace(sold, state=State.ACCEPTED))
        gateway.trade.sales.expire(again.deadline + timedelta(seconds=1))
        assert gateway.trade.sales.find("research", sold.id).paid > 0, "nobody waited: it is owed"
