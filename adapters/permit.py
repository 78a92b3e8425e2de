"""Whether this daemon may order anything now: asked right before each order leaves, by whoever writes it.

Why at the last moment: of daemons that stand by for each other one commands, and one that was stopped, or cut off, may
come back in the middle of a turn that it began when it led. Nodes and the books refuse it by themselves; a battery, a
batch system or a command can't.
"""

from __future__ import annotations

from collections.abc import Callable

from adapters.ports import AdapterError


class NotPermitted(AdapterError):
    """Nothing was written: another daemon may command by now."""


class Permit:
    """One for all that a configuration built. A daemon that is alone always has it."""

    def __init__(self) -> None:
        self._ask: Callable[[], None] = lambda: None

    def follow(self, ask: Callable[[], None]) -> None:
        """From now on `ask` decides, by raising AdapterError."""
        self._ask = ask

    def end(self) -> None:
        """What this configuration built orders nothing any more, a thread that hangs included."""
        self._ask = _over

    def __call__(self) -> None:
        """Return where an order may leave now. Raises NotPermitted."""
        try:
            self._ask()
        except AdapterError as error:
            raise NotPermitted(str(error)) from error


def _over() -> None:
    raise NotPermitted("this configuration is not in force any more")
