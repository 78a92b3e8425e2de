"""The real agent process over the fake driver: killed, restarted, abandoned, spoken to by strangers."""

import json
import os
import selectors
import signal
import socket
import subprocess
import sys
import tempfile
import threading
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path
from time import monotonic, sleep

import pytest

from adapters.ports import AdapterError, Lease
from adapters.power.agent import AgentPower
from adapters.power.nvml import NvmlPower
from optimizer.reasons import Reason
from scheduler.agent.ending import release_alone
from scheduler.agent.server import MOST_CONNECTIONS, Server
from scheduler.agent.settings import AgentSettings
from tests.support.fake_nvml import FakeNvml, h100s
from tests.support.power_worlds import fake_machine, running_agent, serves, wait_until
from tests.support.system import require_root

ROOT = Path(__file__).resolve().parents[2]
MOST_MB = 45


class Service:
    """`python -m scheduler.agent.process` over a fake machine whose cards outlive it."""

    def __init__(self, folder):
        self.fake = FakeNvml(folder, h100s(8))
        self.gpus = [gpu.uuid for gpu in self.fake.gpus]
        self.path, self.state_dir = folder / "agent.sock", folder / "state"
        self.process = None

    def command(self):
        options = ["--socket", self.path, "--state-dir", self.state_dir, "--tick-s", "0.05", "--release-w-per-s", "400"]
        return [sys.executable, "-m", "scheduler.agent.process", *map(str, options)]

    def start(self):
        manager = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        name = f"{self.path}.notify"
        Path(name).unlink(missing_ok=True)
        manager.bind(name)
        manager.settimeout(20)
        with manager:
            environment = {**self.fake.env(), "NOTIFY_SOCKET": name, "PYTHONFAULTHANDLER": "1"}
            self.process = subprocess.Popen(self.command(), cwd=ROOT, env=environment)
            while b"READY=1" not in manager.recv(4096):
                pass
        return AgentPower(self.path)

    def release(self):
        """What an operator calls where the agent has been stopped for good; its exit status."""
        command = [*self.command(), "--release"]
        return subprocess.run(command, cwd=ROOT, env=self.fake.env(), timeout=60, check=False).returncode

    def end(self, number):
        self.process.send_signal(number)
        try:
            return self.process.wait(30)
        except subprocess.TimeoutExpired:
            self.process.send_signal(signal.SIGABRT)  # it says where each thread is
            raise


@pytest.fixture
def service(tmp_path):
    made = Service(tmp_path)
    yield made
    if made.process and made.process.poll() is None:
        made.end(signal.SIGKILL)


def test_the_limit_found_first_survives_five_kills_and_is_restored_by_a_stop(service):
    for place in range(8):
        service.fake.set(place, limit_w=600 + place)
    first = service.fake.limits_w()
    for death in range(5):
        power = service.start()
        assert power.apply(dict.fromkeys(service.gpus, 300 + death), Lease(death, 1, 300.0)).failures == {}
        assert power.status()["found_w"] == first
        assert service.end(signal.SIGKILL) == -signal.SIGKILL
        power.close()
        assert set(service.fake.limits_w().values()) == {300 + death}
    service.start().close()
    assert service.end(signal.SIGTERM) == 0
    assert set(service.fake.limits_w().values()) == {304}, "a lease runs: its successor's"
    assert not service.path.exists()
    assert service.release() == 0
    assert service.fake.limits_w() == first


def test_an_orderly_restart_in_the_middle_of_an_event_raises_no_cap(service):
    first = service.fake.limits_w()
    power = service.start()
    power.apply(dict.fromkeys(service.gpus, 300), Lease(1, 1, 1.0))
    power.hold([(0.0, dict.fromkeys(service.gpus, 300))], 3600.0, Lease(1, 2, 1.0))
    power.close()
    wait_until(lambda: service.fake.limits_w().values() and set(service.fake.limits_w().values()) == {300.0})
    for _ in range(3):
        with pytest.raises(AdapterError, match="another agent"):
            release_alone(None, service.state_dir, AgentSettings())
        assert service.end(signal.SIGTERM) == 0
        assert set(service.fake.limits_w().values()) == {300.0}
        power = service.start()
        assert power.status()["found_w"] == first
        assert power.status()["phase"] in {"leased", "holding"}
        power.close()
        assert set(service.fake.limits_w().values()) == {300.0}
    assert service.end(signal.SIGTERM) == 0
    assert service.release() == 0
    assert service.fake.limits_w() == first


def reboot(service):
    """The power fails: the process is gone, cards come up at their default, and what it wrote is of an earlier boot."""
    service.end(signal.SIGKILL)
    service.fake.reload_driver()
    for path in service.state_dir.glob("*.json"):
        body = json.loads(path.read_text())
        path.write_text(json.dumps({**body, "boot": f"before-{body['boot']}"}))


def test_five_reboots_in_the_middle_of_events_leave_the_limit_to_restore_as_it_was(service):
    for place in range(8):
        service.fake.set(place, limit_w=600 + place)
    first = service.fake.limits_w()
    for boot in range(5):
        power = service.start()
        assert power.status()["lease_left_s"] == 0.0, "a lease of the boot before means nothing"
        assert power.status()["found_w"].items() <= first.items(), "on its way back, or back, until somebody orders"
        assert power.apply(dict.fromkeys(service.gpus, 300 + boot), Lease(boot, 1, 300.0)).failures == {}
        power.hold([(0.0, dict.fromkeys(service.gpus, 250))], 3600.0, Lease(boot, 2, 300.0))
        assert power.status()["found_w"] == first
        assert set(service.fake.limits_w().values()) == {300 + boot}
        power.close()
        reboot(service)
        assert set(service.fake.limits_w().values()) == {700.0}
    power = service.start()
    wait_until(lambda: power.status()["phase"] == "free")  # nobody orders any more: given back, by the ramp
    assert service.fake.limits_w() == first
    power.close()
    assert service.end(signal.SIGTERM) == 0
    assert service.fake.limits_w() == first


def test_a_daemon_that_vanishes_leaves_no_cap_behind_and_no_jump(service):
    power = service.start()
    power.apply(dict.fromkeys(service.gpus, 300), Lease(1, 1, 0.5))
    power.close()
    seen = {300.0}
    ends = monotonic() + 20
    while seen != {700.0} and monotonic() < ends:
        limits = set(service.fake.limits_w().values())
        # 400 W a second, a tick of 50 ms: a jump would be the whole 400 W at once, even on a loaded machine.
        assert max(limits) - max(seen) < 250
        seen = limits
        sleep(0.01)
    assert seen == {700.0}


def test_it_is_small_and_imports_nothing_heavy(service):
    power = service.start()
    power.apply(dict.fromkeys(service.gpus, 300), Lease(1, 1, 60.0))
    pages = int(Path(f"/proc/{service.process.pid}/statm").read_text(encoding="ascii").split()[1])
    assert pages * os.sysconf("SC_PAGE_SIZE") / 1e6 < MOST_MB
    code = "import sys, scheduler.agent.process, adapters.power.nvml; print(*sys.modules)"
    loaded = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True).stdout
    assert not {"numpy", "pandas", "pyomo", "pydantic", "fastapi", "asyncio", "requests"} & set(loaded.split())
    power.close()


def test_a_client_finds_a_restarted_agent_again_and_says_when_there_is_none(service):
    power = service.start()
    power.apply(dict.fromkeys(service.gpus, 300), Lease(1, 1, 60.0))
    service.end(signal.SIGKILL)
    with pytest.raises(AdapterError, match="is gridpace-agent running"):
        power.apply({}, Lease(1, 2, 60.0))
    assert service.path.exists(), "a killed agent leaves its socket; the next one must cope"
    service.start().close()
    assert power.apply(dict.fromkeys(service.gpus, 310), Lease(1, 3, 60.0)).failures == {}
    power.close()


def test_a_second_agent_over_the_same_state_refuses_to_start(service):
    service.start().close()
    second = subprocess.run(
        service.command(), cwd=ROOT, env=service.fake.env(), capture_output=True, text=True, check=False
    )
    assert second.returncode == 2
    assert f"another agent (pid {service.process.pid})" in second.stderr
    first = AgentPower(service.path)
    assert len(first.discover()) == 8
    first.close()


@contextmanager
def as_stranger():
    """Be nobody, in root's group, for a moment: the kernel notes the effective user of whoever connects."""
    os.seteuid(65534)
    try:
        yield
    finally:
        os.seteuid(0)


def test_the_socket_is_made_for_the_group_whatever_the_umask_and_leaves_that_alone(tmp_path):
    before = os.umask(0)
    try:
        server = Server(tmp_path / "agent.sock", None, ())
        assert (tmp_path / "agent.sock").stat().st_mode & 0o777 == 0o660
        server.server_close()
    finally:
        assert os.umask(before) == 0, "it belongs to every thread of the process"


def test_the_socket_wakes_nobody_while_nobody_calls_and_ends_at_once(tmp_path, monkeypatch):
    woken, select = [], selectors.DefaultSelector.select
    monkeypatch.setattr(
        selectors.DefaultSelector, "select", lambda self, *wait: [woken.append(1), select(self, *wait)][1]
    )
    server = Server(tmp_path / "agent.sock", None, ())

    def hang_up():
        server.socket.accept()[0].close()

    monkeypatch.setattr(server, "handle_request", hang_up)
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    sleep(1.2)
    assert woken == [1]
    with socket.socket(socket.AF_UNIX) as caller:
        caller.connect(str(tmp_path / "agent.sock"))
        assert caller.recv(1) == b""  # served at once
    started = monotonic()
    server.shutdown()
    thread.join(20)
    server.server_close()
    assert not thread.is_alive()
    assert monotonic() - started < 10.0
    assert len(woken) == 2


def test_strangers_may_look_but_not_touch(service):
    require_root()  # who alone can become somebody else
    with tempfile.TemporaryDirectory() as folder:
        Path(folder).chmod(0o755)
        service.path = Path(folder) / "agent.sock"
        service.start().close()
        assert service.path.stat().st_mode & 0o777 == 0o660
        power = AgentPower(service.path)
        with as_stranger():
            assert len(power.discover()) == 8
        with pytest.raises(AdapterError, match="may read but not give orders"):
            power.apply({service.gpus[0]: 300}, Lease(9, 9, 60.0))
        power.close()
        assert service.fake.state(0)["limit_w"] == 700
        # The same process, connected as root, may.
        assert power.apply({service.gpus[0]: 300}, Lease(9, 9, 60.0)).failures == {}
        power.close()


@pytest.fixture
def open_agent(tmp_path, monkeypatch):
    power = NvmlPower(1.0)
    fake = fake_machine(tmp_path, monkeypatch)
    with running_agent(tmp_path, power, release_w_per_s=2000.0) as client:
        yield client, fake
    power.close()


def lines(client, *requests):
    """Send raw bytes on a fresh connection; the parsed answers until the agent hangs up or all are answered."""
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as channel:
        channel.settimeout(10)
        channel.connect(str(client.socket_path))
        answers = channel.makefile("rb")
        found = []
        for request in requests:
            channel.sendall(request)
            found.append(json.loads(answers.readline() or b"null"))
        return found


LEASE = b'{"epoch":1,"sequence":1,"expires_in_s":9}'


@pytest.mark.parametrize(
    "request_line",
    [
        b"\n", b"not json\n", b"[]\n", b'{"v":2,"op":"status"}\n', b'{"v":1}\n', b'{"v":1,"op":"shell"}\n',
        b'{"v":1,"op":"apply"}\n', b"[" * 100_000 + b"\n",
        b'{"v":1,"op":"apply","caps_w":{"GPU-0":"300"},"lease":' + LEASE + b"}\n",
        b'{"v":1,"op":"apply","caps_w":{"GPU-0":NaN},"lease":' + LEASE + b"}\n",
        b'{"v":1,"op":"apply","caps_w":{"GPU-0":-1},"lease":' + LEASE + b"}\n",
        b'{"v":1,"op":"apply","caps_w":{},"lease":{"epoch":1,"sequence":1,"expires_in_s":1e999}}\n',
        b'{"v":1,"op":"apply","caps_w":{},"lease":{"epoch":-1,"sequence":true,"expires_in_s":5}}\n',
        b'{"v":1,"op":"hold","steps":[[5,{}],[5,{}]],"until_s":9,"lease":' + LEASE + b"}\n",
        b'{"v":1,"op":"release","limits_w":{},"epoch":"x"}\n',
    ],
)  # fmt: skip
def test_nonsense_is_refused_and_changes_nothing(open_agent, request_line):
    client, fake = open_agent
    assert lines(client, request_line)[0]["code"] == "bad_request"
    assert set(fake.limits_w().values()) == {700}
    assert client.status()["phase"] == "free"


def test_an_endless_line_is_cut_off(open_agent):
    client, _ = open_agent
    with pytest.raises((ConnectionError, AssertionError)):
        assert lines(client, b"x" * (5 * 1024 * 1024))[0]["ok"]
    assert client.status()["phase"] == "free"


def test_an_older_epoch_is_refused_through_the_socket(open_agent):
    client, fake = open_agent
    gpu = fake.gpus[0].uuid
    client.apply({gpu: 300}, Lease(5, 1, 60.0))
    with pytest.raises(AdapterError, match="replaced by 5"):
        client.apply({gpu: 500}, Lease(4, 2, 60.0))
    assert fake.state(0)["limit_w"] == 300


def test_the_trajectory_goes_through_the_socket(open_agent):
    client, fake = open_agent
    gpus = [gpu.uuid for gpu in fake.gpus]
    client.apply(dict.fromkeys(gpus, 500), Lease(1, 1, 60.0))
    client.hold([(0.0, dict.fromkeys(gpus, 250))], 60.0, Lease(1, 2, 0.05))
    wait_until(lambda: set(fake.limits_w().values()) == {250})
    assert client.status()["phase"] == "holding"
    assert client.release(dict.fromkeys(gpus, 700.0)).failures == {}
    assert set(fake.limits_w().values()) == {700}


def test_too_many_connections_are_turned_away_and_the_agent_serves_on(open_agent):
    client, _ = open_agent
    with ExitStack() as crowd:
        turned_away = 0
        for _ in range(60):
            channel = crowd.enter_context(socket.socket(socket.AF_UNIX, socket.SOCK_STREAM))
            channel.settimeout(0.05)
            channel.connect(str(client.socket_path))
            with suppress(TimeoutError):  # who has a seat hears nothing
                turned_away += channel.recv(1) == b""
        assert 60 - turned_away in {MOST_CONNECTIONS - 1, MOST_CONNECTIONS}, "the client may have a seat"
    wait_until(lambda: serves(client))


def test_cards_that_cannot_be_reached_do_not_end_the_agent(open_agent):
    client, fake = open_agent
    gpus = [gpu.uuid for gpu in fake.gpus]
    client.apply(dict.fromkeys(gpus, 300), Lease(1, 1, 0.2))
    fake.header.no_driver = 1
    sleep(0.5)
    assert client.status()["found_w"] == dict.fromkeys(gpus, 700.0)
    fake.header.no_driver = 0
    wait_until(lambda: client.status()["phase"] == "free", 60)
    assert set(fake.limits_w().values()) == {700}


def test_a_hanging_card_keeps_its_baseline_until_it_answers(open_agent):
    client, fake = open_agent
    gpus = [gpu.uuid for gpu in fake.gpus]
    client.apply(dict.fromkeys(gpus, 300), Lease(1, 1, 60.0))
    fake.set(0, hang=2)
    receipt = client.release(dict.fromkeys(gpus, 700.0))
    assert receipt.failures == {gpus[0]: Reason.CALL_TIMEOUT}
    assert client.status()["found_w"] == {gpus[0]: 700.0}
    fake.set(0, hang=0)
    wait_until(lambda: client.release({gpus[0]: 700.0}).failures == {})
    assert fake.limits_w() == dict.fromkeys(gpus, 700.0)
