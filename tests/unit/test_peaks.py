"""Demand charges over months, windows and restarts: what is billed already is never shaved below, nor forgotten."""

from datetime import UTC, datetime, timedelta

import pytest

from optimizer.timegrid import uniform_grid
from scheduler.peaks import book_peaks, charges_now, months_before
from scheduler.store.store import Store
from tests.support.loops import SITE, lab

CHARGES = SITE.replace(
    "     ramp_kw_per_min",
    "     demand_charges: [{id: any, price_per_kw: 10, ratchet: {share: 0.8, months: 11}},"
    " {id: summer_peak, price_per_kw: 20, months: [6, 7, 8, 9], days: [mon, tue, wed, thu, fri],"
    " start: '16:00', end: '21:00'}],\n     ramp_kw_per_min",
)
LATE = datetime(2022, 9, 30, 22, tzinfo=UTC)
"""Friday 15:00 in California, nine hours before the month ends."""


def test_charges_follow_season_weekday_and_local_hour_and_a_new_month_starts_anew(tmp_path):
    with lab(tmp_path, lambda _: CHARGES) as site:
        grid = uniform_grid(LATE, LATE + timedelta(hours=12), timedelta(hours=1))
        charges = {charge.id: charge for charge in charges_now(site.ctx, site.ctx.sites["lab"], grid)}
    assert set(charges) == {"lab/any/2022-09", "lab/any/2022-10", "lab/summer_peak/2022-09"}
    assert charges["lab/summer_peak/2022-09"].active == (False,) + (True,) * 5 + (False,) * 6
    assert charges["lab/any/2022-09"].active == (True,) * 9 + (False,) * 3
    assert charges["lab/any/2022-10"].active == (False,) * 9 + (True,) * 3


def test_every_metering_interval_is_booked_in_its_windows_and_outlives_the_daemon(tmp_path):
    start = datetime(2022, 9, 6, 22, 45, tzinfo=UTC)
    text = CHARGES.replace("interval: 5m", "interval: 30m")
    store = Store.open(tmp_path / "books.db")
    with lab(tmp_path, lambda _: text, store) as site:
        for minute in range(30):  # 15:45 to 16:15 local: 50 kW before the window begins, then 40
            kw = 50.0 if minute < 15 else 40.0
            store.add_sample("lab", start + timedelta(minutes=minute), kw, float("inf"), 100.0, kw, 60.0)
        book_peaks(site.ctx, start + timedelta(minutes=31))
    again = Store.open(tmp_path / "books.db")
    assert again.peak_kw("lab/any", "2022-09") == pytest.approx(50.0)
    assert again.peak_kw("lab/summer_peak", "2022-09") == pytest.approx(40.0)
    with lab(tmp_path, lambda _: text, again) as site:
        grid = uniform_grid(LATE, LATE + timedelta(hours=12), timedelta(hours=1))
        billed = {c.id: c.peak_so_far_kw for c in charges_now(site.ctx, site.ctx.sites["lab"], grid)}
    assert billed["lab/any/2022-09"] == pytest.approx(50.0)
    assert billed["lab/any/2022-10"] == pytest.approx(0.8 * 50.0)  # the ratchet
    assert billed["lab/summer_peak/2022-09"] == pytest.approx(40.0)


def test_months_before_cross_the_year():
    assert months_before("2022-02", 3) == ["2022-01", "2021-12", "2021-11"]
