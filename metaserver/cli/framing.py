"""Messages in a byte stream: one a line, or each behind its length. Pure."""

from __future__ import annotations

from struct import Struct
from typing import TYPE_CHECKING, Protocol

import attrs

from metaserver.errors import MetaServerError

if TYPE_CHECKING:
    from collections.abc import Sequence

LENGTH = Struct(">i")
"""In front of each message of the format ``records``: its length in bytes."""

MESSAGE_BYTES_MAX = 64 * 1024 * 1024
"""Longest message that is collected; a broker takes far less (maxTransferSize)."""


@attrs.define
class FramingError(MetaServerError):
    """The input is not in the format that was announced."""

    reason: str

    def __str__(self) -> str:
        """The reason."""
        return self.reason


class Splitter(Protocol):
    """Cuts a stream into messages."""

    def feed(self, data: bytes) -> list[bytes]:
        """The messages that are complete with these bytes."""
        ...

    def finish(self) -> list[bytes]:
        """What is left at the end of the stream; raises FramingError where that is no message."""
        ...


@attrs.define
class LineSplitter:
    """A message a line, without its line feed; bytes behind the last line feed are a message too."""

    _parts: list[bytes] = attrs.Factory(list)
    _held_bytes: int = 0

    def feed(self, data: bytes) -> list[bytes]:
        """See :class:`Splitter`; raises FramingError for a line that is too long."""
        lines = data.split(b"\n")
        rest = lines.pop()
        if lines:
            if self._parts:
                self._parts.append(lines[0])
                lines[0] = b"".join(self._parts)
                self._parts.clear()
            self._held_bytes = 0
        if rest:
            self._parts.append(rest)
            self._held_bytes += len(rest)
            if self._held_bytes > MESSAGE_BYTES_MAX:
                raise FramingError(f"a line has more than {MESSAGE_BYTES_MAX} bytes")
        return lines

    def finish(self) -> list[bytes]:
        """See :class:`Splitter`."""
        rest = b"".join(self._parts)
        self._parts.clear()
        return [rest] if rest else []


@attrs.define
class RecordSplitter:
    """Each message behind four bytes with its length, big-endian."""

    _held: bytes = b""

    def feed(self, data: bytes) -> list[bytes]:
        """See :class:`Splitter`; raises FramingError for a length that cannot be one."""
        data = self._held + data if self._held else data
        bodies = []
        position, size = 0, len(data)
        while (body := position + LENGTH.size) <= size:
            (length,) = LENGTH.unpack_from(data, position)
            if not 0 <= length <= MESSAGE_BYTES_MAX:
                raise FramingError(f"{length} is no length of a message; is the input in another format?")
            if body + length > size:
                break
            bodies.append(data[body : body + length])
            position = body + length
        self._held = data[position:]
        return bodies

    def finish(self) -> list[bytes]:
        """See :class:`Splitter`."""
        if self._held:
            raise FramingError(
                f"the input ends inside a record, {len(self._held)} bytes behind the last whole one"
            )
        return []


def join_lines(bodies: Sequence[bytes]) -> bytes:
    """A message a line."""
    return b"\n".join([*bodies, b""])


def join_records(bodies: Sequence[bytes]) -> bytes:
    """Each message behind its length."""
    pack = LENGTH.pack
    return b"".join([part for body in bodies for part in (pack(len(body)), body)])
