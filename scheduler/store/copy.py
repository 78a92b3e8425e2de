"""A second, small copy of what must survive even a destroyed database: first-found limits, orders, the fencing epoch.

Why a plain file beside the database: a person can read it at 3 a.m., and no fault of SQLite touches it. It is written
after each change (new file, fsync, rename). `generation` counts the changes; the higher one of copy and database knows
more.
"""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from scheduler.store.codec import checksum, json_text

MIRRORED = ("first_limit", "order")
"""Kinds of records that the copy holds."""

Kinds = Mapping[str, Mapping[str, Mapping[str, Any]]]


@dataclass(frozen=True)
class Mirrored:
    """Content of the copy: records by kind and key, the epoch, and how many changes it has seen."""

    generation: int = 0
    epoch: int = 0
    records: Kinds = field(default_factory=dict)


def copy_path(store: Path) -> Path:
    """Where the copy of the database at `store` lies."""
    return store.with_name(store.name + ".copy.json")


class SmallCopy:
    """The copy at `path`."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def save(self, content: Mirrored) -> None:
        """Replace the copy in one step, durably. Raises OSError, leaving the old one."""
        body = json_text({"generation": content.generation, "epoch": content.epoch, "records": content.records})
        draft = self.path.with_name(self.path.name + ".new")
        descriptor = os.open(draft, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)
        with os.fdopen(descriptor, "w", encoding="utf-8") as file:
            file.write(json.dumps({"crc": checksum(body), "body": json.loads(body)}, indent=1))
            file.flush()
            os.fsync(file.fileno())
        draft.replace(self.path)
        sync_folder(self.path.parent)

    def load(self) -> Mirrored | None:
        """The copy's content, or None when there is none that can be trusted."""
        try:
            held = json.loads(self.path.read_text(encoding="utf-8"))
            body = held["body"]
            if checksum(json_text(body)) != held["crc"]:
                return None
            return Mirrored(int(body["generation"]), int(body["epoch"]), body["records"])
        except (OSError, ValueError, KeyError, TypeError):
            return None


def sync_folder(folder: Path) -> None:
    """Make a rename in `folder` durable."""
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
