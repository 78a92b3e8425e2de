"""The units must be understood by systemd, stay as closed as they were, and land where an operator expects them."""

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from tests.support.system import require

ROOT = Path(__file__).resolve().parents[2]
UNITS = {"gridpace.service": 1.5, "gridpace-agent.service": 2.0, "gridpace-gateway.service": 1.5,
         "gridpace-coordinator.service": 1.5}  # fmt: skip
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
    if os.geteuid():
        pytest.skip("needs root")
    (tmp_path / "etc").mkdir()
    subprocess.run(["systemd-sysusers", f"--root={tmp_path}", ROOT / "systemd/gridpace.sysusers"], check=True)
    assert "gridpace:x:" in (tmp_path / "etc/passwd").read_text()
