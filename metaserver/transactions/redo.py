"""Which records of a transaction its partition holds already: a commit is carried out once."""

from __future__ import annotations

from typing import TYPE_CHECKING

import attrs

from metaserver.errors import CorruptLogError, OffsetInHoleError, OffsetOutOfRangeError
from metaserver.logs import get_logger
from metaserver.message import iterate_records, scan
from metaserver.storage import read_runs
from metaserver.storage.repair import read_piece
from metaserver.storage.scrub import scrub_step

if TYPE_CHECKING:
    from metaserver.names import MessageId, TopicPartition
    from metaserver.storage import MessageStore, OffsetRange, PartitionLog
    from metaserver.transactions.transaction import Batch

_log = get_logger(__name__)

_ID = slice(8, 16)
"""Of a record."""
_SOURCE = "the journal of transactions"


def drop_present(store: MessageStore, name: TopicPartition, batch: Batch) -> int:
    """Take out of a batch what the log holds from the batch's floor on; returns how many messages that are.

    A message is known by its id, which no other has. Where retention has removed the log from the floor on,
    the batch was there, and counts as present. One that is there and damaged is repaired: it was written, and
    only the journal may know what it was. Raises StorageError where the log cannot be read. Nobody else may
    have the log: nothing is served yet.
    """
    log = store.partitions[name]
    records = {
        record.message_id: bytes(batch.data[record.position : record.position + record.size])
        for record in iterate_records(bytes(batch.data))
    }
    present = (
        set(records) if batch.floor < log.start_offset else _Search(store, name, log, records).run(batch)
    )
    missing = {message_id: record for message_id, record in records.items() if message_id not in present}
    batch.data, batch.count = bytearray(b"".join(missing.values())), len(missing)
    batch.last_id = next(reversed(missing), 0)
    return len(records) - len(missing)


@attrs.define(eq=False)
class _Search:
    """For the records of one batch in the log of its partition."""

    _store: MessageStore
    _name: TopicPartition
    _log: PartitionLog
    _records: dict[MessageId, bytes]
    """Whole, by id."""
    _present: set[MessageId] = attrs.Factory(set)

    def run(self, batch: Batch) -> set[MessageId]:
        """The ids of those that are there."""
        log, wanted, present = self._log, self._records.keys(), self._present
        offset, is_boundary = batch.floor, False
        while offset < log.end_offset and len(present) < len(wanted):
            try:
                for start, run in read_runs(log, offset):
                    present |= wanted & _ids(run)
                    offset, is_boundary = start + len(run), True
                break
            except OffsetInHoleError as hole:
                for gap in log.unreadable:
                    if gap.end > offset and gap.start < hole.next_offset:
                        self._look_into(gap)
                offset, is_boundary = hole.next_offset, True
            except CorruptLogError:
                if not is_boundary:
                    # The floor is none any more where the log was cut before it, and has grown since.
                    offset, is_boundary = log.segment_start(offset), True
                    continue
                # Not known to be damaged till now.
                damaged = scrub_step(log, offset).damaged
                if not damaged:
                    raise
                self._look_into(damaged[0])
                offset = damaged[0].end
        return present

    def _look_into(self, damaged: OffsetRange) -> None:
        """Repair what of the batch is there, by what is left of it: its id."""
        try:
            data = read_piece(self._log, damaged.start, damaged.end)
        except OffsetOutOfRangeError:
            return  # No file holds it.
        for message_id, record in self._records.items():
            at = data.find(record[_ID]) - _ID.start
            if message_id in self._present or not 0 <= at <= len(data) - len(record):
                continue
            offset = damaged.start + at
            self._store.repair(self._name, offset, record, _SOURCE)
            self._present.add(message_id)
            _log.warning("Damage repaired", partition=str(self._name), offset=offset, source=_SOURCE)


def _ids(run: bytes) -> set[int]:
    return {int.from_bytes(run[at + 8 : at + 16], "big", signed=True) for at in scan(run).positions}
