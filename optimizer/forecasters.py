"""Ways to learn a signal's future, each behind the same port: one function from what is public to a fan of paths.

Why a port: whoever has a better model of a market puts it here, and everything above (bands, scenarios, notes, the
refusal of zeros, the fallback where too little is known) stays as it is. One contract suite holds them all.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from datetime import datetime
from typing import Protocol

from optimizer.domain import Series
from optimizer.forecast_boosted import Boosted
from optimizer.forecast_kept import Errors
from optimizer.forecast_learned import Fan, Recall


class Forecaster(Protocol):
    """Looks ahead. The same arguments give the same fan; nothing but what they hold is looked at."""

    def __call__(
        self, series: Series, reference: Series | None, start: datetime, until: datetime, recall: Recall
    ) -> Fan | None:
        """The fan of [start, until) for a signal that is known up to `start`; None where too little is known to learn
        from, or the last step before `start` is not."""
        ...


FORECASTERS: Mapping[str, Callable[[], Forecaster]] = {"errors": Errors, "boosting": Boosted}
"""Name in the config -> maker. `errors` is the built-in; `boosting` needs the extra `forecast`."""

LIBRARIES: Mapping[str, str] = {"boosting": "sklearn.ensemble"}
"""Name in the config -> module that it imports when it learns."""
