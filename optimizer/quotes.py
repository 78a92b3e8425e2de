"""What a kW and a token are worth: the plan's duals, read as prices.

Why from one-sided derivatives: a plan often sits on a kink (a pool exactly full, a job that ends with its interval),
where the dual is any number of a range. What one unit more costs and what one unit less saves are both well defined;
each is the best of the pool's own ways to make it, at the duals of everything else. What the model counts for the wait
of the work that is asked for is no money, and not in its price.

Notation: the model minimises money; y are duals of rows (money per unit of the right side), r reduced costs of columns,
h the hours of the interval, and, per kW of draw, k = PUE * y_balance - y_change[t] + y_change[t+1].
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from optimizer.answers import PoolQuote
from optimizer.facts import Facts, Floats
from optimizer.highs import Answer
from optimizer.model.arrays import Arrays
from optimizer.model.parts import Columns, Flags, Ints
from optimizer.model.pools import slopes
from optimizer.poolfacts import PoolFacts, stacked
from optimizer.reasons import CODE, REASONS, Reason

INF = float("inf")
TOL = 1e-7
NONE = -1
REASON = np.array([*REASONS, None], dtype=object)
"""By place in REASONS; the last one, at -1, is none."""


@dataclass(frozen=True, eq=False)
class Prices:
    """Money per GPU-hour of work [pool, interval]: `more` for one more (inf: no way), `less` for one less (-inf: there
    is none), which are the best of these:

    `fill` one more by power alone, on GPUs that jobs of the plan may use, at `fill_kw` kW of draw for a GPU equivalent;
    `given` one more in the place of another job's work, `yields` the same even where a limit forbids more; `spent` one
    less by power alone; `heir` the job that would best fill the gap of one less (-1: none), `heir_saves` what that
    saves, `next_saves` what it saves with any other job.
    `why` says what forbids more, or that another job has to give way for it (a place in REASONS, -1: neither)."""

    more: Floats
    less: Floats
    fill: Floats
    fill_kw: Floats
    given: Floats
    yields: Floats
    spent: Floats
    heir: Ints
    heir_saves: Floats
    next_saves: Floats
    why: Ints


def _unknown(shape: tuple[int, int]) -> Prices:
    """Prices before any way is known."""
    high = [np.full(shape, INF) for _ in range(4)]
    low = [np.full(shape, -INF) for _ in range(4)]
    heir, why = (np.full(shape, NONE, dtype=np.int64) for _ in range(2))
    return Prices(high[0], low[0], high[1], np.zeros(shape), high[2], high[3], low[1], heir, low[2], low[3], why)


def marginal_per_mwh(facts: Facts, arrays: Arrays, answer: Answer) -> Floats:
    """Money per MWh of import [site, interval]: 1000 * y_balance / h, the change of the objective with a load that
    nothing can shed. Above the price of energy where a limit, an event, a peak or a ramp makes power scarce."""
    dual = arrays.of_rows("balance", answer.duals).reshape(facts.other_kw.shape)
    found: Floats = dual / facts.hours * 1000.0
    return found


def prices_of(facts: Facts, arrays: Arrays, answer: Answer, homes: Ints) -> Prices:
    """Prices of work of every pool and interval.

    Batch pools, with p = -y_work / h: one more unit costs the least of k/(h*slope) over the segments with room (at full
    speed where k < 0), p - r/h over the jobs whose work it could displace, and, where the pool has GPUs that no job of
    the plan can use, k/(h*slope) at the knee of the curve; one less saves the most of the same over segments in use and
    jobs with room. Other pools: see `_served`.
    """
    prices = _unknown((len(facts.pools), facts.count))
    per_kw = _cost_of_draw(facts, arrays, answer)
    _batch_segments(facts, arrays, answer, per_kw, prices)
    _displaced(facts, arrays, answer, homes, prices)
    prices.yields[:] = prices.given
    np.minimum(prices.fill, prices.given, out=prices.more)
    np.maximum(prices.spent, prices.heir_saves, out=prices.less)
    prices.why[prices.given < prices.fill] = CODE[Reason.POOL_FULL]
    for pool in facts.pools:
        if pool.batch:
            _spare_gpus(facts, pool, per_kw[pool.index], prices)
    _served(facts, arrays, answer, prices)
    _forbidden(facts, arrays, answer, prices)
    return prices


def quotes_of(facts: Facts, prices: Prices) -> dict[str, PoolQuote]:
    """The prices as the plan carries them."""
    tokens = np.array([pool.pool.tokens_per_gpu_h for pool in facts.pools], dtype=np.float64)[:, None]
    known = prices.more < INF
    million = np.where(known, prices.more, 0.0) / np.where(tokens > 0, tokens, 1.0) * 1e6
    why = REASON[np.where(known | (prices.why != NONE), prices.why, CODE[Reason.POOL_FULL])].tolist()
    more, less = _where(known, prices.more), _where(prices.less > -INF, prices.less)
    per_mtok, yields = _where(known & (tokens > 0), million), _where(prices.yields < INF, prices.yields)
    rows = zip(facts.pools, more, less, per_mtok, why, yields, strict=True)
    return {
        pool.pool.id: PoolQuote(tuple(one), tuple(gone), tuple(mtok), tuple(said), tuple(lost) if pool.batch else ())
        for pool, one, gone, mtok, said, lost in rows
    }


def _where(known: Flags, values: Floats) -> list[list[float | None]]:
    """Numbers, None where they are not known."""
    found = values.astype(object)
    found[~known] = None
    made: list[list[float | None]] = found.tolist()
    return made


def _cost_of_draw(facts: Facts, arrays: Arrays, answer: Answer) -> Floats:
    """k [pool, interval]: money for one kW of draw of a pool in an interval."""
    balance = arrays.of_rows("balance", answer.duals).reshape(facts.other_kw.shape)
    where = np.array([pool.site for pool in facts.pools], dtype=np.int64)
    found: Floats = (facts.pue * balance)[where] - _change_of_level(facts, arrays, answer)
    return found


def _change_of_level(facts: Facts, arrays: Arrays, answer: Answer) -> Floats:
    """y_change[t] - y_change[t+1] [pool, interval]."""
    dual = np.zeros((len(facts.pools), facts.count + 1))
    rows = arrays.row_families.get("change")
    if rows is not None:
        dual[rows.keys] = arrays.of_rows("change", answer.duals)
    found: Floats = dual[:, :-1] - dual[:, 1:]
    return found


def _work_price(facts: Facts, arrays: Arrays, answer: Answer) -> Floats:
    """p [pool, interval], money per GPU-hour of batch work; nan where no job can work."""
    price = np.full((len(facts.pools), facts.count), np.nan)
    rows = arrays.row_families["batch_work"]
    price[rows.keys] = -arrays.of_rows("batch_work", answer.duals) / facts.hours[rows.keys[1]]
    return price


def _batch_segments(facts: Facts, arrays: Arrays, answer: Answer, per_kw: Floats, prices: Prices) -> None:
    """Ways by power of the batch pools. (Not by the segments' reduced costs: the row that forbids burning power without
    work has any dual where there is no work.)"""
    seg = arrays.families["seg"]
    g, t, _ = seg.keys
    full = np.array([pool.kw_per_work for pool in facts.pools]).reshape(per_kw.shape)
    batch = np.array([pool.batch for pool in facts.pools], dtype=np.bool_)
    takes_kw = np.where(per_kw[g, t] >= 0, 1.0 / slopes(facts, seg), full[g, t])
    cost = (per_kw[g, t] - _room_dual(facts, arrays, answer, len(seg))) * takes_kw / facts.hours[t]
    at, low, high = _bounds(arrays, seg, answer)
    room, used = batch[g] & (at < high - _tol(high)), batch[g] & (at > low + _tol(high))
    order = np.flatnonzero(room)[np.argsort(-cost[room], kind="stable")]
    prices.fill[g[order], t[order]] = cost[order]
    prices.fill_kw[g[order], t[order]] = takes_kw[order]
    np.maximum.at(prices.spent, (g[used], t[used]), cost[used])


def _room_dual(facts: Facts, arrays: Arrays, answer: Answer, count: int) -> Floats:
    """What keeping a GPU awake for one more kW is worth [segment column]: 0 where nothing can be parked."""
    found, seg = np.zeros(count), arrays.families["seg"]
    parks = np.array([pool.parked is not None for pool in facts.pools], dtype=np.bool_)
    found[parks[seg.keys[0]]] = arrays.of_rows("room", answer.duals)
    return found


def _displaced(facts: Facts, arrays: Arrays, answer: Answer, homes: Ints, prices: Prices) -> None:
    """Ways through other jobs' work: it gives way, or fills the gap. Only in the pool that the plan gives a job."""
    base, work = _work_price(facts, arrays, answer).ravel(), work_of(facts, arrays, answer).ravel()
    given, saved, second = (part.reshape(-1) for part in (prices.given, prices.heir_saves, prices.next_saves))  # views
    heirs: list[tuple[Ints, Ints, Floats]] = []
    for family in ("x", "late"):
        columns = arrays.families[family]
        j, g, t = columns.keys
        stays = np.append(facts.table.pair_pool, -1)[homes][j] == g
        at, _, high = _bounds(arrays, columns, answer)
        here, tol = g * facts.count + t, _tol(high)
        cost = base[here] - arrays.of(family, answer.reduced) / facts.hours[t]
        done = np.flatnonzero(stays & (at > tol))
        np.minimum.at(given, here[done], cost[done])
        room = np.flatnonzero(stays & (at < high - tol) & (work > TOL)[here])
        heirs.append((j[room], here[room], cost[room]))
    j, here = (np.concatenate([part[n] for part in heirs]) for n in range(2))
    saves = np.concatenate([part[2] for part in heirs])
    np.maximum.at(saved, here, saves)
    best = np.flatnonzero(saves == saved[here])
    prices.heir.reshape(-1)[here[best]] = j[best]
    others = np.flatnonzero(j != prices.heir.reshape(-1)[here])
    np.maximum.at(second, here[others], saves[others])


def work_of(facts: Facts, arrays: Arrays, answer: Answer) -> Floats:
    """Work of the batch pools' jobs in GPU equivalents [pool, interval]."""
    work = np.zeros((len(facts.pools), facts.count))
    for family in ("x", "late"):
        _, g, t = arrays.families[family].keys
        here = g * facts.count + t
        work += np.bincount(here, arrays.of(family, answer.point), minlength=work.size).reshape(work.shape)
    start, g, t, rate = arrays.runs
    np.add.at(work, (g, t), rate * arrays.of("start", answer.point)[start])
    return work


def _spare_gpus(facts: Facts, pool: PoolFacts, per_kw: Floats, prices: Prices) -> None:
    """The way of new work on GPUs that no job of the plan can use: at the knee, or at full speed where draw is paid."""
    spare = pool.working < pool.pool.count * (1 - TOL)
    if pool.parked is not None:  # an idle GPU may be parked; work on it waits for its waking
        spare = np.zeros_like(spare)
    if pool.pool.count == 0 or not spare.any():
        return
    knee_kw = 1.0 / pool.seg_slope_per_kw[:, 0]
    cost = np.minimum(per_kw * knee_kw, per_kw * pool.kw_per_work) / facts.hours
    row = prices.more[pool.index]
    prices.why[pool.index, spare & (cost < row)] = NONE
    row[spare] = np.minimum(row[spare], cost[spare])


def _served(facts: Facts, arrays: Arrays, answer: Answer, prices: Prices) -> None:
    """Interactive and training pools: the least of two ways.

    1. An idle GPU becomes busy at the present point of the curve (one less: a busy one idle). With n busy GPUs the
       objective moves by S = y_balance * PUE * (low_w - idle_w)/1000 + sum r*seg/n + y_floor * (floor - least) +
       (y_change[t] - y_change[t+1]) * (top_w - low_w)/1000 - value * h * least throughput for each of them (sensitivity
       of a linear program to its right sides and bounds); its work costs (S/h + value * throughput) / throughput.
    2. A higher cap on the busy ones: (r + value * h * slope) / (h * slope) over the segments with room.
    """
    pools, hours = [pool for pool in facts.pools if not pool.batch], facts.hours
    rows, site = [pool.index for pool in pools], [pool.site for pool in pools]
    if not pools:
        return
    value = np.array([pool.pool.value_per_gpu_h for pool in pools])[:, None]
    count = np.array([pool.pool.count for pool in pools])[:, None]
    idle_w = np.array([pool.curve.idle_w for pool in pools])[:, None]
    working, least, low_w, top_w, top, floor_work = (
        stacked(pools, name, facts.count)
        for name in ("working", "base_throughput", "base_w", "top_w", "top_throughput", "floor_work")
    )
    busy, none = np.maximum(working, 1e-12), working <= 1e-9
    rents, done = (part[rows] for part in _segments(facts, arrays, answer, prices))
    rate = least + done / busy
    balance = arrays.of_rows("balance", answer.duals).reshape(facts.other_kw.shape)[site] * facts.pue[site]
    moved = _change_of_level(facts, arrays, answer)[rows] * (top_w - low_w) / 1000.0
    floor = _floor_duals(facts, arrays, answer)[rows] * (floor_work / busy - least)
    shift = balance * (low_w - idle_w) / 1000.0 + rents / busy + floor + moved - value * hours * least
    one = np.where(
        none, balance * (top_w - idle_w) / 1000.0 / hours / top, (shift / hours / np.maximum(rate, 1e-12)) + value
    )
    able = (working < count * (1 - TOL)) & (none | (rate > TOL)) & (count > 0)
    prices.more[rows] = np.where(able, np.minimum(prices.more[rows], one), prices.more[rows])
    prices.less[rows] = np.where(~none & (rate > TOL), one, prices.less[rows])


def _segments(facts: Facts, arrays: Arrays, answer: Answer, prices: Prices) -> tuple[Floats, Floats]:
    """What the segments' bounds are worth to a pool, and the work along them [pool, interval]. A higher cap of
    interactive and training pools is a way to do more (see `_served`)."""
    seg = arrays.families["seg"]
    g, t, _ = seg.keys
    slope, reduced = slopes(facts, seg), arrays.of("seg", answer.reduced)
    at, _, high = _bounds(arrays, seg, answer)
    batch = np.array([pool.batch for pool in facts.pools], dtype=np.bool_)
    value = np.array([pool.pool.value_per_gpu_h for pool in facts.pools])
    room = ~batch[g] & (at < high - _tol(high))
    cost = reduced / (slope * facts.hours[t]) + value[g]
    here, shape = g * facts.count + t, prices.more.shape
    np.minimum.at(prices.more.reshape(-1), here[room], cost[room])
    rents, done = np.zeros(shape), np.zeros(shape)
    rents += np.bincount(here, reduced * at, minlength=rents.size).reshape(shape)
    done += np.bincount(here, slope * at, minlength=done.size).reshape(shape)
    return rents, done


def _floor_duals(facts: Facts, arrays: Arrays, answer: Answer) -> Floats:
    """y_floor [pool, interval]; 0 where a floor may not give."""
    dual = np.zeros((len(facts.pools), facts.count))
    rows = arrays.row_families["floor"]
    dual[rows.keys] = arrays.of_rows("floor", answer.duals)
    return dual


def _forbidden(facts: Facts, arrays: Arrays, answer: Answer, prices: Prices) -> None:
    """No price where more draw would break the hard limit, a firm event or a floor: it is broken already, or the site
    is at it with nothing left that could give way. (What a slack costs there is a planning weight, not a price.)"""
    imports = arrays.of("import", answer.point).reshape(facts.other_kw.shape)
    where = np.array([pool.site for pool in facts.pools], dtype=np.int64)
    g, t = arrays.families["short"].keys
    broken = arrays.of("short", answer.point) > TOL
    beyond = imports - facts.firm_cap_kw
    tight, over = (beyond >= edge * 1e-6 * (1.0 + np.abs(imports)) for edge in (-1.0, 1.0))
    over[where[g[broken]], t[broken]] = True
    stuck = over | (tight & ~_sheds(facts, arrays, answer)) if tight.any() else over
    limit = facts.limit_kw <= facts.firm_cap_kw + 1e-9
    for s, now in np.argwhere(stuck).tolist():
        codes = (Reason.LIMIT_UNREACHABLE, Reason.SITE_LIMIT) if limit[s, now] else _EVENT_CODES
        for pool in facts.pools:
            if pool.site == s:
                for table in (prices.more, prices.fill, prices.given):
                    table[pool.index, now] = INF
                prices.why[pool.index, now] = CODE[codes[0] if over[s, now] else codes[1]]


_EVENT_CODES = (Reason.EVENT_UNREACHABLE, Reason.DR_EVENT)


def _sheds(facts: Facts, arrays: Arrays, answer: Answer) -> Flags:
    """Sites and intervals in which something could still give way: draw above floors, or preemptible work."""
    shape = facts.other_kw.shape
    sheds = np.zeros(shape, dtype=np.bool_)
    where = np.array([pool.site for pool in facts.pools], dtype=np.int64)
    batch = np.array([pool.batch for pool in facts.pools], dtype=np.bool_)
    for family in ("seg", "x", "late"):
        columns = arrays.families[family]
        g, t = columns.keys[(0 if family == "seg" else 1)], columns.keys[(1 if family == "seg" else 2)]
        at, low, high = _bounds(arrays, columns, answer)
        gives = (at > low + _tol(high)) & (~batch[g] if family == "seg" else True)
        sheds[where[g[gives]], t[gives]] = True
    return sheds


def _bounds(arrays: Arrays, columns: Columns, answer: Answer) -> tuple[Floats, Floats, Floats]:
    """Values and bounds of a family."""
    part = slice(columns.start, columns.start + len(columns))
    return answer.point[part], arrays.low[part], arrays.high[part]


def _tol(high: Floats) -> Floats:
    """When a column counts as off its bound."""
    found: Floats = TOL * (1.0 + np.where(np.isfinite(high), np.abs(high), 0.0))
    return found
