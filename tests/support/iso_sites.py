"""Web sites of the market operators and of ENTSO-E as the libraries find them: documented forms, invented numbers.

Requests of `requests` are answered through `responses`, those of `urllib` (through which pandas reads a CSV's address)
by a stand-in for `urlopen`. Day files of days from `Sites.absent` on are not there yet.
"""

import io
import json
import re
import urllib.error
import urllib.request
import zipfile
from contextlib import contextmanager
from datetime import date, datetime, time, timedelta
from unittest.mock import patch
from urllib.parse import parse_qs, urlsplit
from zoneinfo import ZoneInfo

import responses

from adapters.signals import child_main
from adapters.signals.child import read_answer
from tests.support.markets import HOUR, value_at

ET, CT, PT = ZoneInfo("America/New_York"), ZoneInfo("America/Chicago"), ZoneInfo("America/Los_Angeles")
EST = ZoneInfo("EST")
UTC = ZoneInfo("UTC")


def hours(day: date, zone: ZoneInfo):
    """Starts of the hours of a local day, in UTC: 23, 24 or 25."""
    start, end = (datetime.combine(d, time(), zone).astimezone(UTC) for d in (day, day + timedelta(days=1)))
    return [start + n * HOUR for n in range((end - start) // HOUR)]


def csv(rows, head: str = "") -> str:
    return head + "".join(",".join(str(item) for item in row) + "\n" for row in rows)


def zipped(name: str, text: str) -> bytes:
    out = io.BytesIO()
    with zipfile.ZipFile(out, "w") as archive:
        archive.writestr(name, text)
    return out.getvalue()


class Sites:
    """All of them; `absent` is the first day whose files are not there, `asked` every address."""

    def __init__(self, today=date(2022, 9, 6)):
        self.today = today
        self.absent = date(9999, 1, 1)
        self.asked = []
        self.status = 200
        self.change = lambda text: text

    # ------------------------------------------------------------ one method a market
    def caiso(self, query):
        start, end = (datetime.strptime(query[name], "%Y%m%dT%H:%M%z") for name in ("startdatetime", "enddatetime"))
        kinds = ("LMP", "MCE", "MCC", "MCL", "MGHG")
        rows = [
            (at.strftime("%Y-%m-%dT%H:%M:%S-00:00"), (at + HOUR).strftime("%Y-%m-%dT%H:%M:%S-00:00"),
             query["node"], kind, value_at(at) if kind == "LMP" else 0)
            for n in range((end - start) // HOUR)
            for at in [start.astimezone(UTC) + n * HOUR] if at.astimezone(PT).date() < self.absent
            for kind in kinds
        ]  # fmt: skip
        if not rows:
            return None
        head = "INTERVALSTARTTIME_GMT,INTERVALENDTIME_GMT,NODE,LMP_TYPE,MW\n"
        return zipped("20220906_PRC_LMP_DAM_v12.csv", csv(rows, head))

    def nyiso(self, day):
        head = '"Time Stamp","Name","PTID","LBMP ($/MWHr)","Marginal Cost Losses ($/MWHr)",'
        head += '"Marginal Cost Congestion ($/MWHr)"\n'
        return csv([(at.astimezone(ET).strftime("%m/%d/%Y %H:%M"), "WEST", 61752, value_at(at), 1, -2)
                    for at in hours(day, ET)], head)  # fmt: skip

    def isone(self, day):
        head = "C,line\n" * 4 + "H,Date,Hour Ending,Location ID,Location Name,Location Type,"
        head += "Locational Marginal Price,Energy Component,Congestion Component,Marginal Loss Component\nH,units\n"
        rows = []
        for at in hours(day, ET):
            local = at.astimezone(ET)
            rows.append(("D", day.strftime("%m/%d/%Y"), f"{local.hour + 1:02d}{'X' if local.fold else ''}", 4000,
                         ".H.INTERNAL_HUB", "HUB", value_at(at), 0, 0, 0))  # fmt: skip
        return csv(rows, head) + "T,1\n"

    def miso(self, day):
        starts = hours(day, EST)
        head = f"Day Ahead Market ExPost LMPs\n{day:%m/%d/%Y}\n\nx\nNode,Type,Value,"
        head += ",".join(f"HE {n + 1}" for n in range(24)) + "\n"
        return csv([("INDIANA.HUB", "Hub", kind, *(value_at(at) if kind == "LMP" else 0 for at in starts))
                    for kind in ("LMP", "MCC", "MLC")], head)  # fmt: skip

    def spp(self, day):
        head = "Interval,GMTIntervalEnd,Settlement Location,Pnode,LMP,MLC,MCC,MEC\n"
        stamp = "%m/%d/%Y %H:%M:%S"
        return csv([((at + HOUR).astimezone(CT).strftime(stamp), (at + HOUR).strftime(stamp), "SPPNORTH_HUB",
                     "SPPNORTH_HUB", value_at(at), 0, 0, 0) for at in hours(day, CT)], head)  # fmt: skip

    def ercot_list(self):
        """Documents of the last ten days: published at 12:30 for the next day."""
        docs = []
        for back in range(-3, 12):
            day = self.today - timedelta(days=back)
            if day + timedelta(days=1) < self.absent:
                name = f"cdr.00012331.0000000000000000.{day:%Y%m%d}.123000.DAMSPNP4190.csv.zip"
                about = {"DocID": f"{day:%Y%m%d}", "FriendlyName": f"DAMSPNP4190_{day:%Y%m%d}_csv"}
                about |= {"PublishDate": f"{day:%Y-%m-%d}T12:30:00-05:00", "ConstructedName": name}
                docs.append({"Document": about})
        return {"ListDocsByRptTypeRes": {"DocumentList": docs}}

    def ercot(self, published):
        head = "DeliveryDate,HourEnding,SettlementPoint,SettlementPointPrice,DSTFlag\n"
        day = published + timedelta(days=1)
        rows = [(day.strftime("%m/%d/%Y"), f"{at.astimezone(CT).hour + 1:02d}:00", "HB_HUBAVG", value_at(at),
                 "Y" if at.astimezone(CT).fold else "N") for at in hours(day, CT)]  # fmt: skip
        return zipped("DAM.csv", csv(rows, head))

    def pjm(self, feed, query):
        if feed == "pnode":
            items = [{"pnode_id": 51217, "pnode_name": "WESTERN HUB", "pnode_type": "AGGREGATE", "pnode_subtype": "HUB",
                      "effective_date": "2010-01-01T00:00:00", "voltage_level": None, "zone": None}]  # fmt: skip
        else:
            first, last = (
                datetime.strptime(text, "%m/%d/%Y %H:%M").replace(tzinfo=ET)
                for text in query["datetime_beginning_ept"].split("to")
            )
            items = [
                {"datetime_beginning_utc": at.strftime("%Y-%m-%dT%H:%M:%S"), "pnode_id": 51217, "type": "HUB",
                 "pnode_name": "WESTERN HUB", "total_lmp_da": value_at(at), "system_energy_price_da": 0,
                 "congestion_price_da": 0, "marginal_loss_price_da": 0}
                for n in range((last - first) // HOUR + 1) for at in [first.astimezone(UTC) + n * HOUR]
                if at.astimezone(ET).date() < self.absent
            ]  # fmt: skip
        return {"totalRows": len(items), "items": items}

    def entsoe(self, query):
        """One document with a time series a day, curve type A03: a point that repeats the one before is left out."""
        start, end = (datetime.strptime(query[name], "%Y%m%d%H%M").replace(tzinfo=UTC)
                      for name in ("periodStart", "periodEnd"))  # fmt: skip
        series = []
        at = start
        while at < min(end, datetime.combine(self.absent, time(), UTC) if self.absent.year < 9999 else end):
            until = min(end, at + timedelta(days=1))
            prices = [value_at(at + n * HOUR) // 10 * 10 for n in range(max(1, (until - at) // HOUR))]
            points = "".join(
                f"<Point><position>{n + 1}</position><price.amount>{price}</price.amount></Point>"
                for n, price in enumerate(prices) if n == 0 or price != prices[n - 1]
            )  # fmt: skip
            series.append(
                "<TimeSeries><mRID>1</mRID><businessType>A62</businessType>"
                "<currency_Unit.name>EUR</currency_Unit.name><price_Measure_Unit.name>MWH</price_Measure_Unit.name>"
                f"<curveType>A03</curveType><Period><timeInterval><start>{at:%Y-%m-%dT%H:%MZ}</start>"
                f"<end>{until:%Y-%m-%dT%H:%MZ}</end></timeInterval><resolution>PT60M</resolution>{points}</Period>"
                "</TimeSeries>"
            )
            at = until
        return self.change(
            "<?xml version='1.0' encoding='UTF-8'?><Publication_MarketDocument xmlns="
            f"'urn:iec62325.351:tc57wg16:451-3:publicationdocument:7:3'>{''.join(series)}</Publication_MarketDocument>"
        )

    # ------------------------------------------------------------ which address is whose
    def answer(self, address: str):
        """Status, headers and body for an address."""
        self.asked.append(address)
        if self.status != 200:
            return self.status, {"Retry-After": "90"}, b"no"
        parts = urlsplit(address)
        query = {name: values[-1] for name, values in parse_qs(parts.query).items()}
        if "oasis.caiso.com" in parts.netloc:
            body = self.caiso(query)
            kind = "attachment; filename=x.csv.zip;" if body else "attachment; filename=x.xml.zip;"
            return 200, {"Content-Disposition": kind}, body or zipped("x.xml", "<error/>")
        if "api.pjm.com" in parts.netloc:
            return 200, {}, json.dumps(self.pjm(parts.path.rpartition("/")[2], query)).encode()
        if "transparency" in parts.netloc or "web-api.tp.entsoe.eu" in parts.netloc:
            return 200, {"Content-Type": "text/xml"}, self.entsoe(query).encode()
        if "IceDocListJsonWS" in address:
            return 200, {}, json.dumps(self.ercot_list()).encode()
        return self._day_file(address)

    def _day_file(self, address):
        if address.endswith("gen-fuel-mix"):
            return 200, {}, b"cookie"
        stamp = re.search(r"(20\d{6})", address.rpartition("/")[2])
        day = date.fromisoformat(stamp[1]) if stamp else None
        places = {"misdownload": self.ercot, "misoenergy": self.miso, "nysdi": self.nyiso, "iso-ne": self.isone,
                  "spp.org": self.spp}  # fmt: skip
        made = next((make for part, make in places.items() if part in address), None)
        if made is None or day is None or (made != self.ercot and day >= self.absent):
            return 404, {}, b"not there"
        body = made(day)
        return 200, {"Content-Type": "text/csv"}, body if isinstance(body, bytes) else body.encode()


def in_process(place, ask, question, proxy, ca):
    """`ask_child` without the process: the question and its answer go through JSON as they would."""
    told = {"start": ask.start.isoformat(), "end": ask.end.isoformat(), "now": ask.now.isoformat(), **question}
    answer = json.dumps(child_main.answer(json.loads(json.dumps(told))))
    return read_answer(place, question, answer, 0, "")


@contextmanager
def iso_sites(today=date(2022, 9, 6)):
    """The sites, for whoever asks in this process."""
    import pandas as pd
    from gridstatus import Ercot

    sites = Sites(today)

    def called(request):
        status, headers, body = sites.answer(request.url)
        return status, headers, body

    def opened(request, *_, **__):
        address = request if isinstance(request, str) else request.full_url
        status, _headers, body = sites.answer(address)
        if status != 200:
            raise urllib.error.HTTPError(address, status, "Not Found", {}, None)
        answer = io.BytesIO(body)
        answer.headers = {}
        return answer

    points = pd.DataFrame({"RESOURCE_NODE": ["A_NODE"]})
    with (
        responses.RequestsMock(assert_all_requests_are_fired=False) as mock,
        patch.object(urllib.request, "urlopen", opened),
        patch.object(Ercot, "_get_settlement_point_mapping", lambda self, verbose=False: points),
        patch("gridstatus.caiso.caiso.time.sleep"),
    ):
        for method in (responses.GET, responses.POST):
            mock.add_callback(method, re.compile(r"https?://(?!127\.).*"), callback=called, content_type=None)
        yield sites
