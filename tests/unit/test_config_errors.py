"""A wrong config is told in one line for each problem, at its place, all at once; a right one loads."""

# ruff: noqa: E501 - what the operator sees is one line, and stands here as one

from pathlib import Path

import pytest

from adapters import registry
from scheduler.config import ConfigError, curves_of, load_config

GOOD = """\
mode: observe
currency: USD
interval: 5m
sites:
  - id: west
    timezone: America/Los_Angeles
    price: energy
    limit_kw: 800
    demand_charges:
      - {id: peak, price_per_kw: 18, start: "16:00", end: "21:00"}
pools:
  - id: chat
    site: west
    gpu_model: A100-400W
    count: 64
    work: interactive
    curve: A100-400W/infer_llama_8b
    floor: 0.9
    load: busy
    min_cap_w: 200
    max_cap_w: 400
  - {id: tune, site: west, gpu_model: A100-400W, count: 32, work: batch, curve: A100-400W/ft_llama_8b_dolly}
signals:
  - {id: energy, type: csv, path: prices.csv, unit: USD/MWh, timezone: UTC}
  - {id: busy, type: constant, kind: load, value: 0.7}
power: {type: simulated}
jobs:
  initial:
    - {id: j1, pool: tune, work_gpu_h: 10, max_gpus: 8, deadline: "2022-09-07T12:00:00-07:00"}
programs:
  - id: elrp
    site: west
    channel: {type: webhook, secret: "env:GRIDPACE_TEST_SECRET"}
solver: {time_limit: 10s, hard_deadline: 20s}
api: {port: 8642}
"""

# what is replaced, by what, and the one line that says so (after "gridpace.yaml:")
CASES = [
    ("mode: observe", "mode: contrxol", '1: mode: "contrxol" is not one of observe, advise, control. Did you mean "control"?'),
    ("currency: USD", "curxrency: USD", '2: curxrency: unknown key. Did you mean "currency"?'),
    ("currency: USD", "currency: Dollar", '2: currency: "Dollar" is not a currency; write its three letters, such as USD, EUR or AUD'),
    ("interval: 5m", "interval: 5", '3: interval: "5" is not a duration; write a number with a unit, such as 90s, 5m, 36h or 2d'),
    ("interval: 5m", "interval: 0s", "3: interval: must be longer than nothing"),
    ("interval: 5m", "interval: 7m", "3: interval: must be at least 1m, and a whole number of them must make a day"),
    ("America/Los_Angeles", "America/Los_Angels", '6: sites[0].timezone: "America/Los_Angels" is not a time zone; write an IANA name or an offset such as +10:00. Did you mean "America/Los_Angeles"?'),
    ("America/Los_Angeles", '"-08:00"', '6: sites[0].timezone: "-08:00" is an offset; a site needs a name such as Europe/Berlin, since its clocks may change'),
    ("price: energy", "price: enerxgy", '7: sites[0].price: "enerxgy" is not a signal of this config. Did you mean "energy"?'),
    ("price: energy", "price: busy", '7: sites[0].price: "busy" has kind "load"; here it must be "price"'),
    ("limit_kw: 800", "limit_kw: -1", "8: sites[0].limit_kw: -1 must be more than 0"),
    ("limit_kw: 800", "limit_kw: .nan", "8: sites[0].limit_kw: nan is not a finite number"),
    ("limit_kw: 800", "limit_kw: lots", '8: sites[0].limit_kw: "lots" is not a number'),
    ('end: "21:00"', 'end: "15:00"', '10: sites[0].demand_charges[0].end: "15:00" is not after `start` ("16:00"); split a window at midnight'),
    ("site: west\n    gpu", "site: wst\n    gpu", '13: pools[0].site: "wst" is not a site of this config. Did you mean "west"?'),
    ("count: 64", "count: 6.5", "15: pools[0].count: 6.5 is not a whole number"),
    ("    count: 64\n", "", "12: pools[0].count: is missing"),
    ("work: interactive", "work: interactixe", '16: pools[0].work: "interactixe" is not one of interactive, training, batch. Did you mean "interactive"?'),
    ("infer_llama_8b", "infer_lama_8b", '17: pools[0].curve: "A100-400W/infer_lama_8b" is not a known power curve. Did you mean "A100-400W/infer_llama_8b"?'),
    ("floor: 0.9", "floor: 90", "18: pools[0].floor: 90 must be at most 1"),
    ("load: busy", "load: 1.5", "19: pools[0].load: 1.5 is neither a share between 0 and 1 nor the id of a signal"),
    ("max_cap_w: 400", "max_cap_w: 150", "21: pools[0].max_cap_w: 150 W is below `min_cap_w` (200 W)"),
    ("max_cap_w: 400", "max_cap_w: 700", "21: pools[0].max_cap_w: 700 W is outside the curve A100-400W/infer_llama_8b, which was measured from 100 to 400 W"),
    ("id: tune,", "id: chat,", '22: pools[1].id: "chat" is there already, in line 12'),
    ("type: csv", "type: cvs", '24: signals[0].type: "cvs" is not one of TYPES. Did you mean "csv"?'),
    ("type: csv, ", "", "24: signals[0]: needs a `type`: TYPES"),
    ("prices.csv", "price.csv", '24: signals[0].path: there is no file "price.csv" in FOLDER'),
    ("USD/MWh", "EUR/MWh", '24: signals[0].unit: "EUR/MWh" is EUR, but the config is in USD; no conversion is made'),
    ("USD/MWh", "USD/GWh", '24: signals[0].unit: "USD/GWh" is not a unit of price; write USD/MWh, USD/kWh or c/kWh'),
    ("timezone: UTC", "timezne: UTC", '24: signals[0].timezne: unknown key. Did you mean "timezone"?'),
    ("type: simulated", "type: nvlm", '26: power.type: "nvlm" is not one of agent, amdsmi, fleet, nvml, redfish, simulated, zeusd. Did you mean "nvml"?'),
    ("pool: tune", "pool: chat", '29: jobs.initial[0].pool: "chat" has work "interactive"; here it must be "batch"'),
    ("max_gpus: 8", "max_gpus: 80", "29: jobs.initial[0].max_gpus: 80 is more than pool tune has (32)"),
    ("12:00:00-07:00", "12:00:00", '29: jobs.initial[0].deadline: "2022-09-07T12:00:00" is not a time with an offset, such as 2022-09-06T14:00:00-07:00 or ...Z'),
    ('"2022-09-07T12:00:00-07:00"', "2022-09-07 12:00:00", '29: jobs.initial[0].deadline: "2022-09-07 12:00:00" is not a time with an offset, such as 2022-09-06T14:00:00-07:00 or ...Z'),
    ('"env:GRIDPACE_TEST_SECRET"', "hunter2-inline", "33: programs[0].channel.secret: a secret never stands in the config itself; give a secret by reference: env:NAME, file:/path or credential:name (systemd's LoadCredential)"),
    ("hard_deadline: 20s", "hard_deadline: 5s", "34: solver.hard_deadline: must be longer than `time_limit`"),
    ("port: 8642", "port: 0", "35: api.port: 0 must be at least 1"),
    ("port: 8642", "host: 0.0.0.0", '35: api.host: "0.0.0.0" is reachable from other machines; add `tokens`, or use 127.0.0.1'),
    ("api:", "currency: EUR\napi:", "35: currency: is given twice (first in line 2)"),
    ("power: {type: simulated}", "power: {type: nvml}", "12: pools[0]: needs `gpus`: with several pools, each must say which GPUs are its own"),
    ("power: {type: simulated}", "power: {type: simulated}\nmeters: [{type: simulated}, {type: modbus, site: wets, host: h, power: [{address: 1}]}]",
     '27: meters[1].site: "wets" is not a site of this config. Did you mean "west"?'),
    ("power: {type: simulated}", "power: {type: simulated}\nmeters: [{type: gpus}]", "27: meters[0].type: a meter of type gpus can't measure simulated GPUs; write simulated"),
    ("mode: observe", "mode: [observe", "2: is not YAML: expected ',' or ']', but got ':'"),
]  # fmt: skip


@pytest.fixture
def load(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    Path("prices.csv").write_text("at,price\n2022-09-06T00:00:00Z,100\n")

    def loaded(text, **how):
        Path("gridpace.yaml").write_text(text)
        return load_config("gridpace.yaml", **how)

    return loaded


def problems(load, text, **how):
    with pytest.raises(ConfigError) as caught:
        load(text, **how)
    assert str(caught.value) == "\n".join(str(problem) for problem in caught.value.problems)
    return [str(problem) for problem in caught.value.problems]


def test_a_right_config_loads_and_knows_its_places(load, tmp_path):
    config = load(GOOD)
    assert (config.pools[0].count, config.warnings) == (64, ())
    assert config.place("pools", 0, "count") == "gridpace.yaml:15"
    assert config.signals[0].path == str(tmp_path / "prices.csv")
    assert curves_of(config)[config.pools[0].curve].points[-1].cap_w == 400


@pytest.mark.parametrize(("old", "new", "line"), CASES, ids=[case[2][:60] for case in CASES])
def test_each_problem_is_one_line_at_its_place(load, tmp_path, old, new, line):
    assert GOOD.count(old) >= 1
    found = problems(load, GOOD.replace(old, new, 1))
    line = line.replace("FOLDER", str(tmp_path)).replace("TYPES", ", ".join(registry.builtin_types("signals")))
    assert f"gridpace.yaml:{line}" in found
    # One mistake must not be told as many; only a required key that was misspelt is missing as well, a
    # name that is gone is missed by who used it, and each pool of a real machine needs its GPUs.
    assert len(found) == 1 or any(word in line for word in ("curxrency", "needs `gpus`", "there already")), found


def test_all_problems_come_at_once_in_the_order_of_the_file(load):
    text = GOOD
    for old, new in [("observe", "contrxol"), ("limit_kw: 800", "limit_kw: -1"), ("infer_llama_8b", "x"),
                     ("site: west\n    channel", "site: east\n    channel"), ("type: csv", "type: excel"),
                     ("port: 8642", "prt: 1")]:  # fmt: skip
        text = text.replace(old, new, 1)
    found = problems(load, text)
    assert [int(line.split(":")[1]) for line in found] == [1, 8, 17, 24, 32, 35]


def test_yaml_is_version_1_2(load):
    """`NO` is a name and 12:30 a time; older YAML makes them false and 750."""
    text = (
        GOOD.replace("id: west", "id: NO").replace("site: west", "site: NO").replace('start: "16:00"', "start: 12:30")
    )
    config = load(text)
    assert (config.sites[0].id, config.sites[0].demand_charges[0].start) == ("NO", "12:30")


@pytest.mark.parametrize(
    ("content", "text"),
    [
        (b"", "gridpace.yaml:1: is empty"),
        (b"- a\n", "gridpace.yaml:1: must hold keys and values (mode: observe, ...)"),
        (b"mode: \xff\n", "gridpace.yaml:1: is not UTF-8 text (byte 6)"),
    ],
)
def test_a_file_that_is_no_config_is_said_to_be_so(load, content, text):
    Path("gridpace.yaml").write_bytes(content)
    with pytest.raises(ConfigError) as caught:
        load_config("gridpace.yaml")
    assert str(caught.value) == text


def test_an_absent_file_is_a_problem_too(load):
    with pytest.raises(ConfigError, match=r"^none\.yaml:1: cannot be read: No such file"):
        load_config("none.yaml")


def test_aliases_and_merges_work_and_bombs_do_not(load):
    shared = GOOD.replace(
        "  - {id: tune, site: west, gpu_model: A100-400W, count: 32,", "  - {id: tune, <<: *base, count: 32,"
    )
    config = load(shared.replace("  - id: chat\n", "  - &base\n    id: chat\n").replace(
        "curve: A100-400W/ft_llama_8b_dolly}", "curve: A100-400W/ft_llama_8b_dolly, load: 1, min_cap_w: 100}"))  # fmt: skip
    assert (config.pools[1].id, config.pools[1].site, config.pools[1].max_cap_w) == ("tune", "west", 400)
    bomb = "a: &a [1,1,1,1,1,1,1,1]\n" + "".join(
        f"{new}: &{new} [{', '.join([f'*{old}'] * 8)}]\n" for old, new in zip("abcdefg", "bcdefgh", strict=True)
    )
    assert any("alias" in line for line in problems(load, bomb))
    assert any("alias" in line for line in problems(load, "a: &a [*a, *a]\n"))


def test_data_of_a_backtest_may_lie_elsewhere(load, tmp_path):
    elsewhere = tmp_path / "data" / "prices"
    elsewhere.mkdir(parents=True)
    (elsewhere / "scarcity.csv").write_text("at,price\n2022-09-06T00:00:00Z,100\n")
    text = GOOD.replace("prices.csv", "scarcity.csv")
    assert len(problems(load, text)) == 1
    config = load(text, data_dir=tmp_path / "data")
    assert config.signals[0].path == str(elsewhere / "scarcity.csv")


def test_a_simulated_clock_never_steers_real_gpus(load):
    text = GOOD.replace("mode: observe", "mode: control").replace("type: simulated", "type: nvml")
    text += 'clock: {start: "2022-09-06T14:00:00-07:00", speed: 1}\n'
    assert any("clock: a simulated clock must not steer real GPUs" in line for line in problems(load, text))


def test_a_fast_clock_leaves_the_solver_less_time(load):
    fast = 'clock: {start: "2022-09-06T14:00:00-07:00", speed: 90}\n'
    line = "gridpace.yaml:34: solver.hard_deadline: must not be longer than `interval` at 90 times real time (3.33333s)"
    assert problems(load, GOOD + fast) == [line]
    assert load((GOOD + fast).replace("interval: 5m", "interval: 30m")).clock.speed == 90


def test_own_curves_count_like_shipped_ones(load):
    own = "curves:\n  - {id: mine, idle_w: 40, points: [{cap_w: 200, draw_w: 190, throughput: 0.8}, {cap_w: 400, draw_w: 380, throughput: 1}]}\n"
    text = GOOD.replace("A100-400W/infer_llama_8b", "mine") + own
    config = load(text)
    assert curves_of(config)["mine"].idle_w == 40
    wrong = text.replace("cap_w: 400, draw_w", "cap_w: 100, draw_w")
    assert problems(load, wrong) == ["gridpace.yaml:37: curves[0].points: their caps must rise from point to point"]
