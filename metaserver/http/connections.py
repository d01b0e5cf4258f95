"""HTTP connections: hypercorn speaks the protocol, this module owns the sockets.

Hypercorn's own ``serve`` was not enough for a server that lives inside a broker (hypercorn 0.18):

- an exception out of one connection ends the whole server, and some bytes on the port raise one
  (hypercorn's issue 225); here it ends that connection and is logged;
- it sends in a shielded scope without a deadline, so a peer that takes no bytes could keep the
  broker from stopping; here a send has a deadline and the stop closes what is left;
- it has no limit on connections.

So each accepted connection goes through hypercorn's ``TCPServer``, over a stream with limits. That
class is not in hypercorn's documented interface: the tests of this package say whether a new
version still fits.
"""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING, cast

import attrs
import trio
from hypercorn.app_wrappers import ASGIWrapper
from hypercorn.config import Config
from hypercorn.trio.tcp_server import TCPServer
from hypercorn.trio.worker_context import WorkerContext

from metaserver import descriptors
from metaserver.logs import get_logger

if TYPE_CHECKING:
    from collections.abc import Sequence

    from hypercorn.typing import ASGIFramework, ConnectionState
    from starlette.applications import Starlette

    from metaserver.http.source import HttpLimits

_log = get_logger(__name__)

_BUSY_TEXT = b"too many connections\n"
_BUSY = (
    b"HTTP/1.1 503 Service Unavailable\r\ncontent-type: text/plain\r\nconnection: close\r\n"
    b"content-length: %d\r\n\r\n%s" % (len(_BUSY_TEXT), _BUSY_TEXT)
)


@attrs.define(eq=False)
class Connections:
    """Serves one application on the listeners it is given."""

    _application: Starlette
    _limits: HttpLimits
    _open: set[_Stream] = attrs.field(factory=set, init=False)
    _stopping: trio.Event = attrs.field(factory=trio.Event, init=False)
    _all_closed: trio.Event = attrs.field(factory=trio.Event, init=False)
    """Set when the last connection is gone after the stop began."""

    async def serve(self, listeners: Sequence[trio.SocketListener]) -> None:
        """Accept until cancelled; then give answers under way a moment, and close the rest."""
        # The accepting task lies outside of the shield and feels the cancellation at once; the
        # connections lie inside and are ended by the lines below it, in order.
        async with trio.open_nursery() as accepting:
            with trio.CancelScope(shield=True):
                async with trio.open_nursery() as handlers:
                    accepting.start_soon(self._accept, listeners, handlers)
                    await self._stopping.wait()
                    for stream in tuple(self._open):
                        await stream.context.terminated.set()
                    with trio.move_on_after(self._limits.stop_seconds):
                        if self._open:
                            await self._all_closed.wait()
                    for stream in tuple(self._open):
                        stream.abort()
                    handlers.cancel_scope.cancel()

    async def _accept(self, listeners: Sequence[trio.SocketListener], handlers: trio.Nursery) -> None:
        try:
            await trio.serve_listeners(self._handle, list(listeners), handler_nursery=handlers)
        finally:
            self._stopping.set()

    async def _handle(self, transport: trio.SocketStream) -> None:
        is_full = len(self._open) >= self._limits.connections
        if is_full or descriptors.is_reserved(transport.socket.fileno()):
            with trio.move_on_after(self._limits.stop_seconds):
                await transport.send_all(_BUSY)
            return
        stream = _Stream(transport, self._limits.send_seconds)
        self._open.add(stream)
        try:
            # TCPServer asks a stream only for what _Stream has; its annotation names a class.
            await TCPServer(
                ASGIWrapper(cast("ASGIFramework", self._application)),
                _hypercorn_config(self._limits),
                stream.context,
                cast("ConnectionState", {}),
                cast("trio.SSLStream[trio.SocketStream]", stream),
            )
        except Exception as error:  # noqa: BLE001  whatever one connection does, it must not end the server
            # Without the traceback: whoever can reach the port could fill the log with it.
            _log.warning("http connection failed", error=_root_cause(error))
        finally:
            self._open.discard(stream)
            if self._stopping.is_set() and not self._open:
                self._all_closed.set()


@attrs.define(eq=False)
class _Stream:
    """The part of a socket stream that hypercorn uses, with a deadline for sends."""

    _transport: trio.SocketStream
    _send_seconds: float
    context: WorkerContext = attrs.field(factory=lambda: WorkerContext(None), init=False)
    """Of hypercorn; once it is terminated, nobody waits for another request."""

    @property
    def socket(self) -> trio.socket.SocketType:
        return self._transport.socket

    async def receive_some(self, max_bytes: int) -> bytes | bytearray:
        data = await self._transport.receive_some(max_bytes)
        if not data:
            # Hypercorn would keep the descriptor of a peer that is gone until it has been idle for long.
            await self.context.terminated.set()
        return data

    async def send_all(self, data: bytes) -> None:
        with trio.move_on_after(self._send_seconds):
            try:
                await self._transport.send_all(data)
            except trio.BusyResourceError:
                # Hypercorn is ending the stream in another task: it closes for a bad second request while
                # the answer to the first is on its way. It knows what a broken stream means, not this.
                message = "the connection is being closed"
                raise trio.BrokenResourceError(message) from None
            return
        self.abort()
        message = "the peer takes no bytes"
        raise trio.BrokenResourceError(message)

    async def send_eof(self) -> None:
        await self._transport.send_eof()

    async def aclose(self) -> None:
        await self._transport.aclose()

    def abort(self) -> None:
        """Close at once; a task that is sending or receiving gets a ClosedResourceError."""
        self._transport.socket.close()


def _root_cause(error: BaseException) -> str:
    """What happened, out of the groups in which nurseries wrap it."""
    while isinstance(error, BaseExceptionGroup):
        error = error.exceptions[0]
    return repr(error)


def _hypercorn_config(limits: HttpLimits) -> Config:
    config = Config()
    config.accesslog = None
    config.errorlog = logging.getLogger(__name__)
    config.include_server_header = False
    config.h11_max_incomplete_size = limits.header_bytes
    config.h2_max_header_list_size = limits.header_bytes
    config.h2_max_concurrent_streams = 8
    config.keep_alive_timeout = limits.idle_seconds
    return config
