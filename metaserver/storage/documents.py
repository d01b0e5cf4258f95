"""Small files that are replaced whole: after a crash there is the old one or the new one."""

from __future__ import annotations

import json
from contextlib import suppress
from typing import TYPE_CHECKING, Any
from zlib import crc32

import attrs

from metaserver.storage.filenames import temporary_name
from metaserver.storage.filesystem import Point

if TYPE_CHECKING:
    import re
    from pathlib import Path

    from metaserver.storage.filesystem import FileSystem


@attrs.frozen
class ReplaceSteps:
    """What the calls of one replacement are named."""

    create: Point
    write: Point
    sync: Point
    rename: Point
    sync_directory: Point


CRC_LINE = r"crc (?P<crc>[0-9a-f]{8})\n"
"""How the pattern of a sealed document ends."""
_SIZE_MAX = 1024 * 1024 * 1024
_DOCUMENT = ReplaceSteps(
    create=Point.DOCUMENT_CREATE,
    write=Point.DOCUMENT_WRITE,
    sync=Point.DOCUMENT_SYNC,
    rename=Point.DOCUMENT_RENAME,
    sync_directory=Point.DOCUMENT_SYNC_DIRECTORY,
)


def load_document(
    filesystem: FileSystem, path: Path, step: Point = Point.DOCUMENT_OPEN, size_max: int = _SIZE_MAX
) -> bytes | None:
    """The first ``size_max`` bytes of the file; None where there is none. Raises OSError."""
    try:
        file = filesystem.open(path, "read", step)
    except (FileNotFoundError, NotADirectoryError):
        return None
    try:
        return file.read(min(file.size(), size_max), 0)
    finally:
        file.close()


def save_document(filesystem: FileSystem, path: Path, data: bytes, steps: ReplaceSteps = _DOCUMENT) -> None:
    """Replace the file, durably. Raises OSError."""
    temporary = path.with_name(temporary_name(path.name))
    file = filesystem.open(temporary, "replace", steps.create)
    try:
        file.write([data], 0, steps.write)
        file.sync(steps.sync)
    finally:
        file.close()
    filesystem.rename(temporary, path, steps.rename)
    filesystem.sync_directory(path.parent, steps.sync_directory)


def seal(text: str) -> bytes:
    """A document whose last line is a CRC over the lines before."""
    data = text.encode()
    return data + f"crc {crc32(data):08x}\n".encode()


def unseal(data: bytes, pattern: re.Pattern[str]) -> re.Match[str] | None:
    """The match of a whole sealed document; None where anything in it is not as it was written.

    The pattern ends with :data:`CRC_LINE`.
    """
    try:
        match = pattern.fullmatch(data.decode("ascii"))
    except UnicodeDecodeError:
        return None
    if match is None or int(match["crc"], 16) != crc32(data[: match.start("crc") - len("crc ")]):
        return None
    return match


def parse_json(data: bytes) -> Any:  # noqa: ANN401 - whatever JSON holds
    """Raises ValueError for what is none, however deep it is nested, and for numbers that JSON has not."""
    try:
        return json.loads(data, parse_constant=_refuse_constant)
    except RecursionError:
        raise ValueError("it is nested too deep") from None


def _refuse_constant(name: str) -> None:
    raise ValueError(f"{name} is no number of JSON")


def remove_document(filesystem: FileSystem, path: Path) -> None:
    """Have it gone, durably. Raises OSError."""
    with suppress(FileNotFoundError):
        filesystem.remove(path, Point.DOCUMENT_REMOVE)
        filesystem.sync_directory(path.parent, Point.DOCUMENT_SYNC_DIRECTORY)
