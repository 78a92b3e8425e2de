"""JSON from an HTTP server of the site's own: who we are, whom we trust, and how long an answer may take.

Why one file: telemetry and management servers differ in what they say, not in how one logs in. Proxies, netrc files
and redirects are not followed: a token goes to the server that the config names and nowhere else.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from datetime import timedelta
from typing import Any, Self
from urllib.parse import urlsplit

import requests
from pydantic import Field, model_validator

from adapters.context import AdapterContext
from adapters.fields import AdapterConfig, Duration
from adapters.ports import AdapterError
from adapters.secrets import Secret
from adapters.workers import Patience, Worker

MOST_BYTES = 64 * 2**20
"""An answer longer than this is none: a site of 100,000 cards fits."""


class HttpConfig(AdapterConfig):
    """A server, and how to log in to it."""

    url: str = Field(
        pattern=r"^https?://[^\s/?#@]+(/[^\s?#]*)?$",
        description="Address of the server, without a user or a password.",
        examples=["https://prometheus.example.net:9090"],
    )
    token: Secret | None = Field(
        default=None, description="Where a bearer token lies.", examples=["credential:prometheus"]
    )
    username: str | None = Field(default=None, description="User, with `password`.", examples=["gridpace"])
    password: Secret | None = Field(
        default=None, description="Where the user's password lies.", examples=["credential:prometheus-password"]
    )
    ca: str | None = Field(
        default=None,
        description="File with the certificate authority of the server; absent: those that Python's requests trusts.",
        examples=["/etc/gridpace/site-ca.pem"],
    )
    client_cert: str | None = Field(
        default=None, description="File with a client certificate, with `client_key`.", examples=["client.pem"]
    )
    client_key: str | None = Field(
        default=None, description="File with the key of the client certificate.", examples=["client.key"]
    )
    timeout: Duration = Field(
        default=timedelta(milliseconds=800), description="How long an answer may take.", examples=["0.8s"]
    )

    @model_validator(mode="after")
    def _one_login(self) -> Self:
        if (self.username is None) != (self.password is None):
            raise ValueError("`username` and `password` go together")
        if self.token is not None and self.username is not None:
            raise ValueError("give either `token` or `username`, not both")
        if (self.client_cert is None) != (self.client_key is None):
            raise ValueError("`client_cert` and `client_key` go together")
        if self.timeout <= timedelta(0):
            raise ValueError("`timeout` must be longer than nothing")
        return self


class JsonServer:
    """Asks one server. After a failure it is left alone for a while, ever longer, up to half a minute."""

    def __init__(self, config: HttpConfig, context: AdapterContext, name: str) -> None:
        """`name` says in errors what kind of server this is."""
        self._config, self._context = config, context
        self.place = f"{name} {config.url}"
        self._seconds = config.timeout.total_seconds()
        self._session = requests.Session()
        self._session.trust_env = False
        self._session.verify = True if config.ca is None else str(context.path(config.ca))
        if config.client_cert is not None and config.client_key is not None:
            self._session.cert = (str(context.path(config.client_cert)), str(context.path(config.client_key)))
        self._worker = Worker(f"http-{urlsplit(config.url).hostname}")
        self._patience = Patience(context.clock, self.place)

    def post(self, path: str, form: Mapping[str, str]) -> Any:
        """The JSON that the server answers a form with. Raises AdapterError, within about the time-out."""
        return self._asked(lambda: json.loads(self._exchange("POST", path, form)))

    def text(self, path: str) -> str:
        """The text at a path. Raises AdapterError, within about the time-out."""
        return str(self._asked(lambda: self._exchange("GET", path, {}).decode()))

    def _asked(self, ask: Callable[[], Any]) -> Any:
        self._patience.check()
        try:
            answer = self._worker.answer(ask, self._seconds, self.place)
        except AdapterError as error:
            raise self._patience.failed(str(error).removeprefix(f"{self.place}: ")) from error
        except (OSError, ValueError, RecursionError) as error:  # requests' errors are OSErrors
            raise self._patience.failed(_plain(error)) from error
        self._patience.worked()
        return answer

    def close(self) -> None:
        """End the connection."""
        self._worker.stop()
        self._session.close()

    def _exchange(self, method: str, path: str, form: Mapping[str, str]) -> bytes:
        with self._session.request(
            method,
            self._config.url.rstrip("/") + path,
            data=form,
            auth=self._login,
            timeout=self._seconds,
            allow_redirects=False,
            stream=True,
        ) as response:
            body = bytearray()
            for part in response.iter_content(65536):
                body += part
                if len(body) > MOST_BYTES:
                    raise AdapterError(f"{self.place}: the answer is longer than {MOST_BYTES} bytes")
        if response.status_code != requests.codes.ok:
            raise AdapterError(f"{self.place}: HTTP {response.status_code}{_why(response.status_code, bytes(body))}")
        return bytes(body)

    def _login(self, request: requests.PreparedRequest) -> requests.PreparedRequest:
        """Secrets are read anew for each request, so that a renewed one counts at once."""
        base, config = self._context.base_dir, self._config
        if config.token is not None:
            request.headers["Authorization"] = f"Bearer {config.token.reveal(base)}"
        elif config.username is not None and config.password is not None:
            requests.auth.HTTPBasicAuth(config.username, config.password.reveal(base))(request)
        return request


def _why(status: int, body: bytes) -> str:
    """What the server says of its refusal, in one line; what to do about the usual ones."""
    try:
        told = json.loads(body)
        text = str(told["error"]) if isinstance(told, dict) and "error" in told else ""
    except ValueError:
        text = ""
    hint = {401: "the login is not accepted", 403: "this user may not ask that", 404: "is that the server's address?"}
    return f" ({text[:300] or hint[status]})" if text or status in hint else ""


def _plain(error: Exception) -> str:
    """A short sentence for the long ones of requests."""
    if isinstance(error, requests.exceptions.SSLError):
        return f"TLS: {error}"
    if isinstance(error, requests.Timeout):
        return "no answer in time"
    if isinstance(error, json.JSONDecodeError | UnicodeDecodeError | RecursionError):
        return "the answer is not JSON" if not isinstance(error, UnicodeDecodeError) else "the answer is no text"
    return str(error) or type(error).__name__
