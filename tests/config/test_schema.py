from __future__ import annotations

import attrs

from metaserver.config import PairConfig, ServerConfig, SlaveConfig, TopicConfig, ZooKeeperConfig, schema


def names_of(attrs_class: type[attrs.AttrsInstance]) -> set[str]:
    return {field.name for field in attrs.fields(attrs_class) if field.init}


def test_every_key_sets_a_field_and_every_field_has_its_key() -> None:
    made = {"path", "source_bytes", "checksum", "warnings", "defaults", "topics", "zookeeper"}
    assert {key.field for key in schema.SERVER_KEYS.values()} == names_of(ServerConfig) - made
    topic_fields = names_of(TopicConfig) - {"name", "group_filters", "own_fields"}
    assert {key.field for key in schema.TOPIC_KEYS.values()} == topic_fields
    assert {key.field for key in schema.DEFAULTS_KEYS.values()} == topic_fields - {"data_path"}
    assert {key.field for key in schema.ZOOKEEPER_KEYS.values()} == names_of(ZooKeeperConfig)
    assert {key.field for key in schema.SLAVE_KEYS.values()} == names_of(SlaveConfig) - {
        "path",
        "is_gregor",
    }
    assert {key.field for key in schema.SAMSA_KEYS.values()} == names_of(PairConfig) - {"path"}
    assert set(schema.GREGOR_KEYS) < set(schema.SLAVE_KEYS)


def test_all_keys_of_metaq_are_there() -> None:
    assert set(schema.SYSTEM_KEYS) >= {
        "brokerId",
        "serverPort",
        "dashboardHttpPort",
        "hostName",
        "dataPath",
        "dataLogPath",
        "appClassPath",
        "numPartitions",
        "unflushThreshold",
        "unflushInterval",
        "maxSegmentSize",
        "maxTransferSize",
        "getProcessThreadCount",
        "putProcessThreadCount",
        "deletePolicy",
        "deleteWhen",
        "quartzThreadCount",
        "maxCheckpoints",
        "checkpointInterval",
        "maxTxTimeoutTimerCapacity",
        "maxTxTimeoutInSeconds",
        "flushTxLogAtCommit",
        "acceptPublish",
        "acceptSubscribe",
        "stat",
        "updateConsumerOffsets",
        "loadMessageStoresInParallel",
    }
    assert set(schema.ZOOKEEPER_KEYS) - {"registryPort"} == {
        "zk.zkConnect",
        "zk.zkEnable",
        "zk.zkRoot",
        "zk.zkSessionTimeoutMs",
        "zk.zkConnectionTimeoutMs",
        "zk.zkSyncTimeMs",
    }
    assert set(schema.TOPIC_KEYS) - {"ackLevel", "minSlaves", "slaveAckTimeoutInMills"} == {
        "numPartitions",
        "unflushThreshold",
        "unflushInterval",
        "dataPath",
        "deletePolicy",
        "deleteWhen",
        "stat",
        "acceptPublish",
        "acceptSubscribe",
    }
    assert set(schema.SLAVE_KEYS) >= {"slaveId", "slaveGroup", "slaveMaxDelayInMills", "autoSyncMasterConfig"}


def test_required_keys() -> None:
    assert {name for name, key in schema.SYSTEM_KEYS.items() if key.is_required} == {
        "brokerId",
        "numPartitions",
        "unflushThreshold",
        "unflushInterval",
        "maxSegmentSize",
        "maxTransferSize",
    }
    assert {name for name, key in schema.SLAVE_KEYS.items() if key.is_required} == {"slaveId"}
    assert not any(key.is_required for key in (*schema.TOPIC_KEYS.values(), *schema.ZOOKEEPER_KEYS.values()))
