"""Group commit: everything that waits for one partition is written and synced in one piece.

Two modes, by the topic's ``unflushThreshold``:

* 0 or less: a worker thread writes what has gathered and syncs it; then all of it is answered. While
  the disk works the next group gathers, so the slower the disk, the larger the group.
* N: the loop writes at once and answers; a worker thread syncs after more than N messages, or after
  ``unflushInterval``.

A partition is lent to one worker at a time (``Partition.is_busy``); only a plain sync lets appends of
the second mode go on meanwhile (``Partition.is_flushing``).
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import attrs

from metaserver.errors import DiskFullError, DivergedLogError, LogFailedError, StorageError
from metaserver.logs import get_logger

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from metaserver.broker.disk import DiskGuard
    from metaserver.broker.executor import Executor
    from metaserver.broker.partition import Partition, PendingAppend
    from metaserver.broker.timers import Timers
    from metaserver.message import Buffer
    from metaserver.storage import Clock, PartitionLog

_log = get_logger(__name__)


@attrs.define
class CommitStatistics:
    """What the disk was asked to do since the start."""

    flushes: int = 0
    flush_seconds: float = 0.0
    flush_seconds_max: float = 0.0
    messages: int = 0
    bytes: int = 0
    failures: int = 0


@attrs.define(eq=False)
class Committer:
    """Appends for all partitions of a broker."""

    _executor: Executor
    _timers: Timers
    _clock: Clock
    _disk: DiskGuard
    statistics: CommitStatistics = attrs.Factory(CommitStatistics)
    on_idle: Callable[[], None] | None = None
    """Called whenever a partition has nothing left to do (used by a graceful stop)."""
    _active: int = 0

    @property
    def is_idle(self) -> bool:
        """Whether no partition is lent out and none has something waiting."""
        return self._active == 0

    def append(self, partition: Partition, append: PendingAppend) -> None:
        """Append now or with the next group; the outcome is told to ``append``, perhaps at once."""
        if partition.log.failure is not None:
            self._refuse([append], partition.log.failure)
        elif self._disk.is_full:
            self._refuse([append], self._disk.error(partition.log.directory))
        elif partition.is_busy:
            partition.pending.append(append)
        elif partition.is_group_commit:
            partition.pending.append(append)
            self._start_commit(partition)
        else:
            self._write_now(partition, [append])

    def flush(self, partition: Partition) -> None:
        """Sync what is written, in the background (also called by the flush timer)."""
        if partition.is_busy or partition.is_flushing or partition.log.failure is not None:
            return
        if partition.log.flushed_offset >= partition.log.end_offset:
            return
        partition.is_flushing = True
        partition.unflushed_count = 0
        self._active += 1
        self._executor.submit(
            lambda: self._timed_flush(partition.log),
            lambda seconds, failure: self._flushed(partition, seconds, failure),
        )

    def run_exclusively(
        self,
        partition: Partition,
        job: Callable[[PartitionLog], object],
        done: Callable[[], None] | None = None,
    ) -> bool:
        """Lend the log to a worker for ``job`` while appends wait; False when it is lent already."""
        if partition.is_busy or partition.is_flushing:
            return False
        partition.is_busy = True
        self._active += 1

        def finished(_result: object, failure: Exception | None) -> None:
            if failure is not None:
                self._report(partition, failure)
            if done is not None:
                done()
            self._released(partition)

        self._executor.submit(lambda: job(partition.log), finished)
        return True

    # Mode one: write and sync in a worker, then answer.

    def _start_commit(self, partition: Partition) -> None:
        batch, partition.pending = partition.pending, []
        partition.is_busy = True
        self._active += 1
        self._executor.submit(
            lambda: self._commit(partition.log, batch),
            lambda outcome, failure: self._committed(partition, batch, outcome, failure),
        )

    def _commit(self, log: PartitionLog, batch: list[PendingAppend]) -> tuple[int, float]:
        """In a worker thread: one write, one sync."""
        records: Sequence[Buffer]
        if len(batch) == 1:
            records, size_bytes, count = batch[0].records, batch[0].size_bytes, batch[0].count
        else:
            records = [record for append in batch for record in append.records]
            size_bytes = sum(append.size_bytes for append in batch)
            count = sum(append.count for append in batch)
        _expect_end(log, batch[0])
        offset = log.append(records, size_bytes, count, batch[-1].last_id)
        try:
            seconds = self._timed_flush(log)
        except LogFailedError:
            # The puts are about to be answered with an error: leave nothing behind that a restart
            # would find. The failed sync itself is never repeated.
            log.discard_unflushed(offset)
            raise
        return offset, seconds

    def _committed(
        self,
        partition: Partition,
        batch: list[PendingAppend],
        outcome: tuple[int, float] | None,
        failure: Exception | None,
    ) -> None:
        partition.is_busy = False
        self._active -= 1
        if outcome is None:
            error = self._report(partition, failure)
            if isinstance(error, LogFailedError):
                batch = batch + partition.pending
                partition.pending = []
            self._refuse(batch, error)
            self._continue(partition)
            return
        offset, seconds = outcome
        self._count_flush(seconds)
        # The next group starts before this one is answered: the disk works while replies are made.
        self._continue(partition)
        self._succeed(batch, offset)
        partition.publish(offset + sum(append.size_bytes for append in batch))
        _flush_replies(batch)

    # Mode two: write at once, answer, sync later.

    def _write_now(self, partition: Partition, batch: list[PendingAppend]) -> None:
        log = partition.log
        for index, append in enumerate(batch):
            try:
                _expect_end(log, append)
                offset = log.append(append.records, append.size_bytes, append.count, append.last_id)
            except StorageError as error:
                self._refuse(batch[index:], self._report(partition, error))
                break
            partition.unflushed_count += append.count
            self._succeed([append], offset)
        partition.publish(log.end_offset)
        _flush_replies(batch)
        if log.failure is not None:
            return
        if log.needs_roll or log.checkpoint_due:
            self._continue(partition)
        elif partition.unflushed_count > partition.config.unflush_threshold:
            self.flush(partition)
        elif partition.flush_timer is None:
            interval_seconds = max(0.001, partition.config.unflush_interval_ms / 1000)
            partition.flush_timer = self._timers.schedule(
                interval_seconds, lambda: self._interval_over(partition)
            )

    def _interval_over(self, partition: Partition) -> None:
        partition.flush_timer = None
        self.flush(partition)

    def _flushed(self, partition: Partition, seconds: float | None, failure: Exception | None) -> None:
        partition.is_flushing = False
        self._active -= 1
        if failure is not None:
            self._report(partition, failure)
        elif seconds is not None:
            self._count_flush(seconds)
        self._continue(partition)

    # Both modes.

    def _continue(self, partition: Partition) -> None:
        """Go on with what is due: a new segment or checkpoint first, then what has gathered."""
        log = partition.log
        if partition.is_busy or partition.is_flushing:
            return
        if log.failure is None and (log.needs_roll or log.checkpoint_due):
            self.run_exclusively(partition, _maintain)
        else:
            self._drain(partition)
        if self._active == 0 and self.on_idle is not None:
            self.on_idle()

    def _released(self, partition: Partition) -> None:
        partition.is_busy = False
        self._active -= 1
        self._drain(partition)
        if self._active == 0 and self.on_idle is not None:
            self.on_idle()

    def _drain(self, partition: Partition) -> None:
        if not partition.pending:
            return
        if partition.log.failure is not None:
            batch, partition.pending = partition.pending, []
            self._refuse(batch, partition.log.failure)
        elif partition.is_group_commit:
            self._start_commit(partition)
        else:
            batch, partition.pending = partition.pending, []
            self._write_now(partition, batch)

    def _timed_flush(self, log: PartitionLog) -> float:
        started = self._clock.monotonic_seconds()
        log.flush()
        return self._clock.monotonic_seconds() - started

    def _count_flush(self, seconds: float) -> None:
        self.statistics.flushes += 1
        self.statistics.flush_seconds += seconds
        self.statistics.flush_seconds_max = max(self.statistics.flush_seconds_max, seconds)

    def _succeed(self, batch: list[PendingAppend], offset: int) -> None:
        for append in batch:
            self.statistics.messages += append.count
            self.statistics.bytes += append.size_bytes
            append.succeed(offset)
            offset += append.size_bytes

    def _refuse(self, batch: list[PendingAppend], error: StorageError) -> None:
        for append in batch:
            append.fail(error)
        _flush_replies(batch)

    def _report(self, partition: Partition, failure: Exception | None) -> StorageError:
        """Log a failure and make it one of storage; anything unexpected closes the partition for puts."""
        self.statistics.failures += 1
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
