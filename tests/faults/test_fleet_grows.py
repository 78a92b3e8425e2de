"""A fleet grows, and its certificate is renewed, under three real servers that only reload."""

import signal
import socket
import ssl
import subprocess
import sys
from contextlib import ExitStack
from dataclasses import replace
from pathlib import Path

import pytest

from adapters.bus import Bus
from adapters.ports import AdapterError, Lease
from adapters.power.fleet import FleetPower
from tests.faults.test_fleet import Node
from tests.support.nats import BINARY, nats_servers
from tests.support.power_worlds import wait_until

ROOT = Path(__file__).resolve().parents[2]


def fleet_init(folder, *options):
    command = [sys.executable, "-m", "scheduler.cli", "fleet", "init", folder, *options]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def reload(servers):
    """As the documentation says it."""
    for peer in servers.peers:
        command = [BINARY, "--signal", f"reload={servers.processes[peer.name].pid}"]
        subprocess.run(command, check=True)
    for peer in servers.peers:
        wait_until(lambda log=servers.folder / f"{peer.name}.log": "Reloaded server configuration" in log.read_text())


def agent(stack, tmp_path, servers, name):
    node = Node(tmp_path, servers, name)
    stack.callback(node.stop)
    return node.gpus


def obeys(power, cards, sequence):
    try:
        power.discover()
        return power.apply(dict.fromkeys(cards, 300), Lease(1, sequence, 60.0)).failures == {}
    except AdapterError:
        return False


def test_a_node_joins_a_cluster_by_the_documented_command_and_a_reload(tmp_path):
    with ExitStack() as stack:
        servers = stack.enter_context(nats_servers(tmp_path / "bus", "n1", count=3))
        old = agent(stack, tmp_path, servers, "n1")
        power = FleetPower(servers.settings("daemon"), 2.0, replicas=1)
        stack.callback(power.close)
        wait_until(lambda: obeys(power, old, 1))
        was_back = power.bus.client.stats["reconnects"]
        fleet_init(servers.folder, "--node", "n2")
        assert not (servers.folder / "nats.conf").exists()
        reload(servers)
        new = agent(stack, tmp_path, servers, "n2")
        wait_until(lambda: obeys(power, [*old, *new], 2))
        for server in servers.settings("n2").servers:  # each of the three lets it in
            bus = Bus(replace(servers.settings("n2"), servers=(server,)))
            stack.callback(bus.close)
            bus.wait_connected(5.0)
        assert power.bus.client.stats["reconnects"] == was_back, "those that were there stay connected"


def shown(servers, peer, host):
    """The certificate that a server shows, verified for a host."""
    trust = ssl.create_default_context(cafile=servers.folder / "ca.pem")
    with socket.create_connection(("127.0.0.1", peer.port), 5) as plain:
        plain.recv(4096)  # its INFO, before TLS
        with trust.wrap_socket(plain, server_hostname=host) as secure:
            return secure.getpeercert()["serialNumber"]


def test_servers_show_the_certificate_that_is_renewed_after_a_reload(tmp_path):
    with nats_servers(tmp_path / "bus", "n1", count=3) as servers, ExitStack() as stack:
        bus = Bus(servers.settings("n1"))
        stack.callback(bus.close)
        bus.wait_connected(5.0)
        before = shown(servers, servers.peers[0], "127.0.0.1")
        with pytest.raises(ssl.SSLCertVerificationError):
            shown(servers, servers.peers[0], "bus.example")
        assert "is not good for bus.example" in fleet_init(servers.folder, "--host", "bus.example")
        reload(servers)
        serials = {shown(servers, peer, "bus.example") for peer in servers.peers}
        assert len(serials) == 1
        assert before not in serials
        assert bus.client.stats["reconnects"] == 0, "connections stay"
        servers.stop("s2", number=signal.SIGTERM)  # and the servers know each other by it
        servers.start("s2")
        monitor = servers.folder / "s2.log"
        wait_until(lambda: monitor.read_text().count("Route connection created") >= 2)
