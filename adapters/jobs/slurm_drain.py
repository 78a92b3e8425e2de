"""The last rung: in an emergency, nothing new starts on the nodes of paced partitions, whosever it is.

Nothing that runs is stopped. A node that somebody took out of use is theirs, and so is one of ours whose reason they
changed: RESUME would undo what they did.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping
from datetime import datetime

from adapters.jobs.held import Held
from adapters.jobs.slurm_cli import Slurm
from adapters.jobs.slurm_nodes import Node
from adapters.ports import RecordStore

REASON = "gridpace: emergency"
_SUBJECT = "node "


class Drain:
    """The nodes of `partitions` of one cluster. Every order raises AdapterError."""

    def __init__(self, slurm: Slurm, partitions: Collection[str], records: RecordStore | None, now: datetime) -> None:
        self._slurm, self._partitions = slurm, frozenset(partitions)
        self._held = Held("slurm-nodes", records, now)

    def held(self) -> Mapping[str, str]:
        """The nodes that we drained."""
        return self._held.ours()

    def keep(self, on: bool, nodes: Iterable[Node], now: datetime) -> None:
        """Have these nodes drained, or give back those that we drained."""
        if not on:
            self.release()
            return
        ours = sorted({node.name for node in nodes if node.partition in self._partitions and node.usable})
        if not ours:
            return
        self._held.ordering({_SUBJECT + name: "drained" for name in ours}, now)
        self._slurm.ask("update", f"NodeName={','.join(ours)}", "State=DRAIN", f"Reason={REASON}")
        self._held.stands(_SUBJECT + name for name in ours)

    def release(self) -> None:
        """Give back those that we drained and that still say our reason, read right before; all of ours where they
        can't be read."""
        held = [subject.removeprefix(_SUBJECT) for subject in self._held.ours()]
        if not held:
            return
        seen = {node.name: node for node in self._slurm.nodes()}
        mine = [name for name in held if not seen or (name in seen and seen[name].reason == REASON)]
        if mine:
            self._slurm.ask("update", f"NodeName={','.join(mine)}", "State=RESUME")
        self._held.forget(_SUBJECT + name for name in held)
