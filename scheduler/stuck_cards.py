"""Single cards that draw clearly more than the limit that they enforce, which the mean of a large pool doesn't show.

Why looked for now and then, in what the meter was told anyway: eight cards of a thousand that draw twice their limit
move the mean by a per cent, and to compare each card in every second would be a part of what an idle daemon costs.
"""

from __future__ import annotations

from adapters.ports import CardMeter, GpuId, Reading
from optimizer.curves import draw_at_cap
from optimizer.domain import PowerCurve
from scheduler.engine import Context, State
from scheduler.levers import ABOVE
from scheduler.pool_limits import PoolLimit
from scheduler.stuck import StuckCards

LOOK_TICKS, LOOKS = 5, 4
"""Cards are looked at every so many ticks; one that was found over its limit so many times in a row is told of. A card
whose sensor tells moments, not means, is above its limit by a tenth now and then, but not that often."""

MORE_W = 5.0
"""What a card must draw beside the tenth: a few watts are no news."""

NAMED = 3
"""So many cards are told by name."""

INF = float("inf")


def stuck_cards(ctx: Context, state: State, reading: Reading | None) -> dict[str, str]:
    """By pool: what to tell of its cards. A pool that clocks move has no limit to fall to."""
    if not ctx.dispatcher.writes or not isinstance(ctx.meter, CardMeter):
        state.stuck = StuckCards()
    elif state.ticks % LOOK_TICKS == 0:
        state.stuck = _look(ctx, ctx.meter, state.stuck) if reading is not None else StuckCards()
    return state.stuck.texts


def _look(ctx: Context, meter: CardMeter, before: StuckCards) -> StuckCards:
    """All cards once. A limit that fell since the look before counts from the next one on."""
    draws, found = meter.cards(), StuckCards()
    for pool, gpus in ctx.dispatcher.gpus.items() if draws else ():
        limit = ctx.dispatcher.limit(pool)
        if limit is None or ctx.pools.clocked(pool) is not None:
            continue
        curve, found.caps_w[pool] = ctx.pools.configured[pool].pool.curve, limit.cap_w
        most_w = _most_w(curve, max(limit.cap_w, before.caps_w.get(pool, limit.cap_w)))
        over = [gpu for gpu in gpus if draws.get(gpu, 0.0) > most_w and gpu not in limit.odd]
        odd = {span: _most_w(curve, span.most_w) for span in limit.spans if span.most_w < INF}
        over += [gpu for gpu, span in limit.odd.items() if draws.get(gpu, 0.0) > odd.get(span, INF)]
        found.times |= {gpu: before.times.get(gpu, 0) + 1 for gpu in over}
        told = {gpu: draws[gpu] for gpu in over if found.times[gpu] >= LOOKS}
        if told:
            found.texts[pool] = _text(pool, limit, told)
    return found


def _most_w(curve: PowerCurve, cap_w: float) -> float:
    """Draw of a card from which it is over a limit; more where the curve that the pool began with was measured above
    it."""
    return ABOVE * max(cap_w, draw_at_cap(curve, cap_w)) + MORE_W


def _text(pool: str, limit: PoolLimit, draws_w: dict[GpuId, float]) -> str:
    most = sorted(draws_w, key=draws_w.__getitem__, reverse=True)
    names = ", ".join(f"{gpu} ({draws_w[gpu]:.0f} W)" for gpu in most[:NAMED])
    more = f" and {len(most) - NAMED:,} more" if len(most) > NAMED else ""
    draw = "draw" if len(most) > 1 else "draws"
    return (
        f"{len(most):,} of the {limit.count:,} GPUs of {pool} {draw} more than the limit in force, which is "
        f"{limit.cap_w:.0f} W for most: {names}{more}; it does not move their power, or a sensor is wrong"
    )
