"""What Slurm says of its nodes: in the columns of `sinfo`, or in slurmrestd's JSON of 22.05 to 26.05."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from adapters.jobs.slurm_read import gpus_in

COLUMNS = "NodeList:.64,PartitionName:.64,StateLong:.32,Gres:.512,GresUsed:.512,Reason:.256"
"""What is asked of each node of each partition: five columns without blanks in them, and why it is out of use."""

USABLE = ("idle", "mixed", "allocated", "completing")
"""Node states, without their marks, in which Slurm starts jobs (sinfo(1))."""


@dataclass(frozen=True, slots=True)
class Node:
    """A node in one partition. `state` without marks, as sinfo prints it; `reason`: why somebody took it out of use."""

    name: str
    partition: str
    state: str
    gpus: int
    used: int
    reason: str = ""

    @property
    def usable(self) -> bool:
        """Whether Slurm starts jobs there."""
        return self.state in USABLE

    @property
    def drains(self) -> bool:
        """Whether somebody lets nothing new start there."""
        return self.state.startswith("drain")


def nodes_in(text: str) -> list[Node]:
    """Nodes of the lines of `sinfo` (COLUMNS). A line that can't be read counts as absent."""
    found: list[Node] = []
    for line in text.splitlines():
        columns = line.split(maxsplit=5)
        if len(columns) < 5:
            continue
        name, partition, state, gres, used, *reason = columns
        why = reason[0].strip() if reason else ""
        state = state.rstrip("*~#!%$@^-+")
        found.append(Node(name, partition, state, gpus_in(gres), gpus_in(used), "" if why == "none" else why))
    return found


def nodes_of(answer: Mapping[str, Any]) -> list[Node]:
    """Nodes of an answer of slurmrestd. One that can't be read counts as absent."""
    rows = answer.get("nodes")
    return [node for row in rows for node in _nodes(row)] if isinstance(rows, list) else []


def free_gpus(nodes: Iterable[Node]) -> dict[str, int]:
    """GPUs that no job holds, by partition."""
    free: dict[str, int] = {}
    for node in nodes:
        count = node.gpus - node.used if node.usable else 0
        free[node.partition] = free.get(node.partition, 0) + max(0, count)
    return free


def _nodes(row: Any) -> Iterator[Node]:
    """A node once for each of its partitions. Until 22.05 flags such as DRAIN stand in a field of their own."""
    try:
        base = row["state"]
        words = [base] if isinstance(base, str) else list(base)
        words = [str(word).upper() for word in (*words, *(row.get("state_flags") or ()))]
        state = words[0].lower()
        if "DRAIN" in words:
            state = "draining" if state in {"mixed", "allocated", "completing"} else "drained"
        elif set(words) & {"DOWN", "FAIL", "NOT_RESPONDING", "POWERED_DOWN", "MAINTENANCE"}:
            state = "down"
        for partition in row["partitions"]:
            used = gpus_in(str(row.get("gres_used") or ""))
            why = str(row.get("reason") or "")
            yield Node(str(row["name"]), str(partition), state, gpus_in(str(row.get("gres") or "")), used, why)
    except (KeyError, TypeError, IndexError):
        return
