from __future__ import annotations

from pathlib import Path

import attrs
import pytest
from hypothesis import given
from hypothesis import strategies as st

from metaserver.storage import OffsetRange, Point
from metaserver.storage.checkpoint import (
    Checkpoint,
    decode_checkpoint,
    encode_checkpoint,
    fingerprint,
    load_checkpoint,
    save_checkpoint,
    withdraw_checkpoint,
)
from metaserver.storage.filesystem import make_directories
from tests.storage.faulty_filesystem import CrashedError, Fault, FaultyFileSystem

OFFSETS = st.integers(0, 2**63 - 1)
DIRECTORY = Path("/data/orders-0")

CHECKPOINTS = st.builds(
    Checkpoint,
    segment_start=OFFSETS,
    end_offset=OFFSETS,
    is_clean=st.booleans(),
    record_count=OFFSETS,
    last_message_id=st.none() | st.integers(-(2**63), 2**63 - 1),
    fingerprint=st.integers(0, 2**32 - 1),
    unreadable=st.lists(st.builds(OffsetRange, OFFSETS, OFFSETS), max_size=3).map(tuple),
)

EXAMPLE = Checkpoint(
    segment_start=1048576,
    end_offset=1310720,
    is_clean=False,
    record_count=12345,
    last_message_id=-7,
    fingerprint=0x9A3C11F0,
    unreadable=(OffsetRange(1050000, 1050120),),
)

GOLDEN = b"""metaserver recovery checkpoint 1
segment_start 1048576
end_offset 1310720
clean 0
record_count 12345
last_message_id -7
fingerprint 9a3c11f0
unreadable 1050000 1050120
crc dac0d720
"""


def test_the_bytes_of_the_file() -> None:
    assert encode_checkpoint(EXAMPLE) == GOLDEN
    assert decode_checkpoint(GOLDEN) == EXAMPLE


@given(checkpoint=CHECKPOINTS)
def test_decode_returns_what_encode_was_given(checkpoint: Checkpoint) -> None:
    assert decode_checkpoint(encode_checkpoint(checkpoint)) == checkpoint


@pytest.mark.parametrize("position", range(len(GOLDEN)))
def test_one_changed_or_missing_byte_makes_it_useless(position: int) -> None:
    changed = bytearray(GOLDEN)
    changed[position] ^= 1
    assert decode_checkpoint(bytes(changed)) is None
    assert decode_checkpoint(GOLDEN[:position]) is None
    assert decode_checkpoint(GOLDEN + GOLDEN[position:]) is None


@given(data=st.binary(max_size=300))
def test_any_bytes_are_answered(data: bytes) -> None:
    assert decode_checkpoint(data) is None


def test_save_load_withdraw() -> None:
    filesystem = FaultyFileSystem()
    make_directories(filesystem, DIRECTORY)
    assert load_checkpoint(filesystem, DIRECTORY) is None
    withdraw_checkpoint(filesystem, DIRECTORY)
    save_checkpoint(filesystem, DIRECTORY, EXAMPLE)
    filesystem.cut_power("nothing")
    assert load_checkpoint(filesystem, DIRECTORY) == EXAMPLE
    assert filesystem.list_directory(DIRECTORY) == ["recovery.checkpoint"]
    withdraw_checkpoint(filesystem, DIRECTORY)
    filesystem.cut_power("nothing")
    assert load_checkpoint(filesystem, DIRECTORY) is None


@pytest.mark.parametrize(
    "point",
    [
        Point.CHECKPOINT_CREATE,
        Point.CHECKPOINT_WRITE,
        Point.CHECKPOINT_SYNC,
        Point.CHECKPOINT_RENAME,
        Point.CHECKPOINT_SYNC_DIRECTORY,
    ],
)
@pytest.mark.parametrize("kind", ["crash before", "crash after"])
def test_after_a_crash_it_is_the_old_one_or_the_new_one(point: Point, kind: str) -> None:
    for choose in (lambda _below: 0, lambda below: below // 2, lambda below: below - 1):
        filesystem = FaultyFileSystem()
        make_directories(filesystem, DIRECTORY)
        save_checkpoint(filesystem, DIRECTORY, EXAMPLE)
        filesystem.calls.clear()
        filesystem.fault = Fault(point, 0, kind)  # type: ignore[arg-type]
        newer = attrs.evolve(EXAMPLE, end_offset=2_000_000, is_clean=True)
        with pytest.raises(CrashedError):
            save_checkpoint(filesystem, DIRECTORY, newer)
        filesystem.cut_power("prefix", choose)
        assert load_checkpoint(filesystem, DIRECTORY) in (EXAMPLE, newer)


def test_one_that_cannot_be_read_is_as_good_as_none() -> None:
    filesystem = FaultyFileSystem()
    make_directories(filesystem, DIRECTORY)
    save_checkpoint(filesystem, DIRECTORY, EXAMPLE)
    filesystem.read_error = True
    assert load_checkpoint(filesystem, DIRECTORY) is None


def test_the_fingerprint_is_of_the_bytes_just_before() -> None:
    filesystem = FaultyFileSystem()
    filesystem.write_bytes(Path("/data/file"), bytes(10_000))
    file = filesystem.open(Path("/data/file"), "write", Point.APPEND_WRITE)
    before = fingerprint(file, 8000)
    file.write([b"x"], 8000, Point.APPEND_WRITE)
    file.write([b"x"], 8000 - 4097, Point.APPEND_WRITE)
    assert fingerprint(file, 8000) == before
    for position in (7999, 8000 - 4096):
        file.write([b"x"], position, Point.APPEND_WRITE)
        assert fingerprint(file, 8000) != before
        file.write([b"\0"], position, Point.APPEND_WRITE)
    assert fingerprint(file, 0) == 0
