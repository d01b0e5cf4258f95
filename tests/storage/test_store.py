from __future__ import annotations

import time
from pathlib import Path
from threading import Thread

import pytest

from metaserver.errors import CorruptLogError, DirectoryLockedError, DiskFullError, StorageError
from metaserver.names import PartitionId, Topic, TopicPartition
from metaserver.storage import MessageStore, Point, RealFileSystem
from tests.storage.faulty_filesystem import FakeClock, Fault, FaultyFileSystem
from tests.storage.support import DATA, NAME, append, open_store, options, read_all, records

OTHER = Path("/other")
RECORDS = records(5)


@pytest.fixture
def filesystem() -> FaultyFileSystem:
    return FaultyFileSystem()


def named(topic: str, partition: int) -> TopicPartition:
    return TopicPartition(Topic(topic), PartitionId(partition))


def test_an_empty_store_makes_its_directory(filesystem: FaultyFileSystem) -> None:
    path = Path("/deep/down/data")
    store = open_store(filesystem, filesystem.clock, path=path)
    assert (store.partitions, store.failed, store.reports) == ({}, {}, [])
    assert store.highest_message_id == -(2**63)
    log = store.create(NAME, path)
    append(log, *RECORDS)
    log.flush()
    filesystem.cut_power("nothing")
    assert read_all(open_store(filesystem, filesystem.clock, path=path).partitions[NAME]) == b"".join(RECORDS)


def test_partitions_are_found_by_their_directories(filesystem: FaultyFileSystem) -> None:
    names = [named("orders", 0), named("orders", 10), named("with-dash", 3), named("topic.with.dots", 1)]
    store = open_store(filesystem, filesystem.clock)
    for number, name in enumerate(names):
        append(store.create(name, DATA), *records(number + 1))
    store.close()
    for other in ("transactions", "lost+found", "no-number", "orders-01", "orders--1", "-5"):
        filesystem.write_bytes(DATA / other / "file", b"")
    filesystem.write_bytes(DATA / "a-file-7", b"")
    store = open_store(filesystem, filesystem.clock)
    assert set(store.partitions) == set(names)
    assert {report.topic_partition for report in store.reports} == set(names)
    assert store.failed == {}
    assert store.highest_message_id == 4
    assert filesystem.list_directory(DATA / "topic.with.dots-1")


def test_create_returns_what_is_there(filesystem: FaultyFileSystem) -> None:
    store = open_store(filesystem, filesystem.clock)
    log = store.create(NAME, DATA, 700)
    assert log.start_offset == 700
    assert store.create(NAME, DATA) is log
    assert store.partitions == {NAME: log}


def test_several_data_paths(filesystem: FaultyFileSystem) -> None:
    store = MessageStore.open(filesystem, filesystem.clock, options(), [DATA, OTHER, DATA], "a test")
    store.create(named("a", 0), DATA)
    store.create(named("b", 0), OTHER)
    third = Path("/third")
    store.create(named("c", 0), third)
    with pytest.raises(DirectoryLockedError):
        open_store(filesystem, filesystem.clock, path=third)
    store.close()
    assert filesystem.list_directory(OTHER) == ["b-0"]
    store = MessageStore.open(filesystem, filesystem.clock, options(), [OTHER, third], "a test")
    assert set(store.partitions) == {named("b", 0), named("c", 0)}


def test_a_partition_in_two_places_is_served_from_neither(filesystem: FaultyFileSystem) -> None:
    for path in (DATA, OTHER):
        store = open_store(filesystem, filesystem.clock, path=path)
        append(store.create(NAME, path), RECORDS[0])
        store.close()
    third = open_store(filesystem, filesystem.clock, path=Path("/third"))
    third.create(named("fine", 0), Path("/third"))
    third.close()
    paths = [DATA, OTHER, Path("/third")]
    store = MessageStore.open(filesystem, filesystem.clock, options(), paths, "a test")
    assert set(store.partitions) == {named("fine", 0)}
    assert "/data/orders-0" in str(store.failed[NAME])
    assert "/other/orders-0" in str(store.failed[NAME])
    with pytest.raises(StorageError):
        store.create(NAME, DATA)


def test_two_stores_on_one_directory(tmp_path: Path) -> None:
    filesystem, clock = RealFileSystem(), FakeClock()
    first = MessageStore.open(filesystem, clock, options(), [tmp_path], "pid 17 of conf/server.ini")
    append(first.create(NAME, tmp_path), *RECORDS)
    with pytest.raises(DirectoryLockedError) as caught:
        MessageStore.open(filesystem, clock, options(), [tmp_path], "the second")
    assert (caught.value.path, caught.value.owner) == (tmp_path, "pid 17 of conf/server.ini")
    assert read_all(first.partitions[NAME]) == b"".join(RECORDS)
    first.close()
    assert not (tmp_path / ".lock").exists()
    second = MessageStore.open(filesystem, clock, options(), [tmp_path], "the second")
    assert read_all(second.partitions[NAME]) == b"".join(RECORDS)
    second.close()


def test_a_store_that_cannot_lock_all_locks_nothing(filesystem: FaultyFileSystem) -> None:
    other = open_store(filesystem, filesystem.clock, path=OTHER)
    with pytest.raises(DirectoryLockedError):
        MessageStore.open(filesystem, filesystem.clock, options(), [DATA, OTHER], "a test")
    open_store(filesystem, filesystem.clock, path=DATA).close()
    other.close()


@pytest.mark.parametrize(("kind", "error"), [("EIO", StorageError), ("ENOSPC", DiskFullError)])
@pytest.mark.parametrize(
    "point", [Point.CREATE_DIRECTORY, Point.CREATE_SYNC_PARENT, Point.ROLL_CREATE, Point.ROLL_SYNC_DIRECTORY]
)
def test_a_partition_that_cannot_be_made(
    filesystem: FaultyFileSystem, kind: str, error: type[StorageError], point: Point
) -> None:
    store = open_store(filesystem, filesystem.clock)
    filesystem.fault = Fault(point, filesystem.calls.count(point), kind)  # type: ignore[arg-type]
    with pytest.raises(error):
        store.create(NAME, DATA, 300)
    assert store.partitions == {}
    log = store.create(NAME, DATA, 400)
    append(log, *RECORDS)
    assert log.start_offset == 400
    log.flush()
    filesystem.cut_power("nothing")
    log = open_store(filesystem, filesystem.clock).partitions[NAME]
    assert read_all(log) == b"".join(RECORDS)


def test_a_data_directory_that_cannot_be_made(filesystem: FaultyFileSystem) -> None:
    filesystem.fault = Fault(Point.CREATE_DIRECTORY, 0, "EIO")
    with pytest.raises(StorageError, match="/data: the data directory cannot be used"):
        open_store(filesystem, filesystem.clock)


def test_a_data_directory_that_cannot_be_listed_is_not_kept_locked(filesystem: FaultyFileSystem) -> None:
    store = open_store(filesystem, filesystem.clock)
    fault = Fault(Point.CREATE_SYNC_PARENT, filesystem.calls.count(Point.CREATE_SYNC_PARENT) + 1, "EIO")
    filesystem.fault = fault
    with pytest.raises(StorageError):
        store.create(NAME, OTHER)
    open_store(filesystem, filesystem.clock, path=OTHER).close()


def test_a_partition_put_into_the_directory_meanwhile_is_opened(filesystem: FaultyFileSystem) -> None:
    store = open_store(filesystem, filesystem.clock)
    filesystem.write_bytes(DATA / str(NAME) / f"{500:020d}.meta", b"".join(RECORDS))
    log = store.create(NAME, DATA)
    assert (log.start_offset, log.end_offset) == (500, 750)
    filesystem.write_bytes(DATA / "bad-0" / "x.meta", b"")
    for _ in range(2):
        with pytest.raises(CorruptLogError):
            store.create(named("bad", 0), DATA)


def test_closing_goes_on_behind_a_partition_that_fails(filesystem: FaultyFileSystem) -> None:
    store = open_store(filesystem, filesystem.clock)
    for number in range(3):
        append(store.create(named("orders", number), DATA), *RECORDS)
    filesystem.fault = Fault(Point.APPEND_SYNC, 0, "EIO")
    with pytest.raises(StorageError, match="orders-0"):
        store.close()
    filesystem.cut_power("nothing")
    store = open_store(filesystem, filesystem.clock)
    assert [store.partitions[named("orders", number)].end_offset for number in range(3)] == [0, 250, 250]
    assert [report.clean for report in store.reports] == [False, True, True]


def test_a_thousand_partitions_stopped_in_order_open_fast(tmp_path: Path) -> None:
    filesystem, clock = RealFileSystem(), FakeClock()
    store = open_store(filesystem, clock, path=tmp_path)
    for number in range(1000):
        append(store.create(named("orders", number), tmp_path), RECORDS[0])
    store.close()
    started = time.process_time()
    store = open_store(filesystem, clock, path=tmp_path)
    # About 0.07 s on the machine this was written on; what matters is that nothing is scanned.
    assert time.process_time() - started < 0.5
    assert len(store.partitions) == len(store.reports) == 1000
    assert all(report.clean and not report.bytes_scanned for report in store.reports)
    started = time.process_time()
    store.close()
    assert time.process_time() - started < 0.5


@pytest.mark.parametrize("there_are", [0, 3])
def test_many_close_also_where_there_are_no_threads(monkeypatch: pytest.MonkeyPatch, there_are: int) -> None:
    filesystem = FaultyFileSystem()
    store = open_store(filesystem, filesystem.clock)
    logs = [store.create(TopicPartition(Topic("orders"), PartitionId(number)), DATA) for number in range(40)]
    begin = Thread.start
    begun: list[Thread] = []

    def start(thread: Thread) -> None:
        if len(begun) == there_are:
            raise RuntimeError("can't start new thread")
        begun.append(thread)
        begin(thread)

    monkeypatch.setattr(Thread, "start", start)
    store.close()
    assert len(begun) == there_are
    assert all(log.failure is not None for log in logs), "closed"
    open_store(filesystem, filesystem.clock).close()
