"""The slave of a synchronous pair: it takes each put from its master (reference replication B2).

A master of MetaQ's sends every put on with ``sync``, and it is appended here at whatever offset comes
next. One of ours says with ``pair`` where it is, and is then copied byte for byte, as by any slave.
"""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING, NoReturn

import attrs

from metaserver.broker.partition import PendingAppend
from metaserver.broker.records import CHECKSUM_FAILURE
from metaserver.errors import RefusedError, StorageError
from metaserver.logs import get_logger
from metaserver.message import HEADER_SIZE, encode_records
from metaserver.message import checksum as checksum_of
from metaserver.names import PartitionId, Topic, TopicPartition, is_valid_topic
from metaserver.protocol import Pair, Status, Sync, encode_result

if TYPE_CHECKING:
    from collections.abc import Callable

    from metaserver.broker.broker import Broker
    from metaserver.broker.partition import Partition
    from metaserver.broker.sink import ReplySink

STATUS_TEST_TOPIC = "_metaq_slave_status_test"
"""Where a master puts a few bytes to see whether its slave is well."""

_log = get_logger(__name__)


@attrs.define(eq=False)
class PairSlave:
    """What a broker does because it is one."""

    _broker: Broker
    _call: Callable[[str], str | None]
    """Told the ``HOST:PORT`` of a master of ours; why it is not followed, or None where it is."""
    _followed: Callable[[], str | None]
    """The master of ours that is copied at the moment: nobody else writes then."""

    def handle(self, command: Sync | Pair, sink: ReplySink) -> None:
        """Act on what a master of a pair says."""
        if isinstance(command, Pair):
            self._pair(command, sink)
        else:
            self._sync(command, sink)

    def _pair(self, pair: Pair, sink: ReplySink) -> None:
        refusal = self._call(pair.address)
        if refusal is None:
            sink.send(encode_result(Status.SUCCESS, "", pair.opaque))
        else:
            _log.warning("Not paired", master=pair.address, reason=refusal)
            sink.send(encode_result(Status.UNAVAILABLE, refusal, pair.opaque))

    def _sync(self, sync: Sync, sink: ReplySink) -> None:
        """Append with the master's id; the reply leaves as that of a put would."""
        broker = self._broker
        broker.counters.put += 1
        try:
            partition = self._partition(sync)
            checksum = checksum_of(sync.data)
            if sync.checksum not in (None, -1, checksum):
                self._refuse(sync, CHECKSUM_FAILURE)
        except RefusedError as refusal:
            sink.send(encode_result(refusal.status, refusal.text, sync.opaque))
            broker.counters.put_failed += 1
            return
        records = encode_records([sync.data], [checksum], [sync.message_id], [sync.flag])
        broker.message_ids.observe(sync.message_id)
        broker.hold(len(records), sink)
        broker.committer.append(
            partition,
            PendingAppend(
                [records],
                len(records),
                1,
                sync.message_id,
                partial(self._appended, partition, sync, sink),
                partial(self._failed, sync, sink),
                sink.flush,
                waits_for_disk=partition.is_group_commit,
            ),
        )

    def _appended(self, partition: Partition, sync: Sync, sink: ReplySink, offset: int) -> None:
        # Nobody says where the master ends a segment.
        log = partition.log
        if log.end_offset - log.last_segment_start >= self._broker.config.max_segment_size_bytes:
            log.end_segment()
        text = f"{sync.message_id} {sync.partition} {offset}"
        sink.send(encode_result(Status.SUCCESS, text, sync.opaque))
        self._broker.hold(-(HEADER_SIZE + len(sync.data)), sink)

    def _failed(self, sync: Sync, sink: ReplySink, error: StorageError) -> None:
        text = self._broker.failure_text(sync.topic, sync.partition, str(error))
        sink.send(encode_result(Status.ERROR, text, sync.opaque))
        self._broker.counters.put_failed += 1
        self._broker.hold(-(HEADER_SIZE + len(sync.data)), sink)

    def _partition(self, sync: Sync) -> Partition:
        broker, topic, number = self._broker, sync.topic, sync.partition
        if broker.is_closed(topic, number):
            text = f"Partition[{broker.config.broker_id}-{number}] has been closed"
            raise RefusedError(Status.FORBIDDEN, text)
        if (master := self._followed()) is not None:
            self._refuse(sync, f"This broker copies {master} and takes messages from nobody else")
        count = 1
        config = broker.config.topic_config(topic)
        if topic == STATUS_TEST_TOPIC:
            config = attrs.evolve(broker.config.defaults, name=topic, partition_count=1, stat=False)
        elif config is not None:
            count = config.partition_count
        if config is None or not is_valid_topic(topic):
            self._refuse(sync, f"The server do not accept topic {topic}")
        if not 0 <= number < count:
            self._refuse(sync, f"wrong partition {number}")
        longest = broker.config.max_transfer_size_bytes
        if HEADER_SIZE + len(sync.data) > longest:
            self._refuse(
                sync, f"A record may have {longest} bytes (maxTransferSize), its header {HEADER_SIZE}"
            )
        try:
            return broker.open_partition(TopicPartition(Topic(topic), PartitionId(number)), config)
        except (StorageError, OSError) as error:
            self._refuse(sync, str(error))

    def _refuse(self, sync: Sync, detail: str) -> NoReturn:
        text = self._broker.failure_text(sync.topic, sync.partition, detail)
        raise RefusedError(Status.ERROR, text)
