"""Which records of a transaction its partition holds already: a commit is carried out once."""

from __future__ import annotations

from operator import eq
from typing import TYPE_CHECKING

import attrs

from metaserver.errors import CorruptLogError, OffsetInHoleError, OffsetOutOfRangeError
from metaserver.logs import get_logger
from metaserver.message import HEADER_SIZE, iterate_records, scan
from metaserver.storage import OffsetRange, read_runs
from metaserver.storage.repair import read_piece
from metaserver.storage.scrub import scrub_step

if TYPE_CHECKING:
    from collections.abc import Iterator

    from metaserver.names import MessageId, TopicPartition
    from metaserver.storage import MessageStore, PartitionLog
    from metaserver.transactions.transaction import Batch

_log = get_logger(__name__)

_LENGTH_AND_CHECKSUM = slice(0, 8)
_ID = slice(8, 16)
_PIECE_BYTES = 1024 * 1024
_SOURCE = "the journal of transactions"


def drop_present(store: MessageStore, name: TopicPartition, batch: Batch) -> None:
    """Take out of a batch what the log holds from the batch's floor on.

    A message is known by its id, which no other has. Where retention has removed the log from the floor on,
    the batch was there, and counts as present. One that is there and damaged is repaired: it was written, and
    perhaps nobody else knows any more what it was. Nothing is appended meanwhile. Raises StorageError where
    the log cannot be read or repaired.
    """
    log = store.partitions[name]
    records = {
        record.message_id: bytes(batch.data[record.position : record.position + record.size])
        for record in iterate_records(bytes(batch.data))
    }
    present = _Search(store, name, log, records, batch.floor).run()
    missing = {message_id: record for message_id, record in records.items() if message_id not in present}
    batch.data, batch.count = bytearray(b"".join(missing.values())), len(missing)
    batch.last_id = next(reversed(missing), 0)


@attrs.define(eq=False)
class _Search:
    """For the records of one batch in the log of its partition."""

    _store: MessageStore
    _name: TopicPartition
    _log: PartitionLog
    _records: dict[MessageId, bytes]
    """Whole, by id."""
    _floor: int
    _present: set[MessageId] = attrs.Factory(set)
    _damaged: list[OffsetRange] = attrs.Factory(list)
    """Found by the last look at what recovery had not met."""

    def run(self) -> set[MessageId]:
        """The ids of those that are there."""
        log, wanted, present = self._log, self._records.keys(), self._present
        offset, is_boundary = self._floor, False
        while offset < log.end_offset and len(present) < len(wanted):
            try:
                for start, run in read_runs(log, offset):
                    present |= wanted & _ids(run)
                    offset, is_boundary = start + len(run), True
                break
            except OffsetInHoleError as hole:
                self._look_into(OffsetRange(offset, hole.next_offset))
                offset, is_boundary = hole.next_offset, True
            except OffsetOutOfRangeError:
                return set(wanted)  # Retention has it removed, from there on at least.
            except CorruptLogError:
                if not is_boundary:
                    # The floor is none any more where the log was cut before it, and has grown since.
                    offset, is_boundary = log.segment_start(offset), True
                    continue
                damaged = self._damage_at(offset)
                if damaged is None:
                    raise
                self._look_into(damaged)
                offset = damaged.end
        return present

    def _damage_at(self, offset: int) -> OffsetRange | None:
        if not any(one.start <= offset < one.end for one in self._damaged):
            self._damaged = list(scrub_step(self._log, offset).damaged)
        return next((one for one in self._damaged if one.start <= offset < one.end), None)

    def _look_into(self, damaged: OffsetRange) -> None:
        """Repair what of the batch is there."""
        log = self._log
        for part in log.layout.held_parts(damaged, log.flushed_offset):
            for offset, message_id in self._remains(part):
                self._present.add(message_id)
                if self._store.repair(self._name, offset, self._records[message_id], _SOURCE) is not None:
                    _log.warning("Damage repaired", partition=str(self._name), offset=offset, source=_SOURCE)

    def _remains(self, part: OffsetRange) -> Iterator[tuple[int, MessageId]]:
        """Where in damaged bytes of a segment records of the batch begin, behind the floor."""
        wanted = {record[_ID]: message_id for message_id, record in self._records.items()}
        prefix = _common_prefix(wanted)
        size_max = max(map(len, self._records.values()))
        for position in range(max(part.start, self._floor), part.end, _PIECE_BYTES):
            size = min(_PIECE_BYTES, part.end - position)
            # A record may end behind the damage: what looked like one behind it was in its data.
            data = read_piece(self._log, position, position + size + size_max)
            at = data.find(prefix, _ID.start)
            while 0 <= at < size + _ID.start:
                message_id = wanted.get(data[at : at + 8])
                start = at - _ID.start
                if message_id is not None and message_id not in self._present:
                    record = self._records[message_id]
                    if _is_rest_of(data[start : start + len(record)], record):
                        yield position + start, message_id
                at = data.find(prefix, at + 1)


def _is_rest_of(found: bytes, record: bytes) -> bool:
    """Whether bytes are what a disk has left of a record, and not others in which its id happens to be."""
    if len(found) != len(record):
        return False
    same = sum(map(eq, found[HEADER_SIZE:], record[HEADER_SIZE:]))
    return found[_LENGTH_AND_CHECKSUM] == record[_LENGTH_AND_CHECKSUM] or 2 * same > len(record) - HEADER_SIZE


def _common_prefix(words: dict[bytes, MessageId]) -> bytes:
    first, last = min(words), max(words)
    return first[: next((i for i in range(len(first)) if first[i] != last[i]), len(first))]


def _ids(run: bytes) -> set[int]:
    return {int.from_bytes(run[at + 8 : at + 16], "big", signed=True) for at in scan(run).positions}
