"""Replacing damaged bytes of a log, in place, by the records that belong there.

The order, and what a crash leaves:

1. Copy the damaged bytes into quarantine, with a report. A crash: a copy too many.
2. Write old and new bytes into ``repair.journal`` inside the partition directory. A crash before its rename:
   nothing has happened. After it: the next opening does the rest.
3. Write the new bytes over the old ones; sync.
4. Write a checkpoint that no longer calls the range unreadable.
5. Remove the journal.

So after a crash the range holds the old bytes or the new ones. A journal is obeyed only where each byte on
the disk is the old or the new one: otherwise something else was written there since, and it means nothing.
"""

from __future__ import annotations

import json
import re
from contextlib import suppress
from typing import TYPE_CHECKING
from zlib import crc32

import attrs

from metaserver.errors import StorageError
from metaserver.message import scan
from metaserver.storage.documents import ReplaceSteps, load_document, save_document
from metaserver.storage.filenames import (
    DAMAGE_NAME,
    QUARANTINE_NAME,
    REPAIR_NAME,
    damaged_name,
    segment_name,
)
from metaserver.storage.filesystem import Point, make_directories, reason_of, translate_error
from metaserver.storage.segment import OffsetRange

if TYPE_CHECKING:
    from pathlib import Path

    from metaserver.names import TopicPartition
    from metaserver.storage.filesystem import File, FileSystem
    from metaserver.storage.log import PartitionLog

_HEADER = re.compile(
    rb"metaserver repair 1\nsegment_start (?P<segment>[0-9]{1,19})\noffset (?P<offset>[0-9]{1,19})\n"
    rb"size (?P<size>[0-9]{1,10})\ncrc (?P<crc>[0-9a-f]{8})\n"
)
_COPY = ReplaceSteps(
    create=Point.QUARANTINE_CREATE,
    write=Point.QUARANTINE_WRITE,
    sync=Point.QUARANTINE_SYNC,
    rename=Point.QUARANTINE_RENAME,
    sync_directory=Point.QUARANTINE_SYNC_DIRECTORY,
)
_STEPS = ReplaceSteps(
    create=Point.REPAIR_CREATE,
    write=Point.REPAIR_WRITE,
    sync=Point.REPAIR_SYNC,
    rename=Point.REPAIR_RENAME,
    sync_directory=Point.REPAIR_SYNC_DIRECTORY,
)


@attrs.frozen
class Patch:
    """Bytes of one segment that are to be replaced by as many others."""

    segment_start: int
    offset: int
    old: bytes = attrs.field(repr=False)
    new: bytes = attrs.field(repr=False)

    @property
    def range(self) -> OffsetRange:
        """Where they lie in the log."""
        return OffsetRange(self.offset, self.offset + len(self.new))

    def encode(self) -> bytes:
        """The journal: a header in text, then the old bytes, then the new ones."""
        data = self.old + self.new
        head = f"segment_start {self.segment_start}\noffset {self.offset}\nsize {len(self.new)}\n".encode()
        return b"metaserver repair 1\n" + head + f"crc {crc32(data, crc32(head)):08x}\n".encode() + data

    @classmethod
    def decode(cls, journal: bytes) -> Patch | None:
        """None where the bytes are not exactly what :meth:`encode` makes."""
        match = _HEADER.match(journal)
        if match is None:
            return None
        size, data = int(match["size"]), journal[match.end() :]
        head = journal[len(b"metaserver repair 1\n") : match.start("crc") - len("crc ")]
        if len(data) != 2 * size or crc32(data, crc32(head)) != int(match["crc"], 16):
            return None
        return cls(int(match["segment"]), int(match["offset"]), data[:size], data[size:])


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
            save_document(filesystem, journal, patch.encode(), _STEPS)
            _write(filesystem, segment.path, patch)
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
        _remove_journal(filesystem, journal)
    return patch.range


def finish_repair(filesystem: FileSystem, directory: Path) -> OffsetRange | None:
    """When a partition is opened: do what a crash has interrupted; where, if there was something.

    A disk that refuses is asked again by the next opening.
    """
    journal = directory / REPAIR_NAME
    try:
        data = load_document(filesystem, journal, Point.REPAIR_OPEN)
        if data is None:
            return None
        patch = Patch.decode(data)
        done = patch is not None and _resume(filesystem, directory, patch)
        _remove_journal(filesystem, journal)
    except OSError:
        return None
    return patch.range if done and patch is not None else None


def _resume(filesystem: FileSystem, directory: Path, patch: Patch) -> bool:
    path = directory / segment_name(patch.segment_start)
    try:
        file = filesystem.open(path, "read", Point.REPAIR_OPEN)
    except FileNotFoundError:
        return False
    try:
        found = file.read(len(patch.new), patch.offset - patch.segment_start)
    finally:
        file.close()
    if len(found) != len(patch.new):
        return False
    if any(
        byte not in pair for byte, pair in zip(found, zip(patch.old, patch.new, strict=True), strict=True)
    ):
        return False
    _write(filesystem, path, patch)
    return True


def _write(filesystem: FileSystem, path: Path, patch: Patch) -> None:
    file: File = filesystem.open(path, "write", Point.REPAIR_OPEN)
    try:
        file.write([patch.new], patch.offset - patch.segment_start, Point.REPAIR_REPLACE)
        file.sync(Point.REPAIR_REPLACE_SYNC)
    finally:
        file.close()


def _remove_journal(filesystem: FileSystem, journal: Path) -> None:
    filesystem.remove(journal, Point.REPAIR_REMOVE)
    filesystem.sync_directory(journal.parent, Point.REPAIR_SYNC_DIRECTORY)


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
