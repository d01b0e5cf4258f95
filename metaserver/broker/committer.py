"""Group commit: everything that waits for one partition is written and synced in one piece.

Two modes, by the topic's ``ackLevel``:

* ``disk`` and above: what has gathered is written and synced; then all of it is answered. While the disk
  works the next group gathers, so the slower the disk, the larger the group.
* ``memory``: what comes is written at once and answered; it is synced after more than ``unflushThreshold``
  messages, or after ``unflushInterval``.

Slaves are no matter of the committer: what waits for them waits after it was told that it succeeded here.

A partition does one thing at a time (``Partition.is_busy``); only a sync of the second mode lets appends
go on meanwhile (``Partition.is_flushing``).
"""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING

import attrs
import trio

from metaserver.broker.executor import wait_done
from metaserver.errors import DiskFullError, DivergedLogError, LogFailedError, StorageError
from metaserver.logs import get_logger

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from typing import Any

    from metaserver.broker.disk import DiskGuard
    from metaserver.broker.executor import Executor
    from metaserver.broker.partition import Partition, PendingAppend
    from metaserver.broker.syncer import Syncer
    from metaserver.message import Buffer
    from metaserver.storage import Clock, PartitionLog, PendingFlush
    from metaserver.timers import Timers

_log = get_logger(__name__)


_WRITE_NOW_BYTES_MAX = 64 * 1024
"""A group up to this size is written by the loop: the page cache takes it faster than a thread wakes up."""
_MAINTENANCE_RETRY_BYTES = 1024 * 1024
"""A segment or checkpoint that could not be written is tried again after so much more data."""


@attrs.define
class CommitStatistics:
    """What the disk was asked to do since the start."""

    flushes: int = 0
    flush_seconds: float = 0.0


@attrs.define(eq=False)
class Committer:
    """Appends for all partitions of a broker."""

    _executor: Executor
    _syncer: Syncer
    _timers: Timers
    _clock: Clock
    _disk: DiskGuard
    statistics: CommitStatistics = attrs.Factory(CommitStatistics)
    _active: int = 0
    """Partitions lent to workers."""
    _idle: trio.Event = attrs.Factory(trio.Event)

    def append(self, partition: Partition, append: PendingAppend) -> None:
        """Append now or with the next group; the outcome is told to ``append``, perhaps at once."""
        if partition.log.failure is not None:
            self._refuse([append], partition.log.failure)
        elif not self._disk.takes_puts:
            self._refuse([append], self._disk.error(partition.log.directory))
        elif append.begins_segment:
            # The roll that is due now comes first, and perhaps the sync before it.
            partition.log.end_segment()
            partition.pending.append(append)
            self._continue(partition)
        elif partition.is_busy or partition.pending:
            partition.pending.append(append)
        elif partition.is_group_commit:
            # Through `_continue`: a sync of the other mode, from before a reload, may be under way.
            partition.pending.append(append)
            self._continue(partition)
        else:
            self._write_now(partition, [append])

    def flush(self, partition: Partition) -> None:
        """Sync what is written, in the background (also called by the flush timer)."""
        if partition.is_busy or partition.is_flushing or partition.log.failure is not None:
            return
        pending = partition.log.begin_flush()
        if pending is None:
            return
        partition.is_flushing = True
        partition.unflushed_count = 0
        self._active += 1
        self._sync(partition, pending, lambda error: self._flushed(partition, error))

    def lend(
        self,
        partition: Partition,
        job: Callable[[], Any],
        done: Callable[[Any, Exception | None], None],
    ) -> None:
        """Run ``job`` in a worker that owns the log alone, as soon as nothing else is under way there.

        ``done(result, None)`` or ``done(None, exception)`` follows on the loop.
        """
        partition.jobs.append((job, done))
        self._continue(partition)

    async def borrow(self, partition: Partition, job: Callable[[], Any]) -> Any:  # noqa: ANN401
        """As :meth:`lend`, and wait; see :func:`~metaserver.broker.executor.wait_done`."""
        return await wait_done(partial(self.lend, partition, job))

    async def wait_until_idle(self) -> None:
        """Return when everything handed to the disk has come back."""
        while self._active:
            self._idle = trio.Event()
            await self._idle.wait()

    # Mode one: write, sync, then answer.

    def _start_commit(self, partition: Partition) -> None:
        batch, partition.pending = partition.pending, []
        partition.is_busy = True
        self._active += 1
        if sum(append.size_bytes for append in batch) > _WRITE_NOW_BYTES_MAX:
            self._executor.submit(
                lambda: _append_all(partition.log, batch),
                lambda offset, failure: self._written(partition, batch, offset, failure),
            )
            return
        try:
            offset = _append_all(partition.log, batch)
        except StorageError as error:
            self._written(partition, batch, None, error)
        else:
            self._written(partition, batch, offset, None)

    def _written(
        self,
        partition: Partition,
        batch: list[PendingAppend],
        offset: int | None,
        failure: Exception | None,
    ) -> None:
        pending = None
        if offset is not None:
            try:
                pending = partition.log.begin_flush()
            except LogFailedError as error:
                failure = error
        if offset is None or pending is None:
            self._commit_failed(partition, batch, failure)
        else:
            partition.progressed()
            self._sync(
                partition,
                pending,
                lambda error: self._committed(partition, batch, offset, error),
            )

    def _committed(
        self, partition: Partition, batch: list[PendingAppend], offset: int, error: LogFailedError | None
    ) -> None:
        if error is not None:
            # The puts are about to be answered with an error: leave nothing behind that a restart
            # would find. The failed sync itself is never repeated.
            partition.log.discard_unflushed(offset)
            self._commit_failed(partition, batch, error.unclear())
            return
        partition.is_busy = False
        self._active -= 1
        # The next group starts before this one is answered: the disk works while replies are made. Its own
        # answers come later; at most a refusal overtakes this one's.
        self._continue(partition)
        self._succeed(batch, offset)
        partition.publish(offset + sum(append.size_bytes for append in batch))
        partition.progressed()
        _flush_replies(batch)

    def _commit_failed(
        self, partition: Partition, batch: list[PendingAppend], failure: Exception | None
    ) -> None:
        partition.is_busy = False
        self._active -= 1
        error = self._report(partition, failure)
        partition.progressed()
        self._refuse(batch, error)
        # What waits has not been near the disk; where the log has failed, it is refused as what comes later.
        self._continue(partition)

    # Mode two: write at once, answer, sync later.

    def _write_now(self, partition: Partition, batch: list[PendingAppend]) -> None:
        log = partition.log
        offsets: list[int] = []
        failure = None
        for append in batch:
            try:
                _expect_end(log, append)
                offsets.append(log.append(append.records, append.size_bytes, append.count, append.last_id))
            except StorageError as error:
                failure = self._report(partition, error)
                break
            partition.unflushed_count += append.count
        # Told when all are written: what somebody who is told appends at once comes behind them.
        partition.is_busy = True
        for append, offset in zip(batch, offsets, strict=False):
            append.succeed(offset)
        if failure is not None:
            self._refuse(batch[len(offsets) : len(offsets) + 1], failure)
            self._refuse(batch[len(offsets) + 1 :], log.failure or failure)
        partition.is_busy = False
        partition.publish(log.end_offset)
        partition.progressed()
        _flush_replies(batch)
        if partition.pending or partition.jobs or log.needs_roll or log.checkpoint_due:
            self._continue(partition)
        elif partition.is_flush_due:
            self.flush(partition)
        # Also behind those two: while one is under way the other is not begun.
        if log.failure is None:
            self._flush_in_time(partition)

    def _flush_in_time(self, partition: Partition) -> None:
        """What is written and not synced waits no longer than the interval, whatever comes between."""
        if partition.unflushed_count and partition.flush_timer is None:
            interval_seconds = max(0.001, partition.config.unflush_interval_ms / 1000)
            partition.flush_timer = self._timers.schedule(
                interval_seconds, lambda: self._interval_over(partition)
            )

    def _interval_over(self, partition: Partition) -> None:
        partition.flush_timer = None
        self.flush(partition)
        if partition.log.failure is None:
            self._flush_in_time(partition)

    def _flushed(self, partition: Partition, error: LogFailedError | None) -> None:
        partition.is_flushing = False
        self._active -= 1
        if error is not None:
            self._report(partition, error)
        partition.progressed()
        self._continue(partition)
        if partition.is_flush_due:
            # What came meanwhile was over the limit already, and found the sync under way.
            self.flush(partition)

    # Both modes.

    def _continue(self, partition: Partition) -> None:
        """Go on with what is due: first a new segment or checkpoint, then what has gathered."""
        log = partition.log
        if partition.is_busy or partition.is_flushing:
            return
        if partition.jobs:
            self._start_job(partition)
            return
        is_due = log.needs_roll or log.checkpoint_due
        if is_due and log.failure is None and log.end_offset >= partition.maintain_offset:
            self._start_maintenance(partition)
        else:
            self._drain(partition)
        if not self._active:
            self._idle.set()

    def _start_maintenance(self, partition: Partition) -> None:
        partition.is_busy = True
        self._active += 1

        def finished(_result: object, failure: Exception | None) -> None:
            partition.is_busy = False
            self._active -= 1
            if failure is not None:
                self._report(partition, failure)
                partition.maintain_offset = partition.log.end_offset + _MAINTENANCE_RETRY_BYTES
            self._continue(partition)

        self._executor.submit(lambda: _maintain(partition.log), finished)

    def _start_job(self, partition: Partition) -> None:
        job, done = partition.jobs.pop(0)
        partition.is_busy = True
        self._active += 1

        def finished(result: object, failure: Exception | None) -> None:
            partition.is_busy = False
            self._active -= 1
            done(result, failure)
            self._continue(partition)

        self._executor.submit(job, finished)

    def _drain(self, partition: Partition) -> None:
        if not partition.pending:
            return
        if partition.log.failure is not None:
            batch, partition.pending = partition.pending, []
            self._refuse(batch, partition.log.failure)
        elif partition.is_group_commit or any(append.waits_for_disk for append in partition.pending):
            self._start_commit(partition)
        else:
            batch, partition.pending = partition.pending, []
            self._write_now(partition, batch)

    def _sync(
        self,
        partition: Partition,
        pending: PendingFlush,
        done: Callable[[LogFailedError | None], None],
    ) -> None:
        started = self._clock.monotonic_seconds()

        def synced(error: OSError | None) -> None:
            seconds = self._clock.monotonic_seconds() - started
            self.statistics.flushes += 1
            self.statistics.flush_seconds += seconds
            try:
                partition.log.finish_flush(pending, error)
            except LogFailedError as failure:
                done(failure)
            else:
                done(None)

        self._syncer.sync(pending.file, synced)

    def _succeed(self, batch: list[PendingAppend], offset: int) -> None:
        for append in batch:
            append.succeed(offset)
            offset += append.size_bytes

    def _refuse(self, batch: list[PendingAppend], error: StorageError) -> None:
        for append in batch:
            append.fail(error)
        _flush_replies(batch)

    def _report(self, partition: Partition, failure: Exception | None) -> StorageError:
        """Log a failure and make it one of storage; anything unexpected closes the partition for puts."""
        if isinstance(failure, DiskFullError):
            self._disk.report_full(failure)
            return failure
        if isinstance(failure, StorageError):
            _log.error(
                "Append message failed,*critical error*", partition=str(partition.name), reason=str(failure)
            )
            return failure
        _log.error("Append message failed,*critical error*", partition=str(partition.name), exc_info=failure)
        return partition.log.fail(f"unexpected {failure!r}")


def _append_all(log: PartitionLog, batch: list[PendingAppend]) -> int:
    """One write for a whole group; a large one runs in a worker thread. Raises StorageError."""
    records: Sequence[Buffer] = batch[0].records
    size_bytes, count = batch[0].size_bytes, batch[0].count
    if len(batch) > 1:
        records = [record for append in batch for record in append.records]
        size_bytes = sum(append.size_bytes for append in batch)
        count = sum(append.count for append in batch)
    _expect_end(log, batch[0])
    return log.append(records, size_bytes, count, batch[-1].last_id)


def _expect_end(log: PartitionLog, append: PendingAppend) -> None:
    """A replica's records go to the offset they have at the master, or nowhere."""
    if append.offset is not None and append.offset != log.end_offset:
        raise DivergedLogError(log.directory, log.end_offset, append.offset)


def _maintain(log: PartitionLog) -> None:
    """In a worker thread, after the answers have left: what must not delay them."""
    if log.needs_roll:
        log.roll()
    if log.checkpoint_due:
        log.write_checkpoint(clean=False)


def _flush_replies(batch: list[PendingAppend]) -> None:
    for flush in dict.fromkeys(append.flush_replies for append in batch):
        flush()
