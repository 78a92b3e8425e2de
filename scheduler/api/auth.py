"""Who is asking: bearer tokens with a read and a write scope, compared in constant time.

Why no sessions and no cookies: a bearer token is never sent by a browser on its own, so a foreign page cannot make a
visitor change anything. A browser may show its token as the password of HTTP Basic, for reading only.
"""

from __future__ import annotations

import base64
import binascii
import hmac
from collections.abc import Iterable
from typing import Annotated

from fastapi import Depends
from fastapi.security import HTTPBearer
from starlette.datastructures import Headers
from starlette.exceptions import HTTPException
from starlette.requests import HTTPConnection

from scheduler.api.settings import ApiSettings, Token

ANONYMOUS = "anonymous"
# Only so that the OpenAPI description names the scheme; the check is ours.
BEARER = HTTPBearer(auto_error=False, description="A token of api.read_tokens or api.write_tokens")
Described = Annotated[object, Depends(BEARER)]


def holder(tokens: Iterable[Token], secret: str) -> str | None:
    """Name of the token with this secret. Every token is compared, each in constant time, so time tells nothing."""
    found = None
    for token in tokens:
        if hmac.compare_digest(token.secret.encode(), secret.encode("utf-8", "surrogateescape")) and token.secret:
            found = token.name
    return found


def read_name(settings: ApiSettings, headers: Headers, basic: bool = False) -> str:
    """Name of the reader; 401 when a token is missing or wrong."""
    secret = _shown_secret(headers, basic)
    if secret is None and settings.reads_are_open:
        return ANONYMOUS
    name = holder((*settings.read_tokens, *settings.write_tokens), secret) if secret is not None else None
    if name is None:
        raise _unknown(secret, "Basic realm=gridpace" if basic else "Bearer")
    return name


def write_name(settings: ApiSettings, headers: Headers) -> str:
    """Name of the writer; 401 when the token is missing or wrong, 403 when it may only read."""
    secret = _shown_secret(headers, basic=False)
    name = holder(settings.write_tokens, secret) if secret is not None else None
    if name is not None:
        return name
    if secret is not None and holder(settings.read_tokens, secret) is not None:
        raise HTTPException(403, "this token may only read")
    raise _unknown(secret, "Bearer")


def _unknown(secret: str | None, scheme: str) -> HTTPException:
    text = "a bearer token is needed" if secret is None else "this token is not known"
    return HTTPException(401, text, {"WWW-Authenticate": scheme})


def _shown_secret(headers: Headers, basic: bool) -> str | None:
    """The secret in the Authorization header; "" when there is one that cannot be read, None when there is none."""
    shown = headers.get("authorization")
    if shown is None:
        return None
    scheme, _, value = shown.partition(" ")
    if scheme.lower() == "bearer":
        return value.strip()
    if basic and scheme.lower() == "basic":
        try:
            return base64.b64decode(value, validate=True).decode().partition(":")[2]
        except (binascii.Error, UnicodeDecodeError, ValueError):
            return ""
    return ""


def _reader(connection: HTTPConnection, _: Described) -> str:
    return read_name(connection.app.state.settings, connection.headers)


def _writer(connection: HTTPConnection, _: Described) -> str:
    return write_name(connection.app.state.settings, connection.headers)


Reader = Annotated[str, Depends(_reader)]
Writer = Annotated[str, Depends(_writer)]
