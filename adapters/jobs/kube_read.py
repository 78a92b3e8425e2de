"""What the API server says of Jobs and of Kueue's Workloads, as far as pacing needs it.

Decided by `ready`, `active` and `terminating` of a Job and by Evicted of a Workload, never by Admitted alone: a second
after a drain a Workload still says Admitted, while its Job is suspended and its pods still run.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from typing import Any

from adapters.jobs.kube_terms import HELD, RAN, STARTED, words_of
from adapters.jobs.slurm_terms import TermsError

QUEUE_LABEL = "kueue.x-k8s.io/queue-name"
UID_LABEL = "kueue.x-k8s.io/job-uid"


@dataclass(frozen=True, slots=True)
class Past:
    """What we wrote on an object: what we did ("" nothing), how long it had run before, and its first start."""

    held: str = ""
    ran: timedelta = timedelta()
    started: datetime | None = None


@dataclass(frozen=True, slots=True)
class KubeJob:
    """A Job that is not over. `let_go`: its startTime, which every resume sets anew; `gpus` of all its pods at once;
    `queue`: Kueue's LocalQueue, "" without Kueue; `odd`: why its owner's words can't be read."""

    namespace: str
    name: str
    uid: str
    version: str
    generation: int
    created: datetime
    queue: str
    suspended: bool
    gpus: int
    ready: int
    active: int
    running_since: datetime | None
    let_go: datetime | None
    limit: timedelta | None
    past: Past
    words: Mapping[str, str] = field(default_factory=dict)
    odd: str = ""

    @property
    def id(self) -> str:
        """Namespace and name; a namespace has no dot."""
        return f"{self.namespace}.{self.name}"

    @property
    def running(self) -> bool:
        """Whether pods of it work now."""
        return not self.suspended and self.ready > 0


@dataclass(frozen=True, slots=True)
class Workload:
    """Kueue's side of a Job. `admitted`: it may run, and is not being evicted. `checks` as they stand in its status."""

    namespace: str
    name: str
    uid: str
    version: str
    job_uid: str
    active: bool
    reserved: bool
    admitted: bool
    past: Past
    checks: Sequence[Mapping[str, Any]] = ()

    def check(self, name: str) -> str:
        """State of one AdmissionCheck; "" where it is not asked for."""
        return next((str(one["state"]) for one in self.checks if one["name"] == name), "")


def job_of(item: Mapping[str, Any], gpu_resources: Sequence[str]) -> KubeJob | None:
    """A Job; None when it is over or being deleted. KeyError, TypeError or ValueError when it can't be understood."""
    meta, spec, status = item["metadata"], item["spec"], item.get("status") or {}
    if meta.get("deletionTimestamp") or _true(status, "Complete") or _true(status, "Failed"):
        return None
    words, odd = {}, ""
    try:
        words = words_of(meta)
    except TermsError as error:
        odd = str(error)
    limit = spec.get("activeDeadlineSeconds")
    started = status.get("startTime")
    return KubeJob(
        namespace=meta["namespace"],
        name=meta["name"],
        uid=meta["uid"],
        version=meta["resourceVersion"],
        generation=int(meta.get("generation", 0)),
        created=moment(meta["creationTimestamp"]),
        queue=str((meta.get("labels") or {}).get(QUEUE_LABEL, "")),
        suspended=spec.get("suspend") is True,
        gpus=_gpus(spec, gpu_resources),
        ready=_ready(status),
        active=int(status.get("active") or 0) + int(status.get("terminating") or 0),
        running_since=moment(started) if started else None,
        let_go=moment(started) if started else None,
        limit=timedelta(seconds=int(limit)) if limit else None,
        past=_past(meta),
        words=words,
        odd=odd,
    )


def workload_of(item: Mapping[str, Any]) -> Workload | None:
    """A Workload of a Job; None when it is over, or another kind's."""
    meta, status = item["metadata"], item.get("status") or {}
    owner = next((one for one in meta.get("ownerReferences") or () if one["kind"] == "Job"), None)
    if owner is None or meta.get("deletionTimestamp") or _true(status, "Finished"):
        return None
    return Workload(
        namespace=meta["namespace"],
        name=meta["name"],
        uid=meta["uid"],
        version=meta["resourceVersion"],
        job_uid=owner["uid"],
        active=(item.get("spec") or {}).get("active", True) is not False,
        reserved=_true(status, "QuotaReserved"),
        admitted=_true(status, "Admitted") and not _true(status, "Evicted"),
        past=_past(meta),
        checks=tuple(status.get("admissionChecks") or ()),
    )


def moment(text: str) -> datetime:
    """A time of Kubernetes, which is UTC."""
    return datetime.fromisoformat(text).astimezone(UTC)


def _ready(status: Mapping[str, Any]) -> int:
    """Pods that work. Servers before 1.24 don't tell; there every pod that is not over counts."""
    told = status.get("ready")
    return int(status.get("active") or 0) if told is None else int(told)


def _true(status: Mapping[str, Any], condition: str) -> bool:
    return any(one["type"] == condition and one["status"] == "True" for one in status.get("conditions") or ())


def _past(meta: Mapping[str, Any]) -> Past:
    """Our own annotations; what somebody else made of them counts as not there."""
    notes = meta.get("annotations") or {}
    try:
        ran = timedelta(seconds=float(notes.get(RAN, 0)))
        started = moment(notes[STARTED]) if STARTED in notes else None
    except (ValueError, OverflowError):
        ran, started = timedelta(), None
    return Past(str(notes.get(HELD, "")), max(timedelta(), ran), started)


def _gpus(spec: Mapping[str, Any], names: Sequence[str]) -> int:
    """GPUs of one pod, by limits (which requests of extended resources equal), times the pods at once."""
    pod = spec["template"]["spec"]
    each = 0
    for container in pod.get("containers") or ():
        resources = container.get("resources") or {}
        asked = {**(resources.get("requests") or {}), **(resources.get("limits") or {})}
        each += sum(int(asked[name]) for name in names if name in asked)
    parallel, completions = spec.get("parallelism"), spec.get("completions")
    pods = 1 if parallel is None else int(parallel)
    return each * (pods if completions is None else min(pods, int(completions)))  # never more pods than are to complete
