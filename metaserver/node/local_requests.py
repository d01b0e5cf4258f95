"""Requests from within the process: the rules of the wire, without a wire."""

from __future__ import annotations

from typing import TYPE_CHECKING

import attrs
import trio

from metaserver.message import HEADER_SIZE
from metaserver.protocol import OversizedPut, Puts, ReplyDecoder, Result, Status, Value

if TYPE_CHECKING:
    from metaserver.broker import Broker
    from metaserver.protocol import Command
    from metaserver.storage import LogSlice

_STOPPING = "The broker is stopping"


@attrs.define(eq=False)
class LocalRequests:
    """Asks the broker of this process, as a connection of its own for each request would."""

    _broker: Broker
    _is_stopping: bool = False

    async def ask(self, command: Command) -> Result | Value:
        """The reply to a command that has one reply.

        Waits while puts of others have taken all the room there is. Cancelled, nobody waits for the reply any
        more; a put is stored or not, as when a connection breaks.
        """
        sink = _OneReply()
        try:
            while self._broker.inflight_bytes > self._broker.config.max_inflight_bytes:
                sink.has_room = trio.Event()
                self._broker.paused[sink] = None
                await sink.has_room.wait()
            if self._is_stopping:
                return Result(Status.UNAVAILABLE, _STOPPING, 0)
            self._broker.handle(self._checked(command), sink)
            await sink.answered.wait()
            if sink.log_slice is None:
                (reply,) = ReplyDecoder(len(sink.frame)).feed(sink.frame)
                return reply
            # From the page cache, or not: either way this is no work for the loop.
            data = await trio.to_thread.run_sync(sink.log_slice.read)
            self._broker.counters.bytes_out += len(data)
            return Value(data, 0)
        finally:
            sink.close()
            self._broker.paused.pop(sink, None)

    def stop(self) -> None:
        """Refuse what comes from now on: what was taken is all that the logs will hold."""
        self._is_stopping = True

    def _checked(self, command: Command) -> Command:
        """What the decoder of a connection would have refused."""
        if isinstance(command, Puts):
            (body,) = command.bodies
            if HEADER_SIZE + len(body) > self._broker.config.max_transfer_size_bytes:
                return OversizedPut(command.topic, command.partition, len(body), 0)
        return command


@attrs.define(eq=False)
class _OneReply:
    """A ReplySink for one reply."""

    is_open: bool = True
    frame: bytes = b""
    log_slice: LogSlice | None = None
    answered: trio.Event = attrs.Factory(trio.Event)
    has_room: trio.Event = attrs.Factory(trio.Event)

    def send(self, data: bytes) -> None:
        self.frame = data
        self.answered.set()

    def send_slice(self, header: bytes, log_slice: LogSlice) -> None:  # noqa: ARG002 - says only how long it is
        if not self.is_open:
            log_slice.release()
            return
        self.log_slice = log_slice
        self.answered.set()

    def flush(self) -> None:
        """Nothing is buffered."""

    def add_inflight(self, size_bytes: int) -> None:
        """The broker's own count is limit enough."""

    def add_waiting_get(self, count: int) -> None:
        """Who asks is not idle anyway."""

    def resume(self) -> None:
        self.has_room.set()

    def close_after_replies(self) -> None:
        """There is only one."""

    def close(self) -> None:
        self.is_open = False
        if self.log_slice is not None:
            self.log_slice.release()
