"""Flex tiers: however work is held up, no job is slower over its life than its tier tolerates; the books prove it."""

from contextlib import contextmanager
from dataclasses import replace
from datetime import timedelta

import pytest
from hypothesis import given
from hypothesis import strategies as st

from adapters.jobs.queue import JobRefused
from adapters.ports import EventTarget
from optimizer.domain import BatchJob
from optimizer.flex import TOLERATED, allowance, latest_end, reduction
from optimizer.reasons import Note, Reason, Severity
from scheduler.flex import TOLERANCE, watch_tiers
from scheduler.flex_book import FlexBook
from scheduler.safety import emergency_sites
from scheduler.service import JobRequest, Refused
from scheduler.store.store import Store
from tests.support.loops import START, lab, order

H = timedelta(hours=1)
STEP = timedelta(minutes=1)


@given(
    st.integers(0, 3),
    st.floats(0.2, 12),
    st.integers(1, 64),
    st.floats(0.3, 1.0),
    st.lists(st.floats(0, 1), min_size=1, max_size=400),
)
def test_whoever_takes_what_the_allowance_leaves_never_takes_more_than_the_tier(tier, hours, gpus, speed, taken):
    """An adversary gives the job any part of its GPUs, as long as it has an allowance of more than a step."""
    job = BatchJob("j", ("p",), START, START + 1000 * H, hours * gpus * speed, gpus, tier=tier, started_at=START)
    now, least = START, reduction(job, START, speed)
    assert least is None
    for turn in range(10_000):
        if job.left_gpu_h <= 0:
            break
        part = 1.0 if allowance(job, now, speed) <= STEP else taken[turn % len(taken)]
        job = replace(job, done_gpu_h=job.done_gpu_h + part * gpus * speed * (STEP / H))
        now += STEP
    lost = reduction(replace(job, done_gpu_h=job.work_gpu_h), now, speed)
    assert job.left_gpu_h <= 0
    assert now <= latest_end(job, speed) + STEP, "the step in which it ended is not cut short here"
    assert lost <= TOLERATED[tier] + STEP / (hours * H)


@contextmanager
def queue(folder, jobs, store=None, change=lambda text: text, within=10 * H):
    """The lab with these jobs, which are due `within` so much time: name -> (tier, hours, GPUs)."""
    with lab(folder, lambda text: change(text[: text.index("jobs:\n")]), store) as site:
        for name, (tier, hours, gpus) in jobs.items():
            site.facade.submit_job(JobRequest(name, "tune", hours * gpus, gpus, START + within, tier=tier))
        yield site


def told(site):
    return {job.id: job for job in site.facade.jobs()}


def held(site, name):
    return next((job.gpus for job in site.state.jobs if job.id == name), 0)


def broken(tick):
    return [note.text for note in tick.notes if note.code is Reason.TIER_BROKEN]


def test_an_event_takes_from_every_job_what_its_tier_tolerates_and_no_more(tmp_path):
    jobs = {"a": (0, 0.8, 6), "b": (1, 1.2, 8), "c": (2, 0.8, 8), "d": (3, 0.6, 8), "e": (None, 1.0, 8)}
    store = Store.in_memory()
    with queue(tmp_path, jobs, store, within=2 * H) as site:
        site.run(timedelta(minutes=15), 15)
        begin, end = site.clock.now() + timedelta(minutes=5), site.clock.now() + 1.2 * H
        site.facade.accept(order(begin, end, targets=(EventTarget(begin, end, limit_kw=37.0),)))
        assert not [text for tick in site.run(2.5 * H, 20) for text in broken(tick)]
        done = {record.job: record for record in site.ctx.flex.records()}
        assert sorted(done) == ["a", "b", "c", "d"], "the one without a tier is in no book"
        assert all(record.kept and not record.forced for record in done.values())
        assert all(record.reduction <= TOLERATED[record.tier] + TOLERANCE for record in done.values())
        assert max(done["b"].reduction, done["c"].reduction, done["d"].reduction) > 0.05, "the event had its share"
        shown = told(site)["c"]
        assert (shown.tier, shown.reduction) == (2, done["c"].reduction)
        assert f"Flex 2: {done['c'].reduction:.1%} slower so far of 25% over its life" in shown.why
        assert FlexBook(store).of("c") == done["c"], "over a restart"


def test_an_emergency_may_break_a_tier_and_the_books_say_so(tmp_path):
    allow = ("baseline: {", "emergency_below_floor: true, baseline: {")
    jobs = {"a": (0, 0.5, 8), "b": (1, 0.5, 8)}
    with queue(tmp_path, jobs, None, lambda text: text.replace(*allow), 0.51 * H) as site:
        site.run(timedelta(minutes=10), 10)
        assert (held(site, "a"), held(site, "b")) == (8, 8)
        begin, end = site.clock.now() + timedelta(seconds=30), site.clock.now() + 0.5 * H
        cap = (EventTarget(begin, end, limit_kw=16.0),)
        site.facade.accept(order(begin, end, emergency=True, ramp_in_s=0.0, targets=cap))
        seen = site.run(timedelta(minutes=20), 10)
        assert held(site, "a") < 8
        assert any("can't keep Flex 0 any more" in text and "an emergency" in text for text in broken(seen[-1]))
        while emergency_sites(site.ctx.emergency_programs, site.ctx.ledger.active(site.clock.now()), site.clock.now()):
            site.run(timedelta(minutes=1), 10)
        assert "a" in {job.id for job in site.state.jobs}, "the job is not"
        assert FlexBook(site.ctx.store).forced("a") == {"an emergency"}
        site.state.tiers = {}  # as a daemon that begins anew
        site.run(1.2 * H, 30)
        assert FlexBook(site.ctx.store).forced("a") == set()
        records = {record.job: record for record in site.ctx.flex.records()}
        assert (records["a"].kept, records["a"].forced) == (False, ("an emergency",))
        assert records["a"].reduction > 0.2


def test_a_job_of_a_tier_begins_only_where_all_its_gpus_can_be_given_back(tmp_path):
    with queue(tmp_path, {"a": (3, 0.4, 20), "b": (1, 0.3, 20)}, within=1.2 * H) as site:
        ticks = []
        site.run(1.2 * H, 20, lambda _: ticks.append((held(site, "a"), held(site, "b"))))
        assert all(a == 0 or b == 0 for a, b in ticks), "32 GPUs are not enough for both"
        assert {record.job: record.kept for record in site.ctx.flex.records()} == {"a": True, "b": True}


def test_a_job_that_was_done_as_the_daemon_died_stands_in_the_books_of_the_next_one(tmp_path):
    """Its worker has said that it is done, and no turn of the fast loop has seen it."""
    store = Store.in_memory()
    with queue(tmp_path, {"a": (1, 0.5, 8)}, store, within=2 * H) as site:
        site.run(timedelta(minutes=10), 10)
        begun = next(job.started_at for job in site.state.jobs)
        site.clock.sleep((0.5 * H).total_seconds())
        site.ctx.jobs.report("a", 4.0, True)
        ended = site.clock.now()
        assert site.ctx.flex.records() == ()
        store.close = lambda: None
    for _ in range(2):  # and once, however often it begins anew
        with queue(tmp_path, {}, store) as site:
            (record,) = site.ctx.flex.records()
            assert (record.started_at, record.ended_at, record.tolerated) == (begun, ended, 0.1)
            assert record.reduction == pytest.approx(1 - 0.5 * H / (ended - begun), abs=0.03)
            assert record.kept is (record.reduction <= 0.11)


@pytest.mark.parametrize("tier", [-1, 4])
def test_a_tier_that_there_is_not_is_refused_by_name(tmp_path, tier):
    with queue(tmp_path, {}) as site, pytest.raises((Refused, JobRefused), match="tier"):
        site.facade.submit_job(JobRequest("x", "tune", 1.0, 1, START + H, tier=tier))


@pytest.mark.parametrize(
    ("loud", "forced"), [(Severity.ALERT, {"a limit or a loss of GPUs"}), (Severity.WARNING, set())]
)
def test_a_limit_that_is_missed_by_next_to_nothing_excuses_no_broken_tier(tmp_path, loud, forced):
    with queue(tmp_path, {"a": (0, 1.0, 8)}, within=1.01 * H) as site:
        tick = site.run(timedelta(minutes=5), 10)[-1]
        assert held(site, "a") == 8
        note = Note(Reason.LIMIT_UNREACHABLE, "lab", "lab can't get below it", loud, tick.at)
        site.state.tick = replace(tick, notes=(*tick.notes, note))
        watch_tiers(site.ctx, site.state, site.clock.now())
        assert site.state.tiers["a"].forced == forced
