"""What is answered of a batch: two files that only grow (answers, errors), and which lines they hold.

Why files are the truth: a line is answered when it stands in one of them, and not before. After a crash the files are
read again, and only what is in neither is asked again: no answer is lost, none doubled. A file is cut off from the
first line on that is torn or damaged (a power cut may leave zeros in the middle): what stood behind it is asked again.
"""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO

import structlog

from scheduler.gateway.lines import number_of

log = structlog.get_logger("gridpace.gateway")


@dataclass
class Usage:
    """Tokens that the servers counted."""

    input_tokens: int = 0
    output_tokens: int = 0

    def add(self, body: Any) -> None:
        """Count the `usage` of one answer (chat and completions, embeddings, responses name it differently)."""
        usage = body.get("usage") if isinstance(body, Mapping) else None
        if not isinstance(usage, Mapping):
            return
        self.input_tokens += _count(usage.get("prompt_tokens", usage.get("input_tokens")))
        self.output_tokens += _count(usage.get("completion_tokens", usage.get("output_tokens")))

    def json(self) -> dict[str, int]:
        """As a batch shows it."""
        return {
            "input_tokens": self.input_tokens,
            "output_tokens": self.output_tokens,
            "total_tokens": self.input_tokens + self.output_tokens,
        }


def _count(value: Any) -> int:
    return value if isinstance(value, int) and value >= 0 else 0


class Answers:
    """The answers of one batch of `total` lines, in `folder`. Not thread-safe: one owner."""

    def __init__(self, folder: Path, total: int) -> None:
        """Makes the files, and reads what they hold. Raises OSError."""
        folder.mkdir(parents=True, exist_ok=True)
        self.good, self.bad = folder / "output.jsonl", folder / "errors.jsonl"
        self.total, self.usage = total, Usage()
        self._done = bytearray(total)
        self.completed = self._read(self.good, count=True)
        self.failed = self._read(self.bad, count=False)
        for path in (self.good, self.bad):
            path.touch()
        self._files: dict[Path, BinaryIO] = {}  # opened with the first line: thousands of batches may wait
        self._written = False

    @property
    def left(self) -> int:
        """Lines that stand in neither file."""
        return self.total - self.completed - self.failed

    def has(self, number: int) -> bool:
        """Whether a line is answered."""
        return bool(self._done[number])

    def put(self, number: int, text: bytes, body: Any = None) -> None:
        """Write the output line of an answered (`body` given) or failed request; a second one for a line is dropped."""
        if self._done[number]:
            return
        path = self.bad if body is None else self.good
        if path not in self._files:
            self._files[path] = path.open("ab", buffering=0)
        _write(self._files[path], text)
        self._done[number], self._written = 1, True
        if body is None:
            self.failed += 1
        else:
            self.completed += 1
            self.usage.add(body)

    def sync(self) -> None:
        """On disk when it returns: survives a power cut too."""
        if self._written:
            self._written = False
            try:
                for file in list(self._files.values()):
                    os.fsync(file.fileno())
            except OSError:
                self._written = True
                raise

    def close(self) -> None:
        """Close the files. Raises OSError, and leaves them open."""
        self.sync()
        for file in self._files.values():
            file.close()
        self._files.clear()

    def _read(self, path: Path, *, count: bool) -> int:
        """Mark the lines of a file, cutting it off from one on that is torn or damaged; their number."""
        if not path.exists():
            return 0
        found, good = 0, 0
        with path.open("rb") as file:
            for text in file:
                number, body = _whole(text)
                if number is None or number >= self.total:
                    break
                good += len(text)
                if not self._done[number]:
                    self._done[number] = 1
                    found += 1
                    if count:
                        self.usage.add(body)
        if good < (size := path.stat().st_size):
            log.warning("gateway.answers_cut", file=str(path), kept=found, at_byte=good, cut_bytes=size - good)
            os.truncate(path, good)
        return found


def _whole(text: bytes) -> tuple[int | None, Any]:
    """The input line that an output line answers, and the answer's body (None of an error); no number where the line is
    torn or damaged."""
    number = number_of(text)
    try:
        response = json.loads(text)["response"] if number is not None else None
        return number, response["body"] if response is not None else None
    except RecursionError:  # as deep as it may be written, and whole: what it used can't be read
        return number, None
    except (ValueError, TypeError, KeyError):
        return None, None


def _write(file: BinaryIO, text: bytes) -> None:
    """All of it or, with OSError, none: a disk that fills up must leave no half line before the next one."""
    start = file.seek(0, os.SEEK_END)
    view = memoryview(text)
    try:
        while view:
            view = view[file.write(view) :]
    except OSError:
        file.truncate(start)
        raise
