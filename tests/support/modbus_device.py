"""A battery or a meter behind a real Modbus TCP server (pymodbus' own), on a free port of the loopback."""

import asyncio
import socket
import struct
import threading
from contextlib import contextmanager, suppress

from pymodbus.server import ModbusTcpServer
from pymodbus.simulator import DataType, SimData, SimDevice

from tests.support.ports import free_port

POWER, SETPOINT, TIMEOUT, STORED = 100, 110, 120, 130


class Peer:
    """The server, and what stands in its registers."""

    def __init__(self, port, shared=True):
        self.shared = shared
        self.port, self.server, self.loop = port, None, asyncio.new_event_loop()
        self.ready = threading.Event()
        self.thread = threading.Thread(target=self._run, daemon=True)

    def _run(self):
        asyncio.set_event_loop(self.loop)
        self.loop.run_until_complete(self._serve())
        self.loop.close()

    async def _serve(self):
        registers = [SimData(0, values=0, count=200, datatype=DataType.REGISTERS)]
        bits = [SimData(0, values=False, count=16, datatype=DataType.BITS)]
        inputs = [SimData(0, values=7, count=200, datatype=DataType.REGISTERS)]
        blocks = registers if self.shared else (bits, bits, registers, inputs)
        self.server = ModbusTcpServer(SimDevice(1, simdata=blocks), address=("127.0.0.1", self.port))
        await self.server.serve_forever(background=True)
        self.ready.set()
        self.stopping = asyncio.Event()
        await self.stopping.wait()
        await self.server.shutdown()

    def stop(self):
        if self.thread.is_alive():
            self.loop.call_soon_threadsafe(self.stopping.set)
            self.thread.join(10)


@contextmanager
def modbus_peer(shared=True):
    """`shared`: one table of 200 zeros; else holding registers of zeros, and input registers of sevens."""
    peer = Peer(free_port(), shared)
    peer.thread.start()
    assert peer.ready.wait(10)
    try:
        yield peer
    finally:
        peer.stop()


class RudePeer:
    """A gateway that answers each request by `behave(connection, request)`, byte by byte as the test wants it."""

    def __init__(self, behave):
        self.behave, self.requests = behave, 0
        self.socket = socket.create_server(("127.0.0.1", 0))
        self.port = self.socket.getsockname()[1]

    def serve(self):
        with suppress(OSError):  # closed: the test is over
            while True:
                connection, _ = self.socket.accept()
                with connection, suppress(OSError):
                    while request := connection.recv(260):
                        self.requests += 1
                        self.behave(connection, request)


def answered(request, *words):
    """The bytes of a good answer to a request: these registers, or that all were written."""
    if request[7] == 16:
        return request[:4] + b"\0\6" + request[6:12]
    data = struct.pack(f">{len(words)}H", *words)
    return request[:4] + struct.pack(">H", 3 + len(data)) + request[6:8] + bytes([len(data)]) + data


def reset(connection, _request=b""):
    """End a connection by a reset."""
    connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    connection.close()


@contextmanager
def rude_peer(behave):
    """A real TCP peer of the loopback, one connection at a time."""
    peer = RudePeer(behave)
    thread = threading.Thread(target=peer.serve, daemon=True)
    thread.start()
    try:
        yield peer
    finally:
        peer.socket.shutdown(socket.SHUT_RDWR)
        peer.socket.close()
        thread.join(10)
