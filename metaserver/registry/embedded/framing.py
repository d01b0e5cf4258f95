"""Cuts what arrives on a connection into frames."""

from __future__ import annotations

from metaserver.registry.embedded.codes import MalformedError

FRAME_BYTES_MAX = 0xFFFFF
"""ZooKeeper's own limit (``jute.maxbuffer``): a node's data is smaller by path, access list and header."""


class Framer:
    """Holds the beginning of a frame until the rest has come."""

    def __init__(self, frame_bytes_max: int = FRAME_BYTES_MAX) -> None:
        """Refuse frames longer than this."""
        self._held = bytearray()
        self._frame_bytes_max = frame_bytes_max

    @property
    def has_partial_frame(self) -> bool:
        """Whether a frame has begun and not ended."""
        return bool(self._held)

    def feed(self, data: bytes) -> list[bytes]:
        """The frames that are whole now, without their lengths.

        Raises MalformedError for a length that cannot be; the connection is of no more use.
        """
        held = self._held
        held += data
        frames = []
        position, size = 0, len(held)
        while position + 4 <= size:
            length = int.from_bytes(held[position : position + 4], "big", signed=True)
            if not 0 < length <= self._frame_bytes_max:
                raise MalformedError(f"a frame of {length} bytes")
            if position + 4 + length > size:
                break
            frames.append(bytes(held[position + 4 : position + 4 + length]))
            position += 4 + length
        if position:
            del held[:position]
        return frames
