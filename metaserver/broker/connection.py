"""One client connection: what it has asked for, and what it still has to be sent.

A peer that does not read, or floods, slows only itself: reading from it pauses while too many replies or
puts of it are waiting. Nothing here waits; the transport calls back.
"""

from __future__ import annotations

from collections import deque
from typing import TYPE_CHECKING

import attrs
import trio

from metaserver.logs import get_logger
from metaserver.protocol import OPAQUE_MISSING, CommandDecoder, Status, encode_result

if TYPE_CHECKING:
    from collections.abc import Callable

    from metaserver.broker.broker import Broker
    from metaserver.broker.transport import Transport
    from metaserver.protocol import Command, Limits
    from metaserver.storage import LogSlice

_log = get_logger(__name__)

RECEIVE_BYTES_MIN = 16 * 1024
RECEIVE_BYTES_MAX = 256 * 1024
_SENDS_AT_ONCE_MAX = 16
"""After so many sends to one peer the others have their turn."""
_COMMANDS_AT_ONCE_MAX = 64
"""The same for commands (puts of one run are one): a read may bring thousands."""
_LINGER_SECONDS = 1.0
"""How long a peer that was sent everything may take to close. What it still sends is read and dropped:
closing with unread bytes would reset the connection, and it might never see its last replies."""


@attrs.define(eq=False)
class _SliceToSend:
    """The unsent part of a log slice."""

    log_slice: LogSlice
    position: int
    remaining: int


class Connection:
    """One peer; implements :class:`metaserver.broker.sink.ReplySink`."""

    def __init__(
        self, broker: Broker, transport: Transport, limits: Limits, on_closed: Callable[[Connection], None]
    ) -> None:
        """Serve the peer from now on, until ``on_closed`` is called."""
        self.is_open = True
        self._broker = broker
        self._transport = transport
        self._decoder = CommandDecoder(limits)
        self._on_closed = on_closed
        self._commands: deque[Command] = deque()
        """Decoded, and not acted on yet. At most what one read brought."""
        self._is_acting = False
        self._outgoing: deque[bytes | _SliceToSend] = deque()
        self._outgoing_bytes = 0
        """Of whole frames; slices cost no memory and are counted in ``_slices``."""
        self._slices = 0
        self._inflight_bytes = 0
        self._unfinished_bytes = 0
        self._waiting_gets = 0
        self._receive_bytes = RECEIVE_BYTES_MIN
        self._is_reading = True
        self._is_blocked = False
        """The socket takes no more; it will say when it does."""
        self._is_closing = False
        self._has_finished_sending = False
        self._has_ended = False
        """The peer sends nothing more."""
        self._last_activity = trio.current_time()
        self._frame_began: float | None = None
        transport.start(self._on_readable, self._on_writable)

    @property
    def peer(self) -> str:
        """Who is at the other end."""
        return self._transport.peer

    @property
    def has_replies_due(self) -> bool:
        """Whether anything asked for is not yet answered and sent."""
        return self._inflight_bytes > 0 or bool(self._outgoing) or bool(self._commands)

    # Reading.

    def _on_readable(self) -> None:
        broker = self._broker
        if (
            broker.inflight_bytes > broker.config.max_inflight_bytes
            and self._is_reading
            and not self._is_closing
        ):
            # Or all who are in the middle of a request would end it now, and it would have to be held.
            self._pause_or_resume()
            return
        try:
            data = self._transport.receive_nowait(self._receive_bytes)
        except BlockingIOError:
            return
        except OSError:
            self.close()
            return
        if not data:
            self._end_of_stream()
        elif not self._is_closing:
            self._received(data)

    def _received(self, data: bytes) -> None:
        self._last_activity = trio.current_time()
        size = len(data)
        self._broker.counters.bytes_in += size
        if size == self._receive_bytes:
            self._receive_bytes = min(2 * size, RECEIVE_BYTES_MAX)
        elif size < self._receive_bytes // 4 and self._receive_bytes > RECEIVE_BYTES_MIN:
            self._receive_bytes //= 2
        commands = self._decoder.feed(data)
        is_partial = self._decoder.has_partial_frame
        if not is_partial:
            self._frame_began = None
        elif commands or self._frame_began is None:
            self._frame_began = self._last_activity
        self._commands.extend(commands)
        self._act()
        if is_partial or self._unfinished_bytes:
            self._hold_unfinished()

    def _hold_unfinished(self) -> None:
        held = self._decoder.held_memory_bytes
        if held != self._unfinished_bytes and self.is_open:
            self._unfinished_bytes = held
            self._broker.unfinished.hold(self, held, self._broker.config.max_unfinished_request_bytes)

    def _act(self) -> None:
        """Act on some commands, while there is room for what they ask; send the replies; see what is next."""
        commands, handle = self._commands, self._broker.handle
        self._is_acting = True
        try:
            for _ in range(_COMMANDS_AT_ONCE_MAX):
                if not commands or not self._has_room():
                    break
                handle(commands.popleft(), self)
        except Exception:  # noqa: BLE001 - one connection's fault must not end the server
            _log.exception("Connection failed", peer=self.peer)
            self.close()
        finally:
            self._is_acting = False
        self.flush()

    def _end_of_stream(self) -> None:
        self._has_ended = self._is_closing = True
        self._want(read=False)
        self._close_if_done()

    def _has_room(self) -> bool:
        """Whether what this peer has asked for leaves room for more; if not, someone calls back."""
        config = self._broker.config
        if (
            self._outgoing_bytes > config.max_pending_reply_bytes
            or self._slices > config.max_pending_replies
            or self._inflight_bytes > config.max_connection_inflight_bytes
        ):
            return False
        if self._broker.inflight_bytes > config.max_inflight_bytes:
            self._broker.paused[self] = None
            return False
        return True

    def _pause_or_resume(self) -> None:
        """Read only while nothing is left to do, and there is room for what may be asked."""
        has_room = self._has_room()
        if self._commands:
            if has_room and not self._is_blocked:
                # Not from here, where others are in the middle of something: when the poller calls.
                self._is_blocked = True
                self._want(read=False)
            has_room = False
        if self._is_closing or has_room == self._is_reading:
            return
        if has_room and self._frame_began is not None:
            self._frame_began = trio.current_time()  # The pause was not the peer's.
        self._want(read=has_room)

    def resume(self) -> None:
        """The broker has room again."""
        if self.is_open:
            self._pause_or_resume()

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
        """Account for what waits for the disk."""
        self._inflight_bytes += size_bytes

    def add_waiting_get(self, count: int) -> None:
        """Account for long polls: who waits for an answer is not idle."""
        self._waiting_gets += count

    def close_after_replies(self) -> None:
        """Act on nothing more this peer sends; close once everything queued is sent."""
        self._is_closing = True
        self._commands.clear()
        if self.is_open and not self._is_reading:
            self._want(read=True)

    def refuse_unfinished(self, reason: str) -> None:
        """See :class:`metaserver.broker.unfinished.Holder`."""
        self._decoder.give_up()
        self._unfinished_bytes = 0
        self.send(encode_result(Status.UNAVAILABLE, reason, OPAQUE_MISSING))
        self.close_after_replies()
        self.flush()

    def flush(self) -> None:
        """Send what the peer takes now; the rest when it takes more."""
        if self._outgoing and not self._is_blocked:
            self._send_some()
        if self.is_open and not self._is_acting:
            self._pause_or_resume()
            self._close_if_done()

    # Sending.

    def _on_writable(self) -> None:
        self._is_blocked = False
        if self._outgoing:
            self._send_some()
        if self.is_open:
            self._act()
        if self.is_open and not self._is_blocked:
            self._want(read=self._is_reading)

    def _send_some(self) -> None:
        """Send until nothing is left, the socket is full, or others should have their turn."""
        outgoing = self._outgoing
        try:
            for _ in range(_SENDS_AT_ONCE_MAX):
                first = outgoing[0]
                if isinstance(first, _SliceToSend):
                    self._send_slice_part(first)
                else:
                    self._send_bytes_part(first)
                if not outgoing:
                    return
        except BlockingIOError:
            pass
        except OSError as error:
            _log.debug("Connection broke", peer=self.peer, reason=str(error))
            self.close()
            return
        if not self._is_blocked:
            self._is_blocked = True
            self._want(read=self._is_reading)

    def _send_bytes_part(self, first: bytes) -> None:
        outgoing = self._outgoing
        outgoing.popleft()
        pieces = [first]
        while outgoing and isinstance(following := outgoing[0], bytes):
            pieces.append(following)
            outgoing.popleft()
        if len(pieces) > 1:
            first = b"".join(pieces)
        try:
            sent = self._transport.send_nowait(first, more=bool(outgoing))
        except BlockingIOError:
            outgoing.appendleft(first)
            raise
        self._sent(sent)
        self._outgoing_bytes -= sent
        if sent < len(first):
            outgoing.appendleft(first[sent:])

    def _send_slice_part(self, part: _SliceToSend) -> None:
        sent = self._transport.send_file_nowait(part.log_slice.file, part.position, part.remaining)
        if sent == 0:
            raise OSError("the log file is shorter than announced")
        self._sent(sent)
        part.position += sent
        part.remaining -= sent
        if part.remaining == 0:
            self._outgoing.popleft()
            self._slices -= 1
            part.log_slice.release()

    def _sent(self, size_bytes: int) -> None:
        self._last_activity = trio.current_time()
        self._broker.counters.bytes_out += size_bytes

    def _want(self, *, read: bool) -> None:
        self._is_reading = read
        self._transport.want(read=read, write=self._is_blocked)

    # Closing.

    def _close_if_done(self) -> None:
        if not self._is_closing or self.has_replies_due:
            return
        if not self._has_finished_sending:
            self._has_finished_sending = True
            self._transport.finish_sending()
        if self._has_ended:
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
        self._commands.clear()
        self._outgoing_bytes = self._slices = 0
        self._broker.disconnected(self)
        self._broker.unfinished.forget(self)
        self._transport.close()
        self._on_closed(self)

    def close_if_stale(self, now: float) -> None:
        """Close a peer that takes no replies, does not end its request, or has done nothing for long."""
        config, quiet_seconds = self._broker.config, now - self._last_activity
        frame_seconds = 0.0 if self._frame_began is None else now - self._frame_began
        if self._has_finished_sending and quiet_seconds > _LINGER_SECONDS:
            self.close()
        elif self._is_blocked and quiet_seconds > config.write_timeout_ms / 1000:
            _log.info("Closing a connection that takes no replies", peer=self.peer)
            self.close()
        elif self._is_reading and frame_seconds > config.request_timeout_ms / 1000:
            _log.info("Closing a connection whose request does not end", peer=self.peer)
            self.close()
        elif self.has_replies_due or self._waiting_gets:
            return
        elif quiet_seconds > config.idle_timeout_ms / 1000:
            _log.info("Closing an idle connection", peer=self.peer)
            self.close()
