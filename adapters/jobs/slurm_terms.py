"""What the owner of a Slurm job lets us do with it, from the job's comment.

    sbatch --comment="gridpace deadline=8h pause=suspend value=1.2" …
    sbatch --comment="gridpace tier=2 runtime=6h pause=suspend" …

Why the comment: it is the one field that every user may fill in, that survives, and that needs no plugin. A job whose
comment does not begin with `gridpace` is left alone, unless the site's config says otherwise; a job that has started is
paused only where its owner wrote how.
"""

from __future__ import annotations

import math
import re
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta

from adapters.jobs.tiers import latest_end, tier_of

MARK = "gridpace"
WORDS = ("deadline", "pause", "value", "tier", "runtime", "checkpoint")
PAUSES = ("no", "suspend", "requeue")
_DURATION = re.compile(r"(\d{1,6})([smhd])")
_UNIT_S = {"s": 1, "m": 60, "h": 3600, "d": 86_400}


@dataclass(frozen=True, slots=True)
class Terms:
    """When it should be done, how it may be paused once it runs (`no`, `suspend`: its GPUs stay allocated, `requeue`:
    it begins again from its own checkpoint), and what a GPU-hour of it is worth. `tier` of Flex 0 to 3 (None: the
    deadline alone counts), its `runtime` at full power where that is said, and how often it writes a `checkpoint`: half
    of that is what a requeue costs on average."""

    deadline: datetime
    pause: str = "no"
    value_per_gpu_h: float = 0.0
    tier: int | None = None
    runtime: timedelta | None = None
    checkpoint: timedelta = timedelta()


class TermsError(ValueError):
    """A comment that is meant for us and can't be read; the text names the key."""


def terms_of(comment: str, submitted: datetime, default: Terms | None, limit: timedelta | None = None) -> Terms | None:
    """The terms of a job with this time `limit`; None: it is not ours to touch. `default`: terms of jobs without a
    mark. Raises TermsError."""
    words = comment.split()
    if not words or words[0] != MARK:
        return default
    values: dict[str, str] = {}
    for word in words[1:]:
        key, equals, value = word.partition("=")
        if not equals or key not in WORDS:
            raise TermsError(f"{word!r} is not one of {', '.join(f'{known}=…' for known in WORDS)}")
        values[key] = value
    runtime, tier, checkpoint = _span(values, "runtime"), _tier(values), _span(values, "checkpoint")
    if tier is not None:
        default = _of_tier(tier, runtime or limit, submitted)
    if "deadline" not in values and default is None:
        raise TermsError("deadline=… is missing")
    base = default or Terms(submitted)
    deadline = _deadline(values["deadline"], submitted) if "deadline" in values else base.deadline
    pause = values.get("pause", base.pause)
    if pause not in PAUSES:
        raise TermsError(f"pause={pause}: write one of {', '.join(PAUSES)}")
    if checkpoint is not None and pause != "requeue":
        raise TermsError("checkpoint= goes with pause=requeue: other pauses lose nothing")
    worth = _value(values["value"]) if "value" in values else base.value_per_gpu_h
    return Terms(deadline, pause, worth, tier, runtime, checkpoint or timedelta())


def _of_tier(tier: int, runtime: timedelta | None, submitted: datetime) -> Terms:
    """A tier is a deadline: counted from the submission here, from the start once it runs."""
    if runtime is None:
        raise TermsError("tier= needs runtime=…, how long the job runs at full power, or a time limit")
    return Terms(latest_end(submitted, runtime, tier))


def _tier(values: dict[str, str]) -> int | None:
    try:
        return tier_of(values["tier"]) if "tier" in values else None
    except ValueError as error:
        raise TermsError(str(error)) from None


def _span(values: dict[str, str], word: str) -> timedelta | None:
    if word not in values:
        return None
    length = _length(values[word])
    if length is None or not timedelta() < length <= timedelta(days=366):
        raise TermsError(f"{word}={values[word]}: write a length of time such as 90m or 8h")
    return length


def _length(text: str) -> timedelta | None:
    found = _DURATION.fullmatch(text)
    return timedelta(seconds=int(found.group(1)) * _UNIT_S[found.group(2)]) if found else None


def _deadline(text: str, submitted: datetime) -> datetime:
    length = _length(text)
    if length is not None:
        return submitted + length
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
