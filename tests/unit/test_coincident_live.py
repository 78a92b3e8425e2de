"""The grid's peak from a live service to the plan: load over the network, a probability, and a plan that avoids it."""

import json
import threading
from contextlib import contextmanager
from datetime import timedelta
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from zoneinfo import ZoneInfo

from optimizer.reasons import Reason
from tests.support.loops import SITE, START, lab

HOUR, MINUTE = timedelta(hours=1), timedelta(minutes=1)
ZONE = ZoneInfo("America/Los_Angeles")


class Service:
    """A system operator's load and its forecast, hour by hour; `peak` is the local hour of the highest."""

    def __init__(self):
        self.peak, self.asked = 17, 0

    def rows(self):
        self.asked += 1
        starts = [START.replace(minute=0) + n * HOUR for n in range(-48, 48)]
        return [
            {"t": at.isoformat(), "mw": 50_000 if at.astimezone(ZONE).hour == self.peak else 40_000} for at in starts
        ]


@contextmanager
def serving(service):
    class Handler(BaseHTTPRequestHandler):
        def do_GET(self):
            body = json.dumps({"load": service.rows()}).encode()
            self.send_response(200)
            self.send_header("Content-Type", "application/json")
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, *_):
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True)
    thread.start()
    try:
        yield f"http://127.0.0.1:{server.server_address[1]}"
    finally:
        server.shutdown()
        server.server_close()
        thread.join(5)


def configured(url):
    return SITE.replace(
        "     ramp_kw_per_min",
        "     coincident_peaks: [{id: 4cp, price_per_kw: 60, system_load: grid, months: [6, 7, 8, 9]}],\n"
        "     ramp_kw_per_min",
    ).replace(
        "signals:\n",
        f'signals:\n  - {{id: grid, type: http_json, kind: system_load, unit: MW, url: "{url}/load", rows: "load[]", '
        "time: t, value: mw, interval: 1h, refresh: 1m, timeout: 10s}\n",
    )


def by_hour(site):
    """Mean planned import in kW of each local hour, and the probability that it is the peak."""
    problem, plan = site.state.problem, site.state.plan
    kw, chance = {}, {}
    edges = problem.grid.edges
    for n, start in enumerate(problem.grid.starts):
        hour = start.astimezone(ZONE).hour
        kw.setdefault(hour, []).append((plan.sites["lab"].import_kw[n], edges[n + 1] - edges[n]))
        chance[hour] = chance.get(hour, 0.0) + problem.sites[0].coincident[0].probability[n]
    return {
        hour: sum(one * (long / HOUR) for one, long in many) / sum(long / HOUR for _, long in many)
        for hour, many in kw.items()
    }, chance


def test_a_live_load_becomes_a_probability_and_the_plan_avoids_its_hour_and_follows_a_new_forecast(tmp_path):
    service = Service()
    with serving(service) as url, lab(tmp_path, lambda _: configured(url)) as site:
        site.plan()
        for peak, other in ((17, 19), (19, 17)):
            kw, chance = by_hour(site)
            assert service.asked
            assert chance[peak] > 0.01 > chance[other]
            assert kw[peak] < 0.9 * kw[other]
            notes = [note.text for note in site.state.plan.notes if note.code is Reason.COINCIDENT_PEAK]
            assert any(f"{peak}:00-{peak + 1}:00, p = " in text for text in notes)
            service.peak = 19
            site.clock.sleep(300)
            site.plan()
