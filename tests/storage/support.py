"""What the tests of the log have in common."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from metaserver.errors import OffsetInHoleError
from metaserver.message import encode_record, iterate_records
from metaserver.names import PartitionId, Topic, TopicPartition
from metaserver.storage import MessageStore, StoreOptions

if TYPE_CHECKING:
    from metaserver.message import Record
    from metaserver.storage import Clock, FileSystem, PartitionLog

DATA = Path("/data")
NAME = TopicPartition(Topic("orders"), PartitionId(0))
DIRECTORY = DATA / "orders-0"


def options(
    segment_bytes_max: int = 1000,
    checkpoint_bytes: int = 10_000,
    open_segments_max: int = 8,
    epoch_origin: int | None = None,
) -> StoreOptions:
    return StoreOptions(
        segment_bytes_max=segment_bytes_max,
        checkpoint_bytes=checkpoint_bytes,
        open_segments_max=open_segments_max,
        epoch_origin=epoch_origin,
    )


def open_store(
    filesystem: FileSystem, clock: Clock, store_options: StoreOptions | None = None, path: Path = DATA
) -> MessageStore:
    return MessageStore.open(filesystem, clock, store_options or options(), [path], "a test")


def segment_path(start_offset: int) -> Path:
    """Written out here: a wrong name must not be wrong in the same way in the tests."""
    return DIRECTORY / f"{start_offset:020d}.meta"


def records(count: int, first_id: int = 1, size: int = 30) -> list[bytes]:
    """Records of which no two are alike, of ``size`` data bytes."""
    return [
        encode_record((b"%d|" % number * size)[:size], number) for number in range(first_id, first_id + count)
    ]


def append(log: PartitionLog, *pieces: bytes) -> int:
    """Append whole records, counted and measured here."""
    last = list(iterate_records(b"".join(pieces)))
    return log.append(pieces, sum(map(len, pieces)), len(last), last[-1].message_id)


def read_all(log: PartitionLog, start: int | None = None, end: int | None = None) -> bytes:
    """Everything a reader can get, segment by segment, damaged ranges left out."""
    offset = log.start_offset if start is None else start
    stop = log.end_offset if end is None else end
    pieces = []
    while offset < stop:
        try:
            piece = log.read(offset, 1 << 20, stop)
        except OffsetInHoleError as error:
            offset = error.next_offset
            continue
        data = piece.read()
        piece.release()
        assert len(data) == piece.size > 0
        pieces.append(data)
        offset += len(data)
    return b"".join(pieces)


def readable_records(log: PartitionLog) -> dict[int, Record]:
    """Every record a reader finds, by offset; whatever is readable must be whole records."""
    found: dict[int, Record] = {}
    offset = log.start_offset
    while offset < log.end_offset:
        try:
            piece = log.read(offset, 1 << 30, log.end_offset)
        except OffsetInHoleError as error:
            offset = error.next_offset
            continue
        data = piece.read()
        piece.release()
        end = 0
        for record in iterate_records(data):
            found[offset + record.position] = record
            end = record.position + record.size
        assert end == len(data), f"readable bytes at {offset + end} are no record"
        offset += end
    return found
