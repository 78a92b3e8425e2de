"""An OpenADR 3 server's MQTT notifier, as one more cue to read.

Why nothing of a message is used: retained ones come again at every connection and may speak of an event that is gone,
and servers name topics on which they never publish. All topics that are named are subscribed; whatever comes, reads.
"""

from __future__ import annotations

import threading
from collections.abc import Callable
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

from adapters.context import AdapterContext
from adapters.dr.openadr3.config import OpenAdr3Config, loopback
from adapters.dr.openadr3.http import ServerError, VtnClient
from adapters.dr.openadr3.party import Party
from adapters.registry import import_extra

if TYPE_CHECKING:
    from adapters.mqtt import MqttLink, MqttSettings


class Listener:
    """Connects once the server has said where; `heard` is called for each message, in a thread of its own."""

    def __init__(
        self,
        config: OpenAdr3Config,
        client: VtnClient,
        party: Party,
        context: AdapterContext,
        heard: Callable[[], None],
    ) -> None:
        self._config, self._client, self._party, self._context, self._heard = config, client, party, context, heard
        self._link: MqttLink | None = None

    @property
    def trouble(self) -> str:
        """Why nothing can be heard; empty when all is well, or nothing was asked for yet."""
        return self._link.trouble if self._link is not None else ""

    def ensure(self) -> None:
        """Connect where that was not done. Raises ServerError where the server has no notifier that we can use."""
        if self._link is not None:
            return
        import_extra("paho.mqtt")
        from adapters.mqtt import MqttLink

        told = self._client.get("/notifiers")
        binding = told.get("MQTT") if isinstance(told, dict) else None
        if not isinstance(binding, dict):
            raise ServerError(f"{self._client.place}: it has no MQTT notifier")
        link = MqttLink(self._settings(binding), [(topic, 1) for topic in self._topics()])
        threading.Thread(target=self._listen, args=(link,), name="openadr3-mqtt", daemon=True).start()
        link.start()
        self._link = link

    def close(self) -> None:
        """End the connection."""
        if self._link is not None:
            self._link.close()

    def _listen(self, link: MqttLink) -> None:
        while (message := link.arrived.get()) is not None:
            link.acknowledge(message)
            self._heard()

    def _topics(self) -> list[str]:
        """Every topic that the server names for our events; of our VEN, else of our program."""
        paths = [f"/notifiers/mqtt/topics/vens/{self._party.ven_id}/events"] if self._party.ven_id else []
        paths.append(f"/notifiers/mqtt/topics/programs/{self._party.program_id}/events")
        for path in paths:
            try:
                told = self._client.get(path)
            except ServerError as error:
                if error.status not in {400, 403, 404, 501}:
                    raise
                continue
            topics = told.get("topics") if isinstance(told, dict) else None
            named = [topic for topic in (topics or {}).values() if isinstance(topic, str) and topic]
            if named:
                return sorted(set(named))
        raise ServerError(f"{self._client.place}: it names no topics of its MQTT notifier for us")

    def _settings(self, binding: dict[str, Any]) -> MqttSettings:
        from adapters.mqtt import MqttSettings

        found = [uri for uri in binding.get("URIS") or () if isinstance(uri, str)]
        secure = [uri for uri in found if uri.startswith("mqtts://")]
        plain = [u for u in found if u.startswith("mqtt://") and (self._config.allow_http or loopback(u))]
        url = next(iter([*secure, *plain]), "")
        if not url or not urlsplit(url).hostname:
            raise ServerError(
                f"{self._client.place}: no address of its MQTT notifier can be used: {', '.join(found)[:200]}"
            )
        login = binding.get("authentication")
        method = login.get("method") if isinstance(login, dict) else None
        username, password = None, None
        if method == "OAUTH2_BEARER_TOKEN":
            named = str(login.get("username") or "") if isinstance(login, dict) else ""
            username = named.replace("{clientID}", self._config.client_id or "")
            password = self._client.token
        elif method != "ANONYMOUS":
            raise ServerError(f"{self._client.place}: its MQTT notifier wants {method}, which is not supported")
        ca = str(self._context.path(self._config.ca)) if self._config.ca else None
        name = f"gridpace-{self._config.ven_name}-{self._party.name}"[:60]
        return MqttSettings(url, name, ca=ca, username=username, password=password, lasting=False)
