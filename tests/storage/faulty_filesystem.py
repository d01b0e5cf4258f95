"""A filesystem in memory that fails where it is told to, and forgets what was not synced.

The fault model, in prose:

* A *process crash* loses nothing that was written: the kernel has it.
* A *power cut* brings every file back to its last sync, plus some of what was written since: nothing,
  everything, any prefix (cut inside a write too), any prefix with zeros up to the later size, or any
  selection of 512-byte sectors with zeros in the others.
* Changes of a directory (names made, removed, renamed) survive a power cut up to its last sync, plus
  any prefix of the later ones in their order, as journaling filesystems have it.
* A *failed sync* drops the data it was asked to make durable: a later sync succeeds without it, though
  readers still see it until the power is cut (fsyncgate). Sizes are in the journal and stay pending.
* A *failed write* has written any prefix.

Sectors written before a sync are never damaged by a power cut, as disks promise.
"""

from __future__ import annotations

import errno
import os
from typing import TYPE_CHECKING, Literal

import attrs

from metaserver.errors import DirectoryLockedError

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence
    from pathlib import Path

    from metaserver.message import Buffer
    from metaserver.storage import DirectoryLock, File, Point

Kind = Literal["EIO", "ENOSPC", "crash before", "crash after"]
Survival = Literal["nothing", "everything", "prefix", "zeros", "sectors"]

SECTOR_BYTES = 512


class CrashedError(Exception):
    """The process is gone. Not an OSError: nothing in the product may catch it."""


class FakeClock:
    """Time that passes when the test says so."""

    def __init__(self, wall_seconds: float = 1_700_000_000.0) -> None:
        self._wall_seconds = wall_seconds
        self._monotonic_seconds = 0.0

    def advance(self, seconds: float) -> None:
        self._wall_seconds += seconds
        self._monotonic_seconds += seconds

    def wall_seconds(self) -> float:
        return self._wall_seconds

    def monotonic_seconds(self) -> float:
        return self._monotonic_seconds


@attrs.define(eq=False)
class _Inode:
    content: bytearray = attrs.field(factory=bytearray, repr=False)
    durable: bytes = attrs.field(default=b"", repr=False)
    pending: list[tuple[int, bytes | None]] = attrs.field(factory=list, repr=False)
    """Writes (position, data) and truncations (size, None) since the last sync."""
    settled: int = 0
    """Changes before those: made durable, or given up."""
    modified_seconds: float = 0.0


@attrs.define(eq=False)
class _Directory:
    names: dict[str, _Inode | _Directory] = attrs.Factory(dict)
    durable: dict[str, _Inode | _Directory] = attrs.Factory(dict)
    pending: list[tuple[str, _Inode | _Directory | None]] = attrs.Factory(list)

    def change(self, name: str, target: _Inode | _Directory | None) -> None:
        _apply(self.names, name, target)
        self.pending.append((name, target))


def _apply(names: dict[str, _Inode | _Directory], name: str, target: _Inode | _Directory | None) -> None:
    if target is None:
        names.pop(name, None)
    else:
        names[name] = target


@attrs.define
class Fault:
    """What goes wrong at the n-th call of a point, counted from 0."""

    point: Point
    occurrence: int
    kind: Kind


@attrs.define(eq=False)
class FaultyFileSystem:
    """Implements the product's FileSystem protocol."""

    clock: FakeClock = attrs.Factory(FakeClock)
    fault: Fault | None = None
    calls: list[Point] = attrs.Factory(list)
    """Every call that named a point, in order."""
    capacity_bytes: int | None = None
    """Writes beyond it raise ENOSPC; None for no limit."""
    read_error: bool = False
    """Whether every read of a file raises EIO."""
    is_crashed: bool = False
    generation: int = 0
    on_call: Callable[[Point], None] | None = None
    """Called before each call, so that a test can act in the middle of an operation."""
    _root: _Directory = attrs.Factory(_Directory)
    _locks: dict[Path, str] = attrs.Factory(dict)

    # Faults.

    def enter(self, point: Point) -> Kind | None:
        """Count a call; returns the fault the caller has to have in the middle."""
        if self.is_crashed:
            raise CrashedError
        if self.on_call is not None:
            self.on_call(point)
        occurrence = self.calls.count(point)
        self.calls.append(point)
        fault = self.fault
        if fault is None or fault.point is not point or fault.occurrence != occurrence:
            return None
        if fault.kind == "crash before":
            self.crash()
        return fault.kind

    def leave(self, kind: Kind | None) -> None:
        """The end of a call that has had its effect."""
        if kind == "crash after":
            self.crash()

    def crash(self) -> None:
        self.is_crashed = True
        raise CrashedError

    def restart(self) -> None:
        """Start the process again with what the kernel has."""
        self.is_crashed = False
        self.generation += 1
        self.fault = None
        self.calls.clear()
        self._locks.clear()

    def cut_power(self, survival: Survival, choose: Callable[[int], int] = lambda _below: 0) -> None:
        """Lose what was not synced; ``choose(n)`` picks a number below n where there is a choice."""
        self._cut_directory(self._root, survival, choose)
        self.restart()

    def _cut_directory(self, directory: _Directory, survival: Survival, choose: Callable[[int], int]) -> None:
        kept = {"nothing": 0, "everything": len(directory.pending)}.get(survival)
        if kept is None:
            kept = choose(len(directory.pending) + 1)
        names = dict(directory.durable)
        for name, target in directory.pending[:kept]:
            _apply(names, name, target)
        directory.names, directory.durable, directory.pending = names, dict(names), []
        for target in names.values():
            if isinstance(target, _Directory):
                self._cut_directory(target, survival, choose)
            else:
                _cut_file(target, survival, choose)

    # The FileSystem protocol.

    def open(self, path: Path, mode: str, point: Point) -> File:
        kind = self._enter_or_fail(point)
        directory = self._directory(path.parent)
        found = directory.names.get(path.name)
        if isinstance(found, _Directory):
            raise OSError(errno.EISDIR, os.strerror(errno.EISDIR), str(path))
        if found is None:
            if mode not in ("create", "replace"):
                raise FileNotFoundError(errno.ENOENT, os.strerror(errno.ENOENT), str(path))
            found = _Inode(modified_seconds=self.clock.wall_seconds())
            directory.change(path.name, found)
        elif mode == "create":
            raise FileExistsError(errno.EEXIST, os.strerror(errno.EEXIST), str(path))
        elif mode == "replace":
            found = _Inode(modified_seconds=self.clock.wall_seconds())
            directory.change(path.name, found)
        self.leave(kind)
        return FaultyFile(self, found, self.generation, is_writable=mode != "read")

    def list_directory(self, path: Path) -> list[str]:
        self._check_alive()
        return list(self._directory(path).names)

    def is_directory(self, path: Path) -> bool:
        self._check_alive()
        try:
            self._directory(path)
        except OSError:
            return False
        return True

    def make_directory(self, path: Path, point: Point) -> None:
        kind = self._enter_or_fail(point)
        parent = self._directory(path.parent)
        if path.name in parent.names:
            raise FileExistsError(errno.EEXIST, os.strerror(errno.EEXIST), str(path))
        parent.change(path.name, _Directory())
        self.leave(kind)

    def rename(self, source: Path, target: Path, point: Point) -> None:
        kind = self._enter_or_fail(point)
        directory = self._directory(source.parent)
        if source.parent != target.parent:
            # What a power cut leaves of it is not simulated: to the journal it is one step of two directories.
            self._directory(target.parent).change(target.name, directory.names[source.name])
            directory.change(source.name, None)
            self.leave(kind)
            return
        inode = directory.names[source.name]
        # Both names may be left, of the one file (rename(2)); never none.
        directory.change(target.name, inode)
        directory.names.pop(source.name)
        directory.pending[-1] = (target.name, inode)
        directory.pending.append((source.name, None))
        self.leave(kind)

    def remove(self, path: Path, point: Point) -> None:
        kind = self._enter_or_fail(point)
        directory = self._directory(path.parent)
        if path.name not in directory.names:
            raise FileNotFoundError(errno.ENOENT, os.strerror(errno.ENOENT), str(path))
        directory.change(path.name, None)
        self.leave(kind)

    def sync_directory(self, path: Path, point: Point) -> None:
        kind = self._enter_or_fail(point)
        directory = self._directory(path)
        directory.durable, directory.pending = dict(directory.names), []
        self.leave(kind)

    def size(self, path: Path) -> int:
        self._check_alive()
        return len(self._inode(path).content)

    def modified_seconds(self, path: Path) -> float:
        self._check_alive()
        return self._inode(path).modified_seconds

    def free_bytes(self, path: Path) -> int:
        self._check_alive()
        if self.capacity_bytes is None:
            return 2**40
        return max(0, self.capacity_bytes - self.used_bytes())

    def lock(self, path: Path, owner: str) -> DirectoryLock:
        self._check_alive()
        if path in self._locks:
            raise DirectoryLockedError(path.parent, self._locks[path])
        self._locks[path] = owner
        self._directory(path.parent).change(path.name, _Inode(bytearray(owner.encode())))
        return _Lock(self, path)

    def unlock(self, path: Path) -> None:
        if not self.is_crashed and self._locks.pop(path, None) is not None:
            self._directory(path.parent).change(path.name, None)

    # For tests: behind the product's back.

    def used_bytes(self) -> int:
        return _used_bytes(self._root)

    def files(self) -> Iterator[tuple[str, bytearray]]:
        """Each file's path and content, in an order that is always the same."""
        yield from _files(self._root, "")

    def read_bytes(self, path: Path) -> bytes:
        return bytes(self._inode(path).content)

    def write_bytes(self, path: Path, data: bytes) -> None:
        """Put a file there, durably."""
        directory = self._make_directories(path.parent)
        inode = _Inode(bytearray(data), data, modified_seconds=self.clock.wall_seconds())
        directory.names[path.name] = inode
        directory.durable[path.name] = inode

    def flip(self, path: Path, position: int, size: int = 1) -> None:
        """Change bytes that are durable, as a disk does: nobody notices, and no power cut brings them back."""
        inode = self._inode(path)
        durable = bytearray(inode.durable)
        for at in range(position, position + size):
            inode.content[at] ^= 0x55
            durable[at] ^= 0x55
        inode.durable = bytes(durable)

    def surviving_bytes(self, path: Path) -> bytes:
        """From the front of a file, what is there now and behind a power cut as well."""
        directory = self._directory(path.parent)
        inode = directory.names[path.name]
        if not isinstance(inode, _Inode) or directory.durable.get(path.name) is not inode:
            return b""
        touched = [change[0] for change in inode.pending]
        return bytes(inode.durable[: min(touched, default=len(inode.durable))])

    def delete(self, path: Path) -> None:
        directory = self._directory(path.parent)
        del directory.names[path.name]
        directory.durable.pop(path.name, None)

    def _make_directories(self, path: Path) -> _Directory:
        directory = self._root
        for name in path.parts[1:]:
            child = directory.names.get(name)
            if not isinstance(child, _Directory):
                child = _Directory()
                directory.names[name] = directory.durable[name] = child
            directory = child
        return directory

    def _enter_or_fail(self, point: Point) -> Kind | None:
        kind = self.enter(point)
        _raise_if_error(kind)
        return kind

    def _check_alive(self) -> None:
        if self.is_crashed:
            raise CrashedError

    def _directory(self, path: Path) -> _Directory:
        directory = self._root
        for name in path.parts[1:]:
            child = directory.names.get(name)
            if not isinstance(child, _Directory):
                raise FileNotFoundError(errno.ENOENT, os.strerror(errno.ENOENT), str(path))
            directory = child
        return directory

    def _inode(self, path: Path) -> _Inode:
        found = self._directory(path.parent).names.get(path.name)
        if not isinstance(found, _Inode):
            raise FileNotFoundError(errno.ENOENT, os.strerror(errno.ENOENT), str(path))
        return found


@attrs.define(eq=False)
class FaultyFile:
    """An open file of a FaultyFileSystem."""

    _filesystem: FaultyFileSystem
    _inode: _Inode
    _generation: int
    is_writable: bool
    is_closed: bool = False

    def write(self, buffers: Sequence[Buffer], position: int, point: Point) -> None:
        assert self.is_writable
        kind = self._enter(point)
        data = b"".join(buffers)
        if kind in ("EIO", "ENOSPC"):
            self._store(position, data[: len(data) // 2])
            _raise_if_error(kind)
        capacity = self._filesystem.capacity_bytes
        if capacity is not None:
            growth = position + len(data) - len(self._inode.content)
            room = max(0, capacity - self._filesystem.used_bytes())
            if growth > room:
                self._store(position, data[: len(data) - (growth - room)])
                raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        self._store(position, data)
        self._filesystem.leave(kind)

    def read(self, size: int, position: int) -> bytes:
        self._check_open()
        if self._filesystem.read_error:
            raise OSError(errno.EIO, os.strerror(errno.EIO))
        return bytes(self._inode.content[position : position + size])

    def changes(self) -> int:
        """How much has been done to the file: what a sync that begins now makes durable."""
        return self._inode.settled + len(self._inode.pending)

    def sync(self, point: Point, changes: int | None = None) -> None:
        """``changes``: only what had been done when the sync began, which took a while."""
        kind = self._enter(point)
        inode = self._inode
        count = self.changes() if changes is None else changes
        count = max(0, count - inode.settled)
        if kind in ("EIO", "ENOSPC"):
            inode.settled += len(inode.pending)
            inode.pending = [change for change in inode.pending if change[1] is None]
            _raise_if_error(kind)
        if count:
            inode.durable = bytes(_with_changes(inode, count))
            del inode.pending[:count]
            inode.settled += count
        self._filesystem.leave(kind)

    def truncate(self, size: int, point: Point) -> None:
        assert self.is_writable
        kind = self._enter(point)
        _raise_if_error(kind)
        _truncate(self._inode, size)
        self._inode.modified_seconds = self._filesystem.clock.wall_seconds()
        self._filesystem.leave(kind)

    def size(self) -> int:
        self._check_open()
        return len(self._inode.content)

    def fileno(self) -> int:
        raise OSError(errno.EBADF, "a simulated file has no descriptor")

    def close(self) -> None:
        self.is_closed = True

    def _enter(self, point: Point) -> Kind | None:
        self._check_open()
        return self._filesystem.enter(point)

    def _check_open(self) -> None:
        if self._filesystem.is_crashed or self._generation != self._filesystem.generation:
            raise CrashedError
        if self.is_closed:
            raise OSError(errno.EBADF, os.strerror(errno.EBADF))

    def _store(self, position: int, data: bytes) -> None:
        content = self._inode.content
        if position > len(content):
            content.extend(bytes(position - len(content)))
        content[position : position + len(data)] = data
        self._inode.pending.append((position, data))
        self._inode.modified_seconds = self._filesystem.clock.wall_seconds()


@attrs.define(eq=False)
class _Lock:
    _filesystem: FaultyFileSystem
    _path: Path

    def release(self) -> None:
        self._filesystem.unlock(self._path)


def _raise_if_error(kind: Kind | None) -> None:
    number = {"EIO": errno.EIO, "ENOSPC": errno.ENOSPC}.get(str(kind))
    if number is not None:
        raise OSError(number, os.strerror(number))


def _truncate(inode: _Inode, size: int) -> None:
    del inode.content[size:]
    inode.content.extend(bytes(size - len(inode.content)))
    inode.pending.append((size, None))


def _replay(content: bytearray, change: tuple[int, bytes | None]) -> None:
    position, data = change
    if data is None:
        del content[position:]
    if position > len(content):
        content.extend(bytes(position - len(content)))
    if data is not None:
        content[position : position + len(data)] = data


def _with_changes(inode: _Inode, count: int) -> bytearray:
    """What the disk holds when the first of the pending changes have reached it."""
    content = bytearray(inode.durable)
    for change in inode.pending[:count]:
        _replay(content, change)
    return content


def _cut_file(inode: _Inode, survival: Survival, choose: Callable[[int], int]) -> None:
    content = bytearray(inode.durable)
    if survival == "everything":
        content = _with_changes(inode, len(inode.pending))
    elif survival in ("prefix", "zeros"):
        kept = choose(len(inode.pending) + 1)
        content = _with_changes(inode, kept)
        if kept < len(inode.pending):
            position, data = inode.pending[kept]
            if data:
                _replay(content, (position, data[: choose(len(data) + 1)]))
        if survival == "zeros":
            content.extend(bytes(max(0, len(inode.content) - len(content))))
    elif survival == "sectors":
        content = _mix_sectors(inode, choose)
    inode.content, inode.durable = content, bytes(content)
    inode.pending.clear()


def _mix_sectors(inode: _Inode, choose: Callable[[int], int]) -> bytearray:
    """Of what was written since the last sync, each sector is there or is not."""
    durable, volatile = inode.durable, inode.content
    stable = len(durable)
    for position, _data in inode.pending:
        stable = min(stable, position)
    mixed = bytearray(volatile[:stable])
    for start in range(stable, len(volatile), SECTOR_BYTES):
        piece = volatile[start : min(start + SECTOR_BYTES, len(volatile))]
        if choose(2):
            mixed += piece
        else:
            before = durable[start : start + len(piece)]
            mixed += before + bytes(len(piece) - len(before))
    return mixed


def _files(directory: _Directory, path: str) -> Iterator[tuple[str, bytearray]]:
    for name, target in sorted(directory.names.items()):
        if isinstance(target, _Directory):
            yield from _files(target, f"{path}/{name}")
        else:
            yield f"{path}/{name}", target.content


def _used_bytes(directory: _Directory) -> int:
    return sum(
        _used_bytes(target) if isinstance(target, _Directory) else len(target.content)
        for target in directory.names.values()
    )
