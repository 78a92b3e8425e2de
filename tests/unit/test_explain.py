"""One sentence with numbers for every pool and job: why, until when, what would change it."""

from zoneinfo import ZoneInfo

import pytest

from optimizer.domain import Work
from optimizer.explain import explain_job, explain_pool
from optimizer.fallback import greedy_plan
from optimizer.solve import solve_problem
from tests.support.problems import event, hourly, inputs, job, pool, problem, site, typical_problem


def explained(index=0, jobs=(), events=(), of=None, **more):
    of = of or pool(floor=0.5)
    made = problem(
        hourly(4), [site(4, **more)], [inputs(of, 4), inputs(pool("batch", Work.BATCH, 100), 4)], jobs, events
    )
    plan = solve_problem(made)
    return explain_pool(made, plan, of.id, index), (made, plan)


def test_an_event_is_named_with_its_cap_its_end_and_what_there_would_be_without_it():
    text, _ = explained(1, events=[event("elrp-7", (1, 3), 4050.0, 4500.0)], of=pool(count=11_000, floor=0.5))
    assert text == (
        "chat is capped at 367 W (93% throughput) because event elrp-7 limits the site to 4.05 MW (ends 00:00Z) until "
        "07 Sep 00:00Z; without it 400 W."
    ).replace("(ends 00:00Z)", "(ends 07 Sep 00:00Z)")


def test_price_floor_and_full_power():
    assert "because power costs 2500 USD/MWh until" in explained(price=2500.0)[0]
    assert "service floor of 80% allows no less" in explained(limit=200.0, of=pool(floor=0.8))[0]
    assert explained()[0] == "chat runs at full power (400 W) until 07 Sep 01:00Z: nothing asks for less."


def test_a_waiting_job_says_until_when_why_and_what_of_its_deadline():
    work = [job("j", (0, 3), 50.0, 100)]
    _, (made, plan) = explained(jobs=work, price=[90.0, 10.0, 50.0, 50.0])
    assert explain_job(made, plan, "j") == (
        "j waits until 22:00Z because power at 90 USD/MWh is dearer than later; it would not start above 10.05 "
        "USD/MWh, now 90; done 23:00Z, before its deadline 07 Sep 00:00Z."
    )
    at_the_site = explain_job(made, plan, "j", ZoneInfo("America/Los_Angeles"))
    assert at_the_site.startswith("j waits until 15:00 PDT because")
    assert at_the_site.endswith("done 16:00 PDT, before its deadline 17:00 PDT."), "the same day there"
    _, (made, plan) = explained(jobs=[job("j", (0, 1), 300.0, 100)])
    assert "with 200.0 GPU-hours after its deadline 22:00Z" in explain_job(made, plan, "j")
    _, (made, plan) = explained(jobs=[job("j", (0, 1), 30.0, 10, ("nowhere",))])
    assert "none of its pools (nowhere) runs batch work" in explain_job(made, plan, "j")


@pytest.mark.parametrize("make", [solve_problem, greedy_plan])
def test_everything_of_a_real_site_has_its_sentence(make):
    made = typical_problem(30)
    plan = make(made)
    texts = [explain_pool(made, plan, item.pool.id, t) for item in made.pools for t in range(len(made.grid))]
    texts += [explain_job(made, plan, work.id) for work in made.jobs]
    assert all(text.endswith(".") and "nan" not in text and "_" not in text for text in texts)


def test_unknown_names_are_errors():
    _, (made, plan) = explained()
    for asked in (lambda: explain_pool(made, plan, "nothing"), lambda: explain_job(made, plan, "nothing")):
        with pytest.raises(KeyError):
            asked()
