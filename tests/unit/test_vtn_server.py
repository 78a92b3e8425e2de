"""What our OpenADR server does with clients that go without a word."""

import socket
import struct
import time

import requests

from adapters.dr.vtn.server import VtnServer
from adapters.dr.vtn.vtn import Vtn
from tests.support.certificates import Authority
from tests.support.openadr3 import USERS, server


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


def test_a_silent_client_holds_up_no_other_one_that_shakes_hands(tmp_path):
    ca = Authority(tmp_path)
    running = VtnServer(Vtn(USERS), certificate=ca.issue("vtn"))
    running.start()
    try:
        port = int(running.vtn.address.rpartition(":")[2])
        with socket.create_connection(("127.0.0.1", port)):
            time.sleep(0.2)  # it is accepted, and says nothing
            answer = requests.get(f"{running.url}/programs", timeout=5, verify=str(ca.path))
        assert answer.status_code in {401, 403}
    finally:
        running.stop()
