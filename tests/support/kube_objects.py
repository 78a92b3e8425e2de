"""What an API server checks and fills in, for the twin: schemas, defaults, immutable fields, JSON merge patches.

Jobs are held to the OpenAPI schemas of Kubernetes 1.36 (kubernetes-validate). For Kueue, whose schemas no package
carries, the fields that Gridpace may write are described here, after apis/kueue/v1beta2 of kubernetes-sigs/kueue
(Apache-2.0): `spec.active`, `spec.stopPolicy`, `spec.admissionChecksStrategy`, `status.admissionChecks`, conditions.
"""

import copy
import functools

import jsonschema
from kubernetes_validate import utils
from referencing import Registry, Resource
from referencing.jsonschema import DRAFT202012

VERSION = "1.36"
LABEL = {"type": "object", "additionalProperties": {"type": "string"}}
TIME = {"type": "string", "pattern": r"^\d{4}-\d\d-\d\dT\d\d:\d\d:\d\dZ$"}
META = {"type": "object", "properties": {"labels": LABEL, "annotations": LABEL}}
CHECK = {
    "type": "object",
    "required": ["name", "state", "lastTransitionTime", "message"],
    "additionalProperties": False,
    "properties": {
        "name": {"type": "string", "maxLength": 316},
        "state": {"enum": ["Pending", "Ready", "Retry", "Rejected"]},
        "lastTransitionTime": TIME,
        "message": {"type": "string", "maxLength": 32768},
        "requeueAfterSeconds": {"type": "integer"},
        "retryCount": {"type": "integer"},
        "podSetUpdates": {"type": "array", "maxItems": 10},
    },
}
CONDITION = {
    "type": "object",
    "required": ["type", "status", "lastTransitionTime", "reason", "message"],
    "additionalProperties": False,
    "properties": {
        "type": {"type": "string"},
        "status": {"enum": ["True", "False", "Unknown"]},
        "reason": {"type": "string", "minLength": 1, "pattern": "^[A-Za-z]([A-Za-z0-9_,:]*[A-Za-z0-9_])?$"},
        "message": {"type": "string", "maxLength": 32768},
        "lastTransitionTime": TIME,
        "observedGeneration": {"type": "integer"},
    },
}
RULE = {
    "type": "object",
    "required": ["name"],
    "additionalProperties": False,
    "properties": {"name": {"type": "string", "maxLength": 316}, "onFlavors": {"type": "array"}},
}
STRATEGY = {
    "type": "object",
    "additionalProperties": False,
    "properties": {"admissionChecks": {"type": "array", "items": RULE}},
}


def _kind(spec, status, free=()):
    spec_schema = {
        "type": "object",
        "properties": {**spec, **{name: {} for name in free}},
        "additionalProperties": False,
    }
    return {"type": "object", "properties": {"metadata": META, "spec": spec_schema,
                                             "status": {"type": "object", "properties": status}}}  # fmt: skip


CONDITIONS = {"conditions": {"type": "array", "items": CONDITION}}
KUEUE = {
    "workloads": _kind(
        {"active": {"type": "boolean"}, "queueName": {"type": "string"}, "priority": {"type": "integer"}},
        CONDITIONS | {"admissionChecks": {"type": "array", "items": CHECK}},
        ("podSets",),
    ),
    "clusterqueues": _kind(
        {"stopPolicy": {"enum": ["None", "Hold", "HoldAndDrain"]}, "admissionChecksStrategy": STRATEGY},
        CONDITIONS,
        ("flavorFungibility", "namespaceSelector", "preemption", "queueingStrategy", "resourceGroups"),
    ),
    "localqueues": _kind({"clusterQueue": {"type": "string"}, "stopPolicy": {"type": "string"}}, CONDITIONS),
    "resourceflavors": _kind({}, {}),
    "admissionchecks": _kind({"controllerName": {"type": "string", "minLength": 1}}, CONDITIONS),
}
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
    for error in jsonschema.Draft202012Validator(KUEUE[plural]).iter_errors(item):
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
    folder = f"kubernetes-json-schema/v{VERSION}.0-local{'-strict' if strict else ''}"
    schema, definitions = (utils.schema_contents(f"{folder}/{name}.json", VERSION)
                           for name in ("job-batch-v1", "_definitions"))  # fmt: skip
    texts = Registry().with_resource("/api/_definitions.json", Resource.from_contents(definitions, DRAFT202012)).crawl()
    return jsonschema.Draft202012Validator(schema, registry=texts)


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
