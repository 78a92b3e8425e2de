"""A board as it is sent, drawn once for all who look, away from the server's event loop.

Why shared: two hundred open pages must not ask the daemon two hundred times a second, and drawing must not hold up a
utility's webhook. One worker thread asks and draws, at most once a second; while it hangs, everybody keeps the last
figures and is told that they are old.
"""

from __future__ import annotations

import asyncio
import time
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from typing import Any

import structlog

from scheduler.service import Service
from scheduler.web import charts, tables
from scheduler.web.board import Board, gather

log = structlog.get_logger("gridpace.web")

EVERY_S, PATIENCE_S = 0.9, 3.0
TABLES = {
    "pools": tables.pools,
    "events": tables.events,
    "jobs": tables.jobs,
    "inputs": tables.inputs,
    "notes": tables.notes,
}
CHARTS = {"power": charts.power_chart, "price": charts.price_chart}


@dataclass(frozen=True, eq=False)
class View:
    """HTML by element, and chart options, which stay the same object until they are worth sending again."""

    board: Board
    html: dict[str, str]
    charts: dict[str, dict[str, Any]] = field(repr=False)


def draw(board: Board, title: str, demo: bool, known: View | None = None) -> View:
    """Draw a board; the charts of `known`, the view before, are kept while they rest on the same samples."""
    html = {"banner": tables.banner(board), "header": tables.header(board, title, demo)}
    html |= {name: build(board) for name, build in TABLES.items()}
    if known is not None and known.board.series is board.series:
        return View(board, html, known.charts)
    return View(board, html, {name: build(board) for name, build in CHARTS.items()})


class Gallery:
    """Keeps the newest View of every site that somebody looks at."""

    def __init__(self, service: Service, title: str, demo: bool) -> None:
        self._service = service
        self._title, self._demo = title, demo
        self._worker = ThreadPoolExecutor(1, thread_name_prefix="gridpace-page")
        self._views: dict[str, tuple[float, View]] = {}
        self._under_way: dict[str, Future[View]] = {}

    async def view(self, site: str = "") -> View:
        """The newest view, at most a second old; the last one with a `problem` when the daemon does not answer."""
        made_at, known = self._views.get(site, (0.0, None))
        if known is not None and time.monotonic() - made_at < EVERY_S:
            return known
        asked = self._under_way.get(site)
        if asked is None or asked.done():
            asked = self._under_way[site] = self._worker.submit(self._fresh, site, known)
        try:
            fresh = await asyncio.wait_for(asyncio.shield(asyncio.wrap_future(asked)), PATIENCE_S)
        except TimeoutError:
            fresh = self._without_answer(known, "The daemon does not answer. The figures below are old.")
        except Exception as error:  # noqa: BLE001 - whatever it is, the page must say so and go on
            log.warning("page.gather_failed", error=repr(error))
            fresh = self._without_answer(known, "The daemon answers with an error; its log says more.")
        self._views[site] = (time.monotonic(), fresh)
        return fresh

    def _fresh(self, site: str, known: View | None) -> View:
        board = gather(self._service, site, known.board if known else None)
        return draw(board, self._title, self._demo, known)

    def _without_answer(self, known: View | None, text: str) -> View:
        board = replace(known.board if known else Board(datetime.now(UTC)), problem=text)
        return draw(board, self._title, self._demo, known)

    def close(self) -> None:
        """Let the worker go; a call that hangs is not waited for."""
        self._worker.shutdown(wait=False, cancel_futures=True)
