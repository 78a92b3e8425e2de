"""The two charts as ECharts options: power against what it must hold to, and the price.

Why plain dictionaries: they are pure functions of a Board, so they can be tested without a browser, and are sent again
only when they changed. Instants stay epoch milliseconds; the browser prints them in the site's zone, so the day on
which clocks change is drawn right. Colours of text come from the style sheet, those of lines read on dark and light.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from datetime import datetime, timedelta
from itertools import pairwise
from typing import Any

from scheduler.web.board import AHEAD, BINDING, PAST, Board

BLUE, VIOLET, AMBER, RED, GRAY = "#2f81d6", "#8d7bd8", "#d18a12", "#d8504d", "#8793a3"
BUCKET = timedelta(minutes=1)
Point = list[float | None]


def power_chart(board: Board) -> dict[str, Any]:
    """Measured import, plan, event target and hard limit in MW; past and ahead, with the present marked."""
    limit_kw = board.site.limit_kw if board.site else math.inf
    series = [
        _line("Limit", RED, _flat(limit_kw, board), width=1.5),
        _line("Event target", AMBER, targets(board), width=2),
        _line("Plan", VIOLET, planned(board), width=1.5, dash="dashed", step="end"),
        _line("Measured", BLUE, measured(board), width=2, area=True),
    ]
    series[-1] |= {"markLine": _now_line(board), "markArea": _event_bands(board)}
    return _chart(board, series, "MW", 2)


def price_chart(board: Board) -> dict[str, Any]:
    """Price per MWh, past and ahead, with the slot that holds now marked and named."""
    window = (board.now - PAST, board.now + AHEAD)
    rows = [row for row in board.prices if row[1] > window[0] and row[0] < window[1]]
    past = [row for row in rows if row[0] <= board.now]
    ahead = [row for row in rows if row[1] > board.now]
    series = [
        _line("Price ahead", BLUE, _steps(ahead), width=2, area=True),
        _line("Price so far", GRAY, _steps(past), width=2),
    ]
    said = f" · {ahead[0][2]:,.0f} {_money(board)}" if ahead else ""
    series[0] |= {"markLine": _now_line(board, said), "markArea": _present_slot(ahead)}
    return _chart(board, series, _money(board), 0)


def measured(board: Board) -> list[Point]:
    """One-minute means of the import in MW; a silence of more than ten minutes breaks the line."""
    points = _minute_means(board.series.get("at", ()), board.series.get("import_kw", ()))
    if board.tick and board.site and board.site.id in board.tick.import_kw:
        points.append((board.tick.at, board.tick.import_kw[board.site.id]))
    return _broken_where_silent(points)


def planned(board: Board) -> list[Point]:
    """What was planned until now, then the plan in force."""
    past = _minute_means(board.series.get("at", ()), board.series.get("planned_kw", ()))
    points = [_point(at, kw) for at, kw in past]
    if board.plan and board.site and (site := board.plan.sites.get(board.site.id)):
        grid = board.plan.grid
        points = [point for point in points if (point[0] or 0) < _ms(grid.start)]
        ahead = [pair for pair in zip(grid.edges, site.import_kw, strict=False) if pair[0] < board.now + AHEAD]
        points += [_point(at, kw) for at, kw in ahead]
        if ahead:
            points.append(_point(min(grid.edges[len(ahead)], board.now + AHEAD), ahead[-1][1]))
    return points


def targets(board: Board) -> list[Point]:
    """Recorded targets, then the strictest of the events to come; gaps where nothing is asked."""
    recorded = zip(board.series.get("at", ()), board.series.get("target_kw", ()), strict=False)
    points = _turns([_point(at, kw if kw is not None and math.isfinite(kw) else None) for at, kw in recorded])
    binding = [
        event
        for event in board.events
        if event.state in BINDING and event.end > board.now and math.isfinite(event.target_kw)
    ]
    moments = sorted({board.now} | {at for event in binding for at in (event.start, event.end) if at > board.now})
    for start, end in pairwise(moments):
        strictest = min((event.target_kw for event in binding if event.start <= start < event.end), default=None)
        points += [_point(start, strictest), _point(end, strictest)]
    return [*points, _point(moments[-1], None)] if binding else points


def _turns(points: list[Point]) -> list[Point]:
    """The points at which a stepped line starts, turns or ends."""
    last = len(points) - 1
    return [
        point
        for position, point in enumerate(points)
        if position in (0, last) or points[position - 1][1] != point[1] or points[position + 1][1] != point[1]
    ]


# ---------------------------------------------------------------- shapes of data
def _ms(moment: datetime) -> float:
    return round(moment.timestamp() * 1000)


def _point(moment: datetime, kw: float | None) -> Point:
    return [_ms(moment), None if kw is None else round(kw / 1000, 4)]


def _minute_means(moments: Sequence[datetime], values: Sequence[float | None]) -> list[tuple[datetime, float]]:
    """Mean of each minute at its first sample; values that are missing are left out."""
    sums: dict[int, tuple[datetime, float, int]] = {}
    for moment, value in zip(moments, values, strict=False):
        if value is not None and math.isfinite(value):
            first, total, count = sums.get(
                minute := int(moment.timestamp() // BUCKET.total_seconds()), (moment, 0.0, 0)
            )
            sums[minute] = (first, total + value, count + 1)
    return [(first, total / count) for first, total, count in sums.values()]


def _broken_where_silent(points: Sequence[tuple[datetime, float]]) -> list[Point]:
    shown: list[Point] = []
    for position, (at, kw) in enumerate(points):
        if position and at - points[position - 1][0] > timedelta(minutes=10):
            shown.append([_ms(points[position - 1][0]) + 1, None])
        shown.append(_point(at, kw))
    return shown


def _money(board: Board) -> str:
    return f"{board.site.currency}/MWh" if board.site else ""


def _flat(kw: float, board: Board) -> list[Point]:
    return [_point(board.now - PAST, kw), _point(board.now + AHEAD, kw)] if math.isfinite(kw) else []


def _steps(rows: Iterable[tuple[datetime, datetime, float]]) -> list[Point]:
    points: list[Point] = []
    for start, end, price in rows:
        points += [[_ms(start), round(price, 2)], [_ms(end), round(price, 2)]]
    return points


# ---------------------------------------------------------------- shapes of options
def _line(name: str, color: str, data: list[Point], width: float, dash: str = "solid", step: str | bool = False,
          area: bool = False) -> dict[str, Any]:  # fmt: skip
    style = {"color": color, "width": width, "type": dash}
    line = {"name": name, "type": "line", "data": data, "showSymbol": False, "step": step, "lineStyle": style,
            "itemStyle": {"color": color}, "emphasis": {"disabled": True}, "animation": False}  # fmt: skip
    return line | ({"areaStyle": {"color": color, "opacity": 0.08}} if area else {})


def _now_line(board: Board, said: str = "") -> dict[str, Any]:
    label = {"formatter": f"now {board.local(board.now):%H:%M}{said}", "position": "end", "distance": 4}
    return {"silent": True, "symbol": "none", "animation": False, "data": [{"xAxis": _ms(board.now)}], "label": label,
            "lineStyle": {"color": GRAY, "type": "solid", "width": 1.5}}  # fmt: skip


def _event_bands(board: Board) -> dict[str, Any]:
    shown = [event for event in board.events if event.state in BINDING | {"done"}
             and event.end > board.now - PAST and event.start < board.now + AHEAD]  # fmt: skip
    bands = [
        [{"name": event.name or event.id, "xAxis": _ms(max(event.start, board.now - PAST)),
          "label": {"distance": 5 + 14 * (position % 6)}},
         {"xAxis": _ms(min(event.end, board.now + AHEAD))}]
        for position, event in enumerate(shown)
    ]  # fmt: skip
    return {"silent": True, "animation": False, "data": bands, "itemStyle": {"color": AMBER, "opacity": 0.12},
            "label": {"position": "insideBottom", "fontSize": 11}}  # fmt: skip


def _present_slot(ahead: Sequence[tuple[datetime, datetime, float]]) -> dict[str, Any]:
    bands = [[{"xAxis": _ms(ahead[0][0])}, {"xAxis": _ms(ahead[0][1])}]] if ahead else []
    return {"silent": True, "animation": False, "data": bands, "itemStyle": {"color": BLUE, "opacity": 0.35},
            "label": {"show": False}}  # fmt: skip


def _chart(board: Board, series: list[dict[str, Any]], unit: str, places: int) -> dict[str, Any]:
    clock = _clock(board.zone.key, "hour:'2-digit',minute:'2-digit'")
    stamp = _clock(board.zone.key, "weekday:'short',hour:'2-digit',minute:'2-digit'")
    faint = {"lineStyle": {"color": "rgba(130,140,155,0.18)"}}
    return {
        "animation": False,
        "useUTC": True,
        "grid": {"left": 48, "right": 12, "top": 32, "bottom": 24, "outerBoundsMode": "none"},
        "legend": {"top": 0, "left": 46, "itemHeight": 8, "itemWidth": 18, "icon": "roundRect", "itemGap": 16,
                   "selectedMode": False, "data": [line["name"] for line in series][::-1]},
        "xAxis": {"type": "time", "min": _ms(board.now - PAST), "max": _ms(board.now + AHEAD), "splitNumber": 9,
                  "axisLabel": {":formatter": f"value => {clock}", "hideOverlap": True}, "splitLine": {"show": False},
                  "axisLine": faint, "axisTick": faint},
        "yAxis": {"type": "value", "splitLine": faint, "axisLabel": {"hideOverlap": True}},
        "tooltip": {"trigger": "axis", "className": "gp-tip", "axisPointer": {"type": "line", "animation": False},
                    "transitionDuration": 0,
                    ":formatter": "rows => [(value => " + stamp + ")(rows[0].axisValue)].concat(rows.filter(row => "
                    "row.value[1] != null).map(row => row.marker + row.seriesName + ' <b>' + row.value[1].toFixed("
                    f"{places}) + '</b> {unit}')).join('<br>')"},
        "series": series,
    }  # fmt: skip


def _clock(zone: str, parts: str) -> str:
    """JavaScript that prints `value` (epoch milliseconds) in the zone; the zone's name comes from the tz database."""
    return f"new Date(value).toLocaleTimeString('en-GB', {{timeZone: '{zone}', {parts}}})"
