"""The registry's log in a message store: whole, bounded, and honest about disks that fail."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import attrs
import pytest

from metaserver.errors import DiskFullError, LogFailedError, StorageError
from metaserver.message import MessageIdSource, iterate_records
from metaserver.names import BrokerId, PartitionId, Topic, TopicPartition
from metaserver.registry.embedded import LogJournal
from metaserver.storage import MessageStore, Point, RealFileSystem, StoreOptions

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

    from metaserver.storage import File, PartitionLog

NAME = TopicPartition(Topic("registry"), PartitionId(0))


class Clock:
    def wall_seconds(self) -> float:
        return 1.7e9

    def monotonic_seconds(self) -> float:
        return 0.0


class Inline:
    """Runs jobs and syncs at once; fails a sync when told."""

    failure: OSError | None = None

    def submit(self, job: Callable[[], Any], done: Callable[[Any, Exception | None], None]) -> None:
        try:
            result = job()
        except StorageError as error:
            done(None, error)
        else:
            done(result, None)

    def sync(self, file: File, done: Callable[[OSError | None], None]) -> None:
        file.sync(Point.APPEND_SYNC)
        done(self.failure)


@attrs.define(eq=False)
class Disk:
    """A store in a directory, opened again and again."""

    directory: Path
    segment_bytes: int = 1 << 20
    inline: Inline = attrs.Factory(Inline)
    outcomes: list[StorageError | None] = attrs.Factory(list)
    readable: list[int] = attrs.Factory(list)
    store: MessageStore = attrs.field(init=False)
    log: PartitionLog = attrs.field(init=False)
    ids: MessageIdSource = attrs.field(init=False)

    def open(self) -> LogJournal:
        options = StoreOptions(segment_bytes_max=self.segment_bytes, checkpoint_bytes=1000)
        self.store = MessageStore.open(RealFileSystem(), Clock(), options, [self.directory], "test")
        self.log = self.store.create(NAME, self.directory)
        self.ids = MessageIdSource(BrokerId(0), Clock())
        self.ids.observe(self.store.highest_message_id)
        return LogJournal(self.log, self.ids, self.inline, self.inline, self.readable.append)

    def append(self, journal: LogJournal, *records: bytes) -> None:
        journal.append(records, self.outcomes.append)


@pytest.fixture
def disk(tmp_path: Path) -> Iterator[Disk]:
    disk = Disk(tmp_path)
    yield disk
    disk.inline.failure = None
    disk.store.close()


def test_records_are_ordinary_messages_and_come_back(disk: Disk) -> None:
    journal = disk.open()
    disk.append(journal, b"one", b"two")
    disk.append(journal, b"x" * 3_000_000)
    disk.append(journal, b"")
    disk.append(journal, b"last")
    assert disk.outcomes == [None] * 4
    assert disk.readable[-1] == disk.log.end_offset
    disk.store.close()
    again = disk.open()
    assert list(again.replay()) == [b"one", b"two", b"x" * 3_000_000, b"", b"last"]
    piece = disk.log.read(0, 46, disk.log.end_offset)
    found = list(iterate_records(piece.file.read(piece.size, piece.position)))
    piece.release()
    assert [record.data for record in found] == [b"one", b"two"]
    assert found[0].message_id < found[1].message_id


SNAPSHOT = [b"\2begin", b"\4nodes", b"\5end"]


def test_a_snapshot_replaces_what_was_before_it(disk: Disk) -> None:
    disk.segment_bytes = 500
    journal = disk.open()
    for number in range(100):
        disk.append(journal, b"\1%d" % number)
    before = journal.uncompacted_bytes
    journal.compact(SNAPSHOT, disk.outcomes.append)
    assert set(disk.outcomes) == {None}
    size = 3 * 20 + sum(map(len, SNAPSHOT))
    assert journal.uncompacted_bytes == size < before
    disk.append(journal, b"\1after")
    assert list(journal.replay()) == [*SNAPSHOT, b"\1after"]
    disk.store.close()
    again = disk.open()
    assert list(again.replay()) == [*SNAPSHOT, b"\1after"]
    assert again.uncompacted_bytes == size + 26


def test_what_the_last_snapshot_replaces_stays_for_slaves(disk: Disk) -> None:
    journal = disk.open()
    starts = []
    for number in range(3):
        disk.append(journal, b"\1%d" % number)
        starts.append(disk.log.end_offset)
        journal.compact(SNAPSHOT, disk.outcomes.append)
        assert disk.log.start_offset == [0, *starts][number]
    assert disk.log.segment_starts == tuple(starts[1:])
    disk.store.close()
    assert len(list((disk.directory / str(NAME)).glob("*.meta"))) == 2
    journal = disk.open()
    assert list(journal.replay()) == SNAPSHOT
    journal.compact(SNAPSHOT, disk.outcomes.append)
    assert disk.log.start_offset == starts[2]


def test_a_snapshot_cut_short_counts_for_nothing(disk: Disk) -> None:
    journal = disk.open()
    disk.append(journal, b"\1old")
    journal.compact(SNAPSHOT, disk.outcomes.append)
    disk.append(journal, b"\1between")
    journal.compact(SNAPSHOT[:2], disk.outcomes.append)
    disk.append(journal, b"\1after")
    assert list(journal.replay()) == [*SNAPSHOT, b"\1between", *SNAPSHOT[:2], b"\1after"]


def test_ids_are_taken_on_the_loop(disk: Disk) -> None:
    """They are the broker's: a thread that takes some could be given the same as a put."""
    journal = disk.open()
    disk.append(journal, b"\1old")
    jobs: list[Callable[[], Any]] = []
    disk.inline.submit = lambda job, done: jobs.append(job)  # type: ignore[method-assign]
    journal.compact(SNAPSHOT, disk.outcomes.append)
    taken_later = disk.ids.take(1)
    (compaction,) = jobs
    compaction()
    assert disk.log.last_message_id is not None
    assert disk.log.last_message_id < taken_later


def test_a_failed_sync_is_final_and_leaves_nothing_behind(disk: Disk) -> None:
    journal = disk.open()
    disk.append(journal, b"kept")
    disk.inline.failure = OSError(5, "broken")
    disk.append(journal, b"lost")
    disk.inline.failure = None
    disk.append(journal, b"refused")
    assert disk.outcomes[0] is None
    assert all(isinstance(outcome, LogFailedError) for outcome in disk.outcomes[1:])
    disk.store.close()
    assert list(disk.open().replay()) == [b"kept"]


def test_a_full_disk_is_not_final(disk: Disk, monkeypatch: pytest.MonkeyPatch) -> None:
    journal = disk.open()
    with monkeypatch.context() as full:

        def no_room(*_arguments: object) -> int:
            raise DiskFullError(disk.directory, 0)

        full.setattr(type(disk.log), "append", no_room)
        disk.append(journal, b"later")
        journal.compact([b"snapshot"], disk.outcomes.append)
    disk.append(journal, b"later")
    assert isinstance(disk.outcomes[0], DiskFullError)
    assert disk.outcomes[1:] == [None, None]
    assert list(journal.replay()) == [b"later"]


def test_a_damaged_log_is_not_replayed(disk: Disk) -> None:
    journal = disk.open()
    for number in range(10):
        disk.append(journal, b"%d" % number * 20)
    disk.store.close()
    (disk.directory / str(NAME) / "recovery.checkpoint").unlink()
    (segment,) = (disk.directory / str(NAME)).glob("*.meta")
    data = bytearray(segment.read_bytes())
    data[100] ^= 1
    segment.write_bytes(data)
    with pytest.raises(StorageError):
        list(disk.open().replay())
