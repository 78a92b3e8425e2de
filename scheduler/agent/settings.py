"""What an operator may tune of a node's agent, in seconds and watts."""

from __future__ import annotations

from dataclasses import dataclass, field

from scheduler.capwatch import DriftRules


@dataclass(frozen=True, slots=True)
class AgentSettings:
    """Seconds between ticks and between two tellings of the state to a fleet, watts a second by which each GPU is
    released, seconds that a stop may take to do so, and the seconds that a lease and a trajectory last at most, however
    long they were asked for."""

    tick_s: float = 0.5
    state_s: float = 1.0
    release_w_per_s: float = 10.0
    stop_s: float = 20.0
    longest_lease_s: float = 86400.0
    longest_hold_s: float = 2 * 86400.0
    drift: DriftRules = field(default_factory=DriftRules)
