"""Servers of a fleet by name, the leaves among them with their nodes, and who may say what.

A leaf is a server of its own for a hall or a site: the nodes there need to reach it alone, and it opens one connection
outwards.
"""

from __future__ import annotations

from dataclasses import dataclass

from adapters.ports import AdapterError
from adapters.power import fleet_wire

DAEMON = "daemon"
STREAM = f"KV_{fleet_wire.BUCKET}"


@dataclass(frozen=True)
class Peer:
    """One server of the bus: its name, its host, the port for clients, the port for the other servers."""

    name: str
    host: str
    port: int = 4222
    cluster_port: int = 6222


@dataclass(frozen=True)
class Leaf:
    """A leaf server and the nodes that talk to it."""

    peer: Peer
    nodes: tuple[str, ...]


@dataclass(frozen=True)
class May:
    """Subjects that a user may publish to and hear, and whether it may answer what it hears."""

    publish: tuple[str, ...]
    subscribe: tuple[str, ...]
    answers: bool = False


def peer(text: str, option: str = "--server") -> Peer:
    """A server from NAME=HOST[:PORT[:CLUSTER_PORT]]. AdapterError when it isn't one."""
    name, equals, place = text.partition("=")
    host, *ports = place.split(":")
    try:
        if not equals or not host or len(ports) > 2:
            raise ValueError(text)
        return Peer(fleet_wire.node_name(name), host, *(_port(port) for port in ports))
    except ValueError as error:
        raise AdapterError(f"{option} {text!r}: NAME=HOST[:PORT[:CLUSTER_PORT]] is wanted") from error


def _port(text: str) -> int:
    number = int(text)
    if not 0 < number < 65536:
        raise ValueError(text)
    return number


# ---------------------------------------------------------------- who may say what
APIS = ("$JS.API", f"$JS.{fleet_wire.DOMAIN}.API")
DAEMON_MAY = May(
    (
        fleet_wire.HELLO,
        fleet_wire.RENEW,
        fleet_wire.ask_subject("*"),
        fleet_wire.follow_subject("*"),
        fleet_wire.key_subject("*"),
        "$JS.API.>",
        f"$KV.{fleet_wire.LEADERS}.{fleet_wire.LEADER}",
        f"$O.{fleet_wire.SNAPSHOTS}.>",
        "$JS.FC.>",
        fleet_wire.BOOKS_SUBJECT,
        fleet_wire.DAEMONS,
        fleet_wire.LEAD,
    ),
    (fleet_wire.STATES, fleet_wire.DAEMONS, fleet_wire.LEAD, f"_INBOX_{DAEMON}.>"),
    answers=True,
)
"""The daemon orders, reads every state, and keeps the trajectories; daemons that stand by for each other share a key,
keep the lease and the books' changes, and pass on what clients say."""


def node_may(node: str) -> May:
    """A node hears its own orders and what is said to all, answers, tells its state, and reads its trajectory."""
    own = fleet_wire.key_subject(node)
    asks = (f"STREAM.INFO.{STREAM}", f"DIRECT.GET.{STREAM}.{own}")
    publish = (fleet_wire.state_subject(node), *(f"{api}.{ask}" for api in APIS for ask in asks))
    orders = (fleet_wire.ask_subject(node), fleet_wire.follow_subject(node))
    hear = (*orders, fleet_wire.HELLO, fleet_wire.RENEW, f"_INBOX_{node}.>")
    return May(publish, hear, answers=True)


def leaf_may(leaf: Leaf) -> May:
    """A leaf passes on what its nodes say and hear, and their answers to the daemon."""
    each = [node_may(node) for node in leaf.nodes]
    publish = dict.fromkeys(subject for may in each for subject in may.publish)
    subscribe = dict.fromkeys(subject for may in each for subject in may.subscribe)
    return May((*publish, f"_INBOX_{DAEMON}.>"), tuple(subscribe))
