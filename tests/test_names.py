from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from metaserver.names import TOPIC_BYTES_MAX, PartitionId, Topic, TopicPartition, is_valid_topic, parse_digits


@pytest.mark.parametrize("name", ["a", "a-b", "!@#$%", "..a", "x" * TOPIC_BYTES_MAX])
def test_topics_that_can_be_stored(name: str) -> None:
    assert is_valid_topic(name)


@pytest.mark.parametrize(
    "name", ["", ".", "..", "a/b", "/", "a b", "a\0b", "é", "a\n", "x" * (TOPIC_BYTES_MAX + 1)]
)
def test_topics_that_cannot(name: str) -> None:
    assert not is_valid_topic(name)


@given(st.from_regex(r"[a-z.-]{1,20}", fullmatch=True).filter(is_valid_topic), st.integers(0, 2**31 - 1))
def test_the_directory_name_comes_back(topic: str, partition: int) -> None:
    name = TopicPartition(Topic(topic), PartitionId(partition))
    assert TopicPartition.parse(str(name)) == name


@pytest.mark.parametrize("name", ["", "a", "-1", "a-", "a--1", "a-01", "a-x", "a-\u0661", "..-1", "a b-1"])
def test_other_directories_are_no_partitions(name: str) -> None:
    assert TopicPartition.parse(name) is None or str(TopicPartition.parse(name)) == name
    if name != "a--1":
        assert TopicPartition.parse(name) is None


@pytest.mark.parametrize(
    ("text", "number"),
    [
        ("0", 0),
        ("0099", 99),
        ("100", 100),
        ("101", None),
        ("", None),
        ("-1", None),
        ("+1", None),
        ("1_0", None),
        ("\u0661", None),
        # More than Python itself reads.
        ("9" * 5000, None),
    ],
)
def test_digits_of_a_number_up_to_a_limit(text: str, number: int | None) -> None:
    assert parse_digits(text, 100) == number
