"""Configs for backtests: a site of kilowatts, whose every figure can be recomputed by hand from the price file."""

import csv
from datetime import UTC, datetime, timedelta
from pathlib import Path
from zoneinfo import ZoneInfo

from scheduler.config import load_config
from scheduler.shipped import shipped

HOUR = timedelta(hours=1)

KILOWATTS = """
mode: control
currency: USD
interval: 30m
control_period: {period}
verify_every: 1h
horizon: 36h
backtest: {{no_control: {no_control}}}
sites: [{{id: here, timezone: {zone}, price: energy, pue: {{base: {pue}}}{site}}}]
curves:
  - id: kilowatt
    idle_w: 0
    points: [{{cap_w: 100, draw_w: 100, throughput: 0.1}}, {{cap_w: 1000, draw_w: 1000, throughput: 1.0}}]
pools:
  - {{id: firm, site: here, gpu_model: kilowatt, count: 6000, work: interactive, curve: kilowatt, value_per_gpu_h: 100,
     floor: 1.0}}
  - {{id: batch, site: here, gpu_model: kilowatt, count: 8000, work: batch, curve: kilowatt}}
signals:
  - {{id: energy, type: csv, path: "{prices}", value_column: price_per_mwh, publication: day_ahead,
     publication_time: "13:00", market_timezone: {zone}, cap: 9000, floor: -1000}}
jobs:
  recurring:
    - {{id: daily, pool: batch, work_gpu_h: 96000, max_gpus: 8000, within: {within}, late_penalty: 20,
       undone_penalty: 100}}
"""


def kilowatts(folder, prices, zone="America/Chicago", within="1d", no_control="even", period="15m", pue=1.0, site=""):
    """6 MW that never yields and 96 MWh of batch work a day, at most 8 MW of it at once."""
    path = Path(folder) / "kilowatts.yaml"
    text = KILOWATTS.format(
        prices=prices, zone=zone, within=within, no_control=no_control, period=period, pue=pue, site=site
    )
    path.write_text(text)
    return load_config(path)


def uri_prices():
    return shipped("data/prices_ercot_hubavg_day_ahead_2021_uri.csv")


def local(text, zone):
    return datetime.fromisoformat(text).replace(tzinfo=ZoneInfo(zone)).astimezone(UTC)


def hourly_prices(path, start, end):
    """Prices of the hours in [start, end), read by other means than Gridpace's."""
    with Path(path).open() as file:
        rows = {
            datetime.fromisoformat(row["interval_start_utc"]): float(row["price_per_mwh"])
            for row in csv.DictReader(file)
        }
    return [price for at, price in rows.items() if start <= at < end]
