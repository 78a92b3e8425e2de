"""Parts of pacing Kubernetes by themselves: what a config may say, what is counted, and how long lists are read."""

import json
import threading
from dataclasses import replace
from datetime import UTC, datetime, timedelta

import pytest
import requests
from pydantic import ValidationError

from adapters.jobs.kube_api import JOBS, KubeApi, KubeLost
from adapters.jobs.kube_config import KubernetesConfig
from adapters.jobs.kube_moves import Paced, batch_job
from adapters.jobs.kube_read import KubeJob, Past, job_of
from adapters.jobs.kube_terms import kube_terms
from adapters.jobs.runs import NOTHING, Earlier, Runs
from optimizer.domain import JobState
from scheduler.store.store import Store
from tests.support.kube_http import TOKEN
from tests.support.kube_twin import Twin

SPEC = {"template": {"spec": {"restartPolicy": "Never", "containers": [{"name": "w", "image": "x"}]}}}


def test_a_drain_without_queues_is_refused_and_no_more_pods_counted_than_complete():
    with pytest.raises(ValidationError, match="drain_in_emergency: needs cluster_queues"):
        KubernetesConfig(type="kubernetes", namespaces={"work": "tune"}, drain_in_emergency=True)
    pod = {"containers": [{"resources": {"limits": {"amd.com/gpu": "2"}}}]}
    meta = {"namespace": "work", "name": "j", "uid": "u", "resourceVersion": "1",
            "creationTimestamp": "2026-11-26T18:00:00Z"}  # fmt: skip
    for spec, gpus in (({}, 2), ({"parallelism": 3}, 6), ({"parallelism": 8, "completions": 4}, 8)):
        assert job_of({"metadata": meta, "spec": {"template": {"spec": pod}, **spec}}, ("amd.com/gpu",)).gpus == gpus


def test_long_lists_come_in_pages_and_an_overloaded_server_counts_as_away(tmp_path):
    twin = Twin().serve()
    api = KubeApi(twin.kubeconfig(tmp_path), None, 5.0)
    try:
        for k in range(1203):
            with twin.lock:
                twin.create("jobs", "work", {"metadata": {"name": f"j{k}"}, "spec": SPEC})
        assert len(api.list(JOBS, "work")[0]) == 1203
        assert sum(method == "GET" for method, *_ in twin.requests) == 3
        twin.refuse = 1
        with pytest.raises(KubeLost, match="503"):
            api.list(JOBS, "work")
    finally:
        api.close()
        twin.end()


def test_the_twin_passes_no_change_over_where_a_watch_ends():
    """A bookmark stands for all before it: who resumes from one would never hear of what it skipped."""
    twin = Twin(nodes=0).serve().run()
    url = f"http://127.0.0.1:{twin.port}/apis/batch/v1/namespaces/work/jobs"
    query = {"watch": "1", "timeoutSeconds": "0.1", "allowWatchBookmarks": "true", "resourceVersion": "0"}
    ended, made, heard = threading.Event(), [], []

    def write():
        while not ended.wait(0.02):
            with twin.lock:
                made.append(f"j{len(made)}")
                twin.create("jobs", "work", {"metadata": {"name": made[-1]}, "spec": {"suspend": True, **SPEC}})

    writer = threading.Thread(target=write)
    writer.start()
    try:
        for turn in range(30):
            if turn == 29:  # the last one hears what was made last
                ended.set()
                writer.join(5)
            answer = requests.get(url, query, headers={"Authorization": f"Bearer {TOKEN}"}, timeout=5)
            for event in map(json.loads, answer.text.splitlines()):
                heard += [event["object"]["metadata"]["name"]] if event["type"] == "ADDED" else []
                query["resourceVersion"] = event["object"]["metadata"]["resourceVersion"]
        assert heard == made
        assert len(made) > 30
    finally:
        ended.set()
        writer.join(5)
        twin.end()


def test_a_pause_that_would_undo_more_than_the_tier_leaves_is_not_begun():
    now = datetime(2026, 11, 27, 4, tzinfo=UTC)
    hour = timedelta(hours=1)
    words = {"tier": "2", "runtime": "3h", "pause": "requeue", "checkpoint": "1h"}
    job = KubeJob("work", "a", "uid", "1", 1, now, "", False, 8, 1, 1, now, now, None, Past(), words)
    terms = kube_terms(words, now, None, None)
    # Three hours of work may take four; what stood still before is time that it has not run.
    for stood_still, may in ((0.4, True), (0.6, False)):
        begun = Past("", timedelta(), now - stood_still * hour)
        assert Paced(replace(job, past=begun), terms).may_pause(now) is may
    paused = replace(job, past=Past("suspended", timedelta(), now - 0.6 * hour), suspended=True)
    assert Paced(paused, terms).may_pause(now), "what it lost by its pause is lost already"


def test_what_a_job_ran_counts_on_whoever_stopped_it_and_its_tier_from_its_first_start():
    """Kueue preempts: `spec.suspend` and `startTime` are its own, and nothing of ours is on the object."""
    at, hour, store = datetime(2026, 11, 27, 4, tzinfo=UTC), timedelta(hours=1), Store.in_memory()
    words = {"tier": "2", "runtime": "6h", "pause": "requeue", "checkpoint": "1h"}
    job = KubeJob("work", "a", "uid", "1", 1, at, "", False, 8, 1, 1, at, at, None, Past(), words)
    idle = replace(job, ready=0, active=0, running_since=None, let_go=None)
    paced, runs = Paced(job, kube_terms(words, at, None, None)), Runs("kubernetes", store, at)

    def seen(now, job):
        one = replace(paced, job=job)
        runs.see([one.run(now)], {"uid"}, now)
        return batch_job(replace(one, earlier=runs.before("uid") or NOTHING), "tune", 8, now)

    assert seen(at, idle).started_at is None
    assert seen(at + 2 * hour, job).done_gpu_h == 16.0
    runs = Runs("kubernetes", store, at)  # the next daemon
    found = seen(at + 3 * hour, idle)
    assert (found.started_at, found.done_gpu_h, found.state) == (at, 12.0, JobState.SUSPENDED)
    later = at + 3.5 * hour
    again = replace(job, running_since=later, let_go=later)
    found = seen(at + 4 * hour, again)
    assert (found.started_at, found.done_gpu_h) == (at, 16.0)
    assert found.deadline == at + 8 * hour, "its tier counts from its first start"
    # A pause of ours marks the object with the same; it is not counted twice.
    marked = replace(idle, past=Past("suspended", 2 * hour, at), suspended=True)
    assert seen(at + 5 * hour, marked).done_gpu_h == 16.0


def test_no_more_is_done_than_time_has_passed_since_the_first_start():
    """After a restart a run counts from its startTime, though a part of it may be in the books already."""
    at, hour = datetime(2026, 11, 27, 4, tzinfo=UTC), timedelta(hours=1)
    words = {"deadline": "9h", "runtime": "6h", "pause": "requeue"}
    job = KubeJob("work", "a", "uid", "1", 1, at, "", False, 8, 1, 1, at, at, None, Past(), words)
    paced = Paced(job, kube_terms(words, at, None, None), earlier=Earlier(hour, at))
    assert paced.ran(at + 2 * hour) == 2 * hour


def test_a_grant_that_is_on_its_way_counts_as_one():
    """Else a plan in between takes the job for one that waits, and stops it for another as soon as it runs."""
    at = datetime(2026, 11, 27, 4, tzinfo=UTC)
    words = {"deadline": "9h", "runtime": "6h", "pause": "requeue"}
    past = Past("suspended", timedelta(), at)
    job = KubeJob("work", "a", "uid", "1", 2, at, "", True, 8, 0, 0, at, None, None, past, words)
    paced = Paced(job, kube_terms(words, at, None, None))
    assert [batch_job(paced, "tune", wish, at).gpus for wish in (0, 8)] == [0, 8]
    assert batch_job(paced, "tune", 8, at).state is JobState.SUSPENDED
