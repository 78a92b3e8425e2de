"""What a fleet is made of, kept beside its keys: servers, leaves with their nodes, names in certificates, the store.

Why kept: whoever adds a node names the node and nothing else. What is not named stays as it was; what is named and
differs is done and said, but for a store that would be left behind.
"""

from __future__ import annotations

import json
import os
import re
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path

from adapters.ports import AdapterError
from adapters.power import fleet_wire
from scheduler.fleet.certificates import names_of
from scheduler.fleet.leaves import DAEMON, Leaf, Peer

BOOK = "fleet.json"
FORMER = "leaves.json"
"""Where earlier versions kept the leaves, and only them."""
MADE_BY = "# Made by `gridpace fleet init`"
"""How a configuration begins that is written anew each time."""


@dataclass(frozen=True)
class FleetPlan:
    """What a call names: nodes (NODE, or NODE@LEAF for one that talks to a leaf, NODE@ for one that does no longer),
    the servers (several: a cluster), more names for their certificates, the folder where each keeps its streams, the
    leaves (a server of its own for a hall or a site, which alone talks to the others) and where the servers hear them.
    What is empty or None stays as it was, or is the default in a new folder. `store_moved`: another `store_dir` than
    before is meant."""

    nodes: tuple[str, ...] = ()
    servers: tuple[Peer, ...] = ()
    hosts: tuple[str, ...] = ()
    store_dir: Path | None = None
    leaves: tuple[Peer, ...] = ()
    leaf_port: int | None = None
    store_moved: bool = False


@dataclass(frozen=True)
class Fleet:
    """All of a fleet but its nodes' keys, which are files of their own."""

    servers: tuple[Peer, ...] = (Peer("nats", "localhost"),)
    hosts: tuple[str, ...] = ("localhost", "127.0.0.1")
    store_dir: Path = Path("/var/lib/nats")
    leaf_port: int = 7422
    leaves: tuple[Leaf, ...] = ()

    @property
    def names(self) -> tuple[str, ...]:
        """Every name and address that the servers' certificate is good for."""
        return tuple(dict.fromkeys((*(peer.host for peer in self.servers), *self.hosts)))

    @property
    def frame(self) -> Fleet:
        """What a server takes at its start alone: all but nodes and names."""
        return replace(self, hosts=(), leaves=tuple(replace(leaf, nodes=()) for leaf in self.leaves))


def read(folder: Path, plan: FleetPlan) -> Fleet | None:
    """What was kept; None in a new folder. AdapterError where it can't be read, or an earlier version kept nothing of
    servers that `plan` doesn't name either."""
    path = folder / BOOK
    if not path.exists():
        return _former(folder, plan)
    try:
        kept = json.loads(path.read_text(encoding="utf-8"))
        servers, hosts = (Peer(**row) for row in kept["servers"]), map(str, kept["hosts"])
        return Fleet(
            tuple(servers), tuple(hosts), Path(kept["store_dir"]), int(kept["leaf_port"]), _leaves(kept["leaves"])
        )
    except (ValueError, KeyError, TypeError) as error:
        raise AdapterError(f"{path}: not what `gridpace fleet init` keeps: {error!r}") from error


def keep(folder: Path, fleet: Fleet) -> None:
    """Keep it, whole or not at all."""
    path = folder / f"{BOOK}.new"
    path.write_text(json.dumps(asdict(fleet), indent=1, default=str) + "\n", encoding="utf-8")
    os.replace(path, folder / BOOK)
    (folder / FORMER).unlink(missing_ok=True)


def _leaves(rows: Sequence[dict[str, dict[str, str] | list[str]]]) -> tuple[Leaf, ...]:
    return tuple(Leaf(Peer(**row["peer"]), tuple(row["nodes"])) for row in rows)  # type: ignore[arg-type]


def _former(folder: Path, plan: FleetPlan) -> Fleet | None:
    """The fleet of an earlier version, which kept leaves alone: the rest as its certificate and configurations say, but
    for the servers' places."""
    path = folder / FORMER
    try:
        leaves = _leaves(json.loads(path.read_text(encoding="utf-8"))) if path.exists() else ()
    except (ValueError, KeyError, TypeError) as error:
        raise AdapterError(f"{path}: not what `gridpace fleet init` kept: {error!r}") from error
    confs = {name: text for name, text in made(folder).items() if name not in {leaf.peer.name for leaf in leaves}}
    if not confs:
        return replace(Fleet(), leaves=leaves) if leaves else None
    if missing := sorted(confs.keys() - {server.name for server in plan.servers}):
        raise AdapterError(
            f"{folder}: an earlier version, which did not keep its servers, made {', '.join(missing)}: name all "
            "servers once more (--server NAME=HOST[:PORT[:CLUSTER_PORT]]), and delete NAME.conf of one that is none"
        )
    texts = [confs[server.name] for server in plan.servers if server.name in confs]
    stores = {Path(found[1]).parent for text in texts if (found := re.search(r'jetstream \{ store_dir: "(.+?)"', text))}
    if len(stores) != 1 and plan.store_dir is None:
        raise AdapterError(f"{folder}: the configurations there name {len(stores)} stores: give --store-dir once more")
    door = re.search(r"leafnodes \{ port: (\d+)", texts[0])
    known = names_of(folder / "server.pem") if (folder / "server.pem").exists() else []
    return Fleet(
        tuple(_with_ports(server, confs.get(server.name, "")) for server in plan.servers),
        tuple(name for name in known if name not in {server.host for server in plan.servers}),
        stores.pop() if len(stores) == 1 else plan.store_dir or Fleet().store_dir,
        int(door[1]) if door else Fleet().leaf_port,
        leaves,
    )


def _with_ports(server: Peer, text: str) -> Peer:
    """A server with the ports that its configuration has."""
    found, cluster = re.search(r"^port: (\d+)", text, re.M), re.search(r"^  port: (\d+)", text, re.M)
    return replace(
        server,
        port=int(found[1]) if found else server.port,
        cluster_port=int(cluster[1]) if cluster else server.cluster_port,
    )


def made(folder: Path) -> dict[str, str]:
    """The configurations in a folder that were made here, by name."""
    texts = {path.stem: path.read_text(encoding="utf-8") for path in sorted(folder.glob("*.conf"))}
    return {name: text for name, text in texts.items() if text.startswith(MADE_BY)}


# ---------------------------------------------------------------- what is named now
def joined(kept: Fleet | None, plan: FleetPlan) -> tuple[Fleet, list[str]]:
    """What was kept with what is named now, and a line for each thing that is not as it was. AdapterError for what
    can't be."""
    base = kept or Fleet()
    servers, said = _peers(base.servers if kept else (), plan.servers, "server")
    tops, more = _peers([leaf.peer for leaf in base.leaves], plan.leaves, "leaf")
    hosts = tuple(dict.fromkeys((*base.hosts, *plan.hosts))) if kept else plan.hosts or base.hosts
    store_dir, port = plan.store_dir or base.store_dir, plan.leaf_port or base.leaf_port
    members, moved = _members(base.leaves, tops, plan.nodes)
    leaves = tuple(Leaf(peer, tuple(sorted(members[peer.name]))) for peer in sorted(tops, key=lambda peer: peer.name))
    fleet = Fleet(servers or base.servers, hosts, store_dir, port, leaves)
    _check_names(fleet, plan.nodes)
    if kept is None:
        return fleet, []
    if store_dir != kept.store_dir:
        said.append(_moved(kept, store_dir, plan.store_moved))
    if port != kept.leaf_port:
        said.append(f"leaves are heard on port {port}, no longer {kept.leaf_port}")
    return fleet, [*said, *more, *moved]


def _peers(kept: Sequence[Peer], named: Sequence[Peer], what: str) -> tuple[tuple[Peer, ...], list[str]]:
    """Servers by name, with a line for each that was not there or was elsewhere."""
    if len({peer.name for peer in named}) != len(named):
        raise AdapterError(f"--{what}: a name is given twice")
    there, said = {peer.name: peer for peer in kept}, []
    for peer in named:
        before = there.get(peer.name)
        if kept and before is None:
            said.append(f"{what} {peer.name} at {_place(peer)} is new beside {', '.join(there)}")
        elif before is not None and before != peer:
            said.append(f"{what} {peer.name} is at {_place(peer)}, no longer at {_place(before)}")
        there[peer.name] = peer
    return tuple(there.values()), said


def _place(peer: Peer) -> str:
    return f"{peer.host}:{peer.port}:{peer.cluster_port}"


def _members(
    kept: Sequence[Leaf], leaves: Sequence[Peer], nodes: Sequence[str]
) -> tuple[dict[str, set[str]], list[str]]:
    """The nodes of each leaf by its name. A node that is named without a leaf stays where it is."""
    members: dict[str, set[str]] = {leaf.name: set() for leaf in leaves}
    members |= {leaf.peer.name: set(leaf.nodes) for leaf in kept}
    said = []
    for text in nodes:
        node, at, leaf = text.partition("@")
        if not at:
            continue
        if leaf and leaf not in members:
            raise AdapterError(f"--node {text}: there is no leaf {leaf!r}; name it: --leaf {leaf}=HOST[:PORT]")
        before = next((name for name, inside in members.items() if node in inside), "")
        if before and before != leaf:
            said.append(f"node {node} talks to {leaf or 'the servers'}, no longer to {before}")
            members[before].discard(node)
        if leaf:
            members[leaf].add(node)
    return members, said


def _check_names(fleet: Fleet, nodes: Sequence[str]) -> None:
    """AdapterError where two things would share a file."""
    try:
        names = [fleet_wire.node_name(text.partition("@")[0]) for text in nodes]
    except ValueError as error:
        raise AdapterError(str(error)) from error
    leaves = [leaf.peer.name for leaf in fleet.leaves]
    if len({DAEMON, *leaves, *names}) != 1 + len(leaves) + len(names):
        raise AdapterError(f"a name is given twice, or is {DAEMON!r}")
    if taken := {"server", "ca", *(server.name for server in fleet.servers)} & set(leaves):
        raise AdapterError(f"--leaf {taken.pop()}: another file has that name already; give the leaf another one")


def _moved(kept: Fleet, store_dir: Path, meant: bool) -> str:
    names = ", ".join(server.name for server in kept.servers)
    if not meant:
        raise AdapterError(
            f"--store-dir {store_dir}: the streams of {names} are in {kept.store_dir} (trajectories, and the books of "
            f"daemons that stand by), and the servers would start without them. Without --store-dir they stay there. "
            f"To move them: stop the servers, move each {kept.store_dir}/NAME to {store_dir}/NAME, and say it again "
            "with --store-moved"
        )
    return f"streams of {names} are looked for in {store_dir}, no longer in {kept.store_dir}"
