from __future__ import annotations

from pathlib import Path

import pytest

from metaserver.config import (
    ConfigDiff,
    ServerConfig,
    adopt_topics,
    apply_slave,
    diff_configs,
    parse_server_config,
    parse_slave_config,
)
from metaserver.config.schema import SYSTEM_KEYS, ZOOKEEPER_KEYS

SYSTEM = {
    "brokerId": "0",
    "numPartitions": "1",
    "unflushThreshold": "0",
    "unflushInterval": "10000",
    "maxSegmentSize": "1073741824",
    "maxTransferSize": "1048576",
    "dataPath": "data",
}


def config(topics: str = "[topic=a]\n", zookeeper: str = "", **system: str) -> ServerConfig:
    lines = "".join(f"{key}={value}\n" for key, value in {**SYSTEM, **system}.items())
    text = f"[system]\n{lines}[zookeeper]\n{zookeeper}{topics}"
    return parse_server_config(text, source="f", base_directory=Path("/base"))


def test_nothing_changed() -> None:
    found = diff_configs(config(), config("; words\n[topic=a]\nnumPartitions=1\n"))
    assert found == ConfigDiff()
    assert found.is_empty


def test_topics() -> None:
    old = config("[topic=a]\n[topic=b]\n[topic=c]\n[topic=d]\n")
    new = config("[topic=e]\n[topic=d]\nnumPartitions=2\n[topic=a]\ngroup.g=size > 1\n[topic=b]\n[topic=f]\n")
    found = diff_configs(old, new)
    assert found == ConfigDiff(
        topics_added=("e", "f"), topics_removed=("c",), topics_changed=("d", "a"), needs_restart=()
    )
    assert not found.is_empty


OTHER_VALUES = {
    **dict.fromkeys(SYSTEM_KEYS, "2"),
    "maxSegmentSize": "4096",
    "maxTransferSize": "4096",
    "maxLineBytes": "4096",
    "maxRequestBytes": "4096",
    "maxUnfinishedRequestBytes": "4096",
    "maxTransactionBytes": "4096",
    "maxInflightBytes": "2*64*1024*1024",
    "maxConnectionInflightBytes": "4096",
    "maxPendingReplyBytes": "4096",
    "recoveryCheckpointBytes": "4096",
    "hostName": "other",
    "bindAddress": "::1",
    "deletePolicy": "delete,2",
    "deleteWhen": "0 0 2 * * ?",
    "stat": "true",
    "ackLevel": "slave",
    "acceptPublish": "false",
    "acceptSubscribe": "false",
    "updateConsumerOffsets": "true",
    "loadMessageStoresInParallel": "true",
}


@pytest.mark.parametrize("key", sorted(set(SYSTEM_KEYS) - {"dataPath"}))
def test_every_key_of_system_waits_for_a_restart(key: str) -> None:
    value = "-1" if key == "unflushThreshold" else OTHER_VALUES[key]
    found = diff_configs(config(), config(**{key: value}))
    assert found == ConfigDiff(needs_restart=(key,))


def test_a_changed_data_path_also_moves_what_follows_it() -> None:
    assert diff_configs(config(), config(dataPath="x")).needs_restart == ("dataPath", "dataLogPath")


def test_every_key_of_zookeeper_waits_for_a_restart() -> None:
    lines = {
        "zk.zkConnect": "a:1",
        "zk.zkEnable": "false",
        "zk.zkRoot": "/x",
        "zk.zkSessionTimeoutMs": "1",
        "zk.zkConnectionTimeoutMs": "1",
        "zk.zkSyncTimeMs": "1",
        "registryPort": "1",
    }
    assert set(lines) == set(ZOOKEEPER_KEYS)
    for key, value in lines.items():
        found = diff_configs(config(), config(zookeeper=f"{key}={value}\n"))
        assert found == ConfigDiff(needs_restart=(key,))


def test_a_reload_takes_topics_and_leaves_the_rest() -> None:
    running = config("[topic=a]\n")
    fresh = config("[topic=a]\nstat=true\n[topic=b]\n", numPartitions="5", serverPort="9000")
    found = adopt_topics(running, fresh)
    assert found.server_port == running.server_port
    assert found.defaults == running.defaults
    assert (found.checksum, found.source_bytes) == (fresh.checksum, fresh.source_bytes)
    assert [(topic.name, topic.partition_count, topic.stat) for topic in found.topics] == [
        ("a", 1, True),
        ("b", 1, False),
    ]
    assert found.topic_config("b") is not None
    assert diff_configs(found, fresh) == ConfigDiff(needs_restart=("serverPort", "numPartitions"))


def test_a_topic_that_fixes_its_value_does_not_follow_a_new_system() -> None:
    running = config("[topic=a]\n")
    fresh = config("[topic=a]\nnumPartitions=5\n", numPartitions="5")
    assert diff_configs(running, fresh).topics_changed == ("a",)
    assert adopt_topics(running, fresh).topics[0].partition_count == 5


def test_a_slave_keeps_its_data_path_over_a_reload() -> None:
    slave = parse_slave_config("slaveId=0\ndataPath=/s\n", source="s", base_directory=Path("/base"))
    running = apply_slave(config("[topic=a]\n"), slave)
    fresh = apply_slave(config("[topic=a]\n[topic=b]\ndataPath=/m\n"), slave)
    assert diff_configs(running, fresh) == ConfigDiff(topics_added=("b",))
    assert {topic.data_path for topic in adopt_topics(running, fresh).topics} == {Path("/s")}
