"""A daemon over a batch system outside: one site of sixteen H100 that do its jobs, and the daemon's lives on it."""

import os
from datetime import timedelta

from tests.support.daemon import TOKEN, Life
from tests.support.ports import free_port

CONFIG = """
mode: control
currency: USD
interval: 1m
horizon: 6h
max_horizon: 12h
state_dir: state
log_format: journal
sites:
  - {{id: lab, timezone: Etc/UTC, price: energy, limit_kw: {limit}, pue: {{base: 1.0}}}}
curves:
  - id: h100
    idle_w: 75
    points: [{{cap_w: 200, draw_w: 190, throughput: 0.45}}, {{cap_w: 700, draw_w: 650, throughput: 1}}]
pools:
  - {{id: tune, site: lab, gpu_model: H100, count: 16, work: batch, curve: h100}}
signals:
  - {signal}
jobs:
  system: {system}
api: {{port: {port}, page: false, tokens: [{{name: ops, scope: write, secret: "file:token"}}]}}
"""
BY_FILE = "{id: energy, type: csv, path: prices.csv, unit: USD/MWh}"
CONSTANT = "{id: energy, type: constant, unit: USD/MWh, value: 40}"


class BatchSite:
    """Its folder, and what a daemon's life needs to know of its machine. `system`: the job system, as YAML."""

    def __init__(self, folder, system, signal=BY_FILE, env=None):
        self.folder, self.path, self.fields = folder, folder / "gridpace.yaml", {"port": free_port()}
        self.system, self.signal, self.fake, self.lives = system, signal, self, []
        self._env = dict(os.environ) if env is None else env
        (folder / "token").write_text(TOKEN)
        (folder / "token").chmod(0o600)

    def env(self):
        """The environment of its processes."""
        return self._env

    def start(self, limit=100.0, before=""):
        """One more life; `before`: what is run in its process first."""
        values = {"limit": limit, "port": self.fields["port"], "system": self.system, "signal": self.signal}
        self.path.write_text(CONFIG.format(**values))
        self.lives.append(Life(self, len(self.lives), before))
        return self.lives[-1]

    def prices(self, now, first, then, turns_after):
        """Prices of half a day: `first` from now on, `then` after `turns_after`."""
        start = now.replace(minute=0, second=0, microsecond=0)
        rows = ["start,price"]
        for k in range(12 * 14):
            at = start + timedelta(minutes=5 * k)
            rows.append(f"{at:%Y-%m-%dT%H:%M:%SZ},{first if at < now + turns_after else then}")
        (self.folder / "prices.csv").write_text("\n".join(rows) + "\n")

    def end(self):
        """No life left."""
        for life in self.lives:
            life.kill()
            life.ears.close()


def draw_kw(daemon):
    """What the site draws at its meter."""
    return daemon.get("/api/v1/status")["tick"]["import_kw"]["lab"]
