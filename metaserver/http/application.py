"""The pages: a starlette application over an ``HttpSource``.

Importing starlette costs a tenth of a second of processor time, so ``serve_http`` imports this module in a
worker thread when the broker is already up.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import attrs
import trio
from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.middleware import Middleware
from starlette.responses import PlainTextResponse, Response
from starlette.routing import Route

from metaserver.http.asking import json_response
from metaserver.http.broker_api import BrokerApi
from metaserver.http.console.routes import Console
from metaserver.http.dashboard import Dashboard
from metaserver.http.following import FollowingApi
from metaserver.http.groups_api import GroupsApi
from metaserver.http.history import History, RatesApi
from metaserver.http.original import OriginalInterface
from metaserver.http.problems import HEADERS, ProblemError, problem_response
from metaserver.http.topics_api import TopicsApi
from metaserver.http.waiting import WaitingRoom
from metaserver.metrics import METRICS_CONTENT_TYPE

if TYPE_CHECKING:
    from starlette.requests import Request
    from starlette.types import ASGIApp, Receive, Scope, Send

    from metaserver.http.access import Access
    from metaserver.http.source import BrokerDoor, HttpLimits, HttpSource

_BODIES = ("POST", "PUT")
_TEXTS = {404: "there is no such page", 405: "this page does not take the method {method}"}


@attrs.frozen
class Parts:
    """What serves messages, groups and the console."""

    door: BrokerDoor
    access: Access
    limits: HttpLimits
    history: History


def build_application(source: HttpSource, parts: Parts | None = None) -> Starlette:
    """Return the application; each page reads its values when it is asked for."""
    routes, console = _routes_of_source(source), None
    if parts is not None:
        waiting = WaitingRoom(parts.limits.waiting)
        groups = GroupsApi(parts.door, parts.access, parts.limits, waiting)
        console = Console(parts.door, parts.access, parts.limits, groups, parts.history, source.status)
        dashboard = Dashboard(parts.door, parts.access, groups, source.status)
        routes += [*_routes_of_parts(parts, waiting, groups), *console.routes(), *dashboard.routes()]

    async def failure(request: Request, error: Exception) -> Response:
        problem = _problem(request, error)
        if console is not None and request.url.path.startswith("/console/"):
            return await console.failure(request, problem)
        return problem_response(problem)

    application = Starlette(
        routes=routes,
        middleware=[Middleware(_BodyRefusal)],
        exception_handlers={HTTPException: failure, ProblemError: failure, Exception: failure},
    )
    application.router.redirect_slashes = False
    return application


def _routes_of_source(source: HttpSource) -> list[Route]:
    # One scrape is rendered at a time: more would only take turns, and hold threads meanwhile.
    rendering = trio.CapacityLimiter(1)

    async def metrics(_request: Request) -> Response:
        async with rendering:
            content = await trio.to_thread.run_sync(source.metrics())
        return Response(content, headers={**HEADERS, "content-type": METRICS_CONTENT_TYPE})

    async def health(_request: Request) -> Response:
        return PlainTextResponse("ok\n", headers=HEADERS)

    async def readiness(_request: Request) -> Response:
        reasons = source.readiness()
        return await json_response({"ready": not reasons, "reasons": reasons}, 503 if reasons else 200)

    async def status(_request: Request) -> Response:
        return await json_response(source.status())

    return [
        Route("/metrics", metrics),
        Route("/healthz", health),
        Route("/readyz", readiness),
        Route("/api/v1/status", status),
    ]


def _routes_of_parts(parts: Parts, waiting: WaitingRoom, groups: GroupsApi) -> list[Route]:
    door, access, limits = parts.door, parts.access, parts.limits
    bodies = WaitingRoom(limits.bodies, "requests with messages are being read; send this again")
    broker, original = BrokerApi(door, access), OriginalInterface(door, access, limits, bodies)
    topics = TopicsApi(door, access, limits, waiting, bodies)
    rates = RatesApi(parts.history, access, waiting)
    topic, partition = "/api/v1/topics/{topic}", "/api/v1/topics/{topic}/partitions/{partition:int}"
    return [
        Route("/api/v1/openapi.json", broker.openapi),
        Route("/api/v1/replicas", broker.replicas),
        Route("/api/v1/reload", broker.reload, methods=["POST"]),
        Route("/api/v1/rates", rates.rates),
        Route("/api/v1/rates/events", rates.events),
        Route("/api/v1/topics", topics.topics),
        Route(topic, topics.topic),
        Route(f"{topic}/messages", topics.produce, methods=["POST"]),
        Route(f"{partition}/messages", topics.fetch),
        Route(f"{partition}/search", topics.search),
        Route(f"{topic}/events", FollowingApi(door, access, waiting).follow),
        Route("/api/v1/groups", groups.groups),
        Route("/api/v1/groups/{group}", groups.group),
        Route("/api/v1/groups/{group}/topics/{topic}/messages", groups.consume),
        Route("/api/v1/groups/{group}/positions", groups.commit, methods=["POST"]),
        Route("/api/v1/groups/{group}/reset", groups.reset, methods=["POST"]),
        # MetaQ's: what stands behind the first word does not matter, and the method as little.
        *(
            Route(path, page, methods=["GET", "POST", "PUT"])
            for word, page in (("get", original.get), ("put", original.put), ("offset", original.offset))
            for path in (f"/{word}", f"/{word}/{{rest:path}}")
        ),
    ]


def _problem(request: Request, error: Exception) -> ProblemError:
    if isinstance(error, ProblemError):
        return error
    if isinstance(error, HTTPException):
        text = _TEXTS.get(error.status_code, error.detail).format(method=request.method[:20])
        return ProblemError(error.status_code, text, headers=dict(error.headers or {}))
    # Starlette raises it again behind this answer, and hypercorn logs it.
    return ProblemError(500, "the page failed inside the broker; its log says more")


class _BodyRefusal:
    """Only what is posted or put has a body; another request that announces one is refused unread."""

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "http" and not _may_have_body(scope) and _announces_body(scope["headers"]):
            response = problem_response(ProblemError(413, "this page takes no request body"))
            await response(scope, receive, send)
        else:
            await self._app(scope, receive, send)


def _may_have_body(scope: Scope) -> bool:
    return scope["method"] in _BODIES or f"{scope['path']}/".startswith("/put/")


def _announces_body(headers: list[tuple[bytes, bytes]]) -> bool:
    return any(
        name == b"transfer-encoding" or (name == b"content-length" and value.strip(b"0") != b"")
        for name, value in headers
    )
