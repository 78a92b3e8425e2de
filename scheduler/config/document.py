"""Reads YAML 1.2 into plain values and remembers the line of every key.

Why not simply load it: the usual loader reads YAML 1.1, where `NO` (a bidding zone) is false and `12:30` is 750, takes
the last of two equal keys without a word, and forgets lines. Here the file is only composed into nodes; times and dates
stay as written, for the models to judge, and every duplicate key is a problem of its own.
"""

from __future__ import annotations

from collections.abc import Hashable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from ruamel.yaml import YAML
from ruamel.yaml.error import MarkedYAMLError, YAMLError
from ruamel.yaml.nodes import MappingNode, Node, ScalarNode, SequenceNode

from scheduler.config.errors import ConfigError, Problem

Place = tuple[str | int, ...]
"""Keys and indices from the top of the document down to a value."""

_AS_WRITTEN = {"tag:yaml.org,2002:timestamp", "tag:yaml.org,2002:str"}
_MOST_VALUES = 200_000


def path_text(place: Place) -> str:
    """`("signals", 1, "zone")` as `signals[1].zone`."""
    text = ""
    for part in place:
        text += f"[{part}]" if isinstance(part, int) else f".{part}" if text else str(part)
    return text


@dataclass
class Document:
    """A parsed file: its values, the line of each place, and the problems found on the way."""

    file: str
    base_dir: Path
    data: dict[str, Any] = field(default_factory=dict)
    lines: dict[Place, int] = field(default_factory=dict)
    problems: list[Problem] = field(default_factory=list)

    def line(self, place: Place) -> int:
        """Line of `place`, or of the closest parent that the file holds."""
        while place and place not in self.lines:
            place = place[:-1]
        return self.lines.get(place, 1)

    def value(self, place: Place) -> Any:
        """Value at `place`, None where there is none."""
        value: Any = self.data
        for part in place:
            if isinstance(value, dict):
                value = value.get(part)
            elif isinstance(value, list) and isinstance(part, int) and part < len(value):
                value = value[part]
            else:
                return None
        return value

    def report(self, place: Place, text: str, suggestion: str = "") -> None:
        """Note a problem at `place`; the same sentence about the same place only once."""
        problem = Problem(self.file, self.line(place), path_text(place), text, suggestion)
        if problem not in self.problems:
            self.problems.append(problem)

    def raise_if_wrong(self) -> None:
        """Raise ConfigError with every problem so far, in the order of the file."""
        if self.problems:
            raise ConfigError(tuple(sorted(self.problems, key=lambda problem: problem.line)))


def read_document(path: Path) -> Document:
    """Parse `path`. Raises ConfigError when it cannot be read or is not YAML; keeps duplicate keys as problems."""
    document = Document(str(path), path.resolve().parent)
    yaml = YAML(typ="safe", pure=True)
    try:
        root = yaml.compose(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise _unreadable(document, f"cannot be read: {error.strerror}") from None
    except UnicodeDecodeError as error:
        raise _unreadable(document, f"is not UTF-8 text (byte {error.start})") from None
    except MarkedYAMLError as error:
        mark = error.problem_mark or error.context_mark
        raise _unreadable(
            document, f"is not YAML: {error.problem or error.context}", mark.line + 1 if mark else 1
        ) from None
    except YAMLError as error:
        raise _unreadable(document, f"is not YAML: {str(error).splitlines()[0]}") from None
    if not isinstance(root, MappingNode):
        raise _unreadable(document, "is empty" if root is None else "must hold keys and values (mode: observe, ...)")
    reader = _Reader(yaml, document)
    data = reader.plain(root, ())
    document.data = data if isinstance(data, dict) else {}
    return document


def _unreadable(document: Document, text: str, line: int = 1) -> ConfigError:
    return ConfigError((Problem(document.file, line, "", text),))


class _Reader:
    """Turns nodes into plain values, noting lines."""

    def __init__(self, yaml: YAML, document: Document) -> None:
        self.yaml = yaml
        self.document = document
        self.open: list[Node] = []

    def plain(self, node: Node, place: Place) -> Any:
        """The value of `node`; aliases are copied, so one that holds itself, or a bomb of them, is a problem."""
        self.document.lines.setdefault(place, node.start_mark.line + 1)
        if any(node is parent for parent in self.open) or len(self.document.lines) > _MOST_VALUES:
            self.document.report(place, "is an alias of something too large, or of what it stands in")
            return None
        self.open.append(node)
        try:
            if isinstance(node, MappingNode):
                return self._mapping(node, place)
            if isinstance(node, SequenceNode):
                return [self.plain(item, (*place, index)) for index, item in enumerate(node.value)]
            return self._scalar(node, place)
        finally:
            self.open.pop()

    def _mapping(self, node: MappingNode, place: Place) -> dict[str, Any]:
        values: dict[str, Any] = {}
        for key_node, value_node in self._pairs(node):
            key = str(key_node.value) if isinstance(key_node.value, Hashable) else "?"
            inner = (*place, key)
            line = key_node.start_mark.line + 1
            if key in values:
                first = self.document.lines[inner]
                problem = Problem(self.document.file, line, path_text(inner), f"is given twice (first in line {first})")
                self.document.problems.append(problem)
                continue
            self.document.lines[inner] = line
            values[key] = self.plain(value_node, inner)
        return values

    def _pairs(self, node: MappingNode) -> list[tuple[Node, Node]]:
        """Own keys, then those that a merge (`<<: *defaults`) brings and that are not given here."""
        own = [(key, value) for key, value in node.value if key.value != "<<"]
        named = {key.value for key, _ in own if isinstance(key, ScalarNode)}
        for key, value in node.value:
            sources = value.value if isinstance(value, SequenceNode) else [value]
            for source in sources if key.value == "<<" else ():
                merged = self._pairs(source) if isinstance(source, MappingNode) and source is not node else []
                own += [pair for pair in merged if pair[0].value not in named]
                named |= {pair[0].value for pair in merged}
        return own

    def _scalar(self, node: Node, place: Place) -> Any:
        if node.tag in _AS_WRITTEN:
            return str(node.value)
        try:
            return self.yaml.constructor.construct_object(node)
        except (YAMLError, ValueError) as error:
            self.document.report(place, f"cannot be understood: {str(error).splitlines()[0]}")
            return None
