"""Bytes of a CSV or Parquet file into plain columns, each row with its place for the error message.

Why not one call of a data-frame reader: a file that is being written while it is read must be told from a good one,
to the line. Too short a row, a gzip that stops in the middle, a last line without its end are signs of that, and a
lenient reader fills them up in silence.
"""

from __future__ import annotations

import csv
import io
import zlib
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from adapters.fields import did_you_mean
from adapters.ports import SourceError
from adapters.registry import import_extra
from adapters.signals.csvconfig import CsvConfig

MAX_BYTES = 64 * 2**20
MAX_ROWS = 600_000
_MISSING = {"", "nan", "n/a", "na", "null", "none", "-", "--", "inf", "-inf", "infinity", "-infinity"}


@dataclass(frozen=True)
class Table:
    """The columns that matter, row by row. `times` are texts or, from Parquet, timestamps; `values` are None where the
    file says that there is none. `open_end`: the last line had no end and was left out."""

    source: str
    lines: tuple[int, ...]
    times: tuple[Any, ...]
    hours: tuple[str, ...] | None
    repeated: tuple[bool, ...] | None
    values: tuple[float | None, ...]
    open_end: bool = False

    def place(self, row: int) -> str:
        """`file:line` of a row."""
        return f"{self.source}:{self.lines[row]}"


def read_table(path: Path, config: CsvConfig, accept_open_end: bool) -> Table:
    """Read the file; SourceError with file:line for whatever is not as declared.

    A last line without a line end may still be growing: it is left out unless `accept_open_end`.
    """
    if path.suffix == ".parquet":
        return _read_parquet(path, config)
    text, open_end = _text(path), False
    if not text.strip():
        raise SourceError(f"{path}:1: the file is empty")
    if not text.endswith("\n") and not accept_open_end and "\n" in text:
        text, open_end = text[: text.rindex("\n") + 1], True
    header, lines, rows = _rows(path, text, config.separator)
    picked = _columns(path, header, config)
    columns = {name: [row[index].strip() for row in rows] for name, index in picked.items()}
    return Table(
        source=str(path),
        lines=tuple(lines),
        times=tuple(columns["time"]),
        hours=tuple(columns["hour"]) if "hour" in columns else None,
        repeated=tuple(_is_yes(text) for text in columns["repeated"]) if "repeated" in columns else None,
        values=_numbers(path, header[picked["value"]], lines, columns["value"], config.decimal),
        open_end=open_end,
    )


# ---------------------------------------------------------------- bytes
def _text(path: Path) -> str:
    try:
        with path.open("rb") as file:
            data = file.read(MAX_BYTES + 1)
    except OSError as error:
        raise SourceError(f"{path}: {error.strerror or error}") from error
    if path.suffix == ".gz":
        data = _gunzip(path, data)
    if len(data) > MAX_BYTES:
        raise SourceError(f"{path}: larger than {MAX_BYTES // 2**20} MiB; split it, or keep only the columns needed")
    try:
        return data.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        line = data.count(b"\n", 0, error.start) + 1
        raise SourceError(f"{path}:{line}: not UTF-8 text") from error


def _gunzip(path: Path, data: bytes) -> bytes:
    """Unpack all members, never more than the bound; SourceError with the last whole line when the end is missing."""
    out = bytearray()
    while data and len(out) <= MAX_BYTES:
        unpacker = zlib.decompressobj(wbits=31)
        try:
            out += unpacker.decompress(data, MAX_BYTES + 1 - len(out))
        except zlib.error as error:
            raise SourceError(f"{path}:{_line(out)}: not gzip data, or damaged ({error})") from error
        if not unpacker.eof and len(out) <= MAX_BYTES:
            raise SourceError(f"{path}:{_line(out)}: the gzip data stop in the middle; is it being written?")
        data = unpacker.unused_data
    return bytes(out)


def _line(data: bytes | bytearray) -> int:
    return data.count(b"\n") + 1


# ---------------------------------------------------------------- rows and columns
def _rows(path: Path, text: str, separator: str) -> tuple[list[str], list[int], list[list[str]]]:
    reader = csv.reader(io.StringIO(text), delimiter=separator, strict=True)
    lines: list[int] = []
    rows: list[list[str]] = []
    try:
        header = [name.strip() for name in next(reader)]
        for row in reader:
            if not row:
                continue
            lines.append(reader.line_num)
            rows.append(row)
    except csv.Error as error:
        raise SourceError(f"{path}:{reader.line_num}: {error}") from error
    if not rows:
        raise SourceError(f"{path}:1: a header and no rows")
    _bound(path, len(rows))
    for number, row in enumerate(rows):
        if len(row) != len(header):
            half = "; is it being written?" if number == len(rows) - 1 and len(row) < len(header) else ""
            raise SourceError(f"{path}:{lines[number]}: {len(row)} fields where the header has {len(header)}{half}")
    return header, lines, rows


def _bound(path: Path, rows: int) -> None:
    if rows > MAX_ROWS:
        raise SourceError(f"{path}: {rows} rows; at most {MAX_ROWS} are read (a year of minutes)")


def _columns(path: Path, header: Sequence[str], config: CsvConfig) -> dict[str, int]:
    """Positions of the declared columns, and of the value column when only one is left."""
    wanted = {"time": config.time_column or header[0], "hour": config.hour_column}
    wanted |= {"repeated": config.repeated_hour_column, "value": config.value_column}
    places = {role: _position(path, header, name) for role, name in wanted.items() if name is not None}
    if "value" not in places:
        free = [index for index in range(len(header)) if index not in places.values()]
        if len(free) != 1:
            left = ", ".join(header[index] for index in free)
            raise SourceError(
                f"{path}:1: value_column: {'name one of ' + left if left else 'no column is left for it'}"
            )
        places["value"] = free[0]
    return places


def _position(path: Path, header: Sequence[str], name: str) -> int:
    if header.count(name) == 1:
        return header.index(name)
    if name in header:
        raise SourceError(f'{path}:1: column "{name}" is there {header.count(name)} times')
    raise SourceError(f'{path}:1: no column "{name}"; there are {", ".join(header)}.{did_you_mean(name, list(header))}')


def _numbers(
    path: Path, name: str, lines: Sequence[int], texts: Sequence[str], decimal: str
) -> tuple[float | None, ...]:
    values: list[float | None] = []
    for line, text in zip(lines, texts, strict=True):
        if text.lower() in _MISSING:
            values.append(None)
            continue
        try:
            values.append(_number(text, decimal))
        except ValueError:
            raise SourceError(f'{path}:{line}: {name}: "{text}" is not a number') from None
    return tuple(values)


def _number(text: str, decimal: str) -> float:
    """Python would also read 1_000 and, where the comma is the decimal mark, 1.000: both may mean something else."""
    if "_" in text or (decimal == "," and "." in text):
        raise ValueError(text)
    return float(text.replace(decimal, "."))


def _is_yes(text: str) -> bool:
    return text.strip().lower() in {"y", "yes", "true", "1", "x", "xhr"}


# ---------------------------------------------------------------- Parquet
def _read_parquet(path: Path, config: CsvConfig) -> Table:
    """The same columns out of a Parquet file; a row's place is its number, the header counted as 1."""
    if path.is_file() and path.stat().st_size > MAX_BYTES:
        raise SourceError(f"{path}: larger than {MAX_BYTES // 2**20} MiB; split it, or keep only the columns needed")
    arrow, parquet = import_extra("pyarrow"), import_extra("pyarrow.parquet")
    try:
        meta = parquet.read_metadata(path)
        _bound(path, meta.num_rows)
        table = parquet.read_table(path)
    except OSError as error:
        raise SourceError(f"{path}: {error.strerror or error}") from error
    except arrow.ArrowException as error:
        raise SourceError(f"{path}:1: not a whole Parquet file ({error}); is it being written?") from error
    if not table.num_rows:
        raise SourceError(f"{path}:1: no rows")
    picked = _columns(path, table.column_names, config)
    columns = {role: table.column(index).to_pylist() for role, index in picked.items()}
    lines = tuple(range(2, table.num_rows + 2))
    texts = ["" if value is None else str(value) for value in columns["value"]]
    return Table(
        source=str(path),
        lines=lines,
        times=tuple(columns["time"]),
        hours=tuple(str(value) for value in columns["hour"]) if "hour" in columns else None,
        repeated=tuple(_is_yes(str(value)) for value in columns["repeated"]) if "repeated" in columns else None,
        values=_numbers(path, table.column_names[picked["value"]], lines, texts, "."),
    )
