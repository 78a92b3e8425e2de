"""A real daemon paces two hundred jobs on the twin of a cluster: an event, a cut watch, a lost server, kill -9; in the
end nothing is held."""

from datetime import UTC, datetime, timedelta

import pytest

from tests.support.batch_site import BatchSite, draw_kw
from tests.support.kube import Cluster

SYSTEM = "{{type: kubernetes, namespaces: {{work: tune}}, kubeconfig: {0}, refresh: 0.5s, timeout: 3s, watch: 5s}}"


@pytest.fixture
def site():
    """A cluster of sixteen GPUs, and a site over it."""
    cluster = Cluster(16)
    lab = BatchSite(cluster.folder, SYSTEM.format(cluster.path))
    # Cheap now and dear later: with nothing to gain by running now, a plan may as well wait.
    lab.prices(datetime.now(UTC), 10, 90, timedelta(hours=2))
    try:
        yield cluster, lab.start
    finally:
        lab.end()
        cluster.end()


def generations(cluster):
    """How often the spec of each job has changed."""
    with cluster.twin.lock:
        return {one["metadata"]["name"]: one["metadata"]["generation"] for one in cluster.twin.each("jobs")}


@pytest.mark.timeout(400)
def test_two_hundred_jobs_an_event_a_lost_server_a_kill_and_nothing_left_held(site):
    cluster, start = site
    for _ in range(200):
        cluster.submit(gpus=1, deadline="4h", pause="requeue", runtime="10m")
    daemon = start()
    daemon.serving()
    daemon.wait(lambda: len(daemon.get("/api/v1/jobs")["jobs"]) == 200, 60)
    daemon.wait(lambda: len(cluster.running()) == 16 and draw_kw(daemon) > 9, 90)
    daemon.wait(lambda: len(cluster.marked()) > 100)

    # Room for idle cards (16 x 75 W) and for no job at its lowest cap: all are suspended, by leave of their owners.
    body = {"id": "e1", "version": 1, "site": "lab", "start": "now", "duration": "PT30M", "limit_kw": 1.25,
            "ramp_in_s": 2, "ramp_out_s": 2, "rebound_s": 1}  # fmt: skip
    status, answer = daemon.call("POST", "/api/v1/events", body)
    assert status in {200, 201}, answer
    daemon.wait(lambda: not cluster.running(), 90)
    assert sum(mark == "suspended" for mark in cluster.marked().values()) >= 10

    # A cut watch is resumed; a server that is gone is said, and what was decided is not done twice when it is back.
    cluster.twin.cut_watches()
    cluster.twin.stop()
    daemon.wait(lambda: "jobs_lost" in str(daemon.get("/api/v1/status")), 90)
    before = generations(cluster)
    cluster.twin.serve()
    daemon.wait(lambda: "jobs_lost" not in str(daemon.get("/api/v1/status")["tick"]["notes"]), 90)
    assert not cluster.running()
    after = generations(cluster)
    assert all(after[name] - before[name] <= 1 for name in before)

    # Killed in the middle of the event: the next one knows what is ours, and lets it go when it stops.
    daemon.kill()
    held = cluster.marked()
    assert len(held) > 100
    again = start()
    again.serving()
    assert again.call("DELETE", "/api/v1/events/e1")[0] == 200
    again.wait(lambda: len(cluster.running()) == 16, 90)
    assert again.call("POST", "/api/v1/operator", {"action": "pause"})[0] == 200
    again.wait(lambda: not cluster.marked(), 60)
    again.process.terminate()
    assert again.process.wait(60) == 0
    assert cluster.marked() == {}
    with cluster.twin.lock:
        assert not [one for one in cluster.twin.each("jobs") if one["spec"]["suspend"]]
