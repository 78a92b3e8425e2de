"""`gridpace fleet init`, called again: what exists and is not named stays, and what is named and differs is said."""

import json
from datetime import UTC, datetime, timedelta

import pytest
import time_machine
from cryptography import x509
from cryptography.hazmat.primitives import serialization
from typer.testing import CliRunner

from scheduler.cli.app import app
from scheduler.fleet.init import public_key

CLUSTER = ("--server", "a=10.0.0.1", "--server", "b=10.0.0.2:4333", "--server", "c=10.0.0.3:4222:6333")
START = datetime(2026, 3, 1, 12, tzinfo=UTC)


@pytest.fixture
def folder(tmp_path):
    return tmp_path / "fleet"


@pytest.fixture
def init(folder):
    """Runs the command over one folder; what it said, when it went well."""

    def run(*options, fails=False):
        done = CliRunner().invoke(app, ["fleet", "init", str(folder), *options])
        if fails:
            assert done.exit_code != 0, done.output
            return str(done.exception) + done.output
        assert done.exit_code == 0, done.output + str(done.exception)
        return done.stdout

    return run


def texts(folder):
    return {path.name: path.read_bytes() for path in folder.iterdir()}


def certificate(folder, name="server"):
    return x509.load_pem_x509_certificate((folder / f"{name}.pem").read_bytes())


def good_for(folder, name="server"):
    return {str(one.value) for one in certificate(folder, name).extensions.get_extension_for_oid(SAN).value}


SAN = x509.SubjectAlternativeName.oid


def fits_its_key(folder, name="server"):
    key = serialization.load_pem_private_key((folder / f"{name}.key").read_bytes(), None)
    return key.public_key() == certificate(folder, name).public_key()


def test_a_node_is_added_to_a_cluster_by_its_name_alone(folder, init):
    init("--node", "n01", *CLUSTER, "--store-dir", "/data/nats", "--host", "bus.example")
    before = texts(folder)
    said = init("--node", "n03")
    after = texts(folder)
    assert set(after) - set(before) == {"n03.seed"}
    changed = {name for name in before if before[name] != after[name]}
    assert changed == {"a.conf", "b.conf", "c.conf"}
    key = public_key(folder / "n03.seed")
    for name in changed:
        old, new = before[name].decode().splitlines(), after[name].decode().splitlines()
        assert [line for line in new if key not in line] == old, "nothing else has changed"
        assert len(new) == len(old) + 1
        assert f"{folder}/{name}" in said
    assert "nats-server --signal reload" in said
    assert "--fleet tls://10.0.0.1:4222 --fleet tls://10.0.0.2:4333 --fleet tls://10.0.0.3:4222 " in said
    assert 'store_dir: "/data/nats/a"' in after["a.conf"].decode()


def test_with_nothing_new_nothing_is_written(folder, init):
    init("--node", "n01", *CLUSTER)
    before = texts(folder)
    assert init() == "nothing to do: all is as it was\n"
    assert init("--node", "n01", *CLUSTER) == "nothing to do: all is as it was\n"
    assert texts(folder) == before


def test_a_store_moves_only_when_that_is_said_twice(folder, init):
    init("--node", "n01", "--store-dir", "/data/nats")
    before = texts(folder)
    said = init("--node", "n02", "--store-dir", "/var/lib/nats", fails=True)
    assert "the streams of nats are in /data/nats" in said
    assert "move each /data/nats/NAME to /var/lib/nats/NAME" in said
    assert texts(folder) == before
    init("--node", "n02")
    assert 'store_dir: "/data/nats/nats"' in (folder / "nats.conf").read_text()
    said = init("--store-dir", "/var/lib/nats", "--store-moved")
    assert "streams of nats are looked for in /var/lib/nats, no longer in /data/nats" in said
    assert "start each anew" in said
    assert 'store_dir: "/var/lib/nats/nats"' in (folder / "nats.conf").read_text()


def test_a_server_that_moves_is_said_and_gets_a_certificate_with_the_same_key(folder, init):
    init("--node", "n01", *CLUSTER)
    key = (folder / "server.key").read_bytes()
    said = init("--server", "b=10.0.0.9:4333")
    assert "server b is at 10.0.0.9:4333:6222, no longer at 10.0.0.2:4333:6222" in said
    assert "server.pem: anew, since it is not good for 10.0.0.9" in said
    assert "start each anew" in said
    assert good_for(folder) == {"10.0.0.1", "10.0.0.9", "10.0.0.3", "localhost", "127.0.0.1"}
    assert (folder / "server.key").read_bytes() == key
    assert fits_its_key(folder)
    assert "nats-route://10.0.0.9:6222" in (folder / "a.conf").read_text()
    assert "server d at 10.0.0.4:4222:6222 is new beside a, b, c" in init("--server", "d=10.0.0.4")


def test_a_host_is_added_to_those_that_are_there(folder, init):
    init("--node", "n01", "--host", "one.example")
    assert "is not good for two.example" in init("--host", "two.example")
    assert good_for(folder) == {"localhost", "one.example", "two.example"}


@pytest.mark.parametrize("name", ["server", "hall"])
def test_a_certificate_that_was_deleted_is_made_with_the_key_that_is_there(folder, init, name):
    init("--node", "n01@hall", "--leaf", "hall=10.1.0.1")
    (folder / f"{name}.pem").unlink()
    key = (folder / f"{name}.key").read_bytes()
    assert f"{name}.pem: anew, since it was missing" in init()
    assert (folder / f"{name}.key").read_bytes() == key
    assert fits_its_key(folder, name)
    (folder / f"{name}.key").unlink()
    assert f"{name}.pem: anew, since it has lost its key" in init()
    assert fits_its_key(folder, name)


def test_certificates_are_renewed_with_ninety_days_left(folder, init):
    with time_machine.travel(START, tick=False):
        init("--node", "n01@hall", "--leaf", "hall=10.1.0.1")
        first, key = certificate(folder), (folder / "server.key").read_bytes()
    with time_machine.travel(START + timedelta(days=734), tick=False):
        assert "nothing to do" in init()
    with time_machine.travel(START + timedelta(days=736), tick=False):
        said = init("--node", "n02")
        assert "server.pem: anew, since it ends on 2028-06-03" in said
        assert "hall.pem: anew, since it ends on 2028-06-03" in said
        assert "nothing to do" in init()
    assert certificate(folder).not_valid_after_utc - first.not_valid_after_utc == timedelta(days=736)
    assert (folder / "server.key").read_bytes() == key


def test_the_authority_outlives_what_it_signs(folder, init):
    with time_machine.travel(START, tick=False):
        init("--node", "n01")
        first = certificate(folder, "ca")
    with time_machine.travel(START + timedelta(days=2740), tick=False):
        assert "ca.pem: anew with the same key, since it ends on 2036-02-27; servers, nodes and daemons" in init()
        server = certificate(folder)
    server.verify_directly_issued_by(first)  # nodes that have the former one carry on
    server.verify_directly_issued_by(certificate(folder, "ca"))
    assert certificate(folder, "ca").not_valid_after_utc > first.not_valid_after_utc


def test_without_the_authoritys_key_a_node_is_added_all_the_same_and_what_can_not_be_is_said(folder, init):
    with time_machine.travel(START, tick=False):
        init("--node", "n01")
    (folder / "ca.key").rename(folder.parent / "ca.key")
    with time_machine.travel(START + timedelta(days=800), tick=False):
        before = (folder / "server.pem").read_bytes()
        said = init("--node", "n02", "--host", "bus.example")
        assert "server.pem: is not good for bus.example, and can't be made anew here without ca.key" in said
        assert public_key(folder / "n02.seed") in (folder / "nats.conf").read_text()
        assert (folder / "server.pem").read_bytes() == before
        (folder / "server.pem").unlink()
        assert "server.pem can't be made without" in init(fails=True)


def test_a_second_authority_is_not_made_behind_the_nodes_backs(folder, init):
    init("--node", "n01")
    kept = [(folder / name).read_bytes() for name in ("ca.key", "ca.pem")]
    for name in ("ca.key", "ca.pem"):
        (folder / name).unlink()
    assert "ca.pem is missing" in init("--node", "n02", fails=True)
    for name, data in zip(("ca.key", "ca.pem"), kept, strict=True):
        (folder / name).write_bytes(data)
    assert "server.pem" not in init("--node", "n02")


def test_a_node_that_is_named_again_stays_behind_its_leaf_until_told_otherwise(folder, init):
    init("--node", "n01@hall", "--node", "n02@hall", "--leaf", "hall=10.1.0.1:4333", "--leaf-port", "7500")
    assert "nothing to do" in init("--node", "n01", "--node", "n02")
    inside = (folder / "hall.conf").read_text()
    assert "tls://localhost:7500" in inside
    assert public_key(folder / "n01.seed") in inside
    said = init("--node", "n01@")
    assert "node n01 talks to the servers, no longer to hall" in said
    assert public_key(folder / "n01.seed") not in (folder / "hall.conf").read_text()
    assert public_key(folder / "n01.seed") in (folder / "nats.conf").read_text()
    assert "leaf hall is at 10.1.0.2:4222:6222, no longer at 10.1.0.1:4333:6222" in init("--leaf", "hall=10.1.0.2")
    assert good_for(folder, "hall") == {"10.1.0.2", "localhost", "127.0.0.1"}


def former(folder):
    """As an earlier version left it: leaves alone are remembered."""
    kept = json.loads((folder / "fleet.json").read_text())
    (folder / "leaves.json").write_text(json.dumps(kept["leaves"]))
    (folder / "fleet.json").unlink()


def test_a_folder_of_an_earlier_version_wants_its_servers_once_and_keeps_the_rest(folder, init):
    given = ("--store-dir", "/data/nats", "--host", "bus.example", "--leaf-port", "7500", "--leaf", "hall=10.1.0.1")
    init("--node", "n01", "--node", "n02@hall", *CLUSTER, *given)
    former(folder)
    before = texts(folder)
    said = init("--node", "n03@hall", fails=True)
    assert "made a, b, c: name all servers once more" in said
    assert texts(folder) == before
    assert "which did not keep its servers, made b, c" in init("--server", "a=10.0.0.1", fails=True)
    assert "server b is" not in init("--node", "n03@hall", *CLUSTER)
    after = texts(folder)
    assert set(after) ^ set(before) == {"n03.seed", "leaves.json", "fleet.json"}
    assert {name for name in set(before) & set(after) if before[name] != after[name]} == {
        "a.conf", "b.conf", "c.conf", "hall.conf"
    }  # fmt: skip
    for text in (after["a.conf"].decode(), after["hall.conf"].decode()):
        assert "7500" in text
        assert public_key(folder / "n03.seed") in text or "hall" not in text
    assert "nothing to do" in init()


def test_a_port_that_an_earlier_version_knew_is_not_changed_unsaid(folder, init):
    init("--node", "n01", *CLUSTER)
    former(folder)
    said = init("--node", "n02", *(text.removesuffix(":4333") for text in CLUSTER))
    assert "server b is at 10.0.0.2:4222:6222, no longer at 10.0.0.2:4333:6222" in said
    assert "server c" not in said
    assert "start each anew" in said


def test_a_stray_configuration_is_named(folder, init):
    init("--node", "n01", *CLUSTER)
    (folder / "nats.conf").write_text((folder / "a.conf").read_text())
    (folder / "own.conf").write_text("port: 4222\n")
    said = init("--node", "n02")
    assert "nats.conf: of no server of this fleet" in said
    assert "own.conf" not in said


@pytest.mark.parametrize(("options", "text"), [
    (("--leaf", "server=10.1.0.1"), "another file has that name already"),
    (("--leaf", "a=10.1.0.1"), "another file has that name already"),
    (("--leaf", "hall=1.2.3.4", "--node", "hall"), "a name is given twice"),
    (("--server", "d=10.0.0.4", "--server", "d=10.0.0.5"), "--server: a name is given twice"),
    (("--node", "n02@hall"), "there is no leaf 'hall'"),
    (("--node", "daemon"), "a name is given twice, or is 'daemon'"),
])  # fmt: skip
def test_what_can_not_be_changes_nothing(folder, init, options, text):
    assert "there is no fleet yet: name its nodes" in init(fails=True)
    assert not folder.exists()
    init("--node", "n01", *CLUSTER)
    before = texts(folder)
    assert text in init(*options, fails=True)
    assert texts(folder) == before


def test_a_book_that_is_none_is_named(folder, init):
    init("--node", "n01")
    (folder / "fleet.json").write_text('{"servers": [{"name": "a"}]}')
    assert "fleet.json: not what `gridpace fleet init` keeps" in init("--node", "n02", fails=True)
    assert not (folder / "n02.seed").exists()
