"""Reading a log again, piece by piece, to find what the disk has damaged since it was written."""

from __future__ import annotations

from typing import TYPE_CHECKING

import attrs

from metaserver.errors import OffsetInHoleError, StorageError
from metaserver.storage.filesystem import reason_of
from metaserver.storage.resynchronise import scan_file
from metaserver.storage.segment import OffsetRange

if TYPE_CHECKING:
    from metaserver.storage.log import PartitionLog
    from metaserver.storage.resynchronise import ScanResult

STEP_BYTES = 1024 * 1024
_GROWTH = 8


@attrs.frozen
class ScrubStep:
    """What one look found."""

    next_offset: int
    """Where to go on: a record begins there, or the log ends."""
    read_bytes: int
    damaged: tuple[OffsetRange, ...] = ()
    """What is no valid record and was not known to be damaged."""


def scrub_step(log: PartitionLog, offset: int) -> ScrubStep:
    """Verify the records from one on, about a MiB of them, as far as they are durable.

    Behind damage the rest of the segment is read in the same step, to find where the log goes on. In any
    thread, while the log is appended to. Where the log is cut at the same time, something may seem damaged
    that is not: look again while owning it. Raises OffsetOutOfRangeError at the end, and StorageError.
    """
    try:
        segment, stop = log.layout.find(offset, log.flushed_offset)
    except OffsetInHoleError as hole:
        return ScrubStep(hole.next_offset, 0)
    base = segment.start_offset
    try:
        file = segment.pin()
    except OSError as error:
        raise StorageError(f"{segment.path} cannot be read: {reason_of(error)}") from error
    try:
        size = STEP_BYTES
        while True:
            end = min(offset + size, stop)
            found = scan_file(file, offset - base, end - base, None)
            if end == stop:
                return _judge(found, base, offset, stop)
            if not found.damaged and base + found.end > offset:
                return ScrubStep(base + found.end, base + found.end - offset)
            # One long record, or damage: only more tells.
            size *= _GROWTH
    except OSError as error:
        raise StorageError(f"{segment.path} cannot be read: {reason_of(error)}") from error
    finally:
        segment.unpin()


def _judge(found: ScanResult, base: int, offset: int, stop: int) -> ScrubStep:
    damaged = [OffsetRange(base + start, base + end) for start, end in found.damaged]
    if base + found.end < stop:
        damaged.append(OffsetRange(base + found.end, stop))
    return ScrubStep(stop, stop - offset, tuple(damaged))
