"""A connection to an MQTT 3.1.1 broker that keeps itself up: subscriptions, a session that outlives gaps, TLS.

Why acknowledged by hand: the broker may forget a message when it is acknowledged, so that this waits until whoever
handles it has it on disk. Why one queue: paho calls back in its own thread, which must not wait for a disk.
"""

from __future__ import annotations

import queue
import ssl
import threading
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any
from urllib.parse import urlsplit

from paho.mqtt.client import Client, ConnectFlags, DisconnectFlags, MQTTMessage, MQTTv311
from paho.mqtt.enums import CallbackAPIVersion
from paho.mqtt.properties import Properties
from paho.mqtt.reasoncodes import ReasonCode

from adapters.ports import AdapterError

KEEPALIVE_S, SLOWEST_RETRY_S = 30, 30
CONNECT_S = 10.0


@dataclass(frozen=True, slots=True)
class Arrived:
    """A message; `number` and `qos` acknowledge it."""

    topic: str
    body: bytes
    retained: bool
    number: int
    qos: int


@dataclass(frozen=True)
class MqttSettings:
    """Where the broker is (mqtts:// or mqtt://), who we are, and how we prove it. `password` is asked for at every
    connection."""

    url: str
    client_id: str
    ca: str | None = None
    certificate: str | None = None
    certificate_key: str | None = None
    username: str | None = None
    password: Callable[[], str] | None = None
    lasting: bool = True
    """Whether the broker keeps what is for us while we are away."""


@dataclass
class MqttLink:
    """Connects in the background and for ever; `topics` are (topic, QoS). Raises AdapterError for certificates that
    cannot be read. `arrived` holds what came and is not acknowledged yet."""

    settings: MqttSettings
    topics: Sequence[tuple[str, int]] = ()
    arrived: queue.Queue[Arrived | None] = field(default_factory=queue.Queue)
    trouble: str = "not connected yet"
    connected: threading.Event = field(default_factory=threading.Event)

    def __post_init__(self) -> None:
        settings = self.settings
        self._client = Client(
            CallbackAPIVersion.VERSION2,
            client_id=settings.client_id,
            clean_session=not settings.lasting,
            protocol=MQTTv311,
            manual_ack=True,
        )
        self._client.reconnect_delay_set(1, SLOWEST_RETRY_S)
        self._client.max_queued_messages_set(1000)
        self._client.on_connect, self._client.on_disconnect = self._on_connect, self._on_disconnect
        self._client.on_pre_connect, self._client.on_connect_fail = self._before, self._on_fail
        self._client.on_message = self._on_message
        if self.secure:
            self._client.tls_set_context(tls_context(settings))

    @property
    def secure(self) -> bool:
        """Whether the connection is encrypted and the broker verified."""
        return self.settings.url.startswith("mqtts://")

    def start(self) -> None:
        """Begin to connect; returns at once."""
        parts = urlsplit(self.settings.url)
        self._client.connect_async(parts.hostname or "", parts.port or (8883 if self.secure else 1883), KEEPALIVE_S)
        self._client.loop_start()

    def close(self) -> None:
        """End the connection and its thread."""
        self._client.disconnect()
        self._client.loop_stop()
        self.connected.clear()
        self.arrived.put(None)

    def publish(self, topic: str, body: bytes, qos: int, retain: bool = False) -> None:
        """Send; kept until the broker has it, over gaps as well (the last thousand)."""
        self._client.publish(topic, body, qos, retain)

    def acknowledge(self, message: Arrived) -> None:
        """Let the broker forget a message."""
        self._client.ack(message.number, message.qos)

    def check(self) -> str:
        """Connect once with an id of its own, and say with what. Raises AdapterError."""
        self.start()
        try:
            if not self.connected.wait(CONNECT_S):
                raise AdapterError(f"{self.settings.url}: {self.trouble}")
            return f"{self.settings.url} lets {self.settings.client_id} in"
        finally:
            self.close()

    # ------------------------------------------------------------ paho's thread
    def _before(self, client: Client, userdata: Any) -> None:
        if self.settings.username is not None and self.settings.password is not None:
            try:
                client.username_pw_set(self.settings.username, self.settings.password())
            except AdapterError as error:
                self.trouble = str(error)

    def _on_connect(
        self, client: Client, userdata: Any, flags: ConnectFlags, code: ReasonCode, properties: Properties | None
    ) -> None:
        if code.is_failure:
            self.trouble = f"the broker refuses us: {code}"
            return
        self.trouble = ""
        if self.topics:
            client.subscribe(list(self.topics))
        self.connected.set()

    def _on_disconnect(
        self, client: Client, userdata: Any, flags: DisconnectFlags, code: ReasonCode, properties: Properties | None
    ) -> None:
        self.connected.clear()
        self.trouble = self.trouble or f"the connection was lost: {code}"

    def _on_fail(self, client: Client, userdata: Any) -> None:
        self.trouble = "nobody answers, or the certificates do not fit"

    def _on_message(self, client: Client, userdata: Any, message: MQTTMessage) -> None:
        self.arrived.put(Arrived(message.topic, bytes(message.payload), message.retain, message.mid, message.qos))


def tls_context(settings: MqttSettings) -> ssl.SSLContext:
    """TLS 1.2 or later with the broker verified. Raises AdapterError."""
    try:
        context = ssl.create_default_context(cafile=settings.ca)
        context.minimum_version = ssl.TLSVersion.TLSv1_2
        if settings.certificate is not None:
            context.load_cert_chain(settings.certificate, settings.certificate_key)
    except (OSError, ssl.SSLError) as error:
        named = ", ".join(str(part) for part in (settings.ca, settings.certificate, settings.certificate_key) if part)
        raise AdapterError(f"{named}: cannot be used: {error}") from None
    return context
