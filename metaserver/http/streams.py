"""Server-sent events: an answer that goes on.

Each event is a line of JSON. A comment every few seconds keeps what lies between from closing the connection,
and lets us notice that nobody listens any more.
"""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any, Final

import attrs
import trio

from metaserver.http.problems import HEADERS

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

    from starlette.types import Receive, Scope, Send

    from metaserver.http.waiting import WaitingRoom

_ALIVE_SECONDS: Final = 10.0


@attrs.define(eq=False)
class EventSink:
    """Where the events of one stream go."""

    _send: Send
    _turn: trio.Lock = attrs.Factory(trio.Lock)
    """Of those who have something to say at the same time."""

    async def event(self, name: str, content: object, event_id: str | None = None) -> None:
        """Send one; returns when the peer has room for more."""
        # Every line break inside of the data would end it; JSON has none.
        identity = "" if event_id is None else f"id: {event_id}\n"
        text = f"event: {name}\n{identity}data: {json.dumps(content, ensure_ascii=True)}\n\n"
        await self._write(text.encode())

    async def comment(self) -> None:
        """Say that we are here."""
        await self._write(b":\n\n")

    async def _write(self, data: bytes) -> None:
        async with self._turn:
            await self._send({"type": "http.response.body", "body": data, "more_body": True})


@attrs.frozen(eq=False)
class EventStream:
    """A response: runs what makes the events until it returns, or the peer goes away."""

    _run: Callable[[EventSink], Awaitable[None]]
    _waiting: WaitingRoom

    async def __call__(self, _scope: Scope, receive: Receive, send: Send) -> None:
        """As ASGI asks for it."""
        with self._waiting.enter():
            headers: list[Any] = [
                (name.encode(), value.encode())
                for name, value in {
                    **HEADERS,
                    "content-type": "text/event-stream; charset=utf-8",
                    "x-accel-buffering": "no",
                }.items()
            ]
            await send({"type": "http.response.start", "status": 200, "headers": headers})
            sink = EventSink(send)
            async with trio.open_nursery() as nursery:
                nursery.start_soon(_cancel_when_gone, receive, nursery.cancel_scope)
                nursery.start_soon(_stay_alive, sink)
                await self._run(sink)
                nursery.cancel_scope.cancel()
            await send({"type": "http.response.body", "body": b"", "more_body": False})


async def _cancel_when_gone(receive: Receive, scope: trio.CancelScope) -> None:
    while (await receive())["type"] != "http.disconnect":
        pass
    scope.cancel()


async def _stay_alive(sink: EventSink) -> None:
    while True:
        await trio.sleep(_ALIVE_SECONDS)
        await sink.comment()
