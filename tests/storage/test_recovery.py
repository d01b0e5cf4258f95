"""Opening a partition: one case for each kind of damage, each with what must be left of it."""

from __future__ import annotations

from random import Random
from typing import TYPE_CHECKING

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from metaserver.errors import CorruptLogError, LogFailedError, OffsetInHoleError, StorageError
from metaserver.message import HEADER, HEADER_SIZE, encode_record
from metaserver.storage import OffsetRange, Point
from metaserver.storage.repair import repair_range
from tests.storage.faulty_filesystem import Fault, FaultyFileSystem
from tests.storage.support import (
    DIRECTORY,
    NAME,
    append,
    open_store,
    options,
    read_all,
    readable_records,
    records,
    segment_path,
)

if TYPE_CHECKING:
    from metaserver.storage import MessageStore, PartitionLog, RecoveryReport

RECORDS = records(10)
SIZE = len(RECORDS[0])
WHOLE = b"".join(RECORDS)


@pytest.fixture
def filesystem() -> FaultyFileSystem:
    return FaultyFileSystem()


def reopen(filesystem: FaultyFileSystem) -> tuple[MessageStore, PartitionLog, RecoveryReport]:
    filesystem.restart()
    store = open_store(filesystem, filesystem.clock, options(segment_bytes_max=1 << 20))
    assert not store.failed
    (report,) = store.reports
    assert report.topic_partition == NAME
    return store, store.partitions[NAME], report


def check_takes_appends(filesystem: FaultyFileSystem, log: PartitionLog) -> None:
    """After a repair: write again, read back, also after another restart."""
    before = read_all(log)
    more = records(3, first_id=1000)
    offset = append(log, *more)
    log.flush()
    assert read_all(log) == before + b"".join(more)
    _, again, report = reopen(filesystem)
    assert read_all(again) == before + b"".join(more)
    assert again.end_offset == offset + sum(map(len, more))
    assert report.bytes_cut == 0


# A whole log.


def test_a_whole_log_without_checkpoint_is_read_completely(filesystem: FaultyFileSystem) -> None:
    filesystem.write_bytes(segment_path(0), WHOLE)
    _, log, report = reopen(filesystem)
    assert (report.records_scanned, report.bytes_scanned) == (10, len(WHOLE))
    assert (report.bytes_cut, report.torn_file, report.damaged_ranges, report.holes) == (0, None, (), ())
    assert report.highest_message_id == 10
    assert not report.clean
    assert (log.end_offset, log.flushed_offset, log.record_count) == (len(WHOLE), len(WHOLE), 10)
    check_takes_appends(filesystem, log)


def test_records_without_data_are_records(filesystem: FaultyFileSystem) -> None:
    content = encode_record(b"", 5) + encode_record(b"", -6) + encode_record(b"", 7)
    filesystem.write_bytes(segment_path(0), content)
    _, log, report = reopen(filesystem)
    assert report.records_scanned == 3
    assert read_all(log) == content


def test_a_java_directory(filesystem: FaultyFileSystem) -> None:
    """Two segments, ids below zero and restarting lower, names that are not for us beside them."""
    first = b"".join(encode_record(b"body %d" % number, -(10**15) + number) for number in range(20))
    second = b"".join(encode_record(b"tail %d" % number, -(10**17) + number) for number in range(20))
    filesystem.write_bytes(segment_path(0), first)
    filesystem.write_bytes(segment_path(len(first)), second)
    filesystem.write_bytes(DIRECTORY / "00000000000000000000.meta.arc", b"archived")
    filesystem.write_bytes(DIRECTORY / "00000000000000000000.meta.zip", b"archived")
    filesystem.write_bytes(DIRECTORY / "notes.txt", b"anything")
    store, log, report = reopen(filesystem)
    assert read_all(log) == first + second
    assert report.bytes_scanned == len(second)
    assert store.highest_message_id == -(10**17) + 19
    store.close()
    names = filesystem.list_directory(DIRECTORY)
    assert sorted(name for name in names if name.endswith(".meta")) == [
        segment_path(0).name,
        segment_path(len(first)).name,
    ]
    assert filesystem.read_bytes(segment_path(len(first))) == second


def test_what_another_broker_never_synced_is_durable_once_it_is_served(filesystem: FaultyFileSystem) -> None:
    open_store(filesystem, filesystem.clock).close()
    filesystem.make_directory(DIRECTORY, Point.CREATE_DIRECTORY)
    filesystem.open(segment_path(0), "create", Point.ROLL_CREATE).write([WHOLE], 0, Point.APPEND_WRITE)
    _, log, _ = reopen(filesystem)
    assert read_all(log) == WHOLE
    filesystem.cut_power("nothing")
    _, log, _ = reopen(filesystem)
    assert read_all(log) == WHOLE


def test_a_directory_without_segments_is_no_partition_yet(filesystem: FaultyFileSystem) -> None:
    filesystem.write_bytes(DIRECTORY / "notes.txt", b"anything")
    store = open_store(filesystem, filesystem.clock)
    assert not store.partitions
    assert not store.failed
    log = store.create(NAME, DIRECTORY.parent, 500)
    assert (log.start_offset, log.end_offset) == (500, 500)


def test_offsets_do_not_restart_when_all_segments_were_removed(filesystem: FaultyFileSystem) -> None:
    filesystem.write_bytes(segment_path(0), WHOLE)
    store, _, _ = reopen(filesystem)
    store.close()
    filesystem.delete(segment_path(0))
    store, log, report = reopen(filesystem)
    assert (log.start_offset, log.end_offset) == (len(WHOLE), len(WHOLE))
    assert report.highest_message_id == 10
    check_takes_appends(filesystem, log)


# Torn tails.


@pytest.mark.parametrize("length", [1, 4, 19, 20, 21, SIZE - 1])
def test_a_record_cut_short_is_torn(filesystem: FaultyFileSystem, length: int) -> None:
    torn = encode_record(b"never finished" * 3, 99)[:length]
    filesystem.write_bytes(segment_path(0), WHOLE + torn)
    _, log, report = reopen(filesystem)
    assert report.bytes_cut == length
    assert read_all(log) == WHOLE
    assert filesystem.read_bytes(segment_path(0)) == WHOLE
    content = torn.rstrip(b"\0")
    if content:
        assert report.torn_file == DIRECTORY / f"{0:020d}.torn-{len(WHOLE)}"
        assert filesystem.read_bytes(report.torn_file) == content
    check_takes_appends(filesystem, log)


@pytest.mark.parametrize("length", [1, 19, 20, 40, 4096, 3_000_000])
def test_zeros_at_the_end_are_torn(filesystem: FaultyFileSystem, length: int) -> None:
    filesystem.write_bytes(segment_path(0), WHOLE + bytes(length))
    _, log, report = reopen(filesystem)
    assert (report.bytes_cut, report.torn_file) == (length, None)
    assert filesystem.read_bytes(segment_path(0)) == WHOLE
    check_takes_appends(filesystem, log)


def test_a_record_whose_end_is_zeros_is_torn(filesystem: FaultyFileSystem) -> None:
    record = encode_record(bytes(range(1, 251)) * 40, 99)
    torn = record[:5000] + bytes(len(record) - 5000)
    filesystem.write_bytes(segment_path(0), WHOLE + torn + bytes(8192))
    _, log, report = reopen(filesystem)
    assert report.bytes_cut == len(torn) + 8192
    assert report.torn_file is not None
    assert filesystem.read_bytes(report.torn_file) == record[:5000]
    assert read_all(log) == WHOLE


def test_a_bad_last_record_is_torn(filesystem: FaultyFileSystem) -> None:
    bad = bytearray(encode_record(b"last words", 99))
    bad[-1] ^= 1
    filesystem.write_bytes(segment_path(0), WHOLE + bad)
    _, log, report = reopen(filesystem)
    assert report.bytes_cut == len(bad)
    assert read_all(log) == WHOLE


def test_records_inside_a_torn_message_are_not_delivered(filesystem: FaultyFileSystem) -> None:
    """Somebody sends a log as a message, and the power goes while it is written."""
    torn = encode_record(b"log: " + WHOLE + b" and more", 99)[:-5]
    filesystem.write_bytes(segment_path(0), WHOLE + torn)
    _, log, report = reopen(filesystem)
    assert report.bytes_cut == len(torn)
    assert read_all(log) == WHOLE


@pytest.mark.parametrize("written", [40, SIZE + 30, 3 * SIZE + 30])
def test_records_inside_a_message_whose_end_became_zeros_are_not_delivered(
    filesystem: FaultyFileSystem, written: int
) -> None:
    """The power went when the file had its length and not yet its bytes (seed 20808)."""
    inside = encode_record(b"log: " + WHOLE + b" and more", 99)
    behind = encode_record(b"behind", 100)
    torn = inside[:written] + bytes(len(inside) - written + len(behind))
    filesystem.write_bytes(segment_path(0), WHOLE + torn)
    _, log, report = reopen(filesystem)
    assert (report.bytes_cut, report.damaged_ranges) == (len(torn), ())
    assert read_all(log) == WHOLE


def test_records_of_another_log_inside_a_torn_message_are_not_delivered(filesystem: FaultyFileSystem) -> None:
    """They may be younger than the last message before, but not than the torn one."""
    now = 400_000_000_000 << 22
    inside = b"".join(
        encode_record(b"elsewhere %d" % number, now - (5000 << 22) + number) for number in range(9)
    )
    torn = encode_record(inside + b" and more", now)[:-5]
    content = WHOLE[:SIZE] + encode_record(b"before", now - (100_000 << 22))
    filesystem.write_bytes(segment_path(0), content + torn)
    _, log, report = reopen(filesystem)
    assert report.bytes_cut == len(torn)
    assert read_all(log) == content


def test_a_header_damaged_in_length_checksum_and_id_does_not_hide_what_follows(
    filesystem: FaultyFileSystem,
) -> None:
    """It looks like a long record cut short; but its id is far off."""
    content = bytearray(WHOLE)
    content[3 * SIZE + 1 : 3 * SIZE + 9] = b"\x7f\x11\x22\x33\x44\x55\x66\x01"
    check_damage(filesystem, bytes(content), [(3 * SIZE, 4 * SIZE)], 9)


def test_an_empty_segment_after_a_torn_one_needs_nothing(filesystem: FaultyFileSystem) -> None:
    filesystem.write_bytes(segment_path(0), encode_record(b"never finished", 1)[:-2])
    _, log, report = reopen(filesystem)
    assert (log.start_offset, log.end_offset, report.bytes_cut) == (0, 0, 32)
    check_takes_appends(filesystem, log)


def test_each_torn_tail_is_kept(filesystem: FaultyFileSystem) -> None:
    kept = []
    for number in range(3):
        torn = b"\1\2\3 torn the %d. time" % number
        filesystem.write_bytes(segment_path(0), WHOLE + torn)
        _, _, report = reopen(filesystem)
        assert report.torn_file is not None
        kept.append((report.torn_file, torn))
    assert len({path for path, _ in kept}) == 3
    assert all(filesystem.read_bytes(path) == torn for path, torn in kept)


def test_a_tail_that_cannot_be_kept_is_not_cut(filesystem: FaultyFileSystem) -> None:
    torn = b"\1\2\3 torn"
    filesystem.write_bytes(segment_path(0), WHOLE + torn)
    filesystem.capacity_bytes = filesystem.used_bytes() + 2
    _, log, _ = reopen(filesystem)
    assert isinstance(log.failure, LogFailedError)
    assert read_all(log) == WHOLE
    with pytest.raises(LogFailedError):
        append(log, RECORDS[0])
    assert filesystem.read_bytes(segment_path(0)) == WHOLE + torn
    filesystem.capacity_bytes = None
    _, log, report = reopen(filesystem)
    assert report.bytes_cut == len(torn)
    check_takes_appends(filesystem, log)


# Damage with something valid behind it.


def check_damage(
    filesystem: FaultyFileSystem, content: bytes, damaged: list[tuple[int, int]], count: int
) -> None:
    """Nothing is cut; reads skip exactly the damage; the next opening remembers; the log goes on."""
    filesystem.write_bytes(segment_path(0), content)
    store, log, report = reopen(filesystem)
    assert report.damaged_ranges == tuple(OffsetRange(start, end) for start, end in damaged)
    assert (report.bytes_cut, report.records_scanned) == (0, count)
    assert filesystem.read_bytes(segment_path(0)) == content
    found = readable_records(log)
    assert len(found) == count
    for start, end in damaged:
        for offset in (start, end - 1):
            with pytest.raises(OffsetInHoleError) as caught:
                log.read(offset, 1000, log.end_offset)
            assert caught.value.next_offset == end
        if start:
            before = log.read(max(at for at in found if at < start), 1 << 30, log.end_offset)
            assert before.offset + before.size == start
    assert log.statistics().damaged_ranges == report.damaged_ranges
    # Another broker would cut a damaged last segment; so it does not stay the last.
    assert log.needs_roll
    log.roll()
    append(log, RECORDS[0])
    store.close()
    _, again, report = reopen(filesystem)
    assert report.clean
    assert report.damaged_ranges == tuple(OffsetRange(start, end) for start, end in damaged)
    assert readable_records(again) == {**found, len(content): readable_records(again)[len(content)]}


@pytest.mark.parametrize("number", range(9))
@pytest.mark.parametrize("position", [0, 1, 2, 3, 4, 7, 20, 35, SIZE - 1])
@pytest.mark.parametrize("bit", [0, 3, 7])
def test_a_flipped_bit_costs_one_record(
    filesystem: FaultyFileSystem, number: int, position: int, bit: int
) -> None:
    content = bytearray(WHOLE)
    content[number * SIZE + position] ^= 1 << bit
    check_damage(filesystem, bytes(content), [(number * SIZE, (number + 1) * SIZE)], 9)


def test_a_length_flipped_onto_another_boundary_costs_one_record(filesystem: FaultyFileSystem) -> None:
    """44 bytes of data become 108: a multiple of the record size, so the next header is valid."""
    content = bytearray(b"".join(records(10, size=44)))
    content[64 * 3 + 3] ^= 64
    check_damage(filesystem, bytes(content), [(64 * 3, 64 * 4)], 9)


def test_a_length_flipped_beyond_the_file_where_ids_go_back(filesystem: FaultyFileSystem) -> None:
    """A Java broker's ids begin lower after its machine restarted; the checksum tells what is wrong."""
    content = bytearray(encode_record(b"before the restart", 10**12) + WHOLE)
    content[1] ^= 1
    check_damage(filesystem, bytes(content), [(0, 38)], 10)


def test_damage_in_several_places(filesystem: FaultyFileSystem) -> None:
    content = bytearray(WHOLE)
    for number in (1, 2, 5):
        content[number * SIZE + 25] ^= 1
    check_damage(
        filesystem,
        bytes(content),
        [(SIZE, 3 * SIZE), (5 * SIZE, 6 * SIZE)],
        7,
    )


@pytest.mark.parametrize("filling", [b"\0", b"\xff", b"\x01", b"garbage!"])
@pytest.mark.parametrize(("start", "end"), [(SIZE, 3 * SIZE), (SIZE + 10, 3 * SIZE + 10), (0, 5 * SIZE - 1)])
def test_a_lost_block(filesystem: FaultyFileSystem, filling: bytes, start: int, end: int) -> None:
    content = bytearray(WHOLE)
    content[start:end] = (filling * len(WHOLE))[: end - start]
    first, last = start // SIZE, -(-end // SIZE)
    check_damage(filesystem, bytes(content), [(first * SIZE, last * SIZE)], 10 - (last - first))


def test_a_large_lost_block_is_searched_fast(filesystem: FaultyFileSystem) -> None:
    content = WHOLE + bytes(40_000_000) + WHOLE
    check_damage(filesystem, content, [(len(WHOLE), len(WHOLE) + 40_000_000)], 20)


def test_damage_inside_a_message_that_holds_records(filesystem: FaultyFileSystem) -> None:
    """The records in its body are not messages of this log."""
    nested = bytearray(encode_record(b"log: " + WHOLE + b" end", 99))
    nested[-1] ^= 1
    content = WHOLE + bytes(nested) + encode_record(b"behind", 100)
    check_damage(filesystem, content, [(len(WHOLE), len(WHOLE) + len(nested))], 11)


def test_an_older_record_behind_two_damaged_ones(filesystem: FaultyFileSystem) -> None:
    """Messages of a transaction have their ids from before its commit."""
    damaged = bytearray(encode_record(b"one", 99) + encode_record(b"another", 100))
    damaged[HEADER_SIZE] ^= 1
    damaged[-1] ^= 1
    content = WHOLE + bytes(damaged) + encode_record(b"of a transaction", 50)
    check_damage(filesystem, content, [(len(WHOLE), len(WHOLE) + len(damaged))], 11)


def test_a_record_with_reserved_flags_is_found_behind_damage(filesystem: FaultyFileSystem) -> None:
    odd = encode_record(b"reserved bits are stored untouched", 99, flag=-0x12345678)
    content = WHOLE + b"\xff" * 100 + odd
    check_damage(filesystem, content, [(len(WHOLE), len(WHOLE) + 100)], 11)


def test_records_larger_than_the_window_of_the_scan(filesystem: FaultyFileSystem) -> None:
    large = encode_record(b"0123456789" * 600_000, 50)
    damaged = bytearray(large)
    damaged[3_000_000] ^= 1
    content = WHOLE + large + bytes(damaged) + large + RECORDS[0]
    start = len(WHOLE) + len(large)
    check_damage(filesystem, content, [(start, start + len(large))], 13)


def test_a_body_made_of_headers_ends_the_search_without_a_cut(filesystem: FaultyFileSystem) -> None:
    """Every twenty bytes announce a megabyte: what is not known to be torn is kept."""
    hostile = b"\xff" * 8 + HEADER.pack(1_000_000, 1, 1, 0) * 100_000
    filesystem.write_bytes(segment_path(0), WHOLE + hostile)
    _, log, report = reopen(filesystem)
    assert report.bytes_cut == 0
    assert report.damaged_ranges == (OffsetRange(len(WHOLE), len(WHOLE) + len(hostile)),)
    assert len(readable_records(log)) == 10
    check_takes_appends(filesystem, log)


@given(
    bodies=st.lists(st.binary(max_size=40), min_size=3, max_size=8),
    seed=st.integers(0, 2**32),
    zeros=st.booleans(),
)
@settings(max_examples=6 * settings().max_examples)
def test_overwriting_any_piece_never_costs_a_whole_record(
    bodies: list[bytes], seed: int, zeros: bool
) -> None:
    random = Random(seed)
    originals = [encode_record(b"." + body, number) for number, body in enumerate(bodies, 1)]
    content = bytearray(b"".join(originals))
    start = random.randrange(len(content))
    size = min(random.randint(1, 60), len(content) - start)
    content[start : start + size] = bytes(size) if zeros else random.randbytes(size)
    filesystem = FaultyFileSystem()
    filesystem.write_bytes(segment_path(0), bytes(content))
    _, log, report = reopen(filesystem)
    found = readable_records(log)
    offset = 0
    for original in originals:
        if content[offset : offset + len(original)] == original:
            assert offset in found
            assert encode_record(found[offset].data, found[offset].message_id) == original
        offset += len(original)
    assert log.end_offset + report.bytes_cut == len(content)


# Segments that do not join.


def test_a_missing_segment_is_a_hole(filesystem: FaultyFileSystem) -> None:
    for number in (0, 1, 3):
        filesystem.write_bytes(segment_path(number * len(WHOLE)), WHOLE)
    _, log, report = reopen(filesystem)
    hole = OffsetRange(2 * len(WHOLE), 3 * len(WHOLE))
    assert report.holes == (hole,)
    assert report.damaged_ranges == ()
    assert read_all(log) == WHOLE * 3
    statistics = log.statistics()
    assert (statistics.size_bytes, statistics.damaged_ranges) == (3 * len(WHOLE), (hole,))
    with pytest.raises(OffsetInHoleError) as caught:
        log.read(hole.start + 5, 10, log.end_offset)
    assert caught.value.next_offset == hole.end
    with pytest.raises(OffsetInHoleError):
        log.truncate(hole.start + 5)
    log.truncate(hole.start)
    assert log.end_offset == hole.start
    assert log.statistics().damaged_ranges == ()
    check_takes_appends(filesystem, log)


@pytest.mark.parametrize("size", [0, 7, SIZE + 1, len(WHOLE) - 7])
def test_what_a_sealed_segment_lacks_that_was_cut_short_is_damage(
    filesystem: FaultyFileSystem, size: int
) -> None:
    """It has its length again, so that another replica's bytes have their place."""
    filesystem.write_bytes(segment_path(0), WHOLE[:size])
    filesystem.write_bytes(segment_path(len(WHOLE)), WHOLE)
    store, log, report = reopen(filesystem)
    lost = OffsetRange(size // SIZE * SIZE, len(WHOLE))
    assert (report.holes, report.damaged_ranges) == ((), (lost,))
    assert read_all(log) == WHOLE[: lost.start] + WHOLE
    store.close()
    _, log, report = reopen(filesystem)
    assert report.bytes_scanned == 0
    assert (report.holes, report.damaged_ranges) == ((), (lost,))
    repair_range(filesystem, log, NAME, lost.start, WHOLE[lost.start :], "a test")
    assert read_all(log) == WHOLE + WHOLE
    assert filesystem.read_bytes(segment_path(0)) == WHOLE


def test_on_a_disk_that_takes_nothing_a_segment_that_was_cut_short_stays_so(
    filesystem: FaultyFileSystem,
) -> None:
    filesystem.write_bytes(segment_path(0), WHOLE[:-7])
    filesystem.write_bytes(segment_path(len(WHOLE)), WHOLE)
    filesystem.fault = Fault(Point.RECOVERY_CUT, 0, "EIO")
    store = open_store(filesystem, filesystem.clock)
    log, (report,) = store.partitions[NAME], store.reports
    assert report.holes == (OffsetRange(len(WHOLE) - 7, len(WHOLE)),)
    assert report.damaged_ranges == (OffsetRange(9 * SIZE, len(WHOLE) - 7),)
    assert read_all(log) == WHOLE[: 9 * SIZE] + WHOLE


def test_a_segment_that_ends_with_a_record_before_a_hole_stays_as_it_is(filesystem: FaultyFileSystem) -> None:
    """Whole files may be missing behind it, and nobody knows where they began."""
    filesystem.write_bytes(segment_path(0), WHOLE[: 9 * SIZE])
    filesystem.write_bytes(segment_path(len(WHOLE)), WHOLE)
    _, log, report = reopen(filesystem)
    assert (report.holes, report.damaged_ranges) == ((OffsetRange(9 * SIZE, len(WHOLE)),), ())
    assert read_all(log) == WHOLE[: 9 * SIZE] + WHOLE


def test_an_overlap_stops_the_opening(filesystem: FaultyFileSystem) -> None:
    filesystem.write_bytes(segment_path(0), WHOLE)
    filesystem.write_bytes(segment_path(SIZE), WHOLE)
    store = open_store(filesystem, filesystem.clock)
    error = store.failed[NAME]
    assert isinstance(error, CorruptLogError)
    assert (error.path, error.position) == (segment_path(0), SIZE)
    with pytest.raises(CorruptLogError):
        store.create(NAME, DIRECTORY.parent)


@pytest.mark.parametrize(
    "name", ["1024.meta", "backup.meta", "0000000000000000000x.meta", "99999999999999999999.meta"]
)
def test_a_stray_file_that_looks_like_a_segment_stops_the_opening(
    filesystem: FaultyFileSystem, name: str
) -> None:
    filesystem.write_bytes(segment_path(0), WHOLE)
    filesystem.write_bytes(DIRECTORY / name, b"")
    store = open_store(filesystem, filesystem.clock)
    error = store.failed[NAME]
    assert isinstance(error, CorruptLogError)
    assert error.path == DIRECTORY / name
    assert name in str(error)


def test_a_directory_that_looks_like_a_segment_is_ignored(filesystem: FaultyFileSystem) -> None:
    filesystem.write_bytes(segment_path(0), WHOLE)
    filesystem.make_directory(DIRECTORY / "old.meta", Point.CREATE_DIRECTORY)
    _, log, _ = reopen(filesystem)
    assert read_all(log) == WHOLE


# The checkpoint.


def make_log(filesystem: FaultyFileSystem) -> tuple[MessageStore, PartitionLog]:
    store = open_store(filesystem, filesystem.clock, options(segment_bytes_max=1 << 20))
    log = store.create(NAME, DIRECTORY.parent)
    append(log, *RECORDS)
    log.flush()
    return store, log


def test_after_a_crash_only_what_follows_the_checkpoint_is_read(filesystem: FaultyFileSystem) -> None:
    _, log = make_log(filesystem)
    log.write_checkpoint(clean=False)
    append(log, *records(3, first_id=11))
    _, log, report = reopen(filesystem)
    assert (report.bytes_scanned, report.records_scanned) == (3 * SIZE, 3)
    assert (log.record_count, report.highest_message_id, report.clean) == (13, 13, False)


def test_a_clean_checkpoint_of_another_size_is_not_believed_to_be_clean(filesystem: FaultyFileSystem) -> None:
    store, _ = make_log(filesystem)
    store.close()
    _, log, report = reopen(filesystem)
    assert report.clean
    append(log, *records(2, first_id=11))
    _, log, report = reopen(filesystem)
    assert not report.clean
    assert report.bytes_scanned == 2 * SIZE
    assert log.record_count == 12


def test_a_roll_alone_is_remembered_by_a_clean_stop(filesystem: FaultyFileSystem) -> None:
    store, _ = make_log(filesystem)
    store.close()
    store, log, _ = reopen(filesystem)
    log.roll()
    store.close()
    _, log, report = reopen(filesystem)
    assert report.clean
    assert log.statistics().segment_count == 2


def test_what_another_broker_changed_in_place_is_noticed(filesystem: FaultyFileSystem) -> None:
    store, _ = make_log(filesystem)
    store.close()
    # The other one cut three records and wrote others, up to the very same size.
    changed = WHOLE[: 7 * SIZE] + b"".join(records(3, first_id=500))
    filesystem.write_bytes(segment_path(0), changed)
    _, log, report = reopen(filesystem)
    assert not report.clean
    assert report.bytes_scanned == len(WHOLE)
    assert report.highest_message_id == 502
    assert read_all(log) == changed


@pytest.mark.parametrize(
    ("left", "kept"),
    [
        (WHOLE[: 4 * SIZE], 4),
        (WHOLE[: 4 * SIZE + 5], 4),
        (WHOLE[:-1] + b"?", 9),
        (bytes(len(WHOLE)), 0),
        (b"", 0),
    ],
)
def test_what_a_checkpoint_vouches_for_stays_a_part_of_the_log(
    filesystem: FaultyFileSystem, left: bytes, kept: int
) -> None:
    """Or its offsets were given out twice, with a replica that still has the first messages."""
    store, _ = make_log(filesystem)
    store.close()
    filesystem.write_bytes(segment_path(0), left)
    store, log, report = reopen(filesystem)
    lost = OffsetRange(kept * SIZE, len(WHOLE))
    assert (report.bytes_missing, report.damaged_ranges) == (lost.end - lost.start, (lost,))
    assert (log.end_offset, log.last_message_id) == (len(WHOLE), 10)
    assert read_all(log) == WHOLE[: lost.start]
    # A crash before the next checkpoint changes nothing.
    store, log, report = reopen(filesystem)
    assert report.damaged_ranges == (lost,)
    append(log, *records(2, first_id=50))
    store.close()
    _, log, report = reopen(filesystem)
    assert report.damaged_ranges == (lost,)
    repair_range(filesystem, log, NAME, lost.start, WHOLE[lost.start :], "a test")
    assert read_all(log) == WHOLE + b"".join(records(2, first_id=50))


def test_a_last_segment_that_is_gone_is_made_anew(filesystem: FaultyFileSystem) -> None:
    filesystem.write_bytes(segment_path(0), WHOLE)
    filesystem.write_bytes(segment_path(len(WHOLE)), WHOLE)
    store, _, _ = reopen(filesystem)
    store.close()
    filesystem.remove(segment_path(len(WHOLE)), Point.RETENTION_REMOVE)
    _, log, report = reopen(filesystem)
    assert report.damaged_ranges == (OffsetRange(len(WHOLE), 2 * len(WHOLE)),)
    assert log.end_offset == 2 * len(WHOLE)
    assert read_all(log) == WHOLE
    repair_range(filesystem, log, NAME, len(WHOLE), WHOLE, "a test")
    assert read_all(log) == WHOLE * 2


def test_truncating_and_appending_up_to_the_checkpoint_does_not_fool_the_next_opening(
    filesystem: FaultyFileSystem,
) -> None:
    store, _ = make_log(filesystem)
    store.close()
    store, log, _ = reopen(filesystem)
    log.truncate(5 * SIZE)
    append(log, *records(5, first_id=500))
    filesystem.cut_power("zeros", lambda below: below // 2 if below > 2 else 0)
    assert filesystem.size(segment_path(0)) == len(WHOLE)
    _, log, report = reopen(filesystem)
    assert read_all(log)[: 5 * SIZE] == WHOLE[: 5 * SIZE]
    assert not report.clean
    assert report.bytes_cut > 0


def test_ids_are_found_before_an_empty_last_segment(filesystem: FaultyFileSystem) -> None:
    filesystem.write_bytes(segment_path(0), WHOLE)
    filesystem.write_bytes(segment_path(len(WHOLE)), b"")
    store, log, report = reopen(filesystem)
    assert report.highest_message_id == store.highest_message_id == 10
    assert report.bytes_scanned == len(WHOLE)
    assert log.end_offset == len(WHOLE)


def test_ids_of_a_log_that_rolled_after_its_checkpoint(filesystem: FaultyFileSystem) -> None:
    _, log = make_log(filesystem)
    log.write_checkpoint(clean=False)
    append(log, *records(2, first_id=11))
    log.roll()
    _, log, report = reopen(filesystem)
    assert (report.highest_message_id, report.bytes_scanned, log.record_count) == (12, 2 * SIZE, 12)


def test_one_bad_partition_does_not_stop_the_others(filesystem: FaultyFileSystem) -> None:
    filesystem.write_bytes(segment_path(0), WHOLE)
    filesystem.write_bytes(DIRECTORY.parent / "bad-1" / "x.meta", b"")
    filesystem.write_bytes(DIRECTORY.parent / "worse-2" / segment_path(0).name, WHOLE)
    filesystem.fault = Fault(Point.RECOVERY_READ, 1, "EIO")
    store = open_store(filesystem, filesystem.clock)
    assert list(store.partitions) == [NAME]
    assert {str(name) for name in store.failed} == {"bad-1", "worse-2"}
    assert all(isinstance(error, StorageError) for error in store.failed.values())


def test_the_report_knows_how_long_it_took(filesystem: FaultyFileSystem) -> None:
    filesystem.write_bytes(segment_path(0), WHOLE)
    filesystem.on_call = lambda point: filesystem.clock.advance(2) if point is Point.RECOVERY_SYNC else None
    _, _, report = reopen(filesystem)
    assert report.seconds == 2


def test_two_gaps_that_join_are_no_damage(filesystem: FaultyFileSystem) -> None:
    """An empty segment between them, from a crash in the second; the checkpoint has both as one range."""
    store = open_store(filesystem, filesystem.clock)
    log = store.create(NAME, DIRECTORY.parent)
    append(log, *RECORDS)
    log.flush()
    end = log.end_offset
    log.skip_to(end + 900)
    log.write_checkpoint(clean=False)
    filesystem.write_bytes(segment_path(end + 500), b"")
    _, log, report = reopen(filesystem)
    assert (report.damaged_ranges, report.holes) == ((), ())
    assert report.gaps == (OffsetRange(end, end + 500), OffsetRange(end + 500, end + 900))
    assert log.unreadable == (OffsetRange(end, end + 900),)


def test_damage_that_joins_a_gap_is_told_without_it(filesystem: FaultyFileSystem) -> None:
    store = open_store(filesystem, filesystem.clock)
    log = store.create(NAME, DIRECTORY.parent)
    append(log, *RECORDS)
    log.flush()
    end, start = log.end_offset, log.end_offset + 900
    log.skip_to(start)
    append(log, *RECORDS)
    log.flush()
    filesystem.flip(segment_path(start), SIZE - 1)
    log.set_unreadable(OffsetRange(start, start + SIZE))
    log.write_checkpoint(clean=False)
    _, log, report = reopen(filesystem)
    assert report.damaged_ranges == (OffsetRange(start, start + SIZE),)
    assert (report.holes, report.gaps) == ((), (OffsetRange(end, start),))
    assert log.unreadable == (OffsetRange(end, start + SIZE),)
