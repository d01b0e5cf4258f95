"""Finding damage again, and replacing it: what the journal looks like, and when it is obeyed."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest
from hypothesis import given
from hypothesis import strategies as st

from metaserver.errors import StorageError
from metaserver.message import encode_record
from metaserver.storage import OffsetRange
from metaserver.storage.gaps import decode_gaps, encode_gaps
from metaserver.storage.patch import Patch
from metaserver.storage.repair import repair_range
from metaserver.storage.scrub import STEP_BYTES, scrub_step
from tests.storage.faulty_filesystem import FaultyFileSystem
from tests.storage.support import DIRECTORY, NAME, append, open_store, read_all, records, segment_path

if TYPE_CHECKING:
    from metaserver.storage import MessageStore, PartitionLog

RECORDS = records(60)
SIZE = len(RECORDS[0])
JOURNAL = DIRECTORY / "repair.journal"


def filled(filesystem: FaultyFileSystem) -> tuple[MessageStore, PartitionLog]:
    """Sixty records of fifty bytes in segments of a thousand."""
    store = open_store(filesystem, filesystem.clock)
    log = store.create(NAME, DIRECTORY.parent)
    for record in RECORDS:
        append(log, record)
        if log.needs_roll:
            log.roll()
    log.flush()
    return store, log


def scrubbed(log: PartitionLog) -> list[OffsetRange]:
    found: list[OffsetRange] = []
    offset = log.start_offset
    while offset < log.flushed_offset:
        step = scrub_step(log, offset)
        assert step.next_offset > offset
        found += step.damaged
        offset = step.next_offset
    return found


def test_the_journal_byte_by_byte() -> None:
    patch = Patch(1000, 1050, b"old", b"new")
    assert patch.encode() == (
        b"metaserver repair 1\nsegment_start 1000\noffset 1050\nsize 3\ncrc c252087f\noldnew"
    )
    assert Patch.decode(patch.encode()) == patch


@given(cut=st.integers(0, 200), flipped=st.integers(0, 200))
def test_a_journal_that_is_not_whole_is_none(cut: int, flipped: int) -> None:
    data = Patch(1000, 1050, b"old", b"new").encode()
    if cut < len(data):
        assert Patch.decode(data[:cut]) is None
    if flipped < len(data):
        assert Patch.decode(data[:flipped] + bytes([data[flipped] ^ 1]) + data[flipped + 1 :]) is None


def test_the_gaps_byte_by_byte() -> None:
    gaps = (OffsetRange(1310720, 4194304), OffsetRange(5000000, 5000001))
    data = encode_gaps(gaps)
    assert data.startswith(b"metaserver gaps 1\ngap 1310720 4194304\ngap 5000000 5000001\ncrc ")
    assert decode_gaps(data) == gaps
    assert decode_gaps(data.replace(b"5000001", b"5000002")) is None


@given(numbers=st.sets(st.integers(0, 59), max_size=6), position=st.integers(20, SIZE - 1))
def test_the_scrub_finds_exactly_the_records_that_changed(numbers: set[int], position: int) -> None:
    filesystem = FaultyFileSystem()
    _store, log = filled(filesystem)
    assert scrubbed(log) == []
    for number in numbers:
        offset = number * SIZE
        filesystem.flip(segment_path(log.segment_start(offset)), offset % 1000 + position)
    found = {at for gap in scrubbed(log) for at in range(gap.start, gap.end, SIZE)}
    assert found == {number * SIZE for number in numbers}
    for number in numbers:
        repair_range(filesystem, log, NAME, number * SIZE, RECORDS[number], "another")
    assert scrubbed(log) == []
    assert read_all(log) == b"".join(RECORDS)


def test_a_record_longer_than_a_step_is_whole() -> None:
    filesystem = FaultyFileSystem()
    store = open_store(filesystem, filesystem.clock)
    log = store.create(NAME, DIRECTORY.parent)
    append(log, encode_record(bytes(range(256)) * (STEP_BYTES // 200), 1))
    append(log, *records(3, first_id=2))
    log.flush()
    assert scrubbed(log) == []


@pytest.mark.parametrize(
    "new",
    [
        pytest.param(RECORDS[21][:-1], id="not whole"),
        pytest.param(RECORDS[21][:-1] + b"!", id="not valid"),
        pytest.param(b"".join(RECORDS[20:41]), id="longer than the segment"),
    ],
)
def test_what_does_not_belong_there_is_not_written(new: bytes) -> None:
    filesystem = FaultyFileSystem()
    _store, log = filled(filesystem)
    filesystem.flip(segment_path(1000), 30)
    before = filesystem.read_bytes(segment_path(1000))
    with pytest.raises(StorageError):
        repair_range(filesystem, log, NAME, 1000, new, "another")
    assert filesystem.read_bytes(segment_path(1000)) == before


def test_what_is_good_is_left_alone() -> None:
    filesystem = FaultyFileSystem()
    _store, log = filled(filesystem)
    assert repair_range(filesystem, log, NAME, 1000, RECORDS[40], "another") is None
    assert read_all(log) == b"".join(RECORDS)


@pytest.mark.parametrize("written", [0, 10, SIZE])
def test_an_opening_finishes_what_was_begun(written: int) -> None:
    filesystem = FaultyFileSystem()
    store, log = filled(filesystem)
    filesystem.flip(segment_path(1000), 5)
    filesystem.flip(segment_path(1000), 30)
    old = filesystem.read_bytes(segment_path(1000))[:SIZE]
    log.set_unreadable(OffsetRange(1000, 1000 + SIZE))
    store.close()
    content = filesystem.read_bytes(segment_path(1000))
    filesystem.write_bytes(segment_path(1000), RECORDS[20][:written] + content[written:])
    filesystem.write_bytes(JOURNAL, Patch(1000, 1000, old, RECORDS[20]).encode())
    reopened = open_store(filesystem, filesystem.clock).partitions[NAME]
    assert reopened.unreadable == ()
    assert read_all(reopened) == b"".join(RECORDS)
    assert JOURNAL.name not in filesystem.list_directory(DIRECTORY)


def test_a_journal_about_bytes_that_were_written_since_means_nothing() -> None:
    """The log was cut and written again there, while a disk did not let the journal go."""
    filesystem = FaultyFileSystem()
    store, _log = filled(filesystem)
    store.close()
    filesystem.write_bytes(JOURNAL, Patch(1000, 1000, RECORDS[1], RECORDS[2]).encode())
    reopened = open_store(filesystem, filesystem.clock).partitions[NAME]
    assert read_all(reopened) == b"".join(RECORDS)
    assert JOURNAL.name not in filesystem.list_directory(DIRECTORY)


def test_what_an_opening_has_repaired_stays_repaired() -> None:
    """Found by the disks of tools/torture/run states: the checkpoint went on calling the record damaged."""
    filesystem = FaultyFileSystem()
    store, log = filled(filesystem)
    filesystem.flip(segment_path(1000), 60)
    damaged = OffsetRange(1050, 1050 + SIZE)
    log.set_unreadable(damaged)
    patch = Patch(1000, 1050, filesystem.read_bytes(segment_path(1000))[50 : 50 + SIZE], RECORDS[21])
    filesystem.write_bytes(JOURNAL, patch.encode())
    filesystem.cut_power("nothing")
    for _ in range(2):
        store = open_store(filesystem, filesystem.clock)
        log = store.partitions[NAME]
        assert (log.unreadable, scrubbed(log)) == ((), [])
        assert read_all(log) == b"".join(RECORDS)
        filesystem.cut_power("nothing")
