"""Tells systemd how a service is: READY=1, WATCHDOG=1, STATUS=..., STOPPING=1 (the protocol of sd_notify(3)).

Why own lines: the protocol is one datagram to a socket named in NOTIFY_SOCKET, and the packages for it are dormant or
need systemd's headers. Without NOTIFY_SOCKET (a shell, a test, a container) nothing is sent and nothing is wrong.
"""

from __future__ import annotations

import os
import socket


def notify(state: str) -> bool:
    """Send newline-separated assignments; True when a service manager took them. Never raises: a service that can't be
    heard must still serve."""
    address = os.environ.get("NOTIFY_SOCKET", "")
    if not address.startswith(("/", "@")):
        return False
    # A leading "@" stands for the zero byte of an abstract socket.
    target = "\0" + address[1:] if address.startswith("@") else address
    try:
        with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM | socket.SOCK_CLOEXEC) as channel:
            channel.setblocking(False)
            channel.sendto(state.encode(), target)
    except OSError:
        return False
    return True
