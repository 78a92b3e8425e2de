"""A real daemon paces two hundred jobs on the twin of a cluster: an event, a cut watch, a lost server, kill -9; in the
end nothing is held."""

from datetime import UTC, datetime, timedelta

import pytest

from tests.support.batch_site import BatchSite, draw_kw
from tests.support.kube import Cluster

SYSTEM = "{{type: kubernetes, namespaces: {{work: tune}}, kubeconfig: {0}, refresh: 0.5s, timeout: 3s, watch: 5s}}"


KUEUE = SYSTEM.removesuffix("}}") + ", cluster_queues: [batch]}}"


@pytest.fixture
def site(request):
    """A cluster of sixteen GPUs, and a site over it; with Kueue where a test asks for it."""
    kueue = getattr(request, "param", False)
    cluster = Cluster(16, kueue=kueue)
    lab = BatchSite(cluster.folder, (KUEUE if kueue else SYSTEM).format(cluster.path))
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
    # Jobs are stopped one after the other, among them those that began while the first plan was made.
    daemon.wait(lambda: len(cluster.marked()) == 200 - 16 and len(cluster.running()) == 16, 60)
    at_work = cluster.running()

    # Room for idle cards (16 x 75 W) and for no job at its lowest cap: all are suspended, by leave of their owners.
    body = {"id": "e1", "version": 1, "site": "lab", "start": "now", "duration": "PT30M", "limit_kw": 1.25,
            "ramp_in_s": 2, "ramp_out_s": 2, "rebound_s": 1}  # fmt: skip
    status, answer = daemon.call("POST", "/api/v1/events", body)
    assert status in {200, 201}, answer
    daemon.wait(lambda: not cluster.running(), 90)
    stopped = {f"work.{name}" for name, mark in cluster.marked().items() if mark == "suspended"}
    assert stopped == at_work, "who runs goes on, until the event"

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


@pytest.mark.timeout(240)
@pytest.mark.parametrize("site", [True], indirect=True)
def test_what_a_dead_daemon_holds_is_listed_and_let_go_by_commands(site):
    cluster, start = site
    daemon = start()
    daemon.serving()
    words = {"deadline": "6h", "pause": "requeue", "runtime": "1h"}
    plain, queued = cluster.submit(gpus=8, **words), cluster.submit(gpus=8, queue="lq", **words)
    daemon.wait(lambda: cluster.running() == {plain, queued}, 120)
    body = {"id": "e1", "version": 1, "site": "lab", "start": "now", "duration": "PT30M", "limit_kw": 1.25,
            "ramp_in_s": 2, "ramp_out_s": 2, "rebound_s": 1}  # fmt: skip
    assert daemon.call("POST", "/api/v1/events", body)[0] in {200, 201}
    held = {"suspended", "deactivated", "gridpace"}  # the job, the Workload of the other, and the queue asks us
    daemon.wait(lambda: set(cluster.marked().values()) == held and not cluster.running(), 90)
    late = cluster.submit(gpus=1, **words)  # waits for the plan, which gives it nothing while the event lasts
    daemon.wait(lambda: cluster.marked().get(late.split(".")[1]) == "waiting", 60)
    daemon.wait(lambda: {plain, queued, late} <= in_books(daemon), 30)
    daemon.kill()

    code, said = daemon.command("doctor")
    assert code == 1, "held, and nobody there to let it go"
    assert said.splitlines()[-1].endswith(" held; no daemon runs"), said
    assert in_books(daemon) == {plain, queued, late, "batch"}
    for what in (f"{plain}: suspended", f"{queued}: deactivated", f"{late}: waiting", "batch: asks our AdmissionCheck"):
        assert f"job {what} in kubernetes" in said, said
    assert len(cluster.marked()) == 4, "looking lets nothing go"
    code, said = daemon.command("release")
    assert (code, said.splitlines()[-1]) == (0, "No daemon runs. Everything is given back."), said
    assert cluster.marked() == {}
    with cluster.twin.lock:
        assert "admissionChecksStrategy" not in cluster.twin.peek("clusterqueues", "", "batch")["spec"]
    assert cluster.workload(queued)["spec"]["active"] is True
    assert daemon.command("doctor") == (0, "0 held; no daemon runs\n")
    cluster.wait(lambda: len(cluster.running()) == 2)  # as many as the GPUs are enough for


def in_books(daemon):
    """Jobs that the daemon's books say are held."""
    _, said = daemon.command("doctor")
    return {line.split()[1].rstrip(":") for line in said.splitlines() if line.startswith("job ")}
