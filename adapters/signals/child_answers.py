"""What a child tells its parent: rows, or why there are none and for how long to leave the market alone."""

from __future__ import annotations

import re
from typing import Any

Answer = dict[str, Any]
"""`rows`: lists of start, end (ISO 8601 with offset) and value (None: none); or `error`, with `after_s` at times."""

BANNED_S = 600.0
"""How long a market that says 429 without a time is left alone (ENTSO-E bans for ten minutes)."""


class Told(Exception):
    """A sentence for the operator, from the child."""


def failure(error: Exception) -> Answer:
    """The error as a sentence, without addresses, in whose query a key may stand."""
    response = getattr(error, "response", None)
    status = getattr(response, "status_code", None)
    if isinstance(error, Told):
        return {"error": str(error)}
    if isinstance(error, ModuleNotFoundError):
        return {"error": f"{error.name} is not installed"}
    text = re.sub(r"(https?://[^\s?]+|url: [^\s?]+)\?\S*", r"\1", f"{type(error).__name__}: {error}")[:300]
    if status == 429:
        wanted = str(response.headers.get("Retry-After", "")) if response is not None else ""
        return {"error": "HTTP 429: asked too often", "after_s": float(wanted) if wanted.isdigit() else BANNED_S}
    return {"error": text}
