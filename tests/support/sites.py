"""Two sites with real daemons and gateways and stand-ins of inference servers, a coordinator, and cables to pull."""

import os
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor

from tests.support.daemon import ROOT, TOKEN, Machine
from tests.support.gateway import Desk
from tests.support.openai_server import OpenAiServer
from tests.support.ports import free_port
from tests.support.relay import Relay

PRICES = {"texas": 240, "california": 20}
COORDINATOR = """
interval: 1s
lease: 30s
log_format: journal
sites:
  - {{name: texas, url: "http://127.0.0.1:{texas}", token: "file:texas/token"}}
  - {{name: california, url: "http://127.0.0.1:{california}", token: "file:texas/token"}}
"""
PEER = """site: {site}
peers:
  - {{name: {other}, url: "http://127.0.0.1:{port}", key: "file:product"}}
"""


class Sites:
    """`machines`, `desks` and `servers` by site; california's gateway and daemon are reached through `cables`."""

    def __init__(self, stack, folder):
        self.folder, self.machines, self.desks, self.servers, self.lives = folder, {}, {}, {}, []
        for name, price in PRICES.items():
            (folder / name).mkdir()
            machine = Machine(folder / name, price=price, more=f"coordination: {{name: {name}}}")
            stack.callback(machine.close)
            self.machines[name] = machine
            self.servers[name] = OpenAiServer()
            stack.callback(self.servers[name].close)
        self.cables = []
        self.desks["california"] = self._desk(stack, "california", "texas", free_port(), "")
        far = self._cable(stack, self.desks["california"].port)
        self.desks["texas"] = self._desk(stack, "texas", "california", far, ", sites: [california]")
        ports = {"texas": self.machines["texas"].fields["port"]}
        ports["california"] = self._cable(stack, self.machines["california"].fields["port"])
        self.file = folder / "coordinator.yaml"
        self.file.write_text(COORDINATOR.format(**ports))
        stack.callback(self.close)
        for machine in self.machines.values():
            machine.start()
        with ThreadPoolExecutor() as pool:  # all at once: most of it is waiting for imports
            list(pool.map(Desk.start, self.desks.values()))
        for machine in self.machines.values():
            machine.lives[-1].serving()
        self.coordinate()

    def _desk(self, stack, site, other, port, mine):
        daemon = f"http://127.0.0.1:{self.machines[site].fields['port']}"
        others = PEER.format(site=site, other=other, port=port)
        desk = Desk(
            self.folder / f"{site}-gateway",
            self.servers[site].url,
            daemon,
            TOKEN,
            mine=mine,
            others=others,
            second=other,
        )
        stack.callback(desk.close)
        return desk

    def _cable(self, stack, target):
        relay = Relay(target)
        stack.callback(relay.close)
        self.cables.append(relay)
        return relay.port

    def cut(self, cut):
        """Pull or plug california's cables."""
        for cable in self.cables:
            (cable.cut.set if cut else cable.cut.clear)()

    def coordinate(self):
        """The next coordinator."""
        command = [sys.executable, "-m", "scheduler.cli", "coordinate", "--config", str(self.file)]
        log = (self.folder / f"coordinator-{len(self.lives)}.log").open("w")
        with log:
            self.lives.append(subprocess.Popen(command, cwd=ROOT, stderr=log, env=dict(os.environ)))

    def paces(self):
        """The dear site is slow, so that much is left when the coordinator's word comes."""
        self.servers["texas"].delay_s, self.servers["california"].delay_s = 2.0, 0.3

    def kill(self):
        """End it as a crash does."""
        self.lives[-1].kill()
        self.lives[-1].wait(10)

    def close(self):
        for life in self.lives:
            if life.poll() is None:
                life.kill()
            life.wait(10)

    def log(self):
        """What the last coordinator said."""
        return (self.folder / f"coordinator-{len(self.lives) - 1}.log").read_text()

    def asked(self):
        """How often each question was asked, by site."""
        return {name: server.asked for name, server in self.servers.items()}
