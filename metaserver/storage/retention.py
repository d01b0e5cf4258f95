"""What becomes of a segment that is old enough: it is deleted, or archived beside the log.

An archived segment keeps its name with ``.arc`` behind it; compressed, it is a zip file with one entry.
The compressed copy is durable before the segment goes, so a crash or a full disk loses nothing.
"""

from __future__ import annotations

import zipfile
from typing import TYPE_CHECKING, Literal

import attrs

from metaserver.storage.filenames import archive_name, temporary_name
from metaserver.storage.filesystem import Point

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from metaserver.storage.filesystem import File, FileSystem
    from metaserver.storage.layout import Layout
    from metaserver.storage.segment import Segment

RetentionAction = Literal["delete", "archive"]

_COPY_BYTES = 1024 * 1024


@attrs.frozen
class ExpiryPolicy:
    """Which segments go, and how."""

    action: RetentionAction
    age_seconds: float
    compress: bool
    now_wall_seconds: float
    before_offset: int
    """None that ends behind it."""


def expire_segments(
    filesystem: FileSystem,
    layout: Layout,
    policy: ExpiryPolicy,
    hide_first: Callable[[], None],
    show_first: Callable[[Segment], None],
) -> list[str]:
    """Dispose of the oldest segments, up to the first that stays; the last always does. Their names.

    ``hide_first`` takes the first segment out of sight of readers before its file goes, ``show_first`` shows
    it again where it could not. Raises OSError; what was done before stays done.
    """
    names: list[str] = []
    for segment, end_offset in zip(layout.segments, layout.starts[1:], strict=False):
        path = segment.path
        is_young = not is_expired(filesystem, path, policy.age_seconds, policy.now_wall_seconds)
        if is_young or end_offset > policy.before_offset:
            break
        if policy.action == "archive" and policy.compress:
            compress_segment(filesystem, path)
        hide_first()
        try:
            dispose_segment(filesystem, path, policy.action, compress=policy.compress)
        except OSError:
            show_first(segment)
            raise
        segment.retire()
        names.append(path.name)
    if names:
        filesystem.sync_directory(layout.segments[0].path.parent, Point.RETENTION_SYNC_DIRECTORY)
    return names


def is_expired(filesystem: FileSystem, path: Path, age_seconds: float, now_wall_seconds: float) -> bool:
    """Whether a file was last written longer ago than the age. Raises OSError."""
    return now_wall_seconds - filesystem.modified_seconds(path) > age_seconds


def compress_segment(filesystem: FileSystem, path: Path) -> None:
    """Write the compressed copy beside a segment, durably; the segment stays. Raises OSError."""
    target = path.with_name(archive_name(path.name, compressed=True))
    temporary = path.with_name(temporary_name(target.name))
    source = filesystem.open(path, "read", Point.SEGMENT_OPEN)
    try:
        copy = filesystem.open(temporary, "replace", Point.RETENTION_ZIP_CREATE)
        try:
            _write_zip(path.name, source, copy)
            copy.sync(Point.RETENTION_ZIP_SYNC)
        finally:
            copy.close()
    except OSError:
        _remove_quietly(filesystem, temporary)
        raise
    finally:
        source.close()
    filesystem.rename(temporary, target, Point.RETENTION_ZIP_RENAME)
    filesystem.sync_directory(path.parent, Point.RETENTION_SYNC_DIRECTORY)


def dispose_segment(filesystem: FileSystem, path: Path, action: RetentionAction, *, compress: bool) -> None:
    """Take a segment's name away, as the policy says; its compressed copy exists already. Raises OSError."""
    if action == "archive" and not compress:
        target = path.with_name(archive_name(path.name, compressed=False))
        filesystem.rename(path, target, Point.RETENTION_RENAME)
    else:
        filesystem.remove(path, Point.RETENTION_REMOVE)


def _write_zip(name: str, source: File, target: File) -> None:
    size = source.size()
    with zipfile.ZipFile(_Sink(target), "w") as archive:
        entry = zipfile.ZipInfo(name)
        entry.compress_type = zipfile.ZIP_DEFLATED
        # Known beforehand, it decides whether the entry needs the 64-bit form.
        entry.file_size = size
        with archive.open(entry, "w") as stream:
            for position in range(0, size, _COPY_BYTES):
                stream.write(source.read(min(_COPY_BYTES, size - position), position))


def _remove_quietly(filesystem: FileSystem, path: Path) -> None:
    """Give the space of an unfinished file back, if the disk lets us."""
    try:
        filesystem.remove(path, Point.RETENTION_REMOVE)
    except OSError:
        # It is written anew by the next run, which has the same name for it.
        return


@attrs.define
class _Sink:
    """The file object that zipfile writes to; it cannot seek, so nothing is written twice."""

    _file: File
    _position: int = 0

    def write(self, data: bytes, /) -> int:
        self._file.write([data], self._position, Point.RETENTION_ZIP_WRITE)
        self._position += len(data)
        return len(data)

    def flush(self) -> None:
        """Nothing is held back."""

    def close(self) -> None:
        """The file is its opener's to close."""
