"""Puts another configuration file in the place of one, so that a crash leaves the old or the new."""

from __future__ import annotations

import os
from contextlib import suppress
from pathlib import Path

VERSIONS_MAX = 5
"""Files kept that were replaced: ``server.ini.1`` is the last one."""


def replace_file(path: Path, data: bytes, *, keep_old: bool) -> None:
    """Replace what the file holds; with ``keep_old`` it stays beside it under a number. Raises OSError.

    A link stays one: what it leads to is replaced.
    """
    path = Path(os.path.realpath(path))
    if keep_old:
        _shift_versions(path)
        _write(_version(path, 1), path.read_bytes(), path)
    _write(path, data, path)
    directory = os.open(path.parent, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(directory)
    finally:
        os.close(directory)


def previous_version(path: Path) -> Path:
    """Where :func:`replace_file` has kept what it replaced last."""
    return _version(Path(os.path.realpath(path)), 1)


def _version(path: Path, number: int) -> Path:
    return path.with_name(f"{path.name}.{number}")


def _shift_versions(path: Path) -> None:
    for number in range(VERSIONS_MAX - 1, 0, -1):
        with suppress(FileNotFoundError):
            _version(path, number).replace(_version(path, number + 1))


def _write(path: Path, data: bytes, model: Path) -> None:
    """Under another name first, with owner and mode of the model, and synced before it has the name."""
    status = model.stat()
    temporary = path.with_name(f"{path.name}.{os.getpid()}.new")
    try:
        descriptor = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC, 0o600)
        with os.fdopen(descriptor, "wb") as file:
            # Only root may give files away.
            with suppress(PermissionError):
                os.fchown(file.fileno(), status.st_uid, status.st_gid)
            os.fchmod(file.fileno(), status.st_mode & 0o777)
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        temporary.replace(path)
    except BaseException:
        with suppress(OSError):
            temporary.unlink()
        raise
