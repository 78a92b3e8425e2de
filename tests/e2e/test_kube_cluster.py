"""The story of the recordings against a real cluster, for those who have one (kind, k3s): GRIDPACE_KUBE_NAMESPACE names
a namespace in which jobs may be made and deleted. Without it this is not run, and nothing is said of real clusters."""

import os
import time
import uuid
from contextlib import suppress
from pathlib import Path

import pytest
from kubernetes import client, config

from adapters.context import AdapterContext
from adapters.jobs.kubernetes import KubernetesConfig, KubernetesJobs
from optimizer.domain import JobState
from scheduler.clock import WallClock

NAMESPACE = os.environ.get("GRIDPACE_KUBE_NAMESPACE", "")
pytestmark = [
    pytest.mark.skipif(not NAMESPACE, reason="not run: GRIDPACE_KUBE_NAMESPACE and KUBECONFIG name no cluster"),
    pytest.mark.timeout(300),
]


def wait(true, seconds=120.0):
    ends = time.monotonic() + seconds
    while not (found := true()):
        assert time.monotonic() < ends, "it did not happen"
        time.sleep(0.5)
    return found


@pytest.fixture
def batch():
    config.load_kube_config()
    with client.ApiClient() as api:
        made = client.BatchV1Api(api)
        name = f"gridpace-{uuid.uuid4().hex[:8]}"
        # `cpu` stands in for GPUs: it counts the pods' requests all the same.
        container = {
            "name": "w",
            "image": "busybox:1",
            "command": ["sleep", "600"],
            "resources": {"limits": {"cpu": "1"}},
        }
        notes = {"gridpace/deadline": "2h", "gridpace/pause": "requeue", "gridpace/runtime": "10m"}
        body = {
            "apiVersion": "batch/v1", "kind": "Job", "metadata": {"name": name, "annotations": notes},
            "spec": {"suspend": True, "template": {"spec": {"restartPolicy": "Never", "containers": [container]}}},
        }  # fmt: skip
        made.create_namespaced_job(NAMESPACE, body)
        try:
            yield made, name
        finally:
            with suppress(client.ApiException):
                made.delete_namespaced_job(name, NAMESPACE, propagation_policy="Background")


def test_a_job_is_adopted_started_suspended_and_let_go(batch):
    api, name = batch
    settings = KubernetesConfig(
        type="kubernetes", namespaces={NAMESPACE: "tune"}, gpu_resources=("cpu",),
        kubeconfig=os.environ.get("KUBECONFIG"), refresh="1s",
    )  # fmt: skip
    jobs = KubernetesJobs(settings, AdapterContext(WallClock(), Path.cwd()))
    job_id = f"{NAMESPACE}.{name}"

    def seen():
        return next(job for job in jobs.snapshot() if job.id == job_id)

    def spec():
        return api.read_namespaced_job(name, NAMESPACE).spec

    try:
        assert seen().state is JobState.WAITING
        jobs.apply({job_id: 0})
        wait(lambda: jobs.held().get(job_id) == "waiting")
        jobs.apply({job_id: 1})
        wait(lambda: spec().suspend is False and seen().state is JobState.RUNNING)
        jobs.apply({job_id: 0})
        wait(lambda: spec().suspend is True and seen().state is JobState.SUSPENDED)
        assert jobs.held() == {job_id: "suspended"}
    finally:
        assert jobs.release() == ()
    assert spec().suspend is False
    assert jobs.held() == {}
