"""A market year in pieces of a week: lived side by side where there are cores, each kept on disk when it is done.

Why: a whole year of quarter-hours is minutes of work, and who was interrupted should not begin again. A piece is taken
from disk only where the code, the prices and the question are the same to the byte.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from functools import partial
from hashlib import sha256
from multiprocessing import get_context
from pathlib import Path

import numpy as np

import benchmarks
import optimizer
from benchmarks.support.ceiling import ceiling_of
from benchmarks.support.controllers import Gridpace, foreseen, knowing_means, planned
from benchmarks.support.controllers_rivals import rivals
from benchmarks.support.expecting import Expecting
from benchmarks.support.market import Days, Market, market, walk
from optimizer.facts import Floats

CASES = {"": False, "_lagged": True}
"""End of a key -> whether an interval's price is known only when it has ended."""
Arrays = dict[str, Floats]
"""Name (and case) -> shares of full power in the piece's days, one after the other; `best`: see `_ceilings`."""


@dataclass(frozen=True)
class Source:
    """Where a market's prices are: files one after the other, day-ahead prices beside them (None: none); `published`:
    they are known from the day before on."""

    name: str
    zone: str
    prices: tuple[Path, ...]
    day_ahead: Path | None
    published: bool

    def load(self) -> Market:
        """Read it."""
        return market(self.name, self.zone, self.prices, self.day_ahead, self.published)


@dataclass(frozen=True)
class Piece:
    """Some `days` of a market; `examples` of them are lived by the planner itself, to tell regret by cause. Blocks of
    `blocks_h` hours: what knowing their means would be worth."""

    source: Source
    days: tuple[tuple[int, int], ...]
    examples: tuple[tuple[int, int], ...]
    blocks_h: tuple[int, ...]
    seed: int


def lived(pieces: Sequence[Piece], processes: int, keep: Path | None) -> Iterator[Arrays]:
    """Every piece, in their order."""
    work = partial(_kept, keep=keep, code=code_digest() if keep else "")
    if processes == 1:
        yield from map(work, pieces)
        return
    with ProcessPoolExecutor(processes, mp_context=get_context("spawn")) as pool:
        yield from pool.map(work, pieces)


def _kept(piece: Piece, keep: Path | None, code: str) -> Arrays:
    """From disk, else lived and kept there."""
    if keep is None:
        return live(piece)
    files = [*piece.source.prices, *([piece.source.day_ahead] if piece.source.day_ahead else [])]
    mark = sha256(repr((code, piece)).encode())
    for file in files:
        mark.update(file.read_bytes())
    place = keep / f"{piece.source.name}-{piece.days[0][0]:06}-{mark.hexdigest()[:16]}.npz"
    if place.exists():
        with np.load(place) as found:
            return {name: found[name] for name in found}
    made = live(piece)
    keep.mkdir(parents=True, exist_ok=True)
    part = place.with_suffix(".part.npz")
    np.savez(part, allow_pickle=False, **made)
    part.rename(place)
    return made


def code_digest() -> str:
    """A digest of everything that decides what is found."""
    mark = sha256()
    for package in (optimizer, benchmarks):
        for file in sorted(Path(str(package.__file__)).parent.rglob("*.py")):
            mark.update(file.read_bytes())
    return mark.hexdigest()


def live(piece: Piece) -> Arrays:
    """The piece in both cases: by the product, by every rival, by the planner itself on the examples."""
    made = piece.source.load()
    expecting = Expecting(made)
    found: dict[str, list[Floats]] = {}

    def add(name: str, run: Floats, days: Days) -> None:
        found.setdefault(name, []).extend(run[first:last] for first, last in days)

    lives = {tail: Gridpace(made, lagged, expecting=expecting) for tail, lagged in CASES.items()}
    others = {tail: rivals(made, lagged, lives[tail].prices) for tail, lagged in CASES.items()}
    for day in piece.days:  # day by day in both cases: it is learned once
        for tail, lagged in CASES.items():
            add(f"gridpace{tail}", walk(made, lives[tail].choose, [day]), [day])
            for rival, choose in others[tail].items():
                add(f"rival {rival}{tail}", walk(made, choose, [day]), [day])
            if not made.published:
                found.setdefault(f"best{tail}", []).append(_ceilings(expecting, day, lagged, piece.seed))
            example = [day] if day in piece.examples else []
            add(f"planned{tail}", planned(lives[tail], example), example)
    for hours in piece.blocks_h:
        add(f"{hours}h", walk(made, knowing_means(made, hours), piece.days), piece.days)
    for name, daemon_grid in (("coarse", True), ("fine", False)):
        add(name, foreseen(made, piece.examples, daemon_grid), piece.examples)
    return {name: np.concatenate([*parts, np.zeros(0)]) for name, parts in found.items()}


def _ceilings(expecting: Expecting, day: tuple[int, int], lagged: bool, seed: int) -> Floats:
    """What the best policy and perfect foresight would save of a day if it came as is believed; 0, 0 where nothing had
    been learned."""
    chain = expecting.chain(*day)
    if chain is None:
        return np.zeros(2)
    ceiling = ceiling_of(chain, lagged, seed + day[0])
    return np.array([ceiling.best, ceiling.perfect])
