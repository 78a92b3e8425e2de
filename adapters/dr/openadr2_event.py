"""An OpenADR 2.0b event as `openleadr` hands it over, read into targets; what can't be followed is refused aloud.

A LOAD_DISPATCH signal counts before SIMPLE. Units and signs are what the event or the config says, never guessed.
Duration 0 is open-ended until cancelled (conformance rule 47). Prices are no orders: an event with nothing else is
declined.
"""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Any

from adapters.dr.openadr2_config import OpenAdr2Config
from adapters.ports import EventRefused

SCALES = {"none": 0.001, None: 0.001, "k": 1.0, "M": 1000.0, "G": 1e6, "m": 1e-6}
"""SI scale of a value in W -> kW."""
UNITS = {"W": 0.001, "kW": 1.0, "MW": 1000.0}
OVER, WITHDRAWN = "completed", "cancelled"
FIRST_YEAR, LAST_YEAR = 1971, 9990
"""Times outside cannot be reckoned with."""
CHANGING = frozenset({"event_status", "created_date_time", "current_value", "vtn_comment"})
"""Fields that differ from poll to poll while the event is the same."""


@dataclass(frozen=True, slots=True)
class Step:
    """One interval: a target (empty: nothing is asked) from `start` to `end` (None: open)."""

    start: datetime
    end: datetime | None
    target: Mapping[str, float]


@dataclass(frozen=True)
class Asked:
    """An event. `start_after` is how late a random start may be; `digest` tells two contents apart."""

    id: str
    modification: int
    status: str
    test: bool
    priority: int | None
    name: str
    steps: tuple[Step, ...]
    start_after: timedelta
    digest: str


def descriptor(event: Mapping[str, Any]) -> tuple[str, int, str]:
    """Id, modification number and status of an event whose rest may be unreadable. Raises EventRefused."""
    try:
        found = event["event_descriptor"]
        event_id = str(found["event_id"])
        event_id.encode()  # what is no text can be no key in the books either
        return event_id, int(found["modification_number"]), str(found["event_status"])
    except (KeyError, TypeError, ValueError, OverflowError) as error:
        raise EventRefused(f"event_descriptor: {error!r}", 422) from None


def read_event(event: Mapping[str, Any], config: OpenAdr2Config) -> Asked:
    """The event. Raises EventRefused naming what can't be followed."""
    event_id, modification, status = descriptor(event)
    try:
        about, period = event["event_descriptor"], event["active_period"]
        signal = _signal(_signals(event))
        after = (period.get("tolerance") or {}).get("tolerate") or {}
        return Asked(
            id=event_id,
            modification=modification,
            status=status,
            test=str(about.get("test_event", "false")).lower() not in {"false", "none", ""},
            priority=max(0, int(about.get("priority") or 0)) or None,  # here 0 says that there is none
            name=str(about.get("market_context") or ""),
            steps=tuple(_steps(signal, period, config)),
            start_after=after.get("startafter") or timedelta(0),
            digest=digest(event),
        )
    except (KeyError, TypeError, ValueError, AttributeError, OverflowError) as error:
        raise EventRefused(f"event {event_id} cannot be read: {error!r}", 422) from None


def digest(event: Mapping[str, Any]) -> str:
    """What an event says, without what changes from poll to poll."""
    text = json.dumps(_steady(event), default=str, sort_keys=True)
    return hashlib.sha256(text.encode()).hexdigest()[:16]


def _steady(value: Any) -> Any:
    if isinstance(value, Mapping):
        return {str(key): _steady(item) for key, item in value.items() if key not in CHANGING}
    if isinstance(value, list | tuple):
        return [_steady(item) for item in value]
    return value


def _signals(event: Mapping[str, Any]) -> Sequence[Mapping[str, Any]]:
    found = event["event_signals"]
    signals: Sequence[Mapping[str, Any]] = found["event_signals"] if isinstance(found, Mapping) else found
    return signals


def _signal(signals: Iterable[Mapping[str, Any]]) -> Mapping[str, Any]:
    """The signal that counts."""
    by_name: dict[str, Mapping[str, Any]] = {signal["signal_name"]: signal for signal in reversed(list(signals))}
    for name in ("LOAD_DISPATCH", "SIMPLE"):
        if name in by_name:
            return by_name[name]
    raise EventRefused(f"only signals that ask nothing here: {', '.join(by_name) or 'none'}", 422)


def _steps(signal: Mapping[str, Any], period: Mapping[str, Any], config: OpenAdr2Config) -> Iterable[Step]:
    """The intervals one after the other; the last may be open, and none reaches past the active period."""
    start = period["dtstart"].astimezone(UTC)
    if not FIRST_YEAR <= start.year <= LAST_YEAR:
        raise EventRefused(f"active_period.dtstart: {start.isoformat()}", 422)
    length = period.get("duration") or timedelta(0)
    end = start + length if length else None
    intervals = signal["intervals"]
    for number, interval in enumerate(intervals):
        lasts = interval.get("duration") or timedelta(0)
        if lasts < timedelta(0) or (not lasts and number < len(intervals) - 1):
            raise EventRefused(f"intervals.{number}.duration: {lasts} before the last interval", 422)
        stop = start + lasts if lasts else end
        stop = min(stop, end) if stop is not None and end is not None else stop
        if stop is not None and stop <= start:
            return
        yield Step(start, stop, _target(signal, float(interval["signal_payload"]), config))
        if stop is None:
            return
        start = stop


def _target(signal: Mapping[str, Any], value: float, config: OpenAdr2Config) -> dict[str, float]:
    """What one payload asks, as the field of an `EventTarget`; empty for nothing."""
    name, kind = signal["signal_name"], signal["signal_type"]
    if not math.isfinite(value):
        raise EventRefused(f"{name}: {value} is no number", 422)
    if name == "SIMPLE":
        return _level(value, config)
    if kind == "setpoint":
        return {"limit_kw": _at_least_0(value * _factor(signal, config), name)}
    if kind == "multiplier":
        return {"reduce_percent": 100 * (1 - _at_least_0(value, name))} if value < 1 else {}
    if kind == "delta":
        if config.delta is None:
            raise EventRefused("LOAD_DISPATCH delta: `delta` does not say which sign means less load", 422)
        reduce_kw = value * _factor(signal, config) * (1 if config.delta == "positive_reduces" else -1)
        return {"reduce_kw": reduce_kw} if reduce_kw > 0 else {}
    raise EventRefused(f"{name} {kind} is not followed here", 422)


def _level(value: float, config: OpenAdr2Config) -> dict[str, float]:
    if value == 0:
        return {}
    for name, level in config.levels.items():
        if float(name) == value:
            return level.model_dump(exclude_none=True)
    raise EventRefused(f"SIMPLE level {value:g} has no meaning in `levels`", 422)


def _factor(signal: Mapping[str, Any], config: OpenAdr2Config) -> float:
    """kW of one unit of a signal."""
    measurement = signal.get("measurement")
    if not measurement:
        if config.dispatch_unit is None:
            raise EventRefused("LOAD_DISPATCH without a unit, and `dispatch_unit` says none", 422)
        return UNITS[config.dispatch_unit]
    unit, scale = measurement.get("unit"), measurement.get("scale")
    if unit != "W" or scale not in SCALES:
        raise EventRefused(f"LOAD_DISPATCH in {scale} {unit} is no power that is understood here", 422)
    return SCALES[scale]


def _at_least_0(value: float, name: str) -> float:
    if value < 0:
        raise EventRefused(f"{name}: {value:g} is below 0", 422)
    return value
