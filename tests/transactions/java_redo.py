"""Writes what a Java broker writes into its ``transactions`` folder."""

from __future__ import annotations

from typing import TYPE_CHECKING

import attrs

from metaserver.message import checksum, encode_record

if TYPE_CHECKING:
    from collections.abc import Iterable

PREPARE, XA_COMMIT, XA_ROLLBACK, LOCAL_COMMIT, LOCAL_ROLLBACK = range(1, 6)


@attrs.frozen
class JavaPut:
    """A message of a transaction."""

    topic: str
    partition: int
    body: bytes
    message_id: int
    flag: int = 0

    @property
    def record(self) -> bytes:
        """As it is appended at the commit."""
        return encode_record(self.body, self.message_id, self.flag)


def varint(value: int) -> bytes:
    value &= 2**64 - 1
    found = bytearray()
    while value >= 0x80:
        found.append(value & 0x7F | 0x80)
        value >>= 7
    return bytes([*found, value])


def field(number: int, value: int | bytes) -> bytes:
    if isinstance(value, bytes):
        return varint(number << 3 | 2) + varint(len(value)) + value
    return varint(number << 3) + varint(value)


def framed(*fields: bytes) -> bytes:
    joined = b"".join(fields)
    return len(joined).to_bytes(4, "big") + joined


def put(key: str, message: JavaPut) -> bytes:
    head = f"put {message.topic} {message.partition} {len(message.body)} {message.flag}"
    wire = f"{head} {checksum(message.body)} {key} 7\r\n".encode() + message.body
    return framed(field(1, 1), field(2, field(1, message.message_id) + field(2, wire)))


def operation(kind: int, key: str, attachment: bytes = b"") -> bytes:
    content = field(1, kind) + field(2, int(kind == XA_COMMIT)) + field(3, key.encode())
    if attachment:
        content += field(4, len(attachment))
    forced = field(3, 1) if kind == PREPARE else b""
    return framed(field(1, 2), field(2, content), forced) + attachment


def place(name: str, offset: int, data: bytes) -> bytes:
    head = offset.to_bytes(8, "big", signed=True) + len(data).to_bytes(4, "big")
    return head + checksum(data).to_bytes(4, "big") + len(name).to_bytes(4, "big") + name.encode()


def places(puts: Iterable[JavaPut], offsets: dict[str, int]) -> bytes:
    """Of each partition, where its records were appended."""
    data: dict[str, bytes] = {}
    for one in puts:
        name = f"{one.topic}-{one.partition}"
        data[name] = data.get(name, b"") + one.record
    return b"".join(place(name, offsets[name], piece) for name, piece in data.items())
