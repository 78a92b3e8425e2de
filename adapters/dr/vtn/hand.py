"""The utility's hand at a test server: events sent, withdrawn and listed, reports read.

Why over HTTP, though the server is ours: the same commands work at any OpenADR 3 server for which one has the utility's
credentials.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import requests

from adapters.ports import AdapterError

TIMEOUT_S = 15.0
PAGE = 50


class UtilityHand:
    """A utility's client of the server at `url`. Raises AdapterError for all that goes wrong."""

    def __init__(self, url: str, client_id: str, secret: str) -> None:
        self._url = url.rstrip("/")
        self._session = requests.Session()
        self._session.trust_env = False
        form = {"grant_type": "client_credentials", "client_id": client_id, "client_secret": secret}
        told = self._ask("POST", "/auth/token", data=form)
        self._session.headers["Authorization"] = f"Bearer {told['access_token']}"

    def close(self) -> None:
        """End the connection."""
        self._session.close()

    def listed(self, kind: str) -> list[dict[str, Any]]:
        """Every object of a kind."""
        found: list[dict[str, Any]] = []
        while items := self._ask("GET", f"/{kind}", params={"skip": len(found), "limit": PAGE}):
            found += items
        return found

    def program(self, name: str) -> str:
        """Id of a program; it is made where it is not there yet."""
        for item in self.listed("programs"):
            if name in {item["programName"], item["id"]}:
                return str(item["id"])
        return str(self._ask("POST", "/programs", json={"programName": name})["id"])

    def send(self, body: Mapping[str, Any], event_id: str | None = None) -> dict[str, Any]:
        """Make an event, or replace the one of that id."""
        if event_id is None:
            return dict(self._ask("POST", "/events", json=body))
        return dict(self._ask("PUT", f"/events/{event_id}", json=body))

    def withdraw(self, event_id: str) -> None:
        """Delete an event."""
        self._ask("DELETE", f"/events/{event_id}")

    def _ask(self, method: str, path: str, **how: Any) -> Any:
        try:
            answer = self._session.request(method, self._url + path, timeout=TIMEOUT_S, allow_redirects=False, **how)
        except requests.RequestException:
            raise AdapterError(f"{self._url}: nothing answers there. Is `gridpace vtn` running?") from None
        try:
            told = answer.json() if answer.content else {}
        except ValueError:
            raise AdapterError(f"{self._url}: what answers there is no OpenADR server") from None
        if answer.ok:
            return told
        detail = told.get("detail") or told.get("error") or "" if isinstance(told, dict) else ""
        raise AdapterError(f"refused with HTTP {answer.status_code}: {detail}")
