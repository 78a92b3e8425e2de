"""The controllers behind the twin's API server: Kubernetes' job controller, a kubelet, and Kueue, as recorded.

They react after a while, on the twin's clock, so that the answer to a PATCH still carries the status before. `nodes`:
GPUs on which pods may run; None: no node at all, as when the exchanges were recorded, and pods stay Pending.
"""

JOB_S, END_S, KUEUE_S, DRAIN_S, STOPPING_S = 0.05, 0.7, 0.1, 0.15, 0.9
QUEUE_LABEL = "kueue.x-k8s.io/queue-name"


def condition(status, sort, value, reason, at, **more):
    """Set one condition; its time is kept where its status is."""
    found = next((one for one in status.setdefault("conditions", []) if one["type"] == sort), None)
    if found is None:
        found = {"type": sort}
        status["conditions"].append(found)
    if found.get("status") != value:
        found["lastTransitionTime"] = at
    found.update(status=value, reason=reason, message=more.pop("message", reason), **more)


def is_true(item, sort):
    return any(one["type"] == sort and one["status"] == "True" for one in item.get("status", {}).get("conditions", []))


class Controllers:
    """Called by the twin after every write."""

    def __init__(self, twin):
        self.twin = twin

    def changed(self, plural, item):
        """Something was written: react later."""
        key = (item["metadata"].get("namespace", ""), item["metadata"]["name"])
        later = self.twin.later
        if plural == "jobs":
            later(JOB_S if not self._stopping(key) else STOPPING_S, lambda: self.job(key))
            if QUEUE_LABEL in (item["metadata"].get("labels") or {}):
                later(KUEUE_S, lambda: self.make_workload(key))
        elif plural == "workloads":
            later(KUEUE_S, lambda: self.workload(key))
        elif plural in {"clusterqueues", "admissionchecks"}:
            later(KUEUE_S if plural == "admissionchecks" else DRAIN_S, self.queues)

    def _stopping(self, key):
        job = self.twin.peek("jobs", *key)
        return job is not None and "kueue.x-k8s.io/stopping" in (job["metadata"].get("annotations") or {})

    # ------------------------------------------------------------ jobs and pods
    def job(self, key):
        """Pods made or deleted as `suspend` says."""
        twin = self.twin
        job = twin.peek("jobs", *key)
        if job is None or is_true(job, "Complete"):
            return
        status, want = job["status"], job["spec"]["suspend"]
        if want and not is_true(job, "Suspended"):
            ended = status.pop("active", 0)
            status.pop("startTime", None)
            condition(status, "Suspended", "True", "JobSuspended", twin.text(), message="Job suspended",
                      lastProbeTime=twin.text())  # fmt: skip
            status.update(terminating=ended, uncountedTerminatedPods={}, ready=0)
            twin.pods.pop(key, None)
            twin.write("jobs", job)
            if ended:
                twin.later(END_S, lambda: self.ended(key))
        elif not want and not status.get("active"):
            if is_true(job, "Suspended"):
                condition(status, "Suspended", "False", "JobResumed", twin.text(), message="Job resumed",
                          lastProbeTime=twin.text())  # fmt: skip
            status.update(startTime=twin.text(), active=job["spec"]["parallelism"], terminating=0,
                          uncountedTerminatedPods={}, ready=0)  # fmt: skip
            twin.pods[key] = job["spec"]["parallelism"]
            twin.write("jobs", job)
            twin.later(0.05, self.schedule)

    def ended(self, key):
        """The pods' grace period is over."""
        job = self.twin.peek("jobs", *key)
        if job is not None and job["status"].get("terminating"):
            job["status"]["terminating"] = 0
            self.twin.write("jobs", job)
        self.schedule()

    def schedule(self):
        """The scheduler and the kubelet: pods of the oldest jobs first, all of a job or none."""
        twin = self.twin
        if twin.nodes is None:
            return
        jobs = [job for job in twin.each("jobs") if job["status"].get("active")]
        used = sum(twin.gpus(job) for job in jobs if job["status"].get("ready"))
        used += sum(twin.gpus(job) for job in twin.each("jobs") if job["status"].get("terminating"))
        for job in sorted((job for job in jobs if not job["status"].get("ready")), key=twin.born):
            if used + twin.gpus(job) <= twin.nodes:
                used += twin.gpus(job)
                job = twin.peek("jobs", job["metadata"]["namespace"], job["metadata"]["name"])  # noqa: PLW2901
                job["status"]["ready"] = job["status"]["active"]
                twin.write("jobs", job)

    # ------------------------------------------------------------ Kueue
    def make_workload(self, key):
        """Kueue's side of a labelled Job that was created suspended."""
        twin = self.twin
        job = twin.peek("jobs", *key)
        name = f"job-{key[1]}-{job['metadata']['uid'][:5]}" if job else ""
        if job is None or twin.peek("workloads", key[0], name) is not None:
            return
        uid = job["metadata"]["uid"]
        owner = {"apiVersion": "batch/v1", "blockOwnerDeletion": True, "controller": True, "kind": "Job",
                 "name": key[1], "uid": uid}  # fmt: skip
        template = {"metadata": {"labels": {"batch.kubernetes.io/job-name": key[1]}},
                    "spec": job["spec"]["template"]["spec"]}  # fmt: skip
        twin.create("workloads", key[0], {
            "metadata": {"name": name, "labels": {"kueue.x-k8s.io/job-uid": uid}, "ownerReferences": [owner],
                         "finalizers": ["kueue.x-k8s.io/resource-in-use"]},
            "spec": {"active": True, "priority": 0, "queueName": job["metadata"]["labels"][QUEUE_LABEL],
                     "podSets": [{"count": job["spec"]["parallelism"], "name": "main", "template": template,
                                  "topologyRequest": {"podIndexLabel": "batch.kubernetes.io/job-completion-index"}}]},
            "status": {},
        })  # fmt: skip

    def queue_of(self, workload):
        local = self.twin.peek("localqueues", workload["metadata"]["namespace"], workload["spec"]["queueName"])
        return self.twin.peek("clusterqueues", "", local["spec"]["clusterQueue"]) if local else None

    def checks_of(self, queue):
        rules = (queue["spec"].get("admissionChecksStrategy") or {}).get("admissionChecks") or []
        return [rule["name"] for rule in rules]

    def queues(self):
        """A queue's own state, then every workload: quota may have become free, checks may have come or gone."""
        twin = self.twin
        for queue in twin.all("clusterqueues"):
            stopped = queue["spec"]["stopPolicy"] != "None"
            if is_true(queue, "Active") is not (not stopped):
                condition(queue.setdefault("status", {}), "Active", "False" if stopped else "True",
                          "Stopped" if stopped else "Ready", twin.text(),
                          observedGeneration=queue["metadata"]["generation"])  # fmt: skip
                twin.write("clusterqueues", queue)
        for workload in sorted(twin.all("workloads"), key=twin.born):
            self.workload((workload["metadata"]["namespace"], workload["metadata"]["name"]))

    def workload(self, key):
        """One step of a Workload: its checks, eviction, the way back into the queue, quota, admission."""
        twin = self.twin
        workload = twin.peek("workloads", *key)
        queue = self.queue_of(workload) if workload is not None else None
        if workload is None or queue is None or is_true(workload, "Finished"):
            return
        status = workload.setdefault("status", {})
        if self._sync_checks(status, queue):
            twin.write("workloads", workload)
            return
        stop = queue["spec"]["stopPolicy"]
        if not workload["spec"].get("active", True):
            self._evict(workload, "Deactivated")
        elif stop == "HoldAndDrain":
            self._evict(workload, "ClusterQueueStopped")
        elif is_true(workload, "Admitted") and not is_true(workload, "Evicted"):
            return
        elif stop == "None":
            self._admit(workload, queue)

    def _sync_checks(self, status, queue):
        names, checks = self.checks_of(queue), status.get("admissionChecks", [])
        if [one["name"] for one in checks] == names:
            return False
        known = {one["name"]: one for one in checks}
        fresh = {"state": "Pending", "message": "", "lastTransitionTime": self.twin.text()}
        status["admissionChecks"] = [known.get(name, {"name": name, **fresh}) for name in names]
        if not names:
            status.pop("admissionChecks")
        return True

    def _evict(self, workload, reason):
        twin, status = self.twin, workload["status"]
        if not is_true(workload, "QuotaReserved") or is_true(workload, "Evicted"):
            return
        condition(status, "Evicted", "True", reason, twin.text(),
                  observedGeneration=workload["metadata"]["generation"])  # fmt: skip
        stats = status.setdefault("schedulingStats", {}).setdefault("evictions", [])
        stats.append({"count": 1, "reason": reason, "underlyingCause": ""})
        twin.write("workloads", workload)
        job = self._job_of(workload)
        if job is not None and not job["spec"]["suspend"]:
            job["metadata"].setdefault("annotations", {})["kueue.x-k8s.io/stopping"] = "true"
            job["spec"]["suspend"] = True
            job["status"].pop("startTime", None)
            twin.write("jobs", job, spec=True)
        key = (workload["metadata"]["namespace"], workload["metadata"]["name"])
        twin.later(1.2, lambda: self._requeue(key))

    def _requeue(self, key):
        """The job has stopped: quota is free, the checks are asked for anew."""
        twin = self.twin
        workload = twin.peek("workloads", *key)
        if workload is None or not is_true(workload, "Evicted"):
            return
        job = self._job_of(workload)
        if job is not None and job["status"].get("active"):
            twin.later(0.3, lambda: self._requeue(key))
            return
        if job is not None and "annotations" in job["metadata"]:
            job["metadata"]["annotations"].pop("kueue.x-k8s.io/stopping", None)
            twin.write("jobs", job)
        status = workload["status"]
        status.pop("admission", None)
        for sort in ("QuotaReserved", "Admitted"):
            condition(status, sort, "False", "Pending", twin.text(), observedGeneration=1)
        for check in status.get("admissionChecks", []):
            check.update(state="Pending", lastTransitionTime=twin.text(), message="Reset to Pending after eviction")
        twin.write("workloads", workload)
        self.queues()

    def _admit(self, workload, queue):
        twin, status, at = self.twin, workload["status"], self.twin.text()
        evicted = is_true(workload, "Evicted")
        if evicted and is_true(workload, "QuotaReserved"):
            return  # still stopping
        if not is_true(workload, "QuotaReserved"):
            if not self._fits(workload, queue):
                return
            flavor, uses = self._usage(workload, queue)
            pods = workload["spec"]["podSets"][0]["count"]
            status["admission"] = {"clusterQueue": queue["metadata"]["name"], "podSetAssignments": [
                {"count": pods, "flavors": dict.fromkeys(uses, flavor), "name": "main",
                 "resourceUsage": {name: str(count) for name, count in uses.items()}}]}  # fmt: skip
            condition(status, "QuotaReserved", "True", "QuotaReserved", at, observedGeneration=1)
            if evicted:
                condition(status, "Evicted", "False", "QuotaReserved", at, observedGeneration=1)
                self._requeued(status, at)
        if all(one["state"] == "Ready" for one in status.get("admissionChecks", [])):
            condition(status, "Admitted", "True", "Admitted", at, observedGeneration=1)
            condition(status, "PodsReady", "False", "WaitForStart", at, observedGeneration=1)
        twin.write("workloads", workload)
        if is_true(workload, "Admitted"):
            job = self._job_of(workload)
            if job is not None and job["spec"]["suspend"]:
                job["spec"]["suspend"] = False
                meta = job["spec"]["template"]["metadata"]
                meta["labels"] |= {"kueue.x-k8s.io/cluster-queue-name": queue["metadata"]["name"],
                                   "kueue.x-k8s.io/local-queue-name": workload["spec"]["queueName"],
                                   "kueue.x-k8s.io/podset": "main"}  # fmt: skip
                meta["annotations"] = {"kueue.x-k8s.io/workload": workload["metadata"]["name"]}
                twin.write("jobs", job, spec=True)

    def _requeued(self, status, at):
        last = status["schedulingStats"]["evictions"][-1]["reason"]
        if last == "ClusterQueueStopped":
            condition(status, "Requeued", "True", "ClusterQueueRestarted", at, observedGeneration=1)
        status["accumulatedPastExecutionTimeSeconds"] = 3

    def _usage(self, workload, queue):
        group = queue["spec"]["resourceGroups"][0]
        podset = workload["spec"]["podSets"][0]
        uses = {}
        for name in group["coveredResources"]:
            asked = sum(int(one.get("resources", {}).get("requests", {}).get(name, 0))
                        for one in podset["template"]["spec"]["containers"])  # fmt: skip
            uses[name] = asked * podset["count"]
        return group["flavors"][0]["name"], uses

    def _fits(self, workload, queue):
        _, uses = self._usage(workload, queue)
        quota = {one["name"]: int(one["nominalQuota"])
                 for one in queue["spec"]["resourceGroups"][0]["flavors"][0]["resources"]}  # fmt: skip
        for other in self.twin.all("workloads"):
            admission = other.get("status", {}).get("admission")
            if admission and admission["clusterQueue"] == queue["metadata"]["name"]:
                for name, count in admission["podSetAssignments"][0]["resourceUsage"].items():
                    quota[name] -= int(count)
        return all(count <= quota[name] for name, count in uses.items())

    def _job_of(self, workload):
        owner = workload["metadata"]["ownerReferences"][0]["name"]
        return self.twin.peek("jobs", workload["metadata"]["namespace"], owner)
