"""Puts: which partition takes them, their ids and checksums, and what each of them is answered."""

from __future__ import annotations

from typing import TYPE_CHECKING, NoReturn
from zlib import crc32

import attrs

from metaserver.broker.acknowledgements import WAITING_BYTES_PER_MESSAGE, shortfall_text
from metaserver.broker.partition import PendingAppend
from metaserver.broker.records import CHECKSUM_FAILURE, differ, longest_record
from metaserver.broker.replica_acks import WaitingPut
from metaserver.errors import DiskFullError, FencedError, RefusedError, StorageError
from metaserver.logs import get_logger
from metaserver.message import (
    CHECKSUM_MASK,
    HEADER_SIZE,
    assign_ids,
    encode_records,
    message_id_block,
    scan,
)
from metaserver.names import INTERNAL_TOPICS, PartitionId, Topic, TopicPartition, is_valid_topic
from metaserver.protocol import STORED_TEXT, Puts, Status, encode_put_results, encode_result

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Sequence

    from metaserver.broker.broker import Broker
    from metaserver.broker.pair_master import Copies
    from metaserver.broker.partition import Partition
    from metaserver.broker.replica_acks import AckRule
    from metaserver.broker.sink import ReplySink
    from metaserver.message import Buffer
    from metaserver.protocol import OversizedPut, PutBatch

_CHECKSUM_MISSING = b"-1"

_log = get_logger(__name__)


@attrs.define(eq=False)
class _TakenPut:
    """A run or a batch on its way; it holds what its replies need, and not its records."""

    _handler: PutHandler
    partition: Partition
    sink: ReplySink
    opaques: Sequence[bytes]
    sizes: Sequence[int]
    """Bytes in the log that belong to each reply."""
    count: int
    """Messages."""
    size_bytes: int
    _reply: Callable[[int], bytes]
    """The replies of success, for the offset of the first record."""
    copies: Copies | None = None
    """What becomes of it at the slave of a synchronous pair."""
    offset: int = -1
    """Of the first record, once it has one."""
    rule: AckRule | None = attrs.field(init=False)
    """What held when it came: a reload changes what later puts wait for."""

    def __attrs_post_init__(self) -> None:
        self.rule = self.partition.ack_rule if self.copies is None else None

    @property
    def waiting_bytes(self) -> int:
        return WAITING_BYTES_PER_MESSAGE * self.count

    def succeed(self, offset: int) -> None:
        """It is as safe as this broker alone can make it."""
        self.offset = offset
        # The records are in the log: only what the replies need is still held.
        self._handler.broker.hold(-self.size_bytes, self.sink)
        if self.copies is not None:
            self.copies.when_known(self._copied)
        elif self.rule is None:
            self.confirmed()
        else:
            self._handler.wait_for_slaves(self, self.rule)

    def confirmed(self) -> None:
        fenced = self._handler.fenced
        if fenced is None:
            self.sink.send(self._reply(self.offset))
        else:
            self._handler.refuse_failed(self, fenced)
        self._handler.broker.hold(-self.waiting_bytes, self.sink)

    def _copied(self, is_stored: bool) -> None:  # noqa: FBT001 - an outcome
        if is_stored:
            self.confirmed()
        else:
            self._handler.say_not_copied(self)
            self._handler.broker.hold(-self.waiting_bytes, self.sink)
        self.sink.flush()

    def missed(self, confirmed_count: int) -> None:
        if self.rule is not None:
            self._handler.say_stored(self, self.rule, confirmed_count)
        self._handler.broker.hold(-self.waiting_bytes, self.sink)

    def fail(self, error: StorageError) -> None:
        self._handler.refuse_failed(self, error)
        self._handler.broker.hold(-(self.size_bytes + self.waiting_bytes), self.sink)


@attrs.define(eq=False)
class PutHandler:
    """A broker's answers to puts."""

    broker: Broker

    @property
    def fenced(self) -> FencedError | None:
        """What every put is answered since another broker has this one's place; None while none has."""
        return self.broker.gate.fenced

    def put(self, run: Puts, sink: ReplySink) -> None:
        """Append a run, or refuse it."""
        pair = self.broker.pair_master
        if len(run.bodies) > 1 and (run.partition == -1 or (pair is not None and pair.sends)):
            # Each message goes to a partition of its own choice, or waits for a slave's answer of its own,
            # however many came in one read.
            messages = zip(run.bodies, run.flags, run.checksums, run.opaques, strict=True)
            for body, flag, checksum, opaque in messages:
                self.put(Puts(run.topic, run.partition, [body], [flag], [checksum], [opaque]), sink)
            return
        self.broker.counters.put += len(run.bodies)
        try:
            partition = self._partition_for_put(run.topic, run.partition, len(run.bodies))
        except RefusedError as refusal:
            self._refuse_puts(run.topic, run.partition, refusal, run.opaques, sink)
            return
        checksums = [crc32(body) & CHECKSUM_MASK for body in run.bodies]
        if differ(checksums, run.checksums):
            self._drop_corrupted(run, checksums, partition, sink)
        bodies, opaques = run.bodies, run.opaques
        if not bodies:
            return
        message_ids = list(message_id_block(self.broker.message_ids.take(len(bodies)), len(bodies)))
        records = encode_records(bodies, checksums, message_ids, run.flags)
        name = partition.name
        sizes = [HEADER_SIZE + len(body) for body in bodies]

        def reply(offset: int) -> bytes:
            return encode_put_results(opaques, message_ids, name.partition, offset, sizes)

        self._count_puts(partition, run.partition, len(bodies), len(records) - HEADER_SIZE * len(bodies))
        copies = pair.copy(name, records) if pair is not None and pair.sends else None
        self._append(
            _TakenPut(self, partition, sink, opaques, sizes, len(bodies), len(records), reply, copies),
            records,
            message_ids[-1],
        )

    def put_batch(self, batch: PutBatch, sink: ReplySink) -> None:
        """Append all of a batch, or refuse all of it."""
        opaques = [b"%d" % batch.opaque]
        try:
            found = scan(batch.records, has_ids=False)
            self.broker.counters.put += max(1, found.count)
            partition = self._partition_for_put(batch.topic, batch.partition, max(1, found.count))
            self._check_batch(partition.name, batch, found.count, found.end, found.fault)
        except RefusedError as refusal:
            self._refuse_puts(batch.topic, batch.partition, refusal, opaques, sink)
            return
        first_id = self.broker.message_ids.take(found.count)
        records = bytearray(batch.records)
        message_ids = list(message_id_block(first_id, found.count))
        assign_ids(records, found.positions, message_ids)
        name, count = partition.name, found.count

        def reply(offset: int) -> bytes:
            text = f"{first_id} {name.partition} {offset} {count}"
            return encode_result(Status.SUCCESS, text, batch.opaque)

        self._count_puts(partition, batch.partition, count, len(records) - HEADER_SIZE * count)
        size_bytes = len(records)
        pair = self.broker.pair_master
        copies = pair.copy(name, records) if pair is not None and pair.sends else None
        self._append(
            _TakenPut(self, partition, sink, opaques, [size_bytes], count, size_bytes, reply, copies),
            records,
            message_ids[-1],
        )

    def _check_batch(
        self, name: TopicPartition, batch: PutBatch, count: int, end: int, fault: str | None
    ) -> None:
        if count == 0 and not batch.records:
            self._refuse_put(name.topic, name.partition, "The batch holds no record")
        if end != len(batch.records):
            reason = fault or "the record is not complete"
            detail = f"{CHECKSUM_FAILURE} Record {count} of the batch, at byte {end}: {reason}"
            self._refuse_put(name.topic, name.partition, detail)
        longest = self.broker.config.max_transfer_size_bytes
        if len(batch.records) > longest and (size := longest_record(batch.records)) > longest:
            detail = f"A record of {size} bytes is too long: it may have {longest} bytes (maxTransferSize)"
            self._refuse_put(name.topic, name.partition, detail)

    def _append(self, put: _TakenPut, records: Buffer, last_id: int) -> None:
        self.broker.hold(put.size_bytes + put.waiting_bytes, put.sink)
        append = PendingAppend(
            [records],
            put.size_bytes,
            put.count,
            last_id,
            put.succeed,
            put.fail,
            put.sink.flush,
            waits_for_disk=put.partition.is_group_commit,
        )
        self.broker.committer.append(put.partition, append)

    def wait_for_slaves(self, put: _TakenPut, rule: AckRule) -> None:
        """Answer a put, whose records are safe here, when slaves have them or the time is over."""
        waiting = WaitingPut(
            put.offset + put.size_bytes, put.count, put.confirmed, put.missed, put.sink.flush
        )
        self.broker.acknowledgements.wait(put.partition, rule, waiting)

    def say_not_copied(self, put: _TakenPut) -> None:
        """The slave of a pair may not have it; it stays here all the same."""
        name, pair = put.partition.name, self.broker.pair_master
        text = "" if pair is None else pair.failure_text(name)
        refusal = RefusedError(Status.ERROR, text)
        self._refuse_puts(name.topic, name.partition, refusal, put.opaques, put.sink)

    def say_stored(self, put: _TakenPut, rule: AckRule, confirmed_count: int) -> None:
        """Too few slaves have it in time: no success, and what has become of each message."""
        name, offset = put.partition.name, put.offset
        for opaque, size in zip(put.opaques, put.sizes, strict=True):
            detail = (
                f"{shortfall_text(rule, confirmed_count)}. {STORED_TEXT} at offset {offset} "
                "and will be replicated when a slave returns"
            )
            text = self.broker.failure_text(name.topic, name.partition, detail)
            put.sink.send(encode_result(Status.UNAVAILABLE, text, opaque))
            offset += size
        self._count_failures(name.topic, name.partition, len(put.opaques))

    def refuse_failed(self, put: _TakenPut, error: StorageError) -> None:
        """The disk did not take it."""
        name = put.partition.name
        status = Status.UNAVAILABLE if isinstance(error, DiskFullError | FencedError) else Status.ERROR
        text = self.broker.failure_text(name.topic, name.partition, str(error))
        self._refuse_puts(name.topic, name.partition, RefusedError(status, text), put.opaques, put.sink)

    def _partition_for_put(self, topic: str, requested: int, count: int) -> Partition:
        """Where ``count`` messages go. What may wait for slaves that are not there is not taken."""
        partition = self.find_partition(topic, requested)
        rule, pair = partition.ack_rule, self.broker.pair_master
        if pair is not None and pair.sends:
            # Its slave answers each put, and reports nothing.
            return partition
        if rule is not None and (detail := self.broker.acknowledgements.refusal(rule, count)) is not None:
            self._refuse_put(topic, partition.name.partition, detail, Status.UNAVAILABLE)
        return partition

    def find_partition(self, topic: str, requested: int) -> Partition:
        """The checks and their order are the reference's (wire-protocol 6.1)."""
        closed = self.broker.closed.get(topic)
        if closed and requested in closed:
            detail = f"partition[{self.broker.config.broker_id}-{requested}] has been closed"
            self._refuse_put(topic, requested, detail, Status.FORBIDDEN)
        if self.broker.pair_master is not None:
            self.broker.pair_master.check()
        if reason := self.broker.gate.reason:
            self._refuse_put(topic, requested, reason, Status.UNAVAILABLE)
        if (master := self.broker.master_address) is not None:
            detail = f"This broker is a slave and takes no messages,send to its master {master}"
            self._refuse_put(topic, requested, detail, Status.UNAVAILABLE)
        partition = self.broker.partitions.get((topic, requested))
        if partition is not None and requested < partition.config.partition_count and partition.is_configured:
            return partition
        if topic in INTERNAL_TOPICS:
            self._refuse_put(topic, requested, f"The topic {topic} is the broker's own,put to another")
        topic_config = self.broker.config.topic_config(topic)
        if topic_config is None or not is_valid_topic(topic):
            self._refuse_put(topic, requested, f"The server do not accept topic {topic}")
        number = requested
        if requested == -1:
            candidates = [n for n in range(topic_config.partition_count) if not closed or n not in closed]
            if not candidates:
                detail = f"every partition of topic {topic} on this broker has been closed"
                self._refuse_put(topic, requested, detail, Status.FORBIDDEN)
            number = self.broker.random.choice(candidates)
        elif not 0 <= requested < topic_config.partition_count:
            self._refuse_put(topic, requested, f"wrong partition {requested}")
        try:
            return self.broker.open_partition(TopicPartition(Topic(topic), PartitionId(number)), topic_config)
        except (StorageError, OSError) as error:
            _log.error("Cannot open partition", topic=topic, partition=number, reason=str(error))
            self._refuse_put(topic, number, str(error))

    def _drop_corrupted(self, run: Puts, checksums: list[int], partition: Partition, sink: ReplySink) -> None:
        """Refuse the puts of a run whose checksum is wrong, and take them out of it."""
        wrong = {
            index
            for index, (actual, given) in enumerate(zip(checksums, run.checksums, strict=True))
            if given is not None and given != _CHECKSUM_MISSING and int(given) != actual
        }
        if not wrong:
            return
        text = self.broker.failure_text(run.topic, partition.name.partition, CHECKSUM_FAILURE)
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
        raise RefusedError(status, self.broker.failure_text(topic, partition, detail))

    def refuse_oversized(self, oversized: OversizedPut, sink: ReplySink) -> None:
        """Say how long a message may be; its data has not even been kept."""
        self.broker.counters.put += 1
        longest = self.broker.config.max_transfer_size_bytes
        detail = (
            f"The message of {oversized.length} bytes is too long: a record may have {longest} bytes "
            f"(maxTransferSize), {HEADER_SIZE} of them header"
        )
        topic, partition = oversized.topic, oversized.partition
        refusal = RefusedError(Status.ERROR, self.broker.failure_text(topic, partition, detail))
        self._refuse_puts(topic, partition, refusal, [b"%d" % oversized.opaque], sink)

    def _refuse_puts(
        self, topic: str, partition: int, refusal: RefusedError, opaques: Iterable[bytes], sink: ReplySink
    ) -> None:
        count = 0
        for opaque in opaques:
            sink.send(encode_result(refusal.status, refusal.text, opaque))
            count += 1
        if refusal.status != Status.FORBIDDEN:
            self._count_failures(topic, partition, count)

    def _count_failures(self, topic: str, partition: int, count: int) -> None:
        self.broker.counters.put_failed += count
        if self._has_real_time(topic):
            part = f"{self.broker.config.broker_id}-{partition}"
            self.broker.real_time.add("put_failed", topic, part, count, count)

    def _count_puts(self, partition: Partition, requested: int, count: int, data_bytes: int) -> None:
        traffic = self.broker.traffic[partition.name.topic]
        traffic.messages += count
        traffic.bytes_in += data_bytes
        if partition.config.stat:
            topic = partition.name.topic
            self.broker.real_time.add(
                "put", topic, f"{self.broker.config.broker_id}-{requested}", count, count
            )
            self.broker.real_time.add("message_size", topic, "*", count, data_bytes)

    def _has_real_time(self, topic: str) -> bool:
        topic_config = self.broker.config.topic_config(topic)
        return topic_config is not None and topic_config.stat
