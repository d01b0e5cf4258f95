"""Paths and payloads, against the tables of the reference."""

from __future__ import annotations

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from metaserver.registry.paths import (
    BrokerPartition,
    Layout,
    Replica,
    StoredOffset,
    TopicNode,
    TopicTree,
    ancestors,
    encode_number,
    format_uri,
    parse_number,
    parse_uri,
    split_connect,
)

NUMBERS = st.integers(0, 2**31 - 1)
REPLICAS = st.builds(Replica, NUMBERS, st.none() | NUMBERS)
LONGS = st.integers(-(2**63), 2**63 - 1)


def test_paths() -> None:
    layout = Layout("/meta")
    master, slave = Replica(3), Replica(3, 1)
    assert layout.broker(3) == "/meta/brokers/ids/3"
    assert layout.replica(master) == "/meta/brokers/ids/3/master"
    assert layout.replica(slave) == "/meta/brokers/ids/3/slave1"
    assert layout.checksum(3) == "/meta/brokers/ids/3/master_config_checksum"
    assert layout.topic_replica(TopicTree.ALL, "t", master) == "/meta/brokers/topics/t/3-m"
    assert layout.topic_replica(TopicTree.PUBLISH, "dyn*", master) == "/meta/brokers/topics-pub/dyn*/3-m"
    assert layout.topic_replica(TopicTree.SUBSCRIBE, "t", slave) == "/meta/brokers/topics-sub/t/3-s1"
    assert layout.member("g", "g_1") == "/meta/consumers/g/ids/g_1"
    assert layout.offset("g", "t", BrokerPartition(3, 0)) == "/meta/consumers/g/offsets/t/3-0"
    assert layout.owner("g", "t", BrokerPartition(3, 0)) == "/meta/consumers/g/owners/t/3-0"


@pytest.mark.parametrize("root", ["/", ""])
def test_the_top_of_the_tree_can_be_the_root(root: str) -> None:
    assert Layout(root).broker(0) == "/brokers/ids/0"


def test_ancestors_come_from_the_top_down() -> None:
    assert ancestors("/a/b/c") == ["/a", "/a/b"]
    assert ancestors("/a") == []


@pytest.mark.parametrize(
    ("connect", "servers", "path"),
    [
        ("a:1,b:2", "a:1,b:2", ""),
        ("a:1,[::1]:2/x/y", "a:1,[::1]:2", "/x/y"),
        ("a:1/", "a:1", ""),
    ],
)
def test_split_connect(connect: str, servers: str, path: str) -> None:
    assert split_connect(connect) == (servers, path)


@pytest.mark.parametrize(
    ("host", "port", "data", "plain"),
    [
        ("10.0.0.1", 8123, b"meta://10.0.0.1:8123", "10.0.0.1"),
        ("broker-1", 1, b"meta://broker-1:1", "broker-1"),
        ("::1", 8123, b"meta://[::1]:8123", "::1"),
        ("[fe80::1]", 8123, b"meta://[fe80::1]:8123", "fe80::1"),
    ],
)
def test_addresses(host: str, port: int, data: bytes, plain: str) -> None:
    assert format_uri(host, port) == data
    assert parse_uri(data) == (plain, port)


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"10.0.0.1:8123",
        b"http://h:1",
        b"meta://h",
        b"meta://:1",
        b"meta://h:0",
        b"meta://h:65536",
        b"meta://h:-1",
        b"meta://::1:8123",
        b"meta://h:8123?slaveId=1",
        b"meta://h/x:1",
        b"meta://h:\xb2",
        b"meta://a b:1",
    ],
)
def test_what_is_no_address(data: bytes) -> None:
    assert parse_uri(data) is None


@given(REPLICAS)
def test_names_of_replicas(replica: Replica) -> None:
    assert Replica.parse(str(replica)) == replica
    node = Layout("/meta").replica(replica).rpartition("/")[2]
    assert Replica.parse_child(replica.broker_id, node) == replica


@pytest.mark.parametrize(
    "text", ["", "0", "-m", "0-", "0-x", "0-s", "0-s-1", "0-m1", "a-m", "0-s1-2", "-1-m", "²-m"]
)
def test_what_is_no_replica(text: str) -> None:
    assert Replica.parse(text) is None


@pytest.mark.parametrize("text", ["master_config_checksum", "slave", "slave-1", "slavex", "Master", ""])
def test_what_is_no_replica_below_a_broker(text: str) -> None:
    assert Replica.parse_child(0, text) is None


@given(NUMBERS, NUMBERS)
def test_names_of_partitions(broker_id: int, partition: int) -> None:
    name = BrokerPartition(broker_id, partition)
    assert BrokerPartition.parse(str(name)) == name


@pytest.mark.parametrize("text", ["", "1", "1-", "-1", "1-m", "1-2-3"])
def test_what_is_no_partition(text: str) -> None:
    assert BrokerPartition.parse(text) is None


def test_a_topic_node_is_compact() -> None:
    assert TopicNode(4, Replica(0)).encode() == b'{"numParts":4,"broker":"0-m"}'


@given(NUMBERS, REPLICAS)
def test_a_topic_node_reads_in_both_orders(count: int, replica: Replica) -> None:
    node = TopicNode(count, replica)
    assert TopicNode.parse(node.encode()) == node
    swapped = dict(reversed(json.loads(node.encode()).items()))
    assert TopicNode.parse(json.dumps(swapped).encode()) == node
    assert TopicNode.parse(json.dumps(swapped | {"later": 1}).encode()) == node


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"4",
        b"[]",
        b"{}",
        b"\xff",
        b'{"numParts":4}',
        b'{"numParts":"4","broker":"0-m"}',
        b'{"numParts":true,"broker":"0-m"}',
        b'{"numParts":-1,"broker":"0-m"}',
        b'{"numParts":4,"broker":"m"}',
        b'{"numParts":4,"broker":0}',
        b"[" * 100_000,
    ],
)
def test_what_is_no_topic_node(data: bytes) -> None:
    assert TopicNode.parse(data) is None


@pytest.mark.parametrize(
    ("data", "offset", "message_id"),
    [
        (b"-5468928603720765440-50", 50, -5468928603720765440),
        (b"12-50", 50, 12),
        (b"-1-0", 0, -1),
        (b"50", 50, None),
        (b"-50", -50, None),
        (b"7--3", None, None),
    ],
)
def test_offsets(data: bytes, offset: int | None, message_id: int | None) -> None:
    expected = None if offset is None else StoredOffset(offset, message_id)
    assert StoredOffset.parse(data) == expected


@given(st.integers(0, 2**63 - 1), st.none() | LONGS)
def test_offsets_read_as_they_were_written(offset: int, message_id: int | None) -> None:
    stored = StoredOffset(offset, message_id)
    assert StoredOffset.parse(stored.encode()) == stored


@pytest.mark.parametrize("data", [b"", b"x", b"1-", b"-", b"--", b"x-1", b"1-x", b"1" * 5000])
def test_what_is_no_offset(data: bytes) -> None:
    assert StoredOffset.parse(data) is None


@given(NUMBERS)
def test_numbers(number: int) -> None:
    assert parse_number(encode_number(number)) == number


@given(st.binary())
def test_no_data_of_others_raises(data: bytes) -> None:
    TopicNode.parse(data)
    StoredOffset.parse(data)
    parse_uri(data)
    parse_number(data)
    Replica.parse(data.decode("utf-8", "replace"))
    BrokerPartition.parse(data.decode("utf-8", "replace"))
