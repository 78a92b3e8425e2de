"""`gridpace check --connect`: what answers, what each meter reads, and where to look when one does not."""

import sys
from datetime import UTC, datetime

import pytest

from adapters.ports import Reading
from scheduler.checking import _unwatched, check_config
from scheduler.config import load_config
from tests.support.ports import free_port
from tests.support.power_worlds import fake_machine
from tests.support.redfish_bmc import PASSWORD, USER, running_bmc
from tests.support.zeusd import running_zeusd

CONFIG = """
currency: USD
sites:
  - {{id: north, timezone: UTC, price: tariff, limit_kw: 20}}
signals:
  - {{id: tariff, type: constant, kind: price, unit: USD/MWh, value: 50}}
pools:
  - {{id: chat, site: north, gpu_model: H100-700W, count: {count}, work: {work}}}
power: {power}
{meters}
"""


def lines(folder, power, meters="", count=8, work="training"):
    path = folder / "gridpace.yaml"
    path.write_text(CONFIG.format(power=power, meters=meters, count=count, work=work))
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


def through_redfish(folder, work):
    (folder / "pw").write_text(PASSWORD)
    with running_bmc() as (_, url):
        power = f"{{type: redfish, servers: {{n1: '{url}'}}, username: {USER}, password: 'file:pw'}}"
        return lines(folder, power, work=work)


def test_a_pool_of_which_nobody_tells_how_many_work_is_named(tmp_path):
    found = through_redfish(tmp_path, "interactive")
    assert found["meter gpus"][::2] == ("ok", "chat 5.2 kW")
    text = "no meter tells how many of its GPUs work; `load` may name a signal that does"
    assert found["watch chat"] == (
        "warning", "8", f"nobody would notice a cap that does not lower its power (`cap_unmoved`): {text}"
    )  # fmt: skip


@pytest.mark.parametrize("work", ["training", "batch", "interactive, load: busy"])
def test_a_pool_whose_work_is_told_by_others_than_its_cards_is_not(tmp_path, monkeypatch, work):
    signal = "  - {{id: busy, type: constant, kind: load, value: 0.5}}"
    monkeypatch.setattr(sys.modules[__name__], "CONFIG", CONFIG.replace("pools:", f"{signal}\npools:"))
    found = through_redfish(tmp_path, work)
    assert found["meter gpus"][0] == "ok"
    assert "watch chat" not in found


def test_cards_that_tell_how_busy_they_are_are_watched(tmp_path, monkeypatch):
    fake_machine(tmp_path, monkeypatch)
    assert "watch chat" not in lines(tmp_path, "{type: nvml}", work="interactive")


def test_a_site_meter_alone_watches_no_pool_and_a_pool_that_is_lost_is_not_named_twice(tmp_path):
    path = tmp_path / "gridpace.yaml"
    path.write_text(CONFIG.format(power="{type: simulated}", meters="", count=8, work="training"))
    config, at = load_config(path), datetime(2026, 1, 1, tzinfo=UTC)
    site, cards = Reading(at, {}, {"north": 8.0}), Reading(at, {"chat": 5.2}, {})
    (line,) = _unwatched(config, [site])
    assert line.text.endswith("(`cap_unmoved`): no meter reads its power")
    assert not list(_unwatched(config, [site, cards]))
    assert not list(_unwatched(config, [site, Reading(at, {}, {}, lost=("chat",))]))


def test_hardware_that_is_away_is_named_with_its_line(tmp_path):
    url = f"http://127.0.0.1:{free_port()}"
    power = f"{{type: redfish, servers: {{n1: '{url}'}}, username: me, password: 'file:pw'}}"
    (tmp_path / "pw").write_text("x")
    state, line, text = lines(tmp_path, power)["power"]
    assert (state, line) == ("failed", "9")
    assert f"Redfish n1 ({url}" in text
    assert "cannot be reached" in text
