"""What our OpenADR server does with clients that go without a word."""

import socket
import struct
import time

import requests

from tests.support.openadr3 import server


def test_a_client_that_breaks_off_is_no_news(capfd):
    """As one that is killed does: RST, no FIN. The server goes on, and prints nothing."""
    with server() as running:
        host, port = running.vtn.address.removeprefix("http://").split(":")
        for said in (b"", b"GET /openadr3/3.1.0/programs HTTP/1.1\r\nHost: x\r\n"):
            with socket.create_connection((host, int(port))) as client:
                client.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
                client.sendall(said)
                time.sleep(0.1)  # it waits for the rest
        time.sleep(0.2)
        assert requests.get(f"{running.url}/programs", timeout=5).status_code in {401, 403}
    assert capfd.readouterr().err == ""
