"""One line of a batch's input, and one line of its output, as OpenAI's Batch API has them.

Source of the form: https://platform.openai.com/docs/api-reference/batch (request input object, request output object).
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

ENDPOINTS = ("/v1/chat/completions", "/v1/completions", "/v1/embeddings", "/v1/responses")
LONGEST_LINE = 16 * 1024 * 1024
LONGEST_ID = 512
DEEPEST = 200
"""Levels of a request: Python's stack bounds what can be read and written again, and how full it is there differs."""
_NUMBER = re.compile(rb'^\{"id": "batch_req_[0-9a-f]+_(\d+)"')


class LineError(ValueError):
    """A line can't be a request; `code` and `param` are what the batch's list of errors tells."""

    def __init__(self, code: str, text: str, param: str | None = None) -> None:
        super().__init__(text)
        self.code, self.param = code, param


@dataclass(frozen=True, slots=True)
class Line:
    """A request: `number` counts from 0, `body` is sent as it is."""

    number: int
    custom_id: str
    body: Mapping[str, Any]


def parse(number: int, text: bytes, endpoint: str) -> Line:
    """The request of a line. Raises LineError naming the field."""
    found = _object(text)
    custom_id, body = found.get("custom_id"), found.get("body")
    if not isinstance(custom_id, str) or not 0 < len(custom_id) <= LONGEST_ID:
        raise LineError("missing_required_parameter", f"needs a text of 1 to {LONGEST_ID} characters", "custom_id")
    if found.get("method") != "POST":
        raise LineError("invalid_method", 'the method of every request is "POST"', "method")
    if found.get("url") != endpoint:
        raise LineError("invalid_url", f"the batch's endpoint is {endpoint}", "url")
    if not isinstance(body, dict):
        raise LineError("missing_required_parameter", "needs an object", "body")
    if not isinstance(body.get("model"), str):
        raise LineError("missing_required_parameter", "needs the name of a model", "body.model")
    if body.get("stream"):
        raise LineError("invalid_request", "answers of a batch are not streamed", "body.stream")
    return Line(number, custom_id, body)


def _object(text: bytes) -> dict[str, Any]:
    """What stands in a line. Raises LineError."""
    if len(text) > LONGEST_LINE:
        raise LineError("line_too_long", f"a line has at most {LONGEST_LINE} bytes")
    try:
        found = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise LineError("invalid_json_line", f"not valid JSON: {error}") from None
    if not isinstance(found, dict):
        raise LineError("invalid_json_line", "not a JSON object")
    if text.count(b"[") + text.count(b"{") > DEEPEST and _levels(found) > DEEPEST:
        raise LineError("invalid_json_line", f"nested more than {DEEPEST} levels deep")
    return found


def _levels(found: Any) -> int:
    """How deep lists and objects lie in each other."""
    count, these = 0, [found]
    while these := [one for one in these if isinstance(one, list | dict)]:
        count += 1
        these = [inner for one in these for inner in (one.values() if isinstance(one, dict) else one)]
    return count


def read_lines(path: Path, first: int = 0) -> Iterator[tuple[int, bytes]]:
    """(number, text) of the lines that hold something, numbers from 0 by place among those; from number `first` on.
    One line in memory at a time, and no more of an overlong one than shows that it is."""
    number = 0
    with path.open("rb") as file:
        while text := file.readline(LONGEST_LINE + 1):
            if len(text) > LONGEST_LINE and not text.endswith(b"\n"):
                _skip_rest(file)
            if not text.strip():
                continue
            if number >= first:
                yield number, text
            number += 1


def _skip_rest(file: Any) -> None:
    while (more := file.readline(LONGEST_LINE)) and not more.endswith(b"\n"):
        pass


def request_id(batch: str, number: int) -> str:
    """The id of a request in the output: it carries the line's number, so that a restart finds what is answered."""
    return f"batch_req_{batch.removeprefix('batch_')}_{number}"


def number_of(text: bytes) -> int | None:
    """The input line that an output line answers; None for a torn or foreign line."""
    found = _NUMBER.match(text)
    return int(found.group(1)) if found and text.endswith(b"}\n") else None


def answered(batch: str, line: Line, status: int, upstream_id: str, body: Any) -> bytes:
    """The output line of a request that the server answered."""
    response = {"status_code": status, "request_id": upstream_id, "body": body}
    return _output(batch, line, response, None)


def unanswered(batch: str, line: Line, code: str, text: str) -> bytes:
    """The output line of a request without an answer."""
    return _output(batch, line, None, {"code": code, "message": text})


def _output(batch: str, line: Line, response: Mapping[str, Any] | None, error: Mapping[str, Any] | None) -> bytes:
    found = {"id": request_id(batch, line.number), "custom_id": line.custom_id, "response": response, "error": error}
    return json.dumps(found).encode() + b"\n"
