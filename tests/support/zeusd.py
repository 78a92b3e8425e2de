"""A stand-in for zeusd: its HTTP API as documented (https://ml.energy/zeus/zeusd/api/), on a Unix socket or TCP.

Paths, parameters, status codes and the form of answers are the documentation's; what is behind them is a few numbers.
"""

import json
import threading
from contextlib import contextmanager
from dataclasses import dataclass
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from socketserver import ThreadingMixIn, UnixStreamServer
from urllib.parse import parse_qs, urlsplit


@dataclass
class Gpu:
    """One card of the machine; all in mW. `broken`: status and message of every call about it."""

    address: str
    limit: int = 700_000
    low: int = 200_000
    high: int = 700_000
    board: int | None = None
    demand: int = 650_000
    persistence: bool = True
    keeps_persistence: bool = True
    vendor_amd: bool = False
    broken: tuple[int, str] | None = None
    refuses: tuple[int, str] | None = None
    hang: threading.Event | None = None
    sets: int = 0

    @property
    def enforced(self):
        return min(self.limit, self.board or self.limit)


class FakeZeusd:
    def __init__(self, count=8):
        self.gpus = [Gpu(f"0000:{place + 1:02x}:00.0") for place in range(count)]
        self.groups = ["gpu-control", "gpu-read", "cpu-read"]
        self.token, self.scopes = None, {"gpu-control", "gpu-read"}
        self.requests = []

    def discover(self):
        return {"gpus": [{"id": index, "name": "NVIDIA H100", "pci_address": gpu.address,
                          "cumulative_energy_available": True} for index, gpu in enumerate(self.gpus)],
                "cpus": [], "enabled_api_groups": self.groups, "auth_required": self.token is not None}  # fmt: skip

    def get(self, name, index, gpu):
        if gpu.broken:
            raise Refused(gpu.broken[0], {index: gpu.broken[1]})
        if name == "get_persistence_mode" and gpu.vendor_amd:
            raise Refused(400, {index: "persistence mode is not supported on AMD GPUs"})
        return {
            "get_power_limit": {"power_limit_mw": gpu.enforced},
            "get_power_limit_constraints": {"min_power_limit_mw": gpu.low, "max_power_limit_mw": gpu.high},
            "get_persistence_mode": {"enabled": gpu.persistence},
            "get_power": min(gpu.demand, gpu.enforced),
        }[name]

    def set(self, name, index, gpu, query):
        if gpu.hang:
            gpu.hang.wait(30)
        refusal = gpu.broken or gpu.refuses
        if refusal:
            raise Refused(refusal[0], {index: refusal[1]})
        if name == "set_persistence_mode":
            gpu.persistence = gpu.keeps_persistence and query["enabled"] == "true"
            return
        wanted = int(query["power_limit_mw"])
        if not gpu.low <= wanted <= gpu.high:
            raise Refused(400, {index: "NVML error: a provided argument is invalid"})
        gpu.limit, gpu.sets = wanted, gpu.sets + 1


class Refused(Exception):
    def __init__(self, status, errors):
        self.status, self.errors = status, {str(index): message for index, message in errors.items()}


class Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def answer(self, status, body=None):
        data = b"" if body is None else json.dumps(body).encode()
        self.send_response(status)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(data)))
        self.end_headers()
        self.wfile.write(data)

    def handle_one(self, method):
        zeusd, parts = self.server.zeusd, urlsplit(self.path)
        query = {key: values[0] for key, values in parse_qs(parts.query).items()}
        zeusd.requests.append((method, parts.path, query))
        if parts.path == "/discover":
            self.answer(200, zeusd.discover())
            return
        name = parts.path.removeprefix("/gpu/")
        group = "gpu-control" if method == "POST" else "gpu-read"
        if group not in zeusd.groups:
            self.answer(404, {"error": "API group is not enabled."})
        elif zeusd.token and self.headers.get("Authorization") != f"Bearer {zeusd.token}":
            self.answer(401, {"error": "Invalid token."})
        elif zeusd.token and group not in zeusd.scopes:
            self.answer(403, {"error": "Insufficient scope."})
        else:
            self.serve(method, name, query)

    def serve(self, method, name, query):
        zeusd = self.server.zeusd
        indices = [int(index) for index in query["gpu_ids"].split(",")]
        try:
            if method == "POST":
                assert query["block"] == "true"
                for index in indices:
                    zeusd.set(name, index, zeusd.gpus[index], query)
                self.answer(200)
                return
            values = {str(index): zeusd.get(name, index, zeusd.gpus[index]) for index in indices}
            power = {"timestamp_ms": 1762000000000, "power_mw": values}
            self.answer(200, power if name == "get_power" else values)
        except Refused as refusal:
            self.answer(refusal.status, {"errors": refusal.errors})
        except IndexError:
            self.answer(400, {"error": "GPU index does not exist."})

    def do_GET(self):
        self.handle_one("GET")

    def do_POST(self):
        self.handle_one("POST")

    def address_string(self):
        return "peer"

    def log_message(self, *_):
        pass


class UnixServer(ThreadingMixIn, UnixStreamServer):
    daemon_threads = True


@contextmanager
def running_zeusd(socket_path=None, count=8):
    """The stand-in and its address: on a Unix socket where a path is given, else on TCP."""
    server = UnixServer(str(socket_path), Handler) if socket_path else ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    server.daemon_threads, server.handle_error = True, lambda *_: None
    server.zeusd = FakeZeusd(count)
    thread = threading.Thread(target=server.serve_forever, args=(0.02,))
    thread.start()
    try:
        address = f"unix://{socket_path}" if socket_path else f"http://127.0.0.1:{server.server_port}"
        yield server.zeusd, address
    finally:
        for gpu in server.zeusd.gpus:
            if gpu.hang:
                gpu.hang.set()
        server.shutdown()
        thread.join()
        server.server_close()
