"""The text reports of the ``stats`` command. Source: reference stats-http-dashboard section 1."""

from __future__ import annotations

import os
import threading
from collections import defaultdict
from typing import TYPE_CHECKING

from metaserver.config.merge import origin_checksum

if TYPE_CHECKING:
    from metaserver.broker.broker import Broker
    from metaserver.broker.partition import Partition

_REAL_TIME_KEYS = ("put", "get", "offset", "get_miss", "put_failed", "message_size")

_HELP = (
    ("*EMPTY*", "the whole broker: process, connections, requests, messages"),
    ("help", "this list"),
    ("topics", "every topic: partitions, messages, bytes"),
    ("offsets", "every partition: first and end offset"),
    ("realtime", "rates of all topics since the last reset"),
    ("config", "the text of server.ini"),
    ("reset", "begin the real-time statistics anew"),
    ("TOPIC", "one topic: partitions, messages, bytes and rates"),
)


def report(broker: Broker, item: str) -> str:
    """The report on one item; anything that is no item is taken for a topic's name."""
    match item.strip():
        case "":
            lines = _system(broker)
        case "topics":
            lines = _topics(broker)
        case "offsets":
            lines = [
                f"{topic} part {number} min_offset {partition.log.start_offset} "
                f"max_offset {partition.readable_offset}"
                for (topic, number), partition in broker.partitions.items()
            ]
        case "realtime":
            lines = [f"realtime_{key} {broker.real_time.result(key)}" for key in _REAL_TIME_KEYS]
        case "help":
            lines = [f"{name} {meaning}" for name, meaning in _HELP]
        case "reset":
            broker.real_time.reset()
            lines = ["reset ok"]
        case topic:
            lines = _topic(broker, topic)
    return "".join(f"{line}\r\n" for line in ("STATS", *lines, "END"))


def partitions_by_topic(broker: Broker) -> dict[str, list[Partition]]:
    """The open partitions of each topic of clients."""
    topics: dict[str, list[Partition]] = defaultdict(list)
    for (topic, _), partition in broker.partitions.items():
        if not partition.is_internal:
            topics[topic].append(partition)
    return topics


def _without_store(broker: Broker, topics: dict[str, list[Partition]]) -> list[str]:
    return [section.name for section in broker.config.topics if section.name not in topics]


def _system(broker: Broker) -> list[str]:
    counters, topics = broker.counters, partitions_by_topic(broker)
    uptime_seconds = int(broker.clock.monotonic_seconds() - broker.started_monotonic_seconds)
    values = {
        "pid": os.getpid(),
        "broker_id": broker.config.broker_id,
        "port": broker.config.server_port,
        "uptime": uptime_seconds,
        "version": broker.version_text,
        "slave": _java_boolean(broker.is_slave),
        "curr_connections": broker.connection_count,
        "threads": threading.active_count(),
        "cmd_put": counters.put,
        "cmd_get": counters.get,
        "cmd_offset": counters.offset,
        "tx_begin": counters.tx_begin,
        "tx_xa_begin": counters.tx_xa_begin,
        "tx_commit": counters.tx_commit,
        "tx_rollback": counters.tx_rollback,
        "get_miss": counters.get_miss,
        "put_failed": counters.put_failed,
        "total_messages": sum(map(_message_count, topics.values())),
        "topics": len(topics) + len(_without_store(broker, topics)),
        "config_checksum": broker.config.checksum,
        "config_origin": origin_checksum(broker.config),
        "instance": broker.instance,
    }
    if broker.promoted:
        values["promoted"] = broker.promoted
    if broker.describe_upstream is not None:
        values["upstream"] = broker.describe_upstream()
    return [f"{key} {value}" for key, value in values.items()]


def _topics(broker: Broker) -> list[str]:
    topics = partitions_by_topic(broker)
    lines = []
    for topic, partitions in topics.items():
        topic_config = partitions[0].config
        lines.append(
            f"{topic} partitions {len(partitions)} message_count {_message_count(partitions)} "
            f"message_bytes {_size_bytes(partitions)} "
            f"accept_publish {_java_boolean(topic_config.accept_publish)} "
            f"accept_subscribe {_java_boolean(topic_config.accept_subscribe)}"
        )
    return lines + [f"{name} *Empty*" for name in _without_store(broker, topics)]


def _topic(broker: Broker, topic: str) -> list[str]:
    partitions = partitions_by_topic(broker).get(topic, [])
    is_section = any(section.name == topic for section in broker.config.topics)
    code = 0 if partitions else 2 if is_section else 1
    return [
        topic,
        f"resultCode {code}",
        f"partitions {len(partitions)}",
        f"message_count {_message_count(partitions)}",
        f"bytes {_size_bytes(partitions)}",
        *(f"topic_realtime_{key} {broker.real_time.result(key, topic)}" for key in _REAL_TIME_KEYS),
    ]


def _message_count(partitions: list[Partition]) -> int:
    return sum(partition.log.record_count for partition in partitions)


def _size_bytes(partitions: list[Partition]) -> int:
    return sum(partition.log.end_offset - partition.log.start_offset for partition in partitions)


def _java_boolean(value: object) -> str:
    return "true" if value else "false"
