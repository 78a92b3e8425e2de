"""What is known of cards that draw more than the limit that they enforce."""

from __future__ import annotations

from dataclasses import dataclass, field

from adapters.ports import GpuId


@dataclass
class StuckCards:
    """Cards found over their limits: in how many looks in a row; by pool the last limit, and what is said."""

    times: dict[GpuId, int] = field(default_factory=dict)
    caps_w: dict[str, float] = field(default_factory=dict)
    texts: dict[str, str] = field(default_factory=dict)
