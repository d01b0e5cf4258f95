"""The pages: a starlette application over the callables of an ``HttpSource``.

Importing starlette costs a tenth of a second of processor time, so ``serve_http`` imports this module in a
worker thread when the broker is already up.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import trio
from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.middleware import Middleware
from starlette.responses import JSONResponse, PlainTextResponse, Response
from starlette.routing import Route

from metaserver.metrics import METRICS_CONTENT_TYPE

if TYPE_CHECKING:
    from starlette.requests import Request
    from starlette.types import ASGIApp, Receive, Scope, Send

    from metaserver.http.source import HttpSource

_HEADERS = {"cache-control": "no-store", "x-content-type-options": "nosniff"}


def build_application(source: HttpSource) -> Starlette:
    """Return the application; each page reads its values when it is asked for."""
    # One scrape is rendered at a time: more would only take turns, and hold threads meanwhile.
    rendering = trio.CapacityLimiter(1)

    async def metrics(_request: Request) -> Response:
        async with rendering:
            content = await trio.to_thread.run_sync(source.metrics())
        return Response(content, headers={**_HEADERS, "content-type": METRICS_CONTENT_TYPE})

    async def health(_request: Request) -> Response:
        return PlainTextResponse("ok\n", headers=_HEADERS)

    async def readiness(_request: Request) -> Response:
        reasons = source.readiness()
        return _json({"ready": not reasons, "reasons": reasons}, 503 if reasons else 200)

    async def status(_request: Request) -> Response:
        return _json(source.status(), 200)

    routes = [
        Route("/metrics", metrics),
        Route("/healthz", health),
        Route("/readyz", readiness),
        Route("/api/v1/status", status),
    ]
    pages = [route.path for route in routes]

    async def failure(_request: Request, error: Exception) -> Response:
        if not isinstance(error, HTTPException):
            # Starlette raises it again behind this answer, and hypercorn logs it.
            return _json({"error": "the page failed inside the broker; its log says more"}, 500)
        text = {404: "there is no such page", 405: "pages can only be read"}.get(
            error.status_code, error.detail
        )
        return _json({"error": text, "pages": pages}, error.status_code, error.headers)

    application = Starlette(
        routes=routes,
        middleware=[Middleware(_BodyRefusal)],
        exception_handlers={HTTPException: failure, Exception: failure},
    )
    application.router.redirect_slashes = False
    return application


class _BodyRefusal:
    """No page takes a body, so a request that announces one is refused before it is read."""

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "http" and _announces_body(scope["headers"]):
            response = _json({"error": "no page takes a request body"}, 413)
            await response(scope, receive, send)
        else:
            await self._app(scope, receive, send)


def _announces_body(headers: list[tuple[bytes, bytes]]) -> bool:
    return any(
        name == b"transfer-encoding" or (name == b"content-length" and value.strip(b"0") != b"")
        for name, value in headers
    )


def _json(content: object, status: int, headers: object = None) -> JSONResponse:
    extra = dict(headers) if isinstance(headers, dict) else {}
    return JSONResponse(content, status_code=status, headers={**_HEADERS, **extra})
