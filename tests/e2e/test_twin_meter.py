"""The meter of simulated nodes: a site of two processes on a real bus, whose import and cooling follow orders down."""

import subprocess
import sys
from contextlib import ExitStack
from datetime import UTC, datetime
from math import isnan

import pytest

from adapters.bus_settings import BusSettings
from adapters.context import AdapterContext
from adapters.meters.modbus import ModbusMeter, ModbusMeterConfig
from adapters.ports import AdapterError, Lease
from adapters.power.fleet import FleetPower
from benchmarks.support.twin_fleet import SERVER, free_port, process, wait_for
from scheduler.clock import WallClock
from scheduler.config.load import shipped_curves
from scheduler.fleet.twin import CURVE, main
from scheduler.fleet.twin_hall import TwinHall, TwinModel
from scheduler.fleet.twin_site import TwinSite
from scheduler.pue import PueModel
from tests.support.daemon import Machine
from tests.support.nats import listens
from tests.support.power_worlds import wait_until

CARD = shipped_curves()[CURVE]
PUE = 1.3
NODES, GPUS = 4, 2
WEATHER = ("--pue", "1.2", "--pue-per-degree", "0.01", "--temperature-c", "28", "--cooling-settle-s", "3")
SITE = """
mode: control
currency: USD
interval: 1m
control_period: 0.25s
horizon: 3h
max_horizon: 12h
state_dir: state
log_format: journal
sites: [{{id: here, timezone: UTC, price: energy, limit_kw: {limit}, pue: {{base: 1.3}}}}]
pools:
  - {{id: all, site: here, gpu_model: A100-400W, count: 16, gpus: {{model: "A100*"}}, work: training,
     curve: A100-400W/pt_mpt_7b_fast, value_per_gpu_h: 5, floor: 0.3, load: 0.9}}
signals: [{{id: energy, type: constant, unit: USD/MWh, value: 60}}]
power: {power}
meters:
  - {{type: nvml}}
  - {meter}
api: {{port: {port}, page: false, tokens: [{{name: ops, scope: write, secret: "file:token"}}]}}
"""


class Site:
    """A bus and two processes of nodes; the first one's meter adds the second one's."""

    def __init__(self, stack, folder):
        bus, self.ports = free_port(), (free_port(), free_port())
        self.url = f"nats://127.0.0.1:{bus}"
        command = [str(SERVER), "-a", "127.0.0.1", "-p", str(bus), "-js", "-sd", str(folder / "streams")]
        stack.enter_context(process(command, folder / "server.log"))
        wait_for(bus)
        self.twins = []
        for number, more in enumerate((("--meter-adds", f"127.0.0.1:{self.ports[1]}"), ())):
            command = [sys.executable, "-m", "scheduler.fleet.twin", "--fleet", self.url, "--prefix", f"t{number}"]
            command += ["--count", str(NODES), "--gpus", str(GPUS), "--tick-s", "0.2", "--state-s", "0.1", *WEATHER]
            command += ["--meter-port", str(self.ports[number]), *more]
            self.twins.append(stack.enter_context(process(command, folder / f"twin-{number}.log")))
        for twin in self.twins:
            assert twin.stdout.readline() == b"ready\n"

    def meter(self, stack, folder, address=0, port=None):
        config = {"type": "modbus", "site": "here", "host": "127.0.0.1", "port": port or self.ports[0],
                  "power": [{"address": address, "number": "float32", "table": "input"}], "timeout_s": 2.0,
                  "alive": {"address": 6, "number": "uint32"}, "stale_after": "3s"}  # fmt: skip
        meter = ModbusMeter(ModbusMeterConfig.model_validate(config), AdapterContext(WallClock(), folder))
        stack.callback(meter.close)
        return meter


@pytest.fixture
def stack(tmp_path):
    with ExitStack() as made:
        yield made


@pytest.fixture
def site(stack, tmp_path):
    return Site(stack, tmp_path)


def kw(meter):
    try:
        return meter.read().import_kw["here"]
    except AdapterError:
        return float("nan")


def drawn_kw(cap_w):
    """What all the cards draw under a cap."""
    caps = {point.cap_w: point.draw_w for point in CARD.points}
    return 2 * NODES * GPUS * (CARD.idle_w + 0.9 * (caps[cap_w] - CARD.idle_w)) / 1000.0


def test_import_follows_an_order_down_and_the_cooling_comes_after(stack, tmp_path, site):
    meter, cards, part = (site.meter(stack, tmp_path, *where) for where in ((0,), (2,), (0, site.ports[1])))
    power = FleetPower(BusSettings((site.url,), "daemon"), 2.0, replicas=1)
    stack.callback(power.close)
    gpus = set()
    wait_until(lambda: gpus.update(found(power)) or len(gpus) == 2 * NODES * GPUS)
    wait_until(lambda: kw(meter) == pytest.approx(PUE * drawn_kw(400), rel=0.01))
    assert kw(part) == pytest.approx(PUE * drawn_kw(400) / 2, rel=0.01)
    assert power.apply(dict.fromkeys(gpus, 250), Lease(1, 1, 60.0)).failures == {}
    wait_until(lambda: kw(cards) == pytest.approx(drawn_kw(250), rel=0.01))
    assert kw(meter) > 1.02 * PUE * drawn_kw(250), "heat is still on its way"
    wait_until(lambda: kw(meter) == pytest.approx(PUE * drawn_kw(250), rel=0.01))
    told = sum(watts for state in power.states().values() for watts in state.draw_w.values()) / 1000.0
    assert kw(meter) == pytest.approx(PUE * told, rel=0.02)
    site.twins[1].kill()
    wait_until(lambda: isnan(kw(meter)))
    with pytest.raises(AdapterError):
        meter.read()


def found(power):
    try:
        return power.discover()
    except AdapterError:
        return {}


@pytest.mark.timeout(180)
def test_a_daemon_over_simulated_nodes_keeps_the_metered_site_under_its_limit(stack, tmp_path, site):
    limit = round(0.85 * PUE * drawn_kw(400), 2)
    meter = site.meter(stack, tmp_path)
    wait_until(lambda: kw(meter) == pytest.approx(PUE * drawn_kw(400), rel=0.01))
    (tmp_path / "daemon").mkdir()
    machine = Machine(tmp_path / "daemon")
    stack.callback(machine.close)
    at = "address: 0, number: float32, table: input"
    where = f"{{type: modbus, site: here, host: 127.0.0.1, port: {site.ports[0]}, power: [{{{at}}}], timeout_s: 2}}"
    power = f"{{type: fleet, servers: ['{site.url}'], replicas: 1}}"
    machine.path.write_text(SITE.format(limit=limit, power=power, meter=where, port=machine.fields["port"]))
    life = machine.start().ready()
    life.wait(lambda: kw(meter) <= limit)
    seen = []

    def steady():
        seen.append(kw(meter))
        return len(seen) > 100 and all(0.9 * limit <= value <= 1.005 * limit for value in seen[-100:])

    life.wait(steady)
    shown = life.get("/api/v1/status")["tick"]["import_kw"]["here"]
    assert shown == pytest.approx(kw(meter), rel=0.02)


def test_it_is_warm_in_the_afternoon_and_cooling_follows_a_step_in_its_time():
    site = TwinSite(PueModel(1.1, 0.01, 18.0, 1.25), mean_c=20.0, swing_c=8.0)
    assert site.outside_c(datetime(2026, 7, 1, 15, tzinfo=UTC)) == pytest.approx(28.0)
    assert site.outside_c(datetime(2026, 7, 1, 3, tzinfo=UTC)) == pytest.approx(12.0)
    assert site.pue_at(datetime(2026, 7, 1, 3, tzinfo=UTC)) == pytest.approx(1.1)
    assert site.pue_at(datetime(2026, 7, 1, 15, tzinfo=UTC)) == pytest.approx(1.2)
    now = [0.0]
    lagging = TwinModel(CARD, site=TwinSite(PueModel(1.5), cooling_s=60.0))
    hall = TwinHall(["n"], 4, lagging, lambda: now[0], datetime(2026, 7, 1, 15, tzinfo=UTC))

    def at(second):
        now[0] = second
        return hall.metered()

    import_kw, cards_kw, _ = at(1.0)
    assert import_kw == pytest.approx(1.5 * cards_kw)
    hall.cards[0].apply(dict.fromkeys(hall.cards[0].places, 200), Lease(1, 1, 600.0))
    soon_kw, less_kw, _ = at(2.0)
    assert less_kw < 0.8 * cards_kw
    assert soon_kw - less_kw == pytest.approx(0.5 * cards_kw, rel=0.05), "cooling as before"
    later_kw, _, _ = at(62.0)
    assert later_kw - less_kw == pytest.approx(0.5 * (less_kw + 0.05 * (cards_kw - less_kw)), rel=0.02)


@pytest.mark.parametrize(("options", "text"), [
    (("--pue", "0.9"), "--pue is at least 1"),
    (("--meter-adds", "127.0.0.1:1"), "--meter-adds needs a meter"),
    (("--meter-port", "1", "--meter-adds", "5021"), "'5021' is no HOST:PORT"),
])  # fmt: skip
def test_a_site_that_can_not_be_is_refused_in_one_line(options, text, capsys):
    with pytest.raises(SystemExit) as ended:
        main(["--fleet", "nats://127.0.0.1:1", *options])
    assert ended.value.code == 2
    assert text in capsys.readouterr().err


def test_a_meter_that_can_not_listen_says_so(site):
    command = [sys.executable, "-m", "scheduler.fleet.twin", "--fleet", site.url, "--count", "1"]
    command += ["--meter-port", str(site.ports[0])]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == 1
    assert f"the meter can't listen on 127.0.0.1:{site.ports[0]}" in done.stderr
    assert listens(site.ports[0])
