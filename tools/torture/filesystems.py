"""Small filesystems to be filled, broken and copied. They need root and Linux."""

from __future__ import annotations

import os
import shutil
import subprocess
from contextlib import contextmanager
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

MIB = 1024 * 1024


class UnavailableError(Exception):
    """What this machine lacks."""


@contextmanager
def mounted(source: str, target: Path, *options: str) -> Iterator[Path]:
    """A filesystem, for the time of the block; raises UnavailableError."""
    if os.geteuid() != 0:
        raise UnavailableError("mounting needs root")
    target.mkdir(parents=True, exist_ok=True)
    run("mount", *options, source, str(target))
    try:
        yield target
    finally:
        # Lazily where something still holds it: the name must be gone, and nothing may wait here.
        if subprocess.run(["umount", str(target)], capture_output=True, check=False).returncode != 0:
            subprocess.run(["umount", "-l", str(target)], capture_output=True, check=False)


@contextmanager
def tmpfs(target: Path, size_bytes: int) -> Iterator[Path]:
    """Memory as a disk of that size."""
    with mounted("tmpfs", target, "-t", "tmpfs", "-o", f"size={size_bytes}") as path:
        yield path


@contextmanager
def image(file: Path, target: Path, kind: str, size_bytes: int, *options: str) -> Iterator[Path]:
    """A new filesystem in a sparse file, mounted through a loop device."""
    with file.open("wb") as sparse:
        sparse.truncate(size_bytes)
    run(f"mkfs.{kind}", "-q", *options, str(file))
    with mounted(str(file), target, "-o", "loop") as path:
        yield path


def run(*command: str) -> None:
    """Run a program that must succeed; raises UnavailableError with what it said."""
    if shutil.which(command[0]) is None:
        raise UnavailableError(f"there is no {command[0]} here")
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode != 0:
        raise UnavailableError(f"{' '.join(command)}: {done.stderr.strip()}")


def fill(path: Path, free_bytes: int) -> Path:
    """A file that leaves about so much room on the filesystem of a directory."""
    status = os.statvfs(path)
    ballast = path / "ballast"
    size = status.f_bavail * status.f_frsize - free_bytes
    with ballast.open("wb") as file:
        os.posix_fallocate(file.fileno(), 0, size)
    return ballast
