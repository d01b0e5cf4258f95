"""A deleted log is kept whole, and a later one of its name goes on behind it."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from metaserver.epochs import LogHistory, common_end
from metaserver.errors import CorruptLogError, StorageError
from metaserver.storage import Point, deleted_logs, put_aside
from tests.storage.faulty_filesystem import CrashedError, Fault, FaultyFileSystem
from tests.storage.support import DATA, DIRECTORY, NAME, append, open_store, options, read_all, records

if TYPE_CHECKING:
    from metaserver.storage import MessageStore, PartitionLog
    from tests.storage.faulty_filesystem import Kind

RECORDS = records(5)
HOME = DATA / "deleted" / "orders-0"
SIZE = len(b"".join(RECORDS))


@pytest.fixture
def filesystem() -> FaultyFileSystem:
    return FaultyFileSystem()


def opened(filesystem: FaultyFileSystem) -> MessageStore:
    return open_store(filesystem, filesystem.clock, options(epoch_origin=7))


def filled(store: MessageStore) -> PartitionLog:
    log = store.create(NAME, DATA)
    append(log, *RECORDS)
    return log


def test_it_is_kept_whole_and_found_again(filesystem: FaultyFileSystem) -> None:
    store = opened(filesystem)
    filled(store)
    path = put_aside(filesystem, NAME, *store.release(NAME))
    assert path == HOME / f"0-{SIZE}"
    assert filesystem.read_bytes(path / f"{0:020d}.meta") == b"".join(RECORDS)
    assert store.partitions == {}
    assert store.epochs == {}
    store.close()
    store = opened(filesystem)
    assert (store.partitions, store.failed) == ({}, {})
    (found,) = deleted_logs(filesystem, DATA)
    assert (found.name, found.path, found.start_offset, found.end_offset) == (NAME, path, 0, SIZE)


def test_a_new_one_goes_on_behind_the_old_end(filesystem: FaultyFileSystem) -> None:
    store = opened(filesystem)
    filled(store)
    old = store.epochs[NAME].chain
    put_aside(filesystem, NAME, *store.release(NAME))
    log = store.create(NAME, DATA)
    assert log.start_offset == SIZE
    assert append(log, *records(2, 6)) == SIZE
    # A replica that has everything of the old one has nothing to give up.
    new = store.epochs[NAME].chain
    assert common_end(LogHistory(old, 0, SIZE), LogHistory(new, SIZE, log.end_offset)) == SIZE
    put_aside(filesystem, NAME, *store.release(NAME))
    assert [one.start_offset for one in deleted_logs(filesystem, DATA)] == [0, SIZE]
    assert store.create(NAME, DATA, 0).start_offset == 0, "a slave begins where its master does"


def test_logs_without_any_bytes(filesystem: FaultyFileSystem) -> None:
    store = opened(filesystem)
    for _ in range(3):
        store.create(NAME, DATA)
        put_aside(filesystem, NAME, *store.release(NAME))
    assert [log.path.name for log in deleted_logs(filesystem, DATA)] == ["0-0", "0-0.1", "0-0.2"]


def test_the_end_is_known_when_the_bytes_are_removed(filesystem: FaultyFileSystem) -> None:
    store = opened(filesystem)
    filled(store)
    path = put_aside(filesystem, NAME, *store.release(NAME))
    filesystem.delete(path)
    assert deleted_logs(filesystem, DATA) == []
    assert store.create(NAME, DATA).start_offset == SIZE


@pytest.mark.parametrize("text", [b"", b"{}", b'{"epochs": 1, "start_offset": 0, "end_offset": 1}', b"[]"])
def test_a_history_that_cannot_be_read(filesystem: FaultyFileSystem, text: bytes) -> None:
    filesystem.write_bytes(HOME / "history.json", text)
    with pytest.raises(CorruptLogError, match=r"history\.json"):
        opened(filesystem).create(NAME, DATA)


@pytest.mark.parametrize("kind", ["crash before", "crash after"])
@pytest.mark.parametrize("occurrence", [0, 1])
@pytest.mark.parametrize("point", [Point.DELETED_RENAME, Point.DELETED_SYNC_DIRECTORY, Point.DOCUMENT_RENAME])
def test_a_crash_leaves_it_here_or_there(
    filesystem: FaultyFileSystem, point: Point, occurrence: int, kind: Kind
) -> None:
    store = opened(filesystem)
    filled(store).flush()
    filesystem.fault = Fault(point, occurrence, kind)
    try:
        put_aside(filesystem, NAME, *store.release(NAME))
    except CrashedError:
        filesystem.restart()
    filesystem.fault = None
    filesystem._locks.clear()
    store = opened(filesystem)
    if NAME in store.partitions:
        assert read_all(store.partitions[NAME]) == b"".join(RECORDS)
        assert deleted_logs(filesystem, DATA) == []
    else:
        (found,) = deleted_logs(filesystem, DATA)
        assert filesystem.read_bytes(found.path / f"{0:020d}.meta") == b"".join(RECORDS)
        assert store.create(NAME, DATA).start_offset == SIZE


def test_a_disk_that_refuses_leaves_it_where_it_was(filesystem: FaultyFileSystem) -> None:
    store = opened(filesystem)
    filled(store)
    filesystem.fault = Fault(Point.DELETED_RENAME, 0, "EIO")
    with pytest.raises(StorageError, match="orders-0 cannot be put aside"):
        put_aside(filesystem, NAME, *store.release(NAME))
    assert filesystem.is_directory(DIRECTORY)
    store.close()
    assert read_all(opened(filesystem).partitions[NAME]) == b"".join(RECORDS)
