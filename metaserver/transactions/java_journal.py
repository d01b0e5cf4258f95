"""What a Java broker has left prepared in its redo files. Source: reference transactions section 5.

A record is a length of 4 bytes, big-endian, and a protocol-buffer message of it; behind a commit follows
an attachment that the length does not count. Only what is prepared matters: it is told, not carried over.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterable

_OPERATION = 2
_PREPARE = 1
_DECISIONS = (2, 3)
"""Commit and rollback of a prepared transaction."""
_VARINT_BITS_MAX = 70


def prepared_keys(files: Iterable[bytes]) -> list[str]:
    """The keys that are prepared and not decided, of redo files in their order.

    What a crash has torn ends a file, as it does for the Java broker.
    """
    prepared: dict[str, None] = {}
    for data in files:
        position = 0
        while position + 4 <= len(data):
            length = int.from_bytes(data[position : position + 4], "big")
            end = position + 4 + length
            if not length or end > len(data):
                break
            try:
                attachment_bytes = _follow(data[position + 4 : end], prepared)
            except (ValueError, IndexError):
                break
            position = end + attachment_bytes
    return list(prepared)


def _follow(message: bytes, prepared: dict[str, None]) -> int:
    """Take one record; returns how long its attachment is."""
    command = _fields(message)
    if command.get(1) != _OPERATION:
        return 0
    content = command.get(2)
    if not isinstance(content, bytes):
        raise ValueError("an operation without content")  # noqa: TRY004 - the bytes are wrong, not our types
    operation = _fields(content)
    key, attachment_bytes = operation.get(3, b""), operation.get(4, 0)
    if not isinstance(key, bytes) or not isinstance(attachment_bytes, int):
        raise ValueError("an operation whose fields have other types")  # noqa: TRY004 - as above
    if operation.get(1) == _PREPARE:
        prepared[key.decode()] = None
    elif operation.get(1) in _DECISIONS:
        prepared.pop(key.decode(), None)
    return attachment_bytes


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
