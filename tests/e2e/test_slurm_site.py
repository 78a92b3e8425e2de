"""A real daemon paces a real Slurm: jobs wait for a price, an event suspends them, nothing stays held at the end."""

from collections import Counter
from datetime import UTC, datetime, timedelta

import pytest

from tests.support.batch_site import BatchSite, draw_kw
from tests.support.slurm import a_cluster

SYSTEM = "{{type: slurm, partitions: {{batch: tune}}, refresh: 0.5s, timeout: 3s, conf: {conf}}}"

# GPUs that the fast loop took stay taken for a minute, which other tests watch; here it would only be waited for.
SHORT = "import datetime, scheduler.dwell; scheduler.dwell.DWELL = datetime.timedelta(seconds=5)"


@pytest.fixture
def site():
    """A cluster of sixteen GPUs on four nodes, and a site over it."""
    with a_cluster("site-", nodes=4, gpus=4) as cluster:
        made = BatchSite(cluster.folder, SYSTEM.format(conf=cluster.conf), env=cluster.env)
        try:
            yield cluster, made
        finally:
            made.end()


def stopped(cluster, job):
    """Suspended where Slurm had started it before we saw it, held where it had not."""
    state, reason = cluster.states()[job]
    return state == "SUSPENDED" or (state == "PENDING" and reason.startswith("JobHeld"))


def running(cluster):
    return Counter(state for state, _ in cluster.states().values())["RUNNING"]


@pytest.mark.timeout(480)
def test_two_hundred_jobs_an_event_a_lost_controller_and_nothing_left_held(site):
    cluster, lab = site
    # Cheap now and dear later: with nothing to gain by running now, a plan may as well wait.
    lab.prices(datetime.now(UTC), 10, 90, timedelta(hours=2))
    daemon = lab.start(before=SHORT)
    daemon.serving()
    for _ in range(4):
        cluster.submit("--comment=gridpace deadline=4h pause=suspend", "--array=0-49", "--gres=gpu:h100:1",
                       "--output=/dev/null", minutes=10)  # fmt: skip
    daemon.wait(lambda: running(cluster) == 16, 90)
    daemon.wait(lambda: len(daemon.get("/api/v1/jobs")["jobs"]) == 200)

    daemon.wait(lambda: draw_kw(daemon) > 9, 90)  # the plan's minute

    # The utility asks for more than caps can give (sixteen GPUs at their lowest draw 3 kW, and 1.2 kW idle): what runs
    # is suspended within seconds, by leave of its owners.
    body = {"id": "e1", "version": 1, "site": "lab", "start": "now", "duration": "PT30M", "limit_kw": 1.9,
            "ramp_in_s": 2, "ramp_out_s": 2, "rebound_s": 1}  # fmt: skip
    status, answer = daemon.call("POST", "/api/v1/events", body)
    assert status in {200, 201}, answer
    daemon.wait(lambda: running(cluster) <= 6, 60)
    suspended = Counter(state for state, _ in cluster.states().values())["SUSPENDED"]
    assert suspended >= 10

    cluster.stop_controller()
    daemon.wait(lambda: "jobs_lost" in str(daemon.get("/api/v1/status")), 90)
    cluster.start_controller()
    assert daemon.call("DELETE", "/api/v1/events/e1")[0] == 200
    daemon.wait(lambda: running(cluster) == 16, 90)

    held = sum(reason.startswith("JobHeld") for _, reason in cluster.states().values())
    assert held > 100
    assert daemon.call("POST", "/api/v1/operator", {"action": "pause"})[0] == 200
    daemon.wait(lambda: not any(reason.startswith("JobHeld") for _, reason in cluster.states().values()))
    assert daemon.call("POST", "/api/v1/operator", {"action": "resume"})[0] == 200
    daemon.wait(lambda: sum(reason.startswith("JobHeld") for _, reason in cluster.states().values()) > 100)

    daemon.process.terminate()
    assert daemon.process.wait(60) == 0
    states = cluster.states()
    assert "SUSPENDED" not in {state for state, _ in states.values()}
    assert not [job for job in states if stopped(cluster, job)]


@pytest.mark.timeout(400)
def test_jobs_wait_for_the_cheap_hours_and_a_killed_daemon_leaves_nothing_held_for_ever(site):
    cluster, lab = site
    lab.prices(datetime.now(UTC), 900, 10, timedelta(hours=2))
    daemon = lab.start()
    daemon.serving()
    waits = cluster.submit("--comment=gridpace deadline=6h pause=suspend", minutes=60, gpus=4)
    urgent = cluster.submit("--comment=gridpace deadline=70m", minutes=60, gpus=4)
    daemon.wait(lambda: cluster.states()[urgent][0] == "RUNNING" and stopped(cluster, waits), 90)  # the plan's minute
    daemon.wait(lambda: "dearer than later" in str(daemon.call("GET", f"/api/v1/explain/{waits}")))
    daemon.kill()
    again = lab.start()
    again.serving()
    assert stopped(cluster, waits)
    again.process.terminate()
    assert again.process.wait(60) == 0
    assert not stopped(cluster, waits)
    assert cluster.states()[urgent][0] == "RUNNING", "nobody gave leave to stop it"

    dead = lab.start()
    dead.wait(lambda: stopped(cluster, waits))
    dead.kill()
    code, said = dead.command("doctor")
    assert (code, f"job {waits}: " in said) == (1, True), said
    code, said = dead.command("release")
    assert code == 0, said
    assert not stopped(cluster, waits)
    assert dead.command("doctor") == (0, "0 held; no daemon runs\n")
    assert cluster.states()[urgent][0] == "RUNNING"
