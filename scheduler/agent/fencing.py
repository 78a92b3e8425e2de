"""Who may give orders to a node: nobody who was replaced by a daemon of a newer epoch."""

from __future__ import annotations

from adapters.ports import AdapterError


class Fenced(AdapterError):
    """The order comes from a daemon that has been replaced, or was overtaken by a newer one."""


def fence(epoch: int | None, newest: int) -> None:
    """Refuse who has been replaced, and who does not say who it is: that may be an old daemon that came back. `newest`:
    the epoch that was obeyed last, 0 where nobody was."""
    if epoch is None and newest:
        raise Fenced(f"this names no epoch, and {newest} gives the orders here")
    if epoch is not None and epoch < newest:
        alone = f"if no other one runs and its state was lost: gridpace lead --above {newest}"
        raise Fenced(f"epoch {epoch} was replaced by {newest}; stop this daemon, or, {alone}")
