"""What every adapter is given when it is made: the clock, where files are, durable records, the config's currency.

Why one object: adapters come from the registry, third-party ones included, and all are made the same way,
`Class(config, context)`. What an adapter needs beyond its own config it takes from here and from nowhere else, so
that the same adapter runs in the daemon, in a backtest under a virtual clock, and in a test.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from adapters.permit import Permit
from adapters.ports import Clock, RecordStore


@dataclass(frozen=True)
class AdapterContext:
    """Shared surroundings of all adapters.

    `base_dir` is the folder of the config file: relative paths count from it. `records` is None where nothing durable
    is kept (a check, a pure simulation). `currency` is the config's ISO 4217 code. `extras` holds shared objects that
    the wiring makes once (the simulated hall); keys are documented by the adapter that reads them. `permit` is asked
    before each order that changes something outside, where several daemons stand by for each other.
    """

    clock: Clock
    base_dir: Path
    records: RecordStore | None = None
    currency: str = "USD"
    extras: Mapping[str, Any] = field(default_factory=dict)
    permit: Permit = field(default_factory=Permit)

    def path(self, name: str | Path) -> Path:
        """`name` as an absolute path, counted from `base_dir` when it is relative; `~` is the user's home."""
        expanded = Path(name).expanduser()
        return expanded if expanded.is_absolute() else self.base_dir / expanded
