"""What the journal of transactions says: the layout of its entries.

Each entry is the data of one ordinary record, whose checksum covers it. Integers are big-endian. Every entry
begins with its kind (1 byte) and the serial number of the transaction (8)::

    1 part         flags 1 (bit 0: the first one), partition 4, floor 8, topic length 2, topic, data
    2 prepared     key
    3 committed    flags 1 (bit 0: by an operator), count 2, count times floor 8, key
    4 rolled back  flags 1 (bit 0: by an operator), key
    5 applied      -
    6 forgotten    -

The parts of a transaction together hold the records of each of its partitions, as they are to be appended,
in pieces cut anywhere; "prepared" or "committed" behind them says that they are complete. A floor is an
offset of the partition before which none of these records lies: what "committed" says of them wins, its
floors are in the order in which the partitions came first.
"""

from __future__ import annotations

from enum import IntEnum
from struct import Struct, error
from typing import TYPE_CHECKING

import attrs

from metaserver.names import PartitionId, Topic, TopicPartition
from metaserver.protocol import TransactionKey, XaKey, parse_key

if TYPE_CHECKING:
    from collections.abc import Iterator

_HEAD = Struct(">Bq")
_PART = Struct(">BiqH")
_COMMITTED = Struct(">BH")
_FLOOR = Struct(">q")
_FIRST = _BY_OPERATOR = 1

PART_OVERHEAD_BYTES_MAX = 256
"""Of a part, beside its data."""
KEY_BYTES_MAX = 512
"""An entry must fit into a record, however small records may be."""


class _Kind(IntEnum):
    PART = 1
    PREPARED = 2
    COMMITTED = 3
    ROLLED_BACK = 4
    APPLIED = 5
    FORGOTTEN = 6


@attrs.frozen
class Part:
    """A piece of what a transaction appends to one partition."""

    serial: int
    is_first: bool
    """Parts of the same transaction before it count no more."""
    name: TopicPartition
    floor: int
    data: bytes = attrs.field(repr=False)


@attrs.frozen
class Prepared:
    """The transaction waits for a decision, for as long as it takes."""

    serial: int
    key: XaKey


@attrs.frozen
class Committed:
    """The transaction's records belong into their partitions."""

    serial: int
    key: TransactionKey
    floors: tuple[int, ...]
    is_by_operator: bool = False
    """Its outcome is remembered until it is forgotten."""


@attrs.frozen
class RolledBack:
    """A prepared transaction's records belong nowhere."""

    serial: int
    key: TransactionKey
    is_by_operator: bool = False
    """As above."""


@attrs.frozen
class Applied:
    """All records of a committed transaction are in their partitions, durably."""

    serial: int


@attrs.frozen
class Forgotten:
    """An operator's decision is no longer remembered."""

    serial: int


Entry = Part | Prepared | Committed | RolledBack | Applied | Forgotten


def encode_entry(entry: Entry) -> bytes:
    """The data of the entry's record."""
    match entry:
        case Part(serial, is_first, name, floor, data):
            topic = name.topic.encode()
            fields = _PART.pack(is_first * _FIRST, name.partition, floor, len(topic))
            return _HEAD.pack(_Kind.PART, serial) + fields + topic + data
        case Prepared(serial, key):
            return _HEAD.pack(_Kind.PREPARED, serial) + str(key).encode()
        case Committed(serial, key, floors, is_by_operator):
            fields = _COMMITTED.pack(is_by_operator * _BY_OPERATOR, len(floors))
            packed = b"".join(map(_FLOOR.pack, floors))
            return _HEAD.pack(_Kind.COMMITTED, serial) + fields + packed + str(key).encode()
        case RolledBack(serial, key, is_by_operator):
            flags = bytes([is_by_operator * _BY_OPERATOR])
            return _HEAD.pack(_Kind.ROLLED_BACK, serial) + flags + str(key).encode()
        case Applied(serial):
            return _HEAD.pack(_Kind.APPLIED, serial)
        case Forgotten(serial):
            return _HEAD.pack(_Kind.FORGOTTEN, serial)


def decode_entry(data: bytes) -> Entry:
    """Raises ValueError for anything that :func:`encode_entry` does not make."""
    try:
        kind, serial = _HEAD.unpack_from(data)
        rest = data[_HEAD.size :]
        match _Kind(kind):
            case _Kind.PART:
                return _decode_part(serial, rest)
            case _Kind.PREPARED:
                return Prepared(serial, _xa_key(rest))
            case _Kind.COMMITTED:
                flags, count = _COMMITTED.unpack_from(rest)
                key_at = _COMMITTED.size + count * _FLOOR.size
                floors = tuple(
                    _FLOOR.unpack_from(rest, at)[0] for at in range(_COMMITTED.size, key_at, _FLOOR.size)
                )
                return Committed(serial, parse_key(rest[key_at:].decode()), floors, _flag(flags))
            case _Kind.ROLLED_BACK:
                return RolledBack(serial, parse_key(rest[1:].decode()), _flag(rest[0]))
            case _Kind.APPLIED:
                return Applied(serial)
            case _Kind.FORGOTTEN:
                return Forgotten(serial)
    except (error, IndexError) as problem:
        raise ValueError(f"an entry of the journal is too short: {problem}") from problem


def _decode_part(serial: int, rest: bytes) -> Part:
    flags, partition, floor, length = _PART.unpack_from(rest)
    data_at = _PART.size + length
    topic = rest[_PART.size : data_at]
    if len(topic) != length:
        raise ValueError("an entry of the journal is too short for its topic")
    name = TopicPartition(Topic(topic.decode()), PartitionId(partition))
    return Part(serial, _flag(flags), name, floor, rest[data_at:])


def _xa_key(data: bytes) -> XaKey:
    match parse_key(data.decode()):
        case XaKey() as key:
            return key
        case other:
            raise ValueError(f"{other} is local, and such a transaction is never prepared")


def _flag(flags: int) -> bool:
    if flags not in (0, 1):
        raise ValueError(f"unknown flags {flags} of a journal entry")
    return flags == 1


def split_parts(
    serial: int, batches: dict[TopicPartition, tuple[int, bytes]], bytes_max: int
) -> Iterator[Part]:
    """The parts of a transaction: of each partition floor and records, none longer than ``bytes_max``."""
    is_first = True
    for name, (floor, data) in batches.items():
        for start in range(0, len(data), bytes_max):
            yield Part(serial, is_first, name, floor, data[start : start + bytes_max])
            is_first = False
