"""Replacing damaged bytes of a log, in place, by the records that belong there.

The order, and what a crash leaves:

1. Copy the damaged bytes into quarantine, with a report. A crash: a copy too many.
2. Write old and new bytes into ``repair.journal`` of the partition (patch.py). A crash before its rename:
   nothing has happened. After it: the next opening does the rest.
3. Write the new bytes over the old ones; sync.
4. Write a checkpoint that no longer calls the range unreadable.
5. Remove the journal.

So after a crash the range holds the old bytes or the new ones. A journal is obeyed only where each byte on
the disk is the old or the new one: otherwise something else was written there since, and it means nothing.
"""

from __future__ import annotations

import json
from contextlib import suppress
from typing import TYPE_CHECKING
from zlib import crc32

from metaserver.errors import StorageError
from metaserver.message import scan
from metaserver.storage.documents import ReplaceSteps, save_document
from metaserver.storage.filenames import (
    DAMAGE_NAME,
    QUARANTINE_NAME,
    REPAIR_NAME,
    damaged_name,
)
from metaserver.storage.filesystem import Point, make_directories, reason_of, translate_error
from metaserver.storage.patch import Patch, remove_patch, save_patch, write_patch

if TYPE_CHECKING:
    from pathlib import Path

    from metaserver.names import TopicPartition
    from metaserver.storage.filesystem import FileSystem
    from metaserver.storage.log import PartitionLog
    from metaserver.storage.segment import OffsetRange

_COPY = ReplaceSteps(
    create=Point.QUARANTINE_CREATE,
    write=Point.QUARANTINE_WRITE,
    sync=Point.QUARANTINE_SYNC,
    rename=Point.QUARANTINE_RENAME,
    sync_directory=Point.QUARANTINE_SYNC_DIRECTORY,
)


def is_whole(data: bytes) -> bool:
    """Whether bytes are valid records and nothing else."""
    return scan(data).end == len(data)


def read_piece(log: PartitionLog, start: int, end: int) -> bytes:
    """The bytes of one segment as they lie on the disk, damaged or not. Raises StorageError."""
    segment, stop = log.layout.piece_at(start, log.flushed_offset)
    try:
        file = segment.pin()
        try:
            return file.read(min(end, stop) - start, start - segment.start_offset)
        finally:
            segment.unpin()
    except OSError as error:
        raise StorageError(f"{segment.path} cannot be read: {reason_of(error)}") from error


def repair_range(
    filesystem: FileSystem, log: PartitionLog, name: TopicPartition, offset: int, new: bytes, source: str
) -> OffsetRange | None:
    """Replace what lies at an offset by these whole records; None where nothing is damaged there any more.

    The caller owns the log. ``source`` is where the records come from, for the report. Raises StorageError:
    the bytes are still damaged, or will be repaired by the next opening; in the last segment of a log, that
    takes no more appends then.
    """
    segment, stop = log.layout.piece_at(offset, log.flushed_offset)
    end = offset + len(new)
    if end > stop or not is_whole(new):
        raise StorageError(f"{segment.path}: offsets {offset} to {end} cannot be replaced by these bytes")
    old = read_piece(log, offset, end)
    if is_whole(old) and log.layout.is_readable(offset, end):
        return None
    patch = Patch(segment.start_offset, offset, old, new)
    journal = log.directory / REPAIR_NAME
    try:
        if old != new:
            _keep_damaged(filesystem, log.directory.parent, name, patch, source)
            save_patch(filesystem, journal, patch)
            write_patch(filesystem, segment.path, patch)
    except OSError as error:
        if segment.start_offset == log.last_segment_start:
            # A sync that failed: what was appended to the same file may be lost with it.
            log.fail(reason_of(error))
        raise translate_error(
            filesystem, log.directory, "a damaged record cannot be repaired", error
        ) from error
    log.set_readable(patch.range)
    with suppress(OSError):
        # It would be found to be done by the next opening.
        remove_patch(filesystem, journal)
    return patch.range


def _keep_damaged(
    filesystem: FileSystem, data_path: Path, name: TopicPartition, patch: Patch, source: str
) -> None:
    folder = damaged_name(patch.range.start, patch.range.end, crc32(patch.old))
    directory = data_path / QUARANTINE_NAME / str(name) / folder
    make_directories(filesystem, directory)
    # Its own suffix: nobody shall take it for records.
    save_document(filesystem, directory / f"{patch.offset:020d}.damaged", patch.old, _COPY)
    report = {
        "topic": name.topic,
        "partition": name.partition,
        "start_offset": patch.range.start,
        "end_offset": patch.range.end,
        "replaced_from": source,
    }
    save_document(filesystem, directory / DAMAGE_NAME, (json.dumps(report, indent=2) + "\n").encode(), _COPY)
