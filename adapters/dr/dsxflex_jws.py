"""Signed data of DSX Flex: JWS (RFC 7515) in compact form, by ES256 or RS256, with the key named in the header.

Why keys belong to sources: a key that signs outcomes of the infrastructure must not be able to order a reduction.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from joserfc import jws
from joserfc.errors import JoseError
from joserfc.jwk import ECKey, RSAKey

from adapters.dr.dsxflex_config import TrustedKey
from adapters.ports import AdapterError, EventRefused

ALGORITHMS = ["ES256", "RS256"]
SMALLEST_RSA = 2048
Key = ECKey | RSAKey


class Keys:
    """The keys of others, by their ids. Raises AdapterError for a file that holds none."""

    def __init__(self, trusted: Iterable[tuple[TrustedKey, Path]]) -> None:
        self._held = {entry.kid: (f"//grid/v1/{entry.source}", read_key(path)) for entry, path in trusted}

    def verify(self, token: str, source: str) -> bytes:
        """The payload of data that `source` signed. Raises EventRefused, which does not say what is wrong with it."""
        try:
            kid = str(jws.extract_compact(token.encode()).headers().get("kid"))
            owner, key = self._held[kid]
            if owner != source:
                raise _not_authenticated()
            return bytes(jws.deserialize_compact(token, key, algorithms=[algorithm(key)]).payload)
        except (JoseError, KeyError, ValueError, TypeError):
            raise _not_authenticated() from None


class Signer:
    """Signs what we send."""

    def __init__(self, kid: str, pem: str, place: str) -> None:
        self._kid, self._key = kid, import_key(pem, place)
        if not self._key.is_private:
            raise AdapterError(f"{place}: this is no private key")

    def sign(self, data: Mapping[str, Any]) -> str:
        """Data as it is sent."""
        header = {"alg": algorithm(self._key), "kid": self._kid}
        return jws.serialize_compact(header, json.dumps(data), self._key, algorithms=ALGORITHMS)


def algorithm(key: Key) -> str:
    """By what a key signs."""
    return "ES256" if isinstance(key, ECKey) else "RS256"


def read_key(path: Path) -> Key:
    """A key out of a PEM file. Raises AdapterError."""
    try:
        return import_key(path.read_text(encoding="utf-8"), str(path))
    except (OSError, UnicodeDecodeError) as error:
        raise AdapterError(f"{path}: cannot be read: {error}") from None


def import_key(pem: str, place: str) -> Key:
    """A P-256 or RSA key. Raises AdapterError, which does not repeat the text."""
    for kind in (ECKey, RSAKey):
        try:
            key = kind.import_key(pem)
        except (ValueError, TypeError, JoseError):
            continue
        if isinstance(key, ECKey) and key.curve_name != "P-256":
            raise AdapterError(f"{place}: ES256 needs a key on the curve P-256, not {key.curve_name}")
        if isinstance(key, RSAKey) and key.raw_value.key_size < SMALLEST_RSA:
            raise AdapterError(f"{place}: an RSA key must have {SMALLEST_RSA} bits or more")
        return key
    raise AdapterError(f"{place}: holds no P-256 or RSA key in PEM form")


def _not_authenticated() -> EventRefused:
    return EventRefused("not authenticated", 401)
