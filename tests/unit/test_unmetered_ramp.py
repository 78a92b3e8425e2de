"""What was kept free while no meter told anything comes back by the site's ramp, not in the first second of sight."""

from datetime import timedelta

from adapters.ports import AdapterError
from optimizer.reasons import Reason
from scheduler.service import OperatorOrder
from tests.support.loops import lab

UP_KW_PER_S = 10.0 / 60.0
"""The lab's ramp."""


def test_the_ramp_goes_on_from_what_is_drawn_once_a_meter_tells_it_again(tmp_path):
    with lab(tmp_path, lambda text: text.split("jobs:")[0]) as made:
        made.run(timedelta(minutes=6), step_s=5)
        made.facade.order(OperatorOrder("limit", site="lab", limit_kw=30.0, by="me"))
        made.run(timedelta(minutes=2))
        read = made.ctx.meter.read

        def lost():
            raise AdapterError("meter-7 does not answer")

        made.ctx.meter.read = lost
        made.run(timedelta(seconds=5))
        for gpu in made.hall.gpus_of["train"][:28]:
            made.hall.fail(gpu, Reason.GPU_LOST)  # nobody sees that they draw nothing any more
        made.run(timedelta(seconds=40))
        blind_kw = read().import_kw["lab"]
        assert blind_kw < 28.5, "counted in full, they keep the others low"
        made.ctx.meter.read = read
        seen, begun = [], made.clock.now()
        made.run(
            timedelta(seconds=60),
            watch=lambda tick: seen.append(((tick.at - begun).total_seconds(), read().import_kw["lab"])),
        )
        assert max(kw for _, kw in seen) > blind_kw + 1.0, "there was something to give back"
        for second, kw in seen:
            assert kw <= blind_kw + UP_KW_PER_S * (second + 2.0) + 0.3
