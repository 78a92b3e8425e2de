"""Many nodes on a real NATS server: cut off, killed, replaced, spoken to by strangers; each keeps its promises."""

import os
import shutil
import signal
import subprocess
import sys
import time
from contextlib import ExitStack
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path
from threading import Event, Thread

import pytest

from adapters.bus import Bus
from adapters.ports import AdapterError, Lease
from adapters.power import fleet_wire, wire
from adapters.power.fleet import FleetPower
from adapters.power.simulated import SimulatedPower
from benchmarks.support.twin_fleet import twin_fleet
from optimizer.reasons import Reason
from scheduler.agent.core import AgentSettings
from scheduler.agent.process import run_agent
from scheduler.fleet.init import FleetPlan, init_fleet, public_key
from scheduler.fleet.leaves import Peer
from scheduler.orders import PoolOrder
from scheduler.standby.cell import BucketCell
from scheduler.standby.stream import BooksStream
from tests.support.fake_nvml import FakeNvml, h100s
from tests.support.nats import nats_servers, stream_leader
from tests.support.power_worlds import simulated_hall, wait_until
from tests.support.system import require

QUICK = AgentSettings(tick_s=0.02, state_s=0.05, release_w_per_s=2000.0, stop_s=0.2)
ROOT = Path(__file__).resolve().parents[2]
MOST_MB = 45
NODES = ("n1", "n2", "n3")


class Node:
    """An agent over a hall of its own, in a thread; it can be cut short and started again over the same state."""

    def __init__(self, folder, servers, name):
        self.folder, self.servers, self.name = folder, servers, name
        self.power = SimulatedPower(simulated_hall(name))
        self.gpus = list(self.power.hall.pool_of)
        self.start()

    def start(self):
        self.stop_asked = Event()
        where = (self.folder / f"{self.name}.sock", self.folder / self.name, self.power, (), QUICK, self.stop_asked)
        self.thread = Thread(target=run_agent, args=(*where, self.servers.settings(self.name)))
        self.thread.start()

    def limits(self):
        return {round(info.limit_w) for info in self.power.discover().values()}

    def stop(self):
        self.stop_asked.set()
        self.thread.join(20)
        assert not self.thread.is_alive()


@pytest.fixture
def stack(tmp_path):  # what it holds lives in the folder, and ends before it
    with ExitStack() as made:
        yield made


def fleet_of(stack, tmp_path, count=1, replicas=1):
    """Servers, three nodes with eight GPUs each, and the daemon's side."""
    servers = stack.enter_context(nats_servers(tmp_path / "bus", *NODES, count=count))
    nodes = {name: Node(tmp_path, servers, name) for name in NODES}
    for node in nodes.values():
        stack.callback(node.stop)
    return servers, nodes, daemon(stack, servers, replicas)


def daemon(stack, servers, replicas=1):
    fleet = FleetPower(servers.settings("daemon"), 2.0, NODES, replicas)
    stack.callback(fleet.close)
    wait_until(lambda: there(fleet))
    return fleet


def there(fleet):
    try:
        fleet.discover()
    except AdapterError:
        return False
    return not fleet.silent()


def everything(nodes):
    return [gpu for node in nodes.values() for gpu in node.gpus]


def test_an_order_reaches_all_nodes_and_a_silent_one_fails_alone(stack, tmp_path):
    _, nodes, fleet = fleet_of(stack, tmp_path)
    receipt = fleet.apply(dict.fromkeys(everything(nodes), 300), Lease(1, 1, 60.0))
    assert (receipt.failures, set(receipt.enforced_w.values())) == ({}, {300.0})
    nodes["n2"].stop()
    receipt = fleet.apply(dict.fromkeys(everything(nodes), 400), Lease(1, 2, 60.0))
    assert receipt.failures == dict.fromkeys(nodes["n2"].gpus, Reason.NODE_LOST)
    assert len(receipt.enforced_w) == 16
    assert [note.subject for note in receipt.notes] == ["n2"]
    nodes["n2"].start()
    wait_until(lambda: there(fleet))
    assert fleet.apply(dict.fromkeys(everything(nodes), 350), Lease(1, 3, 60.0)).failures == {}


def test_without_a_server_every_node_follows_its_trajectory_and_then_releases(stack, tmp_path):
    servers, nodes, fleet = fleet_of(stack, tmp_path)
    gpus = everything(nodes)
    fleet.apply(dict.fromkeys(gpus, 300), Lease(1, 1, 0.6))
    fleet.hold([(0.0, dict.fromkeys(gpus, 350)), (2.0, dict.fromkeys(gpus, 420))], 4.0, Lease(1, 2, 0.6))
    wait_until(lambda: all(state.sequence == 2 for state in fleet.states().values()))
    servers.stop()
    wait_until(lambda: not fleet.bus.connected)
    with pytest.raises(AdapterError, match="NATS"):
        fleet.apply(dict.fromkeys(gpus, 500), Lease(1, 3, 60.0))
    for watts in (350, 420, 700):
        wait_until(lambda watts=watts: all(node.limits() == {watts} for node in nodes.values()))
    servers.start()
    wait_until(lambda: fleet.bus.connected and there(fleet))
    assert fleet.apply(dict.fromkeys(gpus, 500), Lease(1, 4, 60.0)).failures == {}


def test_a_node_that_comes_back_finds_its_trajectory_in_the_bucket(stack, tmp_path):
    _, nodes, fleet = fleet_of(stack, tmp_path)
    gpus = everything(nodes)
    nodes["n3"].stop()
    fleet.hold([(0.0, dict.fromkeys(gpus, 333))], 60.0, Lease(1, 1, 0.5))
    nodes["n3"].start()
    wait_until(lambda: nodes["n3"].limits() == {333})


def test_a_trajectory_is_read_by_its_age():
    steps = ((0.0, {"g": 300}), (10.0, {"g": 400}))
    plan = fleet_wire.trajectory_out(steps, 30.0, Lease(1, 1, 5.0), 1000.0)
    fresh, old = fleet_wire.trajectory_in(plan, 1000.0), fleet_wire.trajectory_in(plan, 1012.0)
    assert (fresh.steps, fresh.until_s, fresh.age_s) == (steps, 30.0, 0.0)
    assert (old.steps, old.until_s, old.age_s) == (steps, 30.0, 12.0)
    assert old.lease.expires_in_s < 0.01
    assert fleet_wire.trajectory_in(plan, 1031.0) is None
    assert fleet_wire.trajectory_in(plan, 900.0) == fresh


def test_the_older_of_two_daemons_is_fenced_on_every_node(stack, tmp_path):
    servers, nodes, old = fleet_of(stack, tmp_path)
    gpus = everything(nodes)
    old.apply(dict.fromkeys(gpus, 300), Lease(1, 1, 60.0))
    new = daemon(stack, servers)
    assert new.apply(dict.fromkeys(gpus, 400), Lease(2, 1, 60.0)).failures == {}
    receipt = old.apply(dict.fromkeys(gpus, 300), Lease(1, 2, 60.0))
    assert set(receipt.failures.values()) == {Reason.NODE_LOST}
    assert "epoch 1 was replaced by 2" in receipt.notes[0].text
    back = daemon(stack, servers)  # the old one, started again: its first word is a release
    back.speak_for(1)
    assert set(back.release(dict.fromkeys(gpus, 700.0)).failures.values()) == {Reason.NODE_LOST}
    assert all(node.limits() == {400} for node in nodes.values())


def test_a_renewal_keeps_all_nodes_and_restores_come_from_the_agents(stack, tmp_path):
    _, nodes, fleet = fleet_of(stack, tmp_path)
    gpus = everything(nodes)
    fleet.apply(dict.fromkeys(gpus, 300), Lease(1, 1, 2.0))
    for sequence in range(2, 8):
        time.sleep(0.5)
        fleet.apply({}, Lease(1, sequence, 2.0))
    assert all(node.limits() == {300} for node in nodes.values())
    receipt = fleet.release(dict.fromkeys(gpus, 555.0))
    assert receipt.failures == {}
    assert all(node.limits() == {700} for node in nodes.values()), "the limit found first, not the one named"


def test_a_nodes_key_opens_its_own_subjects_alone(stack, tmp_path):
    servers, nodes, fleet = fleet_of(stack, tmp_path)
    fleet.hold([(0.0, dict.fromkeys(everything(nodes), 333))], 60.0, Lease(1, 1, 60.0))
    # n1's key, but the daemon's manners
    thief = Bus(replace(servers.settings("daemon"), seed_file=servers.folder / "n1.seed", name="n1"))
    stack.callback(thief.close)
    thief.wait_connected(5.0)
    order = wire.encode({"op": "apply", "caps_w": dict.fromkeys(nodes["n2"].gpus, 200),
                         "lease": {"epoch": 9, "sequence": 1, "expires_in_s": 60.0}})  # fmt: skip
    heard = []
    fleet.bus.call(_listen(fleet.bus, fleet_wire.LEAD, heard), 5.0)
    assert BooksStream(fleet.bus).extent().last == 0  # what daemons share is there, and answers who may
    assert BucketCell(fleet.bus, 5.0).write(b"{}", 0) == 1
    leaders = (fleet_wire.BOOKS_SUBJECT, fleet_wire.LEAD, f"$KV.{fleet_wire.LEADERS}.{fleet_wire.LEADER}")
    for subject in ("gridpace.node.n2.ask", "gridpace.renew", f"$KV.{fleet_wire.BUCKET}.n2", *leaders):
        with pytest.raises(AdapterError):
            thief.call(thief.client.request(subject, order, 0.5), 3.0)
    assert (heard, BooksStream(fleet.bus).extent().last, BucketCell(fleet.bus, 5.0).read()) == ([], 0, (1, b"{}"))
    with pytest.raises(AdapterError):
        thief.call(_read(thief, "n2"), 3.0)
    assert thief.call(_read(thief, "n1"), 3.0)
    assert all(state.epoch < 9 for state in fleet.states().values())
    stranger = Bus(replace(servers.settings("daemon"), seed_file=None))
    stack.callback(stranger.close)
    with pytest.raises(AdapterError, match=r"NATS at tls://127\.0\.0\.1"):
        stranger.wait_connected(1.5)


@pytest.mark.parametrize("name", ["n1", "n2", "no name"])
def test_a_nodes_key_moves_no_other_nodes_cards_to_itself(stack, tmp_path, name):
    servers, nodes, fleet = fleet_of(stack, tmp_path)
    gpus = everything(nodes)
    fleet.apply(dict.fromkeys(gpus, 400), Lease(1, 1, 60.0))
    thief = Bus(replace(servers.settings("n1"), name="n1"))
    stack.callback(thief.close)
    thief.wait_connected(5.0)
    told = {"node": name, "draw_w": {gpus[0]: 1.0, nodes["n2"].gpus[0]: 1.0}, "busy": [], "capped": 2, "phase": "free",
            "epoch": 1, "sequence": 1, "lease_left_s": 9.0, "yielded_w": dict.fromkeys(nodes["n2"].gpus, 700.0),
            "limit_w": 400.0}  # fmt: skip
    heard = []
    fleet.bus.call(_listen(fleet.bus, fleet_wire.STATES, heard), 5.0)
    for subject in ("gridpace.state.n1", "gridpace.state.n2"):
        thief.call(thief.client.publish(subject, wire.encode(told)), 3.0)
    thief.call(thief.client.flush(5), 6.0)
    wait_until(lambda: b'"draw_w":{"' + gpus[0].encode() + b'":1.0' in b"".join(heard), 5)
    told_of = fleet.contested()
    assert ([note.subject for note in told_of.notes], told_of.yielded_w) == (["n1"], {})
    assert "no such word of it is believed" in told_of.notes[0].text
    receipt = fleet.apply(dict.fromkeys(gpus, 250), Lease(1, 2, 60.0))
    assert receipt.failures == {}
    assert all(node.limits() == {250} for node in nodes.values())


async def _read(bus, node):
    bucket = await bus.jetstream.key_value(fleet_wire.BUCKET)
    return (await bucket.get(node)).value


def test_a_cluster_of_three_goes_on_without_the_server_that_leads_its_trajectories(stack, tmp_path):
    servers, nodes, fleet = fleet_of(stack, tmp_path, count=3, replicas=3)
    gpus = everything(nodes)
    wait_until(lambda: holds(fleet, gpus, 300, 1))
    servers.stop(stream_leader(fleet.bus, f"KV_{fleet_wire.BUCKET}"), number=signal.SIGKILL)
    wait_until(lambda: there(fleet), 30)
    wait_until(lambda: fleet.apply(dict.fromkeys(gpus, 310), Lease(1, 5, 60.0)).failures == {}, 30)
    nodes["n1"].stop()
    shutil.rmtree(nodes["n1"].folder / "n1")  # what it knows from now on stands in the bucket alone
    wait_until(lambda: holds(fleet, gpus, 250, 6), 30)
    nodes["n1"].start()
    wait_until(lambda: nodes["n1"].limits() == {250}, 30)
    assert fleet_wire.trajectory_in(fleet.bus.call(_kept(fleet.bus, "n1"), 5.0), time.time()).lease.sequence == 6


def test_a_hall_behind_a_leaf_obeys_and_goes_on_alone_when_its_server_is_cut_off(stack, tmp_path):
    names = ("n1", "n2@hall", "n3@hall")
    servers = stack.enter_context(nats_servers(tmp_path / "bus", *names, leaves=("hall",)))
    nodes = {name: Node(tmp_path, servers, name) for name in NODES}
    for node in nodes.values():
        stack.callback(node.stop)
    fleet = daemon(stack, servers)
    gpus = everything(nodes)
    assert fleet.apply(dict.fromkeys(gpus, 300), Lease(1, 1, 1.5)).enforced_w == dict.fromkeys(gpus, 300)
    fleet.hold([(0.0, dict.fromkeys(gpus, 250))], 60.0, Lease(1, 2, 1.5))
    wait_until(lambda: {state.sequence for state in fleet.states().values()} == {2}, 10)
    nodes["n3"].stop()
    servers.stop("hall")
    receipt = fleet.apply(dict.fromkeys(gpus, 310), Lease(1, 3, 60.0))
    assert set(receipt.enforced_w) == set(nodes["n1"].gpus)
    wait_until(lambda: nodes["n2"].limits() == {250}, 10)
    servers.start("hall")
    nodes["n3"].start()
    wait_until(lambda: nodes["n3"].limits() == {250}, 20)  # from the bucket, through the leaf
    wait_until(lambda: fleet.apply(dict.fromkeys(gpus, 320), Lease(1, 4, 60.0)).failures == {}, 20)
    stranger = Bus(replace(servers.settings("n2"), name="n2"))
    stack.callback(stranger.close)
    stranger.wait_connected(5.0)
    heard = []
    stranger.call(_listen(stranger, fleet_wire.ask_subject("n1"), heard), 5.0)
    assert fleet.apply(dict.fromkeys(gpus, 330), Lease(1, 5, 60.0)).failures == {}
    assert heard == [], "a key of the hall opens no order of a node outside it"


async def _listen(bus, subject, heard):
    async def on_message(message):
        heard.append(message.data)

    await bus.client.subscribe(subject, cb=on_message)
    await bus.client.flush(5)


def test_leaves_and_their_nodes_are_remembered(tmp_path):
    hub, hall = Peer("nats", "localhost"), Peer("hall", "10.1.0.1", 4333)
    init_fleet(tmp_path, FleetPlan(("n1", "n2@hall"), (hub,), leaves=(hall,)))
    init_fleet(tmp_path, FleetPlan(("n3@hall",), (hub,)))
    text, inside = (tmp_path / "nats.conf").read_text(), (tmp_path / "hall.conf").read_text()
    assert "leafnodes { port: 7422" in text
    assert all(public_key(tmp_path / f"{name}.seed") in text for name in ("daemon", "hall", "n1", "n2", "n3"))
    assert "port: 4333" in inside
    assert public_key(tmp_path / "n1.seed") not in inside
    assert all(public_key(tmp_path / f"{name}.seed") in inside for name in ("n2", "n3"))
    assert (tmp_path / "hall.conf").stat().st_mode & 0o077 == 0, "it holds the leaf's key"
    with pytest.raises(AdapterError, match="there is no leaf 'hal'; name it: --leaf hal=HOST"):
        init_fleet(tmp_path, FleetPlan(("n4@hal",), (hub,)))
    assert not (tmp_path / "n4.seed").exists()


def holds(fleet, gpus, watts, sequence):
    try:
        fleet.hold([(0.0, dict.fromkeys(gpus, watts))], 60.0, Lease(1, sequence, 60.0))
    except AdapterError:
        return False
    return True


def test_the_agent_stays_small_with_the_bus(tmp_path):
    require("gcc")
    with nats_servers(tmp_path / "bus", "n1") as servers:
        fake, known = FakeNvml(tmp_path, h100s(8)), servers.settings("n1")
        options = ["--socket", tmp_path / "a.sock", "--state-dir", tmp_path / "state", "--node", "n1",
                   "--fleet", known.servers[0], "--seed", known.seed_file, "--ca", known.ca_file]  # fmt: skip
        warm = "import sys; sys.modules['aiohttp'] = None; import scheduler.agent.bus, adapters.power.nvml"
        subprocess.run([sys.executable, "-c", warm], cwd=ROOT, check=True)  # compiles what was never imported before
        command = [sys.executable, "-m", "scheduler.agent.process", *map(str, options)]
        process = subprocess.Popen(command, cwd=ROOT, env=fake.env())
        fleet = FleetPower(servers.settings("daemon"), 2.0, ["n1"])
        try:
            wait_until(lambda: there(fleet))
            gpus = list(fleet.discover())
            assert fleet.apply(dict.fromkeys(gpus, 300), Lease(1, 1, 60.0)).enforced_w == dict.fromkeys(gpus, 300)
            pages = int(Path(f"/proc/{process.pid}/statm").read_text(encoding="ascii").split()[1])
            assert pages * os.sysconf("SC_PAGE_SIZE") / 1e6 < MOST_MB
        finally:
            fleet.close()
            process.terminate()
            assert process.wait(30) == 0
        assert set(fake.limits_w().values()) == {300.0}, "its lease runs: the next agent's"


def test_simulated_nodes_of_one_process_obey_and_fall_silent_like_real_ones(tmp_path):
    with twin_fleet(tmp_path / "fleet", 30, gpus=2, deadline_s=1.0) as fleet:
        assert fleet.order(300)[1] == 0
        assert {info.enforced_w for info in fleet.power.discover().values()} == {300.0}
        fleet.dispatcher.lease_s = 900.0
        fleet.dispatcher.hold([(60.0, {"all": PoolOrder(200, 60)})], 120.0, datetime.now(UTC))
        lease = Lease(1, 99, 60.0)
        kept = fleet.power.bus.call(_kept(fleet.power.bus, "t0-14"), 5.0)
        assert set(fleet_wire.trajectory_in(kept, time.time()).steps[0][1].values()) == {200}
        first = fleet.processes["nodes"][0]
        os.kill(first, signal.SIGSTOP)  # its connections stay open: silence, not a hang-up
        try:
            receipt = fleet.power.apply(dict.fromkeys(fleet.dispatcher.gpus["all"], 350), lease)
        finally:
            os.kill(first, signal.SIGCONT)
        assert set(receipt.enforced_w.values()) == {350.0}
        assert {gpu.split("-")[1] for gpu in receipt.enforced_w} == {"t1"}
        assert {gpu.split("-")[1] for gpu in receipt.failures} == {"t0"}
        assert set(receipt.failures.values()) == {Reason.NODE_LOST}
        assert len([note for note in receipt.notes if note.code is Reason.NODE_LOST]) == 15


async def _kept(bus, node):
    return (await (await bus.jetstream.key_value(fleet_wire.BUCKET)).get(node)).value


def test_nodes_are_added_without_touching_the_others(tmp_path):
    with nats_servers(tmp_path / "bus", "n1") as servers:
        before = public_key(servers.folder / "n1.seed")
        servers.nodes = ("n1", "n2")
        servers.init()
        assert public_key(servers.folder / "n1.seed") == before
        assert (servers.folder / "n2.seed").stat().st_mode & 0o077 == 0
        config = (servers.folder / "s0.conf").read_text()
        assert public_key(servers.folder / "n2.seed") in config
        secrets = [path.read_text() for path in servers.folder.glob("*.seed")]
        assert len(secrets) == 3
        assert not any(secret in config for secret in secrets), "a secret key in the server's configuration"
