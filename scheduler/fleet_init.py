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

DAEMON = "daemon"
DAYS = 825
"""Life of a server certificate; clients of today refuse longer ones."""


@dataclass(frozen=True)
class Peer:
    """One server of the bus: its name, its host, the port for clients, the port for the other servers."""

    name: str
    host: str
    port: int = 4222
    cluster_port: int = 6222


@dataclass(frozen=True)
class FleetPlan:
    """What to make: names of nodes, the servers (several: a cluster), more names for their certificate
    and the folder where each keeps its streams."""

    nodes: tuple[str, ...]
    servers: tuple[Peer, ...] = (Peer("nats", "localhost"),)
    hosts: tuple[str, ...] = ("localhost", "127.0.0.1")
    store_dir: Path = Path("/var/lib/nats")

    @property
    def names(self) -> tuple[str, ...]:
        """Every name and address that the certificate is good for."""
        return tuple(dict.fromkeys((*(peer.host for peer in self.servers), *self.hosts)))


def peer(text: str) -> Peer:
    """A server from NAME=HOST[:PORT[:CLUSTER_PORT]]. AdapterError when it isn't one."""
    name, equals, place = text.partition("=")
    host, *ports = place.split(":")
    try:
        if not equals or not host or len(ports) > 2:
            raise ValueError(text)
        return Peer(fleet_wire.node_name(name), host, *(_port(port) for port in ports))
    except ValueError as error:
        raise AdapterError(f"--server {text!r}: NAME=HOST[:PORT[:CLUSTER_PORT]] is wanted") from error


def _port(text: str) -> int:
    number = int(text)
    if not 0 < number < 65536:
        raise ValueError(text)
    return number


def init_fleet(folder: Path, plan: FleetPlan) -> list[Path]:
    """Make what is not there yet, and write the server's configuration anew; return the files made.

    A key that exists stays, so that nodes are added by calling it again with more names. AdapterError for a bad name or
    a folder that can't be written.
    """
    try:
        names = (DAEMON, *(fleet_wire.node_name(node) for node in plan.nodes))
    except ValueError as error:
        raise AdapterError(str(error)) from error
    if len(set(names)) != len(names):
        raise AdapterError(f"a node's name is given twice, or is {DAEMON!r}")
    try:
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        made = [path for name in names if (path := _key(folder, name)) is not None]
        known = sorted(path.stem for path in folder.glob("*.seed") if path.stem != DAEMON)
        made += certificates(folder, plan.names)
        for peer in plan.servers:
            config = folder / f"{peer.name}.conf"
            config.write_text(server_config(folder, known, plan, peer), encoding="utf-8")
            made.append(config)
        return made
    except OSError as error:
        raise AdapterError(f"{folder}: {error}") from error


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
    """The authority and the server's certificate, where they are not there yet."""
    paths = {name: folder / name for name in ("ca.key", "ca.pem", "server.key", "server.pem")}
    if paths["server.pem"].exists():
        return []
    authority_key, server_key = ec.generate_private_key(ec.SECP256R1()), ec.generate_private_key(ec.SECP256R1())
    authority = _certificate("Gridpace fleet", authority_key, None, ())
    server = _certificate(hosts[0], server_key, (authority, authority_key), hosts)
    _secret(paths["ca.key"], _pem(authority_key))
    _secret(paths["server.key"], _pem(server_key))
    paths["ca.pem"].write_bytes(authority.public_bytes(serialization.Encoding.PEM))
    paths["server.pem"].write_bytes(server.public_bytes(serialization.Encoding.PEM))
    return list(paths.values())


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


# ---------------------------------------------------------------- the server
def server_config(folder: Path, nodes: Sequence[str], plan: FleetPlan, peer: Peer) -> str:
    """The configuration of one `nats-server`: TLS, JetStream, its place in the cluster, and one user a node who may do
    its own things alone."""
    users = [_daemon(public_key(folder / f"{DAEMON}.seed"))]
    users += [_node(public_key(folder / f"{node}.seed"), node) for node in nodes]
    tls = f'tls {{ cert_file: "{folder / "server.pem"}", key_file: "{folder / "server.key"}"'
    return "\n".join(
        [
            "# Made by `gridpace fleet init`; again with more names it adds nodes, then: nats-server --signal reload",
            f"server_name: {peer.name}",
            f"port: {peer.port}",
            f'jetstream {{ store_dir: "{plan.store_dir / peer.name}" }}',
            f"{tls} }}",
            *_cluster(plan, peer, f'{tls}, ca_file: "{folder / "ca.pem"}", verify: true }}'),
            "authorization {",
            "  users = [",
            *users,
            "  ]",
            "}",
            "",
        ]
    )


def _cluster(plan: FleetPlan, peer: Peer, tls: str) -> list[str]:
    """How the servers of a cluster find each other; nothing for a server on its own. They know each other by
    certificates of the fleet's authority."""
    if len(plan.servers) == 1:
        return []
    others = [other for other in plan.servers if other is not peer]
    routes = ", ".join(f"nats-route://{other.host}:{other.cluster_port}" for other in others)
    return ["cluster {", "  name: gridpace", f"  port: {peer.cluster_port}", f"  routes: [{routes}]", f"  {tls}", "}"]


def _daemon(key: str) -> str:
    """The daemon orders, reads every state, and keeps the trajectories."""
    publish = ["gridpace.hello", "gridpace.renew", "gridpace.node.*.ask", "$JS.API.>", f"$KV.{fleet_wire.BUCKET}.>"]
    return _user(key, publish, [fleet_wire.STATES, f"_INBOX_{DAEMON}.>"], answers=False)


def _node(key: str, node: str) -> str:
    """A node hears its own orders and what is said to all, answers, tells its state, and reads its trajectory."""
    stream = f"KV_{fleet_wire.BUCKET}"
    own = f"$KV.{fleet_wire.BUCKET}.{node}"
    publish = [
        fleet_wire.state_subject(node),
        f"$JS.API.STREAM.INFO.{stream}",
        f"$JS.API.DIRECT.GET.{stream}.{own}",
    ]
    hear = [fleet_wire.ask_subject(node), fleet_wire.HELLO, fleet_wire.RENEW, own, f"_INBOX_{node}.>"]
    return _user(key, publish, hear, answers=True)


def _user(key: str, publish: Sequence[str], subscribe: Sequence[str], *, answers: bool) -> str:
    quoted = [", ".join(f'"{subject}"' for subject in subjects) for subjects in (publish, subscribe)]
    more = ", allow_responses: true" if answers else ""
    return f"    {{ nkey: {key}, permissions: {{ publish: [{quoted[0]}], subscribe: [{quoted[1]}]{more} }} }}"
