"""What somebody says of a site's power acts at once, not at the fast loop's next turn by the clock."""

from datetime import timedelta

import pytest

from scheduler.clock import WallClock
from scheduler.running import App
from scheduler.service import OperatorOrder
from tests.support.loops import lab, order
from tests.support.power_worlds import wait_until


def hourly(text):
    """Loops that turn once an hour by the clock."""
    text = text.replace("interval: 5m", "interval: 1h")
    return text.replace("horizon: 12h", "horizon: 12h\ncontrol_period: 1h\nverify_every: 1h")


@pytest.mark.timeout(120)
def test_an_event_its_end_and_an_operators_limit_act_between_two_turns_and_a_flood_is_few(tmp_path):
    with lab(tmp_path, hourly, clock=WallClock()) as made:
        app = App(made.parts)
        app.timer.start()
        try:
            wait_until(lambda: made.state.ticks >= 1 and made.state.plan is not None, 60)
            before = made.state.ticks
            now = made.clock.now()
            made.facade.accept(order(now, now + timedelta(hours=1), ramp_in_s=0.0))
            wait_until(lambda: made.state.ticks == before + 1, 10)
            assert made.state.tick.target_kw["lab"] is not None
            wait_until(lambda: _later(made), 10)
            made.facade.cancel_event("e1", "me")
            wait_until(lambda: made.state.ticks == before + 2, 10)
            wait_until(lambda: _later(made), 10)
            made.facade.order(OperatorOrder("limit", site="lab", limit_kw=30.0, by="me"))
            wait_until(lambda: made.state.ticks == before + 3, 10)
            assert made.state.cap_kw["lab"] <= 30.0
            for number in range(200):
                made.facade.order(OperatorOrder("limit", site="lab", limit_kw=31.0 + number / 100, by="me"))
            assert made.state.ticks < before + 60
        finally:
            app.timer.stop()


def _later(made):
    """Whether the next word is no flood any more."""
    return (made.clock.now() - made.state.tick.at).total_seconds() > 0.5
