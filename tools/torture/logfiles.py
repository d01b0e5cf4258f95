"""The segment files of a partition, read as bytes: nothing here uses the store it is to judge."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

import attrs

from metaserver.names import INTERNAL_TOPICS

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

_SEGMENT = re.compile(r"(\d{20})\.meta")
_DIRECTORY = re.compile(r"(.+)-(\d+)")
Name = tuple[str, int]
"""Topic and partition."""
UNCOVERED = range(8, 20)
"""Of a record: its id and its flag, which no checksum covers (docs/log-format.md)."""


@attrs.frozen
class SegmentFile:
    """One ``.meta`` file."""

    path: Path
    start_offset: int
    size_bytes: int

    @property
    def end_offset(self) -> int:
        """The offset behind its last byte."""
        return self.start_offset + self.size_bytes


def partitions(data: Path) -> dict[Name, Path]:
    """Every partition directory of a data path, without the broker's own, which nobody sends to."""
    found = {}
    if data.is_dir():
        for path in sorted(data.iterdir()):
            match = _DIRECTORY.fullmatch(path.name)
            if match is not None and match[1] not in INTERNAL_TOPICS and path.is_dir():
                found[match[1], int(match[2])] = path
    return found


def segments(directory: Path) -> list[SegmentFile]:
    """The segments of a partition, in order."""
    found = []
    for path in directory.iterdir():
        match = _SEGMENT.fullmatch(path.name)
        if match is not None:
            found.append(SegmentFile(path, int(match[1]), path.stat().st_size))
    return sorted(found, key=lambda segment: segment.start_offset)


def contents(place: Path, pattern: str = "*/*.meta") -> dict[str, bytes]:
    """The segment files that hold something, by their paths: a master may have begun one already."""
    found = {str(path.relative_to(place)): path.read_bytes() for path in place.glob(pattern)}
    return {name: data for name, data in found.items() if data}


def read(directory: Path, start: int, end: int) -> Iterator[tuple[int, bytes]]:
    """The bytes between two offsets, as pieces with the offset of each."""
    for segment in segments(directory):
        low, high = max(start, segment.start_offset), min(end, segment.end_offset)
        with segment.path.open("rb") as file:
            file.seek(low - segment.start_offset)
            while low < high:
                data = file.read(min(4 * 1024 * 1024, high - low))
                if not data:
                    break
                yield low, data
                low += len(data)


def joined(directory: Path, start: int, end: int) -> bytes:
    """The bytes between two offsets in one piece; shorter where the log is."""
    return b"".join(data for _, data in read(directory, start, end))


def end_offset(directory: Path) -> int:
    """The offset behind the last byte."""
    found = segments(directory)
    return found[-1].end_offset if found else 0


def file_differences(master: Path, slave: Path) -> list[str]:
    """What ``cmp`` would say of the segment files of two partition directories.

    A master begins a segment when the last one is full, its slave when there is something to put into
    it: an empty one at the end is no difference.
    """
    problems = []
    ours = {segment.path.name: segment for segment in segments(slave) if segment.size_bytes}
    for theirs in segments(master):
        if not theirs.size_bytes:
            continue
        own = ours.pop(theirs.path.name, None)
        if own is None:
            problems.append(f"{theirs.path}: the slave has no such file")
        elif own.size_bytes != theirs.size_bytes:
            problems.append(f"{theirs.path}: {theirs.size_bytes} bytes, at the slave {own.size_bytes}")
        else:
            pairs = zip(
                read(master, theirs.start_offset, theirs.end_offset),
                read(slave, own.start_offset, own.end_offset),
                strict=True,
            )
            if any(left != right for left, right in pairs):
                problems.append(f"{theirs.path}: the bytes differ from the slave's")
    return problems + [f"{extra.path}: the master has no such file" for extra in ours.values()]
