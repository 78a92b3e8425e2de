"""A real Prometheus server on the loopback, scraping an exporter that the test serves in dcgm-exporter's format."""

import subprocess
import tempfile
import threading
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from functools import cache
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import requests

from tests.support.ports import free_port
from tests.support.power_worlds import wait_until
from tests.support.system import require

SCRAPE = "600ms"  # long enough that a loaded machine does not make a scrape time out


class Exporter:
    """Serves what `text` returns, and a failure where that is nothing; its last line counts the scrapes, so that a test
    knows what was seen."""

    def __init__(self, text: Callable[[], str]) -> None:
        self.text, self.scrapes = text, 0
        exporter = self

        class Handler(BaseHTTPRequestHandler):
            def do_GET(self):
                exporter.scrapes += 1
                text = exporter.text()
                body = f"{text}\nscrape_number {exporter.scrapes}\n".encode()
                self.send_response(200 if text else 500)
                self.send_header("Content-Type", "text/plain; version=0.0.4")
                self.send_header("Content-Length", str(len(body)))
                self.end_headers()
                self.wfile.write(body)

            def log_message(self, *_):
                pass

        self.server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.server.handle_error = lambda *_: None  # a scraper that hangs up is no news
        self.port = self.server.server_port
        threading.Thread(target=self.server.serve_forever, args=(0.05,), daemon=True).start()

    def stop(self) -> None:
        self.server.shutdown()
        self.server.server_close()


def dcgm(cards: list[dict]) -> str:
    """The metrics of some cards (`uuid`, `watts`, `mj`, `percent`, further labels) as dcgm-exporter prints them."""
    lines = []
    for name, key, kind in (
        ("DCGM_FI_DEV_POWER_USAGE", "watts", "gauge"),
        ("DCGM_FI_DEV_TOTAL_ENERGY_CONSUMPTION", "mj", "counter"),
        ("DCGM_FI_DEV_GPU_UTIL", "percent", "gauge"),
    ):
        lines += [f"# HELP {name} of a card.", f"# TYPE {name} {kind}"]
        for place, card in enumerate(cards):
            labels = {"gpu": str(place), "device": f"nvidia{place}", "modelName": "NVIDIA H100", "Hostname": "n1"}
            labels |= {"UUID": card["uuid"]} if "uuid" in card else {}
            labels |= card.get("labels", {})
            if card.get(key) is not None:
                inside = ",".join(f'{label}="{value}"' for label, value in labels.items())
                lines.append(f"{name}{{{inside}}} {card[key]}")
    return "\n".join(lines)


@contextmanager
def prometheus(folder: Path, exporter: Exporter, web: str = "", **ask) -> Iterator[str]:
    """The server's address, once it has scraped. `web`: its own web configuration (TLS, users); `ask` says to requests
    how to get in."""
    require("prometheus", "setpriv")
    folder.mkdir(parents=True, exist_ok=True)
    port = free_port()
    (folder / "prometheus.yml").write_text(
        f"global: {{scrape_interval: {SCRAPE}, scrape_timeout: {SCRAPE}}}\n"
        f"scrape_configs:\n- job_name: dcgm\n  static_configs: [{{targets: ['127.0.0.1:{exporter.port}']}}]\n"
    )
    (folder / "web.yml").write_text(web)
    url = f"{'https' if 'tls_server_config' in web else 'http'}://127.0.0.1:{port}"
    command = [
        "setpriv", "--pdeathsig", "KILL",  # it ends with the test process, however that ends
        "prometheus", f"--config.file={folder}/prometheus.yml", f"--storage.tsdb.path={folder}/data",
        f"--web.listen-address=127.0.0.1:{port}", f"--web.config.file={folder}/web.yml", "--log.level=error",
    ]  # fmt: skip
    with (folder / "log").open("w") as log, subprocess.Popen(command, stdout=log, stderr=log) as process:
        try:
            wait_until(lambda: seen(url, **ask) > 0, 45)
            yield url
        finally:
            process.terminate()
            process.wait(20)


_shared = ExitStack()


@cache
def shared() -> tuple[str, Exporter]:
    """One server for the whole test process, since starting it takes seconds; its exporter's `text` is the test's to
    set. `stop_shared` ends it, when the session does (tests/conftest.py)."""
    exporter = Exporter(lambda: "up_and_running 1")
    _shared.callback(exporter.stop)
    folder = _shared.enter_context(tempfile.TemporaryDirectory(prefix="gridpace-prometheus-"))
    return _shared.enter_context(prometheus(Path(folder), exporter)), exporter


def stop_shared() -> None:
    """End the shared server, if there is one."""
    _shared.close()


def seen(url: str, **ask) -> int:
    """Number of the last scrape that the server knows; 0 before the first."""
    try:
        answer = requests.get(f"{url}/api/v1/query", params={"query": "scrape_number"}, timeout=5, **ask)
        return int(answer.json()["data"]["result"][0]["value"][1])
    except (requests.RequestException, ValueError, KeyError, IndexError):
        return 0


def wait_for_scrapes(url: str, exporter: Exporter, **ask) -> None:
    """Until the server knows what the exporter tells from now on."""
    begun = exporter.scrapes
    wait_until(lambda: seen(url, **ask) >= begun + 2)
