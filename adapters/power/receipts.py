"""What every power actuator says in the same words: clamped caps, refused caps, GPUs that are gone.

Why shared: a person compares the receipts of a real node and of its simulated twin, and one contract suite reads both.
A thousand clamped GPUs are one fact, not a thousand lines, so notes beyond a handful are counted, not listed.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping

from adapters.ports import GpuId
from optimizer.reasons import Note, Reason, Severity

UNKNOWN_GPU = Reason.GPU_LOST
"""An order for a GPU that is not there fails like an order for one that fell off the bus."""

MOST_NOTES = 16

_MEANING = {
    Reason.GPU_LOST: "does not answer: off the bus, or not a GPU of this machine",
    Reason.NODE_LOST: "is on a node that does not answer",
    Reason.NO_PERMISSION: "may not be capped: setting a power limit needs root (CAP_SYS_ADMIN); run the agent as root",
    Reason.CAP_REFUSED: "refused the cap",
    Reason.CAP_DRIFT: "enforces another limit than ordered (a board controller or another program limits it)",
    Reason.CALL_TIMEOUT: "did not answer in time; it is left alone until its call returns",
}


def clamp_notes(clamped: Iterable[tuple[GpuId, float, float]]) -> tuple[Note, ...]:
    """A note for each (GPU, watts ordered, watts that its range allows), the first few of them by name."""
    found = list(clamped)
    notes = [
        Note(Reason.CAP_CLAMPED, gpu, f"{ordered:g} W ordered, {allowed:g} W is what the card allows", Severity.INFO)
        for gpu, ordered, allowed in found[:MOST_NOTES]
    ]
    if len(found) > MOST_NOTES:
        text = f"{len(found) - MOST_NOTES} more GPUs were ordered outside their range"
        notes.append(Note(Reason.CAP_CLAMPED, "gpus", text, Severity.INFO))
    return tuple(notes)


def kept_notes(kept_w: Mapping[GpuId, float]) -> tuple[Note, ...]:
    """A note about cards that keep a cap though they accepted its release, with the limit in W that they enforce."""
    if not kept_w:
        return ()
    gpu, watts = next(iter(kept_w.items()))
    others = f" (and {len(kept_w) - 1} more)" if len(kept_w) > 1 else ""
    text = f"{gpu}{others} keeps its cap, {watts:g} W, though it accepted the release; its agent tries again"
    return (Note(Reason.CAP_REFUSED, gpu, text, Severity.ALERT),)


def failure_notes(failures: Mapping[GpuId, Reason], meaning: Mapping[Reason, str] | None = None) -> tuple[Note, ...]:
    """One note for each kind of failure, naming the first GPU and how many share it. `meaning`: what reasons mean on
    hardware where they don't mean what they do on this machine's own cards."""
    if not failures:
        return ()
    meanings = {**_MEANING, **(meaning or {})}
    counts = Counter(failures.values())
    notes = []
    for reason, count in counts.items():
        first = next(gpu for gpu, why in failures.items() if why is reason)
        others = f" (and {count - 1} more)" if count > 1 else ""
        notes.append(Note(reason, first, f"{first}{others} {meanings.get(reason, reason.value)}"))
    return tuple(notes)
