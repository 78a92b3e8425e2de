"""What the owner of a Kubernetes Job lets us do with it, from labels and annotations that begin with `gridpace/`.

The words are those of Slurm's comments (slurm_terms.py), and three that Kubernetes needs: a Job has no time limit that
counts what it ran before, and suspending it deletes its pods.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime, timedelta

from adapters.fields import parse_duration
from adapters.jobs.slurm_terms import MARK, Terms, TermsError, terms_of
from adapters.jobs.tiers import latest_end, tier_of

PREFIX = "gridpace/"
HELD, RAN, STARTED = f"{PREFIX}held", f"{PREFIX}ran-s", f"{PREFIX}started"
OURS = {HELD, RAN, STARTED}
"""Annotations that Gridpace writes: what it did, seconds that the job had run then, and its first start."""
SHARED = ("deadline", "pause", "value")
KNOWN = {*SHARED, "tier", "runtime", "checkpoint"}


@dataclass(frozen=True, slots=True)
class KubeTerms:
    """`terms` as for every batch system; `tier` of Flex 0 to 3 (None: the deadline alone counts), `runtime` at full
    power, and how often the job writes a `checkpoint`: what is lost by a pause is half of that on average."""

    terms: Terms
    tier: int | None = None
    runtime: timedelta | None = None
    checkpoint: timedelta = timedelta()


def words_of(metadata: Mapping[str, Mapping[str, str]]) -> dict[str, str]:
    """What labels and annotations say to us. TermsError where they contradict each other."""
    words: dict[str, str] = {}
    for place in ("labels", "annotations"):
        for key, value in (metadata.get(place) or {}).items():
            if key.startswith(PREFIX) and key not in OURS:
                word = key.removeprefix(PREFIX)
                if words.setdefault(word, str(value)) != value:
                    raise TermsError(f"label and annotation {key} differ")
    return words


def kube_terms(
    words: Mapping[str, str], created: datetime, limit: timedelta | None, default: Terms | None
) -> KubeTerms | None:
    """The terms of a job whose own deadline (`activeDeadlineSeconds`) is `limit`; None: it is not ours to touch.
    TermsError names the word."""
    unknown = sorted(set(words) - KNOWN)
    if unknown:
        raise TermsError(f"{PREFIX}{unknown[0]} is not one of {', '.join(sorted(KNOWN))}")
    runtime = _length(words, "runtime") or limit
    tier = _tier(words)
    if tier is not None and runtime is None:
        raise TermsError(f"{PREFIX}tier needs {PREFIX}runtime, how long the job runs at full power")
    if tier is not None and runtime is not None:
        default = Terms(latest_end(created, runtime, tier))
    comment = [MARK, *(f"{word}={words[word]}" for word in SHARED if word in words)] if words else []
    terms = terms_of(" ".join(comment), created, default)
    if terms is None:
        return None
    if terms.pause == "suspend":
        raise TermsError("pause=suspend: Kubernetes deletes the pods; write requeue where it goes on from a checkpoint")
    return KubeTerms(terms, tier, runtime, _length(words, "checkpoint") or timedelta())


def _tier(words: Mapping[str, str]) -> int | None:
    try:
        return tier_of(words["tier"]) if "tier" in words else None
    except ValueError as error:
        raise TermsError(str(error)) from None


def _length(words: Mapping[str, str], word: str) -> timedelta | None:
    if word not in words:
        return None
    try:
        length = parse_duration(words[word])
    except ValueError:
        length = timedelta()
    if length <= timedelta() or length > timedelta(days=366):
        raise TermsError(f"{word}={words[word]}: write a length of time such as 90m or 8h")
    return length
