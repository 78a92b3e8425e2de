"""How long a file is kept, where its owner says so: `expires_after` of a file, `output_expires_after` of a batch.

Source of the form: https://platform.openai.com/docs/api-reference/files/create and .../batch/create.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from scheduler.gateway.model import ApiError

ANCHOR, LEAST_S, MOST_S = "created_at", 3600, 2_592_000


def expires_after_s(found: Any, param: str) -> int | None:
    """Seconds from a file's creation to its end; None where nothing is said. Raises ApiError (400) naming the
    parameter."""
    if found is None:
        return None
    if not isinstance(found, Mapping):
        raise _bad(param, f'is an object such as {{"anchor": "{ANCHOR}", "seconds": {LEAST_S}}}')
    if found.get("anchor") != ANCHOR:
        raise _bad(f"{param}.anchor", f'is "{ANCHOR}"')
    seconds = found.get("seconds")
    if not isinstance(seconds, int) or isinstance(seconds, bool) or not LEAST_S <= seconds <= MOST_S:
        raise _bad(f"{param}.seconds", f"is a whole number from {LEAST_S} to {MOST_S}")
    return seconds


def of_form(fields: Mapping[str, bytes], param: str) -> int | None:
    """The same of a form, whose fields are named `param[anchor]` and `param[seconds]`. Raises ApiError (400)."""
    found: dict[str, Any] = {}
    for name in ("anchor", "seconds"):
        if (text := fields.get(f"{param}[{name}]")) is not None:
            found[name] = text.decode(errors="replace")
    if not found:
        return expires_after_s(fields.get(param), param)  # said, and no object: refused
    text = found.get("seconds", "")
    if text.isascii() and text.isdigit() and len(text) < 9:
        found["seconds"] = int(text)
    return expires_after_s(found, param)


def _bad(param: str, text: str) -> ApiError:
    return ApiError(400, f"{param}: {text}", "invalid_value", param)
