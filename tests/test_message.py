from __future__ import annotations

import struct
import zlib
from itertools import pairwise

import attrs
import pytest
from hypothesis import given
from hypothesis import strategies as st

from metaserver.message import (
    MESSAGE_ID_EPOCH_MS,
    SEQUENCE_MAX,
    MessageIdSource,
    assign_ids,
    encode_record,
    encode_records,
    iterate_records,
    join_attribute,
    message_id_block,
    message_id_to_seconds,
    next_message_id,
    scan,
    split_attribute,
)
from metaserver.names import BrokerId

RECORDS = st.lists(
    st.tuples(st.binary(max_size=50), st.integers(-(2**63), 2**63 - 1), st.integers(-(2**31), 2**31 - 1)),
    max_size=8,
)


@attrs.define
class SetClock:
    now: float

    def wall_seconds(self) -> float:
        return self.now


def test_the_record_of_the_reference() -> None:
    record = encode_record(b"hello", 1)
    assert record == bytes.fromhex("00000005 3610a686 0000000000000001 00000000 68656c6c6f")


def test_the_checksum_is_masked() -> None:
    data = next(b"%d" % n for n in range(100) if zlib.crc32(b"%d" % n) > 0x7FFFFFFF)
    (stored,) = struct.unpack_from(">i", encode_record(data, 1), 4)
    assert stored == zlib.crc32(data) & 0x7FFFFFFF


def test_many_records_are_encoded_as_one_by_one() -> None:
    bodies = [b"", b"a", b"bc" * 100]
    checksums = [zlib.crc32(body) & 0x7FFFFFFF for body in bodies]
    together = encode_records(bodies, checksums, [1, -2, 3], [0, 1, -1])
    one_by_one = (encode_record(*one) for one in zip(bodies, [1, -2, 3], [0, 1, -1], strict=True))
    assert together == b"".join(one_by_one)


@given(RECORDS, st.sampled_from([bytes, bytearray, memoryview]))
def test_scan_finds_what_was_encoded(records: list[tuple[bytes, int, int]], kind: type) -> None:
    valid = [(data, message_id or 1, flag) for data, message_id, flag in records]
    encoded = b"".join(encode_record(*record) for record in valid)
    found = scan(kind(encoded))
    assert (found.end, found.count, found.fault) == (len(encoded), len(valid), None)
    assert found.first_id == (valid[0][1] if valid else None)
    assert found.last_id == (valid[-1][1] if valid else None)
    read = [(record.data, record.message_id, record.flag) for record in iterate_records(encoded)]
    assert read == valid
    assert [record.position for record in iterate_records(encoded)] == found.positions


@given(RECORDS, st.integers(0, 200))
def test_an_incomplete_record_ends_the_scan_without_a_fault(
    records: list[tuple[bytes, int, int]], cut: int
) -> None:
    whole = b"".join(encode_record(data, message_id or 1, flag) for data, message_id, flag in records)
    torn = whole + encode_record(b"x" * 181, 7)[:cut]
    found = scan(torn)
    assert (found.end, found.fault) == (len(whole), None)


@pytest.mark.parametrize(
    ("damage", "fault"),
    [
        (struct.pack(">iiqi", -1, 0, 1, 0), "negative length -1"),
        (bytes(20), "zeros"),
        (encode_record(b"abc", 1)[:-1] + b"x", "checksum mismatch"),
    ],
)
def test_what_can_never_become_a_record_is_named(damage: bytes, fault: str) -> None:
    good = encode_record(b"good", 1)
    found = scan(good + damage + good)
    assert (found.end, found.count, found.fault) == (len(good), 1, fault)
    assert len(list(iterate_records(good + damage + good))) == 1


def test_an_empty_record_with_an_id_is_a_record() -> None:
    assert scan(encode_record(b"", 1)).count == 1


def test_ids_are_written_in_place() -> None:
    records = bytearray(encode_record(b"a", 0) + encode_record(b"bb", 0, 1))
    found = scan(encode_record(b"a", 9) + encode_record(b"bb", 9, 1))
    assign_ids(records, found.positions, [5, -6])
    assert bytes(records) == encode_record(b"a", 5) + encode_record(b"bb", -6, 1)


@given(st.text(), st.binary())
def test_attributes_come_back(attribute: str, payload: bytes) -> None:
    attribute = attribute.encode(errors="replace").decode()
    assert split_attribute(*join_attribute(attribute, payload)) == (attribute, payload)


@pytest.mark.parametrize("data", [b"", b"\0\0\0", b"\0\0\0\5abcd", b"\xff\xff\xff\xff"])
def test_data_too_short_for_its_attribute_is_all_payload(data: bytes) -> None:
    assert split_attribute(1, data) == (None, data)


def test_an_id_holds_time_broker_and_sequence() -> None:
    source = MessageIdSource(BrokerId(7), SetClock(1_800_000_000.123))
    first = source.take(2)
    assert first >> 22 == 1_800_000_000_123 - MESSAGE_ID_EPOCH_MS
    assert (first >> 12) & 1023 == 7
    assert first & SEQUENCE_MAX == 0
    assert message_id_to_seconds(first) == pytest.approx(1_800_000_000.123)
    assert source.take(1) == first + 2


@given(st.lists(st.tuples(st.integers(1, 10_000), st.floats(-10, 10)), max_size=20), st.integers(0, 1023))
def test_ids_never_go_back_whatever_the_clock_does(steps: list[tuple[int, float]], broker: int) -> None:
    clock = SetClock(1_800_000_000.0)
    source = MessageIdSource(BrokerId(broker), clock)
    last = -(2**63)
    for count, clock_step in steps:
        block = list(message_id_block(source.take(count), count))
        assert len(block) == count
        assert last < block[0]
        assert all(next_message_id(a) == b for a, b in pairwise(block))
        assert all((one >> 12) & 1023 == broker for one in block)
        last = block[-1]
        clock.now += clock_step


@given(st.integers(0, 1023), st.integers(0, 1023), st.integers(0, SEQUENCE_MAX))
def test_ids_go_on_behind_those_of_another_broker(own: int, other: int, sequence: int) -> None:
    clock = SetClock(1_800_000_000.0)
    seen = ((1_800_000_100_000 - MESSAGE_ID_EPOCH_MS) << 22) | (other << 12) | sequence
    source = MessageIdSource(BrokerId(own), clock)
    source.observe(seen)
    source.observe(1)
    assert source.take(1) > seen
