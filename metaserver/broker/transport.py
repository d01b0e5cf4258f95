"""A connected byte stream that never blocks the loop: a socket, or a simulated one in tests."""

from __future__ import annotations

import os
import socket
from typing import TYPE_CHECKING, Protocol

import attrs
import trio

if TYPE_CHECKING:
    from metaserver.storage import File

_MORE = getattr(socket, "MSG_MORE", 0)


class Transport(Protocol):
    """What a connection needs of its socket. ``…_nowait`` raise BlockingIOError, and OSError when broken."""

    peer: str
    """Who is at the other end, for log lines."""

    def receive_nowait(self, size_max: int) -> bytes:
        """What has arrived; empty at the end of the stream."""
        ...

    def send_nowait(self, data: bytes | memoryview, *, more: bool = False) -> int:
        """Send a part, return its size; ``more`` says that other bytes follow at once."""
        ...

    def send_file_nowait(self, file: File, position: int, size: int) -> int:
        """Send a part of a file without copying it through this process."""
        ...

    async def wait_readable(self) -> None:
        """Wait until there is something to receive; raises trio.ClosedResourceError after close."""
        ...

    async def wait_writable(self) -> None:
        """Wait until there is room to send; raises trio.ClosedResourceError after close."""
        ...

    def finish_sending(self) -> None:
        """Tell the peer that nothing more comes."""
        ...

    def close(self) -> None:
        """Close; whoever waits gets trio.ClosedResourceError."""
        ...


@attrs.define(eq=False)
class SocketTransport:
    """A connected TCP socket, made non-blocking."""

    _socket: socket.socket
    peer: str

    def receive_nowait(self, size_max: int) -> bytes:
        """See :class:`Transport`."""
        return self._socket.recv(size_max)

    def send_nowait(self, data: bytes | memoryview, *, more: bool = False) -> int:
        """See :class:`Transport`."""
        return self._socket.send(data, _MORE if more else 0)

    def send_file_nowait(self, file: File, position: int, size: int) -> int:
        """See :class:`Transport`."""
        return os.sendfile(self._socket.fileno(), file.fileno(), position, size)

    async def wait_readable(self) -> None:
        """See :class:`Transport`."""
        await trio.lowlevel.wait_readable(self._socket)

    async def wait_writable(self) -> None:
        """See :class:`Transport`."""
        await trio.lowlevel.wait_writable(self._socket)

    def finish_sending(self) -> None:
        """See :class:`Transport`."""
        try:
            self._socket.shutdown(socket.SHUT_WR)
        except OSError:
            return  # The peer has gone already.

    def close(self) -> None:
        """See :class:`Transport`."""
        if self._socket.fileno() >= 0:
            trio.lowlevel.notify_closing(self._socket)
            self._socket.close()
