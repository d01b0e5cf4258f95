"""Partitions taken out of a running broker, because their topic was deleted."""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING

import trio

from metaserver.logs import get_logger
from metaserver.storage import put_aside

if TYPE_CHECKING:
    from pathlib import Path

    from metaserver.broker.broker import Broker
    from metaserver.broker.partition import Partition
    from metaserver.storage import FileSystem

_log = get_logger(__name__)


async def remove_partition(broker: Broker, partition: Partition, filesystem: FileSystem) -> Path:
    """Answer the puts it has taken, end its service, and put its log aside; where to.

    Its topic must not be configured any more, so that no put follows. Not to be cancelled half-way. Raises
    StorageError where the log cannot be moved: it is not served then until the next start.
    """
    name, committer = partition.name, broker.committer
    with trio.CancelScope(shield=True):
        broker.removing.add(name)
        try:
            while partition.pending or partition.is_busy or partition.is_flushing:
                # It runs between two groups; what waits is written behind it.
                await committer.borrow(partition, _nothing)
            del broker.partitions[name.topic, name.partition]
            broker.acknowledgements.acks.forget((name.topic, name.partition))
            log, chain = broker.store.release(name)
            # Long polls are answered that there is nothing.
            partition.publish(partition.readable_offset)
            path: Path = await committer.borrow(partition, partial(put_aside, filesystem, name, log, chain))
        finally:
            broker.removing.discard(name)
    _log.warning("Put the log of a deleted topic aside", partition=str(name), path=str(path))
    return path


def _nothing() -> None:
    pass
