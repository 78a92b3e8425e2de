"""Pacing a real Slurm: jobs held, let go, suspended, requeued by grants; other people's hands; a lost controller."""

import json
import time
from collections import Counter

import pytest

from adapters.context import AdapterContext
from adapters.jobs.slurm import SlurmConfig, SlurmJobs
from adapters.jobs.slurm_cli import Slurm
from adapters.ports import AdapterError
from optimizer.domain import JobState
from optimizer.reasons import Reason
from scheduler.clock import WallClock
from scheduler.store.store import Store, StoreDegraded
from tests.support.slurm import a_cluster, job_of, pacing


@pytest.fixture(scope="module")
def cluster():
    with a_cluster("slurm-") as made:
        yield made


@pytest.fixture
def pace(cluster):
    with pacing(cluster) as make:
        yield make


def test_what_waits_is_held_until_it_is_granted_and_stopped_as_its_owner_wrote(cluster, pace):
    jobs = pace()
    first = cluster.submit("--comment=gridpace deadline=8h pause=suspend value=1.5", "--begin=now+2", minutes=30)
    cluster.wait(lambda: job_of(jobs, first))
    jobs.apply({})
    cluster.wait(lambda: cluster.states()[first] == ("PENDING", "JobHeldAdmin"))
    seen = cluster.wait(lambda: (one := job_of(jobs, first)) and one.state is JobState.WAITING and one)
    assert (seen.pools, seen.max_gpus, seen.min_gpus, seen.work_gpu_h) == (("tune",), 8, 8, 4.0)
    assert (seen.value_per_gpu_h, seen.preemptible, seen.done_gpu_h) == (1.5, True, 0.0)
    assert 8 * 3600 - 10 < (seen.deadline - seen.release).total_seconds() <= 8 * 3600

    jobs.apply({first: 8})
    cluster.wait(lambda: cluster.states()[first][0] == "RUNNING")
    cluster.wait(lambda: job_of(jobs, first).state is JobState.RUNNING and job_of(jobs, first).gpus == 8)
    cluster.wait(lambda: job_of(jobs, first).done_gpu_h > 0)
    jobs.apply({first: 0})
    cluster.wait(lambda: cluster.states()[first][0] == "SUSPENDED")
    done = cluster.wait(lambda: (one := job_of(jobs, first)).state is JobState.SUSPENDED and one).done_gpu_h
    assert jobs.held() == {first: "suspended"}
    jobs.apply({first: 8})
    cluster.wait(lambda: cluster.states()[first][0] == "RUNNING")
    cluster.wait(lambda: job_of(jobs, first).done_gpu_h > done)
    assert jobs.held() == {}


def test_a_requeued_job_waits_held_starts_at_once_when_it_may_and_what_it_ran_before_counts(cluster, pace):
    store = Store.in_memory()
    jobs = pace(store)
    name = cluster.submit("--comment=gridpace tier=2 runtime=6h pause=requeue checkpoint=2s")
    cluster.wait(lambda: cluster.states()[name][0] == "RUNNING" and job_of(jobs, name))
    begun = job_of(jobs, name).started_at
    cluster.wait(lambda: job_of(jobs, name).done_gpu_h > 8 * 2 / 3600)
    assert job_of(jobs, name).checkpoint_gpu_h == pytest.approx(8 * 1 / 3600)
    jobs.apply({name: 0})
    cluster.wait(lambda: cluster.states()[name] == ("PENDING", "job requeued in held state"))
    seen = cluster.wait(lambda: (one := job_of(jobs, name)) and one.state is JobState.SUSPENDED and one)
    assert (seen.gpus, seen.started_at) == (0, begun)
    assert 0 < seen.done_gpu_h < 8 * 60 / 3600, "what it ran, less the way back to its checkpoint"
    jobs.close()  # a crash: the next daemon knows of it
    again, since = pace(store), time.monotonic()
    cluster.wait(lambda: job_of(again, name))
    assert (job_of(again, name).started_at, job_of(again, name).done_gpu_h) == (begun, seen.done_gpu_h)
    again.apply({name: 8})
    cluster.wait(lambda: cluster.states()[name][0] == "RUNNING", 20)
    assert time.monotonic() - since > 4.5, "not while its node may still clean up after the run before"
    cluster.wait(
        lambda: job_of(again, name).state is JobState.RUNNING and job_of(again, name).done_gpu_h > seen.done_gpu_h
    )
    assert job_of(again, name).started_at == begun, "its tier counts from there"


def test_a_job_of_a_tier_says_so_and_its_end_is_known(cluster, pace):
    jobs = pace()
    name = cluster.submit("--comment=gridpace tier=2 runtime=6h pause=suspend", seconds=4, minutes=600)
    fails = cluster.submit("--comment=gridpace tier=1", "--begin=now+1000", minutes=90)
    seen = cluster.wait(lambda: (one := job_of(jobs, name)) and one.state is JobState.RUNNING and one)
    assert (seen.tier, seen.work_gpu_h, seen.preemptible) == (2, 48.0, True)
    assert abs((seen.deadline - seen.release).total_seconds() - 8 * 3600) < 10
    waits = cluster.wait(lambda: job_of(jobs, fails))
    assert (waits.tier, waits.work_gpu_h, waits.preemptible) == (1, 12.0, False)
    assert jobs.ended(name) is None
    cluster.run("scancel", fails)
    done, at = cluster.wait(lambda: job_of(jobs, name) is None and jobs.ended(name))
    assert done
    assert 3 <= (at - seen.started_at).total_seconds() <= 20, "by Slurm's own clock, in UTC"
    assert cluster.wait(lambda: jobs.ended(fails))[0] is False


def test_a_job_without_leave_is_never_stopped(cluster, pace):
    jobs = pace(default_deadline="24h")
    strangers = {cluster.submit(), cluster.submit("--comment=gridpace deadline=3h")}
    cluster.wait(lambda: all(cluster.states()[name][0] == "RUNNING" for name in strangers))
    cluster.wait(lambda: {job.id for job in jobs.snapshot()} == strangers)
    assert not any(job.preemptible for job in jobs.snapshot())
    jobs.apply(dict.fromkeys(strangers, 0))
    waiting = cluster.submit()
    cluster.wait(lambda: waiting in jobs.held(), 10)
    assert all(cluster.states()[name][0] == "RUNNING" for name in strangers)


def test_unmarked_and_unreadable_jobs_are_left_alone_and_said(cluster, pace):
    jobs = pace()
    plain, odd = cluster.submit("--hold"), cluster.submit("--hold", "--comment=gridpace deadline=soon")
    marked = cluster.submit("--comment=gridpace deadline=2h")
    cluster.wait(lambda: [job.id for job in jobs.snapshot()] == [marked])
    assert [note.subject for note in jobs.notes()] == [odd]
    assert "deadline=soon" in jobs.notes()[0].text
    assert jobs.apply({plain: 8, "999999": 8}) == {plain: Reason.WORK_DONE, "999999": Reason.WORK_DONE}
    assert cluster.states()[plain] == ("PENDING", "JobHeldUser")


def test_who_lets_our_held_job_go_has_it(cluster, pace):
    jobs = pace()
    name = cluster.submit("--comment=gridpace deadline=8h", "--begin=now+2")
    cluster.wait(lambda: job_of(jobs, name))
    jobs.apply({})
    cluster.wait(lambda: jobs.held() == {name: "held"})
    cluster.run("scontrol", "release", name)
    cluster.wait(lambda: cluster.states()[name][0] == "RUNNING")
    cluster.wait(lambda: job_of(jobs, name) is None)
    jobs.apply({name: 0})
    assert jobs.held() == {}
    assert cluster.states()[name][0] == "RUNNING"


def test_nothing_stays_held_after_a_crash_and_a_stop(cluster, pace, tmp_path):
    store = Store.open(tmp_path / "books.db")
    crashed = pace(store)
    names = [cluster.submit("--comment=gridpace deadline=8h", "--begin=now+2") for _ in range(3)]
    theirs = cluster.submit("--hold")
    cluster.wait(lambda: len(crashed.snapshot()) == 3)
    crashed.apply({})
    cluster.wait(lambda: set(crashed.held()) == set(names))
    crashed.close()  # as a crash: nothing is released
    again = pace(store)
    assert set(again.held()) == set(names), "the books know"
    assert again.release() == crashed.release() == ()
    cluster.wait(lambda: not any(cluster.states()[name][1].startswith("JobHeld") for name in names))
    assert cluster.states()[theirs] == ("PENDING", "JobHeldUser"), "what is not ours stays"


def test_on_a_full_disk_nothing_new_is_held_and_what_is_held_is_let_go(cluster, pace, monkeypatch):
    store = Store.in_memory()
    jobs = pace(store)
    jobs.snapshot()
    jobs.apply({})
    first = cluster.submit("--comment=gridpace deadline=8h", "--begin=now+60")
    cluster.wait(lambda: jobs.held() == {first: "held"})
    before = store.get("held_jobs", "slurm")

    def full(*_):
        raise StoreDegraded("disk full")

    with monkeypatch.context() as broken:
        broken.setattr(store, "put", full)
        second = cluster.submit("--comment=gridpace deadline=8h", "--begin=now+60")
        cluster.wait(lambda: any(second in note.text and "written down" in note.text for note in jobs.notes()))
        jobs.apply({first: 8})
        cluster.wait(lambda: jobs.held() == {})
        assert not any("Held" in cluster.states()[name][1] for name in (first, second))
        assert store.get("held_jobs", "slurm") == before
    cluster.wait(lambda: jobs.held() == {second: "held"})
    assert store.get("held_jobs", "slurm")["jobs"] == {second: "held"}


def test_a_controller_that_goes_is_an_alert_and_the_wish_stands(cluster, pace):
    jobs = pace(timeout="1s")
    name = cluster.submit("--comment=gridpace deadline=8h pause=suspend")
    cluster.wait(lambda: cluster.states()[name][0] == "RUNNING" and job_of(jobs, name))
    cluster.stop_controller()
    try:
        cluster.wait(lambda: any(note.subject == "slurm" for note in jobs.notes()))
        assert job_of(jobs, name), "the last picture stands"
        jobs.apply({name: 0})
    finally:
        cluster.start_controller()
    cluster.wait(lambda: cluster.states()[name][0] == "SUSPENDED")
    cluster.wait(lambda: not jobs.notes())


def test_two_hundred_orders_to_a_silent_controller_wait_once(cluster, tmp_path):
    commands = tmp_path / "bin"
    commands.mkdir()
    (commands / "scontrol").write_text('#!/bin/sh\necho x >> "$0.calls"\nexec sleep 60\n')
    (commands / "scontrol").chmod(0o755)
    slurm = Slurm(None, 0.5)
    slurm._env["PATH"] = f"{commands}:{slurm._env['PATH']}"
    failed = slurm.each("suspend", [str(k) for k in range(500)])
    assert len(failed) == 500
    assert "no answer" in failed["499"]
    assert (commands / "scontrol.calls").read_text().count("x") == 1


def test_a_cluster_that_was_never_read_is_an_error(cluster, tmp_path):
    config = SlurmConfig(type="slurm", partitions={"batch": "tune"}, conf=str(tmp_path / "none.conf"), timeout="2s")
    jobs = SlurmJobs(config, AdapterContext(WallClock(), tmp_path))
    with pytest.raises(AdapterError, match="slurm: squeue"):
        jobs.snapshot()
    jobs.release()


def test_two_hundred_jobs_end_as_they_were(cluster, pace):
    jobs = pace()
    for _ in range(4):
        options = ("--array=0-49", "--gres=gpu:h100:1", "--output=/dev/null")
        text = cluster.submit("--comment=gridpace deadline=8h pause=suspend", *options)
        assert text.strip().isdigit()
    cluster.wait(lambda: Counter(job.state for job in jobs.snapshot()) == {JobState.RUNNING: 16, JobState.WAITING: 184})
    jobs.apply({})
    cluster.wait(lambda: len(jobs.held()) == 184)
    running = [job.id for job in jobs.snapshot() if job.state is JobState.RUNNING]
    jobs.apply(dict.fromkeys(running, 0))
    cluster.wait(lambda: "RUNNING" not in {state for state, _ in cluster.states().values()})
    assert jobs.release() == ()
    cluster.wait(lambda: "SUSPENDED" not in {state for state, _ in cluster.states().values()})
    left = {reason for state, reason in cluster.states().values() if state == "PENDING"}
    assert not any(reason.startswith("JobHeld") for reason in left)
    assert json.loads(cluster.run("squeue", "--json"))["errors"] == []


def test_a_hold_that_comes_when_slurm_has_just_started_the_job_is_undone_and_the_job_is_paced_on(cluster, pace):
    jobs = pace()
    name = cluster.submit("--comment=gridpace deadline=8h pause=suspend", "--begin=now+2")
    cluster.wait(lambda: job_of(jobs, name))
    cluster.wait(lambda: cluster.states()[name][0] == "RUNNING")
    jobs.apply({name: 8})
    carry_out = jobs._mover.carry_out

    def late(*given):  # as if the hand had read before it started
        jobs._mover.carry_out = carry_out
        jobs._mover.stop("hold", [name])
        carry_out(*given)

    jobs._mover.carry_out = late
    cluster.wait(lambda: jobs._mover.carry_out is carry_out)
    cluster.wait(lambda: cluster.states()[name] == ("RUNNING", "None") and jobs.held() == {})
    jobs.apply({name: 0})
    cluster.wait(lambda: cluster.states()[name][0] == "SUSPENDED")
    assert jobs.held() == {name: "suspended"}


def test_an_order_of_which_the_answer_was_lost_is_seen_through(cluster, pace, monkeypatch):
    jobs = pace()
    name = cluster.submit("--comment=gridpace deadline=8h pause=suspend")
    cluster.wait(lambda: cluster.states()[name][0] == "RUNNING" and job_of(jobs, name))
    each, lost = Slurm.each, []

    def unheard(self, verb, names):
        names = list(names)
        answer = each(self, verb, names)
        if names and verb not in lost:
            lost.append(verb)
            return dict.fromkeys(names, "no answer")
        return answer

    monkeypatch.setattr(Slurm, "each", unheard)
    jobs.apply({name: 0})
    cluster.wait(lambda: cluster.states()[name][0] == "SUSPENDED" and "suspend" in lost)
    cluster.wait(lambda: not jobs.notes())
    assert jobs.held() == {name: "suspended"}
    jobs.apply({name: 8})
    cluster.wait(lambda: cluster.states()[name][0] == "RUNNING" and "resume" in lost)
    cluster.wait(lambda: (one := job_of(jobs, name)) and one.state is JobState.RUNNING and one.gpus == 8)
    jobs.apply({name: 0})
    cluster.wait(lambda: cluster.states()[name][0] == "SUSPENDED")
    assert jobs.held() == {name: "suspended"}


def test_what_waits_behind_a_suspended_job_is_no_work_for_the_plan_yet(cluster, pace):
    jobs = pace()
    first, second = (cluster.submit("--comment=gridpace deadline=8h pause=suspend", minutes=30) for _ in range(2))
    third = cluster.submit("--comment=gridpace deadline=8h pause=suspend", minutes=30)
    cluster.wait(lambda: len(jobs.snapshot()) == 3 and cluster.states()[second][0] == "RUNNING")
    jobs.apply({first: 0, second: 8})
    cluster.wait(lambda: cluster.states()[first][0] == "SUSPENDED")
    now = WallClock().now()
    cluster.wait(lambda: job_of(jobs, third).release > now)
    assert job_of(jobs, first).release <= now
    cluster.run("scancel", second)
    cluster.wait(lambda: job_of(jobs, third).release <= WallClock().now())
