"""Slurm by a real slurmrestd: what it can is done by it, the rest by the commands, and what is missing is said."""

from datetime import UTC, datetime

import pytest
from pydantic import ValidationError

from adapters.context import AdapterContext
from adapters.jobs.slurm_cli import Slurm
from adapters.jobs.slurm_config import RestConfig
from adapters.jobs.slurm_rest import SlurmRest
from optimizer.domain import JobState
from scheduler.clock import WallClock
from scheduler.store.store import Store
from tests.support.slurm import a_cluster, job_of, pacing

pytestmark = pytest.mark.timeout(180)
RUNGS = {"rungs": ("hold", "suspend")}


@pytest.fixture(scope="module")
def cluster():
    with a_cluster("rest-", rest=True) as made:
        yield made


@pytest.fixture
def pace(cluster):
    (cluster.folder / "token").write_text(cluster.token())
    (cluster.folder / "token").chmod(0o600)
    user = cluster.run("id", "-un").strip()
    rest = {"url": f"http://127.0.0.1:{cluster.rest}", "user": user, "token": "file:token"}
    with pacing(cluster) as make:
        yield lambda *given, **more: make(*given, rest=rest, **more)


@pytest.fixture
def commands(monkeypatch):
    """What is done by commands meanwhile."""
    given, run = [], Slurm._run

    def heard(self, *command, **more):
        given.append(command)
        return run(self, *command, **more)

    monkeypatch.setattr(Slurm, "_run", heard)
    return given


def test_reading_and_holding_go_by_rest_and_suspending_by_the_commands(cluster, pace, commands):
    jobs = pace(Store.in_memory(), **RUNGS)
    name = cluster.submit("--comment=gridpace deadline=8h pause=suspend", "--begin=now+2")
    tasks = cluster.submit("--comment=gridpace deadline=8h", "--array=0-2", "--begin=now+60")
    cluster.wait(lambda: len(jobs.snapshot()) == 4)
    jobs.apply({})
    everyone = {name, *(f"{tasks}_{k}" for k in range(3))}
    cluster.wait(lambda: set(jobs.held()) == everyone)
    cluster.wait(lambda: cluster.states()[name] == ("PENDING", "JobHeldAdmin"))
    moved = {job for _, verb, jobs in commands for job in jobs.split(",") if verb == "hold"}
    assert moved == everyone - {name}, "tasks of arrays alone go by the commands"
    commands.clear()
    jobs.apply({name: 8, f"{tasks}_1": 8})
    cluster.wait(lambda: cluster.states()[name][0] == "RUNNING" and job_of(jobs, name).state is JobState.RUNNING)
    cluster.wait(lambda: set(jobs.held()) == everyone - {name, f"{tasks}_1"})
    assert commands == [("scontrol", "release", f"{tasks}_1")]
    commands.clear()
    jobs.apply({name: 0})
    cluster.wait(lambda: cluster.states()[name][0] == "SUSPENDED" and jobs.held()[name] == "suspended")
    assert {command[:2] for command in commands} == {("scontrol", "suspend")}
    assert not jobs.notes()


def test_start_times_go_by_rest(cluster, pace, commands):
    jobs = pace(Store.in_memory(), rungs=("defer",))
    jobs.snapshot()
    jobs.apply({})
    name = cluster.submit("--comment=gridpace deadline=8h", "--begin=now+2")
    cluster.wait(lambda: name in jobs.held())
    cluster.wait(lambda: cluster.states()[name] == ("PENDING", "BeginTime"))
    jobs.apply({name: 8})
    cluster.wait(lambda: cluster.states()[name][0] == "RUNNING")
    assert commands == []


def test_a_wrong_token_and_a_server_that_is_gone_are_alerts_and_the_wish_stands(cluster, pace):
    jobs = pace(Store.in_memory(), timeout="2s", **RUNGS)
    name = cluster.submit("--comment=gridpace deadline=8h pause=suspend")
    cluster.wait(lambda: cluster.states()[name][0] == "RUNNING" and job_of(jobs, name))
    good = (cluster.folder / "token").read_text()
    (cluster.folder / "token").write_text("wrong")
    cluster.wait(lambda: any(note.subject == "slurm" for note in jobs.notes()))
    cluster._end("rest-tcp")
    (cluster.folder / "token").write_text(good)
    cluster.wait(lambda: any("Connection" in note.text or "refused" in note.text for note in jobs.notes()))
    assert job_of(jobs, name), "the last picture stands"
    jobs.apply({name: 0})
    cluster._end("rest-unix")
    cluster.start_rest()
    cluster.wait(lambda: cluster.states()[name][0] == "SUSPENDED")
    cluster.wait(lambda: not jobs.notes())


def test_what_rest_cannot_do_is_said_where_the_commands_are_missing(cluster, pace, monkeypatch):
    monkeypatch.setenv("PATH", str(cluster.folder))
    jobs = pace(Store.in_memory(), **RUNGS)
    assert jobs.snapshot() == []
    assert "can't do suspend" in jobs.notes()[0].text


def test_start_times_that_a_silent_server_does_not_take_are_told_by_job_and_stop_nothing_else(tmp_path):
    config = RestConfig(url=f"unix://{tmp_path}/gone.sock")
    rest = SlurmRest(config, AdapterContext(WallClock(), tmp_path), None, 2.0)
    failed = rest.begin(["1", "2"], datetime(2026, 11, 27, tzinfo=UTC))
    assert set(failed) == {"1", "2"}
    assert rest.begin([], datetime(2026, 11, 27, tzinfo=UTC)) == {}
    rest.start_now(["1"])


@pytest.mark.parametrize("wrong", [
    {"url": "http://127.0.0.1:6820"},
    {"url": "unix:///run/s.sock", "user": "root"},
    {"url": "http://127.0.0.1:6820/slurm", "user": "root", "token": "file:token"},
])  # fmt: skip
def test_a_login_that_cannot_work_is_refused(wrong):
    with pytest.raises(ValidationError):
        RestConfig(**wrong)


def test_fields_that_it_ignores_are_an_error(cluster, pace):
    rest = pace()._slurm
    assert isinstance(rest, SlurmRest)
    told = {"errors": [], "warnings": [{"description": 'Ignoring unknown field "hold"', "source": "#/job/hold/"}]}
    rest._call = lambda *_: told
    rest._form = 45
    assert "Ignoring" in rest.each("hold", ["1"])["1"]
