"""What an operator writes about an OpenADR 2.0b server (VTN), and what the site does when it says a level."""

from __future__ import annotations

from datetime import timedelta
from typing import Annotated, Literal

from pydantic import AfterValidator, Field, model_validator

from adapters.fields import AdapterConfig, Duration

Sense = Literal["positive_reduces", "negative_reduces"]


def _positive(value: timedelta) -> timedelta:
    if value <= timedelta(0):
        raise ValueError("must be longer than nothing")
    return value


Lasting = Annotated[Duration, AfterValidator(_positive)]


class LevelConfig(AdapterConfig):
    """What a SIMPLE level means: one of these."""

    reduce_percent: float | None = Field(
        default=None, gt=0, le=100, description="Reduction, in percent of the baseline.", examples=[25]
    )
    reduce_kw: float | None = Field(
        default=None, gt=0, allow_inf_nan=False, description="Reduction from the baseline, in kW.", examples=[1100]
    )
    limit_kw: float | None = Field(
        default=None, ge=0, allow_inf_nan=False, description="Cap on the import, in kW.", examples=[4000]
    )

    @model_validator(mode="after")
    def _one(self) -> LevelConfig:
        if [self.reduce_percent, self.reduce_kw, self.limit_kw].count(None) != 2:
            raise ValueError("needs exactly one of `reduce_percent`, `reduce_kw` and `limit_kw`")
        return self


class OpenAdr2Config(AdapterConfig):
    """Events from an OpenADR 2.0b server, which is polled. Needs `pip install gridpace[openadr2]`."""

    type: Literal["openadr2"] = Field(description="A utility's OpenADR 2.0b server.", examples=["openadr2"])
    url: str = Field(
        pattern=r"^https?://[^\s/?#@]+(/[^\s?#]*)?$",
        description="Address of the server (VTN), with its path.",
        examples=["https://vtn.example.net/OpenADR2/Simple/2.0b"],
    )
    ven_name: str = Field(
        min_length=1, max_length=128, description="Our name at the server.", examples=["gridpace-np15"]
    )
    ven_id: str | None = Field(
        default=None,
        min_length=1,
        max_length=128,
        description="Our id at the server, where it gave one out beforehand.",
        examples=["VEN-0042"],
    )
    certificate: str | None = Field(
        default=None,
        description="Our certificate (PEM): proves who we are, and signs each message.",
        examples=["/etc/gridpace/ven.pem"],
    )
    certificate_key: str | None = Field(
        default=None, description="File with its private key (PEM).", examples=["/etc/gridpace/ven.key"]
    )
    ca: str | None = Field(
        default=None,
        description="Certificate authority of the server; needed with `certificate`.",
        examples=["/etc/gridpace/vtn-ca.pem"],
    )
    vtn_fingerprint: str | None = Field(
        default=None,
        pattern=r"^([0-9A-F]{2}:){9}[0-9A-F]{2}$",
        description="The last ten bytes of the SHA-256 of the server's certificate. Given, every message of the server "
        "must be signed by it.",
        examples=["6B:C8:4E:47:15:AA:30:EB:CE:0E"],
    )
    levels: dict[Literal["1", "2", "3"], LevelConfig] = Field(
        default={},
        description="What the levels of the signal SIMPLE ask (moderate, high, special). An event with another is "
        "declined.",
        examples=[{"1": {"reduce_percent": 10}, "2": {"reduce_percent": 25}, "3": {"reduce_percent": 50}}],
    )
    dispatch_unit: Literal["W", "kW", "MW"] | None = Field(
        default=None,
        description="Unit of LOAD_DISPATCH where the event names none. Absent: such an event is declined.",
        examples=["kW"],
    )
    delta: Sense | None = Field(
        default=None,
        description="Which sign of a LOAD_DISPATCH delta means less load. Absent: deltas are declined.",
        examples=["positive_reduces"],
    )
    report_every: Lasting = Field(
        default=timedelta(seconds=10),
        description="The shortest interval at which the import is reported; the server asks for one.",
        examples=["5s"],
    )
    resync: Lasting = Field(
        default=timedelta(seconds=60),
        description="How often all events are asked for, whatever the polls bring: what is missing then was withdrawn.",
        examples=["60s"],
    )
    lost_after: Lasting = Field(
        default=timedelta(minutes=2),
        description="A server that is silent for so long is lost: an alert, and we register anew.",
        examples=["2m"],
    )

    @model_validator(mode="after")
    def _whole(self) -> OpenAdr2Config:
        if len({self.certificate is None, self.certificate_key is None, self.ca is None}) > 1:
            raise ValueError("`certificate`, `certificate_key` and `ca` go together")
        if self.certificate is not None and not self.url.startswith("https://"):
            raise ValueError("`certificate` needs a server with TLS (https://)")
        if self.vtn_fingerprint is not None and self.certificate is None:
            raise ValueError("`vtn_fingerprint` needs `certificate`: signatures go with mutual TLS")
        return self
