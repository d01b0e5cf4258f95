"""The bytes of journal entries, written out by hand, and read back."""

from __future__ import annotations

from contextlib import suppress

import pytest
from hypothesis import given
from hypothesis import strategies as st

from metaserver.names import PartitionId, Topic, TopicPartition
from metaserver.protocol import LocalKey, TransactionKey, XaKey
from metaserver.transactions import (
    Applied,
    Committed,
    Entry,
    Forgotten,
    Part,
    Prepared,
    RolledBack,
    decode_entry,
    encode_entry,
    split_parts,
)
from metaserver.transactions.entries import KEY_BYTES_MAX, PART_OVERHEAD_BYTES_MAX

KEY = XaKey(1, "ab", "", "q")
NAME = TopicPartition(Topic("t"), PartitionId(2))
SERIAL = "0000000000000007"

GOLDEN: list[tuple[Entry, str]] = [
    (Part(7, True, NAME, 44, b"xy"), f"01{SERIAL}0100000002000000000000002c0001747879"),
    (Part(7, False, NAME, 44, b"z"), f"01{SERIAL}0000000002000000000000002c0001747a"),
    (Prepared(7, KEY), f"02{SERIAL}" + b"XID:1:ab::q".hex()),
    (
        Committed(7, LocalKey("s", 1), (44, 0)),
        f"03{SERIAL}000002000000000000002c0000000000000000" + b"TX:s:1".hex(),
    ),
    (Committed(7, KEY, (), True), f"03{SERIAL}010000" + b"XID:1:ab::q".hex()),
    (RolledBack(7, KEY), f"04{SERIAL}00" + b"XID:1:ab::q".hex()),
    (RolledBack(7, KEY, True), f"04{SERIAL}01" + b"XID:1:ab::q".hex()),
    (Applied(7), f"05{SERIAL}"),
    (Forgotten(7), f"06{SERIAL}"),
]


@pytest.mark.parametrize(("entry", "encoded"), GOLDEN, ids=lambda value: type(value).__name__)
def test_golden(entry: Entry, encoded: str) -> None:
    assert encode_entry(entry).hex() == encoded
    assert decode_entry(bytes.fromhex(encoded)) == entry


numbers = st.integers(-(2**63), 2**63 - 1)
names = st.builds(
    TopicPartition,
    st.text(st.characters(min_codepoint=33, max_codepoint=126), min_size=1, max_size=20).map(Topic),
    st.integers(0, 2**31 - 1).map(PartitionId),
)
int32 = st.integers(-(2**31), 2**31 - 1)
digits = st.text("0123456789abcdef", max_size=8)
words = st.text(st.characters(min_codepoint=33, max_codepoint=126, exclude_characters=":"), min_size=1)
xa_keys = st.builds(XaKey, int32, digits, digits, words)
keys: st.SearchStrategy[TransactionKey] = xa_keys | st.builds(LocalKey, words, int32)
floors = st.lists(numbers, max_size=4).map(tuple)
entries: st.SearchStrategy[Entry] = st.one_of(
    st.builds(Part, numbers, st.booleans(), names, numbers, st.binary(max_size=40)),
    st.builds(Prepared, numbers, xa_keys),
    st.builds(Committed, numbers, keys, floors, st.booleans()),
    st.builds(RolledBack, numbers, keys, st.booleans()),
    st.builds(Applied, numbers),
    st.builds(Forgotten, numbers),
)


@given(entries)
def test_entries_are_read_back(entry: Entry) -> None:
    assert decode_entry(encode_entry(entry)) == entry


@given(entries, st.data())
def test_cut_or_changed_they_are_something_else_or_refused(entry: Entry, data: st.DataObject) -> None:
    encoded = bytearray(encode_entry(entry))
    at = data.draw(st.integers(0, len(encoded) - 1))
    encoded[at] ^= data.draw(st.integers(1, 255))
    for changed in (bytes(encoded), bytes(encoded[:at])):
        with suppress(ValueError):
            assert decode_entry(changed) != entry


@given(
    st.dictionaries(names, st.tuples(numbers, st.binary(min_size=1, max_size=50)), min_size=1),
    st.integers(1, 9),
)
def test_parts_hold_everything_in_order(
    batches: dict[TopicPartition, tuple[int, bytes]], bytes_max: int
) -> None:
    parts = list(split_parts(7, batches, bytes_max))
    assert [part.is_first for part in parts] == [True] + [False] * (len(parts) - 1)
    assert all(0 < len(part.data) <= bytes_max for part in parts)
    found: dict[TopicPartition, tuple[int, bytes]] = {}
    for part in parts:
        found[part.name] = (part.floor, found.get(part.name, (0, b""))[1] + part.data)
    assert list(found.items()) == list(batches.items())


def test_what_an_entry_takes_is_bounded() -> None:
    longest = TopicPartition(Topic("t" * 200), PartitionId(0))
    assert len(encode_entry(Part(7, True, longest, 0, b""))) <= PART_OVERHEAD_BYTES_MAX
    assert KEY_BYTES_MAX < 1024 - 100, "a record of the least maxTransferSize has room for a key"
