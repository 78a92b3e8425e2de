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
from scheduler.web import hand
from scheduler.web.view import Gallery, View

KEY = "gridpace.page"
STYLE = (Path(__file__).parent / "style.css").read_text(encoding="utf-8")
ICON = (
    '<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 16 16"><rect width="16" height="16" rx="3" fill="#14507f"/>'
    '<path d="M2 9h3l2-5 3 8 2-3h2" fill="none" stroke="#fff" stroke-width="1.5" stroke-linejoin="round"/></svg>'
)
CARDS = (  # element, title, width
    ("power", "Site power (MW, one-minute means) against plan, event target and limit", "wide"),
    ("price", "Energy price (per MWh, by interval)", "wide"),
    ("pools", "Pools", "wide"),
    ("events", "Demand-response events", "wide"),
    ("jobs", "Jobs", "wide"),
    ("inputs", "Inputs", "half"),
    ("notes", "Decisions and warnings", "half"),
)


@dataclass(frozen=True)
class PageContext:
    """What the page needs of the application whose request it answers."""

    gallery: Gallery
    title: str
    may_write: bool


def attach(
    service: Service, settings: ApiSettings
) -> tuple[ASGIApp, Callable[[FastAPI], AbstractAsyncContextManager[None]]]:
    """The ASGI application that answers what no API route does, and the lifespan that the page needs."""
    shell = _shell()
    context = PageContext(Gallery(service, settings.title, settings.demo), settings.title, bool(settings.write_tokens))

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
        context.gallery.close()

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


async def _content(request: Request, site: str = "") -> None:
    """Build the page for one visitor and keep it fresh."""
    context: PageContext = request.scope[KEY]
    ui.page_title(context.title)
    ui.add_css(STYLE)
    ui.add_head_html(f"<script>{hand.SCRIPT}</script>")
    elements = _Elements(await context.gallery.view(site), context.may_write)

    async def refresh() -> None:
        elements.show(await context.gallery.view(site))

    ui.timer(1.0, refresh)


class _Elements:
    """The parts of one visitor's page; each is sent again only when it changed."""

    def __init__(self, view: View, may_write: bool) -> None:
        self._may_write = may_write
        self._html: dict[str, ui.html] = {}
        self._charts: dict[str, ui.echart] = {}
        self._drawn = view.charts
        for name, tag in (("header", "header"), ("banner", "div")):
            self._html[name] = ui.html(view.html[name], sanitize=False, tag=tag).classes(f"gp-{name}-box")
        with ui.element("main").classes("gp-main") as self._main:
            for name, title, width in CARDS:
                self._card(name, title, width, view)
        self._main.set_visibility(view.board.report is not None)

    def _card(self, name: str, title: str, width: str, view: View) -> None:
        with ui.element("section").classes(f"gp-card gp-{width}"):
            ui.html(title, tag="h2")
            if name in view.charts:
                self._charts[name] = ui.echart(dict(view.charts[name]), renderer="svg").classes(
                    f"gp-chart gp-chart-{name}"
                )
            else:
                self._html[name] = ui.html(view.html[name], sanitize=False).classes(f"gp-scroll gp-{name}")
            if name == "events":  # never sent again: what somebody types in it stays
                site = view.board.site.id if view.board.site is not None else ""
                ui.html(hand.form(site, self._may_write), sanitize=False).classes("gp-hand-box")

    def show(self, view: View) -> None:
        """Bring the page to `view`."""
        for name, element in self._html.items():
            if element.content != view.html[name]:
                element.set_content(view.html[name])
        self._main.set_visibility(view.board.report is not None)
        if view.charts is not self._drawn:
            self._drawn = view.charts
            for name, chart in self._charts.items():
                chart.options.update(view.charts[name])
                chart.update()
