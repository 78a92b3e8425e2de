"""Questions to `entsoe-py`, which reads the Transparency Platform's XML (runs in the child only).

The library fills repeated points that curve type A03 leaves out, picks the auction and knows the zones; what it drops,
currency and unit, is read here from the same answer and held to what the config says.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from datetime import datetime
from itertools import pairwise
from typing import Any

from adapters.signals.child_answers import Told

_CURRENCY = re.compile(rb"<currency_Unit\.name>\s*([A-Z]{3})\s*<")
_UNIT = re.compile(rb"<price_Measure_Unit\.name>\s*([A-Za-z]+)\s*<")

Rows = list[tuple[str, str, float | None]]


def rows(question: Mapping[str, Any]) -> Rows:
    """Day-ahead prices of one zone: `zone`, `currency`, `key`, `start`, `end`; none where nothing is published."""
    import pandas as pd
    import requests
    from entsoe import EntsoePandasClient
    from entsoe.exceptions import NoMatchingDataError
    from entsoe.mappings import lookup_area

    def doubted(response: requests.Response, *_: Any, **__: Any) -> None:
        _doubt(response.content, question["currency"])

    try:
        lookup_area(question["zone"])
    except (KeyError, ValueError):
        raise Told(f'zone "{question["zone"]}" is not one of ENTSO-E') from None
    session = requests.Session()
    session.hooks["response"].append(doubted)
    client = EntsoePandasClient(api_key=question["key"], session=session, retry_count=1, timeout=60)
    start, end = (pd.Timestamp(datetime.fromisoformat(question[name])) for name in ("start", "end"))
    try:
        series = client.query_day_ahead_prices(question["zone"], start=start, end=end)
    except NoMatchingDataError:
        return []
    return _placed(series)


def _doubt(body: bytes, currency: str) -> None:
    """Told when the answer is in another currency than the config says, or not per MWh."""
    named, unit = ({match.decode() for match in form.findall(body)} for form in (_CURRENCY, _UNIT))
    if named - {currency}:
        raise Told(f"prices come in {', '.join(sorted(named))}, where {currency} is declared; none is taken")
    if unit - {"MWH"}:
        raise Told(f"prices come per {', '.join(sorted(unit))}, where MWH was expected; none is taken")


def _placed(series: Any) -> Rows:
    """Bounds from stamps: an interval lasts until its neighbour, an hour at most; a hole stays one."""
    import pandas as pd

    series = series[~series.index.duplicated(keep="last")].tz_convert("UTC")
    hour = pd.Timedelta(hours=1)
    gaps = [min(hour, right - left) for left, right in pairwise(series.index)]
    steps = [min(before, after) for before, after in zip([hour, *gaps], [*gaps, hour], strict=True)]
    return [
        (start.isoformat(), (start + step).isoformat(), None if pd.isna(value) else float(value))
        for start, step, value in zip(series.index, steps, series, strict=True)
    ]
