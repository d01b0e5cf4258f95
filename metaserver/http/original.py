"""MetaQ's HTTP interface for messages, as its Java HTTP client uses it.

Source: reference stats-http-dashboard section 4. The client sends ``/get/B``, ``/put/B`` and ``/offset/B``,
where the broker's number does not matter; parameters stand in the query, the data of a put in the body.
Replies are those of the wire: status and text, or for a get the records. 301 carries an offset, not a
``Location``.

Better on purpose: a put is answered when it is as safe as its topic asks for, with its id and offset; the
body has to have the announced length; what is wrong with the parameters is said.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import attrs
from starlette.responses import Response

from metaserver.config.users import Role
from metaserver.http.asking import Query, number, read_body
from metaserver.http.problems import HEADERS, ProblemError
from metaserver.message import CHECKSUM_MASK
from metaserver.protocol import Get, OffsetQuery, Puts, Value

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

    from starlette.requests import Request

    from metaserver.http.access import Access
    from metaserver.http.source import BrokerDoor, HttpLimits
    from metaserver.http.waiting import WaitingRoom
    from metaserver.protocol import Result

_INT_MIN, _INT_MAX = -(2**31), 2**31 - 1
_STATUS_MAX = 599


@attrs.frozen
class OriginalInterface:
    """Of one broker."""

    _door: BrokerDoor
    _access: Access
    _limits: HttpLimits
    _bodies: WaitingRoom

    async def get(self, request: Request) -> Response:
        """``topic``, ``partition``, ``group``, ``offset``, ``maxsize``: raw records."""
        return await self._answer(request, Role.READ, self._get)

    async def put(self, request: Request) -> Response:
        """``topic``, ``partition``, ``flag``, ``length``, and perhaps ``checksum``; the body is the data."""
        return await self._answer(request, Role.WRITE, self._put)

    async def offset(self, request: Request) -> Response:
        """``topic``, ``partition``, ``group``, ``offset``: the valid offset that is nearest."""
        return await self._answer(request, Role.READ, self._offset)

    async def _answer(
        self, request: Request, role: Role, ask: Callable[[Request], Awaitable[Result | Value]]
    ) -> Response:
        try:
            self._access.admit(request, role)
            reply = await ask(request)
        except ProblemError as problem:
            headers = {**HEADERS, **problem.headers, "content-type": "text/plain; charset=utf-8"}
            return Response(problem.detail, problem.status, headers)
        if isinstance(reply, Value):
            return Response(reply.data, 200, {**HEADERS, "content-type": "application/octet-stream"})
        headers = {**HEADERS, "content-type": "text/plain; charset=utf-8"}
        return Response(reply.text, min(reply.status, _STATUS_MAX), headers)

    async def _get(self, request: Request) -> Result | Value:
        query = Query.of(request, "topic", "partition", "group", "offset", "maxsize")
        get = Get(
            query.text("topic"),
            query.text("group"),
            _partition(query),
            _offset(query),
            query.integer("maxsize", low=_INT_MIN, high=_INT_MAX),
            opaque=0,
        )
        return await self._door.ask(get)

    async def _put(self, request: Request) -> Result | Value:
        query = Query.of(request, "topic", "partition", "flag", "length", "checksum")
        length = query.integer("length", high=self._door.config.max_request_bytes)
        flag = query.integer("flag", low=_INT_MIN, high=_INT_MAX)
        given = query.optional("checksum")
        if given is not None:
            given = str(number(given, "checksum", -1, CHECKSUM_MASK))
        topic, partition = query.text("topic"), _partition(query)
        checksum = None if given is None else given.encode()
        with self._bodies.enter():
            data = await read_body(request, length, self._limits.body_seconds)
            if len(data) != length:
                raise ProblemError(400, f"the body has {len(data)} bytes, and length says {length}")
            return await self._door.ask(Puts(topic, partition, [data], [flag], [checksum], [b"0"]))

    async def _offset(self, request: Request) -> Result | Value:
        query = Query.of(request, "topic", "partition", "group", "offset")
        return await self._door.ask(
            OffsetQuery(query.text("topic"), query.text("group"), _partition(query), _offset(query), opaque=0)
        )


def _partition(query: Query) -> int:
    return query.integer("partition", low=_INT_MIN, high=_INT_MAX)


def _offset(query: Query) -> int:
    return query.integer("offset", low=-(2**63))
