"""A Kubernetes API server, by its official client: list, watch, get and merge-patch of the four kinds that are paced.

Why plain objects and not the client's models: a model drops the fields that its version doesn't know. Every write says
`fieldValidation=Strict`, since a server takes an unknown field with a 200 and does nothing, and names its manager.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import urllib3
from kubernetes import client, config, watch

from adapters.permit import Permit
from adapters.ports import AdapterError

MANAGER = "gridpace"
PAGE = 500
MERGE_PATCH = "application/merge-patch+json"
GONE, CONFLICT, NOT_FOUND, TOO_MANY = 410, 409, 404, 429


@dataclass(frozen=True, slots=True)
class Kind:
    """A resource as its paths name it."""

    group: str
    version: str
    plural: str


JOBS = Kind("batch", "v1", "jobs")
WORKLOADS = Kind("kueue.x-k8s.io", "v1beta2", "workloads")
QUEUES = Kind("kueue.x-k8s.io", "v1beta2", "clusterqueues")
CHECKS = Kind("kueue.x-k8s.io", "v1beta2", "admissionchecks")


class KubeLost(AdapterError):
    """The server does not answer, or not now (429, 5xx): asking about the next job would only wait once more."""


class KubeRefused(AdapterError):
    """The server says no; `status` is its HTTP status."""

    def __init__(self, text: str, status: int) -> None:
        super().__init__(text)
        self.status = status


class KubeApi:
    """One cluster. Every call raises KubeLost or KubeRefused, and waits `timeout_s` at most."""

    def __init__(
        self,
        kubeconfig: Path | None,
        context: str | None,
        timeout_s: float,
        connections: int = 24,
        permit: Permit | None = None,
    ) -> None:
        self._permit = permit or Permit()
        settings = client.Configuration()
        try:
            if kubeconfig is None and context is None and _in_pod():
                config.load_incluster_config(client_configuration=settings)
            else:
                where = str(kubeconfig) if kubeconfig is not None else None
                config.load_kube_config(where, context, client_configuration=settings, persist_config=False)
        except (config.ConfigException, OSError, ValueError) as error:
            raise AdapterError(f"kubernetes: {error}") from error
        # A write that may have arrived is not sent again blindly: the next turn reads what became of it.
        settings.retries = urllib3.Retry(0, redirect=0)
        settings.connection_pool_maxsize = connections
        self._client = client.ApiClient(settings)
        self._objects = client.CustomObjectsApi(self._client)
        self._wait = (min(5.0, timeout_s), timeout_s)

    def list(self, kind: Kind, namespace: str) -> tuple[list[dict[str, Any]], str]:
        """Every object of a namespace, and the version from which a watch goes on."""
        found: list[dict[str, Any]] = []
        more: dict[str, Any] = {}
        while True:
            answer = self._call(
                self._objects.list_namespaced_custom_object,
                kind.group, kind.version, namespace, kind.plural,
                limit=PAGE, _request_timeout=self._wait, **more,
            )  # fmt: skip
            found += answer["items"]
            version = str(answer["metadata"]["resourceVersion"])
            if not answer["metadata"].get("continue"):
                return found, version
            more = {"_continue": answer["metadata"]["continue"]}

    def watch(
        self, kind: Kind, namespace: str, version: str, seconds: int, begun: Callable[[watch.Watch], None]
    ) -> Iterator[tuple[str, dict[str, Any]]]:
        """Changes after `version` for so long, bookmarks included. `begun` gets the watch, to stop it by."""
        watching = watch.Watch()
        begun(watching)
        with _told(f"watch {kind.plural}"):
            for event in watching.stream(
                self._objects.list_namespaced_custom_object,
                kind.group, kind.version, namespace, kind.plural,
                resource_version=version, allow_watch_bookmarks=True, timeout_seconds=seconds,
                _request_timeout=(self._wait[0], seconds + self._wait[1]),
            ):  # fmt: skip
                yield event["type"], event["raw_object"]

    def get(self, kind: Kind, namespace: str, name: str) -> dict[str, Any]:
        """One object; `namespace` is empty for a kind of the whole cluster."""
        if namespace:
            place: tuple[Any, ...] = (kind.group, kind.version, namespace, kind.plural, name)
            return self._call(self._objects.get_namespaced_custom_object, *place, _request_timeout=self._wait)
        place = (kind.group, kind.version, kind.plural, name)
        return self._call(self._objects.get_cluster_custom_object, *place, _request_timeout=self._wait)

    def patch(
        self, kind: Kind, namespace: str, name: str, body: Mapping[str, Any], status: bool = False
    ) -> dict[str, Any]:
        """Merge `body` into one object (into its status: the subresource); the object as it then is, whose status may
        still be the one before. NotPermitted where another daemon may lead by now."""
        self._permit()
        sort = "namespaced" if namespace else "cluster"
        call = getattr(self._objects, f"patch_{sort}_custom_object{'_status' if status else ''}")
        place = [kind.group, kind.version, *([namespace] if namespace else []), kind.plural, name]
        return self._call(
            call, *place, dict(body), field_manager=MANAGER, field_validation="Strict", _content_type=MERGE_PATCH,
            _request_timeout=self._wait,
        )  # fmt: skip

    def close(self) -> None:
        """Let the connections go."""
        self._client.close()

    def _call(self, call: Callable[..., Any], *place: Any, **more: Any) -> dict[str, Any]:
        with _told(" ".join(str(part) for part in place if isinstance(part, str))):
            answer = call(*place, **more)
        if not isinstance(answer, dict):
            raise KubeLost(f"kubernetes: {place[-1]}: not an object")
        return answer


def _in_pod() -> bool:
    return Path("/var/run/secrets/kubernetes.io/serviceaccount/token").exists()


@contextmanager
def _told(what: str) -> Iterator[None]:
    """Errors of the client as ours."""
    try:
        yield
    except client.ApiException as error:
        status = int(error.status or 0)
        text = f"kubernetes: {what}: {status} {_said(error)}"
        if status in {0, TOO_MANY} or status >= 500:
            raise KubeLost(text) from None
        raise KubeRefused(text, status) from None
    except (urllib3.exceptions.HTTPError, OSError, ValueError) as error:
        raise KubeLost(f"kubernetes: {what}: {type(error).__name__}: {str(error)[:200]}") from None


def _said(error: client.ApiException) -> str:
    body = str(error.body or error.reason or "")
    return body if len(body) <= 300 else f"{body[:300]}…"
