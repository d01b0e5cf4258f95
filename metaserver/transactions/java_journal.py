"""The redo files of a Java broker: which transactions they hold. Source: reference transactions section 5.

A record is a length of 4 bytes, big-endian, and a protocol-buffer message of it; behind a commit follows
an attachment that the length does not count: where each partition got the transaction's records. All records
of a transaction lie in one file.
"""

from __future__ import annotations

import re
import struct
from struct import Struct
from typing import TYPE_CHECKING

import attrs

from metaserver.errors import CorruptLogError
from metaserver.message import checksum
from metaserver.names import PartitionId, Topic, TopicPartition
from metaserver.protocol import CommandDecoder, Limits, TransactionalPut, TransactionKey, XaKey, parse_key
from metaserver.transactions.transaction import Batch

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

_LENGTH_BYTES = 4
_VARINT_BITS_MAX = 70
_SIGN = 1 << 63
_PUT, _OPERATION = 1, 2
_PREPARE, _COMMITS, _ROLLBACKS = 1, (2, 4), (3, 5)
_PLACE = Struct(">qiii")
_OPERATION_BEGIN = re.compile(rb"\x08\x02\x12")
"""How the message of a prepare, a commit or a rollback begins."""
_OPERATION_BYTES_MAX = 4096
_TRIES_MAX = 10_000
"""So many places behind a torn record are looked at for whole ones."""
_WIRE = Limits(body_bytes_max=2**31 - 1, record_bytes_max=2**31)
"""What the Java broker has taken is taken."""


@attrs.frozen
class Place:
    """Where a commit has appended what it had for one partition."""

    offset: int
    size_bytes: int
    checksum: int
    """Of all of it, as of a message's data."""


@attrs.define(eq=False)
class JavaTransaction:
    """What was put in one transaction, and where it went."""

    key: TransactionKey
    batches: dict[TopicPartition, Batch] = attrs.Factory(dict)
    is_prepared: bool = False
    places: dict[TopicPartition, Place] | None = None
    """None: it is not committed."""
    damage: str = ""
    """What of it cannot be told from changed bytes; blank where all is well."""


@attrs.define(eq=False)
class JavaJournal:
    """Takes redo files one after the other, in their order."""

    highest_message_id: int = -_SIGN
    _open: dict[str, JavaTransaction] = attrs.Factory(dict)
    """By key: begun, and neither committed nor rolled back."""

    def read(self, path: Path, data: bytes, position: int = 0) -> Iterator[JavaTransaction]:
        """Follow a file from a position on; yields each transaction that is committed there.

        What a crash has torn ends the file, as it does for the Java broker. Raises CorruptLogError where a
        decision lies behind what cannot be read; messages alone promise nothing.
        """
        while position < len(data):
            try:
                end, committed = self._take(data, position)
            except (ValueError, IndexError, struct.error) as error:
                _check_torn(path, data, position, str(error))
                return
            if committed is not None:
                yield committed
            position = end

    def prepared(self) -> list[JavaTransaction]:
        """What waits for a decision behind the last file; all else that is open was never promised."""
        return [transaction for transaction in self._open.values() if transaction.is_prepared]

    def _take(self, data: bytes, position: int) -> tuple[int, JavaTransaction | None]:
        message, end = _framed(data, position)
        kind, content = _number(message, 1), _bytes(message, 2)
        if kind == _PUT:
            self._put(_fields(content))
            return end, None
        if kind != _OPERATION:
            raise ValueError(f"a record of kind {kind}")
        operation = _fields(content)
        key, size_bytes = parse_key(_bytes(operation, 3).decode()), _number(operation, 4, default=0)
        attachment = data[end : end + size_bytes]
        if len(attachment) != size_bytes:
            raise ValueError("the places of a commit are cut short")
        return end + size_bytes, self._operate(_number(operation, 1), key, attachment)

    def _put(self, content: dict[int, int | bytes]) -> None:
        # What is signed has 64 bits, and the Java broker counts from before its own beginning.
        message_id = (_number(content, 1) ^ _SIGN) - _SIGN
        match CommandDecoder(_WIRE).feed(_bytes(content, 2)):
            case [TransactionalPut() as put]:
                name = TopicPartition(Topic(put.topic), PartitionId(put.partition))
                transaction = self._open.setdefault(str(put.key), JavaTransaction(put.key))
                if put.checksum not in (None, -1, checksum(put.body)):
                    transaction.damage = f"a message for {name} does not match its checksum"
                transaction.batches.setdefault(name, Batch()).add(put.body, message_id, put.flag)
                self.highest_message_id = max(self.highest_message_id, message_id)
            case _:
                raise ValueError("a message that is no put of a transaction")

    def _operate(self, kind: int, key: TransactionKey, attachment: bytes) -> JavaTransaction | None:
        if kind == _PREPARE:
            if not isinstance(key, XaKey):
                raise ValueError(f"{key} is local, and such a transaction is never prepared")
            self._open.setdefault(str(key), JavaTransaction(key)).is_prepared = True
            return None
        if kind not in _COMMITS + _ROLLBACKS:
            raise ValueError(f"an operation of kind {kind}")
        places = dict(_places(attachment))
        transaction = self._open.pop(str(key), None)
        if transaction is None or kind in _ROLLBACKS:
            return None
        transaction.places = places
        return transaction


def _places(attachment: bytes) -> Iterator[tuple[TopicPartition, Place]]:
    position = 0
    while position < len(attachment):
        offset, size_bytes, crc, length = _PLACE.unpack_from(attachment, position)
        name_at = position + _PLACE.size
        position = name_at + length
        if min(offset, size_bytes, length) < 0 or position > len(attachment):
            raise ValueError("a place that cannot be")
        topic, _, number = attachment[name_at:position].decode().rpartition("-")
        yield TopicPartition(Topic(topic), PartitionId(int(number))), Place(offset, size_bytes, crc)


def _framed(data: bytes, position: int) -> tuple[dict[int, int | bytes], int]:
    """The message of a record, and where the record ends."""
    begin = position + _LENGTH_BYTES
    length = int.from_bytes(data[position:begin], "big", signed=True)
    if length <= 0 or begin + length > len(data):
        raise ValueError(f"a record of {length} bytes, and {max(0, len(data) - begin)} are there")
    return _fields(data[begin : begin + length]), begin + length


def is_boundary(data: bytes, position: int) -> bool:
    """Whether a whole record begins there, or the file ends."""
    try:
        return position == len(data) or bool(_framed(data, position))
    except (ValueError, IndexError):
        return False


def _check_torn(path: Path, data: bytes, position: int, reason: str) -> None:
    """Raises CorruptLogError where a decision follows behind what cannot be read."""
    for tries, found in enumerate(_OPERATION_BEGIN.finditer(data, position + _LENGTH_BYTES + 1)):
        behind = found.start() - _LENGTH_BYTES
        if tries < _TRIES_MAX and not _is_operation(data, behind):
            continue
        raise CorruptLogError(path, position, f"{reason}, and what follows from {behind} on may be decisions")


def _is_operation(data: bytes, position: int) -> bool:
    length = int.from_bytes(data[position : position + _LENGTH_BYTES], "big")
    if length > _OPERATION_BYTES_MAX:
        return False
    try:
        message, _ = _framed(data, position)
        parse_key(_bytes(_fields(_bytes(message, 2)), 3).decode())
    except (ValueError, IndexError):
        return False
    return True


def _number(fields: dict[int, int | bytes], name: int, default: int | None = None) -> int:
    match fields.get(name, default):
        case int(value):
            return value
        case _:
            raise ValueError(f"a message without its number {name}")


def _bytes(fields: dict[int, int | bytes], name: int) -> bytes:
    match fields.get(name):
        case bytes(value):
            return value
        case _:
            raise ValueError(f"a message without its bytes {name}")


def _fields(message: bytes) -> dict[int, int | bytes]:
    """The fields of a protocol-buffer message of numbers and bytes; raises ValueError, IndexError."""
    found: dict[int, int | bytes] = {}
    position = 0
    while position < len(message):
        tag, position = _varint(message, position)
        value, position = _value(message, position, tag & 7)
        found[tag >> 3] = value
    return found


def _value(message: bytes, position: int, wire_type: int) -> tuple[int | bytes, int]:
    number, after = (0, position + 8) if wire_type == 1 else _varint(message, position)
    match wire_type:
        case 0:
            return number, after
        case 1:
            return message[position:after], after
        case 2 if after + number <= len(message):
            return message[after : after + number], after + number
    raise ValueError(f"a field of type {wire_type}, or longer than its message")


def _varint(message: bytes, position: int) -> tuple[int, int]:
    number = 0
    for shift in range(0, _VARINT_BITS_MAX, 7):
        byte = message[position]
        position += 1
        number |= (byte & 0x7F) << shift
        if byte < 0x80:
            return number, position
    raise ValueError("a number without an end")
