"""What the owner of a Slurm job lets us do with it, from the job's comment.

    sbatch --comment="gridpace deadline=8h pause=suspend value=1.2" …

Why the comment: it is the one field that every user may fill in, that survives, and that needs no plugin. A job whose
comment does not begin with `gridpace` is left alone, unless the site's config says otherwise; a job that has started is
paused only where its owner wrote how.
"""

from __future__ import annotations

import math
import re
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta

MARK = "gridpace"
PAUSES = ("no", "suspend", "requeue")
_DURATION = re.compile(r"(\d{1,6})([smhd])")
_UNIT_S = {"s": 1, "m": 60, "h": 3600, "d": 86_400}


@dataclass(frozen=True, slots=True)
class Terms:
    """When it should be done, how it may be paused once it runs (`no`, `suspend`: its GPUs stay allocated, `requeue`:
    it begins again from its own checkpoint), and what a GPU-hour of it is worth."""

    deadline: datetime
    pause: str = "no"
    value_per_gpu_h: float = 0.0


class TermsError(ValueError):
    """A comment that is meant for us and can't be read; the text names the key."""


def terms_of(comment: str, submitted: datetime, default: Terms | None) -> Terms | None:
    """The terms of a job; None: it is not ours to touch. `default`: terms of jobs without a mark. Raises TermsError."""
    words = comment.split()
    if not words or words[0] != MARK:
        return default
    values: dict[str, str] = {}
    for word in words[1:]:
        key, equals, value = word.partition("=")
        if not equals or key not in {"deadline", "pause", "value"}:
            raise TermsError(f"{word!r} is not deadline=…, pause=… or value=…")
        values[key] = value
    if "deadline" not in values and default is None:
        raise TermsError("deadline=… is missing")
    base = default or Terms(submitted)
    deadline = _deadline(values["deadline"], submitted) if "deadline" in values else base.deadline
    pause = values.get("pause", base.pause)
    if pause not in PAUSES:
        raise TermsError(f"pause={pause}: write one of {', '.join(PAUSES)}")
    return Terms(deadline, pause, _value(values["value"]) if "value" in values else base.value_per_gpu_h)


def _deadline(text: str, submitted: datetime) -> datetime:
    found = _DURATION.fullmatch(text)
    if found:
        return submitted + timedelta(seconds=int(found.group(1)) * _UNIT_S[found.group(2)])
    try:
        moment = datetime.fromisoformat(text)
    except ValueError:
        raise TermsError(f"deadline={text}: write 8h, or a time such as 2026-11-27T06:00:00Z") from None
    if moment.tzinfo is None:
        raise TermsError(f"deadline={text}: its zone is missing; write 2026-11-27T06:00:00Z")
    return moment.astimezone(UTC)


def _value(text: str) -> float:
    try:
        value = float(text)
    except ValueError:
        value = math.nan
    if not 0 <= value < 1e9:
        raise TermsError(f"value={text}: write a number from 0 on")
    return value
