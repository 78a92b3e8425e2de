"""The books of what was sold, for programs and for a spreadsheet.

Why CSV by the csv module's excel dialect with names that can't be formulas: tenants choose them, accountants open them.
"""

from __future__ import annotations

import csv
import io
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, Literal

from fastapi import APIRouter
from starlette.responses import Response

from scheduler.api.auth import Reader
from scheduler.api.encode import Json, plain
from scheduler.sales import Sale
from scheduler.service import Service

COLUMNS = ("job", "at", "tenant", "model", "pool", "tokens", "paid", "energy_kwh", "energy_cost", "margin")
SUMS = ("tokens", "paid", "energy_kwh", "energy_cost", "margin")


def routes(service: Service) -> APIRouter:
    """GET /api/v1/sales."""
    router = APIRouter(tags=["jobs"])

    @router.get("/api/v1/sales", summary="Tokens sold, energy used and margin, by job and tenant; JSON or CSV")
    def sales(_: Reader, format: Literal["json", "csv"] = "json") -> Response:  # noqa: A002 - the query's own name
        rows = service.sales()
        if format == "csv":
            return Response(table(rows), media_type="text/csv; charset=utf-8",
                            headers={"content-disposition": 'attachment; filename="gridpace-sales.csv"'})  # fmt: skip
        return Json({"sales": [row(sale) for sale in rows], "tenants": by_tenant(rows)})

    return router


def row(sale: Sale) -> Mapping[str, Any]:
    """A sale by COLUMNS."""
    return {name: getattr(sale, name) for name in COLUMNS}


def by_tenant(rows: Iterable[Sale]) -> Mapping[str, Mapping[str, float]]:
    """SUMS of each tenant; jobs that nobody sold under "-"."""
    found: dict[str, dict[str, float]] = {}
    for sale in rows:
        mine = found.setdefault(sale.tenant or "-", dict.fromkeys(SUMS, 0))
        for name in SUMS:
            mine[name] += getattr(sale, name)
    return found


def table(rows: Sequence[Sale]) -> str:
    """The rows as CSV."""
    text = io.StringIO()
    made = csv.writer(text)
    made.writerow(COLUMNS)
    made.writerows([_cell(value) for value in plain(row(sale)).values()] for sale in rows)
    return text.getvalue()


def _cell(value: object) -> object:
    """A text that a spreadsheet would take for a formula gets a quote before it."""
    return f"'{value}" if isinstance(value, str) and value[:1] in tuple("=+-@\t\r") else value
