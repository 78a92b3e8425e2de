"""What daemon and nodes say to each other over NATS: subjects, and the state that every node tells of itself.

A set-point is a request on `gridpace.node.NODE.ask`, in the very words of the local socket (`adapters.power.wire`); its
answer carries the enforced limits. `gridpace.renew` renews every node's lease at once, unanswered; nodes tell their
state on `gridpace.state.NODE`. What a node is to follow when everything is silent is told on
`gridpace.node.NODE.follow` and lies in a key-value bucket under its name, so that one that comes back knows at once.
Lease, sequence and epoch are in the payload, and the agent alone enforces them.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from math import isfinite
from types import MappingProxyType
from typing import Any, NamedTuple, TypeVar

from adapters.ports import GpuId, GpuInfo, Lease
from adapters.power import wire

T = TypeVar("T")

HELLO = "gridpace.hello"
"""Asks every node for all that it knows of its GPUs."""

RENEW = "gridpace.renew"
STATES = "gridpace.state.*"
BUCKET = "gridpace-trajectories"
LEADERS = "gridpace-leader"
"""Bucket with the lease of the daemon that leads, where several stand by for each other."""

LEADER = "leader"
BOOKS_STREAM = "gridpace-books"
BOOKS_SUBJECT = "gridpace.books"
SNAPSHOTS = "gridpace-books"
DAEMONS = "gridpace.daemons"
"""Where daemons of one fleet tell each other that they are there."""

LEAD = "gridpace.lead"
"""Where the daemon that leads hears what clients said to one that stands by."""

DOMAIN = "gridpace"
"""The name under which servers made by `gridpace fleet init` offer their streams to a leaf."""

_NODE = re.compile(r"[A-Za-z0-9_-]{1,64}")


def node_name(name: str) -> str:
    """The name, if it can be one token of a subject; ValueError otherwise."""
    if not _NODE.fullmatch(name):
        raise ValueError(f"{name!r} is no node name: letters, digits, - and _, at most 64")
    return name


def ask_subject(node: str) -> str:
    """Where a node hears its orders."""
    return f"gridpace.node.{node}.ask"


def follow_subject(node: str) -> str:
    """Where a node hears of a new trajectory."""
    return f"gridpace.node.{node}.follow"


def key_subject(node: str) -> str:
    """Where a node's trajectory is kept, in the bucket."""
    return f"$KV.{BUCKET}.{node}"


def state_subject(node: str) -> str:
    """Where a node tells its state."""
    return f"gridpace.state.{node}"


_NONE: Mapping[GpuId, Any] = MappingProxyType({})


class NodeState(NamedTuple):
    """A node as it told of itself: draw in W of each GPU, the agent's phase, newest epoch and sequence, seconds of
    lease left, how many GPUs are to be given back, and the share of time that each GPU works, where it tells."""

    node: str
    draw_w: Mapping[GpuId, float]
    phase: str
    epoch: int
    sequence: int
    lease_left_s: float
    capped: int
    utilisation: Mapping[GpuId, float | None] = _NONE
    yielded_w: Mapping[GpuId, float] = _NONE
    """GPUs that the agent left to another writer, with the limit in W that it holds there."""
    reasserted: int = 0
    """Caps that came back raised and were set again since the agent's start."""
    lowered: tuple[GpuId, ...] = ()
    """GPUs that enforce less than was ordered: a board controller's limit."""
    yielded_mhz: Mapping[GpuId, float] = _NONE
    """GPUs whose locked clocks the agent left to who freed them, with the clock in MHz at which they ran."""
    limit_w: float | Sequence[float] | None = None
    """The limit in force in W of all GPUs, or of each, in the order of `draw_w`; None where it is not told."""
    ignoring: tuple[GpuId, ...] = ()
    """Of `yielded_w` those that took caps and did not move."""
    kept_w: Mapping[GpuId, float] = _NONE
    """GPUs that keep a cap though they accepted its release, with the limit in W that they enforce."""
    unpacks: bool = False
    """Whether the node reads trajectories that name its GPUs once."""

    @property
    def enforced_w(self) -> Mapping[GpuId, float]:
        """Limits in force in W of its GPUs, where they are told."""
        if self.limit_w is None:
            return {}
        if isinstance(self.limit_w, float):
            return dict.fromkeys(self.draw_w, self.limit_w)
        return dict(zip(self.draw_w, self.limit_w, strict=True))


def state_out(node: str, infos: Mapping[GpuId, GpuInfo], status: Mapping[str, Any], *, whole: bool) -> bytes:
    """A node's state as one message; `whole`: with all that is known of each GPU, as an answer to a hello. What is told
    every second stays small: ten thousand nodes tell it to one daemon."""
    kept = {name: status[name] for name in ("phase", "epoch", "sequence", "lease_left_s")}
    draws = {gpu: round(info.draw_w, 1) for gpu, info in infos.items()}
    busy = [None if info.utilisation is None else round(info.utilisation, 2) for info in infos.values()]
    more: dict[str, Any] = {"gpus": wire.infos_out(infos), "unpacks": True} if whole else {}
    if status["reasserted"] or status["yielded_w"]:
        more |= {"reasserted": status["reasserted"], "yielded_w": status["yielded_w"]}
    if status.get("yielded_mhz"):
        more |= {"yielded_mhz": status["yielded_mhz"]}
    more |= {name: status[name] for name in ("lowered", "ignoring", "kept_w") if status.get(name)}
    limits = [info.enforced_w for info in infos.values()]
    if limits:
        more["limit_w"] = _same(limits)
    told = {"node": node, "draw_w": draws, "busy": busy, "capped": len(status["found_w"])}
    return wire.encode({**told, **kept, **more})


def state_in(data: bytes) -> tuple[NodeState, dict[GpuId, GpuInfo] | None]:
    """A node's state from its message, and its GPUs where they are told (else None). BadRequest when it isn't one."""
    message = wire.decode(data)
    try:
        draws, shares = _numbers(message["draw_w"]), message.get("busy", ())
        if {*map(type, shares)} != _FLOATS:
            shares = [None if share is None else float(share) for share in shares]
        if not isfinite(sum(filter(None, shares))):
            raise ValueError("busy must be shares of time")
        state = NodeState(
            str(message["node"]),
            draws,
            str(message["phase"]),
            int(message["epoch"]),
            int(message["sequence"]),
            float(message["lease_left_s"]),
            int(message["capped"]),
            dict(zip(draws, shares)),  # noqa: B905 - no keyword: ten thousand nodes are read every second
            limit_w=_limit(message.get("limit_w"), len(draws)),
        )
        return (state, None) if _SELDOM.isdisjoint(message) else _with_more(state, message)
    except (AttributeError, KeyError, TypeError, ValueError) as error:
        raise wire.BadRequest(f"not a node's state: {error!r}") from error


_FLOATS = {float}
_SELDOM = frozenset({"yielded_w", "reasserted", "lowered", "gpus", "yielded_mhz", "ignoring", "kept_w", "unpacks"})
"""What most messages don't have."""


def _with_more(state: NodeState, message: Mapping[str, Any]) -> tuple[NodeState, dict[GpuId, GpuInfo] | None]:
    """The state with what is told now and then."""
    infos = wire.infos_in(message["gpus"]) if "gpus" in message else None
    if infos is not None and infos.keys() != state.draw_w.keys():
        raise ValueError("gpus and draw_w are not of the same GPUs")
    more = state._replace(
        yielded_w=wire.watts(message["yielded_w"], "yielded_w") if "yielded_w" in message else {},
        reasserted=int(message.get("reasserted", 0)),
        lowered=tuple(map(str, message.get("lowered", ()))),
        yielded_mhz=wire.watts(message["yielded_mhz"], "yielded_mhz") if "yielded_mhz" in message else {},
        ignoring=tuple(map(str, message.get("ignoring", ()))),
        kept_w=wire.watts(message["kept_w"], "kept_w") if "kept_w" in message else {},
        unpacks=message.get("unpacks") is True,
    )
    return more, infos


def _limit(told: Any, gpus: int) -> float | Sequence[float] | None:
    """One limit of all GPUs or as many as there are GPUs, checked. TypeError or ValueError for others."""
    if told is None or (type(told) is float and 0.0 <= told < 1e6):
        return told
    limits = [*map(float, told)] if isinstance(told, list) else [float(told)]
    if not all(0.0 <= watts < 1e6 for watts in limits) or (isinstance(told, list) and len(limits) != gpus):
        raise ValueError(f"limit_w must be watts of {gpus} GPUs")
    return limits if isinstance(told, list) else limits[0]


def _numbers(told: Mapping[GpuId, Any]) -> Mapping[GpuId, float]:
    """Watts by GPU, as floats; as they are where they are such already. TypeError or ValueError for others: a sum tells
    of NaN, a minimum may not."""
    found = told if {*map(type, told.values())} == _FLOATS else dict(zip(told, map(float, told.values()), strict=True))
    if found and not (isfinite(sum(found.values())) and min(found.values()) >= 0.0):
        raise ValueError("draw_w must be watts")
    return found


def trajectory_out(steps: wire.Steps, until_s: float, lease: Lease, issued_at: float, *, packed: bool = False) -> bytes:
    """A trajectory; `issued_at` is UTC seconds, so that a node that reads it later knows how old it is. `packed`: the
    names of the GPUs once and not in every step, which is most of it; for nodes that say that they read it."""
    gpus = list(steps[0][1]) if packed and steps else []
    plan: list[list[Any]] = [[offset, list(caps.values())] for offset, caps in steps if list(caps) == gpus]
    told: dict[str, Any] = {"gpus": gpus, "packed": [[at, _same(caps)] for at, caps in plan]}
    if not gpus or len(plan) < len(steps):
        told = {"steps": [[offset, dict(caps)] for offset, caps in steps]}
    body = {"epoch": lease.epoch, "sequence": lease.sequence, "expires_in_s": lease.expires_in_s}
    return wire.encode({**told, "until_s": until_s, "lease": body, "issued_at": issued_at})


def _same(caps: list[T]) -> T | list[T]:
    """One value, where all are the same."""
    return caps[0] if caps.count(caps[0]) == len(caps) else caps


def _unpacked(message: Mapping[str, Any]) -> list[list[Any]]:
    """The steps of a trajectory that names its GPUs once. BadRequest when it is none."""
    try:
        gpus = [*map(str, message["gpus"])]
        return [
            [at, dict(zip(gpus, caps, strict=True) if isinstance(caps, list) else dict.fromkeys(gpus, caps))]
            for at, caps in message["packed"]
        ]
    except (KeyError, TypeError, ValueError) as error:
        raise wire.BadRequest(f"not a trajectory: {error!r}") from error


@dataclass(frozen=True)
class Trajectory:
    """What a node is to follow: caps by seconds from when it was said, until when, under which lease; and how many
    seconds ago that was, by the wall clocks."""

    steps: wire.Steps
    until_s: float
    lease: Lease
    age_s: float


def trajectory_in(data: bytes, now: float) -> Trajectory | None:
    """A trajectory read at `now` (UTC seconds), with what is left of its lease; None when it is over. BadRequest when
    it isn't one. A clock that runs behind the daemon's counts as level."""
    message = wire.decode(data)
    age_s = max(0.0, now - wire.seconds(message.get("issued_at"), "issued_at"))
    told = _unpacked(message) if "packed" in message else message.get("steps")
    steps, lease = wire.steps(told), wire.lease(message.get("lease"))
    until_s = wire.seconds(message.get("until_s"), "until_s")
    if until_s <= age_s or not steps:
        return None
    left_s = max(0.001, lease.expires_in_s - age_s)
    return Trajectory(steps, until_s, Lease(lease.epoch, lease.sequence, left_s), age_s)
