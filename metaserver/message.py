"""The stored message: one layout on the wire, on the disk of a master and on the disk of its slaves.

::

    offset  size  field           (integers big-endian, signed)
         0     4  length          N, bytes of data, >= 0
         4     4  checksum        CRC-32 (IEEE) of the data, masked with 0x7FFFFFFF
         8     8  message id
        16     4  flag            bit 0: the data begins with an attribute
        20     N  data            [4-byte attribute length L, L bytes of UTF-8,] payload

Source: reference wire-protocol section 7. A header whose length, checksum and id are all zero is not
a record but the end of the data: a power cut can leave a file with a tail of zeros, and the CRC of
nothing is zero.

The message id is ``(milliseconds since MESSAGE_ID_EPOCH_MS) << 22 | broker id << 12 | sequence``.
"""

from __future__ import annotations

from struct import Struct
from typing import TYPE_CHECKING, Protocol
from zlib import crc32

import attrs

from metaserver.names import BrokerId, MessageId

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

HEADER = Struct(">iiqi")
HEADER_SIZE = HEADER.size
CHECKSUM_MASK = 0x7FFFFFFF
FLAG_HAS_ATTRIBUTE = 1

MESSAGE_ID_EPOCH_MS = 1303895660503
BROKER_ID_MAX = 1023
SEQUENCE_MAX = 4095

_ID = Struct(">q")
_ID_POSITION = 8
_ATTRIBUTE_LENGTH = Struct(">i")

Buffer = bytes | bytearray | memoryview
"""Anything a run of records is read from."""


def checksum(data: Buffer) -> int:
    """The masked CRC-32 that a record and a ``put`` carry."""
    return crc32(data) & CHECKSUM_MASK


def encode_record(data: bytes, message_id: int, flag: int = 0) -> bytes:
    """One record as it is stored."""
    return HEADER.pack(len(data), checksum(data), message_id, flag) + data


def encode_records(
    bodies: Sequence[bytes], checksums: Sequence[int], message_ids: Sequence[int], flags: Sequence[int]
) -> bytes:
    """Many records back to back; the four sequences have one element a record."""
    pack = HEADER.pack
    return b"".join(
        [
            pack(len(body), checksum, message_id, flag) + body
            for body, checksum, message_id, flag in zip(bodies, checksums, message_ids, flags, strict=True)
        ]
    )


@attrs.frozen
class Record:
    """One record, and where it began in the buffer it was read from."""

    position: int
    message_id: MessageId
    flag: int
    data: bytes

    @property
    def size(self) -> int:
        """Bytes the record takes in the log."""
        return HEADER_SIZE + len(self.data)

    @property
    def attribute(self) -> str | None:
        """The attribute, or None where the record has none."""
        return split_attribute(self.flag, self.data)[0]

    @property
    def payload(self) -> bytes:
        """The data behind the attribute."""
        return split_attribute(self.flag, self.data)[1]

    @property
    def wall_seconds(self) -> float:
        """When the broker took the message, by the broker's clock, in seconds since 1970."""
        return message_id_to_seconds(self.message_id)


@attrs.frozen
class Scan:
    """What a pass over a buffer of records found."""

    end: int
    """Position behind the last whole, valid record."""
    positions: list[int] = attrs.field(repr=False)
    """Where each of them begins."""
    first_id: MessageId | None
    last_id: MessageId | None
    fault: str | None
    """Why the bytes at ``end`` can never become a record; None where more bytes may complete it."""

    @property
    def count(self) -> int:
        """How many whole, valid records there are."""
        return len(self.positions)


def scan(buffer: Buffer, start: int = 0, *, has_ids: bool = True) -> Scan:
    """Verify record after record until the buffer ends, or something is no record.

    Without ids (a batch on its way to the broker) a header of zeros is an empty message.
    """
    # A slice of bytes is cheaper than one of a memoryview, although it copies; of the others it is not.
    data = buffer if isinstance(buffer, bytes) else memoryview(buffer)
    unpack, header_size, mask, crc = HEADER.unpack_from, HEADER_SIZE, CHECKSUM_MASK, crc32
    position, size = start, len(data)
    positions: list[int] = []
    add = positions.append
    fault = None
    while (body := position + header_size) <= size:
        length, expected, message_id, _flag = unpack(data, position)
        following = body + length
        if not body <= following <= size:
            fault = f"negative length {length}" if length < 0 else None
            break
        if crc(data[body:following]) & mask != expected:
            fault = "checksum mismatch"
            break
        if has_ids and not expected and not length and not message_id:
            fault = "zeros"
            break
        add(position)
        position = following
    first_id = last_id = None
    if positions:
        first_id, last_id = _id_at(data, positions[0]), _id_at(data, positions[-1])
    return Scan(position, positions, first_id, last_id, fault)


def iterate_records(buffer: Buffer, start: int = 0) -> Iterator[Record]:
    """The whole, valid records at the front of a buffer; stops before the first that is neither."""
    view = memoryview(buffer)
    position, size = start, len(view)
    while (body := position + HEADER_SIZE) <= size:
        length, expected, message_id, flag = HEADER.unpack_from(view, position)
        following = body + length
        if length < 0 or following > size:
            return
        data = bytes(view[body:following])
        if checksum(data) != expected or not (length or expected or message_id):
            return
        yield Record(position, MessageId(message_id), flag, data)
        position = following


def assign_ids(records: bytearray, positions: Sequence[int], message_ids: Sequence[int]) -> None:
    """Write ids into the records at these positions, in place."""
    pack_id = _ID.pack_into
    for position, message_id in zip(positions, message_ids, strict=True):
        pack_id(records, position + _ID_POSITION, message_id)


def _id_at(records: bytes | memoryview, position: int) -> MessageId:
    return MessageId(_ID.unpack_from(records, position + _ID_POSITION)[0])


def join_attribute(attribute: str | None, payload: bytes) -> tuple[int, bytes]:
    """The flag and the data of a message with this attribute (None for none)."""
    if attribute is None:
        return 0, payload
    encoded = attribute.encode()
    return FLAG_HAS_ATTRIBUTE, _ATTRIBUTE_LENGTH.pack(len(encoded)) + encoded + payload


def split_attribute(flag: int, data: bytes) -> tuple[str | None, bytes]:
    """Attribute and payload; data too short for the attribute it announces is all payload."""
    if not flag & FLAG_HAS_ATTRIBUTE or len(data) < _ATTRIBUTE_LENGTH.size:
        return None, data
    (length,) = _ATTRIBUTE_LENGTH.unpack_from(data)
    payload_at = _ATTRIBUTE_LENGTH.size + length
    if length < 0 or payload_at > len(data):
        return None, data
    return data[_ATTRIBUTE_LENGTH.size : payload_at].decode(errors="replace"), data[payload_at:]


def message_id_to_seconds(message_id: int) -> float:
    """The wall clock time inside a message id, in seconds since 1970 (Java brokers: not meaningful)."""
    return ((message_id >> 22) + MESSAGE_ID_EPOCH_MS) / 1000


def next_message_id(message_id: int) -> int:
    """The id that follows inside one block: the next sequence number, or the next millisecond's first."""
    if message_id & SEQUENCE_MAX != SEQUENCE_MAX:
        return message_id + 1
    return (((message_id >> 22) + 1) << 22) | (message_id & (BROKER_ID_MAX << 12))


def message_id_block(first: int, count: int) -> Iterator[int]:
    """``count`` ids beginning with ``first``, each the :func:`next_message_id` of the one before."""
    in_this_ms = SEQUENCE_MAX - (first & SEQUENCE_MAX) + 1
    while count > in_this_ms:
        yield from range(first, first + in_this_ms)
        first, count = next_message_id(first + in_this_ms - 1), count - in_this_ms
        in_this_ms = SEQUENCE_MAX + 1
    yield from range(first, first + count)


class WallClock(Protocol):
    """The one thing ids need of a clock."""

    def wall_seconds(self) -> float:
        """Seconds since 1970."""
        ...


@attrs.define
class MessageIdSource:
    """Hands out ids from the wall clock; they never go back, whatever the clock does.

    Where the clock stands still, jumps back, or more than 4,096 ids are taken in one millisecond, the
    source runs ahead of it.
    """

    broker_id: BrokerId
    clock: WallClock
    last: int = -(2**63)
    """The last id handed out or seen in a log; the next is greater."""

    def observe(self, message_id: int) -> None:
        """Never hand out this id or a lower one (called with what recovery found)."""
        self.last = max(self.last, message_id)

    def take(self, count: int) -> int:
        """The first of ``count`` ids; the others are those of :func:`message_id_block`."""
        now_ms = int(self.clock.wall_seconds() * 1000) - MESSAGE_ID_EPOCH_MS
        first = (now_ms << 22) | (self.broker_id << 12)
        if first <= self.last:
            own_bits = self.broker_id << 12
            first = next_message_id((self.last >> 22 << 22) | own_bits | (self.last & SEQUENCE_MAX))
            if first <= self.last:  # An id of another broker, seen in a log taken over from it.
                first = (((self.last >> 22) + 1) << 22) | own_bits
        last, remaining = first, count - 1
        room = SEQUENCE_MAX - (first & SEQUENCE_MAX)
        if remaining > room:
            milliseconds, sequence = divmod(remaining - room - 1, SEQUENCE_MAX + 1)
            last = (((first >> 22) + 1 + milliseconds) << 22) | (self.broker_id << 12) | sequence
        else:
            last = first + remaining
        self.last = last
        return first
