"""Reads a batch's whole input before anything of it is sent: what is wrong is said by line, and nothing runs.

Why a worker thread that yields: a million lines take seconds, in which other tenants' requests must go on.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from time import sleep
from typing import Any

from scheduler.gateway.lines import Line, LineError, parse, read_lines
from scheduler.gateway.model import BYTES_PER_TOKEN, MOST_ERRORS, InputError

YIELD_EVERY = 500


@dataclass(frozen=True)
class Checked:
    """What a file holds: its model, number of requests, and tokens that they may need; or what is wrong with it."""

    model: str
    total: int
    tokens: float
    errors: tuple[InputError, ...]


def check(path: Path, endpoint: str, known: Callable[[str], bool], most: int, usual_answer: float) -> Checked:
    """Check every line. `known`: whether a model is served; `most`: requests that are allowed; `usual_answer`: tokens
    of an answer whose request names no highest number."""
    errors, seen, model, total, tokens = _Errors(), set[bytes](), "", 0, 0.0
    for number, text in read_lines(path):
        total = number + 1
        if total > most:
            errors.add(None, LineError("too_many_requests", f"a batch has at most {most} requests here"))
            break
        if number % YIELD_EVERY == 0:
            sleep(0)
        try:
            line = parse(number, text, endpoint)
            model = model or _model(line, known)
            _fits(line, model, seen)
        except LineError as error:
            errors.add(number, error)
            continue
        tokens += _tokens(line.body, len(text), usual_answer)
    if total == 0:
        errors.add(None, LineError("empty_file", "the file holds no request"))
    return Checked(model, total, tokens, errors.found())


def _model(line: Line, known: Callable[[str], bool]) -> str:
    name = str(line.body["model"])
    if not known(name):
        raise LineError("model_not_found", f"no server here has the model {name!r}", "body.model")
    return name


def _fits(line: Line, model: str, seen: set[bytes]) -> None:
    if line.body["model"] != model:
        raise LineError("mismatched_model", f"all requests of a batch use one model, here {model!r}", "body.model")
    key = hashlib.blake2b(line.custom_id.encode("utf-8", "surrogatepass"), digest_size=8).digest()
    if key in seen:
        raise LineError("duplicate_custom_id", f"{line.custom_id!r} stands further up, too", "custom_id")
    seen.add(key)


def _tokens(body: Mapping[str, Any], size: int, usual_answer: float) -> float:
    """What a request may cost; an answer's length is its own limit, where it is lower than usual."""
    limits = [body.get(name) for name in ("max_tokens", "max_completion_tokens", "max_output_tokens")]
    limit = min((one for one in limits if isinstance(one, int) and one > 0), default=usual_answer)
    return size / BYTES_PER_TOKEN + min(limit, usual_answer)  # a number may be too large to be a float


class _Errors:
    def __init__(self) -> None:
        self._found: list[InputError] = []
        self._more = 0

    def add(self, number: int | None, error: LineError) -> None:
        if len(self._found) < MOST_ERRORS:
            line = None if number is None else number + 1
            self._found.append(InputError(error.code, f"{error.param or 'file'}: {error}", error.param, line))
        else:
            self._more += 1

    def found(self) -> tuple[InputError, ...]:
        more = (InputError("more_errors", f"{self._more} more lines are wrong"),) if self._more else ()
        return (*self._found, *more)
