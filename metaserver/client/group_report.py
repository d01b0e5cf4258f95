"""Where a group stands in each of its partitions, and how far that is from the end."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, TypeVar

import anyio
import attrs

from metaserver.client.fetching import reach
from metaserver.client.groups import group_names, read_group
from metaserver.client.headers import is_record, log_ends, measure_backlog
from metaserver.errors import ClientError
from metaserver.names import MAX_OFFSET

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Iterable

    from metaserver.client.groups import Group
    from metaserver.client.headers import Backlog
    from metaserver.client.partition import Partition
    from metaserver.client.session import Session

_Item = TypeVar("_Item")

_AT_A_TIME = 8
"""Partitions that are looked at together."""


@attrs.define
class PartitionReport:
    """One partition of a group."""

    partition: Partition
    owner: str | None
    offset: int | None = None
    """Stored by the group; None: nothing is stored, and the group would begin."""
    message_id: int | None = None
    """Of the message in front of it."""
    start_offset: int | None = None
    end_offset: int | None = None
    """Of the log; None where no replica tells."""
    backlog: Backlog | None = None
    """None where it was not, or cannot be, counted."""
    lag_seconds: float | None = None
    """How old the oldest message is that the group has before it; None where there is none."""
    replicas: list[str] = attrs.Factory(list)
    """Who serves it now: ``master``, ``slave0``."""
    problem: str | None = None

    @property
    def position(self) -> int | None:
        """Where the group goes on: never before the log, nor behind it."""
        if self.start_offset is None or self.end_offset is None:
            return None
        return min(max(self.offset or 0, self.start_offset), self.end_offset)

    @property
    def lag_bytes(self) -> int | None:
        """From there to the end."""
        position = self.position
        return None if position is None or self.end_offset is None else self.end_offset - position


@attrs.define
class GroupReport:
    """One group."""

    group: Group
    partitions: list[PartitionReport]

    @property
    def lag_bytes(self) -> int:
        """Of all partitions whose end is known."""
        return sum(report.lag_bytes or 0 for report in self.partitions)

    @property
    def lag_messages(self) -> int:
        """Of all partitions whose messages were counted."""
        return sum(backlog.messages for backlog in self._backlogs)

    @property
    def is_estimated(self) -> bool:
        """Whether they were not all counted one by one."""
        return any(backlog.is_estimated for backlog in self._backlogs)

    @property
    def lag_seconds(self) -> float | None:
        """Of the partition where it is most; None where nothing is before the group."""
        known = [report.lag_seconds for report in self.partitions if report.lag_seconds is not None]
        return max(known, default=None)

    @property
    def _backlogs(self) -> list[Backlog]:
        return [report.backlog for report in self.partitions if report.backlog is not None]

    @property
    def unknown(self) -> int:
        """Partitions whose end is not."""
        return sum(report.lag_bytes is None for report in self.partitions)


async def report_groups(session: Session) -> list[GroupReport]:
    """Every group, without counting its messages. Raises DiscoveryError."""
    discovery = session.network.discovery
    names = await group_names(discovery)
    groups = [group for name in names if (group := await read_group(discovery, name)) is not None]
    # One look for all of them, instead of one for each group's topics.
    await readable_partitions(session, {topic for group in groups for topic in group.topics})
    reports = [GroupReport(group, await _partitions(session, group)) for group in groups]
    # A partition's ends are asked for once, however many groups consume it.
    by_partition: dict[Partition, list[PartitionReport]] = {}
    for report in reports:
        for found in report.partitions:
            by_partition.setdefault(found.partition, []).append(found)

    async def look(partition: Partition) -> None:
        first, *others = by_partition[partition]
        await _look_at_ends(session, first)
        for other in others:
            other.start_offset, other.end_offset = first.start_offset, first.end_offset
            other.replicas = first.replicas
            other.problem = other.problem or first.problem

    await for_each(by_partition, look)
    return reports


async def report_group(session: Session, group: Group, scan_bytes_max: int) -> GroupReport:
    """One group, with messages and seconds. Raises DiscoveryError."""
    report = GroupReport(group, await _partitions(session, group))

    async def look(found: PartitionReport) -> None:
        await _look_at_ends(session, found)
        await _measure(session, found, scan_bytes_max)

    await for_each(report.partitions, look)
    return report


def summary_fields(report: GroupReport) -> dict[str, object]:
    """One line of a list of groups, in values JSON knows."""
    return {
        "group": report.group.name,
        "members": len(report.group.members),
        "topics": report.group.topics,
        "partitions": len(report.partitions),
        "lag_bytes": report.lag_bytes,
        "partitions_unknown": report.unknown,
    }


def group_fields(report: GroupReport) -> dict[str, object]:
    """All of it, in values JSON knows."""
    return {
        "group": report.group.name,
        "members": [{"id": name, "topics": topics} for name, topics in report.group.members.items()],
        "lag_bytes": report.lag_bytes,
        "lag_messages": report.lag_messages,
        "is_estimated": report.is_estimated,
        "lag_seconds": report.lag_seconds,
        "partitions_unknown": report.unknown,
        "partitions": [
            {
                "topic": found.partition.topic,
                "partition": str(found.partition.in_topic),
                "owner": found.owner,
                "offset": found.offset,
                "message_id": found.message_id,
                "start_offset": found.start_offset,
                "end_offset": found.end_offset,
                "lag_bytes": found.lag_bytes,
                "lag_messages": None if found.backlog is None else found.backlog.messages,
                "is_estimated": None if found.backlog is None else found.backlog.is_estimated,
                "lag_seconds": found.lag_seconds,
                "replicas": found.replicas,
                "problem": found.problem,
            }
            for found in report.partitions
        ],
    }


async def for_each(items: Iterable[_Item], look: Callable[[_Item], Awaitable[None]]) -> None:
    """Call it for all of them, a few at a time; it must not raise."""
    limiter = anyio.CapacityLimiter(_AT_A_TIME)

    async def limited(item: _Item) -> None:
        async with limiter:
            await look(item)

    async with anyio.create_task_group() as tasks:
        for item in items:
            tasks.start_soon(limited, item)


async def readable_partitions(session: Session, topics: Iterable[str]) -> set[Partition]:
    """The announced partitions of some topics. Raises DiscoveryError."""
    topics = list(topics)
    await session.network.discovery.want(topics, session.options.discovery_seconds)
    return {partition for topic in topics for partition in session.cluster.readable(topic)}


async def _partitions(session: Session, group: Group) -> list[PartitionReport]:
    announced = await readable_partitions(session, group.topics)
    reports = []
    for partition in sorted({*announced, *group.owners, *group.offsets}):
        report = PartitionReport(partition, group.owners.get(partition))
        node = group.offsets.get(partition)
        if node is not None and node.stored is not None:
            report.offset, report.message_id = node.stored.offset, node.stored.message_id
        elif node is not None and node.data:
            report.problem = f"its node holds {node.data[:60]!r}, which is no MSGID-OFFSET"
        report.replicas = [
            "master" if replica.slave_id is None else f"slave{replica.slave_id}"
            for replica in session.cluster.replicas(partition)
        ]
        reports.append(report)
    return reports


async def _look_at_ends(session: Session, report: PartitionReport) -> None:
    partition = report.partition
    try:
        _replica, connection = await reach(session.cluster, session.network.pool, partition)
        report.start_offset, report.end_offset = await log_ends(connection, partition.topic, partition.number)
    except ClientError as error:
        report.problem = report.problem or str(error)


async def _measure(session: Session, report: PartitionReport, scan_bytes_max: int) -> None:
    position, end = report.position, report.end_offset
    if position is None or end is None:
        return
    offset, partition = report.offset, report.partition
    if offset is not None and end < offset < MAX_OFFSET:
        report.problem = report.problem or f"the offset is {offset - end} bytes behind the end of the log"
    try:
        _replica, connection = await reach(session.cluster, session.network.pool, partition)
        topic, number = partition.topic, partition.number
        if position < end and not await is_record(connection, topic, number, position, end):
            report.problem = report.problem or f"no message begins at offset {position}"
            return
        report.backlog = await measure_backlog(connection, topic, number, position, end, scan_bytes_max)
    except ClientError as error:
        report.problem = report.problem or str(error)
        return
    oldest = report.backlog.oldest_wall_seconds
    report.lag_seconds = None if oldest is None else max(0.0, time.time() - oldest)
