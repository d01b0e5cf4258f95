from __future__ import annotations

import re
from pathlib import Path

import attrs
import pytest
from hypothesis import given
from hypothesis import strategies as st

from metaserver.config import ServerConfig, TopicConfig, parse_server_config
from metaserver.config.values import delete_policy

SYSTEM = """\
[system]
brokerId=0
numPartitions=1
unflushThreshold=0
unflushInterval=10000
maxSegmentSize=1073741824
maxTransferSize=1048576
dataPath=data
"""


def config(topics: str) -> ServerConfig:
    return parse_server_config(SYSTEM + topics, source="f", base_directory=Path("/base"))


def named(name: str) -> TopicConfig:
    return TopicConfig(
        name=name, partition_count=1, unflush_threshold=0, unflush_interval_ms=1, data_path=Path("/d")
    )


def test_an_exact_section_comes_before_patterns_and_patterns_in_their_order() -> None:
    found = config("[topic=*]\n[topic=log.*]\nnumPartitions=2\n[topic=log.a]\nnumPartitions=3\n")
    assert [topic.name for topic in found.topics] == ["*", "log.*", "log.a"]

    def section(topic: str) -> str | None:
        answer = found.topic_config(topic)
        return None if answer is None else answer.name

    assert section("log.a") == "log.a"
    assert section("log.b") == "*"
    assert section("a b") is None
    assert section("../etc") is None
    assert section("") is None


def test_a_pattern_brings_its_own_values() -> None:
    found = config("[topic=log.*]\nnumPartitions=7\ndeletePolicy=delete,1s\n")
    topic = found.topic_config("log.x")
    assert topic is not None
    assert (topic.partition_count, topic.delete_policy.age_seconds, topic.unflush_interval_ms) == (
        7,
        1.0,
        10_000,
    )
    assert found.topic_config("logx") is None
    assert found.topic_config("logxx") is None


@pytest.mark.parametrize(
    ("pattern", "topic", "matches"),
    [
        ("a", "a", True),
        ("a", "ab", False),
        ("*", "a", True),
        ("a*", "a", True),
        ("a*", "ba", False),
        ("*a", "ba", True),
        ("a*a", "a", False),
        ("a*a", "aa", True),
        ("a**a", "aa", True),
        ("ab*bc", "abc", False),
        ("*b*c*", "abc", True),
        ("*b*b*", "abc", False),
        ("a*b*c", "abcbc", True),
        ("a*bc*c", "abc", False),
        (".*", "x", False),
        ("a.c", "abc", False),
    ],
)
def test_patterns(pattern: str, topic: str, matches: bool) -> None:
    assert named(pattern).matches(topic) is matches
    assert named(pattern).is_pattern is ("*" in pattern)


@given(st.text("ab.*", min_size=1, max_size=8), st.text("ab.", max_size=12))
def test_patterns_agree_with_a_regular_expression(pattern: str, topic: str) -> None:
    expression = ".*".join(map(re.escape, pattern.split("*")))
    assert named(pattern).matches(topic) is (re.fullmatch(expression, topic) is not None)


def test_a_hostile_topic_costs_no_time() -> None:
    assert not named("*a" * 90 + "b*").matches("a" * 200)


def test_values_are_frozen_and_evolve_keeps_the_lookup_right() -> None:
    found = config("[topic=a]\n")
    with pytest.raises(attrs.exceptions.FrozenInstanceError):
        found.broker_id = 1  # type: ignore[misc]
    evolved = attrs.evolve(found, topics=(named("b*"),))
    assert evolved.topic_config("a") is None
    assert evolved.topic_config("bb") is not None


def test_values_of_system_are_seen_on_the_configuration() -> None:
    found = config("stat=true\nacceptPublish=false\n[topic=a]\nstat=false\nacceptSubscribe=false\n")
    assert (found.stat, found.accept_publish, found.accept_subscribe) == (True, False, True)
    (topic,) = found.topics
    assert (topic.stat, topic.accept_publish, topic.accept_subscribe) == (False, False, False)


def test_equality_is_that_of_the_settings() -> None:
    assert config("[topic=a]\n") == config("; other words\n[topic=a]\nnumPartitions=1\n")
    assert config("[topic=a]\n") != config("[topic=a]\nnumPartitions=2\n")


def test_text_of_a_policy() -> None:
    assert str(delete_policy("delete,168")) == "delete,168h"
    assert str(delete_policy("archive,90m,true")) == "archive,5400s,true"
