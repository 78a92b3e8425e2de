"""OpenADR 3 in the tests: a server of ours on a loopback port, and our client with books of its own."""

from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from pathlib import Path

from adapters.context import AdapterContext
from adapters.dr.openadr3.config import OpenAdr3Config
from adapters.dr.openadr3.feed import OpenAdr3
from adapters.dr.openadr3.objects import read_event
from adapters.dr.openadr3.orders import Known, Reader3
from adapters.dr.vtn.server import VtnServer
from adapters.dr.vtn.vtn import Vtn, VtnUser
from scheduler.clock import WallClock
from scheduler.store.store import Store

NOON = datetime(2026, 7, 1, 12, tzinfo=UTC)
HOUR, MINUTE, SECOND = timedelta(hours=1), timedelta(minutes=1), timedelta(seconds=1)
USERS = {"ven": VtnUser("ven-secret"), "bl": VtnUser("bl-secret", business=True), "other": VtnUser("other-secret")}
RESPONSES = {
    "levels": {1: "-10%", 2: "-25%", 3: "-50%"},
    "alerts": {"ALERT_GRID_EMERGENCY": "-40%"},
    "unit": None,
}


def config(url="https://vtn.example.net/openadr3/3.1.0", **fields):
    return OpenAdr3Config.model_validate({"type": "openadr3", "url": url, "ven_name": "ven-np15"} | RESPONSES | fields)


def stated(moment):
    return moment.isoformat().replace("+00:00", "Z")


def period(start=None, duration=None, **more):
    said = {"start": stated(start) if isinstance(start, datetime) else start, "duration": duration} | more
    return {"intervalPeriod": {name: value for name, value in said.items() if value is not None}}


def payload(kind, *values):
    return {"type": kind, "values": list(values)}


def units(kind, unit, **more):
    return {"objectType": "EVENT_PAYLOAD_DESCRIPTOR", "payloadType": kind, "units": unit} | more


def capacity(*values, unit="KW", kind="IMPORT_CAPACITY_LIMIT", start=NOON + HOUR, each="PT30M", **more):
    """An event with a capacity limit in each of equal intervals."""
    intervals = [{"id": index, "payloads": [payload(kind, value)]} for index, value in enumerate(values)]
    described = {"payloadDescriptors": [units(kind, unit)]} if unit else {}
    return {"id": "e1", "programID": "p1"} | period(start, each) | {"intervals": intervals} | described | more


def simple(*levels, start=NOON + HOUR, each="PT1H", **more):
    intervals = [{"id": index, "payloads": [payload("SIMPLE", level)]} for index, level in enumerate(levels)]
    return {"id": "e1", "programID": "p1"} | period(start, each) | {"intervals": intervals} | more


def orders(*events, now=NOON, seen_at=NOON, descriptors=(), **settings):
    """What our client makes of events that it has just seen."""
    reader = Reader3(config(**settings), "dr", "sv", UTC, descriptors)
    return reader.orders([Known(read_event(event), event, seen_at) for event in events], now)


def caps(found):
    """Messages in short: id -> [(start, end, value)] with times in hours after noon."""

    def hours(moment):
        return round((moment - NOON) / HOUR, 4)

    return {
        message.id: [
            (
                hours(t.start),
                hours(t.end),
                next(v for v in (t.limit_kw, t.reduce_kw, t.reduce_percent) if v is not None),
            )
            for t in message.targets
        ]
        for message in found.messages
    }


@contextmanager
def server(*warts, port=0, vtn=None, users=USERS, broker=""):
    """A server of ours with one program, `dr` (id p1)."""
    vtn = vtn or Vtn(users, frozenset(warts), broker=broker)
    if not vtn.objects["programs"]:
        vtn._create("programs", {"programName": "dr"}, "bl", "p1")
    running = VtnServer(vtn, port=port)
    running.start()
    try:
        yield running
    finally:
        running.stop()


@contextmanager
def feed(url, store=None, monkeypatch=None, folder=None, **settings):
    """Our client of a server, with its records in a store."""
    folder = Path(folder or ".")
    login = {"client_id": "ven", "client_secret": "env:VEN_SECRET"} if settings.pop("login", True) else {}
    made = OpenAdr3(
        config(url, **({"poll": "1s", "timeout": "3s"} | login | settings)),
        AdapterContext(WallClock(), folder, store or Store.in_memory(), extras={"program": "dr", "site": "sv"}),
    )
    try:
        yield made
    finally:
        made.close()
