"""Messages out of log bytes: the fast pass finds what the plain one finds."""

from __future__ import annotations

from itertools import pairwise

from hypothesis import given
from hypothesis import strategies as st

from metaserver.client.partition import Partition
from metaserver.client.received import decode_messages
from metaserver.message import encode_record, iterate_records, join_attribute

PARTITION = Partition("t", 0, 0)
RECORDS = st.lists(
    st.tuples(st.none() | st.text(max_size=5), st.binary(max_size=30), st.integers(-(2**63), 2**63 - 1)),
    max_size=6,
)


def encode(records: list[tuple[str | None, bytes, int]]) -> bytes:
    found = b""
    for attribute, payload, message_id in records:
        flag, data = join_attribute(attribute, payload)
        found += encode_record(data, message_id, flag)
    return found


def agree(data: bytes, offset: int) -> None:
    messages, end = decode_messages(PARTITION, offset, data)
    records = list(iterate_records(data))
    assert [(m.offset - offset, m.message_id, m.flag, m.data, m.attribute, m.payload) for m in messages] == [
        (r.position, r.message_id, r.flag, r.data, r.attribute, r.payload) for r in records
    ]
    assert end == offset + (records[-1].position + records[-1].size if records else 0)
    for message, following in pairwise(messages):
        assert message.next_offset == following.offset
    assert not messages or messages[-1].next_offset == end


@given(RECORDS, st.integers(0, 2**62), st.data())
def test_cut_anywhere(records: list[tuple[str | None, bytes, int]], offset: int, data: st.DataObject) -> None:
    whole = encode(records)
    agree(whole[: data.draw(st.integers(0, len(whole)))], offset)


@given(RECORDS, st.data())
def test_damaged_anywhere(records: list[tuple[str | None, bytes, int]], data: st.DataObject) -> None:
    damaged = bytearray(encode(records))
    for _ in range(data.draw(st.integers(1, 3))):
        if damaged:
            damaged[data.draw(st.integers(0, len(damaged) - 1))] = data.draw(st.integers(0, 255))
    agree(bytes(damaged), 0)


@given(st.binary(max_size=200))
def test_any_bytes(data: bytes) -> None:
    agree(data, 7)


def test_zeros_are_no_messages() -> None:
    assert decode_messages(PARTITION, 5, bytes(100)) == ([], 5)
    sound = encode_record(b"x", 1)
    messages, end = decode_messages(PARTITION, 5, sound + bytes(100))
    assert ([m.payload for m in messages], end) == ([b"x"], 5 + len(sound))
    assert messages[0].topic == "t"
