"""What systemd hears, on a socket in the file system and on an abstract one."""

import socket

import pytest

from scheduler.sdnotify import notify


@pytest.mark.parametrize("abstract", [False, True])
def test_the_message_arrives(tmp_path, monkeypatch, abstract):
    name = f"@gridpace-{tmp_path.name}-{id(tmp_path)}" if abstract else str(tmp_path / "notify")
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as manager:
        manager.bind("\0" + name[1:] if abstract else name)
        monkeypatch.setenv("NOTIFY_SOCKET", name)
        assert notify("READY=1\nSTATUS=fine · 1.8 MW")
        assert manager.recv(4096).decode() == "READY=1\nSTATUS=fine · 1.8 MW"


@pytest.mark.parametrize("name", ["", "relative", "/nowhere/at/all"])
def test_nobody_listening_is_no_error(monkeypatch, name):
    monkeypatch.setenv("NOTIFY_SOCKET", name)
    assert notify("READY=1") is False
