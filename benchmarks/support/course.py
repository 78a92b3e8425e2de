"""The course that `tracking` asks a site to follow for three hours: a hold, steps, ramps, a signal as of regulation.

The signal is a first-order autoregressive process, filtered and bounded, every four seconds: it has the look of a fast
regulation signal (zero mean, full swings within minutes), and nobody's data. A `regulation.csv` with the columns
`seconds` and `signal` (-1 to 1) takes its place.
"""

from __future__ import annotations

import csv
from datetime import datetime, timedelta
from pathlib import Path

import numpy as np

from adapters.ports import EventMessage, EventTarget

RAMP = timedelta(minutes=5)
HOLD, STEPS, BASE, SWING = 25.0, (10.0, 30.0, 15.0, 25.0), 20.0, 5.0
RAMPS = ((25.0, 10.0), (10.0, 30.0), (30.0, 20.0))
RAMP_STEP_S, SIGNAL_S, SIGNAL_MEMORY_S = 10.0, 4.0, 60.0
SHARES = (0.25, 0.25, 0.2, 0.2, 0.1)
"""Parts of the event: hold, steps, ramps, signal, hold."""

Piece = tuple[float, float]
"""Seconds, and the reduction in per cent of the baseline that holds for them."""


def pieces(seconds: float, seed: int, signal: list[float] | None = None) -> list[Piece]:
    """The whole course of `seconds` as stairs, each of whole seconds."""
    parts = [round(share * seconds) for share in SHARES]
    stairs = [(float(parts[0]), HOLD)]
    stairs += [(float(parts[1] // len(STEPS)), step) for step in STEPS]
    for first, last in RAMPS:
        count = max(2, round(parts[2] / len(RAMPS) / RAMP_STEP_S))
        each_s = float(parts[2] // (len(RAMPS) * count))
        stairs += [(each_s, first + (last - first) * (k + 0.5) / count) for k in range(count)]
    count = max(2, round(parts[3] / SIGNAL_S))
    moves = signal or regulation(count, seed)
    stairs += [(SIGNAL_S, BASE + SWING * moves[k % len(moves)]) for k in range(count)]
    return [*stairs, (float(parts[4]), HOLD)]


def regulation(count: int, seed: int) -> list[float]:
    """`count` values from -1 to 1, one every SIGNAL_S."""
    rng = np.random.default_rng(seed)
    keep = float(np.exp(-SIGNAL_S / SIGNAL_MEMORY_S))
    values, now = [], 0.0
    for move in rng.normal(size=count):
        now = keep * now + (1.0 - keep**2) ** 0.5 * float(move)
        values.append(float(np.clip(now * 0.6, -1.0, 1.0)))
    return values


def read_signal(folder: Path | None) -> list[float] | None:
    """`regulation.csv` of a folder, its values held until the next one and sampled every SIGNAL_S; None without it.
    Raises ValueError for values beyond -1 to 1."""
    path = folder / "regulation.csv" if folder is not None else None
    if path is None or not path.exists():
        return None
    with path.open(encoding="utf-8", newline="") as file:
        rows = [(float(row["seconds"]), float(row["signal"])) for row in csv.DictReader(file)]
    if not rows or any(not -1.0 <= value <= 1.0 for _, value in rows):
        raise ValueError(f"{path}: the signal must have values from -1 to 1")
    at, values = np.array(rows).T
    moments = np.arange(at[0], at[-1] + 1e-9, SIGNAL_S)
    return [float(values[np.searchsorted(at, moment, side="right") - 1]) for moment in moments]


def message(start: datetime, stairs: list[Piece]) -> EventMessage:
    """The course as one event; a short one has a shorter ramp."""
    targets, at = [], start
    for seconds, percent in stairs:
        end = at + timedelta(seconds=seconds)
        targets.append(EventTarget(at, end, reduce_percent=percent))
        at = end
    ramp_s = min(RAMP.total_seconds(), (at - start).total_seconds() / 6.0)
    return EventMessage(
        "course", 1, "lab", start, at, tuple(targets), program="grid", ramp_in_s=ramp_s, ramp_out_s=ramp_s
    )
