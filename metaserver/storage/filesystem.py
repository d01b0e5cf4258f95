"""What the log needs of the machine: a dozen file calls and a clock, both handed in.

Every call that changes durable state takes a :class:`Point`, its name in the story of the log. A test
filesystem fails, or loses power, at any of them. No other module of the package touches ``os``.

All calls raise the plain :class:`OSError`; what an error means for the log is decided by the log, which
finds the words for it here.
"""

from __future__ import annotations

import enum
import errno
import fcntl
import os
import threading
from typing import TYPE_CHECKING, Literal, Protocol

import attrs

from metaserver.errors import DirectoryLockedError, DiskFullError, StorageError

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from metaserver.message import Buffer

OpenMode = Literal["create", "replace", "write", "read"]
"""``create``: must not exist yet. ``write``: exists, read and written. ``replace``: a new file, in place
of one that may be there: a crash in a rename can leave two names of a file, and only one of them is meant.
"""

_OPEN_FLAGS: dict[OpenMode, int] = {
    "create": os.O_RDWR | os.O_CREAT | os.O_EXCL,
    "replace": os.O_RDWR | os.O_CREAT | os.O_EXCL,
    "write": os.O_RDWR,
    "read": os.O_RDONLY,
}
_BUFFERS_MAX = os.sysconf("SC_IOV_MAX")


class Point(enum.Enum):
    """The calls that change durable state, or make it durable."""

    APPEND_WRITE = "append: write the records"
    APPEND_UNDO = "append: cut back what a failed write left"
    APPEND_UNDO_SYNC = "append: make the cut durable, before a full disk is told"
    APPEND_SYNC = "flush: make the records durable"
    DISCARD_TRUNCATE = "discard: cut records whose flush failed"
    ROLL_CREATE = "roll: create the next segment"
    ROLL_UNDO = "roll: remove a segment that could not be created whole"
    ROLL_SYNC_DIRECTORY = "roll: make the new name durable"
    CREATE_DIRECTORY = "create: make a directory"
    CREATE_SYNC_PARENT = "create: make the directory's name durable"
    CHECKPOINT_OPEN = "checkpoint: read it"
    CHECKPOINT_CREATE = "checkpoint: create the temporary file"
    CHECKPOINT_WRITE = "checkpoint: write it"
    CHECKPOINT_SYNC = "checkpoint: make it durable"
    CHECKPOINT_RENAME = "checkpoint: put it in place"
    CHECKPOINT_REMOVE = "checkpoint: withdraw it before a truncation"
    CHECKPOINT_SYNC_DIRECTORY = "checkpoint: make its name durable"
    EPOCHS_OPEN = "epochs: read them"
    EPOCHS_CREATE = "epochs: create the temporary file"
    EPOCHS_WRITE = "epochs: write them"
    EPOCHS_SYNC = "epochs: make them durable"
    EPOCHS_RENAME = "epochs: put the file in place"
    EPOCHS_SYNC_DIRECTORY = "epochs: make its name durable"
    GAPS_OPEN = "gaps: read them"
    GAPS_CREATE = "gaps: create the temporary file"
    GAPS_WRITE = "gaps: write them"
    GAPS_SYNC = "gaps: make them durable"
    GAPS_RENAME = "gaps: put the file in place"
    GAPS_SYNC_DIRECTORY = "gaps: make its name durable"
    SKIP_CREATE = "skip: create the segment behind the gap"
    SKIP_UNDO = "skip: remove a segment that could not be created whole"
    SKIP_SYNC_DIRECTORY = "skip: make the new name durable"
    SKIP_REMOVE = "skip: remove the empty segment before the gap"
    REPAIR_OPEN = "repair: open the journal or the segment"
    REPAIR_CREATE = "repair: create the temporary file of the journal"
    REPAIR_WRITE = "repair: write the journal"
    REPAIR_SYNC = "repair: make the journal durable"
    REPAIR_RENAME = "repair: put the journal in place"
    REPAIR_SYNC_DIRECTORY = "repair: make the journal's name durable, or its removal"
    REPAIR_REPLACE = "repair: write the good bytes over the damaged ones"
    REPAIR_REPLACE_SYNC = "repair: make them durable"
    REPAIR_REMOVE = "repair: remove the journal"
    QUARANTINE_CREATE = "quarantine: create a file"
    QUARANTINE_WRITE = "quarantine: write it"
    QUARANTINE_SYNC = "quarantine: make it durable"
    QUARANTINE_RENAME = "quarantine: put the report in place"
    QUARANTINE_SYNC_DIRECTORY = "quarantine: make its name durable"
    DELETED_RENAME = "delete: move the log of a deleted topic away"
    DELETED_SYNC_DIRECTORY = "delete: make the move durable"
    CARRY_OVER_OPEN = "carry over: read a file of a Java broker"
    CARRY_OVER_RENAME = "carry over: give the folder of its journal another name"
    CARRY_OVER_SYNC_DIRECTORY = "carry over: make that name durable"
    DOCUMENT_OPEN = "document: read it"
    DOCUMENT_CREATE = "document: create the temporary file"
    DOCUMENT_WRITE = "document: write it"
    DOCUMENT_SYNC = "document: make it durable"
    DOCUMENT_RENAME = "document: put it in place"
    DOCUMENT_REMOVE = "document: remove it"
    DOCUMENT_SYNC_DIRECTORY = "document: make its name durable"
    RECOVERY_READ = "recovery: open a segment to look at it"
    RECOVERY_KEEP_CREATE = "recovery: create the file for what will be cut"
    RECOVERY_KEEP_WRITE = "recovery: copy what will be cut"
    RECOVERY_KEEP_SYNC = "recovery: make the copy durable"
    RECOVERY_KEEP_SYNC_DIRECTORY = "recovery: make the copy's name durable"
    RECOVERY_OPEN = "recovery: open the last segment for writing"
    RECOVERY_CUT = "recovery: cut the torn tail"
    RECOVERY_REWRITE = "recovery: write what was found once more"
    RECOVERY_SYNC = "recovery: make what was found durable"
    RECOVERY_SYNC_DIRECTORY = "recovery: make the names that were found durable"
    SEGMENT_OPEN = "open a segment"
    TRUNCATE_REMOVE = "truncate: remove a segment behind the new end"
    TRUNCATE_SYNC_DIRECTORY = "truncate: make the removals durable"
    TRUNCATE_CUT = "truncate: cut the segment that holds the new end"
    TRUNCATE_SYNC = "truncate: make the cut durable"
    RETENTION_REMOVE = "retention: remove an old segment"
    RETENTION_RENAME = "retention: rename an old segment"
    RETENTION_ZIP_CREATE = "retention: create the compressed copy"
    RETENTION_ZIP_WRITE = "retention: write the compressed copy"
    RETENTION_ZIP_SYNC = "retention: make the compressed copy durable"
    RETENTION_ZIP_RENAME = "retention: put the compressed copy in place"
    RETENTION_SYNC_DIRECTORY = "retention: make the changes durable"


class Clock(Protocol):
    """Where the package gets the time from."""

    def wall_seconds(self) -> float:
        """Seconds since 1970."""
        ...

    def monotonic_seconds(self) -> float:
        """Seconds since some moment; never goes back."""
        ...


class File(Protocol):
    """An open file. All calls are positioned, so that threads do not share a cursor."""

    def write(self, buffers: Sequence[Buffer], position: int, point: Point) -> None:
        """Write all of the buffers at a position, or raise OSError with any part of them written."""
        ...

    def read(self, size: int, position: int) -> bytes:
        """Up to ``size`` bytes at a position; fewer only at the end of the file."""
        ...

    def sync(self, point: Point) -> None:
        """Make data and size durable. After an error nothing is known of what was written before."""
        ...

    def truncate(self, size: int, point: Point) -> None:
        """Cut the file to a size."""
        ...

    def size(self) -> int:
        """Bytes in the file."""
        ...

    def fileno(self) -> int:
        """The descriptor, for ``sendfile``."""
        ...

    def close(self) -> None:
        """Give the descriptor back; the second call does nothing."""
        ...


class DirectoryLock(Protocol):
    """The right to use a data directory."""

    def release(self) -> None:
        """Give it back and remove the lock file."""
        ...


class FileSystem(Protocol):
    """The calls on names."""

    def open(self, path: Path, mode: OpenMode, point: Point) -> File:
        """Open a file."""
        ...

    def list_directory(self, path: Path) -> list[str]:
        """The names in a directory, in no order."""
        ...

    def is_directory(self, path: Path) -> bool:
        """Whether the path is an existing directory."""
        ...

    def make_directory(self, path: Path, point: Point) -> None:
        """Make one directory; its parent exists, it does not."""
        ...

    def rename(self, source: Path, target: Path, point: Point) -> None:
        """Give a file another name, replacing a file of that name."""
        ...

    def remove(self, path: Path, point: Point) -> None:
        """Remove a file."""
        ...

    def sync_directory(self, path: Path, point: Point) -> None:
        """Make the names in a directory durable."""
        ...

    def size(self, path: Path) -> int:
        """Bytes in a file."""
        ...

    def modified_seconds(self, path: Path) -> float:
        """When a file was last written, in seconds since 1970."""
        ...

    def free_bytes(self, path: Path) -> int:
        """What an ordinary user can still write to the disk that holds the path."""
        ...

    def lock(self, path: Path, owner: str) -> DirectoryLock:
        """Take the lock file at this path; raises DirectoryLockedError with what its owner wrote into it."""
        ...


_making_directories = threading.Lock()


def make_directories(filesystem: FileSystem, path: Path) -> None:
    """Make a directory and the parents it lacks, each name durable before the next is made.

    From any thread: two that lack the same parent wait for each other, for who finds it there must find it
    durable.
    """
    with _making_directories:
        missing = []
        while not filesystem.is_directory(path):
            missing.append(path)
            path = path.parent
        for directory in reversed(missing):
            filesystem.make_directory(directory, Point.CREATE_DIRECTORY)
            filesystem.sync_directory(directory.parent, Point.CREATE_SYNC_PARENT)


def is_no_room(error: OSError) -> bool:
    """Whether the disk, or the user's share of it, is full."""
    return error.errno in {errno.ENOSPC, errno.EDQUOT}


def reason_of(error: OSError) -> str:
    """What the operating system says, without number and name."""
    return error.strerror or str(error)


def translate_error(filesystem: FileSystem, path: Path, what: str, error: OSError) -> StorageError:
    """The error of this package for one of the operating system that harms no data."""
    if is_no_room(error):
        try:
            free_bytes = filesystem.free_bytes(path)
        except OSError:
            free_bytes = 0
        return DiskFullError(path, free_bytes)
    return StorageError(f"{path}: {what}: {reason_of(error)}")


@attrs.define(eq=False)
class RealFile:
    """A file of the operating system."""

    _descriptor: int

    def write(self, buffers: Sequence[Buffer], position: int, point: Point) -> None:  # noqa: ARG002
        """See :class:`File`."""
        size = sum(map(len, buffers))
        written = os.pwritev(self._descriptor, buffers[:_BUFFERS_MAX], position)
        if written != size:
            self._write_rest(buffers, position, written)

    def _write_rest(self, buffers: Sequence[Buffer], position: int, written: int) -> None:
        """Go on after a short write, or behind the first IOV_MAX buffers."""
        pending = [memoryview(buffer) for buffer in buffers if len(buffer)]
        first = 0
        while True:
            position += written
            while first < len(pending) and written >= len(pending[first]):
                written -= len(pending[first])
                first += 1
            if first == len(pending):
                return
            pending[first] = pending[first][written:]
            written = os.pwritev(self._descriptor, pending[first : first + _BUFFERS_MAX], position)

    def read(self, size: int, position: int) -> bytes:
        """See :class:`File`."""
        data = os.pread(self._descriptor, size, position)
        if len(data) == size or not data:
            return data
        pieces = [data]
        missing = size - len(data)
        while missing and (data := os.pread(self._descriptor, missing, position + size - missing)):
            pieces.append(data)
            missing -= len(data)
        return b"".join(pieces)

    def sync(self, point: Point) -> None:  # noqa: ARG002
        """See :class:`File`."""
        os.fdatasync(self._descriptor)

    def truncate(self, size: int, point: Point) -> None:  # noqa: ARG002
        """See :class:`File`."""
        os.ftruncate(self._descriptor, size)

    def size(self) -> int:
        """See :class:`File`."""
        return os.fstat(self._descriptor).st_size

    def fileno(self) -> int:
        """See :class:`File`."""
        return self._descriptor

    def close(self) -> None:
        """See :class:`File`."""
        descriptor, self._descriptor = self._descriptor, -1
        if descriptor >= 0:
            os.close(descriptor)


@attrs.define(eq=False)
class _RealLock:
    path: Path
    descriptor: int

    def release(self) -> None:
        if self.descriptor < 0:
            return
        # Removed while still held: whoever opened it meanwhile notices that it has no name any more.
        self.path.unlink(missing_ok=True)
        descriptor, self.descriptor = self.descriptor, -1
        os.close(descriptor)


class RealFileSystem:
    """The filesystem of the operating system."""

    def open(self, path: Path, mode: OpenMode, point: Point) -> File:  # noqa: ARG002
        """See :class:`FileSystem`."""
        flags = _OPEN_FLAGS[mode] | os.O_CLOEXEC
        try:
            return RealFile(os.open(path, flags, 0o644))
        except FileExistsError:
            if mode != "replace":
                raise
        path.unlink()
        return RealFile(os.open(path, flags, 0o644))

    def list_directory(self, path: Path) -> list[str]:
        """See :class:`FileSystem`."""
        return os.listdir(path)  # noqa: PTH208 - names are wanted, and a Path each costs ten times that

    def is_directory(self, path: Path) -> bool:
        """See :class:`FileSystem`."""
        return path.is_dir()

    def make_directory(self, path: Path, point: Point) -> None:  # noqa: ARG002
        """See :class:`FileSystem`."""
        path.mkdir()

    def rename(self, source: Path, target: Path, point: Point) -> None:  # noqa: ARG002
        """See :class:`FileSystem`."""
        source.replace(target)

    def remove(self, path: Path, point: Point) -> None:  # noqa: ARG002
        """See :class:`FileSystem`."""
        path.unlink()

    def sync_directory(self, path: Path, point: Point) -> None:  # noqa: ARG002
        """See :class:`FileSystem`."""
        descriptor = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)

    def size(self, path: Path) -> int:
        """See :class:`FileSystem`."""
        return path.stat().st_size

    def modified_seconds(self, path: Path) -> float:
        """See :class:`FileSystem`."""
        return path.stat().st_mtime

    def free_bytes(self, path: Path) -> int:
        """See :class:`FileSystem`."""
        status = os.statvfs(path)
        return status.f_bavail * status.f_frsize

    def lock(self, path: Path, owner: str) -> DirectoryLock:
        """See :class:`FileSystem`."""
        while True:
            descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o644)
            try:
                try:
                    fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
                except BlockingIOError:
                    holder = os.pread(descriptor, 4096, 0).decode(errors="replace").strip()
                    raise DirectoryLockedError(path.parent, holder or "an unnamed process") from None
                if _has_name(descriptor, path):
                    os.ftruncate(descriptor, 0)
                    os.pwrite(descriptor, f"{owner}\n".encode(), 0)
                    lock, descriptor = _RealLock(path, descriptor), -1
                    return lock
                # Its last owner removed it between our open and our flock: take the new one.
            finally:
                if descriptor >= 0:
                    os.close(descriptor)


def _has_name(descriptor: int, path: Path) -> bool:
    """Whether an open file is still the one at this path."""
    try:
        return os.path.samestat(os.fstat(descriptor), path.stat())
    except FileNotFoundError:
        return False
