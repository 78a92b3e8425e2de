"""A bare machine may leave tests out and must say so; CI may not."""

import os
import socket
import time

import pytest

from tests.support import system
from tests.support.browser import chromium


@pytest.fixture
def nothing_installed(monkeypatch):
    monkeypatch.setattr(system.shutil, "which", lambda _command: None)


def test_missing_command_skips_and_names_its_package(monkeypatch, nothing_installed):
    monkeypatch.delenv("CI", raising=False)
    with pytest.raises(pytest.skip.Exception, match="needs chromedriver, gcc: apt-get install chromium-driver gcc"):
        system.require("chromedriver", "gcc")


def test_missing_command_fails_in_ci(monkeypatch, nothing_installed):
    monkeypatch.setenv("CI", "true")
    with pytest.raises(pytest.fail.Exception, match="needs systemd-analyze: apt-get install systemd"):
        system.require("systemd-analyze")


def test_what_is_there_is_used():
    system.require("make")


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
