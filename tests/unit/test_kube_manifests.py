"""The manifests for Kubernetes: valid by its schemas, complete, and no right more than is used."""

from pathlib import Path

import kubernetes_validate
import pytest
from ruamel.yaml import YAML

from adapters.jobs.kube_config import KubernetesConfig
from adapters.jobs.kube_queues import CONTROLLER
from tests.support import kube_objects as rules
from tests.support.kube import Cluster

FOLDER = Path(__file__).parents[2] / "config" / "kubernetes"
OBJECTS = [
    item
    for path in sorted(FOLDER.rglob("*.yaml"))
    if path.name != "kustomization.yaml"
    for item in YAML(typ="safe").load_all(path.read_text())
]


def test_a_kustomization_names_every_file_beside_it():
    for path in (FOLDER, FOLDER / "kueue"):
        named = set(YAML(typ="safe").load((path / "kustomization.yaml").read_text())["resources"])
        assert named == {one.name for one in path.glob("*.yaml")} - {"kustomization.yaml"}


@pytest.mark.parametrize("item", OBJECTS, ids=lambda one: f"{one['kind']}-{one['metadata']['name']}")
def test_every_manifest_is_valid(item):
    if item["kind"] == "AdmissionCheck":
        assert rules.problems("admissionchecks", item) == ([], [])
        assert item["spec"]["controllerName"] == CONTROLLER
        assert item["metadata"]["name"] == KubernetesConfig.model_fields["admission_check"].default
    else:
        kubernetes_validate.validate(item, rules.VERSION, strict=True)


def test_bindings_name_roles_and_the_account_that_are_there():
    roles = {one["metadata"]["name"] for one in OBJECTS if one["kind"] == "ClusterRole"}
    bindings = [one for one in OBJECTS if one["kind"].endswith("Binding")]
    assert {one["roleRef"]["name"] for one in bindings} == roles
    account = next(one["metadata"] for one in OBJECTS if one["kind"] == "ServiceAccount")
    for one in bindings:
        assert one["subjects"] == [{"kind": "ServiceAccount", **{k: account[k] for k in ("name", "namespace")}}]
    spread = {one["roleRef"]["name"] for one in bindings if one["kind"] == "ClusterRoleBinding"}
    assert spread == {"gridpace-queues"}, "jobs only in namespaces"


def used(requests):
    """(group, resource, verb) of every request."""
    found = set()
    for method, path, query, *_ in requests:
        _, group, _, *rest = path.strip("/").split("/")
        rest = rest[2:] if rest[0] == "namespaces" else rest
        resource = rest[0] + ("/status" if rest[-1] == "status" else "")
        verb = {"PATCH": "patch", "GET": "get" if len(rest) > 1 else "watch" if "watch" in query else "list"}[method]
        found.add((group, resource, verb))
    return found


def test_the_rights_are_those_that_are_used_and_no_others():
    cluster = Cluster(kueue=True)
    jobs = cluster.pace(cluster_queues=("batch",))
    try:
        names = [cluster.submit(deadline="8h", pause="requeue", gpus=4, queue=queue) for queue in ("", "lq")]
        jobs.snapshot()
        cluster.wait(lambda: len(jobs.snapshot()) == 2)
        for gpus in (4, 0):
            jobs.apply(dict.fromkeys(names, gpus))
            cluster.wait(lambda gpus=gpus: all((job.state == "running") is (gpus > 0) for job in jobs.snapshot()))
            for name in ("j1", "job-j2"):  # conflicts are read again
                cluster.twin.conflicts |= {one: 1 for *_, one in cluster.twin._objects if one.startswith(name)}
        assert jobs.release() == ()
        granted = {
            (rule["apiGroups"][0], resource, verb)
            for one in OBJECTS
            if one["kind"] == "ClusterRole"
            for rule in one["rules"]
            for resource in rule["resources"]
            for verb in rule["verbs"]
        }
        assert used(cluster.twin.requests) == granted
    finally:
        jobs.close()
        cluster.end()
