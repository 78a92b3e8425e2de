"""Market and carbon services on the loopback, each answering in its documented form with invented numbers.

What they tell depends only on the time asked about, so that any window gives the same values. `faults` makes the next
answers go wrong, one after the other: a status with headers, a hang, half a body, a page where JSON belongs.
"""

import json
import threading
from contextlib import contextmanager, suppress
from datetime import UTC, datetime, timedelta
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from urllib.parse import parse_qs, unquote, urlsplit

HALF, HOUR = timedelta(minutes=30), timedelta(hours=1)


def value_at(at: datetime) -> float:
    """A price that differs from hour to hour and day to day, with two decimals."""
    hours = int(at.timestamp() // 1800)
    return 20 + hours % 48 * 1.25 + hours // 48 % 7 * 0.5


def steps(start: datetime, end: datetime, step: timedelta):
    """Starts of the steps that touch [start, end), aligned to the epoch."""
    at = datetime.fromtimestamp(start.timestamp() // step.total_seconds() * step.total_seconds(), UTC)
    while at < end:
        yield at
        at += step


def iso(text: str) -> datetime:
    return datetime.fromisoformat(text).astimezone(UTC)


def z(at: datetime, seconds: bool = True) -> str:
    return at.strftime("%Y-%m-%dT%H:%M:%SZ" if seconds else "%Y-%m-%dT%H:%MZ")


def urdb_rate(**changes):
    """A record of the US Utility Rate Database: night and day in summer, three tiers, demand by period and flat."""
    summer = [0] * 8 + [1] * 12 + [0] * 4
    table = [summer if month in range(5, 9) else [0] * 24 for month in range(12)]
    return {
        "label": "5374efea9bef51471a6965d0", "utility": "Example", "name": "Large power", "sector": "Industrial",
        "energyratestructure": [
            [{"max": 1000, "rate": 0.30, "unit": "kWh"}, {"max": 50_000, "rate": 0.20, "adj": 0.01, "unit": "kWh"},
             {"rate": 0.10, "adj": 0.005, "unit": "kWh"}],
            [{"rate": 0.25}],
        ],
        "energyweekdayschedule": table, "energyweekendschedule": [[0] * 24] * 12,
        "demandratestructure": [[{"rate": 0.0}], [{"rate": 18.0, "adj": 0.5}]], "demandrateunit": "kW",
        "demandweekdayschedule": table, "demandweekendschedule": [[0] * 24] * 12,
        "flatdemandstructure": [[{"max": 500, "rate": 4.0}, {"rate": 6.0}]], "flatdemandmonths": [0] * 12,
        "flatdemandunit": "kW", "startdate": 1640995200, "fixedchargefirstmeter": 1200.0,
    } | changes  # fmt: skip


class Markets:
    """The services' answers; `requests` keeps what was asked, `faults` what goes wrong next."""

    def __init__(self):
        self.requests, self.faults, self.release = [], [], threading.Event()
        self.known_until = None
        self.now, self.tokens, self.units = datetime(2022, 9, 6, 12, tzinfo=UTC), 0, "lbs_co2_per_mwh"
        self.change = lambda rows: rows

    def answer(self, path, query, headers):
        """Status and JSON for a path."""
        for prefix, service in self.SERVICES.items():
            if path.startswith(prefix):
                return service(self, path, query, headers)
        return 404, {"detail": "Not found."}

    def _end(self, end):
        return end if self.known_until is None else min(end, self.known_until)

    def octopus(self, path, query, headers):
        size, page = int(query.get("page_size", 100)), int(query.get("page", 1))
        found = [
            {"value_exc_vat": value_at(at), "value_inc_vat": round(value_at(at) * 1.05, 4), "valid_from": z(at),
             "valid_to": z(at + HALF), "payment_method": None}
            for at in steps(iso(query["period_from"]), self._end(iso(query["period_to"])), HALF)
        ][::-1]  # fmt: skip
        results = self.change(found[(page - 1) * size : page * size])
        more = f"http://elsewhere.invalid{path}?page={page + 1}" if page * size < len(found) else None
        return 200, {"count": len(found), "next": more, "previous": None, "results": results}

    def awattar(self, path, query, headers):
        start, end = (datetime.fromtimestamp(int(query[name]) / 1000, UTC) for name in ("start", "end"))
        rows = [
            {"start_timestamp": round(at.timestamp() * 1000), "end_timestamp": round((at + HOUR).timestamp() * 1000),
             "marketprice": value_at(at), "unit": "Eur/MWh"}
            for at in steps(start, self._end(end), HOUR)
        ]  # fmt: skip
        return 200, {"object": "list", "data": self.change(rows), "url": path}

    def uk_carbon(self, path, query, headers):
        parts = path.split("/")
        regional = parts[1] == "regional"
        start, end = (iso(text) for text in (parts[3:5] if regional else parts[2:4]))
        if end - start > timedelta(days=14):
            return 400, {"error": {"code": "400 Bad Request", "message": "The date range is too long."}}
        rows = [
            {"from": z(at, False), "to": z(at + HALF, False),
             "intensity": {"forecast": round(value_at(at)) + 3, "index": "moderate"}
             | ({} if regional else {"actual": round(value_at(at))})}
            for at in steps(start, self._end(end), HALF)
        ]  # fmt: skip
        rows = self.change(rows)
        return 200, {"data": {"regionid": 13, "shortname": "London", "data": rows} if regional else rows}

    def electricity_maps(self, path, query, headers):
        """Hours up to `now`; the last three estimated, ahead of it a forecast."""
        if headers.get("auth-token") != "hush":
            return 401, {"message": "Invalid auth-token"}
        what, now = path.rpartition("/")[2], self.now
        bounds = {
            "history": (now - 24 * HOUR, now), "forecast": (now, self._end(now + 72 * HOUR)),
            "past-range": (iso(query["start"]), min(now, iso(query["end"]))) if "start" in query else None,
        }[what]  # fmt: skip
        if bounds[1] - bounds[0] > timedelta(days=10):
            return 400, {"error": "The time range is limited to 10 days"}
        rows = [
            {"zone": query["zone"], "carbonIntensity": round(value_at(at)) + 5 * (what == "forecast"),
             "datetime": at.strftime("%Y-%m-%dT%H:%M:%S.000Z"), "emissionFactorType": query["emissionFactorType"]}
            | ({} if what == "forecast" else {"isEstimated": at >= now - 3 * HOUR})
            for at in steps(*bounds, HOUR)
        ]  # fmt: skip
        key = {"history": "history", "forecast": "forecast", "past-range": "data"}[what]
        return 200, {"zone": query["zone"], key: self.change(rows)}

    def watttime_login(self, path, query, headers):
        if headers.get("Authorization") != "Basic Z3JpZHBhY2U6aHVzaA==":
            return 403, {"error": "Invalid username or password"}
        self.tokens += 1
        return 200, {"token": f"jwt-{self.tokens}"}

    def watttime(self, path, query, headers):
        """Five-minute values up to `now` (historical) or from then on (forecast)."""
        if headers.get("Authorization") != f"Bearer jwt-{self.tokens}":
            return 401, {"detail": "Invalid authorization: JWT token is expired"}
        forecast = path.endswith("forecast")
        bounds = (
            (self.now, self.now + int(query["horizon_hours"]) * HOUR) if forecast
            else (iso(query["start"]), min(self.now, iso(query["end"])))
        )  # fmt: skip
        rows = [
            {"point_time": at.strftime("%Y-%m-%dT%H:%M:%S+00:00"), "value": value_at(at) * 10 + forecast}
            for at in steps(*bounds, timedelta(minutes=5))
        ]
        meta = {"region": query["region"], "signal_type": query["signal_type"], "units": self.units,
                "data_point_period_seconds": 300, "warnings": []}  # fmt: skip
        return 200, {"data": self.change(rows), "meta": meta}

    def own(self, path, query, headers):
        start, end = iso(query["from"]), iso(query["to"])
        rows = [{"t": z(at), "p": {"amount": str(value_at(at))}} for at in steps(start, self._end(end), HOUR)]
        return 200, {"meta": {"unit": "USD/MWh"}, "data": {"prices": self.change(rows)}}

    SERVICES = {  # noqa: RUF012
        "/v1/products/": octopus, "/v1/marketdata": awattar, "/intensity/": uk_carbon, "/regional/": uk_carbon,
        "/own/": own, "/v3/carbon-intensity/": electricity_maps, "/login": watttime_login, "/v3/": watttime,
    }  # fmt: skip


class Handler(BaseHTTPRequestHandler):
    """One exchange; `markets` is set by the server that makes it."""

    protocol_version = "HTTP/1.1"
    markets: Markets

    def do_GET(self):
        parts = urlsplit(self.path)
        query = {name: values[-1] for name, values in parse_qs(parts.query).items()}
        path = unquote(parts.path)
        self.markets.requests.append((path, query, dict(self.headers)))
        fault = self.markets.faults.pop(0) if self.markets.faults else {}
        if fault.get("hang"):
            self.markets.release.wait(20)
        status, told = self.markets.answer(path, query, self.headers)
        body = fault.get("body", json.dumps(told).encode())
        self.send_response(fault.get("status", status))
        headers = {"Content-Type": "application/json", "Content-Length": str(len(body))} | fault.get("headers", {})
        for name, value in headers.items():
            self.send_header(name, value)
        self.end_headers()
        self.close_connection = "half" in fault or "drip" in fault
        if fault.get("drip"):
            self._drip(body)
        else:
            self.wfile.write(body[: len(body) // 2] if fault.get("half") else body)

    def _drip(self, body):
        for byte in body:
            if self.markets.release.wait(0.1):
                return
            self.wfile.write(bytes([byte]))
            self.wfile.flush()

    def log_message(self, *args):
        """Say nothing."""

    def handle(self):
        with suppress(ConnectionError):
            super().handle()


@contextmanager
def serving(markets=None):
    """A server with these services; gives its address and them."""
    markets = markets or Markets()
    server = ThreadingHTTPServer(("127.0.0.1", 0), type("One", (Handler,), {"markets": markets}))
    server.daemon_threads = True
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True)
    thread.start()
    try:
        yield f"http://127.0.0.1:{server.server_address[1]}", markets
    finally:
        markets.release.set()
        server.shutdown()
        server.server_close()
        thread.join(5)
