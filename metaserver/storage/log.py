"""One partition: segments in order, together one run of bytes whose positions are the offsets.

Threads. One owner at a time calls what changes the log (``append``, ``roll``, ``truncate``,
``discard_unflushed``, ``write_checkpoint``, ``close``). ``flush`` may run in a worker thread while the
owner appends; ``delete_expired`` too, for it only takes segments from the front. Reads and properties
may be used by any thread at any time: they look at one immutable tuple, which changes replace.

Failure. A write that finds no room is undone and may be repeated. Any other failed write, and any
failed sync, closes the log for appends until the broker restarts: after a failed sync the kernel may
drop the pages and report success the next time, so it is never tried again. Reads go on.
"""

from __future__ import annotations

from contextlib import suppress
from math import inf
from threading import Lock
from typing import TYPE_CHECKING, NoReturn

import attrs

from metaserver.errors import LogFailedError, OffsetInHoleError, OffsetOutOfRangeError, StorageError
from metaserver.names import MAX_OFFSET
from metaserver.storage.beginning import ROLL, SKIP, LostDirectoryError, begin_segment
from metaserver.storage.checkpoint import Checkpoint, fingerprint, save_checkpoint, withdraw_checkpoint
from metaserver.storage.counting import count_records
from metaserver.storage.filenames import segment_name
from metaserver.storage.filesystem import Point, is_no_room, reason_of, translate_error
from metaserver.storage.gaps import save_gap
from metaserver.storage.layout import Layout, merge_ranges, subtract_range
from metaserver.storage.recovery import FoundSegment, RecoveredLog
from metaserver.storage.retention import ExpiryPolicy, expire_segments
from metaserver.storage.segment import LogSlice, OffsetRange, OpenSegments, Segment
from metaserver.storage.statistics import LogStatistics

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from metaserver.message import Buffer
    from metaserver.storage.beginning import BeginSteps
    from metaserver.storage.filesystem import File, FileSystem
    from metaserver.storage.options import StoreOptions
    from metaserver.storage.retention import RetentionAction


@attrs.frozen
class PendingFlush:
    """A sync that is due or under way."""

    file: File
    end_offset: int
    """Where the log ended when it began: so much is durable when it has succeeded."""
    record_count: int


class PartitionLog:
    """One partition on disk. Made by the store, from what recovery or creation returned."""

    __slots__ = (
        "_checkpoint_due_offset",
        "_checkpoint_offset",
        "_directory",
        "_end_offset",
        "_failure",
        "_filesystem",
        "_flush_lock",
        "_flushed_count",
        "_flushed_offset",
        "_has_undone",
        "_is_checkpoint_clean",
        "_last_message_id",
        "_layout",
        "_layout_lock",
        "_options",
        "_pool",
        "_record_count",
        "_roll_offset",
        "_writer",
        "_writer_start",
    )

    def __init__(
        self, filesystem: FileSystem, options: StoreOptions, pool: OpenSegments, recovered: RecoveredLog
    ) -> None:
        self._filesystem = filesystem
        self._options = options
        self._pool = pool
        self._directory = recovered.directory
        self._layout = Layout(
            tuple(self._segment(found) for found in recovered.segments), recovered.unreadable
        )
        self._layout_lock = Lock()
        self._flush_lock = Lock()
        self._writer: File | None = None
        self._writer_start = recovered.segments[-1].start_offset
        self._end_offset = recovered.end_offset
        self._flushed_offset = recovered.end_offset
        self._flushed_count = self._record_count = recovered.record_count
        self._last_message_id = recovered.last_message_id
        self._failure = recovered.failure
        self._has_undone = False
        """Whether a failed write was cut back since the last sync."""
        self._checkpoint_offset = recovered.checkpoint_offset
        self._checkpoint_due_offset = recovered.checkpoint_offset + options.checkpoint_bytes
        self._is_checkpoint_clean = recovered.is_checkpoint_clean
        self._layout.segments[-1].unseal()
        self._roll_offset = 0
        self._plan_roll()

    @classmethod
    def create(
        cls,
        filesystem: FileSystem,
        options: StoreOptions,
        pool: OpenSegments,
        directory: Path,
        start_offset: int,
    ) -> PartitionLog:
        """A new log in an existing directory without segments. Raises OSError."""
        path = directory / segment_name(start_offset)
        filesystem.open(path, "create", Point.ROLL_CREATE).close()
        try:
            filesystem.sync_directory(directory, Point.ROLL_SYNC_DIRECTORY)
        except OSError:
            filesystem.remove(path, Point.ROLL_UNDO)
            raise
        return cls(filesystem, options, pool, RecoveredLog.empty(directory, start_offset))

    @property
    def directory(self) -> Path:
        """Where the segments are."""
        return self._directory

    @property
    def start_offset(self) -> int:
        """The offset of the first byte held."""
        return self._layout.starts[0]

    @property
    def end_offset(self) -> int:
        """The offset behind the last byte written; the next append goes there."""
        return self._end_offset

    @property
    def flushed_offset(self) -> int:
        """The offset behind the last byte known to be on disk."""
        return self._flushed_offset

    @property
    def record_count(self) -> int:
        """Records counted so far: found by recovery, remembered by the checkpoint, and appended.

        Sealed segments nobody has counted (written by another broker) are not in it; retention does
        not lower it.
        """
        return self._record_count

    @property
    def last_message_id(self) -> int | None:
        """The id of the last record, as far as known."""
        return self._last_message_id

    @property
    def failure(self) -> LogFailedError | None:
        """Why the log takes no more appends; None while it does."""
        return self._failure

    @property
    def needs_roll(self) -> bool:
        """Whether the last segment is full, or damaged (another broker would cut it there)."""
        return self._end_offset >= self._roll_offset

    @property
    def last_segment_start(self) -> int:
        """Where the segment begins that takes the appends."""
        return self._layout.starts[-1]

    @property
    def segment_starts(self) -> tuple[int, ...]:
        """Where each segment begins, at least one."""
        return self._layout.starts

    @property
    def layout(self) -> Layout:
        """Its segments, and where it cannot be read, at this moment."""
        return self._layout

    @property
    def unreadable(self) -> tuple[OffsetRange, ...]:
        """The damaged and missing ranges, in order."""
        return tuple(gap for gap in self._layout.unreadable if gap.end > self.start_offset)

    @property
    def checkpoint_due(self) -> bool:
        """Whether a crash now would cost more verifying than the options allow; also after a roll."""
        return self._flushed_offset >= self._checkpoint_due_offset

    def append(self, buffers: Sequence[Buffer], size_bytes: int, count: int, last_id: int) -> int:
        """Write whole records at the end; returns the offset of the first.

        ``size_bytes`` is the size of all buffers, ``count`` the number of records in them, ``last_id``
        the last one's id. Raises DiskFullError, with nothing written, LogFailedError, UnclearWriteError.
        """
        start = self._end_offset
        if self._failure is not None:
            self._raise_failure()
        try:
            (self._writer or self._open_writer()).write(
                buffers, start - self._writer_start, Point.APPEND_WRITE
            )
        except OSError as error:
            self._undo_write(error)
        self._record_count += count
        self._last_message_id = last_id
        self._end_offset = start + size_bytes
        return start

    def flush(self) -> None:
        """Make durable what is written when the call begins. Raises LogFailedError.

        The first failure is final: no later call tries again.
        """
        with self._flush_lock:
            self._flush()

    def begin_flush(self) -> PendingFlush | None:
        """What somebody else is to sync, for who cannot wait; None where everything is durable.

        Until :meth:`finish_flush` has been told the outcome the owner may append, and nothing else.
        Raises LogFailedError.
        """
        if self._failure is not None:
            self._raise_failure()
        # The count first: it may be one append short of the end, never ahead of it.
        count, end, writer = self._record_count, self._end_offset, self._writer
        if writer is None or (end == self._flushed_offset and not self._has_undone):
            return None
        self._has_undone = False
        return PendingFlush(writer, end, count)

    def finish_flush(self, pending: PendingFlush, error: OSError | None) -> None:
        """Take the outcome of a sync. Raises LogFailedError where it failed; it must not be repeated."""
        if error is not None:
            self.fail(reason_of(error))
            self._raise_failure(error)
        self._flushed_offset = pending.end_offset
        self._flushed_count = pending.record_count

    def discard_unflushed(self, to_offset: int) -> None:
        """Cut back to an offset not before ``flushed_offset``, after a flush has failed.

        What was to be answered with an error shall not be found by a restart. The disk may refuse.
        """
        with self._flush_lock:
            if not self._flushed_offset <= to_offset <= self._end_offset:
                raise OffsetOutOfRangeError(to_offset, self._flushed_offset, self._end_offset)
            self._end_offset = to_offset
            self._has_undone = True
            if self._writer is not None:
                try:
                    self._writer.truncate(to_offset - self._writer_start, Point.DISCARD_TRUNCATE)
                except OSError as error:
                    self.fail(reason_of(error))

    def fail(self, reason: str) -> LogFailedError:
        """Close the log for appends; returns its failure, which is the first one reported."""
        if self._failure is None:
            self._failure = LogFailedError(self._directory, reason)
        return self._failure

    def end_segment(self) -> None:
        """Make a roll due, whatever the size of the last segment; nothing where that is empty."""
        if self._end_offset > self._layout.starts[-1]:
            self._roll_offset = self._end_offset

    def roll(self) -> None:
        """Seal the last segment and begin the next one at the end offset.

        Raises LogFailedError; DiskFullError or StorageError where the new file cannot be made (the log
        then goes on in the segment it has).
        """
        with self._flush_lock:
            self._flush()
            end = self._end_offset
            sealed = self._layout.segments[-1]
            if end == sealed.start_offset:
                return
            segment = self._begin_segment(end, ROLL)
            with self._layout_lock:
                self._layout = self._layout.with_segments((*self._layout.segments, segment))
            self._take_over(segment)
            sealed.seal(end - sealed.start_offset)

    def skip_to(self, offset: int) -> None:
        """Go on at an offset behind the end: what lies between is missing, and will be, knowingly.

        What the log holds stays readable; a last segment that is empty goes. After a crash the log ends where
        it did, or at the offset. Raises OffsetOutOfRangeError where the offset is not behind the end;
        LogFailedError; DiskFullError or StorageError, and nothing has changed.
        """
        with self._flush_lock:
            self._flush()
            end, sealed = self._end_offset, self._layout.segments[-1]
            if not end < offset <= MAX_OFFSET:
                raise OffsetOutOfRangeError(offset, end + 1, MAX_OFFSET)
            gap = OffsetRange(end, offset)
            try:
                save_gap(self._filesystem, self._directory, gap, self.start_offset)
            except OSError as error:
                self._raise_storage_error("the gap cannot be written down", error)
            segment = self._begin_segment(offset, SKIP)
            sealed.seal(end - sealed.start_offset)
            is_empty = end == sealed.start_offset
            # The gap before the end: nobody may take it for readable bytes.
            with self._layout_lock:
                kept = self._layout.segments[:-1] if is_empty else self._layout.segments
                unreadable = merge_ranges((*self._layout.unreadable, gap))
                self._layout = Layout((*kept, segment), tuple(unreadable))
            self._end_offset = self._flushed_offset = offset
            self._take_over(segment)
            if is_empty:
                self._drop_empty(sealed)

    def read(self, offset: int, size_max: int, end_offset: int) -> LogSlice:
        """The bytes from an offset on: of one segment, at most ``size_max``, none behind ``end_offset``.

        ``end_offset`` is what the caller lets readers see. The slice has at least one byte; it may end
        inside a record. Raises OffsetOutOfRangeError for an offset before the start, or not before the
        end; OffsetInHoleError where the log is damaged or a piece is missing; StorageError where the
        disk does not answer.
        """
        end = min(end_offset, self._end_offset)
        segment, stop = self._layout.find(offset, end)
        try:
            file = segment.pin()
        except OSError as error:
            if isinstance(error, FileNotFoundError) and offset < self.start_offset:
                # Retention removed it between our look at the layout and the opening.
                raise OffsetOutOfRangeError(offset, self.start_offset, end) from None
            raise StorageError(f"{segment.path} cannot be read: {reason_of(error)}") from error
        return LogSlice(file, offset - segment.start_offset, min(size_max, stop - offset), offset, segment)

    def segment_start(self, offset: int) -> int:
        """The start of the segment that holds an offset; the log's start below it, its end behind it.

        Where no file holds the offset: the start of the segment behind the hole.
        """
        layout, end = self._layout, self._end_offset
        return end if offset >= end else layout.segment_start(offset)

    def set_unreadable(self, damaged: OffsetRange) -> None:
        """Send readers on from a range that holds no valid record. Raises as :meth:`write_checkpoint`."""
        self._set_unreadable([*self._layout.unreadable, damaged])

    def set_readable(self, repaired: OffsetRange) -> None:
        """A range that was damaged holds valid records now. Raises as :meth:`write_checkpoint`."""
        self._set_unreadable(subtract_range(self._layout.unreadable, repaired))

    def truncate(self, offset: int) -> None:
        """Forget everything from an offset on (a record's start), durably.

        Raises OffsetOutOfRangeError; OffsetInHoleError where no file holds the offset; LogFailedError.
        """
        with self._flush_lock:
            layout = self._layout
            if not layout.starts[0] <= offset <= self._end_offset:
                raise OffsetOutOfRangeError(offset, layout.starts[0], self._end_offset)
            if self._failure is not None:
                self._raise_failure()
            if offset == self._end_offset:
                return
            index = layout.index_of(offset)
            before = layout.segments[max(0, index - 1)]
            if offset == layout.starts[index] == before.start_offset + before.size_bytes:
                # An empty one would stay, and end the one before where another replica does not.
                index = max(0, index - 1)
            segment, removed = layout.segments[index], layout.segments[index + 1 :]
            if removed and offset > segment.start_offset + segment.size_bytes:
                raise OffsetInHoleError(offset, layout.starts[0], self._end_offset, layout.starts[index + 1])
            try:
                self._truncate(segment, removed, offset)
            except OSError as error:
                self.fail(reason_of(error))
                self._raise_failure(error)

    def delete_expired(
        self,
        action: RetentionAction,
        age_seconds: float,
        compress: bool,  # noqa: FBT001 - the order of the configuration's policy
        now_wall_seconds: float,
        before_offset: int = MAX_OFFSET,
    ) -> list[str]:
        """Delete or archive the oldest segments last written longer ago than the age; their names.

        Goes from the front and stops at the first that is young enough, or does not end before the offset;
        the last segment always stays.
        Raises DiskFullError, StorageError; what was done before stays done.
        """
        policy = ExpiryPolicy(action, age_seconds, compress, now_wall_seconds, before_offset)
        try:
            return expire_segments(self._filesystem, self._layout, policy, self._hide_first, self._show_first)
        except OSError as error:
            self._raise_storage_error("old segments cannot be removed", error)

    def delete_before(self, offset: int) -> list[str]:
        """Delete the segments that end at an offset or before, of any age; see :meth:`delete_expired`."""
        return self.delete_expired("delete", 0.0, False, inf, offset)

    def write_checkpoint(self, *, clean: bool) -> None:
        """Remember durably that everything up to ``flushed_offset`` is good.

        ``clean`` is for a log that is about to be closed. Raises DiskFullError, StorageError: the log
        is none the worse, only its next recovery takes longer. Of a failed log nothing is remembered.
        """
        if self._failure is not None:
            return
        end = self._flushed_offset
        # First of all: a disk that refuses is asked again after as many bytes, not with each append.
        self._checkpoint_due_offset = end + self._options.checkpoint_bytes
        if end == self._checkpoint_offset and clean == self._is_checkpoint_clean:
            return
        segment = self._layout.segments[-1]
        try:
            file = segment.pin()
            try:
                mark = fingerprint(file, end - segment.start_offset)
            finally:
                segment.unpin()
            checkpoint = Checkpoint(
                segment_start=segment.start_offset,
                end_offset=end,
                is_clean=clean,
                record_count=self._flushed_count,
                last_message_id=self._last_message_id,
                fingerprint=mark,
                unreadable=self.unreadable,
            )
            save_checkpoint(self._filesystem, self._directory, checkpoint)
        except OSError as error:
            self._raise_storage_error("the recovery checkpoint cannot be written", error)
        self._checkpoint_offset, self._is_checkpoint_clean = end, clean

    def statistics(self) -> LogStatistics:
        """The partition in figures."""
        layout, end = self._layout, self._end_offset
        sealed_bytes = sum(segment.size_bytes for segment in layout.segments[:-1])
        return LogStatistics(
            start_offset=layout.starts[0],
            end_offset=end,
            flushed_offset=self._flushed_offset,
            segment_count=len(layout.segments),
            size_bytes=sealed_bytes + end - layout.starts[-1],
            record_count=self._record_count,
            damaged_ranges=self.unreadable,
        )

    def close(self) -> None:
        """Flush, write a clean checkpoint, close the files (those being read: when they are released).

        Raises StorageError where flush or checkpoint fail; the files are closed all the same.
        """
        try:
            if self._failure is None:
                self.flush()
                self.write_checkpoint(clean=True)
        finally:
            with self._flush_lock:
                self._writer = None
                self.fail("it is closed")
                for segment in self._layout.segments:
                    segment.retire()

    def _segment(self, found: FoundSegment) -> Segment:
        path = self._directory / segment_name(found.start_offset)
        return Segment(path, found.start_offset, self._filesystem, self._pool, found.size_bytes)

    def _open_writer(self) -> File:
        """Open the last segment for appending. Nothing is lost where that fails: it may be tried again."""
        try:
            self._writer = self._layout.segments[-1].writer()
        except OSError as error:
            self._raise_storage_error("the last segment cannot be opened for writing", error)
        return self._writer

    def _hide_first(self) -> None:
        with self._layout_lock:
            self._layout = self._layout.with_segments(self._layout.segments[1:])

    def _show_first(self, segment: Segment) -> None:
        with self._layout_lock:
            self._layout = self._layout.with_segments((segment, *self._layout.segments))

    def _set_unreadable(self, ranges: list[OffsetRange]) -> None:
        with self._layout_lock:
            self._layout = self._layout.with_unreadable(ranges)
        self._plan_roll()
        # Not the same as the one on disk, wherever that ends.
        self._checkpoint_offset = -1
        self.write_checkpoint(clean=False)

    def _begin_segment(self, offset: int, steps: BeginSteps) -> Segment:
        """Make the file of the next segment, durably. Raises as :meth:`roll` does."""
        segment = self._segment(FoundSegment(offset, 0))
        try:
            begin_segment(self._filesystem, segment, steps)
        except LostDirectoryError as error:
            self.fail(reason_of(error.cause))
            self._raise_failure(error.cause)
        except OSError as error:
            self._raise_storage_error("the next segment cannot be created", error)
        return segment

    def _take_over(self, segment: Segment) -> None:
        """Append to this segment from now on."""
        self._writer, self._writer_start = segment.writer(), segment.start_offset
        # So that a crash finds in one segment what it has to count.
        self._checkpoint_due_offset = segment.start_offset
        self._plan_roll()

    def _drop_empty(self, segment: Segment) -> None:
        """Remove a segment without a byte. It does no harm where the disk refuses."""
        segment.retire()
        try:
            self._filesystem.remove(segment.path, Point.SKIP_REMOVE)
            self._filesystem.sync_directory(self._directory, Point.SKIP_SYNC_DIRECTORY)
        except OSError:
            return

    def _plan_roll(self) -> None:
        """Work out at which end offset the last segment is to be sealed."""
        start = self._writer_start
        is_damaged = any(gap.end > start for gap in self._layout.unreadable)
        self._roll_offset = start + (1 if is_damaged else self._options.segment_bytes_max)

    def _flush(self) -> None:
        pending = self.begin_flush()
        if pending is None:
            return
        try:
            pending.file.sync(Point.APPEND_SYNC)
        except OSError as error:
            self.finish_flush(pending, error)
        else:
            self.finish_flush(pending, None)

    def _undo_write(self, error: OSError) -> NoReturn:
        """Cut back what a failed write may have left; durably, before "no room" says that it is gone."""
        assert self._writer is not None  # noqa: S101 - it has just failed
        self._has_undone = True
        with suppress(OSError):
            self._writer.truncate(self._end_offset - self._writer_start, Point.APPEND_UNDO)
            if is_no_room(error):
                self._writer.sync(Point.APPEND_UNDO_SYNC)
                self._raise_storage_error("no room", error)
        raise self.fail(reason_of(error)).unclear() from error

    def _truncate(self, segment: Segment, removed: tuple[Segment, ...], offset: int) -> None:
        """Truncate in an order that a crash may interrupt anywhere. Raises OSError."""
        position = offset - segment.start_offset
        self._writer = None
        if self._checkpoint_offset > offset:
            withdraw_checkpoint(self._filesystem, self._directory)
            self._checkpoint_offset = -1
            self._checkpoint_due_offset = -1 + self._options.checkpoint_bytes
            self._is_checkpoint_clean = False
        last = removed[-1] if removed else segment
        last.size_bytes = self._end_offset - last.start_offset
        lost_count = count_records(segment, position, removed)
        # First out of sight of readers.
        self._end_offset = offset
        self._flushed_offset = min(self._flushed_offset, offset)
        with self._layout_lock:
            segments = self._layout.segments
            self._layout = Layout(segments[: len(segments) - len(removed)], self._layout.until(offset))
        self._record_count = self._flushed_count = max(0, self._record_count - lost_count)
        # Then from the back, so that what a crash leaves is still one run.
        for gone in reversed(removed):
            gone.retire()
            self._filesystem.remove(gone.path, Point.TRUNCATE_REMOVE)
        if removed:
            self._filesystem.sync_directory(self._directory, Point.TRUNCATE_SYNC_DIRECTORY)
        segment.unseal()
        self._writer_start = segment.start_offset
        self._writer = segment.writer()
        self._writer.truncate(position, Point.TRUNCATE_CUT)
        self._writer.sync(Point.TRUNCATE_SYNC)
        self._flushed_offset = offset
        self._plan_roll()

    def _raise_failure(self, cause: OSError | None = None) -> NoReturn:
        failure = self._failure
        assert failure is not None  # noqa: S101 - every caller has set or seen it
        raise LogFailedError(failure.path, failure.reason) from cause

    def _raise_storage_error(self, what: str, error: OSError) -> NoReturn:
        raise translate_error(self._filesystem, self._directory, what, error) from error
