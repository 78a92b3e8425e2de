"""From a file to a checked `Config`, or to all of its problems at once.

Order: parse, check each adapter's entry with its own model, check references, check the models, then judge the whole.
Problems of one step never hide those of another, as far as the file can still be read.
"""

from __future__ import annotations

from functools import lru_cache
from pathlib import Path
from typing import Any

from pydantic import BaseModel, ValidationError

from optimizer.curves import parse_curves
from optimizer.domain import CurvePoint, PowerCurve
from scheduler.config.checks import NVML_POWER, SIMULATED, check_secrets, check_whole, warnings
from scheduler.config.document import Document, Place, read_document
from scheduler.config.entries import ENTRY_PLACES, Broken, EntryError, entry_model
from scheduler.config.models import Config
from scheduler.config.references import check_references, places
from scheduler.config.translate import note_errors
from scheduler.shipped import shipped

CURVES_FILE = "data/power_cap_curves.csv"


def load_config(path: Path | str, *, need_secrets: bool = False, data_dir: Path | None = None) -> Config:
    """The config in `path`; raises ConfigError with every problem.

    `need_secrets`: a secret that cannot be read now is a problem. `data_dir`: files with a relative path are looked for
    in this folder first (by their path, then by their name), for backtests on data that is not shipped.
    """
    document = read_document(Path(path))
    _default_meters(document)
    raw = _with_entries(document, data_dir)
    check_references(document, shipped_curves())
    try:
        config = Config.model_validate(raw, context={"base_dir": document.base_dir})
    except ValidationError as error:
        note_errors(document, error, Config)
        document.raise_if_wrong()
        raise
    document.raise_if_wrong()
    config._document = document
    check_whole(document, config, curves_of(config))
    if need_secrets:
        check_secrets(document, config)
    document.raise_if_wrong()
    config._warnings = warnings(document, config)
    return config


def _default_meters(document: Document) -> None:
    """Real GPUs are measured by their own sensors unless the config says otherwise."""
    power = document.data.get("power")
    kind = power.get("type") if isinstance(power, dict) else None
    if "meters" not in document.data and isinstance(kind, str) and kind != SIMULATED:
        document.data["meters"] = [{"type": "nvml" if kind in NVML_POWER else "gpus"}]


@lru_cache(maxsize=1)
def shipped_curves() -> dict[str, PowerCurve]:
    """The measured power curves that ship with Gridpace, by name."""
    path = shipped(CURVES_FILE)
    return parse_curves(path.read_text(encoding="utf-8"), place=str(path))


def curves_of(config: Config) -> dict[str, PowerCurve]:
    """Every curve that a pool of this config may name: the shipped ones and the config's own, which win."""
    own = {
        curve.id: PowerCurve(
            curve.id,
            curve.idle_w,
            tuple(CurvePoint(point.cap_w, point.draw_w, point.throughput) for point in curve.points),
            curve.source,
        )
        for curve in config.curves
    }
    return shipped_curves() | own


def _with_entries(document: Document, data_dir: Path | None) -> dict[str, Any]:
    """The raw values with each adapter's entry replaced by its checked model (or by a stand-in when it is wrong)."""
    made: dict[Place, BaseModel] = {}
    for pattern, kind in ENTRY_PLACES.items():
        for place, value in places(document, ".".join(pattern)):
            made[place] = _entry(document, place, kind, value, data_dir)
    data = _replaced(document.data, (), made)
    return data if isinstance(data, dict) else {}


def _entry(document: Document, place: Place, kind: str, value: Any, data_dir: Path | None) -> BaseModel:
    model: type[BaseModel] = Broken
    try:
        model = entry_model(kind, value)
        if "path" in model.model_fields and isinstance(value.get("path"), str):
            value = value | {"path": _existing(document, (*place, "path"), value["path"], data_dir)}
        return model.model_validate(value, context={"base_dir": document.base_dir})
    except EntryError as error:
        text, _, hint = str(error).partition(" Did you mean ")
        document.report((*place, error.field) if error.field else place, text, f"Did you mean {hint}" if hint else "")
    except ValidationError as error:
        note_errors(document, error, model, place)
    return Broken()


def _existing(document: Document, place: Place, name: str, data_dir: Path | None) -> str:
    """Absolute path of the file `name`; a problem when there is none."""
    path = Path(name).expanduser()
    candidates = [document.base_dir / path]
    if data_dir is not None and not path.is_absolute():
        folder = data_dir.resolve()
        candidates = [folder / path, folder / path.name, *sorted(folder.glob(f"*/{path.name}")), *candidates]
    found = next((candidate for candidate in candidates if candidate.is_file()), None)
    if found is None:
        where = f" nor below {data_dir}" if data_dir is not None else ""
        document.report(place, f'there is no file "{name}" in {document.base_dir}{where}')
    return str(found or candidates[-1])


def _replaced(value: Any, place: Place, made: dict[Place, BaseModel]) -> Any:
    if place in made:
        return made[place]
    if isinstance(value, dict):
        return {key: _replaced(item, (*place, key), made) for key, item in value.items()}
    if isinstance(value, list):
        return [_replaced(item, (*place, index), made) for index, item in enumerate(value)]
    return value
