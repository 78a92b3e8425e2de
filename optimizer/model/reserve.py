"""Reserve in the model: only what can be shed within the notice, and kept up for the whole time, may be sold."""

from __future__ import annotations

import numpy as np

from optimizer.facts import Facts
from optimizer.model.parts import Columns, Ints, Model
from optimizer.model.supply import add_leaving
from optimizer.poolfacts import PoolFacts


def most_kw(facts: Facts, s: int, number: int) -> float:
    """Most of an offer in kW: its own bound, and what the site's ramp lets it shed within the notice."""
    offer = facts.problem.sites[s].reserves[number]
    return min(offer.max_kw, facts.problem.sites[s].ramp_down_kw_per_min * offer.notice_s / 60.0)


def sheddable(facts: Facts, pool: PoolFacts) -> np.ndarray[tuple[int], np.dtype[np.bool_]]:
    """Intervals in which a pool's power above its floor counts: not where its floor gives already, and not in a batch
    pool with jobs that can't be interrupted."""
    if not pool.batch:
        return np.asarray(~pool.may_break_floor)
    table = facts.table
    bound = any(not job.preemptible or job.min_run_h > 0 for job in (table.jobs[n] for n in table.of_pool(pool.index)))
    return np.full(facts.count, not bound)


def add_reserve(model: Model) -> None:
    """offer[r,t] in kW; held[r,t'] >= offer[r,t] for every t' that a call in t (notice and sustain time) can reach.

    For each site and interval: sum of held <= PUE * sum of segments above the floors + what batteries back, and <=
    import + what may leave the site (nothing is shed that is not drawn). Objective: - price * hours * offer.
    """
    facts = model.facts
    offers = [(s, n, offer) for s, site in enumerate(facts.problem.sites) for n, offer in enumerate(site.reserves)]
    r, t = (part.ravel() for part in np.indices((len(offers), facts.count)))
    price = np.array([offer.price_per_kw_h for _, _, offer in offers]).reshape(len(offers), facts.count)
    high = np.array([most_kw(facts, s, n) for s, n, _ in offers])
    offered = model.columns("offer", "rt", (r, t), high=high[r], cost=-price[r, t] * facts.hours[t])
    held = model.columns("held", "rt", (r, t))
    ends = np.cumsum(facts.hours)
    reach_h = np.array([(offer.notice_s + offer.sustain_s) / 3600.0 for _, _, offer in offers])
    begins = ends - facts.hours
    later = begins[None, None, :] < ends[None, :, None] + reach_h[:, None, None] - 1e-9
    later &= np.arange(facts.count)[None, None, :] >= np.arange(facts.count)[None, :, None]
    k, first, then = np.nonzero(later)
    keep = model.rows("hold", "rtk", (k, first, then), low=0.0)
    keep.add(keep.all, held, k * facts.count + then, 1.0)
    keep.add(keep.all, offered, k * facts.count + first, -1.0)
    sites = np.array([s for s, _, _ in offers], dtype=np.int64)
    backed = _add_backing(model, {s: max(o.sustain_s for x, _, o in offers if x == s) for s in set(sites.tolist())})
    _add_delivery(model, sites, held, backed)


def _add_delivery(model: Model, sites: Ints, held: Columns, backed: Columns) -> None:
    """Sum of what is held <= what can be shed, and <= import."""
    facts = model.facts
    if not len(sites):
        none = (np.zeros(0, dtype=np.int64),) * 2
        model.rows("deliver", "st", none)
        model.rows("drawn", "st", none)
        return
    shape = facts.pue.shape
    selling = np.zeros(shape, dtype=np.bool_)
    selling[np.unique(sites)] = True
    need, counts = np.zeros(shape), np.zeros((len(facts.pools), facts.count), dtype=np.bool_)
    for pool in facts.pools:
        counts[pool.index] = sheddable(facts, pool)
        need[pool.site] += np.where(counts[pool.index], pool.least_kw - pool.base_kw, 0.0) * facts.pue[pool.site]
    s, t = np.nonzero(selling)
    deliver = model.rows("deliver", "st", (s, t), high=-need[s, t])
    drawn = model.rows("drawn", "st", (s, t), high=0.0)
    at = deliver.find(shape)
    if len(held):
        for rows in (deliver, drawn):
            rows.add(at[sites[held.keys[0]], held.keys[1]], held, held.all, 1.0)
    drawn.add(drawn.all, model.get("import"), s * facts.count + t, -1.0)
    add_leaving(model, drawn, -1.0)
    seg = model.get("seg")
    g, when = seg.keys[0], seg.keys[1]
    where = np.array([pool.site for pool in facts.pools], dtype=np.int64)[g]
    used = counts[g, when] & selling[where, when]
    deliver.add(at[where, when][used], seg, seg.all[used], -facts.pue[where, when][used])
    if len(backed):
        place = np.array([site for site, _ in facts.supply.batteries], dtype=np.int64)[backed.keys[0]]
        deliver.add(at[place, backed.keys[1]], backed, backed.all, -1.0)


def _add_backing(model: Model, sustain_s: dict[int, float]) -> Columns:
    """backed[b,t] + discharge - charge <= discharge power (kW); backed * sustain hours / efficiency <= energy above the
    minimum at both ends of the interval (kWh)."""
    facts, supply = model.facts, model.facts.supply
    mine = [n for n, (s, _) in enumerate(supply.batteries) if s in sustain_s]
    n, t = (part.ravel() for part in np.indices((len(mine), facts.count)))
    b = np.array(mine, dtype=np.int64)[n]
    backed = model.columns("backed", "bt", (b, t))
    each = [supply.batteries[number][1] for number in b.tolist()]
    power = model.rows("back_power", "bt", (b, t), high=[battery.discharge_kw for battery in each])
    power.add(power.all, backed, backed.all, 1.0)
    power.add(power.all, model.get("discharge"), b * facts.count + t, 1.0)
    power.add(power.all, model.get("charge"), b * facts.count + t, -1.0)
    least = np.array([supply.bounds(number)[0] for number in b.tolist()])
    hours = np.array([sustain_s[supply.batteries[number][0]] / 3600.0 for number in b.tolist()])
    kwh = hours / np.array([battery.discharge_efficiency for battery in each])
    now = np.array([battery.stored_now_kwh for battery in each])
    begun = t > 0
    before = model.rows("back_before", "bt", (b, t), high=np.where(begun, 0.0, now) - least)
    before.add(before.all, backed, backed.all, kwh)
    before.add(before.all[begun], model.get("stored"), (b * facts.count + t)[begun] - 1, -1.0)
    after = model.rows("back_after", "bt", (b, t), high=-least)
    after.add(after.all, backed, backed.all, kwh)
    after.add(after.all, model.get("stored"), b * facts.count + t, -1.0)
    return backed
