"""The commented sample config: every key, with what it means, at its default or with an example.

It is a working config: it loads on a machine with nothing but Gridpace on it, simulates its GPUs, and only observes.
What has no default and isn't needed stands there as a comment.
"""

from __future__ import annotations

import textwrap
from typing import Any

from pydantic import BaseModel
from pydantic.fields import FieldInfo
from pydantic_core import PydanticUndefined

from scheduler.config.describe import default_of, is_list, is_required, model_of, plain, yaml_value
from scheduler.config.entries import ENTRY_PLACES, entry_model
from scheduler.config.models import Config
from scheduler.coordination.config import CoordinatorConfig
from scheduler.gateway.config import GatewayConfig

WIDTH = 110
HEAD = """\
# Gridpace: every key, at its default or with an example. This file is generated (`gridpace schema --write`).
# Check a config of your own with `gridpace check --config FILE`; docs/config-reference.md has all keys as tables.
"""

CHOSEN: dict[str, Any] = {
    "mode": "observe",
    "currency": "USD",
    "state_dir": "/var/lib/gridpace",
    "sites": [{"id": "np15", "timezone": "America/Los_Angeles", "price": "energy", "limit_kw": 500}],
    "pools": [
        {
            "id": "chat",
            "site": "np15",
            "gpu_model": "A100-400W",
            "count": 512,
            "work": "interactive",
            "curve": "A100-400W/infer_llama_8b",
            "value_per_gpu_h": 5.0,
            "floor": 0.9,
            "load": "chat_load",
            "gpus": {"model": "*A100*"},
        },
        {
            "id": "tune",
            "site": "np15",
            "gpu_model": "A100-400W",
            "count": 256,
            "work": "batch",
            "curve": "A100-400W/ft_llama_8b_dolly",
            "gpus": {"uuids": ["GPU-8f6d0c5e-0000-0000-0000-000000000000"]},
        },
    ],
    "signals": [
        {
            "id": "energy",
            "type": "tariff",
            "unit": "USD/kWh",
            "timezone": "America/Los_Angeles",
            "country": "US",
            "periods": [
                {"name": "peak", "price": 0.41, "hours": ["16:00-21:00"]},
                {"name": "off_peak", "price": 0.19, "hours": ["21:00-16:00"]},
            ],
        },
        {
            "id": "chat_load",
            "type": "profile",
            "kind": "load",
            "timezone": "America/Los_Angeles",
            "hours": [0.5] * 7 + [0.7, 0.8, 0.9, 0.9, 0.95] + [0.95] * 6 + [0.9, 0.85, 0.8, 0.7, 0.6, 0.5],
        },
    ],
    "power": {"type": "simulated"},
    "meters": [{"type": "simulated"}],
    "jobs": {"system": {"type": "queue"}},
}
"""What the sample says where no default says enough."""


GATEWAY_HEAD = """\
# The batch gateway: every key, at its default or with an example. This file is generated (`gridpace schema --write`).
# Start it with `gridpace gateway --config FILE`; docs/batches.md says how clients use it.
"""

GATEWAY: dict[str, Any] = {
    "state_dir": "/var/lib/gridpace-gateway",
    "token": "credential:gridpace-token",
    "upstreams": [
        {
            "id": "llama",
            "url": "http://127.0.0.1:8000",
            "pool": "tune",
            "models": ["llama-3.1-8b"],
            "tokens_per_gpu_h": 1.2e6,
        }
    ],
    "tenants": [{"name": "research", "key": "credential:research-key"}],
}


COORDINATOR_HEAD = """\
# The coordinator of several daemons: every key, at its default or with an example. This file is generated
# (`gridpace schema --write`). Start it with `gridpace coordinate --config FILE`; docs/sites.md says what it does.
"""

COORDINATOR: dict[str, Any] = {
    "sites": [
        {"name": "texas", "url": "http://texas.example.net:8642", "token": "credential:texas-token"},
        {"name": "california", "url": "http://california.example.net:8642", "token": "credential:california-token"},
    ],
}


def sample_text() -> str:
    """The daemon's sample as it is committed."""
    return _sample(Config, CHOSEN, HEAD)


def gateway_text() -> str:
    """The gateway's sample as it is committed."""
    return _sample(GatewayConfig, GATEWAY, GATEWAY_HEAD)


def coordinator_text() -> str:
    """The coordinator's sample as it is committed."""
    return _sample(CoordinatorConfig, COORDINATOR, COORDINATOR_HEAD)


def _sample(model: type[BaseModel], values: dict[str, Any], head: str) -> str:
    lines = _mapping(model, values, (), explained=True)
    return head + "\n".join(line.rstrip() for line in lines) + "\n"


def _mapping(model: type[BaseModel], values: dict[str, Any], place: tuple[str, ...], explained: bool) -> list[str]:
    """Every key of `model`; keys of `values` and defaults are live, others a comment."""
    lines: list[str] = []
    for name, field in _ordered(model):
        chosen = values.get(name, default_of(field))
        live = chosen is not PydanticUndefined and not _empty(chosen)
        if not live and not explained:
            continue
        if explained:
            lines += ["", *_comment(field.description or "")] if not place else _comment(field.description or "")
        body = _key(name, field, chosen if live else _example(field), (*place, name), explained)
        lines += body if live else [f"# {line}" for line in body]
    return lines


def _empty(value: Any) -> bool:
    """True for what says nothing: such a key stands in a comment, with an example."""
    return value in (None, []) or (isinstance(value, dict) and all(_empty(item) for item in value.values()))


def _ordered(model: type[BaseModel]) -> list[tuple[str, FieldInfo]]:
    """Fields in the order of the model, with `id` and `type` first."""
    fields = list(model.model_fields.items())
    return sorted(fields, key=lambda pair: {"id": 0, "name": 0, "type": 1}.get(pair[0], 2))


def _key(name: str, field: FieldInfo, value: Any, place: tuple[str, ...], explained: bool) -> list[str]:
    inner = model_of(field.annotation)
    kind = _entry_kind(place)
    if isinstance(value, list) and (inner or kind) and value:
        return [f"{name}:", *_items(value, inner, kind, place, explained)]
    if isinstance(value, dict) and (inner or kind):
        return [f"{name}:", *_indented(_mapping(inner or entry_model(kind, value), value, place, explained))]
    return [f"{name}: {yaml_value(plain(value))}"]


def _items(
    values: list[Any], inner: type[BaseModel] | None, kind: str, place: tuple[str, ...], explained: bool
) -> list[str]:
    lines: list[str] = []
    for position, value in enumerate(values):
        model = inner or entry_model(kind, value)
        new = explained and (position == 0 or inner is None)
        lines += _dashed(_mapping(model, value, (*place, "*"), new))
    return lines


def _dashed(lines: list[str]) -> list[str]:
    """The dash before the first key; comments above it stay comments."""
    first = next(index for index, line in enumerate(lines) if not line.startswith("#"))
    before = [f"  {line}" for line in lines[:first]]
    return [*before, f"  - {lines[first]}", *(f"    {line}" for line in lines[first + 1 :])]


def _example(field: FieldInfo) -> Any:
    """What stands in a comment for a key without a value: its example, or for models all of their keys."""
    inner = model_of(field.annotation)
    if inner is None:
        return plain((field.examples or [None])[0])
    whole = {name: _whole(part) for name, part in inner.model_fields.items()}
    if inner.__name__ in ONE_OF:
        whole = {key: value for key, value in whole.items() if key not in ONE_OF[inner.__name__]}
    if not is_list(field.annotation):
        return whole
    first, *rest = (field.examples or [[]])[0] or [{}]
    return [whole | first, *rest]


ONE_OF = {"RecordedEventConfig": ("reduce_kw", "limit_kw"), "GpuSelector": ("uuids", "model"),
          "ReserveConfig": ("price",),
          "GeneratorConfig": ("max_kw", "device", "min_kw", "cost_per_mwh"),
          "CoincidentPeakConfig": ("probability", "system_load")}  # fmt: skip
"""Keys of which only one may be given: these are left out of a whole example."""


def _whole(field: FieldInfo) -> Any:
    inner = model_of(field.annotation)
    if inner is not None:
        return _example(field)
    default = default_of(field)
    usable = not is_required(field) and default not in (None, [], 0, False, "")
    return default if usable else plain((field.examples or [None])[0])


def _entry_kind(place: tuple[str, ...]) -> str:
    """Kind of adapter whose entry stands at `place` (or in the list there); empty for other places."""
    return next((kind for at, kind in ENTRY_PLACES.items() if place in {at, at[:-1] if at[-1] == "*" else at}), "")


def _comment(text: str) -> list[str]:
    return [f"# {line}" for line in textwrap.wrap(text, WIDTH)]


def _indented(lines: list[str]) -> list[str]:
    return [f"  {line}" for line in lines]
