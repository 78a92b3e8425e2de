"""What may stand in the agent's `found.json`: what is no limit, no clock or no moment is refused with its place.

Why so strict: what stands there is written to cards. A file that parses and means nothing was no agent's, and who
mends it must know where; until then nothing is changed, on the cards or in the file.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from math import isfinite
from typing import Any

MOST = 1e9
"""No card has a limit (W) or a clock (MHz) nearly as high, nor tells one for "none"."""

Check = Callable[[Any, str], None]


def check_found(document: Mapping[str, Any]) -> None:
    """Check what this agent reads of the file; what it does not know is a newer one's. ValueError with the place."""
    for name, check in _FOUND.items():
        if name in document:
            check(document[name], name)


def _refuse(place: str, wanted: str, value: Any) -> None:
    shown = repr(value)
    raise ValueError(f"{place} must be {wanted}, not {shown if len(shown) <= 60 else f'{shown[:60]}...'}")


def _is_number(value: Any) -> bool:
    try:
        return isinstance(value, int | float) and not isinstance(value, bool) and isfinite(value)
    except OverflowError:  # a whole number beyond all floats
        return False


def _moment(value: Any, place: str) -> None:
    if not _is_number(value):
        _refuse(place, "seconds", value)


def _whole(value: Any, place: str) -> None:
    if not isinstance(value, int) or isinstance(value, bool) or not -1 <= value < 2**63:
        _refuse(place, "a whole number", value)


def _text(value: Any, place: str) -> None:
    if not isinstance(value, str):
        _refuse(place, "text", value)


def _by_gpu(unit: str, *, whole: bool) -> Check:
    """An object GPU -> what has this unit."""

    def check(value: Any, place: str) -> None:
        if not isinstance(value, dict):
            _refuse(place, f"an object GPU -> {unit}", value)
        for gpu, number in value.items():
            if not _is_number(number) or not 0 <= number < MOST or (whole and not isinstance(number, int)):
                _refuse(f"{place}[{gpu!r}]", f"whole {unit}" if whole else unit, number)

    return check


_CAPS = _by_gpu("W", whole=True)


def _steps(value: Any, place: str) -> None:
    if not isinstance(value, list):
        _refuse(place, "a list of [second, caps]", value)
    for index, step in enumerate(value):
        here = f"{place}[{index}]"
        if not isinstance(step, list) or len(step) != 2:
            _refuse(here, "[second, caps]", step)
        _moment(step[0], f"{here}[0]")
        _CAPS(step[1], f"{here}[1]")


def _told(value: Any, place: str) -> None:
    if not isinstance(value, list) or len(value) != 2:
        _refuse(place, "[epoch, number]", value)
    for index, number in enumerate(value):
        _whole(number, f"{place}[{index}]")


_FOUND: dict[str, Check] = {
    "limits_w": _by_gpu("W", whole=False),
    "epoch": _whole,
    "boot": _text,
    "hold_until": _moment,
    "steps": _steps,
    "clocks_mhz": _by_gpu("MHz", whole=True),
    "told": _told,
}
