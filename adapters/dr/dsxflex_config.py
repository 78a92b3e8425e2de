"""What an operator writes about a DSX Flex broker: where it is, who we are there, whose orders count, by which keys."""

from __future__ import annotations

from datetime import timedelta
from typing import Annotated, Literal

from pydantic import AfterValidator, Field, model_validator

from adapters.fields import AdapterConfig, Duration
from adapters.secrets import Secret

Name = Annotated[str, Field(pattern=r"^[^\s/#+]{1,64}$")]
"""A level of an MQTT topic."""

Action = Literal["SHUTDOWN_NODES", "SHUTDOWN_RACKS", "CUT_DATA_FEEDS", "TRIP_BREAKERS"]


def _positive(value: timedelta) -> timedelta:
    if value <= timedelta(0):
        raise ValueError("must be longer than nothing")
    return value


Lasting = Annotated[Duration, AfterValidator(_positive)]


class TrustedKey(AdapterConfig):
    """A public key, and who signs with it."""

    kid: str = Field(min_length=1, description="Key id, as it stands in the JWS header.", examples=["acme-2026"])
    source: str = Field(
        pattern=r"^(isv|infra)/[^\s/#+]{1,64}$",
        description="Whose key it is: `isv/NAME` (the utility's side) or `infra/NAME` (who enforces at the hardware).",
        examples=["isv/acme-energy"],
    )
    file: str = Field(
        description="PEM file with the public key: P-256 for ES256, RSA of 2048 bits or more for RS256.",
        examples=["/etc/gridpace/acme-energy.pem"],
    )


class DsxFlexConfig(AdapterConfig):
    """NVIDIA DSX Flex 1.7 over MQTT 3.1.1, as the agent of one power feed. Needs `pip install gridpace[dsxflex]`."""

    type: Literal["dsxflex"] = Field(description="NVIDIA DSX Flex, in the agent's role.", examples=["dsxflex"])
    broker: str = Field(
        pattern=r"^mqtts?://[^\s/:@]+(:\d{1,5})?$",
        description="The MQTT broker: `mqtts://` with TLS (port 8883), `mqtt://` without (1883).",
        examples=["mqtts://broker.example.net:8883"],
    )
    agent: Name = Field(description="Our name there (dsx-flex-agent).", examples=["np15-flex"])
    isv: Name = Field(description="Whose load targets are followed.", examples=["acme-energy"])
    feed: str = Field(
        min_length=1,
        max_length=64,
        description="Tag of the power feed that the site's import is. Targets for other feeds are passed over.",
        examples=["main-a"],
    )
    sign_kid: str = Field(min_length=1, description="Key id of our own key.", examples=["np15-2026"])
    sign_key: Secret = Field(
        description="Our private key (PEM): P-256 signs ES256, RSA signs RS256.", examples=["credential:dsx-key"]
    )
    trusted: tuple[TrustedKey, ...] = Field(
        default=(),
        description="Keys by which others sign.",
        examples=[[{"kid": "acme-2026", "source": "isv/acme-energy", "file": "/etc/gridpace/acme-energy.pem"}]],
    )
    unsigned: bool = Field(
        default=False,
        description="Also follow targets whose data is plain JSON, which whoever may publish at the broker can forge.",
        examples=[False],
    )
    ca: str | None = Field(
        default=None,
        description="Certificate authority of the broker. Absent: those of the system.",
        examples=["/etc/gridpace/dsx-ca.pem"],
    )
    certificate: str | None = Field(
        default=None,
        description="Our certificate, where the broker asks for one (mutual TLS).",
        examples=["/etc/gridpace/dsx.pem"],
    )
    certificate_key: str | None = Field(
        default=None, description="File with that certificate's private key.", examples=["/etc/gridpace/dsx.key"]
    )
    token: Secret | None = Field(
        default=None,
        description="OAuth2 token, given as password of the user `oauthtoken`; read again at every connection.",
        examples=["file:/run/gridpace/dsx-token"],
    )
    infra: Name | None = Field(
        default=None, description="Whose enforcement outcomes are shown to people.", examples=["ima-prod"]
    )
    heartbeat: Lasting = Field(
        default=timedelta(seconds=30),
        description="How often the power state is published when nothing changes.",
        examples=["30s"],
    )
    breach_above: float = Field(
        default=0.02,
        gt=0,
        lt=0.2,
        description="Measured power over the target, as a share, from which on it is a breach (critical above 0.2).",
        examples=[0.02],
    )
    breach_after: Lasting = Field(
        default=timedelta(seconds=10), description="How long power must stay above before it is told.", examples=["10s"]
    )
    actions: tuple[Action, ...] = Field(
        default=(),
        description="What to suggest to the infrastructure in a critical breach, from the least disruptive on. Empty: "
        "cards to cap only.",
        examples=[["SHUTDOWN_NODES"]],
    )
    oldest: Lasting = Field(
        default=timedelta(days=1),
        description="How late a load target may arrive (the broker keeps it while we are away).",
        examples=["1d"],
    )

    @model_validator(mode="after")
    def _whole(self) -> DsxFlexConfig:
        if (self.certificate is None) != (self.certificate_key is None):
            raise ValueError("`certificate` and `certificate_key` go together")
        plain = self.broker.startswith("mqtt://")
        if plain and (self.ca or self.certificate):
            raise ValueError("`ca` and `certificate` need a broker with TLS (mqtts://)")
        if plain and self.token:
            raise ValueError("`token` needs a broker with TLS (mqtts://)")
        if not self.unsigned and f"isv/{self.isv}" not in {key.source for key in self.trusted}:
            raise ValueError(f"`trusted` holds no key of isv/{self.isv}, so that none of its targets could be followed")
        return self
