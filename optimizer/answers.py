"""What a plan answers beside its orders: to a client that asks for a price, to a job that waits, to a utility.

Why apart from `domain.py`: a rung without a solver has none of it, and its plan is as good to obey.
"""

from __future__ import annotations

from dataclasses import dataclass

from optimizer.reasons import Reason


@dataclass(frozen=True)
class PoolQuote:
    """What work in a pool costs at the margin, per interval, from the plan's duals (`optimizer/quotes.py` has the
    formulas). `more_per_gpu_h`: money for one more GPU-hour of work at full throughput; `less_per_gpu_h`: what one less
    saves; they differ where the plan sits on a kink, and None says that there is no such work. `per_mtok` is the first
    as money for a million tokens (None as well where the pool has no `tokens_per_gpu_h`). `reasons` say why there is no
    price, or POOL_FULL beside a price at which another job gives way (None: power is all that it takes).

    `yield_per_gpu_h`, of batch pools alone: what a GPU-hour of the work that is planned loses, were it taken away: the
    least of what its jobs lose, each of which does it later, late, or never (None: no work)."""

    more_per_gpu_h: tuple[float | None, ...]
    less_per_gpu_h: tuple[float | None, ...]
    per_mtok: tuple[float | None, ...]
    reasons: tuple[Reason | None, ...]
    yield_per_gpu_h: tuple[float | None, ...] = ()


@dataclass(frozen=True, slots=True)
class StartPrice:
    """Why a job waits, in money: doing a GPU-hour of it now costs `extra_per_gpu_h` more than where it is planned (its
    reduced cost; 0: it could as well run now; None: nothing could make it run now). It stays waiting at every energy
    price of the present interval above `never_above_per_mwh`, all else equal; None where something other than the price
    decides. `at_per_mwh` is a price at which it was seen to start, by solving again (None: not looked for, or not
    found)."""

    extra_per_gpu_h: float | None
    never_above_per_mwh: float | None
    at_per_mwh: float | None = None


@dataclass(frozen=True, slots=True)
class EventPlan:
    """Whether the plan takes part in a voluntary event that waits for an answer. Inside the horizon taking part `pays`
    its credit less what is fined, and `costs` what all else then costs more; both None from a rung without a solver,
    `costs` alone where it can't be kept. `short_kw`: what could not be shed of it."""

    take_part: bool
    pays: float | None = None
    costs: float | None = None
    short_kw: float = 0.0
