"""TLS of a fleet's servers: a certificate authority made for it, and certificates that are made anew while they last.

Why with the key that is there: a certificate that was lost, ends soon or lacks a name is a matter of a reload then, and
an authority that is made anew with its own key is still the one that every node trusts.
"""

from __future__ import annotations

import ipaddress
import os
from collections.abc import Sequence
from datetime import UTC, datetime, timedelta
from pathlib import Path

from cryptography import x509
from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

from adapters.ports import AdapterError

DAYS = 825
"""Life of a server certificate; clients of today refuse longer ones."""
LEFT_DAYS = 90
"""With less left a server certificate is made anew."""
AUTHORITY_DAYS = 10 * 365

Authority = tuple[x509.Certificate, ec.EllipticCurvePrivateKey]


def certificates(folder: Path, hosts: Sequence[str]) -> list[str]:
    """The authority and the servers' certificate, where they are not there or not good any more; a line for each file
    made, or for what could not be."""
    return [*authority(folder), *server_certificate(folder, "server", hosts)]


def authority(folder: Path) -> list[str]:
    """ca.pem and its key. It is made anew, with the key that is there, while it outlives every server certificate.
    AdapterError where it is missing, and servers and nodes know it already."""
    key_path, path = folder / "ca.key", folder / "ca.pem"
    if path.exists():
        ends = _read(path).not_valid_after_utc
        if ends - datetime.now(UTC) >= timedelta(days=DAYS + LEFT_DAYS):
            return []
        if not key_path.exists():
            return [f"{path}: ends on {ends:%Y-%m-%d}, and can't be made anew here without {key_path.name}"]
        why = f": anew with the same key, since it ends on {ends:%Y-%m-%d}; servers, nodes and daemons need it by then"
    elif key_path.exists():
        why = ": anew with the same key, since it was missing"
    elif (folder / "server.pem").exists():
        raise AdapterError(
            f"{path} is missing, which made {folder / 'server.pem'} and which every node trusts: put it back "
            "(to begin with a new one, delete server.pem, and copy the new ca.pem to every node and daemon)"
        )
    else:
        why = ""
    lines, key = _key(key_path)
    _write(path, _certificate("Gridpace fleet", key, None, ()))
    return [*lines, f"{path}{why}"]


def server_certificate(folder: Path, name: str, hosts: Sequence[str]) -> list[str]:
    """`name`.pem and its key, good for these hosts; made anew when it is missing, lacks one of them or ends soon, with
    the key that is there. Without the authority's key one that is there stays, with a line that says why it should not;
    AdapterError when there is none."""
    key_path, path, signer = folder / f"{name}.key", folder / f"{name}.pem", folder / "ca.key"
    whole = path.exists() and key_path.exists()
    made_by = (_read(folder / "ca.pem"), _load(signer)) if signer.exists() else None
    why = _why_anew(path, key_path, hosts, made_by)
    if why is None:
        return []
    if made_by is None and whole:
        return [f"{path}: {why}, and can't be made anew here without {signer.name}"]
    if made_by is None:
        raise AdapterError(f"{path} can't be made without {signer}: put it back")
    lines, key = _key(key_path)
    _write(path, _certificate(hosts[0], key, made_by, tuple(dict.fromkeys(hosts))))
    return [*lines, f"{path}: anew, since it {why}" if why else str(path)]


def names_of(path: Path) -> list[str]:
    """The names and addresses that a certificate is good for."""
    return [str(name.value) for name in _alternatives(_read(path))]


def _why_anew(path: Path, key_path: Path, hosts: Sequence[str], made_by: Authority | None) -> str | None:
    """What is wrong with a certificate ("it ..."); empty for one that never was, None for a good one."""
    if not path.exists():
        return "was missing" if key_path.exists() else ""
    if not key_path.exists():
        return f"has lost its key {key_path.name}"
    certificate = _read(path)
    if made_by is not None and not _issued(certificate, made_by[0]):
        return "was made by another authority"
    there = _alternatives(certificate)
    if lacking := [host for host in hosts if _alternative(host) not in there]:
        return f"is not good for {', '.join(lacking)}"
    ends = certificate.not_valid_after_utc
    return f"ends on {ends:%Y-%m-%d}" if ends - datetime.now(UTC) < timedelta(days=LEFT_DAYS) else None


def _issued(certificate: x509.Certificate, by: x509.Certificate) -> bool:
    try:
        certificate.verify_directly_issued_by(by)
    except (ValueError, TypeError, InvalidSignature):
        return False
    return True


def _alternatives(certificate: x509.Certificate) -> list[x509.GeneralName]:
    try:
        return list(certificate.extensions.get_extension_for_class(x509.SubjectAlternativeName).value)
    except x509.ExtensionNotFound:
        return []


def _read(path: Path) -> x509.Certificate:
    try:
        return x509.load_pem_x509_certificate(path.read_bytes())
    except ValueError as error:
        raise AdapterError(f"{path}: not a certificate: {error}") from error


# ---------------------------------------------------------------- keys
def _key(path: Path) -> tuple[list[str], ec.EllipticCurvePrivateKey]:
    """The key that is there, or a new one; and its line when it is new."""
    if path.exists():
        return [], _load(path)
    key = ec.generate_private_key(ec.SECP256R1())
    form = (serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption())
    secret(path, key.private_bytes(*form))
    return [str(path)], key


def _load(path: Path) -> ec.EllipticCurvePrivateKey:
    try:
        key = serialization.load_pem_private_key(path.read_bytes(), None)
    except (ValueError, TypeError) as error:
        raise AdapterError(f"{path}: not a key: {error}") from error
    if not isinstance(key, ec.EllipticCurvePrivateKey):
        raise AdapterError(f"{path}: not the key that `gridpace fleet init` made")
    return key


def secret(path: Path, data: bytes) -> None:
    """A new file that its owner alone may read."""
    with os.fdopen(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "wb") as file:
        file.write(data)


def _write(path: Path, certificate: x509.Certificate) -> None:
    path.write_bytes(certificate.public_bytes(serialization.Encoding.PEM))


# ---------------------------------------------------------------- what is in them
def _certificate(
    name: str, key: ec.EllipticCurvePrivateKey, issuer: Authority | None, hosts: Sequence[str]
) -> x509.Certificate:
    """A certificate: of an authority without an issuer, else of a server under these names."""
    subject = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name)])
    now = datetime.now(UTC)
    life = timedelta(days=AUTHORITY_DAYS if issuer is None else DAYS)
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
