"""Whether an offset that a group has stored is of a log that this master has only the beginning of."""

from __future__ import annotations

from bisect import bisect_right
from typing import TYPE_CHECKING

from metaserver.errors import StorageError
from metaserver.message import HEADER, HEADER_SIZE

if TYPE_CHECKING:
    from metaserver.broker import Broker
    from metaserver.broker.partition import Partition
    from metaserver.registry.paths import StoredOffset


def lost_offset(broker: Broker, topic: str, number: int, stored: StoredOffset) -> int | None:
    """Where the group has to go on: where what it cannot have read begins. None: what it says is right.

    Ids go up in a log, over the epochs as well, so the id of the last message that the group has had tells
    which epochs it has read nothing of; there may have been several since.
    """
    partition = broker.partitions.get((topic, number))
    if partition is None:
        return None
    epochs = broker.store.epochs[partition.name].chain.epochs
    if not epochs or stored.offset <= epochs[0].start_offset:
        return None
    # What an earlier log held may part from this one where a later epoch begins.
    begins = [epoch.start_offset for epoch in epochs[1:] if epoch.start_offset < stored.offset]
    message_id = -1 if stored.message_id is None else stored.message_id
    if message_id >= 0:
        first_unread = bisect_right(begins, message_id, key=lambda begin: _id_at(partition, begin))
        if first_unread < len(begins):
            return begins[first_unread]
    if stored.offset > partition.readable_offset:
        return begins[-1] if begins else epochs[0].start_offset
    return None


def _id_at(partition: Partition, offset: int) -> int:
    """Of the record at an offset; below all where there is none: what is gone, everybody may have read."""
    try:
        log_slice = partition.log.read(offset, HEADER_SIZE, partition.readable_offset)
    except StorageError:
        return -1
    try:
        header = log_slice.read()
    except OSError:
        return -1
    finally:
        log_slice.release()
    return int(HEADER.unpack(header)[2]) if len(header) == HEADER_SIZE else -1
