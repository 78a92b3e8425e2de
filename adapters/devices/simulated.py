"""Twins of what stands at a site's meter beside the GPUs: batteries and engines with a set-point, and solar panels.

A set-point holds as long as its lease; then the device goes to 0 by itself, as a real one does whose controller has
gone silent. What may not leave the site is given only as far as the site takes it. Powers are in kW at the meter,
positive where the device draws.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from datetime import datetime, timedelta

from adapters.ports import AdapterError, Clock, DeviceReading, Lease

HOUR_S = 3600.0


@dataclass(frozen=True)
class DeviceSpec:
    """What a device can: most power drawn and given in kW, kWh that it can hold (0: an engine), efficiencies."""

    site: str
    draw_kw: float = 0.0
    give_kw: float = 0.0
    min_kwh: float = 0.0
    max_kwh: float = 0.0
    charge_efficiency: float = 1.0
    discharge_efficiency: float = 1.0
    may_export: bool = False


class SimulatedDevice:
    """`SetpointDevice`: a battery (with `max_kwh`) or an engine. `lost` makes it silent, as a cut cable does."""

    def __init__(self, spec: DeviceSpec, clock: Clock, stored_kwh: float = 0.0) -> None:
        self.site, self.spec, self.clock = spec.site, spec, clock
        self.stored_kwh, self.setpoint_kw, self.kw = stored_kwh, 0.0, 0.0
        self.drawn_kwh = self.given_kwh = 0.0
        self.lost = False
        self.refresh: Callable[[], None] = lambda: None
        """Brings the world to the clock's present before anybody looks."""
        self._until = clock.now()

    def read(self) -> DeviceReading:
        """Power, energy and set-point now. Raises AdapterError while it is silent."""
        if self.lost:
            raise AdapterError(f"simulated device of {self.site}: no answer")
        self.refresh()
        return DeviceReading(self.clock.now(), self.kw, self.stored_kwh, self._in_force(self.clock.now()))

    def apply(self, kw: float, lease: Lease) -> DeviceReading:
        """Take a set-point, inside what the device can."""
        self.read()
        self.setpoint_kw = min(self.spec.draw_kw, max(-self.spec.give_kw, kw))
        self._until = self.clock.now() + timedelta(seconds=lease.expires_in_s)
        return self.read()

    def release(self) -> DeviceReading:
        """Go to 0."""
        return self.apply(0.0, Lease(0, 0, 0.0))

    def _in_force(self, moment: datetime) -> float:
        return self.setpoint_kw if moment < self._until else 0.0

    def run(self, start: datetime, seconds: float, site_kw: float) -> float:
        """Mean kW that it adds to a site that draws `site_kw` without it; energy moves along."""
        held_s = min(seconds, max(0.0, (self._until - start).total_seconds()))
        hours, kw = held_s / HOUR_S, self._in_force(start)
        if kw < 0 and not self.spec.may_export:
            kw = -min(-kw, max(0.0, site_kw))
        if self.spec.max_kwh > 0 and hours > 0:
            into, out = self.spec.charge_efficiency, self.spec.discharge_efficiency
            most = max(0.0, self.spec.max_kwh - self.stored_kwh) / (into * hours)
            least = max(0.0, self.stored_kwh - self.spec.min_kwh) * out / hours
            kw = min(max(kw, -least), most)
            self.stored_kwh += hours * (into * max(0.0, kw) + min(0.0, kw) / out)
        self.drawn_kwh += max(0.0, kw) * hours
        self.given_kwh -= min(0.0, kw) * hours
        self.kw = kw if held_s > 0 else 0.0
        return kw * held_s / seconds if seconds > 0 else kw


class SimulatedPanels:
    """Must-take generation: what a signal says, taken as far as the site can or the grid may have it."""

    def __init__(self, site: str, output_kw: Callable[[datetime], float], may_export: bool) -> None:
        self.site, self.kw, self.given_kwh = site, 0.0, 0.0
        self._output_kw, self._may_export = output_kw, may_export

    def run(self, start: datetime, seconds: float, site_kw: float) -> float:
        """Mean kW that it adds (negative) to a site that draws `site_kw` without it."""
        output = max(0.0, self._output_kw(start))
        given = output if self._may_export else min(output, max(0.0, site_kw))
        self.given_kwh += given * seconds / HOUR_S
        self.kw = -given
        return -given
