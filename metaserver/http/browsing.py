"""Looking for messages in one partition: from an offset, backwards, by id, by time, by what they hold.

All of it goes on in steps that are small for the loop, and has an end: a search says how far it came, and
may be continued there.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final
from zlib import crc32

import attrs
import trio

from metaserver.client.headers import log_ends, read_headers
from metaserver.client.messages import Fetched, Moved
from metaserver.client.times import find_time
from metaserver.http.local_broker import STEP_BYTES
from metaserver.message import CHECKSUM_MASK, HEADER, HEADER_SIZE, message_id_to_seconds

if TYPE_CHECKING:
    from collections.abc import Callable

    from metaserver.client.log_reader import LogReader
    from metaserver.client.messages import Message

SCAN_BYTES_MAX: Final = 64 * 1024 * 1024
"""One search looks through so much; the next goes on behind it."""
_WALK_BYTES_MAX: Final = 64 * 1024 * 1024
"""A segment is walked from its first record so far; beyond it, boundaries are looked for backwards."""
_WINDOW_BYTES: Final = 256 * 1024
_CRC_BUDGET_BYTES: Final = 64 * 1024 * 1024
_RECORD_BYTES_MAX: Final = 64 * 1024 * 1024


@attrs.frozen
class Page:
    """Some messages of a partition, in their order."""

    messages: tuple[Message, ...]
    next_offset: int
    """Where to go on."""
    start_offset: int
    """Of the log."""
    end_offset: int
    is_certain: bool = True
    """Whether the first message was found by walking the records in front of it, not by looking for something
    that fits."""

    @property
    def is_last(self) -> bool:
        """Whether there is nothing behind it now."""
        return self.next_offset >= self.end_offset


async def page_from(
    log: LogReader, topic: str, partition: int, offset: int, count_max: int, *, bytes_max: int = STEP_BYTES
) -> Page:
    """At most ``count_max`` messages from an offset on, or from where the log goes on behind it.

    Raises ClientError. An offset at which no message begins gives none, and itself as the next.
    """
    start, end = await log_ends(log, topic, partition)
    messages: list[Message] = []
    size = STEP_BYTES
    read_bytes = 0
    position = max(offset, start)
    while len(messages) < count_max and position < end and read_bytes < bytes_max:
        got = await log.get(topic, partition, position, size_max=size)
        if isinstance(got, Moved) and got.offset > position:
            position = got.offset
            continue
        if not isinstance(got, Fetched):
            break
        found = _whole(got, count_max - len(messages))
        if not found:
            # A message longer than a step, or an offset inside of one.
            needed = _needed(got.data)
            if needed is None or needed <= len(got.data) or needed <= size:
                break
            size = needed
            continue
        messages += found
        position = found[-1].next_offset
        read_bytes += len(got.data)
        size = STEP_BYTES
    return Page(tuple(messages), position, start, end)


async def page_before(log: LogReader, topic: str, partition: int, offset: int, count: int) -> Page:
    """The ``count`` messages in front of an offset where one begins or the log ends. Raises ClientError."""
    start, end = await log_ends(log, topic, partition)
    offset = min(max(offset, start), end)
    positions: list[int] = []
    is_certain = True
    at = offset
    while at > start and len(positions) < count and is_certain:
        found, is_certain, at = await _positions_before(log, topic, partition, at)
        positions = (found + positions)[-count:]
    if not positions:
        return Page((), offset, start, end, is_certain)
    page = await page_from(log, topic, partition, positions[0], count, bytes_max=_RECORD_BYTES_MAX)
    kept = tuple(message for message in page.messages if message.offset < offset)
    return Page(kept, kept[-1].next_offset if kept else offset, start, end, is_certain)


async def _positions_before(
    log: LogReader, topic: str, partition: int, offset: int
) -> tuple[list[int], bool, int]:
    """Where the last records in front of an offset begin; whether for certain; and where the segment does."""
    segment = await log.offset(topic, partition, offset - 1)
    if offset - segment <= _WALK_BYTES_MAX:
        positions: list[int] = []
        position = segment
        while position < offset:
            stretch = await read_headers(log, topic, partition, position)
            if stretch is None or stretch.next_offset <= position:
                break
            positions += [at for at, _message_id in stretch.entries if at < offset]
            position = stretch.next_offset
        return positions, True, segment
    window = _WINDOW_BYTES
    while window <= _RECORD_BYTES_MAX:
        begin = max(segment, offset - window)
        data = await _read(log, topic, partition, begin, offset)
        found = await trio.to_thread.run_sync(chain_ending_at_the_end, data)
        if found:
            return [begin + at for at in found], False, begin + found[0]
        window *= 4
    return [], False, segment


async def _read(log: LogReader, topic: str, partition: int, begin: int, end: int) -> bytes:
    pieces = []
    while begin < end:
        got = await log.get(topic, partition, begin, size_max=end - begin)
        if not isinstance(got, Fetched):
            break
        pieces.append(got.data)
        begin += len(got.data)
    return b"".join(pieces)


def chain_ending_at_the_end(data: bytes) -> list[int]:
    """Where the longest run of records begins that ends with the data, each with its checksum.

    Whatever bodies hold, its work is bounded; it may find less then.
    """
    size, budget = len(data), _CRC_BUDGET_BYTES
    following: dict[int, int] = {}
    depth = {size: 0}
    for position in range(size - HEADER_SIZE, -1, -1):
        length, expected, message_id, flag = HEADER.unpack_from(data, position)
        end = position + HEADER_SIZE + length
        if length < 0 or end not in depth or flag not in (0, 1) or not (length or expected or message_id):
            continue
        budget -= length
        if budget < 0:
            break
        if crc32(data[position + HEADER_SIZE : end]) & CHECKSUM_MASK == expected:
            following[position], depth[position] = end, depth[end] + 1
    if not following:
        return []
    position = max(following, key=lambda at: (depth[at], -at))
    chain = []
    while position != size:
        chain.append(position)
        position = following[position]
    return chain


@attrs.frozen
class Search:
    """What a search has found, and how far it came."""

    messages: tuple[Message, ...]
    next_offset: int
    end_offset: int
    scanned_bytes: int

    @property
    def is_complete(self) -> bool:
        """Whether it came to the end."""
        return self.next_offset >= self.end_offset


async def search(
    log: LogReader,
    topic: str,
    partition: int,
    offset: int,
    wanted: Callable[[Message], bool],
    count_max: int,
    *,
    bytes_max: int = SCAN_BYTES_MAX,
) -> Search:
    """The messages from an offset on that are wanted. Raises ClientError."""
    _start, end = await log_ends(log, topic, partition)
    found: list[Message] = []
    position, scanned = offset, 0
    while position < end and scanned < bytes_max and len(found) < count_max:
        page = await page_from(log, topic, partition, position, 10_000)
        if page.next_offset <= position:
            break
        # A thread each time: what is wanted is somebody's text, looked for in somebody's messages.
        kept = await trio.to_thread.run_sync(_filter, page.messages, wanted, count_max - len(found))
        found += kept
        scanned += page.next_offset - position
        is_full = len(found) >= count_max
        position = kept[-1].next_offset if is_full and kept else page.next_offset
    return Search(tuple(found), position, end, scanned)


def _filter(
    messages: tuple[Message, ...], wanted: Callable[[Message], bool], count_max: int
) -> list[Message]:
    kept = []
    for message in messages:
        if wanted(message):
            kept.append(message)
            if len(kept) == count_max:
                break
    return kept


def holds(text: str) -> Callable[[Message], bool]:
    """Whether the payload or the attribute of a message holds a text; upper and lower case differ."""
    needle = text.encode("utf-8", "surrogatepass")

    def wanted(message: Message) -> bool:
        return needle in message.payload or (message.attribute is not None and text in message.attribute)

    return wanted


async def offset_of_id(log: LogReader, topic: str, partition: int, message_id: int) -> int | None:
    """Where the message with an id begins; None where it is not there. Raises ClientError.

    Ids ascend with the offsets and hold their time, so what is walked is one segment; those of Java brokers
    hold none, and are found only where the walk passes by.
    """
    start, end = await log_ends(log, topic, partition)
    position = (
        await find_time(log, topic, partition, message_id_to_seconds(message_id)) if end > start else end
    )
    while position < end:
        stretch = await read_headers(log, topic, partition, position)
        if stretch is None or stretch.next_offset <= position:
            return None
        for at, found in stretch.entries:
            if found == message_id:
                return at
            if found > message_id:
                return None
        position = stretch.next_offset
    return None


def _whole(got: Fetched, count_max: int) -> list[Message]:
    found = []
    for message in got.messages():
        found.append(message)
        if len(found) == count_max:
            break
    return found


def _needed(data: bytes) -> int | None:
    """How long the first record is; None where there is none, or none that may be."""
    if len(data) < HEADER_SIZE:
        return None
    length = int(HEADER.unpack_from(data)[0])
    needed = HEADER_SIZE + length
    return needed if length >= 0 and needed <= _RECORD_BYTES_MAX else None
