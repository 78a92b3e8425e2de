"""Settings that every test shares: no network, no leftovers of the caller's environment, an odd local time zone."""

import logging
import os
import socket
import sys
import time

import pytest
import stamina
from hypothesis import HealthCheck, settings

# A zone that no operator's server has: code that leans on local time shows at once.
os.environ["TZ"] = "Asia/Kathmandu"
time.tzset()

# Processes that tests start keep their compiled modules, as an installation does: a start is timed, not a compiler.
os.environ.pop("PYTHONDONTWRITEBYTECODE", None)

# As the daemon does for its forecaster (scheduler/building.py), which tests also use without it.
os.environ.setdefault("LOKY_MAX_CPU_COUNT", "1")

settings.register_profile("quick", deadline=None, max_examples=50, derandomize=True)
settings.register_profile(
    "long", deadline=None, max_examples=2000, suppress_health_check=[HealthCheck.too_slow], print_blob=True
)
settings.load_profile(os.environ.get("HYPOTHESIS_PROFILE", "quick"))

# What a service manager or an operator's shell would tell the daemon; tests say it themselves.
FOREIGN = ("NOTIFY_SOCKET", "WATCHDOG_USEC", "WATCHDOG_PID", "CREDENTIALS_DIRECTORY", "STATE_DIRECTORY",
           "RUNTIME_DIRECTORY", "INVOCATION_ID", "JOURNAL_STREAM", "LD_PRELOAD")  # fmt: skip


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Keep tests that start browsers or kill processes on one worker, one after the other."""
    for item in items:
        if item.get_closest_marker("browser") or item.get_closest_marker("kill"):
            item.add_marker(pytest.mark.xdist_group("one-at-a-time"))


def pytest_sessionfinish() -> None:
    """End what tests of this process share; workers of xdist leave without running `atexit`."""
    shared = sys.modules.get("tests.support.prometheus")
    if shared is not None:
        shared.stop_shared()


@pytest.fixture(autouse=True)
def _clean_environment(monkeypatch):
    for name in FOREIGN:
        monkeypatch.delenv(name, raising=False)
    for name in [name for name in os.environ if name.startswith("GRIDPACE_") and name != "GRIDPACE_KILLS"]:
        monkeypatch.delenv(name)


@pytest.fixture(autouse=True)
def _logs_are_heard():
    """A storm in the same process hushes what daemon and agents say; the next test may listen for it."""
    logging.getLogger("gridpace").setLevel(logging.NOTSET)


@pytest.fixture(autouse=True)
def _no_waiting_between_retries():
    with stamina.set_testing(True, attempts=100, cap=True):
        yield


@pytest.fixture(autouse=True)
def _loopback_only(monkeypatch):
    """A test that reaches for a host outside this machine fails, instead of passing where there is a network."""
    connect = socket.socket.connect

    def guarded(self, address):
        if self.family in {socket.AF_INET, socket.AF_INET6} and not _is_loopback(address[0]):
            raise AssertionError(f"test tried to reach {address}")
        return connect(self, address)

    monkeypatch.setattr(socket.socket, "connect", guarded)


def _is_loopback(host: str) -> bool:
    return host in {"localhost", "::1"} or host.startswith("127.")
