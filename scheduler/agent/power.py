"""The hardware of an agent that sets something else than this machine's NVIDIA cards, from a file.

Why a file: what stands under `power` in a daemon's config stands here for an agent, checked by the same models, with
secrets by reference. An agent without `--power` loads none of this.
"""

from __future__ import annotations

from pathlib import Path

from pydantic import ValidationError

from adapters.context import AdapterContext
from adapters.ports import AdapterError, PowerActuator
from adapters.registry import create
from scheduler.clock import WallClock
from scheduler.config.builtin import BUILTIN
from scheduler.config.document import read_document
from scheduler.config.entries import EntryError, entry_model
from scheduler.config.errors import ConfigError


def power_from(path: Path) -> PowerActuator:
    """The actuator that the file describes. Raises AdapterError with the file and the key that is wrong."""
    try:
        data = read_document(path).data
        model = entry_model("power", data)
        entry = model.model_validate(data)
    except ConfigError as error:  # not a file, or not YAML
        raise AdapterError(str(error)) from None
    except EntryError as error:
        raise AdapterError(f"{path}: {error.field or 'the file'}: {error}") from None
    except ValidationError as error:
        first = error.errors(include_input=False, include_url=False)[0]
        raise AdapterError(f"{path}: {'.'.join(str(part) for part in first['loc'])}: {first['msg']}") from None
    if data["type"] in BUILTIN["power"]:
        raise AdapterError(
            f"{path}: type: an agent sets {data['type']} without a file, or not at all; leave --power out"
        )
    made: PowerActuator = create("power", entry, AdapterContext(WallClock(), path.absolute().parent))
    return made
