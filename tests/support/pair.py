"""Two real daemons that stand by for each other: a real NATS bus, a real agent over eight fake cards, two processes."""

import json
import subprocess
import sys
import time
from contextlib import closing, suppress
from datetime import datetime

from adapters.ports import AdapterError
from adapters.power.agent import AgentPower
from tests.support.daemon import ROOT, Machine
from tests.support.nats import nats_servers
from tests.support.relay import Relay

LEASE_S = 3
CARDS, PUE = 8, 1.2


class Pair:
    """Machines `a` and `b` with the same config but for name, port and folder; the cards hang on the bus's node n1."""

    def __init__(self, stack, folder, count=1, lease_s=LEASE_S, replicas=1, relayed=False, caps_s=20, **fields):
        """`relayed`: each daemon reaches the (one) server through a relay of its own, in `relays`. `caps_s`: how long
        caps hold that nobody renews. `fields`: of both daemons' config."""
        self.servers = stack.enter_context(nats_servers(folder / "bus", "n1", count=count))
        self.machines = {}
        known = self.servers.settings("daemon")
        self.relays = {}
        for name in ("a", "b"):
            (folder / name).mkdir()
            urls = known.servers
            if relayed:
                self.relays[name] = Relay(self.servers.peers[0].port)
                stack.callback(self.relays[name].close)
                urls = (f"tls://127.0.0.1:{self.relays[name].port}",)
            power = (
                f"{{type: fleet, servers: [{', '.join(urls)}], seed: {known.seed_file}, ca: {known.ca_file}, "
                f"nodes: [n1], replicas: {replicas}, lease: {caps_s}s}}\nstandby: {{name: {name}, lease: {lease_s}s}}"
            )
            machine = self.machines[name] = Machine(folder / name, power=power, **fields)
            stack.callback(machine.close)
        self.cards = self.machines["a"].fake
        mine = self.servers.settings("n1")
        self.found, self.socket = folder / "n1-state" / "found.json", folder / "n1.sock"
        options = ["--socket", self.socket, "--state-dir", self.found.parent, "--node", "n1",
                   "--seed", mine.seed_file, "--ca", mine.ca_file, "--tick-s", "0.2"]  # fmt: skip
        urls = [word for url in mine.servers for word in ("--fleet", url)]
        command = [sys.executable, "-m", "scheduler.agent.process", *urls, *map(str, options)]
        self._agent = lambda: subprocess.Popen(command, cwd=ROOT, env=self.cards.env())
        self.agent = self._agent()
        stack.callback(self._end_agent)
        self.lives = {}

    def _end_agent(self):
        self.agent.kill()
        self.agent.wait(30)

    def reboot(self):
        """The node loses its power: its agent is gone, its cards come up at their default, and what the agent wrote is
        of an earlier boot; then it starts again."""
        self._end_agent()
        self.cards.reload_driver()
        body = json.loads(self.found.read_text())
        self.found.write_text(json.dumps({**body, "boot": f"before-{body['boot']}"}))
        self.agent = self._agent()

    def left_h(self):
        """Hours that the agent's trajectory still has."""
        body = json.loads(self.found.read_text())
        return (body["hold_until"] - time.clock_gettime(time.CLOCK_BOOTTIME)) / 3600.0

    def import_kw(self):
        """What the site draws now."""
        return sum(self.cards.state(k)["draw_w"] for k in range(CARDS)) * PUE / 1000.0

    def start(self, *names):
        """Start these daemons, one after the other, until they say that they are ready."""
        for name in names:
            self.lives[name] = self.machines[name].start().ready()

    def role(self, name):
        """leader or standby, as the daemon says; None where it doesn't answer."""
        said = self.status(name)
        return said and said["role"]

    def status(self, name):
        """Its place among the daemons; None where it doesn't answer."""
        life = self.lives[name]
        with suppress(TypeError, AttributeError):
            return (life.call("GET", "/api/v1/status") or (0, {}))[1].get("standby")
        return None

    def leader(self, seconds=60.0):
        """Wait until one leads with both loops turning, and the other stands by without delay; both names."""
        ends = time.monotonic() + seconds
        while time.monotonic() < ends:
            roles = {name: self.role(name) for name in self.lives}
            leaders = [name for name, role in roles.items() if role == "leader"]
            others = [name for name in roles if name not in leaders]
            ready = all((self.status(name) or {}).get("behind") == 0 for name in others)
            if len(leaders) == 1 and ready and (self.lives[leaders[0]].call("GET", "/healthz") or (0,))[0] == 200:
                return leaders[0], others[0] if others else None
            time.sleep(0.05)
        raise AssertionError(f"nobody leads: {roles}\n" + "\n".join(self.log(name) for name in self.lives))

    def log(self, name):
        return self.lives[name].log.read_text()[-5000:]

    def held(self):
        """How many cards have a lower limit than before Gridpace came."""
        limits = self.cards.limits_w()
        return sum(limits[gpu] < watts for gpu, watts in self.machines["a"].first.items())

    def phase(self):
        """What the agent does now, by its own socket; None where it does not answer in time."""
        with closing(AgentPower(self.socket)) as agent, suppress(AdapterError):
            return agent.status()["phase"]
        return None

    def owed(self):
        """How many cards their agent has to give back; a cap may be as high as a first limit, so `held` may be less."""
        return len(json.loads(self.found.read_bytes())["limits_w"]) if self.found.exists() else 0

    def promised(self):
        """How many cards the trajectory that their agent has begins with below the limit found first."""
        steps = json.loads(self.found.read_bytes())["steps"] if self.found.exists() else []
        caps = steps[0][1] if steps else {}
        return sum(caps.get(gpu, watts) < watts for gpu, watts in self.machines["a"].first.items())

    def said_at(self, name, leading):
        """When a daemon last began to lead, or when its lease was over, as it said."""
        lines = [line for line in self.lives[name].lines() if line.get("event") == "standby.lead"]
        lines = [line for line in lines if line["leading"] is leading]
        return datetime.fromisoformat(lines[-1]["since"]) if lines else None

    def books(self, name, kind):
        """Records of a kind in a daemon's own file."""
        return self.machines[name].records(kind)
