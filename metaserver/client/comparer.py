"""Reads two replicas over the ordinary wire and compares them, while both run. On trio or asyncio.

Reads are pipelined, a few partitions at a time. A connection that breaks is made anew and the comparison goes
on where it was; who has to be tried again and again without coming further is given up.
"""

from __future__ import annotations

from collections import deque
from typing import TYPE_CHECKING, Protocol, TypeAlias

import anyio
import attrs

from metaserver.client.comparison import (
    PartitionComparison,
    RecordSight,
    Side,
    Span,
    Unreadable,
    parse_ranges,
)
from metaserver.client.connection import DEFAULT_GROUP, REQUEST_SECONDS, BrokerConnection, fetch_result
from metaserver.client.messages import Fetched, Moved
from metaserver.errors import BrokerUnreachableError, ReplyError, RequestTimeoutError
from metaserver.protocol import encode_get
from metaserver.rates import TokenBucket

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping
    from contextlib import AbstractAsyncContextManager

    from metaserver.client.connection import PendingReply
    from metaserver.names import TopicPartition

CHUNK_BYTES = 256 * 1024
_CHUNKS_AHEAD = 4
"""Asked for at a time, of each side and partition."""
_PARTITIONS_AT_ONCE = 4
_SIGHT_BYTES = 1024 * 1024
_TRIES_MAX = 12
"""Failed connections in a row, without any progress in between."""
_PAUSE_SECONDS_MIN = 0.25
_PAUSE_SECONDS_MAX = 4.0
_SECOND_LOOK_SECONDS = 3.0
"""A slave has found a new partition of its master by then."""

Connect: TypeAlias = "Callable[[], AbstractAsyncContextManager[BrokerConnection]]"
Links: TypeAlias = "Mapping[Side, BrokerConnection]"


@attrs.frozen(kw_only=True)
class CompareOptions:
    """What is compared, and how fast."""

    topic: str | None = None
    """None: all."""
    partition: int | None = None
    """None: all."""
    from_offset: int | None = None
    """Look at nothing before it."""
    last_bytes: int | None = None
    """Look at no more than so many bytes at the end of each partition."""
    bytes_per_second: int = 0
    """From each of the two; 0: as fast as it goes."""

    def includes(self, name: TopicPartition) -> bool:
        """Whether a partition is compared."""
        return self.topic in (None, name.topic) and self.partition in (None, name.partition)


class Watcher(Protocol):
    """Who wants to know how far it is."""

    def advanced(self, compared_bytes: int, total_bytes: int) -> None:
        """So much of everything has been compared or passed over."""

    def interrupted(self, reason: str) -> None:
        """A connection broke; it is tried again."""


@attrs.frozen
class _Asked:
    """A piece of both sides, on its way."""

    span: Span
    replies: dict[Side, PendingReply]


@attrs.frozen
class _Piece:
    """What one side gave of it."""

    side: Side
    data: bytes
    moved_to: int | None = None
    reason: str = ""
    """Why it is not all of it."""


@attrs.define(eq=False)
class Comparer:
    """Compares once; ``partitions`` holds the findings when :meth:`run` returns."""

    _connects: Mapping[Side, Connect]
    _options: CompareOptions = attrs.Factory(CompareOptions)
    _watcher: Watcher | None = None
    partitions: dict[TopicPartition, PartitionComparison] | None = None
    """None: neither has said yet what it holds."""
    _bucket: TokenBucket | None = attrs.field(init=False)
    _has_looked_twice: bool = False

    def __attrs_post_init__(self) -> None:
        """With a burst of a second, or of one piece."""
        rate = self._options.bytes_per_second
        self._bucket = TokenBucket(rate, max(rate, CHUNK_BYTES)) if rate else None

    async def run(self) -> None:
        """Compare everything; raises ClientError where a broker stays away."""
        tries, pause_seconds = 0, _PAUSE_SECONDS_MIN
        while True:
            before = self._progress()
            try:
                # Both may be one broker's two names, or far apart: each has a connection of its own.
                async with self._connects[Side.SLAVE]() as slave, self._connects[Side.MASTER]() as master:
                    await self._run({Side.MASTER: master, Side.SLAVE: slave})
                    return
            except (BrokerUnreachableError, RequestTimeoutError) as error:
                if self._progress() != before:
                    tries, pause_seconds = 0, _PAUSE_SECONDS_MIN
                tries += 1
                if self.partitions is None or tries >= _TRIES_MAX:
                    raise
                if self._watcher is not None:
                    self._watcher.interrupted(str(error))
            await anyio.sleep(pause_seconds)
            pause_seconds = min(2 * pause_seconds, _PAUSE_SECONDS_MAX)

    def _progress(self) -> tuple[int, int, int]:
        found = (self.partitions or {}).values()
        segments = sum(len(starts) for one in found for starts in one.segments.values())
        return sum(one.is_done for one in found), sum(one.content.position for one in found), segments

    async def _run(self, links: Links) -> None:
        if self.partitions is None:
            self.partitions = await self._ranges(links)
        await self._compare_all(links)
        # An empty one is worth no wait.
        missing = [name for name, one in self.partitions.items() if one.slave is None and one.only]
        if missing and not self._has_looked_twice:
            await anyio.sleep(_SECOND_LOOK_SECONDS)
            fresh = await self._ranges(links)
            self._has_looked_twice = True
            self.partitions |= {name: fresh[name] for name in missing if name in fresh}
            await self._compare_all(links)

    async def _ranges(self, links: Links) -> dict[TopicPartition, PartitionComparison]:
        # The slave first: what it holds then, its master held before.
        slave = parse_ranges(await links[Side.SLAVE].stats("offsets"))
        master = parse_ranges(await links[Side.MASTER].stats("offsets"))
        options = self._options
        return {
            name: PartitionComparison.of(
                name, master.get(name), slave.get(name), options.from_offset, options.last_bytes
            )
            for name in sorted(master | slave)
            if options.includes(name)
        }

    async def _compare_all(self, links: Links) -> None:
        waiting = deque(one for one in (self.partitions or {}).values() if not one.is_done)
        failures: list[Exception] = []

        async def work() -> None:
            try:
                while waiting:
                    await self._compare(links, waiting.popleft())
            except Exception as error:  # noqa: BLE001 - whatever it is, the others stop and the caller has it
                failures.append(error)
                tasks.cancel_scope.cancel()

        async with anyio.create_task_group() as tasks:
            for _ in range(_PARTITIONS_AT_ONCE):
                tasks.start_soon(work)
        if failures:
            raise failures[0]

    # One partition.

    async def _compare(self, links: Links, found: PartitionComparison) -> None:
        for side in Side:
            if side not in found.with_all_segments:
                try:
                    await self._find_segments(links[side], found, side)
                except ReplyError as error:
                    rest = Span(found.content.position, found.compared.end)
                    found.unreadable.append(Unreadable(side, rest, str(error)))
                    found.content.pass_over(rest.end)
        await self._read(links, found)
        offset, first = found.content.record_offset, found.content.first
        if offset is not None and first is not None:
            for side in Side:
                if side not in found.records:
                    sight = await self._sight(links[side], found.name, offset, first)
                    if sight is not None:
                        found.records[side] = sight
        found.is_done = True
        self._tell()

    async def _find_segments(self, link: BrokerConnection, found: PartitionComparison, side: Side) -> None:
        name, span, starts = found.name, found.compared, found.segments[side]
        position = starts[-1] if starts else span.end
        while position > span.start:
            start = await link.offset(name.topic, name.partition, position - 1)
            if not span.start < start < position:
                break
            starts.append(start)
            position = start
        found.with_all_segments.add(side)

    async def _sight(
        self, link: BrokerConnection, name: TopicPartition, offset: int, first: int
    ) -> RecordSight | None:
        try:
            got = await link.get(name.topic, name.partition, offset, size_max=_SIGHT_BYTES)
        except ReplyError:
            return None
        return RecordSight.of(offset, got.data, first) if isinstance(got, Fetched) else None

    async def _read(self, links: Links, found: PartitionComparison) -> None:
        content, end = found.content, found.compared.end
        ahead: deque[_Asked] = deque()
        asked = content.position
        while content.position < end:
            while len(ahead) < _CHUNKS_AHEAD and asked < end:
                span = Span(asked, min(asked + CHUNK_BYTES, end))
                ahead.append(await self._ask(links, found.name, span))
                asked = span.end
            piece = ahead.popleft()
            pieces = [await self._take(links[side], found.name, side, piece) for side in Side]
            common = min(len(one.data) for one in pieces)
            content.feed(*(one.data[:common] for one in pieces))
            if content.position < piece.span.end:
                short, other = sorted(pieces, key=lambda one: len(one.data))
                target = short.moved_to
                is_missing = len(other.data) == common and other.moved_to == target
                if is_missing and target is not None and target > content.position:
                    found.lost_by_both(target)
                else:
                    await self._lost(links[short.side], found, short)
                # What was asked for behind it begins at the wrong places now.
                ahead.clear()
                asked = content.position
            self._tell()

    async def _ask(self, links: Links, name: TopicPartition, span: Span) -> _Asked:
        if self._bucket is not None:
            await anyio.sleep(self._bucket.reserve(span.size_bytes, anyio.current_time()))
        return _Asked(span, {side: await _send_get(links[side], name, span) for side in Side})

    async def _take(self, link: BrokerConnection, name: TopicPartition, side: Side, asked: _Asked) -> _Piece:
        """The bytes of one side; it may give them in several answers, for one where a segment ends."""
        pending, data = asked.replies[side], b""
        while True:
            position = asked.span.start + len(data)
            reply = None
            with anyio.move_on_after(REQUEST_SECONDS):
                reply = await pending.wait()
            if reply is None:
                raise RequestTimeoutError(link.address, REQUEST_SECONDS)
            try:
                got = fetch_result(reply, name.topic, name.partition, position)
            except ReplyError as error:
                return _Piece(side, data, None, str(error))
            if isinstance(got, Moved):
                return _Piece(side, data, got.offset, f"it points to {got.offset}")
            if not isinstance(got, Fetched):
                return _Piece(side, data, None, got.text)
            if not got.data:
                return _Piece(side, data, None, "it gives no bytes")
            data = data + got.data if data else got.data
            if position + len(got.data) >= asked.span.end:
                return _Piece(side, data[: asked.span.size_bytes])
            pending = await _send_get(link, name, Span(position + len(got.data), asked.span.end))

    async def _lost(self, link: BrokerConnection, found: PartitionComparison, piece: _Piece) -> None:
        name, reason = found.name, piece.reason
        try:
            start = await link.offset(name.topic, name.partition, 0)
            end = await link.end_offset(name.topic, name.partition)
        except ReplyError as error:
            start, end, reason = 0, found.compared.end, str(error)
        found.lost(piece.side, start, end, piece.moved_to, reason)

    def _tell(self) -> None:
        if self._watcher is None or self.partitions is None:
            return
        done = total = 0
        for one in self.partitions.values():
            total += one.compared.size_bytes
            done += one.content.position - one.compared.start
        self._watcher.advanced(done, total)


async def _send_get(link: BrokerConnection, name: TopicPartition, span: Span) -> PendingReply:
    return await link.send(
        lambda opaque: encode_get(
            name.topic, DEFAULT_GROUP, name.partition, span.start, span.size_bytes, opaque, 0
        )
    )
