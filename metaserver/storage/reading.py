"""Reading a log from an offset to its end, record by record."""

from __future__ import annotations

from typing import TYPE_CHECKING

from metaserver.errors import CorruptLogError, OffsetInHoleError, StorageError
from metaserver.message import scan

if TYPE_CHECKING:
    from collections.abc import Iterator

    from metaserver.storage.log import PartitionLog

_READ_BYTES = 1024 * 1024


def read_runs(log: PartitionLog, offset: int) -> Iterator[tuple[int, bytes]]:
    """Runs of whole, valid records, with the offset of each, up to where the log ends when this is called.

    Raises CorruptLogError at bytes that are no record; OffsetOutOfRangeError, OffsetInHoleError and
    StorageError as :meth:`PartitionLog.read` does.
    """
    end = log.end_offset
    held, held_offset = b"", offset
    while offset < end:
        try:
            piece = log.read(offset, _READ_BYTES, end)
        except OffsetInHoleError as hole:
            if held:
                # What it announces to be long enough to reach in there is no whole record either.
                raise CorruptLogError(log.directory, held_offset, "the last record is not whole") from hole
            raise
        try:
            data = piece.read()
        except OSError as error:
            raise StorageError(f"{log.directory} cannot be read: {error}") from error
        finally:
            piece.release()
        if not data:
            break
        offset += len(data)
        held += data
        found = scan(held)
        if found.end:
            yield held_offset, held[: found.end]
            held, held_offset = held[found.end :], held_offset + found.end
        if found.fault is not None:
            raise CorruptLogError(log.directory, held_offset, found.fault)
    if held or offset < end:
        raise CorruptLogError(log.directory, held_offset, "the last record is not whole")
