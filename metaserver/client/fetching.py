"""One fetch by hand, and what came of it."""

from __future__ import annotations

from typing import TYPE_CHECKING

import attrs

from metaserver.client.connection import next_fetch_size
from metaserver.client.messages import Fetched, Moved
from metaserver.client.received import decode_messages
from metaserver.errors import BrokerUnreachableError, NoPartitionError, ReplyError, RequestTimeoutError
from metaserver.protocol import Status

if TYPE_CHECKING:
    from metaserver.client.cluster import Cluster
    from metaserver.client.connection import BrokerConnection
    from metaserver.client.partition import Partition
    from metaserver.client.pool import BrokerPool
    from metaserver.client.received import ReceivedMessage
    from metaserver.registry.paths import Replica

_CONNECT_SECONDS = 3.0


@attrs.frozen
class FetchReport:
    """What a fetch by hand came to."""

    messages: tuple[ReceivedMessage, ...]
    next_offset: int
    """Where to go on."""
    end_offset: int
    """Where the log of the replica that answered ends."""
    moved_from: int | None
    """The offset asked for, where the broker has sent us to another; None where it has not."""
    replica: Replica
    """Who answered."""


async def reach(cluster: Cluster, pool: BrokerPool, partition: Partition) -> tuple[Replica, BrokerConnection]:
    """A connection to the partition's master, else to a slave; raises the last error where there is none."""
    failure: Exception = NoPartitionError(partition.topic, f"no broker announces {partition.in_topic}")
    for replica in cluster.replicas(partition):
        try:
            link = pool.link(cluster.brokers[replica])
            return replica, await link.wait_connected(_CONNECT_SECONDS)
        except BrokerUnreachableError as error:
            failure = error
    raise failure


async def fetch_once(
    cluster: Cluster, pool: BrokerPool, partition: Partition, offset: int, size_max: int, wait_ms: int
) -> FetchReport:
    """Ask one replica after another until one answers; raises the last error where none does."""
    replicas = cluster.replicas(partition)
    failure: Exception = NoPartitionError(partition.topic, f"no broker announces {partition.in_topic}")
    for replica in replicas:
        try:
            connection = await pool.link(cluster.brokers[replica]).wait_connected(_CONNECT_SECONDS)
            asked, moved_from, size = offset, None, size_max
            while True:
                got = await connection.get(
                    partition.topic, partition.number, asked, size_max=size, wait_ms=wait_ms
                )
                if isinstance(got, Moved) and got.offset != asked:
                    asked, moved_from = got.offset, offset
                    continue
                messages: list[ReceivedMessage] = []
                end = asked
                if isinstance(got, Fetched):
                    messages, end = decode_messages(partition, got.offset, got.data)
                    if not messages:
                        size = next_fetch_size(size, got)
                        continue
                log_end = await _end_offset(connection, partition)
                return FetchReport(tuple(messages), end, max(end, log_end), moved_from, replica)
        except (BrokerUnreachableError, RequestTimeoutError) as error:
            failure = error
    raise failure


async def _end_offset(connection: BrokerConnection, partition: Partition) -> int:
    """0 where the broker has announced the partition, and nobody has sent to it yet."""
    try:
        return await connection.end_offset(partition.topic, partition.number)
    except ReplyError as error:
        if error.status == Status.NOT_FOUND:
            return 0
        raise
