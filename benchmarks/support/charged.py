"""A site with a demand charge on real-time prices that must be forecast: what scenarios cost a backtest.

Why three ways in turn: without scenarios, with peaks sized once an hour (as configured by default), and in every plan.
"""

from __future__ import annotations

import time
from datetime import UTC, datetime, timedelta
from pathlib import Path
from tempfile import TemporaryDirectory

from scheduler.backtest import run_backtest
from scheduler.config import load_config
from scheduler.shipped import shipped

START = datetime(2022, 12, 8, 5, tzinfo=UTC)
WAYS = {"none": "uncertainty: {scenarios: 0}\n", "hourly": "", "every_plan": "uncertainty: {size_every: 0s}\n"}
TEXT = """mode: control
currency: USD
interval: 15m
control_period: 1m
verify_every: 15m
horizon: 36h
state_dir: var
sites:
  - id: dom
    timezone: America/New_York
    price: real_time
    demand_charges: [{{id: month, price_per_kw: 12}}]
curves:
  - id: kilowatt
    idle_w: 0
    points: [{{cap_w: 100, draw_w: 100, throughput: 0.1}}, {{cap_w: 1000, draw_w: 1000, throughput: 1.0}}]
    source: proportional by definition
pools:
  - {{id: firm, site: dom, gpu_model: kilowatt, count: 6000, work: interactive, curve: kilowatt, value_per_gpu_h: 100}}
  - {{id: batch, site: dom, gpu_model: kilowatt, count: 8000, work: batch, curve: kilowatt}}
signals:
  - {{id: real_time, type: csv, kind: price, path: {path}, unit: USD/MWh, interval: 1h, publication: real_time}}
power: {{type: simulated}}
jobs:
  recurring:
    - {{id: daily, pool: batch, work_gpu_h: 96000, max_gpus: 8000, at: "00:00", late_penalty: 20, undone_penalty: 100}}
"""


def charged_seconds(hours: float) -> dict[str, float]:
    """Processor seconds of a whole run, way by way."""
    found = {}
    with TemporaryDirectory() as folder:
        prices = shipped("data/prices_pjm_dominion_real_time_2022_autumn.csv")
        for way, more in WAYS.items():
            path = Path(folder) / f"{way}.yaml"
            path.write_text(TEXT.format(path=prices) + more, encoding="utf-8")
            began = time.process_time()
            run_backtest(load_config(path), START, START + timedelta(hours=hours), rivals=False)
            found[way] = time.process_time() - began
    return found
