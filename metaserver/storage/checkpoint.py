"""``recovery.checkpoint``: how much of a partition is known to be good, so that nobody reads it again.

A small text file inside the partition directory; its last line is a CRC over the lines before::

    metaserver recovery checkpoint 1
    segment_start 1048576
    end_offset 1310720
    clean 0
    record_count 12345
    last_message_id 2981427093504
    fingerprint 9a3c11f0
    unreadable 1050000 1050120
    crc 5d0c8a11

**The invariant:** whenever the file exists, everything before ``end_offset`` has been verified (or
appended by this broker) *and* synced, names included; and no later operation has touched those bytes.
Appends only add behind them. What goes back before them (truncation) removes the file first, durably.
So after a crash only the bytes from ``end_offset`` on are unknown, and where the last segment ends
exactly there, nothing is: a file can only come back to that size with the same bytes.

That holds for this broker. Another one (the Java original ignores this file) may have cut and appended
meanwhile; the fingerprint, a CRC of the bytes just before ``end_offset``, tells, and then the whole
last segment is read.

``clean`` says that the broker was stopped in order; it is believed only where the sizes match too.
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING
from zlib import crc32

import attrs

from metaserver.storage.documents import CRC_LINE, ReplaceSteps, load_document, save_document, seal, unseal
from metaserver.storage.filenames import CHECKPOINT_NAME
from metaserver.storage.filesystem import Point
from metaserver.storage.segment import OffsetRange

if TYPE_CHECKING:
    from pathlib import Path

    from metaserver.storage.filesystem import File, FileSystem

_TITLE = "metaserver recovery checkpoint 1"
_FINGERPRINT_BYTES = 4096
_SIZE_MAX = 4 * 1024 * 1024
_STEPS = ReplaceSteps(
    create=Point.CHECKPOINT_CREATE,
    write=Point.CHECKPOINT_WRITE,
    sync=Point.CHECKPOINT_SYNC,
    rename=Point.CHECKPOINT_RENAME,
    sync_directory=Point.CHECKPOINT_SYNC_DIRECTORY,
)

_TEXT = re.compile(
    rf"""{_TITLE}
segment_start (?P<segment_start>[0-9]{{1,19}})
end_offset (?P<end_offset>[0-9]{{1,19}})
clean (?P<is_clean>[01])
record_count (?P<record_count>[0-9]{{1,19}})
last_message_id (?P<last_message_id>-?[0-9]{{1,19}}|none)
fingerprint (?P<fingerprint>[0-9a-f]{{8}})
(?P<unreadable>(?:unreadable [0-9]{{1,19}} [0-9]{{1,19}}
)*){CRC_LINE}""",
    re.ASCII,
)


@attrs.frozen(kw_only=True)
class Checkpoint:
    """What the file says."""

    segment_start: int
    """Start of the segment that was the last one."""
    end_offset: int
    is_clean: bool
    record_count: int
    last_message_id: int | None
    fingerprint: int
    """Of the bytes before ``end_offset`` in that segment."""
    unreadable: tuple[OffsetRange, ...]
    """Damaged and missing ranges before ``end_offset``."""


def fingerprint(file: File, position: int) -> int:
    """A CRC of the bytes just before a position."""
    size = min(_FINGERPRINT_BYTES, position)
    return crc32(file.read(size, position - size))


def encode_checkpoint(checkpoint: Checkpoint) -> bytes:
    """The bytes of the file."""
    last_id = "none" if checkpoint.last_message_id is None else checkpoint.last_message_id
    unreadable = "".join(f"unreadable {gap.start} {gap.end}\n" for gap in checkpoint.unreadable)
    return seal(
        f"{_TITLE}\nsegment_start {checkpoint.segment_start}\nend_offset {checkpoint.end_offset}\n"
        f"clean {checkpoint.is_clean:d}\nrecord_count {checkpoint.record_count}\n"
        f"last_message_id {last_id}\nfingerprint {checkpoint.fingerprint:08x}\n{unreadable}"
    )


def decode_checkpoint(data: bytes) -> Checkpoint | None:
    """What the bytes say; None where they are not exactly what :func:`encode_checkpoint` makes."""
    match = unseal(data, _TEXT)
    if match is None:
        return None
    last_id = match["last_message_id"]
    return Checkpoint(
        segment_start=int(match["segment_start"]),
        end_offset=int(match["end_offset"]),
        is_clean=match["is_clean"] == "1",
        record_count=int(match["record_count"]),
        last_message_id=None if last_id == "none" else int(last_id),
        fingerprint=int(match["fingerprint"], 16),
        unreadable=tuple(
            OffsetRange(int(start), int(end))
            for _, start, end in (line.split() for line in match["unreadable"].splitlines())
        ),
    )


def load_checkpoint(filesystem: FileSystem, directory: Path) -> Checkpoint | None:
    """The checkpoint of a partition; None where there is none that can be used.

    A checkpoint only saves work: one that cannot be read is as good as none.
    """
    try:
        data = load_document(filesystem, directory / CHECKPOINT_NAME, Point.CHECKPOINT_OPEN, _SIZE_MAX)
    except OSError:
        return None
    return None if data is None else decode_checkpoint(data)


def save_checkpoint(filesystem: FileSystem, directory: Path, checkpoint: Checkpoint) -> None:
    """Replace the checkpoint: after a crash it is the old one or the new one. Raises OSError."""
    save_document(filesystem, directory / CHECKPOINT_NAME, encode_checkpoint(checkpoint), _STEPS)


def withdraw_checkpoint(filesystem: FileSystem, directory: Path) -> None:
    """Remove the checkpoint, durably. Raises OSError."""
    try:
        filesystem.remove(directory / CHECKPOINT_NAME, Point.CHECKPOINT_REMOVE)
    except FileNotFoundError:
        return
    filesystem.sync_directory(directory, Point.CHECKPOINT_SYNC_DIRECTORY)
