"""What a site says about its Kubernetes cluster."""

from __future__ import annotations

from datetime import timedelta
from typing import Annotated, Literal

from pydantic import Field, model_validator

from adapters.fields import AdapterConfig, Duration, Id

Name = Annotated[str, Field(pattern=r"^[a-z0-9]([-a-z0-9.]*[a-z0-9])?$", max_length=253)]
"""A name as Kubernetes allows it."""


class KubernetesConfig(AdapterConfig):
    """Jobs (`batch/v1`) of a Kubernetes cluster, in Kueue's queues or not."""

    type: Literal["kubernetes"] = Field(description="A Kubernetes cluster.", examples=["kubernetes"])
    namespaces: dict[Name, Id] = Field(
        min_length=1,
        description="Batch pool of each namespace whose jobs may be paced; others are not looked at.",
        examples=[{"training": "tune"}],
    )
    kubeconfig: str | None = Field(
        default=None,
        description="Kubeconfig file. Absent: the service account inside a pod, elsewhere `$KUBECONFIG` or "
        "`~/.kube/config`.",
        examples=["/etc/gridpace/kubeconfig"],
    )
    context: str | None = Field(
        default=None, description="Context of the kubeconfig; absent: its current one.", examples=["gpu-cluster"]
    )
    gpu_resources: tuple[str, ...] = Field(
        default=("nvidia.com/gpu", "amd.com/gpu"),
        min_length=1,
        description="Names under which pods ask for GPUs; jobs without any are left alone.",
        examples=[["nvidia.com/gpu"]],
    )
    cluster_queues: tuple[Name, ...] = Field(
        default=(),
        description="Kueue's ClusterQueues that ask Gridpace before they start a workload: its AdmissionCheck is put "
        "on them in `control`, and taken off when it leaves. Empty: no Kueue is asked for.",
        examples=[["batch"]],
    )
    admission_check: Name = Field(
        default="gridpace",
        description="Name of the AdmissionCheck whose controller is `gridpace/power`.",
        examples=["gridpace"],
    )
    drain_in_emergency: bool = Field(
        default=False,
        description="In an emergency that may go below floors, stop `cluster_queues` with HoldAndDrain: every workload "
        "in them is evicted, **also those whose owner gave no leave**.",
        examples=[False],
    )
    default_deadline: Duration | None = Field(
        default=None,
        description="Jobs without `gridpace/…` labels or annotations may wait so long after they were created, and are "
        "never stopped once they run. Absent: they are left alone.",
        examples=["24h"],
    )
    refresh: Duration = Field(
        default=timedelta(seconds=5),
        description="How often what is not as planned is tried again; changes are acted on at once.",
        examples=["5s"],
    )
    timeout: Duration = Field(
        default=timedelta(seconds=10), description="How long one request may take.", examples=["10s"]
    )
    watch: Duration = Field(
        default=timedelta(seconds=30),
        description="How long one watch lasts before it is resumed: a connection that died unseen is found by then.",
        examples=["30s"],
    )

    @model_validator(mode="after")
    def _drains(self) -> KubernetesConfig:
        if self.drain_in_emergency and not self.cluster_queues:
            raise ValueError("drain_in_emergency: needs cluster_queues; without them nothing is drained")
        return self
