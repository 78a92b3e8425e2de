"""Real NATS servers for tests, on loopback, with the configuration that Gridpace makes for operators."""

import signal
import socket
import subprocess
import sys
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

from adapters.bus_settings import BusSettings
from scheduler.fleet.init import FleetPlan, init_fleet
from scheduler.fleet.leaves import Peer
from tests.support.ports import free_port
from tests.support.power_worlds import wait_until

BINARY = Path(sys.executable).with_name("nats-server")


def listens(port):
    with socket.socket() as probe:
        return probe.connect_ex(("127.0.0.1", port)) == 0


@dataclass
class Servers:
    """One or several `nats-server` over a folder made by `gridpace fleet init`; each can be stopped and started."""

    folder: Path
    nodes: tuple[str, ...]
    count: int = 1
    leaves: tuple[str, ...] = ()
    hosts: tuple[str, ...] = ("127.0.0.1",)
    peers: tuple[Peer, ...] = ()
    processes: dict[str, subprocess.Popen] = field(default_factory=dict)

    def init(self):
        if not self.peers:
            ports = [(free_port(), free_port()) for _ in range(self.count)]
            self.peers = tuple(Peer(f"s{number}", "127.0.0.1", *pair) for number, pair in enumerate(ports))
            self.halls = tuple(Peer(name, "127.0.0.1", free_port()) for name in self.leaves)
            self.leaf_port = free_port()
        where = (self.hosts, self.folder / "streams", self.halls, self.leaf_port)
        init_fleet(self.folder, FleetPlan(self.nodes, self.peers, *where))

    def start(self, *names):
        for peer in (*self.peers, *self.halls):
            if not names or peer.name in names:
                with (self.folder / f"{peer.name}.log").open("ab") as log:
                    command = [BINARY, "-c", self.folder / f"{peer.name}.conf"]
                    self.processes[peer.name] = subprocess.Popen(command, stdout=log, stderr=log)
        wait_until(
            lambda: all(listens(peer.port) for peer in (*self.peers, *self.halls) if peer.name in self.processes)
        )

    def stop(self, *names, number=signal.SIGKILL):
        for name in names or list(self.processes):
            process = self.processes.pop(name)
            process.send_signal(number)
            process.wait(20)

    def settings(self, name):
        hall = next((hall for hall in self.halls if f"{name}@{hall.name}" in self.nodes), None)
        urls = tuple(f"tls://127.0.0.1:{peer.port}" for peer in ([hall] if hall else self.peers))
        return BusSettings(urls, name, self.folder / f"{name}.seed", self.folder / "ca.pem")


@contextmanager
def nats_servers(folder, *nodes, count=1, leaves=(), hosts=("127.0.0.1",)):
    servers = Servers(folder, nodes, count, leaves, hosts)
    servers.init()
    servers.start()
    try:
        yield servers
    finally:
        servers.stop()


def stream_leader(bus, stream):
    """Which server of a cluster leads a stream now."""

    async def ask():
        return (await bus.jetstream.stream_info(stream)).cluster.leader

    return bus.call(ask(), 5.0)
