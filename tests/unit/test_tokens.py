"""The quotes that a client reads are the plan's own, for the coming day, and a plan without duals quotes nothing."""

from dataclasses import replace
from datetime import timedelta

from optimizer.domain import Work
from optimizer.fallback import greedy_plan
from optimizer.solve import solve_problem
from scheduler.tokens import INDICATION, NO_DUAL, quotes_of
from tests.support.problems import START, hourly, inputs, job, pool, problem, site


def made(count=30):
    pools = [inputs(pool(tokens_per_gpu_h=1e6), count, 0.5), inputs(pool("batch", Work.BATCH, 100), count)]
    return problem(hourly(count), [site(count, price=50.0)], pools, [job("j", (0, 20), 200.0, 100)])


def test_the_coming_day_is_quoted_by_pool_and_interval_and_marked_as_an_indication():
    of = made()
    plan = solve_problem(of)
    found = quotes_of(of, plan, START + timedelta(minutes=90))
    assert (found.note, found.rung, found.currency) == (INDICATION, "optimum", "USD")
    chat, batch = found.pools
    assert (chat.gpu_model, chat.work) == ("A100", "interactive")
    assert [one.start for one in chat.intervals] == list(of.grid.starts[1:26])
    assert [one.per_mtok for one in chat.intervals] == list(plan.quotes["chat"].per_mtok[1:26])
    assert {one.per_mtok for one in batch.intervals} == {None}  # no tokens are configured for it
    assert all(one.per_gpu_h > 0 for one in batch.intervals)
    assert [value.per_mwh for value in found.sites] == list(plan.sites["dc"].marginal_per_mwh[1:26])


def test_a_plan_without_duals_says_so_and_quotes_nothing():
    of = made(4)
    found = quotes_of(of, greedy_plan(of), START)
    assert (found.note, found.pools, found.sites) == (NO_DUAL, (), ())
    assert quotes_of(of, replace(solve_problem(of), quotes={}), START).note == NO_DUAL
