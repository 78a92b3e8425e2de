"""Parts of pacing Kubernetes by themselves: what a config may say, what is counted, and how long lists are read."""

import json
from dataclasses import replace
from datetime import UTC, datetime, timedelta

import pytest
from pydantic import ValidationError

from adapters.jobs.kube_api import JOBS, KubeApi, KubeLost
from adapters.jobs.kube_config import KubernetesConfig
from adapters.jobs.kube_moves import Paced
from adapters.jobs.kube_read import KubeJob, Past, job_of
from adapters.jobs.kube_terms import kube_terms
from tests.support.kube_twin import Twin


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
        spec = {"template": {"spec": {"restartPolicy": "Never", "containers": [{"name": "w", "image": "x"}]}}}
        for k in range(1203):
            with twin.lock:
                twin.create("jobs", "work", {"metadata": {"name": f"j{k}"}, "spec": json.loads(json.dumps(spec))})
        assert len(api.list(JOBS, "work")[0]) == 1203
        assert sum(method == "GET" for method, *_ in twin.requests) == 3
        twin.refuse = 1
        with pytest.raises(KubeLost, match="503"):
            api.list(JOBS, "work")
    finally:
        api.close()
        twin.end()


def test_a_pause_that_would_undo_more_than_the_tier_leaves_is_not_begun():
    now = datetime(2026, 11, 27, 4, tzinfo=UTC)
    hour = timedelta(hours=1)
    words = {"tier": "2", "runtime": "3h", "pause": "requeue", "checkpoint": "1h"}
    job = KubeJob("work", "a", "uid", "1", 1, now, "", False, 8, 1, 1, now, None, Past(), words)
    terms = kube_terms(words, now, None, None)
    # Three hours of work may take four; what stood still before is time that it has not run.
    for stood_still, may in ((0.4, True), (0.6, False)):
        begun = Past("", timedelta(), now - stood_still * hour)
        assert Paced(replace(job, past=begun), terms).may_pause(now) is may
    paused = replace(job, past=Past("suspended", timedelta(), now - 0.6 * hour), suspended=True)
    assert Paced(paused, terms).may_pause(now), "what it lost by its pause is lost already"
