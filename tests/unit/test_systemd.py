"""The units must be understood by systemd, stay as closed as they were, and land where an operator expects them."""

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from adapters.ports import AdapterError
from scheduler.agent import process
from tests.support.system import require, require_root

ROOT = Path(__file__).resolve().parents[2]
UNITS = {"gridpace.service": 1.5, "gridpace-agent.service": 2.0, "gridpace-agent-fleet.service": 2.2,
         "gridpace-gateway.service": 1.5, "gridpace-coordinator.service": 1.5}  # fmt: skip
COMMAND = "/opt/gridpace/venv/bin/gridpace"


def directives(unit: str) -> list[str]:
    return [line for line in (ROOT / "systemd" / unit).read_text().splitlines() if "=" in line and line[0] != "#"]


@pytest.fixture
def installed_units(tmp_path) -> list[Path]:
    """Copies whose command exists on this machine, for systemd looks it up."""
    here = str(Path(sys.executable).with_name("gridpace"))
    for name in UNITS:
        (tmp_path / name).write_text((ROOT / "systemd" / name).read_text().replace(COMMAND, here))
    return [tmp_path / name for name in UNITS]


def test_systemd_finds_nothing_to_say_about_the_units(installed_units):
    require("systemd-analyze")
    run = subprocess.run(["systemd-analyze", "verify", *installed_units], capture_output=True, text=True, check=False)
    assert (run.returncode, run.stdout, run.stderr) == (0, "", "")


@pytest.mark.parametrize(("name", "limit"), UNITS.items())
def test_exposure_stays_below_its_limit(installed_units, name, limit):
    require("systemd-analyze")
    unit = next(path for path in installed_units if path.name == name)
    command = ["systemd-analyze", "security", "--offline=yes", "--no-pager", f"--threshold={limit * 10:.0f}", unit]
    run = subprocess.run(command, capture_output=True, text=True, check=False)
    assert run.returncode == 0, run.stdout
    exposure = re.search(r"Overall exposure level for \S+: ([\d.]+)", run.stdout)
    assert exposure
    assert float(exposure[1]) <= limit


def test_daemon_has_no_device_and_agent_has_no_network():
    daemon, agent = directives("gridpace.service"), directives("gridpace-agent.service")
    assert {"PrivateDevices=yes", "CapabilityBoundingSet=", "User=gridpace"} <= set(daemon)
    assert not [line for line in daemon if line.startswith("DeviceAllow=")]
    assert {"PrivateNetwork=yes", "RestrictAddressFamilies=AF_UNIX", "CapabilityBoundingSet=CAP_SYS_ADMIN"} <= set(
        agent
    )


def test_the_agent_of_a_fleet_differs_by_the_way_to_its_servers_alone():
    """It may connect, and listens nowhere; its books, socket, devices and rights are the other unit's."""
    plain, fleet = (set(directives(name)) for name in ("gridpace-agent.service", "gridpace-agent-fleet.service"))
    keys = {line.partition("=")[0].strip() for line in plain ^ fleet}
    assert keys == {
        "Description", "Documentation", "Conflicts", "Wants", "After", "EnvironmentFile", "LoadCredential", "ExecStart",
        "PrivateNetwork", "IPAddressDeny", "SocketBindDeny", "RestrictAddressFamilies",
    }  # fmt: skip
    assert {"SocketBindDeny=any", "RestrictAddressFamilies=AF_UNIX AF_INET AF_INET6",
            "Conflicts=gridpace-agent.service"} <= fleet  # fmt: skip


def test_the_command_of_a_fleets_agent_is_one_that_the_agent_takes(tmp_path):
    """As systemd reads it: the shipped file's example for the servers, credentials in the folder it hands over."""
    unit = (ROOT / "systemd/gridpace-agent-fleet.service").read_text().replace("\\\n", "")
    (command,) = re.findall(r"^ExecStart=\S+ agent (.*)$", unit, re.MULTILINE)
    (servers,) = re.findall(r'^#GRIDPACE_FLEET="(.*)"$', (ROOT / "systemd/agent.env").read_text(), re.MULTILINE)
    words = command.replace("${CREDENTIALS_DIRECTORY}", str(tmp_path)).replace("$GRIDPACE_FLEET", servers).split()
    options = process._parser().parse_args(words)
    settings = process._fleet(options)
    assert (settings.servers, settings.name) == (("tls://nats.example.net:4222",), "n01")
    assert (settings.seed_file, settings.ca_file) == (tmp_path / "node.seed", tmp_path / "ca.pem")
    unedited = process._parser().parse_args([word for word in words if word not in servers.split()])
    with pytest.raises(AdapterError, match="no server of one is named: give --fleet URL"):
        process._fleet(unedited)


def test_both_answer_the_watchdog_and_the_daemon_reloads():
    for unit in UNITS:
        assert {"Type=notify", "WatchdogSec=60", "KillMode=mixed"} <= set(directives(unit))
    assert "ExecReload=/bin/sh -c 'kill -HUP ${MAINPID}'" in directives("gridpace.service")


@pytest.mark.timeout(300)
def test_install_stages_a_whole_service(tmp_path):
    require("make")
    stage = tmp_path / "stage"
    (stage / "etc/site").mkdir(parents=True)
    (stage / "etc/site/gridpace.yaml").write_text("# an operator's own\n")
    environment = {name: value for name, value in os.environ.items() if name not in {"MAKEFLAGS", "MAKELEVEL"}}
    run = subprocess.run(
        ["make", "install", f"DESTDIR={stage}", "PREFIX=/srv/pace", "CONFDIR=/etc/site",
         f"SERVICE_PYTHON={getattr(sys, '_base_executable', sys.executable)}"],
        cwd=ROOT, check=False, capture_output=True, text=True, env=environment,
    )  # fmt: skip
    assert run.returncode == 0, run.stderr

    assert (stage / "etc/site/gridpace.yaml").read_text() == "# an operator's own\n"
    assert os.readlink(stage / "usr/local/bin/gridpace") == "/srv/pace/venv/bin/gridpace"
    unit = (stage / "etc/systemd/system/gridpace.service").read_text()
    assert "\nExecStart=/srv/pace/venv/bin/gridpace run --config /etc/site/gridpace.yaml\n" in unit
    gateway = (stage / "etc/systemd/system/gridpace-gateway.service").read_text()
    assert "\nExecStart=/srv/pace/venv/bin/gridpace gateway --config /etc/site/gateway.yaml\n" in gateway
    assert (stage / "etc/site/gateway.yaml").read_text() == (ROOT / "config/gateway.yaml").read_text()
    coordinator = (stage / "etc/systemd/system/gridpace-coordinator.service").read_text()
    assert "\nExecStart=/srv/pace/venv/bin/gridpace coordinate --config /etc/site/coordinator.yaml\n" in coordinator
    fleet = (stage / "etc/systemd/system/gridpace-agent-fleet.service").read_text()
    assert "\nExecStart=/srv/pace/venv/bin/gridpace agent " in fleet
    assert "\nEnvironmentFile=/etc/site/agent.env\n" in fleet
    assert "\nLoadCredential=node.seed:/etc/site/fleet/node.seed\n" in fleet
    assert (stage / "etc/site/agent.env").read_text() == (ROOT / "systemd/agent.env").read_text()
    assert "d /etc/site " in (stage / "etc/tmpfiles.d/gridpace.conf").read_text()
    assert "u gridpace " in (stage / "etc/sysusers.d/gridpace.conf").read_text()
    assert not [path for path in (stage / "srv").rglob("*") if path.stat(follow_symlinks=False).st_mode & 0o022
                and not path.is_symlink()]  # fmt: skip
    script = "from scheduler import guard, shipped; print(guard.same_installation(), shipped.shipped('data'))"
    said = subprocess.run(
        [stage / "srv/pace/venv/bin/python", "-c", script], cwd=stage, check=True, capture_output=True, text=True
    ).stdout
    assert str(ROOT) not in said
    assert "site-packages/scheduler/shipped_config/data" in said


def test_system_user_is_created(tmp_path):
    require("systemd-sysusers")
    require_root()
    (tmp_path / "etc").mkdir()
    subprocess.run(["systemd-sysusers", f"--root={tmp_path}", ROOT / "systemd/gridpace.sysusers"], check=True)
    assert "gridpace:x:" in (tmp_path / "etc/passwd").read_text()
