"""The gateway's own file: servers behind it, who may use it, and how much.

Why a file of its own: the gateway may run on another machine than the daemon, and neither needs the other's secrets.
"""

from __future__ import annotations

import os
from datetime import timedelta
from pathlib import Path
from typing import Annotated

from pydantic import Field, PrivateAttr, ValidationError, model_validator

from adapters.fields import Id
from adapters.secrets import Secret, SecretError, SecretRef
from scheduler.config.base import ConfigPath, Count, Model, NotNegative, Positive, PositiveDuration, Share
from scheduler.config.document import Document, read_document
from scheduler.config.errors import FieldError
from scheduler.config.runtime import LogFormat
from scheduler.config.translate import note_errors

ServerUrl = Annotated[str, Field(pattern=r"^https?://[^\s/?#@]+(/[^\s?#]*)?$")]


class UpstreamConfig(Model):
    """An OpenAI-compatible server whose GPUs are a batch pool."""

    id: Id = Field(description="Name of the server.", examples=["llama"])
    url: ServerUrl = Field(description="Its address, without /v1.", examples=["http://127.0.0.1:8000"])
    pool: Id = Field(description="Batch pool whose GPUs it runs on.", examples=["tune"])
    models: tuple[str, ...] = Field(min_length=1, description="Models that it serves.", examples=[["llama-3.1-8b"]])
    tokens_per_gpu_h: Positive = Field(
        description="Tokens, in and out, that one of its GPUs does in an hour at full throughput.", examples=[1.2e6]
    )
    requests_per_gpu: Count = Field(
        default=32, description="Requests at once for each GPU that the plan grants.", examples=[32]
    )
    answer_tokens: Positive = Field(
        default=300.0,
        description="Tokens of a usual answer; with `tokens_per_gpu_h` they say how much work a batch is.",
        examples=[300],
    )
    key: Secret | None = Field(default=None, description="Where its API key lies.", examples=["credential:llama-key"])
    timeout: PositiveDuration = Field(
        default=timedelta(minutes=10), description="How long one answer may take.", examples=["10m"]
    )


class PeerConfig(Model):
    """Another site's gateway, which may take batches over from this one."""

    name: Id = Field(description="Its site's name, as the coordinator knows it.", examples=["california"])
    url: ServerUrl = Field(description="Its address, without /v1.", examples=["https://gateway.ca.example.net"])
    key: Secret = Field(
        description="Where the key lies by which this gateway is a tenant there.",
        examples=["credential:california-key"],
    )


class FirmConfig(Model):
    """What is sold in advance: an amount of tokens until a deadline, at a price that holds."""

    share: Share = Field(
        default=0.5, description="Part of the GPU-hours that the plan leaves free which may be sold.", examples=[0.5]
    )
    markup: NotNegative = Field(
        default=0.1, description="Part of the price at the margin that is added for the risk.", examples=[0.1]
    )
    least_per_million: NotNegative = Field(
        default=0.0, description="No million tokens is sold in advance for less.", examples=[0.05]
    )
    hold: PositiveDuration = Field(
        default=timedelta(minutes=1), description="How long a quote may be accepted.", examples=["1m"]
    )
    penalty_per_gpu_h: NotNegative = Field(
        default=50.0,
        description="What the plan counts for a GPU-hour that was sold and is not done, or an hour late.",
        examples=[50.0],
    )


class TenantConfig(Model):
    """Somebody who may use the gateway."""

    name: Id = Field(description="Who it is; files and batches belong to it.", examples=["research"])
    key: Secret = Field(description="Where its API key lies.", examples=["credential:research-key"])
    weight: Positive = Field(
        default=1.0, description="Share of a server's time beside other tenants that wait.", examples=[2.0]
    )
    max_batches: Count = Field(default=100, description="Batches at once that are not over.", examples=[100])
    max_requests: Count = Field(
        default=2_000_000,
        description="Requests at once in batches that are not over, those of a new batch included.",
        examples=[2_000_000],
    )
    max_quotes: Count = Field(default=20, description="Firm quotes at once that are not accepted.", examples=[20])
    requests_per_s: Positive = Field(
        default=200.0, description="Calls a second; twice as many may come at once.", examples=[200]
    )
    sites: tuple[Id, ...] = Field(
        default=(),
        description="Other sites where its data may go and its batches run, among `peers`; a batch may name fewer. "
        "Absent: its data stays here.",
        examples=[["california"]],
    )
    max_bytes: Count = Field(
        default=20_000_000_000, description="Bytes of files that are kept.", examples=[20_000_000_000]
    )


def default_state_dir() -> Path:
    """Where systemd says that state goes, else the place of a packaged service."""
    return Path(os.environ.get("STATE_DIRECTORY", "/var/lib/gridpace-gateway").partition(":")[0])


class GatewayConfig(Model):
    """OpenAI's Files and Batches API in front of the site's own servers."""

    host: str = Field(default="127.0.0.1", min_length=1, description="Address to listen on.", examples=["127.0.0.1"])
    port: int = Field(default=8644, ge=1, le=65535, description="Port to listen on.", examples=[8644])
    state_dir: ConfigPath = Field(
        default_factory=default_state_dir,
        description="Folder of the books, files and answers; the default is systemd's state directory, or "
        "/var/lib/gridpace-gateway.",
        examples=["/var/lib/gridpace-gateway"],
    )
    daemon: ServerUrl = Field(
        default="http://127.0.0.1:8642", description="The daemon's address.", examples=["http://127.0.0.1:8642"]
    )
    token: Secret = Field(description="Where a token of the daemon's API with scope write lies.", examples=["env:T"])
    metrics_key: Secret | None = Field(
        default=None,
        description="Where the key lies with which `/metrics` tells requests and tokens by tenant; without it, and for "
        "who does not send it, `/metrics` has totals alone.",
        examples=["credential:metrics-key"],
    )
    upstreams: tuple[UpstreamConfig, ...] = Field(min_length=1, description="Servers behind it.", examples=[[]])
    tenants: tuple[TenantConfig, ...] = Field(min_length=1, description="Who may use it.", examples=[[]])
    firm: FirmConfig = Field(
        default_factory=FirmConfig, description="Tokens sold in advance (`/v1/quotes`).", examples=[{"share": 0.5}]
    )
    site: Id | None = Field(
        default=None,
        description="This site's name among those that a coordinator plans for; needed with `peers`.",
        examples=["texas"],
    )
    peers: tuple[PeerConfig, ...] = Field(
        default=(), description="Gateways of other sites that may take batches over.", examples=[[]]
    )
    grace: PositiveDuration = Field(
        default=timedelta(days=1),
        description="How long after its window's end a batch is waited for at a site that can't be reached.",
        examples=["1d"],
    )
    log_format: LogFormat = Field(
        default=LogFormat.AUTO,
        description="auto (console on a terminal, else journal), console or journal (JSON with a priority).",
        examples=["journal"],
    )
    max_file_bytes: Count = Field(
        default=2_000_000_000, description="Largest file that is taken.", examples=[200_000_000]
    )
    max_batch_requests: Count = Field(default=1_000_000, description="Most requests of a batch.", examples=[50_000])
    keep: PositiveDuration = Field(
        default=timedelta(days=30),
        description="How long batches that are over, their answers, and files without a batch are kept.",
        examples=["30d"],
    )

    _document: Document = PrivateAttr(default_factory=lambda: Document("(no file)", Path.cwd()))

    @property
    def base_dir(self) -> Path:
        """Folder from which relative paths count."""
        return self._document.base_dir

    @model_validator(mode="after")
    def _distinct(self) -> GatewayConfig:
        seen: dict[str, str] = {}
        for number, upstream in enumerate(self.upstreams):
            for model in upstream.models:
                if model in seen:
                    raise FieldError(f"upstreams[{number}].models", f"{model!r} is served by {seen[model]!r} already")
                seen[model] = upstream.id
        names = [upstream.id for upstream in self.upstreams]
        if len(set(names)) < len(names):
            raise FieldError("upstreams", "two servers have the same id")
        if len({tenant.name for tenant in self.tenants}) < len(self.tenants):
            raise FieldError("tenants", "two tenants have the same name")
        _sites_known(self)
        return self


def _sites_known(config: GatewayConfig) -> None:
    peers = [peer.name for peer in config.peers]
    if len(set(peers)) < len(peers) or config.site in peers:
        raise FieldError("peers", "two of the sites, this one among them, have the same name")
    if peers and config.site is None:
        raise FieldError("site", "must be named where there are `peers`")
    for number, tenant in enumerate(config.tenants):
        for name in tenant.sites:
            if name not in peers:
                raise FieldError(f"tenants[{number}].sites", f"{name!r} is not one of `peers`")


def load_gateway(path: Path) -> GatewayConfig:
    """The gateway's config in `path`, its secrets readable. Raises ConfigError with every problem, by line."""
    document = read_document(path)
    try:
        config = GatewayConfig.model_validate(document.data, context={"base_dir": document.base_dir})
    except ValidationError as error:
        note_errors(document, error, GatewayConfig)
        document.raise_if_wrong()
        raise
    config._document = document
    _check_secrets(document, config)
    document.raise_if_wrong()
    return config


def _check_secrets(document: Document, config: GatewayConfig) -> None:
    places: list[tuple[tuple[str | int, ...], SecretRef | None]] = [
        (("token",), config.token),
        (("metrics_key",), config.metrics_key),
    ]
    places += [(("upstreams", i, "key"), upstream.key) for i, upstream in enumerate(config.upstreams)]
    places += [(("tenants", i, "key"), tenant.key) for i, tenant in enumerate(config.tenants)]
    places += [(("peers", i, "key"), peer.key) for i, peer in enumerate(config.peers)]
    keys: dict[str, str] = {}
    for place, secret in places:
        if secret is None:
            continue
        try:
            key = secret.reveal(document.base_dir)
        except SecretError as error:
            document.report(place, str(error))
            continue
        if place[0] == "tenants":
            other = keys.setdefault(key, str(place[1]))
            if other != str(place[1]):
                document.report(place, f"is the key of tenants[{other}] too")
