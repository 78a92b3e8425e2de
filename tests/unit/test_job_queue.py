"""The embedded queue: a job that was acknowledged is there after any restart, and keeps the rules of its grant."""

from dataclasses import replace
from datetime import UTC, datetime, timedelta

import pytest

from adapters.jobs.queue import JobQueue, JobRefused
from optimizer.domain import JobState
from optimizer.reasons import Reason
from scheduler.clock import VirtualClock
from scheduler.service import JobRequest
from scheduler.store.store import StoreDegraded

NOON = datetime(2022, 9, 6, 19, tzinfo=UTC)
HOUR = timedelta(hours=1)
POOLS = {"fast": 16, "slow": 8}


@pytest.fixture
def clock():
    return VirtualClock(NOON)


@pytest.fixture
def queue(books, clock):
    return JobQueue(books, POOLS, clock)


def job(name="nightly", **fields):
    return JobRequest(
        **({"id": name, "pool": "fast", "work_gpu_h": 40.0, "max_gpus": 8, "deadline": NOON + 10 * HOUR} | fields)
    )


def test_a_job_its_grant_and_its_progress_survive_a_restart(queue, books, clock):
    queue.submit(job(metadata={"owner": "ann"}), NOON)
    queue.submit(job("second", preemptible=False), NOON)
    assert queue.apply({"nightly": 5, "second": 8}) == {}
    queue.report("nightly", 12.5, finished=False)
    before = queue.snapshot()
    again = JobQueue(books, POOLS, clock)
    assert again.snapshot() == before
    assert [(held.state, held.gpus, held.done_gpu_h, held.started_at) for held in before] == [
        (JobState.RUNNING, 5, 12.5, NOON),
        (JobState.RUNNING, 8, 0.0, NOON),
    ]
    assert again.metadata("nightly") == {"owner": "ann"}


def test_the_same_job_twice_is_one_job_and_another_under_its_id_is_refused(queue):
    first = queue.submit(job(), NOON)
    assert queue.submit(job(), NOON + HOUR) == first
    with pytest.raises(JobRefused, match="id: nightly belongs to another job") as refused:
        queue.submit(job(work_gpu_h=41.0), NOON)
    assert refused.value.status == 409
    ids = {queue.submit(job(None), NOON).id for _ in range(3)}
    assert len(ids) == 3
    assert len(queue.everything()) == 4


@pytest.mark.parametrize(
    ("fields", "said"),
    [
        ({"deadline": NOON}, "deadline: .* is past"),
        ({"deadline": (NOON + HOUR).replace(tzinfo=None)}, "deadline has no time zone"),
        ({"release": NOON + 11 * HOUR}, "release: .* not before the deadline"),
        ({"work_gpu_h": 0.0}, "work_gpu_h: 0.0 is not above 0"),
        ({"work_gpu_h": float("nan")}, "work_gpu_h: nan"),
        ({"late_penalty": -1.0}, "late_penalty: -1.0"),
        ({"undone_penalty": float("inf")}, "undone_penalty: inf"),
        ({"max_gpus": 0}, "max_gpus: 0"),
        ({"pool": "none"}, "pool: 'none' is not one of fast, slow"),
        ({"id": "../x"}, "id: write letters"),
        ({"metadata": {"k": "v" * 600}}, "metadata.k"),
    ],
)
def test_nonsense_is_refused_with_its_field_and_changes_nothing(queue, fields, said):
    with pytest.raises(JobRefused, match=said):
        queue.submit(replace(job(), **fields), NOON)
    assert queue.everything() == []


def test_a_job_larger_than_its_pool_is_clamped_and_says_so(queue):
    assert queue.submit(job(max_gpus=100), NOON).max_gpus == 16
    assert "asks for 100 GPUs; fast has 16" in queue.notes()[0].text
    assert queue.submit(job(max_gpus=100), NOON).id == "nightly"


def test_what_is_not_acknowledged_is_not_queued(queue, books, monkeypatch):
    def full(*_):
        raise StoreDegraded("disk full")

    monkeypatch.setattr(books, "put", full)
    with pytest.raises(StoreDegraded):
        queue.submit(job(), NOON)
    assert queue.everything() == []


def test_a_grant_of_zero_suspends_and_loses_nothing(queue):
    queue.submit(job(), NOON)
    queue.apply({"nightly": 8})
    queue.report("nightly", 3.0, finished=False)
    queue.apply({"nightly": 0})
    (held,) = queue.snapshot()
    assert (held.state, held.gpus, held.done_gpu_h, held.started_at) == (JobState.SUSPENDED, 0, 3.0, NOON)


def test_a_job_that_may_not_be_interrupted_starts_whole_and_is_never_revoked(queue):
    queue.submit(job("fixed", preemptible=False, max_gpus=12), NOON)
    queue.submit(job("other", max_gpus=10), NOON)
    assert queue.apply({"other": 10}) == {}
    assert queue.apply({"fixed": 12}) == {"fixed": Reason.POOL_FULL}
    assert queue.apply({"other": 4, "fixed": 3}) == {}
    assert queue.apply({"fixed": 0, "other": 10}) == {"fixed": Reason.NOT_PREEMPTIBLE, "other": Reason.POOL_FULL}
    assert {held.id: held.gpus for held in queue.snapshot()} == {"fixed": 12, "other": 4}


def test_no_pool_is_handed_out_twice_and_no_job_before_its_release(queue):
    queue.submit(job("any", pool=None, max_gpus=16), NOON)
    queue.submit(job("a", max_gpus=16), NOON)
    queue.submit(job("b", pool="slow"), NOON)
    queue.submit(job("later", release=NOON + HOUR), NOON)
    refused = queue.apply({"any": 16, "a": 16, "b": 8, "later": 1, "gone": 3})
    assert refused["later"] is Reason.NOT_RELEASED
    assert refused["gone"] is Reason.WORK_DONE
    assert sum(held.gpus for held in queue.snapshot()) <= 24


def test_reports_never_lower_what_was_done_and_end_the_job_once(queue, books, clock):
    queue.submit(job(), NOON)
    queue.apply({"nightly": 8})
    assert queue.report("nightly", 10.0, finished=False).done_gpu_h == 10.0
    assert queue.report("nightly", 4.0, finished=False).done_gpu_h == 10.0
    with pytest.raises(JobRefused, match="done_gpu_h"):
        queue.report("nightly", float("nan"), finished=False)
    assert queue.report("nightly", 99.0, finished=True).state is JobState.DONE
    assert queue.report("nightly", 99.0, finished=True).done_gpu_h == 40.0
    again = JobQueue(books, POOLS, clock)
    assert again.snapshot() == []
    assert again.everything()[0].gpus == 0
    with pytest.raises(JobRefused) as refused:
        again.cancel("nightly", "ann")
    assert refused.value.status == 409


def test_a_cancelled_job_gives_its_gpus_back_and_takes_no_reports(queue, books, clock):
    queue.submit(job(max_gpus=16, preemptible=False), NOON)
    queue.submit(job("next"), NOON)
    queue.apply({"nightly": 16})
    assert queue.cancel("nightly", "ann").state is JobState.CANCELLED
    assert queue.cancel("nightly", "ann").state is JobState.CANCELLED
    assert JobQueue(books, POOLS, clock).apply({"next": 8}) == {}
    with pytest.raises(JobRefused, match="was cancelled"):
        queue.report("nightly", 1.0, finished=True)
    with pytest.raises(JobRefused, match="no job 'x'"):
        queue.cancel("x", "ann")


def test_a_job_that_comes_after_others_gets_no_gpus_before_they_are_over(queue):
    queue.submit(job("first"), NOON)
    queue.submit(job("then", after=("first",)), NOON)
    assert queue.apply({"first": 4, "then": 4}) == {"then": Reason.PREDECESSOR}
    queue.report("first", 40.0, finished=True)
    assert queue.apply({"then": 4}) == {}
    assert {held.id: held.gpus for held in queue.snapshot()} == {"then": 4}
    with pytest.raises(JobRefused, match="after: no job 'nobody' is known"):
        queue.submit(job("lost", after=("nobody",)), NOON)


def test_a_gang_gets_its_least_gpus_or_none_and_its_run_counts_from_its_last_start(queue, books, clock):
    queue.submit(job("gang", max_gpus=12, min_gpus=8), NOON)
    queue.submit(job("other", max_gpus=12), NOON)
    assert queue.apply({"other": 12}) == {}
    assert queue.apply({"gang": 8}) == {"gang": Reason.POOL_FULL}
    assert queue.apply({"other": 4, "gang": 12}) == {}
    clock.sleep(3600)
    assert queue.apply({"gang": 8}) == {}
    assert JobQueue(books, POOLS, clock).snapshot()[0].running_since == NOON
    queue.apply({"gang": 0})
    queue.apply({"gang": 8})
    held = JobQueue(books, POOLS, clock).snapshot()[0]
    assert (held.started_at, held.running_since, held.min_gpus) == (NOON, NOON + HOUR, 8)
    with pytest.raises(JobRefused, match="min_gpus: 17 is more than it can ever have"):
        queue.submit(job("huge", max_gpus=17, min_gpus=17), NOON)


def test_a_job_at_another_site_has_no_gpus_here_and_comes_back_with_its_work(queue, books, clock):
    queue.submit(job(sites=("california",)), NOON)
    queue.submit(job("bound"), NOON)
    assert queue.movable() == {"nightly": ("california",)}
    assert queue.apply({"nightly": 5, "bound": 2}) == {}
    for name, site in (("nightly", "oregon"), ("bound", "california")):
        with pytest.raises(JobRefused, match="may not run at"):
            queue.report(name, 1.0, finished=False, site=site)
    queue.report("nightly", 10.0, finished=False, site="california")
    for one in (queue, JobQueue(books, POOLS, clock)):
        assert one.elsewhere() == {"nightly": "california"}
        assert [held.id for held in one.snapshot()] == ["bound"], "neither planned nor granted here"
        assert one.apply({"nightly": 5}) == {"nightly": Reason.ELSEWHERE}
        assert {held.id: held.gpus for held in one.everything()} == {"nightly": 0, "bound": 2}
    queue.confine("nightly", ("california", "oregon"))
    assert queue.movable() == {"nightly": ("california",)}, "none is added"
    queue.confine("nightly", ())
    for one in (queue, JobQueue(books, POOLS, clock)):
        assert one.elsewhere() == {"nightly": "california"}, "it is where it is"
        assert one.movable() == {}, "and goes to no other site any more"
    queue.report("nightly", 25.0, finished=False, site="california")
    queue.report("nightly", 30.0, finished=False)
    assert {held.id: held.left_gpu_h for held in queue.snapshot()} == {"nightly": 10.0, "bound": 40.0}
    assert queue.elsewhere() == {}
    assert queue.apply({"nightly": 5}) == {}
    queue.report("nightly", 40.0, finished=True)
    assert (queue.elsewhere(), queue.movable()) == ({}, {})


def test_a_tiers_allowance_goes_on_while_its_job_is_at_another_site(queue, books, clock):
    queue.submit(job(sites=("california",), tier=2), NOON)
    queue.apply({"nightly": 8})
    queue.report("nightly", 8.0, finished=False, site="california")
    clock.sleep(7200)
    queue = JobQueue(books, POOLS, clock)
    queue.submit(job("bound", max_gpus=16, preemptible=False), NOON)
    assert queue.apply({"bound": 16}) == {}, "its GPUs are free meanwhile"
    queue.report("bound", 40.0, finished=True)
    queue.report("nightly", 16.0, finished=False)
    for one in (queue, JobQueue(books, POOLS, clock)):
        one.apply({"nightly": 8})
        assert [(held.id, held.gpus, held.started_at) for held in one.snapshot()] == [("nightly", 8, NOON)]


@pytest.mark.parametrize("fields", [{"preemptible": False}, {"after": ("first",)}])
def test_what_cannot_be_handed_over_may_name_no_other_site(queue, fields):
    queue.submit(job("first"), NOON)
    with pytest.raises(JobRefused, match=r"^sites: "):
        queue.submit(job(sites=("california",), **fields), NOON)
