"""Where in a partition something begins, in words that people write."""

from __future__ import annotations

import re
import time
from datetime import datetime
from typing import TYPE_CHECKING

import attrs

from metaserver.client.times import find_time
from metaserver.errors import ConfigError
from metaserver.names import MAX_OFFSET, parse_digits

if TYPE_CHECKING:
    from metaserver.client.headers import Position
    from metaserver.client.log_reader import LogReader

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

    @property
    def is_exact(self) -> bool:
        """Whether it is an offset that somebody has chosen, and may have chosen wrong."""
        return self.wall_seconds is None and self.offset not in (0, MAX_OFFSET)

    async def find(self, connection: LogReader, topic: str, partition: int) -> int:
        """The offset in a partition where reading begins. Raises ClientError."""
        if self.wall_seconds is not None:
            return await find_time(connection, topic, partition, self.wall_seconds)
        if self.offset in (0, MAX_OFFSET):
            return await connection.offset(topic, partition, self.offset)
        return self.offset


def describe_outside(offset: int, start: int, end: int) -> str:
    """Why nothing can begin at an offset that a log does not hold."""
    return f"offset {offset} is outside of its log, which begins at {start} and ends at {end}"


def describe_between(offset: int, found: Position) -> str:
    """Why nothing can begin inside a message."""
    return (
        f"no message begins at offset {offset}; the nearest that do are at {found.before} and {found.behind}"
    )


def parse_starting_point(text: str) -> StartingPoint:
    """``start``, ``end``, an offset, ISO 8601, ``@SECONDS`` since 1970, ``-10m``; raises ConfigError."""
    if text == "start":
        return StartingPoint(offset=0)
    if text == "end":
        return StartingPoint(offset=MAX_OFFSET)
    if (offset := parse_digits(text, MAX_OFFSET)) is not None:
        return StartingPoint(offset=offset)
    if (ago := _AGO.fullmatch(text)) is not None:
        return StartingPoint(wall_seconds=time.time() - int(ago[1]) * _UNIT_SECONDS[ago[2]])
    if (since := _SINCE_1970.fullmatch(text)) is not None:
        return StartingPoint(wall_seconds=float(since[1]))
    try:
        # Without a time zone in the text, timestamp() takes it for local time, as it is meant.
        return StartingPoint(wall_seconds=datetime.fromisoformat(text).timestamp())
    except (ValueError, OverflowError):
        problem = (
            f"{text}: write start, end, an offset, a time like 2025-11-21T06:10 or @1763705400, "
            "or how long ago, like -10m (s, m, h, d)"
        )
        raise ConfigError((problem,)) from None
