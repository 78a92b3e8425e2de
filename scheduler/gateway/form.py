"""The form of an upload, read as it comes: its file goes to an `Incoming`, nothing of it is kept in memory.

Why not the framework's own: it takes the whole body into a temporary file before anybody may look at it.
"""

from __future__ import annotations

from collections.abc import AsyncIterator
from typing import TYPE_CHECKING

from python_multipart.exceptions import FormParserError
from python_multipart.multipart import MultipartParser, parse_options_header
from starlette.concurrency import run_in_threadpool
from starlette.requests import Request

from scheduler.gateway.expiry import of_form
from scheduler.gateway.intake import FORM_BYTES, PIECE, Incoming
from scheduler.gateway.model import ApiError

if TYPE_CHECKING:
    from python_multipart.multipart import MultipartCallbacks

MOST_PARTS = 12


async def receive(request: Request, coming: Incoming) -> tuple[str, int | None]:
    """Take an upload in; the name of its file, and after how many seconds it ends (None: it was not said). Raises
    ApiError (400 naming the field, 413) and OSError."""
    kind, options = parse_options_header(request.headers.get("content-type", ""))
    if kind != b"multipart/form-data" or not options.get(b"boundary"):
        raise ApiError(400, "file: is missing; send multipart/form-data", "missing_required_parameter", "file")
    form = _Form(coming)
    parser = MultipartParser(options[b"boundary"], form.callbacks())
    try:
        async for piece in pieces(request):
            await run_in_threadpool(parser.write, piece)
    except FormParserError as error:
        raise ApiError(400, f"the form can't be read: {error}", "invalid_form") from None
    return form.finished()


async def pieces(request: Request) -> AsyncIterator[bytes]:
    """The body of a request, in pieces that are worth a thread's while."""
    gathered = bytearray()
    async for some in request.stream():
        gathered += some
        if len(gathered) >= PIECE:
            yield bytes(gathered)
            gathered.clear()
    yield bytes(gathered)


def announced(request: Request) -> int | None:
    """Bytes that a request says it has; None where it says none."""
    text = request.headers.get("content-length", "")
    return int(text) if text.isascii() and text.isdigit() else None


class _Form:
    """What the parser finds."""

    def __init__(self, coming: Incoming) -> None:
        self._coming, self._fields = coming, dict[str, bytes]()
        self._filename: str | None = None
        self._in_file, self._ended, self._parts, self._kept = False, False, 0, 0
        self._name, self._header, self._value, self._disposition = "", b"", b"", b""

    def callbacks(self) -> MultipartCallbacks:
        """For the parser."""
        return {
            "on_part_begin": self._part_begin,
            "on_header_field": self._header_field,
            "on_header_value": self._header_value,
            "on_header_end": self._header_end,
            "on_headers_finished": self._headers_finished,
            "on_part_data": self._part_data,
            "on_part_end": self._part_end,
            "on_end": self._end,
        }

    def finished(self) -> tuple[str, int | None]:
        """The name of the file, and how long it is kept (s). Raises ApiError for a form that is not what was asked
        for."""
        if not self._ended:
            raise ApiError(400, "the form ends before its end", "invalid_form")
        self._check_purpose()
        if self._filename is None:
            raise ApiError(400, "file: is missing", "missing_required_parameter", "file")
        return self._filename or "input.jsonl", of_form(self._fields, "expires_after")

    def _check_purpose(self) -> None:
        if self._fields.get("purpose") != b"batch":
            raise ApiError(400, 'purpose: only "batch" is served here', "invalid_value", "purpose")

    # ---------------------------------------------------------------- the parser
    def _part_begin(self) -> None:
        self._parts += 1
        self._keep(FORM_BYTES if self._parts > MOST_PARTS else 0)
        self._name, self._header, self._value, self._disposition, self._in_file = "", b"", b"", b"", False

    def _header_field(self, data: bytes, start: int, end: int) -> None:
        self._keep(end - start)
        self._header += data[start:end]

    def _header_value(self, data: bytes, start: int, end: int) -> None:
        self._keep(end - start)
        self._value += data[start:end]

    def _header_end(self) -> None:
        if self._header.lower() == b"content-disposition":
            self._disposition = self._value
        self._header, self._value = b"", b""

    def _headers_finished(self) -> None:
        _, options = parse_options_header(self._disposition)
        self._name = options.get(b"name", b"").decode(errors="replace")
        self._in_file = b"filename" in options
        if not self._in_file:
            self._fields[self._name] = b""
        elif self._name != "file" or self._filename is not None:
            raise ApiError(400, f"{self._name}: send one file, as `file`", "invalid_value", self._name)
        else:
            self._filename = options[b"filename"].decode(errors="replace")

    def _part_data(self, data: bytes, start: int, end: int) -> None:
        if self._in_file:
            self._coming.write(data[start:end])
        else:
            self._keep(end - start)
            self._fields[self._name] += data[start:end]

    def _part_end(self) -> None:
        if self._name == "purpose" and not self._in_file:
            self._check_purpose()  # before a file that comes after it

    def _end(self) -> None:
        self._ended = True

    def _keep(self, count: int) -> None:
        """What is kept in memory is bounded. Raises ApiError."""
        self._kept += count
        if self._kept >= FORM_BYTES:
            raise ApiError(400, f"the form has more than {FORM_BYTES} bytes beside its file", "invalid_form")
