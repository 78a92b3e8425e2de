"""Pacing Kubernetes by its twin (held to recordings of 1.36.2): owners' leave, others' hands, lost watches, servers."""

import json
import threading
from collections import Counter
from datetime import UTC, datetime, timedelta

import pytest

from adapters.jobs.kube_api import KubeApi, KubeRefused
from adapters.jobs.kube_mirror import Mirror
from adapters.ports import AdapterError
from optimizer.domain import JobState
from optimizer.reasons import Reason
from scheduler.store.store import Store, StoreDegraded
from tests.support import kube_objects as rules
from tests.support.kube import job_of, making, paced


@pytest.fixture
def made():
    with making() as make:
        yield make


def bodies(cluster):
    return [(path, body) for method, path, _, body, _ in cluster.twin.requests if method == "PATCH"]


def test_a_job_is_started_suspended_and_resumed_with_its_mark_and_its_progress(made):
    cluster, jobs = made()
    name = cluster.submit(deadline="8h", pause="requeue", runtime="30m", value="1.5", checkpoint="2s")
    paced(cluster, jobs, name)
    jobs.apply({name: 0})
    cluster.wait(lambda: cluster.marked() == {"j1": "waiting"})
    seen = job_of(jobs, name)
    assert (seen.state, seen.pools, seen.work_gpu_h, seen.value_per_gpu_h) == (JobState.WAITING, ("tune",), 4.0, 1.5)
    assert seen.checkpoint_gpu_h == pytest.approx(8 * 1 / 3600)
    jobs.apply({name: 8})
    cluster.wait(lambda: job_of(jobs, name).state is JobState.RUNNING and job_of(jobs, name).done_gpu_h > 8 * 2 / 3600)
    assert cluster.marked() == {}
    jobs.apply({name: 0})
    cluster.wait(lambda: job_of(jobs, name).state is JobState.SUSPENDED)
    done = job_of(jobs, name).done_gpu_h
    assert done > 0, "a second is lost, the way back to the checkpoint on average"
    assert jobs.held() == {name: "suspended"}
    jobs.apply({name: 8})
    cluster.wait(lambda: cluster.running() == {name})
    cluster.wait(lambda: job_of(jobs, name).done_gpu_h > done)


def test_a_job_without_leave_is_never_stopped_and_a_stranger_never_touched(made):
    cluster, jobs = made(default_deadline="24h")
    first = cluster.submit(suspend=False, gpus=4)
    second = cluster.submit(suspend=False, gpus=4, deadline="3h")
    plain = cluster.submit(suspend=False, gpus=0)
    odd = cluster.submit(suspend=False, gpus=1, deadline="soon")
    soft = cluster.submit(suspend=False, gpus=1, deadline="3h", pause="suspend")
    typo = cluster.submit(suspend=False, gpus=1, dedline="3h")
    paced(cluster, jobs, first, second)
    assert {job.id for job in jobs.snapshot()} == {first, second}
    told = {note.subject: note.text for note in jobs.notes()}
    assert set(told) == {odd, soft, typo}
    assert "deletes the pods" in told[soft]
    cluster.wait(lambda: first in cluster.running() and second in cluster.running())
    before = len(bodies(cluster))
    assert jobs.apply({first: 0, second: 0, plain: 0, "work.nobody": 8}) == {
        plain: Reason.WORK_DONE, "work.nobody": Reason.WORK_DONE}  # fmt: skip
    mark = cluster.submit(deadline="3h")
    paced(cluster, jobs, mark)
    jobs.apply({mark: 0})
    cluster.wait(lambda: mark.split(".")[1] in cluster.marked())
    assert len(bodies(cluster)) == before + 1
    assert {first, second} <= cluster.running()


def test_somebody_elses_hand_wins(made):
    cluster, jobs = made()
    ours = cluster.submit(deadline="8h", pause="requeue")
    theirs = cluster.submit(deadline="8h", suspend=False)
    cluster.wait(lambda: theirs in cluster.running())
    cluster.patch(theirs, {"spec": {"suspend": True}})
    paced(cluster, jobs, ours)
    cluster.wait(lambda: {job.id for job in jobs.snapshot()} == {ours})
    jobs.apply({ours: 0, theirs: 8})
    cluster.wait(lambda: cluster.marked() == {"j1": "waiting"})
    cluster.patch(ours, {"spec": {"suspend": False}})
    cluster.wait(lambda: job_of(jobs, ours) is None and ours in cluster.running())
    cluster.wait(lambda: cluster.job(ours)["metadata"]["annotations"]["gridpace/held"] == "yielded")
    assert jobs.held() == {}
    assert cluster.job(theirs)["spec"]["suspend"] is True


def test_a_tier_is_never_broken_by_a_pause(made, monkeypatch):
    monkeypatch.setattr("adapters.jobs.kube_moves.TURN", timedelta(seconds=1))
    cluster, jobs = made()
    # Flex 2: 25 % slower, so 15 s of work may take 20, of which it may stand still for 5.
    name = cluster.submit(pause="requeue", tier="2", runtime="15s", suspend=False)
    none = cluster.submit(pause="requeue", tier="0", runtime="1h", suspend=False)
    paced(cluster, jobs, name, none)
    cluster.wait(lambda: {name, none} <= cluster.running())
    cluster.wait(lambda: job_of(jobs, name).state is JobState.RUNNING and job_of(jobs, none).state is JobState.RUNNING)
    assert (job_of(jobs, name).preemptible, job_of(jobs, none).preemptible) == (True, False)
    job = job_of(jobs, name)
    assert (job.tier, job_of(jobs, none).tier) == (2, 0), "the loops count what slows it down as well"
    assert job.deadline - job.release == timedelta(seconds=20), "counted from its creation at the latest"
    jobs.apply({name: 0, none: 0})
    cluster.wait(lambda: cluster.marked() == {"j1": "suspended"})
    cluster.wait(lambda: name not in cluster.running())
    cluster.wait(lambda: name in cluster.running(), 20)  # though its wish is still 0
    cluster.wait(lambda: job_of(jobs, name).state is JobState.RUNNING)
    assert none in cluster.running()
    assert not job_of(jobs, name).preemptible
    # How they end is known to the books of their tiers.
    assert jobs.ended(name) is None
    over = {"type": "Complete", "status": "True", "lastTransitionTime": "2026-11-27T04:00:01Z"}
    with cluster.twin.lock:
        for job, status in ((name, {"conditions": [over], "completionTime": "2026-11-27T04:00:00Z"}),
                            (none, {"conditions": [over | {"type": "Failed"}]})):  # fmt: skip
            assert cluster.twin.patch("jobs", *job.split("."), {"status": status}, status=True)[0] == 200
    at = datetime(2026, 11, 27, 4, tzinfo=UTC)
    cluster.wait(lambda: job_of(jobs, name) is None and job_of(jobs, none) is None)
    assert (jobs.ended(name), jobs.ended(none)) == ((True, at), (False, at + timedelta(seconds=1)))


def test_the_next_daemon_and_release_know_what_a_killed_one_held(made):
    cluster, jobs = made()
    names = [cluster.submit(deadline="8h", pause="requeue", gpus=4) for _ in range(3)]
    theirs = cluster.submit(suspend=False)
    cluster.wait(lambda: theirs in cluster.running())
    cluster.patch(theirs, {"spec": {"suspend": True}})
    paced(cluster, jobs, *names)
    jobs.apply(dict.fromkeys(names, 0))
    cluster.wait(lambda: len(cluster.marked()) == 3)
    jobs.close()  # killed: nothing is let go
    books = Store.in_memory()
    again = cluster.pace(records=books)
    again.snapshot()
    assert books.get("held_jobs", "kubernetes")["jobs"] == dict.fromkeys(names, "waiting"), "for `gridpace doctor`"
    assert set(again.held()) == set(names)
    assert again.release() == ()
    assert books.get("held_jobs", "kubernetes")["jobs"] == {}
    cluster.wait(lambda: cluster.running() == set(names))
    assert cluster.marked() == {}
    assert cluster.job(theirs)["spec"]["suspend"] is True, "what is not ours stays"


def test_a_job_whose_owner_takes_the_words_back_while_it_is_held_is_let_go(made):
    cluster, jobs = made()
    silent = cluster.submit(deadline="8h", pause="requeue", gpus=4)
    odd = cluster.submit(deadline="8h", gpus=4)
    stays = cluster.submit(deadline="8h", gpus=4)
    paced(cluster, jobs, silent, odd, stays)
    jobs.apply(dict.fromkeys((silent, odd, stays), 0))
    cluster.wait(lambda: len(cluster.marked()) == 3)
    cluster.patch(silent, {"metadata": {"annotations": {"gridpace/deadline": None, "gridpace/pause": None}}})
    cluster.patch(odd, {"metadata": {"annotations": {"gridpace/deadline": "soon"}}})
    cluster.wait(lambda: {silent, odd} <= cluster.running())
    cluster.wait(lambda: cluster.marked() == {"j3": "waiting"})
    assert {note.subject for note in jobs.notes()} == {odd}
    assert jobs.held() == {stays: "waiting"}
    assert stays not in cluster.running()


def test_in_kueue_too_a_job_without_words_is_not_held_any_more(made):
    cluster, jobs = made(kueue=True)
    name = cluster.submit(queue="lq", deadline="8h", pause="requeue")
    paced(cluster, jobs, name)
    jobs.apply({name: 8})
    cluster.wait(lambda: name in cluster.running())
    jobs.apply({name: 0})
    cluster.wait(lambda: "deactivated" in cluster.marked().values())
    cluster.patch(name, {"metadata": {"annotations": {"gridpace/deadline": None, "gridpace/pause": None}}})
    cluster.wait(lambda: "deactivated" not in cluster.marked().values())
    assert cluster.workload(name)["spec"].get("active", True) is True


def test_where_nothing_may_be_written_only_what_is_ours_is_let_go(made):
    cluster, jobs = made(writes=False)
    handed = cluster.submit(deadline="8h")
    left = cluster.submit(deadline="8h", annotations={"gridpace/held": "waiting"})
    paced(cluster, jobs, handed, left)
    jobs.apply({handed: 8, left: 8})
    cluster.wait(lambda: cluster.running() == {left})
    jobs.apply({handed: 0, left: 0})
    cluster.wait(lambda: cluster.marked() == {})
    assert len(bodies(cluster)) == 1
    assert cluster.job(handed)["spec"]["suspend"] is True


def test_what_may_be_written_changes_while_it_runs(made):
    cluster, jobs = made(kueue=True, writes=False)
    name = cluster.submit(deadline="8h")
    paced(cluster, jobs, name)
    jobs.apply({name: 0})
    threading.Event().wait(0.5)
    assert bodies(cluster) == []
    jobs.quiet(False)  # an operator's `mode control`
    cluster.wait(lambda: cluster.marked() == {"batch": "gridpace", "j1": "waiting"})
    jobs.quiet(True)  # a pause
    jobs.apply({name: 8})
    cluster.wait(lambda: cluster.running() == {name} and cluster.marked() == {})
    written = len(bodies(cluster))
    handed = cluster.submit(deadline="8h")
    paced(cluster, jobs, handed)
    jobs.apply({name: 8, handed: 8})
    threading.Event().wait(0.5)
    assert len(bodies(cluster)) == written


def test_a_disk_that_says_no_stops_nothing_since_the_marks_are_the_book(made):
    class Full:
        def put(self, *_):
            raise StoreDegraded("disk full")

    cluster, jobs = made(records=Full())
    name = cluster.submit(deadline="8h", pause="requeue", suspend=False)
    cluster.wait(lambda: name in cluster.running())
    paced(cluster, jobs, name)
    jobs.apply({name: 0})
    cluster.wait(lambda: cluster.marked() == {"j1": "suspended"})
    assert jobs.release() == ()
    cluster.wait(lambda: cluster.running() == {name} and cluster.marked() == {})


def test_a_list_that_expires_between_its_pages_is_said_and_not_asked_for_in_a_tight_loop(made, monkeypatch):
    asked = []

    def expired(*_):
        asked.append(True)
        raise KubeRefused("410 the continue token is too old", 410)

    monkeypatch.setattr(KubeApi, "list", expired)
    _, jobs = made(timeout="1s")
    with pytest.raises(AdapterError, match="continue token is too old"):
        jobs.snapshot()
    assert len(asked) < 5


def test_a_conflict_is_read_again_and_decided_anew(made):
    cluster, jobs = made()
    name = cluster.submit(deadline="8h", pause="requeue", suspend=False)
    paced(cluster, jobs, name)
    cluster.wait(lambda: job_of(jobs, name).state is JobState.RUNNING)
    cluster.twin.conflicts["j1"] = 2
    jobs.apply({name: 0})
    cluster.wait(lambda: cluster.marked() == {"j1": "suspended"})
    patches = [body for path, body in bodies(cluster) if path.endswith("/j1")]
    assert len(patches) == 3, "each on the version that it was decided on"
    assert len({body["metadata"]["resourceVersion"] for body in patches}) == 3
    assert cluster.job(name)["metadata"]["generation"] == 2, "done once"


def test_a_watch_that_is_cut_is_resumed_and_one_that_is_too_old_lists_again(made, monkeypatch):
    lost = []
    monkeypatch.setattr(Mirror, "_lost", lambda mirror, why: lost.append(why))
    cluster, jobs = made()
    name = cluster.submit(deadline="8h")
    paced(cluster, jobs, name)

    def asked(watch):
        return [
            query for method, _, query, *_ in cluster.twin.requests if method == "GET" and ("watch" in query) is watch
        ]

    threading.Event().wait(1.2)  # a watch that lasted
    lists = len(asked(False))
    cluster.twin.cut_watches()
    second = cluster.submit(deadline="8h")
    paced(cluster, jobs, name, second)
    assert len(asked(False)) == lists, "resumed from the version last seen"
    assert int(asked(True)[-1]["resourceVersion"]) > 250
    threading.Event().wait(1.2)  # this one too, so that its cut alone is no reason to list
    assert len(asked(False)) == lists
    with cluster.twin.lock:
        cluster.twin.cut_watches()
        third = cluster.submit(deadline="8h")
        cluster.twin.delete("jobs", "work", "j1")
        cluster.twin.forget()
    cluster.wait(lambda: {job.id for job in jobs.snapshot()} == {second, third})
    assert len(asked(False)) > lists, "410 Gone: listed again"
    assert lost == [], "neither is a server that was lost: no alert, and no pause"
    assert jobs.notes() == ()


def test_a_lost_server_is_an_alert_the_picture_stands_and_nothing_is_done_twice(made):
    cluster, jobs = made()
    name = cluster.submit(deadline="8h", pause="requeue", suspend=False)
    paced(cluster, jobs, name)
    jobs.apply({name: 8})
    cluster.wait(lambda: job_of(jobs, name).state is JobState.RUNNING)
    cluster.twin.stop()
    cluster.wait(lambda: any(note.code is Reason.JOBS_LOST for note in jobs.notes()))
    assert job_of(jobs, name), "the last picture stands"
    jobs.apply({name: 0})
    cluster.twin.serve()
    cluster.wait(lambda: cluster.marked() == {"j1": "suspended"})
    cluster.wait(lambda: not jobs.notes())
    assert cluster.job(name)["metadata"]["generation"] == 2
    cluster.twin.refuse = 1
    cluster.twin.cut_watches()
    cluster.wait(lambda: "503" in str(jobs.notes()))
    cluster.twin.refuse = 0
    cluster.wait(lambda: not jobs.notes())


def test_a_cluster_that_was_never_read_is_an_error(made, tmp_path):
    cluster, jobs = made(timeout="1s")
    cluster.twin.stop()
    with pytest.raises(AdapterError, match="kubernetes"):
        jobs.snapshot()
    told = jobs.release()
    assert told
    assert told[-1].code is Reason.JOBS_LOST
    with pytest.raises(AdapterError, match="kubernetes"):
        KubeApi(tmp_path / "none", None, 1.0)


def test_every_body_that_is_sent_is_valid_by_the_schemas_and_checked_strictly(made):
    cluster, jobs = made(kueue=True, drain_in_emergency=True)
    plain = cluster.submit(deadline="8h", pause="requeue", gpus=4)
    queued = cluster.submit(deadline="8h", pause="requeue", gpus=4, queue="lq")
    paced(cluster, jobs, plain, queued)
    for gpus in (0, 4, 0, 4):
        jobs.apply({plain: gpus, queued: gpus})
        cluster.wait(lambda gpus=gpus: cluster.running() == ({plain, queued} if gpus else set()))
        cluster.wait(lambda gpus=gpus: all((job.state is JobState.RUNNING) is (gpus > 0) for job in jobs.snapshot()))
    jobs.emergency(True)
    cluster.wait(lambda: "drained" in str(jobs.held()))
    jobs.emergency(False)
    assert jobs.release() == ()
    writes = [one for one in cluster.twin.requests if one[0] not in {"GET"}]
    kinds = Counter()
    for method, path, query, body, content_type in writes:
        assert (method, content_type) == ("PATCH", "application/merge-patch+json")
        assert (query["fieldValidation"], query["fieldManager"]) == ("Strict", "gridpace")
        assert body["metadata"]["resourceVersion"]
        plural = path.split("/")[-2 if not path.endswith("/status") else -3]
        name = path.split("/")[-1 if not path.endswith("/status") else -2]
        namespace = "work" if "/namespaces/" in path else ""
        item = rules.merge(cluster.twin.peek(plural, namespace, name), body)
        assert rules.problems(plural, item) == ([], []), json.dumps(body)
        kinds[plural, path.endswith("/status")] += 1
    assert set(kinds) == {("jobs", False), ("workloads", False), ("workloads", True), ("clusterqueues", False),
                          ("admissionchecks", True)}  # fmt: skip


def test_kueue_is_asked_for_new_work_and_runs_go_by_their_workload(made):
    cluster, jobs = made(kueue=True)
    jobs.snapshot()
    jobs.apply({})
    cluster.wait(lambda: cluster.marked() == {"batch": "gridpace"})
    first, second = (cluster.submit(deadline="8h", pause="requeue", queue="lq") for _ in range(2))
    stays = cluster.submit(deadline="8h", queue="lq", gpus=4)
    paced(cluster, jobs, first, second, stays)
    jobs.apply({first: 8, second: 0, stays: 0})
    cluster.wait(lambda: cluster.running() == {first})
    assert cluster.marked() == {"batch": "gridpace"}
    late = cluster.submit(deadline="8h", queue="lq", gpus=4)
    paced(cluster, jobs, late)
    cluster.wait(lambda: {second, late} <= set(jobs.held()))  # they wait for our answer
    assert cluster.running() == {first}
    jobs.apply({first: 0, second: 8, stays: 4})
    cluster.wait(lambda: cluster.running() == {second, stays})
    assert cluster.workload(first)["spec"]["active"] is False
    assert not [body for path, body in bodies(cluster) if "/jobs/" in path], "Kueue owns suspend there"
    jobs.apply({stays: 0, second: 0})
    cluster.wait(lambda: cluster.running() == {stays})
    jobs.close()  # killed
    after = cluster.submit(deadline="8h", queue="lq", gpus=2)
    assert cluster.pace(cluster_queues=("batch",)).release() == ()

    def free():  # of us: what runs next is for Kueue's quota to say
        works = [cluster.workload(job) for job in (first, second, stays, late, after)]
        return all(one["spec"]["active"] and "admissionChecks" not in one["status"] for one in works if one)

    cluster.wait(lambda: free() and cluster.workload(after) and stays in cluster.running())
    assert cluster.marked() == {}
    with cluster.twin.lock:
        assert "admissionChecksStrategy" not in cluster.twin.peek("clusterqueues", "", "batch")["spec"]


def test_an_emergency_drains_only_where_the_site_allows(made):
    cluster, jobs = made(kueue=True, drain_in_emergency=True)
    name = cluster.submit(deadline="8h", queue="lq")
    paced(cluster, jobs, name)
    jobs.apply({name: 8})
    cluster.wait(lambda: cluster.running() == {name})
    jobs.emergency(True)
    cluster.wait(lambda: cluster.running() == set())
    assert cluster.marked() == {"batch": "None"}
    jobs.emergency(False)
    cluster.wait(lambda: cluster.running() == {name})
    _, calm = made(kueue=True)
    calm.emergency(True)
    assert calm._drain is False
