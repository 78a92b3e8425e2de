"""Says which tests need something that a bare machine lacks.

Somebody who has only Python and make still gets a green run that names what it left out; CI, which installs all of
it and runs as root, must never skip. So a missing command skips with its Debian package named, and fails where CI=true;
so does what only root may do.
"""

import importlib
import os
import shutil
from pathlib import Path
from types import ModuleType
from typing import NoReturn

import pytest

# command -> the Debian package that brings it
PACKAGES = {
    "chromedriver": "chromium-driver",
    "chromium": "chromium",
    "gcc": "gcc libc6-dev",
    "ip": "iproute2",
    "kubectl": "kubernetes-client",
    "mosquitto": "mosquitto",
    "mosquitto_passwd": "mosquitto",
    "prometheus": "prometheus",
    "promtool": "prometheus",
    "munged": "munge",
    "redis-server": "redis-server",
    "sbatch": "slurm-client",
    "scontrol": "slurm-client",
    "slurmctld": "slurm-wlm",
    "slurmd": "slurm-wlm",
    "auth_jwt.so": "slurm-wlm-jwt-plugin",
    "slurmrestd": "slurmrestd",
    "squeue": "slurm-client",
    "setpriv": "util-linux",
    "systemd-analyze": "systemd",
    "systemd-sysusers": "systemd",
    "systemd-tmpfiles": "systemd",
}


def path_of(command: str) -> str | None:
    """Where a command is; also one that is for root alone, such as a server."""
    server = Path("/usr/sbin", command)
    return shutil.which(command) or (str(server) if server.exists() else None)


def in_ci() -> bool:
    """True where nothing may be skipped."""
    return os.environ.get("CI", "").lower() in {"true", "1"}


def require(*commands: str) -> None:
    """Skip the calling test (or module) unless all commands are on the PATH; fail instead where CI=true."""
    missing = [command for command in commands if path_of(command) is None]
    if "gcc" in commands and "gcc" not in missing and not Path("/usr/include/stdio.h").exists():
        missing.append("gcc")
    if "slurmrestd" in commands and not any(Path("/usr/lib").glob("*/slurm-wlm/auth_jwt.so")):
        missing.append("auth_jwt.so")
    if not missing:
        return
    packages = " ".join(dict.fromkeys(PACKAGES.get(command, command) for command in missing))
    leave_out(f"needs {', '.join(missing)}: apt-get install {packages}")


def require_root() -> None:
    """Skip the calling test unless it runs as root; fail instead where CI=true."""
    if os.geteuid() != 0:
        leave_out("needs root")


def require_module(name: str) -> ModuleType:
    """The module; skip the calling test (or module) where it is not installed, fail instead where CI=true."""
    try:
        return importlib.import_module(name)
    except ModuleNotFoundError:
        leave_out(f"needs the module {name}: make setup")


def leave_out(reason: str) -> NoReturn:
    """Skip the calling test (or module) for this reason; fail instead where CI=true. No test skips by other means."""
    if in_ci():
        pytest.fail(reason, pytrace=False)
    pytest.skip(reason, allow_module_level=True)
