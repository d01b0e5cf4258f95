"""A slave in figures."""

from __future__ import annotations

from typing import TYPE_CHECKING

import attrs

from metaserver.replication.progress import ReplicaState

if TYPE_CHECKING:
    from collections.abc import Iterable

    from metaserver.names import TopicPartition
    from metaserver.replication.catch_up import CatchUpReport
    from metaserver.replication.chain import Hop
    from metaserver.replication.pulling import LinkReport


@attrs.frozen
class ReplicaReport:
    """One partition of a slave."""

    name: TopicPartition
    state: ReplicaState
    reason: str
    local_start: int
    local_end: int
    master_end: int
    lag_bytes: int
    lag_messages: int
    """Estimated from the average size of the messages copied so far."""
    lag_seconds: float
    """Age of the newest message copied, while there are newer ones; 0 where there are none."""
    gaps: tuple[tuple[int, int], ...] = ()
    """Offsets between its ends that it cannot give: never copied, or damaged."""


@attrs.frozen
class SlaveReport:
    """All of a slave."""

    master_address: str
    """Blank while it is not known."""
    is_connected: bool
    problem: str
    """Why there is no connection."""
    search_problem: str
    """Why the address may be out of date; blank where it is sure."""
    partitions: tuple[ReplicaReport, ...]
    requests: int
    """Fetches in flight."""
    catch_up: CatchUpReport
    heard_wall_seconds: float | None = None
    """When the master last told its ends, in seconds since 1970; None: it has not yet."""
    upstream: tuple[Hop, ...] = ()
    """The master, and whom it follows itself, up to the last that is known."""
    link: LinkReport | None = None
    master_promoted: str = ""
    """When the master took another's place, ISO 8601; blank: it did not, or has not told."""

    @property
    def estimated_seconds(self) -> float | None:
        """Until everything is copied; None where that cannot be told, or is not coming nearer."""
        seconds = self.catch_up.pace.estimated_seconds
        return None if seconds is None or not self.is_connected else round(seconds, 1)

    @property
    def lag_bytes(self) -> int:
        """Of all partitions."""
        return sum(partition.lag_bytes for partition in self.partitions)

    @property
    def lag_messages(self) -> int:
        """Of all partitions, estimated."""
        return sum(partition.lag_messages for partition in self.partitions)

    @property
    def lag_seconds(self) -> float:
        """Of the partition that is furthest behind."""
        return max((partition.lag_seconds for partition in self.partitions), default=0.0)


def left_bytes(replicas: Iterable[ReplicaReport]) -> int:
    """What is still to be copied; a partition that has stopped will not be."""
    return sum(replica.lag_bytes for replica in replicas if replica.state is not ReplicaState.STOPPED)
