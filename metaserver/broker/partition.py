"""One partition as the broker serves it: its log, what waits to be appended, who waits to read."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any
from weakref import WeakKeyDictionary

import attrs

from metaserver.broker.replica_acks import AckRule
from metaserver.names import INTERNAL_TOPICS, TRANSACTIONS_TOPIC, AckLevel

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    from metaserver.broker.sink import ReplySink
    from metaserver.config import ServerConfig, TopicConfig
    from metaserver.errors import StorageError
    from metaserver.filters import Filter, UnknownFilter
    from metaserver.message import Buffer
    from metaserver.names import TopicPartition
    from metaserver.storage import PartitionLog
    from metaserver.timers import Timer

_NEVER = 2**31 - 1
_EVERY_SECOND_MS = 1000


@attrs.define(eq=False)
class PendingAppend:
    """Records that belong together: they are appended in one piece, and answered in one piece."""

    records: Sequence[Buffer]
    size_bytes: int
    count: int
    last_id: int
    succeed: Callable[[int], None]
    """Called with the offset of the first record once the bytes are as safe as configured."""
    fail: Callable[[StorageError], None]
    """Called when they are not in the log."""
    flush_replies: Callable[[], None]
    """Called after all outcomes of one commit are told, so that replies leave in one send."""
    offset: int | None = None
    """Where the records must begin (a replica's), or None for wherever the log ends."""
    begins_segment: bool = False
    """Whether a new segment begins with the records (a replica's, where its master's does)."""
    waits_for_disk: bool = False
    """Whether success means that the bytes are synced, whatever a reload makes of the partition meanwhile."""


@attrs.define(eq=False)
class WaitingGet:
    """A long poll: called once, when there is something to read or the time is over."""

    answer: Callable[[], None]
    timer: Timer | None = None


@attrs.define(eq=False)
class Partition:
    """State changes only on the loop; ``log`` is lent to a worker thread while ``is_busy``."""

    name: TopicPartition
    log: PartitionLog
    config: TopicConfig
    readable_offset: int
    """Behind the last byte a consumer or slave may see: what the durability setting has made safe."""
    is_configured: bool = True
    """Whether a topic section covers it; where none does, it is readable and takes no puts."""
    pending: list[PendingAppend] = attrs.Factory(list)
    jobs: list[tuple[Callable[[], Any], Callable[[Any, Exception | None], None]]] = attrs.Factory(list)
    """For a worker that owns the log alone; they come before the appends that wait."""
    is_busy: bool = False
    """A worker thread owns the log: appends wait in ``pending``."""
    is_flushing: bool = False
    """A worker thread syncs the log; appends may go on."""
    maintain_offset: int = 0
    """No new segment or checkpoint is tried before the log ends here: the last attempt failed."""
    unflushed_count: int = 0
    flush_timer: Timer | None = None
    filters: Mapping[str, Filter | UnknownFilter] = attrs.Factory(dict)
    """By group: which messages it gets."""
    ack_rule: AckRule | None = None
    """What a put waits for when it is safe here; None: for nothing."""
    syncs_for_master: bool = False
    """At a slave: whether its master answers puts only when this log is synced; it wins over what is
    configured here."""
    on_progress: Callable[[], None] | None = None
    """At a slave: called when more of the log is written or synced, or less."""
    last_get_offset: int = -1
    """Of the last get that was answered with data."""
    waiting_gets: dict[WaitingGet, None] = attrs.Factory(dict)
    """In the order they came."""
    told_epochs: WeakKeyDictionary[ReplySink, None] = attrs.Factory(WeakKeyDictionary)
    """Whom the broker has told whose bytes the log holds, in the order they asked."""

    @classmethod
    def of(cls, name: TopicPartition, log: PartitionLog, config: ServerConfig) -> Partition:
        """With what the configuration says of its topic; all of the log may be read."""
        partition = cls(name, log, config.defaults, log.end_offset)
        partition.configure(config)
        return partition

    def configure(self, config: ServerConfig) -> None:
        """Follow a configuration, perhaps a reloaded one."""
        found = None if self.is_internal else config.topic_config(self.name.topic)
        self.is_configured = found is not None
        self.config = found or config.defaults
        if self.name.topic == TRANSACTIONS_TOPIC:
            self.config = _journal_config(config)
        elif self.is_internal:
            # Its acknowledgements, and a slave's copy of them, are worth what they are worth to ZooKeeper.
            self.config = attrs.evolve(
                config.defaults, unflush_threshold=0, ack_level=AckLevel.DISK, stat=False
            )
        self.filters = dict(self.config.group_filters)
        level = self.config.acknowledged
        self.ack_rule = None
        if not self.is_internal and level.waits_for_slaves:
            timeout_seconds = self.config.slave_ack_timeout_ms / 1000
            self.ack_rule = AckRule(level, self.config.slaves_min, timeout_seconds)

    @property
    def is_internal(self) -> bool:
        """Whether the broker itself writes it: clients put nothing into it, and it is not listed."""
        return self.name.topic in INTERNAL_TOPICS

    @property
    def is_group_commit(self) -> bool:
        """Whether a put is answered only after it is on disk."""
        return self.syncs_for_master or self.config.acknowledged is not AckLevel.MEMORY

    @property
    def is_flush_due(self) -> bool:
        """Whether so much is written and not synced that it does not wait for the timer."""
        if self.syncs_for_master:
            return self.unflushed_count > 0
        return self.unflushed_count > max(0, self.config.unflush_threshold)

    def epochs_changed(self) -> None:
        """The log is another than those were told of: they must ask again, before they read more."""
        told, self.told_epochs = self.told_epochs, WeakKeyDictionary()
        self.publish(self.readable_offset)
        for sink in told:
            sink.close_after_replies()
            sink.flush()

    def progressed(self) -> None:
        """More of the log is written or synced, or less."""
        if self.on_progress is not None:
            self.on_progress()

    def publish(self, readable_offset: int) -> None:
        """Let readers see more, and answer those who waited for it."""
        self.readable_offset = readable_offset
        if self.waiting_gets:
            waiting = list(self.waiting_gets)
            self.waiting_gets.clear()
            for get in waiting:
                get.answer()


def _journal_config(config: ServerConfig) -> TopicConfig:
    """Of the journal of transactions: synced as ``flushTxLogAtCommit`` says.

    Where any topic waits for slaves they are to report the journal as soon as that topic: a decision waits
    for them too.
    """
    level, threshold, interval_ms = AckLevel.DISK, 0, config.defaults.unflush_interval_ms
    if config.flush_tx_log_at_commit != 1:
        level, threshold = AckLevel.MEMORY, _NEVER
        interval_ms = _EVERY_SECOND_MS if config.flush_tx_log_at_commit == 2 else _NEVER
    levels = [topic.acknowledged for topic in config.topics]
    for wanted in (AckLevel.SLAVE, AckLevel.SLAVE_DISK):
        if wanted in levels:
            level = wanted
    return attrs.evolve(
        config.defaults,
        unflush_threshold=threshold,
        unflush_interval_ms=interval_ms,
        ack_level=level,
        stat=False,
    )
