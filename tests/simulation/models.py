"""Models of the system that are broken on purpose: the simulator must see each of them.

Each replaces one step of the real code by what somebody might have written instead.
"""

from __future__ import annotations

from contextlib import contextmanager
from typing import TYPE_CHECKING, Any
from unittest.mock import patch

import attrs

from metaserver.broker import replicas, transaction_recovery
from metaserver.broker.committer import Committer
from metaserver.broker.gate import PutGate
from metaserver.broker.transaction_journal import TransactionJournal
from metaserver.client.held_partition import HeldPartition
from metaserver.client.lane import Lane
from metaserver.message import iterate_records
from metaserver.registry.paths import StoredOffset
from metaserver.replication.progress import Action, ReplicaProgress, ReplicaState
from metaserver.storage import LogEpochs, PartitionLog, Point, recovery
from metaserver.transactions import redo, replay

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from contextlib import AbstractContextManager
    from pathlib import Path

    from metaserver.broker import Partition
    from metaserver.broker.partition import PendingAppend
    from metaserver.client import ReceivedMessage
    from metaserver.client.lane import Outgoing
    from metaserver.storage import FileSystem, PendingFlush
    from metaserver.storage.recovery import FoundSegment
    from metaserver.storage.resynchronise import ScanResult
    from metaserver.transactions import Transaction


def ack_before_sync() -> AbstractContextManager[Any]:
    """A put is answered when it is written."""
    real = Committer._written

    def written(
        self: Committer,
        partition: Partition,
        batch: list[PendingAppend],
        offset: int | None,
        failure: Exception | None,
    ) -> None:
        if offset is not None and any(append.waits_for_disk for append in batch):
            self._succeed(batch, offset)
            for append in batch:
                append.flush_replies()
            for append in batch:
                append.succeed = append.fail = append.flush_replies = _nothing
        real(self, partition, batch, offset, failure)

    return patch.object(Committer, "_written", written)


def sync_repeated() -> AbstractContextManager[Any]:
    """A sync that failed is called a second time, and believed."""
    real = PartitionLog.finish_flush

    def finish(self: PartitionLog, pending: PendingFlush, error: OSError | None) -> None:
        real(self, pending, None)

    return patch.object(PartitionLog, "finish_flush", finish)


def truncate_without_quarantine() -> AbstractContextManager[Any]:
    """A replica throws away what its master does not have."""
    return patch.object(replicas, "quarantine_tail", lambda *_arguments: None)


def epoch_written_late() -> AbstractContextManager[Any]:
    """A master begins its epoch in memory, and writes it some other time."""

    def begin(self: LogEpochs, origin: int, end_offset: int) -> None:
        self.chain = self.chain.begin(origin, end_offset)

    return patch.object(LogEpochs, "begin", begin)


def offset_committed_early() -> AbstractContextManager[Any]:
    """What was fetched counts as dealt with."""
    real = HeldPartition.take

    def take(self: HeldPartition) -> ReceivedMessage:
        message = real(self)
        self.done = StoredOffset(self.reader.position, message.message_id)
        return message

    return patch.object(HeldPartition, "take", take)


def slave_appends_unchecked() -> AbstractContextManager[Any]:
    """A slave copies on from its own end, whatever lies before it."""
    return patch.object(ReplicaProgress, "master_range", _tail_at_once)


def read_beyond_the_safe_offset() -> AbstractContextManager[Any]:
    """Readers see what is written, synced or not."""
    real = Committer._written

    def written(
        self: Committer,
        partition: Partition,
        batch: list[PendingAppend],
        offset: int | None,
        failure: Exception | None,
    ) -> None:
        real(self, partition, batch, offset, failure)
        if offset is not None:
            partition.publish(partition.log.end_offset)

    return patch.object(Committer, "_written", written)


def recovery_cuts_valid_records() -> AbstractContextManager[Any]:
    """The last record behind the checkpoint is taken for a torn one."""
    real = recovery._scan

    def scan(
        filesystem: FileSystem, path: Path, segment: FoundSegment, scan_from: int, last_id: int | None
    ) -> ScanResult:
        result = real(filesystem, path, segment, scan_from, last_id)
        data = filesystem.open(path, "read", Point.RECOVERY_READ).read(result.end, 0)
        starts = [record.position for record in iterate_records(data, scan_from - segment.start_offset)]
        return attrs.evolve(result, end=starts[-1]) if starts else result

    return patch.object(recovery, "_scan", scan)


def checkpoint_ahead_of_data() -> AbstractContextManager[Any]:
    """A checkpoint vouches for what is written and not synced, and is believed without a look."""
    real = Committer._written

    def written(
        self: Committer,
        partition: Partition,
        batch: list[PendingAppend],
        offset: int | None,
        failure: Exception | None,
    ) -> None:
        log = partition.log
        if offset is not None and log.failure is None:
            flushed, log._flushed_offset = log.flushed_offset, log.end_offset
            log.write_checkpoint(clean=False)
            log._flushed_offset = flushed
        real(self, partition, batch, offset, failure)

    @contextmanager
    def both() -> Iterator[None]:
        with (
            patch.object(Committer, "_written", written),
            patch.object(recovery, "_has_fingerprint", lambda *_arguments: True),
        ):
            yield

    return both()


def promotion_without_epoch() -> AbstractContextManager[Any]:
    """A slave that becomes master writes on under the epoch of the one before."""
    real = LogEpochs.begin

    def begin(self: LogEpochs, origin: int, end_offset: int) -> None:
        if not self.chain.epochs:
            real(self, origin, end_offset)

    return patch.object(LogEpochs, "begin", begin)


def slave_acknowledges_early() -> AbstractContextManager[Any]:
    """A slave says that it has on disk what it has in memory."""
    return patch.object(PartitionLog, "flushed_offset", property(lambda self: self._end_offset))


def repeated_behind() -> AbstractContextManager[Any]:
    """A producer sends what was not taken again, behind what came meanwhile."""

    def give_back(self: Lane, messages: list[Outgoing]) -> None:
        self.waiting.extend(messages)
        self.waiting_bytes += sum(message.size_bytes for message in messages)

    return patch.object(Lane, "give_back", give_back)


def fence_ignored() -> AbstractContextManager[Any]:
    """A master whose place is another's takes puts all the same."""
    return patch.object(PutGate, "fence", _nothing)


def commit_not_finished() -> AbstractContextManager[Any]:
    """A start leaves a commit as far as the crash let it come."""

    async def carry_out_again(*_arguments: object) -> None:
        pass

    return patch.object(transaction_recovery, "_carry_out_again", carry_out_again)


def commit_finished_blindly() -> AbstractContextManager[Any]:
    """A start appends the whole of a commit, whatever of it is there."""
    return patch.object(transaction_recovery, "drop_present", _nothing)


def floors_kept() -> AbstractContextManager[Any]:
    """A start appends a commit below where the next one looks for it."""

    async def write(*_arguments: object) -> None:
        pass

    return patch.object(TransactionJournal, "write", write)


def journal_with_a_hole_taken() -> AbstractContextManager[Any]:
    """A start takes a journal of transactions of which something is missing for an empty one."""

    def replay_whole(log: PartitionLog) -> list[Transaction]:
        return [] if log.unreadable else replay(log)

    return patch.object(transaction_recovery, "replay", replay_whole)


def commit_sought_past_damage() -> AbstractContextManager[Any]:
    """A start takes what of a commit is damaged for missing."""
    return patch.object(redo._Search, "_look_into", _nothing)


def _tail_at_once(self: ReplicaProgress, start: int, end: int) -> Action | None:
    self.master_start, self.master_end = start, end
    return self._tail() if self.state is ReplicaState.PROBING else None


def _nothing(*_arguments: object) -> None:
    """In the place of something that matters."""


MODELS: dict[str, Callable[[], AbstractContextManager[Any]]] = {
    model.__name__: model
    for model in (
        ack_before_sync,
        sync_repeated,
        truncate_without_quarantine,
        epoch_written_late,
        offset_committed_early,
        slave_appends_unchecked,
        read_beyond_the_safe_offset,
        recovery_cuts_valid_records,
        checkpoint_ahead_of_data,
        promotion_without_epoch,
        slave_acknowledges_early,
        repeated_behind,
        fence_ignored,
        commit_not_finished,
        commit_finished_blindly,
        floors_kept,
        journal_with_a_hole_taken,
        commit_sought_past_damage,
    )
}
