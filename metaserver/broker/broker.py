"""The rules of a broker: one command in, replies out. Source: reference wire-protocol section 6.

Nothing here waits. What must wait for the disk is handed to the committer or the executor, which call
back on the loop; replies of one connection may therefore leave in another order than their requests
came (the opaque tells them apart), but puts to one partition are appended in the order they came.
"""

from __future__ import annotations

from collections import defaultdict
from functools import partial
from typing import TYPE_CHECKING, NoReturn
from zlib import crc32

import attrs

from metaserver.broker.gate import PutGate
from metaserver.broker.partition import Partition, PendingAppend, WaitingGet
from metaserver.broker.records import differ, longest_record
from metaserver.broker.replicas import answer_epochs
from metaserver.broker.reports import report
from metaserver.broker.statistics import Counters, RealTimeStatistics, TopicTraffic
from metaserver.broker.version import VERSION_TEXT
from metaserver.errors import (
    DiskFullError,
    FencedError,
    MetaServerError,
    OffsetInHoleError,
    OffsetOutOfRangeError,
    RefusedError,
    StorageError,
)
from metaserver.logs import get_logger
from metaserver.message import (
    CHECKSUM_MASK,
    HEADER_SIZE,
    MessageIdSource,
    assign_ids,
    encode_records,
    message_id_block,
    scan,
)
from metaserver.names import (
    MAX_OFFSET,
    REGISTRY_TOPIC,
    BrokerId,
    PartitionId,
    Topic,
    TopicPartition,
    is_valid_topic,
)
from metaserver.protocol import (
    Command,
    EpochsQuery,
    Get,
    Malformed,
    OffsetQuery,
    OversizedPut,
    PutBatch,
    Puts,
    Quit,
    Stats,
    Status,
    Sync,
    Transaction,
    TransactionalPut,
    Version,
    encode_put_results,
    encode_result,
    encode_value_header,
)

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Sequence
    from random import Random

    from metaserver.broker.committer import Committer
    from metaserver.broker.executor import Executor
    from metaserver.broker.page_cache import PageCache
    from metaserver.broker.sink import ReplySink
    from metaserver.config import ServerConfig, TopicConfig
    from metaserver.message import Buffer
    from metaserver.storage import Clock, LogSlice, MessageStore
    from metaserver.timers import Timers

_CHECKSUM_MISSING = b"-1"
_CHECKSUM_FAILURE = "Checksum failure,message may be corrupted when transfering on networking."
_HELD_BYTES_PER_MESSAGE = 200
"""What a put that waits for the disk costs beside its record: its opaque, id, size, and the lists of them."""
_NO_TRANSACTIONS = "This broker does not support transactions."
_NO_SYNC = "This broker is no synchronous slave and takes no sync requests."

_log = get_logger(__name__)


@attrs.frozen
class _Stamped:
    """Records with their ids, ready to be appended."""

    records: Buffer
    count: int
    last_id: int


@attrs.define(eq=False)
class Broker:
    """A master's or a slave's answers to commands."""

    config: ServerConfig
    store: MessageStore
    committer: Committer
    clock: Clock
    _timers: Timers
    _executor: Executor
    _random: Random
    _page_cache: PageCache
    address: str
    """``HOST:PORT`` as advertised; it stands in the text of failed puts."""
    master_address: str | None = None
    """Where this broker replicates from; None on a master. A slave refuses puts."""
    version_text: str = VERSION_TEXT
    gate: PutGate = attrs.Factory(PutGate)
    on_new_partition: Callable[[], None] | None = None
    """Called when a partition has been created."""
    partitions: dict[tuple[str, int], Partition] = attrs.Factory(dict)
    counters: Counters = attrs.Factory(Counters)
    traffic: defaultdict[str, TopicTraffic] = attrs.Factory(lambda: defaultdict(TopicTraffic))
    inflight_bytes: int = 0
    """Put bytes of all connections that wait for the disk."""
    paused: dict[ReplySink, None] = attrs.Factory(dict)
    """Who is to be resumed when ``inflight_bytes`` is no longer above its limit."""
    waiting_get_count: int = 0
    connection_count: int = 0
    started_monotonic_seconds: float = 0.0
    real_time: RealTimeStatistics = attrs.field(init=False)
    message_ids: MessageIdSource = attrs.field(init=False)
    _closed: dict[str, set[int]] = attrs.Factory(dict)

    def __attrs_post_init__(self) -> None:
        """Serve every partition the store holds, configured or not."""
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
                self._put(command, sink)
            case Get():
                self._get(command, sink)
            case PutBatch():
                self._put_batch(command, sink)
            case OffsetQuery():
                self._offset(command, sink)
            case EpochsQuery():
                answer_epochs(
                    command, self.store, self.partitions.get((command.topic, command.partition)), sink
                )
            case Version():
                sink.send(encode_result(Status.SUCCESS, self.version_text, command.opaque))
            case Stats():
                self._stats(command, sink)
            case OversizedPut():
                longest = self.config.max_transfer_size_bytes
                detail = (
                    f"The message of {command.length} bytes is too long: a record may have {longest} bytes "
                    f"(maxTransferSize), {HEADER_SIZE} of them header"
                )
                self._fail_put(command.topic, command.partition, detail, command.opaque, sink)
            case TransactionalPut() | Transaction():
                sink.send(encode_result(Status.ERROR, _NO_TRANSACTIONS, command.opaque))
            case Sync():
                sink.send(encode_result(Status.UNAVAILABLE, _NO_SYNC, command.opaque))
            case Malformed():
                sink.send(encode_result(Status.BAD_REQUEST, f"Bad request,{command.reason}", command.opaque))
                sink.close_after_replies()
            case Quit():
                sink.close_after_replies()

    # Puts

    def _put(self, run: Puts, sink: ReplySink) -> None:
        if run.partition == -1 and len(run.bodies) > 1:
            # Each message goes to a partition of its own choice, however many came in one read.
            messages = zip(run.bodies, run.flags, run.checksums, run.opaques, strict=True)
            for body, flag, checksum, opaque in messages:
                self._put(Puts(run.topic, -1, [body], [flag], [checksum], [opaque]), sink)
            return
        self.counters.put += len(run.bodies)
        try:
            partition = self._partition_for_put(run.topic, run.partition)
        except RefusedError as refusal:
            self._refuse_puts(run.topic, run.partition, refusal, run.opaques, sink)
            return
        checksums = [crc32(body) & CHECKSUM_MASK for body in run.bodies]
        if differ(checksums, run.checksums):
            self._drop_corrupted(run, checksums, partition, sink)
        bodies, opaques = run.bodies, run.opaques
        if not bodies:
            return
        message_ids = list(message_id_block(self.message_ids.take(len(bodies)), len(bodies)))
        records = encode_records(bodies, checksums, message_ids, run.flags)
        name = partition.name
        sizes = [HEADER_SIZE + len(body) for body in bodies]

        def reply(offset: int) -> bytes:
            return encode_put_results(opaques, message_ids, name.partition, offset, sizes)

        self._count_puts(partition, run.partition, len(bodies), len(records) - HEADER_SIZE * len(bodies))
        self._append(partition, _Stamped(records, len(bodies), message_ids[-1]), opaques, reply, sink)

    def _put_batch(self, batch: PutBatch, sink: ReplySink) -> None:
        opaques = [b"%d" % batch.opaque]
        try:
            found = scan(batch.records, has_ids=False)
            self.counters.put += max(1, found.count)
            partition = self._partition_for_put(batch.topic, batch.partition)
            self._check_batch(partition.name, batch, found.count, found.end, found.fault)
        except RefusedError as refusal:
            self._refuse_puts(batch.topic, batch.partition, refusal, opaques, sink)
            return
        first_id = self.message_ids.take(found.count)
        records = bytearray(batch.records)
        message_ids = list(message_id_block(first_id, found.count))
        assign_ids(records, found.positions, message_ids)
        name, count = partition.name, found.count

        def reply(offset: int) -> bytes:
            text = f"{first_id} {name.partition} {offset} {count}"
            return encode_result(Status.SUCCESS, text, batch.opaque)

        self._count_puts(partition, batch.partition, count, len(records) - HEADER_SIZE * count)
        self._append(partition, _Stamped(records, count, message_ids[-1]), opaques, reply, sink)

    def _check_batch(
        self, name: TopicPartition, batch: PutBatch, count: int, end: int, fault: str | None
    ) -> None:
        if count == 0 and not batch.records:
            self._refuse_put(name.topic, name.partition, "The batch holds no record")
        if end != len(batch.records):
            reason = fault or "the record is not complete"
            detail = f"{_CHECKSUM_FAILURE} Record {count} of the batch, at byte {end}: {reason}"
            self._refuse_put(name.topic, name.partition, detail)
        longest = self.config.max_transfer_size_bytes
        if len(batch.records) > longest and (size := longest_record(batch.records)) > longest:
            detail = f"A record of {size} bytes is too long: it may have {longest} bytes (maxTransferSize)"
            self._refuse_put(name.topic, name.partition, detail)

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

    def _append(
        self,
        partition: Partition,
        stamped: _Stamped,
        opaques: Sequence[bytes],
        reply: Callable[[int], bytes],
        sink: ReplySink,
    ) -> None:
        size_bytes = len(stamped.records)
        held_bytes = size_bytes + _HELD_BYTES_PER_MESSAGE * stamped.count
        self.inflight_bytes += held_bytes
        sink.add_inflight(held_bytes)

        def settle() -> None:
            sink.add_inflight(-held_bytes)
            self.inflight_bytes -= held_bytes
            if self.paused and self.inflight_bytes <= self.config.max_inflight_bytes:
                paused, self.paused = self.paused, {}
                for other in paused:
                    other.resume()

        def succeed(offset: int) -> None:
            if self.gate.fenced is not None:
                fail(self.gate.fenced)
                return
            sink.send(reply(offset))
            settle()

        def fail(error: StorageError) -> None:
            status = Status.UNAVAILABLE if isinstance(error, DiskFullError | FencedError) else Status.ERROR
            text = self._failure_text(partition.name.topic, partition.name.partition, str(error))
            self._refuse_puts(
                partition.name.topic, partition.name.partition, RefusedError(status, text), opaques, sink
            )
            settle()

        append = PendingAppend(
            [stamped.records], size_bytes, stamped.count, stamped.last_id, succeed, fail, sink.flush
        )
        self.committer.append(partition, append)

    def _partition_for_put(self, topic: str, requested: int) -> Partition:
        """Where a put goes; the checks and their order are the reference's (wire-protocol 6.1)."""
        closed = self._closed.get(topic)
        if closed and requested in closed:
            detail = f"partition[{self.config.broker_id}-{requested}] has been closed"
            self._refuse_put(topic, requested, detail, Status.FORBIDDEN)
        if self.gate.reason:
            self._refuse_put(topic, requested, self.gate.reason, Status.UNAVAILABLE)
        if self.master_address is not None:
            detail = f"This broker is a slave and takes no messages,send to its master {self.master_address}"
            self._refuse_put(topic, requested, detail, Status.UNAVAILABLE)
        partition = self.partitions.get((topic, requested))
        if partition is not None and requested < partition.config.partition_count and partition.is_configured:
            return partition
        if topic == REGISTRY_TOPIC:
            self._refuse_put(topic, requested, f"The topic {topic} is the broker's own,put to another")
        topic_config = self.config.topic_config(topic)
        if topic_config is None or not is_valid_topic(topic):
            self._refuse_put(topic, requested, f"The server do not accept topic {topic}")
        number = requested
        if requested == -1:
            candidates = [n for n in range(topic_config.partition_count) if not closed or n not in closed]
            if not candidates:
                detail = f"every partition of topic {topic} on this broker has been closed"
                self._refuse_put(topic, requested, detail, Status.FORBIDDEN)
            number = self._random.choice(candidates)
        elif not 0 <= requested < topic_config.partition_count:
            self._refuse_put(topic, requested, f"wrong partition {requested}")
        try:
            return self.open_partition(TopicPartition(Topic(topic), PartitionId(number)), topic_config)
        except (StorageError, OSError) as error:
            _log.error("Cannot open partition", topic=topic, partition=number, reason=str(error))
            self._refuse_put(topic, number, str(error))

    def open_partition(
        self, name: TopicPartition, topic_config: TopicConfig, start_offset: int = 0
    ) -> Partition:
        """The partition, created empty at ``start_offset`` where there is none; raises StorageError."""
        partition = self.partitions.get((name.topic, name.partition))
        if partition is not None:
            return partition
        if name not in self.store.partitions:
            self.store.create(name, topic_config.data_path, start_offset)
            _log.info("Created a new message storage", topic=name.topic, partition=name.partition)
        partition = self._serve(name)
        if self.on_new_partition is not None:
            self.on_new_partition()
        return partition

    def _serve(self, name: TopicPartition) -> Partition:
        partition = Partition.of(name, self.store.partitions[name], self.config)
        self.partitions[(name.topic, name.partition)] = partition
        return partition

    def _drop_corrupted(self, run: Puts, checksums: list[int], partition: Partition, sink: ReplySink) -> None:
        """Refuse the puts of a run whose checksum is wrong, and take them out of it."""
        wrong = {
            index
            for index, (actual, given) in enumerate(zip(checksums, run.checksums, strict=True))
            if given is not None and given != _CHECKSUM_MISSING and int(given) != actual
        }
        if not wrong:
            return
        text = self._failure_text(run.topic, partition.name.partition, _CHECKSUM_FAILURE)
        refusal = RefusedError(Status.ERROR, text)
        opaques = [run.opaques[index] for index in sorted(wrong)]
        self._refuse_puts(run.topic, run.partition, refusal, opaques, sink)
        for index in sorted(wrong, reverse=True):
            del (
                run.bodies[index],
                run.flags[index],
                run.opaques[index],
                run.checksums[index],
                checksums[index],
            )

    def _refuse_put(self, topic: str, partition: int, detail: str, status: Status = Status.ERROR) -> NoReturn:
        raise RefusedError(status, self._failure_text(topic, partition, detail))

    def _fail_put(self, topic: str, partition: int, detail: str, opaque: int, sink: ReplySink) -> None:
        self.counters.put += 1
        refusal = RefusedError(Status.ERROR, self._failure_text(topic, partition, detail))
        self._refuse_puts(topic, partition, refusal, [b"%d" % opaque], sink)

    def _failure_text(self, topic: str, partition: int, detail: str) -> str:
        return (
            f"Put message to [broker 'meta://{self.address}'] [partition '{topic}-{partition}'] failed."
            f"Detail:{detail}"
        )

    def _refuse_puts(
        self, topic: str, partition: int, refusal: RefusedError, opaques: Iterable[bytes], sink: ReplySink
    ) -> None:
        count = 0
        for opaque in opaques:
            sink.send(encode_result(refusal.status, refusal.text, opaque))
            count += 1
        if refusal.status != Status.FORBIDDEN:
            self.counters.put_failed += count
            if self._has_real_time(topic):
                self.real_time.add("put_failed", topic, f"{self.config.broker_id}-{partition}", count, count)

    def _count_puts(self, partition: Partition, requested: int, count: int, data_bytes: int) -> None:
        traffic = self.traffic[partition.name.topic]
        traffic.messages += count
        traffic.bytes_in += data_bytes
        if partition.config.stat:
            topic = partition.name.topic
            self.real_time.add("put", topic, f"{self.config.broker_id}-{requested}", count, count)
            self.real_time.add("message_size", topic, "*", count, data_bytes)

    def _has_real_time(self, topic: str) -> bool:
        topic_config = self.config.topic_config(topic)
        return topic_config is not None and topic_config.stat

    # Reads

    def _get(self, get: Get, sink: ReplySink) -> None:
        self.counters.get += 1
        partition = self.partitions.get((get.topic, get.partition))
        if partition is not None and partition.config.stat:
            self.real_time.add("get", get.topic, get.group, 1, 1)
        wait_ms = min(get.wait_ms, self.config.max_long_poll_ms)
        if (
            wait_ms > 0
            and partition is not None
            and get.offset == partition.readable_offset
            and get.size_max > 0
            and not self._is_closed(get.topic, get.partition)
            and self.waiting_get_count < self.config.max_waiting_gets
        ):
            self._wait_for_data(partition, get, wait_ms / 1000, sink)
        else:
            self._answer_get(partition, get, sink)

    def _wait_for_data(self, partition: Partition, get: Get, wait_seconds: float, sink: ReplySink) -> None:
        self.waiting_get_count += 1
        sink.add_waiting_get(1)

        def answer() -> None:
            self.waiting_get_count -= 1
            sink.add_waiting_get(-1)
            if waiting.timer is not None:
                self._timers.cancel(waiting.timer)
            if sink.is_open:
                self._answer_get(partition, get, sink)
                sink.flush()

        def give_up() -> None:
            del partition.waiting_gets[waiting]
            answer()

        waiting = WaitingGet(answer)
        waiting.timer = self._timers.schedule(wait_seconds, give_up)
        partition.waiting_gets[waiting] = None

    def _answer_get(self, partition: Partition | None, get: Get, sink: ReplySink) -> None:
        try:
            log_slice = self._read(partition, get)
        except RefusedError as refusal:
            if refusal.status in (Status.NOT_FOUND, Status.MOVED):
                self._count_miss(partition, get, refusal.status == Status.MOVED)
            sink.send(encode_result(refusal.status, refusal.text, get.opaque))
            return
        except (MetaServerError, OSError) as error:
            _log.error("Get failed", topic=get.topic, partition=get.partition, reason=str(error))
            text = self._failure_text(get.topic, get.partition, str(error))
            sink.send(encode_result(Status.ERROR, text, get.opaque))
            return
        traffic = self.traffic[get.topic]
        traffic.gets += 1
        traffic.bytes_out += log_slice.size
        header = encode_value_header(log_slice.size, get.opaque)
        if self._page_cache.holds(log_slice.file, log_slice.position, log_slice.size):
            sink.send_slice(header, log_slice)
        else:
            # A page that must come from the disk would stop every connection: a worker fetches it.
            sink.add_inflight(log_slice.size)
            self._executor.submit(
                partial(self._page_cache.fetch, log_slice.file, log_slice.position, log_slice.size),
                lambda _result, _failure: _send_fetched(sink, header, log_slice),
            )

    def _read(self, partition: Partition | None, get: Get) -> LogSlice:
        if self._is_closed(get.topic, get.partition):
            raise RefusedError(
                Status.FORBIDDEN, f"Partition[{self.config.broker_id}-{get.partition}] has been closed"
            )
        if partition is None:
            raise _no_such_partition(get.topic, get.partition)
        if get.size_max <= 0:
            raise RefusedError(Status.BAD_REQUEST, f"Bad request,invalid max size:{get.size_max}")
        size_max = min(get.size_max, self.config.max_transfer_size_bytes)
        try:
            return partition.log.read(get.offset, size_max, partition.readable_offset)
        except OffsetInHoleError as hole:
            raise RefusedError(Status.MOVED, str(hole.next_offset)) from None
        except OffsetOutOfRangeError as outside:
            if get.offset < outside.start:
                raise RefusedError(Status.MOVED, str(outside.start)) from None
            tells_end = self.config.update_consumer_offsets or get.offset == MAX_OFFSET
            if get.offset > outside.end and tells_end:
                raise RefusedError(Status.MOVED, str(outside.end)) from None
            raise RefusedError(Status.NOT_FOUND, f"Could not find message at position {get.offset}") from None

    def _count_miss(self, partition: Partition | None, get: Get, is_moved: bool) -> None:  # noqa: FBT001
        self.counters.get_miss += 1
        if is_moved:
            self.counters.offset += 1
        if partition is not None and partition.config.stat:
            self.real_time.add("get_miss", get.topic, get.group, 1, 1)
            if is_moved:
                self.real_time.add("offset", get.topic, get.group, 1, 1)

    def _offset(self, query: OffsetQuery, sink: ReplySink) -> None:
        self.counters.offset += 1
        partition = self.partitions.get((query.topic, query.partition))
        if partition is None:
            refusal = _no_such_partition(query.topic, query.partition)
            sink.send(encode_result(refusal.status, refusal.text, query.opaque))
            return
        if partition.config.stat:
            self.real_time.add("offset", query.topic, query.group, 1, 1)
        nearest = min(partition.log.segment_start(query.offset), partition.readable_offset)
        if query.offset >= partition.readable_offset:
            nearest = partition.readable_offset
        sink.send(encode_result(Status.SUCCESS, str(nearest), query.opaque))

    def _stats(self, stats: Stats, sink: ReplySink) -> None:
        body: str | bytes = self.config.source_bytes if stats.item == "config" else report(self, stats.item)
        sink.send(encode_result(Status.SUCCESS, body, stats.opaque))

    # Administration

    def reconfigure(self, config: ServerConfig) -> None:
        """Serve by a reloaded configuration from now on."""
        self.config = config
        for partition in self.partitions.values():
            partition.configure(config)

    def close_partitions(self, topic: str, first: int, last: int) -> None:
        """Refuse puts to and gets from these partitions until they are opened again."""
        self._closed.setdefault(topic, set()).update(range(first, last + 1))
        _log.info("close partition=", topic=topic, first=first, last=last)

    def open_partitions(self, topic: str) -> None:
        """Serve every partition of the topic again."""
        self._closed.pop(topic, None)
        _log.info("open partitions", topic=topic)

    def answer_waiting_gets(self) -> None:
        """End every long poll now (a graceful stop)."""
        for partition in self.partitions.values():
            partition.publish(partition.readable_offset)

    def _is_closed(self, topic: str, partition: int) -> bool:
        closed = self._closed.get(topic)
        return closed is not None and partition in closed


def _send_fetched(sink: ReplySink, header: bytes, log_slice: LogSlice) -> None:
    # A failed fetch shows again, and is reported, when the bytes are sent.
    sink.add_inflight(-log_slice.size)
    if sink.is_open:
        sink.send_slice(header, log_slice)
        sink.flush()
    else:
        log_slice.release()


def _no_such_partition(topic: str, partition: int) -> RefusedError:
    return RefusedError(Status.NOT_FOUND, f"The topic `{topic}` in partition `{partition}` is not exists")


def _nothing() -> None:
    """Replicated records have nobody to reply to."""
