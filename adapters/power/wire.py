"""What daemon and node agent say to each other: one JSON object a line over a Unix socket.

A request is `{"v": 1, "op": ...}` with the fields of its operation, an answer `{"v": 1, "ok": true, "result": ...}` or
`{"v": 1, "ok": false, "code": ..., "error": ...}`. Lines are bounded, the version is checked on both sides, and numbers
are plain: watts, seconds. Both ends use this file, so that they can't drift apart.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import fields
from itertools import pairwise
from math import isfinite
from typing import Any, TypeGuard

import orjson

from adapters.ports import ClockReceipt, GpuId, GpuInfo, Lease, Receipt
from optimizer.reasons import Note, Reason, Severity

VERSION = 1
MAX_LINE = 4 * 1024 * 1024
"""Longest line in bytes: a day's trajectory of a large node fits several times over."""

DEEPEST = 64
"""So deep objects may lie in each other; none of ours lies deeper than five."""

BAD_REQUEST, DENIED, FENCED, FAILED = "bad_request", "denied", "fenced", "failed"

Steps = tuple[tuple[float, dict[GpuId, int]], ...]
"""A trajectory: (seconds from now, cap in W per GPU), by rising time."""


_INFO = tuple(field.name for field in fields(GpuInfo))
_strictly = json.JSONEncoder(separators=(",", ":"), allow_nan=False).encode
_QUICKLY = orjson.OPT_APPEND_NEWLINE | orjson.OPT_PASSTHROUGH_DATACLASS | orjson.OPT_PASSTHROUGH_DATETIME


class BadRequest(ValueError):
    """A line that is not a request of this protocol."""


def encode(message: Mapping[str, Any]) -> bytes:
    """One line; NaN and infinity are refused, because JSON has none. What the quick writer does not know, or writes as
    null as it does NaN, is left to Python's own."""
    whole = {"v": VERSION, **message}
    try:
        line = orjson.dumps(whole, option=_QUICKLY)
    except TypeError:
        line = b"null"
    return f"{_strictly(whole)}\n".encode() if b"null" in line else line


def decode(line: bytes) -> dict[str, Any]:
    """The object of one line. BadRequest when it is too long, cut off, not JSON, or of another version."""
    if len(line) > MAX_LINE or not line.endswith(b"\n"):
        raise BadRequest(f"a line may have at most {MAX_LINE} bytes and ends with a newline")
    try:
        message = orjson.loads(line)
    except ValueError as error:
        raise BadRequest(f"not JSON: {error}") from error
    if line.count(b"[") + line.count(b"{") > DEEPEST and _is_deep(message):
        raise BadRequest(f"not a message of ours: deeper than {DEEPEST} objects in each other")
    if not isinstance(message, dict) or message.get("v") != VERSION:
        raise BadRequest(f"not an object with v={VERSION}")
    return message


def _is_deep(value: Any) -> bool:
    """Whether to name, compare or print it could exhaust Python's stack, which the reader of JSON does not use."""
    layer = [value]
    for _ in range(DEEPEST):
        inside = (part for one in layer for part in (one.values() if isinstance(one, dict) else one))
        layer = [part for part in inside if isinstance(part, dict | list)]
        if not layer:
            return False
    return True


def watts(value: Any, name: str) -> dict[GpuId, float]:
    """A map GPU -> watts, checked: finite, not negative."""
    if not isinstance(value, dict):
        raise BadRequest(f"{name} must be an object GPU -> watts")
    if _all_whole(value) or _all_floats(value):
        return dict(zip(value, map(float, value.values()), strict=True))
    for gpu, number in value.items():
        if not _is_number(number) or not 0 <= number < 1e6:
            raise BadRequest(f"{name}[{gpu!r}] must be watts, not {number!r}")
    return {gpu: float(number) for gpu, number in value.items()}


def caps(value: Any, name: str) -> dict[GpuId, int]:
    """A map GPU -> whole watts."""
    if isinstance(value, dict) and _all_whole(value):
        return value
    return {gpu: round(number) for gpu, number in watts(value, name).items()}


def lease(value: Any) -> Lease:
    """A lease, checked: whole epoch and sequence, a finite number of seconds above zero."""
    if not isinstance(value, dict):
        raise BadRequest("lease must be an object")
    epoch, sequence = value.get("epoch"), value.get("sequence")
    expires_in_s = seconds(value.get("expires_in_s"), "expires_in_s")
    if not _is_whole(epoch) or not _is_whole(sequence) or expires_in_s <= 0:
        raise BadRequest("lease needs whole epoch and sequence, and expires_in_s above 0")
    return Lease(epoch, sequence, expires_in_s)


def epoch(value: Any) -> int | None:
    """Who says a word that carries no lease; None: it doesn't say. BadRequest for what no lease could name either: the
    agent keeps it, and reads it again when it starts."""
    if value is not None and not _is_whole(value):
        raise BadRequest("epoch must be a whole number")
    return value


def seconds(value: Any, name: str) -> float:
    """A finite number of seconds, not negative."""
    if not _is_number(value) or value < 0:
        raise BadRequest(f"{name} must be seconds, not {value!r}")
    return float(value)


def steps(value: Any) -> Steps:
    """A trajectory with rising times."""
    if not isinstance(value, list) or not all(isinstance(step, list) and len(step) == 2 for step in value):
        raise BadRequest("steps must be a list of [offset_s, caps]")
    found = tuple((seconds(offset, "offset_s"), caps(cap, "caps")) for offset, cap in value)
    if any(later <= earlier for (earlier, _), (later, _) in pairwise(found)):
        raise BadRequest("steps must rise in time")
    return found


def receipt_out(receipt: Receipt) -> dict[str, Any]:
    """A receipt as JSON."""
    notes = [[note.code, note.subject, note.text, note.severity] for note in receipt.notes]
    return {
        "enforced_w": dict(receipt.enforced_w),
        "failures": dict(receipt.failures),
        "notes": notes,
        "seconds": receipt.seconds,
    }


def receipt_in(value: Mapping[str, Any]) -> Receipt:
    """A receipt from JSON."""
    failures = {gpu: Reason(reason) for gpu, reason in value["failures"].items()}
    notes = [Note(Reason(code), subject, text, Severity(loud)) for code, subject, text, loud in value["notes"]]
    return Receipt(dict(value["enforced_w"]), failures, tuple(notes), float(value["seconds"]))


def clocks(value: Any, name: str) -> dict[GpuId, int]:
    """A map GPU -> whole MHz, above zero."""
    found = caps(value, name)
    if not all(mhz > 0 for mhz in found.values()):
        raise BadRequest(f"{name} must be MHz above 0")
    return found


def clock_receipt_out(receipt: ClockReceipt) -> dict[str, Any]:
    """A receipt about clocks as JSON."""
    return {"clock_mhz": dict(receipt.clock_mhz), "failures": dict(receipt.failures)}


def clock_receipt_in(value: Mapping[str, Any]) -> ClockReceipt:
    """A receipt about clocks from JSON."""
    return ClockReceipt(dict(value["clock_mhz"]), {gpu: Reason(why) for gpu, why in value["failures"].items()})


def infos_out(infos: Mapping[GpuId, GpuInfo]) -> list[dict[str, Any]]:
    """GPUs as JSON."""
    return [{name: getattr(info, name) for name in _INFO} for info in infos.values()]


def infos_in(value: list[dict[str, Any]]) -> dict[GpuId, GpuInfo]:
    """GPUs from JSON. BadRequest or TypeError for what is none."""
    found = {fields["id"]: GpuInfo(**fields) for fields in value}
    for one in found.values():
        read_w = (one.min_w, one.max_w, one.default_w, one.limit_w, one.enforced_w, one.draw_w)
        if not all(isfinite(watts) and watts >= 0.0 for watts in read_w):
            raise BadRequest(f"{one.id} is told with {read_w} W")
    return found


def _all_whole(value: Mapping[str, Any]) -> bool:
    """Whether all values are whole watts, as the caps of a trajectory with its many steps are: nothing more need be
    asked of each then."""
    numbers = value.values()
    return {*map(type, numbers)} == {int} and min(numbers) >= 0 and max(numbers) < 1e6


def _all_floats(value: Mapping[str, Any]) -> bool:
    """Whether all values are floats that are watts, as limits that were read are; a sum tells of NaN, a minimum may
    not."""
    numbers = value.values()
    return {*map(type, numbers)} == {float} and isfinite(sum(numbers)) and min(numbers) >= 0 and max(numbers) < 1e6


_NUMBERS = int, float


def _is_number(value: Any) -> TypeGuard[float]:
    return isinstance(value, _NUMBERS) and not isinstance(value, bool) and isfinite(value)


def _is_whole(value: Any) -> TypeGuard[int]:
    return isinstance(value, int) and not isinstance(value, bool) and 0 <= value < 2**63
