"""The rules of a broker: one command in, replies out. Source: reference wire-protocol section 6.

Nothing here waits. What must wait for the disk is handed to the committer or the executor, which call
back on the loop; replies of one connection may therefore leave in another order than their requests
came (the opaque tells them apart), but puts to one partition are appended in the order they came.
"""

from __future__ import annotations

from collections import defaultdict
from typing import TYPE_CHECKING
from uuid import uuid4

import attrs
import trio

from metaserver import descriptors
from metaserver.broker.acknowledgements import Acknowledgements
from metaserver.broker.gate import PutGate
from metaserver.broker.gets import GetHandler
from metaserver.broker.partition import Partition, PendingAppend
from metaserver.broker.puts import PutHandler
from metaserver.broker.replicas import answer_epochs
from metaserver.broker.reports import report
from metaserver.broker.statistics import Counters, RealTimeStatistics, TopicTraffic
from metaserver.broker.transactions import TransactionHandler
from metaserver.broker.unfinished import UnfinishedRequests
from metaserver.broker.version import VERSION_TEXT
from metaserver.errors import StorageError
from metaserver.logs import get_logger
from metaserver.message import MessageIdSource
from metaserver.names import INTERNAL_TOPICS, BrokerId
from metaserver.protocol import (
    Command,
    EpochsQuery,
    Get,
    Malformed,
    OffsetQuery,
    OversizedPut,
    Pair,
    PutBatch,
    Puts,
    Quit,
    Replicated,
    Stats,
    Status,
    Successor,
    Sync,
    Transaction,
    TransactionalPut,
    Version,
    encode_result,
)

if TYPE_CHECKING:
    from collections.abc import Callable
    from random import Random

    from metaserver.broker.committer import Committer
    from metaserver.broker.executor import Executor
    from metaserver.broker.page_cache import PageCache
    from metaserver.broker.pair_master import PairMaster
    from metaserver.broker.pair_slave import PairSlave
    from metaserver.broker.sink import ReplySink
    from metaserver.config import ServerConfig, TopicConfig
    from metaserver.message import Buffer
    from metaserver.names import TopicPartition
    from metaserver.storage import Clock, MessageStore
    from metaserver.timers import Timers

_NO_SYNC = "This broker is no synchronous slave and takes no sync requests."
_NO_PAIR = "This broker is no synchronous slave and copies nobody who calls."
_NO_MASTER = "This broker is no master."

_log = get_logger(__name__)


@attrs.define(eq=False)
class Broker:
    """A master's or a slave's answers to commands."""

    config: ServerConfig
    store: MessageStore
    committer: Committer
    clock: Clock
    timers: Timers
    executor: Executor
    random: Random
    page_cache: PageCache
    address: str
    """``HOST:PORT`` as advertised; it stands in the text of failed puts."""
    master_address: str | None = None
    """Where this broker replicates from; None on a master. A slave refuses puts."""
    version_text: str = VERSION_TEXT
    instance: str = attrs.Factory(lambda: uuid4().hex[:16])
    """A name for the life of this process, by which others find out that they talk to the same broker."""
    describe_upstream: Callable[[], str] | None = None
    """What a slave tells of the nodes above it, nearest first (docs/protocol.md)."""
    promoted: str = ""
    """When it was made the master in another's place, ISO 8601; blank: it was not."""
    gate: PutGate = attrs.Factory(PutGate)
    on_successor: Callable[[str], str | None] | None = None
    """Of a master: told the ``HOST:PORT`` of who says to have its place; why that is none, or None."""
    pair_slave: PairSlave | None = None
    """Of the slave of a synchronous pair."""
    pair_master: PairMaster | None = None
    """Of the master of a synchronous pair."""
    on_new_partition: Callable[[], None] | None = None
    """Called when a partition has been created."""
    on_cut: Callable[[TopicPartition, int], None] | None = None
    """Told, before and after, that a log is cut at an offset: what was seen behind it means nothing."""
    on_suspect: Callable[[TopicPartition, int], None] | None = None
    """Called when somebody may not have been able to read what lies at an offset."""
    partitions: dict[tuple[str, int], Partition] = attrs.Factory(dict)
    counters: Counters = attrs.Factory(Counters)
    traffic: defaultdict[str, TopicTraffic] = attrs.Factory(lambda: defaultdict(TopicTraffic))
    inflight_bytes: int = 0
    """Put bytes of all connections that wait for the disk; of puts that wait for slaves what they cost."""
    paused: dict[ReplySink, None] = attrs.Factory(dict)
    """Who is to be resumed when ``inflight_bytes`` is no longer above its limit."""
    all_answered: trio.Event | None = None
    """Somebody waits until no put is in flight."""
    removing: set[TopicPartition] = attrs.Factory(set)
    """Partitions whose logs are being put aside: nobody opens them before that is done."""
    unfinished: UnfinishedRequests = attrs.Factory(UnfinishedRequests)
    waiting_get_count: int = 0
    connection_count: int = 0
    started_monotonic_seconds: float = 0.0
    real_time: RealTimeStatistics = attrs.field(init=False)
    message_ids: MessageIdSource = attrs.field(init=False)
    closed: dict[str, set[int]] = attrs.Factory(dict)
    """Partitions an operator has closed, by topic."""
    acknowledgements: Acknowledgements = attrs.field(init=False)
    transactions: TransactionHandler = attrs.field(init=False)
    _puts: PutHandler = attrs.field(init=False)
    _gets: GetHandler = attrs.field(init=False)

    def __attrs_post_init__(self) -> None:
        """Serve every partition the store holds, configured or not."""
        self._puts, self._gets = PutHandler(self), GetHandler(self)
        self.acknowledgements = Acknowledgements(self)
        self.transactions = TransactionHandler(self)
        self.real_time = RealTimeStatistics(self.clock)
        self.started_monotonic_seconds = self.clock.monotonic_seconds()
        self.message_ids = MessageIdSource(BrokerId(self.config.broker_id), self.clock)
        self.message_ids.observe(self.store.highest_message_id)
        for name in self.store.partitions:
            self._serve(name)

    @property
    def is_slave(self) -> bool:
        """Whether this broker follows a master and refuses puts."""
        return self.master_address is not None

    def handle(self, command: Command, sink: ReplySink) -> None:
        """Act on one command; replies go to ``sink``, now or later. The caller flushes the sink."""
        match command:
            case Puts():
                self._puts.put(command, sink)
            case Get():
                self._gets.get(command, sink)
            case PutBatch():
                self._puts.put_batch(command, sink)
            case OffsetQuery():
                self._gets.offset(command, sink)
            case EpochsQuery():
                asked = self.partitions.get((command.topic, command.partition))
                answer_epochs(command, self.store, asked, sink, is_slave=self.is_slave)
            case Replicated():
                self.acknowledgements.report(command, sink)
            case Version():
                sink.send(encode_result(Status.SUCCESS, self.version_text, command.opaque))
            case Stats():
                self._stats(command, sink)
            case OversizedPut():
                self._puts.refuse_oversized(command, sink)
            case TransactionalPut():
                self.transactions.put(command, sink)
            case Transaction():
                self.transactions.handle(command, sink)
            case Sync() | Pair() | Successor():
                self._serve_peer(command, sink)
            case Malformed():
                sink.send(encode_result(Status.BAD_REQUEST, f"Bad request,{command.reason}", command.opaque))
                sink.close_after_replies()
            case Quit():
                sink.close_after_replies()

    def append_replica(
        self,
        name: TopicPartition,
        offset: int,
        records: Buffer,
        count: int,
        last_id: int,
        done: Callable[[int | StorageError], None],
        *,
        begins_segment: bool = False,
    ) -> None:
        """Append a master's records as they are, at ``offset`` or not at all (slave only).

        ``done`` is told the offset or the error, perhaps before this returns. With ``begins_segment``,
        for which nothing else may be on its way, a new segment begins with the records.
        """
        partition = self.partitions[(name.topic, name.partition)]
        self.message_ids.observe(last_id)
        self.counters.put += count
        self.real_time.add("put_slave", name.topic, f"{self.config.broker_id}-{name.partition}", count, count)
        append = PendingAppend(
            [records], len(records), count, last_id, done, done, _nothing, offset, begins_segment
        )
        self.committer.append(partition, append)

    def tell_cut(self, name: TopicPartition, offset: int) -> None:
        """A log is cut, or has been."""
        if self.on_cut is not None:
            self.on_cut(name, offset)

    def suspect(self, name: TopicPartition, offset: int) -> None:
        """Somebody may not have been able to read what lies there."""
        if self.on_suspect is not None and name.topic not in INTERNAL_TOPICS:
            self.on_suspect(name, offset)

    def open_partition(
        self, name: TopicPartition, topic_config: TopicConfig, start_offset: int | None = None
    ) -> Partition:
        """The partition, created empty where there is none; raises StorageError.

        ``start_offset``: see :meth:`MessageStore.create`.
        """
        if name in self.removing:
            raise StorageError(f"{name} is being put aside")
        partition = self.partitions.get((name.topic, name.partition))
        if partition is not None:
            return partition
        if name not in self.store.partitions:
            if descriptors.are_scarce():
                raise StorageError(f"no descriptor is left for another partition (of {descriptors.limit()})")
            self.store.create(name, topic_config.data_path, start_offset)
            _log.info("Created a new message storage", topic=name.topic, partition=name.partition)
        partition = self._serve(name)
        if self.on_new_partition is not None:
            self.on_new_partition()
        return partition

    def find_partition(self, topic: str, requested: int) -> Partition:
        """The partition that a put goes to, made where it is missing; raises RefusedError."""
        return self._puts.find_partition(topic, requested)

    def _serve(self, name: TopicPartition) -> Partition:
        partition = Partition.of(name, self.store.partitions[name], self.config)
        self.partitions[(name.topic, name.partition)] = partition
        return partition

    def _serve_peer(self, command: Sync | Pair | Successor, sink: ReplySink) -> None:
        if isinstance(command, Successor):
            refusal = _NO_MASTER if self.on_successor is None else self.on_successor(command.address)
            status = Status.SUCCESS if refusal is None else Status.UNAVAILABLE
            sink.send(encode_result(status, refusal or "", command.opaque))
        elif self.pair_slave is not None:
            self.pair_slave.handle(command, sink)
        else:
            text = _NO_SYNC if isinstance(command, Sync) else _NO_PAIR
            sink.send(encode_result(Status.UNAVAILABLE, text, command.opaque))

    def _stats(self, stats: Stats, sink: ReplySink) -> None:
        body: str | bytes = self.config.source_bytes if stats.item == "config" else report(self, stats.item)
        sink.send(encode_result(Status.SUCCESS, body, stats.opaque))

    def hold(self, size_bytes: int, sink: ReplySink) -> None:
        """Count memory that appends of a peer hold (a negative size when it is free again)."""
        self.inflight_bytes += size_bytes
        sink.add_inflight(size_bytes)
        if not self.inflight_bytes and self.all_answered is not None:
            self.all_answered.set()
        if size_bytes < 0 and self.paused and self.inflight_bytes <= self.config.max_inflight_bytes:
            paused, self.paused = self.paused, {}
            for other in paused:
                other.resume()

    # Administration

    def reconfigure(self, config: ServerConfig) -> None:
        """Serve by a reloaded configuration from now on."""
        self.config = config
        for partition in self.partitions.values():
            partition.configure(config)

    def close_partitions(self, topic: str, first: int, last: int) -> None:
        """Refuse puts to and gets from these partitions until they are opened again."""
        self.closed.setdefault(topic, set()).update(range(first, last + 1))
        _log.info("close partition=", topic=topic, first=first, last=last)

    def open_partitions(self, topic: str) -> None:
        """Serve every partition of the topic again."""
        self.closed.pop(topic, None)
        _log.info("open partitions", topic=topic)

    def answer_waiting_gets(self) -> None:
        """End every long poll now (a graceful stop)."""
        for partition in self.partitions.values():
            partition.publish(partition.readable_offset)

    async def wait_until_answered(self) -> None:
        """Return when no put waits, for the disk or for slaves."""
        while self.inflight_bytes:
            self.all_answered = trio.Event()
            await self.all_answered.wait()

    def disconnected(self, sink: ReplySink) -> None:
        """A peer is gone."""
        self.paused.pop(sink, None)
        self.acknowledgements.acks.disconnected(sink)
        self.transactions.disconnected(sink)

    def is_closed(self, topic: str, partition: int) -> bool:
        """Whether an operator has closed the partition."""
        closed = self.closed.get(topic)
        return closed is not None and partition in closed

    def failure_text(self, topic: str, partition: int, detail: str) -> str:
        """The text of a request that failed, as MetaQ words it."""
        return (
            f"Put message to [broker 'meta://{self.address}'] [partition '{topic}-{partition}'] failed."
            f"Detail:{detail}"
        )


def _nothing() -> None:
    """Replicated records have nobody to reply to."""
