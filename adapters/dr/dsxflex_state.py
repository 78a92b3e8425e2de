"""What a DSX Flex agent tells: the power state of its feed, and breaches from the first sample to the last.

Pure: it is given looks at the site and the targets in force, and gives the data of the messages to publish. Ramps are
read from the cap itself, so that whatever moves it (a later version, a withdrawal) is told as what it is.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from datetime import datetime
from typing import Any
from uuid import uuid4

from adapters.dr.desk import SiteView
from adapters.dr.dsxflex_book import FOREVER, Piece
from adapters.dr.dsxflex_config import DsxFlexConfig
from adapters.dr.dsxflex_schema import moment, power

CRITICAL_ABOVE = 0.20
"""Excess over the target from which a breach is critical; the schema's figure."""
MOST_HINTS = 1000
TOLERANCE_KW = 0.5
"""What a site meter does not resolve."""


@dataclass(frozen=True, slots=True)
class Breach:
    """One breach as it was last told."""

    id: str
    detected_at: datetime
    severity: str
    target: Piece


class FeedTeller:
    """Turns looks at the site into power states and breach alerts. Not for several threads."""

    def __init__(self, config: DsxFlexConfig) -> None:
        self._config = config
        self._metadata: dict[str, Any] | None = None
        self._cap_kw, self._ramping, self._down = math.inf, False, True
        self._told_at: datetime | None = None
        self._above_since: datetime | None = None
        self._breach: Breach | None = None

    def again(self) -> None:
        """Let the next look give a power state whatever it sees: somebody missed the last ones."""
        self._told_at = None

    def states(self, view: SiteView, pieces: Iterable[Piece], target_set: bool) -> Iterator[dict[str, Any]]:
        """Data of the power states that are due now: one for each transition, else the heartbeat."""
        pieces = tuple(pieces)
        events = (["target_set"] if target_set else []) + self._transitions(view)
        due = self._told_at is None or abs(view.at - self._told_at) >= self._config.heartbeat
        if not events and due:
            events = ["periodic"]
        for event in events:
            self._told_at = view.at
            yield self._state(view, pieces, event)

    def _transitions(self, view: SiteView) -> list[str]:
        """What happened to the cap since the look before."""
        before_kw, was = self._cap_kw, self._ramping
        self._cap_kw, self._ramping = view.event_kw, view.ramping
        if view.event_kw == before_kw and view.ramping == was:
            return []
        if was and not view.ramping:
            return [f"end_ramp_{self._way}"]
        # A ramp in begins under a new cap; a ramp out, where the target held until now.
        down = before_kw == math.inf or view.event_kw < before_kw
        if was and down == self._down:
            return []
        self._down = down
        started = [f"start_ramp_{self._way}"]
        return started if view.ramping else [*started, f"end_ramp_{self._way}"]

    @property
    def _way(self) -> str:
        return "down" if self._down else "up"

    def _state(self, view: SiteView, pieces: tuple[Piece, ...], event: str) -> dict[str, Any]:
        load_kw = view.import_kw if view.import_kw is not None else view.most_kw
        active = next((piece for piece in pieces if piece.start <= view.at < piece.end), None)
        feed: dict[str, Any] = {
            "metadata": self._metadata_now(view),
            "targets": [_target(piece, view.at) for piece in pieces if piece.end > view.at],
            "calculated_load": power(load_kw),
            "in_flight": view.ramping,
            "event": event,
            "compliant": active is None or active.kw is None or load_kw <= active.kw + TOLERANCE_KW,
        }
        if view.event_start is not None:
            feed["power_event_start_time"] = moment(view.event_start)
        return {"snapshot_time": moment(view.at), "feeds": {self._config.feed: feed}}

    def _metadata_now(self, view: SiteView) -> dict[str, Any]:
        """Figures of the feed, which stand still while an event runs."""
        if self._metadata is None or view.event_kw == math.inf:
            self._metadata = {
                "power_minimum": power(min(view.least_kw, view.most_kw)),
                "power_maximum": power(min(view.most_kw, view.limit_kw)),
                "default_constraint": power(min(view.limit_kw, view.most_kw)),
            }
        return self._metadata

    # ------------------------------------------------------------ breaches
    def alert(self, view: SiteView, pieces: Iterable[Piece]) -> dict[str, Any] | None:
        """Data of the alert that is due now, or None. A lost meter neither begins nor ends a breach."""
        held, load_kw = self._breach, view.import_kw
        target = next((p for p in pieces if p.start <= view.at < p.end and p.kw is not None), None)
        if load_kw is None:
            return None
        # In a ramp the cap of that moment counts: nobody owes the target yet.
        cap_kw = math.inf if target is None or target.kw is None else max(target.kw, view.event_kw)
        over = _over(load_kw, cap_kw)
        if over <= self._config.breach_above:
            self._above_since = None
            self._breach = None
            return self._alert(held, "resolved", view, load_kw) if held is not None else None
        assert target is not None
        self._above_since = self._above_since or view.at
        severity = "critical" if over > CRITICAL_ABOVE else "warning"
        if held is None:
            if view.at - self._above_since < self._config.breach_after:
                return None
            self._breach = Breach(str(uuid4()), self._above_since, severity, target)
            return self._alert(self._breach, "active", view, load_kw)
        if severity == "critical" and held.severity == "warning":
            self._breach = Breach(held.id, held.detected_at, severity, target)
            return self._alert(self._breach, "escalated", view, load_kw)
        return None

    def _alert(self, breach: Breach, status: str, view: SiteView, load_kw: float) -> dict[str, Any]:
        over, target = status != "resolved", breach.target
        found = {"breach_id": breach.id, "detected_at": moment(breach.detected_at)}
        alert: dict[str, Any] = {
            "feed_tag": self._config.feed,
            "status": status,
            "severity": breach.severity,
            "breach": found if over else {**found, "resolved_at": moment(view.at)},
            "target": {"correlation_id": target.correlation, "load_constraint": power(target.kw or 0.0)},
            "measured_load": power(load_kw),
            "infrastructure_actions": list(self._config.actions) if over and breach.severity == "critical" else [],
        }
        return {**alert, "shed_hints": list(_hints(view))[:MOST_HINTS]} if over else alert


def _over(load_kw: float, target_kw: float) -> float:
    """Share by which a load is over its target; what the meter doesn't resolve is nothing."""
    excess_kw = load_kw - target_kw
    if target_kw == math.inf or excess_kw <= TOLERANCE_KW:
        return 0.0
    return excess_kw / target_kw if target_kw > 0 else math.inf


def _target(piece: Piece, now: datetime) -> dict[str, Any]:
    interval = {"start_time": moment(piece.start)}
    return {
        "active": piece.start <= now < piece.end,
        "load_constraint": power(piece.kw or 0.0),
        "interval": interval if piece.end == FOREVER else {**interval, "end_time": moment(piece.end)},
        "strategy": {"best_effort": piece.best_effort},
        "correlation_id": piece.correlation,
    }


def _hints(view: SiteView) -> Iterator[dict[str, Any]]:
    """A cap for each card, the least valuable work first."""
    for priority, shed in enumerate(view.sheds, 1):
        for gpu in shed.gpus:
            yield {
                "resource_id": gpu,
                "resource_type": "gpu",
                "action": "power_cap",
                "priority": priority,
                "target_power": {"value": shed.cap_w, "unit": "watt"},
            }
