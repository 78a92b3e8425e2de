"""The books of what was sold: energy as the hall's meters have it, tokens and money as workers tell them."""

import csv
import io
from datetime import UTC, datetime, timedelta

import pytest

from optimizer.domain import Work
from optimizer.solve import solve_problem
from scheduler.api.sales import COLUMNS, by_tenant, table
from scheduler.sales import Sale, SalesBook, Sold
from scheduler.store.store import Store
from scheduler.tokens import quotes_of
from tests.support.loops import lab
from tests.support.problems import START, event, hourly, inputs, job, pool, problem, site

AT = datetime(2026, 11, 26, 18, tzinfo=UTC)


def test_energy_of_jobs_is_what_their_pool_drew_above_its_idle_cards(tmp_path):
    with lab(tmp_path) as made:
        drawn = {"kwh": 0.0}

        def watch(tick):
            tune = made.ctx.pools["tune"].pool
            idle = tune.count - sum(gpus for pool, gpus in made.state.grants.values() if pool == "tune")
            if made.state.reading is not None:
                kw = made.state.reading.pool_kw["tune"] - idle * tune.curve.idle_w / 1000
                drawn["kwh"] += kw * 1.2 / 3600

        made.run(timedelta(minutes=6), watch=watch)
        sales = made.facade.sales()
        assert {sale.job for sale in sales} <= {"soft", "fixed"}
        energy = sum(sale.energy_kwh for sale in sales)
        assert energy > 0.2
        assert energy == pytest.approx(drawn["kwh"], rel=0.03)
        assert sum(sale.energy_cost for sale in sales) == pytest.approx(energy * 60 / 1000), "60 USD/MWh"
        made.facade.report_sold("fixed", Sold(1000, 5.0, "research", "tiny"))
        fixed = next(one for one in made.facade.jobs() if one.id == "fixed")
        sale = made.ctx.sales.of("fixed")
        assert (fixed.tokens, fixed.energy_kwh) == (1000, sale.energy_kwh)
        assert fixed.margin == pytest.approx(5.0 - sale.energy_cost)
        kept = SalesBook(made.ctx.store).of("fixed")
        assert kept == sale, "on disk with the report"


def test_books_outlive_the_process_and_late_words_lower_nothing(tmp_path):
    store = Store.open(tmp_path / "books.db")
    book = SalesBook(store)
    book.burn("a", "tune", 2.0, 0.1, AT)
    book.sold("a", Sold(100, 3.0, "research", "tiny"), AT)
    book.sold("a", Sold(40, 1.0, "research", "tiny"), AT + timedelta(seconds=1))
    book.sold("c", Sold(100, 3.0, "research", "tiny"), AT)
    book.sold("c", Sold(40, 1.2, "research", "tiny"), AT, last=True)
    assert (book.of("c").tokens, book.of("c").paid) == (100, 1.2), "what is owed in the end"
    book.sold("c", Sold(100, 1.2), AT)
    book.flush()
    book.burn("b", "tune", 1.0, 0.5, AT)
    store.close()
    store = Store.open(tmp_path / "books.db")
    try:
        kept = SalesBook(store).of("a")
        assert {sale.job for sale in SalesBook(store).rows()} == {"a", "c"}
    finally:
        store.close()
    assert (kept.tokens, kept.paid, kept.energy_kwh, kept.margin) == (100, 3.0, 2.0, pytest.approx(2.9))


def test_the_csv_has_every_sale_and_no_formula():
    rows = [Sale("a", AT, "tune", "=cmd()", "tiny", 10, 3.0, 2.0, 1.0), Sale("b", AT, "tune", energy_kwh=1.0)]
    head, first, second = csv.reader(io.StringIO(table(rows)))
    assert tuple(head) == COLUMNS
    assert (first[2], first[-1], second[7]) == ("'=cmd()", "2.0", "1.0")
    assert by_tenant(rows)["=cmd()"]["margin"] == 2.0
    assert by_tenant(rows)["-"]["energy_kwh"] == 1.0


def free(of):
    plan = solve_problem(of)
    (batch,) = [one for one in quotes_of(of, plan, START).pools if one.work == "batch"]
    return plan, [slot.free_gpus for slot in batch.intervals]


def test_free_gpus_are_those_without_work_that_limits_and_events_leave_power_for():
    pools = [inputs(pool("batch", Work.BATCH, 100), 4)]
    jobs = [job("j", (0, 4), 160.0, 40)]
    plan, found = free(problem(hourly(4), [site(4, pue=1.25)], pools, jobs))
    assert found == [100 - gpus for gpus in plan.pools["batch"].active_gpus]
    for kw, more in ((40.0, {"limit": 40.0}), (30.0, {})):
        events = [] if more else [event(hours=(0, 4), target=kw, ramp_in_s=0.0, ramp_out_s=0.0)]
        plan, found = free(problem(hourly(4), [site(4, pue=1.25, **more)], pools, jobs, events))
        for gpus, active, drawn in zip(found, plan.pools["batch"].active_gpus, plan.sites["dc"].import_kw, strict=True):
            assert gpus == pytest.approx(min(100 - active, (kw - drawn) / 1.25 / 0.3), abs=1e-6), "0.3 kW for each"
        assert max(found) < 60


def test_power_that_is_left_is_offered_once_whatever_number_of_batch_pools_a_site_has():
    pools = [inputs(pool(name, Work.BATCH, count), 4) for name, count in (("first", 100), ("second", 300))]
    of = problem(hourly(4), [site(4, pue=1.25, limit=80.0)], pools, [job("j", (0, 4), 40.0, 40, pools=("first",))])
    plan = solve_problem(of)
    found = {one.pool: [slot.free_gpus for slot in one.intervals] for one in quotes_of(of, plan, START).pools}
    for first, second, drawn in zip(found["first"], found["second"], plan.sites["dc"].import_kw, strict=True):
        assert first > 0
        assert (first + second) * 0.3 == pytest.approx((80.0 - drawn) / 1.25), "0.3 kW for each"
