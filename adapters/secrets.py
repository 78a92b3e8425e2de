"""Secrets by reference: `env:NAME`, `file:/path` or `credential:name`, never the value itself.

Why a type: a config gets mailed, pasted into issues and printed by `check`. A reference may be shown to anybody; the
value is fetched when it is used, is never kept in the object, and so cannot slip into a log, a repr or a JSON dump.
Here and not in the scheduler, because adapters (a webhook's key, an API's token) carry such keys in their own configs.
"""

from __future__ import annotations

import os
import stat
from pathlib import Path
from typing import Annotated, Any

from pydantic import PlainSerializer, PlainValidator, WithJsonSchema

from adapters.ports import AdapterError

SCHEMES = ("env", "file", "credential")
HOW = "give a secret by reference: env:NAME, file:/path or credential:name (systemd's LoadCredential)"


class SecretError(AdapterError):
    """A referenced secret cannot be read; the text names the reference, never a value. Commands exit with 2."""

    exit_code = 2


class SecretRef:
    """Where a secret lies. Printing it in any way shows the reference only."""

    __slots__ = ("name", "scheme")

    def __init__(self, scheme: str, name: str) -> None:
        self.scheme = scheme
        self.name = name

    @classmethod
    def parse(cls, text: object) -> SecretRef:
        """The reference that `text` is; else ValueError, which doesn't repeat the text: it may be a secret."""
        if isinstance(text, SecretRef):
            return text
        scheme, colon, name = text.partition(":") if isinstance(text, str) else ("", "", "")
        if not colon or scheme not in SCHEMES or not name.strip():
            raise ValueError(f"a secret never stands in the config itself; {HOW}")
        return cls(scheme, name.strip())

    def __repr__(self) -> str:
        return f"SecretRef({self})"

    def __str__(self) -> str:
        return f"{self.scheme}:{self.name}"

    def __eq__(self, other: object) -> bool:
        return isinstance(other, SecretRef) and str(self) == str(other)

    def __hash__(self) -> int:
        return hash(str(self))

    def reveal(self, base_dir: Path) -> str:
        """The secret itself, read now; surrounding white space is not part of it. Relative files count from `base_dir`.

        Raises SecretError when it is missing, unreadable or empty.
        """
        value = os.environ.get(self.name) if self.scheme == "env" else self._read(self.path(base_dir))
        if value is None:
            raise SecretError(f"{self}: the environment has no variable {self.name}")
        if not value.strip():
            raise SecretError(f"{self}: the secret is empty")
        return value.strip()

    def path(self, base_dir: Path) -> Path | None:
        """File that holds the secret; None for `env:`, and for a credential when systemd handed none over."""
        if self.scheme == "file":
            return base_dir / Path(self.name).expanduser()
        folder = os.environ.get("CREDENTIALS_DIRECTORY") if self.scheme == "credential" else None
        return Path(folder) / self.name if folder else None

    def world_readable(self, base_dir: Path) -> bool:
        """True when every user of this machine may read the file that holds the secret."""
        path = self.path(base_dir) if self.scheme == "file" else None
        try:
            return path is not None and bool(path.stat().st_mode & stat.S_IROTH)
        except OSError:
            return False

    def _read(self, path: Path | None) -> str:
        if path is None:
            raise SecretError(f"{self}: systemd handed over no credentials (CREDENTIALS_DIRECTORY is not set)")
        try:
            return path.read_text(encoding="utf-8")
        except (OSError, UnicodeDecodeError) as error:
            why = error.strerror if isinstance(error, OSError) else "it is not UTF-8 text"
            raise SecretError(f"{self}: {path} cannot be read: {why}") from None


def _parse(value: Any) -> SecretRef:
    return SecretRef.parse(value)


Secret = Annotated[
    SecretRef,
    PlainValidator(_parse),
    PlainSerializer(str, return_type=str),
    WithJsonSchema({"type": "string", "pattern": f"^({'|'.join(SCHEMES)}):.+$"}),
]
"""A config value that says where a secret lies."""
