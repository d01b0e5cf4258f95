"""Reads partitions of a topic to a descriptor: the next fetch is on its way while the last is written."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

import attrs
import trio

from metaserver.cli.output import STANDARD_OUTPUT, Failure, complain, named
from metaserver.cli.starting_point import describe_between, describe_outside
from metaserver.client import Fetched, Moved, NothingThere
from metaserver.client.comparison import parse_ranges
from metaserver.client.connection import (
    DEFAULT_GROUP,
    FETCH_BYTES,
    FOLLOW_WAIT_MS,
    REQUEST_SECONDS,
    fetch_result,
    next_fetch_size,
)
from metaserver.client.headers import locate, log_ends
from metaserver.errors import ClientError, ReplyError, RequestTimeoutError
from metaserver.names import MAX_OFFSET
from metaserver.protocol import Status, encode_get

if TYPE_CHECKING:
    from collections.abc import Callable

    from metaserver.cli.formats import Written
    from metaserver.cli.starting_point import StartingPoint
    from metaserver.client import BrokerConnection
    from metaserver.client.connection import PendingReply

_LOOK_AGAIN_SECONDS = 2.0
"""Following a whole topic: for partitions that have come into being."""
_NOTHING_SECONDS = 0.1
"""Following: between an answer that there is nothing, and the next question."""


@attrs.define(eq=False)
class Output:
    """A descriptor that several partitions write to, a chunk of whole messages at a time."""

    _descriptor: int
    is_closed: bool = False
    """Whoever read our output has gone."""
    _lock: trio.Lock = attrs.Factory(trio.Lock)

    async def write(self, data: bytes) -> None:
        """Write all of it; raises OSError, but not for a closed pipe."""
        async with self._lock:
            try:
                # In a thread: a terminal or a pipe may take its time, and the connection stays served.
                await trio.to_thread.run_sync(write_all, self._descriptor, data, abandon_on_cancel=True)
            except BrokenPipeError:
                self.is_closed = True


@attrs.define(eq=False)
class Reader:
    """What is to be read, and how far it has come; outlives a connection."""

    topic: str
    partition: int | None
    """None: all of them."""
    starting_point: StartingPoint
    is_following: bool
    _format: Callable[[Fetched, int | None], Written]
    _output: Output
    remaining: int | None
    """Messages that may still be written; None for no limit."""
    problem: ClientError | OSError | Failure | None = None
    """Why it ended early."""
    _unwritten: int = 0
    """Messages that are counted and not written yet."""
    _offsets: dict[int, int] = attrs.Factory(dict)
    """The next offset of each partition that has been begun."""

    async def run(self, connection: BrokerConnection) -> None:
        """Read until the end, or for ever; ``problem`` tells afterwards what went wrong."""
        self.problem = None
        async with trio.open_nursery() as nursery:
            begun: set[int] = set()
            while True:
                for partition in await self._partitions(connection, nursery.cancel_scope) - begun:
                    begun.add(partition)
                    nursery.start_soon(self._guarded, connection, partition, nursery.cancel_scope)
                if not self.is_following or self.partition is not None:
                    break
                await trio.sleep(_LOOK_AGAIN_SECONDS)

    async def _partitions(self, connection: BrokerConnection, scope: trio.CancelScope) -> set[int]:
        if self.partition is not None:
            return {self.partition}
        try:
            return await partitions_of(connection, self.topic, must_exist=not self.is_following)
        except ClientError as error:
            self.problem = self.problem or error
            scope.cancel()
            return set()

    async def _guarded(self, connection: BrokerConnection, partition: int, scope: trio.CancelScope) -> None:
        try:
            await self._read(connection, partition)
        except (ClientError, OSError, Failure) as error:
            self.problem = self.problem or error
            scope.cancel()
        # The last messages may be another partition's, and still on their way out.
        if self._output.is_closed or (self.remaining == 0 and not self._unwritten):
            scope.cancel()

    @property
    def _is_done(self) -> bool:
        return self.remaining == 0 or self._output.is_closed

    async def _read(self, connection: BrokerConnection, partition: int) -> None:
        offset = await self._begin(connection, partition)
        end: int = MAX_OFFSET
        if not self.is_following:
            end = await connection.end_offset(self.topic, partition)
        size_max = FETCH_BYTES
        pending: PendingReply | None = None
        while offset < end and not self._is_done:
            if pending is None:
                pending = await self._ask(connection, partition, offset, min(size_max, end - offset))
            got = await self._receive(connection, pending, partition, offset)
            pending = None
            if isinstance(got, Moved):
                if got.offset <= offset and not self.is_following:
                    return
                complain(f"partition {partition}: nothing at offset {offset}; going on at {got.offset}")
                offset = self._offsets[partition] = got.offset
            elif isinstance(got, NothingThere):
                if not self.is_following:
                    return
                # Also with the long poll: a partition that is not open yet is answered at once.
                await trio.sleep(_NOTHING_SECONDS)
            else:
                written = self._format(got, self.remaining)
                if not written.messages:
                    try:
                        size_max = next_fetch_size(size_max, got)
                    except ReplyError:
                        await self._check_boundary(connection, partition, offset)
                        raise
                    continue
                size_max = FETCH_BYTES
                offset = self._offsets[partition] = written.next_offset
                self._count(written.messages)
                if offset < end and not self._is_done:
                    pending = await self._ask(connection, partition, offset, min(size_max, end - offset))
                await self._output.write(written.output)
                self._unwritten -= written.messages

    async def _begin(self, connection: BrokerConnection, partition: int) -> int:
        if partition not in self._offsets:
            try:
                found = await self.starting_point.find(connection, self.topic, partition)
            except ReplyError as error:
                if error.status != Status.NOT_FOUND or not self.is_following:
                    raise
                found = 0  # The partition comes into being with its first message.
            if self.starting_point.is_exact:
                start, end = await log_ends(connection, self.topic, partition)
                if not start <= found <= end:
                    raise Failure(f"partition {partition}: {describe_outside(found, start, end)}")
            self._offsets[partition] = found
        return self._offsets[partition]

    async def _check_boundary(self, connection: BrokerConnection, partition: int, offset: int) -> None:
        """Nothing can be read there: raises Failure where it is what was asked for, and begins no message."""
        if self.starting_point.is_exact and offset == self.starting_point.offset:
            found = await locate(connection, self.topic, partition, offset)
            if not found.is_boundary:
                raise Failure(f"partition {partition}: {describe_between(offset, found)}")

    async def _ask(
        self, connection: BrokerConnection, partition: int, offset: int, size_max: int
    ) -> PendingReply:
        wait_ms = FOLLOW_WAIT_MS if self.is_following and "long-poll" in connection.extensions else 0
        return await connection.send(
            lambda opaque: encode_get(self.topic, DEFAULT_GROUP, partition, offset, size_max, opaque, wait_ms)
        )

    async def _receive(
        self, connection: BrokerConnection, pending: PendingReply, partition: int, offset: int
    ) -> Fetched | Moved | NothingThere:
        limit_seconds = REQUEST_SECONDS + FOLLOW_WAIT_MS / 1000
        with trio.move_on_after(limit_seconds):
            return fetch_result(await pending.wait(), self.topic, partition, offset)
        raise RequestTimeoutError(connection.address, limit_seconds)

    def _count(self, count: int) -> None:
        self._unwritten += count
        if self.remaining is not None:
            self.remaining -= count


async def partitions_of(connection: BrokerConnection, topic: str, *, must_exist: bool) -> set[int]:
    """The partitions of a topic that have messages. Raises ClientError, also for an unknown topic."""
    ranges = parse_ranges(await connection.stats("offsets"))
    found: set[int] = {name.partition for name in ranges if name.topic == topic}
    if not found and must_exist and "resultCode 1" in (await connection.stats(topic)).splitlines():
        raise ReplyError(Status.NOT_FOUND, f"the broker {connection.address} has no topic {topic!r}")
    return found


def write_all(descriptor: int, data: bytes) -> None:
    """However often it takes; raises OSError that names standard output, which is what the descriptor is."""
    view = memoryview(data)
    while view:
        try:
            view = view[os.write(descriptor, view) :]
        except OSError as error:
            raise named(error, STANDARD_OUTPUT) from error
