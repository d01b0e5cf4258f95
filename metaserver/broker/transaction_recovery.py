"""What a start makes of the journal of transactions, before the port opens."""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING

import trio

from metaserver.broker.executor import wait_done
from metaserver.logs import get_logger
from metaserver.transactions import State, drop_present, replay

if TYPE_CHECKING:
    from metaserver.broker.broker import Broker
    from metaserver.broker.commits import Commits
    from metaserver.broker.transaction_journal import TransactionJournal
    from metaserver.storage import MessageStore
    from metaserver.transactions import Committed, Transaction, TransactionTable

_log = get_logger(__name__)

_PATIENCE_SECONDS = 1.0
"""For slaves to have what is appended now: whoever has committed it is gone."""


async def recover(
    broker: Broker, table: TransactionTable, journal: TransactionJournal, commits: Commits
) -> None:
    """Put what is prepared into the table, and append what a commit lacks. Raises StorageError."""
    partition = journal.partition
    if partition is None:
        return
    submit = broker.executor.submit
    found: list[Transaction] = await wait_done(partial(submit, partial(replay, partition.log)))
    lowered: list[Committed] = []
    for transaction in found:
        is_lower = await wait_done(partial(submit, partial(_drop_present, broker.store, transaction)))
        if is_lower and transaction.state is State.COMMITTED:
            lowered.append(transaction.decision())
    if lowered:
        # Before the first of these records lies below the floor of which the journal tells.
        await journal.write(lowered)
        await broker.committer.borrow(partition, partition.log.flush)
    for transaction in found:
        _leave_missing(transaction)
        transaction.began_seconds = broker.clock.wall_seconds()
        transaction.journal_offset = partition.log.start_offset
        table.restore(transaction)
    committed = [transaction for transaction in found if transaction.state is State.COMMITTED]
    for transaction in committed:
        await _carry_out_again(transaction, partition.log.start_offset, table, commits)
    _log.info("Recovered transactions", prepared=len(table.prepared()), committed=len(committed))
    if found:
        # What was found is written once more: then a start reads no more than was journalled since the last
        # but one.
        journal.begin_compaction(is_due=True)


def _drop_present(store: MessageStore, transaction: Transaction) -> bool:
    """Keep what its partitions lack; returns whether it will lie below a floor, for a log was cut there.

    In a worker thread: nothing is served yet.
    """
    is_lower = False
    for name, batch in transaction.batches.items():
        log = store.partitions.get(name)
        if log is not None:
            drop_present(store, name, batch)
        end = 0 if log is None else log.end_offset
        is_lower = is_lower or (batch.count > 0 and end < batch.floor)
        batch.floor = min(batch.floor, end)
    return is_lower


def _leave_missing(transaction: Transaction) -> None:
    transaction.batches = {name: batch for name, batch in transaction.batches.items() if batch.count}
    transaction.size_bytes = sum(len(batch.data) for batch in transaction.batches.values())


async def _carry_out_again(
    transaction: Transaction, journal_offset: int, table: TransactionTable, commits: Commits
) -> None:
    finished = trio.Event()

    def done(problem: str) -> None:
        if problem:
            _log.error("A committed transaction is not complete yet", reason=problem)
        finished.set()

    commits.carry_out(transaction, journal_offset, done)
    if transaction.is_heuristic:
        table.remember(transaction, has_committed=True)
    else:
        table.finish(transaction)
    with trio.move_on_after(_PATIENCE_SECONDS):
        await finished.wait()
