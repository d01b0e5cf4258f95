"""Bytes to replies, for the client's side of a connection. Pure: no socket, no clock."""

from __future__ import annotations

import re
from typing import Final

from metaserver.errors import ProtocolError
from metaserver.protocol.commands import Result, Value

_LINE = re.compile(rb"(?:result ([0-9]{1,5})|value) ([0-9]{1,10}) (-?[0-9]{1,10})\r\n")
LINE_BYTES_MAX: Final = 64
"""No valid line of a reply is longer."""

_SHOWN_BYTES = 60


class ReplyDecoder:
    """One connection's incoming bytes at the client; raises ProtocolError at bytes that are no reply."""

    def __init__(self, body_bytes_max: int = 64 * 1024 * 1024) -> None:
        """Refuse bodies longer than ``body_bytes_max``."""
        self._body_bytes_max = body_bytes_max
        self._chunks: list[bytes] = []
        self._held = 0
        self._needed = 1

    def feed(self, data: bytes) -> list[Result | Value]:
        """The replies that ``data`` completes, in the order they came."""
        if self._held:
            self._chunks.append(data)
            self._held += len(data)
            if self._held < self._needed:
                return []
            data = b"".join(self._chunks)
            self._chunks.clear()
            self._held = 0
        replies: list[Result | Value] = []
        position, size, match = 0, len(data), _LINE.match
        while position < size:
            found = match(data, position)
            if found is None:
                line = data[position : position + LINE_BYTES_MAX]
                if len(line) == LINE_BYTES_MAX or b"\n" in line:
                    raise ProtocolError(f"the peer sent no reply of this protocol: {line[:_SHOWN_BYTES]!r}")
                self._keep(data, position, size - position + 1)
                break
            status, length_text, opaque = found.groups()
            length = int(length_text)
            if length > self._body_bytes_max:
                raise ProtocolError(f"reply of {length} bytes is longer than {self._body_bytes_max}")
            body = found.end()
            following = body + length
            if following > size:
                self._keep(data, position, following - position)
                break
            if status is None:
                replies.append(Value(data[body:following], int(opaque)))
            else:
                raw = data[body:following]
                replies.append(Result(int(status), raw.decode(errors="replace"), int(opaque), raw))
            position = following
        return replies

    def _keep(self, data: bytes, position: int, needed: int) -> None:
        rest = data[position:]
        self._chunks.append(rest)
        self._held = len(rest)
        self._needed = needed
