"""From the entries of a journal to the transactions that a crash has left."""

from __future__ import annotations

from typing import TYPE_CHECKING

import attrs

from metaserver.errors import CorruptLogError
from metaserver.message import iterate_records, scan
from metaserver.storage import read_runs
from metaserver.transactions.entries import (
    Applied,
    Committed,
    Forgotten,
    Part,
    Prepared,
    RolledBack,
    decode_entry,
)
from metaserver.transactions.transaction import Batch, State, Transaction

if TYPE_CHECKING:
    from metaserver.names import TopicPartition
    from metaserver.protocol import TransactionKey
    from metaserver.storage import PartitionLog
    from metaserver.transactions.entries import Entry


@attrs.define(eq=False)
class Replay:
    """Takes entries one after the other; any that comes a second time does no harm."""

    _parts: dict[int, dict[TopicPartition, Batch]] = attrs.Factory(dict)
    """Without "prepared" or "committed" behind them they mean nothing: the append was cut short."""
    _transactions: dict[int, Transaction] = attrs.Factory(dict)

    def take(self, entry: Entry) -> None:
        """Follow one entry."""
        match entry:
            case Part():
                if entry.is_first:
                    self._parts[entry.serial] = {}
                batch = self._parts.setdefault(entry.serial, {}).setdefault(entry.name, Batch())
                batch.floor = entry.floor
                batch.data += entry.data
            case Prepared(serial, key):
                self._become(serial, key, State.PREPARED)
            case Committed(serial, key, floors, is_by_operator):
                transaction = self._become(serial, key, State.COMMITTED)
                for batch, floor in zip(transaction.batches.values(), floors, strict=False):
                    batch.floor = floor
                transaction.is_heuristic = transaction.has_committed = is_by_operator
                if not transaction.batches:
                    # All that is left of it is what an operator has decided.
                    self._applied(serial)
            case RolledBack(serial, key, is_by_operator):
                transaction = self._become(serial, key, State.HEURISTIC)
                transaction.is_heuristic, transaction.batches = True, {}
                if not is_by_operator:
                    self._forget(serial)
            case Applied(serial):
                self._applied(serial)
            case Forgotten(serial):
                self._forget(serial)

    def transactions(self) -> list[Transaction]:
        """What is prepared, committed and perhaps not applied, or remembered; in the order they came."""
        for transaction in self._transactions.values():
            transaction.size_bytes = sum(len(batch.data) for batch in transaction.batches.values())
            for batch in transaction.batches.values():
                found = scan(batch.data)
                batch.count, batch.last_id = found.count, found.last_id or 0
        return list(self._transactions.values())

    def _become(self, serial: int, key: TransactionKey, state: State) -> Transaction:
        transaction = self._transactions.setdefault(serial, Transaction(key, serial))
        if transaction.is_local:
            # Its connection is gone, and another may use the same key.
            transaction.owner = transaction
        parts = self._parts.pop(serial, None)
        if parts is not None:
            transaction.batches = parts
        transaction.state = state
        return transaction

    def _applied(self, serial: int) -> None:
        transaction = self._transactions.get(serial)
        if transaction is None or not transaction.is_heuristic:
            self._forget(serial)
        else:
            transaction.state, transaction.batches = State.HEURISTIC, {}

    def _forget(self, serial: int) -> None:
        self._transactions.pop(serial, None)
        self._parts.pop(serial, None)


def replay(log: PartitionLog) -> list[Transaction]:
    """What a journal holds. Raises StorageError: what it lacks might matter."""
    state = Replay()
    for offset, run in read_runs(log, log.start_offset):
        for record in iterate_records(run):
            try:
                state.take(decode_entry(record.data))
            except ValueError as error:
                raise CorruptLogError(log.directory, offset + record.position, str(error)) from error
    return state.transactions()
