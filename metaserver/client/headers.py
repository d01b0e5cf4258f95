"""What the headers of records tell, without their payloads being looked at: boundaries, counts, ages."""

from __future__ import annotations

from typing import TYPE_CHECKING

import attrs

from metaserver.client.messages import Fetched, Moved
from metaserver.errors import ReplyError
from metaserver.message import HEADER, HEADER_SIZE, checksum, message_id_to_seconds
from metaserver.protocol import Status, Value

if TYPE_CHECKING:
    from metaserver.client.connection import Reply
    from metaserver.client.log_reader import LogReader
    from metaserver.unread_epochs import Stretch, UnreadEpochs

SCAN_BYTES_MAX = 16 * 1024 * 1024
"""Of one partition: what lies behind is estimated by what lies before."""


@attrs.frozen
class Headers:
    """The records that begin in one stretch of a log."""

    entries: tuple[tuple[int, int], ...]
    """Offset and message id of each."""
    next_offset: int
    """Where the stretch behind it begins."""
    skipped_bytes: int = 0
    """Damaged or deleted, in front of ``next_offset``."""


@attrs.frozen
class Backlog:
    """What somebody who stands at an offset has before him."""

    messages: int
    is_estimated: bool
    """Whether only the front was counted, and the rest taken to be as dense."""
    oldest_wall_seconds: float | None
    """When the broker took the first of them, in seconds since 1970; None where there is none."""


@attrs.frozen
class Position:
    """An offset, and the records around it."""

    offset: int
    before: int
    """Where the record begins that holds the offset; the offset itself where one may begin there."""
    behind: int
    """Where that record ends."""
    message_id: int
    """Of the message that ends at the offset; -1 where there is none."""

    @property
    def is_boundary(self) -> bool:
        """Whether one may begin to read here."""
        return self.before == self.offset


async def log_ends(connection: LogReader, topic: str, partition: int) -> tuple[int, int]:
    """The first offset of a partition's log and the one behind its last message.

    Both 0 where it does not exist yet: brokers announce partitions before their first message. Raises
    ClientError.
    """
    try:
        start = await connection.offset(topic, partition, 0)
        return start, await connection.end_offset(topic, partition)
    except ReplyError as error:
        if error.status != Status.NOT_FOUND:
            raise
        return 0, 0


async def read_headers(connection: LogReader, topic: str, partition: int, offset: int) -> Headers | None:
    """The next stretch; None at the end, and where nothing can be read. Raises ClientError."""
    got = await connection.get(topic, partition, offset)
    if isinstance(got, Moved) and got.offset > offset:
        return Headers((), got.offset, got.offset - offset)
    if not isinstance(got, Fetched):
        return None
    unpack, data, size = HEADER.unpack_from, got.data, len(got.data)
    entries: list[tuple[int, int]] = []
    position = 0
    while position + HEADER_SIZE <= size:
        length, _checksum, message_id, _flag = unpack(data, position)
        if length < 0:
            break
        entries.append((offset + position, message_id))
        position += HEADER_SIZE + length
    return Headers(tuple(entries), offset + position) if entries else None


def answer_search(search: UnreadEpochs, asked: Stretch, reply: Reply, *, is_master: bool) -> bool:
    """Pass on what a get of a stretch was answered; False: a slave has too little. Raises ReplyError."""
    if isinstance(reply, Value):
        search.answer(reply.data)
        return True
    if reply.status not in (Status.MOVED, Status.NOT_FOUND):
        raise ReplyError(reply.status, reply.text)
    goes_on = int(reply.text) if reply.status == Status.MOVED else 0
    if goes_on > asked.offset:
        search.answer_gone(goes_on)
        return True
    if is_master:
        search.answer_none()
    return is_master


async def is_record(connection: LogReader, topic: str, partition: int, offset: int, end: int) -> bool:
    """Whether a record begins at an offset before the end of the log. Raises ClientError.

    Its checksum tells; of one longer than a fetch only that it would fit.
    """
    got = await connection.get(topic, partition, offset)
    if not isinstance(got, Fetched) or len(got.data) < HEADER_SIZE:
        return False
    length, expected, _message_id, _flag = HEADER.unpack_from(got.data)
    if length < 0 or offset + HEADER_SIZE + length > end:
        return False
    body = got.data[HEADER_SIZE : HEADER_SIZE + length]
    return len(body) < length or bool(checksum(body) == expected)


async def measure_backlog(
    connection: LogReader,
    topic: str,
    partition: int,
    offset: int,
    end: int,
    scan_bytes_max: int = SCAN_BYTES_MAX,
) -> Backlog:
    """Count the messages between two offsets, the first of which begins one. Raises ClientError."""
    count, position, skipped = 0, offset, 0
    oldest: float | None = None
    while position < end and position - skipped - offset < scan_bytes_max:
        stretch = await read_headers(connection, topic, partition, position)
        if stretch is None:
            break
        entries = stretch.entries
        if entries and oldest is None:
            oldest = message_id_to_seconds(entries[0][1])
        count += sum(1 for at, _message_id in entries if at < end)
        position = stretch.next_offset
        skipped += stretch.skipped_bytes
    scanned = position - skipped - offset
    left = end - position
    if left <= 0 or not scanned:
        return Backlog(count, is_estimated=False, oldest_wall_seconds=oldest)
    return Backlog(count + round(count * left / scanned), is_estimated=True, oldest_wall_seconds=oldest)


async def locate(connection: LogReader, topic: str, partition: int, offset: int) -> Position:
    """What is at an offset between the first and the end of the log, both included. Raises ClientError.

    Reads the segment up to there: nothing but the records in front of it tells for certain.
    """
    start = await connection.offset(topic, partition, 0)
    if offset <= start:
        return Position(offset, start, start, -1)
    position = await connection.offset(topic, partition, offset - 1)
    before, message_id = position, -1
    while position < offset:
        stretch = await read_headers(connection, topic, partition, position)
        if stretch is None:
            break
        for at, found_id in stretch.entries:
            if at >= offset:
                return _position(offset, before, at, message_id)
            before, message_id = at, found_id
        if not stretch.entries and stretch.next_offset >= offset:
            return _position(offset, position, stretch.next_offset, -1)
        position = stretch.next_offset
    return _position(offset, before, position, message_id)


def _position(offset: int, before: int, behind: int, message_id: int) -> Position:
    if behind == offset:
        return Position(offset, offset, offset, message_id)
    return Position(offset, before, behind, -1)
