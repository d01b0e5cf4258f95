"""What the console does: signing in and out, moving a group, reloading.

All of it by forms; all but the first with the word that only our own pages know.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final
from urllib.parse import parse_qs

import attrs
from starlette.responses import RedirectResponse, Response

from metaserver.config.users import Role
from metaserver.http.access import SESSION_SECONDS, cookie_name
from metaserver.http.asking import Query, check_media_type, read_body
from metaserver.http.broker_api import reload
from metaserver.http.groups_api import GroupsApi, Reset, group_of
from metaserver.http.problems import ProblemError

if TYPE_CHECKING:
    from starlette.requests import Request

    from metaserver.http.access import Access, Visitor
    from metaserver.http.console.rendering import Pages
    from metaserver.http.source import BrokerDoor, HttpLimits

_FORM_BYTES_MAX: Final = 64 * 1024
_HOME: Final = "/console/"


@attrs.define(eq=False)
class ConsoleActions:
    """Of one broker."""

    _pages: Pages
    _door: BrokerDoor
    _access: Access
    _groups: GroupsApi
    _limits: HttpLimits

    async def login_page(self, request: Request) -> Response:
        """The form."""
        visitor = self._access.look(request)
        following = _own_path(Query.of(request, "next").text("next", _HOME))
        values = {"next": following, "problem": "", "has_users": self._door.users is not None}
        return await self._pages.render("login", visitor, values)

    async def login(self, request: Request) -> Response:
        """Sign in, and go on to where somebody wanted to go."""
        visitor = self._access.admit(request, Role.NONE, is_page=True)
        form = await self._form(request)
        following = _own_path(form.get("next", _HOME))
        try:
            key, _signed_in = self._access.sign_in(form.get("token", "").strip())
        except ProblemError as problem:
            values = {"next": following, "problem": problem.detail, "has_users": self._door.users is not None}
            return await self._pages.render("login", visitor, values, status=problem.status)
        response = RedirectResponse(following, 303)
        response.set_cookie(
            cookie_name(request),
            key,
            max_age=int(SESSION_SECONDS),
            httponly=True,
            samesite="strict",
            secure=request.url.scheme == "https",
        )
        return response

    async def logout(self, request: Request) -> Response:
        """Forget the browser."""
        await self._admit(request, Role.NONE)
        self._access.sign_out(request)
        response = RedirectResponse(_HOME, 303)
        response.delete_cookie(cookie_name(request), httponly=True, samesite="strict")
        return response

    async def move_group(self, request: Request) -> Response:
        """Tell where a group would go; with ``execute`` move it."""
        visitor, form = await self._admit(request, Role.ADMIN)
        group = group_of(request)
        chosen = form.get("partition", "")
        reset = Reset(
            to=form.get("to", "").strip(),
            topic=form.get("topic") or None,
            partitions=frozenset([chosen] if chosen else []),
            executes=form.get("execute") == "yes",
            forces=form.get("force") == "yes",
        )
        moves = await self._groups.move(group, reset)
        report = await self._groups.report(group)
        values = {"report": report, "moves": moves, "asked": reset}
        return await self._pages.render("group", visitor, values)

    async def reload(self, request: Request) -> Response:
        """Read ``server.ini`` again."""
        visitor, _form = await self._admit(request, Role.ADMIN)
        changes = await reload(self._door)
        return await self._pages.render("reloaded", visitor, {"changes": changes})

    async def _admit(self, request: Request, needed: Role) -> tuple[Visitor, dict[str, str]]:
        visitor = self._access.admit(request, needed, is_page=True)
        form = await self._form(request)
        visitor.check_csrf(form.get("csrf", ""))
        return visitor, form

    async def _form(self, request: Request) -> dict[str, str]:
        check_media_type(request, "application/x-www-form-urlencoded")
        body = await read_body(request, _FORM_BYTES_MAX, self._limits.body_seconds)
        try:
            fields = parse_qs(body.decode(), keep_blank_values=True, max_num_fields=50)
        except ValueError as error:
            raise ProblemError(400, f"the form cannot be read: {error}") from None
        return {name: values[-1] for name, values in fields.items()}


def _own_path(text: str) -> str:
    """A page of the console; its first one where the text leads elsewhere."""
    is_own = text.startswith(_HOME) and text.isascii() and text.isprintable() and "\\" not in text
    return text if is_own else _HOME
