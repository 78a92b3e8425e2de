"""What the gateway keeps and shows: files, batches and tenants as frozen values, in the form of OpenAI's API.

Source of the form: https://platform.openai.com/docs/api-reference/batch and .../files.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, fields, replace
from datetime import datetime
from enum import StrEnum
from typing import Any

BYTES_PER_TOKEN = 4.0
"""English text; https://platform.openai.com/docs/concepts (tokens). Only first estimates rest on it."""
MOST_ERRORS = 100
"""Errors of a batch's input that are listed; the rest is counted in the last one."""


class Status(StrEnum):
    """Life of a batch."""

    VALIDATING = "validating"
    FAILED = "failed"
    IN_PROGRESS = "in_progress"
    FINALIZING = "finalizing"
    COMPLETED = "completed"
    EXPIRED = "expired"
    CANCELLING = "cancelling"
    CANCELLED = "cancelled"


class Leg(StrEnum):
    """How far the hand-over of a batch is, from the moment on at which nothing more of it is sent here."""

    RELEASED = "released"
    TAKEN = "taken"
    RECALLED = "recalled"


OVER = frozenset({Status.FAILED, Status.COMPLETED, Status.EXPIRED, Status.CANCELLED})


class ApiError(Exception):
    """A request that is refused, as OpenAI's clients expect it; `retry_after_s` where waiting helps."""

    def __init__(
        self,
        status: int,
        text: str,
        code: str | None = None,
        param: str | None = None,
        retry_after_s: float | None = None,
    ) -> None:
        super().__init__(text)
        self.status, self.code, self.param, self.retry_after_s = status, code, param, retry_after_s


@dataclass(frozen=True)
class StoredFile:
    """A file: its `place` is relative to the gateway's folder. `created_at` and `expires_at` are aware UTC."""

    id: str
    tenant: str
    filename: str
    bytes: int
    purpose: str
    created_at: datetime
    place: str
    expires_at: datetime | None = None

    def json(self) -> dict[str, Any]:
        """The file object."""
        found: dict[str, Any] = {
            "id": self.id,
            "object": "file",
            "bytes": self.bytes,
            "created_at": _seconds(self.created_at),
            "filename": self.filename,
            "purpose": self.purpose,
            "status": "processed",
            "status_details": None,
        }
        return found if self.expires_at is None else found | {"expires_at": _seconds(self.expires_at)}


@dataclass(frozen=True)
class InputError:
    """Why a batch was refused after its file was read; `line` counts from 1."""

    code: str
    message: str
    param: str | None = None
    line: int | None = None


@dataclass(frozen=True)
class Batch:
    """A batch. `deadline` is when its owner wants it, at most `expires_at`, after which nothing is sent any more.
    `max_price` is what its owner pays at most for a million tokens (None: it must be done); `work_gpu_h` is what it was
    estimated to need. `quote`: the firm quote whose tokens it uses. `paid` is owed for its first `paid_tokens`, those
    that its quote pays for left out. `told`: the daemon has heard that it is over.

    `output_keep_s`: seconds from their creation after which its files of answers end (None: they do with it).

    `sites`: other sites that may run it. From `leg` RELEASED on it is the site's that is called `away`, by its `token`,
    until it has come back; `moves` counts its tokens, `shunned` are sites that did not do it. `origin`: whose it is,
    where it was taken over from another site."""

    id: str
    tenant: str
    endpoint: str
    input_file: str
    window: str
    created_at: datetime
    expires_at: datetime
    deadline: datetime
    model: str = ""
    priority: int = 0
    max_price: float | None = None
    metadata: Mapping[str, str] = field(default_factory=dict)
    status: Status = Status.VALIDATING
    times: Mapping[str, datetime] = field(default_factory=dict)
    total: int = 0
    completed: int = 0
    failed: int = 0
    input_tokens: int = 0
    output_tokens: int = 0
    work_gpu_h: float = 0.0
    errors: tuple[InputError, ...] = ()
    output_file: str | None = None
    error_file: str | None = None
    told: bool = False
    quote: str | None = None
    paid: float = 0.0
    paid_tokens: int = 0
    sites: tuple[str, ...] = ()
    leg: Leg | None = None
    away: str = ""
    token: str = ""
    moves: int = 0
    shunned: tuple[str, ...] = ()
    origin: str = ""
    output_keep_s: int | None = None

    @property
    def tokens(self) -> int:
        """Tokens that the servers counted, in and out."""
        return self.input_tokens + self.output_tokens

    @property
    def job(self) -> str:
        """The daemon's job on whose GPUs it runs."""
        return self.quote or self.id

    @property
    def open_sites(self) -> tuple[str, ...]:
        """Other sites that may run it and have not failed to."""
        return tuple(site for site in self.sites if site not in self.shunned)

    @property
    def over(self) -> bool:
        """True once nothing about it changes any more."""
        return self.status in OVER

    def at(self, status: Status, now: datetime, **more: Any) -> Batch:
        """The batch in another state from `now` on."""
        return replace(self, status=status, times={**self.times, f"{status.value}_at": now}, **more)

    def json(self) -> dict[str, Any]:
        """The batch object."""
        names = ("in_progress", "finalizing", "completed", "failed", "expired", "cancelling", "cancelled")
        times = {f"{name}_at": self.times.get(f"{name}_at") for name in names}
        return {
            "id": self.id,
            "object": "batch",
            "endpoint": self.endpoint,
            "model": self.model or None,
            "errors": {"object": "list", "data": [asdict(one) for one in self.errors]} if self.errors else None,
            "input_file_id": self.input_file,
            "completion_window": self.window,
            "status": self.status.value,
            "output_file_id": self.output_file,
            "error_file_id": self.error_file,
            "created_at": _seconds(self.created_at),
            "expires_at": _seconds(self.expires_at),
            **{name: _seconds(at) for name, at in times.items()},
            "request_counts": {"total": self.total, "completed": self.completed, "failed": self.failed},
            "usage": {
                "input_tokens": self.input_tokens,
                "input_tokens_details": {"cached_tokens": 0},
                "output_tokens": self.output_tokens,
                "output_tokens_details": {"reasoning_tokens": 0},
                "total_tokens": self.input_tokens + self.output_tokens,
            },
            "metadata": dict(self.metadata) or None,
            "gridpace": {"paid": self.paid, "quote": self.quote, "site": self.away or None},
        }


def _seconds(at: datetime | None) -> int | None:
    return None if at is None else int(at.timestamp())


# ---------------------------------------------------------------- as records
_MOMENTS = ("created_at", "expires_at", "deadline")


def written(thing: StoredFile | Batch) -> dict[str, Any]:
    """As a record."""
    plain = asdict(thing)
    for name in _MOMENTS:
        if isinstance(plain.get(name), datetime):
            plain[name] = plain[name].isoformat()
    if isinstance(thing, Batch):
        plain["times"] = {name: at.isoformat() for name, at in thing.times.items()}
        plain["status"] = thing.status.value
    return plain


def read_file(plain: Mapping[str, Any]) -> StoredFile:
    """A file of a record."""
    return StoredFile(**_known(StoredFile, plain))


def read_batch(plain: Mapping[str, Any]) -> Batch:
    """A batch of a record."""
    values = _known(Batch, plain)
    values["status"] = Status(values["status"])
    values["times"] = {name: datetime.fromisoformat(at) for name, at in values["times"].items()}
    values["errors"] = tuple(InputError(**error) for error in values["errors"])
    for name in ("sites", "shunned"):
        values[name] = tuple(values.get(name, ()))
    values["leg"] = Leg(values["leg"]) if values.get("leg") else None
    return Batch(**values)


def _known(kind: type[Any], plain: Mapping[str, Any]) -> dict[str, Any]:
    """The fields that this version knows, with times read."""
    names = {one.name for one in fields(kind)}
    values = {name: value for name, value in plain.items() if name in names}
    for name in _MOMENTS:
        if isinstance(values.get(name), str):
            values[name] = datetime.fromisoformat(values[name])
    return values
