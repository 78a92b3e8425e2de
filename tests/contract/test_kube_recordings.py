"""Requests and answers of a real API server 1.36.2 and Kueue, recorded: held against the twin, and against the client.

The twin may serve other tests only because it gives the recorded answers to the same 33 requests, in order. Not
compared: uids, versions, times, names' suffixes, texts, finalizers, and the counters in a ClusterQueue's status.
"""

import copy
import itertools
import json
import re
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest
import requests

from adapters.jobs.kube_api import JOBS, QUEUES, WORKLOADS, KubeApi, KubeRefused
from adapters.jobs.kube_read import job_of, workload_of
from tests.support import kube_objects as rules
from tests.support.kube_twin import TOKEN, Twin

EXCHANGES = json.loads((Path(__file__).parents[1] / "data" / "kubernetes" / "recordings.json").read_text())["exchanges"]
RECORDED = {one["id"]: one for one in EXCHANGES}
WRONG_ON_PURPOSE = {"job-patch-wrong-type", "job-patch-unknown-field", "job-patch-unknown-field-strict",
                    "clusterqueue-patch-bad-enum"}  # fmt: skip
SAME = {"active", "terminating", "ready", "admission", "phase", "uncountedTerminatedPods", "schedulingStats"}
UID = re.compile(r"[0-9a-f]{8}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{12}")


def essence(item):
    """What must be the same in two answers."""
    if item.get("kind") == "Status":
        details = {key: value for key, value in item.get("details", {}).items() if key != "uid"}
        if "causes" in details:
            details["causes"] = [(one["reason"], one["field"]) for one in details["causes"]]
        return item["status"], item.get("reason"), item.get("code"), details
    if "items" in item:
        return item["kind"], [essence({"kind": item["kind"][:-4], **one}) for one in item["items"]]
    if "metadata" not in item:
        return {key: item[key] for key in ("major", "minor")}
    meta, status = item["metadata"], item.get("status", {})
    plain = {key: value for key, value in status.items() if key in SAME}
    return (
        item["kind"],
        {key: UID.sub("UID", str(value)) for key, value in meta.get("labels", {}).items() if item["kind"] != "Pod"},
        meta.get("annotations", {}),
        meta.get("generation") if item["kind"] != "Pod" else None,
        UID.sub("UID", json.dumps(item.get("spec"), sort_keys=True)) if item["kind"] != "Pod" else None,
        sorted((one["type"], one["status"], one["reason"]) for one in status.get("conditions", [])),
        plain,
        "startTime" in status,
    )


def watched(text):
    return [(event["type"], essence({**event["object"]})) for event in map(json.loads, text.splitlines())]


def test_the_twin_answers_the_recorded_requests_as_the_real_servers_did():
    twin = Twin().serve()
    names, versions = {}, []
    try:
        for one in EXCHANGES:
            asked, told = one["request"], one["response"]
            lasts = 1.0 if "watch=1" in asked["path"] else 0.0  # the recorded watch took its second
            twin.advance((one.get("seconds_since_previous") or 0.0) + lasts)
            path = asked["path"]
            for recorded, ours in names.items():
                path = path.replace(recorded, ours)
            path = path.replace("resourceVersion=1", "resourceVersion=0") if "watch=1" in path else path
            token = TOKEN if asked["authorization"] == "bearer, valid" else "wrong"
            answer = requests.request(
                asked["method"], f"http://127.0.0.1:{twin.port}{path}", json=asked["body"], timeout=10,
                headers={"Authorization": f"Bearer {token}", "Content-Type": asked["content_type"]},
            )  # fmt: skip
            assert answer.status_code == told["status"], one["id"]
            if told["body_format"] == "json-lines":
                assert watched(answer.text) == watched(told["body"]), one["id"]
                continue
            ours, theirs = answer.json(), told["body"]
            recorded = json.dumps(theirs)
            for name, renamed in names.items():
                recorded = recorded.replace(name, renamed)
            assert essence(ours) == essence(json.loads(recorded)), one["id"]
            if theirs.get("kind") == "WorkloadList":
                names = {theirs["items"][0]["metadata"]["name"]: ours["items"][0]["metadata"]["name"]}
            if asked["method"] in {"POST", "PATCH"} and told["status"] < 300:
                versions.append((one["id"], ours["metadata"]["resourceVersion"]))
    finally:
        twin.end()
    unchanged = {b[0] for a, b in itertools.pairwise(versions) if a[1] == b[1]}
    assert unchanged <= {"job-patch-unknown-field"}, "every write that changes something has a version of its own"
    assert len({version for _, version in versions}) >= len(versions) - 1


def test_recorded_requests_are_well_formed_by_the_schemas_save_those_that_are_wrong_on_purpose():
    objects, odd = {}, set()
    for one in EXCHANGES:
        asked, told = one["request"], one["response"]
        plural, name = asked["path"].partition("?")[0].split("/")[-1], ""
        if asked["method"] == "PATCH":
            plural, name = asked["path"].partition("?")[0].split("/")[-2:]
        if asked["body"] is None:
            continue
        item = rules.merge(objects.get((plural, name), {"metadata": {}, "spec": {}}), asked["body"])
        unknown, wrong = rules.problems(plural, item)
        if unknown or wrong:
            odd.add(one["id"])
        if told["status"] < 300:
            objects[plural, told["body"]["metadata"]["name"]] = told["body"]
    assert odd == WRONG_ON_PURPOSE


def kueue_objects():
    """Each object of Kueue that a real server told, by its plural."""
    plurals = {kind: plural for plural, kind in rules.KINDS.items() if plural not in {"jobs", "pods"}}
    for one in EXCHANGES:
        body = one["response"]["body"]
        for item in body.get("items", [body]) if isinstance(body, dict) else []:
            kind = item.get("kind", "")
            if kind in plurals:
                yield plurals[kind], copy.deepcopy(item)


def test_what_real_servers_told_of_kueue_is_valid_by_the_closed_schemas():
    seen = [(plural, rules.problems(plural, item)) for plural, item in kueue_objects()]
    assert seen == [(plural, ([], [])) for plural, _ in seen]
    assert {plural for plural, _ in seen} >= {"workloads", "clusterqueues", "localqueues", "resourceflavors"}


def refused(twin, plural, name, body, status):
    """What the twin says to a strict patch, and whether anything has changed."""
    before = twin.peek(plural, "work" if plural == "workloads" else "", name)
    code, answer = twin.patch(plural, before["metadata"].get("namespace", ""), name, body, strict=True, status=status)
    assert twin.peek(plural, before["metadata"].get("namespace", ""), name) == before
    return code, answer["reason"]


CHECK = {"name": "gridpace", "state": "Ready", "lastTransitionTime": "2026-11-23T17:09:45Z", "message": ""}
CONDITION = {"type": "Active", "status": "True", "reason": "Active", "message": "",
             "lastTransitionTime": "2026-11-23T17:09:45Z"}  # fmt: skip
RIGHT = [
    ("workloads", True, {"status": {"admissionChecks": [CHECK]}}),
    ("workloads", False, {"metadata": {"annotations": {"gridpace/held": "deactivated"}}, "spec": {"active": False}}),
    ("clusterqueues", False, {"spec": {"stopPolicy": "HoldAndDrain"}}),
    ("clusterqueues", False, {"spec": {"admissionChecksStrategy": {"admissionChecks": [{"name": "gridpace"}]}}}),
    ("admissionchecks", True, {"status": {"conditions": [CONDITION]}}),
]
WRONG = [
    ("workloads", True, {"status": {"admissionCheks": [CHECK]}}),
    ("workloads", True, {"status": {"admissionChecks": [CHECK | {"messages": "so"}]}}),
    ("workloads", True, {"status": {"admissionChecks": [CHECK | {"name": f"c{k}"} for k in range(9)]}}),
    ("workloads", True, {"status": {"admissionChecks": [CHECK | {"podSetUpdates": [{"name": "main"}] * 9}]}}),
    ("workloads", True, {"status": {"conditions": [CONDITION, {"type": "Other"}]}}),
    ("workloads", False, {"metadata": {"annotation": {"gridpace/held": "deactivated"}}, "spec": {"active": False}}),
    ("workloads", False, {"metadata": {"annotations": {"gridpace/ran": 5}}}),
    ("workloads", False, {"spec": {"actives": False}}),
    ("clusterqueues", False, {"metadata": {"annotation": {"gridpace/check": "gridpace"}}}),
    ("clusterqueues", False, {"spec": {"admissionChecksStrategy": {"admissionChecks": []}}}),
    ("clusterqueues", False, {"spec": {"admissionChecksStrategy": {"admissionCheks": [{"name": "gridpace"}]}}}),
    ("clusterqueues", False, {"spec": {"stopPolicy": "Drain"}}),
    ("admissionchecks", True, {"status": {"condition": [CONDITION]}}),
    ("admissionchecks", True, {"status": {"conditions": [CONDITION | {"status": "yes"}]}}),
    ("admissionchecks", True, {"metadata": {"label": {}}, "status": {"conditions": [CONDITION]}}),
]


@pytest.fixture
def kueue():
    """A cluster with one object of each kind, which stand still."""
    twin = Twin()
    with twin.lock:
        twin.create("admissionchecks", "", {"metadata": {"name": "a"}, "spec": {"controllerName": "gridpace/power"}})
        twin.create("clusterqueues", "", {"metadata": {"name": "a"}, "spec": {"namespaceSelector": {}}})
        workload = RECORDED["workload-deactivate"]["response"]["body"]
        pods = {"spec": workload["spec"], "status": workload["status"]}
        assert twin.create("workloads", "work", {"metadata": {"name": "a"}, **copy.deepcopy(pods)})[0] == 201
        yield twin


@pytest.mark.parametrize(("plural", "status", "body"), WRONG)
def test_a_misspelt_field_of_kueues_is_refused_wherever_it_stands(kueue, plural, status, body):
    assert refused(kueue, plural, "a", body, status) == (422, "Invalid")


@pytest.mark.parametrize(("plural", "status", "body"), RIGHT)
def test_what_is_spelt_right_is_written(kueue, plural, status, body):
    place = "work" if plural == "workloads" else ""
    code, item = kueue.patch(plural, place, "a", body, strict=True, status=status)
    assert code == 200
    assert rules.merge(item, body) == item


class Replay:
    """Serves one recorded answer to whatever is asked, and keeps the request."""

    def __init__(self):
        replay = self

        class Handler(BaseHTTPRequestHandler):
            def log_message(self, *args):
                pass

            def do_GET(self):
                size = int(self.headers.get("Content-Length") or 0)
                replay.asked = (self.command, self.path, self.headers.get("Content-Type"),
                                json.loads(self.rfile.read(size)) if size else None)  # fmt: skip
                told = replay.told
                data = told["body"].encode() if isinstance(told["body"], str) else json.dumps(told["body"]).encode()
                self.send_response(told["status"])
                self.send_header("Content-Type", told["content_type"])
                self.send_header("Content-Length", str(len(data)))
                self.end_headers()
                self.wfile.write(data)

            def do_PATCH(self):
                self.do_GET()

        self.server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.port = self.server.server_address[1]
        threading.Thread(target=self.server.serve_forever, args=(0.05,), daemon=True).start()

    def close(self):
        self.server.shutdown()
        self.server.server_close()


@pytest.fixture
def replay(tmp_path):
    made = Replay()
    twin = Twin()
    twin.port = made.port
    api = KubeApi(twin.kubeconfig(tmp_path), None, 5.0)

    def play(name, call):
        """Call while the recorded answer of this exchange is served; (what came of it, what was asked)."""
        made.told = RECORDED[name]["response"]
        try:
            return call(api), made.asked
        except KubeRefused as error:
            return error, made.asked

    yield play
    api.close()
    made.close()


def as_recorded(name, asked):
    """The request is the recorded one: method, path, type; its body says at least the same, checked strictly."""
    told = RECORDED[name]["request"]
    method, path, content_type, body = asked
    assert method == told["method"]
    assert path.partition("?")[0] == told["path"].partition("?")[0]
    if method == "PATCH":
        assert content_type == told["content_type"]
        assert "fieldValidation=Strict" in path
        assert "fieldManager=gridpace" in path
        assert rules.merge(body, told["body"]) == body


def test_the_client_asks_as_recorded_and_reads_the_answers(replay):
    patch = lambda body, kind=JOBS, place="default", name="a": lambda api: api.patch(kind, place, name, body)  # noqa: E731
    for name, body in (
        ("job-resume", {"spec": {"suspend": False}}),
        ("job-suspend-running", {"spec": {"suspend": True}}),
    ):
        item, asked = replay(name, patch({"metadata": {"annotations": {"gridpace/held": "suspended"}}, **body}))
        as_recorded(name, asked)
        assert job_of(item, ["x"]).suspended is body["spec"]["suspend"]
    item, asked = replay("job-get-running", lambda api: api.get(JOBS, "default", "a"))
    as_recorded("job-get-running", asked)
    assert (job_of(item, ["x"]).active, job_of(item, ["x"]).running) == (2, False), "pods without a node don't run"
    item, _ = replay("job-get-suspended-again", lambda api: api.get(JOBS, "default", "a"))
    assert (job_of(item, ["x"]).active, job_of(item, ["x"]).running_since) == (2, None), "its pods still end"
    stop, asked = replay(
        "clusterqueue-hold-and-drain", patch({"spec": {"stopPolicy": "HoldAndDrain"}}, QUEUES, "", "batch")
    )
    as_recorded("clusterqueue-hold-and-drain", asked)
    (items, version), _ = replay("workloads-list-evicted", lambda api: api.list(WORKLOADS, "default"))
    assert (version.isdigit(), stop["spec"]["stopPolicy"]) == (True, "HoldAndDrain")
    assert workload_of(items[0]).admitted is False, "evicted, though Admitted and QuotaReserved still stand"
    name = "job-k-5816a"
    item, asked = replay("workload-deactivate", patch({"spec": {"active": False}}, WORKLOADS, "default", name))
    as_recorded("workload-deactivate", asked)
    assert workload_of(item).active is False
    (items, _), _ = replay("workloads-list-admitted", lambda api: api.list(WORKLOADS, "default"))
    assert workload_of(items[0]).admitted is True


@pytest.mark.parametrize(
    ("name", "status"),
    [("job-patch-stale-version", 409), ("job-patch-wrong-type", 422), ("job-patch-unknown-field-strict", 422),
     ("job-patch-immutable", 422), ("clusterqueue-patch-bad-enum", 422)],
)  # fmt: skip
def test_a_refusal_is_told_with_its_status(replay, name, status):
    error, _ = replay(name, lambda api: api.patch(JOBS, "default", "a", RECORDED[name]["request"]["body"]))
    assert isinstance(error, KubeRefused)
    assert error.status == status


def test_what_is_missing_and_who_may_not_ask(replay):
    assert replay("job-get-missing", lambda api: api.get(JOBS, "default", "missing"))[0].status == 404
    assert replay("jobs-list-unauthorized", lambda api: api.list(JOBS, "default"))[0].status == 401


def test_the_recorded_watch_is_read_event_by_event(replay):
    events, asked = replay(
        "jobs-watch-from-1", lambda api: list(api.watch(JOBS, "default", "1", 1, lambda watching: None))
    )
    assert "resourceVersion=1" in asked[1]
    assert "allowWatchBookmarks=true" in asked[1].lower().replace("allowwatchbookmarks", "allowWatchBookmarks")
    assert [sort for sort, _ in events] == ["ADDED"] + ["MODIFIED"] * 7
    assert [job_of(item, ["x"]).suspended for _, item in events] == [True, True, False, False, True, True, True, True]
