"""Where in a partition a time falls: by the times inside the message ids, which ascend with the offsets."""

from __future__ import annotations

from typing import TYPE_CHECKING

from metaserver.client.messages import Fetched, Moved
from metaserver.message import HEADER, HEADER_SIZE, message_id_to_seconds

if TYPE_CHECKING:
    from metaserver.client.connection import BrokerConnection


async def find_time(connection: BrokerConnection, topic: str, partition: int, wall_seconds: float) -> int:
    """The offset of the first message taken at a time or later; the end where there is none.

    Goes back segment by segment, to one that begins before, and from there on looks at every header.
    Raises ClientError.
    """
    end = await connection.end_offset(topic, partition)
    start = await connection.offset(topic, partition, 0)
    segment = end
    while segment > start:
        segment = await connection.offset(topic, partition, segment - 1)
        got = await connection.get(topic, partition, segment, size_max=HEADER_SIZE)
        if isinstance(got, Moved):
            got = await connection.get(topic, partition, got.offset, size_max=HEADER_SIZE)
        if not isinstance(got, Fetched) or _first_seconds(got.data) < wall_seconds:
            break
    position = segment
    while position < end:
        got = await connection.get(topic, partition, position)
        if isinstance(got, Moved):
            position = got.offset
        elif isinstance(got, Fetched) and len(got.data) >= HEADER_SIZE:
            step, is_found = _skip_older(got.data, wall_seconds)
            position += step
            if is_found:
                return position
        else:
            break
    return end


def _first_seconds(data: bytes) -> float:
    if len(data) < HEADER_SIZE:
        return float("-inf")
    return message_id_to_seconds(HEADER.unpack_from(data)[2])


def _skip_older(data: bytes, wall_seconds: float) -> tuple[int, bool]:
    """Bytes to the first record that is not older, or to the record behind the last header."""
    position, size = 0, len(data)
    while position + HEADER_SIZE <= size:
        length, _checksum, message_id, _flag = HEADER.unpack_from(data, position)
        if message_id_to_seconds(message_id) >= wall_seconds:
            return position, True
        position += HEADER_SIZE + max(0, length)
    return position, False
