"""One thing that fails keeps no other from being done: limits come back though clocks don't, or the disk is full."""

from __future__ import annotations

from collections.abc import Callable

from adapters.ports import AdapterError


class Unkept(AdapterError):
    """The agent's own files can't be written."""


def each(*acts: Callable[[], object]) -> None:
    """Do all of these, whatever becomes of the others; then raise what went wrong, as one AdapterError."""
    errors: list[AdapterError] = []
    for act in acts:
        try:
            act()
        except AdapterError as error:
            errors.append(error)
    if len(errors) > 1 and len({str(error) for error in errors}) > 1:
        kind = Unkept if all(isinstance(error, Unkept) for error in errors) else AdapterError
        raise kind("; ".join(dict.fromkeys(map(str, errors))))
    if errors:
        raise errors[0]
