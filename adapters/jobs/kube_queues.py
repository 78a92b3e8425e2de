"""Kueue's ClusterQueues: our AdmissionCheck put on them and taken off, and stopped with HoldAndDrain in an emergency.

Why we put it on ourselves: a queue that asks a check whose controller has left starts nothing any more. What we put on
is marked on the queue, and taken off when we leave; one that somebody else put on is theirs.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from datetime import datetime
from typing import Any

from adapters.jobs.kube_api import CHECKS, CONFLICT, NOT_FOUND, QUEUES, KubeApi, KubeRefused
from adapters.jobs.kube_terms import PREFIX
from adapters.ports import AdapterError

CONTROLLER = "gridpace/power"
PUT_ON, STOPPED = f"{PREFIX}check", f"{PREFIX}stop-policy"
"""Marks on a ClusterQueue: the check that we put on it, and the stopPolicy that it had before we drained it."""
TRIES = 4


class Queues:
    """The ClusterQueues of one cluster, by name. Every call raises AdapterError."""

    def __init__(self, api: KubeApi, names: Sequence[str], check: str) -> None:
        self._api, self._names, self._check = api, tuple(names), check

    def attach(self, now: datetime) -> None:
        """Say that our check is answered, and have every queue ask it."""
        if not self._names:
            return
        self._answering(now)
        self._every(self._with_check)

    def detach(self) -> None:
        """Take our check off where we put it on, and let drained queues go on."""
        self._every(lambda queue: _without_check(queue, self._check), _going_on)

    def drain(self, on: bool) -> None:
        """Evict everything (HoldAndDrain), or let the queues go on as they were."""
        self._every(_drained if on else _going_on)

    def held(self) -> dict[str, str]:
        """What we did to which queue."""
        found: dict[str, str] = {}
        for name in self._names:
            try:
                notes = self._api.get(QUEUES, "", name)["metadata"].get("annotations") or {}
            except KubeRefused as error:
                if error.status != NOT_FOUND:
                    raise
                continue  # nothing is held on a queue that is gone
            did = [text for mark, text in ((PUT_ON, "asks us"), (STOPPED, "drained")) if mark in notes]
            if did:
                found[f"clusterqueue {name}"] = ", ".join(did)
        return found

    def _answering(self, now: datetime) -> None:
        """Mark our AdmissionCheck Active: a queue whose check is not starts nothing."""
        check = self._api.get(CHECKS, "", self._check)
        controller = (check.get("spec") or {}).get("controllerName")
        if controller != CONTROLLER:
            raise AdapterError(
                f"kubernetes: AdmissionCheck {self._check}: its controller is {controller}, not {CONTROLLER}"
            )
        conditions = (check.get("status") or {}).get("conditions") or []
        if any(one["type"] == "Active" and one["status"] == "True" for one in conditions):
            return
        active = {
            "type": "Active",
            "status": "True",
            "reason": "Active",
            "message": "Gridpace answers",
            "lastTransitionTime": now.strftime("%Y-%m-%dT%H:%M:%SZ"),
        }
        rest = [one for one in conditions if one["type"] != "Active"]
        version = check["metadata"]["resourceVersion"]
        body = {"metadata": {"resourceVersion": version}, "status": {"conditions": [*rest, active]}}
        self._api.patch(CHECKS, "", self._check, body, status=True)

    def _with_check(self, queue: Mapping[str, Any]) -> dict[str, Any] | None:
        rules = _rules(queue)
        if any(rule["name"] == self._check for rule in rules):
            return None
        return _checks(queue, [*rules, {"name": self._check}], self._check)

    def _every(self, *changes: Callable[[Mapping[str, Any]], dict[str, Any] | None]) -> None:
        """Each change on each queue. One that is missing or refuses holds up none of the others, and is told at the
        end."""
        wrong: list[str] = []
        for name in self._names:
            try:
                for change in changes:
                    self._change(name, change)
            except KubeRefused as error:
                wrong.append(str(error))
        if wrong:
            raise AdapterError("; ".join(wrong))

    def _change(self, name: str, change: Callable[[Mapping[str, Any]], dict[str, Any] | None]) -> None:
        """Patch one queue; a conflict is decided anew on what it has become."""
        for attempt in range(TRIES):
            queue = self._api.get(QUEUES, "", name)
            body = change(queue)
            if body is None:
                return
            try:
                self._api.patch(QUEUES, "", name, body)
            except KubeRefused as error:
                if error.status != CONFLICT or attempt == TRIES - 1:
                    raise
            else:
                return


def _rules(queue: Mapping[str, Any]) -> list[Mapping[str, Any]]:
    return list(((queue["spec"].get("admissionChecksStrategy") or {}).get("admissionChecks")) or ())


def _notes(queue: Mapping[str, Any]) -> Mapping[str, str]:
    return queue["metadata"].get("annotations") or {}


def _body(queue: Mapping[str, Any], notes: Mapping[str, str | None], spec: Mapping[str, Any]) -> dict[str, Any]:
    metadata = {"resourceVersion": queue["metadata"]["resourceVersion"], "annotations": dict(notes)}
    return {"metadata": metadata, "spec": dict(spec)}


def _checks(queue: Mapping[str, Any], rules: Sequence[Mapping[str, Any]], mark: str | None) -> dict[str, Any]:
    strategy = {"admissionChecks": list(rules)} if rules else None
    return _body(queue, {PUT_ON: mark}, {"admissionChecksStrategy": strategy})


def _without_check(queue: Mapping[str, Any], check: str) -> dict[str, Any] | None:
    if _notes(queue).get(PUT_ON) != check:
        return None
    return _checks(queue, [rule for rule in _rules(queue) if rule["name"] != check], None)


def _drained(queue: Mapping[str, Any]) -> dict[str, Any] | None:
    policy = queue["spec"].get("stopPolicy", "None")
    if policy == "HoldAndDrain":
        return None
    return _body(queue, {STOPPED: policy}, {"stopPolicy": "HoldAndDrain"})


def _going_on(queue: Mapping[str, Any]) -> dict[str, Any] | None:
    """As it was before we drained it; somebody who chose another policy meanwhile has it."""
    before = _notes(queue).get(STOPPED)
    if before is None:
        return None
    spec = {"stopPolicy": before} if queue["spec"].get("stopPolicy") == "HoldAndDrain" else {}
    return _body(queue, {STOPPED: None}, spec)
