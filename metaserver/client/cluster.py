"""The brokers and topics a client knows of, as one value. Pure."""

from __future__ import annotations

from typing import TYPE_CHECKING, TypeAlias

import attrs

from metaserver.client.partition import Partition
from metaserver.registry.paths import Replica

if TYPE_CHECKING:
    from collections.abc import Mapping

Address: TypeAlias = tuple[str, int]
"""Host and port."""


@attrs.frozen
class Cluster:
    """What the registry said at the last look; replaced, never changed."""

    brokers: Mapping[Replica, Address] = attrs.Factory(dict)
    """Masters and slaves that are alive."""
    published: Mapping[str, Mapping[Replica, int]] = attrs.Factory(dict)
    """By topic: how many partitions each master takes messages for."""
    subscribed: Mapping[str, Mapping[Replica, int]] = attrs.Factory(dict)
    """By topic: how many partitions each master and slave can be read from."""

    def writable(self, topic: str) -> tuple[Partition, ...]:
        """Where messages may go now, by broker id and number."""
        return tuple(
            Partition(topic, replica.broker_id, number)
            for replica, count in sorted(
                self.published.get(topic, {}).items(), key=lambda entry: entry[0].broker_id
            )
            if replica.slave_id is None and replica in self.brokers
            for number in range(count)
        )

    def readable(self, topic: str) -> tuple[Partition, ...]:
        """Every partition that a master or slave announces, in the order that the members of a group share.

        It is that of the names as text, ``0-10`` before ``0-2``: Java members sort so.
        """
        counts: dict[int, int] = {}
        for replica, count in self.subscribed.get(topic, {}).items():
            counts[replica.broker_id] = max(counts.get(replica.broker_id, 0), count)
        found = [
            Partition(topic, broker, number) for broker, count in counts.items() for number in range(count)
        ]
        return tuple(sorted(found, key=lambda partition: str(partition.in_topic)))

    def replicas(self, partition: Partition) -> tuple[Replica, ...]:
        """Who can be asked for its messages, the master first."""
        found = [
            replica
            for replica, count in self.subscribed.get(partition.topic, {}).items()
            if replica.broker_id == partition.broker_id
            and partition.number < count
            and replica in self.brokers
        ]
        return tuple(sorted(found, key=lambda replica: -1 if replica.slave_id is None else replica.slave_id))

    def master_address(self, partition: Partition) -> Address | None:
        """Where its messages are sent to; None while there is no master."""
        return self.brokers.get(Replica(partition.broker_id))
