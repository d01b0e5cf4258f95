"""Lends messages to another thread, many at a time, as if it asked for each.

The borrower says in plain attributes how far it has come, and looks at one before it takes the next message:
when a partition leaves, no message of it is begun any more, and what it was busy with is waited for.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import anyio
import attrs
from anyio.to_thread import run_sync

from metaserver.client.consumer import Consumer

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Sequence

    from metaserver.client.held_partition import HeldPartition, Lag
    from metaserver.client.partition import Partition
    from metaserver.client.received import ReceivedMessage

_CHUNK_MESSAGES = 256
"""A crossing costs as much as some hundred messages; more would keep other partitions waiting."""


@attrs.define(eq=False)
class Chunk:
    """Messages of one partition, in order."""

    messages: list[ReceivedMessage]
    taken: int = 0
    """The borrower's: so many were handed to the application, or passed over."""
    done: int = 0
    """The borrower's: behind so many of them the application has asked for the next."""
    passed_over: int = 0
    """The borrower's: so many at the front were passed over, before any was handed to the application."""
    is_recalled: bool = False
    """The lender's: take no more of it, ask for another."""


@attrs.define(eq=False)
class _Loan:
    held: HeldPartition
    chunk: Chunk
    is_first: bool
    """Whether nothing before it was open when it was lent."""


class LendingConsumer(Consumer):
    """A consumer whose iterator is in another thread. Everything here is for the loop."""

    _loan: _Loan | None = None
    _is_ended: bool = False
    _running: anyio.CancelScope | None = None

    async def next_chunk(self) -> Chunk | None:
        """What the borrower asks for when it has no more; None: the iteration is over.

        What it did not take of the chunk before goes back. Cancelled, nothing is lost.
        """
        self._end_loan()
        while not self._is_ended:
            chunk = self._lend()
            if chunk is not None:
                return chunk
            if not self._is_open:
                return None
            self._available = anyio.Event()
            await self._available.wait()
        return None

    def end(self) -> None:
        """Lend no more, and end a :meth:`run_until_ended`."""
        self._is_ended = True
        self._recall()
        self._available.set()
        if self._running is not None:
            self._running.cancel()

    async def run_until_ended(self, handler: Callable[[ReceivedMessage], object]) -> None:
        """:meth:`run`, with a handler that is called in worker threads.

        An exit that is no error (SystemExit) ends it in order; its message is not dealt with.
        """
        limiter = anyio.CapacityLimiter(self.options.concurrency)
        exits: list[BaseException] = []

        async def handle(message: ReceivedMessage) -> None:
            failure = await run_sync(_attempt, handler, message, limiter=limiter)
            if isinstance(failure, Exception):
                raise failure
            if failure is not None:
                exits.append(failure)
                running.cancel()
                await anyio.sleep_forever()

        self._end_loan()
        with anyio.CancelScope() as running:
            self._running = running
            if not self._is_ended:
                await self.run(handle)
        if exits:
            raise exits[0]

    # A consumer, whatever may be lent.

    async def commit(self, message: ReceivedMessage | None = None) -> None:
        """See Consumer."""
        self._note_progress()
        await super().commit(message)

    def seek(self, partition: Partition, offset: int) -> None:
        """See Consumer."""
        loan = self._loan
        if loan is not None and loan.held is self._held.get(partition):
            self._recall()
            self._loan = None
        super().seek(partition, offset)

    def pause(self, partitions: Iterable[Partition] | None = None) -> None:
        """See Consumer."""
        super().pause(partitions)
        if self._loan is not None and self._loan.held.reader.is_paused:
            self._recall()

    def lag(self) -> list[Lag]:
        """See Consumer."""
        self._note_progress()
        return super().lag()

    def close(self) -> None:
        """See Consumer."""
        self._note_progress()
        self._recall()
        self._loan = None
        super().close()

    async def release(self, partitions: Sequence[Partition], *, is_lost: bool) -> None:
        """See Holder."""
        if self._loan is not None and self._loan.held.partition in partitions:
            self._recall()
        await super().release(partitions, is_lost=is_lost)

    async def _commit(self, held_partitions: Iterable[HeldPartition]) -> None:
        self._note_progress()
        await super()._commit(held_partitions)

    # Inside.

    def _lend(self) -> Chunk | None:
        """From the partition whose turn it is."""
        ready = self._ready
        while ready:
            held = ready.popleft()
            held.is_ready = False
            reader = held.reader
            if held.is_revoked or not reader.messages or reader.is_paused:
                continue
            messages = [reader.take() for _ in range(min(len(reader.messages), _CHUNK_MESSAGES))]
            if reader.messages:
                self._has_messages(reader)
            # Any of them: it says that the partition is in use.
            held.handed_out = messages[-1]
            self._loan = _Loan(held, Chunk(messages), is_first=not held.is_open)
            return self._loan.chunk
        return None

    def _recall(self) -> None:
        if self._loan is not None:
            self._loan.chunk.is_recalled = True

    def _note_progress(self) -> None:
        loan = self._loan
        if loan is None:
            return
        held, chunk = loan.held, loan.chunk
        if chunk.taken:
            held.last_handed_out = chunk.messages[chunk.taken - 1]
        done = chunk.done if self.options.commit == "auto" else chunk.passed_over * loan.is_first
        if done:
            in_use = held.handed_out
            held.finish(chunk.messages[done - 1], is_done=True)
            held.handed_out = in_use

    def _end_loan(self) -> None:
        loan = self._loan
        if loan is None:
            return
        self._note_progress()
        self._recall()
        self._loan = None
        held, chunk = loan.held, loan.chunk
        held.handed_out = None
        held.idle.set()
        rest = chunk.messages[chunk.taken :]
        if rest and not held.is_revoked:
            held.reader.give_back(rest)
            self._has_messages(held.reader)


def _attempt(handler: Callable[[ReceivedMessage], object], message: ReceivedMessage) -> BaseException | None:
    """In the worker. Returned, not raised: an event loop does not survive every exception in a task."""
    try:
        handler(message)
    except BaseException as error:  # noqa: BLE001 - whatever it is, the thread that runs is to have it
        return error
    return None
