"""A bare machine may leave tests out and must say so; CI may not."""

import os
import re
import socket
import time
from pathlib import Path

import pytest

from tests.faults import test_fleet_partition
from tests.support import system
from tests.support.browser import chromium

TESTS = Path(__file__).resolve().parents[1]
MAY_SKIP = {
    "support/system.py",  # fails instead where CI=true
    "e2e/test_kube_cluster.py",  # a real cluster, which somebody has to name
}


@pytest.fixture
def nothing_installed(monkeypatch):
    monkeypatch.setattr(system.shutil, "which", lambda _command: None)


def ends(monkeypatch, ci, called, *arguments):
    """How a call ends the test that makes it, with CI=true or without: `skip` or `fail`, and why."""
    monkeypatch.setenv("CI", "true") if ci else monkeypatch.delenv("CI", raising=False)
    with pytest.raises((pytest.skip.Exception, pytest.fail.Exception)) as ended:  # else a wrong skip would skip us
        called(*arguments)
    return "skip" if ended.type is pytest.skip.Exception else "fail", str(ended.value)


def test_missing_command_skips_and_names_its_package(monkeypatch, nothing_installed):
    reason = "needs chromedriver, gcc: apt-get install chromium-driver gcc libc6-dev"
    assert ends(monkeypatch, False, system.require, "chromedriver", "gcc") == ("skip", reason)


def test_missing_command_fails_in_ci(monkeypatch, nothing_installed):
    reason = "needs chromedriver: apt-get install chromium-driver"
    assert ends(monkeypatch, True, system.require, "chromedriver") == ("fail", reason)


def test_what_only_root_may_do_skips_for_others_and_fails_in_ci(monkeypatch):
    monkeypatch.setattr(system.os, "geteuid", lambda: 1000)
    assert ends(monkeypatch, False, system.require_root) == ("skip", "needs root")
    assert ends(monkeypatch, True, system.require_root) == ("fail", "needs root")
    monkeypatch.setattr(system.os, "geteuid", lambda: 0)
    system.require_root()


def test_a_module_that_is_not_installed_skips_and_fails_in_ci(monkeypatch):
    reason = "needs the module no_such_module: make setup"
    assert ends(monkeypatch, False, system.require_module, "no_such_module") == ("skip", reason)
    assert ends(monkeypatch, True, system.require_module, "no_such_module") == ("fail", reason)
    assert system.require_module("json").dumps([]) == "[]"


def test_a_namespace_that_may_not_be_made_skips_and_fails_in_ci(monkeypatch):
    def refused(*_):
        raise OSError("Operation not permitted")

    monkeypatch.setattr(test_fleet_partition, "ip", refused)
    reason = "no network namespace may be made here: Operation not permitted"
    assert ends(monkeypatch, False, test_fleet_partition.Cable, None) == ("skip", reason)
    assert ends(monkeypatch, True, test_fleet_partition.Cable, None) == ("fail", reason)


def test_no_test_skips_past_the_rule():
    skips = re.compile(r"pytest\.(skip|importorskip|mark\.skip\w*)\b(?!\.Exception)|\bskipTest\b")
    found = {str(file.relative_to(TESTS)) for file in TESTS.rglob("*.py") if skips.search(file.read_text())}
    assert found == MAY_SKIP


def test_what_is_there_is_used():
    try:
        system.require("make")
    except (pytest.skip.Exception, pytest.fail.Exception) as ended:  # else a wrong skip would skip us
        raise AssertionError(str(ended)) from None


def test_no_test_reaches_another_machine():
    with socket.socket() as outside, pytest.raises(AssertionError, match="tried to reach"):
        outside.connect(("192.0.2.1", 80))


def test_tests_run_in_an_odd_zone_and_without_a_service_manager():
    assert time.strftime("%z") == "+0545"
    assert "NOTIFY_SOCKET" not in os.environ


@pytest.mark.browser
def test_browser_shows_a_page_of_this_machine(tmp_path):
    page = tmp_path / "page.html"
    page.write_text("<title>pace</title><p id=power>4.5 MW</p>")
    with chromium(tmp_path / "profile") as browser:
        browser.get(page.as_uri())
        assert browser.title == "pace"
        assert browser.find_element("id", "power").text == "4.5 MW"
