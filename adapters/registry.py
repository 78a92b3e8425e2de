"""Which class stands behind a `type` in the config, found without importing any other.

Why lazy: a site installs and trusts only the integrations that it names; a broken or missing extra of one adapter
must not stop the daemon of somebody who uses another. Third parties add types through installed entry points
(groups `gridpace.signals`, `gridpace.power`, ...), never through paths in the config: a config file is not code.

Every adapter class is made as `Class(config, context)` and carries its config model as `Class.Config`.
"""

from __future__ import annotations

import importlib
from importlib.metadata import EntryPoint, entry_points
from importlib.util import find_spec
from types import ModuleType
from typing import Any

from pydantic import BaseModel

from adapters.context import AdapterContext
from adapters.fields import did_you_mean
from adapters.ports import AdapterError

BUILTIN: dict[str, dict[str, str]] = {
    "signals": {
        "awattar": "adapters.signals.awattar:AwattarSource",
        "constant": "adapters.signals.constant:ConstantSource",
        "csv": "adapters.signals.csvfile:CsvSource",
        "electricity_maps": "adapters.signals.electricitymaps:ElectricityMapsSource",
        "entsoe": "adapters.signals.entsoe:EntsoeSource",
        "gridstatus": "adapters.signals.gridstatus:GridstatusSource",
        "http_json": "adapters.signals.httpjson:HttpJsonSource",
        "octopus": "adapters.signals.octopus:OctopusSource",
        "openadr3": "adapters.signals.openadr3:OpenAdr3Source",
        "profile": "adapters.signals.profile:ProfileSource",
        "simulated": "adapters.signals.simulated:SimulatedSource",
        "tariff": "adapters.signals.tariff:TariffSource",
        "uk_carbon": "adapters.signals.ukcarbon:UkCarbonSource",
        "urdb": "adapters.signals.urdb:UrdbSource",
        "watttime": "adapters.signals.watttime:WatttimeSource",
    },
    "power": {
        "amdsmi": "adapters.power.amdsmi:AmdPower",
        "redfish": "adapters.power.redfish:RedfishPower",
        "zeusd": "adapters.power.zeusd:ZeusdPower",
    },
    "meters": {
        "modbus": "adapters.meters.modbus:ModbusMeter",
        "prometheus": "adapters.meters.prometheus:PrometheusMeter",
    },
    "jobs": {
        "kubernetes": "adapters.jobs.kubernetes:KubernetesJobs",
        "llmd": "adapters.jobs.llmd:LlmdJobs",
        "slurm": "adapters.jobs.slurm:SlurmJobs",
    },
    "dr": {
        "dsxflex": "adapters.dr.dsxflex:DsxFlexSession",
        "openadr3": "adapters.dr.openadr3.feed:OpenAdr3",
        "openadr2": "adapters.dr.openadr2:OpenAdr2Session",
    },
    "devices": {"modbus": "adapters.devices.modbus:ModbusDevice"},
    "latency": {
        "prometheus": "adapters.latency.prometheus:PrometheusLatency",
        "simulated": "adapters.latency.simulated:SimulatedLatency",
        "vllm": "adapters.latency.vllm:VllmLatency",
    },
    "parking": {"command": "adapters.parking.command:CommandParking"},
}
"""kind -> type -> "module:Class" of what ships with Gridpace."""

# Modules that an optional extra brings; named in the error so that the operator knows what to install.
EXTRAS = {
    "paho": "dsxflex",
    "joserfc": "dsxflex",
    "entsoe": "entsoe",
    "gridstatus": "iso",
    "kubernetes": "kubernetes",
    "openleadr": "openadr2",
    "pymodbus": "modbus",
    "redis": "llmd",
    "redfish": "redfish",
    "pyarrow": "parquet",
    "nicegui": "web",
    "nats": "fleet",
    "nkeys": "fleet",
    "cryptography": "fleet",
    "sklearn": "forecast",
}


class UnknownAdapter(AdapterError):
    """The config names a type that neither Gridpace nor an installed package has."""


class MissingExtra(AdapterError):
    """The adapter exists, but a package that it needs is not installed."""


def builtin_types(kind: str) -> tuple[str, ...]:
    """Types of `kind` that ship with Gridpace, sorted."""
    return tuple(sorted(_table(kind)))


def known_types(kind: str) -> tuple[str, ...]:
    """Every type of `kind` that can be named in a config here: built in, or of an installed package. Sorted."""
    return tuple(sorted({*_table(kind), *(point.name for point in _entry_points(kind))}))


def adapter_class(kind: str, type_name: str) -> type[Any]:
    """The class behind `type_name`, imported now.

    Raises UnknownAdapter (with the closest known name) and MissingExtra (with the pip command).
    """
    target = _table(kind).get(type_name)
    if target is not None:
        return _loaded(kind, type_name, EntryPoint(type_name, target, f"gridpace.{kind}"))
    points = [point for point in _entry_points(kind) if point.name == type_name]
    if not points:
        known = known_types(kind)
        hint = did_you_mean(type_name, list(known))
        raise UnknownAdapter(f'"{type_name}" is not a type of {kind}; known: {", ".join(known) or "none"}.{hint}')
    if len({point.value for point in points}) > 1:
        packages = ", ".join(sorted({point.dist.name if point.dist else point.value for point in points}))
        raise UnknownAdapter(f'type "{type_name}" of {kind} is offered by {packages}; keep one of them')
    return _loaded(kind, type_name, points[0])


def config_model(kind: str, type_name: str) -> type[BaseModel]:
    """The config model of one type, built in or third-party; raises as `adapter_class` does."""
    model = getattr(adapter_class(kind, type_name), "Config", None)
    if not (isinstance(model, type) and issubclass(model, BaseModel)):
        raise UnknownAdapter(f'type "{type_name}" of {kind} carries no pydantic model as `Config`')
    return model


def config_models(kind: str) -> dict[str, type[BaseModel]]:
    """Config models of all built-in types of `kind`, in the order of their names (for schema and sample)."""
    return {type_name: config_model(kind, type_name) for type_name in builtin_types(kind)}


def create(kind: str, config: BaseModel, context: AdapterContext) -> Any:
    """Make the adapter that `config.type` names; raises AdapterError when its surroundings are not as it needs."""
    return adapter_class(kind, str(getattr(config, "type", "")))(config, context)


def import_extra(module: str) -> ModuleType:
    """Import a package that only an extra installs; MissingExtra with the pip command when it is absent."""
    try:
        return importlib.import_module(module)
    except ModuleNotFoundError as error:
        raise _missing(error, f"{module} is not installed") from error


def require_extra(module: str) -> None:
    """MissingExtra with the pip command unless `module` is installed; it is looked for and not imported."""
    if find_spec(module) is None:
        raise _missing(ModuleNotFoundError(name=module), f"{module} is not installed")


def _table(kind: str) -> dict[str, str]:
    try:
        return BUILTIN[kind]
    except KeyError:
        raise UnknownAdapter(f'"{kind}" is not a kind of adapter; known: {", ".join(BUILTIN)}') from None


def _entry_points(kind: str) -> tuple[EntryPoint, ...]:
    return tuple(entry_points(group=f"gridpace.{kind}"))


def _loaded(kind: str, type_name: str, point: EntryPoint) -> type[Any]:
    try:
        loaded = point.load()
    except ModuleNotFoundError as error:
        raise _missing(error, f'type "{type_name}" of {kind} needs {error.name}') from error
    except (ImportError, AttributeError) as error:
        raise UnknownAdapter(f'type "{type_name}" of {kind} cannot be loaded from {point.value}: {error}') from error
    if not isinstance(loaded, type):
        raise UnknownAdapter(f'type "{type_name}" of {kind}: {point.value} is not a class')
    return loaded


def _missing(error: ModuleNotFoundError, text: str) -> MissingExtra:
    extra = EXTRAS.get((error.name or "").partition(".")[0])
    return MissingExtra(f"{text}; pip install gridpace[{extra}]" if extra else text)
