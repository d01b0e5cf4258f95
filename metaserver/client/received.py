"""A message as a consumer receives it."""

from __future__ import annotations

from typing import TYPE_CHECKING
from zlib import crc32

import attrs

from metaserver.message import CHECKSUM_MASK, HEADER, HEADER_SIZE, message_id_to_seconds, split_attribute

if TYPE_CHECKING:
    from metaserver.client.partition import Partition


@attrs.define(eq=True)
class ReceivedMessage:
    """Read-only by agreement: a frozen class takes three times as long to make, and there are millions."""

    partition: Partition
    offset: int
    """Where its record begins."""
    message_id: int
    flag: int
    data: bytes = attrs.field(repr=False)
    """Attribute and payload as they are stored."""

    @property
    def topic(self) -> str:
        """The topic of its partition."""
        return self.partition.topic

    @property
    def next_offset(self) -> int:
        """Where the record behind it begins: what is committed when it has been dealt with."""
        return self.offset + HEADER_SIZE + len(self.data)

    @property
    def payload(self) -> bytes:
        """What was sent."""
        return split_attribute(self.flag, self.data)[1] if self.flag else self.data

    @property
    def attribute(self) -> str | None:
        """The attribute it was sent with; None where it has none."""
        return split_attribute(self.flag, self.data)[0]

    @property
    def wall_seconds(self) -> float:
        """When the broker took it, in seconds since 1970 by the broker's clock (not of a Java broker)."""
        return message_id_to_seconds(self.message_id)


def decode_messages(partition: Partition, offset: int, data: bytes) -> tuple[list[ReceivedMessage], int]:
    """The whole, valid records at the front of ``data``, read at ``offset``, and the offset behind them.

    This is where a consumer spends its time: one pass, 0.9 µs a message of 100 bytes.
    """
    unpack, crc, mask, header_size = HEADER.unpack_from, crc32, CHECKSUM_MASK, HEADER_SIZE
    messages: list[ReceivedMessage] = []
    add, make = messages.append, ReceivedMessage
    position, size = 0, len(data)
    while (body := position + header_size) <= size:
        length, expected, message_id, flag = unpack(data, position)
        following = body + length
        if length < 0 or following > size:
            break
        content = data[body:following]
        if crc(content) & mask != expected or not (length or expected or message_id):
            break
        add(make(partition, offset + position, message_id, flag, content))
        position = following
    return messages, offset + position
