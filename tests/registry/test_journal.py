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

    def open(self) -> LogJournal:
        options = StoreOptions(segment_bytes_max=self.segment_bytes, checkpoint_bytes=1000)
        self.store = MessageStore.open(RealFileSystem(), Clock(), options, [self.directory], "test")
        self.log = self.store.create(NAME, self.directory)
        ids = MessageIdSource(BrokerId(0), Clock())
        ids.observe(self.store.highest_message_id)
        return LogJournal(self.log, ids, self.inline, self.inline, self.readable.append)

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


def test_a_snapshot_replaces_what_was_before_it(disk: Disk) -> None:
    disk.segment_bytes = 500
    journal = disk.open()
    for number in range(100):
        disk.append(journal, b"%d" % number)
    before = journal.uncompacted_bytes
    journal.compact([b"begin", b"end"], disk.outcomes.append)
    assert set(disk.outcomes) == {None}
    assert journal.uncompacted_bytes == 48 < before
    disk.append(journal, b"after")
    assert list(journal.replay()) == [b"begin", b"end", b"after"]
    disk.store.close()
    assert len(list((disk.directory / str(NAME)).glob("*.meta"))) == 1
    assert list(disk.open().replay()) == [b"begin", b"end", b"after"]


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
