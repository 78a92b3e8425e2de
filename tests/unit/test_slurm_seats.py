"""Which waiting jobs Slurm could start, and what we did to which job when an answer was lost."""

import threading
from datetime import UTC, datetime, timedelta

from adapters.context import AdapterContext
from adapters.jobs.held import AFTERWARDS, Held
from adapters.jobs.slurm import SlurmConfig, SlurmJobs
from adapters.jobs.slurm_nodes import free_gpus, nodes_in
from adapters.jobs.slurm_read import PENDING, RUNNING, SUSPENDED, SlurmJob
from adapters.jobs.slurm_seats import seated
from adapters.jobs.slurm_terms import Terms
from scheduler.clock import WallClock
from scheduler.store.store import Store

NOW = datetime(2026, 11, 26, 18, tzinfo=UTC)
SINFO = """
 gpu0 batch idle gpu:h100:8 gpu:h100:0(IDX:N/A)
 gpu1 batch mixed gpu:h100:8(S:0-1) gpu:(null):6(IDX:0-5)
 gpu2 batch drained* gpu:h100:8 gpu:h100:0
 gpu3 big allocated gpu:8 gpu:8
 cpu0 batch idle (null) gpu:0
"""


def job(name, state=PENDING, gpus=1, pause="suspend", hours=8):
    made = SlurmJob(name, "", "", "", "batch", state, "", gpus, NOW, NOW, None, None, timedelta())
    return name, (made, Terms(NOW + timedelta(hours=hours), pause))


def test_free_gpus_are_those_of_usable_nodes_that_no_job_holds():
    assert free_gpus(nodes_in(SINFO)) == {"batch": 10, "big": 0}
    assert free_gpus(nodes_in("")) == {}


def test_what_waits_is_seated_by_deadline_after_what_has_its_grant():
    jobs = dict([job("late", hours=9), job("soon", hours=1), job("let-go", hours=20), job("runs", RUNNING)])
    assert seated(jobs, {"batch": 2}, {"let-go"}) == {"runs", "let-go", "soon"}
    assert seated(jobs, {}, ()) == set(jobs), "a cluster that doesn't say is not held up"


def test_only_a_job_that_may_be_requeued_lends_its_gpus():
    for pause, state, fits in (("requeue", RUNNING, True), ("suspend", RUNNING, False), ("requeue", SUSPENDED, False)):
        jobs = dict([job("a", state, 4, pause), job("b", gpus=4)])
        assert ("b" in seated(jobs, {"batch": 0}, ())) is fits, (pause, state)


def test_an_order_whose_answer_was_lost_is_ours_until_it_is_known():
    store = Store.in_memory()
    held = Held("x", store, NOW)
    held.ordering({"a": "suspended", "b": "suspended", "c": "suspended"}, NOW)
    held.stands(["c"])
    again = Held("x", store, NOW)
    assert [again.doubted(name) for name in "abc"] == [True, True, False]
    again.settle({"a": True, "b": False}, NOW)
    assert again.ours() == {"a": "suspended", "b": "suspended"}, "b may still be on its way; c is gone"
    assert not again.doubted("a")
    again.settle({"a": True, "b": False}, NOW + AFTERWARDS)
    assert again.ours() == Held("x", store, NOW).ours() == {"a": "suspended"}


def test_the_loops_go_on_while_slurm_is_slow_to_tell_of_its_nodes(tmp_path):
    class Slow:
        def __init__(self):
            self.asked, self.go_on = threading.Event(), threading.Event()
            self.go_on.set()

        def queue(self):
            return {"jobs": []}

        def nodes(self):
            self.asked.set()
            assert self.go_on.wait(60)
            return []

    jobs = SlurmJobs(SlurmConfig(type="slurm", partitions={"batch": "tune"}), AdapterContext(WallClock(), tmp_path))
    jobs._slurm = slow = Slow()
    jobs._look()
    slow.asked.clear()
    slow.go_on.clear()
    hand = threading.Thread(target=jobs._look)
    hand.start()
    try:
        assert slow.asked.wait(60)
        heard = threading.Event()
        loop = threading.Thread(target=lambda: (jobs.apply({"1": 0}), heard.set()))
        loop.start()
        assert heard.wait(20), "the grants of this second wait for Slurm"
    finally:
        slow.go_on.set()
        hand.join()
        loop.join()
