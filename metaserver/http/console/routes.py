"""Where the pages of the console are, and what it answers when something goes wrong."""

from __future__ import annotations

from http import HTTPStatus
from typing import TYPE_CHECKING
from urllib.parse import quote

import attrs
from starlette.responses import RedirectResponse
from starlette.routing import Route

from metaserver.config.users import Role
from metaserver.http.access import Visitor
from metaserver.http.console.actions import ConsoleActions
from metaserver.http.console.pages import ConsolePages
from metaserver.http.console.rendering import Pages

if TYPE_CHECKING:
    from collections.abc import Callable

    from starlette.requests import Request
    from starlette.responses import Response

    from metaserver.http.access import Access
    from metaserver.http.groups_api import GroupsApi
    from metaserver.http.history import History
    from metaserver.http.problems import ProblemError
    from metaserver.http.source import BrokerDoor, HttpLimits

_NOBODY = Visitor("-", Role.NONE)


@attrs.define(eq=False)
class Console:
    """Of one broker."""

    _door: BrokerDoor
    _access: Access
    _limits: HttpLimits
    _groups: GroupsApi
    _history: History
    _status: Callable[[], dict[str, object]]
    _pages: Pages = attrs.Factory(Pages.load)

    def routes(self) -> list[Route]:
        """All of them."""
        pages = ConsolePages(self._pages, self._door, self._access, self._groups, self._history, self._status)
        actions = ConsoleActions(self._pages, self._door, self._access, self._groups, self._limits)
        group = "/console/groups/{group}"
        return [
            Route("/console", pages.root),
            Route("/console/static/{name}", pages.static),
            Route("/console/", pages.overview),
            Route("/console/topics", pages.topics),
            Route("/console/topics/{topic}", pages.topic),
            Route("/console/topics/{topic}/messages", pages.messages),
            Route("/console/groups", pages.groups),
            Route(group, pages.group),
            Route(f"{group}/move", actions.move_group, methods=["POST"]),
            Route("/console/replicas", pages.replicas),
            Route("/console/config", pages.config),
            Route("/console/reload", actions.reload, methods=["POST"]),
            Route("/console/log", pages.log),
            Route("/console/stats", pages.stats),
            Route("/console/process", pages.process),
            Route("/console/login", actions.login_page, methods=["GET"]),
            Route("/console/login", actions.login, methods=["POST"]),
            Route("/console/logout", actions.logout, methods=["POST"]),
        ]

    async def failure(self, request: Request, problem: ProblemError) -> Response:
        """A page; where a token would help, the one to sign in."""
        if problem.status == HTTPStatus.UNAUTHORIZED and request.method == "GET" and self._door.users:
            path = request.url.path + (f"?{request.url.query}" if request.url.query else "")
            return RedirectResponse(f"/console/login?next={quote(path, safe='')}", 303)
        values = {"title": HTTPStatus(problem.status).phrase, "detail": problem.detail}
        response = await self._pages.render("problem", _NOBODY, values, status=problem.status)
        response.headers.update(problem.headers)
        return response
