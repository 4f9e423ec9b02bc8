"""The ASGI application: addresses, headers, errors, and who comes in."""

from __future__ import annotations

import logging
import secrets
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from functools import cached_property
from typing import TYPE_CHECKING, Any
from urllib.parse import quote, urlsplit

from anyio import to_thread
from prometheus_client import CollectorRegistry
from starlette.applications import Starlette
from starlette.convertors import IntegerConvertor, register_url_convertor
from starlette.exceptions import HTTPException
from starlette.middleware import Middleware
from starlette.middleware.sessions import SessionMiddleware
from starlette.requests import HTTPConnection, Request
from starlette.responses import (
    HTMLResponse,
    JSONResponse,
    PlainTextResponse,
    RedirectResponse,
    Response,
)
from starlette.routing import Mount, Route
from starlette.staticfiles import StaticFiles
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from oops_celery.dead_letters.letters import Letters
from oops_celery.errors import RepositoryError, SettingsError
from oops_celery.operations.metrics import QueueCollector
from oops_celery.repository.queries import Reports
from oops_celery.repository.store import Repository
from oops_celery.settings import Settings
from oops_celery.settings import repository_url as urls
from oops_celery.web import access
from oops_celery.web.overviews import Overviews
from oops_celery.web.rendering import HERE, render
from oops_celery.web.whereabouts import TIMEOUT, Broker

if TYPE_CHECKING:
    from oops_celery.celery import App

logger = logging.getLogger(__name__)

#: Nothing from another host, no script or style within a page, in nobody's frame.
HEADERS = {
    "Content-Security-Policy": (
        "default-src 'none'; style-src 'self'; script-src 'self'; img-src 'self'; "
        "form-action 'self'; base-uri 'none'; frame-ancestors 'none'"
    ),
    "X-Content-Type-Options": "nosniff",
    "Referrer-Policy": "no-referrer",
    "Cross-Origin-Opener-Policy": "same-origin",
    "Cross-Origin-Resource-Policy": "same-origin",
    "Cache-Control": "no-store",  # reports contain user input
}

#: Threads that make pages, each with a connection of the pool; with Python's lock, more
#: of them are slower. One waits while the database or the broker does.
THREADS = 4

#: Seconds for which a login lasts.
SESSION = 14 * 24 * 3600


class _Number(IntegerConvertor):
    """The number of a group: one that a database can hold."""

    regex = "[0-9]{1,18}"


register_url_convertor("group", _Number())


@dataclass
class Site:
    """What the pages share.

    Attributes:
        app: Has the broker's URL, the topology and the settings.
        settings: The settings of the pages.
        access: Who may do what.
        broker: How many messages wait.
        overviews: The counts of the first page.
    """

    app: App
    settings: Settings
    access: access.Access = field(init=False)
    broker: Broker = field(init=False)
    overviews: Overviews = field(init=False)

    def __post_init__(self) -> None:
        if not urls.is_url(self.settings.repository):
            raise SettingsError(
                f"OOPS_REPOSITORY={self.settings.repository!r}: the pages need a "
                f"database, {urls.FORMS}; oops-celery import FOLDER fills one"
            )
        self.access = access.Access(self.settings)
        self.broker = Broker(self.app)
        self.overviews = Overviews(lambda: self.reports)

    @cached_property
    def reports(self) -> Reports:
        """The stored reports."""
        return Reports(self.settings.repository, pooled=True)

    @cached_property
    def letters(self) -> Letters:
        """The dead letters."""
        return Letters(self.settings.repository, pooled=True)

    @cached_property
    def repository(self) -> Repository:
        """The database, to change the states of groups."""
        return Repository(self.settings.repository)

    @cached_property
    def metrics(self) -> CollectorRegistry:
        """The metrics of the queues."""
        registry = CollectorRegistry()
        registry.register(QueueCollector(self.app, self.app.topology, TIMEOUT))
        return registry

    def page(
        self,
        request: Request,
        template: str,
        values: dict[str, Any],
        status: int = 200,
        headers: dict[str, str] | None = None,
    ) -> Response:
        """Return a page."""
        user = self.access.user(request)
        flash = request.session.pop("flash", None)
        together = {
            "base": request.scope.get("root_path", ""),
            "user": user,
            "can_log_in": self.access.htpasswd is not None,
            "csrf": access.token(request) if user else "",
            "flash": flash,
            "here": request.url.path
            + (f"?{request.url.query}" * bool(request.query_params)),
            "alone": False,
            **values,
        }
        return HTMLResponse(render(template, together), status, headers)


def application(app: App, settings: Settings | None = None) -> Starlette:
    """Return the ASGI application.

    Args:
        app: The Celery app.
        settings: The settings; by default the app's.

    Raises:
        SettingsError: They cannot be used for pages.
    """
    from oops_celery.web import changes, health, letters, lookup, pages

    site = Site(app, settings or app.oops)
    secure = (site.settings.web_url or "").startswith("https:")
    made = Starlette(
        routes=[
            Route("/", pages.groups),
            Route("/groups.json", pages.groups),
            Route("/groups/{number:group}", pages.group),
            Route("/groups/{number:group}.json", pages.group),
            Route("/groups/{number:group}/state", changes.state, methods=["POST"]),
            Route("/search", pages.search),
            Route("/search.json", pages.search),
            Route("/dead", letters.dead),
            Route("/dead.json", letters.dead),
            Route("/dead/letters", letters.letters),
            Route("/dead/replay", changes.replay, methods=["POST"]),
            Route("/dead/discard", changes.discard, methods=["POST"]),
            Route("/health", health.health),
            Route("/health.json", health.health),
            Route("/metrics", health.metrics),
            Route("/login", changes.login, methods=["GET", "POST"]),
            Route("/logout", changes.logout, methods=["POST"]),
            Mount("/static", StaticFiles(directory=HERE / "static")),
            Route("/{part:path}", lookup.report),
        ],
        middleware=[
            Middleware(_Headers),
            Middleware(_Prefix, prefix=urlsplit(site.settings.web_url or "").path),
            Middleware(
                SessionMiddleware,
                secret_key=site.settings.web_secret or secrets.token_urlsafe(32),
                session_cookie="oops-celery",
                max_age=SESSION,
                same_site="lax",
                https_only=secure,
            ),
            Middleware(_Gate, site=site),
        ],
        exception_handlers={
            HTTPException: _told,
            RepositoryError: _told,
            Exception: _failed,
        },
        lifespan=_few_threads,
    )
    made.state.site = site
    return made


def site_of(request: Request) -> Site:
    """Return what the pages share."""
    site: Site = request.app.state.site
    return site


@asynccontextmanager
async def _few_threads(_: Starlette) -> AsyncIterator[None]:
    """Have `THREADS` threads in this event loop, not 40."""
    to_thread.current_default_thread_limiter().total_tokens = THREADS
    yield


class _Headers:
    """Gives each answer the headers that keep a browser from doing harm."""

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        async def send_with(message: Message) -> None:
            if message["type"] == "http.response.start":
                known = {name for name, _ in message["headers"]}
                message["headers"] += [
                    (name.lower().encode(), value.encode())
                    for name, value in HEADERS.items()
                    if name.lower().encode() not in known
                ]
            await send(message)

        await self._app(scope, receive, send_with)


class _Prefix:
    """Serves below the path of OOPS_WEB_URL, whether a proxy cuts it off or not."""

    def __init__(self, app: ASGIApp, prefix: str) -> None:
        self._app = app
        self._prefix = prefix.rstrip("/")

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if self._prefix and scope["type"] == "http" and not scope.get("root_path"):
            path = scope["path"]
            if path != self._prefix and not path.startswith(f"{self._prefix}/"):
                path = self._prefix + path
            scope = {**scope, "root_path": self._prefix, "path": path}
        await self._app(scope, receive, send)


class _Gate:
    """Lets in those who may read; the answer for load balancers is for everybody."""

    def __init__(self, app: ASGIApp, site: Site) -> None:
        self._app = app
        self._site = site

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "http":
            answer = await self._refusal(scope)
            if answer is not None:
                await answer(scope, receive, send)
                return
        await self._app(scope, receive, send)

    async def _refusal(self, scope: Scope) -> Response | None:
        from starlette.concurrency import run_in_threadpool

        base = scope.get("root_path", "")
        path = scope["path"].removeprefix(base)
        request = HTTPConnection(scope)
        if access.host(request) is None:
            access.audit.warning("refused: %s, no Host", access.address(request))
            return PlainTextResponse("The header Host is no name.", 400)
        if path in ("/login", "/health", "/health.json") or path.startswith("/static/"):
            return None
        may_read = self._site.access.may_read
        if "authorization" in request.headers:  # bcrypt takes its time
            why = await run_in_threadpool(may_read, request)
        else:
            why = may_read(request)
        if not why:
            return None
        if why != access.LOGIN:
            access.audit.warning("refused: %s %r", access.address(request), path[:200])
            return HTMLResponse(_error_page(base, "Not open here", why), 403)
        wants_page = "text/html" in request.headers.get("accept", "")
        if self._site.access.htpasswd and wants_page and scope["method"] == "GET":
            query = scope.get("query_string", b"").decode("latin-1")
            then = quote(path + (f"?{query}" if query else ""), safe="")
            return RedirectResponse(f"{base}/login?then={then}", 303)
        access.audit.warning("refused: %s %r", access.address(request), path[:200])
        headers = {}
        if self._site.access.htpasswd:
            headers["WWW-Authenticate"] = 'Basic realm="oops-celery"'
        page = _error_page(base, "Log in first", why)
        return HTMLResponse(page, 401, headers)


def _error_page(base: str, title: str, text: str) -> str:
    values: dict[str, Any] = {"base": base, "title": title, "text": text}
    values |= {"user": None, "can_log_in": False, "csrf": ""}
    values |= {"flash": None, "here": "", "alone": False}
    return render("error.html", values)


def _told(request: Request, error: Exception) -> Response:
    """Return the page of an error that a person can do something about."""
    status = 503
    title, text = "The database cannot be used", str(error)
    headers = {}
    if isinstance(error, HTTPException):
        status, text = error.status_code, str(error.detail)
        title = {404: "Not found", 400: "Not understood", 403: "Refused"}.get(
            status, "It did not work"
        )
        headers = dict(error.headers or {})
    else:
        logger.warning("%s", error)
    if request.url.path.endswith(".json"):
        return JSONResponse({"error": text}, status, headers)
    base = request.scope.get("root_path", "")
    return HTMLResponse(_error_page(base, title, text), status, headers)


def _failed(request: Request, error: Exception) -> Response:
    """Return the page of a mistake of ours; Starlette raises it again for the log."""
    base = request.scope.get("root_path", "")
    text = f"{type(error).__name__}. The log of oops-celery web has more."
    return HTMLResponse(_error_page(base, "A mistake of ours", text), 500)
