"""``--from``: where reading begins. A time is found by the times inside the message ids."""

from __future__ import annotations

import re
import time
from datetime import datetime
from typing import TYPE_CHECKING

import attrs

from metaserver.cli.exit_codes import ExitCode
from metaserver.cli.output import Failure
from metaserver.client import Fetched, Moved
from metaserver.message import HEADER, HEADER_SIZE, message_id_to_seconds
from metaserver.names import MAX_OFFSET

if TYPE_CHECKING:
    from metaserver.client import BrokerConnection

_UNIT_SECONDS = {"s": 1, "m": 60, "h": 3600, "d": 86400}
_AGO = re.compile(r"-([0-9]{1,9})([smhd])", re.ASCII)
_SINCE_1970 = re.compile(r"@([0-9]{1,11}(?:\.[0-9]{1,9})?)", re.ASCII)


@attrs.frozen
class StartingPoint:
    """An offset, or a time."""

    offset: int = 0
    """0: the first message there is; MAX_OFFSET: the end."""
    wall_seconds: float | None = None
    """Where set, it wins: the first message that the broker took then or later, in seconds since 1970."""

    async def find(self, connection: BrokerConnection, topic: str, partition: int) -> int:
        """The offset in a partition where reading begins. Raises ClientError."""
        if self.wall_seconds is not None:
            return await find_time(connection, topic, partition, self.wall_seconds)
        if self.offset in (0, MAX_OFFSET):
            return await connection.offset(topic, partition, self.offset)
        return self.offset


def parse_starting_point(text: str) -> StartingPoint:
    """``start``, ``end``, an offset, an ISO 8601 time, ``@SECONDS`` since 1970, ``-10m``; raises Failure."""
    if text == "start":
        return StartingPoint(offset=0)
    if text == "end":
        return StartingPoint(offset=MAX_OFFSET)
    if text.isascii() and text.isdigit() and int(text) <= MAX_OFFSET:
        return StartingPoint(offset=int(text))
    if (ago := _AGO.fullmatch(text)) is not None:
        return StartingPoint(wall_seconds=time.time() - int(ago[1]) * _UNIT_SECONDS[ago[2]])
    if (since := _SINCE_1970.fullmatch(text)) is not None:
        return StartingPoint(wall_seconds=float(since[1]))
    try:
        # Without a time zone in the text, timestamp() takes it for local time, as it is meant.
        return StartingPoint(wall_seconds=datetime.fromisoformat(text).timestamp())
    except (ValueError, OverflowError):
        raise Failure(
            f"--from {text}: write start, end, an offset, a time like 2025-11-21T06:10 or @1763705400, "
            "or how long ago, like -10m (s, m, h, d)",
            ExitCode.USAGE,
        ) from None


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
