"""Where in a partition a time falls: by the times inside the message ids, which ascend with the offsets."""

from __future__ import annotations

from typing import TYPE_CHECKING

from metaserver.client.headers import read_headers
from metaserver.client.messages import Fetched, Moved
from metaserver.message import HEADER, HEADER_SIZE, message_id_to_seconds

if TYPE_CHECKING:
    from metaserver.client.log_reader import LogReader


async def find_time(connection: LogReader, topic: str, partition: int, wall_seconds: float) -> int:
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
    while position < end and (found := await read_headers(connection, topic, partition, position)):
        for offset, message_id in found.entries:
            if message_id_to_seconds(message_id) >= wall_seconds:
                return offset
        position = found.next_offset
    return end


def _first_seconds(data: bytes) -> float:
    if len(data) < HEADER_SIZE:
        return float("-inf")
    return message_id_to_seconds(HEADER.unpack_from(data)[2])
