"""``recoverOffset``: where the messages that groups have had lie in the log of another half of a pair.

Source: reference replication B6. With a node of MetaQ's on the other side the same messages may stand at
other offsets, under the same ids. Ids below zero, as MetaQ gives them, count like others here.
"""

from __future__ import annotations

from itertools import pairwise
from typing import TYPE_CHECKING

import trio

from metaserver.errors import StorageError
from metaserver.logs import get_logger
from metaserver.message import iterate_records
from metaserver.registry.paths import StoredOffset
from metaserver.storage import read_runs

if TYPE_CHECKING:
    from metaserver.broker import Broker
    from metaserver.storage import PartitionLog

_log = get_logger(__name__)

_UNKNOWN_ID = -1


async def recovered_offset(
    broker: Broker, topic: str, number: int, stored: StoredOffset
) -> StoredOffset | None:
    """Behind the last message that the group has had, as it lies here; None: as stored, or nobody knows.

    Cancelled, it goes on in its thread, which changes nothing.
    """
    partition = broker.partitions.get((topic, number))
    message_id = stored.message_id
    if partition is None or message_id is None or message_id == _UNKNOWN_ID:
        return None
    try:
        offset = await trio.to_thread.run_sync(_end_of, partition.log, message_id, abandon_on_cancel=True)
    except StorageError as error:
        _log.warning("An offset cannot be recovered", partition=str(partition.name), reason=str(error))
        return None
    return None if offset in (None, stored.offset) else StoredOffset(offset, message_id)


def _end_of(log: PartitionLog, message_id: int) -> int | None:
    """Behind the message of this id, or the last before it: of the newest segment that has one. Blocks."""
    bounds = [*log.segment_starts, log.end_offset]
    for start, end in reversed(list(pairwise(bounds))):
        found = None
        for at, run in read_runs(log, start):
            for record in iterate_records(run):
                behind = at + record.position + record.size
                if behind > end:
                    break
                if record.message_id == message_id:
                    return behind
                if record.message_id < message_id:
                    found = behind
            if at + len(run) >= end:
                break
        if found is not None:
            return found
    return None
