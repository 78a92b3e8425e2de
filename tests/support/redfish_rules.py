"""What DMTF's schemas ask of the resources that the tests' controller serves: properties that must be there, those that
may, of which kind, and those that may be written.

Facts of the schemas in DMTF's DSP8010 (EnvironmentMetrics with its excerpts of Control and Sensor, Power, and the way
to them). Of resources and enumerations only what such a controller may use is listed, so that a property with a
misspelt name is one that nobody knows.
"""

from collections.abc import Iterator

NUMBER, TEXT, LINK = (int, float, type(None)), (str, type(None)), ("@odata.id",)
COMMON = {"@odata.id": str, "@odata.type": str, "@odata.etag": str, "Id": str, "Name": str, "Description": TEXT}
MUST = ("@odata.id", "@odata.type", "Id", "Name")
CONTROL_MODES = ("Automatic", "Override", "Manual", "Disabled", None)
LIMIT_EXCEPTIONS = ("NoAction", "HardPowerOff", "LogEventOnly", "Oem", None)
PROCESSORS = ("CPU", "GPU", "FPGA", "DSP", "Accelerator", "Core", "Thread", "Partition", "OEM", None)
CHASSIS = ("Rack", "Blade", "Enclosure", "StandAlone", "RackMount", "Card", "Cartridge", "Row", "Pod", "Expansion",
           "Sidecar", "Zone", "Sled", "Shelf", "Drawer", "Module", "Component", "Other")  # fmt: skip

CONTROL = {"AllowableMin": NUMBER, "AllowableMax": NUMBER, "ControlMode": CONTROL_MODES, "SetPoint": NUMBER,
           "Reading": NUMBER, "DataSourceUri": TEXT, "DefaultSetPoint": NUMBER,
           "ControlMode@Redfish.AllowableValues": list}  # fmt: skip
SENSOR = {"Reading": NUMBER, "DataSourceUri": TEXT, "ApparentVA": NUMBER, "ReactiveVAR": NUMBER, "PowerFactor": NUMBER,
          "PhaseAngleDegrees": NUMBER}  # fmt: skip
LIMIT = {"LimitInWatts": NUMBER, "LimitException": LIMIT_EXCEPTIONS, "CorrectionInMs": (int, type(None))}
POWER = {"@odata.id": str, "MemberId": str, "Name": TEXT, "PowerConsumedWatts": NUMBER, "PowerCapacityWatts": NUMBER,
         "PowerAllocatedWatts": NUMBER, "PowerLimit": (LIMIT, ())}  # fmt: skip
KINDS = {
    "ServiceRoot": ({"RedfishVersion": str, "Systems": LINK, "Chassis": LINK, "SessionService": LINK,
                     "Links": ({"Sessions": LINK}, ("Sessions",))}, ("Links",)),
    "Session": ({"UserName": TEXT}, ()),
    "ComputerSystem": ({"Processors": LINK}, ()),
    "Processor": ({"ProcessorType": PROCESSORS, "Manufacturer": TEXT, "Model": TEXT, "SerialNumber": TEXT,
                   "EnvironmentMetrics": LINK}, ()),
    "Chassis": ({"ChassisType": CHASSIS, "Manufacturer": TEXT, "Model": TEXT, "Power": LINK,
                 "EnvironmentMetrics": LINK, "Links": ({"ComputerSystems": list}, ())}, ("ChassisType",)),
    "EnvironmentMetrics": ({"PowerWatts": (SENSOR, ()), "PowerLimitWatts": (CONTROL, ())}, ()),
    "Power": ({"PowerControl": [(POWER, ("@odata.id", "MemberId"))]}, ()),
}  # fmt: skip
"""By kind: its own properties (a tuple of types or of the values that an enumeration has; a link; an object with those
of its own that must be there; a list of such), and which of them must be there."""

WRITABLE = {"PowerLimitWatts": {"SetPoint", "ControlMode"},
            "PowerLimit": {"LimitInWatts", "LimitException", "CorrectionInMs"}}  # fmt: skip


def broken(body) -> Iterator[str]:
    """What a resource breaks, with the name of the property."""
    kind = body.get("@odata.type", "").removeprefix("#").split(".")[0]
    if kind.endswith("Collection"):
        yield from _object(body, {**COMMON, "Members": list, "Members@odata.count": int},
                           ("@odata.id", "@odata.type", "Name", "Members", "Members@odata.count"), kind)  # fmt: skip
        if body.get("Members@odata.count") != len(body.get("Members", ())):
            yield f"{kind}: Members@odata.count is not the number of its members"
    elif kind in KINDS:
        own, must = KINDS[kind]
        yield from _object(body, COMMON | own, (*MUST, *must), kind)
    else:
        yield f"{kind or 'a resource without @odata.type'}: nobody knows it"


def unwritable(body) -> list[str]:
    """Properties of a PATCH that may not be written, or that nobody knows."""
    parts = [("PowerLimitWatts", body.get("PowerLimitWatts", {}))]
    parts += [("PowerLimit", part.get("PowerLimit", {})) for part in body.get("PowerControl", ())]
    strange = set(body) - {"PowerLimitWatts", "PowerControl"}
    return sorted(strange | {name for kind, part in parts for name in set(part) - WRITABLE[kind]})


def _object(body, known, must, place) -> Iterator[str]:
    yield from (f"{place}: {name} is missing" for name in must if name not in body)
    for name, value in body.items():
        if name not in known:
            yield f"{place}: nobody knows {name}"
        else:
            yield from _value(value, known[name], f"{place}.{name}")


def _value(value, kind, place) -> Iterator[str]:
    if kind is LINK:
        yield from () if isinstance(value, dict) and set(value) == {"@odata.id"} else (f"{place}: is no link",)
    elif isinstance(kind, list):
        for part in value:
            yield from _object(part, *kind[0], place)
    elif isinstance(kind, tuple) and kind and isinstance(kind[0], dict):
        yield from _object(value, *kind, place)
    elif isinstance(kind, tuple) and not isinstance(kind[0], type):
        yield from () if value in kind else (f"{place}: {value!r} is none of its values",)
    elif not isinstance(value, kind) or isinstance(value, bool):
        yield f"{place}: {value!r} is of another kind"
