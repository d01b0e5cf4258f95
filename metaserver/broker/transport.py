"""A connected byte stream that never blocks the loop: a socket, or a simulated one in tests."""

from __future__ import annotations

import os
import socket
from typing import TYPE_CHECKING, Protocol

from metaserver.broker.poller import BROKEN, READABLE, WRITABLE

if TYPE_CHECKING:
    from collections.abc import Callable

    from metaserver.broker.poller import Poller
    from metaserver.storage import File

_MORE = getattr(socket, "MSG_MORE", 0)


class Transport(Protocol):
    """What a connection needs of its socket.

    The ``…_nowait`` calls raise BlockingIOError when they would wait, and another OSError when the stream
    is broken.
    """

    peer: str
    """Who is at the other end, for log lines."""

    def start(self, on_readable: Callable[[], None], on_writable: Callable[[], None]) -> None:
        """Begin to call back; reading is wanted, writing is not."""
        ...

    def want(self, *, read: bool, write: bool) -> None:
        """Which of the two calls are wanted from now on."""
        ...

    def receive_nowait(self, size_max: int) -> bytes:
        """What has arrived; empty at the end of the stream."""
        ...

    def send_nowait(self, data: bytes, *, more: bool) -> int:
        """Send a part, return its size; ``more`` says that other bytes follow at once."""
        ...

    def send_file_nowait(self, file: File, position: int, size: int) -> int:
        """Send a part of a file without copying it through this process; return its size."""
        ...

    def finish_sending(self) -> None:
        """Tell the peer that nothing more comes."""
        ...

    def close(self) -> None:
        """Close; nothing is called back any more."""
        ...


class SocketTransport:
    """A connected, non-blocking TCP socket."""

    def __init__(self, connected: socket.socket, peer: str, poller: Poller) -> None:
        """Take the socket over."""
        self.peer = peer
        self._socket = connected
        self._descriptor = connected.fileno()
        self._poller = poller
        self._on_readable: Callable[[], None]
        self._on_writable: Callable[[], None]
        self.receive_nowait = connected.recv
        """See :class:`Transport`; bound once, for it is called with every request."""

    def start(self, on_readable: Callable[[], None], on_writable: Callable[[], None]) -> None:
        """See :class:`Transport`."""
        self._on_readable, self._on_writable = on_readable, on_writable
        self._poller.register(self._descriptor, READABLE, self._on_ready)

    def want(self, *, read: bool, write: bool) -> None:
        """See :class:`Transport`."""
        self._poller.modify(self._descriptor, (READABLE if read else 0) | (WRITABLE if write else 0))

    def send_nowait(self, data: bytes, *, more: bool) -> int:
        """See :class:`Transport`."""
        return self._socket.send(data, _MORE if more else 0)

    def send_file_nowait(self, file: File, position: int, size: int) -> int:
        """See :class:`Transport`."""
        return os.sendfile(self._descriptor, file.fileno(), position, size)

    def finish_sending(self) -> None:
        """See :class:`Transport`."""
        try:
            self._socket.shutdown(socket.SHUT_WR)
        except OSError:
            return  # The peer has gone already.

    def close(self) -> None:
        """See :class:`Transport`."""
        if self._descriptor >= 0:
            self._poller.unregister(self._descriptor)
            self._descriptor = -1
            self._socket.close()

    def _on_ready(self, events: int) -> None:
        if events & WRITABLE:
            self._on_writable()
        # A broken stream shows itself to the one who reads, wanted or not.
        if events & (READABLE | BROKEN) and self._descriptor >= 0:
            self._on_readable()
