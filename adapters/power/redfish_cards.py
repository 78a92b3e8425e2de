"""What can be limited at one controller, and in which of Redfish's two forms: EnvironmentMetrics, or the older Power.

Property names are those of DMTF's schema bundle DSP8010 (EnvironmentMetrics v1.1 and later with its Control excerpt
`PowerLimitWatts`; Power v1 with `PowerControl[].PowerLimit`). All powers are in W.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from time import sleep
from typing import Any, Protocol

from adapters.ports import GpuId, GpuInfo
from adapters.power.orders import SAME_W, CardError, Setting
from adapters.redfish import ROOT, Bmc, Body
from adapters.workers import Turn
from optimizer.reasons import Reason

SETTLE_READS, SETTLE_S = 4, 0.1
"""A controller that accepted a limit may show it only after a moment: how often, and how far apart, it is read back."""

DISABLED = "Disabled"


@dataclass(frozen=True, slots=True)
class Rated:
    """The range that the config names where a controller tells none."""

    min_w: float | None
    max_w: float | None


@dataclass(frozen=True, slots=True)
class View:
    """A card as its controller tells it; `limit_w` is None while the limit is switched off."""

    min_w: float
    max_w: float
    default_w: float
    limit_w: float | None
    draw_w: float

    def told(self, limit_w: float | None) -> float:
        """A limit as a number: one that is switched off lies a watt above the range."""
        return self.max_w + 1.0 if limit_w is None else limit_w

    def allowed(self, ordered_w: float, ours: bool) -> float | None:
        """What an order becomes: inside the range; what is given back above the range is the limit switched off."""
        if not ours and ordered_w > self.max_w:
            return None
        return min(max(ordered_w, self.min_w), self.max_w)


class Form(Protocol):
    """How one kind of resource writes a limit."""

    def view(self, body: Body) -> View:
        """What the resource tells. Raises CardError."""
        ...

    def patch(self, body: Body, limit_w: float | None) -> Body:
        """What to write so that this limit holds (None: no limit)."""
        ...


class Card:
    """One thing whose power can be limited."""

    def __init__(self, bmc: Bmc, uri: str, model: str, form: Form) -> None:
        self.uri, self.model = uri, model
        self._bmc, self._form = bmc, form

    def info(self, gpu: GpuId) -> GpuInfo:
        """The card now. Raises CardError."""
        view = self._form.view(self._bmc.get(self.uri))
        limit, enforced = view.told(view.limit_w), view.limit_w if view.limit_w is not None else view.max_w
        return GpuInfo(gpu, self.model, view.min_w, view.max_w, view.default_w, limit, enforced, view.draw_w)

    def bring(self, ordered_w: float, ours: bool, turn: Turn) -> Setting:
        """Bring the card to a limit, and read back. Writes only where another limit holds. Raises CardError."""
        views: list[View] = []

        def decide(body: Body) -> Body | None:
            view = self._form.view(body)
            views.append(view)
            wanted = view.allowed(ordered_w, ours)
            return None if _same(view.limit_w, wanted) else self._form.patch(body, wanted)

        self._bmc.change(self.uri, decide, turn)
        found, wanted = views[0], views[-1].allowed(ordered_w, ours)
        now = self._settled(wanted, turn) if not _same(views[-1].limit_w, wanted) else views[-1]
        return Setting(ordered_w, found.told(wanted), found.told(found.limit_w), now.told(now.limit_w))

    def _settled(self, wanted: float | None, turn: Turn) -> View:
        view = self._form.view(self._bmc.get(self.uri))
        for _ in range(SETTLE_READS - 1):
            if _same(view.limit_w, wanted):
                break
            turn.check()
            sleep(SETTLE_S)
            view = self._form.view(self._bmc.get(self.uri))
        return view


class EnvironmentForm:
    """`EnvironmentMetrics.PowerLimitWatts`."""

    def __init__(self, rated: Rated) -> None:
        self._rated = rated
        self._off: dict[str, Any] = {"ControlMode": DISABLED}

    def view(self, body: Body) -> View:
        """See Form."""
        control = _object(body, "PowerLimitWatts")
        low, high = _range(body, control.get("AllowableMin"), control.get("AllowableMax"), self._rated)
        off = control.get("ControlMode") == DISABLED or control.get("SetPoint") is None
        limit = None if off else _number(body, control, "SetPoint")
        default = control.get("DefaultSetPoint")
        draw = _number(body, _object(body, "PowerWatts"), "Reading")
        return View(low, high, float(default) if default is not None else high, limit, draw)

    def patch(self, body: Body, limit_w: float | None) -> Body:
        """See Form."""
        control = _object(body, "PowerLimitWatts")
        if "ControlMode" not in control:
            return {"PowerLimitWatts": {"SetPoint": _plain(limit_w)}}
        if limit_w is None:
            return {"PowerLimitWatts": dict(self._off)}
        wanted: dict[str, Any] = {"SetPoint": _plain(limit_w)}
        if control["ControlMode"] == DISABLED:
            self._off = {"ControlMode": DISABLED, "SetPoint": control.get("SetPoint")}  # as it was found
            modes = control.get("ControlMode@Redfish.AllowableValues", ["Automatic"])
            wanted["ControlMode"] = "Automatic" if "Automatic" in modes else "Manual"
        return {"PowerLimitWatts": wanted}


class PowerControlForm:
    """`Power.PowerControl[place].PowerLimit`."""

    def __init__(self, place: int, rated: Rated) -> None:
        self._place, self._rated = place, rated

    def view(self, body: Body) -> View:
        """See Form."""
        control = self._control(body)
        low, high = _range(body, None, control.get("PowerCapacityWatts"), self._rated)
        limit = _object(control, "PowerLimit").get("LimitInWatts")
        draw = _number(body, control, "PowerConsumedWatts")
        return View(low, high, high, None if limit is None else float(limit), draw)

    def patch(self, body: Body, limit_w: float | None) -> Body:
        """See Form. Members of an array that are to stay are written as empty objects."""
        return {"PowerControl": [*({} for _ in range(self._place)), {"PowerLimit": {"LimitInWatts": _plain(limit_w)}}]}

    def _control(self, body: Body) -> Body:
        try:
            return _object({"@odata.id": body.get("@odata.id"), "it": body["PowerControl"][self._place]}, "it")
        except (KeyError, IndexError, TypeError):
            raise CardError(f"{body.get('@odata.id')}: has no PowerControl any more", Reason.GPU_LOST) from None


# ---------------------------------------------------------------- finding them
def cards_of(bmc: Bmc, card: str, rated: Rated, chassis: str | None) -> dict[GpuId, Card]:
    """Every card of one controller by its id, NAME/SYSTEM/PROCESSOR or NAME/CHASSIS. Raises CardError, also when
    nothing there can be limited."""
    found = _gpus(bmc, rated) if card == "gpu" else _servers(bmc, rated, chassis)
    if not found:
        what = (
            "GPU shows a power limit (EnvironmentMetrics.PowerLimitWatts)"
            if card == "gpu"
            else "chassis has a power limit"
        )
        raise CardError(f"Redfish {bmc.name}: no {what}", Reason.GPU_LOST)
    if card == "server" and len(found) > 1:
        text = f"{len(found)} chassis have power limits ({', '.join(found)}); name one as `chassis`"
        raise CardError(f"Redfish {bmc.name}: {text}", Reason.CAP_REFUSED)
    return found


def _gpus(bmc: Bmc, rated: Rated) -> dict[GpuId, Card]:
    found: dict[GpuId, Card] = {}
    for system in bmc.members(f"{ROOT}Systems"):
        if "Processors" not in system:
            continue
        for processor in bmc.members(system["Processors"]["@odata.id"]):
            if processor.get("ProcessorType") != "GPU" or "EnvironmentMetrics" not in processor:
                continue
            uri = processor["EnvironmentMetrics"]["@odata.id"]
            if "PowerLimitWatts" in bmc.get(uri):
                name = f"{bmc.name}/{system['Id']}/{processor['Id']}"
                found[name] = Card(bmc, uri, _model(processor, "GPU"), EnvironmentForm(rated))
    return found


def _servers(bmc: Bmc, rated: Rated, chosen: str | None) -> dict[GpuId, Card]:
    found: dict[GpuId, Card] = {}
    for chassis in bmc.members(f"{ROOT}Chassis"):
        owns_system = bool((chassis.get("Links") or {}).get("ComputerSystems"))
        if chassis["Id"] == chosen if chosen is not None else owns_system:
            card = _limited(bmc, chassis, rated)
            if card is not None:
                found[f"{bmc.name}/{chassis['Id']}"] = card
    return found


def _limited(bmc: Bmc, chassis: Body, rated: Rated) -> Card | None:
    """The newer form where the chassis has it, else the older; None where it has neither."""
    model = _model(chassis, "server")
    if "EnvironmentMetrics" in chassis:
        uri = chassis["EnvironmentMetrics"]["@odata.id"]
        if "SetPoint" in (bmc.get(uri).get("PowerLimitWatts") or {}):
            return Card(bmc, uri, model, EnvironmentForm(rated))
    if "Power" in chassis:
        uri = chassis["Power"]["@odata.id"]
        for place, control in enumerate(bmc.get(uri).get("PowerControl") or ()):
            if "PowerLimit" in control:
                return Card(bmc, uri, model, PowerControlForm(place, rated))
    return None


# ---------------------------------------------------------------- reading what is there
def _model(resource: Body, otherwise: str) -> str:
    return " ".join(str(resource[key]) for key in ("Manufacturer", "Model") if resource.get(key)) or otherwise


def _object(body: Body, key: str) -> Body:
    part = body.get(key)
    if not isinstance(part, Mapping):
        raise CardError(f"{body.get('@odata.id')}: has no {key}", Reason.GPU_LOST)
    return part


def _number(body: Body, part: Body, key: str) -> float:
    value = part.get(key)
    if isinstance(value, bool) or not isinstance(value, int | float):
        raise CardError(f"{body.get('@odata.id')}: {key} is {value!r}, not a number", Reason.GPU_LOST)
    return float(value)


def _range(body: Body, low: float | None, high: float | None, rated: Rated) -> tuple[float, float]:
    """The narrower of what the controller and the config name."""
    lows = [float(value) for value in (low, rated.min_w) if value is not None]
    highs = [float(value) for value in (high, rated.max_w) if value is not None]
    if not lows or not highs or max(lows) > min(highs):
        text = f"{body.get('@odata.id')}: tells no range of limits; set `min_w` and `max_w`"
        raise CardError(text, Reason.CAP_REFUSED)
    return max(lows), min(highs)


def _same(one: float | None, other: float | None) -> bool:
    return one is other or (one is not None and other is not None and abs(one - other) < SAME_W / 1000)


def _plain(watts: float | None) -> float | int | None:
    """Whole watts as an integer: the older form knows no others."""
    return int(watts) if watts is not None and watts == int(watts) else watts
