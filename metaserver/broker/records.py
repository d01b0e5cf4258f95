"""Looks at what puts carry."""

from __future__ import annotations

from metaserver.message import HEADER_SIZE

CHECKSUM_FAILURE = "Checksum failure,message may be corrupted when transfering on networking."
"""In MetaQ's words: of a message that is not what its checksum says."""


def differ(actual: list[int], given: list[bytes | None]) -> bool:
    """Whether any given checksum is missing or wrong: the common case costs one C-level comparison."""
    try:
        return list(map(int, given)) != actual  # type: ignore[arg-type]
    except TypeError:
        return True


def longest_record(records: bytes) -> int:
    """Of a batch, with its header, in bytes."""
    longest = position = 0
    while position < len(records):
        size = HEADER_SIZE + int.from_bytes(records[position : position + 4], "big")
        longest, position = max(longest, size), position + size
    return longest
