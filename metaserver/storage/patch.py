"""``repair.journal``: old and new bytes of a place in a log, so that a crash leaves the one or the other.

The order of a whole repair stands in :mod:`metaserver.storage.repair`.
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING
from zlib import crc32

import attrs

from metaserver.storage.checkpoint import load_checkpoint, save_checkpoint
from metaserver.storage.documents import ReplaceSteps, load_document, save_document
from metaserver.storage.filenames import REPAIR_NAME, segment_name
from metaserver.storage.filesystem import Point
from metaserver.storage.layout import subtract_range
from metaserver.storage.segment import OffsetRange

if TYPE_CHECKING:
    from pathlib import Path

    from metaserver.storage.filesystem import File, FileSystem

_HEADER = re.compile(
    rb"metaserver repair 1\nsegment_start (?P<segment>[0-9]{1,19})\noffset (?P<offset>[0-9]{1,19})\n"
    rb"size (?P<size>[0-9]{1,10})\ncrc (?P<crc>[0-9a-f]{8})\n"
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


def save_patch(filesystem: FileSystem, journal: Path, patch: Patch) -> None:
    """From now on it is to be carried out, also after a crash. Raises OSError."""
    save_document(filesystem, journal, patch.encode(), _STEPS)


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
        if done and patch is not None:
            _forget_damage(filesystem, directory, patch.range)
        remove_patch(filesystem, journal)
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
    write_patch(filesystem, path, patch)
    return True


def _forget_damage(filesystem: FileSystem, directory: Path, repaired: OffsetRange) -> None:
    """Have no checkpoint call the range unreadable: without its journal nothing else would say what it is."""
    checkpoint = load_checkpoint(filesystem, directory)
    if checkpoint is not None:
        unreadable = tuple(subtract_range(checkpoint.unreadable, repaired))
        if unreadable != checkpoint.unreadable:
            save_checkpoint(filesystem, directory, attrs.evolve(checkpoint, unreadable=unreadable))


def write_patch(filesystem: FileSystem, path: Path, patch: Patch) -> None:
    """Put the new bytes into a segment, durably. Raises OSError."""
    file: File = filesystem.open(path, "write", Point.REPAIR_OPEN)
    try:
        file.write([patch.new], patch.offset - patch.segment_start, Point.REPAIR_REPLACE)
        file.sync(Point.REPAIR_REPLACE_SYNC)
    finally:
        file.close()


def remove_patch(filesystem: FileSystem, journal: Path) -> None:
    """Have the journal gone, durably. Raises OSError."""
    filesystem.remove(journal, Point.REPAIR_REMOVE)
    filesystem.sync_directory(journal.parent, Point.REPAIR_SYNC_DIRECTORY)
