"""Whether an offset that a group has stored is of a log that this master has only the beginning of."""

from __future__ import annotations

from typing import TYPE_CHECKING

from metaserver.errors import StorageError
from metaserver.message import HEADER, HEADER_SIZE

if TYPE_CHECKING:
    from metaserver.broker import Broker
    from metaserver.broker.partition import Partition
    from metaserver.registry.paths import StoredOffset


def lost_offset(broker: Broker, topic: str, number: int, stored: StoredOffset) -> int | None:
    """Where the group has to go on: where this master began to write. None: what it says is right.

    Behind that lies only what came since. A group is there rightly where the last message it has had is one
    of these, which its id tells, for ids go up in a log.
    """
    partition = broker.partitions.get((topic, number))
    if partition is None:
        return None
    epochs = broker.store.epochs[partition.name].chain.epochs
    if not epochs or stored.offset <= epochs[-1].start_offset:
        return None
    begin = epochs[-1].start_offset
    if stored.offset > partition.readable_offset:
        return begin
    first_id = _id_at(partition, begin)
    is_older = stored.message_id is not None and first_id is not None and 0 <= stored.message_id < first_id
    return begin if is_older else None


def _id_at(partition: Partition, offset: int) -> int | None:
    try:
        log_slice = partition.log.read(offset, HEADER_SIZE, partition.readable_offset)
    except StorageError:
        return None
    try:
        header = log_slice.read()
    except OSError:
        return None
    finally:
        log_slice.release()
    return int(HEADER.unpack(header)[2]) if len(header) == HEADER_SIZE else None
