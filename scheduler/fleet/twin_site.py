"""Weather and cooling of simulated nodes: what a site's meter sees beside their cards.

Why by the wall clock: several processes are one site, and a daemon that looks at them lives by it too. Everything else
of a twin comes from its seed.
"""

from __future__ import annotations

import argparse
from dataclasses import dataclass, field
from datetime import datetime
from math import cos, pi

from scheduler.pue import PueModel

WARMEST_H = 15.0
"""Hour of the day (UTC) at which it is warmest."""


@dataclass(frozen=True, slots=True)
class TwinSite:
    """PUE over the outside temperature; the day's mean of that, and by how much it is warmer at its warmest; seconds
    until cooling has followed 95 % of a step (see `hall_cooling`)."""

    pue: PueModel = field(default_factory=PueModel)
    mean_c: float = 20.0
    swing_c: float = 0.0
    cooling_s: float = 0.0

    def outside_c(self, moment: datetime) -> float:
        """The temperature at a moment, on a daily curve."""
        hour = moment.hour + moment.minute / 60.0 + moment.second / 3600.0
        return self.mean_c + self.swing_c * cos((hour - WARMEST_H) * pi / 12.0)

    def pue_at(self, moment: datetime) -> float:
        """PUE at a moment."""
        return self.pue.at(self.outside_c(moment))


def site_options(parser: argparse.ArgumentParser) -> None:
    """What `site_of` reads, and where the meter is."""
    group = parser.add_argument_group("the site", "its meter, which sees the cards and their cooling")
    group.add_argument("--meter-port", type=int, help="serve the site's meter here, over Modbus TCP")
    group.add_argument("--meter-host", default="127.0.0.1", help="address that the meter listens at")
    group.add_argument(
        "--meter-adds", action="append", type=_place, default=[], metavar="HOST:PORT",
        help="the meter of another process of the same site, added to this one (repeatable)",
    )  # fmt: skip
    group.add_argument("--pue", type=float, default=1.2, help="PUE at and below the reference temperature")
    group.add_argument("--pue-per-degree", type=float, default=0.0, help="its rise for each degree above")
    group.add_argument("--pue-reference-c", type=float, default=18.0, help="the reference temperature")
    group.add_argument("--pue-max", type=float, default=2.0, help="it never exceeds this")
    group.add_argument("--temperature-c", type=float, default=20.0, help="outside, the mean of a day")
    group.add_argument("--temperature-swing-c", type=float, default=0.0, help="so much warmer at 15:00 UTC")
    group.add_argument("--cooling-settle-s", type=float, default=300.0, help="until cooling follows 95 %% of a step")


def site_of(options: argparse.Namespace) -> TwinSite:
    """The site that the options describe. ValueError for one that can't be."""
    if not 1.0 <= options.pue <= options.pue_max or options.pue_per_degree < 0 or options.cooling_settle_s < 0:
        raise ValueError("--pue is at least 1 and at most --pue-max; its rise and the cooling's time are not negative")
    if options.meter_adds and options.meter_port is None:
        raise ValueError("--meter-adds needs a meter: --meter-port")
    pue = PueModel(options.pue, options.pue_per_degree, options.pue_reference_c, options.pue_max)
    return TwinSite(pue, options.temperature_c, options.temperature_swing_c, options.cooling_settle_s)


def _place(text: str) -> tuple[str, int]:
    host, colon, port = text.rpartition(":")
    if not colon or not host or not port.isdigit():
        raise argparse.ArgumentTypeError(f"{text!r} is no HOST:PORT")
    return host, int(port)
