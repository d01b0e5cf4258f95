"""Where the registry's transactions are kept: a log like any other, in the broker's own store.

The records are ordinary messages, so replication, recovery and the tools treat the log like every
topic's. A snapshot begins a segment of its own, and the segments before the snapshot before it are removed:
what a start has to read is one snapshot and what was appended since, and a slave that is no further behind
than that finds all it lacks.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Protocol

from metaserver.errors import LogFailedError, StorageError
from metaserver.logs import get_logger
from metaserver.message import checksum, encode_records, iterate_records, message_id_block
from metaserver.registry.embedded.records import SNAPSHOT_END, TRANSACTION
from metaserver.storage import read_runs

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

    from metaserver.message import MessageIdSource
    from metaserver.storage import File, PartitionLog

_log = get_logger(__name__)


class Executor(Protocol):
    """Runs a job in another thread and reports back on the loop."""

    def submit(self, job: Callable[[], Any], done: Callable[[Any, Exception | None], None]) -> None:
        """Run ``job``; then, on the loop, ``done(result, None)`` or ``done(None, exception)``."""
        ...


class Syncer(Protocol):
    """Makes a file durable without stopping the loop."""

    def sync(self, file: File, done: Callable[[OSError | None], None]) -> None:
        """Sync; then, on the loop and perhaps before this returns, ``done(None)`` or ``done(error)``."""
        ...


class Journal(Protocol):
    """What the registry needs of a log. One append or compaction is under way at a time."""

    @property
    def uncompacted_bytes(self) -> int:
        """What a start would have to read behind the last snapshot."""
        ...

    def replay(self) -> Iterator[bytes]:
        """All records from the newest whole snapshot on, or from the log's start. Raises StorageError."""
        ...

    def append(self, records: Sequence[bytes], done: Callable[[StorageError | None], None]) -> None:
        """Append all of them or none; ``done(None)`` when they are durable, perhaps before this returns.

        After a DiskFullError nothing is left behind, and the call may be repeated; any other error is
        final.
        """
        ...

    def compact(self, records: Sequence[bytes], done: Callable[[StorageError | None], None]) -> None:
        """Append a snapshot and drop what is before the last; without room everything stays as it is."""
        ...


class LogJournal:
    """A journal in one partition that nobody else appends to."""

    def __init__(
        self,
        log: PartitionLog,
        message_ids: MessageIdSource,
        executor: Executor,
        syncer: Syncer,
        on_durable: Callable[[int], None],
    ) -> None:
        """``on_durable`` is called with the offset up to which the log may be read by others."""
        self._log = log
        self._message_ids = message_ids
        self._executor = executor
        self._syncer = syncer
        self._on_durable = on_durable
        self._snapshot_offset = log.start_offset
        """Where the newest whole snapshot begins, or the log."""

    @property
    def uncompacted_bytes(self) -> int:
        """See :class:`Journal`."""
        return self._log.end_offset - self._snapshot_offset

    def replay(self) -> Iterator[bytes]:
        """See :class:`Journal`; a damaged log raises, for what it lacks may matter to what follows."""
        self._snapshot_offset = self._newest_snapshot()
        return self._records(self._snapshot_offset)

    def _newest_snapshot(self) -> int:
        """Each begins a segment; one that a crash cut short has no end."""
        first, *later = self._log.segment_starts
        for start in reversed(later):
            for record in self._records(start):
                if record.startswith(SNAPSHOT_END):
                    return start
                if record.startswith(TRANSACTION):
                    break
        return first

    def _records(self, offset: int) -> Iterator[bytes]:
        for _, run in read_runs(self._log, offset):
            for record in iterate_records(run):
                yield record.data

    def append(self, records: Sequence[bytes], done: Callable[[StorageError | None], None]) -> None:
        """See :class:`Journal`."""
        log = self._log
        if log.failure is None and (log.needs_roll or log.checkpoint_due):

            def maintained(_result: object, failure: Exception | None) -> None:
                if failure is not None:
                    _log.warning("Registry log: no new segment or checkpoint", reason=str(failure))
                self._append(records, done)

            self._executor.submit(self._maintain, maintained)
        else:
            self._append(records, done)

    def compact(self, records: Sequence[bytes], done: Callable[[StorageError | None], None]) -> None:
        """See :class:`Journal`."""

        def finished(start_offset: int | None, failure: Exception | None) -> None:
            self._snapshot_offset = self._log.end_offset if start_offset is None else start_offset
            if failure is None:
                self._on_durable(self._log.flushed_offset)
            elif self._log.failure is None:
                # Nothing is lost; the next snapshot is due when as much again has been appended.
                _log.warning("Registry log cannot be compacted", reason=str(failure))
            done(self._log.failure)

        # The ids are everybody's, so they are taken here and not in the thread.
        first_id = self._message_ids.take(len(records))
        self._executor.submit(lambda: self._compact(records, first_id), finished)

    def _append(self, records: Sequence[bytes], done: Callable[[StorageError | None], None]) -> None:
        log = self._log
        try:
            start_offset = self._write(records, self._message_ids.take(len(records)))
            pending = log.begin_flush()
        except StorageError as error:
            done(error)
            return
        if pending is None:
            done(log.fail("an append left nothing to sync"))
            return

        def synced(error: OSError | None) -> None:
            try:
                log.finish_flush(pending, error)
            except LogFailedError as failure:
                # The clients are about to lose their connections: leave nothing behind they do not expect.
                log.discard_unflushed(start_offset)
                done(failure)
                return
            self._on_durable(pending.end_offset)
            done(None)

        self._syncer.sync(pending.file, synced)

    def _write(self, records: Sequence[bytes], first_id: int) -> int:
        message_ids = list(message_id_block(first_id, len(records)))
        encoded = encode_records(records, list(map(checksum, records)), message_ids, [0] * len(records))
        return self._log.append([encoded], len(encoded), len(records), message_ids[-1])

    def _maintain(self) -> None:
        """In a worker thread."""
        if self._log.needs_roll:
            self._log.roll()
        if self._log.checkpoint_due:
            self._log.write_checkpoint(clean=False)

    def _compact(self, records: Sequence[bytes], first_id: int) -> int:
        """In a worker thread; returns where the snapshot begins."""
        log, last_snapshot = self._log, self._snapshot_offset
        log.end_segment()
        if log.needs_roll:
            log.roll()
        start_offset = self._write(records, first_id)
        log.flush()
        try:
            log.delete_before(last_snapshot)
            log.write_checkpoint(clean=False)
        except StorageError as error:
            _log.warning("Registry log: old segments stay", reason=str(error))
        return start_offset
