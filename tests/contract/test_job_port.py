"""What every job system promises the loops: one suite over the embedded queue, the simulated one, a real Slurm by its
commands and by slurmrestd, and the twin of a Kubernetes cluster, with Kueue's queues and without."""

from contextlib import ExitStack
from datetime import UTC, datetime, timedelta
from types import MappingProxyType

import pytest

from adapters.hall import SimulatedHall
from adapters.jobs.queue import JobQueue
from adapters.jobs.simulated import SimulatedJobs
from optimizer.domain import BatchJob, CurvePoint, GpuPool, JobState, PowerCurve, Work
from optimizer.reasons import Reason
from scheduler.clock import VirtualClock
from scheduler.service import JobRequest
from scheduler.store.store import Store
from tests.support import kube
from tests.support.slurm import a_cluster, pacing

NOW = datetime(2026, 11, 26, 18, tzinfo=UTC)
CURVE = PowerCurve("c", 75, (CurvePoint(200, 190, 0.45), CurvePoint(700, 650, 1.0)), "")


class InQueue:
    """One pool of sixteen GPUs; `add` submits a job of eight."""

    def __init__(self):
        self.jobs = JobQueue(Store.in_memory(), {"tune": 16}, VirtualClock(NOW))

    def add(self, **more):
        request = JobRequest(None, "tune", 8.0, 8, NOW + timedelta(hours=8), **more)
        return self.jobs.submit(request, NOW).id

    def settle(self, true):
        assert true()

    def close(self):
        pass


class InHall(InQueue):
    def __init__(self):
        pool = GpuPool("tune", "lab", "H100", 16, Work.BATCH, CURVE, 0.0, 0.0, 200.0, 700.0)
        clock, end = VirtualClock(NOW), NOW + timedelta(hours=8)
        made = [BatchJob(f"j{k}", ("tune",), NOW, end, 8.0, 8, preemptible=k < 3) for k in range(4)]
        self.left = {True: ["j0", "j1", "j2"], False: ["j3"]}
        self.jobs = SimulatedJobs(SimulatedHall([pool], clock), made)

    def add(self, preemptible=True):
        return self.left[preemptible].pop()


class InSlurm:
    more = MappingProxyType({})

    def fields(self):
        return {}

    def __init__(self):
        self.ends = ExitStack()
        self.cluster = self.ends.enter_context(a_cluster("port-", **self.more))
        self.jobs = self.ends.enter_context(pacing(self.cluster))(Store.in_memory(), refresh="0.2s", **self.fields())

    def add(self, preemptible=True):
        pause = "suspend" if preemptible else "no"
        name = self.cluster.submit(f"--comment=gridpace deadline=8h pause={pause}", "--begin=now+1")
        self.settle(lambda: any(job.id == name for job in self.jobs.snapshot()))
        return name

    def settle(self, true):
        self.cluster.wait(true)

    def close(self):
        self.ends.close()


class ByRest(InSlurm):
    """The same by slurmrestd, as far as that goes."""

    more = MappingProxyType({"rest": True})

    def fields(self):
        return {"rest": {"url": f"unix://{self.cluster.folder}/rest.sock"}}


class InKubernetes:
    queue = ""

    def __init__(self):
        self.cluster = kube.Cluster(kueue=bool(self.queue))
        self.jobs = self.cluster.pace(cluster_queues=("batch",) if self.queue else ())
        self.jobs.snapshot()
        self.jobs.apply({})
        if self.queue:
            self.settle(lambda: "batch" in self.cluster.marked())

    def add(self, preemptible=True):
        pause = "requeue" if preemptible else "no"
        name = self.cluster.submit(deadline="8h", pause=pause, runtime="1h", queue=self.queue)
        self.settle(lambda: any(job.id == name for job in self.jobs.snapshot()))
        return name

    def settle(self, true):
        self.cluster.wait(true)

    def close(self):
        assert self.jobs.release() == ()
        assert self.cluster.marked() == {}
        self.cluster.end()


class InKueue(InKubernetes):
    queue = "lq"


@pytest.fixture(params=[InQueue, InHall, InSlurm, ByRest, InKubernetes, InKueue])
def system(request):
    made = request.param()
    yield made
    made.close()


def seen(system, name):
    return next((job for job in system.jobs.snapshot() if job.id == name), None)


def test_a_job_waits_runs_when_granted_and_stops_when_not(system):
    name = system.add()
    job = seen(system, name)
    assert (job.pools, job.max_gpus, job.work_gpu_h) == (("tune",), 8, 8.0)
    assert job.release < job.deadline
    assert job.release.tzinfo is not None
    system.jobs.apply({})
    system.settle(lambda: seen(system, name).gpus == 0)
    assert system.jobs.apply({name: 8}) == {}
    system.settle(lambda: seen(system, name).state is JobState.RUNNING and seen(system, name).gpus == 8)
    system.jobs.apply({name: 8})
    assert seen(system, name).gpus == 8, "the same again changes nothing"
    assert system.jobs.apply({name: 0}) == {}
    system.settle(lambda: seen(system, name).state is JobState.SUSPENDED and seen(system, name).gpus == 0)
    system.jobs.apply({name: 8})
    system.settle(lambda: seen(system, name).gpus == 8)


def test_a_grant_for_a_job_that_is_not_there_is_refused_with_its_reason(system):
    system.add()
    system.jobs.snapshot()
    assert system.jobs.apply({"nobody": 8}) == {"nobody": Reason.WORK_DONE}


def test_people_see_every_job_newest_first(system):
    names = [system.add(), system.add()]
    system.settle(lambda: len(system.jobs.snapshot()) >= 2)
    shown = [job.id for job in system.jobs.everything() if job.id in names]
    assert shown == [job.id for job in reversed(system.jobs.snapshot()) if job.id in names]


def test_a_job_that_may_not_be_stopped_goes_on(system):
    name = system.add(preemptible=False)
    system.jobs.apply({name: 8})
    system.settle(lambda: seen(system, name).state is JobState.RUNNING)
    system.jobs.apply({name: 0})
    other = system.add()
    system.jobs.apply({other: 8})
    system.settle(lambda: seen(system, other).state is JobState.RUNNING or seen(system, other).gpus == 8)
    job = seen(system, name)
    assert (job.state, job.gpus, job.preemptible) == (JobState.RUNNING, 8, False)


def test_jobs_that_are_not_named_keep_what_they_have(system):
    first, second = system.add(), system.add()
    system.jobs.apply({first: 8, second: 8})
    system.settle(lambda: seen(system, first).gpus == seen(system, second).gpus == 8)
    system.settle(lambda: seen(system, second).state is JobState.RUNNING)
    system.jobs.apply({first: 0})
    system.settle(lambda: seen(system, first).gpus == 0)
    assert seen(system, second).gpus == 8
