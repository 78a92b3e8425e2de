"""Live sources in the daemon: checked with their place, refused by backtests, paid for only when named."""

import json
import subprocess
import sys
from datetime import timedelta
from pathlib import Path

import pytest
from typer.testing import CliRunner

from optimizer.reasons import Reason
from scheduler.cli.app import app
from scheduler.config import ConfigError, load_config
from scheduler.cycle import run_cycle
from tests.support.loops import START, lab
from tests.support.markets import serving

ROOT = Path(__file__).resolve().parents[2]
CONFIG = """\
mode: observe
currency: {currency}
state_dir: state
horizon: 6h
sites: [{{id: west, timezone: Europe/Berlin, price: energy, carbon: grid, pue: {{base: 1.1}}, limit_kw: 30}}]
pools:
  - {{id: tune, site: west, gpu_model: A100-400W, count: 30, work: batch, curve: A100-400W/ft_llama_8b_dolly}}
signals:
  - {{id: energy, type: awattar, country: DE, url: "{url}"}}
  - {{id: grid, type: uk_carbon, url: "{url}"}}
power: {{type: simulated}}
"""


@pytest.fixture
def written(tmp_path):
    def write(url="http://127.0.0.1:1", currency="EUR"):
        path = tmp_path / "gridpace.yaml"
        path.write_text(CONFIG.format(url=url, currency=currency))
        return str(path)

    return write


def test_check_reads_once_from_each_and_names_the_line_of_one_that_fails(written):
    with serving() as (url, markets):
        markets.change = lambda rows: rows if "from" in rows[0] else "closed"
        result = CliRunner().invoke(app, ["check", "--config", written(url), "--json"])
        asked = [path for path, _, _ in markets.requests]
    lines = {line["part"]: line for line in json.loads(result.stdout)["lines"]}
    assert result.exit_code == 1
    assert lines["signal grid"]["state"] == "ok"
    assert lines["signal energy"]["state"] == "failed"
    assert lines["signal energy"]["place"].endswith("gridpace.yaml:9")
    assert "no list of values" in lines["signal energy"]["text"]
    assert asked.count("/v1/marketdata") == 1


def test_a_market_in_another_currency_is_refused_with_its_line(written):
    said = r'gridpace\.yaml:9: signals\[0\].*"EUR/MWh" is EUR, but the config is in USD'
    with pytest.raises(ConfigError, match=said):
        load_config(Path(written(currency="USD")))


def test_a_backtest_refuses_what_only_knows_today(written):
    command = ["backtest", "--config", written(), "--from", "2022-09-06", "--to", "2022-09-07"]
    result = CliRunner().invoke(app, command)
    assert result.exit_code == 1
    assert "gridpace.yaml:9: signals[0]: type awattar is asked over the network" in result.output


NEVER = ("pandas", "scipy", "pyomo", "highspy", "requests", "stamina", "jmespath", "gridstatus", "entsoe", "pyarrow",
         "nats", "redfish", "pymodbus", "matplotlib")  # fmt: skip
SCRIPT = f"""
import sys
from pathlib import Path
import scheduler.daemon
from scheduler.config import load_config
from scheduler.control import run_tick
from scheduler.offline import rehearsal
if __name__ == "__main__":
    with rehearsal(load_config(Path("config/gridpace.yaml"))) as parts:
        run_tick(parts.ctx, parts.state)
        print([name for name in {NEVER!r} if name in sys.modules])
"""


def test_the_fast_loop_pays_only_for_what_the_config_names(tmp_path):
    script = tmp_path / "tick.py"
    script.write_text(SCRIPT)
    command = [sys.executable, str(script)]
    run = subprocess.run(
        command, capture_output=True, text=True, check=False, cwd=ROOT, env={"PYTHONPATH": str(ROOT), "PATH": ""}
    )
    assert run.stdout.splitlines()[-1:] == ["[]"], run.stderr


def test_a_faulty_series_moves_no_plan_before_its_reason_is_on_the_report(tmp_path):
    """Nulls read as 0 look like free power from midnight on: the plan is made without them, and says why."""
    prices = tmp_path / "prices.csv"

    def write(zero_from):
        hours = [START - timedelta(days=2) + n * timedelta(hours=1) for n in range(72)]
        values = [0 if at >= zero_from else 60 + at.hour for at in hours]
        prices.write_text("t,p\n" + "".join(f"{at:%Y-%m-%dT%H:%MZ},{p}\n" for at, p in zip(hours, values, strict=True)))

    write(START + timedelta(hours=3))
    source = "{id: energy, type: csv, path: prices.csv, unit: USD/MWh}"
    flat = "{id: energy, type: constant, unit: USD/MWh, value: 60}"
    with lab(tmp_path, lambda text: text.replace(flat, source)) as site:
        report = run_cycle(site.ctx, site.state)
        (energy,) = [one for one in report.sources if one.id == "energy"]
        planned = site.state.problem.sites[0].price_per_mwh
    assert (energy.state, energy.age_s) == ("stale", 0.0)
    assert "of exactly 0" in energy.text
    assert Reason.SIGNAL_ZERO in {note.code for note in report.notes}
    assert min(planned) > 50
