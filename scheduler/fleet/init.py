"""Credentials and server configuration of a fleet: who may say what on the bus, by name.

Why nkeys and a generated configuration: each node has a key of its own that opens its own subjects and nothing else, so
that a stolen node can neither order others nor read their orders. The server keeps only public keys. TLS comes from a
certificate authority made for this fleet; its key stays where `gridpace fleet init` ran, for renewals alone.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import nkeys

from adapters.ports import AdapterError
from adapters.power import fleet_wire
from scheduler.fleet.book import MADE_BY, Fleet, FleetPlan, joined, keep, made, read
from scheduler.fleet.certificates import authority, secret, server_certificate
from scheduler.fleet.leaves import DAEMON, DAEMON_MAY, Leaf, May, Peer, leaf_may, node_may


@dataclass(frozen=True)
class Made:
    """The fleet as it is now, a line for each file made and for all that is not as it was, and what servers that run
    need: a reload, or a start."""

    fleet: Fleet
    lines: tuple[str, ...]
    reload: bool
    restart: bool


def init_fleet(folder: Path, plan: FleetPlan) -> Made:
    """Make what is not there yet or not good any more, and write every server's configuration anew.

    What exists stays: keys, and all of the fleet that `plan` doesn't name, so that nodes are added by their names
    alone. AdapterError, with nothing changed, for a plan that can't be; and for a folder that can't be written.
    """
    try:
        kept = read(folder, plan)
        fleet, lines = joined(kept, plan)
        if kept is None and not plan.nodes:
            raise AdapterError(f"{folder}: there is no fleet yet: name its nodes (--node NAME)")
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        leaves = [leaf.peer.name for leaf in fleet.leaves]
        names = [DAEMON, *leaves, *(text.partition("@")[0] for text in plan.nodes)]
        lines += [line for name in names if (line := _key(folder, name)) is not None]
        lines += [*authority(folder), *server_certificate(folder, "server", fleet.names)]
        for leaf in fleet.leaves:
            lines += server_certificate(folder, leaf.peer.name, (leaf.peer.host, *fleet.hosts))
        keep(folder, fleet)
        lines += _configure(folder, fleet)
        return Made(fleet, tuple(lines), kept is not None, kept is not None and kept.frame != fleet.frame)
    except OSError as error:
        raise AdapterError(f"{folder}: {error}") from error


def _configure(folder: Path, fleet: Fleet) -> list[str]:
    """Write the configurations of all servers and leaves; a line for each that is not as it was, or of no server."""
    leaves = fleet.leaves
    nodes = sorted({path.stem for path in folder.glob("*.seed")} - {DAEMON, *(leaf.peer.name for leaf in leaves)})
    configs = {peer.name: server_config(folder, nodes, fleet, peer) for peer in fleet.servers}
    configs |= {leaf.peer.name: leaf_config(folder, fleet, leaf) for leaf in leaves}
    there = made(folder)
    lines = [_write(folder / f"{name}.conf", text) for name, text in configs.items() if there.get(name) != text]
    return lines + [f"{folder / name}.conf: of no server of this fleet" for name in there.keys() - configs.keys()]


def _write(path: Path, text: str) -> str:
    """A configuration, readable by its owner alone (a leaf's holds its key); one that is there keeps its owner."""
    path.touch(mode=0o600)
    path.write_text(text, encoding="utf-8")
    return str(path)


# ---------------------------------------------------------------- keys
def _key(folder: Path, name: str) -> str | None:
    """A fresh nkey seed for a name, readable by its owner alone; None when there is one."""
    path = folder / f"{name}.seed"
    if path.exists():
        return None
    seed = nkeys.encode_seed(os.urandom(32), nkeys.PREFIX_BYTE_USER)
    secret(path, bytes(seed))
    return str(path)


def public_key(path: Path) -> str:
    """The public nkey of a seed file. AdapterError when it holds none."""
    try:
        pair = nkeys.from_seed(bytearray(path.read_bytes().strip()))
        return str(pair.public_key.decode())
    except (nkeys.NkeysError, ValueError) as error:
        raise AdapterError(f"{path}: not an nkey seed: {error}") from error


# ---------------------------------------------------------------- the servers
def server_config(folder: Path, nodes: Sequence[str], fleet: Fleet, peer: Peer) -> str:
    """The configuration of one `nats-server`: TLS, JetStream, its place in the cluster, the door for leaves, and one
    user a node, who may do its own things alone. A leaf may do what its nodes may."""
    users = [_user(public_key(folder / f"{DAEMON}.seed"), DAEMON_MAY)]
    users += [_user(public_key(folder / f"{node}.seed"), node_may(node)) for node in nodes]
    users += [_user(public_key(folder / f"{leaf.peer.name}.seed"), leaf_may(leaf)) for leaf in fleet.leaves]
    door = [f"leafnodes {{ port: {fleet.leaf_port}, {_tls(folder, 'server')} }} }}"] if fleet.leaves else []
    cluster = f'{_tls(folder, "server")}, ca_file: "{folder / "ca.pem"}", verify: true }}'
    streams = f'jetstream {{ store_dir: "{fleet.store_dir / peer.name}", domain: {fleet_wire.DOMAIN} }}'
    return _config(folder, peer, "server", [streams, *door, *_cluster(fleet, peer, cluster)], users)


def leaf_config(folder: Path, fleet: Fleet, leaf: Leaf) -> str:
    """The configuration of the `nats-server` of a hall: its nodes talk to it, and it alone to the others."""
    seed = (folder / f"{leaf.peer.name}.seed").read_text(encoding="ascii").strip()
    urls = ", ".join(f'"tls://{server.host}:{fleet.leaf_port}"' for server in fleet.servers)
    remote = f'{{ urls: [{urls}], nkey: "{seed}", tls {{ ca_file: "{folder / "ca.pem"}" }} }}'
    users = [_user(public_key(folder / f"{node}.seed"), node_may(node)) for node in leaf.nodes]
    return _config(folder, leaf.peer, leaf.peer.name, [f"leafnodes {{ remotes: [{remote}] }}"], users)


def _config(folder: Path, peer: Peer, certificate: str, parts: Sequence[str], users: Sequence[str]) -> str:
    lines = [
        f"{MADE_BY}; again with more names it adds nodes, then: nats-server --signal reload",
        f"server_name: {peer.name}",
        f"port: {peer.port}",
        f"{_tls(folder, certificate)} }}",
        *parts,
        "authorization {",
        "  users = [",
        *users,
        "  ]",
        "}",
        "",
    ]
    return "\n".join(lines)


def _tls(folder: Path, name: str) -> str:
    """A TLS block, open at its end."""
    return f'tls {{ cert_file: "{folder / name}.pem", key_file: "{folder / name}.key"'


def _cluster(fleet: Fleet, peer: Peer, tls: str) -> list[str]:
    """How the servers of a cluster find each other; nothing for a server on its own. They know each other by
    certificates of the fleet's authority."""
    if len(fleet.servers) == 1:
        return []
    others = [other for other in fleet.servers if other is not peer]
    routes = ", ".join(f"nats-route://{other.host}:{other.cluster_port}" for other in others)
    return ["cluster {", "  name: gridpace", f"  port: {peer.cluster_port}", f"  routes: [{routes}]", f"  {tls}", "}"]


def _user(key: str, may: May) -> str:
    quoted = [", ".join(f'"{subject}"' for subject in subjects) for subjects in (may.publish, may.subscribe)]
    more = ", allow_responses: true" if may.answers else ""
    return f"    {{ nkey: {key}, permissions: {{ publish: [{quoted[0]}], subscribe: [{quoted[1]}]{more} }} }}"
