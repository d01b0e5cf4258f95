"""Whether an offset that a group has stored is of a log that this master has only the beginning of."""

from __future__ import annotations

from typing import TYPE_CHECKING

from metaserver.errors import OffsetInHoleError, OffsetOutOfRangeError, StorageError
from metaserver.unread_epochs import UnreadEpochs

if TYPE_CHECKING:
    from metaserver.broker import Broker
    from metaserver.broker.partition import Partition
    from metaserver.registry.paths import StoredOffset
    from metaserver.unread_epochs import Stretch


def lost_offset(broker: Broker, topic: str, number: int, stored: StoredOffset) -> int | None:
    """Where the group has to go on: where what it cannot have read begins. None: what it says is right."""
    partition = broker.partitions.get((topic, number))
    if partition is None:
        return None
    chain = broker.store.epochs[partition.name].chain
    if not chain.epochs or stored.offset <= chain.epochs[0].start_offset:
        return None
    search = UnreadEpochs(chain, stored.offset, stored.message_id)
    while search.asked is not None:
        _answer(search, partition, search.asked)
    if search.found is None and stored.offset > partition.readable_offset:
        begin = chain.begin_before(stored.offset)
        return chain.epochs[0].start_offset if begin is None else begin
    return search.found


def _answer(search: UnreadEpochs, partition: Partition, asked: Stretch) -> None:
    try:
        log_slice = partition.log.read(asked.offset, asked.size, partition.readable_offset)
    except OffsetInHoleError as hole:
        search.answer_gone(hole.next_offset)
        return
    except OffsetOutOfRangeError as outside:
        if asked.offset < outside.start:
            search.answer_gone(outside.start)
        else:
            search.answer_none()
        return
    except StorageError:
        search.answer(b"")
        return
    try:
        search.answer(log_slice.read())
    except OSError:
        search.answer(b"")
    finally:
        log_slice.release()
