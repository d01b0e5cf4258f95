"""ZooKeeper's serialisation: big-endian integers, and byte strings behind their length.

A length of -1 is null, which data and strings may be, and which is not the same as empty.
"""

from __future__ import annotations

from struct import Struct
from typing import TYPE_CHECKING

from metaserver.registry.embedded.codes import MalformedError

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

_INT = Struct(">i")
_LONG = Struct(">q")
_NULL = _INT.pack(-1)

encode_int = _INT.pack
encode_long = _LONG.pack


def encode_bool(value: bool) -> bytes:  # noqa: FBT001 - a value to encode, like the others
    """One byte."""
    return b"\1" if value else b"\0"


def encode_buffer(value: bytes | None) -> bytes:
    """Length and bytes."""
    return _NULL if value is None else _INT.pack(len(value)) + value


def encode_string(value: str) -> bytes:
    """Length and UTF-8."""
    encoded = value.encode(errors="surrogatepass")
    return _INT.pack(len(encoded)) + encoded


def encode_strings(values: Sequence[str]) -> bytes:
    """Count, then each."""
    return b"".join((_INT.pack(len(values)), *map(encode_string, values)))


class Reader:
    """Takes values from the front of a buffer; every call raises MalformedError where there is none."""

    __slots__ = ("_data", "_position")

    def __init__(self, data: bytes) -> None:
        """Read from the first byte on."""
        self._data = data
        self._position = 0

    @property
    def remaining(self) -> int:
        """Bytes not yet taken."""
        return len(self._data) - self._position

    def rest(self) -> bytes:
        """All bytes not yet taken."""
        return self.raw(self.remaining)

    def raw(self, size: int) -> bytes:
        """So many bytes as they are."""
        end = self._position + size
        if not self._position <= end <= len(self._data):
            raise MalformedError(f"{size} bytes announced, {self.remaining} there")
        value = self._data[self._position : end]
        self._position = end
        return value

    def int32(self) -> int:
        """Four bytes."""
        value: int = _INT.unpack(self.raw(4))[0]
        return value

    def int64(self) -> int:
        """Eight bytes."""
        value: int = _LONG.unpack(self.raw(8))[0]
        return value

    def boolean(self) -> bool:
        """One byte."""
        return self.raw(1) != b"\0"

    def buffer(self) -> bytes | None:
        """A byte string, or null."""
        size = self.int32()
        return None if size == -1 else self.raw(size)

    def string(self) -> str:
        """UTF-8; null is empty."""
        try:
            return (self.buffer() or b"").decode()
        except UnicodeDecodeError as error:
            raise MalformedError("a string is not UTF-8") from error

    def sequence(self, read: Callable[[], str]) -> list[str]:
        """A count and that many values; a count of -1 is none."""
        return [read() for _ in range(self.count(4))]

    def count(self, size_min: int) -> int:
        """How many elements follow, each at least so many bytes."""
        count = self.int32()
        if count < -1 or count * size_min > self.remaining:
            raise MalformedError(f"{count} elements announced, {self.remaining} bytes there")
        return max(0, count)
