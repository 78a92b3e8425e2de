"""What the page draws, without a browser: the right slot, honest gaps, no infinite lines, escaped names."""

import asyncio
import json
import time
from dataclasses import replace
from datetime import timedelta

import httpx
import pytest

from optimizer.reasons import Note, Reason
from scheduler.api.app import create_app
from scheduler.api.server import ApiServer
from scheduler.api.settings import ApiSettings
from scheduler.clock import VirtualClock
from tests.support.fake_service import EVENT, LIMIT_KW, SITE, START, FakeService
from tests.support.system import require_module

require_module("nicegui")

from scheduler.web import charts, hand, tables  # noqa: E402
from scheduler.web.board import gather  # noqa: E402
from scheduler.web.view import Gallery  # noqa: E402

ODD = "<script>alert(1)</script>"


def board_at(hours, service=None):
    return gather(service or FakeService(VirtualClock(START + timedelta(hours=hours))), SITE)


def ms(moment):
    return moment.timestamp() * 1000


def line(options, name):
    return next(series["data"] for series in options["series"] if series["name"] == name)


def test_present_slot_is_the_one_that_holds_now_and_carries_its_price():
    board = board_at(1 + 7 / 60)
    options = charts.price_chart(board)
    (slot,) = options["series"][0]["markArea"]["data"]
    assert [slot[0]["xAxis"], slot[1]["xAxis"]] == [ms(START + timedelta(minutes=m)) for m in (65, 70)]
    price = FakeService(VirtualClock(START)).price_at(board.now)
    assert options["series"][0]["markLine"]["label"]["formatter"] == f"now 15:07 · {price:,.0f} USD/MWh"
    assert (
        line(options, "Price so far")[-1][0] == line(options, "Price ahead")[1][0] == ms(START + timedelta(minutes=70))
    )


def test_plan_follows_what_was_planned_without_overlap_up_to_the_edge():
    board = board_at(2)
    moments = [at for at, _ in line(charts.power_chart(board), "Plan")]
    assert moments == sorted(moments)
    assert moments[0] < ms(board.now) < moments[-1] == ms(board.now + charts.AHEAD)


def test_event_is_a_band_and_a_target_and_a_refused_one_is_neither():
    board = board_at(2)
    options = charts.power_chart(board)
    assert [band[0]["name"] for band in options["series"][-1]["markArea"]["data"]] == ["Evening peak"]
    target = line(options, "Event target")
    assert [ms(EVENT.start), round(EVENT.target_kw / 1000, 4)] in target
    assert target[-1] == [ms(EVENT.end), None]
    options = charts.power_chart(replace(board, events=[replace(board.events[0], state="refused")]))
    assert options["series"][-1]["markArea"]["data"] == []
    assert all(mw is None for _, mw in line(options, "Event target"))


def test_measurement_breaks_where_the_meter_was_silent():
    board = board_at(2)
    at = [START + timedelta(minutes=minute) for minute in (0, 1, 30, 31)]
    board = replace(board, tick=None, series={"at": at, "import_kw": [4000.0, None, 3000.0, float("nan")]})
    assert charts.measured(board) == [[ms(at[0]), 4.0], [ms(at[0]) + 1, None], [ms(at[2]), 3.0]]


def test_one_minute_means_are_means():
    at = [START + timedelta(seconds=second) for second in (0, 20, 40, 60)]
    board = replace(board_at(2), tick=None, series={"at": at, "import_kw": [1000.0, 2000.0, 6000.0, 500.0]})
    assert charts.measured(board) == [[ms(at[0]), 3.0], [ms(at[3]), 0.5]]


@pytest.mark.parametrize("hours", [0, 3.5, 9, 30])
def test_charts_are_strict_json_also_without_a_limit(hours):
    board = board_at(hours)
    board = replace(board, site=replace(board.site, limit_kw=float("inf")))
    for build in (charts.power_chart, charts.price_chart):
        json.dumps(build(board), allow_nan=False)
    assert line(charts.power_chart(board), "Limit") == []
    assert LIMIT_KW / 1000 not in [mw for _, mw in line(charts.power_chart(board), "Plan")]
    assert "none" in tables.tiles(board)


def test_names_from_outside_are_text():
    service = FakeService(VirtualClock(START))
    service.add_event({"site": SITE, "id": ODD, "name": ODD}, ODD)
    service.submit_job(type("Request", (), {"id": ODD, "pool": None, "deadline": START + timedelta(hours=9)}))
    service.extra_notes = (Note(Reason.STALE_SIGNAL, ODD, ODD),)
    board = board_at(0, service)
    shown = "".join(build(board) for build in (tables.pools, tables.jobs, tables.events, tables.inputs, tables.notes))
    assert ODD not in shown
    assert shown.count("&lt;script&gt;") >= 5
    assert ODD not in tables.header(replace(board, sites=(ODD,)), ODD, demo=True)


def test_how_long_users_wait_is_shown_now_and_ahead():
    board = board_at(4)
    shown = tables.latencies(board)
    assert "ttft p95" in shown
    assert "430 ms" in shown
    assert "620 ms" in shown, "the most that is expected"
    now = {"chat": tuple(replace(one, guard="slipping", measured_s=1.25) for one in board.report.pools[0].latency)}
    slow = tables.latencies(replace(board, tick=replace(board.tick, latency=now)))
    assert '<span class="gp-chip tone-bad">slipping' in slow
    assert "1.25 s" in slow
    assert shown in tables.pools(board)


def test_what_is_enforced_stands_beside_the_cap_where_it_differs():
    service = FakeService(VirtualClock(START + timedelta(hours=4)))
    board = board_at(4, service)
    assert "enforced" not in tables.pools(board)
    service.enforced_w = {"chat": 150.4}
    board = board_at(4, service)
    chat = board.report.pools[0]
    assert f"{chat.cap_w} W (150 W enforced)" in tables.pools(board)
    by_clock = replace(chat, clock_mhz=1200)
    assert "enforced" not in tables.pools(replace(board, report=replace(board.report, pools=(by_clock,))))


def test_power_above_its_target_is_loud():
    board = board_at(4)
    assert 'gp-tile tone-lead"><span class="gp-name">Site power now' in tables.tiles(board)
    over = replace(board, tick=replace(board.tick, import_kw={SITE: 1.02 * EVENT.target_kw}))
    assert 'gp-tile tone-bad"><span class="gp-name">Site power now' in tables.tiles(over)


def views(service, count, monkeypatch, between=lambda: None, linger_s=0.0):
    monkeypatch.setattr("scheduler.web.view.EVERY_S", 0.0)
    gallery = Gallery(service, "Gridpace", demo=False)

    async def look():
        seen = []
        for _ in range(count):
            seen.append(await gallery.view(SITE))
            between()
        await asyncio.sleep(linger_s)
        return seen

    try:
        return asyncio.run(look())
    finally:
        gallery.close()


def test_a_hung_daemon_is_said_within_seconds_and_asked_only_once(monkeypatch):
    monkeypatch.setattr("scheduler.web.view.PATIENCE_S", 0.05)
    service = FakeService(VirtualClock(START))
    asked = []
    service.plan = lambda: asked.append(1) or time.sleep(0.25)
    assert all("does not answer" in view.html["banner"] for view in views(service, 3, monkeypatch, linger_s=0.5))
    assert asked == [1]


def test_charts_and_samples_are_made_again_every_ten_seconds_and_not_more_often(monkeypatch):
    clock = VirtualClock(START)
    service = FakeService(clock)
    series, asked = service.series, []
    service.series = lambda *span: asked.append(clock.now()) or series(*span)
    seen = views(service, 4, monkeypatch, between=lambda: clock.sleep(4))  # at 0, 4, 8 and 12 seconds
    assert asked == [START, START + timedelta(seconds=12)]
    assert seen[0].charts is seen[2].charts is not seen[3].charts
    assert seen[0].html["header"] != seen[1].html["header"]


def test_the_last_figures_stay_when_the_daemon_fails(monkeypatch):
    service = FakeService(VirtualClock(START))
    first, second = views(service, 2, monkeypatch, between=lambda: setattr(service, "broken", True))
    assert first.html["banner"] == ""
    assert "answers with an error" in second.html["banner"]
    assert second.html["pools"] == first.html["pools"] != ""


def test_of_overlapping_events_the_strictest_target_is_drawn():
    board = board_at(2)
    one = board.events[0]
    inner = replace(one, id="inner", target_kw=one.target_kw - 500, end=one.end - timedelta(minutes=20))
    target = line(charts.power_chart(replace(board, events=[one, inner])), "Event target")
    low, high = round(inner.target_kw / 1000, 4), round(one.target_kw / 1000, 4)
    assert target[-5:] == [
        [ms(one.start), low], [ms(inner.end), low], [ms(inner.end), high], [ms(one.end), high], [ms(one.end), None],
    ]  # fmt: skip


def test_a_stepped_past_keeps_its_corners():
    flat = [[float(at), kw] for at, kw in enumerate((5.0, 5.0, 5.0, 4.0, 4.0, 4.0, 5.0))]
    assert charts._turns(flat) == [[0.0, 5.0], [2.0, 5.0], [3.0, 4.0], [5.0, 4.0], [6.0, 5.0]]


def test_the_form_of_the_operators_hand_is_there_where_somebody_may_write():
    assert 'value="a&quot;&lt;b"' in hand.form('a"<b', may_write=True)
    assert "<form" not in hand.form("west", may_write=False)
    assert "api.tokens" in hand.form("west", may_write=False)


def test_a_server_that_was_not_started_keeps_no_page_from_starting():
    service = FakeService(VirtualClock(START))
    other = ApiServer(create_app(service, ApiSettings(page=False)), "127.0.0.1", 0)
    with ApiServer(create_app(service, ApiSettings(port=0)), "127.0.0.1", 0) as server:
        assert httpx.get(f"{server.url}/healthz").json() == {"ok": True}
    assert other.stop()
