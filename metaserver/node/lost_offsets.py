"""Whether an offset that a group has stored is of a log that this master has only the beginning of."""

from __future__ import annotations

from typing import TYPE_CHECKING

from metaserver.epochs import UnreadEpochs
from metaserver.errors import StorageError
from metaserver.message import HEADER, HEADER_SIZE

if TYPE_CHECKING:
    from metaserver.broker import Broker
    from metaserver.broker.partition import Partition
    from metaserver.registry.paths import StoredOffset


def lost_offset(broker: Broker, topic: str, number: int, stored: StoredOffset) -> int | None:
    """Where the group has to go on: where what it cannot have read begins. None: what it says is right."""
    partition = broker.partitions.get((topic, number))
    if partition is None:
        return None
    chain = broker.store.epochs[partition.name].chain
    if not chain.epochs or stored.offset <= chain.epochs[0].start_offset:
        return None
    search = UnreadEpochs(chain, stored.offset, -1 if stored.message_id is None else stored.message_id)
    while search.asked is not None:
        search.answer(_first_id(partition, search.asked))
    if search.found is None and stored.offset > partition.readable_offset:
        begin = chain.begin_before(stored.offset)
        return chain.epochs[0].start_offset if begin is None else begin
    return search.found


def _first_id(partition: Partition, begin: int) -> int | None:
    """As UnreadEpochs wants it."""
    if begin >= partition.readable_offset:
        return None
    try:
        log_slice = partition.log.read(begin, HEADER_SIZE, partition.readable_offset)
    except StorageError:
        return -1
    try:
        header = log_slice.read()
    except OSError:
        return -1
    finally:
        log_slice.release()
    return int(HEADER.unpack(header)[2]) if len(header) == HEADER_SIZE else -1
