"""Kubernetes at its edges: a queue that is missing, pods that wait for a node, servers that don't tell who is ready."""

from datetime import UTC, datetime, timedelta
from time import sleep

import pytest

from adapters.jobs.kube_read import job_of as read_job
from optimizer.domain import JobState
from tests.support.kube import job_of, making, paced


@pytest.fixture
def made():
    with making() as make:
        yield make


def test_a_missing_queue_is_said_and_holds_up_none_of_the_others(made):
    cluster, jobs = made(kueue=True, cluster_queues=("gone", "batch", "lost"), drain_in_emergency=True)
    name = cluster.submit(deadline="8h", queue="lq")
    jobs.snapshot()
    jobs.apply({})
    cluster.wait(lambda: cluster.marked() == {"batch": "gridpace"})
    cluster.wait(lambda: any("gone" in note.text and "lost" in note.text for note in jobs.notes()))
    assert jobs.held()["clusterqueue batch"] == "asks us"
    paced(cluster, jobs, name)
    jobs.apply({name: 8})
    cluster.wait(lambda: cluster.running() == {name})
    jobs.emergency(True)
    cluster.wait(lambda: cluster.running() == set())
    jobs.emergency(False)
    cluster.wait(lambda: cluster.running() == {name})
    left = jobs.release()
    assert cluster.marked() == {}, "the queue that is there does not ask us any more"
    assert ["gone" in note.text for note in left] == [True]


def test_an_emergency_that_is_called_while_queues_are_written_to_is_no_word_less(made, monkeypatch):
    cluster, jobs = made(kueue=True, drain_in_emergency=True)
    name = cluster.submit(deadline="8h", queue="lq")
    drain, told = jobs._queues.drain, []

    def slow(on):
        told.append(on)
        drain(on)
        if len(told) == 1:
            jobs.emergency(True)

    monkeypatch.setattr(jobs._queues, "drain", slow)
    paced(cluster, jobs, name)
    jobs.apply({name: 8})
    cluster.wait(lambda: cluster.marked() == {"batch": "None"})
    assert told[:2] == [False, True]


def policy(cluster, choose=None):
    """The queue's stopPolicy; `choose`: what a person sets it to before."""
    with cluster.twin.lock:
        if choose is not None:
            assert cluster.twin.patch("clusterqueues", "", "batch", {"spec": {"stopPolicy": choose}})[0] == 200
        return cluster.twin.peek("clusterqueues", "", "batch")["spec"]["stopPolicy"]


@pytest.mark.parametrize(
    ("before", "meanwhile", "after", "how"),
    [("None", None, "None", "over"), ("Hold", None, "Hold", "over"), ("Hold", None, "Hold", "released"),
     ("Hold", None, "Hold", "next daemon"), ("HoldAndDrain", None, "HoldAndDrain", "over"),
     ("None", "Hold", "Hold", "over"), ("None", "Hold", "Hold", "next daemon"), ("Hold", "None", "None", "over")],
)  # fmt: skip
def test_after_an_emergency_a_queue_is_as_it_was_or_as_somebody_set_it_meanwhile(made, before, meanwhile, after, how):
    cluster, jobs = made(kueue=True, drain_in_emergency=True)
    name = cluster.submit(deadline="8h", queue="lq")
    paced(cluster, jobs, name)
    jobs.apply({name: 8})
    cluster.wait(lambda: cluster.running() == {name})
    assert policy(cluster, before) == before
    jobs.emergency(True)
    cluster.wait(lambda: cluster.running() == set())
    cluster.wait(lambda: policy(cluster) == "HoldAndDrain" and jobs._drained is True)
    if meanwhile is not None:
        policy(cluster, meanwhile)
    let_go(cluster, jobs, how)
    assert policy(cluster) == after
    assert "gridpace/stop-policy" not in annotations(cluster)
    if after == "None":
        cluster.wait(lambda: cluster.running() == {name})
    else:
        sleep(1.0)
        assert cluster.running() == set(), "what somebody stopped starts nothing"


def annotations(cluster):
    with cluster.twin.lock:
        return cluster.twin.peek("clusterqueues", "", "batch")["metadata"].get("annotations") or {}


def let_go(cluster, jobs, how):
    """The emergency's end, by itself, by `gridpace release`, or by that after a kill."""
    if how == "over":
        jobs.emergency(False)
        cluster.wait(lambda: jobs._drained is False)
    elif how == "released":
        assert jobs.release() == ()
    else:
        jobs.close()  # killed
        assert cluster.pace(cluster_queues=("batch",)).release() == ()


def test_what_pods_waited_for_a_node_is_no_work_done(made):
    cluster, jobs = made(gpus=16)
    first, second = (cluster.submit(deadline="8h", pause="requeue", runtime="1h", gpus=16) for _ in range(2))
    paced(cluster, jobs, first, second)
    jobs.apply({first: 16})
    cluster.wait(lambda: cluster.running() == {first})
    jobs.apply({second: 16})
    cluster.wait(lambda: cluster.job(second)["status"].get("active"))
    cluster.wait(lambda: (one := job_of(jobs, second)).state is JobState.WAITING and one.gpus == 16)  # let go, no node
    let_go = datetime.fromisoformat(cluster.job(second)["status"]["startTime"])
    cluster.wait(lambda: datetime.now(UTC) - let_go > timedelta(seconds=3))
    before = datetime.now(UTC)
    jobs.apply({first: 0})
    cluster.wait(lambda: cluster.running() == {second})
    seen = cluster.wait(lambda: (one := job_of(jobs, second)).state is JobState.RUNNING and one)
    assert seen.running_since >= before
    assert seen.done_gpu_h <= 16 * (datetime.now(UTC) - before) / timedelta(hours=1)


def test_a_server_that_does_not_tell_of_ready_pods_counts_all_that_are_active():
    meta = {"namespace": "work", "name": "j", "uid": "u", "resourceVersion": "1",
            "creationTimestamp": "2026-11-26T18:00:00Z"}  # fmt: skip
    spec = {"template": {"spec": {"containers": [{"resources": {"limits": {"amd.com/gpu": "2"}}}]}}}
    for status, runs in (({"active": 2}, True), ({"active": 2, "ready": 0}, False), ({"active": 2, "ready": 1}, True)):
        item = {"metadata": meta, "spec": spec, "status": {**status, "startTime": "2026-11-26T18:00:00Z"}}
        assert read_job(item, ("amd.com/gpu",)).running is runs


def test_what_ran_before_somebody_else_stopped_it_counts(made):
    cluster, jobs = made(kueue=True)
    name = cluster.submit(queue="lq", tier="2", runtime="6h", pause="requeue")
    paced(cluster, jobs, name)
    jobs.apply({name: 8})
    cluster.wait(lambda: (one := job_of(jobs, name)).state is JobState.RUNNING and one.done_gpu_h > 8 / 3600)
    began = job_of(jobs, name).started_at
    cluster.patch(".batch", {"spec": {"stopPolicy": "HoldAndDrain"}}, "clusterqueues")
    seen = cluster.wait(lambda: (one := job_of(jobs, name)).state is JobState.SUSPENDED and one)
    assert seen.done_gpu_h > 8 * 0.5 / 3600
    assert seen.started_at == began
    cluster.patch(".batch", {"spec": {"stopPolicy": "None"}}, "clusterqueues")
    cluster.wait(lambda: job_of(jobs, name).state is JobState.RUNNING)
    assert job_of(jobs, name).done_gpu_h >= seen.done_gpu_h
    assert job_of(jobs, name).started_at == began, "its tier counts from there"
