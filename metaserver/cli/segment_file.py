"""Walking through one segment file, record by record, across damage. Reads only."""

from __future__ import annotations

import errno
import os
from typing import TYPE_CHECKING

import attrs

from metaserver.message import HEADER, HEADER_SIZE, iterate_records, scan
from metaserver.storage import Point, RealFileSystem
from metaserver.storage.resynchronise import scan_file

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from metaserver.message import Record
    from metaserver.storage import File

_CHUNK_BYTES = 1024 * 1024
_RECORD_BYTES_MAX = 256 * 1024 * 1024
"""A longer record is not printed, but passed over as damaged."""


@attrs.frozen
class Damage:
    """Bytes that are no record. Positions are positions in the file."""

    start: int
    end: int
    reason: str
    is_tail: bool
    """Nothing valid follows: what a crash in the middle of a write leaves."""


@attrs.frozen
class Placed:
    """A record and where it begins in the file."""

    position: int
    record: Record


def open_for_reading(path: Path) -> File:
    """Open a file; raises OSError, also for a directory."""
    if path.is_dir():
        raise IsADirectoryError(errno.EISDIR, os.strerror(errno.EISDIR), str(path))
    return RealFileSystem().open(path, "read", Point.RECOVERY_READ)


def walk(file: File, start: int, end: int) -> Iterator[Placed | Damage]:
    """Every record between two positions, and every stretch between them that is none."""
    position = start
    last_id: int | None = None
    while position < end:
        before = position
        for placed in _records_at(file, position, end):
            position = placed.position + placed.record.size
            last_id = placed.record.message_id
            yield placed
        if position > before:
            continue
        resumed = _next_record(file, position, end, last_id)
        reason = fault_at(file, position, end)
        yield Damage(position, end if resumed is None else resumed, reason, resumed is None)
        position = end if resumed is None else resumed


def fault_at(file: File, position: int, end: int) -> str:
    """Why the bytes at a position are no record."""
    header = file.read(min(HEADER_SIZE, end - position), position)
    if len(header) < HEADER_SIZE:
        return f"incomplete: {len(header)} of the {HEADER_SIZE} bytes of a header"
    length = HEADER.unpack(header)[0]
    if length > end - position - HEADER_SIZE:
        return f"incomplete: {length} bytes announced, {end - position - HEADER_SIZE} left"
    if length > _RECORD_BYTES_MAX:
        return f"checksum mismatch, or a record of {length} bytes"
    return scan(file.read(HEADER_SIZE + max(0, length), position)).fault or "no record"


def _records_at(file: File, position: int, end: int) -> Iterator[Placed]:
    data = file.read(min(_CHUNK_BYTES, end - position), position)
    if len(data) >= HEADER_SIZE:
        size = HEADER_SIZE + HEADER.unpack_from(data)[0]
        if len(data) < size <= min(_RECORD_BYTES_MAX, end - position):
            data = file.read(size, position)
    for record in iterate_records(data):
        yield Placed(position + record.position, record)


def _next_record(file: File, position: int, end: int, last_id: int | None) -> int | None:
    """Where recovery would go on behind damage; None where nothing valid follows."""
    damaged = scan_file(file, position, end, last_id).damaged
    return damaged[0][1] if damaged else None
