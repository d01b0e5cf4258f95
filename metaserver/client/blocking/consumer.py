"""A consumer that is iterated over, or that calls a handler, in threads."""

from __future__ import annotations

from contextlib import suppress
from typing import TYPE_CHECKING, Self, TypeAlias

import anyio

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

    from metaserver.client.blocking.block import Block
    from metaserver.client.blocking.lending import Chunk, LendingConsumer
    from metaserver.client.consumer import ConsumerOptions
    from metaserver.client.filters import Filter
    from metaserver.client.held_partition import Lag
    from metaserver.client.partition import Partition
    from metaserver.client.received import ReceivedMessage

Handler: TypeAlias = "Callable[[ReceivedMessage], object]"


class Consumer:
    """Made by the session's method; iterate over it, or :meth:`run` a handler."""

    def __init__(self, block: Block[LendingConsumer], message_filter: Filter | None) -> None:
        """Use the session's method."""
        self._block = block
        self._inner = block.value
        self._filter = message_filter
        self._chunk: Chunk | None = None
        self._is_stopped = False

    @property
    def group(self) -> str:
        """Its name."""
        return self._inner.group

    @property
    def options(self) -> ConsumerOptions:
        """As it was made with."""
        return self._inner.options

    def __iter__(self) -> Self:
        """Itself: one iteration at a time, in one thread at a time."""
        return self

    def __next__(self) -> ReceivedMessage:
        """The next message, of any partition; waits for one.

        With automatic commit the one before counts as dealt with now. What the filter raises comes out; its
        message is not dealt with, and the next call asks the filter again.
        """
        while True:
            chunk = self._chunk
            if chunk is not None:
                position = chunk.done = chunk.taken
                if position < len(chunk.messages) and not chunk.is_recalled:
                    message = chunk.messages[position]
                    if self._filter is None or self._filter(message):
                        chunk.taken = position + 1
                        return message
                    chunk.passed_over += chunk.passed_over == position
                    chunk.taken = position + 1
                    continue
            if self._is_stopped:
                raise StopIteration
            try:
                self._chunk = self._block.call(self._inner.next_chunk)
            except anyio.ClosedResourceError:
                self._chunk = None
            if self._chunk is None:
                raise StopIteration

    def run(self, handler: Handler) -> None:
        """Call the handler for every message, in worker threads, until :meth:`stop`; partitions side by side.

        As many at a time as ``ConsumerOptions.concurrency`` says, of one partition always one. A handler that
        raises gets the message again, up to ``attempts_max`` times, after growing pauses; then it goes to the
        dead letters, and where there are none HandlerFailedError ends this call. Stopped or interrupted, it
        ends when the handlers that run now have returned, and their messages are dealt with. The filter runs
        on the session's loop: it must not wait.
        """
        self._block.call(self._inner.run_until_ended, handler)

    def stop(self) -> None:
        """End the iteration behind its present message, and :meth:`run`; from any thread, or signal."""
        self._is_stopped = True
        with suppress(anyio.ClosedResourceError):
            self._block.thread.post(self._inner.end)

    def commit(self, message: ReceivedMessage | None = None) -> None:
        """Store how far the group has come, now.

        With a message: it and all before it in its partition are dealt with. Without one: everything handed
        out so far is. Raises OffsetStorageError; the same commit may be tried again.
        """
        self._block.call(self._inner.commit, message)

    def reject(self, message: ReceivedMessage, reason: str) -> None:
        """Put a message that cannot be dealt with to the dead letters; then it counts as dealt with.

        Raises ClientError where it cannot be put there: it is not dealt with then.
        """
        self._block.call(self._inner.reject, message, reason)

    def wait_assigned(self) -> None:
        """Returns when this member has found its place in the group for the first time."""
        self._block.call(self._inner.wait_assigned)

    def seek(self, partition: Partition, offset: int) -> None:
        """Go on at another offset, also backwards. Raises KeyError unless it is one of :attr:`partitions`."""
        self._block.do(self._inner.seek, partition, offset)

    def pause(self, partitions: Iterable[Partition] | None = None) -> None:
        """Hand out nothing of these (of all) until :meth:`resume`; they stay this member's."""
        self._block.do(self._inner.pause, partitions)

    def resume(self, partitions: Iterable[Partition] | None = None) -> None:
        """Go on."""
        self._block.do(self._inner.resume, partitions)

    def lag(self) -> list[Lag]:
        """How far this member is behind in each of its partitions, as far as it has seen their ends."""
        return self._block.do(self._inner.lag)

    @property
    def partitions(self) -> tuple[Partition, ...]:
        """What this member owns now."""
        return self._block.do(lambda: self._inner.partitions)

    @property
    def problems(self) -> list[str]:
        """What is not as it should be, in words; empty when all is well."""
        return self._block.do(lambda: self._inner.problems)
