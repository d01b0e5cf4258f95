"""All partitions of a broker: found, opened, created and closed; and the lock on their directories."""

from __future__ import annotations

from collections import deque
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from typing import TYPE_CHECKING, NoReturn, TypeVar

import attrs

from metaserver.epochs import EpochChain
from metaserver.errors import StorageError
from metaserver.names import TopicPartition
from metaserver.storage.deleted import load_history
from metaserver.storage.epochs import LogEpochs, load_epochs
from metaserver.storage.filenames import LOCK_NAME
from metaserver.storage.filesystem import Point, make_directories, reason_of, translate_error
from metaserver.storage.log import PartitionLog
from metaserver.storage.recovery import RecoveryReport, recover
from metaserver.storage.repair import repair_range
from metaserver.storage.segment import OpenSegments

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from concurrent.futures import Future
    from pathlib import Path

    from metaserver.storage.filesystem import Clock, DirectoryLock, FileSystem
    from metaserver.storage.options import StoreOptions
    from metaserver.storage.segment import OffsetRange

One = TypeVar("One")
Result = TypeVar("Result")

_LOWEST_MESSAGE_ID = -(2**63)
_MANY = 32
"""Below so many partitions threads are not worth their making."""
_THREADS = 16


@attrs.define(eq=False, kw_only=True)
class MessageStore:
    """The partitions in one or several data directories."""

    _filesystem: FileSystem
    _clock: Clock
    _options: StoreOptions
    _owner: str
    _pool: OpenSegments
    _locks: dict[Path, DirectoryLock] = attrs.Factory(dict)
    partitions: dict[TopicPartition, PartitionLog] = attrs.Factory(dict)
    """Every partition that is open."""
    epochs: dict[TopicPartition, LogEpochs] = attrs.Factory(dict)
    """Of every partition that is open."""
    failed: dict[TopicPartition, StorageError] = attrs.Factory(dict)
    """Every partition that was found and could not be opened, and why."""
    reports: list[RecoveryReport] = attrs.Factory(list)
    """What opening each partition found and did."""
    highest_message_id: int = _LOWEST_MESSAGE_ID
    """Of all partitions, when they were opened; no message id may be handed out again."""

    @classmethod
    def open(
        cls,
        filesystem: FileSystem,
        clock: Clock,
        options: StoreOptions,
        data_paths: Sequence[Path],
        owner: str,
    ) -> MessageStore:
        """Lock the data directories (made where missing) and open every partition in them.

        ``owner`` is what another broker is told that finds them locked. Raises DirectoryLockedError,
        and StorageError or DiskFullError where a data directory cannot be used at all.
        """
        pool = OpenSegments(options.open_segments_max)
        store = cls(filesystem=filesystem, clock=clock, options=options, owner=owner, pool=pool)
        try:
            for data_path in dict.fromkeys(data_paths):
                store._add_data_path(data_path)
        except StorageError:
            store._release_locks()
            raise
        return store

    def create(
        self, topic_partition: TopicPartition, data_path: Path, start_offset: int | None = None
    ) -> PartitionLog:
        """Make a partition that begins at an offset; the open one where it exists already.

        Without an offset it begins at 0; one that was deleted goes on behind its old end.
        A data directory not seen before is locked and opened first. Raises StorageError (the one in
        ``failed``, where the partition is there), DiskFullError, DirectoryLockedError.
        """
        if data_path not in self._locks:
            self._add_data_path(data_path)
        directory = data_path / str(topic_partition)
        is_known = topic_partition in self.partitions or topic_partition in self.failed
        try:
            if not is_known and self._filesystem.is_directory(directory):
                # From an attempt that failed, perhaps just before its name was durable; or put here.
                self._filesystem.sync_directory(data_path, Point.CREATE_SYNC_PARENT)
                self._open_partition(topic_partition, directory)
                self._begin_epochs([topic_partition])
            if topic_partition in self.failed:
                # The same object each time, so without the frames of the last time.
                raise self.failed[topic_partition].with_traceback(None)
            if topic_partition in self.partitions:
                return self.partitions[topic_partition]
            chain = EpochChain()
            if start_offset is None:
                history = load_history(self._filesystem, data_path, topic_partition)
                start_offset, chain = (0, chain) if history is None else (history.end_offset, history.chain)
            make_directories(self._filesystem, directory)
            log = PartitionLog.create(self._filesystem, self._options, self._pool, directory, start_offset)
        except OSError as error:
            raise translate_error(
                self._filesystem, data_path, f"{topic_partition} cannot be created", error
            ) from error
        self.epochs[topic_partition] = LogEpochs(self._filesystem, directory, chain)
        self._begin_epoch(topic_partition, log)
        self.partitions[topic_partition] = log
        return log

    def repair(
        self, topic_partition: TopicPartition, offset: int, records: bytes, source: str
    ) -> OffsetRange | None:
        """Put whole records where they were and are damaged; None where nothing is damaged there.

        The caller owns the log. ``source`` says where they come from. Raises StorageError.
        """
        log = self.partitions[topic_partition]
        return repair_range(self._filesystem, log, topic_partition, offset, records, source)

    def release(self, topic_partition: TopicPartition) -> tuple[PartitionLog, EpochChain]:
        """Have nothing to do with an open partition any more; who takes its log closes it."""
        return self.partitions.pop(topic_partition), self.epochs.pop(topic_partition).chain

    def close(self) -> None:
        """Flush and close every partition, and release the locks.

        A partition that cannot be flushed is recovered at the next start. Raises StorageError, after
        everything is closed, where that happened.
        """
        problems = [str(error) for error in self._of_each(list(self.partitions.values()), _close) if error]
        self.partitions.clear()
        self._release_locks()
        if problems:
            raise StorageError("; ".join(problems))

    def _add_data_path(self, data_path: Path) -> None:
        try:
            make_directories(self._filesystem, data_path)
            lock = self._filesystem.lock(data_path / LOCK_NAME, self._owner)
        except OSError as error:
            raise self._unusable(data_path, error) from error
        try:
            # A crash may have come between making a partition's directory and making its name durable.
            self._filesystem.sync_directory(data_path, Point.CREATE_SYNC_PARENT)
            names = sorted(self._filesystem.list_directory(data_path))
        except OSError as error:
            lock.release()
            raise self._unusable(data_path, error) from error
        self._locks[data_path] = lock
        found: list[TopicPartition] = []
        for name in names:
            topic_partition = TopicPartition.parse(name)
            if topic_partition is not None and self._filesystem.is_directory(data_path / name):
                self._open_partition(topic_partition, data_path / name)
                found.append(topic_partition)
        self._begin_epochs(found)

    def _unusable(self, data_path: Path, error: OSError) -> StorageError:
        return translate_error(self._filesystem, data_path, "the data directory cannot be used", error)

    def _open_partition(self, topic_partition: TopicPartition, directory: Path) -> None:
        if topic_partition in self.failed:
            return
        try:
            if topic_partition in self.partitions:
                self._refuse_second_place(topic_partition, directory)
            chain = load_epochs(self._filesystem, directory)
            found = recover(self._filesystem, self._clock, directory, topic_partition)
        except StorageError as error:
            self.failed[topic_partition] = error
            return
        except OSError as error:
            self.failed[topic_partition] = translate_error(
                self._filesystem, directory, "it cannot be opened", error
            )
            return
        if found is None:
            return
        recovered, report = found
        log = PartitionLog(self._filesystem, self._options, self._pool, recovered)
        self.epochs[topic_partition] = LogEpochs(self._filesystem, directory, chain)
        self.partitions[topic_partition] = log
        self.reports.append(report)
        if report.highest_message_id is not None:
            self.highest_message_id = max(self.highest_message_id, report.highest_message_id)
        if log.failure is None and (log.checkpoint_due or report.damaged_ranges):
            self._save_progress(log)

    def _begin_epochs(self, names: Sequence[TopicPartition]) -> None:
        opened = [(name, self.partitions[name]) for name in names if name in self.partitions]
        if self._options.epoch_origin is not None:
            self._of_each(opened, lambda one: self._begin_epoch(*one))

    def _of_each(self, ones: Sequence[One], work: Callable[[One], Result]) -> list[Result]:
        """Of many, side by side: each costs syncs, and the disk takes several at a time as one."""
        if len(ones) < _MANY:
            return list(map(work, ones))
        left = deque(enumerate(ones))
        results: dict[int, Result] = {}

        def work_off() -> None:
            while True:
                try:
                    number, one = left.popleft()
                except IndexError:
                    return
                results[number] = work(one)

        helpers: list[Future[None]] = []
        with ThreadPoolExecutor(_THREADS) as threads:
            with suppress(RuntimeError):  # There are no more threads: those there are do it, and this one.
                helpers.extend(threads.submit(work_off) for _ in range(_THREADS))
            work_off()
        for helper in helpers:
            helper.result()
        return [results[number] for number in range(len(ones))]

    def _begin_epoch(self, topic_partition: TopicPartition, log: PartitionLog) -> None:
        """A master's log takes no message before its epoch is durable."""
        origin = self._options.epoch_origin
        if origin is None or log.failure is not None:
            return
        try:
            self.epochs[topic_partition].begin(origin, log.end_offset)
        except OSError as error:
            log.fail(f"its epoch cannot be written: {reason_of(error)}")

    def _refuse_second_place(self, topic_partition: TopicPartition, directory: Path) -> NoReturn:
        """Serve neither: whichever was chosen, the messages of the other would be missing."""
        log = self.partitions.pop(topic_partition)
        log.close()
        raise StorageError(f"{topic_partition} is in two places: {log.directory} and {directory}")

    def _save_progress(self, log: PartitionLog) -> None:
        """Spare the next opening what this one had to read."""
        try:
            log.write_checkpoint(clean=False)
        except StorageError:
            # Only time would have been saved; a disk that refuses writes shows at the first append.
            return

    def _release_locks(self) -> None:
        for lock in self._locks.values():
            lock.release()
        self._locks.clear()


def _close(log: PartitionLog) -> StorageError | None:
    """What went wrong; the log is closed all the same."""
    try:
        log.close()
    except StorageError as error:
        return error
    return None
