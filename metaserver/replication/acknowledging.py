"""What a slave tells its master: how far it is, in memory and on disk (docs/protocol.md, ``replica-ack``).

A partition is reported once its end has been compared with the master's, over this connection. Where the
master's puts wait for slaves, every change is reported in the same turn of the loop, all partitions of that
turn in one frame; elsewhere once a second, with the sign of life. The master's reply says which is which.
"""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING

import attrs

from metaserver.client.connection import expect_text
from metaserver.errors import ClientError
from metaserver.logs import get_logger
from metaserver.names import AckLevel
from metaserver.protocol import ReplicaPosition, encode_replicated

if TYPE_CHECKING:
    from metaserver.broker import Broker
    from metaserver.client import BrokerConnection
    from metaserver.client.connection import Reply
    from metaserver.config import SlaveConfig
    from metaserver.names import TopicPartition
    from metaserver.timers import Timers

EXTENSION = "replica-ack"
_BODY_BYTES_MAX = 1024
"""Of one frame: the least that a master may be told to take (maxRequestBytes). A longer one would be
malformed there, and end the connection each time."""
_LINE_BYTES_MAX = 52
"""Of a position, beside its topic."""

_log = get_logger(__name__)


@attrs.define(eq=False)
class ProgressReports:
    """Of one slave, for one connection after the other."""

    _broker: Broker
    _config: SlaveConfig
    _timers: Timers
    _link: BrokerConnection | None = None
    """None also where the master does not know the extension: it must never be sent a word of it."""
    _positions: dict[TopicPartition, ReplicaPosition] = attrs.Factory(dict)
    """The newest of each partition that is reported over this connection."""
    _changed: dict[TopicPartition, None] = attrs.Factory(dict)
    """Whose position the master has not been told."""
    _levels: dict[TopicPartition, AckLevel] = attrs.Factory(dict)
    """What the master's puts wait for, as far as it has said so."""
    _is_scheduled: bool = False

    def connected(self, link: BrokerConnection) -> None:
        """A connection begins: say at once that there is a slave, before anything is copied."""
        if EXTENSION in link.extensions:
            self._link = link
            self.give_sign_of_life()

    def disconnected(self) -> None:
        """It is over, and with it all that was said."""
        self._link = None
        self._positions.clear()
        self._changed.clear()
        self._levels.clear()

    def follow(self, name: TopicPartition) -> None:
        """The end of the local log is known to be the master's: its progress counts from now on."""
        if self._link is None or name in self._positions:
            return
        partition = self._broker.partitions[(name.topic, name.partition)]
        partition.on_progress = partial(self._progressed, name)
        self._positions[name] = ReplicaPosition(name.topic, name.partition, 0, 0)
        self._progressed(name)

    def unfollow(self, name: TopicPartition) -> None:
        """The master has the partition no longer: nothing more is said of it."""
        for known in (self._positions, self._changed, self._levels):
            known.pop(name, None)

    def give_sign_of_life(self) -> None:
        """Report what has changed, and that this slave is there where nothing has."""
        self._report(at_least_one=True)

    def _progressed(self, name: TopicPartition) -> None:
        before = self._positions.get(name)
        if before is None:
            return
        log = self._broker.partitions[(name.topic, name.partition)].log
        now = ReplicaPosition(name.topic, name.partition, log.end_offset, log.flushed_offset)
        self._positions[name] = now
        self._changed[name] = None
        level = self._levels.get(name, AckLevel.SLAVE)
        is_awaited = level is AckLevel.SLAVE or now.disk_offset != before.disk_offset
        if level.waits_for_slaves and is_awaited and not self._is_scheduled:
            self._is_scheduled = True
            self._timers.schedule(0.0, self._turn_is_over)

    def _turn_is_over(self) -> None:
        self._is_scheduled = False
        self._report(at_least_one=False)

    def _report(self, *, at_least_one: bool) -> None:
        if self._link is None:
            return
        names, self._changed = list(self._changed), {}
        some: list[TopicPartition] = []
        left_bytes = _BODY_BYTES_MAX
        for name in names:
            line_bytes = len(name.topic) + _LINE_BYTES_MAX
            if line_bytes > left_bytes:
                self._send(self._link, some)
                some, left_bytes = [], _BODY_BYTES_MAX
            some.append(name)
            left_bytes -= line_bytes
        if some or at_least_one:
            self._send(self._link, some)

    def _send(self, link: BrokerConnection, names: list[TopicPartition]) -> None:
        positions = [self._positions[name] for name in names]
        link.submit(
            partial(encode_replicated, self._config.slave_group, self._config.slave_id, positions),
            partial(self._answered, names, link),
        )

    def _answered(
        self, names: list[TopicPartition], link: BrokerConnection, reply: Reply | ClientError
    ) -> None:
        if isinstance(reply, ClientError) or link is not self._link:
            return  # The connection is over; whoever copies over it has noticed too.
        try:
            levels = [AckLevel(word) for word in expect_text(reply).split()]
            found = list(zip(names, levels, strict=True))
        except (ClientError, ValueError) as error:
            _log.warning("The master refused a report of progress", reason=str(error))
            return
        for name, level in found:
            self._levels[name] = level
            partition = self._broker.partitions[(name.topic, name.partition)]
            partition.syncs_for_master = level is AckLevel.SLAVE_DISK
            if partition.is_flush_due:
                self._broker.committer.flush(partition)
