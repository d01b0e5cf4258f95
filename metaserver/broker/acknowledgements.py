"""Puts that wait for slaves, and what slaves report: the shell around :mod:`replica_acks`.

A put comes here when it is safe at this broker, so neither the committer nor another partition waits with it;
it goes when enough slaves have it, or by a timer.
"""

from __future__ import annotations

from collections import Counter
from functools import partial
from typing import TYPE_CHECKING, cast

import attrs

from metaserver.broker.replica_acks import Position, ReplicaAcks, SlaveName
from metaserver.logs import get_logger
from metaserver.names import AckLevel
from metaserver.protocol import Status, encode_result

if TYPE_CHECKING:
    from metaserver.broker.broker import Broker
    from metaserver.broker.partition import Partition
    from metaserver.broker.replica_acks import AckRule, PartitionKey, WaitingPut
    from metaserver.broker.sink import ReplySink
    from metaserver.protocol import Replicated

WAITING_BYTES_PER_MESSAGE = 200
"""What a put that waits costs beside its record: its opaque, id, size, and the lists of them."""

_log = get_logger(__name__)


@attrs.define(eq=False)
class Acknowledgements:
    """Of one broker."""

    _broker: Broker
    acks: ReplicaAcks = attrs.Factory(ReplicaAcks)
    timeouts: Counter[AckLevel] = attrs.Factory(Counter)
    """Messages answered 503 because too few slaves had them in time; they are stored."""
    refusals: Counter[AckLevel] = attrs.Factory(Counter)
    """Messages answered 503 at once because too few slaves are there; they are not stored."""
    _timed: set[tuple[PartitionKey, AckRule]] = attrs.Factory(set)
    """What a timer is set for. One is enough: it is set anew for the next put when it comes."""
    _doubled: set[SlaveName] = attrs.Factory(set)
    """Who has been found on two connections; said once, for two slaves of one name take turns for ever."""

    def refusal(self, rule: AckRule, count: int) -> str | None:
        """Why ``count`` messages are not even taken; None where they are."""
        wanted, level = rule.slaves_min, rule.level
        present = self.acks.present_count(rule, self._now)
        if present < wanted:
            self.refusals[level] += count
            return (
                f"{_asked(rule)},and {_counted(present, 'reported')} within {rule.presence_seconds:g} s. "
                "The message is not stored"
            )
        # Puts of other topics must find room, however long slaves take.
        if self.acks.waiting_count * WAITING_BYTES_PER_MESSAGE > self._broker.config.max_inflight_bytes // 2:
            self.refusals[level] += count
            return (
                f"ackLevel={level}: {self.acks.waiting_count} messages wait for slaves already"
                "(maxInflightBytes). The message is not stored"
            )
        return None

    def wait(self, partition: Partition, rule: AckRule, put: WaitingPut) -> None:
        """Answer a put, whose records are safe here, when slaves have them or the time is over."""
        key = (partition.name.topic, partition.name.partition)
        self.acks.wait(key, rule, put, self._now)
        if (key, rule) not in self._timed:
            self._timed.add((key, rule))
            self._broker.timers.schedule(rule.timeout_seconds, partial(self._time_over, key, rule))

    def report(self, report: Replicated, sink: ReplySink) -> None:
        """A slave says how far it is. A report that cannot be true ends its connection."""
        partitions = self._broker.partitions
        levels: list[AckLevel] = []
        for one in report.positions:
            found = partitions.get((one.topic, one.partition))
            if found is None:
                self._refuse(report, f"there is no partition {one.topic}-{one.partition}", sink)
                return
            if one.memory_offset > found.readable_offset:
                end = found.readable_offset
                reason = (
                    f"offset {one.memory_offset} of {found.name} is beyond {end}, the end of what slaves see"
                )
                self._refuse(report, reason, sink)
                return
            # Nobody puts to a slave: what its own slaves have, nobody waits for.
            levels.append(AckLevel.DISK if self._broker.is_slave else found.config.acknowledged)
        slave = SlaveName(report.slave_group, report.slave_id)
        if self.acks.is_elsewhere(slave, sink) and slave not in self._doubled:
            self._doubled.add(slave)
            _log.warning(
                "A slave reports over a second connection: either the first is dead, or two slaves have the "
                "same slaveGroup and slaveId and count as one",
                slave=str(slave),
            )
        if not self.acks.hear(slave, sink, self._now):
            self._refuse(report, "too many slaves report to this broker", sink)
            return
        released = self.acks.report(
            slave,
            (
                ((one.topic, one.partition), Position(one.memory_offset, one.disk_offset))
                for one in report.positions
            ),
        )
        sink.send(encode_result(Status.SUCCESS, " ".join(levels), report.opaque))
        for put in released:
            put.succeed()
        self._settled(released)

    def disconnect_slaves(self) -> None:
        """What slaves were told when they connected no longer holds: they come again, and are told anew."""
        for slave in self.acks.slaves:
            if slave.connection is not None:
                cast("ReplySink", slave.connection).close()  # It came with a report.

    def _refuse(self, report: Replicated, reason: str, sink: ReplySink) -> None:
        _log.warning(
            "Refused the report of a slave", slave=f"{report.slave_group}/{report.slave_id}", reason=reason
        )
        sink.send(encode_result(Status.BAD_REQUEST, f"Bad request,{reason}", report.opaque))
        sink.close_after_replies()

    def _time_over(self, key: PartitionKey, rule: AckRule) -> None:
        now = self._now
        due = self._expire(key, rule, now)
        if due is None:
            self._timed.discard((key, rule))
        else:
            self._broker.timers.schedule(max(0.0, due - now), partial(self._time_over, key, rule))

    def _expire(self, key: PartitionKey, rule: AckRule, now: float) -> float | None:
        """Answer the puts whose time is over; when the next one's is."""
        expired, due = self.acks.expire(key, rule, now)
        for put in expired:
            self.timeouts[rule.level] += put.count
            put.fail(self.acks.confirmed_count(key, rule.level, put.end_offset))
        self._settled(expired)
        return due

    def give_up(self) -> None:
        """Nobody will report any more (a stop): what waits is answered as if its time was over."""
        for key, rule in self.acks.waiting():
            self._expire(key, rule, float("inf"))

    def _settled(self, puts: list[WaitingPut]) -> None:
        for flush in dict.fromkeys(put.flush_replies for put in puts):
            flush()

    @property
    def _now(self) -> float:
        return self._broker.clock.monotonic_seconds()


def shortfall_text(rule: AckRule, confirmed_count: int) -> str:
    """What was missing when the time of a put was over."""
    milliseconds = round(rule.timeout_seconds * 1000)
    counted = _counted(confirmed_count, "answered")
    return f"{_asked(rule)},and {counted} in time (slaveAckTimeoutInMills={milliseconds})"


def _asked(rule: AckRule) -> str:
    return f"ackLevel={rule.level} asks for {rule.slaves_min} slave{'' if rule.slaves_min == 1 else 's'}"


def _counted(count: int, what: str) -> str:
    return f"{count} {'has' if count == 1 else 'have'} {what}"
