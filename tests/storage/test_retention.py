from __future__ import annotations

import io
import zipfile
from typing import TYPE_CHECKING

import pytest

from metaserver.errors import DiskFullError, StorageError
from metaserver.names import MAX_OFFSET
from metaserver.storage import Point, RealFileSystem
from tests.storage.faulty_filesystem import FakeClock, Fault, FaultyFileSystem
from tests.storage.support import (
    DATA,
    DIRECTORY,
    NAME,
    append,
    open_store,
    options,
    read_all,
    records,
    segment_path,
)

if TYPE_CHECKING:
    from pathlib import Path

    from metaserver.storage import PartitionLog
    from metaserver.storage.retention import RetentionAction

RECORDS = records(5)
SIZE = len(RECORDS[0])
HOUR = 3600.0
NAMES = [segment_path(number * SIZE).name for number in range(5)]


@pytest.fixture
def filesystem() -> FaultyFileSystem:
    return FaultyFileSystem()


@pytest.fixture
def log(filesystem: FaultyFileSystem) -> PartitionLog:
    """Five segments of a record each, written an hour apart, the last just now."""
    log = open_store(filesystem, filesystem.clock, options(SIZE)).create(NAME, DATA)
    for number, record in enumerate(RECORDS):
        if number:
            log.roll()
            filesystem.clock.advance(HOUR)
        append(log, record)
    log.flush()
    return log


def retain(
    log: PartitionLog,
    filesystem: FaultyFileSystem,
    hours: float,
    action: RetentionAction = "delete",
    *,
    compress: bool = False,
) -> list[str]:
    return log.delete_expired(action, hours * HOUR, compress, filesystem.clock.wall_seconds())


def files(filesystem: FaultyFileSystem) -> list[str]:
    return sorted(filesystem.list_directory(DIRECTORY))


def test_delete_what_is_older_than_the_age(log: PartitionLog, filesystem: FaultyFileSystem) -> None:
    assert retain(log, filesystem, 2.5) == NAMES[:2]
    assert files(filesystem) == NAMES[2:]
    assert log.start_offset == 2 * SIZE
    assert read_all(log) == b"".join(RECORDS[2:])
    assert log.statistics().segment_count == 3


def test_exactly_the_age_is_young_enough(log: PartitionLog, filesystem: FaultyFileSystem) -> None:
    assert retain(log, filesystem, 4) == []
    filesystem.clock.advance(0.001)
    assert retain(log, filesystem, 4) == NAMES[:1]


def test_the_last_segment_always_stays(log: PartitionLog, filesystem: FaultyFileSystem) -> None:
    filesystem.clock.advance(1000 * HOUR)
    assert retain(log, filesystem, 1) == NAMES[:4]
    assert retain(log, filesystem, 1) == []
    assert (log.start_offset, log.end_offset) == (4 * SIZE, 5 * SIZE)
    filesystem.cut_power("nothing")
    log = open_store(filesystem, filesystem.clock).partitions[NAME]
    assert (log.start_offset, log.end_offset) == (4 * SIZE, 5 * SIZE)


def test_delete_what_ends_before_an_offset(log: PartitionLog) -> None:
    assert log.delete_before(2 * SIZE - 1) == NAMES[:1]
    assert log.delete_before(3 * SIZE) == NAMES[1:3]
    assert log.delete_before(1000 * SIZE) == NAMES[3:4]
    assert log.segment_starts == (4 * SIZE,)


def test_an_odd_time_in_the_middle_makes_no_hole(log: PartitionLog, filesystem: FaultyFileSystem) -> None:
    """Somebody touched the first file: the ones behind it stay, though they are old."""
    touched = filesystem.open(segment_path(0), "write", Point.SEGMENT_OPEN)
    touched.write([RECORDS[0]], 0, Point.APPEND_WRITE)
    assert retain(log, filesystem, 2.5) == []
    assert read_all(log) == b"".join(RECORDS)


def test_archive_renames(log: PartitionLog, filesystem: FaultyFileSystem) -> None:
    assert retain(log, filesystem, 2.5, "archive") == NAMES[:2]
    assert files(filesystem) == sorted([f"{NAMES[0]}.arc", f"{NAMES[1]}.arc", *NAMES[2:]])
    assert filesystem.read_bytes(DIRECTORY / f"{NAMES[0]}.arc") == RECORDS[0]
    assert log.start_offset == 2 * SIZE
    assert open_again(filesystem).start_offset == 2 * SIZE


def test_compress_makes_a_zip_of_one_entry(log: PartitionLog, filesystem: FaultyFileSystem) -> None:
    assert retain(log, filesystem, 2.5, "archive", compress=True) == NAMES[:2]
    assert files(filesystem) == sorted([f"{NAMES[0]}.zip", f"{NAMES[1]}.zip", *NAMES[2:]])
    content = filesystem.read_bytes(DIRECTORY / f"{NAMES[1]}.zip")
    with zipfile.ZipFile(io.BytesIO(content)) as archive:
        assert archive.namelist() == [NAMES[1]]
        assert archive.testzip() is None
        assert archive.read(NAMES[1]) == RECORDS[1]
    assert open_again(filesystem).start_offset == 2 * SIZE


def test_compress_saves_space(tmp_path: Path) -> None:
    log = open_store(RealFileSystem(), FakeClock(), options(1), tmp_path).create(NAME, tmp_path)
    body = b"the same again and again. " * 100_000
    from metaserver.message import encode_record

    append(log, encode_record(body, 1))
    log.roll()
    (name,) = log.delete_expired("archive", 0.0, True, 1e12)
    packed = tmp_path / str(NAME) / f"{name}.zip"
    assert packed.stat().st_size < len(body) / 50
    with zipfile.ZipFile(packed) as archive:
        assert archive.read(name) == encode_record(body, 1)


def test_the_copy_is_durable_before_the_segment_goes(log: PartitionLog, filesystem: FaultyFileSystem) -> None:
    filesystem.calls.clear()
    filesystem.clock.advance(-0.5 * HOUR)
    retain(log, filesystem, 3, "archive", compress=True)
    order = [
        Point.RETENTION_ZIP_CREATE,
        Point.RETENTION_ZIP_WRITE,
        Point.RETENTION_ZIP_SYNC,
        Point.RETENTION_ZIP_RENAME,
        Point.RETENTION_SYNC_DIRECTORY,
        Point.RETENTION_REMOVE,
    ]
    assert [point for point in dict.fromkeys(filesystem.calls) if point in order] == order


def test_a_full_disk_leaves_the_segment_and_no_half_copy(
    log: PartitionLog, filesystem: FaultyFileSystem
) -> None:
    filesystem.capacity_bytes = filesystem.used_bytes() + 10
    with pytest.raises(DiskFullError):
        retain(log, filesystem, 2.5, "archive", compress=True)
    assert files(filesystem) == NAMES
    assert log.start_offset == 0
    assert log.failure is None
    assert read_all(log) == b"".join(RECORDS)
    filesystem.capacity_bytes = None
    assert retain(log, filesystem, 2.5, "archive", compress=True) == NAMES[:2]


@pytest.mark.parametrize("action", ["delete", "archive"])
def test_a_segment_that_cannot_be_removed_stays(
    log: PartitionLog, filesystem: FaultyFileSystem, action: RetentionAction
) -> None:
    point = Point.RETENTION_REMOVE if action == "delete" else Point.RETENTION_RENAME
    filesystem.fault = Fault(point, 1, "EIO")
    with pytest.raises(StorageError, match="old segments cannot be removed"):
        retain(log, filesystem, 1.5, action)
    assert log.start_offset == SIZE, "the first is gone, the second is not"
    assert read_all(log) == b"".join(RECORDS[1:])
    assert log.failure is None
    assert retain(log, filesystem, 1.5, action) == NAMES[1:3]


def test_a_removed_segment_is_sent_to_its_end(log: PartitionLog, filesystem: FaultyFileSystem) -> None:
    piece = log.read(0, 1000, MAX_OFFSET)
    retain(log, filesystem, 0.5)
    assert piece.read() == RECORDS[0]
    piece.release()
    with pytest.raises(OSError):
        piece.read()


def open_again(filesystem: FaultyFileSystem) -> PartitionLog:
    filesystem.cut_power("nothing")
    store = open_store(filesystem, filesystem.clock)
    assert not store.failed
    return store.partitions[NAME]
