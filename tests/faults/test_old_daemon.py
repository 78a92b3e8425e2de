"""A daemon that was replaced comes back, or one whose books were lost: neither touches cards that another one leads,
whatever it asks first, and an operator can say that it is the right one."""

import subprocess
import sys
from datetime import UTC, datetime

import pytest
from typer.testing import CliRunner

from adapters.ports import AdapterError, Lease
from adapters.power.agent import AgentPower
from scheduler.cli.app import app
from scheduler.config import load_config
from scheduler.letting_go import release_alone
from scheduler.lock import DaemonLock
from scheduler.orders import PoolOrder
from scheduler.wiring import build
from tests.support.daemon import ROOT, Machine
from tests.support.power_worlds import serves, wait_until


@pytest.fixture
def machine(tmp_path):
    """Cards that an agent owns; a daemon of epoch 1 has capped five of them, and one of epoch 50 leads since then."""
    socket = tmp_path / "agent.sock"
    made = Machine(tmp_path, power=f"{{type: agent, socket: {socket}}}")
    options = map(str, ("--socket", socket, "--state-dir", tmp_path / "agent", "--tick-s", "0.1"))
    process = subprocess.Popen(
        [sys.executable, "-m", "scheduler.cli", "agent", *options], cwd=ROOT, env=made.fake.env()
    )
    made.agent = AgentPower(socket)
    wait_until(lambda: serves(made.agent))
    parts = build(load_config(made.path))
    assert not parts.ctx.dispatcher.apply({"chat": PoolOrder(350, 5)}, 60.0, datetime.now(UTC)).notes
    parts.close()
    made.agent.apply(dict.fromkeys(made.first, 400), Lease(50, 1, 300.0))
    yield made
    made.close()
    made.agent.close()
    process.terminate()
    assert process.wait(30) == 0


def led(machine):
    return set(machine.fake.limits_w().values()) == {400} and machine.agent.status()["phase"] == "leased"


def test_an_old_daemon_gives_nothing_back_that_another_one_holds_until_it_is_told_to_lead(machine):
    config = load_config(machine.path)
    left = release_alone(config)
    assert any("replaced by 50" in note.text and "gridpace lead --above 50" in note.text for note in left), left
    assert led(machine)

    def lead():
        return CliRunner().invoke(app, ["lead", "--above", "50", "--config", str(machine.path)])

    with DaemonLock(config.state_path):
        assert lead().exception is not None
    assert lead().output == "The next start has epoch 51.\n"
    assert release_alone(config) == ()
    mine = list(machine.first)[:5]
    assert [machine.fake.limits_w()[gpu] for gpu in mine] == [machine.first[gpu] for gpu in mine]


def test_who_does_not_say_who_it_is_gives_nothing_back(machine):
    nameless = AgentPower(machine.agent.socket_path)
    for ask in (
        lambda: nameless.release(machine.first),
        lambda: nameless.unlock(list(machine.first)),
        nameless.take_back,
    ):
        with pytest.raises(AdapterError, match="names no epoch"):
            ask()
    nameless.close()
    assert led(machine)
