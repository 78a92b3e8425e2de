"""The page at "/": layout, the timer that refreshes it, and how it hangs in the API's application.

Why a shell: NiceGUI keeps one application per process and may be mounted into one other, once. So it is mounted into a
shell of its own, made on first use, and every API application hands it the page's requests. Which service a request
belongs to travels in its ASGI scope, so that nothing is global but NiceGUI itself.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

from fastapi import FastAPI, Request
from nicegui import Client, ui
from nicegui.page import page
from starlette.datastructures import Headers
from starlette.exceptions import HTTPException
from starlette.responses import PlainTextResponse
from starlette.types import ASGIApp, Receive, Scope, Send

from scheduler.api.auth import read_name
from scheduler.api.encode import Json
from scheduler.api.settings import ApiSettings
from scheduler.service import Service
from scheduler.web import charts, tables
from scheduler.web.board import Board, Gatherer

KEY = "gridpace.page"
STYLE = (Path(__file__).parent / "style.css").read_text(encoding="utf-8")
ICON = (
    '<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 16 16"><rect width="16" height="16" rx="3" fill="#14507f"/>'
    '<path d="M2 9h3l2-5 3 8 2-3h2" fill="none" stroke="#fff" stroke-width="1.5" stroke-linejoin="round"/></svg>'
)
TABLES = (  # id, title, builder, columns of twelve
    ("pools", "Pools", tables.pools, "wide"),
    ("events", "Demand-response events", tables.events, "wide"),
    ("jobs", "Jobs", tables.jobs, "wide"),
    ("inputs", "Inputs", tables.inputs, "half"),
    ("notes", "Decisions and warnings", tables.notes, "half"),
)
CHARTS: tuple[tuple[str, str, Callable[[Board], dict[str, Any]]], ...] = (
    ("power", "Site power (MW, one-minute means) against plan, event target and limit", charts.power_chart),
    ("price", "Energy price (per MWh, by interval)", charts.price_chart),
)


@dataclass(frozen=True)
class PageContext:
    """What the page needs of the application whose request it answers."""

    gatherer: Gatherer
    settings: ApiSettings


def attach(
    service: Service, settings: ApiSettings
) -> tuple[ASGIApp, Callable[[FastAPI], AbstractAsyncContextManager[None]]]:
    """The ASGI application that answers what no API route does, and the lifespan that the page needs."""
    shell = _shell()
    context = PageContext(Gatherer(service), settings)

    async def answer(scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "http" and (refusal := _refusal(scope, settings)) is not None:
            await refusal(scope, receive, send)
        elif scope["type"] == "websocket" and not scope["path"].startswith("/_nicegui_ws/"):
            await send({"type": "websocket.close", "code": 1008})
        else:
            await shell({**scope, KEY: context}, receive, send)

    @asynccontextmanager
    async def lifespan(_: FastAPI) -> AsyncIterator[None]:
        async with shell.router.lifespan_context(shell):
            yield
        context.gatherer.close()

    return answer, lifespan


def _refusal(scope: Scope, settings: ApiSettings) -> ASGIApp | None:
    """Why the shell shall not see this request; assets of the package are open, the page itself asks who reads."""
    path = scope["path"]
    if path.startswith(("/_nicegui/", "/_nicegui_ws/")) or path == "/favicon.ico":
        return None
    if path != "/":
        return Json({"error": "Not Found", "field": None}, 404)
    try:
        read_name(settings, Headers(scope=scope), basic=True)
    except HTTPException as error:
        return Json({"error": error.detail, "field": None}, error.status_code, headers=error.headers)
    if len(Client.instances) >= 2 * settings.max_pages:
        return PlainTextResponse("Too many pages are open. Try again in a minute.\n", 503, {"Retry-After": "60"})
    return None


@lru_cache(maxsize=1)
def _shell() -> FastAPI:
    shell = FastAPI(docs_url=None, redoc_url=None, openapi_url=None)
    page("/", title="Gridpace", response_timeout=10.0)(_content)
    ui.run_with(
        shell,
        title="Gridpace",
        favicon=ICON,
        dark=None,
        language="en-GB",
        tailwind=False,
        binding_refresh_interval=None,
        reconnect_timeout=10.0,
        message_history_length=20,
        show_welcome_message=False,
    )
    return shell


@dataclass(frozen=True)
class View:
    """A board as it is sent: HTML by element and chart options, made once for all who look."""

    board: Board
    html: dict[str, str]
    charts: dict[str, dict[str, Any]]


@lru_cache(maxsize=8)
def view_of(board: Board, title: str, demo: bool) -> View:
    """Draw a board."""
    html = {"banner": tables.banner(board), "header": tables.header(board, title, demo)}
    html |= {name: build(board) for name, _, build, _ in TABLES}
    return View(board, html, {name: build(board) for name, _, build in CHARTS})


async def _content(request: Request, site: str = "") -> None:
    """Build the page for one visitor and keep it fresh."""
    context: PageContext = request.scope[KEY]
    settings = context.settings
    first = view_of(await context.gatherer.board(site), settings.title, settings.demo)
    ui.page_title(settings.title)
    ui.add_css(STYLE)
    elements = _Elements(first)

    async def refresh() -> None:
        elements.show(view_of(await context.gatherer.board(site), settings.title, settings.demo))

    ui.timer(1.0, refresh)


class _Elements:
    """The parts of one visitor's page; each is sent again only when it changed."""

    def __init__(self, view: View) -> None:
        self._html: dict[str, ui.html] = {}
        self._charts: dict[str, ui.echart] = {}
        self._drawn_at = view.board.now
        self._sent: dict[str, str] = {}
        for name, tag in (("header", "header"), ("banner", "div")):
            self._html[name] = ui.html(view.html[name], sanitize=False, tag=tag).classes(f"gp-{name}-box")
        with ui.element("main").classes("gp-main") as self._main:
            for name, title, _ in CHARTS:
                with self._card(title, "wide"):
                    self._charts[name] = ui.echart(view.charts[name], renderer="svg").classes(
                        f"gp-chart gp-chart-{name}"
                    )
            for name, title, _, width in TABLES:
                with self._card(title, width):
                    self._html[name] = ui.html(view.html[name], sanitize=False).classes(f"gp-scroll gp-{name}")
        self._main.set_visibility(view.board.report is not None)

    @staticmethod
    def _card(title: str, width: str) -> ui.element:
        card = ui.element("section").classes(f"gp-card gp-{width}")
        with card:
            ui.html(title, sanitize=True, tag="h2")
        return card

    def show(self, view: View) -> None:
        """Bring the page to `view`."""
        for name, element in self._html.items():
            if element.content != view.html[name]:
                element.set_content(view.html[name])
        appeared = view.board.report is not None and not self._main.visible
        self._main.set_visibility(view.board.report is not None)
        # Ten seconds are less than a pixel of the charts.
        if appeared or abs((view.board.now - self._drawn_at).total_seconds()) >= 10:
            self._drawn_at = view.board.now
            for name, chart in self._charts.items():
                chart.options.clear()
                chart.options.update(view.charts[name])
                chart.update()
