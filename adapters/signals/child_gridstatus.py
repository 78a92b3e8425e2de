"""Questions to `gridstatus`, which knows the web sites of the American market operators (runs in the child only).

Which call is right differs by market: ERCOT settles on settlement point prices (with scarcity adders), not on LMPs; PJM
names its nodes by number and has a faster, unverified feed; tomorrow's file is an error where it is not there yet.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from datetime import datetime, timedelta
from typing import Any

from adapters.signals.child_answers import Told

CLASSES = {"CAISO": "CAISO", "ERCOT": "Ercot", "PJM": "PJM", "MISO": "MISO", "NYISO": "NYISO", "ISONE": "ISONE",
           "SPP": "SPP"}  # fmt: skip
REAL_TIME = {"CAISO": "REAL_TIME_5_MIN", "ERCOT": "REAL_TIME_15_MIN"}
NAMES = ("Location", "Location Id", "Location Name", "Location Short Name", "Node")
LOADS = ("Load Forecast", "System Total", "MISO MTLF")
DAY = timedelta(days=1)

Rows = list[tuple[str, str, float | None]]


def rows(question: Mapping[str, Any]) -> Rows:
    """Rows of one question: `market`, `kind`, `product`, `location`, `key`, `start`, `end`, `now`."""
    import gridstatus
    import pandas as pd

    keyed = {"api_key": question["key"]} if question["market"] == "PJM" else {}
    iso = getattr(gridstatus, CLASSES[question["market"]])(**keyed)
    start, now = (datetime.fromisoformat(question[name]) for name in ("start", "now"))
    local = pd.Timestamp(now).tz_convert(iso.default_timezone)
    today = local.normalize()
    first = min(pd.Timestamp(start).tz_convert(iso.default_timezone).normalize(), today)
    tomorrow = today + pd.DateOffset(days=1)
    days = (first, today, tomorrow, tomorrow + pd.DateOffset(days=1))
    if question["kind"] == "system_load":
        return list(_loads(iso, question["market"], days))
    real_time = question["product"] == "real_time"
    frames = _real_time(iso, question, pd.Timestamp(start), local) if real_time else _day_ahead(iso, question, days)
    found = [row for frame in frames for row in _prices(frame, question["location"])]
    if not found:
        raise Told(f'nothing came for location "{question["location"]}"; does {question["market"]} know it?')
    return [row for row in found if row[1] > start.isoformat()]


def _day_ahead(iso: Any, question: Mapping[str, Any], days: tuple[Any, Any, Any, Any]) -> Iterator[Any]:
    """Up to today, which must be there, and tomorrow, which may not be."""
    first, _, tomorrow, after = days
    if question["market"] == "ERCOT":  # asked for by the day of publication
        import pandas as pd

        begin = first - pd.DateOffset(days=1)
        yield iso.get_spp(date=begin, end=tomorrow, market="DAY_AHEAD_HOURLY", locations=[question["location"]])
        return
    yield _some(lambda: _lmp(iso, question, first, tomorrow))
    yield from _if_there(lambda: _lmp(iso, question, tomorrow, after))


def _lmp(iso: Any, question: Mapping[str, Any], start: Any, end: Any) -> Any:
    if question["market"] == "SPP":
        return iso.get_lmp_day_ahead_hourly(date=start, end=end)
    return iso.get_lmp(date=start, end=end, market="DAY_AHEAD_HOURLY", locations=_locations(question))


def _real_time(iso: Any, question: Mapping[str, Any], start: Any, now: Any) -> Iterator[Any]:
    """From `start` until now, of each market what it settles on and publishes within minutes."""
    market, begin = question["market"], min(start.tz_convert(iso.default_timezone), now - DAY / 24)
    if market == "ERCOT":
        yield iso.get_spp(date=begin, end=now, market=REAL_TIME[market], locations=[question["location"]])
    elif market == "SPP":
        yield iso.get_lmp_real_time_5_min_by_location(date=begin, end=now)
    elif market == "PJM":
        yield iso.get_lmp_real_time_unverified_5_min(date=begin, end=now, locations=_locations(question))
    else:
        yield iso.get_lmp(date=begin, end=now, market="REAL_TIME_5_MIN", locations=_locations(question))


def _locations(question: Mapping[str, Any]) -> list[Any]:
    return [int(question["location"])] if question["market"] == "PJM" else [question["location"]]


def _some(call: Any) -> Any:
    """What the call returns; Told where the library found none of the days (and printed why)."""
    try:
        return call()
    except ValueError as error:
        if "No objects to concatenate" in str(error):
            raise Told("nothing came for any of the days asked for") from None
        raise


def _if_there(call: Any) -> Iterator[Any]:
    """What the call returns, or nothing: a file that is not published yet is an error of many kinds."""
    try:
        yield call()
    except Exception:  # noqa: BLE001 - the next question asks for it again; the gate says that it is late
        return


def _prices(frame: Any, location: str) -> Iterator[tuple[str, str, float | None]]:
    """Rows of the one location; Told when the market does not know it."""
    if not len(frame):
        return
    names = [name for name in NAMES if name in frame.columns]
    chosen = frame[frame[names].astype(str).eq(location).any(axis=1)]
    if not len(chosen):
        known = ", ".join(sorted(frame[names[0]].astype(str).unique())[:8])
        raise Told(f'no values for location "{location}"; there are {known}, ...')
    yield from _placed(chosen, "SPP" if "SPP" in frame.columns else "LMP")


def _loads(iso: Any, market: str, days: tuple[Any, Any, Any, Any]) -> Iterator[tuple[str, str, float | None]]:
    """The system's load as it was metered, then the operator's newest forecast for what lies ahead."""
    first, today, tomorrow, _ = days
    past = iso.get_load(today) if market == "MISO" else iso.get_load(date=first, end=tomorrow)
    known = list(_placed(_with_bounds(past), "Load"))
    yield from known
    since = known[-1][1] if known else today.isoformat()
    for ahead in _if_there(lambda: iso.get_load_forecast(date=iso.local_now() if market == "ERCOT" else today)):
        frame = _newest(ahead)
        column = next((name for name in LOADS if name in frame.columns), None)
        if column is None:
            raise Told(f"the load forecast has no column of {', '.join(LOADS)}")
        yield from (row for row in _placed(frame, column) if row[0] >= since)


def _newest(frame: Any) -> Any:
    """Of several forecasts for one interval the one published last; of several areas the whole."""
    for area, whole in (("Forecast Area", "RTO_COMBINED"), ("TAC Area Name", "CA ISO-TAC")):
        if area in frame.columns:
            frame = frame[frame[area] == whole]
    published = next((name for name in ("Publish Time", "Forecast Time") if name in frame.columns), None)
    frame = _with_bounds(frame)
    return frame if published is None else frame.sort_values(published).drop_duplicates("Interval Start", keep="last")


def _with_bounds(frame: Any) -> Any:
    """With both bounds of each interval, where the library tells one stamp only (by which its interval begins)."""
    if "Interval Start" in frame.columns and "Interval End" in frame.columns:
        return frame
    stamps = frame.sort_values("Time").drop_duplicates("Time")
    step = stamps["Time"].diff().median()
    return stamps.assign(**{"Interval Start": stamps["Time"], "Interval End": stamps["Time"] + step})


def _placed(frame: Any, column: str) -> Iterator[tuple[str, str, float | None]]:
    """Start, end and value of each row in UTC, by start; what is no number is None."""
    import pandas as pd

    ordered = frame.sort_values("Interval Start")
    starts, ends = (pd.to_datetime(ordered[name], utc=True) for name in ("Interval Start", "Interval End"))
    values = pd.to_numeric(ordered[column], errors="coerce")
    for begin, end, value in zip(starts, ends, values, strict=True):
        yield begin.isoformat(), end.isoformat(), None if pd.isna(value) else float(value)
