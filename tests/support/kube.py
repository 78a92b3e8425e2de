"""Jobs on the twin, and a job system over it."""

import shutil
import tempfile
import time
from contextlib import contextmanager
from pathlib import Path

from adapters.context import AdapterContext
from adapters.jobs.kubernetes import KubernetesConfig, KubernetesJobs
from scheduler.clock import WallClock
from tests.support.kube_twin import Twin

QUEUE = {
    "metadata": {"name": "batch"},
    "spec": {"namespaceSelector": {}, "resourceGroups": [
        {"coveredResources": ["nvidia.com/gpu"], "flavors": [
            {"name": "default", "resources": [{"name": "nvidia.com/gpu", "nominalQuota": "16"}]}]}]},
}  # fmt: skip


class Cluster:
    """A twin that follows the wall clock, with `gpus` on its nodes."""

    def __init__(self, gpus=16, kueue=False):
        self.folder = Path(tempfile.mkdtemp(prefix="kube-"))
        self.twin = Twin(nodes=gpus).serve().run()
        self.path = self.twin.kubeconfig(self.folder)
        self._count = 0
        if kueue:
            with self.twin.lock:
                self.twin.create("resourceflavors", "", {"metadata": {"name": "default"}, "spec": {}})
                check = {"metadata": {"name": "gridpace"}, "spec": {"controllerName": "gridpace/power"}}
                self.twin.create("admissionchecks", "", check)
                self.twin.create("clusterqueues", "", QUEUE)
                local = {"metadata": {"name": "lq"}, "spec": {"clusterQueue": "batch"}}
                self.twin.create("localqueues", "work", local)

    def submit(self, name=None, gpus=8, suspend=True, queue="", annotations=None, **words):
        """A Job of one pod; `words` become annotations `gridpace/WORD`."""
        self._count += 1
        name = name or f"j{self._count}"
        notes = {f"gridpace/{word}": text for word, text in words.items()} | (annotations or {})
        gpu = {"nvidia.com/gpu": str(gpus)}
        body = {
            "metadata": {"name": name, "annotations": notes,
                         "labels": {"kueue.x-k8s.io/queue-name": queue} if queue else {"app": name}},
            "spec": {"suspend": suspend, "template": {"spec": {"restartPolicy": "Never", "containers": [
                {"name": "w", "image": "x", "resources": {"limits": gpu, "requests": gpu}}]}}},
        }  # fmt: skip
        with self.twin.lock:
            status, answer = self.twin.create("jobs", "work", body)
        assert status == 201, answer
        return f"work.{name}"

    def job(self, job):
        """The Job as the server has it."""
        with self.twin.lock:
            return self.twin.peek("jobs", *job.split(".", 1))

    def patch(self, job, body, plural="jobs"):
        """What a person does with kubectl."""
        with self.twin.lock:
            namespace, name = job.split(".", 1)
            assert self.twin.patch(plural, namespace, name, body)[0] == 200

    def workload(self, job):
        with self.twin.lock:
            name = job.split(".", 1)[1]
            found = [one for one in self.twin.all("workloads") if one["metadata"]["ownerReferences"][0]["name"] == name]
        return found[0] if found else None

    def running(self):
        """Names of the jobs whose pods run."""
        with self.twin.lock:
            return {f"work.{one['metadata']['name']}" for one in self.twin.each("jobs") if one["status"].get("ready")}

    def marked(self):
        """Jobs and workloads that say they are held by us."""
        with self.twin.lock:
            items = self.twin.each("jobs") + self.twin.each("workloads") + self.twin.each("clusterqueues")
            notes = {one["metadata"]["name"]: dict(one["metadata"].get("annotations") or {}) for one in items}
        marks = ("gridpace/held", "gridpace/check", "gridpace/stop-policy")
        found = {name: note[mark] for name, note in notes.items() for mark in marks if mark in note}
        return {name: mark for name, mark in found.items() if mark != "yielded"}

    def pace(self, writes=True, records=None, **more):
        """A job system over it."""
        fields = {"timeout": "3s", "watch": "5s", "refresh": "0.3s", **more}
        config = KubernetesConfig(type="kubernetes", namespaces={"work": "tune"}, kubeconfig=str(self.path), **fields)
        return KubernetesJobs(config, AdapterContext(WallClock(), self.folder, records, extras={"writes": writes}))

    def wait(self, true, seconds=30.0):
        """Poll until `true()` holds and return it."""
        ends = time.monotonic() + seconds
        while not (found := true()):
            assert time.monotonic() < ends, "it did not happen"
            time.sleep(0.05)
        return found

    def end(self):
        self.twin.end()
        shutil.rmtree(self.folder, ignore_errors=True)


@contextmanager
def making():
    """Makes clusters and job systems, and ends them: nothing may stay held."""
    clusters, systems = [], []

    def make(kueue=False, gpus=16, **more):
        clusters.append(Cluster(gpus, kueue))
        fields = ({"cluster_queues": ("batch",)} if kueue else {}) | more
        systems.append(clusters[-1].pace(**fields))
        return clusters[-1], systems[-1]

    yield make
    for jobs in systems:
        jobs.close()
    for cluster in clusters:
        cluster.end()


def job_of(jobs, name):
    """One job as the planner sees it; None where it is not there."""
    return next((job for job in jobs.snapshot() if job.id == name), None)


def paced(cluster, jobs, *names):
    """Wait until these are seen."""
    jobs.snapshot()
    cluster.wait(lambda: all(job_of(jobs, name) for name in names))
