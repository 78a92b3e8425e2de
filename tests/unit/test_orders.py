"""From a plan's step to pool orders and whole GPUs for jobs."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

from optimizer.domain import BatchJob, JobState
from scheduler.orders import PoolOrder, grant_gpus

NOW = datetime(2022, 9, 6, 21, tzinfo=UTC)


def job(name: str, **changes: object) -> BatchJob:
    fields: dict[str, object] = {
        "id": name,
        "pools": ("batch",),
        "release": NOW,
        "deadline": NOW + timedelta(hours=6),
        "work_gpu_h": 100.0,
        "max_gpus": 64,
    }
    return BatchJob(**(fields | changes))  # type: ignore[arg-type]


def grants(jobs: tuple[BatchJob, ...], rates: dict[str, float], active: int, speed: float = 1.0) -> dict[str, int]:
    return grant_gpus(
        jobs, {k: ("batch", v) for k, v in rates.items()}, {"batch": PoolOrder(300, active)}, {"batch": speed}
    )


def test_a_slower_pool_needs_more_gpus_for_the_same_rate() -> None:
    assert grants((job("a"),), {"a": 40.0}, 64, speed=0.8) == {"a": 50}


def test_work_that_must_not_be_interrupted_keeps_its_gpus_when_the_pool_shrinks() -> None:
    fixed = job("fixed", preemptible=False, started_at=NOW, state=JobState.RUNNING, gpus=48)
    assert grants((job("soft"), fixed), {"soft": 30.0, "fixed": 48.0}, 50) == {"fixed": 48, "soft": 2}


def test_work_that_must_not_be_interrupted_starts_whole_or_not_at_all() -> None:
    whole = job("whole", preemptible=False)
    assert grants((whole,), {"whole": 64.0}, 63) == {"whole": 0}
    assert grants((whole,), {"whole": 20.0}, 64) == {"whole": 64}


def test_a_paused_job_whose_tier_is_used_up_gets_its_gpus_before_a_gang_that_can_wait() -> None:
    paused = job(
        "paused", preemptible=False, started_at=NOW, state=JobState.SUSPENDED, max_gpus=16, min_gpus=16, tier=1
    )
    gang = job("gang", max_gpus=8, min_gpus=8, priority=9)
    assert grants((gang, paused), {"gang": 6.5, "paused": 16.0}, 22) == {"paused": 16, "gang": 0}
    assert grants((gang, paused), {"gang": 6.5, "paused": 16.0}, 24) == {"paused": 16, "gang": 8}


def test_priority_then_deadline_decide_who_gives() -> None:
    late, early = job("late", deadline=NOW + timedelta(hours=9)), job("early")
    first = job("first", priority=1, deadline=NOW + timedelta(days=2))
    given = grants((late, early, first), {"late": 40.0, "early": 40.0, "first": 40.0}, 90)
    assert given == {"first": 40, "early": 40, "late": 10}


def test_the_last_bit_of_a_job_is_not_rounded_away_until_it_is_late() -> None:
    big, bit = job("big", priority=2, max_gpus=512), job("bit", deadline=NOW + timedelta(hours=1))
    assert grants((big, bit), {"big": 80.2, "bit": 0.27}, 80) == {"big": 79, "bit": 1}
    assert grants((big, bit), {"big": 80.4, "bit": 0.27}, 82) == {"big": 81, "bit": 1}


def test_many_last_bits_take_no_more_than_they_add_up_to() -> None:
    bits = tuple(job(f"bit{n}") for n in range(10))
    given = grants((*bits, job("big", max_gpus=512)), {b.id: 0.1 for b in bits} | {"big": 60.0}, 61)
    assert given["big"] == 60
    assert sum(given.values()) == 61


def test_however_many_are_alike_the_gpus_that_they_were_planned_are_used() -> None:
    many = tuple(job(f"many{n:04}", max_gpus=1) for n in range(1000))
    given = grants(many, {of.id: 0.016 for of in many}, 16)
    assert sum(given.values()) == 16
    assert grants(many[:1], {"many0000": 0.016}, 16) == {"many0000": 0}, "but not for a bit that is worth none"


def test_of_last_bits_those_that_run_go_first() -> None:
    runs = job("z", state=JobState.RUNNING, gpus=1, started_at=NOW, max_gpus=1)
    waits = tuple(job(f"a{n}", max_gpus=1) for n in range(3))
    given = grants((*waits, runs), {of.id: 0.5 for of in (*waits, runs)}, 2)
    assert given["z"] == 1
    assert sum(given.values()) == 2


def test_who_runs_for_next_to_nothing_does_not_go_before_who_needs_a_gpu() -> None:
    running = {"state": JobState.RUNNING, "gpus": 1, "started_at": NOW, "max_gpus": 1}
    runs = tuple(job(f"runs{n}", deadline=NOW + timedelta(days=8), **running) for n in range(3))
    waits = tuple(job(f"waits{n}", deadline=NOW + timedelta(hours=2), max_gpus=1) for n in range(3))
    for bit in (1e-12, 0.001, 0.07):
        given = grants((*runs, *waits), {of.id: bit for of in runs} | {of.id: 0.95 for of in waits}, 3)
        assert [given[of.id] for of in waits] == [1, 1, 1], bit
    assert grants((runs[0], waits[0]), {"runs0": 1e-12, "waits0": 0.03}, 1) == {"runs0": 0, "waits0": 1}


def test_who_has_no_other_interval_before_the_deadline_is_rounded_up() -> None:
    jobs = (job("rival", priority=3, max_gpus=512, deadline=NOW + timedelta(hours=1)), job("tight", max_gpus=100))
    rates = {"rival": ("batch", 30.9), "tight": ("batch", 10.1)}
    orders, speeds = {"batch": PoolOrder(300, 41)}, {"batch": 1.0}
    assert grant_gpus(jobs, rates, orders, speeds) == {"rival": 31, "tight": 10}
    assert grant_gpus(jobs, rates, orders, speeds, frozenset({"tight"})) == {"rival": 30, "tight": 11}


def test_a_gang_gets_its_least_gpus_or_none() -> None:
    gang, other = job("gang", min_gpus=32, priority=1), job("other")
    assert grants((gang, other), {"gang": 10.0, "other": 20.0}, 52) == {"gang": 32, "other": 20}
    assert grants((gang, other), {"gang": 40.0, "other": 20.0}, 31) == {"gang": 0, "other": 20}
