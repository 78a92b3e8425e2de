"""Credentials and server configuration of a fleet: who may say what on the bus, by name.

Why nkeys and a generated configuration: each node has a key of its own that opens its own subjects and nothing else, so
that a stolen node can neither order others nor read their orders. The server keeps only public keys. TLS comes from a
certificate authority made for this fleet; its key stays where `gridpace fleet init` ran, for renewals alone.
"""

from __future__ import annotations

import ipaddress
import os
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path

import nkeys
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

from adapters.ports import AdapterError
from adapters.power import fleet_wire
from scheduler.fleet.leaves import DAEMON, DAEMON_MAY, Leaf, May, Peer, leaf_may, node_may, remembered

DAYS = 825
"""Life of a server certificate; clients of today refuse longer ones."""


@dataclass(frozen=True)
class FleetPlan:
    """What to make: names of nodes (NODE, or NODE@LEAF for one that talks to a leaf), the servers (several: a cluster),
    the leaves (a server of its own for a hall or a site, which alone talks to the others), more names for their
    certificates and the folder where each keeps its streams."""

    nodes: tuple[str, ...]
    servers: tuple[Peer, ...] = (Peer("nats", "localhost"),)
    hosts: tuple[str, ...] = ("localhost", "127.0.0.1")
    store_dir: Path = Path("/var/lib/nats")
    leaves: tuple[Peer, ...] = ()
    leaf_port: int = 7422

    @property
    def names(self) -> tuple[str, ...]:
        """Every name and address that the certificate is good for."""
        return tuple(dict.fromkeys((*(peer.host for peer in self.servers), *self.hosts)))


def init_fleet(folder: Path, plan: FleetPlan) -> list[Path]:
    """Make what is not there yet, and write the servers' configurations anew; return the files made.

    A key that exists stays, and so does a leaf with its nodes, so that nodes are added by calling it again with more
    names. AdapterError for a bad name or a folder that can't be written.
    """
    try:
        pairs = [(fleet_wire.node_name(node), leaf) for node, _, leaf in (text.partition("@") for text in plan.nodes)]
    except ValueError as error:
        raise AdapterError(str(error)) from error
    names = [DAEMON, *(peer.name for peer in plan.leaves), *(node for node, _ in pairs)]
    if len(set(names)) != len(names):
        raise AdapterError(f"a name is given twice, or is {DAEMON!r}")
    try:
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        leaves = remembered(folder, plan.leaves, pairs)
        made = [path for name in names if (path := _key(folder, name)) is not None]
        known = sorted({path.stem for path in folder.glob("*.seed")} - {DAEMON, *(leaf.peer.name for leaf in leaves)})
        made += certificates(folder, plan.names)
        for leaf in leaves:
            made += _server_certificate(folder, leaf.peer.name, (leaf.peer.host, *plan.hosts))
        configs = {peer.name: server_config(folder, known, plan, peer, leaves) for peer in plan.servers}
        configs |= {leaf.peer.name: leaf_config(folder, plan, leaf) for leaf in leaves}
        return made + [_write(folder / f"{name}.conf", text) for name, text in configs.items()]
    except OSError as error:
        raise AdapterError(f"{folder}: {error}") from error


def _write(path: Path, text: str) -> Path:
    """A configuration, readable by its owner alone: a leaf's holds its key."""
    path.touch(mode=0o600)
    path.write_text(text, encoding="utf-8")
    return path


# ---------------------------------------------------------------- keys
def _key(folder: Path, name: str) -> Path | None:
    """A fresh nkey seed for a name, readable by its owner alone; None when there is one."""
    path = folder / f"{name}.seed"
    if path.exists():
        return None
    seed = nkeys.encode_seed(os.urandom(32), nkeys.PREFIX_BYTE_USER)
    _secret(path, bytes(seed))
    return path


def public_key(path: Path) -> str:
    """The public nkey of a seed file. AdapterError when it holds none."""
    try:
        pair = nkeys.from_seed(bytearray(path.read_bytes().strip()))
        return str(pair.public_key.decode())
    except (nkeys.NkeysError, ValueError) as error:
        raise AdapterError(f"{path}: not an nkey seed: {error}") from error


def _secret(path: Path, data: bytes) -> None:
    with os.fdopen(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "wb") as file:
        file.write(data)


# ---------------------------------------------------------------- certificates
def certificates(folder: Path, hosts: Sequence[str]) -> list[Path]:
    """The authority and the servers' certificate, where they are not there yet."""
    key_path, path = folder / "ca.key", folder / "ca.pem"
    if path.exists():
        return _server_certificate(folder, "server", hosts)
    key = ec.generate_private_key(ec.SECP256R1())
    authority = _certificate("Gridpace fleet", key, None, ())
    _secret(key_path, _pem(key))
    path.write_bytes(authority.public_bytes(serialization.Encoding.PEM))
    return [key_path, path, *_server_certificate(folder, "server", hosts)]


def _server_certificate(folder: Path, name: str, hosts: Sequence[str]) -> list[Path]:
    """`name`.pem and its key, good for these hosts, where they are not there yet. AdapterError without the authority's
    key."""
    key_path, path = folder / f"{name}.key", folder / f"{name}.pem"
    if path.exists():
        return []
    authority = x509.load_pem_x509_certificate((folder / "ca.pem").read_bytes())
    authority_key = serialization.load_pem_private_key((folder / "ca.key").read_bytes(), None)
    if not isinstance(authority_key, ec.EllipticCurvePrivateKey):
        raise AdapterError(f"{folder / 'ca.key'}: not the key that `gridpace fleet init` made")
    key = ec.generate_private_key(ec.SECP256R1())
    certificate = _certificate(hosts[0], key, (authority, authority_key), tuple(dict.fromkeys(hosts)))
    _secret(key_path, _pem(key))
    path.write_bytes(certificate.public_bytes(serialization.Encoding.PEM))
    return [key_path, path]


def _certificate(
    name: str,
    key: ec.EllipticCurvePrivateKey,
    issuer: tuple[x509.Certificate, ec.EllipticCurvePrivateKey] | None,
    hosts: Sequence[str],
) -> x509.Certificate:
    """A certificate: of an authority without an issuer, else of a server under these names."""
    subject = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name)])
    now = datetime.now(UTC)
    life = timedelta(days=10 * 365 if issuer is None else DAYS)
    signer = key if issuer is None else issuer[1]
    builder = (
        x509.CertificateBuilder()
        .subject_name(subject)
        .issuer_name(subject if issuer is None else issuer[0].subject)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - timedelta(hours=1))
        .not_valid_after(now + life)
        .add_extension(x509.BasicConstraints(ca=issuer is None, path_length=0 if issuer is None else None), True)
        .add_extension(x509.SubjectKeyIdentifier.from_public_key(key.public_key()), False)
        .add_extension(x509.AuthorityKeyIdentifier.from_issuer_public_key(signer.public_key()), False)
    )
    if issuer is None:
        usage = x509.KeyUsage(False, False, False, False, False, True, True, False, False)
        builder = builder.add_extension(usage, True)
    else:
        names = x509.SubjectAlternativeName([_alternative(host) for host in hosts])
        builder = builder.add_extension(names, False)
        both = [ExtendedKeyUsageOID.SERVER_AUTH, ExtendedKeyUsageOID.CLIENT_AUTH]  # servers are each other's clients
        builder = builder.add_extension(x509.ExtendedKeyUsage(both), False)
    return builder.sign(signer, hashes.SHA256())


def _alternative(host: str) -> x509.GeneralName:
    try:
        return x509.IPAddress(ipaddress.ip_address(host))
    except ValueError:
        return x509.DNSName(host)


def _pem(key: ec.EllipticCurvePrivateKey) -> bytes:
    return key.private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    )


# ---------------------------------------------------------------- the servers
def server_config(folder: Path, nodes: Sequence[str], plan: FleetPlan, peer: Peer, leaves: Sequence[Leaf]) -> str:
    """The configuration of one `nats-server`: TLS, JetStream, its place in the cluster, the door for leaves, and one
    user a node, who may do its own things alone. A leaf may do what its nodes may."""
    users = [_user(public_key(folder / f"{DAEMON}.seed"), DAEMON_MAY)]
    users += [_user(public_key(folder / f"{node}.seed"), node_may(node)) for node in nodes]
    users += [_user(public_key(folder / f"{leaf.peer.name}.seed"), leaf_may(leaf)) for leaf in leaves]
    door = [f"leafnodes {{ port: {plan.leaf_port}, {_tls(folder, 'server')} }} }}"] if leaves else []
    cluster = f'{_tls(folder, "server")}, ca_file: "{folder / "ca.pem"}", verify: true }}'
    streams = f'jetstream {{ store_dir: "{plan.store_dir / peer.name}", domain: {fleet_wire.DOMAIN} }}'
    return _config(folder, peer, "server", [streams, *door, *_cluster(plan, peer, cluster)], users)


def leaf_config(folder: Path, plan: FleetPlan, leaf: Leaf) -> str:
    """The configuration of the `nats-server` of a hall: its nodes talk to it, and it alone to the others."""
    seed = (folder / f"{leaf.peer.name}.seed").read_text(encoding="ascii").strip()
    urls = ", ".join(f'"tls://{server.host}:{plan.leaf_port}"' for server in plan.servers)
    remote = f'{{ urls: [{urls}], nkey: "{seed}", tls {{ ca_file: "{folder / "ca.pem"}" }} }}'
    users = [_user(public_key(folder / f"{node}.seed"), node_may(node)) for node in leaf.nodes]
    return _config(folder, leaf.peer, leaf.peer.name, [f"leafnodes {{ remotes: [{remote}] }}"], users)


def _config(folder: Path, peer: Peer, certificate: str, parts: Sequence[str], users: Sequence[str]) -> str:
    lines = [
        "# Made by `gridpace fleet init`; again with more names it adds nodes, then: nats-server --signal reload",
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


def _cluster(plan: FleetPlan, peer: Peer, tls: str) -> list[str]:
    """How the servers of a cluster find each other; nothing for a server on its own. They know each other by
    certificates of the fleet's authority."""
    if len(plan.servers) == 1:
        return []
    others = [other for other in plan.servers if other is not peer]
    routes = ", ".join(f"nats-route://{other.host}:{other.cluster_port}" for other in others)
    return ["cluster {", "  name: gridpace", f"  port: {peer.cluster_port}", f"  routes: [{routes}]", f"  {tls}", "}"]


def _user(key: str, may: May) -> str:
    quoted = [", ".join(f'"{subject}"' for subject in subjects) for subjects in (may.publish, may.subscribe)]
    more = ", allow_responses: true" if may.answers else ""
    return f"    {{ nkey: {key}, permissions: {{ publish: [{quoted[0]}], subscribe: [{quoted[1]}]{more} }} }}"
