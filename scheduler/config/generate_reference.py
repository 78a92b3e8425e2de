"""The reference page: a table for each part of the config, from the models' own descriptions."""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Any

from pydantic import BaseModel
from pydantic.fields import FieldInfo
from pydantic_core import PydanticUndefined

from scheduler.config.describe import default_of, is_list, model_of, plain, yaml_value
from scheduler.config.entries import ENTRY_PLACES, shipped_models
from scheduler.config.load import shipped_curves
from scheduler.config.models import Config
from scheduler.coordination.config import CoordinatorConfig
from scheduler.gateway.config import GatewayConfig

HEAD = """\
# Configuration reference

One YAML 1.2 file describes a Gridpace daemon. This page is generated from the models that check it
(`gridpace schema --write`); `config/gridpace.yaml` is the same as a commented sample, and `config/schema.json` is for
editors (`# yaml-language-server: $schema=schema.json`).

- `gridpace check --config FILE` names every problem at once, as `file:line: path: what is wrong`, with exit code 2.
- A length of time has its unit: `90s`, `5m`, `36h`, `2d`. A moment has its offset: `2022-09-06T14:00:00-07:00`.
- A path counts from the folder of the config file; `~` is the home of the user.
- A secret is given by reference: `env:NAME`, `file:/path` or `credential:name` (systemd's `LoadCredential`).
- Money is in `currency`; `per_mwh` prices apply to energy at the site's meter.
- An unknown key is an error, and so is a key that is given twice.
"""

GATEWAY_HEAD = """\
# Reference of the gateway's file

One YAML file describes a batch gateway (`gridpace gateway --config FILE`); [batches.md](batches.md) says how it is
used. This page is generated (`gridpace schema --write`), `config/gateway.yaml` is the same as a commented sample.
Lengths of time, paths and secrets are written as in [the daemon's file](config-reference.md).
"""

COORDINATOR_HEAD = """\
# Reference of the coordinator's file

One YAML file describes a coordinator of several daemons (`gridpace coordinate --config FILE`); [sites.md](sites.md)
says what it does. This page is generated (`gridpace schema --write`), `config/coordinator.yaml` is the same as a
commented sample. Lengths of time, paths and secrets are written as in [the daemon's file](config-reference.md).
"""

KINDS = {
    "signals": ("signals[]", "Signals", "A price, carbon, weather, load or limit signal. Its `type` is one of these."),
    "power": ("power", "Power", "How GPU power is set. Its `type` is one of these."),
    "meters": ("meters[]", "Meters", "How power is measured. The `type` of each is one of these."),
    "jobs": ("jobs.system", "Job systems", "Where deferrable work waits and runs. Its `type` is one of these."),
    "dr": (
        "programs[].channel",
        "Demand-response channels",
        "How a program's messages arrive. Its `type` is one of these.",
    ),
    "devices": (
        "sites[].batteries[].device",
        "Batteries and engines",
        "How a battery or an engine is read and set. Its `type` is one of these.",
    ),
    "parking": (
        "pools[].parking.hook",
        "Parking of GPUs",
        "How idle GPUs are parked and woken. Its `type` is one of these.",
    ),
    "latency": (
        "pools[].latency.source",
        "Latencies",
        "Who tells how long the users of a pool wait. Its `type` is one of these.",
    ),
}


def reference_text() -> str:
    """The page as it is committed."""
    parts = [HEAD, *(_section(path, model) for path, model in _sections(Config, ""))]
    for kind in dict.fromkeys(ENTRY_PLACES.values()):
        path, title, text = KINDS[kind]
        parts.append(
            f"## {title}: `{path}`\n\n{text} An installed package may bring more (entry points `gridpace.{kind}`).\n"
        )
        for type_name, model in shipped_models(kind).items():
            parts.append(_section(f"{path} with type: {type_name}", model))
            parts += [_section(inner, part) for inner, part in _inner(model, path)]
    parts.append(_curves())
    return "\n".join(parts)


def gateway_reference() -> str:
    """The gateway's page as it is committed."""
    return "\n".join([GATEWAY_HEAD, *(_section(path, model) for path, model in _sections(GatewayConfig, ""))])


def coordinator_reference() -> str:
    """The coordinator's page as it is committed."""
    return "\n".join([COORDINATOR_HEAD, *(_section(path, model) for path, model in _sections(CoordinatorConfig, ""))])


def _sections(model: type[BaseModel], path: str) -> Iterator[tuple[str, type[BaseModel]]]:
    yield path, model
    yield from _inner(model, path)


def _inner(model: type[BaseModel], path: str) -> Iterator[tuple[str, type[BaseModel]]]:
    for name, field in model.model_fields.items():
        inner = model_of(field.annotation)
        if inner is not None:
            dots = "." if path else ""
            yield from _sections(inner, f"{path}{dots}{name}{'[]' if is_list(field.annotation) else ''}")


def _section(path: str, model: type[BaseModel]) -> str:
    about = re.sub(r"\s+", " ", (model.__doc__ or "").strip())
    rows = "\n".join(_row(name, field) for name, field in model.model_fields.items())
    title = f"{'###' if path else '##'} {f'`{path}`' if path else 'The file'}"
    return f"{title}\n\n{about}\n\n| key | default | meaning | example |\n|---|---|---|---|\n{rows}\n"


def _row(name: str, field: FieldInfo) -> str:
    example = plain((field.examples or [None])[0])
    shown = f"`{yaml_value(example)}`" if example not in (None, [], {}) else ""
    cells = (f"`{name}`", _default(field), field.description or "", shown)
    return "| " + " | ".join(cell.replace("|", "\\|").replace("\n", " ") for cell in cells) + " |"


def _default(field: FieldInfo) -> str:
    if field.annotation is not None and model_of(field.annotation) and not field.is_required():
        return "none" if default_of(field) in (None, []) else "see below"
    default: Any = default_of(field)
    if default is PydanticUndefined:
        return "**required**"
    return "none" if default in (None, []) else f"`{yaml_value(default)}`"


def _curves() -> str:
    names = "\n".join(f"- `{name}` ({curve.source})" for name, curve in sorted(shipped_curves().items()))
    return (
        "## Shipped power curves\n\nNames for `pools[].curve`, measured by others; sources and licences are in "
        f"`config/data/PROVENANCE.md`.\n\n{names}\n"
    )
