"""Carries out commits that are decided: every record into its partition, once, whatever goes wrong.

A decision stands in the journal before the first record is appended. So a partition that refuses, a full disk
or a crash only delay it: what is missing is tried again here, or found missing at the next start.
"""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING

import attrs

from metaserver.broker.acknowledgements import shortfall_text
from metaserver.broker.partition import PendingAppend
from metaserver.broker.replica_acks import WaitingPut
from metaserver.errors import StorageError, TransactionError
from metaserver.logs import get_logger
from metaserver.message import HEADER_SIZE
from metaserver.names import AckLevel
from metaserver.protocol import STORED_TEXT, XaCode

if TYPE_CHECKING:
    from collections.abc import Callable

    from metaserver.broker.broker import Broker
    from metaserver.broker.partition import Partition
    from metaserver.broker.replica_acks import AckRule
    from metaserver.names import TopicPartition
    from metaserver.transactions import Batch, Transaction

_log = get_logger(__name__)


@attrs.define(eq=False)
class Commit:
    """One that is decided and not yet marked as applied."""

    transaction: Transaction
    serial: int
    journal_offset: int
    """Where the journal tells of it."""
    _done: Callable[[str], None] | None
    """Told once, when it is known what to answer: blank, or what is still missing."""
    missing: dict[TopicPartition, Batch]
    """What is in no partition yet."""
    ends: dict[TopicPartition, int] = attrs.Factory(dict)
    """Behind its records, of each partition that has them."""
    waiting_count: int = 0
    """Partitions that are appending, or whose slaves are waited for."""
    problem: str = ""
    """The first thing that kept it from success."""
    is_marking: bool = False
    """That it is applied is on its way into the journal."""

    def settle(self) -> None:
        """Answer, where nothing is waited for any more."""
        if self.waiting_count == 0 and self._done is not None:
            done, self._done = self._done, None
            done(self.problem)

    def is_durable(self, partitions: dict[tuple[str, int], Partition]) -> bool:
        """Whether a power cut would take nothing of it."""
        return not self.missing and all(
            partitions[(name.topic, name.partition)].log.flushed_offset >= end
            for name, end in self.ends.items()
        )


@attrs.define(eq=False)
class Commits:
    """Of one broker."""

    _broker: Broker
    unapplied: dict[int, Commit] = attrs.Factory(dict)
    """By serial: the journal must still know them."""

    def check(self, transaction: Transaction) -> AckRule | None:
        """Whether a commit would succeed as things are; what its decision waits for beyond this disk.

        Raises TransactionError; nothing has happened then.
        """
        for name, batch in transaction.batches.items():
            try:
                partition = self._partition(name)
            except (StorageError, OSError) as error:
                raise TransactionError(f"{name}: {error}", XaCode.UNAVAILABLE) from error
            if partition.log.failure is not None:
                raise TransactionError(str(partition.log.failure), XaCode.UNAVAILABLE)
            rule = partition.ack_rule
            if rule is not None:
                refusal = self._broker.acknowledgements.refusal(rule, batch.count)
                if refusal is not None:
                    raise TransactionError(refusal, XaCode.UNAVAILABLE)
        return self.rule(transaction)

    def rule(self, transaction: Transaction) -> AckRule | None:
        """What any decision on it waits for beyond this disk: the strictest rule of its topics."""
        places = [(name.topic, name.partition) for name in transaction.batches]
        partitions = [self._broker.partitions[place] for place in places if place in self._broker.partitions]
        rules = [found.ack_rule for found in partitions if found.ack_rule is not None]
        return max(rules, key=lambda rule: (rule.level is AckLevel.SLAVE_DISK, rule.slaves_min), default=None)

    def set_floors(self, transaction: Transaction) -> None:
        """Before which offsets nothing of it can be, from now on."""
        for name, batch in transaction.batches.items():
            batch.floor = self._partition(name).log.end_offset

    def carry_out(self, transaction: Transaction, journal_offset: int, done: Callable[[str], None]) -> None:
        """Append everything; ``done`` is told, perhaps before this returns, what success lacks, or nothing.

        Whatever it is told, the transaction is committed.
        """
        missing = {name: batch for name, batch in transaction.batches.items() if batch.count}
        commit = Commit(transaction, transaction.serial, journal_offset, done, missing)
        self.unapplied[commit.serial] = commit
        self._append_missing(commit)

    def retry(self) -> None:
        """Append what a full disk, or anything else that passes, has kept out."""
        for commit in list(self.unapplied.values()):
            if commit.missing and commit.waiting_count == 0:
                commit.problem = ""
                self._append_missing(commit)

    def durable(self) -> list[Commit]:
        """Those that the journal can be told of as applied."""
        partitions = self._broker.partitions
        return [
            commit
            for commit in self.unapplied.values()
            if not commit.is_marking and commit.is_durable(partitions)
        ]

    def flush(self) -> None:
        """Sync what keeps commits from being applied."""
        for commit in self.unapplied.values():
            for name in commit.ends:
                self._broker.committer.flush(self._partition(name))

    def _append_missing(self, commit: Commit) -> None:
        batches = list(commit.missing.items())
        commit.waiting_count += len(batches)
        for name, batch in batches:
            try:
                partition = self._partition(name)
            except (StorageError, OSError) as error:
                self._failed(commit, name, error)
                continue
            append = PendingAppend(
                [bytes(batch.data)],
                len(batch.data),
                batch.count,
                batch.last_id,
                partial(self._appended, commit, partition, batch),
                partial(self._failed, commit, name),
                commit.settle,
                waits_for_disk=partition.is_group_commit,
            )
            self._broker.committer.append(partition, append)
        commit.settle()

    def _appended(self, commit: Commit, partition: Partition, batch: Batch, offset: int) -> None:
        end = offset + len(batch.data)
        del commit.missing[partition.name]
        commit.ends[partition.name] = end
        self._count(partition, batch)
        rule = partition.ack_rule
        if rule is None:
            commit.waiting_count -= 1
            return

        def confirmed() -> None:
            commit.waiting_count -= 1

        def missed(count: int) -> None:
            commit.waiting_count -= 1
            commit.problem = (
                commit.problem or f"{partition.name}: {shortfall_text(rule, count)}. {STORED_TEXT}"
            )

        waiting = WaitingPut(end, batch.count, confirmed, missed, commit.settle)
        self._broker.acknowledgements.wait(partition, rule, waiting)

    def _failed(self, commit: Commit, name: TopicPartition, error: Exception) -> None:
        commit.waiting_count -= 1
        if not commit.problem:
            commit.problem = f"{name}: {error}"
            _log.error(
                "A committed transaction waits for a partition",
                transaction=str(commit.transaction.key),
                partition=str(name),
                reason=str(error),
            )

    def _partition(self, name: TopicPartition) -> Partition:
        """Raises StorageError, also where no topic section covers it and nothing is there."""
        broker = self._broker
        found = broker.partitions.get((name.topic, name.partition))
        if found is not None:
            return found
        topic_config = broker.config.topic_config(name.topic)
        if topic_config is None:
            raise StorageError(f"the topic {name.topic} is not configured")
        return broker.open_partition(name, topic_config)

    def _count(self, partition: Partition, batch: Batch) -> None:
        traffic = self._broker.traffic[partition.name.topic]
        traffic.messages += batch.count
        traffic.bytes_in += len(batch.data) - HEADER_SIZE * batch.count
