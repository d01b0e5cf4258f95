"""What a log does while it is open; the model test covers the rest."""

from __future__ import annotations

import threading
from typing import TYPE_CHECKING

import pytest

from metaserver.errors import (
    UNCLEAR_TEXT,
    DiskFullError,
    LogFailedError,
    OffsetOutOfRangeError,
    StorageError,
    UnclearWriteError,
)
from metaserver.names import MAX_OFFSET
from metaserver.storage import LogStatistics, Point, RealFileSystem
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

RECORDS = records(10)
SIZE = len(RECORDS[0])


@pytest.fixture
def filesystem() -> FaultyFileSystem:
    return FaultyFileSystem()


def make_log(filesystem: FaultyFileSystem, segment_bytes_max: int = 1 << 20) -> PartitionLog:
    store = open_store(filesystem, filesystem.clock, options(segment_bytes_max))
    return store.create(NAME, DATA)


def reopen(filesystem: FaultyFileSystem) -> PartitionLog:
    filesystem.restart()
    return open_store(filesystem, filesystem.clock).partitions[NAME]


def fail_next(filesystem: FaultyFileSystem, point: Point, kind: str) -> None:
    filesystem.fault = Fault(point, filesystem.calls.count(point), kind)  # type: ignore[arg-type]


def needs_roll(log: PartitionLog) -> bool:
    """Asked in a call, so that the type checker does not think it stays as it was."""
    return log.needs_roll


def is_checkpoint_due(log: PartitionLog) -> bool:
    return log.checkpoint_due


# Appending.


def test_offsets_are_positions(filesystem: FaultyFileSystem) -> None:
    log = make_log(filesystem)
    assert append(log, RECORDS[0]) == 0
    assert append(log, RECORDS[1], RECORDS[2]) == SIZE
    assert append(log, RECORDS[3]) == 3 * SIZE
    assert (log.end_offset, log.record_count, log.last_message_id) == (4 * SIZE, 4, 4)
    assert filesystem.read_bytes(segment_path(0)) == b"".join(RECORDS[:4])


def test_the_pieces_of_an_append_are_written_as_they_are(filesystem: FaultyFileSystem) -> None:
    log = make_log(filesystem)
    record = RECORDS[0]
    log.append([record[:20], bytearray(record[20:25]), memoryview(record)[25:]], SIZE, 1, 1)
    assert read_all(log) == record


def test_a_full_disk_leaves_nothing_and_may_be_tried_again(filesystem: FaultyFileSystem) -> None:
    log = make_log(filesystem)
    append(log, *RECORDS[:3])
    filesystem.capacity_bytes = filesystem.used_bytes() + SIZE - 1
    for _ in range(3):
        with pytest.raises(DiskFullError) as caught:
            append(log, *RECORDS[3:6])
        assert (caught.value.path, caught.value.free_bytes) == (DIRECTORY, SIZE - 1)
        assert filesystem.size(segment_path(0)) == log.end_offset == 3 * SIZE
    assert log.failure is None
    filesystem.capacity_bytes = None
    assert append(log, RECORDS[3]) == 3 * SIZE
    assert read_all(log) == b"".join(RECORDS[:4])
    assert log.record_count == 4


def test_what_a_full_disk_undid_does_not_come_back(filesystem: FaultyFileSystem) -> None:
    log = make_log(filesystem)
    append(log, RECORDS[0])
    log.flush()
    filesystem.capacity_bytes = filesystem.used_bytes() + SIZE
    with pytest.raises(DiskFullError):
        append(log, RECORDS[1], RECORDS[2])
    # It was refused as not stored: no power cut may bring it back.
    filesystem.cut_power("everything")
    assert filesystem.size(segment_path(0)) == SIZE


@pytest.mark.parametrize(
    ("first", "then"),
    [
        ("EIO", None),
        ("ENOSPC", Point.APPEND_UNDO),
        ("ENOSPC", Point.APPEND_UNDO_SYNC),
        ("EIO", Point.APPEND_UNDO),
    ],
)
def test_any_other_failed_write_closes_the_log(
    filesystem: FaultyFileSystem, first: str, then: Point | None
) -> None:
    log = make_log(filesystem)
    append(log, *RECORDS[:3])
    fail_next(filesystem, Point.APPEND_WRITE, first)

    def also_fail_undo(point: Point) -> None:
        if point is then:
            filesystem.fault = Fault(point, 0, "EIO")

    filesystem.on_call = also_fail_undo
    with pytest.raises(UnclearWriteError) as caught:
        append(log, RECORDS[3])
    assert caught.value.path == DIRECTORY
    assert UNCLEAR_TEXT in str(caught.value)
    assert UNCLEAR_TEXT not in str(log.failure)
    filesystem.fault = None
    for call in (lambda: append(log, RECORDS[3]), log.flush, log.roll, lambda: log.truncate(SIZE)):
        with pytest.raises(LogFailedError):
            call()
    assert read_all(log) == b"".join(RECORDS[:3])


def test_a_segment_that_cannot_be_opened_for_writing_is_tried_again(filesystem: FaultyFileSystem) -> None:
    log = make_log(filesystem)
    fail_next(filesystem, Point.SEGMENT_OPEN, "EIO")
    with pytest.raises(StorageError) as caught:
        append(log, RECORDS[0])
    assert not isinstance(caught.value, LogFailedError)
    assert append(log, RECORDS[0]) == 0


# Flushing.


def test_a_failed_sync_is_final_and_never_repeated(filesystem: FaultyFileSystem) -> None:
    log = make_log(filesystem)
    append(log, *RECORDS[:2])
    log.flush()
    append(log, *RECORDS[2:5])
    fail_next(filesystem, Point.APPEND_SYNC, "EIO")
    with pytest.raises(LogFailedError):
        log.flush()
    syncs = filesystem.calls.count(Point.APPEND_SYNC)
    for call in (log.flush, log.roll, lambda: append(log, RECORDS[5])):
        with pytest.raises(LogFailedError):
            call()
    log.write_checkpoint(clean=False)
    log.close()
    assert filesystem.calls.count(Point.APPEND_SYNC) == syncs
    assert not any(point.name.startswith("CHECKPOINT_WRITE") for point in filesystem.calls)
    assert (log.flushed_offset, log.end_offset) == (2 * SIZE, 5 * SIZE)


def test_reads_go_on_after_a_failure(filesystem: FaultyFileSystem) -> None:
    log = make_log(filesystem, segment_bytes_max=3 * SIZE)
    append(log, *RECORDS[:3])
    log.roll()
    append(log, *RECORDS[3:5])
    fail_next(filesystem, Point.APPEND_SYNC, "EIO")
    with pytest.raises(LogFailedError):
        log.flush()
    assert read_all(log, end=log.flushed_offset) == b"".join(RECORDS[:3])
    assert read_all(log) == b"".join(RECORDS[:5])


def test_discarding_after_a_failed_flush_leaves_nothing_for_a_restart(filesystem: FaultyFileSystem) -> None:
    log = make_log(filesystem)
    append(log, *RECORDS[:2])
    log.flush()
    offset = append(log, *RECORDS[2:5])
    fail_next(filesystem, Point.APPEND_SYNC, "EIO")
    with pytest.raises(LogFailedError):
        log.flush()
    log.discard_unflushed(offset)
    assert log.end_offset == offset
    assert read_all(reopen(filesystem)) == b"".join(RECORDS[:2])


def test_only_what_is_not_flushed_can_be_discarded(filesystem: FaultyFileSystem) -> None:
    log = make_log(filesystem)
    append(log, *RECORDS[:2])
    log.flush()
    append(log, RECORDS[2])
    for offset in (SIZE, 4 * SIZE):
        with pytest.raises(OffsetOutOfRangeError):
            log.discard_unflushed(offset)
    assert read_all(log) == b"".join(RECORDS[:3])


def test_a_disk_that_refuses_to_discard_closes_the_log(filesystem: FaultyFileSystem) -> None:
    log = make_log(filesystem)
    append(log, RECORDS[0])
    fail_next(filesystem, Point.DISCARD_TRUNCATE, "EIO")
    log.discard_unflushed(0)
    assert log.failure is not None
    assert log.end_offset == 0


def test_a_flush_covers_what_was_written_when_it_began(filesystem: FaultyFileSystem) -> None:
    log = make_log(filesystem)
    append(log, RECORDS[0])

    def append_meanwhile(point: Point) -> None:
        if point is Point.APPEND_SYNC:
            filesystem.on_call = None
            append(log, RECORDS[1])

    filesystem.on_call = append_meanwhile
    log.flush()
    assert (log.flushed_offset, log.end_offset) == (SIZE, 2 * SIZE)
    log.flush()
    assert log.flushed_offset == 2 * SIZE


def test_a_flush_in_two_steps(filesystem: FaultyFileSystem) -> None:
    log = make_log(filesystem)
    assert log.begin_flush() is None
    append(log, RECORDS[0])
    pending = log.begin_flush()
    assert pending is not None
    append(log, RECORDS[1])
    assert log.flushed_offset == 0
    pending.file.sync(Point.APPEND_SYNC)
    log.finish_flush(pending, None)
    assert (pending.end_offset, log.flushed_offset) == (SIZE, SIZE)
    pending = log.begin_flush()
    assert pending is not None
    with pytest.raises(LogFailedError) as caught:
        log.finish_flush(pending, OSError(5, "Input/output error"))
    assert caught.value.reason == "Input/output error"
    assert log.flushed_offset == SIZE
    with pytest.raises(LogFailedError):
        log.begin_flush()


def test_nothing_to_flush_costs_no_sync(filesystem: FaultyFileSystem) -> None:
    log = make_log(filesystem)
    log.flush()
    append(log, RECORDS[0])
    log.flush()
    log.flush()
    assert filesystem.calls.count(Point.APPEND_SYNC) == 1


def test_the_first_failure_is_the_one_reported(filesystem: FaultyFileSystem) -> None:
    log = make_log(filesystem)
    first = log.fail("because")
    assert log.fail("something else") is first is log.failure
    with pytest.raises(LogFailedError, match="because"):
        append(log, RECORDS[0])


# Rolling.


def test_a_segment_is_full_at_its_size(filesystem: FaultyFileSystem) -> None:
    log = make_log(filesystem, segment_bytes_max=2 * SIZE)
    append(log, RECORDS[0])
    assert not needs_roll(log)
    append(log, RECORDS[1])
    assert needs_roll(log)
    append(log, RECORDS[2])
    log.roll()
    assert not needs_roll(log)
    assert log.flushed_offset == 3 * SIZE
    append(log, RECORDS[3])
    assert filesystem.read_bytes(segment_path(0)) == b"".join(RECORDS[:3])
    assert filesystem.read_bytes(segment_path(3 * SIZE)) == RECORDS[3]


def test_an_empty_segment_does_not_roll(filesystem: FaultyFileSystem) -> None:
    log = make_log(filesystem)
    log.roll()
    append(log, RECORDS[0])
    log.roll()
    log.roll()
    assert log.statistics().segment_count == 2


@pytest.mark.parametrize(("kind", "error"), [("ENOSPC", DiskFullError), ("EIO", StorageError)])
def test_where_no_segment_can_be_made_the_log_goes_on_in_the_old_one(
    filesystem: FaultyFileSystem, kind: str, error: type[StorageError]
) -> None:
    log = make_log(filesystem, segment_bytes_max=SIZE)
    append(log, RECORDS[0])
    fail_next(filesystem, Point.ROLL_CREATE, kind)
    with pytest.raises(error):
        log.roll()
    assert log.failure is None
    assert needs_roll(log)
    append(log, RECORDS[1])
    log.roll()
    append(log, RECORDS[2])
    log.flush()
    assert read_all(reopen(filesystem)) == b"".join(RECORDS[:3])


def test_a_segment_whose_name_is_not_durable_is_not_used(filesystem: FaultyFileSystem) -> None:
    log = make_log(filesystem)
    append(log, RECORDS[0])
    fail_next(filesystem, Point.ROLL_SYNC_DIRECTORY, "EIO")
    with pytest.raises(LogFailedError):
        log.roll()
    with pytest.raises(LogFailedError):
        append(log, RECORDS[1])
    assert log.statistics().segment_count == 1
    assert read_all(reopen(filesystem)) == RECORDS[0]


# Reading.


def test_a_slice_ends_with_its_segment(filesystem: FaultyFileSystem) -> None:
    log = make_log(filesystem)
    append(log, *RECORDS[:3])
    log.roll()
    append(log, *RECORDS[3:5])
    piece = log.read(SIZE + 7, 1 << 20, MAX_OFFSET)
    assert (piece.offset, piece.position, piece.size) == (SIZE + 7, SIZE + 7, 2 * SIZE - 7)
    assert piece.read() == b"".join(RECORDS[:3])[SIZE + 7 :]
    piece = log.read(3 * SIZE + 1, 9, MAX_OFFSET)
    assert (piece.position, piece.size) == (1, 9)


def test_readers_see_nothing_behind_the_end_they_are_given(filesystem: FaultyFileSystem) -> None:
    log = make_log(filesystem)
    append(log, *RECORDS[:3])
    assert log.read(0, 1 << 20, SIZE).read() == RECORDS[0]
    for offset, end in ((SIZE, SIZE), (2 * SIZE, SIZE), (3 * SIZE, MAX_OFFSET), (-1, MAX_OFFSET)):
        with pytest.raises(OffsetOutOfRangeError) as caught:
            log.read(offset, 10, end)
        assert (caught.value.requested, caught.value.start) == (offset, 0)
        assert caught.value.end == min(end, 3 * SIZE)


def test_a_disk_that_does_not_answer_is_reported(filesystem: FaultyFileSystem) -> None:
    log = make_log(filesystem)
    append(log, RECORDS[0])
    log.close()
    log = reopen(filesystem)
    fail_next(filesystem, Point.SEGMENT_OPEN, "EIO")
    with pytest.raises(StorageError, match=r"0\.meta cannot be read"):
        log.read(0, 10, SIZE)
    assert log.read(0, 10, SIZE).size == 10


def test_a_partition_at_rest_has_no_open_file(filesystem: FaultyFileSystem) -> None:
    log = make_log(filesystem)
    append(log, RECORDS[0])
    log.close()
    filesystem.restart()
    log = open_store(filesystem, filesystem.clock).partitions[NAME]
    assert Point.SEGMENT_OPEN not in filesystem.calls
    assert (log.end_offset, log.segment_start(5), log.statistics().segment_count) == (SIZE, 0, 1)
    assert Point.SEGMENT_OPEN not in filesystem.calls
    log.read(0, 1, SIZE)
    assert filesystem.calls.count(Point.SEGMENT_OPEN) == 1
    log.read(0, 1, SIZE)
    assert filesystem.calls.count(Point.SEGMENT_OPEN) == 1


def test_the_offset_query(filesystem: FaultyFileSystem) -> None:
    log = open_store(filesystem, filesystem.clock).create(NAME, DATA, 1000)
    assert log.segment_start(0) == log.segment_start(1000) == log.segment_start(5000) == 1000
    append(log, *RECORDS[:2])
    log.roll()
    second = log.end_offset
    append(log, *RECORDS[2:4])
    assert log.segment_start(0) == log.segment_start(999) == log.segment_start(1000) == 1000
    assert log.segment_start(second - 1) == 1000
    assert log.segment_start(second) == log.segment_start(log.end_offset - 1) == second
    assert log.segment_start(log.end_offset) == log.segment_start(MAX_OFFSET) == log.end_offset


# Truncating.


def test_truncating_over_segments(filesystem: FaultyFileSystem) -> None:
    log = make_log(filesystem)
    for record in RECORDS[:6]:
        append(log, record)
        log.roll()
    piece = log.read(4 * SIZE, 100, MAX_OFFSET)
    log.truncate(3 * SIZE)
    assert piece.read() == RECORDS[4], "a slice that is being sent outlives its segment"
    piece.release()
    assert (log.end_offset, log.flushed_offset, log.record_count) == (3 * SIZE, 3 * SIZE, 3)
    assert append(log, RECORDS[7]) == 3 * SIZE
    log.flush()
    filesystem.cut_power("nothing")
    log = reopen(filesystem)
    assert read_all(log) == b"".join([*RECORDS[:3], RECORDS[7]])


def test_truncating_to_a_segments_start_takes_the_segment_as_well(filesystem: FaultyFileSystem) -> None:
    """Its replica may have no segment that begins there."""
    log = make_log(filesystem)
    for record in RECORDS[:3]:
        append(log, record)
        log.roll()
    append(log, RECORDS[3])
    log.truncate(2 * SIZE)
    assert list(log.segment_starts) == [0, SIZE]
    assert append(log, RECORDS[7]) == 2 * SIZE
    log.truncate(0)
    assert list(log.segment_starts) == [0]
    append(log, RECORDS[6])
    log.flush()
    filesystem.cut_power("nothing")
    assert read_all(reopen(filesystem)) == RECORDS[6]


def test_truncating_outside_changes_nothing(filesystem: FaultyFileSystem) -> None:
    log = open_store(filesystem, filesystem.clock).create(NAME, DATA, 1000)
    append(log, RECORDS[0])
    for offset in (999, 1000 + SIZE + 1):
        with pytest.raises(OffsetOutOfRangeError):
            log.truncate(offset)
    log.truncate(1000 + SIZE)
    assert read_all(log) == RECORDS[0]


def test_truncating_withdraws_the_checkpoint_before_the_bytes_change(filesystem: FaultyFileSystem) -> None:
    log = make_log(filesystem)
    append(log, *RECORDS[:4])
    log.flush()
    log.write_checkpoint(clean=False)
    filesystem.calls.clear()
    log.truncate(SIZE)
    calls = filesystem.calls
    assert calls.index(Point.CHECKPOINT_REMOVE) < calls.index(Point.CHECKPOINT_SYNC_DIRECTORY)
    assert calls.index(Point.CHECKPOINT_SYNC_DIRECTORY) < calls.index(Point.TRUNCATE_CUT)


def test_a_truncation_that_fails_closes_the_log(filesystem: FaultyFileSystem) -> None:
    log = make_log(filesystem)
    append(log, *RECORDS[:4])
    fail_next(filesystem, Point.TRUNCATE_CUT, "EIO")
    with pytest.raises(LogFailedError):
        log.truncate(SIZE)
    with pytest.raises(LogFailedError):
        append(log, RECORDS[4])
    assert read_all(log) == RECORDS[0]


# Checkpoints, figures, the end.


def test_a_checkpoint_is_due_after_so_many_flushed_bytes(filesystem: FaultyFileSystem) -> None:
    store = open_store(filesystem, filesystem.clock, options(1 << 20, checkpoint_bytes=3 * SIZE))
    log = store.create(NAME, DATA)
    append(log, *RECORDS[:3])
    assert not is_checkpoint_due(log)
    log.flush()
    assert is_checkpoint_due(log)
    log.write_checkpoint(clean=False)
    assert not is_checkpoint_due(log)
    append(log, *RECORDS[3:6])
    log.flush()
    assert is_checkpoint_due(log)


def test_a_checkpoint_is_due_after_a_roll_so_that_a_crash_counts_right(filesystem: FaultyFileSystem) -> None:
    log = make_log(filesystem)
    append(log, *RECORDS[:3])
    log.roll()
    assert is_checkpoint_due(log)
    log.write_checkpoint(clean=False)
    assert not is_checkpoint_due(log)
    append(log, *RECORDS[3:5])
    assert reopen(filesystem).record_count == 5


def test_a_checkpoint_is_not_due_for_ever(filesystem: FaultyFileSystem) -> None:
    log = make_log(filesystem)
    append(log, RECORDS[0])
    log.flush()
    log.write_checkpoint(clean=False)
    log.roll()
    assert is_checkpoint_due(log)
    log.write_checkpoint(clean=False)
    assert not is_checkpoint_due(log)


def test_a_checkpoint_covers_only_what_is_flushed(filesystem: FaultyFileSystem) -> None:
    log = make_log(filesystem)
    append(log, *RECORDS[:2])
    log.flush()
    append(log, *RECORDS[2:4])
    log.write_checkpoint(clean=False)
    text = filesystem.read_bytes(DIRECTORY / "recovery.checkpoint").decode()
    assert f"\nend_offset {2 * SIZE}\n" in text
    assert "\nrecord_count 2\n" in text


@pytest.mark.parametrize(("kind", "error"), [("ENOSPC", DiskFullError), ("EIO", StorageError)])
def test_a_checkpoint_that_fails_harms_nothing(
    filesystem: FaultyFileSystem, kind: str, error: type[StorageError]
) -> None:
    store = open_store(filesystem, filesystem.clock, options(1 << 20, checkpoint_bytes=SIZE))
    log = store.create(NAME, DATA)
    append(log, RECORDS[0])
    log.flush()
    fail_next(filesystem, Point.CHECKPOINT_WRITE, kind)
    with pytest.raises(error):
        log.write_checkpoint(clean=False)
    assert log.failure is None
    assert not is_checkpoint_due(log), "not asked again at once"
    append(log, RECORDS[1])
    log.flush()
    assert is_checkpoint_due(log)
    log.write_checkpoint(clean=False)


def test_statistics(filesystem: FaultyFileSystem) -> None:
    log = make_log(filesystem)
    append(log, *RECORDS[:3])
    log.roll()
    append(log, *RECORDS[3:5])
    assert log.statistics() == LogStatistics(
        start_offset=0,
        end_offset=5 * SIZE,
        flushed_offset=3 * SIZE,
        segment_count=2,
        size_bytes=5 * SIZE,
        record_count=5,
        damaged_ranges=(),
    )


def test_a_closed_log_takes_nothing_but_finishes_what_is_being_read(filesystem: FaultyFileSystem) -> None:
    log = make_log(filesystem)
    append(log, RECORDS[0])
    piece = log.read(0, 100, MAX_OFFSET)
    log.close()
    assert piece.read() == RECORDS[0]
    piece.release()
    piece.release()
    with pytest.raises(OSError):
        piece.read()
    with pytest.raises(LogFailedError, match="closed"):
        append(log, RECORDS[1])


def test_closing_twice_writes_nothing_twice(filesystem: FaultyFileSystem) -> None:
    log = make_log(filesystem)
    append(log, RECORDS[0])
    log.close()
    calls = list(filesystem.calls)
    log.close()
    assert filesystem.calls == calls


# Threads, on the real filesystem.


def test_flushes_reads_and_retention_beside_appends(tmp_path: Path) -> None:
    store = open_store(RealFileSystem(), FakeClock(), options(1000, open_segments_max=2), tmp_path)
    log = store.create(NAME, tmp_path)
    problems: list[BaseException] = []
    is_over = threading.Event()
    expected = records(600)

    def repeat(step: object) -> None:
        try:
            while not is_over.is_set():
                step()  # type: ignore[operator]
        except BaseException as error:  # noqa: BLE001 - shown by the test's own thread
            problems.append(error)

    def flush() -> None:
        log.flush()
        assert log.flushed_offset <= log.end_offset

    def retain() -> None:
        log.delete_expired("delete", 0.0, False, 1e12)

    def read() -> None:
        start, end = log.start_offset, log.end_offset
        for offset in {start, (start + end) // 2 // SIZE * SIZE, max(start, end - SIZE)}:
            try:
                piece = log.read(offset, SIZE, end)
            except OffsetOutOfRangeError:
                assert offset == end or offset < log.start_offset
                continue
            assert piece.read() == expected[offset // SIZE]
            piece.release()

    threads = [threading.Thread(target=repeat, args=(step,)) for step in (flush, retain, read, read)]
    for thread in threads:
        thread.start()
    for record in expected:
        append(log, record)
        if log.needs_roll:
            log.roll()
    is_over.set()
    for thread in threads:
        thread.join()
    assert problems == []
    assert log.end_offset == 600 * SIZE
    assert read_all(log) == b"".join(expected)[log.start_offset :]
    store.close()
    assert open_store(RealFileSystem(), FakeClock(), path=tmp_path).reports[0].clean
