"""The listening port of a broker: accepts connections, limits them, and stops without losing replies."""

from __future__ import annotations

import errno
import socket
from typing import TYPE_CHECKING

import attrs
import trio

from metaserver.broker.connection import Connection
from metaserver.broker.transport import SocketTransport
from metaserver.logs import get_logger
from metaserver.protocol import Limits, Status, encode_result
from metaserver.protocol.commands import OPAQUE_MISSING

if TYPE_CHECKING:
    from metaserver.broker.broker import Broker
    from metaserver.config import ServerConfig

_log = get_logger(__name__)

_BACKLOG = 1000
_STALE_CHECK_SECONDS = 5.0
_ACCEPT_PAUSE_SECONDS = 0.1
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
    _connections: set[Connection] = attrs.Factory(set)
    _reading: trio.CancelScope = attrs.Factory(trio.CancelScope)

    async def serve(self) -> None:
        """Accept and answer until :meth:`stop` or cancellation; leaves no connection open."""
        async with trio.open_nursery() as drains:
            try:
                with self._reading:
                    async with trio.open_nursery() as readers:
                        readers.start_soon(self._close_stale)
                        await self._accept(readers, drains)
                # Only a graceful stop comes here with tasks in `drains` still allowed to run.
                await self._finish_replies()
            finally:
                self._listener.close()
                for connection in list(self._connections):
                    connection.close()
                drains.cancel_scope.cancel()

    def stop(self) -> None:
        """Take no more requests; answer those taken, then let :meth:`serve` return."""
        self._reading.cancel()

    async def _accept(self, readers: trio.Nursery, drains: trio.Nursery) -> None:
        while True:
            await trio.lowlevel.wait_readable(self._listener)
            try:
                accepted, address = self._listener.accept()
            except BlockingIOError:
                continue
            except OSError as error:
                if error.errno in _OUT_OF_RESOURCES:
                    _log.warning("Cannot accept connections for now", reason=str(error))
                    await trio.sleep(_ACCEPT_PAUSE_SECONDS)
                continue
            self._start(accepted, f"{address[0]}:{address[1]}", readers, drains)

    def _start(self, accepted: socket.socket, peer: str, readers: trio.Nursery, drains: trio.Nursery) -> None:
        accepted.setblocking(False)
        limit = self._broker.config.max_connections
        if len(self._connections) >= limit:
            text = f"This broker has {limit} connections already (maxConnections)"
            _refuse(accepted, encode_result(Status.UNAVAILABLE, text, OPAQUE_MISSING))
            _log.warning("Refused a connection", peer=peer, reason=text)
            return
        accepted.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        accepted.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
        transport = SocketTransport(accepted, peer)
        connection = Connection(self._broker, transport, limits_of(self._broker.config), drains, self._forget)
        self._connections.add(connection)
        self._broker.connection_count = len(self._connections)
        readers.start_soon(self._serve_connection, connection)

    async def _serve_connection(self, connection: Connection) -> None:
        try:
            await connection.serve()
        except Exception:  # One connection's fault must not end the server.
            _log.exception("Connection failed", peer=connection.peer)
            connection.close()

    def _forget(self, connection: Connection) -> None:
        self._connections.discard(connection)
        self._broker.connection_count = len(self._connections)

    async def _close_stale(self) -> None:
        while True:
            await trio.sleep(_STALE_CHECK_SECONDS)
            now, config = trio.current_time(), self._broker.config
            for connection in list(self._connections):
                connection.close_if_stale(
                    now, config.idle_timeout_ms / 1000, config.request_timeout_ms / 1000
                )

    async def _finish_replies(self) -> None:
        """Wait until every put taken is answered and every reply is with its peer, within the limit."""
        with trio.move_on_after(self._broker.config.stop_timeout_ms / 1000) as patience:
            self._broker.answer_waiting_gets()
            for connection in list(self._connections):
                connection.close_after_replies()
                connection.flush()
            while self._connections:
                await trio.sleep(0.005)
        if patience.cancelled_caught:
            _log.warning(
                "Some replies were not taken in time", stop_timeout_ms=self._broker.config.stop_timeout_ms
            )


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
