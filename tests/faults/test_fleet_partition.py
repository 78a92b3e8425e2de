"""A node in a network namespace of its own, whose cable is pulled: no reset, no refusal, only silence."""

import subprocess
import sys
from contextlib import ExitStack
from dataclasses import replace
from itertools import count
from pathlib import Path

from adapters.ports import AdapterError, Lease
from adapters.power.fleet import FleetPower
from optimizer.reasons import Reason
from tests.support.fake_nvml import FakeNvml, h100s
from tests.support.nats import nats_servers
from tests.support.power_worlds import wait_until
from tests.support.system import leave_out, require

ROOT = Path(__file__).resolve().parents[2]
_number = count(1)


def ip(*words):
    done = subprocess.run(["ip", *map(str, words)], capture_output=True, text=True, check=False)
    if done.returncode:
        raise OSError(done.stderr.strip())


class Cable:
    """A namespace and the pair of interfaces that connects it with this machine."""

    def __init__(self, stack):
        number = next(_number)
        self.space, self.here, self.there = f"gridpace-{number}", f"gpa{number}", f"gpb{number}"
        self.address = f"169.254.211.{4 * number + 1}"
        try:
            ip("netns", "add", self.space)
        except OSError as error:
            leave_out(f"no network namespace may be made here: {error}")
        stack.callback(ip, "netns", "del", self.space)
        ip("link", "add", self.here, "type", "veth", "peer", "name", self.there, "netns", self.space)
        ip("addr", "add", f"{self.address}/30", "dev", self.here)
        ip("link", "set", self.here, "up")
        ip("-n", self.space, "addr", "add", f"169.254.211.{4 * number + 2}/30", "dev", self.there)
        ip("-n", self.space, "link", "set", self.there, "up")

    def plug(self, state):
        ip("link", "set", self.here, state)


def heard_of(fleet, node):
    try:
        fleet.discover()
    except AdapterError:
        return False
    return node in fleet.states()


def test_a_node_whose_cable_is_pulled_follows_its_trajectory_releases_and_obeys_again(tmp_path):
    require("gcc", "ip")
    with ExitStack() as stack:
        cable = Cable(stack)
        servers = stack.enter_context(nats_servers(tmp_path / "bus", "n1", "n2", hosts=("127.0.0.1", cable.address)))
        port = servers.peers[0].port
        fakes = {}
        for node, inside in (("n1", ["ip", "netns", "exec", cable.space]), ("n2", [])):
            fakes[node] = FakeNvml(tmp_path / node, [replace(card, uuid=f"{card.uuid}-{node}") for card in h100s(2)])
            url = f"tls://{cable.address if inside else '127.0.0.1'}:{port}"
            known = servers.settings(node)
            options = ["--socket", tmp_path / f"{node}.sock", "--state-dir", tmp_path / f"{node}-state",
                       "--node", node, "--fleet", url, "--seed", known.seed_file, "--ca", known.ca_file,
                       "--tick-s", "0.1", "--release-w-per-s", "2000"]  # fmt: skip
            command = [*inside, sys.executable, "-m", "scheduler.agent.process", *map(str, options)]
            agent = subprocess.Popen(command, cwd=ROOT, env=fakes[node].env())
            stack.callback(agent.wait, 30)
            stack.callback(agent.terminate)
        fleet = FleetPower(servers.settings("daemon"), 1.0)
        stack.callback(fleet.close)
        wait_until(lambda: heard_of(fleet, "n1") and heard_of(fleet, "n2"), 30)
        mine = {node: list(fleet.states()[node].draw_w) for node in ("n1", "n2")}
        gpus = [*mine["n1"], *mine["n2"]]
        found = fakes["n1"].limits_w()

        assert fleet.apply(dict.fromkeys(gpus, 400), Lease(1, 1, 3.0)).failures == {}
        fleet.hold([(0.0, dict.fromkeys(gpus, 300))], 8.0, Lease(1, 2, 3.0))
        wait_until(lambda: {state.sequence for state in fleet.states().values()} == {2}, 10)
        cable.plug("down")
        receipt = fleet.apply(dict.fromkeys(gpus, 350), Lease(1, 3, 60.0))
        assert set(receipt.failures) == set(mine["n1"])
        assert set(receipt.failures.values()) == {Reason.NODE_LOST}
        assert set(receipt.enforced_w.values()) == {350.0}
        wait_until(lambda: set(fakes["n1"].limits_w().values()) == {300.0}, 10)  # its lease ended: the trajectory
        wait_until(lambda: fakes["n1"].limits_w() == found, 15)  # and that too: what it found
        assert fleet.apply({}, Lease(1, 4, 60.0)).failures == {}
        cable.plug("up")
        wait_until(lambda: fleet.apply(dict.fromkeys(gpus, 330), Lease(1, 5, 60.0)).failures == {}, 40)
        assert set(fakes["n1"].limits_w().values()) == {330.0}
