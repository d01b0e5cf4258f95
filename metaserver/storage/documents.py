"""Small files that are replaced whole: after a crash there is the old one or the new one."""

from __future__ import annotations

from contextlib import suppress
from typing import TYPE_CHECKING

from metaserver.storage.filenames import temporary_name
from metaserver.storage.filesystem import Point

if TYPE_CHECKING:
    from pathlib import Path

    from metaserver.storage.filesystem import FileSystem

_SIZE_MAX = 1024 * 1024 * 1024


def load_document(filesystem: FileSystem, path: Path) -> bytes | None:
    """What the file holds; None where there is none. Raises OSError."""
    try:
        file = filesystem.open(path, "read", Point.DOCUMENT_OPEN)
    except (FileNotFoundError, NotADirectoryError):
        return None
    try:
        return file.read(min(file.size(), _SIZE_MAX), 0)
    finally:
        file.close()


def save_document(filesystem: FileSystem, path: Path, data: bytes) -> None:
    """Replace the file, durably. Raises OSError."""
    temporary = path.with_name(temporary_name(path.name))
    file = filesystem.open(temporary, "replace", Point.DOCUMENT_CREATE)
    try:
        file.write([data], 0, Point.DOCUMENT_WRITE)
        file.sync(Point.DOCUMENT_SYNC)
    finally:
        file.close()
    filesystem.rename(temporary, path, Point.DOCUMENT_RENAME)
    filesystem.sync_directory(path.parent, Point.DOCUMENT_SYNC_DIRECTORY)


def remove_document(filesystem: FileSystem, path: Path) -> None:
    """Have it gone, durably. Raises OSError."""
    with suppress(FileNotFoundError):
        filesystem.remove(path, Point.DOCUMENT_REMOVE)
        filesystem.sync_directory(path.parent, Point.DOCUMENT_SYNC_DIRECTORY)
