"""Every key of ``server.ini`` and ``async_slave.properties``: its name, what it sets, how it is read.

The first part of each table is MetaQ's, the second ours. What the keys mean is told in
``docs/configuration.md`` and, in a line or two, in the shipped files; tests hold all three together.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import attrs

from metaserver.config import values
from metaserver.config.cron import check_cron
from metaserver.config.values import INT_MIN, LONG_MAX, integer

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Mapping

_KIB = 1024
_TIB = 1024**4

_PORT = integer(0, 65535)
_COUNT = integer(1)
_BYTES = integer(4 * _KIB, _TIB)
_DURATION = integer(1)


@attrs.frozen
class Key:
    """One key of a section."""

    name: str
    """As it stands in the file."""
    field: str
    """What it sets, in the class of its section."""
    read: Callable[[str], Any]
    """Text to value; raises ConfigError."""
    is_required: bool = False


def _table(keys: Iterable[Key]) -> Mapping[str, Key]:
    return {key.name: key for key in keys}


TOPIC_KEYS = _table(
    (
        Key("numPartitions", "partition_count", integer(1, 100_000)),
        Key("unflushThreshold", "unflush_threshold", integer(INT_MIN)),
        Key("unflushInterval", "unflush_interval_ms", _DURATION),
        Key("dataPath", "data_path", values.path_text),
        Key("deletePolicy", "delete_policy", values.delete_policy),
        Key("deleteWhen", "delete_when", check_cron),
        Key("stat", "stat", values.lenient_boolean),
        Key("acceptPublish", "accept_publish", values.boolean),
        Key("acceptSubscribe", "accept_subscribe", values.boolean),
        # Ours.
        Key("ackLevel", "ack_level", values.ack_level),
        Key("minSlaves", "slaves_min", integer(1, 64)),
        Key("slaveAckTimeoutInMills", "slave_ack_timeout_ms", _DURATION),
    )
)
"""Of a section [topic=NAME]; fields of TopicConfig. Beside them: ``group.GROUP``."""

DEFAULTS_KEYS = _table(
    (
        Key("numPartitions", "partition_count", integer(1, 100_000), is_required=True),
        Key("unflushThreshold", "unflush_threshold", integer(INT_MIN), is_required=True),
        Key("unflushInterval", "unflush_interval_ms", _DURATION, is_required=True),
        Key("deletePolicy", "delete_policy", values.delete_policy),
        Key("deleteWhen", "delete_when", check_cron),
        Key("stat", "stat", values.boolean),
        Key("acceptPublish", "accept_publish", values.boolean),
        Key("acceptSubscribe", "accept_subscribe", values.boolean),
        # Ours.
        Key("ackLevel", "ack_level", values.ack_level),
        Key("minSlaves", "slaves_min", integer(1, 64)),
        Key("slaveAckTimeoutInMills", "slave_ack_timeout_ms", _DURATION),
    )
)
"""Of [system], for topics that say nothing else; fields of TopicConfig."""

_METAQ_SERVER_KEYS = _table(
    (
        Key("brokerId", "broker_id", integer(0, 1023), is_required=True),
        Key("serverPort", "server_port", _PORT),
        Key("dashboardHttpPort", "dashboard_http_port", _PORT),
        Key("hostName", "host_name", values.advertised_host),
        Key("dataPath", "data_path", values.path_text),
        Key("dataLogPath", "data_log_path", values.path_text),
        Key("appClassPath", "app_class_path", values.path_text),
        Key("maxSegmentSize", "max_segment_size_bytes", integer(_KIB), is_required=True),
        Key("maxTransferSize", "max_transfer_size_bytes", integer(_KIB), is_required=True),
        Key("getProcessThreadCount", "get_process_thread_count", _COUNT),
        Key("putProcessThreadCount", "put_process_thread_count", _COUNT),
        Key("quartzThreadCount", "quartz_thread_count", _COUNT),
        Key("maxCheckpoints", "max_checkpoints", _COUNT),
        Key("checkpointInterval", "checkpoint_interval_ms", integer(1, LONG_MAX)),
        Key("maxTxTimeoutTimerCapacity", "max_tx_timeout_timer_capacity", _COUNT),
        Key("maxTxTimeoutInSeconds", "max_tx_timeout_seconds", _COUNT),
        Key("flushTxLogAtCommit", "flush_tx_log_at_commit", integer(0, 2)),
        Key("updateConsumerOffsets", "update_consumer_offsets", values.boolean),
        Key("loadMessageStoresInParallel", "load_message_stores_in_parallel", values.boolean),
    )
)

_OUR_SERVER_KEYS = _table(
    (
        Key("bindAddress", "bind_address", values.bind_host),
        Key("maxConnections", "max_connections", integer(1, 1_000_000)),
        Key("maxLineBytes", "max_line_bytes", integer(512, _KIB * _KIB)),
        Key("maxRequestBytes", "max_request_bytes", integer(_KIB)),
        Key("maxUnfinishedRequestBytes", "max_unfinished_request_bytes", _BYTES),
        Key("maxTransactionBytes", "max_transaction_bytes", _BYTES),
        Key("maxInflightBytes", "max_inflight_bytes", _BYTES),
        Key("maxConnectionInflightBytes", "max_connection_inflight_bytes", _BYTES),
        Key("maxPendingReplyBytes", "max_pending_reply_bytes", _BYTES),
        Key("maxPendingReplies", "max_pending_replies", integer(1, 1_000_000)),
        Key("idleTimeoutInMills", "idle_timeout_ms", _DURATION),
        Key("requestTimeoutInMills", "request_timeout_ms", _DURATION),
        Key("writeTimeoutInMills", "write_timeout_ms", _DURATION),
        Key("maxLongPollInMills", "max_long_poll_ms", integer(0)),
        Key("maxWaitingGets", "max_waiting_gets", integer(0, 100_000_000)),
        Key("stopTimeoutInMills", "stop_timeout_ms", integer(0)),
        Key("minFreeDiskBytes", "min_free_disk_bytes", integer(0, 1024 * _TIB)),
        Key("recoveryCheckpointBytes", "checkpoint_bytes", _BYTES),
        Key("flushThreadCount", "flush_thread_count", integer(1, 256)),
        Key("httpUsersFile", "http_users_file", values.path_text),
        Key("httpRequestsPerSecond", "http_requests_per_second", integer(0, 1_000_000)),
        Key("scrubBytesPerSecond", "scrub_bytes_per_second", integer(0, LONG_MAX)),
        Key("scrubIntervalInMills", "scrub_interval_ms", integer(1, LONG_MAX)),
    )
)

SERVER_KEYS: Mapping[str, Key] = {**_METAQ_SERVER_KEYS, **_OUR_SERVER_KEYS}
"""The rest of [system]; fields of ServerConfig."""

OUR_KEYS = frozenset(_OUR_SERVER_KEYS)
"""Keys of [system] and of topics that a Java broker refuses: its file cannot have them."""

SYSTEM_KEYS: Mapping[str, Key] = {**SERVER_KEYS, **DEFAULTS_KEYS}

ZOOKEEPER_KEYS = _table(
    (
        Key("zk.zkConnect", "connect", values.connect_string),
        Key("zk.zkEnable", "enable", values.boolean),
        Key("zk.zkRoot", "root", values.zookeeper_path),
        Key("zk.zkSessionTimeoutMs", "session_timeout_ms", _DURATION),
        Key("zk.zkConnectionTimeoutMs", "connection_timeout_ms", _DURATION),
        Key("zk.zkSyncTimeMs", "sync_time_ms", integer(0)),
        # Ours.
        Key("registryPort", "registry_port", _PORT),
    )
)
"""Of [zookeeper]; fields of ZooKeeperConfig."""

SLAVE_KEYS = _table(
    (
        Key("slaveId", "slave_id", integer(0), is_required=True),
        Key("slaveGroup", "slave_group", values.word),
        Key("slaveMaxDelayInMills", "slave_max_delay_ms", _DURATION),
        Key("autoSyncMasterConfig", "auto_sync_master_config", values.boolean),
        # Ours.
        Key("slaveMaxBytesPerSecond", "slave_max_bytes_per_second", integer(0, LONG_MAX)),
        Key("linkCompression", "link_compression", values.compression),
        Key("masterAddress", "master_address", values.host_and_port),
        Key("registryAddress", "registry_address", values.connect_string),
        Key("serverPort", "server_port", _PORT),
        Key("dashboardHttpPort", "dashboard_http_port", _PORT),
        Key("hostName", "host_name", values.advertised_host),
        Key("bindAddress", "bind_address", values.bind_host),
        Key("dataPath", "data_path", values.path_text),
    )
)
"""Of ``async_slave.properties``; fields of SlaveConfig."""

SAMSA_KEYS = _table(
    (
        Key("slave", "slave_address", values.host_and_port, is_required=True),
        Key("sendToSlaveTimeoutInMills", "send_timeout_ms", _DURATION),
        Key("checkSlaveIntervalInMills", "check_interval_ms", _DURATION),
        Key("slaveContinuousFailureThreshold", "failures_max", _COUNT),
        Key("recoverOffset", "recover_offset", values.boolean),
        Key("callbackThreadCount", "callback_thread_count", _COUNT),
        Key("recoverParallel", "recover_parallel", values.boolean),
        Key("recoverParallelHint", "recover_parallel_hint", _COUNT),
    )
)
"""Of ``samsa_master.properties``; fields of PairConfig."""

GREGOR_KEYS = _table(
    SLAVE_KEYS[name] for name in ("serverPort", "dashboardHttpPort", "hostName", "bindAddress", "dataPath")
)
"""Of ``gregor_slave.properties``, all of them ours; fields of SlaveConfig."""

FILTER_PREFIX = "group."
"""Of the keys of a topic that say which messages a consumer group gets."""

FILTERS_SECTION = "filters"
"""Names, and the conditions they stand for; a Java broker passes over the section."""

IGNORED_SYSTEM_NAMES = frozenset(
    {
        "topics",
        "path",
        "zkConfig",
        "slaveConfig",
        "lastModified",
        "topicConfigMap",
        "propertyChangeSupport",
        "configFileChecksum",
    }
)
"""Names of Java fields that MetaQ lets pass in [system] and does nothing with."""

IGNORED_TOPIC_NAMES = frozenset({"topic", "filterClassNames"})
"""The same for sections of topics."""

IGNORED_ZOOKEEPER_NAMES = frozenset(SYSTEM_KEYS) | IGNORED_SYSTEM_NAMES
"""MetaQ lets every name of [system] pass in [zookeeper]."""
