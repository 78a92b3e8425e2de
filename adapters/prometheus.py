"""What Prometheus' query API answers, for all who ask such a server (https://prometheus.io/docs/prometheus/latest/
querying/api/)."""

from __future__ import annotations

from typing import Any

from adapters.http import JsonServer
from adapters.ports import AdapterError


def series_of(server: JsonServer, query: str) -> list[Any]:
    """The series that a query gives at this moment, as they were told. Raises AdapterError where there is no answer, or
    one in another form."""
    told = server.post("/api/v1/query", {"query": query})
    data = told.get("data") if isinstance(told, dict) and told.get("status") == "success" else None
    result = data.get("result") if isinstance(data, dict) and data.get("resultType") == "vector" else None
    if not isinstance(result, list):
        raise AdapterError(f"{server.place}: the answer is not one of Prometheus' query API")
    return result
