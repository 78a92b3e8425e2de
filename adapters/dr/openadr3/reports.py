"""Reports to an OpenADR 3 server: what an event asks to be told, when it is due.

Why nothing is made up: a meter that was silent gives no value and DATA_QUALITY MISSING, never a zero; what is known in
part is ESTIMATED. A report that may have arrived (a 5xx, a time-out) is looked for before it is sent again.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from datetime import datetime, timedelta, tzinfo
from typing import Any

from adapters.dr.openadr3.config import OpenAdr3Config
from adapters.dr.openadr3.http import ServerError, VtnClient
from adapters.dr.openadr3.intervals import Slot, Timeline, timeline
from adapters.dr.openadr3.objects import ReportDescriptor
from adapters.dr.openadr3.orders import Fault, Known
from adapters.dr.openadr3.party import Party
from adapters.dr.openadr3.schedule import Due, due_reports, next_due_at, sub_slots
from adapters.dr.openadr3.times import FOREVER, written, written_duration
from adapters.dr.polled import SiteFigures
from adapters.ports import RecordStore

KIND = "openadr3_report"
SUB_INTERVAL = timedelta(minutes=5)
AGGREGATED = "AGGREGATED_REPORT"
WHOLE_SHARE = 0.99
"""Share of an interval that must have been measured for its figure to be OK."""
Figure = tuple[float | str | None, str]
"""A value (None: there is none) and its DATA_QUALITY."""


class Reports:
    """Keeps what was sent in `records` under the program's id."""

    def __init__(
        self, config: OpenAdr3Config, client: VtnClient, party: Party, records: RecordStore | None, program: str
    ) -> None:
        self._config, self._client, self._party, self._records, self._program = config, client, party, records, program
        self._sent: dict[str, dict[str, Any]] = dict(records.all(KIND)) if records is not None else {}
        self.faults: list[Fault] = []

    def send(self, known: Sequence[Known], figures: SiteFigures, zone: tzinfo, now: datetime) -> datetime | None:
        """Send all that is due; when the next is. Raises ServerError, with what was sent before remembered."""
        self.faults, following = [], list[datetime]()
        for one in known:
            if self._config.answers:
                self._answer(one, figures, now)
            for index, asked in enumerate(one.event.report_descriptors):
                try:
                    line = timeline(one.event, one.seen_at, f"{self._config.ven_name}/", zone, randomized=False)
                    when = self._one(one, index, asked, line, figures, now, zone)
                except ValueError as error:
                    self.faults.append(Fault(one.event.id, f"reportDescriptors[{index}]: {error}"))
                    continue
                following += [when] if when is not None else []
        return min(following, default=None)

    def _one(
        self,
        known: Known,
        index: int,
        asked: ReportDescriptor,
        line: Timeline,
        figures: SiteFigures,
        now: datetime,
        zone: tzinfo,
    ) -> datetime | None:
        read = _reader(asked)
        key = f"{self._program}/{known.event.id}/{index}"
        if asked.frequency == 0:
            return self._ad_hoc(known, key, asked, read, figures, now)
        last = self._sent.get(key, {}).get("number")
        for due in due_reports(known.event, line, asked, known.seen_at, now, last, zone):
            name = f"{known.event.id[:80]}-{asked.payload_type[:24]}-{index}-{due.number}"
            self._post(key, due.number, name, self._body(known, name, asked, read, due, figures))
        return next_due_at(known.event, line, asked, known.seen_at, now, zone)

    def _ad_hoc(
        self, known: Known, key: str, asked: ReportDescriptor, read: Reader, figures: SiteFigures, now: datetime
    ) -> datetime | None:
        """A report that we send when we choose: when its value changes, or after `report_every`."""
        every = self._config.report_every
        slot = Slot(now - every, now, 0, ())
        value = read(slot, known, figures)
        last = self._sent.get(key, {})
        at = datetime.fromisoformat(last["at"]) if "at" in last else None
        stated = isinstance(value[0], str) and value[0] != last.get("value")
        if at is None or stated or now >= at + every:
            number = int(last.get("number", -1)) + 1
            name = f"{known.event.id[:80]}-{asked.payload_type[:24]}-{number}"
            body = self._body(known, name, asked, read, Due(number, now, (slot,)), figures)
            self._post(key, number, name, body, at=now.isoformat(), value=value[0])
            at = now
        return at + every

    def _answer(self, known: Known, figures: SiteFigures, now: datetime) -> None:
        """Tell how an event was answered, once for each answer, with what can be had instead."""
        told = figures.look(known.event.id)
        if not told.opt:
            return
        key, said = f"{self._program}/{known.event.id}/answer", f"{told.opt}: {told.reason}"
        last = self._sent.get(key, {})
        if last.get("value") == said:
            return
        number = int(last.get("number", -1)) + 1
        name = f"{known.event.id[:80]}-answer-{number}"
        payloads = [_payload("OPERATING_STATE", _state(told.opt, told.state)), _payload("X_GRIDPACE_OPT", told.opt)]
        payloads.append(_payload("X_GRIDPACE_REASON", told.reason[:500]))
        if told.offer_kw is not None:
            payloads.append(_payload("X_GRIDPACE_OFFER_KW", round(told.offer_kw, 1)))
        intervals = [{"id": 0, "payloads": payloads}]
        resource = {"resourceName": self._party.resource, "intervalPeriod": _period(now, now), "intervals": intervals}
        self._post(key, number, name, self._envelope(known, name, [resource]), value=said)

    # ------------------------------------------------------------ one report
    def _body(
        self, known: Known, name: str, asked: ReportDescriptor, read: Reader, due: Due, figures: SiteFigures
    ) -> dict[str, Any]:
        slots: Sequence[Slot] = [slot for slot in due.slots if slot.end < FOREVER]
        if asked.report_intervals != "INTERVALS":
            slots = sub_slots(slots, SUB_INTERVAL)
        intervals = []
        for slot in slots:
            value, quality = read(slot, known, figures)
            payloads = [] if value is None else [_payload(asked.payload_type, value)]
            payloads.append(_payload("DATA_QUALITY", quality))
            period = _period(slot.start, slot.end)
            intervals.append({"id": slot.id, "intervalPeriod": period, "payloads": payloads})
        resource = AGGREGATED if asked.aggregate else self._party.resource
        described = {
            "objectType": "REPORT_PAYLOAD_DESCRIPTOR",
            "payloadType": asked.payload_type,
            "readingType": asked.reading_type or "DIRECT_READ",
        }
        if _unit(asked):
            described["units"] = _unit(asked)
        body = self._envelope(known, name, [{"resourceName": resource, "intervals": intervals}])
        return body | {"payloadDescriptors": [described]}

    def _envelope(self, known: Known, name: str, resources: list[dict[str, Any]]) -> dict[str, Any]:
        body = {
            "eventID": known.event.id,
            "clientName": self._config.ven_name,
            "reportName": name,
            "resources": resources,
        }
        return body | ({"programID": known.event.program_id} if self._party.old else {})

    def _post(self, key: str, number: int, name: str, body: Mapping[str, Any], **kept: Any) -> None:
        last = self._sent.get(key, {})
        if last.get("trying") == name and self._is_there(body, name):
            self._keep(key, {"number": number} | kept)
            return
        self._keep(key, last | {"trying": name})
        try:
            self._client.post("/reports", body)
        except ServerError as error:
            if not 400 <= error.status < 500 or error.status in {401, 403}:
                raise
            self.faults.append(Fault(str(body["eventID"]), f"report {name} is not taken: {error}"))
        self._keep(key, {"number": number} | kept)

    def _is_there(self, body: Mapping[str, Any], name: str) -> bool:
        items, _ = self._client.every("/reports", eventID=body["eventID"], clientName=self._config.ven_name)
        return any(isinstance(item, dict) and item.get("reportName") == name for item in items)

    def _keep(self, key: str, value: dict[str, Any]) -> None:
        self._sent[key] = value
        if self._records is not None:
            self._records.put(KIND, key, value | {"forget_after_s": 30 * 86_400.0})


Reader = Callable[[Slot, Known, SiteFigures], Figure]


def _reader(asked: ReportDescriptor) -> Reader:
    reader = _READERS.get(asked.payload_type.upper())
    if reader is None:
        raise ValueError(f"{asked.payload_type[:64]} is not reported by this site")
    unit = _unit(asked)
    allowed = _UNITS[asked.payload_type.upper()]
    if unit not in allowed:
        raise ValueError(f"{asked.payload_type} in {unit[:32]} is not reported; known: {', '.join(allowed)}")
    scale = {"MW": 0.001, "MWH": 0.001}.get(unit, 1.0)

    def read(slot: Slot, known: Known, figures: SiteFigures) -> Figure:
        value, quality = reader(slot, known, figures, unit)
        return (round(value * scale, 6) if isinstance(value, float) else value), quality

    return read


def _unit(asked: ReportDescriptor) -> str:
    """Unit of a report: as asked, else the usual one of its type."""
    allowed = _UNITS.get(asked.payload_type.upper(), ("",))
    return (asked.units or allowed[0]).strip().upper()


def _usage(slot: Slot, _known: Known, figures: SiteFigures, unit: str) -> Figure:
    """Measured mean power, or energy, of the site's import. An exporting site is reported as it is."""
    kw, share = figures.measured_kw(slot.start, slot.end)
    if kw is None:
        return None, "MISSING"
    return _as(kw, slot, unit), "OK" if share >= WHOLE_SHARE else "ESTIMATED"


def _baseline(slot: Slot, known: Known, figures: SiteFigures, unit: str) -> Figure:
    kw = figures.look(known.event.id).baseline_kw
    return (None, "MISSING") if kw is None else (_as(kw, slot, unit), "OK")


def _delta(slot: Slot, known: Known, figures: SiteFigures, unit: str) -> Figure:
    """Measured import less the baseline: below 0 is a reduction."""
    base, measured = _baseline(slot, known, figures, unit), _usage(slot, known, figures, unit)
    if not (isinstance(base[0], float) and isinstance(measured[0], float)):
        return None, "MISSING"
    return measured[0] - base[0], measured[1]


def _cap(_slot: Slot, known: Known, figures: SiteFigures, _unit: str) -> Figure:
    kw = figures.look(known.event.id).cap_kw
    return (None, "MISSING") if kw is None else (float(kw), "OK")


def _available(_slot: Slot, known: Known, figures: SiteFigures, _unit: str) -> Figure:
    """What can be shed; for intervals to come, what can be shed now stands in."""
    kw = figures.look(known.event.id).available_kw
    return (None, "MISSING") if kw is None else (float(kw), "ESTIMATED")


def _forecast(slot: Slot, _known: Known, figures: SiteFigures, unit: str) -> Figure:
    kw = figures.planned_kw(slot.start, slot.end)
    return (None, "MISSING") if kw is None else (_as(kw, slot, unit), "ESTIMATED")


def _operating(_slot: Slot, known: Known, figures: SiteFigures, _unit: str) -> Figure:
    told = figures.look(known.event.id)
    if told.import_kw is None:
        return "ERROR", "OK"
    return _state(told.opt, told.state), "OK"


def _state(opt: str, state: str) -> str:
    if opt == "out" or state in {"declined", "refused"}:
        return "RUNNING_OPTED_OUT"
    return "RUNNING_CURTAILED" if state in {"ramping_in", "active", "ramping_out"} else "RUNNING_NORMAL"


def _as(kw: float, slot: Slot, unit: str) -> float:
    energy = unit.endswith("WH")
    return float(kw * ((slot.end - slot.start) / timedelta(hours=1) if energy else 1.0))


def _payload(kind: str, value: Any) -> dict[str, Any]:
    return {"type": kind, "values": [value]}


def _period(start: datetime, end: datetime) -> dict[str, str]:
    return {"start": written(start), "duration": written_duration(end - start)}


POWER, ENERGY, BOTH = ("KW", "MW"), ("KWH", "MWH", "KW", "MW"), ("KW", "MW", "KWH", "MWH")
_UNITS: dict[str, tuple[str, ...]] = {
    "USAGE": ENERGY,
    "DEMAND": POWER,
    "READING": BOTH,
    "BASELINE": BOTH,
    "DELTA_USAGE": ENERGY,
    "SETPOINT": POWER,
    "USAGE_FORECAST": ENERGY,
    "LOAD_SHED_DELTA_AVAILABLE": POWER,
    "OPERATING_STATE": ("",),
}
_READERS: dict[str, Callable[[Slot, Known, SiteFigures, str], Figure]] = {
    "USAGE": _usage,
    "DEMAND": _usage,
    "READING": _usage,
    "BASELINE": _baseline,
    "DELTA_USAGE": _delta,
    "SETPOINT": _cap,
    "USAGE_FORECAST": _forecast,
    "LOAD_SHED_DELTA_AVAILABLE": _available,
    "OPERATING_STATE": _operating,
}
