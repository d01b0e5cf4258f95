"""``recoverOffset``: where the messages that groups have had lie in the log of another half of a pair.

Source: reference replication B6. With a node of MetaQ's on the other side the same messages may stand at
other offsets, under the same ids. Ids below zero, as MetaQ gives them, count like others here.
"""

from __future__ import annotations

from functools import partial
from itertools import pairwise
from typing import TYPE_CHECKING

from metaserver.broker.executor import wait_done
from metaserver.errors import StorageError
from metaserver.logs import get_logger
from metaserver.message import iterate_records
from metaserver.registry.paths import StoredOffset
from metaserver.storage import read_runs

if TYPE_CHECKING:
    from collections.abc import Iterator

    from metaserver.broker import Broker
    from metaserver.storage import PartitionLog

_log = get_logger(__name__)

_UNKNOWN_ID = -1


async def recovered_offset(
    broker: Broker, topic: str, number: int, stored: StoredOffset
) -> StoredOffset | None:
    """Behind the last message that the group has had, as it lies here; None: as stored, or nobody knows."""
    partition = broker.partitions.get((topic, number))
    message_id = stored.message_id
    if partition is None or message_id is None or message_id == _UNKNOWN_ID:
        return None
    find = partial(_end_of, partition.log, message_id, stored.offset)
    try:
        offset = await wait_done(partial(broker.executor.submit, find))
    except StorageError as error:
        _log.warning("An offset cannot be recovered", partition=str(partition.name), reason=str(error))
        return None
    return None if offset in (None, stored.offset) else StoredOffset(offset, message_id)


def _end_of(log: PartitionLog, message_id: int, stored_offset: int) -> int | None:
    """Behind the message of this id, wherever it is; else behind the last before it, and before the offset.

    Ids need not go up: the log may hold those of several hosts, which count from their boot. In a worker.
    """
    bounds = list(pairwise([*log.segment_starts, log.end_offset]))
    # Most stand where they stood.
    bounds.sort(key=lambda bound: (not bound[0] < stored_offset <= bound[1], -bound[0]))
    earlier: int | None = None
    for start, end in bounds:
        last_before: int | None = None
        for behind, found_id in _ends(log, start, end):
            if found_id == message_id:
                return behind
            if found_id < message_id and behind <= stored_offset:
                last_before = behind
        if last_before is not None:
            earlier = max(earlier or 0, last_before)
    return earlier


def _ends(log: PartitionLog, start: int, end: int) -> Iterator[tuple[int, int]]:
    """Of each record of a segment: the offset behind it, and its id."""
    for at, run in read_runs(log, start):
        for record in iterate_records(run):
            behind = at + record.position + record.size
            if behind > end:
                return
            yield behind, record.message_id
        if at + len(run) >= end:
            return
