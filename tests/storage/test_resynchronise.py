"""The search against a slow one that tries every position; recovery's tests have the single cases."""

from __future__ import annotations

from pathlib import Path

from hypothesis import given, settings
from hypothesis import strategies as st

from metaserver.message import CHECKSUM_MASK, HEADER, HEADER_SIZE, checksum, encode_record
from metaserver.storage import File, Point
from metaserver.storage.resynchronise import scan_file
from tests.storage.faulty_filesystem import FaultyFileSystem

PATH = Path("/data/file")


def as_file(content: bytes) -> File:
    filesystem = FaultyFileSystem()
    filesystem.write_bytes(PATH, content)
    return filesystem.open(PATH, "read", Point.RECOVERY_READ)


def is_record(content: bytes, position: int) -> int:
    """The size of a valid record with data at a position, or 0."""
    if position + HEADER_SIZE > len(content):
        return 0
    length, expected, _id, _flag = HEADER.unpack_from(content, position)
    data = content[position + HEADER_SIZE : position + HEADER_SIZE + length] if length > 0 else b""
    if not data or len(data) < length or expected != checksum(data) & CHECKSUM_MASK:
        return 0
    return HEADER_SIZE + len(data)


JUNK = st.one_of(
    st.binary(max_size=50).map(lambda junk: b"\xff" + junk),
    # Shorter ones may make an empty record of what follows: eight zeros and an id.
    st.integers(20, 3000).map(bytes),
    st.binary(min_size=1, max_size=30).map(lambda junk: b"\xfe" + junk * 50),
)
RUN = st.lists(st.binary(min_size=1, max_size=40), min_size=1, max_size=3)


@given(pieces=st.lists(st.tuples(JUNK, RUN), min_size=1, max_size=3), flag=st.sampled_from([0, 1, 2, -1]))
@settings(max_examples=2 * settings().max_examples)
def test_it_finds_what_trying_every_position_finds(
    pieces: list[tuple[bytes, list[bytes]]], flag: int
) -> None:
    content = b"".join(
        junk + b"".join(encode_record(body, 10**15 + number, flag) for number, body in enumerate(run))
        for junk, run in pieces
    )
    damaged, position, count = [], 0, 0
    while position < len(content):
        size = is_record(content, position)
        if size:
            position += size
            count += 1
            continue
        start = position
        while position < len(content) and not is_record(content, position):
            position += 1
        damaged.append((start, position))
    result = scan_file(as_file(content), 0, len(content), None)
    assert result.end == len(content)
    assert (result.count, result.damaged) == (count, tuple(damaged))
    assert result.last_id == 10**15 + len(pieces[-1][1]) - 1


@given(start=st.integers(0, 100), bodies=RUN)
def test_a_scan_keeps_to_its_bounds(start: int, bodies: list[bytes]) -> None:
    content = b"".join(encode_record(body, number) for number, body in enumerate(bodies, 1))
    file = as_file(bytes(start) + content + content)
    result = scan_file(file, start, start + len(content), None)
    assert (result.end, result.count, result.last_id) == (start + len(content), len(bodies), len(bodies))


def test_nothing_to_scan() -> None:
    result = scan_file(as_file(b""), 0, 0, 5)
    assert (result.end, result.count, result.last_id, result.damaged) == (0, 0, None, ())
