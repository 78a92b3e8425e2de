"""The manifests for Kubernetes: valid by its schemas, complete, and no right more than is used."""

import subprocess
from pathlib import Path

import kubernetes_validate
import pytest
from ruamel.yaml import YAML

from adapters.jobs.kube_config import KubernetesConfig
from adapters.jobs.kube_queues import CONTROLLER
from scheduler.agent.process import _parser as agent_parser
from scheduler.config import load_config
from tests.support import kube_objects as rules
from tests.support import system
from tests.support.kube import Cluster

FOLDER = Path(__file__).parents[2] / "config" / "kubernetes"
NO_OBJECTS = {"kustomization.yaml", "gridpace.yaml"}


def objects_in(path):
    return list(YAML(typ="safe").load_all(path.read_text()))


OBJECTS = [item for path in sorted(FOLDER.rglob("*.yaml")) if path.name not in NO_OBJECTS for item in objects_in(path)]


def read(*place):
    return YAML(typ="safe").load(FOLDER.joinpath(*place).read_text())


def test_a_kustomization_names_every_file_beside_it():
    for path in (FOLDER, *(FOLDER / name for name in ("kueue", "daemon", "agents"))):
        made = YAML(typ="safe").load((path / "kustomization.yaml").read_text())
        named = {*made["resources"], *(one for each in made.get("configMapGenerator", ()) for one in each["files"])}
        assert named == {one.name for one in path.glob("*.yaml")} - {"kustomization.yaml"}


def valid(item):
    """Raises where the schemas of Kubernetes, or of Kueue, don't know it."""
    if item["kind"] == "AdmissionCheck":
        assert rules.problems("admissionchecks", item) == ([], [])
    else:
        kubernetes_validate.validate(item, rules.VERSION, strict=True)


def key(item):
    return item["kind"], item["metadata"].get("namespace", ""), item["metadata"]["name"].partition("-config-")[0]


@pytest.mark.parametrize("place", [".", "kueue", "daemon", "agents"])
def test_kustomize_builds_each_folder_and_moves_nothing_to_another_namespace(place):
    system.require("kubectl")
    folder = FOLDER / place
    text = subprocess.run(["kubectl", "kustomize", folder], capture_output=True, text=True, check=True).stdout
    built = list(YAML(typ="safe").load_all(text))
    for one in built:
        valid(one)
    written = [item for path in folder.glob("*.yaml") if path.name not in NO_OBJECTS for item in objects_in(path)]
    made = YAML(typ="safe").load((folder / "kustomization.yaml").read_text())
    maps = [("ConfigMap", each["namespace"], "gridpace") for each in made.get("configMapGenerator", ())]
    assert sorted(map(key, built)) == sorted([*map(key, written), *maps])
    assert {one["metadata"]["labels"]["app.kubernetes.io/name"] for one in built if one["kind"] != "ConfigMap"} == {
        "gridpace"}  # fmt: skip
    assert "image: gridpace" not in text, "an image without a registry is nobody's"
    named = {one["metadata"]["name"] for one in built if one["kind"] == "ConfigMap"}
    pods = (one["spec"]["template"]["spec"] for one in built if one["kind"] in {"Deployment", "DaemonSet"})
    assert named == {each["configMap"]["name"] for pod in pods for each in pod["volumes"] if "configMap" in each}


def mounts(pod):
    """Folder by volume, of the one container."""
    return {one["name"]: one["mountPath"] for one in pod["containers"][0]["volumeMounts"]}


def test_the_daemons_config_is_one_that_it_takes_and_fits_its_deployment(monkeypatch):
    pod = read("daemon", "deployment.yaml")["spec"]["template"]["spec"]
    container, paths = pod["containers"][0], mounts(pod)
    assert set(paths) == {one["name"] for one in pod["volumes"]}
    env = {one["name"]: one["value"] for one in container["env"]}
    monkeypatch.setenv("STATE_DIRECTORY", env["STATE_DIRECTORY"])
    config = load_config(FOLDER / "daemon" / "gridpace.yaml")
    assert str(config.state_path) == paths["state"]
    assert env["CREDENTIALS_DIRECTORY"] == paths["secrets"]
    assert {str(config.power.ca.parent), str(config.power.seed.parent)} == {paths["secrets"]}
    assert (config.api.host, config.api.port) == ("0.0.0.0", container["ports"][0]["containerPort"])
    assert container["args"] == ["run", "--config", f"{paths['config']}/gridpace.yaml"]
    assert pod["serviceAccountName"] == read("serviceaccount.yaml")["metadata"]["name"]
    account = read("rolebinding.yaml")
    assert set(config.jobs.system.namespaces) == {account["metadata"]["namespace"]}
    service, deployment = read("daemon", "service.yaml"), read("daemon", "deployment.yaml")
    labels = deployment["spec"]["template"]["metadata"]["labels"]
    assert service["spec"]["selector"] == deployment["spec"]["selector"]["matchLabels"] == labels
    assert f"{service['metadata']['name']}.{service['metadata']['namespace']}.svc" in config.api.allowed_hosts
    assert deployment["spec"]["strategy"] == {"type": "Recreate"}, "two daemons would plan for the same cards"


def test_the_agents_arguments_are_those_that_it_takes_and_its_books_outlive_the_pod():
    made = read("agents", "daemonset.yaml")
    pod = made["spec"]["template"]["spec"]
    command, *arguments = pod["containers"][0]["args"]
    given = agent_parser().parse_args(arguments)
    assert command == "agent"
    paths = mounts(pod)
    on_node = {one["name"] for one in pod["volumes"] if "hostPath" in one}
    assert {name for name, path in paths.items() if str(given.state_dir) == path} <= on_node
    assert str(given.state_dir) == paths["state"]
    assert str(given.socket.parent) == paths["socket"]
    assert str(given.seed.parent) == str(given.ca.parent) == paths["keys"]
    assert pod["automountServiceAccountToken"] is False


@pytest.mark.parametrize("item", OBJECTS, ids=lambda one: f"{one['kind']}-{one['metadata']['name']}")
def test_every_manifest_is_valid(item):
    valid(item)
    if item["kind"] == "AdmissionCheck":
        assert item["spec"]["controllerName"] == CONTROLLER
        assert item["metadata"]["name"] == KubernetesConfig.model_fields["admission_check"].default


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
