"""Flex tiers of jobs whose progress nobody tells: what slows them down counts as what stops them does."""

from contextlib import contextmanager
from dataclasses import replace
from datetime import timedelta

import pytest

from adapters.ports import AdapterError, EventTarget
from adapters.work_ports import EndTeller, WorkKeeper
from optimizer.domain import BatchJob, JobState
from optimizer.flex import TOLERATED
from optimizer.reasons import Reason
from scheduler.flex import TOLERANCE, bound_jobs, catch_up
from scheduler.flex_book import FlexBook
from scheduler.latency import speed_of
from scheduler.store.store import Store
from tests.support.loops import START, lab, order

H = timedelta(hours=1)
WITHIN = 2.5 * H


class Outside:
    """A batch system that knows how long its jobs ran, and nothing of their progress; `speed()` is what they do."""

    keeps_state, silent = True, False

    def __init__(self, clock, speed, jobs):
        self.clock, self.speed = clock, speed
        self.jobs = {
            name: BatchJob(name, ("tune",), START, START + WITHIN, gpus * h, gpus, min_gpus=gpus, tier=tier)
            for name, (tier, h, gpus, _) in jobs.items()
        }
        self.needs = {name: real for name, (_, _, _, real) in jobs.items()}
        self.ran, self.did, self.ends = dict.fromkeys(jobs, 0.0), dict.fromkeys(jobs, 0.0), {}
        self.at = clock.now()

    def snapshot(self):
        if self.silent:
            raise AdapterError("of a test")
        passed, self.at = (self.clock.now() - self.at) / H, self.clock.now()
        for name, job in list(self.jobs.items()):
            if job.gpus:
                self.ran[name] += passed
                self.did[name] += passed * self.speed()
            self.jobs[name] = replace(job, done_gpu_h=job.max_gpus * self.ran[name])
            if self.did[name] >= self.needs[name]:
                self.ends[name] = True, self.at
                del self.jobs[name]
        return list(self.jobs.values())

    def apply(self, gpus):
        for name, count in gpus.items():
            if name in self.jobs:
                job = self.jobs[name]
                begun = job.started_at or (self.clock.now() if count else None)
                state = JobState.RUNNING if count else JobState.SUSPENDED if begun else JobState.WAITING
                given = job.max_gpus if count else 0
                self.jobs[name] = replace(job, gpus=given, started_at=begun, state=state)
        return {}

    def ended(self, job):
        return self.ends.get(job)

    def notes(self):
        return ()

    release = notes

    def close(self):
        pass


@contextmanager
def outside(folder, jobs, store=None, change=lambda text: text):
    """The lab over such a system; a job is its tier, the hours that its owner says, GPUs, and the hours it takes."""
    with lab(folder, lambda text: change(text[: text.index("jobs:\n")]), store) as site:
        pool = site.ctx.pools["tune"].pool

        def speed():
            held = site.state.held.get("tune")
            return speed_of(pool, held.cap_w) / speed_of(pool, pool.max_cap_w) if held is not None else 1.0

        system = Outside(site.clock, speed, jobs)
        assert isinstance(system, EndTeller)
        assert isinstance(system, WorkKeeper)
        site.ctx = replace(site.ctx, jobs=system)
        yield site, system


def caps_apart(text):
    """A pool whose plans let one cap slow all its jobs at once: the books have losses of each."""
    return text.replace("ft_llama_8b_dolly}", "ft_llama_8b_dolly, one_cap: false}")


def broken(ticks):
    return [note.text for tick in ticks for note in tick.notes if note.code is Reason.TIER_BROKEN]


def test_caps_use_up_a_tier_as_pauses_do_and_the_books_know_what_was_lost(tmp_path):
    jobs = {"a": (2, 1.0, 16, 1.0), "b": (3, 0.8, 8, 0.8)}
    store = Store.in_memory()
    with outside(tmp_path, jobs, store) as (site, system):
        site.run(timedelta(minutes=10), 10)
        begin, end = site.clock.now() + timedelta(minutes=2), site.clock.now() + 2 * H
        site.facade.accept(order(begin, end, targets=(EventTarget(begin, end, limit_kw=38.0),)))
        caps = []
        ticks = site.run(timedelta(minutes=20), 10, lambda _: caps.append(site.state.held["tune"].cap_w))
        lost = {name: site.ctx.flex.slowed.lost_h(name) for name in jobs}
        assert min(caps) < 400, "they were slowed down"
        for name, job in jobs.items():
            truly = system.ran[name] - system.did[name]
            assert lost[name] == pytest.approx(truly, abs=0.01), "no more and no less than it lost"
            seen = next(one for one in site.state.jobs if one.id == name)
            assert seen.done_gpu_h == pytest.approx(job[2] * system.did[name], abs=0.2)
        assert FlexBook(store).slowed.lost_h("a") == pytest.approx(lost["a"], abs=0.02), "over a restart"
        ticks += site.run(2 * H, 20)
        assert not broken(ticks)
        done = {record.job: record for record in site.ctx.flex.records()}
        assert sorted(done) == ["a", "b"]
        for name, (tier, hours, _, _) in jobs.items():
            truly = 1 - hours / ((system.ends[name][1] - done[name].started_at) / H)
            assert done[name].reduction == pytest.approx(truly, abs=0.01)
            assert done[name].kept
            assert truly <= TOLERATED[tier] + TOLERANCE
        assert max(record.reduction for record in done.values()) > 0.05, "the event had its share"


def test_work_that_its_owner_said_too_long_is_booked_as_it_was(tmp_path):
    """A tier is held by what the owner says; where the job takes less, the books tell what it really lost."""
    with outside(tmp_path, {"a": (3, 4.0, 16, 0.3)}) as (site, system):
        site.run(timedelta(minutes=5), 10)
        begin, end = site.clock.now() + timedelta(minutes=1), site.clock.now() + H
        site.facade.accept(order(begin, end, targets=(EventTarget(begin, end, limit_kw=32.0),)))
        ticks = site.run(3 * H, 20)
        (record,) = site.ctx.flex.records()
        truly = 1 - 0.3 / ((system.ends["a"][1] - record.started_at) / H)
        assert truly > TOLERATED[3] + TOLERANCE
        assert record.reduction == pytest.approx(truly, abs=0.02)
        assert (record.kept, record.forced) == (False, ("less work than its owner had said",))
        assert len([text for text in broken(ticks) if "less work than its owner had said forced it" in text]) == 1


def test_what_ends_while_no_daemon_is_there_has_its_record_and_what_goes_on_keeps_its_losses(tmp_path):
    jobs = {"ends": (2, 0.8, 16, 0.8), "goes-on": (3, 3.0, 8, 3.0), "vanishes": (2, 0.8, 8, 0.8)}
    store = Store.in_memory()
    with outside(tmp_path, jobs, store, caps_apart) as (site, system):
        begin, end = site.clock.now() + timedelta(minutes=2), site.clock.now() + 2 * H
        site.facade.accept(order(begin, end, targets=(EventTarget(begin, end, limit_kw=42.0),)))
        site.run(timedelta(minutes=20), 10)
        before = site.ctx.flex.slowed.lost_h("goes-on")
        assert before > 0
        for _ in range(90):  # nobody is there
            site.clock.sleep(60)
            system.snapshot()
        assert "ends" in system.ends
        del system.ends["vanishes"]
        site.ctx = replace(site.ctx, flex=FlexBook(store))
        site.state.tiers, site.state.jobs, site.state.jobs_read = {}, (), False
        system.silent = True
        assert not catch_up(site.ctx, site.state)
        site.run(timedelta(minutes=5), 10)
        system.silent = False
        site.run(timedelta(minutes=1), 10)
        (record,) = site.ctx.flex.records()
        truly = 1 - system.did["ends"] / ((system.ends["ends"][1] - record.started_at) / H)
        assert (record.job, record.reduction) == ("ends", pytest.approx(truly, abs=0.015))
        assert truly > 0.01
        assert site.ctx.flex.slowed.lost_h("goes-on") > before
        ticks = site.run(timedelta(minutes=3), 10)
        unknown = {note.subject for tick in ticks for note in tick.notes if note.code is Reason.TIER_UNKNOWN}
        assert unknown == {"vanishes"}
        assert set(site.state.tiers) == {"goes-on"}, "nobody knows how that one ended"
        assert [job.id for job, _ in FlexBook(store).slowed.left] == ["goes-on"]


def test_a_job_is_not_paused_where_the_way_back_to_its_checkpoint_is_more_than_its_tier_leaves(tmp_path):
    # Flex 2: three hours of work may take four; a pause undoes half an hour of what it has done.
    job = BatchJob("a", ("tune",), START, START + 9 * H, 48.0, 16, min_gpus=16, tier=2, started_at=START,
                   checkpoint_gpu_h=8.0, state=JobState.RUNNING)  # fmt: skip
    with outside(tmp_path, {}) as (site, _):
        for stood_still, may in ((0.3, True), (0.5, False)):
            (bound,) = bound_jobs(site.ctx, site.state, [job], START + stood_still * H)
            assert bound.preemptible is may
        paused = replace(job, state=JobState.SUSPENDED, done_gpu_h=0.0)
        (bound,) = bound_jobs(site.ctx, site.state, [paused], START + 0.5 * H)
        assert bound.preemptible, "what it lost by its pause is lost already"
