"""What ``topics`` shows of a cluster: partitions, who has them, how far their slaves are behind."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import attrs

from metaserver.cli.output import count_of, describe_bytes, table
from metaserver.client.comparison import parse_ranges
from metaserver.client.group_report import for_each
from metaserver.client.servers import format_address
from metaserver.errors import ClientError
from metaserver.registry.paths import Replica

if TYPE_CHECKING:
    from collections.abc import Sequence

    from metaserver.client import Partition, Session
    from metaserver.client.cluster import Address, Cluster

_CONNECT_SECONDS = 3.0


@attrs.define
class ReplicaReport:
    """What one master or slave says of itself."""

    replica: Replica
    address: Address | None
    """None: it is not in the registry now."""
    ends: dict[tuple[str, int], tuple[int, int]] = attrs.Factory(dict)
    """By topic and partition: first and end offset."""
    messages: dict[str, int] = attrs.Factory(dict)
    """By topic."""
    problem: str | None = None
    """Why it says nothing."""

    @property
    def address_text(self) -> str:
        """``HOST:PORT``, or that it is away."""
        return "away" if self.address is None else format_address(*self.address)


@attrs.frozen
class PartitionReport:
    """One partition, and what each of its replicas says."""

    partition: Partition
    replicas: tuple[ReplicaReport, ...]
    """The master first, whether it is there or not."""

    @property
    def ends(self) -> tuple[int, int]:
        """First and end offset by the master; while it is away, by the slave that is ahead."""
        found = [ends for report in self.replicas if (ends := self.ends_of(report)) is not None]
        if not found:
            return 0, 0
        return found[0] if self.ends_of(self.replicas[0]) else max(found, key=lambda ends: ends[1])

    def ends_of(self, report: ReplicaReport) -> tuple[int, int] | None:
        """What one replica has; None where it does not answer."""
        if report.problem is not None or report.address is None:
            return None
        return report.ends.get((self.partition.topic, self.partition.number), (0, 0))

    def lag_bytes(self, report: ReplicaReport) -> int | None:
        """How far one replica is behind; None where it does not answer."""
        ends = self.ends_of(report)
        return None if ends is None else max(0, self.ends[1] - ends[1])


@attrs.frozen
class TopicReport:
    """One topic."""

    topic: str
    partitions: list[PartitionReport]

    @property
    def messages(self) -> int:
        """Of all brokers, each as its master says; while that is away, as a slave does."""
        total = 0
        by_broker = {report.partition.broker_id: report.replicas for report in self.partitions}
        for replicas in by_broker.values():
            answers = [report for report in replicas if report.address is not None and report.problem is None]
            total += answers[0].messages.get(self.topic, 0) if answers else 0
        return total


async def report_topics(session: Session, topics: Sequence[str]) -> list[TopicReport]:
    """These topics; raises DiscoveryError."""
    await session.network.discovery.want(topics, session.options.discovery_seconds)
    cluster = session.cluster
    replicas = _replicas(cluster, topics)

    async def ask(report: ReplicaReport) -> None:
        await _ask(session, report)

    await for_each(replicas.values(), ask)
    return [
        TopicReport(
            topic,
            [
                PartitionReport(partition, _of_partition(cluster, partition, replicas))
                for partition in sorted(cluster.readable(topic))
            ],
        )
        for topic in topics
    ]


def _replicas(cluster: Cluster, topics: Sequence[str]) -> dict[Replica, ReplicaReport]:
    """Everybody who announces one of these topics, and their masters."""
    announcing = {replica for topic in topics for replica in cluster.subscribed.get(topic, {})}
    everybody = announcing | {Replica(replica.broker_id) for replica in announcing}
    return {replica: ReplicaReport(replica, cluster.brokers.get(replica)) for replica in everybody}


def _of_partition(
    cluster: Cluster, partition: Partition, reports: dict[Replica, ReplicaReport]
) -> tuple[ReplicaReport, ...]:
    counts = cluster.subscribed.get(partition.topic, {})
    slaves = sorted(
        replica.slave_id
        for replica, count in counts.items()
        if replica.broker_id == partition.broker_id
        and replica.slave_id is not None
        and partition.number < count
    )
    broker_id = partition.broker_id
    return (reports[Replica(broker_id)], *(reports[Replica(broker_id, slave)] for slave in slaves))


async def _ask(session: Session, report: ReplicaReport) -> None:
    if report.address is None:
        return
    try:
        connection = await session.network.pool.link(report.address).wait_connected(_CONNECT_SECONDS)
        offsets, topics = await connection.stats("offsets"), await connection.stats("topics")
    except ClientError as error:
        report.problem = str(error)
        return
    for name, span in parse_ranges(offsets).items():
        report.ends[name.topic, name.partition] = span.start, span.end
    for line in topics.splitlines():
        match line.split(" "):
            case [topic, "partitions", _count, "message_count", messages, *_rest]:
                report.messages[topic] = int(messages)


def as_json(topics: list[TopicReport]) -> dict[str, Any]:
    """For machines."""
    return {
        "topics": [
            {
                "topic": topic.topic,
                "messages": topic.messages,
                "partitions": [
                    {
                        "partition": str(found.partition.in_topic),
                        "start_offset": found.ends[0],
                        "end_offset": found.ends[1],
                        "replicas": [_replica_as_json(found, report) for report in found.replicas],
                    }
                    for found in topic.partitions
                ],
            }
            for topic in topics
        ]
    }


def _replica_as_json(found: PartitionReport, report: ReplicaReport) -> dict[str, Any]:
    ends = found.ends_of(report)
    return {
        "replica": str(report.replica),
        "role": "master" if report.replica.slave_id is None else "slave",
        "address": None if report.address is None else format_address(*report.address),
        "start_offset": None if ends is None else ends[0],
        "end_offset": None if ends is None else ends[1],
        "lag_bytes": found.lag_bytes(report),
        "problem": report.problem,
    }


def describe(topics: list[TopicReport]) -> str:
    """For people."""
    return "\n\n".join(map(_describe, topics)) or "no topics"


def _describe(topic: TopicReport) -> str:
    size = sum(found.ends[1] - found.ends[0] for found in topic.partitions)
    counts = f"{count_of(len(topic.partitions), 'partition')}, {count_of(topic.messages, 'message')}"
    lines = [f"{topic.topic}: {counts}, {describe_bytes(size)}"]
    if topic.partitions:
        rows = [["partition", "start", "end", "bytes", "master", "slaves"]]
        for found in topic.partitions:
            start, end = found.ends
            master, *slaves = found.replicas
            rows.append(
                [
                    str(found.partition.in_topic),
                    str(start),
                    str(end),
                    str(end - start),
                    master.address_text + (" (silent)" if master.problem else ""),
                    ", ".join(_slave(found, report) for report in slaves) or "-",
                ]
            )
        lines.append(table(rows, right=frozenset({1, 2, 3})))
    reports = {report.replica: report for found in topic.partitions for report in found.replicas}
    lines += [f"{replica}: {report.problem}" for replica, report in reports.items() if report.problem]
    return "\n".join(lines)


def _slave(found: PartitionReport, report: ReplicaReport) -> str:
    lag = found.lag_bytes(report)
    if lag is None:
        state = "away" if report.address is None else "silent"
    else:
        state = f"{lag} behind" if lag else "level"
    return f"{report.replica.slave_id}: {report.address_text} ({state})"
