"""What can be limited at one controller, and in which of Redfish's two forms: EnvironmentMetrics, or the older Power.

Property names are those of DMTF's schema bundle DSP8010 (EnvironmentMetrics v1.1 and later with its Control excerpt
`PowerLimitWatts`; Power v1 with `PowerControl[].PowerLimit`). All powers are in W.
"""

from __future__ import annotations

from collections.abc import Mapping
from time import sleep
from typing import Any, Protocol

from adapters.ports import GpuId, GpuInfo
from adapters.power.orders import CardError, Setting, inside
from adapters.power.redfish_view import Rated, View, plain, same
from adapters.redfish import ROOT, Bmc, Body
from adapters.workers import Turn
from optimizer.reasons import Reason

SETTLE_READS, SETTLE_S = 4, 0.1
"""A controller that accepted a limit may show it only after a moment: how often, and how far apart, it is read back."""

DISABLED = "Disabled"


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
        self._seen_on: set[float] = set()

    def info(self, gpu: GpuId) -> GpuInfo:
        """The card now. Raises CardError."""
        view = self._look(self._bmc.get(self.uri))
        low, high = view.range()
        default = high if view.default_w is None else view.default_w
        enforced = high if view.limit_w is None else view.limit_w
        return GpuInfo(gpu, self.model, low, high, default, view.told(), enforced, view.draw_w)

    def bring(self, watts: float, ours: bool, turn: Turn) -> Setting:
        """Bring the card to an order of `ours`, or back to the limit that was found, and read back. Writes only where
        another limit holds. Raises CardError."""
        views: list[View] = []

        def wanted_of(view: View) -> float | None:
            return view.ordered(watts) if ours else view.restored(watts, self._seen_on)

        def decide(body: Body) -> Body | None:
            views.append(self._look(body))
            wanted = wanted_of(views[-1])
            return None if same(views[-1].limit_w, wanted) else self._form.patch(body, wanted)

        self._bmc.change(self.uri, decide, turn)
        found, last = views[0], views[-1]
        wanted = wanted_of(last)
        now = last if same(last.limit_w, wanted) else self._settled(wanted, turn)
        told = [now.off_w if limit is None else limit for limit in (wanted, found.limit_w, now.limit_w)]
        return Setting(told[0] if wanted is None else plain(watts), *told)

    def _look(self, body: Body) -> View:
        view = self._form.view(body)
        if view.limit_w is not None:
            self._seen_on.add(plain(view.limit_w))
        return view

    def _settled(self, wanted: float | None, turn: Turn) -> View:
        view = self._look(self._bmc.get(self.uri))
        for _ in range(SETTLE_READS - 1):
            if same(view.limit_w, wanted):
                break
            turn.check()
            sleep(SETTLE_S)
            view = self._look(self._bmc.get(self.uri))
        return view


class EnvironmentForm:
    """`EnvironmentMetrics.PowerLimitWatts`."""

    def __init__(self, rated: Rated) -> None:
        self._rated = rated
        self._off: dict[str, Any] = {"ControlMode": DISABLED}

    def view(self, body: Body) -> View:
        """See Form."""
        control = _object(body, "PowerLimitWatts")
        own = _own(control.get("AllowableMin"), control.get("AllowableMax"))
        off = control.get("ControlMode") == DISABLED or control.get("SetPoint") is None
        limit = None if off else _number(body, control, "SetPoint")
        default = control.get("DefaultSetPoint")
        draw = _number(body, _object(body, "PowerWatts"), "Reading")
        default = None if default is None else float(default)
        return View(str(body.get("@odata.id")), own, self._rated, default, limit, draw)

    def patch(self, body: Body, limit_w: float | None) -> Body:
        """See Form."""
        control = _object(body, "PowerLimitWatts")
        if "ControlMode" not in control:
            return {"PowerLimitWatts": {"SetPoint": _plain(limit_w)}}
        if limit_w is None:
            return {"PowerLimitWatts": _without_what_is_out_of_range(self._off, control)}
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
        own = _own(None, control.get("PowerCapacityWatts"))
        limit = _object(control, "PowerLimit").get("LimitInWatts")
        draw = _number(body, control, "PowerConsumedWatts")
        limit = None if limit is None else float(limit)
        return View(str(body.get("@odata.id")), own, self._rated, None, limit, draw)

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


def _own(low: float | None, high: float | None) -> Rated:
    return Rated(None if low is None else float(low), None if high is None else float(high))


def _without_what_is_out_of_range(off: Mapping[str, Any], control: Body) -> Body:
    """How to switch a limit off: with the idle set-point that was found, where the controller would still take it."""
    point, own = off.get("SetPoint"), _own(control.get("AllowableMin"), control.get("AllowableMax"))
    fits = point is None or inside(point, own.min_w, own.max_w) == point
    return dict(off) if fits else {name: value for name, value in off.items() if name != "SetPoint"}


def _plain(watts: float | None) -> float | int | None:
    """Whole watts as an integer: the older form knows no others."""
    return int(watts) if watts is not None and watts == int(watts) else watts
