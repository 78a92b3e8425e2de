"""The JSON schema of the config, for editors: completion, and errors while typing.

An adapter's entry is any of the types that ship with Gridpace, or one of a third party, whose keys are not judged here.
"""

from __future__ import annotations

import json
from typing import Any

from scheduler.config.entries import ENTRY_PLACES, shipped_models
from scheduler.config.models import Config

DEFINITIONS = "$defs"


def json_schema() -> dict[str, Any]:
    """JSON Schema (2020-12) of a config file."""
    schema = Config.model_json_schema()
    definitions: dict[str, Any] = schema[DEFINITIONS]
    for kind in sorted(set(ENTRY_PLACES.values())):
        refs = []
        for model in shipped_models(kind).values():
            own = model.model_json_schema()
            definitions |= own.pop(DEFINITIONS, {})
            definitions[model.__name__] = own
            refs.append({"$ref": f"#/{DEFINITIONS}/{model.__name__}"})
        definitions[f"entry_{kind}"] = {"anyOf": [*refs, _third_party(list(shipped_models(kind)))]}
    properties = schema["properties"]
    properties["state_dir"].pop("default", None)
    return {
        "$schema": "https://json-schema.org/draft/2020-12/schema",
        **_linked(schema),
        DEFINITIONS: dict(sorted(_linked(definitions).items())),
    }


def schema_text() -> str:
    """The schema as it is committed."""
    return json.dumps(json_schema(), indent=2, ensure_ascii=False) + "\n"


def _third_party(shipped: list[str]) -> dict[str, Any]:
    named = {"type": "string", "not": {"enum": shipped}}
    return {"type": "object", "required": ["type"], "properties": {"type": named}, "title": "a type of another package"}


def _linked(value: Any) -> Any:
    """`{"$entry": kind}` replaced by a reference to the definition of that kind."""
    if isinstance(value, dict):
        rest = {key: _linked(item) for key, item in value.items() if key != "$entry"}
        return rest | ({"$ref": f"#/{DEFINITIONS}/entry_{value['$entry']}"} if "$entry" in value else {})
    return [_linked(item) for item in value] if isinstance(value, list) else value
