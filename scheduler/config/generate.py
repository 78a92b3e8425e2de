"""What is generated from the models: the JSON schema, the commented sample config and the reference page.

`gridpace schema --write` writes them, and a test compares them with what is committed, so that a key cannot be added,
renamed or given another default without its documentation.
"""

from __future__ import annotations

from pathlib import Path

from scheduler.config.generate_reference import coordinator_reference, gateway_reference, reference_text
from scheduler.config.generate_sample import coordinator_text, gateway_text, sample_text
from scheduler.config.generate_schema import schema_text


def artefacts() -> dict[str, str]:
    """Text of every generated file, by its path below the repository."""
    return {
        "config/schema.json": schema_text(),
        "config/gridpace.yaml": sample_text(),
        "docs/config-reference.md": reference_text(),
        "config/gateway.yaml": gateway_text(),
        "docs/gateway-reference.md": gateway_reference(),
        "config/coordinator.yaml": coordinator_text(),
        "docs/coordinator-reference.md": coordinator_reference(),
    }


def write_artefacts(root: Path) -> list[Path]:
    """Write every generated file below `root`; returns those that changed."""
    changed = []
    for name, text in artefacts().items():
        path = root / name
        if not path.exists() or path.read_text(encoding="utf-8") != text:
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(text, encoding="utf-8")
            changed.append(path)
    return changed
