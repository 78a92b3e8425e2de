"""Answers of public servers over HTTP: within a deadline, of a bounded size, in the declared form, politely asked.

Why not `adapters.http`: that one talks to the site's own machines every second. A market's server is far away, is asked
a few times an hour, says when it wants to be left alone, pages its answers, and at times shows a login or a block page
with status 200. Redirects are not followed, and netrc files and proxies of the environment are not used: a token goes
to the server that the config names and nowhere else.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from datetime import UTC, datetime, timedelta
from email.utils import parsedate_to_datetime
from typing import Any
from urllib.parse import urlsplit

import requests
import stamina
from pydantic import Field

from adapters.context import AdapterContext
from adapters.ports import SourceError
from adapters.signals.live import Ask, NetConfig, TryLater

MOST_BYTES = 32 * 2**20
PATIENT_S = 5.0
"""A server that asks for a longer pause than this is asked again by a later read, not by this one."""
TRIES = 3
stamina.instrumentation.set_on_retry_hooks(())  # a source that fails says so in its notes, not on standard output
URL = r"^https?://[^\s/?#@]+(/[^\s?#]*)?$"


class WebConfig(NetConfig):
    """Keys of every source that a server answers over HTTP."""

    url: str = Field(
        pattern=URL, description="Address of the server, without user or password.", examples=["https://example.net"]
    )


class Refused(SourceError):
    """The server answered, and not with what was asked for; `status` is its HTTP status."""

    def __init__(self, text: str, status: int) -> None:
        super().__init__(text)
        self.status = status


class _Passing(SourceError):
    """Went wrong in a way that often passes within seconds."""

    def __init__(self, text: str, after_s: float | None = None) -> None:
        super().__init__(text)
        self.after_s = after_s


class Web:
    """Asks one server."""

    def __init__(self, config: WebConfig, context: AdapterContext, name: str) -> None:
        """`name` says in errors whose server this is."""
        self._base = config.url.rstrip("/")
        self.place = f"{name} {urlsplit(config.url).netloc}"
        self._session = requests.Session()
        self._session.trust_env = False
        self._session.verify = True if config.ca is None else str(context.path(config.ca))
        self._session.headers["User-Agent"] = "gridpace"
        if config.proxy is not None:
            self._session.proxies = {"http": config.proxy, "https": config.proxy}

    def json(
        self,
        ask: Ask,
        path: str,
        params: Mapping[str, str] | None = None,
        headers: Mapping[str, str] | None = None,
        auth: tuple[str, str] | None = None,
    ) -> Any:
        """The JSON behind `path`. Raises SourceError (TryLater where the server names a time), never with the query
        in its text: a key may stand in it."""
        body = self._body(ask, path, params, headers, auth)
        try:
            return json.loads(body)
        except (ValueError, RecursionError):
            raise SourceError(f"{self.place}: the answer is not JSON; it begins {_beginning(body)}") from None

    def _body(
        self,
        ask: Ask,
        path: str,
        params: Mapping[str, str] | None,
        headers: Mapping[str, str] | None,
        auth: tuple[str, str] | None,
    ) -> bytes:
        """Ask up to three times where that may help, within the time that is left."""
        try:
            for attempt in stamina.retry_context(
                on=_again, attempts=TRIES, timeout=ask.left_s(), wait_initial=0.5, wait_max=PATIENT_S, wait_jitter=0.5
            ):
                with attempt:
                    return self._once(ask, path, params, headers, auth)
        except _Passing as error:
            if error.after_s is not None:
                raise TryLater(str(error), error.after_s) from None
            raise SourceError(str(error)) from None
        raise AssertionError("every attempt returns or raises")

    def _once(
        self,
        ask: Ask,
        path: str,
        params: Mapping[str, str] | None,
        headers: Mapping[str, str] | None,
        auth: tuple[str, str] | None,
    ) -> bytes:
        try:
            with self._session.get(
                self._base + path,
                params=params,
                headers=headers,
                auth=auth,
                timeout=ask.left_s(),
                allow_redirects=False,
                stream=True,
            ) as response:
                body = self._received(ask, response)
        except requests.exceptions.SSLError as error:
            raise SourceError(f"{self.place}: TLS: {_plain(error)}") from None
        except requests.Timeout:
            raise _Passing(f"{self.place}: no answer in time") from None
        except OSError as error:  # requests' errors are OSErrors
            raise _Passing(f"{self.place}: {_plain(error)}") from None
        self._judge(response, body)
        return body

    def _received(self, ask: Ask, response: requests.Response) -> bytes:
        """The whole body, also of a server that sends a byte a second; half a body is none."""
        from urllib3.exceptions import HTTPError

        body = bytearray()
        try:
            while part := response.raw.read1(65536, decode_content=True):
                body += part
                ask.left_s()
                if len(body) > MOST_BYTES:
                    raise SourceError(f"{self.place}: the answer is longer than {MOST_BYTES // 2**20} MiB")
        except HTTPError as error:
            raise _Passing(f"{self.place}: the answer stopped in the middle ({type(error).__name__})") from None
        if response.raw.length_remaining:
            raise _Passing(f"{self.place}: the answer stopped in the middle")
        return bytes(body)

    def _judge(self, response: requests.Response, body: bytes) -> None:
        """SourceError for whatever is not an answer."""
        status = response.status_code
        if status == 429 or status >= 500:
            text = f"{self.place}: HTTP {status}{_why(status, body)}"
            raise _Passing(text, _retry_after_s(response.headers.get("Retry-After")))
        if status in {301, 302, 303, 307, 308}:
            where = urlsplit(response.headers.get("Location", "")).netloc or "elsewhere"
            raise SourceError(f"{self.place}: HTTP {status} to {where}; redirects are not followed")
        if status != 200:
            raise Refused(f"{self.place}: HTTP {status}{_why(status, body)}", status)
        kind = response.headers.get("Content-Type", "").partition(";")[0].strip().lower()
        if kind in {"text/html", "application/xhtml+xml"}:
            raise SourceError(f"{self.place}: the answer is a web page ({kind}): a login or a block page?")


def _again(error: Exception) -> bool | timedelta:
    """Whether it helps to ask once more, and after how long where the server says so."""
    if not isinstance(error, _Passing):
        return False
    if error.after_s is None:
        return True
    return timedelta(seconds=error.after_s) if error.after_s <= PATIENT_S else False


def _retry_after_s(value: str | None) -> float | None:
    """Seconds of a Retry-After header, given as seconds or as a date (RFC 9110, 10.2.3)."""
    if value is None:
        return None
    if value.strip().isdigit():
        return float(value)
    try:
        return max(0.0, (parsedate_to_datetime(value) - datetime.now(UTC)).total_seconds())
    except (ValueError, TypeError):
        return None


def _why(status: int, body: bytes) -> str:
    """What the server says of its refusal, in one line; what to do about the usual ones."""
    try:
        told = json.loads(body)
    except (ValueError, RecursionError):
        told = None
    said = ""
    if isinstance(told, dict):
        said = next((text for key in ("error", "message", "detail") if isinstance(text := told.get(key), str)), "")
    hint = {401: "the login is not accepted", 403: "this login may not ask that", 404: "nothing is there"}.get(status)
    text = said[:200] or hint
    return f" ({text})" if text else ""


def _plain(error: Exception) -> str:
    """The error without its address, in whose query a key may stand."""
    return re.sub(r" with url: \S+", "", str(error))[:300] or type(error).__name__


def _beginning(body: bytes) -> str:
    return repr(body[:60].decode("utf-8", "replace"))
