"""What real Slurms of 22.05, 24.11 and 26.05 answered, in each form of their API: the same jobs and nodes are read."""

import json
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from adapters.jobs.slurm_nodes import Node, free_gpus, nodes_in, nodes_of
from adapters.jobs.slurm_read import PENDING, RUNNING, SUSPENDED, jobs_of

RECORDED = json.loads((Path(__file__).parents[1] / "data" / "slurm" / "recordings.json").read_text())
TIMES = ("submit_time", "eligible_time", "start_time", "suspend_time", "pre_sus_time")
LEAVE = "gridpace deadline=8h pause=suspend"
EXPECTED = {
    # id: state, reason, GPUs, limit in minutes, comment, licences, hours until it may start
    "1": (RUNNING, "None", 4, 60, f"{LEAVE} value=1.2", "power_kw:8", 0),
    "2": (SUSPENDED, "None", 4, 30, LEAVE, "", 0),
    "3": (RUNNING, "None", 4, 30, "gridpace deadline=8h", "", 0),
    "4": (PENDING, "JobHeldUser", 8, 90, "gridpace deadline=4h", "", 0),
    "5": (PENDING, "JobHeldAdmin", 8, 90, "gridpace deadline=4h pause=requeue", "", 1),
    "6": (PENDING, "BeginTime", 8, None, "", "", 2),
    **{f"7_{task}": (PENDING, "BeginTime", 1, 10, "gridpace deadline=6h", "", 3) for task in (0, 3, 6, 9)},
    "8": (PENDING, "BeginTime", 8, 10, "", "", 3),
}


def form_of_23_02(answer):
    """v0.0.39, by its schema: a state is a text and a time a number; counts and limits are objects already."""
    plain = lambda value: value["number"] if value["set"] else 0  # noqa: E731
    jobs = [
        {**job, "job_state": job["job_state"][0], **{name: plain(job[name]) for name in TIMES if name in job}}
        for job in answer["jobs"]
    ]
    return {**answer, "jobs": jobs}


def answers():
    found = []
    for version, one in RECORDED.items():
        at = datetime.fromtimestamp(one["at"], UTC)
        found.append(pytest.param(one["jobs"], at, id=f"{one['release']} {version}"))
    at = datetime.fromtimestamp(RECORDED["v0.0.40"]["at"], UTC)
    return [*found, pytest.param(form_of_23_02(RECORDED["v0.0.40"]["jobs"]), at, id="v0.0.39 by its schema")]


@pytest.mark.parametrize(("answer", "at"), answers())
def test_every_form_tells_of_the_same_jobs(answer, at):
    jobs, odd = jobs_of(answer, at)
    assert odd == ()
    seen = {
        job.id: (job.state, job.reason, job.gpus, job.limit and job.limit / timedelta(minutes=1), job.comment,
                 job.licences, max(0, round((job.begin - at) / timedelta(hours=1))))
        for job in jobs
    }  # fmt: skip
    assert seen == EXPECTED
    by_id = {job.id: job for job in jobs}
    assert {name for name, job in by_id.items() if job.stopped} == {"2", "4", "5"}
    assert timedelta(seconds=2) < by_id["2"].ran < by_id["1"].ran < timedelta(seconds=30)
    assert {job.user for job in jobs} == {"root"}
    assert {job.partition for job in jobs} == {"batch"}


def test_an_answer_that_tells_of_an_error_or_holds_no_jobs_is_none():
    at = datetime.now(UTC)
    for wrong in ({}, {"jobs": None}, {"jobs": [], "errors": [{"error": "Unable to contact slurm controller"}]}):
        with pytest.raises(ValueError, match=r"error|no list"):
            jobs_of(wrong, at)


def test_a_job_that_cannot_be_understood_costs_that_job_alone():
    one = RECORDED["v0.0.45"]
    rows = [dict(row) for row in one["jobs"]["jobs"]]
    rows[0]["submit_time"] = {"set": False, "infinite": False, "number": 0}
    del rows[1]["partition"]
    jobs, odd = jobs_of({"jobs": rows}, datetime.fromtimestamp(one["at"], UTC))
    assert len(odd) == 2
    assert len(jobs) == len(EXPECTED) - 2


@pytest.mark.parametrize("version", RECORDED)
def test_every_form_tells_of_the_same_nodes(version):
    one = RECORDED[version]
    expected = [Node("gpu0", "batch", "mixed", 8, 8), Node("gpu1", "batch", "draining", 8, 4, "fan broken")]
    told = nodes_of(one["nodes"])
    assert [replace(node, used=node.used or 8 - 4 * k) for k, node in enumerate(told)] == expected
    listed = nodes_in(one["sinfo"])
    assert [replace(node, reason="") for node in listed] == [replace(node, reason="") for node in expected]
    assert free_gpus(listed) == {"batch": 0}
