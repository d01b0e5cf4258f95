"""``/api/v1`` beside topics and groups: replicas, the reload, the description of it all."""

from __future__ import annotations

from typing import TYPE_CHECKING

import attrs

from metaserver.config.users import Role
from metaserver.errors import ConfigError
from metaserver.http.asking import Query, json_response
from metaserver.http.openapi import openapi_document
from metaserver.http.problems import ProblemError

if TYPE_CHECKING:
    from starlette.requests import Request
    from starlette.responses import Response

    from metaserver.http.access import Access
    from metaserver.http.source import BrokerDoor


@attrs.frozen
class BrokerApi:
    """Of one broker."""

    _door: BrokerDoor
    _access: Access

    async def replicas(self, request: Request) -> Response:
        """Slaves, or the master."""
        self._access.admit(request, Role.READ)
        Query.of(request)
        return await json_response(await self._door.replicas(), is_long=True)

    async def reload(self, request: Request) -> Response:
        """Read ``server.ini`` again."""
        self._access.admit(request, Role.ADMIN)
        Query.of(request)
        return await json_response(await reload(self._door))

    async def openapi(self, request: Request) -> Response:
        """Everybody may see what there would be to ask."""
        self._access.look(request)
        return await json_response(openapi_document())


async def reload(door: BrokerDoor) -> dict[str, list[str]]:
    """Read ``server.ini`` again; raises ProblemError where it is wrong."""
    try:
        return await door.reload()
    except ConfigError as error:
        raise ProblemError(409, f"nothing was changed: {error}", {"problems": list(error.problems)}) from None
