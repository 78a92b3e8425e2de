"""What is learned of each pool's power curve: fed by the fast loop, put in force by the slow one, kept in the books.

Why in windows: readings of one second share their noise, and one that is nonsense should not count at all; the median
of some seconds is one observation. The slow loop moves the curves in force by small steps, so that neither plan nor
caps jump, and says when one has gone far from where it began.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from datetime import datetime
from statistics import fmean, median

from adapters.ports import Reading
from optimizer.curves import draw_at_cap, throughput_at_cap
from optimizer.domain import GpuPool, PowerCurve
from optimizer.learned_curve import LEARNED, advanced, departure, error_at, in_force, mean_error
from optimizer.learning import Learned, Observation, Prior, begin, learn
from optimizer.reasons import Note, Reason, Severity
from scheduler.pool_limits import PoolLimit
from scheduler.pools import PoolModel, Pools
from scheduler.status import CurveStatus
from scheduler.store.store import Store, StoreDegraded

WINDOW_S = 10.0
"""Seconds of readings that make one observation."""

LOAD_STEP, CAP_STEP = 0.2, 0.05
"""Changes of the busy share, and of the cap over the highest one, after which power must settle first. The fast loop
trims caps by less all the time; a window takes their mean."""

BENT = 0.25
"""Odd cards may bend a window by this part of what is still unknown. They bend all windows the same way, so that a
curve goes where they pull it however many there are."""

NO_LIMIT = "no limit is known that most of its GPUs enforce"

FAR = 0.10
"""Difference between a learned curve and the library's that somebody should know of."""


@dataclass
class _Window:
    """Readings of one pool since `since`; cap and load have been about `cap_w` and `busy` since `steady_since`. `bend`
    is the part by which `odd` cards may have bent them."""

    cap_w: float
    busy: float
    steady_since: datetime
    since: datetime
    caps_w: list[float] = field(default_factory=list)
    draws_w: list[float] = field(default_factory=list)
    shares: list[float] = field(default_factory=list)
    speeds: list[float] = field(default_factory=list)
    bend: float = 0.0
    odd: int = 0

    def observation(self, at: datetime) -> Observation:
        """The window as one observation."""
        return Observation(
            at=at,
            cap_w=fmean(self.caps_w),
            draw_w=median(self.draws_w),
            busy_share=median(self.shares),
            settled_s=(self.since - self.steady_since).total_seconds(),
            throughput=median(self.speeds) if self.speeds else None,
        )


class CurveBook:
    """The learners of all pools. `see` and `turn` may be called from two threads."""

    def __init__(self, pools: Pools, store: Store) -> None:
        self._pools, self._store = pools, store
        self._lock = threading.Lock()
        self._priors = {
            model.pool.id: Prior(model.pool.curve, model.pool.min_cap_w, model.pool.max_cap_w, model.spread)
            for model in pools.configured.values()
        }
        held = store.load_curves()
        self._states = {pool: _resumed(held.get(pool), prior) for pool, prior in self._priors.items()}
        self._saved = dict(self._states)
        self._windows: dict[str, _Window] = {}
        self._mute: dict[str, str] = {}
        for pool in self._learners():
            pools.put_curve(pool, in_force(self._states[pool], self._priors[pool]))

    def _learners(self) -> tuple[str, ...]:
        return tuple(pool for pool, model in self._pools.configured.items() if model.learns)

    # ------------------------------------------------------------ fast loop
    def see(self, model: PoolModel, reading: Reading, limit: PoolLimit | None, busy: float | None) -> None:
        """Take in one reading of a pool of which most GPUs enforce `limit` (None: not known), and of which `busy`
        work."""
        pool = model.pool
        kw = reading.pool_kw.get(pool.id)
        if not model.learns or kw is None or limit is None or not busy or busy <= 0:
            self._windows.pop(pool.id, None)
            self._mute[pool.id] = NO_LIMIT if limit is None else ""
            return
        cap_w = limit.cap_w
        window = self._windows.get(pool.id)
        if window is None or not _steady(window, pool, cap_w, busy):
            self._windows[pool.id] = _Window(cap_w, busy, reading.at, reading.at)
            return
        window.bend, window.odd = max(window.bend, bend(pool, limit, busy)), max(window.odd, len(limit.odd))
        window.caps_w.append(cap_w)
        window.draws_w.append((1000.0 * kw - (pool.count - busy) * pool.curve.idle_w) / busy)
        window.shares.append(busy / pool.count)
        if pool.id in reading.work_gpus:
            window.speeds.append(reading.work_gpus[pool.id] / busy)
        if (reading.at - window.since).total_seconds() >= WINDOW_S:
            with self._lock:
                self._mute[pool.id] = self._bent(pool, limit, window)
                if not self._mute[pool.id]:
                    seen = window.observation(reading.at)
                    self._states[pool.id] = learn(self._states[pool.id], self._priors[pool.id], seen)
            self._windows[pool.id] = _Window(window.cap_w, window.busy, window.steady_since, reading.at)

    def _bent(self, pool: GpuPool, limit: PoolLimit, window: _Window) -> str:
        """Why a window teaches nothing: its odd cards may have bent it by too much of what is unknown. Else empty."""
        if window.bend <= 0.0 or window.bend <= BENT * (error := self.error(pool, limit.cap_w)):
            return ""
        return (
            f"{window.odd:,} of its {limit.count:,} GPUs enforce another limit than {limit.cap_w:.0f} W or don't "
            f"tell, which may bend a sample by {window.bend:.1%}, more than a quarter of the error there, {error:.1%}"
        )

    # ------------------------------------------------------------ slow loop
    def turn(self, now: datetime) -> tuple[Note, ...]:
        """Bring the curves in force nearer to what was seen, keep all in the books, and tell what is unusual."""
        notes = []
        with self._lock:
            for pool in self._learners():
                self._states[pool] = advanced(self._states[pool], self._priors[pool])
                self._pools.put_curve(pool, in_force(self._states[pool], self._priors[pool]))
                notes += _far(pool, self._states[pool], self._priors[pool], now)
            states = dict(self._states)
        if states != self._saved:
            self._saved = states
            try:
                self._store.save_curves(states)
            except StoreDegraded as error:
                notes.append(Note(Reason.STORE_DEGRADED, "curves", str(error), Severity.ALERT, now))
        return tuple(notes)

    # ------------------------------------------------------------ what others ask
    def error(self, pool: GpuPool, cap_w: float) -> float:
        """Standard error (relative) of what a busy GPU of the pool draws under a cap."""
        return error_at(self._states[pool.id], self._priors[pool.id], cap_w)

    def status(self, pool: str) -> CurveStatus:
        """A pool's curve for people and programs."""
        state, prior, model = self._states[pool], self._priors[pool], self._pools[pool]
        learned = model.pool.curve.source == LEARNED
        cap_w, gap = departure(state, prior) if learned else (prior.max_cap_w, 0.0)
        error = mean_error(state, prior)
        start = model.start or prior.library.name
        if learned:
            known = f"{state.samples:,} samples, error {error:.1%}"
            text = f"learned ({known}), {gap:+.0%} at {cap_w:.0f} W against {start}"
        else:
            samples = f", {state.samples:,} samples so far" if model.learns else ", learning is off"
            text = f"measured library ({start}{samples})"
        if model.learns and (why := self._mute.get(pool)):
            text += f"; learns nothing now: {why}"
        kind = "learned" if learned else "library"
        return CurveStatus(prior.library.name, kind, state.samples, state.refused, error, gap, text)


def bend(pool: GpuPool, limit: PoolLimit, busy: float) -> float:
    """Part by which the draw or the work of a busy GPU may be told wrong because of cards at other limits.

    To the safe side: all odd ones count as busy, with the curve in force. A card of which nobody knows the limit may
    draw and do nothing, or what it does at the highest one.
    """

    def off(value: Callable[[PowerCurve, float], float]) -> float:
        true = value(pool.curve, limit.cap_w)
        wrong = 0.0
        for one, cards in limit.spans.items():
            low = value(pool.curve, one.least_w) if one.least_w > 0.0 else 0.0
            high = value(pool.curve, min(one.most_w, max(pool.max_cap_w, one.least_w)))
            wrong += cards * max(abs(low - true), abs(high - true))
        return wrong / true if true > 0.0 else 0.0

    return max(off(draw_at_cap), off(throughput_at_cap)) / busy


def _steady(window: _Window, pool: GpuPool, cap_w: float, busy: float) -> bool:
    same_cap = abs(window.cap_w - cap_w) <= CAP_STEP * pool.max_cap_w
    return same_cap and abs(window.busy - busy) <= LOAD_STEP * pool.count


def _resumed(held: Learned | None, prior: Prior) -> Learned:
    """What a former run learned, if it began as this one does."""
    return held if held is not None and held.key == prior.key else begin(prior)


def _far(pool: str, state: Learned, prior: Prior, now: datetime) -> list[Note]:
    cap_w, gap = departure(state, prior)
    if abs(gap) < FAR:
        return []
    text = (
        f"{pool} draws {abs(gap):.0%} {'more' if gap > 0 else 'less'} at {cap_w:.0f} W than its measured curve "
        f"{prior.library.name} says; learned from {state.samples:,} samples"
    )
    return [Note(Reason.CURVE_DEPARTS, pool, text, Severity.WARNING, now)]


def borrowed(models: Mapping[str, PoolModel]) -> tuple[Note, ...]:
    """Say which pools start from a curve that nobody chose for them."""
    return tuple(
        Note(Reason.CURVE_BORROWED, pool, f"{pool} starts from {model.start}", Severity.INFO)
        for pool, model in models.items()
        if model.start
    )
