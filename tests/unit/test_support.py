"""A bare machine may leave tests out and must say so; CI may not."""

import pytest

from tests.support import system


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
