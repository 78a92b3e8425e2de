"""`gridpace check --connect`: what answers, what each meter reads, and where to look when one does not."""

from scheduler.checking import check_config
from scheduler.config import load_config
from tests.support.nats import free_port
from tests.support.power_worlds import fake_machine
from tests.support.zeusd import running_zeusd

CONFIG = """
currency: USD
sites:
  - {{id: north, timezone: UTC, price: tariff, limit_kw: 20}}
signals:
  - {{id: tariff, type: constant, kind: price, unit: USD/MWh, value: 50}}
pools:
  - {{id: chat, site: north, gpu_model: H100-700W, count: {count}, work: training}}
power: {power}
{meters}
"""


def lines(folder, power, meters="", count=8):
    path = folder / "gridpace.yaml"
    path.write_text(CONFIG.format(power=power, meters=meters, count=count))
    checked = list(check_config(load_config(path), connect=True))
    return {line.part: (line.state, line.place.rpartition(":")[2], line.text) for line in checked}


def test_it_tells_which_cards_answer_and_what_every_meter_reads(tmp_path, monkeypatch):
    fake_machine(tmp_path, monkeypatch)
    url = f"http://127.0.0.1:{free_port()}"
    meters = f"meters:\n  - {{type: gpus}}\n  - {{type: prometheus, url: '{url}'}}"
    found = lines(tmp_path, "{type: nvml}", meters)
    assert found["pool chat"][::2] == ("ok", "8 of 8 GPUs answer")
    card_text = "8 x NVIDIA H100 80GB HBM3; limits from 200 to 700 W; they draw 5.2 kW"
    assert found["power"] == ("ok", "9", card_text)
    assert found["meter gpus"] == ("ok", "11", "chat 5.2 kW")
    state, line, text = found["meter prometheus"]
    assert (state, line) == ("failed", "12")
    assert url in text


def test_without_meters_the_cards_that_are_set_are_read(tmp_path, monkeypatch):
    fake_machine(tmp_path, monkeypatch, 4)
    found = lines(tmp_path, "{type: nvml}")
    assert found["meter nvml"][::2] == ("ok", "chat 2.6 kW")
    assert found["pool chat"][0] == "warning"


def test_other_hardware_is_tried_like_any_and_measured_by_itself(tmp_path):
    with running_zeusd(tmp_path / "zeusd.sock") as (_, url):
        found = lines(tmp_path, f"{{type: zeusd, servers: {{n1: '{url}'}}}}")
    assert found["pool chat"][::2] == ("ok", "8 of 8 GPUs answer")
    assert found["power"] == ("ok", "9", "8 x NVIDIA H100; limits from 200 to 700 W; they draw 5.2 kW")
    assert found["meter gpus"][::2] == ("ok", "chat 5.2 kW")


def test_hardware_that_is_away_is_named_with_its_line(tmp_path):
    url = f"http://127.0.0.1:{free_port()}"
    power = f"{{type: redfish, servers: {{n1: '{url}'}}, username: me, password: 'file:pw'}}"
    (tmp_path / "pw").write_text("x")
    state, line, text = lines(tmp_path, power)["power"]
    assert (state, line) == ("failed", "9")
    assert f"Redfish n1 ({url}" in text
    assert "cannot be reached" in text
