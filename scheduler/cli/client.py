"""Speaks to a running daemon over its HTTP API.

Where it is: `--url` or GRIDPACE_URL, with GRIDPACE_TOKEN; else the address and a token of the config (`--config`,
GRIDPACE_CONFIG, or /etc/gridpace/gridpace.yaml); else the default port on this machine.
"""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any
from urllib.parse import quote

import requests

from scheduler.cli.options import default_config

DEFAULT_URL = "http://127.0.0.1:8642"
TIMEOUT_S = 15.0


class ClientError(Exception):
    """The daemon can't be reached, or refused; the text says what to do."""


class Unreachable(ClientError):
    """Nothing answers there, or not in time."""


class Client:
    """One daemon."""

    def __init__(self, url: str | None, config: Path | None) -> None:
        self.url, self.token = _address(url, config)

    def get(self, path: str, **params: str) -> Any:
        """Answer to a question."""
        return self._ask("GET", path, params=params)

    def post(self, path: str, body: dict[str, Any]) -> Any:
        """Answer to an order."""
        return self._ask("POST", path, json=body)

    def delete(self, path: str, name: str) -> Any:
        """Answer to a withdrawal."""
        return self._ask("DELETE", f"{path}/{quote(name, safe='')}")

    def _ask(self, method: str, path: str, **how: Any) -> Any:
        headers = {"Authorization": f"Bearer {self.token}"} if self.token else {}
        try:
            answer = requests.request(method, self.url + path, headers=headers, timeout=TIMEOUT_S, **how)
        except requests.RequestException as error:
            why = "it does not answer in time" if isinstance(error, requests.Timeout) else "nothing answers there"
            raise Unreachable(
                f"{self.url}: {why}. Is `gridpace run` running? Name another with --url or --config."
            ) from None
        if answer.ok:
            return _body(answer, self.url)
        raise ClientError(self._refusal(answer))

    def _refusal(self, answer: requests.Response) -> str:
        try:
            text = str(answer.json()["error"])
        except (ValueError, KeyError, TypeError):
            text = f"HTTP {answer.status_code}"
        if answer.status_code in {401, 403}:
            text += ". Give a token of scope `write` in GRIDPACE_TOKEN, or the daemon's config with --config."
        return f"refused: {text}"


def _body(answer: requests.Response, url: str) -> Any:
    try:
        return answer.json()
    except ValueError:
        raise ClientError(f"{url}: what answers there is not Gridpace") from None


def _address(url: str | None, config: Path | None) -> tuple[str, str | None]:
    token = os.environ.get("GRIDPACE_TOKEN")
    if url is not None:
        return url.rstrip("/"), token
    path = config or default_config()
    if path is None:
        return DEFAULT_URL, token
    from scheduler.config import load_config

    loaded = load_config(path)
    host = {"0.0.0.0": "127.0.0.1", "::": "::1"}.get(loaded.api.host, loaded.api.host)  # noqa: S104 - not bound here
    shown = f"[{host}]" if ":" in host else host
    return f"http://{shown}:{loaded.api.port}", token or _token(loaded)


def _token(config: Any) -> str | None:
    """A token of the config that this user may read, one that may write first."""
    from adapters.secrets import SecretError

    for token in sorted(config.api.tokens, key=lambda token: token.scope != "write"):
        try:
            return str(token.secret.reveal(config.base_dir))
        except SecretError:
            continue
    return None
