"""A small API server that keeps state, held to the recorded exchanges before any test may use it.

Real HTTP on loopback. `advance` moves its clock by hand (the replay); `run` lets it follow the wall clock.
"""

import heapq
import itertools
import json
import threading
import time
import uuid
from datetime import UTC, datetime, timedelta

from tests.support import kube_objects as rules
from tests.support.kube_controllers import Controllers
from tests.support.kube_http import TOKEN, Handler, Server

GROUPS = {"batch": "batch/v1", "kueue.x-k8s.io": "kueue.x-k8s.io/v1beta2"}
START = datetime(2026, 11, 26, 18, tzinfo=UTC)


def copied(item):
    """A deep copy of plain JSON, several times faster than `copy.deepcopy`."""
    return json.loads(json.dumps(item))


class Twin:
    """One cluster. `nodes`: see Controllers. Every request is kept in `requests`: (method, path, query, body)."""

    def __init__(self, nodes=None, version=None):
        self.nodes, self.version, self.pods = nodes, version or {"major": "1", "minor": "36"}, {}
        self.lock = threading.Condition(threading.RLock())
        self._objects, self._history, self._rv, self._order = {}, [], 250, itertools.count()
        self._due, self._now, self._live, self.requests, self.oldest = [], 0.0, None, [], 0
        self.controllers = Controllers(self)
        self.server = self.port = None
        self.refuse = 0  # 503 to everything
        self.cut = 0  # watches of an earlier number end
        self.conflicts = {}  # name -> how many patches meet a change just before them

    # ------------------------------------------------------------ time
    def now(self):
        return time.monotonic() - self._live if self._live is not None else self._now

    def text(self):
        start = START if self._live is None else self._began
        return (start + timedelta(seconds=self.now())).strftime("%Y-%m-%dT%H:%M:%SZ")

    def later(self, seconds, do):
        heapq.heappush(self._due, (self.now() + seconds, next(self._order), do))

    def advance(self, seconds):
        with self.lock:
            ends = self._now + seconds
            while self._due and self._due[0][0] <= ends:
                self._now, _, do = heapq.heappop(self._due)
                do()
            self._now = ends

    def _tick(self):
        while not self._ended.wait(0.02):
            with self.lock:
                while self._due and self._due[0][0] <= self.now():
                    heapq.heappop(self._due)[2]()

    # ------------------------------------------------------------ the life of the server
    def serve(self, port=0):
        """Listen on loopback; again after `stop` on the same port."""
        twin = self
        handler = type("Bound", (Handler,), {"twin": twin})
        self.server = Server(("127.0.0.1", port or self.port or 0), handler)
        self.port = self.server.server_address[1]
        threading.Thread(target=self.server.serve_forever, args=(0.05,), daemon=True).start()
        return self

    def run(self):
        """Follow the wall clock."""
        self._live, self._began, self._ended = time.monotonic(), datetime.now(UTC), threading.Event()
        self._ticker = threading.Thread(target=self._tick, daemon=True)
        self._ticker.start()
        return self

    def stop(self):
        """The API server is gone: nobody listens, and every connection breaks. What it keeps stays (etcd)."""
        if self.server is not None:
            self.cut_watches()
            self.server.shutdown()
            self.server.break_all()
            self.server.server_close()
            self.server = None

    def end(self):
        self.stop()
        if self._live is not None:
            self._ended.set()
            self._ticker.join(5)

    def cut_watches(self):
        with self.lock:
            self.cut += 1
            self.lock.notify_all()

    def forget(self):
        """Compact: an earlier version is 410 Gone from now on."""
        with self.lock:
            self._history.clear()
            self.oldest = self._rv

    def kubeconfig(self, folder):
        """A file that leads here."""
        text = {
            "apiVersion": "v1", "kind": "Config", "current-context": "twin",
            "clusters": [{"name": "twin", "cluster": {"server": f"http://127.0.0.1:{self.port}"}}],
            "users": [{"name": "gridpace", "user": {"token": TOKEN}}],
            "contexts": [{"name": "twin", "context": {"cluster": "twin", "user": "gridpace"}}],
        }  # fmt: skip
        path = folder / "kubeconfig"
        path.write_text(json.dumps(text))
        return path

    # ------------------------------------------------------------ objects
    def peek(self, plural, namespace, name):
        found = self._objects.get((plural, namespace, name))
        return copied(found) if found is not None else None

    def all(self, plural, namespace=None):
        return [
            copied(item)
            for (kind, place, _), item in sorted(self._objects.items())
            if kind == plural and namespace in (None, place)
        ]

    def each(self, plural):
        """The objects themselves, to look at: nobody may change them. Under the lock."""
        return [item for (kind, _, _), item in self._objects.items() if kind == plural]

    def born(self, item):
        return item["metadata"]["creationTimestamp"], item["metadata"]["name"]

    def gpus(self, job):
        each = sum(int(one["resources"].get("limits", {}).get("nvidia.com/gpu", 0))
                   for one in job["spec"]["template"]["spec"]["containers"])  # fmt: skip
        return each * job["spec"]["parallelism"]

    def create(self, plural, namespace, body):
        item = copied(body)
        meta = item.setdefault("metadata", {})
        kept = self._objects.get((plural, namespace, meta["name"]))
        if kept is not None:
            return self._status(409, "AlreadyExists", plural, meta["name"])
        group = "batch/v1" if plural == "jobs" else GROUPS["kueue.x-k8s.io"]
        item |= {"apiVersion": group, "kind": rules.KINDS[plural]}
        meta |= {"uid": str(uuid.uuid4()), "generation": 1, "creationTimestamp": self.text()}
        if namespace:
            meta["namespace"] = namespace
        unknown, wrong = rules.problems(plural, item)
        if unknown or wrong:
            return self._status(422, "Invalid", plural, meta["name"], kind=True, causes=self._causes(unknown, wrong))
        item = rules.defaulted(plural, item)
        self._store("ADDED", plural, item)
        return 201, item

    def write(self, plural, item, spec=False):
        """A controller's write; what changes nothing makes no new version, as in a real API server."""
        key = (plural, item["metadata"].get("namespace", ""), item["metadata"]["name"])
        if key in self._objects and item != self._objects[key]:
            if spec:
                item["metadata"]["generation"] += 1
            self._store("MODIFIED", plural, item)

    def finish(self, namespace, name):
        """Its pods have done their work."""
        with self.lock:
            job = self.peek("jobs", namespace, name)
            job["status"].pop("active", None)
            job["status"]["ready"] = 0
            job["status"].setdefault("conditions", []).append(
                {
                    "type": "Complete",
                    "status": "True",
                    "reason": "CompletionsReached",
                    "lastTransitionTime": self.text(),
                }
            )
            self._store("MODIFIED", "jobs", job)
            self.later(0.05, self.controllers.schedule)

    def _store(self, sort, plural, item):
        self._rv += 1
        item["metadata"]["resourceVersion"] = str(self._rv)
        namespace, name = item["metadata"].get("namespace", ""), item["metadata"]["name"]
        self._objects[plural, namespace, name] = copied(item)
        self._history.append((self._rv, sort, plural, namespace, copied(item)))
        self.controllers.changed(plural, item)
        self.lock.notify_all()

    def patch(self, plural, namespace, name, body, strict=False, status=False):
        old = self.peek(plural, namespace, name)
        if old is None:
            return self._status(404, "NotFound", plural, name)
        if self.conflicts.get(name, 0) > 0:  # somebody else was a moment quicker
            self.conflicts[name] -= 1
            self._store("MODIFIED", plural, old)
            old = self.peek(plural, namespace, name)
        version = (body.get("metadata") or {}).get("resourceVersion")
        if version is not None and version != old["metadata"]["resourceVersion"]:
            return self._status(409, "Conflict", plural, name)
        part = {
            key: value
            for key, value in body.items()
            if key in ({"metadata", "status"} if status else {"metadata", "spec"})
        }
        new = rules.merge(old, part)
        unknown, wrong = rules.problems(plural, new)
        refused = self._refused(plural, old, new, unknown if strict else [], wrong)
        if refused is not None:
            return refused
        return 200, self._changed(plural, old, rules.without_unknown(new, old) if unknown else new)

    def _refused(self, plural, old, new, unknown, wrong):
        name = old["metadata"]["name"]
        if wrong or unknown:
            job, causes = plural == "jobs", self._causes(unknown, wrong)
            return self._status(422, "Invalid", None if job else plural, name, kind=True, causes=causes)
        for field in rules.IMMUTABLE if plural == "jobs" else ():
            if new["spec"].get(field) != old["spec"].get(field):
                cause = {"reason": "FieldValueInvalid", "field": f"spec.{field}"}
                return self._status(422, "Invalid", plural, name, kind=True, causes=[cause])
        return None

    def _changed(self, plural, old, new):
        if not new["metadata"].get("annotations", True):
            del new["metadata"]["annotations"]
        if new == old:
            return old
        if new.get("spec") != old.get("spec"):
            new["metadata"]["generation"] += 1
        self._store("MODIFIED", plural, new)
        return new

    def delete(self, plural, namespace, name):
        item = self._objects.pop((plural, namespace, name), None)
        if item is None:
            return self._status(404, "NotFound", plural, name)
        self._rv += 1
        item["metadata"]["resourceVersion"] = str(self._rv)
        self._history.append((self._rv, "DELETED", plural, namespace, item))
        self.lock.notify_all()
        details = {"name": name, "group": "batch", "kind": plural, "uid": item["metadata"]["uid"]}
        return 200, {"kind": "Status", "apiVersion": "v1", "metadata": {}, "status": "Success", "details": details}

    def listed(self, plural, namespace, query):
        items = self.all(plural, namespace or None)
        selector = query.get("labelSelector", "")
        if selector:
            key, equals, value = selector.partition("=")
            labels = [item["metadata"].get("labels", {}) for item in items]
            items = [
                item
                for item, has in zip(items, labels, strict=True)
                if key in has and (not equals or has[key] == value)
            ]
        start, limit = int(query.get("continue") or 0), int(query.get("limit") or 0)
        meta = {"resourceVersion": str(self._rv)}
        if limit and len(items) > start + limit:
            meta["continue"] = str(start + limit)
        group = {"jobs": "batch/v1", "pods": "v1"}.get(plural, GROUPS["kueue.x-k8s.io"])
        return 200, {"apiVersion": group, "kind": f"{rules.KINDS[plural]}List", "metadata": meta,
                     "items": items[start : start + limit if limit else None]}  # fmt: skip

    def pod_list(self, namespace, query):
        name = query["labelSelector"].partition("=")[2]
        count = self.pods.get((namespace, name), 0)
        phase = "Pending" if self.nodes is None else "Running"
        names = [f"{name}-{k}" for k in range(count)]
        items = [{"metadata": {"name": one, "namespace": namespace}, "status": {"phase": phase}} for one in names]
        return 200, {
            "kind": "PodList",
            "apiVersion": "v1",
            "metadata": {"resourceVersion": str(self._rv)},
            "items": items,
        }

    def since(self, plural, namespace, version):
        """Events after a version; None where it is forgotten."""
        if version < self.oldest:
            return None
        return [(rv, sort, item) for rv, sort, kind, place, item in self._history
                if rv > version and kind == plural and namespace in ("", place)]  # fmt: skip

    @property
    def latest(self):
        return self._rv

    def _causes(self, unknown, wrong):
        causes = [{"reason": "FieldValueInvalid", "field": "patch"} for _ in unknown]
        for place, error in wrong:
            enum = getattr(error, "validator", "") == "enum"
            if place == "spec":
                causes.append({"reason": "FieldValueInvalid", "field": "patch"})
            else:
                causes.append({"reason": "FieldValueNotSupported" if enum else "FieldValueInvalid", "field": place})
                causes.append({"reason": "FieldValueInvalid", "field": "<nil>"})
        return causes

    def _status(self, code, reason, plural, name, kind=False, causes=None):
        body = {"kind": "Status", "apiVersion": "v1", "metadata": {}, "status": "Failure", "message": reason,
                "reason": reason, "code": code}  # fmt: skip
        details = {}
        if plural is not None:
            group = "batch" if plural == "jobs" else "kueue.x-k8s.io"
            details = {"name": name, "group": group, "kind": rules.KINDS[plural] if kind else plural}
        if causes:
            details["causes"] = [{"message": "invalid", **cause} for cause in causes]
        return code, body | ({"details": details} if details else {})
