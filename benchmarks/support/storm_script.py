"""What happens in one case of a storm, drawn from a seed: messages of a utility, and what breaks meanwhile.

A script is plain data, so that a failing case can be printed, read and played again.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime, timedelta
from itertools import pairwise

import numpy as np

from adapters.ports import EventMessage, EventTarget

START = datetime(2025, 5, 3, 21, tzinfo=UTC)
QUIET_S = 60
"""Before the first message: the site as it is."""
SPAN_S = 600
"""Seconds in which events are announced."""

FULL_KW = 23.0
"""About what the site of a storm draws when nobody holds it."""

FAULTS = {
    "cut": (20, 300), "kill_agent": (5, 200), "crash_machine": (20, 150), "lose_gpu": (20, 400),
    "lose_pool_meter": (5, 120), "lose_site_meter": (5, 120), "lose_meters": (5, 60),
    "kill_daemon": (2, 240), "raise_once": (1, 1), "fight": (12, 60), "lower": (10, 120), "operator_limit": (30, 300),
}  # fmt: skip
"""Fault -> shortest and longest duration in seconds."""


@dataclass(frozen=True)
class Deed:
    """At a second: a message to the daemon, or a fault that begins, on `target`, for `lasts_s`."""

    at_s: int
    what: str
    target: int = 0
    lasts_s: int = 0
    kw: float = 0.0
    message: EventMessage | None = None

    def __str__(self) -> str:
        if self.message is None:
            kw = f" {self.kw:.1f} kW" if self.kw else ""
            return f"{self.at_s:>5} s  {self.what} #{self.target}{kw} for {self.lasts_s} s"
        one = self.message
        first, last = ((moment - START).total_seconds() for moment in (one.start, one.end))
        asks = ", ".join(_asked(target) for target in one.targets) or "withdrawn"
        ramps = f"ramps {one.ramp_in_s:g}/{one.ramp_out_s:g} s, rebound {one.rebound_s:g} s"
        kind = "emergency " if one.emergency else ""
        return (
            f"{self.at_s:>5} s  {self.what} {kind}{one.id} v{one.version}: {first:.0f} to {last:.0f} s, {asks}, {ramps}"
        )


@dataclass(frozen=True)
class Script:
    """One case: the world's own draw and everything that happens, in order."""

    seed: int
    case: int
    cooling_s: int
    load_noise: float
    odd_limits: bool
    killed_at_end: bool
    deeds: tuple[Deed, ...] = field(default=())

    @property
    def events(self) -> int:
        """How many different events it has."""
        return len({deed.message.id for deed in self.deeds if deed.message is not None})

    @property
    def end_s(self) -> int:
        """When the last thing has been over for a minute."""
        last = [deed.at_s + deed.lasts_s for deed in self.deeds]
        for deed in self.deeds:
            if (one := deed.message) is not None:
                over = one.end + timedelta(seconds=(one.ramp_out_s or 0.0) + (one.rebound_s or 0.0))
                last.append(round((over - START).total_seconds()))
        return max(last, default=QUIET_S) + 60

    def __str__(self) -> str:
        end = "killed for good" if self.killed_at_end else "stopped in order"
        world = f"cooling {self.cooling_s} s, load noise {self.load_noise:g}, odd limits {self.odd_limits}, {end}"
        return "\n".join([f"seed {self.seed} case {self.case}: {world}", *map(str, self.deeds)])


def script(seed: int, case: int, full_kw: float, events: int, faults: int) -> Script:
    """The script of a case; `full_kw` is what the site draws at most."""
    rng = np.random.default_rng([seed, case])
    cooling_s, noise = int(rng.choice([0, 180])), float(rng.choice([0.0, 0.003]))
    odd, killed = bool(rng.random() < 0.3), bool(rng.random() < 0.3)
    deeds = [deed for number in range(events) for deed in _event(rng, number, full_kw)]
    deeds += [_fault(rng, full_kw) for _ in range(faults)]
    deeds.sort(key=lambda deed: deed.at_s)
    return Script(seed, case, cooling_s, noise, odd, killed, tuple(deeds))


def _event(rng: np.random.Generator, number: int, full_kw: float) -> Iterator[Deed]:
    """All messages about one event: announced in time, late, twice, out of order, changed, withdrawn, or nonsense."""
    announced = QUIET_S + int(rng.integers(0, SPAN_S))
    start = announced + int(rng.integers(-60, 240))
    end = max(announced + 30, start + int(rng.integers(60, 420)))
    first = _message(rng, number, 1, start, end, full_kw)
    roll = rng.random()
    if roll < 0.06:
        yield Deed(announced, "nonsense", message=replace(first, end=first.start - timedelta(seconds=1)))
        return
    if roll < 0.12:  # withdrawn before it is announced
        yield Deed(announced, "withdraw", message=_withdrawal(first))
        yield Deed(announced + int(rng.integers(1, 60)), "announce", message=first)
        return
    change = replace(_message(rng, number, 2, start, end, full_kw), emergency=first.emergency, program=first.program)
    changed = int(rng.integers(announced, end))
    if roll < 0.22:  # the change comes first
        yield Deed(announced, "announce", message=change)
        yield Deed(changed, "announce", message=first)
        return
    yield Deed(announced, "announce", message=first)
    latest = first
    if rng.random() < 0.35:
        yield Deed(changed, "change", message=change)
        latest = change
    if rng.random() < 0.2:
        yield Deed(announced + int(rng.integers(1, 90)), "repeat", message=first)
    if rng.random() < 0.35:
        yield Deed(int(rng.integers(announced + 1, end + 60)), "withdraw", message=_withdrawal(latest))


def _withdrawal(message: EventMessage) -> EventMessage:
    return replace(message, cancelled=True, targets=())


def _message(
    rng: np.random.Generator, number: int, version: int, start_s: int, end_s: int, full_kw: float
) -> EventMessage:
    start, end = START + timedelta(seconds=start_s), START + timedelta(seconds=end_s)
    inner = sorted({int(cut) for cut in rng.integers(start_s + 1, end_s, size=int(rng.integers(0, 3)))})
    cuts = [start, *(START + timedelta(seconds=cut) for cut in inner), end]
    targets = tuple(_target(rng, left, right, full_kw) for left, right in pairwise(cuts))
    emergency = bool(rng.random() < 0.1)
    return EventMessage(
        id=f"e{number}",
        version=version,
        site="lab",
        start=start,
        end=end,
        targets=targets,
        ramp_in_s=float(rng.choice([0, 15, 60, 180])),
        ramp_out_s=float(rng.choice([0, 30, 120])),
        rebound_s=float(rng.choice([0, 60, 300])),
        emergency=emergency,
        program="emergency" if emergency else "grid",
        source="storm",
    )


def _target(rng: np.random.Generator, start: datetime, end: datetime, full_kw: float) -> EventTarget:
    kind = rng.integers(0, 3)
    if kind == 0:
        return EventTarget(start, end, reduce_percent=float(rng.uniform(3.0, 35.0)))
    if kind == 1:
        return EventTarget(start, end, reduce_kw=float(rng.uniform(0.03, 0.25)) * full_kw)
    return EventTarget(start, end, limit_kw=float(rng.uniform(0.55, 1.0)) * full_kw)


def _fault(rng: np.random.Generator, full_kw: float) -> Deed:
    what = str(rng.choice(list(FAULTS)))
    low, high = FAULTS[what]
    lasts_s = int(rng.integers(low, high + 1))
    at_s = int(rng.integers(QUIET_S // 2, QUIET_S + SPAN_S + 200))
    kw = float(rng.uniform(0.6, 1.0)) * full_kw if what == "operator_limit" else 0.0
    return Deed(at_s, what, int(rng.integers(0, 1000)), lasts_s, kw)


def _asked(target: EventTarget) -> str:
    if target.limit_kw is not None:
        return f"at most {target.limit_kw:.2f} kW"
    if target.reduce_kw is not None:
        return f"{target.reduce_kw:.2f} kW less"
    return f"{target.reduce_percent:.1f} % less"
