"""Offsets that a replica's log passes over on purpose: its master no longer had what belongs there.

A small text file inside the partition directory; its last line is a CRC over the lines before::

    metaserver gaps 1
    gap 1310720 4194304
    crc 459500fe

It tells such a gap from a file that is missing: the one is no damage, the other is. A line is durable before
the segment behind the gap exists. So a gap that is written here and is none in the log (a crash came between)
means nothing, and a hole in the log that is not written here is damage.
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

from metaserver.storage.documents import CRC_LINE, ReplaceSteps, load_document, save_document, seal, unseal
from metaserver.storage.filenames import GAPS_NAME
from metaserver.storage.filesystem import Point
from metaserver.storage.layout import merge_ranges
from metaserver.storage.segment import OffsetRange

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from metaserver.storage.filesystem import FileSystem

_TITLE = "metaserver gaps 1"
_SIZE_MAX = 4 * 1024 * 1024
_STEPS = ReplaceSteps(
    create=Point.GAPS_CREATE,
    write=Point.GAPS_WRITE,
    sync=Point.GAPS_SYNC,
    rename=Point.GAPS_RENAME,
    sync_directory=Point.GAPS_SYNC_DIRECTORY,
)
_LINE = r"gap [0-9]{1,19} [0-9]{1,19}\n"
_TEXT = re.compile(rf"{_TITLE}\n(?P<lines>(?:{_LINE})*){CRC_LINE}", re.ASCII)


def encode_gaps(gaps: Sequence[OffsetRange]) -> bytes:
    """The bytes of the file."""
    lines = "".join(f"gap {gap.start} {gap.end}\n" for gap in gaps)
    return seal(f"{_TITLE}\n{lines}")


def decode_gaps(data: bytes) -> tuple[OffsetRange, ...] | None:
    """What the bytes say; None where they are not exactly what :func:`encode_gaps` makes."""
    match = unseal(data, _TEXT)
    if match is None:
        return None
    return tuple(
        OffsetRange(int(start), int(end)) for _, start, end in map(str.split, match["lines"].splitlines())
    )


def load_gaps(filesystem: FileSystem, directory: Path) -> tuple[OffsetRange, ...]:
    """The gaps of a partition; none where the file is missing or damaged: then they count as damage.

    Raises OSError.
    """
    data = load_document(filesystem, directory / GAPS_NAME, Point.GAPS_OPEN, _SIZE_MAX)
    return () if data is None else decode_gaps(data) or ()


def is_intended(hole: OffsetRange, gaps: Sequence[OffsetRange]) -> bool:
    """Whether what no file holds is known to be missing."""
    return any(gap.start <= hole.start and hole.end <= gap.end for gap in gaps)


def save_gap(filesystem: FileSystem, directory: Path, gap: OffsetRange, log_start: int) -> None:
    """Add one, and forget those before the log's start: after a crash there is the old file or the new one.

    Raises OSError.
    """
    known = [old for old in load_gaps(filesystem, directory) if log_start < old.end <= gap.start]
    # Merged: where the log skips twice in a row, it may be one hole or two.
    data = encode_gaps(merge_ranges([*known, gap]))
    save_document(filesystem, directory / GAPS_NAME, data, _STEPS)
