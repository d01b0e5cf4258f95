"""What slaves have confirmed, and which puts that answers. Pure: no socket, no timer, no clock.

A slave reports, over its connection, how far it has each partition in memory and on disk. A put that
waits for slaves is released when enough of them have what lies before its end. Two things are told apart:

* what a slave *has* is forgotten with its connection: the next one begins with a comparison of the logs,
  and may come to another result;
* that it is *present* outlives the connection for a while: a slave that connects anew in a moment does not
  make puts fail.
"""

from __future__ import annotations

from collections import deque
from typing import TYPE_CHECKING, TypeAlias

import attrs

from metaserver.names import AckLevel

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator

PartitionKey: TypeAlias = tuple[str, int]
"""Topic and number."""

SLAVES_MAX = 64
"""A broker knows no more at a time: whoever reports under ever new names must not fill its memory."""
PRESENCE_SECONDS_MIN = 3.0
"""A slave reports at least once a second, so this much silence is more than a busy machine."""


@attrs.frozen
class AckRule:
    """What the puts of a topic wait for beyond the master's own disk."""

    level: AckLevel
    """``slave`` or ``slave_disk``."""
    slaves_min: int
    timeout_seconds: float

    @property
    def presence_seconds(self) -> float:
        """A slave that has been silent for longer is not counted on."""
        return max(self.timeout_seconds, PRESENCE_SECONDS_MIN)


@attrs.frozen(order=True)
class SlaveName:
    """Who reports."""

    group: str
    number: int

    def __str__(self) -> str:
        """As it is shown to operators."""
        return f"{self.group}/{self.number}"


@attrs.frozen
class Position:
    """How far a slave has a partition: the offsets behind the last byte in memory, and on disk."""

    memory_offset: int
    disk_offset: int

    def offset(self, level: AckLevel) -> int:
        """The one that counts at this level."""
        return self.memory_offset if level is AckLevel.SLAVE else self.disk_offset


@attrs.define(eq=False)
class WaitingPut:
    """Records that are on the master's disk and not yet confirmed by enough slaves."""

    end_offset: int
    """Behind the last of their bytes."""
    count: int
    """Messages."""
    succeed: Callable[[], None]
    fail: Callable[[int], None]
    """Called with the number of slaves that have confirmed them by the end of the time."""
    flush_replies: Callable[[], None]
    due_seconds: float = 0.0
    """When the time is over; set by :meth:`ReplicaAcks.wait`."""


@attrs.define(eq=False)
class Slave:
    """What is known of one slave."""

    name: SlaveName
    connection: object | None
    """Where its last report came from, while that is open."""
    heard_seconds: float
    """When its last report came."""
    positions: dict[PartitionKey, Position] = attrs.Factory(dict)


@attrs.define(eq=False)
class ReplicaAcks:
    """Of all partitions of one broker. Times are of one monotonic clock, in seconds.

    Invariant: of the puts that wait under one rule the offsets and the times both grow, so that only the
    first of them has to be looked at.
    """

    _slaves: dict[SlaveName, Slave] = attrs.Factory(dict)
    _waiting: dict[PartitionKey, dict[AckRule, deque[WaitingPut]]] = attrs.Factory(dict)
    waiting_count: int = 0
    """Messages that wait."""

    @property
    def slaves(self) -> tuple[Slave, ...]:
        """Everybody who is remembered, present or not."""
        return tuple(self._slaves.values())

    def present_count(self, rule: AckRule, now: float) -> int:
        """How many slaves have reported lately."""
        oldest = now - rule.presence_seconds
        return sum(slave.heard_seconds >= oldest for slave in self._slaves.values())

    def confirmed_count(self, key: PartitionKey, level: AckLevel, end_offset: int) -> int:
        """How many slaves have everything before an offset."""
        return sum(offset >= end_offset for offset in self._offsets(key, level))

    def confirmed_offset(self, key: PartitionKey, rule: AckRule) -> int:
        """Everything before it is with enough slaves; 0 while too few have reported the partition."""
        offsets = sorted(self._offsets(key, rule.level), reverse=True)
        return offsets[rule.slaves_min - 1] if len(offsets) >= rule.slaves_min else 0

    def reported_count(self, key: PartitionKey) -> int:
        """How many slaves have reported the partition over a connection that is open."""
        return sum(key in slave.positions for slave in self._slaves.values())

    def wait(self, key: PartitionKey, rule: AckRule, put: WaitingPut, now: float) -> None:
        """Let a put wait. Those of one partition come in the order of their offsets."""
        put.due_seconds = now + rule.timeout_seconds
        queue = self._waiting.setdefault(key, {}).setdefault(rule, deque())
        queue.append(put)
        self.waiting_count += put.count

    def hear(self, name: SlaveName, connection: object, now: float) -> bool:
        """Somebody reports; False where so many are known already that it is not listened to.

        A slave that comes over another connection than before has to prove anew what it has.
        """
        slave = self._slaves.get(name)
        if slave is None:
            if len(self._slaves) >= SLAVES_MAX and not self._forget_one_that_left():
                return False
            slave = self._slaves[name] = Slave(name, connection, now)
        elif slave.connection is not connection:
            slave.connection = connection
            slave.positions.clear()
        slave.heard_seconds = now
        return True

    def report(self, name: SlaveName, positions: Iterable[tuple[PartitionKey, Position]]) -> list[WaitingPut]:
        """What a slave, heard before, has now; returns the puts that are confirmed by it, in order.

        The last report counts, also where it says less than the one before: a slave whose disk has failed has
        lost what was only in its memory.
        """
        known = self._slaves[name].positions
        released: list[WaitingPut] = []
        for key, position in positions:
            known[key] = position
            if key in self._waiting:
                released += self._release(key)
        return released

    def is_elsewhere(self, name: SlaveName, connection: object) -> bool:
        """Whether a slave of this name reports over another connection that is open."""
        slave = self._slaves.get(name)
        return slave is not None and slave.connection is not None and slave.connection is not connection

    def disconnected(self, connection: object) -> None:
        """A connection is closed: what was reported over it no longer holds."""
        for slave in self._slaves.values():
            if slave.connection is connection:
                slave.connection = None
                slave.positions.clear()

    def forget(self, key: PartitionKey) -> None:
        """The partition is no longer here. Puts that wait for it wait until their time is over."""
        for slave in self._slaves.values():
            slave.positions.pop(key, None)

    def has_reported(self, connection: object) -> bool:
        """Whether the connection is a slave's."""
        return any(slave.connection is connection for slave in self._slaves.values())

    def waiting(self) -> list[tuple[PartitionKey, AckRule]]:
        """Where puts wait, and under which rules."""
        return [(key, rule) for key, rules in self._waiting.items() for rule in rules]

    def expire(self, key: PartitionKey, rule: AckRule, now: float) -> tuple[list[WaitingPut], float | None]:
        """The puts whose time is over, and when the next one's is; None where nothing else waits so."""
        queue = self._waiting.get(key, {}).get(rule)
        if queue is None:
            return [], None
        expired: list[WaitingPut] = []
        while queue and queue[0].due_seconds <= now:
            expired.append(queue.popleft())
        self.waiting_count -= sum(put.count for put in expired)
        due = queue[0].due_seconds if queue else None
        self._drop_empty(key, rule)
        return expired, due

    def _release(self, key: PartitionKey) -> list[WaitingPut]:
        released: list[WaitingPut] = []
        for rule, queue in list(self._waiting[key].items()):
            confirmed = self.confirmed_offset(key, rule)
            while queue and queue[0].end_offset <= confirmed:
                released.append(queue.popleft())
            self._drop_empty(key, rule)
        self.waiting_count -= sum(put.count for put in released)
        return released

    def _drop_empty(self, key: PartitionKey, rule: AckRule) -> None:
        if not self._waiting[key][rule]:
            del self._waiting[key][rule]
            if not self._waiting[key]:
                del self._waiting[key]

    def _offsets(self, key: PartitionKey, level: AckLevel) -> Iterator[int]:
        for slave in self._slaves.values():
            position = slave.positions.get(key)
            if position is not None:
                yield position.offset(level)

    def _forget_one_that_left(self) -> bool:
        away = [slave for slave in self._slaves.values() if slave.connection is None]
        if not away:
            return False
        del self._slaves[min(away, key=lambda slave: slave.heard_seconds).name]
        return True
