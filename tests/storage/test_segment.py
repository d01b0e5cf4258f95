from __future__ import annotations

from pathlib import Path

import pytest

from metaserver.storage.segment import LogSlice, OffsetRange, OpenSegments, Segment
from tests.storage.faulty_filesystem import FaultyFile, FaultyFileSystem

DIRECTORY = Path("/data/orders-0")


@pytest.fixture
def filesystem() -> FaultyFileSystem:
    filesystem = FaultyFileSystem()
    for number in range(5):
        filesystem.write_bytes(DIRECTORY / f"{number}", b"content %d" % number)
    return filesystem


def make_segment(filesystem: FaultyFileSystem, number: int, pool: OpenSegments) -> Segment:
    return Segment(DIRECTORY / f"{number}", number, filesystem, pool, 9)


def is_closed(file: object) -> bool:
    assert isinstance(file, FaultyFile)
    return file.is_closed


def test_a_range_knows_its_size() -> None:
    assert OffsetRange(10, 15).size_bytes == 5


def test_a_pinned_file_outlives_its_segment(filesystem: FaultyFileSystem) -> None:
    segment = make_segment(filesystem, 0, OpenSegments(10))
    file = segment.pin()
    assert segment.pin() is file
    segment.retire()
    segment.unpin()
    assert not is_closed(file)
    segment.unpin()
    assert is_closed(file)


def test_a_retired_segment_still_serves_who_saw_it_before(filesystem: FaultyFileSystem) -> None:
    segment = make_segment(filesystem, 0, OpenSegments(10))
    segment.retire()
    file = segment.pin()
    assert file.read(100, 0) == b"content 0"
    segment.unpin()
    assert is_closed(file)


def test_only_so_many_stay_open_for_reading(filesystem: FaultyFileSystem) -> None:
    pool = OpenSegments(2)
    segments = [make_segment(filesystem, number, pool) for number in range(5)]
    files = []
    for segment in segments:
        files.append(segment.pin())
        segment.unpin()
    assert [is_closed(file) for file in files] == [True, True, True, False, False]
    assert segments[0].pin() is not files[0]


def test_a_pinned_file_is_not_closed_for_others(filesystem: FaultyFileSystem) -> None:
    pool = OpenSegments(1)
    segments = [make_segment(filesystem, number, pool) for number in range(4)]
    files = [segment.pin() for segment in segments]
    assert not any(map(is_closed, files))
    for segment in segments[:3]:
        segment.unpin()
    extra = make_segment(filesystem, 4, pool)
    extra.pin()
    assert [is_closed(file) for file in files] == [True, True, True, False]


def test_the_writer_of_the_last_segment_is_never_closed_for_others(filesystem: FaultyFileSystem) -> None:
    pool = OpenSegments(1)
    last = make_segment(filesystem, 0, pool)
    last.unseal()
    reader = last.pin()
    last.unpin()
    writer = last.writer()
    assert is_closed(reader)
    assert last.pin() is writer
    last.unpin()
    for number in range(1, 4):
        make_segment(filesystem, number, pool).pin()
    assert not is_closed(writer)
    last.seal(9)
    other = make_segment(filesystem, 4, pool)
    other.pin()
    assert is_closed(writer)


def test_a_retired_segment_counts_no_more(filesystem: FaultyFileSystem) -> None:
    pool = OpenSegments(1)
    kept = make_segment(filesystem, 0, pool)
    gone = make_segment(filesystem, 1, pool)
    gone.pin()
    gone.retire()
    file = kept.pin()
    kept.unpin()
    gone.unpin()
    make_segment(filesystem, 2, OpenSegments(1)).pin()
    assert not is_closed(file)


def test_a_slice_lets_go_once(filesystem: FaultyFileSystem) -> None:
    segment = make_segment(filesystem, 3, OpenSegments(10))
    first = LogSlice(segment.pin(), 8, 1, 11, segment)
    second = LogSlice(segment.pin(), 0, 7, 3, segment)
    assert (first.read(), second.read()) == (b"3", b"content")
    segment.retire()
    first.release()
    first.release()
    assert not is_closed(second.file)
    second.release()
    assert is_closed(second.file)
