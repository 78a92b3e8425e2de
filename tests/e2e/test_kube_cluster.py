"""What Gridpace does to Jobs, without Kueue and with it: on the twin, and the same on a real cluster of yours.

The second is opt-in, since jobs are made there: GRIDPACE_KUBE_NAMESPACE names a namespace of the cluster of KUBECONFIG
(kind, k3s) in which they may be made and deleted, GRIDPACE_KUBE_QUEUE a queue of Kueue as CLUSTERQUEUE/LOCALQUEUE, with
config/kubernetes/kueue applied. Without them nothing is said of real clusters.
"""

import os
import time
import uuid
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

import pytest
from kubernetes import client, config

from adapters.context import AdapterContext
from adapters.jobs.kubernetes import KubernetesConfig, KubernetesJobs
from optimizer.domain import JobState
from scheduler.clock import WallClock
from tests.support.kube import Cluster

NAMESPACE, QUEUE = (os.environ.get(f"GRIDPACE_KUBE_{name}", "") for name in ("NAMESPACE", "QUEUE"))
pytestmark = pytest.mark.timeout(400)


@dataclass
class Place:
    """A cluster: its kubeconfig, a namespace, and a queue."""

    kubeconfig: str | None
    namespace: str
    cluster_queue: str
    queue: str

    def submit(self, api, queue):
        """A Job that waits, made by the official client; `cpu` stands in for GPUs."""
        resources = {"limits": {"cpu": "1"}, "requests": {"cpu": "1"}}
        container = {"name": "w", "image": "busybox:1", "command": ["sleep", "600"], "resources": resources}
        pod = {"restartPolicy": "Never", "terminationGracePeriodSeconds": 1, "containers": [container]}
        notes = {"gridpace/deadline": "2h", "gridpace/pause": "requeue", "gridpace/runtime": "10m"}
        labels = {"kueue.x-k8s.io/queue-name": self.queue} if queue else {}
        name = f"gridpace-{uuid.uuid4().hex[:8]}"
        meta = {"name": name, "annotations": notes, "labels": labels}
        spec = {"suspend": True, "template": {"spec": pod}}
        body = {"apiVersion": "batch/v1", "kind": "Job", "metadata": meta, "spec": spec}
        api.create_namespaced_job(self.namespace, body, field_validation="Strict")
        return name


@pytest.fixture(params=["twin", "real"])
def place(request):
    if request.param == "real":
        if not NAMESPACE:
            pytest.skip("not run: GRIDPACE_KUBE_NAMESPACE and KUBECONFIG name no cluster")
        yield Place(os.environ.get("KUBECONFIG"), NAMESPACE, *(QUEUE.split("/") if QUEUE else ("", "")))
        return
    cluster = Cluster(16, kueue=True)
    yield Place(str(cluster.path), "work", "batch", "lq")
    cluster.end()


@pytest.fixture
def pacing(place):
    """Job systems over it; what they hold is let go at the end."""
    made = []

    def make(**more):
        settings = KubernetesConfig(
            type="kubernetes", namespaces={place.namespace: "tune"}, gpu_resources=("cpu",),
            kubeconfig=place.kubeconfig, refresh="1s", **more,
        )  # fmt: skip
        made.append(KubernetesJobs(settings, AdapterContext(WallClock(), Path.cwd())))
        return made[-1]

    yield make
    for jobs in made:
        assert jobs.release() == ()


@pytest.fixture
def job(place, pacing):
    """Makes a Job; the namespace's API, its name and its id."""
    del pacing  # it is let go before its job is deleted
    config.load_kube_config(place.kubeconfig)
    with client.ApiClient() as api:
        batch, names = client.BatchV1Api(api), []

        def make(queue=False):
            names.append(place.submit(batch, queue))
            return batch, names[-1], f"{place.namespace}.{names[-1]}"

        yield make
        for name in names:
            with suppress(client.ApiException):
                batch.delete_namespaced_job(name, place.namespace, propagation_policy="Background")


def wait(true, seconds=120.0):
    ends = time.monotonic() + seconds
    while not (found := true()):
        assert time.monotonic() < ends, "it did not happen"
        time.sleep(0.2)
    return found


def state(jobs, name):
    return next((job.state for job in jobs.snapshot() if job.id == name), None)


def test_a_job_is_adopted_started_suspended_and_let_go(place, pacing, job):
    api, name, known = job()
    jobs = pacing()

    def suspended():
        return api.read_namespaced_job(name, place.namespace).spec.suspend

    wait(lambda: state(jobs, known) is JobState.WAITING)
    jobs.apply({known: 0})
    wait(lambda: jobs.held().get(known) == "waiting")
    jobs.apply({known: 1})
    wait(lambda: suspended() is False and state(jobs, known) is JobState.RUNNING)
    jobs.apply({known: 0})
    wait(lambda: suspended() is True and state(jobs, known) is JobState.SUSPENDED)
    assert jobs.held() == {known: "suspended"}
    assert jobs.release() == ()
    assert suspended() is False
    assert jobs.held() == {}


def test_in_kueue_a_job_waits_for_our_answer_runs_and_is_deactivated(place, pacing, job):
    if not place.queue:
        pytest.skip("not run: GRIDPACE_KUBE_QUEUE names no queue")
    jobs = pacing(cluster_queues=(place.cluster_queue,))
    jobs.snapshot()
    jobs.apply({})
    wait(lambda: f"clusterqueue {place.cluster_queue}" in jobs.held())
    api, name, known = job(queue=True)

    def suspended():
        return api.read_namespaced_job(name, place.namespace).spec.suspend

    wait(lambda: "waits" in jobs.held().get(known, ""))
    assert suspended() is True, "Kueue has quota for it, and asks us"
    jobs.apply({known: 1})
    wait(lambda: suspended() is False and state(jobs, known) is JobState.RUNNING)
    jobs.apply({known: 0})
    wait(lambda: suspended() is True and jobs.held().get(known) == "deactivated")
    assert jobs.release() == ()
    assert jobs.held() == {}
    wait(lambda: suspended() is False)  # Kueue's to start, without us
