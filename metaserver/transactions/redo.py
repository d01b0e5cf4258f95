"""Which records of a transaction its partition holds already: a commit is carried out once."""

from __future__ import annotations

from typing import TYPE_CHECKING

from metaserver.errors import CorruptLogError, OffsetInHoleError
from metaserver.message import iterate_records, scan
from metaserver.storage import read_runs

if TYPE_CHECKING:
    from metaserver.storage import PartitionLog
    from metaserver.transactions.transaction import Batch


def drop_present(log: PartitionLog, batch: Batch) -> int:
    """Take out of a batch what the log holds from the batch's floor on; returns how many messages that are.

    A message is known by its id, which no other has. Where retention has removed the log from the floor on,
    the batch was there, and counts as present. Raises StorageError where the log cannot be read.
    """
    present = _wanted_ids(batch) if batch.floor < log.start_offset else _present_ids(log, batch)
    kept = bytearray()
    count = last_id = 0
    for record in iterate_records(bytes(batch.data)):
        if record.message_id not in present:
            kept += batch.data[record.position : record.position + record.size]
            count, last_id = count + 1, record.message_id
    dropped = batch.count - count
    batch.data, batch.count, batch.last_id = kept, count, last_id
    return dropped


def _present_ids(log: PartitionLog, batch: Batch) -> set[int]:
    wanted = _wanted_ids(batch)
    present: set[int] = set()
    offset = batch.floor
    while offset < log.end_offset and len(present) < len(wanted):
        try:
            for start, run in read_runs(log, offset):
                present |= wanted.intersection(_ids(run))
                offset = start + len(run)
            break
        except OffsetInHoleError as hole:
            offset = hole.next_offset
        except CorruptLogError:
            # The floor is no boundary any more where the log was cut before it, and has grown since.
            start = log.segment_start(batch.floor)
            if offset != batch.floor or start == batch.floor:
                raise
            offset = start
    return present


def _wanted_ids(batch: Batch) -> set[int]:
    return set(_ids(bytes(batch.data)))


def _ids(run: bytes) -> set[int]:
    return {int.from_bytes(run[at + 8 : at + 16], "big", signed=True) for at in scan(run).positions}
