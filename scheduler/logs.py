"""Structured logs: for a person on a terminal, for journald as JSON with its `<N>` priority prefix.

Why the prefix: journald reads it as the priority, so that `journalctl -p warning` finds what a person must see.
"""

from __future__ import annotations

import logging
import sys
from collections.abc import MutableMapping
from contextlib import suppress
from typing import Any, TextIO, cast

import structlog

PRIORITIES = {"debug": 7, "info": 6, "warning": 4, "error": 3, "exception": 3, "critical": 2}


def configure_logs(form: str = "auto") -> None:
    """`form` is auto (console on a terminal, else journal), console or journal. Standard logging goes the same way."""
    console = form == "console" or (form == "auto" and sys.stderr.isatty())
    last: Any = structlog.dev.ConsoleRenderer() if console else journal_line
    structlog.configure(
        processors=[
            structlog.contextvars.merge_contextvars,
            structlog.processors.add_log_level,
            structlog.processors.TimeStamper(fmt="iso", utc=True),
            structlog.processors.format_exc_info,
            escape_values,
            last,
        ],
        logger_factory=structlog.WriteLoggerFactory(file=cast("TextIO", _Stderr())),
        cache_logger_on_first_use=True,
    )
    logging.basicConfig(level=logging.WARNING, stream=sys.stderr, format="<4>%(name)s: %(message)s", force=True)
    logging.getLogger("pyomo").setLevel(logging.WARNING)
    # A turn that takes longer than its period is said once, by the cycle's own note, not at every skipped beat.
    logging.getLogger("apscheduler").setLevel(logging.ERROR)


class _Stderr:
    """Whatever standard error is at the moment of writing: loggers are kept, and outlive a stream that is replaced. A
    log that can't be written (a full disk, a reader that left) stops nothing."""

    def write(self, text: str) -> int:
        """Write to the present stream."""
        with suppress(OSError):
            sys.stderr.write(text)
        return len(text)

    def flush(self) -> None:
        """Flush the present stream."""
        with suppress(OSError):
            sys.stderr.flush()


def escape_values(_logger: object, _method: str, event: MutableMapping[str, Any]) -> MutableMapping[str, Any]:
    """No text from outside may forge a log line or move a terminal's cursor."""
    for key, value in event.items():
        if isinstance(value, str) and key != "exception":
            event[key] = "".join(char if char.isprintable() else repr(char)[1:-1] for char in value)
    return event


def journal_line(logger: object, method: str, event: MutableMapping[str, Any]) -> str:
    """One JSON object behind its priority."""
    body = structlog.processors.JSONRenderer(default=str, ensure_ascii=False)(logger, method, event)
    text = body.decode() if isinstance(body, bytes) else body
    return f"<{PRIORITIES.get(str(event.get('level', method)), 6)}>{text}"
