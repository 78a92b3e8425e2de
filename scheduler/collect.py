"""The first line of the slow loop: read every source once, judge what came, and freeze it.

Why it never raises and never waits long: one dead price site must not stop the others, nor the plan. Each source is
read in a thread of its own until a common deadline; one that hangs is left behind, reported, and not asked again until
it has answered. The last good series of each is kept in a memory that the caller owns, and ages there until the
gate's limit.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from datetime import datetime
from enum import StrEnum

from adapters.ports import SignalSource, SourceError
from optimizer.domain import Series
from optimizer.quality import GateRules, SignalState, Window, gate
from optimizer.reasons import Note, Reason, Severity


class SourceState(StrEnum):
    """What a person sees of a source: read and good; partly or wholly replaced by last good values; not relied on."""

    OK = "ok"
    STALE = "stale"
    LOST = "lost"


_STATES = {
    SignalState.OK: SourceState.OK,
    SignalState.SUBSTITUTED: SourceState.STALE,
    SignalState.LOST: SourceState.LOST,
}


@dataclass(frozen=True)
class Source:
    """A source and what the gate asks of it."""

    reader: SignalSource
    rules: GateRules
    kind: str = ""
    """What it is, as the config calls it; empty where nobody says."""


@dataclass(frozen=True)
class Seen:
    """One signal in a snapshot. A lost one holds only its past. `age_s` is the age of the knowledge in it."""

    series: Series
    state: SourceState
    age_s: float
    notes: tuple[Note, ...] = ()


@dataclass(frozen=True)
class Snapshot:
    """All signals as known at `at` over `window`; nothing in it changes any more."""

    at: datetime
    window: Window
    signals: Mapping[str, Seen]

    @property
    def notes(self) -> tuple[Note, ...]:
        """Every note of every signal."""
        return tuple(note for seen in self.signals.values() for note in seen.notes)

    def series(self, name: str) -> Series:
        """The series of a signal; KeyError for one that the config doesn't have."""
        return self.signals[name].series


@dataclass
class _Read:
    """One read that may still be under way."""

    asked_at: datetime
    done: threading.Event = field(default_factory=threading.Event)
    series: Series | None = None
    error: str | None = None


@dataclass
class Memory:
    """What outlives a snapshot: the last good series of each source, and the reads that have not come back."""

    last_good: dict[str, Series] = field(default_factory=dict)
    pending: dict[str, _Read] = field(default_factory=dict)


def collect(
    sources: Mapping[str, Source], window: Window, now: datetime, memory: Memory, deadline_s: float | None = 5.0
) -> Snapshot:
    """Read all sources over `window` as of `now`; never raises. Each is waited for until the common deadline.

    `deadline_s` is real time, whatever the clock of the loops; None reads in the caller's thread, one after the other
    (for sources that cannot hang, and for the same order every time).
    """
    reads = {name: _begin(name, source, window, now, memory, deadline_s) for name, source in sources.items()}
    if deadline_s is not None:
        ends_at = time.monotonic() + deadline_s
        for read in reads.values():
            if read.asked_at == now:  # one that hangs since an earlier cycle is not waited for again
                read.done.wait(max(0.0, ends_at - time.monotonic()))
    return Snapshot(
        now, window, {name: _judge(name, sources[name], reads[name], window, now, memory) for name in sources}
    )


def _begin(name: str, source: Source, window: Window, now: datetime, memory: Memory, deadline_s: float | None) -> _Read:
    """Start a read, unless an earlier one has not come back; what that one brought late is remembered first."""
    earlier = memory.pending.pop(name, None)
    if earlier is not None and not earlier.done.is_set():
        return earlier
    if earlier is not None:
        _judge(name, source, earlier, window, earlier.asked_at, memory)
    read = _Read(now)
    if deadline_s is None:
        _perform(name, source.reader, window, read)
    else:
        task = (name, source.reader, window, read)
        try:
            threading.Thread(target=_perform, args=task, name=f"read-{name}", daemon=True).start()
        except RuntimeError as error:
            read.error = f"no thread to read it in ({error})"
            read.done.set()
    return read


def _perform(name: str, reader: SignalSource, window: Window, read: _Read) -> None:
    """One read; whatever goes wrong in an adapter, third-party ones included, becomes a sentence."""
    try:
        read.series = replace(reader.read(*window, read.asked_at), name=name)
    except SourceError as error:
        read.error = str(error)
    except Exception as error:  # noqa: BLE001 (one source's bug must not stop the others)
        read.error = f"{type(error).__name__}: {error}"
    finally:
        read.done.set()


def _judge(name: str, source: Source, read: _Read, window: Window, now: datetime, memory: Memory) -> Seen:
    """Pass what came through the gate, and remember it when it is good."""
    notes: tuple[Note, ...] = ()
    if not read.done.is_set():
        memory.pending[name] = read
        waited = f"asked at {read.asked_at:%H:%M:%SZ} and not answered"
        notes = (Note(Reason.CALL_TIMEOUT, name, f"{name}: {waited}", Severity.WARNING, now),)
    elif read.error is not None:
        notes = (Note(Reason.SIGNAL_LOST, name, f"{name}: {read.error}", Severity.WARNING, now),)
    series = read.series if read.done.is_set() else None
    result = gate(series, memory.last_good.get(name), source.rules, now, window, name)
    if series is not None and result.series.spans and result.state is not SignalState.LOST:
        memory.last_good[name] = replace(result.series, published_at=result.series.published_at or now, notes=())
    return Seen(result.series, _STATES[result.state], result.age_s, (*notes, *result.notes))
