"""What Kueue's objects may look like, closed: a field that the API has not is an unknown one, wherever it stands.

No package carries Kueue's schemas. Names, limits and enums follow apis/kueue/v1beta2 of kubernetes-sigs/kueue, in own
words; metadata and pod templates are Kubernetes' own, from kubernetes-validate's strict schemas. Left out are fields
of a feature that was alpha in August 2026 (preemption gates, concurrent admission): Gridpace writes none of them, and
the recorded objects have none. What a real server checks beyond (CEL rules, webhooks) is not here.
"""

_K8S = "/api/_definitions.json#/$defs/io.k8s."
TIME = {"type": "string", "pattern": r"^\d{4}-\d\d-\d\dT\d\d:\d\d:\d\dZ$"}
TEXTS = {"type": "object", "additionalProperties": {"type": "string"}}
QUANTITIES = {"type": "object", "additionalProperties": {"type": ["string", "integer"]}}
WHOLE = {"type": "integer", "minimum": 0}
STOP = {"enum": ["None", "Hold", "HoldAndDrain"]}
META = {"allOf": [{"$ref": f"{_K8S}apimachinery.pkg.apis.meta.v1.ObjectMeta"},
                  {"properties": {"labels": TEXTS, "annotations": TEXTS}}]}  # fmt: skip


def _text(most=None, **more):
    return {"type": "string", **({"maxLength": most} if most else {}), **more}


def _of(required=(), **fields):
    """An object of these fields and no others."""
    return {
        "type": "object", "additionalProperties": False, "properties": fields, "required": list(required)
    }  # fmt: skip


def _some(items, most, least=0):
    return {"type": "array", "items": items, "maxItems": most, "minItems": least}


CONDITIONS = _some(
    _of(
        ("type", "status", "lastTransitionTime", "reason", "message"),
        type=_text(316),
        status={"enum": ["True", "False", "Unknown"]},
        reason=_text(1024, minLength=1, pattern="^[A-Za-z]([A-Za-z0-9_,:]*[A-Za-z0-9_])?$"),
        message=_text(32768),
        lastTransitionTime=TIME,
        observedGeneration=WHOLE,
    ),
    16,
)
UPDATE = _of(
    ("name",), name=_text(63), labels=TEXTS, annotations=TEXTS, nodeSelector=TEXTS, tolerations=_some({}, 8)
)  # fmt: skip
CHECK = _of(
    ("name", "state", "lastTransitionTime", "message"),
    name=_text(316, minLength=1),
    state={"enum": ["Pending", "Ready", "Retry", "Rejected"]},
    lastTransitionTime=TIME,
    message=_text(32768),
    requeueAfterSeconds=WHOLE,
    retryCount=WHOLE,
    podSetUpdates=_some(UPDATE, 8),
)
ASSIGNMENT = _of(
    name=_text(63), flavors=TEXTS, resourceUsage=QUANTITIES, count=WHOLE, topologyAssignment={"type": "object"},
    delayedTopologyRequest={"enum": ["Pending", "Ready"]},
)  # fmt: skip
EVICTION = _of(
    ("reason", "underlyingCause", "count"), reason=_text(316), underlyingCause=_text(316), count=WHOLE
)  # fmt: skip
PODS = _of(
    name=_text(63), template={"$ref": f"{_K8S}api.core.v1.PodTemplateSpec"}, count=WHOLE, minCount=WHOLE,
    topologyRequest={"type": "object"},
)  # fmt: skip
WORKLOAD = {
    "conditions": CONDITIONS,
    "admissionChecks": _some(CHECK, 8),
    "admission": _of(clusterQueue=_text(253), podSetAssignments=_some(ASSIGNMENT, 8)),
    "requeueState": _of(count=WHOLE, requeueAt=TIME),
    "reclaimablePods": _some(_of(("name", "count"), name=_text(63), count=WHOLE), 8),
    "resourceRequests": _some(_of(("name",), name=_text(63), resources=QUANTITIES), 8),
    "accumulatedPastExecutionTimeSeconds": WHOLE,
    "schedulingStats": _of(evictions=_some(EVICTION, 256)),
    "nominatedClusterNames": _some(_text(256), 10),
    "clusterName": _text(256),
    "unhealthyNodes": _some(_of(("name",), name=_text(63)), 8),
}


def _usage(flavors, resources, **more):
    each = _of(("name",), name=_text(), total={"type": ["string", "integer"]}, **more)
    return _some(_of(("name", "resources"), name=_text(253), resources=_some(each, resources)), flavors)


def _counts(flavors, resources, **more):
    """The status that ClusterQueues and LocalQueues have alike."""
    used = _usage(flavors, resources, **more)
    return {"conditions": CONDITIONS, "flavorsReservation": used, "flavorsUsage": used, "pendingWorkloads": WHOLE,
            "reservingWorkloads": WHOLE, "admittedWorkloads": WHOLE, "fairSharing": {"type": "object"}}  # fmt: skip


RULE = _of(("name",), name=_text(316, minLength=1), onFlavors=_some(_text(253), 64))
QUEUE = {
    "resourceGroups": _some({"type": "object"}, 16),
    "cohortName": _text(253),
    "queueingStrategy": {"enum": ["StrictFIFO", "BestEffortFIFO"]},
    "namespaceSelector": {"$ref": f"{_K8S}apimachinery.pkg.apis.meta.v1.LabelSelector"},
    "flavorFungibility": {"type": "object"},
    "preemption": {"type": "object"},
    "admissionChecksStrategy": _of(("admissionChecks",), admissionChecks=_some(RULE, 64, 1)),
    "stopPolicy": STOP,
    "fairSharing": {"type": "object"},
    "admissionScope": {"type": "object"},
}
PARAMETERS = _of(("apiGroup", "kind", "name"), apiGroup=_text(253), kind=_text(63), name=_text(63))


def _kind(spec, status, required=()):
    return _of(
        ("metadata",), apiVersion=_text(), kind=_text(), metadata=META, spec=_of(required, **spec), status=_of(**status)
    )


SCHEMAS = {
    "workloads": _kind(
        {"active": {"type": "boolean"}, "queueName": _text(253), "priority": {"type": "integer"},
         "podSets": _some(PODS, 8, 1), "maximumExecutionTimeSeconds": WHOLE,
         "priorityClassRef": _of(("group", "kind", "name"), group=_text(), kind=_text(), name=_text(253))},
        WORKLOAD,
    ),
    "clusterqueues": _kind(QUEUE, _counts(64, 64, borrowed={"type": ["string", "integer"]})),
    "localqueues": _kind(
        {"clusterQueue": _text(253), "stopPolicy": STOP, "fairSharing": {"type": "object"}}, _counts(16, 16)
    ),
    "resourceflavors": _kind(
        {"nodeLabels": TEXTS, "nodeTaints": _some({}, 8), "tolerations": _some({}, 8), "topologyName": _text(253)}, {}
    ),
    "admissionchecks": _kind(
        {"controllerName": _text(253, minLength=1), "parameters": PARAMETERS},
        {"conditions": CONDITIONS}, ("controllerName",),
    ),
}  # fmt: skip
