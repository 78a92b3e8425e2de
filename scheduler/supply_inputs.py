"""Batteries and generators as the problem has them: those that answer, with what is in them and what the sky gives."""

from __future__ import annotations

from datetime import datetime
from zoneinfo import ZoneInfo

from optimizer.assets import Battery, Generator, ReserveOffer
from optimizer.forecast import Outlook, forecast_on_grid
from optimizer.reasons import Note, Reason, Severity
from optimizer.timegrid import TimeGrid
from scheduler.collect import Snapshot
from scheduler.engine import SiteModel, State

Notes = tuple[Note, ...]


def batteries_now(state: State, model: SiteModel, price: tuple[float, ...] | None) -> tuple[Battery, ...]:
    """The site's batteries that answer, with what is in them."""
    mean = sum(price) / len(price) if price else 0.0
    found = []
    for battery in model.batteries:
        known = state.devices.get(battery.id)
        if known is not None and known.reading is not None and known.reading.stored_kwh is not None:
            found.append(battery.on(known.reading.stored_kwh, mean))
    return tuple(found)


def generators_now(
    state: State, seen: Snapshot, model: SiteModel, grid: TimeGrid, now: datetime
) -> tuple[tuple[Generator, ...], Notes]:
    """The site's must-take output by its signal (nothing, with an alert, where it is unknown) and its engines that
    answer."""
    found: list[Generator] = []
    notes: Notes = ()
    for unit in model.generators:
        if unit.output is None:
            known = state.devices.get(unit.id)
            if known is not None and known.reading is not None:
                found.append(unit.on(grid, None, -known.reading.kw))
            continue
        try:
            values, said = forecast_on_grid(
                seen.series(unit.output), grid, Outlook(zone=ZoneInfo(model.timezone), low=0.0)
            )
        except ValueError:
            text = f"{unit.id}: its output is not known; the plan counts on none"
            notes += (Note(Reason.SIGNAL_LOST, unit.id, text, Severity.ALERT, now),)
            continue
        notes += said
        found.append(unit.on(grid, tuple(max(0.0, value) for value in values)))
    return tuple(found), notes


def reserves_now(
    seen: Snapshot, model: SiteModel, grid: TimeGrid, now: datetime
) -> tuple[tuple[ReserveOffer, ...], Notes]:
    """The site's reserve offers; one whose price is unknown is not made, with an alert."""
    found: list[ReserveOffer] = []
    notes: Notes = ()
    for offer in model.reserves:
        try:
            values, said = (
                (None, ())
                if offer.price is None
                else forecast_on_grid(seen.series(offer.price), grid, Outlook(zone=ZoneInfo(model.timezone)))
            )
        except ValueError:
            text = f"{offer.id}: the price of this reserve is not known; none is offered"
            notes += (Note(Reason.SIGNAL_LOST, offer.id, text, Severity.ALERT, now),)
            continue
        notes += said
        found.append(offer.on(grid, values))
    return tuple(found), notes
