"""Prices and carbon that a utility's OpenADR 3 server tells in the events of a program.

Why beside the channel of `programs`: a price is no order. Many utilities publish prices in a program of their own that
anybody may read, at which a site neither enrols nor answers. Intervals, loops and units are read by the same code as
those of orders, and this client only reads.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from datetime import datetime, timedelta
from typing import Any, Literal, Self

from pydantic import Field, model_validator

from adapters.context import AdapterContext
from adapters.dr.openadr3.config import OpenAdr3Config
from adapters.dr.openadr3.http import ServerError, VtnClient
from adapters.dr.openadr3.objects import MalformedEvent, read_event
from adapters.dr.openadr3.orders import Known
from adapters.dr.openadr3.party import Party
from adapters.dr.openadr3.series import told_series
from adapters.fields import Duration, ZoneName, parse_zone
from adapters.ports import SourceError
from adapters.secrets import Secret
from adapters.signals.base import SignalKind, unit_of
from adapters.signals.live import Ask, Live, LiveConfig, Told
from optimizer.domain import Series, Span
from optimizer.reasons import Note, Reason

MOST_FAULTS = 20
"""Events that are named as unusable at most."""
SERVER = ("url", "client_id", "client_secret", "client_auth", "token_url", "scope", "ca", "allow_http", "timezone")
"""Keys that mean the same as in a channel of type openadr3."""


class OpenAdr3SignalConfig(LiveConfig):
    """Prices or carbon from an OpenADR 3 server."""

    type: Literal["openadr3"] = Field(description="Kind of source.", examples=["openadr3"])
    kind: Literal[SignalKind.PRICE, SignalKind.CARBON] = Field(
        default=SignalKind.PRICE, description="What the values are: price or carbon.", examples=["price"]
    )
    unit: None = Field(
        default=None, description="Not to be given: the server says it, and it is checked.", examples=[None]
    )
    url: str = Field(
        pattern=r"^https?://[^\s/?#@]+(/[^\s?#]*)?$",
        description="Base address of the server (VTN), with its path.",
        examples=["https://vtn.example.net/openadr3/3.1.0"],
    )
    program: str = Field(
        min_length=1, max_length=128, description="Name of the program at the server.", examples=["hourly-prices"]
    )
    payload: Literal["PRICE", "EXPORT_PRICE", "PRICE_ALTERNATE", "GHG"] | None = Field(
        default=None,
        description="Which payloads are read. Absent: PRICE, or GHG for carbon.",
        examples=["PRICE_ALTERNATE"],
    )
    client_id: str | None = Field(default=None, description="OAuth2 client id. Absent: no login.", examples=["np15"])
    client_secret: Secret | None = Field(
        default=None, description="Where the OAuth2 client secret lies.", examples=["credential:vtn"]
    )
    client_auth: Literal["auto", "body", "basic"] = Field(
        default="auto",
        description="How the secret is sent: in the form (body), as HTTP Basic, or the one and then the other (auto).",
        examples=["auto"],
    )
    token_url: str | None = Field(
        default=None,
        pattern=r"^https?://\S+$",
        description="Address for tokens. Absent: the server is asked for it.",
        examples=["https://login.example.net/oauth2/token"],
    )
    scope: str | None = Field(default=None, description="Scopes to ask for.", examples=["read_all"])
    ca: str | None = Field(
        default=None,
        description="File with the certificate authority of the server; absent: those that Python's requests trusts.",
        examples=["/etc/gridpace/vtn-ca.pem"],
    )
    allow_http: bool = Field(default=False, description="Whether an address without TLS may be used.", examples=[False])
    timezone: ZoneName = Field(
        default="UTC", description="Zone of times that the server writes without one.", examples=["UTC"]
    )
    refresh: Duration = Field(
        default=timedelta(minutes=5), description="How often the source is asked at most.", examples=["5m"]
    )

    @model_validator(mode="after")
    def _whole(self) -> Self:
        carbon = self.kind is SignalKind.CARBON
        if self.payload is not None and (self.payload == "GHG") != carbon:
            raise ValueError("`payload` and `kind` don't fit: GHG is carbon, the others are prices")
        server_config(self)
        return self


def server_config(config: OpenAdr3SignalConfig) -> OpenAdr3Config:
    """The same server as the channel's client wants it; ValueError for what is wrong with it."""
    shared: dict[str, Any] = {name: getattr(config, name) for name in SERVER}
    return OpenAdr3Config(type="openadr3", program=config.program, timeout=config.timeout, answers=False, **shared)


class OpenAdr3Source:
    """What the events of one program say of prices or carbon."""

    Config = OpenAdr3SignalConfig
    live = True

    def __init__(self, config: OpenAdr3SignalConfig, context: AdapterContext) -> None:
        self._config, self._currency = config, context.currency
        self._payload = config.payload or ("GHG" if config.kind is SignalKind.CARBON else "PRICE")
        self._unit = unit_of(config.kind, None, context.currency)
        settings = server_config(config)
        self._client = VtnClient(settings, context, context.clock.monotonic)
        self._party = Party(settings, self._client, config.program, "")
        self._live = Live(config, context, self._unit, self._ask)
        self._known: dict[str, Known] = {}

    def read(self, start: datetime, end: datetime, now: datetime) -> Series:
        """Values over [start, end). Raises SourceError."""
        return self._live.read(start, end, now)

    def _ask(self, ask: Ask) -> Told:
        try:
            program = self._party.program()
            if program is None:
                raise SourceError(self._party.missing)
            items, _ = self._client.every("/events", programID=program.id)
        except ServerError as error:
            raise SourceError(str(error)) from None
        ours = [item for item in items if not isinstance(item, dict) or item.get("programID") in {None, program.id}]
        notes = self._learn(ours, ask.now)

        def told(known: Iterable[Known]) -> tuple[Span, ...]:
            return told_series(
                self._config.id,
                known,
                self._payload,
                (ask.start, ask.end),
                currency=self._currency,
                descriptors=program.payload_descriptors,
                zone=parse_zone(self._config.timezone),
            ).spans

        sound, faults = _sifted(self._known.values(), told)
        return Told(told(sound), (*notes, *(Note(Reason.EVENT_UNREAD, self._config.id, text) for text in faults)))

    def _learn(self, items: list[Any], now: datetime) -> tuple[Note, ...]:
        """Keep the events as they are said now; one that can't be read is said, and hides no other."""
        known: dict[str, Known] = {}
        notes = []
        for raw in items:
            try:
                event = read_event(raw)
            except MalformedEvent as error:
                text = f"{self._config.id}: event {error.event_id or '(without an id)'}: {error}"
                notes.append(Note(Reason.EVENT_UNREAD, self._config.id, text))
                continue
            former = self._known.get(event.id)
            known[event.id] = Known(event, raw, former.seen_at if former is not None else now)
        self._known = known
        return tuple(notes)


def _sifted(
    known: Iterable[Known], told: Callable[[Iterable[Known]], tuple[Span, ...]]
) -> tuple[list[Known], list[str]]:
    """Events that tell something, and what is wrong with others, so that one that can't be used hides no other. Raises
    SourceError where only such are left."""
    sound, faults = [], []
    for one in known:
        try:
            sound += [one] if told([one]) else []
        except SourceError as error:
            faults.append(str(error))
    if faults and not sound:
        raise SourceError("; ".join(faults)[:500])
    return sound, faults[:MOST_FAULTS]
