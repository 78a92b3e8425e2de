"""A plan that orders a pool below its floor: others make up for it, or the shortfall is said, and never the meter."""

from dataclasses import replace
from datetime import timedelta

import pytest

from optimizer.reasons import Reason
from scheduler.engine import Decision
from scheduler.safety import floor_cap_w
from scheduler.service import OperatorOrder
from tests.support.loops import lab


def ordered_below(made, pool, cap_w):
    """The plan in force with another cap for one pool."""
    plan = made.state.plan
    pools = {**plan.pools, pool: replace(plan.pools[pool], cap_w=(cap_w,) * len(plan.grid))}
    made.state.decision = Decision(replace(plan, pools=pools), made.state.problem)


@pytest.mark.parametrize(("limit_kw", "reachable"), [(38.0, True), (25.0, False)])
def test_a_floor_that_clamps_the_plan_is_made_up_for_or_said(tmp_path, limit_kw, reachable):
    with lab(tmp_path, lambda text: text.split("jobs:")[0]) as made:
        made.run(timedelta(minutes=1), step_s=2)
        ordered_below(made, "train", 120)
        made.facade.order(OperatorOrder("limit", site="lab", limit_kw=limit_kw, by="me"))
        ticks = [made.tick() for _ in range(30) if made.clock.sleep(1) is None]
        floor_w = floor_cap_w(made.ctx.pools["train"].pool)
        assert floor_w > 120
        assert ticks[-1].cap_w["train"] == floor_w
        codes = {note.code for note in ticks[-1].notes}
        assert Reason.SERVICE_FLOOR in codes
        assert Reason.METER_MISMATCH not in codes
        assert (Reason.LIMIT_UNREACHABLE in codes) != reachable
        assert (ticks[-1].import_kw["lab"] <= limit_kw) == reachable
