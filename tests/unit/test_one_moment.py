"""A pool's row tells one moment: what is ordered, and the reason that holds for it then."""

from dataclasses import replace
from datetime import timedelta

from optimizer.reasons import Reason
from scheduler.service import OperatorOrder
from scheduler.web import tables
from scheduler.web.board import gather
from tests.support.loops import lab

MINUTE = timedelta(minutes=1)


def row(made, pool):
    """As clients see it."""
    return next(one for one in made.facade.report().pools if one.id == pool)


def test_a_pool_s_row_is_of_the_last_tick_with_the_reason_of_that_tick(tmp_path):
    with lab(tmp_path) as made:
        made.run(MINUTE, step_s=5)
        planned, cycle = row(made, "train"), made.facade.report().cycle
        made.facade.order(OperatorOrder("limit", site="lab", limit_kw=40.0, by="me"))
        tick = [made.tick() for _ in range(60) if made.clock.sleep(1) is None][-1]
        held = row(made, "train")
        assert held.cap_w == tick.cap_w["train"] < planned.cap_w
        assert held.reason == Reason.OPERATOR_ORDER.value
        assert f"held at {held.cap_w} W" in held.why
        assert held.throughput < planned.throughput
        assert held.draw_kw == tick.pool_kw["train"] < planned.draw_kw
        shown = tables.pools(gather(made.facade, "lab"))
        assert f"held at {held.cap_w} W" in shown
        assert f"{held.cap_w} W</span>" in shown
        made.facade.order(OperatorOrder("limit", site="lab", limit_kw=None, by="me"))
        for _ in range(60):
            made.clock.sleep(10)
            made.tick()
            if made.state.tick.cap_w["train"] == planned.cap_w:
                break
        back = row(made, "train")
        assert (back.cap_w, back.reason, back.why) == (planned.cap_w, planned.reason, planned.why)
        assert made.facade.report().cycle == cycle, "no plan in between"


def test_a_plan_that_no_tick_has_followed_explains_nothing_yet(tmp_path):
    """At the demo's start a row said 400 W, and why it was held at 200."""
    with lab(tmp_path) as made:
        made.run(MINUTE, step_s=5)
        before, decision = row(made, "train"), made.state.decision
        pool = decision.plan.pools["train"]
        dear = replace(pool, reasons=tuple(Reason.HIGH_PRICE for _ in pool.reasons))
        plan = replace(decision.plan, pools={**decision.plan.pools, "train": dear})
        made.state.decision = replace(decision, plan=plan)
        made.state.report = replace(made.state.report, cycle=99)
        assert row(made, "train") == before
        made.tick()
        after = row(made, "train")
        assert (after.cap_w, after.reason) == (made.state.tick.cap_w["train"], Reason.HIGH_PRICE.value)
