"""A partition as clients name it: among all brokers, with its topic."""

from __future__ import annotations

import attrs

from metaserver.registry.paths import BrokerPartition


@attrs.frozen(order=True, cache_hash=True)
class Partition:
    """One partition of a topic on one broker, whichever of its replicas is asked."""

    topic: str
    broker_id: int
    number: int

    def __str__(self) -> str:
        """``TOPIC B-P``."""
        return f"{self.topic} {self.broker_id}-{self.number}"

    @property
    def in_topic(self) -> BrokerPartition:
        """Its name below the topic, ``B-P``: that of owner and offset nodes."""
        return BrokerPartition(self.broker_id, self.number)
