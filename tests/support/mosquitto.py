"""A real Mosquitto on loopback, plain or with TLS and client certificates, that can be stopped and started."""

import getpass
import signal
import subprocess
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from tests.support.nats import listens
from tests.support.ports import free_port
from tests.support.power_worlds import wait_until
from tests.support.system import path_of, require

LINES = """\
listener {port} 127.0.0.1
allow_anonymous {anonymous}
persistence false
user {user}
max_queued_messages 20000
"""
TLS = """\
cafile {ca}
certfile {certificate}
keyfile {key}
"""
MUTUAL = "require_certificate true\nuse_identity_as_username true\n"


@dataclass
class Broker:
    """One broker; its retained messages and sessions end with its process."""

    folder: Path
    port: int
    text: str
    process: subprocess.Popen | None = None

    def start(self):
        path = self.folder / "mosquitto.conf"
        path.write_text(self.text)
        with (self.folder / "mosquitto.log").open("ab") as log:
            self.process = subprocess.Popen([path_of("mosquitto"), "-c", str(path)], stdout=log, stderr=log)
        wait_until(lambda: listens(self.port))
        return self

    def stop(self):
        if self.process is not None:
            self.process.send_signal(signal.SIGKILL)
            self.process.wait(20)
            self.process = None

    def freeze(self):
        """Let it hang with its connections open."""
        self.process.send_signal(signal.SIGSTOP)

    def thaw(self):
        self.process.send_signal(signal.SIGCONT)


@contextmanager
def mosquitto(folder, tls=None, password_file=None):
    """A running broker; `tls` is a mapping with ca, certificate and key: clients show certificates of their own, or
    where there is a `password_file` names and passwords."""
    require("mosquitto")
    port = free_port()
    text = LINES.format(port=port, user=getpass.getuser(), anonymous="false" if tls else "true")
    if tls:
        text += TLS.format(**tls) + (f"password_file {password_file}\n" if password_file else MUTUAL)
    broker = Broker(folder, port, text).start()
    try:
        yield broker
    finally:
        broker.stop()
