"""What is wrong with a config, one line for each problem: `file:line: path: text suggestion`.

Why a type of its own: an operator wants all problems at once, each with the place to edit, and a program wants them as
data (`gridpace check --json`). The sentence is made in one place, so that all surfaces print the same.
"""

from __future__ import annotations

from dataclasses import dataclass

EXIT_CODE = 2
"""Exit code of every command that was given a config with problems."""


@dataclass(frozen=True, slots=True)
class Problem:
    """One problem: where it is (`path` as in `signals[1].zone`, empty for the file as a whole), and what to do."""

    file: str
    line: int
    path: str
    text: str
    suggestion: str = ""

    def __str__(self) -> str:
        place = f"{self.path}: " if self.path else ""
        return f"{self.file}:{self.line}: {place}{self.text}{' ' + self.suggestion if self.suggestion else ''}"


class ConfigError(Exception):
    """The config is not usable; `problems` are in the order of the file, and `str()` is one line for each."""

    exit_code = EXIT_CODE

    def __init__(self, problems: tuple[Problem, ...]) -> None:
        super().__init__("\n".join(str(problem) for problem in problems))
        self.problems = problems


class FieldError(ValueError):
    """Raised inside a model about one of its keys, so that the problem names the key and not only its parent."""

    def __init__(self, field: str, text: str) -> None:
        super().__init__(text)
        self.field = field
