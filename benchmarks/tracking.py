"""How closely a site's power follows its target, second by second: steps, ramps, regulation, steady and bursty load.

Gridpace's own loops on the job mix of the first field trial and a batch queue behind a meter with a lag between IT and
cooling; cards are not what their curves say. Beside it, on the same hall: one uniform cap that is written once, and a
rule that looks at the meter every 10 s. Then a day with a price about the mark, and one under a limit that binds while
nothing but the weather moves: caps that go up and down without anybody's asking are counted.
"""

from __future__ import annotations

import argparse
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from datetime import datetime, timedelta
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
from numpy.typing import NDArray

from benchmarks.support.course import RAMP, Piece, message, pieces, read_signal
from benchmarks.support.mix import Mix, World, config_text, mix_from, split_data
from benchmarks.support.old_meter import seconds_ago
from benchmarks.support.report import Figures, run, say
from benchmarks.support.track import RULES, START, Rule, full_kw, mark_per_mwh, reversals, world
from benchmarks.support.turns import turns
from optimizer.domain import GridEvent
from optimizer.envelope import INF, event_limit_kw
from scheduler.clock import VirtualClock
from scheduler.config import load_config
from scheduler.planner import InlinePlanner
from scheduler.store.store import Store
from scheduler.wiring import Parts, build

SECOND, SETTLED, WARM = timedelta(seconds=1), timedelta(minutes=1), timedelta(minutes=15)
RISE_S, AFTER_S = 60, 360
"""Seconds in which a rise is compared with the ramp; and for how long after it: what an event put off begins with the
first plan of five minutes that is free of it."""


@dataclass(frozen=True)
class Size:
    """Hours of the event, minutes before it (announced half way) and after its ramp out, hours of the day under a
    standing limit, and how many pools of the mix that day has."""

    hours: float = 3.0
    before_min: float = 20.0
    after_min: float = 40.0
    day_h: float = 24.0
    day_pools: int = 2
    rules: int = len(RULES)

    @property
    def whole_h(self) -> float:
        """Hours from the start to the end of what is watched of an event."""
        return self.hours + (self.before_min + self.after_min) / 60.0 + RAMP / timedelta(hours=1)


FULL = Size()
QUICK = Size(hours=0.15, before_min=6.0, after_min=3.0, day_h=0.5)


@dataclass
class Seen:
    """The meter's counter at every second, and the event as it was agreed."""

    at: list[datetime] = field(default_factory=list)
    import_kwh: list[float] = field(default_factory=list)
    event: GridEvent | None = None


@dataclass(frozen=True)
class Score:
    """Error in per cent of the target (95 % of the seconds of the event are better), points of the baseline delivered
    too much, seconds above the limit once the ramp in is over, the highest second after the release, in points
    above the baseline, and by how many points the site rose more than the event's ramp out allows, in any minute of the
    release or less."""

    p95: float
    over_points: float
    above: int
    worst_points: float
    rebound_points: float
    rise_points: float


PARTS = ("steady", "bursty", "old", "rivals", "day")
KINDS_OF_EVENT = {"steady": "", "bursty": "bursty_", "old": "old_"}
"""By kind of load what its figures begin with; `old`: steady load, seen by meters that tell what was seconds ago."""


@dataclass(frozen=True)
class Watched:
    """A day: its load, its limit as a share of full power, its prices by hour, in turns, as shares of the mark."""

    load: str
    limit: float
    prices: tuple[float, ...] = (0.99, 1.01)


DAYS = {
    "": Watched("steady", 0.8),
    "limited_": Watched("still", 0.67),
    "limited_still_price_": Watched("still", 0.67, (1.0,)),
}
"""By the beginning of their figures' names. The first limit is above what pays at the mark, which is the price's; the
second is below. The third day is the second without what the price does: what turns there too, the weather turns."""


def split_only(argv: list[str]) -> tuple[tuple[str, ...], list[str]]:
    """The parts that `--only` names (`--only=day`, `--only steady`; all without it), and the rest of the command line.
    Raises ValueError for another part."""
    place = next((k for k, word in enumerate(argv) if word.split("=")[0] == "--only"), None)
    if place is None:
        return PARTS, argv
    word, joined = argv[place], "=" in argv[place]
    part = word.partition("=")[2] if joined else "".join(argv[place + 1 : place + 2])
    if part not in PARTS:
        raise ValueError(f"--only {part}: must be one of {', '.join(PARTS)}")
    return (part,), argv[:place] + argv[place + (1 if joined else 2) :]


def split_hours(argv: list[str]) -> tuple[tuple[float, float] | None, list[str]]:
    """The hours of the day under a standing limit that `--hours A-B` names (None: all), and the rest of the command
    line."""
    parser = argparse.ArgumentParser(add_help=False, allow_abbrev=False)
    parser.add_argument("--hours", type=lambda text: tuple(float(edge) for edge in text.split("-", 1)))
    known, rest = parser.parse_known_args(argv)
    if known.hours is not None and (len(known.hours) != 2 or not 0 <= known.hours[0] < known.hours[1] <= 24):
        raise ValueError("--hours: must be two hours of the day, as 0-6")
    return known.hours, rest


def split_event(argv: list[str]) -> tuple[float | None, list[str]]:
    """The hours of the event that `--event H` asks for (None: as usual), and the rest of the command line."""
    parser = argparse.ArgumentParser(add_help=False, allow_abbrev=False)
    parser.add_argument("--event", type=float)
    known, rest = parser.parse_known_args(argv)
    if known.event is not None and not 0 < known.event <= 24:
        raise ValueError("--event: must be the hours of an event, as 0.5")
    return known.event, rest


def measure(
    quick: bool,
    seed: int,
    data: Path | None = None,
    parts: tuple[str, ...] = PARTS,
    hours: tuple[float, float] | None = None,
    event_h: float | None = None,
) -> Figures:
    """The figures of the parts, printed on the way."""
    size, mix, signal = (QUICK if quick else FULL), mix_from(data), read_signal(data)
    size = replace(size, hours=event_h or size.hours)
    stairs = pieces(3600.0 * size.hours, seed, signal)
    say(f"{sum(job.gpus for job in mix.jobs)} GPUs and a queue, {size.hours:g} h; points are per cent of the baseline")
    say(f"{'':<24}error p95   too much   seconds above (worst)   rebound   too steep")
    found = {}
    asked = [(kind, "gridpace") for kind in KINDS_OF_EVENT if kind in parts]
    if "rivals" in parts:
        asked += [(kind, name) for kind in ("steady", "bursty") for name in list(RULES)[: size.rules]]
    for kind, name in asked:
        made = world("steady" if kind == "old" else kind, size.whole_h, data)
        with hall(mix, seed, made, control=name == "gridpace") as (daemon, clock):
            if kind == "old":
                seconds_ago(daemon)
            seen = follow(daemon, clock, size, stairs, RULES.get(name))
        found[kind, name] = told(f"{kind} {name}", judged(seen))
    figures = _figures(found)
    if "day" in parts:
        first, last = hours or (0.0, size.day_h)
        for name, watched in DAYS.items():
            turned, writes = day(mix, seed, size, data, (first, last), watched)
            prices = " and ".join(f"{share:.0%}" for share in watched.prices)
            say(f"hours {first:g} to {last:g}, {watched.load} load under {watched.limit:.0%} of full power, "
                f"prices of {prices} of the mark: caps turned {turned} times, {writes:.1f} orders an hour")  # fmt: skip
            figures |= {f"{name}reversals": turned, f"{name}orders_per_h": writes}
    return figures


@contextmanager
def hall(
    mix: Mix, seed: int, made: World, control: bool = True, begin: datetime = START
) -> Iterator[tuple[Parts, VirtualClock]]:
    """The daemon's parts on that hall; without `control` it only watches, and somebody else may write."""
    clock = VirtualClock(begin)
    with TemporaryDirectory(prefix="gridpace-tracking-") as folder:
        path, text = Path(folder) / "gridpace.yaml", config_text(mix, seed, made)
        path.write_text(text if control else text.replace("mode: control", "mode: observe"), encoding="utf-8")
        parts = build(load_config(path), clock, Store.in_memory(), InlinePlanner(), channels={})
        try:
            yield parts, clock
        finally:
            parts.close()


def follow(parts: Parts, clock: VirtualClock, size: Size, stairs: list[Piece], rule: Rule | None) -> Seen:
    """From before the event to some time after its release; a `rule` writes in Gridpace's place."""
    start = START + timedelta(minutes=size.before_min)
    asked = message(start, stairs)
    end = asked.end + timedelta(seconds=asked.ramp_out_s or 0.0, minutes=size.after_min)
    known = START + timedelta(minutes=size.before_min / 2)
    seen, meter = Seen(), parts.hardware.hall
    assert meter is not None
    for tick in turns(parts, clock, end, [(known, lambda: parts.facade.accept(asked))], plans=rule is None):
        if tick.at >= known and seen.event is None:
            seen.event = next(event for event in parts.ctx.ledger.active(tick.at) if event.id == asked.id)
        if rule is not None:
            rule(parts, seen.event, tick.at, tick.import_kw["lab"])
        seen.at.append(tick.at)
        seen.import_kwh.append(meter.counters().import_kwh["lab"])
    return seen


def judged(seen: Seen) -> Score:
    """What the counters of the site's meter say of every second."""
    event = seen.event
    assert event is not None
    kw = np.diff(np.array(seen.import_kwh)) * 3600.0
    at = seen.at[:-1]
    limit = np.array([event_limit_kw(event, moment + SECOND / 2) for moment in at])  # stairs last whole seconds
    since = np.array([(moment - event.start).total_seconds() for moment in at])
    length = (event.end - event.start).total_seconds()
    inside, held = (since >= 0) & (since < length), (since >= event.ramp_in_s) & (since < length)
    bound = (since >= event.ramp_in_s) & (limit < INF)
    over = (kw - limit)[bound] / event.baseline_kw * 100.0
    after = kw[since >= length + event.ramp_out_s]
    given_back = (since >= length - 1.0) & (since < length + event.ramp_out_s + AFTER_S)
    per_s = (event.baseline_kw - limit[inside][-1]) / max(event.ramp_out_s, 1.0)
    return Score(
        p95=float(np.percentile(np.abs(kw - limit)[inside] / limit[inside] * 100.0, 95)),
        over_points=float((limit - kw)[held].mean() / event.baseline_kw * 100.0),
        above=int((over > 1e-9).sum()),
        worst_points=float(over.max()),
        rebound_points=float((after.max() - event.baseline_kw) / event.baseline_kw * 100.0),
        rise_points=risen_kw(kw[given_back], per_s) / event.baseline_kw * 100.0,
    )


def risen_kw(kw: NDArray[np.float64], per_s: float) -> float:
    """The most by which power rose within a minute beyond `per_s` kW a second; negative where it always rose more
    slowly."""
    spans = range(1, min(RISE_S, len(kw) - 1) + 1)
    return max((float((kw[span:] - kw[:-span]).max()) - per_s * span for span in spans), default=0.0)


def day(
    mix: Mix, seed: int, size: Size, data: Path | None, hours: tuple[float, float], watched: Watched
) -> tuple[int, float]:
    """Turns of all caps, and orders an hour, in these hours of that day. Later hours than the first are begun anew,
    WARM before them."""
    small, mark = replace(mix, jobs=mix.jobs[: size.day_pools]), mark_per_mwh(mix)
    price, kind = [share * mark for share in watched.prices], watched.load
    first, end = (START + timedelta(hours=hour) for hour in hours)
    begin = max(START, first - WARM)
    with hall(small, seed, world(kind, size.day_h, data, price=price)) as (parts, _clock):
        limit_kw = watched.limit * full_kw(parts)
    caps: dict[str, list[int]] = {}
    orders = 0
    made = world(kind, size.day_h, data, limit_kw, price, begin)
    with hall(small, seed, made, begin=begin) as (parts, clock):
        for tick in turns(parts, clock, end):
            if tick.at < max(first, begin + SETTLED):
                continue
            orders += tick.orders
            for pool, cap_w in tick.cap_w.items():
                caps.setdefault(pool, []).append(cap_w)
    return sum(reversals(row) for row in caps.values()), orders / (hours[1] - hours[0])


def told(name: str, score: Score) -> Score:
    """Print a line about a run."""
    say(f"{name:<24}{score.p95:>8.2f} %{score.over_points:>11.2f}{score.above:>10} ({score.worst_points:+.2f})"
        f"{score.rebound_points:>16.2f}{score.rise_points:>11.2f}")  # fmt: skip
    return score


def _figures(found: dict[tuple[str, str], Score]) -> dict[str, Any]:
    rivals: dict[str, Any] = {}
    for (kind, name), score in found.items():
        if name != "gridpace":
            rivals.setdefault(name, {})[kind] = round(score.p95, 3)
    figures: dict[str, Any] = {}
    for kind, before in KINDS_OF_EVENT.items():
        if (kind, "gridpace") in found:
            score = found[kind, "gridpace"]
            figures[f"{kind}_p95"] = score.p95
            figures[f"{before}over_delivery_points"] = score.over_points
            figures[f"{before}samples_above_limit"] = score.above
            figures[f"{before}worst_points"] = score.worst_points
            figures[f"{before}rise_points"] = score.rise_points
    mine = [score.rebound_points for (_, name), score in found.items() if name == "gridpace"]
    if mine:
        figures["rebound_points"] = max(mine)
    return figures | ({"rivals_p95": rivals} if rivals else {})


def main(argv: list[str] | None = None) -> None:
    """Run from the command line; `--data DIR` brings other curves, jobs, prices and another signal, `--only PART` runs
    one part, `--hours A-B` some hours of the day, `--event H` a shorter event."""
    data, rest = split_data(argv)
    parts, rest = split_only(rest)
    hours, rest = split_hours(rest)
    event_h, rest = split_event(rest)
    about = __doc__.splitlines()[0]
    run("tracking", about, lambda quick, seed: measure(quick, seed, data, parts, hours, event_h), rest)


if __name__ == "__main__":
    main()
