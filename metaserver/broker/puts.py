"""Puts: which partition takes them, their ids and checksums, and what each of them is answered."""

from __future__ import annotations

from typing import TYPE_CHECKING, NoReturn
from zlib import crc32

import attrs

from metaserver.broker.partition import PendingAppend
from metaserver.errors import DiskFullError, RefusedError, StorageError
from metaserver.logs import get_logger
from metaserver.message import (
    CHECKSUM_MASK,
    HEADER_SIZE,
    assign_ids,
    encode_records,
    message_id_block,
    scan,
)
from metaserver.names import REGISTRY_TOPIC, PartitionId, Topic, TopicPartition, is_valid_topic
from metaserver.protocol import Puts, Status, encode_put_results, encode_result

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Sequence

    from metaserver.broker.broker import Broker
    from metaserver.broker.partition import Partition
    from metaserver.broker.sink import ReplySink
    from metaserver.message import Buffer
    from metaserver.protocol import OversizedPut, PutBatch

_CHECKSUM_MISSING = b"-1"
_CHECKSUM_FAILURE = "Checksum failure,message may be corrupted when transfering on networking."
_HELD_BYTES_PER_MESSAGE = 200
"""What a put that waits for the disk costs beside its record: its opaque, id, size, and the lists of them."""

_log = get_logger(__name__)


@attrs.frozen
class _Stamped:
    """Records with their ids, ready to be appended."""

    records: Buffer
    count: int
    last_id: int


@attrs.define(eq=False)
class PutHandler:
    """A broker's answers to puts."""

    _broker: Broker

    def put(self, run: Puts, sink: ReplySink) -> None:
        """Append a run, or refuse it."""
        if run.partition == -1 and len(run.bodies) > 1:
            # Each message goes to a partition of its own choice, however many came in one read.
            messages = zip(run.bodies, run.flags, run.checksums, run.opaques, strict=True)
            for body, flag, checksum, opaque in messages:
                self.put(Puts(run.topic, -1, [body], [flag], [checksum], [opaque]), sink)
            return
        self._broker.counters.put += len(run.bodies)
        try:
            partition = self._partition_for_put(run.topic, run.partition)
        except RefusedError as refusal:
            self._refuse_puts(run.topic, run.partition, refusal, run.opaques, sink)
            return
        checksums = [crc32(body) & CHECKSUM_MASK for body in run.bodies]
        if _differ(checksums, run.checksums):
            self._drop_corrupted(run, checksums, partition, sink)
        bodies, opaques = run.bodies, run.opaques
        if not bodies:
            return
        message_ids = list(message_id_block(self._broker.message_ids.take(len(bodies)), len(bodies)))
        records = encode_records(bodies, checksums, message_ids, run.flags)
        name = partition.name
        sizes = [HEADER_SIZE + len(body) for body in bodies]

        def reply(offset: int) -> bytes:
            return encode_put_results(opaques, message_ids, name.partition, offset, sizes)

        self._count_puts(partition, run.partition, len(bodies), len(records) - HEADER_SIZE * len(bodies))
        self._append(partition, _Stamped(records, len(bodies), message_ids[-1]), opaques, reply, sink)

    def put_batch(self, batch: PutBatch, sink: ReplySink) -> None:
        """Append all of a batch, or refuse all of it."""
        opaques = [b"%d" % batch.opaque]
        try:
            found = scan(batch.records, has_ids=False)
            self._broker.counters.put += max(1, found.count)
            partition = self._partition_for_put(batch.topic, batch.partition)
            self._check_batch(partition.name, batch, found.count, found.end, found.fault)
        except RefusedError as refusal:
            self._refuse_puts(batch.topic, batch.partition, refusal, opaques, sink)
            return
        first_id = self._broker.message_ids.take(found.count)
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
        longest = self._broker.config.max_transfer_size_bytes
        if len(batch.records) > longest and (size := _longest_record(batch.records)) > longest:
            detail = f"A record of {size} bytes is too long: it may have {longest} bytes (maxTransferSize)"
            self._refuse_put(name.topic, name.partition, detail)

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
        self._broker.inflight_bytes += held_bytes
        sink.add_inflight(held_bytes)

        def settle() -> None:
            sink.add_inflight(-held_bytes)
            self._broker.inflight_bytes -= held_bytes
            if self._broker.paused and self._broker.inflight_bytes <= self._broker.config.max_inflight_bytes:
                paused, self._broker.paused = self._broker.paused, {}
                for other in paused:
                    other.resume()

        def succeed(offset: int) -> None:
            sink.send(reply(offset))
            settle()

        def fail(error: StorageError) -> None:
            status = Status.UNAVAILABLE if isinstance(error, DiskFullError) else Status.ERROR
            text = self._broker.failure_text(partition.name.topic, partition.name.partition, str(error))
            self._refuse_puts(
                partition.name.topic, partition.name.partition, RefusedError(status, text), opaques, sink
            )
            settle()

        append = PendingAppend(
            [stamped.records], size_bytes, stamped.count, stamped.last_id, succeed, fail, sink.flush
        )
        self._broker.committer.append(partition, append)

    def _partition_for_put(self, topic: str, requested: int) -> Partition:
        """Where a put goes; the checks and their order are the reference's (wire-protocol 6.1)."""
        closed = self._broker.closed.get(topic)
        if closed and requested in closed:
            detail = f"partition[{self._broker.config.broker_id}-{requested}] has been closed"
            self._refuse_put(topic, requested, detail, Status.FORBIDDEN)
        if (master := self._broker.master_address) is not None:
            detail = f"This broker is a slave and takes no messages,send to its master {master}"
            self._refuse_put(topic, requested, detail)
        partition = self._broker.partitions.get((topic, requested))
        if partition is not None and requested < partition.config.partition_count and partition.is_configured:
            return partition
        if topic == REGISTRY_TOPIC:
            self._refuse_put(topic, requested, f"The topic {topic} is the broker's own,put to another")
        topic_config = self._broker.config.topic_config(topic)
        if topic_config is None or not is_valid_topic(topic):
            self._refuse_put(topic, requested, f"The server do not accept topic {topic}")
        number = requested
        if requested == -1:
            candidates = [n for n in range(topic_config.partition_count) if not closed or n not in closed]
            if not candidates:
                detail = f"every partition of topic {topic} on this broker has been closed"
                self._refuse_put(topic, requested, detail, Status.FORBIDDEN)
            number = self._broker.random.choice(candidates)
        elif not 0 <= requested < topic_config.partition_count:
            self._refuse_put(topic, requested, f"wrong partition {requested}")
        try:
            return self._broker.open_partition(
                TopicPartition(Topic(topic), PartitionId(number)), topic_config
            )
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
        text = self._broker.failure_text(run.topic, partition.name.partition, _CHECKSUM_FAILURE)
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
        raise RefusedError(status, self._broker.failure_text(topic, partition, detail))

    def refuse_oversized(self, oversized: OversizedPut, sink: ReplySink) -> None:
        """Say how long a message may be; its data has not even been kept."""
        self._broker.counters.put += 1
        longest = self._broker.config.max_transfer_size_bytes
        detail = (
            f"The message of {oversized.length} bytes is too long: a record may have {longest} bytes "
            f"(maxTransferSize), {HEADER_SIZE} of them header"
        )
        topic, partition = oversized.topic, oversized.partition
        refusal = RefusedError(Status.ERROR, self._broker.failure_text(topic, partition, detail))
        self._refuse_puts(topic, partition, refusal, [b"%d" % oversized.opaque], sink)

    def _refuse_puts(
        self, topic: str, partition: int, refusal: RefusedError, opaques: Iterable[bytes], sink: ReplySink
    ) -> None:
        count = 0
        for opaque in opaques:
            sink.send(encode_result(refusal.status, refusal.text, opaque))
            count += 1
        if refusal.status != Status.FORBIDDEN:
            self._broker.counters.put_failed += count
            if self._has_real_time(topic):
                self._broker.real_time.add(
                    "put_failed", topic, f"{self._broker.config.broker_id}-{partition}", count, count
                )

    def _count_puts(self, partition: Partition, requested: int, count: int, data_bytes: int) -> None:
        traffic = self._broker.traffic[partition.name.topic]
        traffic.messages += count
        traffic.bytes_in += data_bytes
        if partition.config.stat:
            topic = partition.name.topic
            self._broker.real_time.add(
                "put", topic, f"{self._broker.config.broker_id}-{requested}", count, count
            )
            self._broker.real_time.add("message_size", topic, "*", count, data_bytes)

    def _has_real_time(self, topic: str) -> bool:
        topic_config = self._broker.config.topic_config(topic)
        return topic_config is not None and topic_config.stat


def _differ(actual: list[int], given: list[bytes | None]) -> bool:
    """Whether any given checksum is missing or wrong: the common case costs one C-level comparison."""
    try:
        return list(map(int, given)) != actual  # type: ignore[arg-type]
    except TypeError:
        return True


def _longest_record(records: bytes) -> int:
    longest = position = 0
    while position < len(records):
        size = HEADER_SIZE + int.from_bytes(records[position : position + 4], "big")
        longest, position = max(longest, size), position + size
    return longest
