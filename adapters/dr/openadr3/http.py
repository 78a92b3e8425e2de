"""Talks to one OpenADR 3 server: login, pages, refusals. Knows nothing of what the objects mean.

Why our own: the clients that exist fail on servers that are in use: on a token without `expires_in`, a 403 for a token
that has run out, a scope that is a list. A login is renewed once for each refused request and then left alone.
"""

from __future__ import annotations

import json
import threading
from collections.abc import Callable, Mapping
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from typing import Any
from urllib.parse import urljoin, urlsplit

import requests
import urllib3

from adapters.context import AdapterContext
from adapters.dr.openadr3.config import OpenAdr3Config
from adapters.ports import AdapterError

PAGE = 50
"""The most that a page may hold by the schema."""
MOST_BYTES = 64 * 2**20
MOST_PAGES = 2000
EARLY_S = 30.0
"""A token is renewed so long before it runs out."""
REFUSED = (401, 403)


class ServerError(AdapterError):
    """The server refused or failed; `status` is its HTTP status, 0 where nothing came back."""

    def __init__(self, text: str, status: int = 0) -> None:
        super().__init__(text)
        self.status = status


class VtnClient:
    """One server. Safe to use from several threads."""

    def __init__(
        self,
        config: OpenAdr3Config,
        context: AdapterContext,
        monotonic: Callable[[], float],
        wall: Callable[[], datetime] = lambda: datetime.now(UTC),
    ) -> None:
        self._config, self._context, self._monotonic, self._wall = config, context, monotonic, wall
        self.place = f"OpenADR server {config.url}"
        self._session = requests.Session()
        self._session.trust_env = False
        self._session.verify = str(context.path(config.ca)) if config.verify and config.ca else config.verify
        if not config.verify:  # a person is told by a note, not by a line on stderr for each request
            urllib3.disable_warnings(urllib3.exceptions.InsecureRequestWarning)
        self._lock = threading.RLock()
        self._token, self._token_ends = "", float("-inf")
        self._token_url = config.token_url
        self.skew_s: float | None = None
        """Seconds by which the server's clock is ahead of ours, as its answers say."""

    def close(self) -> None:
        """End the connections."""
        self._session.close()

    def get(self, path: str, **query: Any) -> Any:
        """One object. Raises ServerError."""
        return self._call("GET", path, query=query)

    def post(self, path: str, body: Mapping[str, Any]) -> Any:
        """Create an object. Raises ServerError; after a status of 500 and more it may exist all the same."""
        return self._call("POST", path, body=body)

    def put(self, path: str, body: Mapping[str, Any]) -> Any:
        """Replace an object. Raises ServerError."""
        return self._call("PUT", path, body=body)

    def delete(self, path: str) -> Any:
        """Remove an object. Raises ServerError."""
        return self._call("DELETE", path)

    def every(self, path: str, **query: Any) -> tuple[list[Any], bool]:
        """All objects of a collection, and whether they were one page. Asks until a page brings nothing new, since a
        short page is no proof of the last one. Raises ServerError when any page fails: half a list is none."""
        found: dict[str, Any] = {}
        nameless: list[Any] = []
        heard = 0
        for page in range(MOST_PAGES):
            items = self.get(path, limit=PAGE, skip=heard, **query)
            if not isinstance(items, list):
                raise ServerError(f"{self.place}{path}: the answer is not a list")
            heard += len(items)  # a page may be shorter than was asked
            fresh = [item for item in items if _id(item) not in found]
            found.update({_id(item): item for item in fresh if _id(item)})
            nameless += [item for item in fresh if not _id(item)] if page == 0 else []
            if not any(_id(item) for item in fresh):
                return [*found.values(), *nameless], page <= 1
        raise ServerError(f"{self.place}{path}: more than {MOST_PAGES} pages")

    def token(self) -> str:
        """A token that holds, for others that take it. Raises ServerError."""
        return self._login()

    # ------------------------------------------------------------ one request
    def _call(self, method: str, path: str, query: Mapping[str, Any] | None = None, body: Any = None) -> Any:
        token = self._login()
        status, headers, content = self._exchange(method, self._config.url.rstrip("/") + path, token, query, body)
        if status in REFUSED and token:
            status, headers, content = self._exchange(
                method, self._config.url.rstrip("/") + path, self._login(instead_of=token), query, body
            )
        self._see_clock(headers)
        if not 200 <= status < 300:
            raise ServerError(f"{self.place}{path}: HTTP {status}{_why(content)}", status)
        return _json(content, self.place + path) if content else None

    def _exchange(
        self, method: str, url: str, token: str, query: Mapping[str, Any] | None, body: Any
    ) -> tuple[int, Mapping[str, str], bytes]:
        seconds = self._config.timeout.total_seconds()
        try:
            with self._session.request(
                method,
                url,
                params=query,
                json=body,
                headers={"Authorization": f"Bearer {token}"} if token else {},
                timeout=(min(5.0, seconds), seconds),
                allow_redirects=False,
                stream=True,
            ) as response:
                return response.status_code, response.headers, self._read(response)
        except requests.exceptions.SSLError as error:
            hint = "" if not self._config.verify else "; name its authority with `ca`"
            raise ServerError(f"{self.place}: its certificate is not accepted{hint} ({error})") from error
        except requests.Timeout as error:
            raise ServerError(f"{self.place}: no answer in time") from error
        except requests.ConnectionError as error:
            raise ServerError(f"{self.place}: nothing answers there") from error
        except (OSError, ValueError) as error:  # requests' errors are OSErrors
            raise ServerError(f"{self.place}: {str(error)[:300]}") from error

    def _read(self, response: requests.Response) -> bytes:
        """The body; a server that sends a byte now and then is cut off after the time of a few answers."""
        until = self._monotonic() + 4 * self._config.timeout.total_seconds()
        content = bytearray()
        for part in response.iter_content(65_536):
            content += part
            if len(content) > MOST_BYTES:
                raise ServerError(f"{self.place}: the answer is longer than {MOST_BYTES} bytes")
            if self._monotonic() > until:
                raise ServerError(f"{self.place}: no whole answer in time")
        return bytes(content)

    def _see_clock(self, headers: Mapping[str, str]) -> None:
        try:
            self.skew_s = (parsedate_to_datetime(headers["Date"]) - self._wall()).total_seconds()
        except (KeyError, TypeError, ValueError):
            return  # a server without a clock says nothing about ours

    # ------------------------------------------------------------ the login
    def _login(self, instead_of: str = "") -> str:
        """A token that holds; another one than `instead_of`, which was refused. Empty without a login."""
        if self._config.client_id is None or self._config.client_secret is None:
            return ""
        with self._lock:
            stale = self._monotonic() > self._token_ends or self._token == instead_of
            if not self._token or stale:
                self._token, lasts_s = self._new_token()
                self._token_ends = self._monotonic() + lasts_s
            return self._token

    def _new_token(self) -> tuple[str, float]:
        """A token and for how long it holds (for ever, where the server doesn't say)."""
        assert self._config.client_id is not None
        assert self._config.client_secret is not None
        secret = self._config.client_secret.reveal(self._context.base_dir)
        login = {"client_id": self._config.client_id, "client_secret": secret}
        form = {"grant_type": "client_credentials"} | ({"scope": self._config.scope} if self._config.scope else {})
        ways: list[tuple[dict[str, str], tuple[str, str] | None]] = []
        if self._config.client_auth != "basic":
            ways.append((form | login, None))
        if self._config.client_auth != "body":
            ways.append((form, (self._config.client_id, secret)))
        answer = self._ask_token(ways[0])
        if answer.status_code in {400, 401} and len(ways) > 1:
            answer = self._ask_token(ways[1])
        if answer.status_code != requests.codes.ok:
            raise ServerError(f"{self.place}: the login was refused with HTTP {answer.status_code}", answer.status_code)
        told = _json(answer.content, f"{self.place}: token")
        token = told.get("access_token") if isinstance(told, dict) else None
        if not isinstance(token, str) or not token or not token.isascii() or not token.isprintable():
            raise ServerError(f"{self.place}: the answer to the login holds no token")
        lasts_s = told.get("expires_in")
        known = isinstance(lasts_s, int | float) and lasts_s > 0
        return token, max(1.0, lasts_s - EARLY_S) if known else float("inf")

    def _ask_token(self, way: tuple[dict[str, str], tuple[str, str] | None]) -> requests.Response:
        form, basic = way
        try:
            return self._session.post(
                self._token_address(),
                data=form,
                auth=basic,
                timeout=self._config.timeout.total_seconds(),
                allow_redirects=False,
            )
        except requests.exceptions.SSLError as error:
            raise ServerError(f"{self.place}: the login's certificate is not accepted") from error
        except (OSError, ValueError):
            # The text of these errors may repeat what was sent.
            raise ServerError(f"{self.place}: the login got no answer") from None

    def _token_address(self) -> str:
        """Where tokens are had: as configured, as the server says, or its own endpoint. Never without TLS where the
        server itself has it: the secret goes there."""
        if self._token_url is None:
            base = self._config.url.rstrip("/")
            try:
                status, _, content = self._exchange("GET", f"{base}/auth/server", "", None, None)
                told = _json(content, base) if status == requests.codes.ok else None
            except ServerError as error:
                if error.status == 0 and "not JSON" not in str(error):
                    raise
                told = None
            named = told.get("tokenURL") or told.get("token_url") if isinstance(told, dict) else None
            address = urljoin(f"{base}/", named) if isinstance(named, str) and named else f"{base}/auth/token"
            if urlsplit(base).scheme == "https" and urlsplit(address).scheme != "https":
                raise ServerError(f"{self.place}: it names {address} for logins, which is not encrypted")
            self._token_url = address
        return self._token_url


def _id(item: Any) -> str:
    found = item.get("id") if isinstance(item, dict) else None
    return found if isinstance(found, str) else ""


def _json(content: bytes, place: str) -> Any:
    try:
        return json.loads(content)
    except (ValueError, RecursionError):
        raise ServerError(f"{place}: the answer is not JSON") from None


def _why(content: bytes) -> str:
    """What the server says of its refusal (a problem object), in one line."""
    try:
        told = json.loads(content[:10_000])
    except (ValueError, RecursionError):
        return ""
    parts = [told.get("title"), told.get("detail")] if isinstance(told, dict) else []
    text = ": ".join(str(part) for part in parts if part)
    return f" ({text[:300]})" if text else ""
