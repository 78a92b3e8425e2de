"""What the config lets Gridpace do to Slurm's jobs, from mild to hard, on a real Slurm."""

import threading
from datetime import UTC, datetime, timedelta

import pytest
from pydantic import ValidationError

from adapters.jobs.slurm import SlurmConfig
from optimizer.domain import JobState
from scheduler.store.store import Store
from tests.support.slurm import a_cluster, job_of, pacing

pytestmark = pytest.mark.timeout(180)

POWER = "--licenses=power_kw:8"
LICENCES = {"rungs": ("licences", "hold"), "licence": "power_kw"}


@pytest.fixture(scope="module")
def cluster():
    with a_cluster("rungs-", nodes=3, licences=40) as made:
        yield made


@pytest.fixture
def pace(cluster):
    with pacing(cluster) as make:
        yield make


def kept(cluster):
    """Licences that our reservation keeps."""
    text = cluster.run("scontrol", "show", "reservation", "-o")
    return int(text.partition("power_kw:")[2].split()[0]) if "ReservationName=gridpace " in text else 0


def test_licences_that_nobody_was_granted_are_kept_and_no_job_is_touched(cluster, pace):
    jobs = pace(**LICENCES)
    assert jobs.snapshot() == []
    jobs.apply({})
    cluster.wait(lambda: kept(cluster) == 40)
    first, second = (cluster.submit("--comment=gridpace deadline=8h", POWER) for _ in range(2))
    cluster.wait(lambda: job_of(jobs, first) and job_of(jobs, second))
    jobs.apply({first: 0, second: 0})
    cluster.wait(lambda: cluster.states()[first] == cluster.states()[second] == ("PENDING", "Licenses"))
    assert jobs.held() == {"reservation gridpace": "reserved"}, "no job is held"

    jobs.apply({first: 8})
    cluster.wait(lambda: cluster.states()[first][0] == "RUNNING")
    assert kept(cluster) == 32
    assert cluster.states()[second][0] == "PENDING"
    jobs.apply({second: 8})
    cluster.wait(lambda: cluster.states()[second][0] == "RUNNING")
    stranger = cluster.submit(POWER)
    cluster.wait(lambda: cluster.states()[stranger][0] == "RUNNING")
    cluster.wait(lambda: kept(cluster) == 16)  # a job that is not paced has its licences on top


def reserved_until(cluster):
    """When Slurm ends our reservation."""
    text = cluster.run("scontrol", "show", "reservation", "gridpace", "-o")
    return datetime.fromisoformat(text.partition("EndTime=")[2].split()[0]).astimezone(UTC)


def test_a_reservation_is_renewed_while_nothing_changes_what_it_keeps(cluster, pace):
    # Slurm counts a reservation in whole minutes, so it stands for one; renewed after a third of the lease.
    jobs = pace(licence_lease="12s", **LICENCES)
    jobs.snapshot()
    jobs.apply({})
    cluster.wait(lambda: kept(cluster) == 40)
    first = reserved_until(cluster)
    for more in (2, 6):  # and again
        cluster.wait(lambda more=more: reserved_until(cluster) >= first + timedelta(seconds=more))
        assert kept(cluster) == 40
    assert jobs.notes() == ()


def test_a_reservation_that_is_gone_is_made_again_and_is_known_after_a_crash(cluster, pace, tmp_path):
    store = Store.open(tmp_path / "books.db")
    crashed = pace(store, licence_lease="12s", **LICENCES)
    crashed.snapshot()
    crashed.apply({})
    cluster.wait(lambda: kept(cluster) == 40)
    cluster.run("scontrol", "delete", "ReservationName=gridpace")  # as its end does
    assert kept(cluster) == 0
    cluster.wait(lambda: kept(cluster) == 40)  # though nothing has changed
    crashed.close()  # as a crash: nothing is released
    again = pace(store, **LICENCES)
    assert again.held()["reservation gridpace"] == "reserved"
    assert again.release() == ()
    assert kept(cluster) == 0


def test_a_reservation_of_that_name_that_is_not_ours_is_left_alone_and_said(cluster, pace):
    cluster.run("scontrol", "create", "reservation", "ReservationName=gridpace", "StartTime=now", "Duration=9",
                "Users=root", "Flags=LICENSE_ONLY", "Licenses=power_kw:3")  # fmt: skip
    try:
        jobs = pace(**LICENCES)
        jobs.snapshot()
        jobs.apply({})
        cluster.wait(lambda: any("licences" in note.text for note in jobs.notes()))
        assert jobs.release() == ()
        assert kept(cluster) == 3
    finally:
        cluster.run("scontrol", "delete", "ReservationName=gridpace")


def test_what_the_config_does_not_name_is_not_done(cluster, pace):
    jobs = pace(rungs=("hold",))
    name = cluster.submit("--comment=gridpace deadline=8h pause=suspend")
    cluster.wait(lambda: cluster.states()[name][0] == "RUNNING" and job_of(jobs, name))
    assert not job_of(jobs, name).preemptible
    jobs.apply({name: 0})
    waits = cluster.submit("--comment=gridpace deadline=8h", "--begin=now+60")
    cluster.wait(lambda: jobs.held() == {waits: "held"})
    assert job_of(jobs, name).state is JobState.RUNNING


def test_while_we_only_look_no_new_job_is_held_and_no_licence_kept(cluster, pace):
    jobs = pace(**LICENCES)
    jobs.quiet(True)
    jobs.snapshot()
    jobs.apply({})
    waits = cluster.submit("--comment=gridpace deadline=8h", "--begin=now+60")
    cluster.wait(lambda: job_of(jobs, waits))
    threading.Event().wait(1.0)  # some turns of the hand in which nobody has said a word about it
    assert (jobs.held(), kept(cluster)) == ({}, 0)
    jobs.quiet(False)  # an operator's `mode control`
    cluster.wait(lambda: jobs.held() == {waits: "held", "reservation gridpace": "reserved"})
    jobs.quiet(True)
    cluster.wait(lambda: jobs.held() == {} and kept(cluster) == 0)
    state, why = cluster.states()[waits]
    assert (state, "Held" in why) == ("PENDING", False)


@pytest.mark.parametrize("wrong", [{"rungs": ("licences",)}, {"licence": "power_kw"}, {"rungs": ()}])
def test_a_rung_without_its_licence_is_refused(wrong):
    with pytest.raises(ValidationError, match=r"licence|rungs"):
        SlurmConfig(type="slurm", partitions={"batch": "tune"}, **wrong)


def start_of(cluster, job):
    """When Slurm says that it starts."""
    text = cluster.run("squeue", "-h", "-j", job, "-o", "%S").strip()
    return None if text in {"", "N/A"} else datetime.fromisoformat(text).astimezone(UTC)


def near(found, expected, seconds=5):
    return found is not None and abs((found - expected).total_seconds()) < seconds


DEFER = {"rungs": ("defer", "suspend", "requeue"), "defer_lease": "20m"}


def test_what_waits_is_put_off_until_the_plan_starts_it_and_slurm_shows_that(cluster, pace):
    jobs = pace(Store.in_memory(), **DEFER)
    jobs.snapshot()
    jobs.apply({})
    planned = datetime.now(UTC).replace(microsecond=0) + timedelta(hours=3)
    own = planned - timedelta(hours=2)
    first, array = (
        cluster.submit("--comment=gridpace deadline=8h", "--begin=now+1hour", *more) for more in ((), ("--array=0-1",))
    )
    soon = cluster.submit("--comment=gridpace deadline=8h", "--begin=now+60")
    jobs.expect({first: planned, f"{array}_1": planned + timedelta(hours=1)})
    cluster.wait(lambda: near(start_of(cluster, first), planned))
    cluster.wait(lambda: near(start_of(cluster, f"{array}_1"), planned + timedelta(hours=1)))
    soonest = datetime.now(UTC) + timedelta(minutes=20)
    cluster.wait(lambda: near(start_of(cluster, soon), soonest, 60))  # the plan says nothing of it
    assert near(start_of(cluster, f"{array}_0"), own, 30), "its owner wants it later than that"
    assert cluster.states()[first][0] == "PENDING"
    assert jobs.held()[first].startswith(f"deferred to={planned:%Y-%m-%dT%H:%M:%SZ}")
    assert near(job_of(jobs, first).release, own, 30), "its owner's start counts for the plan, not ours"

    jobs.expect({first: planned + timedelta(hours=1)})
    cluster.wait(lambda: near(start_of(cluster, first), planned + timedelta(hours=1)))
    jobs.apply({first: 8, soon: 8})
    cluster.wait(lambda: near(start_of(cluster, first), own, 30))  # its owner's own, which is still to come
    cluster.wait(lambda: start_of(cluster, soon) <= datetime.now(UTC) + timedelta(minutes=1))
    assert set(jobs.held()) == {f"{array}_1"}


def test_a_start_that_was_put_off_is_put_off_again_in_time_while_nothing_is_granted(cluster, pace):
    jobs = pace(Store.in_memory(), **{**DEFER, "defer_lease": "16s"})
    jobs.snapshot()
    jobs.apply({})
    name = cluster.submit("--comment=gridpace deadline=8h", "--begin=now+3")
    cluster.wait(lambda: name in jobs.held())
    first = cluster.wait(lambda: start_of(cluster, name))
    cluster.wait(lambda: (start_of(cluster, name) or first) >= first + timedelta(seconds=5))
    assert datetime.now(UTC) < first, "renewed before its time came, not after Slurm had started it"
    assert cluster.states()[name][0] == "PENDING"


def test_a_job_that_was_put_off_begins_by_itself_and_the_next_daemon_knows_it(cluster, pace, tmp_path):
    store = Store.open(tmp_path / "books.db")
    dead = pace(store, **{**DEFER, "defer_lease": "1m"})
    dead.snapshot()
    dead.apply({})
    name, other = (cluster.submit("--comment=gridpace deadline=8h pause=suspend", "--begin=now+2") for _ in range(2))
    dead.expect({other: datetime.now(UTC) + timedelta(hours=2)})
    cluster.wait(lambda: {name, other} <= set(dead.held()))
    cluster.wait(lambda: all(cluster.states()[one] == ("PENDING", "BeginTime") for one in (name, other)))
    dead.close()  # as a crash: nothing is released
    cluster.run("scontrol", "update", f"JobId={name}", "StartTime=now")  # as its start does when it comes
    cluster.wait(lambda: cluster.states()[name][0] == "RUNNING")
    again = pace(store, **DEFER)
    assert other in again.held()
    cluster.wait(lambda: job_of(again, other))
    assert again.release() == ()
    cluster.wait(lambda: cluster.states()[other][0] == "RUNNING")
    assert again.held() == {}


def test_whoever_gives_a_job_another_start_has_it(cluster, pace):
    jobs = pace(Store.in_memory(), **DEFER)
    jobs.snapshot()
    jobs.apply({})
    name = cluster.submit("--comment=gridpace deadline=8h", "--begin=now+60")
    cluster.wait(lambda: name in jobs.held() and cluster.states()[name][1] == "BeginTime")
    theirs = datetime.now(UTC) + timedelta(hours=7)
    cluster.run("scontrol", "update", f"JobId={name}", "StartTime=now+7hours")
    cluster.wait(lambda: name not in jobs.held())
    cluster.wait(lambda: job_of(jobs, name) is None)
    assert near(start_of(cluster, name), theirs)


def test_in_an_emergency_nobody_starts_on_drained_nodes_and_nothing_that_runs_is_stopped(cluster, pace, tmp_path):
    store = Store.open(tmp_path / "books.db")
    jobs = pace(store, rungs=("hold", "drain"))
    runs = cluster.submit()
    cluster.wait(lambda: cluster.states()[runs][0] == "RUNNING")
    cluster.run("scontrol", "update", "NodeName=gpu2", "State=DRAIN", "Reason=fan broken")
    jobs.snapshot()
    jobs.apply({})
    jobs.emergency(True)
    try:
        cluster.wait(lambda: nodes(cluster)["gpu0"][1] == nodes(cluster)["gpu1"][1] == "gridpace: emergency")
        stranger = cluster.submit()
        cluster.wait(lambda: cluster.states()[stranger][0] == "PENDING" and cluster.states()[stranger][1] != "None")
        assert cluster.states()[runs][0] == "RUNNING"
        assert set(jobs.held()) == {"node gpu0", "node gpu1"}
        cluster.run("scontrol", "update", "NodeName=gpu0", "Reason=disk failed")  # somebody else has it now
        jobs.emergency(False)
        cluster.wait(lambda: cluster.states()[stranger][0] == "RUNNING" and jobs.held() == {})
        assert nodes(cluster)["gpu0"][1] == "disk failed"
        assert nodes(cluster)["gpu2"][1] == "fan broken"
        cluster.run("scontrol", "update", "NodeName=gpu0,gpu2", "State=RESUME")
        jobs.emergency(True)
        cluster.wait(lambda: len(jobs.held()) == 3)
        jobs.close()  # as a crash: nothing is released
        again = pace(store)
        assert len(again.held()) == 3
        assert again.release() == ()
        assert not any(state.startswith("drain") for state, _ in nodes(cluster).values())
    finally:
        for node in [name for name, (state, _) in nodes(cluster).items() if state.startswith("drain")]:
            cluster.run("scontrol", "update", f"NodeName={node}", "State=RESUME")


def nodes(cluster):
    """State and reason by node."""
    rows = (row.split("|") for row in cluster.run("sinfo", "-h", "-N", "-o", "%N|%T|%E").splitlines())
    return {name: (state, why) for name, state, why in rows}
