"""Which replica a partition is read from. Pure: told what happened, asked whom to ask.

A deck of replicas is dealt to the partitions, from a random start, so that master and slaves serve equal
shares; it is dealt again now and then, so that even one partition is served by all. Who lags, or is away, is
left at once and returned to after a while.
"""

from __future__ import annotations

import random
from typing import TYPE_CHECKING, Literal, TypeAlias

import attrs

from metaserver.client.backoff import Backoff

if TYPE_CHECKING:
    from collections.abc import Sequence

    from metaserver.client.partition import Partition
    from metaserver.registry.paths import Replica

ReadFrom: TypeAlias = Literal["any", "master", "slave"]

DEAL_SECONDS = 20.0
_AWAY_SECONDS_MIN = 1.0
_AWAY_SECONDS_MAX = 15.0


@attrs.define(eq=False)
class ReplicaChoice:
    """For all partitions of one consumer."""

    read_from: ReadFrom = "any"
    """``slave``: the master only while there is no slave to ask."""
    deal_seconds: float = DEAL_SECONDS
    _random: random.Random = attrs.Factory(random.Random)
    _starts: dict[Partition, int] = attrs.Factory(dict)
    """Where the dealing began for a partition."""
    _left: dict[tuple[Replica, Partition | None], float] = attrs.Factory(dict)
    """Until when who is not asked, for one partition or (None) for all."""
    _backoffs: dict[tuple[Replica, Partition | None], Backoff] = attrs.Factory(dict)
    _next_start: int | None = None

    def choose(self, partition: Partition, replicas: Sequence[Replica], now: float) -> Replica | None:
        """Whom to ask now; ``replicas`` has the master first. None: everybody is away, or nobody is there."""
        candidates = [
            replica for replica in self._preferred(replicas) if self._is_there(replica, partition, now)
        ]
        if not candidates:
            candidates = [replica for replica in replicas if self._is_there(replica, partition, now)]
        if not candidates:
            return None
        if self._next_start is None:
            self._next_start = self._random.randrange(1 << 16)
        start = self._starts.get(partition)
        if start is None:
            start = self._starts[partition] = self._next_start
            self._next_start += 1
        return candidates[(start + int(now / self.deal_seconds)) % len(candidates)]

    def lags(self, replica: Replica, partition: Partition, now: float) -> None:
        """It does not have what another has: leave it, for this partition."""
        self._leave((replica, partition), now)

    def is_away(self, replica: Replica, now: float) -> None:
        """It cannot be reached: leave it, for all partitions."""
        self._leave((replica, None), now)

    def served(self, replica: Replica, partition: Partition) -> None:
        """It gave messages: the next time it is left is a first one again."""
        if self._backoffs:
            self._backoffs.pop((replica, partition), None)
            self._backoffs.pop((replica, None), None)

    def is_back(self, replica: Replica) -> None:
        """It can be reached again, and may be asked."""
        self._left.pop((replica, None), None)

    def forget(self, partition: Partition) -> None:
        """The partition is not read any more."""
        self._starts.pop(partition, None)
        for key in [key for key in self._left if key[1] == partition]:
            del self._left[key]
            self._backoffs.pop(key, None)

    def _preferred(self, replicas: Sequence[Replica]) -> list[Replica]:
        if self.read_from == "master":
            return [replica for replica in replicas if replica.slave_id is None]
        if self.read_from == "slave":
            return [replica for replica in replicas if replica.slave_id is not None]
        return list(replicas)

    def _is_there(self, replica: Replica, partition: Partition, now: float) -> bool:
        left = self._left
        return not left or (
            left.get((replica, partition), now) <= now and left.get((replica, None), now) <= now
        )

    def _leave(self, key: tuple[Replica, Partition | None], now: float) -> None:
        if self._left.get(key, now) > now:
            return
        backoff = self._backoffs.setdefault(key, Backoff(_AWAY_SECONDS_MIN, _AWAY_SECONDS_MAX, self._random))
        self._left[key] = now + backoff.next_seconds()
