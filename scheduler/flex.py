"""Flex tiers in the loops: who may be held up no longer, and what became of the promise.

Why a job whose allowance is used up counts as one that can't be interrupted: plan, merit order, checker and grants all
know what to do with such a job, also under an event, and none of them can trade it away. Its pool then runs at full
power, since a cap is a reduction too. Only a hard limit, an operator's limit and an emergency that the operator allowed
go first, and the books say so. A job of a tier begins only where all its GPUs could be given back to it at any moment.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from datetime import datetime, timedelta
from typing import Any

from adapters.jobs.tiers import OVERTIME
from adapters.work_ports import EndTeller
from optimizer.domain import BatchJob, JobState
from optimizer.flex import TOLERATED, allowance, latest_end, reduction
from optimizer.reasons import Note, Reason, Severity
from scheduler.engine import Context, State
from scheduler.flex_book import FlexRecord
from scheduler.latency import speed_of
from scheduler.orders import planned_rates
from scheduler.safety import emergency_sites

REACTION = timedelta(minutes=1)
"""Beside an interval: workers report their progress so late, and a job that was paused needs time to go on."""

TOLERANCE = 0.01
"""A point of reduction that is not held against anybody: starts and ends are known to the second."""


def bound_jobs(ctx: Context, state: State, jobs: Iterable[BatchJob], now: datetime) -> tuple[BatchJob, ...]:
    """The jobs, those of a tier with its deadline, and not to be interrupted once their allowance is used up. Where
    nobody tells their progress, what throttling took from them counts as not done."""
    known = tuple(jobs)
    if all(job.tier is None for job in known):
        return known
    if isinstance(ctx.jobs, EndTeller):
        known = tuple(_slowed(ctx, job) if job.tier is not None else job for job in known)
    deep = emergency_sites(ctx.emergency_programs, ctx.ledger.active(now), now)
    return tuple(_bound(ctx, state, job, deep, now) if job.tier is not None else job for job in known)


def _bound(ctx: Context, state: State, job: BatchJob, deep: frozenset[str], now: datetime) -> BatchJob:
    speed, home = full_speed(ctx, state, job), _home(state, job)
    if home in ctx.pools and ctx.pools[home].pool.site in deep:
        return job
    left, end = allowance(job, now, speed), latest_end(job, speed)
    if left is None or end is None:
        return replace(job, preemptible=job.preemptible and job.tier != 0)
    spare = ctx.timing.interval + REACTION + timedelta(hours=job.restart_gpu_h / job.max_gpus)
    deadline = max(now + timedelta(seconds=1), min(job.deadline, end - spare))
    firm = end - spare <= job.deadline
    lost = timedelta(
        hours=job.checkpoint_gpu_h / job.max_gpus
    )  # what a pause would undo; of one that stands still it is undone
    may = left > spare + (lost if job.state is JobState.RUNNING else timedelta())
    return replace(job, deadline=deadline, firm=firm, preemptible=job.preemptible and may)


def _slowed(ctx: Context, job: BatchJob) -> BatchJob:
    """A job whose work is told by how long it ran, less what it lost to caps. One that is done by that and still runs
    has some left."""
    done = max(0.0, job.done_gpu_h - job.max_gpus * ctx.flex.slowed.lost_h(job.id))
    over = done + job.max_gpus * (OVERTIME / timedelta(hours=1)) if done >= job.work_gpu_h else job.work_gpu_h
    return replace(job, done_gpu_h=done, work_gpu_h=over)


def _losses(ctx: Context, state: State) -> dict[str, float]:
    """Share of its throughput that each job of a tier loses to the orders in force, 0 while it does not run."""
    found = {}
    for job in state.jobs:
        if job.tier is None or job.started_at is None:
            continue
        home = _home(state, job)
        runs = job.state is JobState.RUNNING and home in ctx.pools and home in state.held
        found[job.id] = 0.0
        if runs:
            pool = ctx.pools[home].pool
            found[job.id] = max(0.0, 1.0 - speed_of(pool, state.held[home].cap_w) / speed_of(pool, pool.max_cap_w))
    return found


def full_speed(ctx: Context, state: State, job: BatchJob) -> float:
    """Throughput of a GPU of the job's pool at full power; 1 where work is told by how long a job runs at that."""
    home = _home(state, job)
    if isinstance(ctx.jobs, EndTeller):
        return 1.0
    return speed_of(ctx.pools[home].pool, ctx.pools[home].pool.max_cap_w) if home in ctx.pools else 1.0


def _home(state: State, job: BatchJob) -> str:
    return state.grants.get(job.id, (job.pools[0], 0))[0]


def _is_bound(job: BatchJob) -> bool:
    return job.tier is not None and job.started_at is not None and not job.preemptible


def admitted(ctx: Context, state: State, jobs: tuple[BatchJob, ...], now: datetime) -> tuple[BatchJob, ...]:
    """The jobs without those that may not begin yet: where tiers were promised, all GPUs of every job that has begun
    must be there whenever its allowance ends."""
    if all(job.tier is None for job in jobs):
        return jobs
    rates = planned_rates(state.plan, jobs, now)
    reserved: Counter[str] = Counter()
    for job in jobs:
        if job.started_at is not None and (job.tier is not None or not job.preemptible):
            reserved[rates[job.id][0]] += job.max_gpus
    held_back = set()
    for job in sorted(jobs, key=lambda job: (-job.priority, job.deadline, job.id)):
        pool, rate = rates[job.id]
        if job.started_at is not None or rate <= 0 or (job.tier is None and job.preemptible):
            continue
        if pool in ctx.pools and reserved[pool] + job.max_gpus > ctx.pools[pool].pool.count:
            held_back.add(job.id)
        else:
            reserved[pool] += job.max_gpus
    return tuple(job for job in jobs if job.id not in held_back)


def watch_tiers(ctx: Context, state: State, now: datetime) -> tuple[Note, ...]:
    """Follow every job of a tier from its start to its end, book what became of it, and say what is broken."""
    deep = emergency_sites(ctx.emergency_programs, ctx.ledger.active(now), now)
    said = state.tick.notes if state.tick is not None else ()
    notes: list[Note] = []
    losses = _losses(ctx, state)
    seen: dict[str, Followed] = {}
    for job in state.jobs:
        if job.tier is None or job.started_at is None:
            continue
        before, home = state.tiers.get(job.id), _home(state, job)
        forced = set(before.forced if before is not None else ctx.flex.forced(job.id))
        if home in ctx.pools and ctx.pools[home].pool.site in deep:
            forced.add("an emergency")
        if any(_takes_away(note) and note.subject in {job.id, _site(ctx, home)} for note in said):
            forced.add("a limit or a loss of GPUs")
        seen[job.id] = Followed(job, frozenset(forced), full_speed(ctx, state, job), now, losses[job.id])
        notes += ctx.flex.force(job.id, frozenset(forced), now)
        left = allowance(job, now, seen[job.id].speed)
        if left is not None and left < -REACTION - TOLERANCE * (now - job.started_at):
            why = " and ".join(sorted(forced)) or "nothing that may"
            text = (
                f"{job.id} can't keep Flex {job.tier} any more by {-left.total_seconds() / 60:.0f} min: {why} forced it"
            )
            notes.append(Note(Reason.TIER_BROKEN, job.id, text, Severity.ALERT, now))
    notes += _gone(ctx, state, seen, now)
    if isinstance(ctx.jobs, EndTeller):
        shares = {name: losses.get(name, known.loss) for name, known in seen.items()}
        ctx.flex.slowed.see(shares, now, [(known.job, known.at) for known in seen.values()])
    state.tiers = seen
    held = {_home(state, job) for job in state.jobs if _is_bound(job)}  # a cap would slow them down
    state.tier_caps = {pool: int(ctx.pools[pool].pool.max_cap_w) for pool in held if pool in ctx.pools}
    return tuple(notes)


def _gone(ctx: Context, state: State, seen: dict[str, Followed], now: datetime) -> list[Note]:
    """Book those that are not there any more; in `seen` are then also those whose end will be known."""
    notes: list[Note] = []
    for name in state.tiers.keys() - seen.keys():
        known: Followed = state.tiers[name]
        if not state.jobs_read:  # a batch system that has not answered yet
            seen[name] = known
            continue
        known = known if known.missed_at is not None else replace(known, missed_at=now)
        end = _how_it_ended(ctx, known, now)
        if end is None:
            seen[name] = known
        else:
            notes += _ended(ctx, known, *end)
    return notes


SHORT = {Reason.LIMIT_UNREACHABLE, Reason.GPU_LOST, Reason.NODE_LOST, Reason.POOL_FULL}


def _takes_away(note: Note) -> bool:
    """Whether it tells of what may keep a job from its GPUs; not that a limit is missed by next to nothing."""
    small = note.code is Reason.LIMIT_UNREACHABLE and note.severity is Severity.WARNING
    return note.code in SHORT and not small


@dataclass(frozen=True)
class Followed:
    """A job of a tier as last seen, what forced it, the throughput of its GPUs at full power, when that was, and the
    share of it that it lost then; `missed_at`: since when it is gone."""

    job: BatchJob
    forced: frozenset[str]
    speed: float
    at: datetime
    loss: float
    missed_at: datetime | None = None


def _site(ctx: Context, pool: str) -> str:
    return ctx.pools[pool].pool.site if pool in ctx.pools else ""


def _how_it_ended(ctx: Context, known: Followed, now: datetime) -> tuple[bool | None, float, datetime] | None:
    """Whether a job that is gone was done (None: nobody knows), its work in GPU-hours at full throughput, and its end;
    None: it will be known. Work that is told by time alone is what it ran, less what it lost."""
    job = known.job
    if not isinstance(ctx.jobs, EndTeller):
        everything = getattr(ctx.jobs, "everything", tuple)
        last = next((one for one in everything() if one.id == job.id), None)
        return last is not None and last.state is JobState.DONE, job.work_gpu_h, now
    told = ctx.jobs.ended(job.id)
    if told is None:
        return None if now - (known.missed_at or known.at) < UNKNOWN else (None, 0.0, now)
    done, at = told
    since_h = (at - known.at) / timedelta(hours=1) if job.state is JobState.RUNNING else 0.0
    work = job.done_gpu_h + job.max_gpus * since_h * (1.0 - known.loss)
    return done and job.started_at is not None and at > job.started_at, work, at


UNKNOWN = timedelta(minutes=2)
"""How long a batch system may take to tell how a job ended."""


def _ended(ctx: Context, known: Followed, done: bool | None, work_gpu_h: float, at: datetime) -> tuple[Note, ...]:
    if done is None:
        text = (
            f"{known.job.id} has no record of its Flex tier: it is not ours to pace any more, or its end is forgotten"
        )
        return (Note(Reason.TIER_UNKNOWN, known.job.id, text, Severity.WARNING, at),)
    if not done:
        return ()  # withdrawn: what it was promised is over with it
    return _booked(ctx, known, work_gpu_h, at)


def catch_up(ctx: Context, state: State) -> tuple[Note, ...]:
    """Book the jobs of a tier whose end no turn has seen: the daemon died after their workers had told it, where the
    job system keeps their lives. Where one outside tells ends, go on with those that a predecessor followed."""
    slowed, notes = ctx.flex.slowed, list[Note]()
    for job, at in slowed.left if isinstance(ctx.jobs, EndTeller) else ():
        record = ctx.flex.of(job.id)
        if record is None or record.started_at != job.started_at:
            state.tiers[job.id] = Followed(job, ctx.flex.forced(job.id), 1.0, at, slowed.share_of(job.id))
    lives: Mapping[str, tuple[datetime, datetime]] = getattr(ctx.jobs, "lives", dict)()
    everything = getattr(ctx.jobs, "everything", tuple)
    for job in everything() if lives else ():
        if job.id in lives and ctx.flex.of(job.id) is None:
            started_at, ended_at = lives[job.id]
            begun, forced = replace(job, started_at=started_at), ctx.flex.forced(job.id)
            known = Followed(begun, forced, full_speed(ctx, state, job), ended_at, 0.0)
            notes += _booked(ctx, known, job.work_gpu_h, ended_at)
    return tuple(notes)


def _booked(ctx: Context, known: Followed, work_gpu_h: float, at: datetime) -> tuple[Note, ...]:
    job = replace(known.job, done_gpu_h=work_gpu_h)
    assert job.tier is not None
    assert job.started_at is not None
    lost = reduction(job, at, known.speed)
    assert lost is not None
    kept = lost <= TOLERATED[job.tier] + TOLERANCE
    forced = set(known.forced)
    if not kept and work_gpu_h < (1.0 - TOLERANCE) * job.work_gpu_h:
        forced.add("less work than its owner had said")
    record = FlexRecord(job.id, job.tier, job.started_at, at, lost, TOLERATED[job.tier], kept, tuple(sorted(forced)))
    notes = ctx.flex.close(record)
    if kept:
        return notes
    why = " and ".join(record.forced) or "nothing that may"
    text = f"{job.id} was {lost:.1%} slower in all, Flex {job.tier} allows {record.tolerated:.0%}: {why} forced it"
    return (*notes, Note(Reason.TIER_BROKEN, job.id, text, Severity.ALERT, at))


def flex_now(ctx: Context, state: State, job: BatchJob) -> Mapping[str, Any]:
    """A job's tier as every surface shows it: tier, share by which it was slower so far or in all, share tolerated."""
    record = ctx.flex.of(job.id)
    if record is not None:
        return {"tier": record.tier, "reduction": record.reduction}
    if job.tier is None:
        return {}
    speed, now = full_speed(ctx, state, job), ctx.clock.now()
    return {"tier": job.tier, "reduction": reduction(job, now, speed)}


def flex_text(ctx: Context, state: State, job: BatchJob) -> str:
    """The same as a sentence; empty without a tier."""
    known = flex_now(ctx, state, job)
    if not known:
        return ""
    tolerated = TOLERATED[known["tier"]]
    if known["reduction"] is None:
        return f" Flex {known['tier']}: once begun, at most {tolerated:.0%} slower over its life."
    return f" Flex {known['tier']}: {max(0.0, known['reduction']):.1%} slower so far of {tolerated:.0%} over its life."
