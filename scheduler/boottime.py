"""Seconds that leases are counted in: of a clock that nobody sets, and that also runs while the machine is suspended.

Why not `time.monotonic`: on Linux it stands still while a machine sleeps or its hypervisor pauses it, and so would a
lease, or the trajectory of an event that is long over.
"""

from __future__ import annotations

import time

_CLOCK = getattr(time, "CLOCK_BOOTTIME", time.CLOCK_MONOTONIC)
"""Only Linux has both; elsewhere the monotonic one is what there is."""


def boottime() -> float:
    """Seconds since some moment, those of suspension among them."""
    return time.clock_gettime(_CLOCK)
