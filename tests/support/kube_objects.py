"""What an API server checks and fills in, for the twin: schemas, defaults, immutable fields, JSON merge patches.

Jobs are held to the OpenAPI schemas of Kubernetes 1.36 (kubernetes-validate), Kueue's objects to `kueue_schemas.py`.
"""

import copy
import functools

import jsonschema
from kubernetes_validate import utils
from referencing import Registry, Resource
from referencing.jsonschema import DRAFT202012

from tests.support import kueue_schemas

VERSION = "1.36"
KINDS = {
    "jobs": "Job",
    "pods": "Pod",
    "workloads": "Workload",
    "clusterqueues": "ClusterQueue",
    "localqueues": "LocalQueue",
    "resourceflavors": "ResourceFlavor",
    "admissionchecks": "AdmissionCheck",
}
QUEUE = {
    "flavorFungibility": {"whenCanBorrow": "MayStopSearch", "whenCanPreempt": "TryNextFlavor"},
    "namespaceSelector": {},
    "preemption": {"borrowWithinCohort": {"policy": "Never"}, "reclaimWithinCohort": "Never",
                   "withinClusterQueue": "Never"},
    "queueingStrategy": "BestEffortFIFO",
    "stopPolicy": "None",
}  # fmt: skip
IMMUTABLE = ("completions", "selector", "template", "completionMode")


def merge(target, patch):
    """RFC 7386."""
    if not isinstance(patch, dict):
        return copy.deepcopy(patch)
    result = dict(target) if isinstance(target, dict) else {}
    for key, value in patch.items():
        if value is None:
            result.pop(key, None)
        else:
            result[key] = merge(result.get(key), value)
    return result


def problems(plural, item):
    """(unknown fields, other faults), as texts."""
    if plural == "jobs":
        return _job_problems(item)
    unknown, wrong = [], []
    for error in _kueue_validator(plural).iter_errors(item):
        if error.validator == "additionalProperties":
            unknown += [name for name in error.instance if name not in error.schema["properties"]]
        else:
            wrong.append((".".join(str(part) for part in error.path), error))
    return unknown, wrong


def _job_problems(item):
    unknown, wrong = [], []
    for error in _job_validator(strict=False).iter_errors(item):
        wrong.append(("spec", error))
    if not wrong:
        unknown = [error.message for error in _job_validator(strict=True).iter_errors(item)]
    return unknown, wrong


@functools.cache
def _job_validator(strict):
    """The schema of a Job with its definitions, read once: the package's own call reads 4 MB each time."""
    schema, texts = _contents("job-batch-v1", strict), _definitions(strict)
    return jsonschema.Draft202012Validator(schema, registry=texts)


@functools.cache
def _kueue_validator(plural):
    return jsonschema.Draft202012Validator(kueue_schemas.SCHEMAS[plural], registry=_definitions(strict=True))


@functools.cache
def _definitions(strict):
    contents = Resource.from_contents(_contents("_definitions", strict), DRAFT202012)
    return Registry().with_resource("/api/_definitions.json", contents).crawl()


def _contents(name, strict):
    folder = f"kubernetes-json-schema/v{VERSION}.0-local{'-strict' if strict else ''}"
    return utils.schema_contents(f"{folder}/{name}.json", VERSION)


def without_unknown(item, old):
    """What a server that is not strict keeps: fields of `spec` that were not there before are dropped."""
    kept = {key: value for key, value in item["spec"].items() if key in old["spec"]}
    return {**item, "spec": kept}


def defaulted(plural, item):
    """A new object with what the server fills in."""
    if plural == "jobs":
        return _job(item)
    if plural == "clusterqueues":
        item["spec"] = {**copy.deepcopy(QUEUE), **item["spec"]}
    if plural == "localqueues":
        item["spec"].setdefault("stopPolicy", "None")
    return item


def _job(item):
    meta, spec = item["metadata"], item["spec"]
    uid, name = meta["uid"], meta["name"]
    labels = {
        "batch.kubernetes.io/controller-uid": uid,
        "batch.kubernetes.io/job-name": name,
        "controller-uid": uid,
        "job-name": name,
    }
    template = spec["template"]
    template.setdefault("metadata", {}).setdefault("labels", {}).update(labels)
    meta["labels"] = meta.get("labels") or dict(template["metadata"]["labels"])
    spec.setdefault("parallelism", 1)
    spec.setdefault("completions", 1)
    spec.setdefault("suspend", False)
    spec.setdefault("backoffLimit", 6)
    spec.setdefault("completionMode", "NonIndexed")
    spec.update(
        selector={"matchLabels": {"batch.kubernetes.io/controller-uid": uid}},
        manualSelector=False,
        podReplacementPolicy="TerminatingOrFailed",
    )
    pod = template["spec"]
    pod.update(terminationGracePeriodSeconds=30, dnsPolicy="ClusterFirst", securityContext={},
               schedulerName="default-scheduler")  # fmt: skip
    for container in pod["containers"]:
        container.setdefault("resources", {})
        container.update(terminationMessagePath="/dev/termination-log", terminationMessagePolicy="File",
                         imagePullPolicy="Always")  # fmt: skip
    item["status"] = {}
    return item
