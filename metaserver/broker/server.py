"""The listening port of a broker: accepts connections, limits them, and stops without losing replies."""

from __future__ import annotations

import errno
import socket
from typing import TYPE_CHECKING

import attrs
import trio

from metaserver import descriptors
from metaserver.broker.connection import Connection
from metaserver.broker.poller import READABLE
from metaserver.broker.transport import SocketTransport
from metaserver.logs import get_logger
from metaserver.protocol import OPAQUE_MISSING, Limits, Status, encode_result

if TYPE_CHECKING:
    from collections.abc import Callable

    from metaserver.broker.broker import Broker
    from metaserver.broker.poller import Poller
    from metaserver.broker.transport import Transport
    from metaserver.config import ServerConfig

_log = get_logger(__name__)

_BACKLOG = 1000
_ACCEPTS_AT_ONCE_MAX = 8
"""After so many those that are here have their turn; thousands may come at once."""
_LOOKS_AT_ONCE_MAX = 32
"""The same for the search for stale connections: all of them may be stale."""
_STALE_CHECK_SECONDS = 1.0
_SHORT_PAUSE_SECONDS = 0.1
_OUT_OF_RESOURCES = (errno.EMFILE, errno.ENFILE, errno.ENOBUFS, errno.ENOMEM)


def open_listener(host: str, port: int) -> socket.socket:
    """A bound, listening, non-blocking socket; raises OSError when the port cannot be had."""
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    listener = socket.socket(family, socket.SOCK_STREAM)
    try:
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listener.bind((host.strip("[]"), port))
        listener.listen(_BACKLOG)
        listener.setblocking(False)
    except BaseException:
        listener.close()
        raise
    return listener


@attrs.define(eq=False)
class Server:
    """Serves one broker on one listening socket."""

    _broker: Broker
    _listener: socket.socket
    _poller: Poller
    _transport: Callable[[socket.socket, str, Poller], Transport] = SocketTransport
    """Of an accepted socket and the peer's name."""
    _connections: dict[Connection, None] = attrs.Factory(dict)
    _stopping: trio.Event = attrs.Factory(trio.Event)
    _all_gone: trio.Event = attrs.Factory(trio.Event)
    """Set when a stopping server has no connection left."""
    _is_out_of_resources: bool = False

    async def serve(self, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED) -> None:
        """Accept and answer until :meth:`stop` or cancellation; leaves no connection open."""
        self._poller.register(self._listener.fileno(), READABLE, self._accept)
        try:
            async with trio.open_nursery() as nursery:
                nursery.start_soon(self._look_after_connections)
                task_status.started()
                await self._stopping.wait()
                nursery.cancel_scope.cancel()
            await self._finish_replies()
        finally:
            self._poller.unregister(self._listener.fileno())
            self._listener.close()
            for connection in list(self._connections):
                connection.close()

    def stop(self) -> None:
        """Take no more requests; answer those taken, then let :meth:`serve` return."""
        self._stopping.set()

    def _accept(self, _events: int) -> None:
        for _ in range(_ACCEPTS_AT_ONCE_MAX):
            try:
                accepted, address = self._listener.accept()
            except BlockingIOError:
                return
            except OSError as error:
                if error.errno in _OUT_OF_RESOURCES:
                    _log.warning("Cannot accept connections for now", reason=str(error))
                    self._is_out_of_resources = True
                    self._poller.modify(self._listener.fileno(), 0)
                return
            if self._stopping.is_set():
                accepted.close()
            else:
                self._start(accepted, f"{address[0]}:{address[1]}")

    def _start(self, accepted: socket.socket, peer: str) -> None:
        accepted.setblocking(False)
        if text := self._why_full(accepted):
            _refuse(accepted, encode_result(Status.UNAVAILABLE, text, OPAQUE_MISSING))
            _log.warning("Refused a connection", peer=peer, reason=text)
            return
        accepted.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        accepted.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
        transport = self._transport(accepted, peer, self._poller)
        limits = limits_of(self._broker.config)
        self._connections[Connection(self._broker, transport, limits, self._forget)] = None
        self._broker.connection_count = len(self._connections)

    def _why_full(self, accepted: socket.socket) -> str:
        """Why there is no room for another connection; blank where there is."""
        limit = self._broker.config.max_connections
        if len(self._connections) >= limit:
            return f"This broker has {limit} connections already (maxConnections)"
        if descriptors.is_reserved(accepted.fileno()):
            return f"This broker has no descriptor left for connections (of {descriptors.limit()})"
        return ""

    def _forget(self, connection: Connection) -> None:
        self._connections.pop(connection, None)
        self._broker.connection_count = len(self._connections)
        if not self._connections:
            self._all_gone.set()

    async def _look_after_connections(self) -> None:
        while True:
            await trio.sleep(_SHORT_PAUSE_SECONDS if self._is_out_of_resources else _STALE_CHECK_SECONDS)
            if self._is_out_of_resources:
                self._is_out_of_resources = False
                self._poller.modify(self._listener.fileno(), READABLE)
            await self._close_stale()

    async def _close_stale(self) -> None:
        for number, connection in enumerate(list(self._connections), 1):
            if connection in self._connections:  # Not closed meanwhile.
                connection.close_if_stale(trio.current_time())
            if number % _LOOKS_AT_ONCE_MAX == 0:
                await trio.lowlevel.checkpoint()

    def _finish(self, connection: Connection) -> None:
        connection.close_after_replies()
        connection.flush()

    async def _finish_replies(self) -> None:
        """Wait until every put taken is answered and every reply is with its peer, within the limit."""
        limit_ms = self._broker.config.stop_timeout_ms
        with trio.move_on_after(limit_ms / 1000) as patience:
            acknowledgements = self._broker.acknowledgements
            self._broker.answer_waiting_gets()
            for connection in list(self._connections):
                # Puts that wait for slaves are answered by what slaves still report.
                if not acknowledgements.acks.has_reported(connection):
                    self._finish(connection)
            with trio.move_on_after(limit_ms / 2000):
                await self._broker.wait_until_answered()
            acknowledgements.give_up()
            self._broker.answer_waiting_gets()  # The slaves' own, which went on.
            for connection in list(self._connections):
                self._finish(connection)
            while self._connections:
                self._all_gone = trio.Event()
                with trio.move_on_after(_SHORT_PAUSE_SECONDS):
                    await self._all_gone.wait()
                await self._close_stale()
        if patience.cancelled_caught:
            _log.warning("Some replies were not taken in time", stop_timeout_ms=limit_ms)


def limits_of(config: ServerConfig) -> Limits:
    """The decoder's limits of a configuration."""
    return Limits(
        line_bytes_max=config.max_line_bytes,
        body_bytes_max=config.max_request_bytes,
        record_bytes_max=config.max_transfer_size_bytes,
    )


def _refuse(accepted: socket.socket, reply: bytes) -> None:
    try:
        accepted.send(reply)
        accepted.shutdown(socket.SHUT_WR)
    except OSError:
        pass  # It is being refused; if it does not even listen, all the better.
    finally:
        accepted.close()
