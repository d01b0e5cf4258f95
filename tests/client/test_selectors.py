"""Which partition a message goes to."""

from __future__ import annotations

import random
from collections import Counter
from zlib import crc32

import pytest
from hypothesis import given
from hypothesis import strategies as st

from metaserver.client.partition import Partition
from metaserver.client.selectors import ConfiguredOrder, KeyHash, RandomChoice, RoundRobin, by_key
from metaserver.errors import ConfigError, NoPartitionError

THREE = [Partition("t", 0, number) for number in range(3)]


def test_round_robin_begins_with_the_second_and_counts_for_each_topic() -> None:
    select = RoundRobin()
    assert [select("t", THREE, None, b"").number for _ in range(5)] == [1, 2, 0, 1, 2]
    assert select("u", THREE, None, b"").number == 1
    assert select("t", THREE[:1], b"key", b"").number == 0


def test_random_choice_finds_all() -> None:
    select = RandomChoice(random.Random(1))
    counts = Counter(select("t", THREE, None, b"").number for _ in range(300))
    assert sorted(counts) == [0, 1, 2]
    assert min(counts.values()) > 60


@given(st.binary(), st.integers(1, 20))
def test_a_key_has_its_place(key: bytes, count: int) -> None:
    partitions = [Partition("t", 0, number) for number in range(count)]
    select = KeyHash()
    assert select("t", partitions, key, b"one") == select("t", partitions, key, b"other")
    assert select("t", partitions, key, b"").number == crc32(key) % count


def test_without_a_key_in_turn() -> None:
    select = KeyHash()
    assert [select("t", THREE, None, b"same").number for _ in range(3)] == [1, 2, 0]


def test_configured_order_counts_partitions_that_are_away() -> None:
    select = ConfiguredOrder({"t": "1:1; 0:2"})
    layout = [Partition("t", 0, 0), Partition("t", 0, 1), Partition("t", 1, 0)]
    for number in range(30):
        key = b"%d" % number
        wanted = layout[crc32(key) % 3]
        assert select("t", layout, key, b"") == select("t", layout, None, key) == wanted
        others = [partition for partition in layout if partition != wanted]
        with pytest.raises(NoPartitionError, match="configured and not there now"):
            select("t", others, key, b"")


def test_configured_order_says_what_is_wrong() -> None:
    with pytest.raises(NoPartitionError, match="no layout"):
        ConfiguredOrder({})("t", THREE, None, b"")
    stray = Partition("t", 9, 9)
    with pytest.raises(NoPartitionError, match="not of the configured layout"):
        ConfiguredOrder({"t": "0:3"}, lambda _partitions, _key, _payload: stray)(
            "t", [*THREE, stray], None, b""
        )


@pytest.mark.parametrize(
    "layout", ["", "0", "0:", ":1", "0:0", "0:-1", "a:1", "0:1;", "0:1;0", "0:1:2", "0:\uff11"]
)
def test_layouts_that_cannot_be_read(layout: str) -> None:
    with pytest.raises(ConfigError, match="write 0:4;1:4"):
        ConfiguredOrder({"t": layout})


def test_a_layout_that_names_a_partition_twice_has_it_once() -> None:
    select = ConfiguredOrder({"t": "0:2;0:1"}, by_key)
    found = {select("t", THREE, b"%d" % number, b"") for number in range(50)}
    assert found == {Partition("t", 0, 0), Partition("t", 0, 1)}
