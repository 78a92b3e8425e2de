"""What an operator writes about an OpenADR 3 server, and what the site does when it says a level or an alert."""

from __future__ import annotations

import re
from datetime import timedelta
from enum import StrEnum
from ipaddress import ip_address
from typing import Annotated, Literal
from urllib.parse import urlsplit

from pydantic import AfterValidator, BeforeValidator, Field, model_validator

from adapters.fields import AdapterConfig, Duration, ZoneName
from adapters.ports import EventTarget
from adapters.secrets import Secret

_RESPONSE = re.compile(r"^(-?)(\d+(?:\.\d+)?)\s*(%|kW|MW)$")


def _checked_response(text: str) -> str:
    match = _RESPONSE.match(text)
    if match is None or (match[3] == "%" and (not match[1] or float(match[2]) > 100)):
        raise ValueError(f'"{text}" is no response; write -25% or -1100kW (below the baseline) or 4000kW (a cap)')
    return text


Response = Annotated[str, AfterValidator(_checked_response)]
"""What the site does: `-25%` or `-1100kW` below the baseline, or `4000kW` as a cap on its import."""


def _text_keys(value: object) -> object:
    """YAML reads 1 as a number, JSON knows only texts as keys."""
    return {str(key): one for key, one in value.items()} if isinstance(value, dict) else value


Numbered = Annotated[dict[str, Response], BeforeValidator(_text_keys)]
"""Responses by a small number."""


def target_kw(text: Response) -> dict[str, float]:
    """A response as the field of an `EventTarget`."""
    match = _RESPONSE.match(text)
    assert match is not None, text
    value = float(match[2]) * (1000.0 if match[3] == "MW" else 1.0)
    if match[3] == "%":
        return {"reduce_percent": value}
    return {"reduce_kw" if match[1] else "limit_kw": value}


def described_target(target: EventTarget) -> str:
    """A target in words."""
    if target.limit_kw is not None:
        return f"{target.limit_kw:g}kW"
    return f"-{target.reduce_kw:g}kW" if target.reduce_kw is not None else f"-{target.reduce_percent or 0:g}%"


class Sense(StrEnum):
    """Which sign means less load, where the text of OpenADR leaves it open."""

    POSITIVE_REDUCES = "positive_reduces"
    NEGATIVE_REDUCES = "negative_reduces"


class OpenAdr3Config(AdapterConfig):
    """Events from an OpenADR 3.1 or 3.0.1 server (VTN), which is polled; needs no port that the server can reach."""

    type: Literal["openadr3"] = Field(description="A utility's OpenADR 3 server.", examples=["openadr3"])
    url: str = Field(
        pattern=r"^https?://[^\s/?#@]+(/[^\s?#]*)?$",
        description="Base address of the server (VTN), with its path.",
        examples=["https://vtn.example.net/openadr3/3.1.0"],
    )
    program: str | None = Field(
        default=None,
        min_length=1,
        max_length=128,
        description="Name of the program at the server. Absent: this program's id.",
        examples=["summer-dr"],
    )
    ven_name: str = Field(
        default="gridpace",
        min_length=1,
        max_length=128,
        description="Name under which this site is known at the server (VEN); unique there.",
        examples=["gridpace-np15"],
    )
    resource: str | None = Field(
        default=None,
        min_length=1,
        max_length=128,
        description="Name of the site's resource at the server. Absent: the name of the VEN.",
        examples=["np15"],
    )
    targets: tuple[str, ...] = Field(
        default=(),
        description="Targets to name in queries, for servers that then answer with those alone. An event that names "
        "targets, none of which is among these, the VEN and the resource, is left alone. Empty: the server decides.",
        examples=[["group-a"]],
    )
    client_id: str | None = Field(default=None, description="OAuth2 client id. Absent: no login.", examples=["np15"])
    client_secret: Secret | None = Field(
        default=None, description="Where the OAuth2 client secret lies.", examples=["credential:vtn"]
    )
    client_auth: Literal["auto", "body", "basic"] = Field(
        default="auto",
        description="How the secret is sent: in the form (body), as HTTP Basic, or in the form and then as Basic "
        "(auto).",
        examples=["auto"],
    )
    token_url: str | None = Field(
        default=None,
        pattern=r"^https?://\S+$",
        description="Address for tokens. Absent: the server is asked for it (`/auth/server`), else its `/auth/token`.",
        examples=["https://login.example.net/oauth2/token"],
    )
    scope: str | None = Field(
        default=None, description="Scopes to ask for, with spaces between.", examples=["read_all write_reports"]
    )
    ca: str | None = Field(
        default=None,
        description="File with the certificate authority of the server; absent: those that Python's requests trusts.",
        examples=["/etc/gridpace/vtn-ca.pem"],
    )
    verify: bool = Field(
        default=True,
        description="Whether the server's certificate must be right. Without it anybody in between can send events.",
        examples=[True],
    )
    allow_http: bool = Field(
        default=False,
        description="Whether an address without TLS may be used; this machine's own always may.",
        examples=[False],
    )
    timeout: Duration = Field(
        default=timedelta(seconds=15), description="How long an answer may take.", examples=["15s"]
    )
    poll: Duration = Field(default=timedelta(seconds=30), description="How often events are read.", examples=["30s"])
    answers: bool = Field(
        default=True,
        description="Whether the server is told how each event was answered and why, by a report.",
        examples=[True],
    )
    report_every: Duration = Field(
        default=timedelta(minutes=5),
        description="How often what an event asks for at any time (frequency 0) is reported when it does not change.",
        examples=["5m"],
    )
    callback: str | None = Field(
        default=None,
        pattern=r"^https?://[^\s?#]+$",
        description="Address under which the server reaches this daemon's API, for servers that call when something "
        "changes: `/dr/PROGRAM` is added. A call only makes the daemon read at once.",
        examples=["https://gridpace.example.net"],
    )
    callback_secret: Secret | None = Field(
        default=None,
        description="Where the bearer token lies that the server must send with such calls.",
        examples=["credential:vtn-callback"],
    )
    mqtt: bool = Field(
        default=False,
        description="Whether the server's MQTT notifier is listened to, as one more cue to read. Needs paho-mqtt (`pip "
        "install gridpace[dsxflex]`).",
        examples=[True],
    )
    timezone: ZoneName = Field(
        default="UTC", description="Zone of times that the server writes without one.", examples=["UTC"]
    )
    unit: Literal["KW", "MW", "W"] | None = Field(
        default=None,
        description="Unit of power where an event declares none. Absent: such an event is refused.",
        examples=["KW"],
    )
    levels: Numbered = Field(
        default={},
        description="What the site does at the levels of SIMPLE events (0 is normal).",
        examples=[{"1": "-10%", "2": "-25%", "3": "-50%"}],
    )
    alerts: dict[str, Response] = Field(
        default={},
        description="What the site does at alerts, by their type. Others are only shown.",
        examples=[{"ALERT_GRID_EMERGENCY": "-40%"}],
    )
    instructions: dict[str, Response] = Field(
        default={},
        description="What the site does at texts of DISPATCH_INSTRUCTION. Others are only shown.",
        examples=[{"SHED-A": "-20%"}],
    )
    offsets: Numbered = Field(
        default={},
        description="What the site does at offsets of CONTROL_LEVEL_OFFSET, 1 to 10.",
        examples=[{"1": "-5%", "2": "-10%"}],
    )
    relative_sense: Sense | None = Field(
        default=None,
        description="Which sign of DISPATCH_SETPOINT_RELATIVE means less load. Absent: such an event is refused.",
        examples=["positive_reduces"],
    )
    offset_sense: Sense | None = Field(
        default=None,
        description="Which sign of CONTROL_LEVEL_OFFSET_PERCENT means less load. Absent: such an event is refused.",
        examples=["negative_reduces"],
    )
    setpoint: Literal["absolute", "positive_reduces", "negative_reduces"] | None = Field(
        default=None,
        description="What a number of CONTROL_SETPOINT is: the import itself, or a change of it by its sign. Absent: "
        "such an event is refused.",
        examples=["negative_reduces"],
    )

    @model_validator(mode="after")
    def _whole(self) -> OpenAdr3Config:
        if (self.client_id is None) != (self.client_secret is None):
            raise ValueError("`client_id` and `client_secret` go together")
        if (self.callback is None) != (self.callback_secret is None):
            raise ValueError("`callback` and `callback_secret` go together")
        for name in ("url", "token_url"):
            address = getattr(self, name)
            if address and urlsplit(address).scheme == "http" and not (self.allow_http or loopback(address)):
                raise ValueError(f"`{name}` is not encrypted; use https, or set `allow_http: true`")
        for name in ("poll", "timeout", "report_every"):
            if getattr(self, name) < timedelta(seconds=1):
                raise ValueError(f"`{name}` must be at least 1s")
        for name, most in (("levels", 3), ("offsets", 10)):
            wrong = [key for key in getattr(self, name) if not (key.isdecimal() and 1 <= int(key) <= most)]
            if wrong:
                raise ValueError(f"`{name}`: {wrong[0]} is not one of 1 to {most}")
        return self


def loopback(address: str) -> bool:
    """Whether an address is this machine's own."""
    host = urlsplit(address).hostname or ""
    try:
        return ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"
