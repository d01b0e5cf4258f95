"""One segment file: a run of records back to back, no header and no footer.

A segment is opened when it is first read or appended to, so that a partition at rest costs no
descriptor. Whoever reads gets the file *pinned*: it stays open until released, also when retention
has removed it meanwhile.
"""

from __future__ import annotations

from threading import Lock
from typing import TYPE_CHECKING

import attrs

from metaserver.storage.filesystem import Point

if TYPE_CHECKING:
    from pathlib import Path

    from metaserver.storage.filesystem import File, FileSystem


@attrs.frozen(order=True)
class OffsetRange:
    """Offsets from ``start`` up to, not including, ``end``."""

    start: int
    end: int

    @property
    def size_bytes(self) -> int:
        """How many bytes the range covers."""
        return self.end - self.start


@attrs.define(eq=False)
class Segment:
    """One ``.meta`` file of a partition. Its methods may be called from several threads."""

    path: Path
    start_offset: int
    _filesystem: FileSystem
    _pool: OpenSegments
    size_bytes: int = 0
    """Bytes in the file when it was opened or sealed; of the last segment the log knows better."""
    is_sealed: bool = True
    """Whether it takes no more appends."""
    _reader: File | None = None
    _writer: File | None = None
    _pins: int = 0
    _is_retired: bool = False
    _lock: Lock = attrs.Factory(Lock)

    def pin(self) -> File:
        """The file, open for reading until the :meth:`unpin` that belongs to this call."""
        with self._lock:
            file = self._writer or self._reader
            if file is None:
                file = self._reader = self._filesystem.open(self.path, "read", Point.SEGMENT_OPEN)
                if not self._is_retired:
                    self._pool.add(self)
            self._pins += 1
            return file

    def unpin(self) -> None:
        """One reader less; the last one closes a file that was given up meanwhile."""
        with self._lock:
            self._pins -= 1
            if self._is_retired and not self._pins:
                self._close_files()

    def writer(self) -> File:
        """The file, open for appending."""
        with self._lock:
            if self._writer is None:
                self._writer = self._filesystem.open(self.path, "write", Point.SEGMENT_OPEN)
                if self._reader is not None and not self._pins:
                    self._reader.close()
                    self._reader = None
            return self._writer

    def create(self, point: Point) -> File:
        """Make the file; it must not exist."""
        self._writer = self._filesystem.open(self.path, "create", point)
        return self._writer

    def seal(self, size_bytes: int) -> None:
        """Take no more appends."""
        with self._lock:
            self.size_bytes = size_bytes
            self.is_sealed = True
            if self._writer is not None:
                self._pool.add(self)

    def unseal(self) -> None:
        """Take appends again, after what followed was truncated away."""
        with self._lock:
            self.is_sealed = False

    def retire(self) -> None:
        """Belong to no log any more: close as soon as nobody reads."""
        with self._lock:
            self._is_retired = True
            self._pool.discard(self)
            if not self._pins:
                self._close_files()

    def close_if_idle(self) -> bool:
        """Give the descriptors up that nobody needs now; False where a reader has the file pinned."""
        # Called while another segment is being opened: must not wait for a thread that does the same.
        if not self._lock.acquire(blocking=False):
            return False
        try:
            if self._pins:
                return False
            if self.is_sealed:
                self._close_files()
            elif self._reader is not None:
                self._reader.close()
                self._reader = None
            return True
        finally:
            self._lock.release()

    def _close_files(self) -> None:
        for file in (self._reader, self._writer):
            if file is not None:
                file.close()
        self._reader = self._writer = None


@attrs.define(eq=False)
class OpenSegments:
    """Bounds the descriptors that reading takes: beyond the limit the first opened is closed first."""

    limit: int
    _segments: dict[Segment, None] = attrs.Factory(dict)
    _lock: Lock = attrs.Factory(Lock)

    def add(self, segment: Segment) -> None:
        """Count a segment that has just been opened (by the caller, who holds its lock)."""
        with self._lock:
            self._segments[segment] = None
            for _ in range(len(self._segments) - self.limit):
                oldest = next(iter(self._segments))
                del self._segments[oldest]
                if not oldest.close_if_idle():
                    self._segments[oldest] = None

    def discard(self, segment: Segment) -> None:
        """Count a segment no more."""
        with self._lock:
            self._segments.pop(segment, None)


@attrs.define(eq=False)
class LogSlice:
    """Bytes of a log as they lie in a file, for ``sendfile`` or ``read``; release it when sent."""

    file: File
    position: int
    """Where in the file it begins."""
    size: int
    offset: int
    """Where in the log it begins."""
    _segment: Segment | None

    def read(self) -> bytes:
        """The bytes, copied."""
        return self.file.read(self.size, self.position)

    def release(self) -> None:
        """Let the file go; the second call does nothing."""
        segment, self._segment = self._segment, None
        if segment is not None:
            segment.unpin()
