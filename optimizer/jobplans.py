"""The plans of thousands of jobs, kept as arrays and cut out one by one when somebody asks.

Why not a dict: a thousand jobs on 76 intervals are 150,000 numbers and reasons. As Python objects they cost more than
the solve (to make, to send from the planner's process, to check); as arrays they cost nothing, and few are looked at.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, fields
from datetime import datetime
from functools import cached_property
from typing import Any

import numpy as np
from numpy.typing import NDArray

from optimizer.answers import StartPrice
from optimizer.domain import JobPlan
from optimizer.reasons import CODE, REASONS

Floats = NDArray[np.float64]
Codes = NDArray[np.int16]
NAMES = np.array(REASONS, dtype=object)


@dataclass(frozen=True, eq=False)
class JobPlans(Mapping[str, JobPlan]):
    """Job id -> its plan. `rates` in GPU equivalents and `codes` (places in REASONS) are [job, interval], the rest
    [job], in the order of `ids`."""

    ids: tuple[str, ...]
    pools: tuple[str, ...]
    rates: Floats
    codes: Codes
    late_gpu_h: Floats
    undone_gpu_h: Floats
    finish: tuple[datetime | None, ...]
    starts: Mapping[str, StartPrice] = field(default_factory=dict)
    """Prices at which waiting jobs would start, by job."""

    @cached_property
    def _place(self) -> dict[str, int]:
        return {name: number for number, name in enumerate(self.ids)}

    def __len__(self) -> int:
        return len(self.ids)

    def __iter__(self) -> Iterator[str]:
        return iter(self.ids)

    def __contains__(self, name: object) -> bool:
        return name in self._place

    def __getitem__(self, name: str) -> JobPlan:
        n = self._place[name]
        rates, reasons = tuple(self.rates[n].tolist()), tuple(NAMES[self.codes[n]].tolist())
        late, undone = float(self.late_gpu_h[n]), float(self.undone_gpu_h[n])
        return JobPlan(rates, self.pools[n], late, undone, self.finish[n], reasons, self.starts.get(name))

    def __reduce__(self) -> tuple[Any, ...]:
        return JobPlans, tuple(getattr(self, item.name) for item in fields(self))

    def chosen(self, ids: Sequence[str]) -> JobPlans:
        """The plans of these jobs, in this order. KeyError when one has none."""
        if tuple(ids) == self.ids:
            return self
        rows = [self._place[name] for name in ids]
        at = np.array(rows, dtype=np.int64)
        return JobPlans(
            tuple(ids),
            tuple(self.pools[n] for n in rows),
            self.rates[at],
            self.codes[at],
            self.late_gpu_h[at],
            self.undone_gpu_h[at],
            tuple(self.finish[n] for n in rows),
            {name: self.starts[name] for name in ids if name in self.starts},
        )


def job_rows(plans: Mapping[str, JobPlan], ids: Sequence[str], count: int) -> JobPlans:
    """The plans of these jobs as arrays, whatever kind of mapping they come in; `count` intervals."""
    if isinstance(plans, JobPlans):
        return plans.chosen(ids)
    orders = [plans[name] for name in ids]
    return JobPlans(
        tuple(ids),
        tuple(item.pool for item in orders),
        np.array([item.work_gpus for item in orders], dtype=np.float64).reshape(len(orders), count),
        np.array([[CODE[reason] for reason in item.reasons] for item in orders], dtype=np.int16).reshape(
            len(orders), count
        ),
        np.array([item.late_gpu_h for item in orders], dtype=np.float64),
        np.array([item.undone_gpu_h for item in orders], dtype=np.float64),
        tuple(item.finish for item in orders),
    )
