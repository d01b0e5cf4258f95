"""What a client sends and receives."""

from __future__ import annotations

from typing import TYPE_CHECKING

import attrs

from metaserver.message import (
    HEADER_SIZE,
    encode_record,
    iterate_records,
    join_attribute,
    message_id_to_seconds,
)

if TYPE_CHECKING:
    from collections.abc import Iterator

    from metaserver.client.partition import Partition


@attrs.frozen
class OutgoingMessage:
    """A message to be sent."""

    payload: bytes
    attribute: str | None = None
    key: bytes | None = None
    """Messages of one key go to one partition; it is not stored."""
    partition: Partition | None = None
    """Where it must go; None: the selector chooses."""


@attrs.frozen
class PutResult:
    """What a broker says of a message it has taken."""

    message_id: int
    partition: int
    offset: int
    """Where the record begins in the partition's log."""


@attrs.frozen
class BatchResult:
    """What a broker says of a batch it has taken."""

    first_id: int
    """The other ids follow by :func:`metaserver.message.message_id_block`."""
    partition: int
    offset: int
    """Where the first record begins; the others follow without a gap."""
    count: int


@attrs.define
class Batch:
    """Messages encoded for one ``putbatch``; add until it is large enough, then send it."""

    _records: list[bytes] = attrs.Factory(list)
    size_bytes: int = 0

    def add(self, payload: bytes, attribute: str | None = None) -> None:
        """Append a message."""
        flag, data = join_attribute(attribute, payload)
        record = encode_record(data, 0, flag)
        self._records.append(record)
        self.size_bytes += len(record)

    def __len__(self) -> int:
        """How many messages it holds."""
        return len(self._records)

    def encode(self) -> bytes:
        """The records, back to back."""
        return b"".join(self._records)


@attrs.frozen
class Message:
    """A message read from a partition."""

    topic: str
    partition: int
    offset: int
    """Where its record begins."""
    next_offset: int
    """Where the record behind it begins."""
    message_id: int
    payload: bytes
    attribute: str | None = None

    @property
    def wall_seconds(self) -> float:
        """When the broker took the message, in seconds since 1970 by the broker's clock."""
        return message_id_to_seconds(self.message_id)


@attrs.frozen
class Fetched:
    """Log bytes from an offset on; the last record may be incomplete."""

    topic: str
    partition: int
    offset: int
    data: bytes = attrs.field(repr=False)

    def messages(self) -> Iterator[Message]:
        """The whole records at the front."""
        for record in iterate_records(self.data):
            at = self.offset + record.position
            following = at + HEADER_SIZE + len(record.data)
            yield Message(
                self.topic,
                self.partition,
                at,
                following,
                record.message_id,
                record.payload,
                record.attribute,
            )


@attrs.frozen
class NothingThere:
    """There is nothing to read at the offset: it is the end of the log, or the partition is not open."""

    text: str


@attrs.frozen
class Moved:
    """Go on at another offset: the one asked for was deleted, damaged, beyond the end, or not wanted."""

    offset: int
    skipped_from: int | None = None
    """Where a range begins that the broker has looked through without finding a message that is wanted; it
    ends at ``offset``. None: that is not the reason."""
