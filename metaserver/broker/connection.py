"""The trio shell of one client connection.

Two rules. Bytes leave in one place: :meth:`Connection.flush` sends what the socket takes at once, and
only where it does not take all, a drain task goes on; never both at the same time. And a peer that
does not read, or floods, slows only itself: its reader pauses while too many replies or puts of it
are waiting.
"""

from __future__ import annotations

from collections import deque
from typing import TYPE_CHECKING

import attrs
import trio

from metaserver.logs import get_logger
from metaserver.protocol import CommandDecoder

if TYPE_CHECKING:
    from collections.abc import Callable

    from metaserver.broker.broker import Broker
    from metaserver.broker.transport import Transport
    from metaserver.protocol import Limits
    from metaserver.storage import LogSlice

_log = get_logger(__name__)

RECEIVE_BYTES_MIN = 16 * 1024
RECEIVE_BYTES_MAX = 256 * 1024
_LINGER_SECONDS = 2.0
"""How long the rest of a malformed request is read, so that closing does not destroy the reply."""
_SENDS_AT_ONCE_MAX = 64
"""After so many sends to one peer the others have their turn."""


@attrs.define(eq=False)
class _SliceToSend:
    """The unsent part of a log slice."""

    log_slice: LogSlice
    position: int
    remaining: int


class Connection:
    """One peer; implements :class:`metaserver.broker.sink.ReplySink`."""

    def __init__(
        self,
        broker: Broker,
        transport: Transport,
        limits: Limits,
        drains: trio.Nursery,
        on_closed: Callable[[Connection], None],
    ) -> None:
        """``drains`` is where the task runs that sends what the peer does not take at once."""
        self._broker = broker
        self._transport = transport
        self._decoder = CommandDecoder(limits)
        self._drains = drains
        self._on_closed = on_closed
        self._outgoing: deque[bytes | _SliceToSend] = deque()
        self._outgoing_bytes = 0
        self._slices = 0
        self._is_draining = False
        self._inflight_bytes = 0
        self._room = trio.Event()
        self._is_closing = False
        self._has_finished_sending = False
        self._frame_began: float | None = None
        self.is_open = True
        self.last_activity = trio.current_time()

    @property
    def peer(self) -> str:
        """Who is at the other end."""
        return self._transport.peer

    @property
    def has_replies_due(self) -> bool:
        """Whether anything asked for is not yet answered and sent."""
        return self._inflight_bytes > 0 or bool(self._outgoing)

    async def serve(self) -> None:
        """Read and answer until either side closes. Cancelled: reading stops, replies still go out."""
        receive_bytes = RECEIVE_BYTES_MIN
        while self.is_open and not self._is_closing:
            await self._wait_for_room()
            try:
                await self._transport.wait_readable()
                data = self._transport.receive_nowait(receive_bytes)
            except BlockingIOError:
                continue
            except (OSError, trio.ClosedResourceError):
                self.close()
                return
            if not data:
                self._is_closing = True
                break
            self._received(data)
            if len(data) == receive_bytes:
                receive_bytes = min(2 * receive_bytes, RECEIVE_BYTES_MAX)
            elif len(data) < receive_bytes // 4:
                receive_bytes = max(receive_bytes // 2, RECEIVE_BYTES_MIN)
        self._close_if_done()
        if self._decoder.has_failed:
            await self._linger()

    async def _linger(self) -> None:
        """Throw away what still comes: closing with unread bytes would reset the connection."""
        try:
            with trio.move_on_after(_LINGER_SECONDS):
                while self.is_open:
                    await self._transport.wait_readable()
                    if not self._transport.receive_nowait(RECEIVE_BYTES_MAX):
                        break
        except (OSError, trio.ClosedResourceError):
            pass  # BlockingIOError included: the peer is gone, or soon will be.
        self.close()

    def _received(self, data: bytes) -> None:
        self.last_activity = trio.current_time()
        commands = self._decoder.feed(data)
        if not self._decoder.has_partial_frame:
            self._frame_began = None
        elif commands or self._frame_began is None:
            self._frame_began = self.last_activity
        handle = self._broker.handle
        for command in commands:
            handle(command, self)
        self.flush()

    async def _wait_for_room(self) -> None:
        config = self._broker.config
        while self.is_open and (
            self._outgoing_bytes > config.max_pending_reply_bytes
            or self._slices > config.max_pending_replies
            or self._inflight_bytes > config.max_connection_inflight_bytes
        ):
            self._room = trio.Event()
            await self._room.wait()
        while self.is_open and self._broker.inflight_bytes > config.max_inflight_bytes:
            await self._broker.inflight_room.park()

    # The broker's side: see ReplySink.

    def send(self, data: bytes) -> None:
        """Queue whole reply frames."""
        if self.is_open:
            self._outgoing.append(data)
            self._outgoing_bytes += len(data)

    def send_slice(self, header: bytes, log_slice: LogSlice) -> None:
        """Queue a header and the log bytes behind it; the slice is released when they are sent."""
        if not self.is_open:
            log_slice.release()
            return
        self.send(header)
        self._slices += 1
        self._outgoing.append(_SliceToSend(log_slice, log_slice.position, log_slice.size))

    def add_inflight(self, size_bytes: int) -> None:
        """Account for puts that wait for the disk."""
        self._inflight_bytes += size_bytes
        if size_bytes < 0:
            self._room.set()

    def close_after_replies(self) -> None:
        """Read nothing more; close once everything queued is sent."""
        self._is_closing = True

    def flush(self) -> None:
        """Send what the peer takes now; a task sends the rest."""
        if self._is_draining or not self._outgoing:
            self._close_if_done()
            return
        if self._send_some():
            self._close_if_done()
        elif self.is_open:
            self._is_draining = True
            self._drains.start_soon(self._drain)

    async def _drain(self) -> None:
        """Send the rest as the peer takes it; a peer that takes nothing for too long is cut off."""
        timeout_seconds = self._broker.config.write_timeout_ms / 1000
        try:
            while self.is_open:
                with trio.move_on_after(timeout_seconds) as patience:
                    await self._transport.wait_writable()
                if patience.cancelled_caught:
                    _log.info("Closing a connection that takes no replies", peer=self.peer)
                    self.close()
                elif self._send_some():
                    break
        except (OSError, trio.ClosedResourceError):
            self.close()
        finally:
            self._is_draining = False
        self._room.set()
        self._close_if_done()

    def _send_some(self) -> bool:
        """Send until nothing is left (True), or the socket is full or others should have a turn (False)."""
        outgoing = self._outgoing
        try:
            for _ in range(_SENDS_AT_ONCE_MAX):
                if not outgoing:
                    return True
                first = outgoing[0]
                if isinstance(first, _SliceToSend):
                    self._send_slice_part(first)
                else:
                    self._send_bytes_part()
        except BlockingIOError:
            return False
        except OSError as error:
            _log.debug("Connection broke", peer=self.peer, reason=str(error))
            self.close()
            return True
        self.last_activity = trio.current_time()
        return not outgoing

    def _send_bytes_part(self) -> None:
        outgoing = self._outgoing
        pieces: list[bytes] = []
        while outgoing and not isinstance(outgoing[0], _SliceToSend):
            pieces.append(outgoing.popleft())  # type: ignore[arg-type]
        data = pieces[0] if len(pieces) == 1 else b"".join(pieces)
        try:
            sent = self._transport.send_nowait(data, more=bool(outgoing))
        except BlockingIOError:
            outgoing.appendleft(data)
            raise
        self._outgoing_bytes -= sent
        if sent < len(data):
            outgoing.appendleft(data[sent:])

    def _send_slice_part(self, part: _SliceToSend) -> None:
        sent = self._transport.send_file_nowait(part.log_slice.file, part.position, part.remaining)
        if sent == 0:
            msg = "the log file is shorter than announced"
            raise OSError(msg)
        part.position += sent
        part.remaining -= sent
        if part.remaining == 0:
            self._outgoing.popleft()
            self._slices -= 1
            part.log_slice.release()

    # Closing.

    def _close_if_done(self) -> None:
        if not self._is_closing or not self.is_open or self.has_replies_due:
            return
        if not self._has_finished_sending:
            self._has_finished_sending = True
            self._transport.finish_sending()
        if not self._decoder.has_failed:
            self.close()

    def close(self) -> None:
        """Close now; replies not sent are dropped."""
        if not self.is_open:
            return
        self.is_open = False
        for item in self._outgoing:
            if isinstance(item, _SliceToSend):
                item.log_slice.release()
        self._outgoing.clear()
        self._outgoing_bytes = self._slices = 0
        self._transport.close()
        self._room.set()
        self._on_closed(self)

    def close_if_stale(self, now: float, idle_seconds: float, frame_seconds: float) -> None:
        """Close a connection without traffic, or whose frame does not come to an end."""
        if self._frame_began is not None and now - self._frame_began > frame_seconds:
            _log.info("Closing a connection whose request does not end", peer=self.peer)
            self.close()
        elif now - self.last_activity > idle_seconds and not self.has_replies_due:
            _log.info("Closing an idle connection", peer=self.peer)
            self.close()
