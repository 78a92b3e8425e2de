"""The recorded days must stay what was recorded: counts, extremes, and the bills that follow from them."""

import csv
from datetime import UTC, date, datetime, timedelta
from itertools import pairwise
from zoneinfo import ZoneInfo

import pytest

from scheduler.shipped import shipped

PACIFIC, CENTRAL = ZoneInfo("America/Los_Angeles"), ZoneInfo("America/Chicago")
CAISO = "prices_caiso_np15_day_ahead_2022_heat_wave.csv"
ERCOT = "prices_ercot_hubavg_day_ahead_2021_uri.csv"
AUTUMN = "prices_pjm_dominion_real_time_2022_autumn.csv"
PJM = "prices_pjm_dominion_real_time_2022_elliott.csv"


def rows(name: str) -> list[dict[str, str]]:
    with shipped(f"data/{name}").open(newline="") as stream:
        return list(csv.DictReader(stream))


def series(name: str, column: str) -> dict[datetime, float]:
    """Stamp -> value; the stamp is the first column of every series file."""
    return {datetime.fromisoformat(next(iter(row.values()))): float(row[column]) for row in rows(name)}


def bill(prices: dict[datetime, float], zone: ZoneInfo, first: date, last: date) -> float:
    """What a site that draws 10 MW always would pay over whole local days."""
    return 10 * sum(price for start, price in prices.items() if first <= start.astimezone(zone).date() <= last)


@pytest.mark.parametrize(
    ("name", "column", "count", "lowest", "highest", "peak"),
    [
        (CAISO, "price_per_mwh", 336, 61.48, 1262.8491, "2022-09-08T01:00Z"),
        ("prices_caiso_np15_day_ahead_2022_december.csv", "price_per_mwh", 504, 38.4664, 444.8475, "2022-12-12T01:00Z"),
        (ERCOT, "price_per_mwh", 288, 0.5, 8995.26, "2021-02-17T06:00Z"),
        (AUTUMN, "price_per_mwh", 1177, 11.284, 379.0787, "2022-12-02T06:00Z"),
        (PJM, "price_per_mwh", 360, 35.550407, 4392.119704, "2022-12-24T09:00Z"),
        ("weather_san_jose_2022_heat_wave.csv", "temp_c", 336, 12.7, 45.2, "2022-09-06T22:00Z"),
        ("weather_dallas_2021_uri.csv", "temp_c", 288, -18.8, 11.2, "2021-02-20T21:00Z"),
        ("carbon_caiso_2022_heat_wave.csv", "gco2eq_per_kwh_direct", 336, 157.56, 306.03, "2022-09-08T10:00Z"),
    ],
)
def test_series_is_whole_and_has_its_recorded_extremes(name, column, count, lowest, highest, peak):
    values = series(name, column)
    assert len(values) == count
    assert all(after - before == timedelta(hours=1) for before, after in pairwise(values))
    assert min(values.values()) == pytest.approx(lowest, abs=1e-4)
    assert max(values.values()) == pytest.approx(highest, abs=1e-4)
    assert max(values, key=lambda start: values[start]) == datetime.fromisoformat(peak)


def test_worst_hour_of_the_heat_wave_is_18_o_clock_in_california():
    prices = series(CAISO, "price_per_mwh")
    worst = max(prices, key=lambda start: prices[start])
    assert worst.astimezone(PACIFIC).replace(tzinfo=None) == datetime(2022, 9, 7, 18)  # noqa: DTZ001


def test_heat_wave_costs_a_flat_site_what_it_did():
    assert bill(series(CAISO, "price_per_mwh"), PACIFIC, date(2022, 8, 31), date(2022, 9, 9)) == pytest.approx(
        478_652, abs=1
    )


def test_uri_costs_a_flat_site_what_it_did():
    prices = series(ERCOT, "price_per_mwh")
    assert bill(prices, CENTRAL, date(2021, 2, 12), date(2021, 2, 20)) == pytest.approx(9_860_238, abs=1)
    assert bill(prices, CENTRAL, date(2021, 2, 17), date(2021, 2, 17)) == pytest.approx(2_117_553, abs=1)
    assert sum(price >= 5000 for price in prices.values()) == 111


def test_weather_covers_the_hours_of_its_prices():
    assert list(series("weather_san_jose_2022_heat_wave.csv", "temp_c")) == list(series(CAISO, "price_per_mwh"))
    assert list(series("weather_dallas_2021_uri.csv", "temp_c")) == list(series(ERCOT, "price_per_mwh"))


def test_curves_carry_a_licence_on_every_row_and_the_measured_sweep():
    curves = rows("power_cap_curves.csv")
    assert len(curves) == 147
    allowed = {"emerald": "Apache-2.0", "zeus": "Apache-2.0", "gridpilot": "CC-BY-4.0"}
    assert all(row["licence"] == allowed[row["source"]] for row in curves)
    sweep = {int(row["cap_w"]): row for row in curves if row["workload"] == "infer_llama_8b"}
    measured = {
        cap: (round(float(row["power_w"])), round(float(row["rel_throughput"]), 3)) for cap, row in sweep.items()
    }
    assert measured == {
        400: (368, 1.0), 350: (333, 0.976), 300: (289, 0.931), 250: (242, 0.871), 200: (195, 0.781), 100: (98, 0.225),
    }  # fmt: skip


def test_llm_hour_counts_every_request():
    requests = {"conv": 0, "code": 0}
    for row in rows("load_azure_llm_2023_1min.csv"):
        requests[row["class"]] += int(row["requests"])
        assert datetime.fromisoformat(row["minute"]).tzinfo == UTC
    assert requests == {"conv": 19_366, "code": 8_819}


def test_every_shipped_file_has_its_provenance():
    told = shipped("data/PROVENANCE.md").read_text()
    files = {path.name for path in shipped("data").iterdir()} - {"PROVENANCE.md"}
    assert files
    assert not {name for name in files if f"`{name}`" not in told}


def test_unknown_shipped_file_is_named():
    with pytest.raises(FileNotFoundError, match=r"no-such\.yaml is in neither"):
        shipped("no-such.yaml")
