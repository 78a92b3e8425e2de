"""The objects that the test server keeps: what it takes, whom it shows them, and how they look.

Why its own rules and not our client's: the twin must not be wrong in the same way as what is tested against it.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import Any

COLLECTIONS = {
    "programs": "PROGRAM",
    "events": "EVENT",
    "reports": "REPORT",
    "subscriptions": "SUBSCRIPTION",
    "vens": "VEN",
    "resources": "RESOURCE",
}
_NAMED = {"programs": "programName", "vens": "venName"}
_REQUIRED = {
    "programs": ("programName",),
    "events": ("programID",),
    "reports": ("eventID", "clientName", "resources"),
    "subscriptions": ("clientName", "objectOperations"),
    "vens": ("venName",),
    "resources": ("resourceName", "venID"),
}
_DURATION = re.compile(r"^(-?)P(?=\d|T\d)(\d+Y)?(\d+M)?(\d+[DW])?(T(\d+H)?(\d+M)?(\d+(\.\d+)?S)?)?$")
_TIME = re.compile(r"^\d{4}-\d\d-\d\d([T ]\d\d:\d\d(:\d\d(\.\d+)?)?(Z|[+-]\d\d:?\d\d)?)?$")


class Problem(Exception):
    """A refusal as the schema's problem object."""

    def __init__(self, status: int, detail: str) -> None:
        super().__init__(detail)
        self.status, self.detail = status, detail

    def body(self) -> dict[str, Any]:
        """The object."""
        return {"type": "about:blank", "title": "refused", "status": self.status, "detail": self.detail}


def named(kind: str) -> str:
    """Field that must be unique among objects of a kind; empty where none is."""
    return _NAMED.get(kind, "")


def checked(kind: str, body: dict[str, Any], strict: bool) -> dict[str, Any]:
    """The body, when it has what the schema asks for. Raises Problem."""
    for name in _REQUIRED[kind]:
        if name not in body:
            raise Problem(400, f"{name} is missing")
    priority = body.get("priority")
    if priority is not None and (not isinstance(priority, int) or priority < 0):
        raise Problem(400, f"priority: {priority!r} is not 0 or more")
    if any("objectType" not in one for one in body.get("payloadDescriptors") or ()):
        raise Problem(400, "payloadDescriptors: objectType is missing")
    if strict:
        _check_times(body, "")
    return body


def _check_times(value: Any, place: str) -> None:
    if isinstance(value, dict):
        for name, one in value.items():
            if name in {"duration", "randomizeStart"} and not (isinstance(one, str) and _DURATION.match(one)):
                raise Problem(400, f"{place}{name}: {one!r} is not a duration")
            if name == "start" and not (isinstance(one, str) and _TIME.match(one)):
                raise Problem(400, f"{place}{name}: {one!r} is not a time")
            _check_times(one, f"{place}{name}.")
    elif isinstance(value, list):
        for index, one in enumerate(value):
            _check_times(one, f"{place}{index}.")


def ids(kind: str, body: Mapping[str, Any], objects: Mapping[str, Mapping[str, Any]]) -> None:
    """Refuse an object that names another which is not there."""
    named_ids = {"events": ("programID", "programs"), "reports": ("eventID", "events"), "resources": ("venID", "vens")}
    if kind in named_ids:
        field, other = named_ids[kind]
        if body.get(field) not in objects[other]:
            raise Problem(404 if kind != "reports" else 400, f"{field}: no such object")
    if kind == "resources":
        same = [o for o in objects["resources"].values() if o["venID"] == body["venID"]]
        if any(one["resourceName"] == body["resourceName"] for one in same):
            raise Problem(409, f"resourceName: {body['resourceName']!r} is taken")


def scoped(
    kind: str, items: Sequence[dict[str, Any]], query: Mapping[str, list[str]], ignored: bool
) -> list[dict[str, Any]]:
    """Items that a query asks for; filters add up."""
    found = list(items)
    for name in ("programID", "eventID", "venID", "clientName", "venName", "resourceName"):
        if name in query and not ignored:
            found = [item for item in found if item.get(name) == query[name][0]]
    if "targets" in query and not ignored and kind in {"programs", "events"}:
        found = [item for item in found if set(item.get("targets") or ()) & set(query["targets"])]
    return found


def shown(item: Mapping[str, Any], zero_duration: bool, old_targets: bool) -> dict[str, Any]:
    """An object as it is sent."""
    told = {key: value for key, value in item.items() if not key.startswith("_")}
    if item["objectType"] in {"PROGRAM", "EVENT"}:
        told.pop("clientID", None)
    if item["objectType"] == "VEN":
        told["objectType"] = "VEN"
    if zero_duration and item["objectType"] == "EVENT":
        told.setdefault("duration", "PT0S")
    if old_targets and told.get("targets"):
        told["targets"] = [{"type": "GROUP", "values": list(told["targets"])}]
    return told
