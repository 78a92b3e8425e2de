"""Which measured curve a pool starts from that has none of its own: the nearest one by GPU and by kind of work.

Why scaled: no public table of throughput against cap exists for cards above 400 W. Concave curves of different cards
look much alike when power is counted in shares of the highest cap (compare the A100, V100 and A40 sweeps of the
library), so a foreign card's curve is stretched to the pool's range. It is a start to learn from and nothing better,
which is why it says so and why its error is assumed to be large.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass

from optimizer.domain import CurvePoint, PowerCurve, Work

WORK_WORDS: Mapping[Work, tuple[str, ...]] = {
    Work.INTERACTIVE: ("infer",),
    Work.TRAINING: ("pt_", "train"),
    Work.BATCH: ("ft_", "train", "pt_"),
}
"""How the names of the library's workloads begin, by the kind of work that they are like, nearest first."""

OWN_SPREAD, LIKE_SPREAD, FOREIGN_SPREAD = 0.10, 0.15, 0.25
"""How far a pool's draw may be from its curve (standard deviation, relative): from one that its operator chose, from
the nearest of the same card, from a foreign card's."""


class NoCurve(ValueError):
    """No curve of the library can stand for this card."""


@dataclass(frozen=True)
class Start:
    """The curve that a pool starts from; `text` says what it was taken from ("" for one that the operator named)."""

    curve: PowerCurve
    spread: float = OWN_SPREAD
    text: str = ""


def nearest(library: Mapping[str, PowerCurve], gpu_model: str, work: Work, top_w: float | None = None) -> Start:
    """The library's nearest curve for a card and a kind of work.

    `top_w` is the card's highest limit in W; without it the model's name must end with one ("H100-700W") or be a card
    of the library. Raises NoCurve.
    """
    card = _card(library, gpu_model)
    top_w = top_w or _watts(gpu_model)
    if card is not None:
        name = _like(library, card, work)
        return Start(library[name], LIKE_SPREAD, f"{name}, the nearest curve of a {card}")
    if top_w is None:
        raise NoCurve(f'no measured curve is of a "{gpu_model}"; name a `curve`, or its `max_cap_w` to scale one')
    cards = {name.partition("/")[0] for name in library if "/" in name}
    card = min(sorted(cards), key=lambda one: abs((_watts(one) or 0.0) - top_w))
    name = _like(library, card, work)
    factor = top_w / max(point.cap_w for point in library[name].points)
    text = f"{name}, scaled by {factor:.2f} to {top_w:g} W because no measured curve is of a {gpu_model}"
    return Start(_scaled(library[name], factor), FOREIGN_SPREAD, text)


def _card(library: Mapping[str, PowerCurve], gpu_model: str) -> str | None:
    """The card of the library whose family ("A100") stands in the model's name; of two the one with its watts."""
    words = re.split(r"[^A-Z0-9]+", gpu_model.upper())
    cards = sorted({name.partition("/")[0] for name in library if "/" in name})
    same = [card for card in cards if card.partition("-")[0].upper() in words]
    return min(same, key=lambda card: (abs((_watts(gpu_model) or 0.0) - (_watts(card) or 0.0)), card), default=None)


def _watts(model: str) -> float | None:
    found = re.search(r"-(\d{2,4})W$", model)
    return float(found.group(1)) if found else None


def _like(library: Mapping[str, PowerCurve], card: str, work: Work) -> str:
    """A curve of the card whose workload is most like `work`; of several the one with the most points, then by name."""
    words = WORK_WORDS[work]

    def rank(name: str) -> tuple[int, int, str]:
        workload = name.partition("/")[2]
        place = next((at for at, word in enumerate(words) if workload.startswith(word)), len(words))
        return place, -len(library[name].points), name

    return min((name for name in library if name.partition("/")[0] == card), key=rank)


def _scaled(curve: PowerCurve, factor: float) -> PowerCurve:
    points = tuple(CurvePoint(p.cap_w * factor, p.draw_w * factor, p.throughput) for p in curve.points)
    return PowerCurve(f"{curve.name} x {factor:.2f}", curve.idle_w * factor, points, curve.source)
