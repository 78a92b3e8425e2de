"""What the config lets Gridpace do to Slurm's jobs, from mild to hard, on a real Slurm."""

import threading

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


def test_a_reservation_ends_by_itself_is_made_again_and_is_known_after_a_crash(cluster, pace, tmp_path):
    store = Store.open(tmp_path / "books.db")
    crashed = pace(store, licence_lease="1m", **LICENCES)
    crashed.snapshot()
    crashed.apply({})
    cluster.wait(lambda: kept(cluster) == 40)
    cluster.run("scontrol", "delete", "ReservationName=gridpace")  # as its end does
    name = cluster.submit("--comment=gridpace deadline=8h", POWER, "--hold")
    cluster.run("scontrol", "release", name)
    cluster.wait(lambda: kept(cluster) in {32, 40}, 40)
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
