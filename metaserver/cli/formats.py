"""How ``consume`` writes messages. Each format turns fetched log bytes into output, as fast as it can."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, NamedTuple
from zlib import crc32

from metaserver.cli.framing import join_lines, join_records
from metaserver.client.message_fields import message_fields, payload_fields, time_text
from metaserver.message import CHECKSUM_MASK, FLAG_HAS_ATTRIBUTE, HEADER, HEADER_SIZE, split_attribute

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from metaserver.client import Fetched, Message, ReceivedMessage

__all__ = ["Written", "formatter", "message_as_json", "payload_fields", "payloads", "time_text"]


class Written(NamedTuple):
    """Output for the whole records at the front of what was fetched."""

    output: bytes
    messages: int
    next_offset: int
    """Behind the last of them."""


def formatter(name: str, *, with_offsets: bool) -> Callable[[Fetched, int | None], Written]:
    """The function for ``--format NAME``."""
    match name:
        case "raw":
            return _raw
        case "records":
            return _records
        case "json":
            return _json
        case _:
            return _lines_with_offsets if with_offsets else _lines


def message_as_json(message: Message | ReceivedMessage, partition: int | str) -> str:
    """One line for machines; see :func:`metaserver.client.message_fields.message_fields`."""
    return json.dumps(message_fields(message, partition), ensure_ascii=False)


def payloads(data: bytes, count_max: int | None) -> tuple[list[bytes], int]:
    """The payloads of the whole, valid records at the front, and where they end."""
    unpack, header_size, mask = HEADER.unpack_from, HEADER_SIZE, CHECKSUM_MASK
    position, size = 0, len(data)
    found: list[bytes] = []
    append = found.append
    remaining = -1 if count_max is None else count_max
    while remaining and (body := position + header_size) <= size:
        length, expected, message_id, flag = unpack(data, position)
        following = body + length
        if length < 0 or following > size:
            break
        payload = data[body:following]
        if crc32(payload) & mask != expected or not (length or expected or message_id):
            break
        append(split_attribute(flag, payload)[1] if flag & FLAG_HAS_ATTRIBUTE else payload)
        position = following
        remaining -= 1
    return found, position


def _lines(fetched: Fetched, count_max: int | None) -> Written:
    return _joined(fetched, count_max, join_lines)


def _records(fetched: Fetched, count_max: int | None) -> Written:
    return _joined(fetched, count_max, join_records)


def _joined(fetched: Fetched, count_max: int | None, join: Callable[[Sequence[bytes]], bytes]) -> Written:
    bodies, end = payloads(fetched.data, count_max)
    return Written(join(bodies) if bodies else b"", len(bodies), fetched.offset + end)


def _raw(fetched: Fetched, count_max: int | None) -> Written:
    """The records as they lie in the log."""
    bodies, end = payloads(fetched.data, count_max)
    return Written(fetched.data[:end], len(bodies), fetched.offset + end)


def _lines_with_offsets(fetched: Fetched, count_max: int | None) -> Written:
    return _each(
        fetched,
        count_max,
        lambda message: b"%d:%d\t%b\n" % (message.partition, message.offset, message.payload),
    )


def _json(fetched: Fetched, count_max: int | None) -> Written:
    return _each(
        fetched, count_max, lambda message: message_as_json(message, message.partition).encode() + b"\n"
    )


def _each(fetched: Fetched, count_max: int | None, render: Callable[[Message], bytes]) -> Written:
    rendered: list[bytes] = []
    next_offset = fetched.offset
    for message in fetched.messages():
        if len(rendered) == count_max:
            break
        rendered.append(render(message))
        next_offset = message.next_offset
    return Written(b"".join(rendered), len(rendered), next_offset)
