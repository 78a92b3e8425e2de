"""What clients owe the gateway when prices, servers or models were not there."""

from dataclasses import replace
from datetime import timedelta
from unittest.mock import Mock

import pytest

from adapters.ports import AdapterError
from scheduler.gateway.model import ApiError, Status
from scheduler.gateway.sales import State
from tests.unit.test_gateway_talk import begun, bought, created, opened, quoted, run


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


async def sold_one(gateway, daemon, tokens=1000, free=4.0):
    """A sale of a plan with so many free GPUs."""
    daemon.plan = quoted(free=free)
    await gateway.trade.hear_prices()
    return bought(gateway, tokens)


async def sold_with_a_batch(gateway, daemon):
    sold = await sold_one(gateway, daemon)
    (batch,) = begun(gateway, 1)
    return sold, gateway.shelf.put(replace(batch, quote=sold.id))


@run
async def test_a_model_that_was_sold_and_is_no_longer_served_is_named_at_the_start(tmp_path):
    async with opened(tmp_path) as (gateway, daemon):
        sold = await sold_one(gateway, daemon)
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


@run
async def test_the_end_of_a_sale_that_the_daemon_refuses_is_said_once_and_told_until_it_is_taken(tmp_path, monkeypatch):
    said = []
    monkeypatch.setattr("scheduler.gateway.trade.log", Mock(error=lambda *what, **more: said.append((what, more))))
    async with opened(tmp_path) as (gateway, daemon):
        sold = await sold_one(gateway, daemon)
        gateway.trade.sales.put(replace(sold, state=State.DELIVERED))
        daemon.error["progress"] = 422
        for _ in range(3):
            await gateway.trade.tell_sales()
        ((what, more),) = said
        assert (what, more["quote"], more["state"]) == (("gateway.sale_end_refused",), sold.id, "delivered")
        daemon.error.clear()
        await gateway.trade.tell_sales()
        assert gateway.trade.sales.find("research", sold.id).told


def answered(batch, lines, each):
    """The batch with so many lines answered that took `each` tokens."""
    return tokens(replace(batch, completed=lines), lines * each)


@run
async def test_a_batch_that_takes_more_than_was_bought_keeps_the_gpus_of_its_sale_until_its_last_line(tmp_path):
    async with opened(tmp_path) as (gateway, daemon):
        sold, batch = await sold_with_a_batch(gateway, daemon)
        batch, done = replace(batch, total=10), []
        for lines in range(11):
            assert await gateway.trade.report(answered(batch, lines, 1000))
            done.append(daemon.done[sold.id] / sold.work_gpu_h)
        assert done == pytest.approx([lines / 10 for lines in range(11)]), "as far as its lines are"
        assert await gateway.trade.report(answered(batch, 5, 50))
        assert daemon.done[sold.id] == pytest.approx(0.25 * sold.work_gpu_h), "else as far as its tokens are"
        silent = replace(batch, completed=9)
        gateway.trade.sales.put(replace(sold, used=999))
        assert await gateway.trade.report(silent), "a server that counts no tokens"
        assert daemon.done[sold.id] < sold.work_gpu_h


@run
async def test_tokens_beyond_what_was_bought_are_charged_at_the_price_of_now_and_stand_in_the_books(tmp_path):
    async with opened(tmp_path) as (gateway, daemon):
        sold, batch = await sold_with_a_batch(gateway, daemon)
        gateway.trade.sales.put(sold := replace(sold, used=400))
        batch = replace(batch, total=10)
        assert gateway.trade.charged(answered(batch, 6, 100)).paid == 0.0, "bought"
        charged = gateway.trade.charged(answered(batch, 9, 100))
        assert charged.paid == pytest.approx(300 * 1.0 / 1e6), "a unit of money for a million"
        daemon.plan = quoted(free=4.0, per_gpu_h=0.024)
        await gateway.trade.hear_prices()
        more = gateway.trade.charged(answered(charged, 10, 100))
        assert (more.paid, more.paid_tokens) == (pytest.approx((300 + 100 * 2.0) / 1e6), 1000)
        assert more.json()["gridpace"]["paid"] == more.paid
        assert gateway.trade.charged(more) == more, "once"
        bid = gateway.trade.charged(answered(replace(batch, max_price=1.5), 10, 100))
        assert bid.paid == pytest.approx(400 * 1.5 / 1e6), "never above a bid"
        await gateway.trade.report(gateway.shelf.put(more))
        assert daemon.books[sold.id] == {
            "tokens": 1400, "paid": sold.paid + more.paid, "tenant": "research", "model": "tiny"
        }  # fmt: skip


@run
async def test_a_batch_beyond_its_sale_ends_after_the_deadline_and_both_are_owed(tmp_path):
    """The site has kept the sale once its tokens are used, however much its batch takes beyond."""
    async with opened(tmp_path) as (gateway, daemon):
        sold, batch = await sold_with_a_batch(gateway, daemon)
        await gateway.trade.tell_sales()
        batch = answered(replace(batch, total=10, created_at=sold.deadline - timedelta(hours=1)), 5, 400)
        gateway.shelf.put(batch)
        assert settled(gateway, sold) == (False, 1000), "it was done, though its batch is not"
        assert await gateway.trade.report(batch), "it goes on"
        await gateway.trade.tell_sales()
        assert daemon.calls["cancel"] == 0, "and its job stays"
        batch = gateway.trade.charged(answered(batch, 10, 400))
        gateway.shelf.put(batch.at(Status.COMPLETED, sold.deadline + timedelta(hours=1)))
        gateway.trade.recount(sold.id)
        await gateway.trade.tell_sales()
        assert (daemon.calls["cancel"], gateway.trade.sales.find("research", sold.id).told) == (1, True)
        assert daemon.books[sold.id]["tokens"] == 4000
        assert daemon.books[sold.id]["paid"] == pytest.approx(sold.paid + 3000 * 1.0 / 1e6)


@run
async def test_a_batch_bids_no_less_than_what_it_names_was_bought_for(tmp_path):
    """Or what goes beyond the quote would run for next to nothing, on GPUs that are held for it."""
    async with opened(tmp_path) as (gateway, daemon):
        sold = await sold_one(gateway, daemon)
        for bid, said in (("1.0", "is less than the 1.1 a million"), ("1.2", "")):
            metadata = {"quote": sold.id, "max_price_per_million_tokens": bid}
            if said:
                with pytest.raises(ApiError, match=said) as caught:
                    created(gateway, metadata=metadata)
                assert (caught.value.status, caught.value.param) == (400, "metadata.max_price_per_million_tokens")
            else:
                (made,) = created(gateway, metadata=metadata)
                assert (made.quote, made.max_price) == (sold.id, 1.2)


def settled(gateway, sold):
    """The sale after its deadline; what is owed of it in tokens."""
    gateway.trade.sales.put(sold)
    gateway.trade.sales.close_due(sold.deadline + timedelta(seconds=1))
    ended = gateway.trade.sales.find("research", sold.id)
    assert ended.state is State.CLOSED
    return ended.late, round(ended.paid / sold.per_million * 1e6)


@run
async def test_a_sale_that_was_not_done_though_its_batch_came_early_enough_is_owed_as_far_as_it_was_used(tmp_path):
    """Whatever kept the site from it: servers, power, a full disk, or the gateway's own absence."""
    async with opened(tmp_path) as (gateway, daemon):
        sold, batch = await sold_with_a_batch(gateway, daemon)
        needed = 2 * timedelta(hours=batch.work_gpu_h) / sold.max_gpus + timedelta(minutes=1)
        early = replace(batch, created_at=sold.deadline - needed)
        used = replace(sold, used=300)
        gateway.shelf.put(early)
        assert settled(gateway, used) == (True, 300)
        assert await gateway.trade.report(early), "it goes on, and is done late"
        more = gateway.trade.sales.use(sold.id, 1200)
        assert more.paid == pytest.approx(sold.paid), "never more than was agreed"
        gateway.shelf.put(replace(early, created_at=early.created_at + timedelta(seconds=1)))
        assert settled(gateway, used) == (False, 1000), "handed in too late to be done"
        gateway.shelf.put(replace(early, completed=1))
        assert settled(gateway, used) == (False, 1000), "all of it is answered"
        unchecked = replace(batch, total=0, work_gpu_h=0.0, status=Status.VALIDATING)
        rest = 2 * timedelta(hours=sold.work_gpu_h) * 0.7 / sold.max_gpus + timedelta(minutes=1)
        gateway.shelf.put(replace(unchecked, created_at=sold.deadline - rest + timedelta(seconds=1)))
        assert settled(gateway, used) == (False, 1000), "handed in too late for what it may be, and not checked yet"
        gateway.shelf.put(replace(unchecked, created_at=sold.deadline - rest))
        assert settled(gateway, used) == (True, 300)
        gateway.shelf.put(early.at(Status.CANCELLED, sold.deadline))
        assert settled(gateway, used) == (False, 1000), "its owner no longer wants it"


@run
async def test_a_late_sale_whose_daemon_lost_its_books_is_a_job_again_until_its_batch_is_over(tmp_path):
    async with opened(tmp_path) as (gateway, daemon):
        sold, batch = await sold_with_a_batch(gateway, daemon)
        past = gateway._clock.now() - timedelta(seconds=1)
        gateway.trade.sales.put(replace(sold, deadline=past))
        gateway.shelf.put(replace(batch, created_at=past - timedelta(hours=3)))
        await gateway.trade.tell_sales()
        late = gateway.trade.sales.find("research", sold.id)
        assert (late.state, late.late) == (State.CLOSED, True)
        daemon.jobs, daemon.error = {}, {"progress": 404}
        assert await gateway.trade.report(gateway.shelf.known(batch.id)), "it goes on"
        daemon.error = {}
        await gateway.trade.tell_sales()
        assert daemon.jobs[sold.id]["deadline"] == batch.expires_at.isoformat()
        assert daemon.jobs[sold.id]["work_gpu_h"] == sold.work_gpu_h
        calls = dict(daemon.calls)
        await gateway.trade.tell_sales()
        assert daemon.calls == calls, "told once"
        gateway.shelf.put(gateway.shelf.known(batch.id).at(Status.COMPLETED, gateway._clock.now()))
        await gateway.trade.tell_sales()
        assert gateway.trade.sales.find("research", sold.id).told
        assert daemon.calls["cancel"] == 1


@pytest.mark.parametrize(("away_for", "owed"), [(timedelta(minutes=9), 1000), (timedelta(minutes=13), 0)])
@run
async def test_a_gateway_that_was_away_while_a_sale_could_be_used_is_owed_what_was_used(tmp_path, away_for, owed):
    """Twice the six minutes that its one GPU needs for it: whoever could hand nothing in from then on had no chance."""
    async with opened(tmp_path) as (gateway, daemon):
        sold = await sold_one(gateway, daemon, 1100, free=1.0)
        now = gateway._clock.now()
        gateway.trade.sales.put(replace(sold, deadline=now - timedelta(seconds=1), tokens=1000, work_gpu_h=0.1))
        gateway.settling.beat(now - timedelta(seconds=1) - away_for)
    async with opened(tmp_path) as (gateway, _):
        gateway.trade.sales.close_due(gateway._clock.now())
        ended = gateway.trade.sales.find("research", sold.id)
        assert round(ended.paid / sold.per_million * 1e6) == owed


@pytest.mark.parametrize(("back", "owed"), [(timedelta(minutes=14), 1000), (timedelta(minutes=12), 0)])
@run
async def test_a_gateway_that_came_back_when_it_was_too_late_to_use_a_sale_is_owed_what_was_used(tmp_path, back, owed):
    async with opened(tmp_path) as (gateway, daemon):
        sold, now = await sold_one(gateway, daemon, 1100, free=1.0), gateway._clock.now()
        gateway.trade.sales.put(replace(sold, deadline=now + back, tokens=1000, work_gpu_h=0.1))
        gateway.settling.beat(now - timedelta(hours=5))
    async with opened(tmp_path) as (gateway, _):
        gateway.trade.sales.close_due(now + back)
        ended = gateway.trade.sales.find("research", sold.id)
        assert round(ended.paid / sold.per_million * 1e6) == owed


@run
async def test_a_sale_of_a_model_that_is_gone_is_settled_once_its_deadline_is_past(tmp_path):
    async with opened(tmp_path) as (gateway, daemon):
        sold = await sold_one(gateway, daemon)
        past = gateway._clock.now() - timedelta(seconds=1)
        gateway.trade.sales.put(replace(sold, model="gone", deadline=past))
    async with opened(tmp_path) as (gateway, daemon):
        daemon.plan = quoted(free=4.0)
        await gateway._turn(0)
        assert gateway.trade.prices()
        assert bought(gateway, 1000).state is State.ACCEPTED
        assert gateway.trade.sales.find("research", sold.id).state is State.CLOSED
        assert daemon.calls["cancel"] == 1
